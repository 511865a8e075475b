"""How much the bound differs when everything is learned anew from other samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from transferscope.numerics import arrays
from transferscope.numerics.sampling import by_class, stratified_rows
from transferscope.relatedness._head import convert
from transferscope.relatedness._sides import LEAST_GIVEN, LEAST_HELD_OUT, PreparedTask, prepare
from transferscope.relatedness._transform import Side
from transferscope.relatedness._transport import Ids

#: Most samples of a refit.
REFIT_SAMPLES = 1_000


def spread_of_refits(
    target: PreparedTask,
    reference: PreparedTask,
    n_refits: int,
    bound_of: Callable[[PreparedTask, int], float],
    seed: int,
) -> float:
    """Standard error of the bound from fits to random halves of the target.

    A half is drawn without repetition, so that no sample is both learned from and held out, and
    divided anew. What differs between halves of n samples differs as much between fresh sets of n;
    a smaller share f is scaled by ``√(f/(1 − f))``. The reference is the same throughout.

    Parameters
    ----------
    target, reference : PreparedTask
    n_refits : int
        At least 2.
    bound_of : callable
        Fits to a target with a seed, and gives the bound.
    seed : int

    Returns
    -------
    float
        0 where classes are so small that all samples are in every half.
    """
    bounds, factors = [], []
    for i in range(n_refits):
        half, share = _half(target, reference, np.random.default_rng([seed, i]), seed + i)
        if share < 1:
            bounds.append(bound_of(half, seed + i))
            factors.append(share / (1 - share))
    if len(bounds) < 2:
        return 0.0
    return float(np.std(bounds, ddof=1) * np.mean(factors) ** 0.5)


def fewer_samples(task: PreparedTask) -> PreparedTask:
    """A task of about as many samples as a refit has, each part and class by its share."""
    sides = task.learn, task.judge, task.held_out
    share = REFIT_SAMPLES / sum(len(side.labels) for side in sides)
    if share >= 1:
        return task
    learn, judge, held_out = (
        _taken(side, stratified_rows(side.labels, n, max(round(share * n), 1), 0))
        if (n := len(side.labels)) * share >= len(task.names)
        else side
        for side in sides
    )
    return task._replace(learn=learn, judge=judge, held_out=held_out)


def _half(
    target: PreparedTask, reference: PreparedTask, rng: np.random.Generator, seed: int
) -> tuple[PreparedTask, float]:
    """Half of a target, prepared anew, and the share that it is."""
    apart = target.held_out_rows is None
    sides = [target.learn, target.judge] if apart else [target.learn, target.judge, target.held_out]
    pool, test = _as_given(target, sides), _as_given(target, [target.held_out])
    least = LEAST_GIVEN if apart else LEAST_HELD_OUT
    rows = _share(pool.labels, least, rng)
    chosen = _taken(pool, rows)
    labelled = len(target.names) > 1
    given = _taken(test, _share(test.labels, 1, rng)) if apart else None
    prepared = prepare(
        chosen.features,
        chosen.labels if labelled else None,
        None if given is None else given.features,
        None if given is None or not labelled else given.labels,
        "",
        reference,
        seed,
        [],
    )
    return prepared._replace(names=target.names), len(rows) / len(pool.labels)


def _share(labels: Ids, least: int, rng: np.random.Generator) -> Ids:
    share = min(0.5, REFIT_SAMPLES / len(labels))
    rows, place, size = by_class(labels, rng.permutation(len(labels)))
    return np.sort(rows[place < np.maximum(least, np.rint(share * size))])


def _as_given(target: PreparedTask, sides: list[Side]) -> Side:
    """Samples before they were standardised."""
    xp = arrays.namespace(sides[0].features)
    x = xp.concat([side.features for side in sides], axis=0)
    raw = x * convert(target.deviation, x) + convert(target.mean, x)
    return Side(raw, np.concatenate([side.labels for side in sides]))


def _taken(side: Side, rows: Ids) -> Side:
    xp = arrays.namespace(side.features)
    place = arrays.from_numpy(rows, side.features)
    return Side(xp.take(side.features, place, axis=0), side.labels[rows])
