"""Measures of agreement between scores and accuracies: rank correlations, and what a choice costs.

One formula per measure serves the value and its bootstrap: every measure is a function of how often
each encoder was drawn, and the value is the draw that takes each of them once.
"""

from __future__ import annotations

import numpy as np

from transferscope.numerics.arrays import NumpyArray

#: The k of rel@k, recall@k and regret@k.
TOP = (1, 3)
#: Undefined when all scores, or all accuracies, are the same.
CORRELATIONS = ("weighted_tau", "kendall", "spearman", "pearson", "weighted_pearson")
#: Every measure, in the order shown; for all but regret higher is better.
MEASURES = (*CORRELATIONS, *(f"{name}@{k}" for name in ("rel", "recall", "regret") for k in TOP))


def measure_draws(
    scores: NumpyArray, accuracy: NumpyArray, counts: NumpyArray
) -> dict[str, NumpyArray]:
    """Every measure, of many draws of the same encoders in one pass.

    Parameters
    ----------
    scores, accuracy : (n,) array
        Finite.
    counts : (b, n) array of int
        How often each encoder is in each draw.

    Returns
    -------
    dict of str to (b,) array
        NaN where a measure is undefined: all drawn scores or accuracies are the same, or no
        encoder is drawn.

    Examples
    --------
    >>> import numpy as np
    >>> a, s = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    >>> round(float(measure_draws(s, a, np.ones((1, 3), dtype=int))["kendall"][0]), 6)
    0.333333
    """
    s, a = np.asarray(scores, dtype=float), np.asarray(accuracy, dtype=float)
    m = np.asarray(counts)
    sign_s, sign_a = (np.sign(x[:, None] - x[None, :]) for x in (s, a))
    # (b, n): signed pairs of each encoder with the copies of all others
    both, by_s, by_a = (m @ pairs for pairs in (sign_s * sign_a, sign_s**2, sign_a**2))

    def correlate(weight: NumpyArray) -> NumpyArray:
        return ratio(
            (weight * both).sum(1), np.sqrt((weight * by_s).sum(1) * (weight * by_a).sum(1))
        )

    taus = [correlate(_hyperbolic(m, order)) for order in (_best_first(s, a), _best_first(a, s))]
    rank_s, rank_a = (_mid_ranks(x, m) for x in (s, a))
    found = {
        "weighted_tau": (taus[0] + taus[1]) / 2,
        "kendall": correlate(m),
        "spearman": _pearson(rank_s, rank_a, m),
        "pearson": _pearson(s, a, m),
        "weighted_pearson": _pearson(s, a, m / np.maximum(_mid_ranks(-a, m), 1)),
    }
    best = np.where(m > 0, a, -np.inf).max(axis=1)
    order = np.lexsort((a, -s))  # of equal scores the less accurate first
    before = np.cumsum(m[:, order], axis=1) - m[:, order]
    for k in TOP:
        taken = (before < k) & (m[:, order] > 0)
        reached = np.where(taken, a[order], -np.inf).max(axis=1)
        some = m.any(axis=1)
        found[f"rel@{k}"] = ratio(np.where(some, reached, 0), np.where(some, best, 0))
        found[f"recall@{k}"] = np.where(some, reached == best, np.nan)
        found[f"regret@{k}"] = np.where(some, best, np.nan) - np.where(some, reached, 0)
    return {name: found[name] for name in MEASURES}


def _best_first(first: NumpyArray, second: NumpyArray) -> NumpyArray:
    return np.lexsort((-second, -first))


def _hyperbolic(counts: NumpyArray, order: NumpyArray) -> NumpyArray:
    """Per encoder the sum of 1/rank over its copies, which stand side by side in `order`."""
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, counts.sum(1).max() + 1))])
    after = np.cumsum(counts[:, order], axis=1)
    weight = np.empty(counts.shape)
    weight[:, order] = harmonic[after] - harmonic[after - counts[:, order]]
    return weight


def _mid_ranks(x: NumpyArray, counts: NumpyArray) -> NumpyArray:
    """(b, n) ranks from 1 for the lowest; copies and equal ones share their mean."""
    # floats: matrix products of whole numbers are many times slower
    lower = (x[None, :] < x[:, None]).astype(float)
    equal = (x[None, :] == x[:, None]).astype(float)
    counts = counts.astype(float)
    return np.asarray(counts @ lower.T + (counts @ equal.T + 1) / 2)


def _pearson(x: NumpyArray, y: NumpyArray, weight: NumpyArray) -> NumpyArray:
    """Weighted, per row of `weight`; x and y are (n,) or (b, n)."""
    total = np.maximum(weight.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    dx, dy = (v - (weight * v).sum(axis=1, keepdims=True) / total for v in (x, y))
    # of values that are all the same only rounding is left
    flat = [
        (weight * d**2).sum(1) <= (1e-14 * np.abs(v).max(initial=0)) ** 2 * total[:, 0]
        for d, v in ((dx, x), (dy, y))
    ]
    norm = np.sqrt((weight * dx**2).sum(1) * (weight * dy**2).sum(1))
    return ratio((weight * dx * dy).sum(1), np.where(flat[0] | flat[1], 0, norm))


def ratio(above: NumpyArray, below: NumpyArray) -> NumpyArray:
    ratio: NumpyArray = np.full(np.shape(below), np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio
