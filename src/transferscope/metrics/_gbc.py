"""GBC: how much Gaussians, one per class, overlap in the feature space.

Pándy, Agostinelli, Uijlings, Ferrari & Mensink, "Transferability Estimation using Bhattacharyya
Class Separability", CVPR 2022.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike

#: Principal axes kept, as in the paper.
AXES = 64
#: A variance below this share of the largest principal variance counts as this much.
VARIANCE_FLOOR = 1e-12
#: Less overlap than this in all is none.
SATURATION = 1e-12

Covariance = Literal["diagonal", "spherical"]


@documented
def gbc(features: ArrayLike, labels: ArrayLike, *, covariance: Covariance = "diagonal") -> float:
    r"""Gaussian Bhattacharyya coefficient: minus the summed overlap of the classes.

    Features are projected onto their first 64 principal axes, and each class becomes a Gaussian
    with mean μ and, along each axis j, variance v. The score is ``-Σ_{a≠b} exp(-B_ab)`` over
    ordered pairs of classes, with the Bhattacharyya distance

        B_ab = ⅛ Σ_j (μ_aj - μ_bj)² / s_j + ½ Σ_j ln(s_j / √(v_aj v_bj)),  s = (v_a + v_b) / 2

    Parameters
    ----------
    covariance : {"diagonal", "spherical"}
        One variance per axis, or their mean for all axes (the sum over j still has a term per
        axis).

    Returns
    -------
    float
        In [-C (C - 1), 0]: 0 where no two classes overlap; higher is better.

    Raises
    ------
    InputError
        If shapes disagree, fewer than two classes occur, or the covariance is unknown.

    Notes
    -----
    Cost: the shared eigendecomposition, one pass of O(64 n d), and O(64 C²). Variances are divided
    by n_c. A class of one sample has no variance, so it overlaps with nothing: the result says how
    many there are.

    Some public code sums the logarithm of the spherical variance once instead of once per axis,
    which makes classes of unequal spread look closer than they are.

    Examples
    --------
    >>> from transferscope.metrics import gbc
    >>> features = np.array([[-1.0], [1.0], [3.0], [5.0]])
    >>> round(gbc(features, [0, 0, 1, 1]), 6)  # -2 exp(-16/8)
    -0.270671

    References
    ----------
    Pándy et al., CVPR 2022 (arXiv 2111.12780).
    """
    return measure(Embedding(features, labels), covariance=covariance).value


class _Gaussians(NamedTuple):
    """One Gaussian per class on the principal axes; a spherical one has a single variance."""

    means: Array  # (C, k) about the total mean
    variances: Array  # (C, k) or (C, 1)


def measure(embedding: Embedding, covariance: Covariance = "diagonal") -> Measurement:
    """Gaussian Bhattacharyya coefficient of an embedding; see `gbc`."""
    if covariance not in ("diagonal", "spherical"):
        raise InputError(f"covariance must be 'diagonal' or 'spherical', got {covariance!r}.")
    gaussians = _class_gaussians(embedding, covariance)
    xp = arrays.namespace(gaussians.means)
    overlaps = [xp.sum(_overlaps(gaussians, a)) for a in range(embedding.n_classes)]
    value = -float(xp.sum(xp.stack(overlaps)))
    warnings = embedding.shared_warnings()
    alone = int(xp.sum(xp.astype(embedding.moments.counts < 2, xp.int64)))
    if alone:
        warnings.append(f"{alone} classes of one sample have no spread and overlap with nothing")
    if value > -SATURATION:
        warnings.append("saturated: no two classes overlap, encoders beyond this are tied")
    return Measurement(value, lambda: _influence(embedding, gaussians), tuple(warnings))


def _class_gaussians(embedding: Embedding, covariance: Covariance) -> _Gaussians:
    """Means and variances of the classes on the principal axes, in one pass."""
    C, k = embedding.n_classes, min(AXES, int(embedding.spread.spectrum.values.shape[0]))
    vectors, dtype = embedding.spread.spectrum.vectors[:, :k], embedding.matrix.dtype
    xp = arrays.namespace(vectors)
    pivot, axes = xp.astype(embedding.total.mean, dtype), xp.astype(vectors, dtype)
    centres = xp.astype((embedding.moments.means - arrays.as_float64(pivot)) @ vectors, dtype)
    squares = xp.zeros((C, k), dtype=xp.float64, device=arrays.device_of(vectors))
    for part, features in embedding.matrix.chunks():
        labels = embedding.labels[part]
        deviation = (features - pivot) @ axes - xp.take(centres, labels, axis=0)
        squares = squares + arrays.as_float64(arrays.class_sums(deviation * deviation, labels, C))
    kept = arrays.class_counts(embedding.labels, C)
    variances = squares / xp.where(kept > 0, kept, 1.0)[:, None]
    if covariance == "spherical":
        variances = xp.mean(variances, axis=1, keepdims=True)
    floor = VARIANCE_FLOOR * float(embedding.spread.spectrum.values[0]) / embedding.n_samples
    return _Gaussians(embedding.rotated_means[:, :k], xp.where(variances > floor, variances, floor))


def _overlaps(gaussians: _Gaussians, a: int) -> Array:
    """``exp(-B)`` of class a with each class, 0 with itself: (C,)."""
    means, variances = gaussians
    xp = arrays.namespace(means)
    gaps = means - means[a, :][None, :]
    own = variances[a, :][None, :]
    middle = (own + variances) / 2
    axes_each = means.shape[1] / variances.shape[1]
    spread = xp.log(middle) - (xp.log(own) + xp.log(variances)) / 2
    distance = xp.sum(gaps * gaps / middle, axis=1) / 8 + axes_each * xp.sum(spread, axis=1) / 2
    others = xp.arange(means.shape[0], device=arrays.device_of(means)) != a
    return xp.where(others, xp.exp(-distance), 0.0)


def _slopes(gaussians: _Gaussians, a: int) -> tuple[Array, Array]:
    """Derivatives of the score in the mean and the variances of class a: (k,), (k,) or (1,)."""
    means, variances = gaussians
    xp = arrays.namespace(means)
    gaps = means - means[a, :][None, :]
    own = variances[a, :][None, :]
    middle = (own + variances) / 2
    overlaps = _overlaps(gaussians, a)
    # every pair counts twice in the score, as (a, b) and (b, a)
    by_mean = -(overlaps @ (gaps / middle)) / 2
    squares, axes_each = gaps * gaps, means.shape[1] / variances.shape[1]
    if axes_each > 1:
        squares = xp.sum(squares, axis=1, keepdims=True)
    in_variance = axes_each * (1 / middle - 1 / own) / 2 - squares / (8 * middle * middle)
    return by_mean, overlaps @ in_variance


def _influence(embedding: Embedding, gaussians: _Gaussians) -> Array:
    """What a sample does to the Gaussian of its class, and to the axes they are fitted along."""
    xp = arrays.namespace(gaussians.means)
    slopes = [_slopes(gaussians, a) for a in range(embedding.n_classes)]
    by_mean, by_variance = (xp.stack(column) for column in zip(*slopes, strict=True))
    k = int(by_mean.shape[1])
    by_variance = xp.broadcast_to(by_variance / (k / by_variance.shape[1]), (len(slopes), k))
    rows, labels = embedding.influence_features, embedding.influence_labels
    deviation = rows - xp.take(embedding.rotated_means, labels, axis=0)
    weights = embedding.n_samples / xp.take(embedding.moments.counts, labels)[:, None]
    squared = deviation[:, :k] ** 2 - xp.take(
        xp.broadcast_to(gaussians.variances, by_mean.shape), labels, axis=0
    )
    own = xp.take(by_mean, labels, axis=0) * deviation[:, :k]
    own = weights * (own + xp.take(by_variance, labels, axis=0) * squared)

    # A sample z turns axis j towards axis l by z_l z_j / (λ_j - λ_l). Where λ_j and λ_l are closer
    # than their own uncertainty the turn is bounded: it is damped by the variance of that angle.
    n, spread = embedding.n_samples, embedding.spread.spectrum.values / embedding.n_samples
    gap = spread[None, :k] - spread[:, None]
    noise = spread[None, :k] * spread[:, None] / n
    turn = gap / (gap * gap + noise)
    pull = weights * xp.take(by_variance, labels, axis=0) * deviation[:, :k]
    of_turn = embedding.rotated_means.T @ by_mean + 2 * (deviation.T @ pull) / rows.shape[0]
    terms = xp.sum(own + (rows @ (turn * of_turn)) * rows[:, :k], axis=1)
    return terms - xp.mean(terms)


ABOUT = About(
    "minus the overlap of one Gaussian per class", "-C (C - 1) to 0", "Pándy et al., CVPR 2022"
)
BEHAVIOUR = Behaviour(warns_of=("singleton class",))
GBC = Metric("gbc", measure, ABOUT, behaviour=BEHAVIOUR)
