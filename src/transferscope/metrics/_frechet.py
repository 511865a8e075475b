"""Fréchet distance between Gaussians fitted to the features and to the reference task's features.

Dowson & Landau, "The Fréchet distance between multivariate normal distributions", Journal of
Multivariate Analysis 1982.
"""

from __future__ import annotations

import math

from transferscope.embedding import Embedding
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import EVERYTHING, About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike

#: Eigenvalues of a square serve where their rounding changes the sum of their roots by less.
EXACT = 1e-11


@documented
def frechet(features: ArrayLike, *, reference_features: ArrayLike) -> float:
    r"""Minus the squared Fréchet distance to the reference task, both taken for Gaussian.

    With means μ, ν and covariances Σ, Ω (divided by n) of features and reference features, minus

        ‖μ − ν‖² + tr Σ + tr Ω − 2 tr (Σ^½ Ω Σ^½)^½

    A measure of the domain gap: it looks at no label.

    Returns
    -------
    float
        At most 0, which equal moments have; higher is better. In squared units of the features, so
        comparable between encoders only where their features are.

    Raises
    ------
    InputError
        If the numbers of features differ.

    Notes
    -----
    Cost: a pass over either set, O(n d²), a Cholesky factor of either covariance (where one is
    singular its eigendecomposition) and the singular values of a d x d matrix, O(d³). The trace is
    the sum of the singular values of ``Ω^½ Σ^½``: no square root of a product that is not
    symmetric, no ridge, no imaginary parts to drop, and half of the digits more than from the
    eigenvalues of ``Σ^½ Ω Σ^½``, which serve where these digits do not count. Fitted to n samples
    the distance is too large by about the same for all encoders of one d, and by much for n < d.

    Examples
    --------
    >>> from transferscope.metrics import frechet
    >>> reference = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    >>> round(frechet(reference + 3, reference_features=reference), 12)
    -18.0

    References
    ----------
    Dowson & Landau, 1982; Heusel et al., NeurIPS 2017 (arXiv 1706.08500).
    """
    return measure(Embedding(features, reference_features=reference_features)).value


def measure(embedding: Embedding) -> Measurement:
    """Minus the Fréchet distance of an embedding to its reference task; see `frechet`."""
    reference = embedding.reference
    n, m = embedding.n_samples, reference.n_samples
    own, other = embedding.spread.root / math.sqrt(n), reference.spread.root / math.sqrt(m)
    xp = arrays.namespace(own)
    step = embedding.total.mean - reference.spread.total.mean
    crossed = own.T @ other
    # of both traces what is above rounding, so that equal sets are at distance 0
    spread = float(xp.sum(own * own)) + float(xp.sum(other * other))
    distance = float(step @ step) + spread - 2 * _nuclear_norm(crossed)

    def influence() -> Array:
        # derivatives: 2 (μ − ν) by the mean, I − T by the covariance, with the linear transport map
        # T = W (Wᵀ Σ W)^-½ Wᵀ, W a root of Ω
        squares, directions = xp.linalg.eigh(crossed.T @ crossed)
        rounding = float(squares[-1]) * int(squares.shape[0]) * float(xp.finfo(xp.float64).eps)
        shared = squares > rounding
        inverse = xp.where(shared, 1 / xp.sqrt(xp.where(shared, squares, 1.0)), 0.0)
        terms = embedding.project_influence(other @ directions) ** 2 @ inverse
        centred = (
            arrays.as_float64(embedding.matrix.take(embedding.influence_rows))
            - embedding.total.mean
        )
        terms = terms - xp.sum(centred * centred, axis=1) - 2 * (centred @ step)
        influence: Array = terms - xp.mean(terms)
        return influence

    warnings = embedding.shared_warnings()
    for side, size in (("samples", n), ("reference samples", m)):
        if size <= embedding.n_features:
            warnings.append(
                f"{size} {side} for {embedding.n_features} features: the distance is too large"
            )
    return Measurement(-max(distance, 0.0) + 0.0, influence, tuple(warnings))


def _nuclear_norm(matrix: Array) -> float:
    """Sum of the singular values.

    As roots of the eigenvalues of the square, for a third of the price, where what rounding of
    these can do to their sum is far below it; where it is not, as for steep spectra, directly.
    """
    xp = arrays.namespace(matrix)
    wide = matrix.shape[0] < matrix.shape[1]
    squares = xp.linalg.eigvalsh(matrix @ matrix.T if wide else matrix.T @ matrix)
    rounding = float(squares[-1]) * float(xp.finfo(xp.float64).eps)
    if float(squares[0]) > rounding:
        roots = xp.sqrt(squares)
        total = float(xp.sum(roots))
        if rounding * float(xp.sum(1 / roots)) < EXACT * total:
            return total
    return float(xp.sum(xp.linalg.svdvals(matrix)))


ABOUT = About("minus Fréchet distance to the reference task", "at most 0", "Dowson & Landau, 1982")
BEHAVIOUR = Behaviour(prefers_separable=False, changes_with=("scale",), warns_of=("n < d",))
FRECHET = Metric(
    "frechet",
    measure,
    ABOUT,
    tasks=EVERYTHING,
    needs=("reference_features",),
    needs_targets=False,
    from_moments=True,
    behaviour=BEHAVIOUR,
)
