"""Seconds and peak memory of every metric beside the floor, and their growth over n and d.

The floor is one ``FᵀF`` in the dtype of the features and one symmetric eigendecomposition of size d
in the same dtype, timed in the same run, in turns with what is compared (medians of the rounds).
Memory is the peak of what is allocated beyond the features, influences included (tracemalloc, in a
first run of each row; a row of more than 20 s is timed there too). "influences" are the seconds
that standard errors cost on top.

MOMENTS are all metrics that need features, labels and moments only, on one shared embedding;
MOMENTS+PED these and their +ped forms; "with frechet" the same with the one metric of moments that
needs a reference task as well, hence a second set of moments; ALL every metric of the table.

    python benchmarks/metrics.py [--rounds 2] [--case 50000,2048,100] [--metrics logme,h_score]
                                 [--no-growth] [--out benchmarks/results/metrics.md]
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sklearn.mixture import GaussianMixture

from transferscope.embedding import ClassMoments, Embedding
from transferscope.metrics import METRICS, Measurement, Metric
from transferscope.metrics._ped import applies_to, with_ped
from transferscope.metrics._potential_energy import Decline, potential_energy_decline

CASES = ((3_680, 2048, 37), (10_000, 2048, 100), (50_000, 2048, 100), (5_000, 768, 10))
GROWTH = ((2_500, 768, 20), (5_000, 768, 20), (10_000, 768, 20), (20_000, 768, 20),
          (10_000, 384, 20), (10_000, 1536, 20))  # fmt: skip
#: Rows slower than this in their first run are not repeated.
PATIENCE = 20.0
#: What is promised at one of the cases: times the floor, and 2 GB beyond the features.
BARS_AT = (50_000, 2048, 100)
BARS = {"logme": 1.3, "sfda": 3.0} | dict.fromkeys(
    ("MOMENTS", "MOMENTS+PED", "MOMENTS with frechet", "MOMENTS+PED with frechet"), 2.0
)
SMALL = ("parc", "knn", "otce", "nleep")

Case = tuple[int, int, int]


def data(case: Case) -> dict[str, np.ndarray]:
    """Overlapping classes with correlated noise, a source head, and a reference task."""
    n, d, n_classes = case
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    means = rng.standard_normal((n_classes, d), dtype=np.float32)
    mixing = rng.standard_normal((64, d), dtype=np.float32) / 8
    scale = (2 / np.sqrt(1 + np.arange(d) / 16)).astype(np.float32)
    features = rng.standard_normal((n, d), dtype=np.float32) * scale
    features += rng.standard_normal((n, 64), dtype=np.float32) @ mixing
    features += 0.3 * means[labels] + 0.5
    logits = rng.standard_normal((n, 50), dtype=np.float32)
    logits[np.arange(n), labels % 50] += 2
    reference = rng.standard_normal((min(n, 5_000), d), dtype=np.float32) * scale + 0.5
    return {
        "features": features,
        "labels": labels,
        "source_logits": logits,
        "reference_features": reference,
        "reference_labels": rng.integers(0, 20, len(reference)),
    }


def floor(features: np.ndarray) -> None:
    """The least that any metric with a scatter matrix costs."""
    np.linalg.eigh(features.T @ features)


def measured(given: dict[str, np.ndarray], metrics: list[Metric]) -> list[Measurement]:
    """Measure metrics on a fresh embedding, so that nothing is shared with other rows."""
    embedding = Embedding(**given)
    return [metric.measure(embedding) for metric in metrics]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@dataclass
class Row:
    """What was found of one row of the table."""

    metrics: list[Metric]
    times: list[float] = field(default_factory=list)
    first: float = 0.0
    influences: float = 0.0
    peak: float = 0.0
    says: str = ""

    @property
    def seconds(self) -> float:
        return statistics.median(self.times or [self.first])


def look(row: Row, given: dict[str, np.ndarray]) -> None:
    """The first run of a row: memory, influences, and whether it says that it subsamples."""
    tracemalloc.start()
    start = time.perf_counter()
    found = measured(given, row.metrics)
    row.first = time.perf_counter() - start
    row.influences = seconds(lambda: [measurement.influence() for measurement in found])
    row.peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    row.says = "; ".join(w for m in found for w in m.warnings if "stratified" in w)


def rows_of(names: list[str] | None) -> dict[str, Row]:
    """What is timed: each metric alone, then sets that share one embedding."""
    plain = [m for m in METRICS.values() if "classification" in m.tasks and not m.parts]
    from_moments = [m for m in plain if m.from_moments]
    alone = [m for m in from_moments if not m.needs]
    rows = {m.name: Row([m]) for m in [*plain, *displaced(from_moments)]}
    rows["MOMENTS"] = Row(alone)
    rows["MOMENTS+PED"] = Row([*alone, *displaced(alone)])
    rows["MOMENTS with frechet"] = Row(from_moments)
    rows["MOMENTS+PED with frechet"] = Row([*from_moments, *displaced(from_moments)])
    rows["ALL"] = Row(plain)
    return rows if names is None else {name: rows[name] for name in names}


def displaced(metrics: list[Metric]) -> list[Metric]:
    return [with_ped(m) for m in metrics if applies_to(m)]


def table(case: Case, rounds: int, names: list[str] | None) -> list[str]:
    """Time a case; lines of Markdown."""
    given = data(case)
    rows = rows_of(names)
    floor(given["features"][:2000])
    floors = [seconds(lambda: floor(given["features"]))]
    for row in rows.values():
        look(row, given)
    for _ in range(rounds):
        for i, row in enumerate(rows.values()):
            if i % 3 == 0:
                floors.append(seconds(lambda: floor(given["features"])))
            if row.first <= PATIENCE:
                row.times.append(seconds(lambda r=row: measured(given, r.metrics)))  # type: ignore[misc]
    base = statistics.median(floors)
    n, d, n_classes = case
    lines = [
        f"### n = {n:,}, d = {d:,}, C = {n_classes}, float32 "
        f"({given['features'].nbytes / 1e6:,.0f} MB of features)",
        "",
        f"Floor: {base:.3f} s (median of {len(floors)}, {min(floors):.3f} to {max(floors):.3f}).",
        "",
        "| metric | seconds | x floor | influences, s | peak MB | bar | says |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row.seconds:.3f} | {row.seconds / base:.2f} | {row.influences:.3f} | "
            f"{row.peak / 1e6:,.0f} | {bar(name, rows, base) if case == BARS_AT else ''} | "
            f"{row.says if not name.isupper() else ''} |"
        )
    print("\n".join(lines), flush=True)
    return [*lines, ""]


def bar(name: str, rows: dict[str, Row], base: float) -> str:
    """What was promised of a row, and whether it holds."""
    took, plain = rows[name].seconds, rows.get(name.removesuffix("+ped"))
    if name in BARS:
        return f"{BARS[name]} x floor: {'met' if took <= BARS[name] * base else 'missed'}"
    if name.endswith("+ped") and plain is not None:
        ratio = took / plain.seconds
        return f"1.15 x plain: {ratio:.2f}, {'met' if ratio <= 1.15 else 'missed'}"
    if name in SMALL:
        return f"2 GB: {'met' if rows[name].peak <= 2e9 else 'missed'}"
    return ""


def ped() -> list[str]:
    """PED itself, on moments at hand: seconds and peak memory at C = 1000, d = 2048."""
    rng = np.random.default_rng(0)
    labels = np.arange(20_000) % 1_000
    features = rng.standard_normal((20_000, 2048), dtype=np.float32)
    features += 0.1 * rng.standard_normal((1_000, 2048), dtype=np.float32)[labels]
    moments = ClassMoments.from_arrays(features, labels)

    def all_steps() -> Decline:
        # steps so short that classes still overlap after six, the most there are
        return potential_energy_decline(moments, step=0.01, exit_ratio=0.0)

    took = statistics.median(seconds(all_steps) for _ in range(3))
    tracemalloc.start()
    decline = all_steps()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    met = "met" if took < 2 and most < 200e6 else "missed"
    line = f"{took:.2f} s, {most / 1e6:,.0f} MB, {decline.n_steps} steps (bar: 2 s, 200 MB: {met})."
    print(line, flush=True)
    return ["### PED at C = 1,000, d = 2,048", "", line, ""]


def mixture() -> list[str]:
    """N-LEEP's mixture beside scikit-learn's, both from the latter's start, in turns."""
    module = sys.modules["transferscope.metrics._nleep"]
    given = data((10_000, 2048, 100))
    embedding = Embedding(given["features"], given["labels"])
    points, _ = module._points(embedding, np.arange(embedding.n_samples))
    k, options = 500, {"covariance_type": "spherical", "reg_covar": module.LEAST_VARIANCE}
    start = GaussianMixture(k, **options, max_iter=1, random_state=0).fit(points)
    parts = {"weights": start.weights_, "means": start.means_, "precisions": start.precisions_}
    inits = {f"{name}_init": value for name, value in parts.items()}
    table = module._table(points)
    r, variances = points.shape[1], 1 / start.precisions_
    level = np.log(start.weights_) - r / 2 * np.log(2 * np.pi * variances)
    lengths = np.sum(start.means_**2, axis=1)
    rows = [(start.means_ / variances[:, None]).T, [-0.5 / variances]]
    coefficients = np.concatenate([*rows, [level - lengths / (2 * variances)]])
    theirs, ours = [], []
    for _ in range(3):
        plain = GaussianMixture(k, **options, random_state=0, init_params="random_from_data")
        theirs.append(seconds(lambda: plain.set_params(**inits).fit(points)))  # noqa: B023
        found = []
        ours.append(seconds(lambda: found.append(module._fit(table, coefficients))))  # noqa: B023
    densities = np.concatenate(
        [part for _, part, _ in module._posteriors(table, found[0].coefficients)]
    )
    gap = float(np.max(np.abs(densities - plain.score_samples(points))))
    took, theirs_took = statistics.median(ours), statistics.median(theirs)
    line = (
        f"{len(points):,} points on {r} axes, {k} components, {plain.n_iter_} rounds, medians of "
        f"three: ours {took:.2f} s, scikit-learn's {theirs_took:.2f} s, ratio "
        f"{theirs_took / took:.1f}; log densities within {gap:.0e}."
    )
    print(line, flush=True)
    return ["### The mixture of N-LEEP", "", line, ""]


def growth() -> list[str]:
    """Seconds over n at fixed d, and over d at fixed n, of one run each."""
    found: dict[str, list[str]] = {name: [] for name in rows_of(None) if name != "ALL"}
    for case in GROWTH:
        given, rows = data(case), rows_of(None)
        floor(given["features"])
        for name, cells in found.items():
            cells.append(f"{seconds(lambda: measured(given, rows[name].metrics)):.3f}")  # noqa: B023
    head = [f"{n:,} x {d:,}" for n, d, _ in GROWTH]
    lines = ["### Growth over n and d (C = 20), seconds", ""]
    lines.append("| metric | " + " | ".join(head) + " |")
    lines.append("| --- |" + " ---: |" * len(head))
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in found.items()]
    print("\n".join(lines), flush=True)
    return [*lines, ""]


def main() -> None:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--case", help="n,d,C; all four by default")
    parser.add_argument("--metrics", help="rows, with commas between; all by default")
    parser.add_argument("--no-growth", action="store_true", help="the cases only")
    parser.add_argument("--out", type=Path, help="write the tables here too")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    cases = [tuple(map(int, given.case.split(",")))] if given.case else CASES
    names = given.metrics.split(",") if given.metrics else None
    threads = os.environ.get("OPENBLAS_NUM_THREADS", os.cpu_count())
    lines = [
        "# Cost of the metrics",
        "",
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{threads} threads, no GPU, Python {platform.python_version()}, NumPy {np.__version__}. "
        f"`python benchmarks/metrics.py {' '.join(sys.argv[1:])}`",
        "",
    ]
    measured(data((400, 16, 4)), rows_of(["ALL"])["ALL"].metrics)  # what is imported late
    for case in cases:
        lines += table(case, given.rounds, names)  # type: ignore[arg-type]
    lines += ped() + mixture()
    if not given.no_growth:
        lines += growth()
    if given.out is not None:
        given.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
