"""Linear softmax heads: trained on features, steep or kept flat by a gradient penalty."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.special

from transferscope import arrays
from transferscope.arrays import Array

Numbers = npt.NDArray[np.float64]

#: Most steps of L-BFGS, and steps without a better validation loss after which it stops earlier.
MAX_STEPS, PATIENCE = 200, 10
#: Price of a gradient norm above tau, squared.
PENALTY = 100.0
#: Ridge that keeps the weights of separable classes finite, and those to choose from.
RIDGE, RIDGES = 1e-6, (1e-1, 1e-2, 1e-3, 1e-4)


class Head(NamedTuple):
    """A linear classifier.

    Attributes
    ----------
    weights : float64 numpy array of shape (n_classes, n_features)
    bias : float64 numpy array of shape (n_classes,)
    """

    weights: Numbers
    bias: Numbers

    def log_probabilities(self, features: Array) -> Numbers:
        """Of each class for each sample, (n, n_classes), on the host."""
        logits = product(features, self.weights.T) + self.bias
        return np.asarray(scipy.special.log_softmax(logits, axis=1))

    def slopes(self, log_probabilities: Numbers) -> Numbers:
        """Gradient norm of ``-ln p_j`` by the features, for every class j: (n, n_classes)."""
        gram = self.weights @ self.weights.T
        p = np.exp(log_probabilities)
        crossed = p @ gram
        squares = np.sum(crossed * p, axis=1, keepdims=True) - 2 * crossed + np.diag(gram)
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def product(features: Array, matrix: Numbers) -> Numbers:
    """``features @ matrix`` in the dtype and on the device of the features, handed to the host."""
    return arrays.to_numpy(features @ beside(matrix, features)).astype(np.float64)


def beside(matrix: Numbers, features: Array) -> Array:
    """Host numbers in the library, dtype and place of the features."""
    wide = "64" in str(features.dtype)
    return arrays.to_like(matrix if wide else matrix.astype(np.float32), features)


def train_head(
    features: Array,
    labels: npt.NDArray[np.int64],
    n_classes: int,
    tau: float | None,
    held_out: tuple[Array, npt.NDArray[np.int64]],
    *,
    ridge: float = RIDGE,
    start: Head | None = None,
) -> Head:
    """Fit a softmax head by L-BFGS, and keep the step that is best on held-out samples.

    Parameters
    ----------
    features : array of shape (n, d)
    labels : int64 numpy array of shape (n,)
        In 0..n_classes-1.
    n_classes : int
    tau : float or None
        Norms of ``∇ loss`` by the features that exceed it are penalised, by the mean over the
        samples of ``(norm − tau)²``; None: steep as may be.
    held_out : (features, labels)
        What the steps are judged on.
    ridge : float
        Half of it is the price of the weights' squared norm.
    start : Head, optional
        To start from; zeros by default.

    Notes
    -----
    Cost per step: two products O(n d n_classes); the penalty adds only O(n n_classes²), because a
    gradient ``Wᵀ(p − e_y)`` has the norm that the Gram matrix ``W Wᵀ`` gives it.
    """
    n, d = map(int, features.shape)
    rows = np.arange(n)
    best: tuple[float, Numbers | None, int] = (np.inf, None, 0)

    def unpack(theta: Numbers) -> Head:
        return Head(theta[: n_classes * d].reshape(n_classes, d), theta[n_classes * d :])

    def objective(
        head: Head, features: Array, labels: npt.NDArray[np.int64]
    ) -> tuple[float, Numbers, Numbers, Numbers, Numbers]:
        """Value, probabilities minus one-hot, Gram matrix, norms and what exceeds tau."""
        log_p = head.log_probabilities(features)
        index = np.arange(len(labels))
        value = -float(np.mean(log_p[index, labels]))
        residual = np.exp(log_p)
        residual[index, labels] -= 1
        gram = head.weights @ head.weights.T
        excess = norms = np.zeros(0)
        if tau is not None:
            squares = np.sum((residual @ gram) * residual, axis=1)
            norms = np.sqrt(np.maximum(squares, 1e-24))
            excess = np.maximum(norms - tau, 0.0)
            value += PENALTY * float(np.mean(excess**2))
        return value, residual, gram, norms, excess

    def value_and_gradient(theta: Numbers) -> tuple[float, Numbers]:
        head = unpack(theta)
        value, residual, gram, norms, excess = objective(head, features, labels)
        by_logits = residual
        by_weights = np.zeros((n_classes, d))
        if tau is not None and np.any(excess > 0):
            factor = (2 * PENALTY * excess / norms)[:, None]
            p = residual.copy()
            p[rows, labels] += 1
            by_p = factor * (residual @ gram)
            by_logits = residual + p * (by_p - np.sum(p * by_p, axis=1, keepdims=True))
            by_weights = ((factor * residual).T @ residual) @ head.weights
        # this way round the product keeps its speed on many threads
        features_part = arrays.to_numpy(features.T @ beside(by_logits, features)).T
        by_weights = (by_weights + features_part) / n + ridge * head.weights
        value += ridge / 2 * float(np.sum(head.weights**2))
        return value, np.concatenate([by_weights.ravel(), by_logits.mean(axis=0)])

    def judge(intermediate_result: Any) -> None:
        nonlocal best
        theta = intermediate_result.x
        value = objective(unpack(theta), *held_out)[0]
        if value < best[0] * (1 - 1e-6):
            best = (value, theta.copy(), 0)
        else:
            best = (*best[:2], best[2] + 1)
            if best[2] >= PATIENCE:
                raise StopIteration

    first = np.zeros(n_classes * d + n_classes)
    if start is not None:
        first = np.concatenate([start.weights.ravel(), start.bias])
    found = scipy.optimize.minimize(
        value_and_gradient,
        first,
        jac=True,
        method="L-BFGS-B",
        callback=judge,
        options={"maxiter": MAX_STEPS, "ftol": 1e-10, "gtol": 1e-7},
    )
    return unpack(found.x if best[1] is None else best[1])


def train_best_head(
    features: Array,
    labels: npt.NDArray[np.int64],
    n_classes: int,
    held_out: tuple[Array, npt.NDArray[np.int64]],
) -> Head:
    """A head as steep as is good for its loss on held-out samples.

    The ridge is lowered as long as that loss falls, each head starting from the last.
    """
    rows = np.arange(len(held_out[1]))
    best, lowest = None, np.inf
    for ridge in RIDGES:
        head = train_head(features, labels, n_classes, None, held_out, ridge=ridge, start=best)
        loss = -float(np.mean(head.log_probabilities(held_out[0])[rows, held_out[1]]))
        if best is not None and loss >= lowest:
            break
        best, lowest = head, loss
    assert best is not None
    return best
