"""How sure a ranking is: paired resampling of the influences of the samples.

Encoders are compared on the same samples, so all scores are resampled together: one draw of
samples moves every encoder's score by the mean influence of the samples drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from transferscope.numerics.arrays import NumpyArray

#: Number of resampled data sets.
REPLICATES = 2_000
#: Width of intervals, and how surely a tied encoder is not worse than the first.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Resampled:
    """What resampling gives for k encoders.

    Attributes
    ----------
    low, high : dict of str to (k,) array
        Interval of each metric's score per encoder.
    mean_rank : (k,) array
        Mean over metrics of the encoder's rank, 1 = best; of equal ones the more probable best
        comes first.
    p_best : (k,) array
        Share of the replicates in which it comes first (shared when several do); sums to 1.
    tied : (k,) bool array
        Whether it is ahead of the first in more than 5 % of the replicates (even ones count half).
    """

    low: dict[str, NumpyArray]
    high: dict[str, NumpyArray]
    mean_rank: NumpyArray
    p_best: NumpyArray
    tied: NumpyArray


def resample(
    values: Mapping[str, NumpyArray],
    influences: Mapping[str, NumpyArray],
    n_samples: int,
    ranked_by: Sequence[str],
    seed: int,
) -> Resampled:
    """Resample the scores of k encoders jointly.

    Parameters
    ----------
    values : mapping of metric to (k,) array
        Scores; NaN where an encoder has none by this metric.
    influences : mapping of metric to (m, k) array
        Influence of m of the samples on each score, the same samples for all.
    n_samples : int
        Size of the data set, at least m.
    ranked_by : sequence of str
        Metrics whose ranks are averaged; without NaN.
    seed : int

    Returns
    -------
    Resampled
    """
    replicates = _replicates(values, influences, n_samples, seed)
    low, high = _bounds(replicates)
    mean_rank = consensus([values[name] for name in ranked_by])
    ranks = consensus([replicates[name] for name in ranked_by])
    first = np.isclose(ranks, ranks.min(axis=1, keepdims=True))
    p_best = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    best = int(np.lexsort((-p_best, mean_rank))[0])
    behind = ranks - ranks[:, [best]]
    even = np.isclose(behind, 0)
    not_worse = ((behind < 0) & ~even).mean(axis=0) + even.mean(axis=0) / 2
    return Resampled(
        low=low,
        high=high,
        mean_rank=mean_rank,
        p_best=p_best,
        tied=not_worse > 1 - CONFIDENCE,
    )


def intervals(
    values: Mapping[str, NumpyArray],
    influences: Mapping[str, NumpyArray],
    n_samples: int,
    seed: int,
) -> tuple[dict[str, NumpyArray], dict[str, NumpyArray]]:
    """Low and high end of each score's interval alone; parameters as of `resample`."""
    return _bounds(_replicates(values, influences, n_samples, seed))


def _replicates(
    values: Mapping[str, NumpyArray],
    influences: Mapping[str, NumpyArray],
    n_samples: int,
    seed: int,
) -> dict[str, NumpyArray]:
    """Scores (REPLICATES, k) of each metric on resampled data sets, the same ones for all."""
    m = next(iter(influences.values())).shape[0]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, m, size=(REPLICATES, m)) + m * np.arange(REPLICATES)[:, None]
    times = np.bincount(drawn.ravel(), minlength=REPLICATES * m).reshape(REPLICATES, m)
    # m samples stand for n: their mean scatters sqrt(n / m) times as much
    weights = (times - 1.0) / np.sqrt(m * n_samples)
    return {name: values[name] + weights @ influence for name, influence in influences.items()}


def _bounds(
    replicates: Mapping[str, NumpyArray],
) -> tuple[dict[str, NumpyArray], dict[str, NumpyArray]]:
    tail = 50 * (1 - CONFIDENCE)
    bounds = {
        name: np.percentile(scores, [tail, 100 - tail], axis=0)
        for name, scores in replicates.items()
    }
    return {name: b[0] for name, b in bounds.items()}, {name: b[1] for name, b in bounds.items()}


def consensus(scores: Sequence[NumpyArray]) -> NumpyArray:
    """Mean over metrics of the rank along the last axis, 1 = highest score, ties share theirs."""
    return np.asarray(np.mean([scipy.stats.rankdata(-s, axis=-1) for s in scores], axis=0))
