"""Properties of a data set that go with transferability: domain gap, variance in classes, size."""

from __future__ import annotations

from typing import Literal

import numpy as np

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.numerics import arrays, checks
from transferscope.numerics.arrays import ArrayLike
from transferscope.results import DatasetFactors

Gap = Literal["frechet", "means"]
Variance = Literal["relative", "absolute"]


def domain_gap(
    features: ArrayLike, *, reference_features: ArrayLike, kind: Gap = "frechet"
) -> float:
    r"""Distance between the features of a data set and those of a reference task.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
    reference_features : array of shape (n_reference, n_features)
        The same encoder's features of the data that it was pre-trained on, or of similar data.
    kind : {"frechet", "means"}
        Squared Fréchet distance of the Gaussians with their means μ, ν and covariances Σ, Ω,
        ``‖μ − ν‖² + tr Σ + tr Ω − 2 tr (Σ^½ Ω Σ^½)^½``; or its first term alone.

    Returns
    -------
    float
        Not negative, in squared units of the features; higher = further apart.

    Raises
    ------
    InputError
        If the numbers of features differ, a set has fewer than two rows, or the kind is unknown.
    FeatureError
        If an entry is not finite.

    Notes
    -----
    Cost: O(n d²) and O(d³). Covariances are divided by n. With fewer samples than features the
    Fréchet distance is too large; compare data sets of similar size, or take ``"means"``. How the
    gaps of the published table were measured is not said: they are not comparable with these.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.parameter_distance import domain_gap
    >>> reference = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    >>> round(domain_gap(2 * reference, reference_features=reference), 9)
    4.0
    >>> domain_gap(reference + 3, reference_features=reference, kind="means")
    18.0

    References
    ----------
    Dowson & Landau, 1982; Heusel et al., NeurIPS 2017 (arXiv 1706.08500).
    """
    if kind not in ("frechet", "means"):
        raise InputError(
            f"kind of a domain gap must be frechet or means; got {kind!r}. Choose one."
        )
    here = checks.features_matrix(features)
    there = checks.reference_matrix(reference_features, here)
    checks.finite(here, "features")
    sides = [arrays.to_numpy(arrays.as_float64(a)) for a in (here, there)]
    step = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    if kind == "means":
        return float(step @ step)
    roots, spread = [], 0.0
    for side in sides:
        centred = side - side.mean(axis=0)
        if len(side) < centred.shape[1]:
            roots.append(centred / np.sqrt(len(side)))  # any root will do, and this is no d x d
            spread += float(np.sum(roots[-1] ** 2))
            continue
        values, vectors = np.linalg.eigh(centred.T @ centred / len(side))
        values = np.maximum(values, 0.0)
        spread += float(values.sum())
        roots.append(np.sqrt(values)[:, None] * vectors.T)
    # tr (Σ^½ Ω Σ^½)^½ is the sum of the singular values of Ω^½ Σ^½: no root of a matrix that is
    # not symmetric
    shared = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return max(float(step @ step) + spread - 2 * shared, 0.0)


def intraclass_variance(
    features: ArrayLike, labels: ArrayLike, *, kind: Variance = "relative"
) -> float:
    """Mean variance of the features within the classes.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
    labels : array-like of shape (n_samples,)
    kind : {"relative", "absolute"}
        Share of the total variance; or the sum over the features, in their squared units.

    Returns
    -------
    float
        From 0 (every class is a point) to 1 (class means coincide) if relative; lower = the data
        set's classes are tighter. Classes weigh by their samples.

    Raises
    ------
    InputError
        If shapes disagree, fewer than two classes occur, or the kind is unknown.
    FeatureError
        If features are not finite or all the same.

    Notes
    -----
    Cost: one pass, O(n d²). The values of the published table (0.04 to 823) are not a share of
    anything; these are not comparable with them.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.parameter_distance import intraclass_variance
    >>> features = np.array([[0.0], [2.0], [4.0], [6.0]])
    >>> intraclass_variance(features, [0, 0, 1, 1])
    0.2
    >>> intraclass_variance(features, [0, 0, 1, 1], kind="absolute")
    1.0
    """
    if kind not in ("relative", "absolute"):
        raise InputError(
            f"kind of an intra-class variance must be relative or absolute; got {kind!r}. Choose "
            "one."
        )
    embedding = Embedding(features, labels)
    embedding.check_features()
    moments = embedding.moments
    xp = arrays.namespace(moments.within_squares)
    within = float(xp.sum(moments.within_squares))
    if kind == "absolute":
        return within / moments.n_samples
    squares = xp.sum((moments.means - moments.mean) ** 2, axis=1)
    return within / (within + float(moments.counts @ squares))


def dataset_factors(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    reference_features: ArrayLike | None = None,
    gap: Gap = "frechet",
    variance: Variance = "relative",
) -> DatasetFactors:
    """Domain gap, variance within the classes, and size of a data set.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
    labels : array-like of shape (n_samples,)
    reference_features : array of shape (n_reference, n_features), optional
        Without them there is no domain gap.
    gap : {"frechet", "means"}
        See `domain_gap`.
    variance : {"relative", "absolute"}
        See `intraclass_variance`.

    Returns
    -------
    DatasetFactors

    Raises
    ------
    InputError
        If shapes disagree, fewer than two classes occur, or `gap` or `variance` is unknown.
    FeatureError
        If features are not finite or all the same.

    Notes
    -----
    Cost: that of the two.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.parameter_distance import dataset_factors
    >>> found = dataset_factors(np.array([[0.0], [2.0], [4.0], [6.0]]), [0, 0, 1, 1])
    >>> found.n_samples, found.n_classes, found.intraclass_variance, found.domain_gap
    (4, 2, 0.2, None)
    """
    matrix = checks.features_matrix(features)
    n, d = map(int, matrix.shape)
    warnings = []
    distance = None
    if reference_features is not None:
        distance = domain_gap(matrix, reference_features=reference_features, kind=gap)
        m = int(checks.features_matrix(reference_features, "reference_features").shape[0])
        for side, size in (("samples", n), ("reference samples", m)):
            if gap == "frechet" and size <= d:
                warnings.append(f"{size} {side} for {d} features: the domain gap is too large")
    within = intraclass_variance(matrix, labels, kind=variance)
    _, names = checks.class_labels(labels, n, matrix)
    return DatasetFactors(distance, within, n, len(names), gap, variance, tuple(warnings))
