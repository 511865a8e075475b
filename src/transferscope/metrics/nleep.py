"""N-LEEP: LEEP with clusters of the target features in place of source classes.

Li, Jia, Sang, Zhu, Green, Wang & Gong, "Ranking Neural Checkpoints", CVPR 2021.
"""

from __future__ import annotations

import warnings as python_warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from transferscope import arrays
from transferscope.arrays import Array
from transferscope.embedding import Embedding, stratified_rows
from transferscope.errors import InputError
from transferscope.metrics._metric import Measurement, grouped_jackknife

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

#: Share of the variance that the projection keeps, as in the paper.
ENERGY = 0.8
#: At most this many samples, and this many samples times clusters, enter the mixture.
MAX_SAMPLES = 20_000
MAX_POSTERIORS = 25_000_000
#: Added to every variance, in units of the mean variance of the projected features.
LEAST_VARIANCE = 1e-5


def nleep(
    features: Any,
    labels: Any,
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
    features : array of shape (n_samples, n_features)
    labels : array-like of shape (n_samples,)
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
    FeatureError
        If features are not finite or all the same.

    Notes
    -----
    Cost: the shared eigendecomposition, and up to 100 rounds of O(m C r) for m samples on r axes.
    At most 20 000 samples, and 25 million posteriors, enter the mixture: beyond that a stratified,
    seeded subsample does, and the result says so. The mixture is scikit-learn's: whatever the
    library of the features, the projected sample is copied to the host for it.

    The mixture finds a local optimum only, and from another seed another one. So that it depends
    on nothing else, samples enter in the order of their first coordinate, and in units of their
    spread. Public code leaves the mixture unseeded, and some fits full covariances.

    Its influences are a jackknife: each of 16 groups is left out, and the mixture fitted again from
    where it was (within 20 rounds the standard error would come out a sixth smaller). Their
    standard error was 0.91 of that over fresh data sets; given the mixture it would be half of it.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.metrics.nleep import nleep
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(200) % 4
    >>> separable = np.eye(4)[labels] + 0.3 * rng.standard_normal((200, 4))
    >>> bool(nleep(separable, labels) > nleep(separable, rng.permutation(labels)))
    True

    References
    ----------
    Li et al., CVPR 2021 (arXiv 2011.11200); LEEP: Nguyen et al., ICML 2020.
    """
    embedding = Embedding(features, labels, seed=seed)
    return measure(embedding, log=log, clusters_per_class=clusters_per_class).value


def measure(embedding: Embedding, log: bool = True, clusters_per_class: int = 5) -> Measurement:
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
    labels = all_labels[rows]
    points, order = _points(embedding, rows)
    labels = labels[order]
    mixture = _fit(points, per_class * C, embedding.seed)
    if not mixture.converged_:
        warnings.append(f"the mixture had not settled after {mixture.n_iter_} rounds")
    value = _value(mixture.predict_proba(points), labels, C, log)

    def influence() -> Array:
        # refits need no more digits than the features have
        single = points.astype(np.float32) if "32" in str(embedding.dtype) else points

        def without(weights: Array) -> float:
            kept = arrays.to_numpy(weights)[rows][order] > 0
            again = _fit(single[kept], per_class * C, embedding.seed, start=mixture)
            return _value(arrays.double(again.predict_proba(single[kept])), labels[kept], C, log)

        return grouped_jackknife(embedding, without)

    return Measurement(value, influence, tuple(warnings))


def _points(
    embedding: Embedding, rows: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The given rows as the mixture sees them, and the order in which it does."""
    points = _projected(embedding, rows)
    points = points / np.sqrt(np.mean(points.var(axis=0)))
    order = np.argsort(np.abs(points[:, 0]), kind="stable")  # the axis may point either way
    return points[order], order


def _value(theta: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], C: int, log: bool) -> float:
    """LEEP with the posteriors (m, n_clusters) in place of source probabilities."""
    joint = arrays.class_sums(theta, labels, C)
    mass = joint.sum(axis=0)
    conditional = joint / np.where(mass > 0, mass, 1.0)
    likelihood = np.sum(theta * conditional[labels], axis=1)
    return float(np.mean(np.log(likelihood) if log else likelihood))


def _fit(
    points: np.ndarray[Any, Any], n_clusters: int, seed: int, start: Any = None
) -> GaussianMixture:
    """A mixture fitted to the points, from another mixture's optimum where one is given."""
    # scikit-learn takes long to import, and most metrics do without
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    given = {}
    n_clusters = min(n_clusters, len(points))
    if start is not None and n_clusters == start.n_components:
        given = {
            "weights_init": start.weights_.astype(points.dtype),
            "means_init": start.means_.astype(points.dtype),
            "precisions_init": start.precisions_.astype(points.dtype),
        }
    mixture = GaussianMixture(
        n_clusters,
        covariance_type="spherical",
        reg_covar=LEAST_VARIANCE,
        random_state=seed,
        init_params="random_from_data" if given else "kmeans",
        **given,
    )
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(points)


def _projected(embedding: Embedding, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The given rows on the principal axes that hold most of the variance, on the host."""
    values, vectors = embedding.spectrum
    share = np.cumsum(arrays.to_numpy(values))
    n_axes = int(np.searchsorted(share / share[-1], ENERGY, side="right")) + 1
    xp = arrays.namespace(vectors)
    axes, step = vectors[:, :n_axes], arrays.chunk_rows(vectors.T)
    parts = []
    for start in range(0, rows.size, step):
        some = arrays.to_like(rows[start : start + step], axes)
        chunk = arrays.double(embedding.take(some))
        parts.append((chunk - embedding.total.mean) @ axes)
    return arrays.to_numpy(xp.concat(parts))
