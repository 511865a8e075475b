"""What is the choice worth? The verdict of `rank` against end-to-end fine-tuning.

    OMP_NUM_THREADS=1 python benchmarks/choice.py --folder choice_runs      # minutes, then seconds

Leave one target out: the model of published results is learned anew without it. Targets: those of
`agreement.py` and `choice_targets.py` with the bundled zoo, and the eleven of SFDA with eleven
CNNs, of which accuracies of a head on frozen features stand for the probe. Table and figure:
results/choice.md, results/choice.png.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import pickle
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from scipy.stats import weightedtau

from agreement import DATA, MAX_TRAIN, TARGETS, consensus
from choice_targets import HERE, target
from transferscope import open_dataset
from transferscope.datasets import Dataset
from transferscope.encoders import bundled_card
from transferscope.extraction import ExtractionSettings, Source
from transferscope.knowledge import (
    Foresight,
    KnownEncoder,
    published_results,
    result_matrix,
)
from transferscope.knowledge._fit import N_FACTORS
from transferscope.metrics import plan_metrics
from transferscope.ranking import _search
from transferscope.ranking._measured import Measured
from transferscope.ranking._rank import _Run
from transferscope.ranking._search import PROBE, Contender, Search
from transferscope.results import EncoderResult, Score

METRICS = ("logme", "regularized_h_score", "linear_probe", "logistic_probe", "knn", "sfda", "parc")
DEFAULT = ("logme", "regularized_h_score", "linear_probe")
#: Shares of the cost of measuring all at which the anytime choice is looked at.
SHARES = (0.1, 0.25, 0.4, 0.5)
#: Test samples behind each true accuracy of SFDA's tables, roughly.
SFDA_TEST = 3000


@dataclass(frozen=True)
class Case:
    """One target: who is to be chosen from, what was measured of them, and how they did."""

    group: str
    name: str
    encoders: tuple[str, ...]
    accuracy: np.ndarray
    n_test: int
    looks: tuple[Measured, ...]
    foresight: Foresight
    chance: float = 0.0

    @property
    def known(self) -> list[KnownEncoder]:
        return self.foresight.known

    def scores(self, metric: str) -> np.ndarray:
        return np.array([one.result.scores[metric].value for one in self.looks])


def without(task: str, encoders: Sequence[str]) -> Foresight:
    """What is foreseen of encoders when nothing is published about a task."""
    rest = result_matrix("image").keep(lambda _, name, __: name != task)
    found = Foresight(encoders, "image")
    row = {one.name: i for i, one in enumerate(rest.encoders)}
    model = rest.fit(n_factors=N_FACTORS["image"])
    found._model = model.take(np.array([row[one.name] for one in found.known]))
    return found


def own_truth() -> dict[str, dict[str, float]]:
    """Accuracies of the targets that were fine-tuned here."""
    accuracy: dict[str, dict[str, float]] = {}
    for table in ("agreement_accuracy.csv", "choice_accuracy.csv"):
        path = HERE / "results" / table
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            accuracy.setdefault(row["dataset"], {})[row["encoder"]] = float(row["accuracy"])
    return accuracy


def own_case(folder: Path, name: str) -> Case:
    """One of these targets."""
    row = own_truth()[name]
    train, test = data_of(name)
    encoders = tuple(row)
    looks = measured(folder, name, train, encoders)
    group = "750 samples" if name in TARGETS else "150 samples" if "@" in name else "drawn"
    foresight = without(name.partition("@")[0], encoders)
    values = np.array(list(row.values()))
    chance = float(np.bincount(train.labels).max() / len(train))
    print(name, flush=True)
    return Case(group, name, encoders, values, len(test), looks, foresight, chance)


def data_of(name: str) -> tuple[Dataset, Dataset]:
    if name not in TARGETS:
        return target(name)
    path = str(DATA / f"{name}.npz")
    train = open_dataset(path, split="train", max_samples=MAX_TRAIN, seed=0)
    return train, open_dataset(path, split="test", max_samples=1000, seed=0)


def measured(
    folder: Path, name: str, train: Dataset, encoders: Sequence[str]
) -> tuple[Measured, ...]:
    """The scores of all encoders; kept in the folder."""
    place = folder / "measured" / f"{name}-{len(encoders)}.pickle"
    if not place.exists():
        settings = ExtractionSettings(str(folder / "store"), device="cpu")
        run = _Run([Source(train)], "", plan_metrics(METRICS), settings)
        contenders = [Contender(one, one) for one in encoders]
        run.measure(contenders, None, None)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pickle.dumps([one.looks[0] for one in contenders]))
    return tuple(pickle.loads(place.read_bytes()))


def published_cases() -> list[Case]:
    """SFDA's CNNs: fine-tuned accuracies, and those of a head on frozen features as the probe."""
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for one in published_results():
        tables.setdefault(one.source, {}).setdefault(one.task, {})[one.encoder] = one.value
    cases = []
    for task, row in tables["sfda-supervised"].items():
        heads = tables["sfda-supervised-head"][task]
        encoders = tuple(name for name in row if name in heads)
        looks = tuple(
            Measured(
                EncoderResult(name, scores={PROBE: Score(heads[name])}),
                {PROBE: np.random.default_rng(0).standard_normal(SFDA_TEST)},
                SFDA_TEST,
                SFDA_TEST,
            )
            for name in encoders
        )
        values = np.array([row[name] for name in encoders])
        case = Case("SFDA", task, encoders, values, SFDA_TEST, looks, without(task, encoders))
        cases.append(case)
        print(task, flush=True)
    return cases


def draws(case: Case, which: Iterable[int]) -> np.ndarray:
    """Accuracies that are foreseen when some of the encoders were measured."""
    some = set(which)
    contenders = [
        Contender(name, name, known, [look] if i in some else [])
        for i, (name, known, look) in enumerate(
            zip(case.encoders, case.known, case.looks, strict=True)
        )
    ]
    return search_of(case, contenders).outlook().accuracies


def search_of(case: Case, contenders: list[Contender]) -> Search:
    looks = dict(zip(case.encoders, case.looks, strict=True))

    def measure(chosen: Sequence[Contender], *_: object) -> None:
        for one in chosen:
            one.looks.append(looks[one.name])

    n = case.looks[0].n_samples
    return Search(contenders, case.foresight, measure, n, n, case.chance, 0.0, None, "cpu", 0, None)


def anytime(case: Case, share: float) -> tuple[np.ndarray, list[int]]:
    """Draws when a share of the cost of measuring all is spent, and who was measured."""
    contenders = [
        Contender(name, name, known) for name, known in zip(case.encoders, case.known, strict=True)
    ]
    search = search_of(case, contenders)
    n = case.looks[0].n_samples
    total = sum(search.seconds(one, n) for one in contenders)
    spent = 0.0
    while True:
        outlook = search.outlook()
        chosen, _, _ = search._next(outlook)
        cost = sum(search.seconds(one, n) for one in chosen)
        if not chosen or spent + cost > share * total:
            return outlook.accuracies, [i for i, one in enumerate(contenders) if one.looks]
        search.measure(chosen, None, None)
        spent += cost


def seconds(case: Case, which: Iterable[int]) -> float:
    """Measured: the passes of some encoders over the samples, and the probe."""
    looks = [case.looks[i] for i in which]
    return sum(
        one.n_samples / (one.result.samples_per_second or np.inf)
        + (one.result.scores[PROBE].seconds or 0.0)
        for one in looks
    )


def times(cases: Sequence[Case]) -> str:
    """What the work takes on targets of 750 samples."""
    some = [case for case in cases if case.group == "750 samples"]
    found = {
        f"{100 * share:.0f} % of the cost": [seconds(c, anytime(c, share)[1]) for c in some]
        for share in SHARES
    }
    found["all"] = [seconds(c, range(len(c.encoders))) for c in some]
    means = ", ".join(f"{np.mean(values):.1f} ({name})" for name, values in found.items())
    return (
        f"Seconds of passes and probes on 750 samples of 32 pixels, one thread of a machine that "
        f"other work shared, mean over {len(some)} targets: {means}. Fine-tuning by `select`, in "
        "selection.md, took 378."
    )


def tau_and_regret(scores: np.ndarray, accuracy: np.ndarray) -> tuple[float, float]:
    tau = float(np.nan_to_num(weightedtau(scores, accuracy).statistic))
    # of equal first ones the worst
    return tau, 100 * float(accuracy.max() - accuracy[scores == scores.max()].min())


def policies(case: Case) -> dict[str, tuple[float, float]]:
    """Weighted tau and regret of each way to choose."""
    y, known = case.accuracy, case.known
    found = {"guess": (0.0, 100 * float(y.max() - y.mean()))}
    facts: dict[str, list[float | None]] = {
        "biggest": [one.n_parameters for one in known],
        "ImageNet accuracy": [one.accuracies.get("imagenet") for one in known],
    }
    if case.group != "SFDA":
        cards = [bundled_card(name) for name in case.encoders]
        facts["biggest"] = [float(one.n_parameters) for one in cards]
    for name, values in facts.items():
        if all(v is not None for v in values):
            found[name] = tau_and_regret(np.array(values, float), y)
    scores = {m: case.scores(m) for m in METRICS if m in case.looks[0].result.scores}
    found |= {f"`{m}` alone": tau_and_regret(s, y) for m, s in scores.items()}
    if set(DEFAULT) <= set(scores):
        table = {m: dict(zip(case.encoders, s, strict=True)) for m, s in scores.items()}
        before = consensus(table, DEFAULT)
        found["consensus of three metrics, the default before"] = tau_and_regret(
            np.array([before[name] for name in case.encoders]), y
        )
    found["knowledge alone"] = tau_and_regret(draws(case, ()).mean(axis=0), y)
    for share in SHARES:
        some, _ = anytime(case, share)
        found[f"anytime, {100 * share:.0f} % of the cost"] = tau_and_regret(some.mean(axis=0), y)
    whole = draws(case, range(len(y)))
    found["knowledge and probe (`rank --all`)"] = tau_and_regret(whole.mean(axis=0), y)
    return found


@dataclass(frozen=True)
class Calibration:
    """How what is said of one case compares with what came out."""

    inside_50: float
    inside_90: float
    losses_90: float
    half_width: float
    half_loss: float
    p_best: np.ndarray
    is_best: np.ndarray
    said: float
    lost: float


def calibration(case: Case, foreseen: np.ndarray, seed: int = 0) -> Calibration:
    """Intervals with the noise of the finite test part, which the truth has and fine-tuning not."""
    y, n = case.accuracy, case.n_test
    rng = np.random.default_rng(seed)
    noisy = foreseen + rng.standard_normal(foreseen.shape) * np.sqrt(foreseen * (1 - foreseen) / n)
    low, q1, q3, high = np.quantile(noisy, [0.05, 0.25, 0.75, 0.95], axis=0)
    chosen = int(foreseen.mean(axis=0).argmax())
    # both are tested on the same samples: half of the noise is common to them
    behind = foreseen[:, [chosen]] - foreseen + (noisy - foreseen)
    loss_low, loss_high = np.quantile(behind, [0.05, 0.95], axis=0)
    others = np.arange(len(y)) != chosen
    loss = y[chosen] - y
    top = foreseen == foreseen.max(axis=1, keepdims=True)
    return Calibration(
        float(((y >= q1) & (y <= q3)).mean()),
        float(((y >= low) & (y <= high)).mean()),
        float(((loss >= loss_low) & (loss <= loss_high))[others].mean()),
        100 * float(np.mean(high - low)) / 2,
        100 * float(np.mean(loss_high - loss_low)) / 2,
        (top / top.sum(axis=1, keepdims=True)).mean(axis=0),
        y == y.max(),
        100 * float((foreseen.max(axis=1) - foreseen[:, chosen]).mean()),
        100 * float(y.max() - y[chosen]),
    )


def few_of(case: Case, seed: int = 0) -> Iterable[Case]:
    """Choices among few: random sets of two to six of the encoders."""
    rng = np.random.default_rng(seed)
    for _ in range(SETS):
        rows = np.sort(rng.permutation(len(case.encoders))[: rng.integers(2, 7)])
        foresight = copy(case.foresight)
        foresight.known = [case.known[i] for i in rows]
        foresight._model = case.foresight._model.take(rows)
        yield replace(
            case,
            encoders=tuple(case.encoders[i] for i in rows),
            accuracy=case.accuracy[rows],
            looks=tuple(case.looks[i] for i in rows),
            foresight=foresight,
        )


#: Random sets of few encoders per target.
SETS = 60
#: Steps of p(best) in the table of reliability.
BINS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.9, 1.0001)


def reliability(found: Sequence[Calibration]) -> list[str]:
    p = np.concatenate([one.p_best for one in found])
    right = np.concatenate([one.is_best for one in found])
    lines = ["| p(best) said | encoders | mean p | were best |", "| --- | --- | --- | --- |"]
    for low, high in itertools.pairwise(BINS):
        here = (p >= low) & (p < high)
        if here.any():
            lines.append(
                f"| {low:g} to {min(high, 1):g} | {here.sum()} | {p[here].mean():.3f} "
                f"| {right[here].mean():.3f} |"
            )
    return lines


def replicates() -> str:
    """How well the fine-tunings of one seed foresee those of the other two."""
    rows: dict[str, list[list[float]]] = {}
    path = HERE / "results" / "choice_accuracy.csv"
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        seeds = [float(row[f"seed_{k}"]) for k in range(3) if row[f"seed_{k}"]]
        if len(seeds) == 3:
            rows.setdefault(row["dataset"], []).append(seeds)
    found = []
    for values in map(np.array, rows.values()):
        for k in range(3):
            found.append(tau_and_regret(values[:, k], np.delete(values, k, axis=1).mean(axis=1)))
    tau, regret = np.mean(found, axis=0)
    return (
        f"Fine-tuning all with one seed and taking the best of it, judged by two other seeds: "
        f"weighted tau {tau:.2f}, regret {regret:.2f} points ({len(rows)} targets). At 750 samples "
        "single seeds were not kept; drawn with the spread of three seeds about their mean and "
        "judged by this mean: weighted tau {:.2f}, regret {:.2f}.".format(*redrawn())
    )


def redrawn(count: int = 300) -> tuple[float, float]:
    """How well one more seed of everything would foresee the truth at 750 samples."""
    rows: dict[str, list[tuple[float, float]]] = {}
    path = HERE / "results" / "agreement_accuracy.csv"
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        pair = float(row["accuracy"]), float(row["spread"])
        rows.setdefault(row["dataset"], []).append(pair)
    rng = np.random.default_rng(0)
    found = [
        tau_and_regret(mean + spread * rng.standard_normal(len(mean)), mean)
        for mean, spread in (np.array(values).T for values in rows.values())
        for _ in range(count)
    ]
    tau, regret = np.mean(found, axis=0)
    return float(tau), float(regret)


def table(cases: Sequence[Case]) -> list[str]:
    groups = list(dict.fromkeys(case.group for case in cases))
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for case in cases:
        for policy, values in policies(case).items():
            found.setdefault(policy, {}).setdefault(case.group, []).append(values)
    counts = {g: sum(case.group == g for case in cases) for g in groups}
    head = [f"{g} ({counts[g]}): tau, regret" for g in groups]
    lines = ["| choice by | " + " | ".join(head) + " |", "| --- |" + " --- |" * len(groups)]
    for policy, by_group in found.items():
        cells = []
        for g in groups:
            values = by_group.get(g, [])
            tau, regret = np.mean(values, axis=0) if len(values) == counts[g] else (np.nan, np.nan)
            cells.append("" if np.isnan(tau) else f"{tau:.2f}, {regret:.2f}")
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    return lines


def intervals(cases: Sequence[Case], found: Sequence[Calibration]) -> list[str]:
    lines = [
        "| targets | accuracy inside 50 % | inside 90 % | half width, points | loss inside 90 % "
        "| half width, points | regret said | regret |",
        "|" + " --- |" * 8,
    ]
    for g in dict.fromkeys(case.group for case in cases):
        some = [one for case, one in zip(cases, found, strict=True) if case.group == g]
        means = {
            name: np.mean([getattr(one, name) for one in some])
            for name in (
                *("inside_50", "inside_90", "half_width", "losses_90", "half_loss"),
                *("said", "lost"),
            )
        }
        lines.append(
            f"| {g} | {means['inside_50']:.2f} | {means['inside_90']:.2f} "
            f"| {means['half_width']:.1f} | {means['losses_90']:.2f} | {means['half_loss']:.1f} "
            f"| {means['said']:.2f} | {means['lost']:.2f} |"
        )
    return lines


def draw(found: Sequence[Calibration], place: Path) -> None:
    from matplotlib.figure import Figure

    from transferscope.plots import save_figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    p = np.concatenate([one.p_best for one in found])
    best = np.concatenate([one.is_best for one in found])
    for low, high in itertools.pairwise(BINS):
        here = (p >= low) & (p < high)
        if here.any():
            n, share = here.sum(), best[here].mean()
            error = np.sqrt(max(share * (1 - share), 0.25 / n) / n)
            left.errorbar(p[here].mean(), share, error, fmt="o", color="tab:blue")
    left.plot([0, 1], [0, 1], color="0.7")
    left.set_xlabel("p(best) said")
    left.set_ylabel("share that were best")
    left.set_title("Reliability of p(best), one standard error", fontsize=10)
    right.plot([one.said for one in found], [one.lost for one in found], "o", alpha=0.7)
    top = max(max(one.said for one in found), max(one.lost for one in found))
    right.plot([0, top], [0, top], color="0.7")
    right.set_xlabel("expected regret said, points")
    right.set_ylabel("regret, points")
    right.set_title("Regret of the first, per target", fontsize=10)
    save_figure(figure, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("choice_runs"))
    folder = parser.parse_args().folder
    _search.ROUND_SECONDS = 0.0  # one by one: the zoo is so quick that all would be one round
    cases = [*(own_case(folder, name) for name in own_truth()), *published_cases()]
    found = [calibration(case, draws(case, range(len(case.accuracy)))) for case in cases]
    own = [one for case, one in zip(cases, found, strict=True) if case.group != "SFDA"]
    few = [
        calibration(some, draws(some, range(len(some.accuracy))))
        for case in cases
        for some in few_of(case)
    ]
    text = "\n\n".join(
        [
            "# The choice",
            f"Made by `benchmarks/choice.py` on {datetime.now(UTC).date()}, x86_64, two cores, no "
            "GPU. Leave one target out. " + replicates(),
            "## Ways to choose: weighted tau and regret in points",
            "\n".join(table(cases)),
            times(cases),
            "## What is said, and what came out (`rank --all`)",
            "\n".join(intervals(cases, found)),
            "The encoder said to be best, on own targets and SFDA's:",
            "\n".join(reliability(found)),
            "On own targets alone:",
            "\n".join(reliability(own)),
            f"Choices among two to six encoders, {SETS} random sets per own target and SFDA's:",
            "\n".join(reliability(few)),
        ]
    )
    (HERE / "results" / "choice.md").write_text(text + "\n", encoding="utf-8")
    draw(found, HERE / "results" / "choice.png")
    print(text)


if __name__ == "__main__":
    main()
