"""PARC: do samples of different classes lie further apart than samples of the same class?

Bolya, Mittapalli & Hoffman, "Scalable Diverse Model Selection for Accessible Transfer Learning"
(Pairwise Annotation Representation Comparison), NeurIPS 2021.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike

#: Correlations closer than this are one: rounding must not decide between duplicates.
GRID = 2.0**-40
#: Distances are distinguished this finely for the influences.
STEPS = 4096


@documented
def parc(
    features: ArrayLike, labels: ArrayLike, *, n_axes: int | None = 32, seed: int = 0
) -> float:
    """100 times the rank correlation of feature distances with label distances (PARC).

    Features are projected onto their first principal axes and standardised; the distance of two
    samples is one minus the correlation of their rows. Label distances are the same of one-hot
    labels: one value within a class, another between classes. The Spearman correlation of the two
    is therefore a function of the Mann-Whitney statistic: with A the probability that a pair of
    different classes is further apart than a pair of the same class, and p the share of pairs of
    the same class, ``(2A − 1) √(3 p (1 − p))`` for many pairs without ties.

    Parameters
    ----------
    n_axes : int or None
        Principal axes kept; None: the features as they are.
    seed : int
        Of the subsample, see Notes.

    Returns
    -------
    float
        In [-100, 100], 0 for chance; higher is better. How close to 100 it can come depends on the
        class sizes (52 for ten equal classes), so compare on the same labels only.

    Raises
    ------
    InputError
        If shapes disagree, fewer than two classes occur, or `n_axes` is below 1.

    Notes
    -----
    Cost: the shared eigendecomposition and one sort of all pairs of at most 5 000 samples, under
    1 GB; of more samples a stratified, seeded subsample stands for all, with a warning.

    The correlation of two rows depends on the signs of the principal axes, which are arbitrary:
    here, as in recent scikit-learn, the largest loading of each axis is positive. For that reason
    the value changes when the features are rotated. Public code standardises axes without variance
    too, that is rounding noise, where features have fewer than 32 dimensions of variation: here
    these axes are left out. It gives NaN for constant rows, which here correlate with nothing. Its
    randomised projection of one power iteration differs by some tenths. It computes label distances
    in floating point, where they take three or four values instead of two: ranks that rounding
    made, 0.3 to 1.6 off on our cases. The standard error leaves out that axes may turn or change
    sign with the samples, which matters where few axes are kept or their variances are close.

    Examples
    --------
    >>> from transferscope.metrics import parc
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> separable = np.eye(3)[labels] + 0.1 * rng.standard_normal((60, 3))
    >>> bool(parc(separable, labels) > parc(separable, rng.permutation(labels)))
    True

    References
    ----------
    Bolya et al., NeurIPS 2021 (arXiv 2111.06977).
    """
    return measure(Embedding(features, labels, seed=seed), n_axes=n_axes).value


def measure(embedding: Embedding, n_axes: int | None = 32) -> Measurement:
    """PARC of an embedding; see `parc`."""
    if n_axes is not None and n_axes < 1:
        raise InputError(f"n_axes must be at least 1, or None for no projection, got {n_axes}.")
    values = _standardised(embedding, n_axes)
    rows, _ = _unit_rows(values)
    labels = embedding.influence_labels
    xp = arrays.namespace(rows)
    m = int(rows.shape[0])
    warnings = embedding.shared_warnings()
    if m < embedding.n_kept:
        warnings.append(f"pairs of {m} stratified samples stand for {embedding.n_kept}")
    pairs = _pairs(rows, labels)
    if pairs is None:
        warnings.append("undefined: all pairs are equal, by label or by distance; 0 is reported")
        nothing = xp.zeros(m, dtype=xp.float64, device=arrays.device_of(rows))
        return Measurement(0.0, lambda: nothing, tuple(warnings))
    value = 100 * pairs.scale * (pairs.auc - 0.5)

    def influence() -> Array:
        terms = 100 * pairs.scale * _influence(values, labels, pairs, whitened=n_axes is not None)
        return (terms - xp.mean(terms)) * math.sqrt(embedding.n_samples / m)

    return Measurement(value, influence, tuple(warnings))


class _Pairs(NamedTuple):
    """Distances of pairs, sorted, and what the correlation is made of."""

    same: Array  # (N_s,) of the same class
    other: Array  # (N_d,) of different classes
    auc: float  # A
    p: float  # N_s / (N_s + N_d)
    scale: float  # the correlation is scale (A - 1/2)


def _standardised(embedding: Embedding, n_axes: int | None) -> Array:
    """The sampled rows on the axes asked for, with mean 0 and variance 1 (or 0), (m, r)."""
    embedding.check_features()
    values = arrays.as_float64(embedding.matrix.take(embedding.influence_rows))
    xp = arrays.namespace(values)
    if n_axes is not None:
        vectors = embedding.spread.spectrum.vectors
        n_axes = min(n_axes, int(vectors.shape[1]))
        vectors = vectors[:, :n_axes]
        largest = xp.argmax(xp.abs(vectors), axis=0)[None, :]
        signs = xp.sign(xp.take_along_axis(vectors, largest, axis=0))
        values = (values - embedding.total.mean) @ (vectors * signs)
    values = values - xp.mean(values, axis=0)
    spread = xp.sqrt(xp.mean(values * values, axis=0))
    varies = spread > 1e-12 * float(xp.max(spread))
    return xp.where(varies, values / xp.where(varies, spread, 1.0), 0.0)


def _unit_rows(values: Array) -> tuple[Array, Array]:
    """Rows centred and of length 1, or 0 where they are constant; and their lengths before."""
    xp = arrays.namespace(values)
    centred = values - xp.mean(values, axis=1)[:, None]
    length = xp.sqrt(xp.sum(centred * centred, axis=1))[:, None]
    varies = length > 1e-12 * math.sqrt(values.shape[1])
    length = xp.where(varies, length, 1.0)
    return xp.where(varies, centred / length, 0.0), length


def _distances(some: Array, rows: Array) -> Array:
    """Correlation distances of some rows from all rows."""
    return 1 - arrays.namespace(rows).round(some @ rows.T / GRID) * GRID


def _pairs(rows: Array, labels: Array) -> _Pairs | None:
    """Sorted distances and the Mann-Whitney statistic; None where either side does not vary."""
    xp = arrays.namespace(rows)
    m = int(rows.shape[0])
    index = xp.arange(m, device=arrays.device_of(rows))
    upper = index[:, None] < index[None, :]
    alike = labels[:, None] == labels[None, :]
    distances = _distances(rows, rows)
    same = xp.sort(distances[upper & alike], stable=False)
    other = xp.sort(distances[upper & ~alike], stable=False)
    del distances, upper, alike
    n_same, n_other = int(same.shape[0]), int(other.shape[0])
    if n_same == 0 or n_other == 0:
        return None
    n = n_same + n_other
    # stable, as such sorts merge what is sorted already
    everything = xp.sort(xp.concat([same, other]))
    # runs of equal distances: ties take the mean of their ranks
    starts = xp.nonzero(everything[1:] != everything[:-1])[0] + 1
    if int(starts.shape[0]) == 0:
        return None
    ends = xp.concat([starts, n * xp.ones_like(starts[:1])])
    runs = xp.concat([starts[:1], ends[1:] - starts])
    runs = arrays.as_float64(runs[runs > 1])
    ties = float(xp.sum(runs * runs * runs - runs)) / (float(n) ** 3 - n)
    auc = 1 - float(xp.mean(_share_below(same, other)))
    scale = math.sqrt(12 * n_same * n_other / ((float(n) ** 2 - 1) * (1 - ties)))
    return _Pairs(same, other, auc, n_same / n, scale)


def _share_below(values: Array, others: Array) -> Array:
    """Share of the sorted `others` that lie below each value, equal ones counting half."""
    xp = arrays.namespace(values)
    below = xp.searchsorted(others, values, side="left")
    up_to = xp.searchsorted(others, values, side="right")
    return arrays.as_float64(below + up_to) / (2 * int(others.shape[0]))


def _influence(values: Array, labels: Array, pairs: _Pairs, *, whitened: bool) -> Array:
    """Influence of each sample on ``(A − 1/2) √(p (1 − p))``, in units of the root.

    By its pairs, first: A is a ratio of counts of pairs, p another. Then by the standardisation,
    which takes part of that back: a sample z changes the others by ``−½ (zzᵀ − I)``, of which
    only the diagonal counts where there was no projection, and by ``−z``.
    """
    xp = arrays.namespace(values)
    rows, length = _unit_rows(values)
    m, n_same, n_other = (int(a.shape[0]) for a in (rows, pairs.same, pairs.other))
    # what a distance contributes is looked up: for a pair of the same class, then for the others
    every = xp.stack([pairs.same[0], pairs.other[0], pairs.same[-1], pairs.other[-1]])
    low, high = float(xp.min(every)), float(xp.max(every))
    device = arrays.device_of(rows)
    grid = low + (high - low) / STEPS * xp.arange(STEPS + 1, dtype=xp.float64, device=device)
    width = max(0.2 * float(xp.std(pairs.other)), GRID)

    def density(of: Array) -> Array:
        below = _share_below(xp.concat([grid + width, grid - width]), of)
        return (below[: STEPS + 1] - below[STEPS + 1 :]) / (2 * width)

    above_or_below = xp.concat(
        [1 - _share_below(grid, pairs.other), _share_below(grid, pairs.same)]
    )
    # how A changes with the distance
    by_distance = xp.concat([-density(pairs.other) / n_same, density(pairs.same) / n_other])

    index = xp.arange(m, device=device)
    counts, slopes = [], []
    for start in range(0, m, 512):
        some = slice(start, min(start + 512, m))
        place = xp.round((_distances(rows[some, :], rows) - low) * (STEPS / (high - low)))
        place = xp.astype(xp.clip(place, 0.0, float(STEPS)), xp.int64)
        unlike = labels[some][:, None] != labels[None, :]
        alike = ~unlike & (index[some][:, None] != index[None, :])
        place = xp.reshape(xp.where(unlike, place + STEPS + 1, place), (-1,))
        shares = xp.reshape(xp.take(above_or_below, place), unlike.shape)
        columns = [
            xp.astype(alike, xp.float64),
            xp.astype(unlike, xp.float64),
            xp.where(alike, shares, 0.0),
            xp.where(unlike, shares, 0.0),
        ]
        counts.append(xp.stack([xp.sum(column, axis=1) for column in columns]))
        weight = xp.reshape(xp.take(by_distance, place), unlike.shape)
        slopes.append(-xp.where(alike | unlike, weight, 0.0) @ rows)
    parts = xp.concat(counts, axis=1)
    mean = xp.mean(parts, axis=1)[:, None]
    parts = 2 * parts / xp.where(mean > 0, mean, 1.0)  # each pair has two samples
    auc = pairs.auc * (parts[2, :] + parts[3, :] - parts[0, :] - parts[1, :])
    balance = (1 - 2 * pairs.p) / 2 * (parts[0, :] - parts[1, :])

    slope = xp.concat(slopes)
    slope = (slope - xp.sum(slope * rows, axis=1)[:, None] * rows) / length
    slope = slope - xp.mean(slope, axis=1)[:, None]
    if whitened:
        squares = xp.sum((values @ (slope.T @ values)) * values, axis=1)
    else:
        squares = (values * values) @ xp.sum(slope * values, axis=0)
    standardisation = -squares / 2 - values @ xp.sum(slope, axis=0)
    influence: Array = auc + (pairs.auc - 0.5) * balance + standardisation
    return influence


ABOUT = About(
    "rank correlation of feature with label distances", "-100 to 100", "Bolya et al., NeurIPS 2021"
)
BEHAVIOUR = Behaviour(changes_with=("duplicated rows", "rotation"), float32_tolerance=0.0001)
PARC = Metric("parc", measure, ABOUT, behaviour=BEHAVIOUR)
