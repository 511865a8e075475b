"""The two minimisers of softmax regression, side by side on the problems they are used for.

    OMP_NUM_THREADS=2 python benchmarks/softmax_regression.py [--rounds 3]

`numerics/minimise.py` fits the classifiers of the metrics and of the probe, to their end. The
heads of task-relatedness are kept at the step whose held-out loss is lowest, on the way that
SciPy's L-BFGS takes. Here each minimiser does the work of both, in turns in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.optimize

from transferscope.numerics.minimise import minimise
from transferscope.numerics.softmax_regression import penalised_loss
from transferscope.relatedness import _head, task_relatedness

SCIPY = scipy.optimize.minimize
#: Draws of each task, whose medians are shown.
DRAWS = 4


def task(
    n: int, d: int, k: int, apart: float, dtype: str, shift: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes whose means are `apart` deviations from their centre."""
    means = np.random.default_rng(0).standard_normal((k, d)) * apart / np.sqrt(d)
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k)
    return (means[labels] + shift + rng.standard_normal((n, d))).astype(dtype), labels


def by_ours(
    function: Callable[[Any], tuple[float, Any]], start: Any, **given: Any
) -> SimpleNamespace:
    """`minimise` behind the interface of SciPy's, with its units, callback and tolerances."""
    options = given["options"]

    def ends(theta: Any) -> bool:
        try:
            given["callback"](SimpleNamespace(x=theta))
        except StopIteration:
            return True
        return False

    found = minimise(
        function,
        start,
        max_steps=options["maxiter"],
        value_tolerance=options["ftol"],
        gradient_tolerance=options["gtol"],
        callback=ends,
    )
    return SimpleNamespace(x=found.point)


def heads(rounds: int) -> None:
    """Task-relatedness as it is, and with the other minimiser in the place of SciPy's."""
    print("| classes | apart | | SciPy | ours | ratio |\n| --- | --- | --- | --- | --- | --- |")
    cases = ((3, 1.0), (3, 4.0), (10, 2.0), (10, 6.0), (10, 15.0), (30, 5.0))
    lower = 0
    for k, apart in cases:
        losses: dict[str, list[float]] = {"SciPy": [], "ours": []}
        bounds: dict[str, list[float]] = {"SciPy": [], "ours": []}
        seconds: dict[str, list[float]] = {"SciPy": [], "ours": []}
        for draw in range(DRAWS):
            features, labels = task(900, 64, k, apart, "float64", 0.3, 10 + draw)
            reference, reference_labels = task(900, 64, k, apart, "float64", 0.0, 20 + draw)
            given = {"reference_features": reference, "reference_labels": reference_labels}
            for _ in range(rounds):
                took = {}
                for name, engine in (("SciPy", SCIPY), ("ours", by_ours)):
                    _head.scipy.optimize.minimize = engine
                    start = time.perf_counter()
                    found = task_relatedness(features, labels, **given)
                    took[name] = (time.perf_counter() - start, found)
            for name, (spent, found) in took.items():
                seconds[name].append(spent)
                losses[name].append(found.target_loss)
                bounds[name].append(found.bound)
            lower += losses["SciPy"][-1] < losses["ours"][-1]
        _head.scipy.optimize.minimize = SCIPY
        for what, both in (("bound", bounds), ("target loss", losses), ("seconds", seconds)):
            theirs, ours = (np.array(both[name]) for name in ("SciPy", "ours"))
            ratio = np.median(ours / theirs)
            cells = f"{np.median(theirs):.4g} | {np.median(ours):.4g} | {ratio:.4f}"
            print(f"| {k} | {apart} | {what} | {cells} |")
    print(
        f"\nThe target loss is the lower one with SciPy in {lower} of {DRAWS * len(cases)} tasks."
    )


def converged(rounds: int) -> None:
    """One penalised fit to its end, in the coordinates of the features, as the metrics need it."""
    print("| n, d, classes | | SciPy | ours | ratio |\n| --- | --- | --- | --- | --- |")
    for n, d, k in ((1500, 128, 10), (3680, 2048, 37)):
        features, labels = task(n, d, k, 6.0, "float32", 0.0, 1)
        truth = np.eye(k)[labels] / n
        ridge, shape = 1e-3, (d + 1, k)

        def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
            return penalised_loss(features, truth, theta, ridge)  # noqa: B023

        def flat(theta: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = loss(theta.reshape(shape))  # noqa: B023
            return value, gradient.ravel()

        values, seconds = {}, {}
        for _ in range(rounds):
            start = time.perf_counter()
            options = {"maxiter": 500, "ftol": 1e-9, "gtol": 1e-6}
            first = np.zeros(shape)
            theirs = SCIPY(flat, first.ravel(), jac=True, method="L-BFGS-B", options=options)
            middle = time.perf_counter()
            ours = minimise(
                loss, first, max_steps=500, value_tolerance=1e-9, gradient_tolerance=1e-6
            )
            end = time.perf_counter()
            values = {"SciPy": float(theirs.fun), "ours": ours.value}
            for name, took in (("SciPy", middle - start), ("ours", end - middle)):
                seconds[name] = min(seconds.get(name, np.inf), took)
        for what, both in (("loss", values), ("seconds", seconds)):
            print(
                f"| {n}, {d}, {k} | {what} | {both['SciPy']:.6g} | {both['ours']:.6g} | "
                f"{both['ours'] / both['SciPy']:.3f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print("\n## A fit to its end (metrics, probe)\n")
    converged(rounds)
    print("\n## Heads that stop by held-out loss (task-relatedness)\n")
    heads(rounds)


if __name__ == "__main__":
    main()
