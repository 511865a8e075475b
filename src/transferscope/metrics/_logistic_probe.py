"""Held-out accuracy of logistic regression on the features: the classic linear probe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array
from transferscope.numerics.minimise import minimise
from transferscope.numerics.sampling import by_class
from transferscope.numerics.softmax_regression import log_probabilities, penalised_loss

Mask = np.ndarray[Any, np.dtype[np.bool_]]

#: Inverse penalties tried (scikit-learn's C).
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
#: Shares of each class that are held out: to choose the penalty, and to be scored on.
VALIDATION, TEST = 0.15, 0.3
#: A fit ends after so many steps, or where a step lowers the mean loss by no more than this, or no
#: entry of its gradient is larger.
MAX_STEPS, VALUE_TOLERANCE, GRADIENT_TOLERANCE = 200, 1e-9, 1e-5


@documented
def logistic_probe(features: Any, labels: Any, *, seed: int = 0) -> float:
    """Accuracy on held-out samples of a logistic regression on standardised features.

    Of each class, 55 % of the samples are fitted, 15 % choose the L2 penalty among four, then both
    are fitted together, and the remaining 30 % are predicted.

    Parameters
    ----------
    seed : int
        Of the split and of the subsample, see Notes.

    Returns
    -------
    float
        Accuracy in [0, 1]; higher is better.

    Raises
    ------
    InputError
        If shapes disagree, fewer than two classes occur, or no class has two samples.

    Notes
    -----
    Cost: five fits by L-BFGS, O(m d C) per step, each from the one before. At most 5 000 samples
    take part: of more, a stratified, seeded subsample does, and the result says so. It also says
    when the last fit had not ended after 200 steps; five to a hundred are usual.

    Two classes have weights of their own each, like more; scikit-learn shares one vector between
    them, whose penalty at the same C is twice as heavy.

    A class of one sample is fitted and never scored. The split does not depend on the order of the
    samples: they are drawn in the order of their distance from the mean. The standard error is that
    of the held-out samples, given the split.

    Examples
    --------
    >>> from transferscope.metrics import logistic_probe
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> logistic_probe(np.eye(3)[labels] + 0.1 * rng.standard_normal((60, 3)), labels)
    1.0

    References
    ----------
    Alain & Bengio, "Understanding intermediate layers using linear classifier probes", 2016
    (arXiv 1610.01644).
    """
    return measure(Embedding(features, labels, seed=seed)).value


def measure(embedding: Embedding) -> Measurement:
    """Held-out accuracy of logistic regression on an embedding; see `logistic_probe`."""
    mean = embedding.total.mean  # refuses features that say nothing
    rows, n = embedding.influence_rows, embedding.n_samples
    labels, m = embedding.influence_labels, int(rows.shape[0])
    xp = arrays.namespace(mean)
    centred = arrays.as_float64(embedding.matrix.take(rows)) - mean
    by_distance = xp.argsort(xp.vecdot(centred, centred), stable=True)
    fitted, validation, test = _split(
        arrays.to_numpy(by_distance), arrays.to_numpy(labels), embedding.seed
    )
    if not test.any():
        raise InputError(
            "logistic_probe holds samples out of each class, but no class has two; "
            "use linear_probe, which leaves one out."
        )
    warnings = embedding.shared_warnings()
    if m < embedding.n_kept:
        warnings.append(f"{m} stratified samples stand for {embedding.n_kept}")

    task = _Task(xp.astype(centred, embedding.matrix.dtype), labels, embedding.n_classes)
    best = None  # the heaviest penalty where none can be chosen
    if validation.any():
        tried = task.fits(fitted, STRENGTHS)
        best = min(tried, key=lambda fit: task.loss(fit, validation))
    strength = STRENGTHS[0] if best is None else best.strength
    (final,) = task.fits(~test, [strength], start=best)
    if not final.settled:
        warnings.append(f"the classifier had not converged after {MAX_STEPS} steps")
    tested = arrays.from_numpy(test, rows)
    right = xp.astype(task.right(final) & tested, xp.float64)
    n_test = int(test.sum())
    value = float(xp.sum(right)) / n_test

    def influence() -> Array:
        # the mean is over the test samples alone: they hold the error of all
        return xp.where(tested, right - value, 0.0) * (math.sqrt(n * m) / n_test)

    return Measurement(value, influence, tuple(warnings))


def _split(
    by_distance: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], seed: int
) -> tuple[Mask, Mask, Mask]:
    """Masks of the samples to fit, to validate and to test, each class by its shares."""
    m = labels.size
    shuffled = by_distance[np.random.default_rng(seed).permutation(m)]
    test, validation = np.zeros(m, dtype=bool), np.zeros(m, dtype=bool)
    rows, place, size = by_class(labels, shuffled)
    n_test = np.where(size > 1, np.maximum(np.rint(TEST * size), 1), 0)
    test[rows[place < n_test]] = True
    validation[rows[(place >= n_test) & (place < n_test + np.rint(VALIDATION * size))]] = True
    return ~(test | validation), validation, test


class _Fit(NamedTuple):
    """Weights of the standardised features, below them the biases; log-probabilities of all."""

    strength: float
    weights: Array  # (d + 1, C)
    log_p: Array  # (m, C)
    settled: bool


class _Task:
    """Samples, some of which a logistic regression is fitted to and others scored by it."""

    def __init__(self, features: Array, labels: Array, n_classes: int) -> None:
        self.features, self.labels = features, labels
        self.truth = arrays.one_hot(labels, n_classes)

    def fits(
        self, known: Mask, strengths: Sequence[float], start: _Fit | None = None
    ) -> Iterator[_Fit]:
        """Fit to the known samples for one strength after another, each from the one before.

        Minimises the mean loss plus ``‖W‖² / (2 n strength)``.
        """
        xp = arrays.namespace(self.features)
        rows = arrays.from_numpy(np.flatnonzero(known), self.labels)
        given = arrays.as_float64(xp.take(self.features, rows, axis=0))
        mean = xp.mean(given, axis=0)
        spread = xp.sqrt(xp.mean((given - mean) ** 2, axis=0))
        varies = spread > 1e-12 * xp.max(spread)
        scale = xp.where(varies, 1 / xp.where(varies, spread, 1.0), 0.0)
        scaled = self.features - xp.astype(mean, self.features.dtype)
        scaled = scaled * xp.astype(scale, scaled.dtype)
        chosen, truth = xp.take(scaled, rows, axis=0), xp.take(self.truth, rows, axis=0)
        shape = (int(scaled.shape[1]) + 1, int(truth.shape[1]))
        weights = xp.zeros(shape, dtype=xp.float64, device=arrays.device_of(truth))
        if start is not None:
            weights = start.weights
        for strength in strengths:
            ridge = 1 / (int(truth.shape[0]) * strength)
            weights, settled = _minimum(chosen, truth, ridge, weights)
            yield _Fit(
                strength,
                weights,
                log_probabilities(scaled, weights[:-1, :], weights[-1, :]),
                settled,
            )

    def loss(self, fit: _Fit, asked: Mask) -> float:
        """Mean log loss of the samples asked for."""
        xp = arrays.namespace(self.truth)
        own = xp.sum(fit.log_p * self.truth, axis=1)
        return -float(xp.mean(own[arrays.from_numpy(asked, own)]))

    def right(self, fit: _Fit) -> Array:
        """Which samples are predicted right."""
        right: Array = arrays.namespace(self.labels).argmax(fit.log_p, axis=1) == self.labels
        return right


def _minimum(features: Array, truth: Array, ridge: float, start: Array) -> tuple[Array, bool]:
    """Weights and biases of least mean loss plus ``ridge/2 ‖W‖²``, and whether they are found."""
    n, n_classes = map(int, truth.shape)
    # one over the root of the curvature where all classes are alike
    unit = 1 / math.sqrt((1 - 1 / n_classes) / n_classes + ridge)

    share = truth / n

    def loss(weights: Array) -> tuple[float, Array]:
        return penalised_loss(features, share, weights, ridge)

    found = minimise(
        loss,
        start,
        unit=unit,
        max_steps=MAX_STEPS,
        value_tolerance=VALUE_TOLERANCE,
        gradient_tolerance=GRADIENT_TOLERANCE,
    )
    return found.point, found.settled


ABOUT = About("held-out accuracy of logistic regression", "0 to 1", "Alain & Bengio, 2016")
BEHAVIOUR = Behaviour(changes_with=("duplicated rows", "rotation"))
LOGISTIC_PROBE = Metric("logistic_probe", measure, ABOUT, behaviour=BEHAVIOUR)
