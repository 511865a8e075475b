"""A linear head on frozen features: logistic regression over a grid of penalties, fast."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from transferscope.errors import InputError
from transferscope.numerics import arrays, checks
from transferscope.numerics.arrays import Array, ArrayLike, NumpyArray
from transferscope.numerics.minimise import minimise
from transferscope.numerics.sampling import stratified_rows
from transferscope.numerics.softmax_regression import log_probabilities, penalised_loss
from transferscope.results import ProbeResult

#: Inverse penalties tried (scikit-learn's C), for features of unit mean square.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
#: Share of the training samples on which the penalty is chosen.
VALIDATION = 0.2
#: Eigenvalues of the scatter below this share of the largest are directions without samples.
RANK = 1e-7
MAX_ITERATIONS = 300
#: Stop when a step lowers the loss by less than this.
VALUE_TOLERANCE = 1e-9
#: Stop when no derivative of the mean loss, in the scaled coordinates, is larger than this share
#: of the loss at the start (at most of one).
TOLERANCE = 3e-5


class LogisticFit(NamedTuple):
    """One fitted head: logits are ``features @ weight.T + bias``."""

    strength: float
    weight: Array
    bias: Array


def probe(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> ProbeResult:
    """Train a linear head on frozen features and measure it on others.

    A stratified fifth of the training samples chooses the penalty among `strengths`, by its
    cross-entropy; the head is then fitted to all of them.

    Parameters
    ----------
    train_features : array of shape (n_train, n_features)
        NumPy or torch, on any device. They are centred and divided by one number, the root of
        their mean square, so that a penalty means the same for every encoder.
    train_labels : array-like of shape (n_train,)
    test_features : array of shape (n_test, n_features)
    test_labels : array-like of shape (n_test,)
        Classes that do not occur in training count as missed.
    strengths : sequence of float
        Inverse penalties, scikit-learn's C.
    seed : int
        Of the fifth.

    Returns
    -------
    ProbeResult
        Its `value` is the accuracy on the test samples.

    Raises
    ------
    InputError
        If shapes disagree, a strength is not positive, or fewer than two classes occur.
    FeatureError
        If features are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.training import probe
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(90) % 3
    >>> features = 3 * np.eye(3)[labels] + rng.standard_normal((90, 3))
    >>> 0.6 < probe(features[:60], labels[:60], features[60:], labels[60:]).value <= 1
    True
    """
    started = time.perf_counter()
    train, ids, names = _checked(train_features, train_labels, "train_features")
    test = arrays.convert_like(checks.features_matrix(test_features, "test_features"), train)
    checks.finite(test, "test_features")
    if test.shape[1] != train.shape[1]:
        raise InputError(
            f"train and test features must have the same columns, got {train.shape[1]} and "
            f"{test.shape[1]}; both must come from the same encoder."
        )
    truth = arrays.to_numpy(arrays.as_array(test_labels))
    if truth.shape != (test.shape[0],):
        raise InputError(
            f"there must be one test label per row, got shape {truth.shape} for {test.shape[0]}."
        )
    strengths = tuple(sorted(set(strengths)))
    n = len(ids)
    chosen = np.zeros(n, dtype=bool)
    chosen[stratified_rows(ids, n, round(VALIDATION * n), seed)] = True
    if np.unique(ids[~chosen]).size < 2 or not chosen.any():
        raise InputError(
            f"a probe needs samples to choose its penalty on; {n} in {len(names)} classes are too "
            "few. Give more."
        )
    fits = fit_logistic(_rows(train, ~chosen), ids[~chosen], strengths)
    held_out, true = _rows(train, chosen), ids[chosen]
    classes = np.unique(ids[~chosen])
    logits = [_logits(fit, held_out) for fit in fits]
    losses = [_log_loss(each, np.searchsorted(classes, true)) for each in logits]
    # by loss: accuracies of a few hundred samples tie, and then say nothing
    best = int(np.argmin(losses))
    (fit,) = fit_logistic(train, ids, strengths[best : best + 1])
    return ProbeResult(
        value=float(np.mean(names[_logits(fit, test).argmax(axis=1)] == truth)),
        strength=strengths[best],
        strengths=strengths,
        validation=tuple(float(np.mean(classes[z.argmax(axis=1)] == true)) for z in logits),
        validation_loss=tuple(losses),
        n_train=int(n - chosen.sum()),
        n_validation=int(chosen.sum()),
        n_test=int(truth.size),
        seconds=time.perf_counter() - started,
    )


def fit_logistic(
    features: ArrayLike, labels: ArrayLike, strengths: Sequence[float]
) -> list[LogisticFit]:
    """Multinomial logistic regression for several penalties, each from the one before.

    Minimises ``C · Σ cross-entropy + ‖W‖² / 2`` with a free intercept, as scikit-learn does, on
    features that are centred and divided by the root of their mean square.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
    labels : array-like of shape (n_samples,)
    strengths : sequence of float
        C; fitted from the smallest on.

    Returns
    -------
    list of LogisticFit
        In ascending order of strength, each once; rows of ``weight`` are the classes that occur,
        sorted. They apply to the features as given, and live beside them.

    Raises
    ------
    InputError, FeatureError
        As `probe` does.

    Notes
    -----
    Full-batch L-BFGS in float32, in the eigenbasis of the scatter and with each direction scaled by
    its curvature at the start, ``sqrt(e h + 1 / (n C))`` with h the mean of ``p (1 - p)``: this
    takes tens of iterations where the raw coordinates take hundreds. From the third penalty on the
    start is the line through the two solutions before, as weights of separable classes grow with
    the logarithm of C. Cost: one eigendecomposition of size min(n, d), then
    O(n min(n, d) classes) per iteration.

    References
    ----------
    Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical
    Programming 45, 1989.
    """
    if not strengths or not all(0 < strength < math.inf for strength in strengths):
        raise InputError(f"strengths must be positive numbers, got {list(strengths)}.")
    given, ids, names = _checked(features, labels, "features")
    xp = arrays.namespace(given)
    rotated, back, mean = _rotate(given)
    n, truth = int(rotated.shape[0]), arrays.one_hot(arrays.from_numpy(ids, given), len(names))
    eigenvalues = arrays.as_float64(xp.mean(rotated * rotated, axis=0))
    before = theta = arrays.as_float64(
        xp.zeros((eigenvalues.shape[0] + 1, len(names)), device=arrays.device_of(given))
    )
    fits = []
    ordered = sorted(set(strengths))
    for k, strength in enumerate(ordered):
        start = theta
        if k > 1:
            ahead = math.log(strength / ordered[k - 1]) / math.log(ordered[k - 1] / ordered[k - 2])
            # the line is for the weights; biases start where the last fit ended
            ahead_of_weights = theta[:-1, :] + ahead * (theta[:-1, :] - before[:-1, :])
            start = xp.concat([ahead_of_weights, theta[-1:, :]])
        before, theta = (
            theta,
            _descend(rotated, truth, eigenvalues, theta, start, 1 / (n * strength)),
        )
        weight = (back @ xp.astype(theta[:-1, :], back.dtype)).T
        fits.append(
            LogisticFit(strength, weight, xp.astype(theta[-1, :], back.dtype) - weight @ mean)
        )
    return fits


def _rotate(features: Array) -> tuple[Array, Array, Array]:
    """Centred, scaled features in the eigenbasis of their scatter, the way back, and the mean."""
    xp = arrays.namespace(features)
    n, d = map(int, features.shape)
    mean = xp.sum(features, axis=0, dtype=xp.float64) / n
    centred = xp.astype(features - xp.astype(mean, features.dtype), xp.float32)
    size = math.sqrt(float(xp.sum(centred * centred, dtype=xp.float64)) / (n * d))
    if size == 0:
        raise InputError("features are all the same, so there is nothing to fit.")
    centred = centred / size
    values, vectors = xp.linalg.eigh(centred @ centred.T if n < d else centred.T @ centred)
    first = int(xp.sum(xp.astype(values <= RANK * values[-1], xp.int64)))  # values ascend
    basis = vectors[:, first:]
    if n < d:
        basis = centred.T @ (basis / xp.sqrt(values[first:]))
    return centred @ basis, basis / size, xp.astype(mean, xp.float32)


def _descend(
    rotated: Array,
    truth: Array,
    eigenvalues: Array,
    known: Array,
    start: Array,
    penalty: float,
) -> Array:
    """Weights and biases of one penalty, in units that the curvature at `known` gives."""
    xp = arrays.namespace(rotated)
    chances = xp.exp(log_probabilities(rotated, known[:-1, :], known[-1, :]))
    curvature = float(xp.mean(chances * (1 - chances)))
    scale = 1 / xp.sqrt(eigenvalues * curvature + penalty)
    free = xp.ones_like(scale[:1]) * math.sqrt(int(truth.shape[1]))
    share = truth / int(truth.shape[0])

    def loss(theta: Array) -> tuple[float, Array]:
        return penalised_loss(rotated, share, theta, penalty)

    return minimise(
        loss,
        start,
        unit=xp.concat([scale, free])[:, None],
        max_steps=MAX_ITERATIONS,
        value_tolerance=VALUE_TOLERANCE,
        gradient_tolerance=TOLERANCE * min(1.0, loss(start)[0]),
    ).point


def _checked(
    features: ArrayLike, labels: ArrayLike, name: str
) -> tuple[Array, NumpyArray, NumpyArray]:
    matrix = checks.features_matrix(features, name)
    checks.finite(matrix, name)
    ids, names = checks.class_labels(labels, int(matrix.shape[0]), matrix)
    return matrix, arrays.to_numpy(ids), names


def _rows(features: Array, mask: NumpyArray) -> Array:
    rows = arrays.from_numpy(np.flatnonzero(mask), features)
    return arrays.namespace(features).take(features, rows, axis=0)


def _logits(fit: LogisticFit, features: Array) -> NumpyArray:
    """One row per sample, one column per class that was fitted."""
    weight = arrays.namespace(features).astype(fit.weight, features.dtype)
    bias = arrays.namespace(features).astype(fit.bias, features.dtype)
    return arrays.to_numpy(features @ weight.T + bias)


def _log_loss(logits: NumpyArray, truth: NumpyArray) -> float:
    """Mean cross-entropy over the samples whose class was fitted."""
    logs = arrays.as_float64(logits) - logsumexp(logits, axis=1, keepdims=True)
    known = logs[np.arange(truth.size), np.minimum(truth, logs.shape[1] - 1)]
    return -float(np.mean(known))
