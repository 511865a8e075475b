"""LDA: how surely a shrunk linear discriminant assigns the samples to their classes.

The classification part of Gholami, Akbari, Wang, Kamranian & Zhang, "ETran: Energy-Based
Transferability Estimation", ICCV 2023.
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

#: The adaptive shrinkage never falls below this.
LEAST_SHRINKAGE = 1e-10
#: A value this close to 1 no longer distinguishes encoders.
SATURATION = 1e-9


@documented
def lda(features: ArrayLike, labels: ArrayLike, *, shrinkage: float | None = None) -> float:
    r"""Mean probability of the true class under a shrunk linear discriminant (in-sample).

    The within-class covariance ``S_w`` is shrunk to ``S = (1-λ) S_w + λ tr(S_w)/d I``; sample x has
    the score ``x S⁻¹ μ_cᵀ - ½ μ_c S⁻¹ μ_cᵀ + ln p_c`` for class c, and softmax over the classes
    makes probabilities of the scores.

    Parameters
    ----------
    shrinkage : float, optional
        λ in [0, 1]. By default the authors' adaptive ``max(exp(-5 σ), 1e-10)`` with σ the largest
        eigenvalue of ``S_w``: strong for features of small scale, next to none from σ = 4.6 on.

    Returns
    -------
    float
        In [0, 1]; higher is better.

    Raises
    ------
    InputError
        If shapes disagree, fewer than two classes occur, or the shrinkage is outside [0, 1].

    Notes
    -----
    Cost: the shared eigendecomposition, one pass of O(n d C), and where σ may be below 4.6 the
    eigenvalues of ``S_w``, O(d³). Directions without variance are left out. Samples are judged by
    the discriminant that was fitted to them: for d >= n even random labels reach 1, and the result
    says so; a larger `shrinkage` helps.

    Differences from public code: the authors' hands the non-symmetric ``S⁻¹S_b`` to a symmetric
    eigensolver. The vectors returned are orthonormal, so the scatter drops out of the scores and
    what remains is a softmax over distances to the class means (``S = I``), blind to classes that
    differ along directions of small variance. It also estimates σ by three power iterations, here
    it is exact.

    Examples
    --------
    >>> from transferscope.metrics import lda
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(200) % 2
    >>> features = rng.standard_normal((200, 2)) * [100, 0.1] + labels[:, None] * [0, 1]
    >>> lda(features, labels) > 0.99
    True

    References
    ----------
    Gholami et al., ICCV 2023 (arXiv 2308.02027); the shrinkage is that of Shao et al., ECCV 2022.
    """
    return measure(Embedding(features, labels), shrinkage=shrinkage).value


class _Discriminant(NamedTuple):
    """The fitted discriminant, in the eigenbasis of the total scatter (r directions).

    There ``S = √D (I - KᵀK) √D``: D is the total covariance shrunk, and K the class means in its
    units, so that only a C x C matrix is decomposed.
    """

    shrinkage: float
    root: Array  # (r,) √D
    leaning: Array  # (C, r) ``Uᵀ K`` with U the eigenvectors of ``K Kᵀ``
    excess: Array  # (C,) ``1 / (1 - ρ)``, ρ their eigenvalues

    def solve(self, vectors: Array) -> Array:
        """``S⁻¹`` times each row of `vectors` (m, r)."""
        scaled = vectors / self.root[None, :]
        along = (scaled @ self.leaning.T) * self.excess[None, :]
        return (scaled + along @ self.leaning) / self.root[None, :]


def measure(embedding: Embedding, shrinkage: float | None = None) -> Measurement:
    """Mean probability of the true class of an embedding; see `lda`."""
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise InputError(f"shrinkage must be between 0 and 1, got {shrinkage}.")
    fit = _fit(embedding, shrinkage)
    means, share = embedding.rotated_means, embedding.moments.counts / embedding.n_samples
    xp = arrays.namespace(means)
    weights = fit.solve(means)
    bias = xp.log(share) - xp.sum(means * weights, axis=1) / 2
    directions = embedding.spread.spectrum.vectors @ weights.T
    truth = []
    for part, features in embedding.matrix.chunks():
        centred = arrays.as_float64(features) - embedding.total.mean
        posterior = arrays.softmax(centred @ directions + bias[None, :])
        truth.append(xp.take_along_axis(posterior, embedding.labels[part][:, None], axis=1))
    value = float(xp.mean(xp.concat(truth)))

    warnings = embedding.shared_warnings()
    if embedding.n_features >= embedding.n_samples:
        warnings.append(
            f"d >= n ({embedding.n_features} features, {embedding.n_samples} samples): classes "
            "separate whatever the labels; set a larger shrinkage"
        )
    elif value > 1 - SATURATION:
        warnings.append("saturated at 1: encoders beyond this are tied; set a larger shrinkage")
    return Measurement(
        value, lambda: _influence(embedding, fit, means, weights, bias), tuple(warnings)
    )


def _fit(embedding: Embedding, shrinkage: float | None) -> _Discriminant:
    """Shrink the within-class covariance and decompose what the class means add to it."""
    n, means = embedding.n_samples, embedding.rotated_means
    spread = embedding.spread.spectrum.values / n
    xp = arrays.namespace(spread)
    weighted = means * xp.sqrt(embedding.moments.counts / n)[:, None]
    level = float(xp.sum(embedding.moments.within_squares)) / n / embedding.n_features
    if shrinkage is None:
        shrinkage = _adaptive_shrinkage(spread, weighted)
    tiny = float(xp.finfo(xp.float64).eps) * spread[0]
    shrunk = (1 - shrinkage) * spread + shrinkage * level
    root = xp.sqrt(xp.where(shrunk > tiny, shrunk, tiny))
    scaled = math.sqrt(1 - shrinkage) * weighted / root[None, :]
    explained, basis = xp.linalg.eigh(scaled @ scaled.T)
    # 1 - ρ is no surer than the rounding of the products that made the scatter
    rounding = 10 * float(xp.finfo(embedding.matrix.dtype).eps)
    left = 1 - explained
    return _Discriminant(
        shrinkage, root, basis.T @ scaled, 1 / xp.where(left > rounding, left, rounding)
    )


def _adaptive_shrinkage(spread: Array, weighted: Array) -> float:
    """``max(exp(-5 σ), 1e-10)``, σ the largest eigenvalue of the within-class covariance."""
    xp = arrays.namespace(spread)
    largest = float(xp.max(spread - xp.sum(weighted * weighted, axis=0)))  # a lower bound of σ
    if math.exp(-5 * largest) > LEAST_SHRINKAGE:
        within = (
            xp.eye(spread.shape[0], dtype=spread.dtype, device=arrays.device_of(spread)) * spread
        )
        largest = float(xp.max(xp.linalg.eigvalsh(within - weighted.T @ weighted)))
    return max(math.exp(-5 * max(largest, 0.0)), LEAST_SHRINKAGE)


def _influence(
    embedding: Embedding, fit: _Discriminant, means: Array, weights: Array, bias: Array
) -> Array:
    """A sample's own probability, and what its class mean, the scatter and its share do to others'.

    λ is taken as given.
    """
    rows, labels = embedding.influence_features, embedding.influence_labels
    xp = arrays.namespace(rows)
    share = embedding.moments.counts / embedding.n_samples
    posterior = arrays.softmax(rows @ weights.T + bias[None, :])
    own = xp.take_along_axis(posterior, labels[:, None], axis=1)
    # derivative of the probability of the truth in the score of each class, and its means
    slopes = own * (arrays.one_hot(labels, embedding.n_classes) - posterior)
    slope = xp.mean(slopes, axis=0)
    moment = (slopes.T @ rows) / rows.shape[0]
    by_mean = fit.solve(moment - slope[:, None] * means) / share[:, None]
    by_scatter = fit.solve(moment - slope[:, None] * means / 2)
    deviation = rows - xp.take(means, labels, axis=0)
    squares = xp.sum(deviation * deviation, axis=1) / embedding.n_features
    terms = (
        own[:, 0]
        + xp.sum(xp.take(by_mean, labels, axis=0) * deviation, axis=1)
        + xp.take(slope / share, labels)
        - (1 - fit.shrinkage) * xp.sum((deviation @ weights.T) * (deviation @ by_scatter.T), axis=1)
        - fit.shrinkage * xp.sum(weights * by_scatter) * squares
    )
    return terms - xp.mean(terms)


ABOUT = About(
    "mean probability of the true class under shrunk LDA", "0 to 1", "Gholami et al., ICCV 2023"
)
BEHAVIOUR = Behaviour(changes_with=("scale",), warns_of=("n < d",))
LDA = Metric("lda", measure, ABOUT, behaviour=BEHAVIOUR)
