"""TransRate: how much shorter the code of the features gets when the classes are known.

Huang, Huang, Li, Yu & Wu, "Frustratingly Easy Transferability Estimation", ICML 2022.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike, NumpyArray

Weighting = Literal["samples", "classes"]


@documented
def transrate(
    features: ArrayLike, labels: ArrayLike, *, weighting: Weighting = "samples", eps: float = 1e-4
) -> float:
    r"""TransRate: coding rate of all features less that of each class.

    With features Z, centred once by the mean of all samples, and Z_c those of class c:

        R(Z) - Σ_c w_c R(Z_c),    R(Z) = ½ ln det(I + ZᵀZ / (n ε))

    Parameters
    ----------
    weighting : {"samples", "classes"}
        w_c = n_c/n, the formula of the paper, or w_c = 1/C, the paper's listing and public code.
    eps : float
        Distortion ε of the code, in the unit of a variance.

    Returns
    -------
    float
        In nats; at least 0 with ``weighting="samples"``; higher is better.

    Raises
    ------
    InputError
        If shapes disagree, fewer than two classes occur, the weighting is unknown, or eps is not
        positive.

    Notes
    -----
    Cost: O(Σ_c n_c d min(n_c, d)), besides the shared moments: of a class with fewer samples than
    features the n_c x n_c kernel is taken, which has the same determinant.

    The rate of a class of fewer samples than features grows with its number of samples, so values
    compare only between encoders on the same samples. When features were kept for a sample only,
    the value is the one of that sample. It depends on the scale of the features (through ε).

    Classes are centred by the mean of all samples, not by their own, as in the paper and in public
    code. The two weightings differ much: 25.9 by samples and 47.6 by classes on one of our cases.

    Examples
    --------
    >>> from transferscope.metrics import transrate
    >>> round(transrate(np.array([[-1.0], [-1.0], [1.0], [1.0]]), [0, 1, 0, 1]), 12)
    0.0

    References
    ----------
    Huang et al., ICML 2022 (arXiv 2106.09362).
    """
    return measure(Embedding(features, labels), weighting=weighting, eps=eps).value


def measure(
    embedding: Embedding, weighting: Weighting = "samples", eps: float = 1e-4
) -> Measurement:
    """TransRate of an embedding; see `transrate`."""
    if weighting not in ("samples", "classes"):
        raise InputError(f"weighting must be 'samples' or 'classes', got {weighting!r}.")
    if not (eps > 0 and math.isfinite(eps)):
        raise InputError(f"eps must be positive and finite, got {eps}.")
    if embedding.n_kept < embedding.n_samples:
        return _of_kept(embedding, weighting, eps)
    total, counts, n = embedding.total, embedding.moments.counts, embedding.n_samples
    xp = arrays.namespace(counts)
    rates = xp.stack(
        [_half_log_det(gram, 1 / (m.size * eps)) for m, _, gram in _class_grams(embedding)]
    )
    by_samples = weighting == "samples"
    weights = counts / n if by_samples else xp.ones_like(counts) / embedding.n_classes
    value = float(_half_log_det(total.scatter, 1 / (n * eps)) - weights @ rates)

    warnings = embedding.shared_warnings()
    if embedding.n_features >= n:
        warnings.append(
            f"d >= n ({embedding.n_features} features, {n} samples): the value reflects the class "
            "sizes more than the features"
        )
    variance = float(xp.max(total.squares)) / n
    if variance * float(xp.finfo(embedding.matrix.dtype).eps) * embedding.n_features > eps:
        warnings.append(
            f"variances reach {variance:.3g}, whose rounding in {embedding.matrix.dtype} is not "
            "small compared with eps: pass float64 or scale the features down"
        )
    return Measurement(
        value,
        lambda: _influence(embedding, rates, weights, eps, by_samples=by_samples),
        tuple(warnings),
    )


def _of_kept(embedding: Embedding, weighting: Weighting, eps: float) -> Measurement:
    """TransRate of the samples whose features were kept."""
    kept = Embedding(embedding.features, embedding.labels, seed=embedding.seed)
    measured = measure(kept, weighting, eps)
    # the error is that of the smaller number of samples
    scale = math.sqrt(embedding.n_samples / embedding.n_kept)
    stated = f"measured on a stratified sample of {embedding.n_kept} of {embedding.n_samples}"
    return dataclasses.replace(
        measured,
        influence=lambda: measured.influence() * scale,
        warnings=(stated, *measured.warnings),
    )


def _half_log_det(gram: Array, factor: float) -> Array:
    """``½ ln det(I + factor * gram)``."""
    xp = arrays.namespace(gram)
    rate: Array = xp.linalg.slogdet(_shifted(gram, factor))[1] / 2
    return rate


def _shifted(gram: Array, factor: float) -> Array:
    """``I + factor * gram``."""
    xp = arrays.namespace(gram)
    identity = xp.eye(gram.shape[0], dtype=gram.dtype, device=arrays.device_of(gram))
    return identity + factor * gram


def _class_grams(embedding: Embedding) -> Iterator[tuple[NumpyArray, Array | None, Array]]:
    """Per class its rows (ascending), its centred features and its Gram matrix in float64.

    The smaller of the two: where n_c < d the kernel (n_c, n_c), with the features (n_c, d); else
    the scatter (d, d), with None.
    """
    labels = arrays.to_numpy(embedding.labels)
    xp = arrays.namespace(embedding.moments.means)
    bounds = np.cumsum(np.bincount(labels, minlength=embedding.n_classes))[:-1]
    for members in np.split(np.argsort(labels, kind="stable"), bounds):
        if members.size < embedding.n_features:
            block = _centred(embedding, members)
            yield members, block, arrays.as_float64(block @ block.T)
            continue
        step = arrays.chunk_rows(embedding.moments.means)
        scatter: Array | float = 0.0
        for start in range(0, members.size, step):
            block = _centred(embedding, members[start : start + step])
            scatter = scatter + arrays.as_float64(block.T @ block)
        yield members, None, xp.asarray(scatter)


def _centred(embedding: Embedding, rows: NumpyArray) -> Array:
    """Features of the given rows about the mean of all, in their own dtype."""
    mean = embedding.total.mean
    features = arrays.as_float64(embedding.matrix.take(arrays.from_numpy(rows, mean)))
    return arrays.namespace(mean).astype(features - mean, embedding.matrix.dtype)


def _influence(
    embedding: Embedding, rates: Array, weights: Array, eps: float, *, by_samples: bool
) -> Array:
    """What leaving a sample out changes in every rate, in closed form.

    The infinitesimal form would not do: in a class of fewer samples than features every sample adds
    a dimension. With ``M = I + ZᵀZ / ((n-1) ε)`` of n samples, leaving out z gives
    ``ln det M + ln(1 - zᵀM⁻¹z / ((n-1) ε))``; the last bracket is, in a kernel, the diagonal of the
    inverse.
    """
    n, mean = embedding.n_samples, embedding.total.mean
    xp = arrays.namespace(rates)
    chosen = arrays.to_numpy(embedding.influence_rows)
    drift, order, changes = xp.zeros_like(mean), [], []
    for c, (members, block, gram) in enumerate(_class_grams(embedding)):
        n_c = members.size
        picked = np.flatnonzero(np.isin(members, chosen, assume_unique=True))
        offset = embedding.moments.means[c, :] - mean
        factor = 1 / (max(n_c - 1, 1) * eps)
        matrix = _shifted(gram, factor)
        if block is not None:
            left = xp.take(
                xp.linalg.diagonal(xp.linalg.inv(matrix)), arrays.from_numpy(picked, rates)
            )
            pulled = xp.linalg.solve(_shifted(gram, 1 / (n_c * eps)), xp.ones_like(gram[:, :1]))
            pull = xp.sum(arrays.as_float64(block) * pulled, axis=0) / (n_c * eps)
        else:
            own = arrays.as_float64(_centred(embedding, members[picked]))
            left = _left_out(own, matrix, factor)
            pull = xp.linalg.solve(_shifted(gram, 1 / (n_c * eps)), offset[:, None])[:, 0] / eps
        drift = drift + weights[c] * pull
        rate_without = xp.linalg.slogdet(matrix)[1] / 2 + _log(left) / 2
        change = weights[c] * (n / n_c) * (n_c - 1) * (rates[c] - rate_without)
        order.append(members[picked])
        changes.append(change + rates[c] if by_samples else change)
    back = arrays.from_numpy(np.argsort(np.concatenate(order)), rates)
    of_classes = xp.take(xp.concat(changes), back)

    centred = arrays.as_float64(_centred(embedding, chosen))
    factor = 1 / ((n - 1) * eps)
    centred_inside = embedding.total.inside(centred)
    left = _left_out(centred_inside, _shifted(embedding.total.scatter, factor), factor)
    terms: Array = -(n - 1) * _log(left) / 2 - of_classes + centred @ drift
    return terms - xp.mean(terms)


def _left_out(rows: Array, matrix: Array, factor: float) -> Array:
    """``1 - factor z M⁻¹ zᵀ`` of each row z, which is positive."""
    xp = arrays.namespace(rows)
    left: Array = 1 - factor * xp.sum((rows @ xp.linalg.inv(matrix)) * rows, axis=1)
    return left


def _log(left: Array) -> Array:
    """Logarithm of what rounding may have made zero."""
    xp = arrays.namespace(left)
    tiny = float(xp.finfo(xp.float64).eps)
    return xp.log(xp.where(left > tiny, left, tiny))


ABOUT = About("coding rate that knowing the classes saves", "0 or more", "Huang et al., ICML 2022")
BEHAVIOUR = Behaviour(changes_with=("scale",), warns_of=("n < d",))
TRANSRATE = Metric("transrate", measure, ABOUT, behaviour=BEHAVIOUR)
