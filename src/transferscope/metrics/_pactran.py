"""PACTran-Gaussian: a PAC-Bayesian bound on the loss of a linear classifier on the features.

Ding, Chen, Levinboim, Changpinyo & Soricut, "PACTran: PAC-Bayesian Metrics for Estimating the
Transferability of Pretrained Models to Classification Tasks", ECCV 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement, grouped_jackknife
from transferscope.metrics._metric import About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array
from transferscope.numerics.minimise import minimise
from transferscope.numerics.softmax_regression import log_probabilities, weighted_loss

#: Most steps of the optimiser, and of a try with a curvature of the softmax that may be far off.
MAX_STEPS, FIRST_STEPS = 1_000, 10
#: The curvature, a mean of p (1 - p), that the basis is first whitened for; the least there is.
TYPICAL_CURVATURE, LEAST_CURVATURE = 0.1, 1e-12


@documented
def pactran_gaussian(
    features: Any, labels: Any, *, penalty: float = 1.0, variance: float = 100.0
) -> float:
    r"""PACTran with Gaussian prior: loss of the best linear classifier, and how flat it is there.

    With ``L(W, b) = mean_i −ln softmax(W(x_i − x̄) + b)_{y_i} + ‖W‖²/(2λn)`` at its minimum, `p_ik`
    the probabilities there, K classes and the prior variance ``σ² = variance/d``, the score is

        −min L − K d σ² / (2λn) · ln(1 + λn/(K d) · Σ_i (‖x_i − x̄‖² + 1) Σ_k p_ik (1 − p_ik))

    Parameters
    ----------
    penalty : float
        λ: the penalty on the weights is 1/(2λn).
    variance : float
        σ² d. The second term, proportional to it, outweighs the first by far at the default.

    Returns
    -------
    float
        At most 0; higher is better.

    Raises
    ------
    InputError
        If shapes disagree, fewer than two classes occur, or an option is out of range.

    Notes
    -----
    Cost: the shared eigendecomposition; then some 30 to 150 passes of O(n d C), by L-BFGS in a
    basis that is whitened for the curvature met on the way. Memory for a chunk of samples and some
    thirty d x C matrices. Influences come from a jackknife, sixteen fits of ten to twenty passes:
    with d C parameters an influence function at the minimum gave errors up to three times too
    small.

    The start is W = 0, where the authors draw it at random and stop after 100 iterations: their
    values are within 6e-4 of the minimum's, relatively, on our cases.

    The logarithm holds λn times the *sum* of the curvatures over samples, as in the authors' code;
    the bound for the mean loss, which the first term is, has their mean there. We follow the code:
    where the logarithm's argument is large the two differ by ``K d σ²/(2λn) · ln n``, the same for
    all encoders on the same samples.

    Examples
    --------
    >>> from transferscope.metrics import pactran_gaussian
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(200) % 4
    >>> good = np.eye(4)[labels] + 0.3 * rng.standard_normal((200, 4))
    >>> pactran_gaussian(good, labels) > pactran_gaussian(good, rng.permutation(labels))
    True

    References
    ----------
    Ding et al., ECCV 2022 (arXiv 2203.05126).
    """
    return measure_gaussian(Embedding(features, labels), penalty, variance).value


@dataclass(frozen=True)
class _Minimum:
    """Weights (r, C) in the eigenbasis and below them biases (C,), and the penalised loss there.

    `curvature` is the mean of ``p (1 - p)`` over samples and classes, `bulge` that over the samples
    of ``(|x|² + 1) Σ_k p (1 - p)``.
    """

    weights: Array
    loss: float
    curvature: float
    bulge: float
    settled: bool


class _Classifier:
    """Softmax regression on an embedding, in the eigenbasis of its scatter."""

    def __init__(self, embedding: Embedding, penalty: float) -> None:
        self.embedding = embedding
        values, vectors = embedding.spread.spectrum
        xp = arrays.namespace(values)
        self.vectors = xp.astype(vectors, embedding.matrix.dtype, copy=False)
        self.variances = values / embedding.n_samples
        self.ridge = 1 / (penalty * embedding.n_samples)
        self.centre = xp.astype(embedding.total.mean, embedding.matrix.dtype)

    def walk(self, weights: Array) -> Iterator[tuple[slice, Array, Array]]:
        """Per chunk: its slice, its centred features, its log-probabilities in float64."""
        xp = arrays.namespace(weights)
        along = self.vectors @ xp.astype(weights[:-1, :], self.embedding.matrix.dtype)
        for part, features in self.embedding.matrix.chunks():
            centred = features - self.centre
            yield part, centred, log_probabilities(centred, along, weights[-1, :])

    def loss(self, weights: Array, share: Array) -> tuple[float, Array]:
        """Penalised loss and its gradient, each sample weighted by its share of 1."""
        total: Any = 0.0
        along: Any = 0.0
        bias: Any = 0.0
        xp = arrays.namespace(share)
        rotated = self.vectors @ xp.astype(weights[:-1, :], self.embedding.matrix.dtype)
        for part, features in self.embedding.matrix.chunks():
            labels, own = self.embedding.labels[part], share[part][:, None]
            true = arrays.one_hot(labels, self.embedding.n_classes) * own
            loss, by_weights, by_bias = weighted_loss(
                features - self.centre, true, own, rotated, weights[-1, :]
            )
            total, along, bias = total + loss, along + by_weights, bias + by_bias
        pulled = self.ridge * weights[:-1, :]
        total = total + xp.sum(pulled * weights[:-1, :]) / 2
        back = arrays.as_float64(self.vectors.T @ xp.astype(along, self.vectors.dtype))
        return float(total), xp.concat([back + pulled, bias[None, :]])

    def fit(self, share: Array, start: _Minimum | None = None) -> _Minimum:
        """Minimise the loss: from zero weights, or from a start for the jackknife, less exactly.

        Steps are taken in units in which the penalised Hessian is not far from the identity. It
        follows from the curvature, which falls by orders of magnitude where classes separate: a few
        steps find it, until it no longer falls.
        """
        # errors of the jackknife differ by less than 1 % from those of exact fits
        tolerance = 1e-8
        if start is None:
            tolerance = 1e-14 if "64" in str(self.embedding.matrix.dtype) else 1e-10
            xp = arrays.namespace(share)
            bias = xp.log(self.embedding.moments.counts)[None, :]
            zeros = xp.zeros_like(self.variances)[:, None] * bias
            weights = xp.concat([zeros, bias])
            start = _Minimum(weights, math.inf, TYPICAL_CURVATURE, math.inf, settled=False)
            found = self._descend(share, start, FIRST_STEPS, tolerance)
            while found.curvature < start.curvature / 2:
                start, found = found, self._descend(share, found, FIRST_STEPS, tolerance)
            start = found
        return self._descend(share, start, MAX_STEPS, tolerance)

    def _descend(self, share: Array, start: _Minimum, steps: int, tolerance: float) -> _Minimum:
        """L-BFGS from a start, in units that its curvature gives."""
        curvature = max(start.curvature, LEAST_CURVATURE)
        xp = arrays.namespace(share)
        hessian = curvature * self.variances + self.ridge
        unit = 1 / xp.sqrt(xp.concat([hessian, curvature * xp.ones_like(hessian[:1])]))[:, None]

        found = minimise(
            lambda weights: self.loss(weights, share),
            start.weights,
            unit=unit,
            max_steps=steps,
            value_tolerance=tolerance,
            gradient_tolerance=1e-8,
        )
        mean, bulge = self._curvature(found.point, share)
        return _Minimum(found.point, found.value, mean, bulge, found.settled)

    def _curvature(self, weights: Array, share: Array) -> tuple[float, float]:
        """`curvature` and `bulge` of a `_Minimum`."""
        mean = bulge = 0.0
        for part, centred, log_p in self.walk(weights):
            xp = arrays.namespace(log_p)
            p = xp.exp(log_p)
            # summed as p (1 - p), for 1 - Σ p² loses its digits where p is near 1
            own = share[part] * xp.sum(p * (1 - p), axis=1)
            mean += float(xp.sum(own)) / self.embedding.n_classes
            bulge += float(own @ (1 + arrays.as_float64(xp.sum(centred * centred, axis=1))))
        return mean, bulge


def measure_gaussian(
    embedding: Embedding, penalty: float = 1.0, variance: float = 100.0
) -> Measurement:
    """PACTran-Gaussian of an embedding; see `pactran_gaussian`."""
    if not 0 < penalty < math.inf or not 0 <= variance < math.inf:
        raise InputError(
            f"penalty must be positive and variance not negative, got {penalty} and {variance}."
        )
    model = _Classifier(embedding, penalty)
    n, d, n_classes = embedding.n_samples, embedding.n_features, embedding.n_classes
    weight = n_classes * variance / (2 * penalty * n)
    factor = penalty * n / (n_classes * d) * n

    def bound(at: _Minimum) -> float:
        return -at.loss - weight * math.log1p(factor * at.bulge)

    xp = arrays.namespace(embedding.labels)
    share = xp.ones_like(xp.astype(embedding.labels, xp.float64)) / embedding.n_kept
    best = model.fit(share)

    def without_group(kept: Array) -> float:
        return bound(model.fit(kept, best))

    warnings = embedding.shared_warnings()
    if not best.settled:
        warnings.append(f"the classifier had not converged after {MAX_STEPS} steps")
    if d >= n:
        warnings.append(
            f"d >= n ({d} features, {n} samples): any labels can be separated, "
            "the value says little"
        )
    return Measurement(
        bound(best), lambda: grouped_jackknife(embedding, without_group), tuple(warnings)
    )


ABOUT = About(
    "loss and flatness of the best linear classifier", "at most 0", "Ding et al., ECCV 2022"
)
BEHAVIOUR = Behaviour(
    changes_with=("duplicated rows", "scale"), warns_of=("n < d",), float32_tolerance=0.0001
)
PACTRAN_GAUSSIAN = Metric("pactran_gaussian", measure_gaussian, ABOUT, behaviour=BEHAVIOUR)
