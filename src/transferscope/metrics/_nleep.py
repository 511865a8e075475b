"""N-LEEP: LEEP with clusters of the target features in place of source classes.

Li, Jia, Sang, Zhu, Green, Wang & Gong, "Ranking Neural Checkpoints", CVPR 2021.
"""

from __future__ import annotations

import math
import warnings as python_warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement, grouped_jackknife
from transferscope.metrics._metric import About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike, NumpyArray
from transferscope.numerics.sampling import stratified_rows

#: Share of the variance that the projection keeps, as in the paper.
ENERGY = 0.8
#: At most this many samples, and this many samples times clusters, enter the mixture.
MAX_SAMPLES = 20_000
MAX_POSTERIORS = 25_000_000
#: Added to every variance, in units of the mean variance of the projected features.
LEAST_VARIANCE = 1e-5
#: The mixture is fitted for at most so many rounds, until one raises the mean log density by less.
MAX_ROUNDS, LEAST_GAIN = 100, 1e-3
#: So many posteriors at once stay in the processor's cache.
CACHED_POSTERIORS = 2**18


@documented
def nleep(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    log: bool = True,
    clusters_per_class: int = 5,
    seed: int = 0,
) -> float:
    """Mean log-likelihood of the labels through a Gaussian mixture of the features (N-LEEP).

    Features are projected onto the principal axes that hold 80 % of the variance, a Gaussian
    mixture with 5 C spherical components is fitted to them, and the posterior ``θ_iz`` of
    component z takes the place of the source class in LEEP: ``mean_i ln Σ_z P(y_i | z) θ_iz``.

    Parameters
    ----------
    log : bool
        False: the mean likelihood itself, for comparison with tables made by public code, most of
        which drops the logarithm.
    clusters_per_class : int
        Components of the mixture, in multiples of the number of classes.
    seed : int
        Of the start of the mixture and of the subsample, see Notes.

    Returns
    -------
    float
        At most 0 (in [0, 1] with ``log=False``); higher is better.

    Raises
    ------
    InputError
        If shapes disagree, fewer than two classes occur, or `clusters_per_class` is below 1.

    Notes
    -----
    Cost: the shared eigendecomposition, and up to 100 rounds of O(m C r) for m samples on r axes.
    At most 20 000 samples, and 25 million posteriors, enter the mixture: beyond that a stratified,
    seeded subsample does, with a warning. The start is scikit-learn's k-means, for which
    the projected sample is copied to the host whatever the library of the features; the rounds,
    those of its ``GaussianMixture``, keep no table of posteriors and take a quarter of its time.

    The mixture finds a local optimum only, and from another seed another one. So that it depends
    on nothing else, samples enter in the order of their first coordinate, and in units of their
    spread. Public code leaves the mixture unseeded, and some fits full covariances.

    Its influences are a jackknife: each of 16 groups is left out, and the mixture fitted again from
    where it was (within 20 rounds the standard error would come out a sixth smaller). Their
    standard error was 0.91 of that over fresh data sets; given the mixture it would be half of it.

    Examples
    --------
    >>> from transferscope.metrics import nleep
    >>> features = np.array([[0.0], [0.2], [5.0], [5.2]])
    >>> round(nleep(features, [0, 0, 1, 1]), 6), round(nleep(features, [0, 1, 0, 1]), 6)
    (0.0, -0.693147)

    References
    ----------
    Li et al., CVPR 2021 (arXiv 2011.11200); LEEP: Nguyen et al., ICML 2020.
    """
    embedding = Embedding(features, labels, seed=seed)
    return measure(embedding, log=log, clusters_per_class=clusters_per_class).value


def measure(embedding: Embedding, *, log: bool = True, clusters_per_class: int = 5) -> Measurement:
    """N-LEEP of an embedding; see `nleep`."""
    if clusters_per_class < 1:
        raise InputError(f"clusters_per_class must be at least 1, got {clusters_per_class}.")
    C, n = embedding.n_classes, embedding.n_kept
    warnings = embedding.shared_warnings()
    limit = min(MAX_SAMPLES, max(MAX_POSTERIORS // (clusters_per_class * C), C))
    all_labels = arrays.to_numpy(embedding.labels)
    rows = stratified_rows(all_labels, n, limit, embedding.seed)
    m = rows.size
    if m < n:
        warnings.append(f"the mixture is of {m} stratified samples of {n}")
    per_class = max(1, min(clusters_per_class, (m - 1) // C))
    if per_class < clusters_per_class:
        warnings.append(f"{per_class * C} clusters: too few samples for {clusters_per_class * C}")
    points, order = _points(embedding, rows)
    labels = arrays.from_numpy(all_labels[rows][order], points)
    table = _table(points)
    mixture = _fit(table, _start(points, per_class * C, embedding.seed))
    if not mixture.settled:
        warnings.append(f"the mixture had not settled after {MAX_ROUNDS} rounds")
    value = _value(table, mixture, labels, C, log=log)

    def influence() -> Array:
        # refits need no more digits than the features have
        xp = arrays.namespace(table)
        single = xp.astype(table, embedding.matrix.dtype)

        def without(weights: Array) -> float:
            kept = xp.take(weights, arrays.from_numpy(rows[order], weights)) > 0
            chosen = xp.nonzero(kept)[0]
            some = xp.take(single, chosen, axis=0)
            start = xp.astype(mixture.coefficients, embedding.matrix.dtype)
            if int(some.shape[0]) < int(start.shape[1]):
                few = xp.take(points, chosen, axis=0)
                start = _start(few, int(few.shape[0]), embedding.seed)
            return _value(some, _fit(some, start), xp.take(labels, chosen), C, log=log)

        return grouped_jackknife(embedding, without)

    return Measurement(value, influence, tuple(warnings))


def _points(embedding: Embedding, rows: NumpyArray) -> tuple[Array, NumpyArray]:
    """The given rows as the mixture sees them, and the order in which it does."""
    points = _projected(embedding, rows)
    xp = arrays.namespace(points)
    points = points / xp.sqrt(xp.mean(xp.var(points, axis=0)))
    # the axis may point either way
    order = np.argsort(np.abs(arrays.to_numpy(points[:, 0])), kind="stable")
    return xp.take(points, arrays.from_numpy(order, points), axis=0), order


@dataclass(frozen=True)
class _Mixture:
    """A mixture of k spherical Gaussians.

    Attributes
    ----------
    coefficients : (r + 2, k)
        A row of the samples' `_table` times this is its log density in each, weight included.
    settled : bool
        Whether the fit ended before `MAX_ROUNDS`.
    """

    coefficients: Array
    settled: bool


def _table(points: Array) -> Array:
    """The coordinates of each point, its squared length, and 1: (m, r + 2)."""
    xp = arrays.namespace(points)
    squares = xp.sum(points * points, axis=1, keepdims=True)
    return xp.concat([points, squares, xp.ones_like(squares)], axis=1)


def _start(points: Array, n_clusters: int, seed: int) -> Array:
    """Coefficients of the mixture that k-means gives."""
    # scikit-learn takes long to import, and most metrics do without
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    means = KMeans(min(n_clusters, int(points.shape[0])), n_init=1, random_state=seed)
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore", ConvergenceWarning)
        nearest = means.fit(arrays.to_numpy(points)).labels_.astype(np.int64)
    sums = arrays.class_sums(_table(points), arrays.from_numpy(nearest, points), means.n_clusters)
    return _maximised(sums)


def _maximised(sums: Array) -> Array:
    """Coefficients of the mixture of highest likelihood.

    `sums` (k, r + 2) holds the `_table` summed over the samples, each by its posteriors.
    """
    xp, r = arrays.namespace(sums), int(sums.shape[1]) - 2
    mass = sums[:, -1] + 10 * float(xp.finfo(sums.dtype).eps)
    means = sums[:, :r] / mass[:, None]
    lengths = xp.sum(means * means, axis=1)
    variances = (sums[:, r] / mass - lengths) / r
    variances = xp.where(variances > 0, variances, 0.0) + LEAST_VARIANCE
    level = xp.log(mass / xp.sum(mass)) - r / 2 * xp.log(2 * math.pi * variances)
    return xp.concat(
        [
            (means / variances[:, None]).T,
            (-0.5 / variances)[None, :],
            (level - lengths / (2 * variances))[None, :],
        ]
    )


def _fit(table: Array, start: Array) -> _Mixture:
    """Expectation maximisation from the coefficients of a start."""
    xp, coefficients, last = arrays.namespace(table), start, -math.inf
    for _ in range(MAX_ROUNDS):
        sums, total = xp.zeros_like(start).T, 0.0
        for part, densities, posteriors in _posteriors(table, coefficients):
            sums = sums + posteriors.T @ table[part, :]
            total += float(xp.sum(densities))
        coefficients = _maximised(sums)
        gain, last = total / int(table.shape[0]) - last, total / int(table.shape[0])
        if abs(gain) < LEAST_GAIN:
            return _Mixture(coefficients, settled=True)
    return _Mixture(coefficients, settled=False)


def _posteriors(table: Array, coefficients: Array) -> Iterator[tuple[slice, Array, Array]]:
    """Per slice of the samples their log densities, and their posteriors (rows, k)."""
    xp, m = arrays.namespace(table), int(table.shape[0])
    step = max(64, CACHED_POSTERIORS // int(coefficients.shape[1]))
    for first in range(0, m, step):
        part = slice(first, min(first + step, m))
        logits = table[part, :] @ coefficients
        top = xp.max(logits, axis=1, keepdims=True)
        posteriors = xp.exp(logits - top)
        mass = xp.sum(posteriors, axis=1, keepdims=True)
        yield part, (xp.log(mass) + top)[:, 0], posteriors / mass


def _value(table: Array, mixture: _Mixture, labels: Array, C: int, *, log: bool) -> float:
    """LEEP with the posteriors of the mixture in place of source probabilities."""
    xp, joint, total = arrays.namespace(table), None, 0.0
    for part, _, posteriors in _posteriors(table, mixture.coefficients):
        sums = arrays.class_sums(arrays.as_float64(posteriors), labels[part], C)
        joint = sums if joint is None else joint + sums
    mass = xp.sum(joint, axis=0)
    conditional = joint / xp.where(mass > 0, mass, 1.0)
    for part, _, posteriors in _posteriors(table, mixture.coefficients):
        own = xp.take(conditional, labels[part], axis=0)
        likelihood = xp.sum(arrays.as_float64(posteriors) * own, axis=1)
        total += float(xp.sum(xp.log(likelihood) if log else likelihood))
    return total / int(table.shape[0])


def _projected(embedding: Embedding, rows: NumpyArray) -> Array:
    """The given rows on the principal axes that hold most of the variance."""
    values, vectors = embedding.spread.spectrum
    share = np.cumsum(arrays.to_numpy(values))
    n_axes = int(np.searchsorted(share / share[-1], ENERGY, side="right")) + 1
    xp = arrays.namespace(vectors)
    axes, step = vectors[:, :n_axes], arrays.chunk_rows(vectors.T)
    parts = []
    for start in range(0, rows.size, step):
        some = arrays.from_numpy(rows[start : start + step], axes)
        chunk = arrays.as_float64(embedding.matrix.take(some))
        parts.append((chunk - embedding.total.mean) @ axes)
    return xp.concat(parts)


ABOUT = About(
    "likelihood of labels through clusters of the features", "at most 0", "Li et al., CVPR 2021"
)
BEHAVIOUR = Behaviour(copied_to_host="projected features, for scikit-learn's k-means")
NLEEP = Metric("nleep", measure, ABOUT, behaviour=BEHAVIOUR)
