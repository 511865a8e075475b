"""A linear head on frozen features: logistic regression over a grid of penalties, fast."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from transferscope.errors import InputError, require
from transferscope.numerics import arrays, checks
from transferscope.numerics.arrays import Array
from transferscope.numerics.sampling import stratified_rows
from transferscope.results import ProbeResult

if TYPE_CHECKING:
    from torch import Tensor

#: Inverse penalties tried (scikit-learn's C), for features of unit mean square.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
#: Share of the training samples on which the penalty is chosen.
VALIDATION = 0.2
#: Eigenvalues of the scatter below this share of the largest are directions without samples.
RANK = 1e-7
MAX_ITERATIONS = 300
#: Stop when no derivative of the mean loss, in the scaled coordinates, is larger than this share
#: of the loss at the start (at most of one).
TOLERANCE = 3e-5


class LogisticFit(NamedTuple):
    """One fitted head: logits are ``features @ weight.T + bias``."""

    strength: float
    weight: Array
    bias: Array


def probe(
    train_features: Any,
    train_labels: Any,
    test_features: Any,
    test_labels: Any,
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


def fit_logistic(features: Any, labels: Any, strengths: Sequence[float]) -> list[LogisticFit]:
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
    torch = require("torch", extra="vision", purpose="train a probe")
    like = given if arrays.is_torch(given) else torch.from_numpy(np.array(given))
    rotated, back, mean = _rotate(like)
    n = rotated.shape[0]
    truth = torch.from_numpy(np.ascontiguousarray(ids)).to(rotated.device)
    eigenvalues = rotated.square().mean(dim=0)
    before = weight = torch.zeros((rotated.shape[1], len(names)), device=rotated.device)
    bias = torch.zeros(len(names), device=rotated.device)
    fits = []
    ordered = sorted(set(strengths))
    for k, strength in enumerate(ordered):
        penalty = 1 / (n * strength)
        chances = torch.addmm(bias, rotated, weight).softmax(dim=1)
        scale = (eigenvalues * (chances * (1 - chances)).mean() + penalty).rsqrt()[:, None]
        start = weight
        if k > 1:
            ahead = math.log(strength / ordered[k - 1]) / math.log(ordered[k - 1] / ordered[k - 2])
            start = weight + ahead * (weight - before)
        before = weight
        weight, bias = _descend(rotated, truth, start, bias, penalty, scale)
        full = (back @ weight).T
        shifted = bias - full @ mean
        as_given = (full, shifted) if arrays.is_torch(given) else (full.numpy(), shifted.numpy())
        fits.append(LogisticFit(strength, *as_given))
    return fits


def _rotate(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centred, scaled features in the eigenbasis of their scatter, the way back, and the mean."""
    import torch

    mean = features.mean(dim=0, dtype=torch.float64)
    centred = (features - mean.to(features.dtype)).float()
    n, d = centred.shape
    size = float(centred.square().mean(dtype=torch.float64).sqrt())
    if size == 0:
        raise InputError("features are all the same, so there is nothing to fit.")
    centred /= size
    if n < d:
        values, left = torch.linalg.eigh(centred @ centred.T)
        kept = values > RANK * values[-1]
        basis = centred.T @ (left[:, kept] / values[kept].sqrt())
    else:
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        basis = vectors[:, values > RANK * values[-1]]
    return centred @ basis, basis / size, mean.float()


def _descend(
    rotated: Tensor, truth: Tensor, weight: Tensor, bias: Tensor, penalty: float, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Minimise from (weight, bias) in coordinates of which one unit stands for `scale` (r, 1)."""
    import torch

    n, n_classes = rotated.shape[0], bias.shape[0]
    inputs = rotated * scale.T
    shrink = penalty * scale.square()
    free = n_classes**0.5
    rows = torch.arange(n, device=truth.device)
    point = torch.cat([weight / scale, bias[None] / free]).requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [point],
        max_iter=MAX_ITERATIONS,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> float:
        w, b = point[:-1], point[-1] * free
        logits = torch.addmm(b, inputs, w)
        logits -= logits.logsumexp(dim=1, keepdim=True)
        loss = -logits[rows, truth].mean(dtype=torch.float64)
        error = logits.exp_()
        error[rows, truth] -= 1
        error /= n
        point.grad = torch.cat([inputs.T @ error + shrink * w, free * error.sum(dim=0)[None]])
        return float(loss + 0.5 * (shrink * w.square()).sum(dtype=torch.float64))

    optimiser.param_groups[0]["tolerance_grad"] = TOLERANCE * min(1.0, closure())
    optimiser.step(closure)  # type: ignore[no-untyped-call]
    found = point.detach()
    return found[:-1] * scale, found[-1] * free


def _checked(
    features: Any, labels: Any, name: str
) -> tuple[Array, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    matrix = checks.features_matrix(features, name)
    checks.finite(matrix, name)
    ids, names = checks.class_labels(labels, int(matrix.shape[0]), matrix)
    return matrix, arrays.to_numpy(ids), names


def _rows(features: Array, mask: np.ndarray[Any, Any]) -> Array:
    if not arrays.is_torch(features):
        return features[mask]
    import torch

    return features[torch.from_numpy(mask).to(features.device)]


def _logits(fit: LogisticFit, features: Array) -> np.ndarray[Any, Any]:
    """One row per sample, one column per class that was fitted."""
    weight = arrays.namespace(features).astype(fit.weight, features.dtype)
    bias = arrays.namespace(features).astype(fit.bias, features.dtype)
    return arrays.to_numpy(features @ weight.T + bias)


def _log_loss(logits: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    """Mean cross-entropy over the samples whose class was fitted."""
    logs = arrays.as_float64(logits) - logsumexp(logits, axis=1, keepdims=True)
    known = logs[np.arange(truth.size), np.minimum(truth, logs.shape[1] - 1)]
    return -float(np.mean(known))
