"""The three parts of NCTI: how near features are to the neural collapse of a fine-tuned encoder.

Wang, Luo, Zheng, Huang & Baktashmotlagh, "How Far Pre-trained Models Are from Neural Collapse on
the Target Dataset Informs their Transferability", ICCV 2023.

All three look at one shrunk linear discriminant of the features' leading principal components. NCTI
itself scales each part over the encoders compared and adds them up, which is the ranking's work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from transferscope.embedding import Embedding, computed_once
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement, grouped_jackknife
from transferscope.metrics._metric import About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike

#: Principal components that the features are reduced to.
COMPONENTS = 64
#: Components among which those are found anew when samples are left out.
WIDER = 256
#: Of the components the leading ones, whose variances set the shrinkage.
LEADING = 32
LEAST_SHRINKAGE = 1e-10
#: A mean probability this close to 1 no longer distinguishes encoders.
SATURATION = 1e-9


@documented
def ncti_variability(features: ArrayLike, labels: ArrayLike) -> float:
    r"""Variability collapse within the classes: ``-ln Σ_c ‖P_c‖_* / √n``.

    P_c (n_c, C) holds the probabilities of the samples of class c under the discriminant of
    `ncti_nearest_center`, ``‖·‖_*`` is the nuclear norm (sum of the singular values).

    Returns
    -------
    float
        At least ``-ln C``; higher is better.

    Notes
    -----
    Cost: one pass, O(n d), to reduce the features to 64 dimensions, then O(n C min(n_c, C)).

    It is a part of NCTI and no score by itself: it is high when all samples of a class get the same
    probabilities, and higher still when those are unsure. Shuffled labels, which leave nothing but
    the class shares, usually beat a separable task.

    The authors' code takes the logarithm, accounts of the paper give the sum without; this follows
    the code, from which the published figures came. The divisor √n, which it has not, makes the
    value independent of the number of samples and is lost when parts are scaled.

    Examples
    --------
    >>> from transferscope.metrics import ncti_variability
    >>> labels = np.arange(80) % 4
    >>> collapsed = 9 * np.eye(4)[labels] + 0.1 * np.random.default_rng(0).standard_normal((80, 4))
    >>> round(ncti_variability(collapsed, labels), 6), round(-np.log(2), 6)
    (-0.693147, np.float64(-0.693147))

    References
    ----------
    Wang et al., ICCV 2023.
    """
    return measure_variability(Embedding(features, labels)).value


@documented
def ncti_geometry(features: ArrayLike, labels: ArrayLike) -> float:
    r"""Closeness to the geometry of neural collapse (SELI): ``‖Z‖_* / √n``.

    Z (n, min(C-1, 64)) holds the centred features in the directions of the discriminant of
    `ncti_nearest_center`, scaled to unit (shrunk) variance within the classes; ``‖·‖_*`` is the
    nuclear norm. Without shrinkage it is the sum of ``√(1 + θ)`` over the ratios θ of variance
    between to variance within the classes.

    Returns
    -------
    float
        Positive, unbounded; higher is better. Grows with the number of directions in which the
        classes differ and with how far they do.

    Notes
    -----
    Cost: the shared eigendecomposition of the moments; the rest is that of 64 x 64 matrices.

    Where variances are small enough for shrinkage, it is applied to the variance between the
    classes as well, as in scikit-learn, on which the authors' code rests. The divisor √n, which
    that has not, makes the value independent of the number of samples and is lost when parts are
    scaled.

    Examples
    --------
    >>> from transferscope.metrics import ncti_geometry
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(200) % 4
    >>> separable = 5 * np.eye(4)[labels] + rng.standard_normal((200, 4))
    >>> ncti_geometry(separable, labels) > ncti_geometry(separable, rng.permutation(labels))
    True

    References
    ----------
    Wang et al., ICCV 2023; the geometry: Thrampoulidis et al., NeurIPS 2022 (arXiv 2208.05512).
    """
    return measure_geometry(Embedding(features, labels)).value


@documented
def ncti_nearest_center(features: ArrayLike, labels: ArrayLike) -> float:
    r"""Optimality of the nearest class centre: mean probability of the true class (in-sample).

    The features are reduced to their 64 leading principal components. With the covariance within
    the classes shrunk to ``S = (1-λ) S_w + λ tr(S_w)/p I``, ``λ = max(exp(-v), 1e-10)`` and v the
    variance of the first 32 components, the probability of class c is the softmax of
    ``-½ (x - μ_c) S⁻¹ (x - μ_c)ᵀ + ln p_c``.

    Returns
    -------
    float
        In [0, 1]; higher is better.

    Notes
    -----
    Cost: one pass, O(n d), to reduce the features to 64 dimensions, then O(n C).

    λ depends on the scale of the features. Variances are divided by n throughout; the authors' code
    has n - 1 in v, which makes λ smaller by a factor ``exp(-v / (n - 1))``. With fewer than 64
    features all are taken (the authors' code fails), and with few samples no more components than
    n - C, so that ``S_w`` has full rank. Samples are judged by the discriminant that was fitted to
    them; the result says when it is saturated.

    Examples
    --------
    >>> from transferscope.metrics import ncti_nearest_center
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(200) % 2
    >>> features = rng.standard_normal((200, 2)) * [100, 0.1] + labels[:, None] * [0, 1]
    >>> ncti_nearest_center(features, labels) > 0.99
    True

    References
    ----------
    Wang et al., ICCV 2023.
    """
    return measure_nearest_center(Embedding(features, labels)).value


class _Discriminant(NamedTuple):
    """A shrunk linear discriminant of p components and C classes."""

    coefficients: Array  # (C, p)
    intercepts: Array  # (C,)
    scatter: Array  # (m, m) covariance of the m discriminant features


def measure_variability(embedding: Embedding) -> Measurement:
    """Variability collapse of an embedding; see `ncti_variability`."""
    return _of_samples(embedding, _variability)


def measure_nearest_center(embedding: Embedding) -> Measurement:
    """Mean probability of the true class of an embedding; see `ncti_nearest_center`."""
    return _of_samples(embedding, _nearest_center)


def measure_geometry(embedding: Embedding) -> Measurement:
    """Closeness to the geometry of collapse of an embedding; see `ncti_geometry`."""
    return Measurement(
        _geometry(_whole_fit(embedding)),
        lambda: _influence(embedding, _geometry, embedding.n_samples),
        tuple(_warnings(embedding)),
    )


Value = Callable[[_Discriminant, Array, Array, Array], float]


def _of_samples(embedding: Embedding, value: Value) -> Measurement:
    """A part that looks at the samples' probabilities under the discriminant of all."""
    fit, rows = _whole_fit(embedding), _components(embedding)
    weights = arrays.namespace(rows).ones_like(rows[:, 0]) / embedding.n_kept
    warnings = _warnings(embedding)
    measured = value(fit, rows, embedding.labels, weights)
    if value is _nearest_center and measured > 1 - SATURATION:
        warnings.append("saturated at 1: encoders beyond this are tied")
    return Measurement(
        measured, lambda: _influence(embedding, value, embedding.n_kept), tuple(warnings)
    )


def _n_components(embedding: Embedding) -> int:
    """At most 64, and so few that the covariance within the classes has full rank."""
    rank = int(embedding.spread.spectrum.values.shape[0])
    return min(COMPONENTS, rank, max(1, embedding.n_samples - embedding.n_classes))


def _warnings(embedding: Embedding) -> list[str]:
    warnings = embedding.shared_warnings()
    p = _n_components(embedding)
    if p < min(COMPONENTS, int(embedding.spread.spectrum.values.shape[0])):
        warnings.append(
            f"few samples: {embedding.n_samples} in {embedding.n_classes} classes determine no "
            f"more than {p} components, and these separate whatever the labels"
        )
    return warnings


@computed_once
def _components(embedding: Embedding) -> Array:
    """Leading principal components of the kept samples, (n_kept, p) float64."""
    axes, mean = (
        embedding.spread.spectrum.vectors[:, : _n_components(embedding)],
        embedding.total.mean,
    )
    parts = [(arrays.as_float64(part) - mean) @ axes for _, part in embedding.matrix.chunks()]
    return arrays.namespace(mean).concat(parts)


@computed_once
def _whole_fit(embedding: Embedding) -> _Discriminant:
    """The discriminant of all samples, from their moments."""
    p, n = _n_components(embedding), embedding.n_samples
    variances = embedding.spread.spectrum.values[:p] / n
    total = _identity(variances) * variances
    means = embedding.rotated_means[:, :p]
    return _fit(embedding, total, means, embedding.moments.counts / n)


def _fit(embedding: Embedding, total: Array, means: Array, shares: Array) -> _Discriminant:
    """From the covariance of all samples, the class means about theirs, and the class shares."""
    xp = arrays.namespace(total)
    p, identity = int(total.shape[0]), _identity(total[0, :])
    variances = xp.linalg.diagonal(total)
    shrinkage = max(math.exp(-float(xp.sum(variances[: min(LEADING, p)]))), LEAST_SHRINKAGE)

    def shrunk(covariance: Array) -> Array:
        mean_variance = shrinkage * xp.linalg.trace(covariance) / p
        mixed: Array = (1 - shrinkage) * covariance + identity * mean_variance
        return mixed

    between = (means * shares[:, None]).T @ means
    within, axes = xp.linalg.eigh(shrunk(total - between))
    # no variance is surer than the rounding of the products that made the scatter
    rounding = 10 * float(xp.finfo(embedding.matrix.dtype).eps) * float(xp.max(variances))
    rounding = rounding or 1.0  # nothing varies without the samples that are left out
    whitening = axes / xp.sqrt(xp.where(within > rounding, within, rounding))
    m = min(embedding.n_classes - 1, p)
    directions = (
        whitening @ xp.linalg.eigh(whitening.T @ shrunk(between) @ whitening)[1][:, p - m :]
    )
    coefficients = (means @ whitening) @ whitening.T
    present = shares > 0
    logs = xp.where(present, xp.log(xp.where(present, shares, 1.0)), -xp.inf)
    intercepts = logs - xp.sum(means * coefficients, axis=1) / 2
    return _Discriminant(coefficients, intercepts, directions.T @ total @ directions)


def _identity(like: Array) -> Array:
    """The identity of as many dimensions as `like` (p,) has entries."""
    xp = arrays.namespace(like)
    return xp.eye(like.shape[0], dtype=like.dtype, device=arrays.device_of(like))


def _geometry(fit: _Discriminant, *_samples: Array) -> float:
    xp = arrays.namespace(fit.scatter)
    variances = xp.linalg.eigvalsh(fit.scatter)
    return float(xp.sum(xp.sqrt(xp.where(variances > 0, variances, 0.0))))


def _nearest_center(fit: _Discriminant, rows: Array, labels: Array, weights: Array) -> float:
    classes = _probabilities(fit, rows, labels, weights)
    return sum(float(weight @ probabilities[:, c]) for c, weight, probabilities in classes)


def _variability(fit: _Discriminant, rows: Array, labels: Array, weights: Array) -> float:
    xp = arrays.namespace(rows)
    norms = [
        float(xp.sum(xp.linalg.svdvals(xp.sqrt(weight)[:, None] * probabilities)))
        for _, weight, probabilities in _probabilities(fit, rows, labels, weights)
    ]
    return -math.log(sum(norms))


def _probabilities(
    fit: _Discriminant, rows: Array, labels: Array, weights: Array
) -> Iterator[tuple[int, Array, Array]]:
    """Per class its id, its samples' weights and their probabilities of every class (n_c, C)."""
    xp, ids = arrays.namespace(rows), arrays.to_numpy(labels)
    bounds = np.cumsum(np.bincount(ids, minlength=int(fit.intercepts.shape[0])))[:-1]
    for c, members in enumerate(np.split(np.argsort(ids, kind="stable"), bounds)):
        if not members.size:
            continue
        chosen = arrays.from_numpy(members, rows)
        logits = xp.take(rows, chosen, axis=0) @ fit.coefficients.T + fit.intercepts[None, :]
        yield c, xp.take(weights, chosen), arrays.softmax(logits)


def _influence(embedding: Embedding, value: Value, n_samples: int) -> Array:
    """A jackknife of the samples that have influences, their principal components included.

    These are found anew among the `WIDER` leading ones of all samples. `n_samples` says how many
    samples the value rests on.
    """
    chosen, labels = embedding.influence_rows, embedding.influence_labels
    rank, p = int(embedding.spread.spectrum.values.shape[0]), _n_components(embedding)
    rows = embedding.influence_features[:, : min(WIDER, rank)]
    xp = arrays.namespace(rows)

    def evaluate(weights: Array) -> float:
        weights = xp.take(weights, chosen)
        weights = weights / xp.sum(weights)
        centred = rows - weights @ rows
        axes = xp.linalg.eigh(centred.T @ (weights[:, None] * centred))[1]
        centred = centred @ xp.flip(axes, axis=1)[:, :p]
        weighted = weights[:, None] * centred
        shares = arrays.class_sums(weights[:, None], labels, embedding.n_classes)
        sums = arrays.class_sums(weighted, labels, embedding.n_classes)
        means = sums / xp.where(shares > 0, shares, 1.0)
        fit = _fit(embedding, centred.T @ weighted, means, shares[:, 0])
        return value(fit, centred, labels, weights)

    scale = math.sqrt(int(chosen.shape[0]) / n_samples)
    return grouped_jackknife(embedding, evaluate) * scale


NCTI_VARIABILITY_ABOUT = About(
    "collapse of the classes' variability (part of ncti)",
    "at least -ln C",
    "Wang et al., ICCV 2023",
)
NCTI_VARIABILITY_BEHAVIOUR = Behaviour(
    prefers_separable=False, changes_with=("scale",), warns_of=("n < d",)
)
NCTI_VARIABILITY = Metric(
    "ncti_variability",
    measure_variability,
    NCTI_VARIABILITY_ABOUT,
    behaviour=NCTI_VARIABILITY_BEHAVIOUR,
)


NCTI_GEOMETRY_ABOUT = About(
    "closeness to the geometry of collapse (part of ncti)", "positive", "Wang et al., ICCV 2023"
)
SCALED = Behaviour(changes_with=("scale",), warns_of=("n < d",))
NCTI_GEOMETRY = Metric(
    "ncti_geometry", measure_geometry, NCTI_GEOMETRY_ABOUT, from_moments=True, behaviour=SCALED
)


NCTI_NEAREST_CENTER_ABOUT = About(
    "optimality of the nearest class centre (part of ncti)", "0 to 1", "Wang et al., ICCV 2023"
)
NCTI_NEAREST_CENTER = Metric(
    "ncti_nearest_center", measure_nearest_center, NCTI_NEAREST_CENTER_ABOUT, behaviour=SCALED
)
