"""Fréchet distance between Gaussians fitted to the features and to the reference task's features.

Dowson & Landau, "The Fréchet distance between multivariate normal distributions", Journal of
Multivariate Analysis 1982.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from transferscope import arrays, checks
from transferscope.arrays import Array
from transferscope.embedding import Embedding
from transferscope.metrics._metric import Measurement


def frechet(features: Any, reference_features: Any) -> float:
    r"""Minus the squared Fréchet distance to the reference task, both taken for Gaussian.

    With means μ, ν and covariances Σ, Ω (divided by n) of features and reference features, minus

        ‖μ − ν‖² + tr Σ + tr Ω − 2 tr (Σ^½ Ω Σ^½)^½

    A measure of the domain gap: it looks at no label.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
    reference_features : array of shape (n_reference, n_features)
        The same encoder's features of a task close to what it was pre-trained on.

    Returns
    -------
    float
        At most 0, which equal moments have; higher is better. In squared units of the features, so
        comparable between encoders only where their features are.

    Raises
    ------
    InputError
        If the numbers of features differ.
    FeatureError
        If features or reference features are not finite or all the same.

    Notes
    -----
    Cost: a pass over either set, O(n d²), their eigendecompositions and the singular values of a
    d x d matrix, O(d³). The trace is the sum of the singular values of ``Ω^½ Σ^½``: no square root
    of a product that is not symmetric, no ridge, no imaginary parts to drop, and half of the digits
    more than from the eigenvalues of ``Σ^½ Ω Σ^½``. Fitted to n samples the distance is too large
    by about the same for all encoders of one d, and by much for n < d.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.metrics import frechet
    >>> reference = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    >>> round(frechet(reference + 3, reference), 12), round(frechet(2 * reference, reference), 12)
    (-18.0, -4.0)

    References
    ----------
    Dowson & Landau, 1982; Heusel et al., NeurIPS 2017 (arXiv 1706.08500).
    """
    return measure(_unlabelled(features, reference_features=reference_features)).value


def _unlabelled(features: Any, **inputs: Any) -> Embedding:
    """An embedding whose targets, which it must have, nobody looks at."""
    features = checks.features_matrix(features)
    return Embedding(features, targets=np.arange(int(features.shape[0])), **inputs)


def measure(embedding: Embedding) -> Measurement:
    """Minus the Fréchet distance of an embedding to its reference task; see `frechet`."""
    reference = _unlabelled(embedding.reference_features)
    n, m = embedding.n_samples, reference.n_samples
    (values, vectors), (squares, directions) = embedding.spectrum, reference.spectrum
    xp = arrays.namespace(values)
    step = embedding.total.mean - reference.total.mean
    deviations, factors = xp.sqrt(values / n), xp.sqrt(squares / m)
    crossed = deviations[:, None] * (vectors.T @ directions) * factors[None, :]
    shared = xp.linalg.svdvals(crossed)  # a fifth of the cost of the vectors, see `influence`
    # of both traces what is above rounding, so that equal sets are at distance 0
    spread = float(xp.sum(values)) / n + float(xp.sum(squares)) / m
    distance = float(step @ step) + spread - 2 * float(xp.sum(shared))

    def influence() -> Array:
        # derivatives: 2 (μ − ν) by the mean, I − T by the covariance, T the linear transport map
        rows = embedding.influence_features
        left, traces, _ = xp.linalg.svd(crossed, full_matrices=False)
        whitened = (rows / deviations[None, :]) @ left
        terms = xp.sum(whitened * whitened * traces[None, :], axis=1) - xp.sum(rows * rows, axis=1)
        terms = terms - 2 * (rows @ (vectors.T @ step))
        return terms - xp.mean(terms)

    warnings = embedding.shared_warnings()
    for side, size in (("samples", n), ("reference samples", m)):
        if size <= embedding.n_features:
            warnings.append(
                f"{size} {side} for {embedding.n_features} features: the distance is too large"
            )
    return Measurement(-max(distance, 0.0) + 0.0, influence, tuple(warnings))
