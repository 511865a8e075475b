"""How well published results foresee those of tasks and sources that were left out.

    python benchmarks/knowledge.py [study ...]

Studies are those of `STUDIES`; all if none is named. For each task that is left out, everything is
fitted anew on the others: levels, spreads, means, factors. Variants of a task (other languages,
versions, translations) are left out with it. Each writes
benchmarks/results/knowledge-STUDY.md.
"""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from platform import python_version

import numpy as np
import pandas as pd

from transferscope.evaluation._measures import measure_draws
from transferscope.knowledge import KnownEncoder, Matrix, result_matrix
from transferscope.knowledge._conditioning import Cells, condition
from transferscope.knowledge._fit import N_FACTORS, stem
from transferscope.knowledge._model import KINDS, Model, fit_model

OUT = Path(__file__).parent / "results"
#: How many encoders are measured when the measures are taken.
COUNTS = (0, 1, 2, 4, 6, 8)
POLICIES = ("improvement", "prior", "random")
#: A task is evaluated where at least so many encoders have a result.
FEWEST = {"image": 40, "text": 150}
#: Every so many of these tasks are left out in turn.
EVERY = {"image": 1, "text": 1}
#: The same where parts of the model are left out.
PARTS_EVERY = {"image": 1, "text": 4}
RANDOM_ORDERS = 1
#: Joint draws behind p(best).
DRAWS = 400
#: Numbers of factors that are tried.
FACTORS = {"image": (0, 2, 3, 4, 6), "text": (0, 2, 6, 12)}


@dataclass
class Task:
    """A task that is left out.

    Attributes
    ----------
    name : str
    kind : int
    rows : (m,) array of int
        Encoders that were measured on it.
    truth : (m,) array
    model : Model
        Of all other tasks, with the rows of these encoders.
    rank : (m,) array
        Mean rank of these encoders on the other tasks.
    """

    name: str
    kind: int
    rows: np.ndarray
    truth: np.ndarray
    model: Model
    rank: np.ndarray


def leave_out(
    matrix: Matrix,
    *,
    wanted: Callable[[str, np.ndarray], bool],
    fit: Callable[[Matrix], Model],
    hide: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[Task]:
    """Each wanted task with the model of the others."""
    for name, (kind, truth) in matrix.tasks().items():
        if not wanted(name, truth):
            continue
        out = {
            stem(s, t) for s, t, _ in matrix.columns if name in (t.partition("/")[0], f"{s}: {t}")
        }
        rest = matrix.keep(lambda source, task, _, out=out: stem(source, task) not in out)
        rows = np.flatnonzero(~np.isnan(truth))
        if hide is not None:
            rows = hide(rows)
            accuracy = rest.accuracy.copy()
            accuracy[rows] = np.nan
            kept = (~np.isnan(accuracy)).sum(axis=0) >= 5
            rest = replace(
                rest,
                accuracy=accuracy[:, kept],
                columns=[c for c, k in zip(rest.columns, kept, strict=True) if k],
            )
        ranks = pd.DataFrame(rest.accuracy).rank(pct=True).to_numpy()[rows]
        rank = pd.DataFrame(ranks).mean(axis=1).fillna(0.5).to_numpy()
        yield Task(name, kind, rows, truth[rows], fit(rest).take(rows), rank)


def quality(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Weighted tau, and regret of the first in points."""
    found = measure_draws(scores, truth, np.ones((1, len(truth)), int))
    return float(found["weighted_tau"][0]), 100 * float(found["regret@1"][0])


def unmeasured(scores: dict[str, np.ndarray], truth: np.ndarray) -> list[dict[str, object]]:
    """Quality of scores that nothing was measured for; of constant ones none."""
    rows: list[dict[str, object]] = []
    for name, values in scores.items():
        if len(set(values)) > 1:
            tau, regret = quality(values, truth)
            rows.append({"policy": name, "measured": 0, "tau": tau, "regret": regret})
    return rows


def walk(
    task: Task, policy: str, seed: int, most: int = max(COUNTS)
) -> Iterator[dict[str, object]]:
    """Measure one encoder after the other."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(task.truth)).astype(float)
    got: list[int] = []
    first = None
    for count in range(most + 1):
        rows = np.array(got, int)
        found = condition(task.model, task.kind, Cells(rows, task.truth[rows]), draws=DRAWS)
        first = found.mean if first is None else first
        if count in COUNTS:
            tau, regret = quality(found.mean, task.truth)
            row: dict[str, object] = {"measured": count, "tau": tau, "regret": regret}
            rest = np.setdiff1d(np.arange(len(task.truth)), rows)
            for share in (50, 90):
                low, high = found.interval(share / 100)
                inside = (task.truth >= low) & (task.truth <= high)
                row[f"cover{share}"] = inside[rest].mean()
            inside = abs(task.truth - found.mean) <= 1.645 * found.sd
            row["cover90 by sd"] = inside[rest].mean()
            row["p_best"], row["best"] = found.p_best, task.truth == task.truth.max()
            yield row | {"policy": policy}
        order = {"improvement": found.improvement, "prior": first, "random": shuffled}[policy]
        order = order.copy()
        order[rows] = -np.inf
        got.append(int(order.argmax()))


def usual_fit(modality: str) -> Callable[[Matrix], Model]:
    return lambda matrix: matrix.fit(n_factors=N_FACTORS[modality])


def evaluated(matrix: Matrix, modality: str) -> tuple[list[str], np.ndarray]:
    """Tasks with enough encoders, and the encoders that have all of them."""
    table = {n: truth for n, (_, truth) in matrix.tasks().items() if ": " not in n}
    names = [n for n, t in table.items() if (~np.isnan(t)).sum() >= FEWEST[modality]]
    return names, np.flatnonzero(~np.isnan(np.array([table[n] for n in names])).any(axis=0))


def only(task: Task, rows: np.ndarray) -> Task:
    some = np.flatnonzero(np.isin(task.rows, rows))
    return Task(
        task.name,
        task.kind,
        task.rows[some],
        task.truth[some],
        task.model.take(some),
        task.rank[some],
    )


def facts_as_scores(matrix: Matrix) -> dict[str, np.ndarray]:
    """Baselines that are facts of the encoders; unknown ones last."""

    def column(fact: Callable[[KnownEncoder], float | None]) -> np.ndarray:
        return np.array([-1e9 if (x := fact(one)) is None else x for one in matrix.encoders])

    return {
        "ImageNet accuracy": column(lambda e: e.accuracies.get("imagenet")),
        "size": column(lambda e: e.n_parameters),
        "newest first": column(
            lambda e: float(e.released.replace("-", "")) if e.released else None
        ),
    }


def study_tasks(modality: str) -> str:
    """Leave one task out: orders before measuring, and what measuring adds."""
    matrix = result_matrix(modality)
    names, complete = evaluated(matrix, modality)
    facts = facts_as_scores(matrix)
    rows: list[dict[str, object]] = []
    wanted = names[:: EVERY[modality]]
    for task in leave_out(matrix, wanted=lambda n, _: n in wanted, fit=usual_fit(modality)):
        for block, part in (("complete", only(task, complete)), ("all", task)):
            rows += [
                {"block": block} | row
                for row in unmeasured(
                    {"mean rank": part.rank} | {n: v[part.rows] for n, v in facts.items()},
                    part.truth,
                )
            ]
            for policy in POLICIES if block == "complete" else POLICIES[:1]:
                for seed in range(RANDOM_ORDERS if policy == "random" else 1):
                    rows += [{"block": block} | row for row in walk(part, policy, seed)]
    what = (
        f"{len(wanted)} of {len(names)} tasks. complete: the {len(complete)} encoders that have "
        "all of these tasks; all: the encoders that have the task."
    )
    return (
        f"{what}\n\n{table(rows, ['block', 'policy', 'measured'])}\n\n"
        "p(best) of all encoders, by what is said of it when so many are measured by expected "
        f"improvement (complete):\n\n{reliability(rows)}"
    )


def reliability(rows: list[dict[str, object]]) -> str:
    """How often encoders were best that were said to be with some probability."""
    lines = ["| measured | p(best) said | encoders | mean p | were best |", "|" + " --- |" * 5]
    for count in COUNTS:
        some = [
            (row["p_best"], row["best"])
            for row in rows
            if (row["block"], row["policy"], row["measured"]) == ("complete", "improvement", count)
        ]
        p, best = (np.concatenate(values) for values in zip(*some, strict=True))
        for low, high in itertools.pairwise((0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.9, 1.001)):
            here = (p >= low) & (p < high)
            if here.any():
                lines.append(
                    f"| {count} | {low:g} to {min(high, 1):g} | {here.sum()} "
                    f"| {p[here].mean():.3f} | {best[here].mean():.3f} |"
                )
    return "\n".join(lines)


def study_hidden(modality: str) -> str:
    """Leave one task out, and hide all results of a third of its encoders."""
    matrix = result_matrix(modality)
    names, _ = evaluated(matrix, modality)
    rows: list[dict[str, object]] = []

    def hide(found: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(0)
        return np.sort(rng.choice(found, len(found) // 3, replace=False))

    facts = facts_as_scores(matrix)
    wanted = names[:: EVERY[modality]]
    for task in leave_out(
        matrix, wanted=lambda n, _: n in wanted, fit=usual_fit(modality), hide=hide
    ):
        rows += unmeasured({n: v[task.rows] for n, v in facts.items()}, task.truth)
        rows += walk(task, "improvement", 0)
    return f"{len(wanted)} tasks.\n\n{table(rows, ['policy', 'measured'])}"


def study_sources() -> str:
    """Leave one source out: order of its encoders by what the others and facts say."""
    rows: list[dict[str, object]] = []
    matrix = result_matrix("image")
    for left in sorted({source for source, _, _ in matrix.columns}):
        own = {task for source, task, _ in matrix.columns if source == left}
        rest = matrix.keep(
            lambda source, task, _, left=left, own=own: source != left and task not in own
        )
        model = rest.fit(n_factors=N_FACTORS["image"])
        facts = facts_as_scores(matrix)
        for t, (source, _, kind) in enumerate(matrix.columns):
            if source != left:
                continue
            seen = np.flatnonzero(~np.isnan(matrix.accuracy[:, t]))
            truth = matrix.accuracy[seen, t]
            empty = Cells(np.empty(0, int), np.empty(0))
            found = condition(model.take(seen), KINDS.index(kind), empty, draws=64)
            scores = {"expectation": found.location} | {n: v[seen] for n, v in facts.items()}
            rows += [{"source": left} | row for row in unmeasured(scores, truth)]
    return table(rows, ["source", "policy"])


def study_outside() -> str:
    """A table that the package does not carry: eleven encoders fine-tuned on seven data sets."""
    # top-1 accuracies of notebooks/latex_tables.tex in AntreasAntoniou/GATE (MIT), commit 243f2aca
    truth = pd.read_csv(OUT / "knowledge_outside.csv")
    matrix = result_matrix("image")
    model = matrix.fit(n_factors=N_FACTORS["image"])
    facts = facts_as_scores(matrix)
    place = {one.name: i for i, one in enumerate(matrix.encoders)}
    rows: list[dict[str, object]] = []
    for name, found in truth.groupby("task"):
        at = np.array([place[encoder] for encoder in found["encoder"]])
        values = found["accuracy"].to_numpy()
        task = Task(str(name), KINDS.index("fine-tuned"), at, values, model.take(at), values * 0)
        rows += unmeasured({n: v[at] for n, v in facts.items()}, values)
        for policy in ("improvement", "prior"):
            rows += walk(task, policy, 0, most=6)
    return table(rows, ["policy", "measured"])


def study_order() -> str:
    """Leave one task out: how far any order of the encoders that other tasks give can come."""
    rows: list[dict[str, object]] = []
    for modality, factors in N_FACTORS.items():
        matrix = result_matrix(modality)
        names, complete = evaluated(matrix, modality)
        every = matrix.tasks()
        ranks = pd.DataFrame({n: every[n][1][complete] for n in names}).rank(pct=True)
        with_itself = ranks.mean(axis=1).to_numpy()
        fit = partial(Matrix.fit, n_factors=factors, at_large=False)
        for task in leave_out(matrix, wanted=lambda n, _, names=names: n in names, fit=fit):
            part = only(task, complete)
            orders = {
                "standing in the model": part.model.standing(part.kind)[0],
                "mean rank": part.rank,
                "mean rank, the task itself included": with_itself,
            }
            rows += [{"modality": modality} | row for row in unmeasured(orders, part.truth)]
    return table(rows, ["modality", "policy"])


def study_parts(modality: str) -> str:
    """Leave one task out, with a part of the model left out."""
    matrix = result_matrix(modality)
    names, complete = evaluated(matrix, modality)
    wanted = names[:: PARTS_EVERY[modality]]
    k = N_FACTORS[modality]

    def no_facts(rest: Matrix) -> Model:
        blank = np.ones((len(rest.encoders), 1))
        kinds = np.array([KINDS.index(kind) for _, _, kind in rest.columns])
        return fit_model(rest.accuracy, blank, kinds, n_factors=k)

    def no_other_sources(rest: Matrix) -> Model:
        return rest.keep(lambda source, *_: source in ("mieb", "mteb")).fit(n_factors=k)

    forms: dict[str, Callable[[Matrix], Model]] = {
        "the model": usual_fit(modality),
        "without facts": no_facts,
        "without other sources": no_other_sources,
    }
    forms |= {f"{n} factors": partial(Matrix.fit, n_factors=n) for n in FACTORS[modality]}
    rows: list[dict[str, object]] = []
    for name, fit in forms.items():
        for task in leave_out(matrix, wanted=lambda n, _: n in wanted, fit=fit):
            part = only(task, complete)
            for row in walk(part, "improvement", 0, most=4):
                if row["measured"] in (0, 4):
                    rows.append(row | {"policy": name})
    which = f"{len(wanted)} of {len(names)} tasks, complete block."
    return f"{which}\n\n{table(rows, ['policy', 'measured'])}"


def study_time() -> str:
    """Seconds of processor time, best of three, each in a process of its own."""
    code = (
        "import time; start = time.process_time(); import sys, transferscope; "
        "names = [e.name for e in __import__('transferscope.knowledge').knowledge."
        "known_encoders().values() if 'text' in e.modalities and e.usual][:400]; "
        "begin = time.process_time(); "
        "transferscope.expect({names[0]: 0.8}, modality='text', encoders=names); "
        "print(time.process_time() - begin, time.process_time() - start, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-m", "transferscope", "shortlist", "--modality"]
    lines = ["| what | seconds |", "| --- | --- |"]
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        runs.append([float(x) if x[0].isdigit() else x for x in done.stdout.split()])
    best = min(runs)
    lines.append(
        f"| `expect`, all text encoders, first call (torch imported: {best[2]}) | {best[0]:.2f} |"
    )
    for modality in ("text", "image"):
        spent = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([*command, modality], capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        lines.append(f"| `transferscope shortlist --modality {modality}` | {min(spent):.2f} |")
    return "\n".join(lines)


def table(rows: list[dict[str, object]], keys: list[str]) -> str:
    """Means as Markdown, in the order of the rows."""
    frame = pd.DataFrame(rows)
    means = frame.groupby(keys, sort=False).mean(numeric_only=True).round(3).reset_index()
    lines = ["| " + " | ".join(means.columns) + " |", "|" + " --- |" * len(means.columns)]
    for _, row in means.iterrows():
        cells = ("" if isinstance(x, float) and np.isnan(x) else str(x) for x in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


STUDIES: dict[str, Callable[[], str]] = {
    "tasks-image": lambda: study_tasks("image"),
    "tasks-text": lambda: study_tasks("text"),
    "hidden-image": lambda: study_hidden("image"),
    "hidden-text": lambda: study_hidden("text"),
    "sources": study_sources,
    "outside": study_outside,
    "order": study_order,
    "parts-image": lambda: study_parts("image"),
    "parts-text": lambda: study_parts("text"),
    "time": study_time,
}


def main(wanted: list[str]) -> None:
    for name in wanted or STUDIES:
        study = STUDIES[name]
        what = {"tasks": study_tasks, "hidden": study_hidden, "parts": study_parts}.get(
            name.partition("-")[0], study
        )
        when = f"{date.today().isoformat()}, {os.cpu_count()} cores, Python {python_version()}"
        text = f"## {name}\n\n{what.__doc__} {when}.\n\n{study()}\n"
        (OUT / f"knowledge-{name}.md").write_text(text, encoding="utf-8")
        print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
