"""How well published results foresee those of tasks and sources that were left out.

    python benchmarks/knowledge.py [part ...]

Parts are ``tasks``, ``hidden``, ``sources``, ``parts`` and ``time``; all if none is named. For each
task that is left out, everything is fitted anew on the others: levels, spreads, means, factors.
Variants of a task (other languages, versions, translations) are left out with it. Writes
benchmarks/results/knowledge.md, part by part.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from transferscope.evaluation._measures import measure_draws
from transferscope.knowledge import Matrix, result_matrix
from transferscope.knowledge._conditioning import Cells, condition
from transferscope.knowledge._fit import N_FACTORS
from transferscope.knowledge._model import KINDS, Model

OUT = Path(__file__).parent / "results"
#: How many encoders are measured when the measures are taken.
COUNTS = (0, 1, 2, 4, 6, 8)
POLICIES = ("improvement", "prior", "random")
#: A task is evaluated where at least so many encoders have a result.
FEWEST = {"image": 40, "text": 120}
RANDOM_ORDERS = 3


def stem(source: str, task: str) -> str:
    """What variants of a task have in common."""
    name = task.partition("/")[0] if source in ("mteb", "mieb") else task
    name = re.sub(r"\.[vV]\d+$", "", name).replace("MultiLabel", "")
    name = re.sub(r"(VN|NL)?(Pair)?(Classification)?$", "", name)
    return re.sub(r"[-_ ]|oxford|iiit|fgvc|\d{3}$", "", name.lower())


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


def tasks_of(matrix: Matrix) -> dict[str, tuple[int, np.ndarray]]:
    """Name -> kind, and accuracy of each encoder: the mean over the parts of the task."""
    found: dict[str, list[int]] = {}
    for t, (source, task, _) in enumerate(matrix.columns):
        name = task.partition("/")[0] if source in ("mteb", "mieb") else f"{source}: {task}"
        found.setdefault(name, []).append(t)
    tasks = {}
    for name, columns in found.items():
        values = matrix.accuracy[:, columns]
        # whoever has all parts
        mean = np.where(np.isnan(values).any(axis=1), np.nan, np.nan_to_num(values).mean(axis=1))
        tasks[name] = (KINDS.index(matrix.columns[columns[0]][2]), mean)
    return tasks


def leave_out(
    matrix: Matrix,
    modality: str,
    *,
    wanted: Callable[[str, np.ndarray], bool],
    fit: Callable[[Matrix], Model],
    hide: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[Task]:
    """Each wanted task with the model of the others."""
    for name, (kind, truth) in tasks_of(matrix).items():
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


def walk(task: Task, policy: str, seed: int) -> Iterator[dict[str, object]]:
    """Measure one encoder after the other."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(task.truth)).astype(float)
    got: list[int] = []
    first = None
    for count in range(max(COUNTS) + 1):
        rows = np.array(got, int)
        found = condition(task.model, task.kind, Cells(rows, task.truth[rows]), draws=64)
        first = found.mean if first is None else first
        if count in COUNTS:
            tau, regret = quality(found.mean, task.truth)
            row: dict[str, object] = {"measured": count, "tau": tau, "regret": regret}
            rest = np.setdiff1d(np.arange(len(task.truth)), rows)
            for share in (50, 90):
                low, high = found.interval(share / 100)
                row[f"cover{share}"] = np.mean(
                    (task.truth >= low) & (task.truth <= high),
                    where=np.isin(np.arange(len(low)), rest),
                )
            inside = abs(task.truth - found.mean) <= 1.645 * found.sd
            row["cover90 by sd"] = inside[rest].mean()
            yield row | {"policy": policy}
        order = {"improvement": found.improvement, "prior": first, "random": shuffled}[policy]
        order = order.copy()
        order[rows] = -np.inf
        got.append(int(order.argmax()))


def usual_fit(modality: str) -> Callable[[Matrix], Model]:
    return lambda matrix: matrix.fit(n_factors=N_FACTORS[modality])


def study_tasks(modality: str, every: int = 1) -> None:
    matrix = result_matrix(modality)
    columns = {"image": "mieb", "text": "mteb"}
    count = 0

    def wanted(name: str, truth: np.ndarray) -> bool:
        nonlocal count
        ok = (~np.isnan(truth)).sum() >= FEWEST[modality] and ": " not in name
        count += ok
        return bool(ok and (count - 1) % every == 0)

    full = None
    table = tasks_of(matrix)
    names = [
        n
        for n, (_, t) in table.items()
        if ": " not in n and (~np.isnan(t)).sum() >= FEWEST[modality]
    ]
    complete = np.flatnonzero(~np.isnan(np.array([table[n][1] for n in names])).any(axis=0))
    del full, columns
    rows: list[dict[str, object]] = []
    for task in leave_out(matrix, modality, wanted=wanted, fit=usual_fit(modality)):
        for block in ("complete", "all"):
            some = (
                np.flatnonzero(np.isin(task.rows, complete))
                if block == "complete"
                else np.arange(len(task.rows))
            )
            part = Task(
                task.name,
                task.kind,
                task.rows[some],
                task.truth[some],
                task.model.take(some),
                task.rank[some],
            )
            tau, regret = quality(part.rank, part.truth)
            rows.append(
                {
                    "task": task.name,
                    "block": block,
                    "policy": "mean rank",
                    "measured": 0,
                    "tau": tau,
                    "regret": regret,
                }
            )
            for policy in POLICIES:
                for seed in range(RANDOM_ORDERS if policy == "random" else 1):
                    rows += [
                        {"task": task.name, "block": block} | row
                        for row in walk(part, policy, seed)
                    ]
    frame = pd.DataFrame(rows)
    print(modality, len(names), len(complete))
    print(
        frame.groupby(["block", "policy", "measured"]).mean(numeric_only=True).round(3).to_string(),
        flush=True,
    )


if __name__ == "__main__":
    study_tasks(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
