"""Linear softmax heads: trained on features, as steep as may be or held to a slope."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy

from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array
from transferscope.numerics.sampling import by_class
from transferscope.numerics.threads import threads_for

Numbers = npt.NDArray[np.float64]

#: Most steps of L-BFGS; it stops earlier when so many of them lower the validation loss by less.
MAX_STEPS, PATIENCE, GAIN = 200, 10, 1e-4
#: From so many products a step (samples x features x classes) a step takes a second: training then
#: starts at the class means, ends after fewer steps without gain, and has one ridge.
LARGE, SHORT_PATIENCE, LARGE_RIDGES = 5e9, 3, (1e-2,)
#: Price of the squared share by which the weights of two classes lie further apart than tau.
PENALTY = 10.0
#: Ridge that keeps the weights of separable classes finite, and those to choose from.
RIDGE, RIDGES = 1e-6, (1e-1, 1e-2, 1e-3, 1e-4)
#: Up to this many samples the ridge is chosen by cross-validation, and from stronger ones: a few
#: samples that judge one fit choose at random.
FEW_SAMPLES, FOLDS, STRONG_RIDGES = 400, 5, (1e2, 1e1, 1.0)


class LinearHead(NamedTuple):
    """A linear classifier.

    Attributes
    ----------
    weights : float64 numpy array of shape (n_classes, n_features)
    bias : float64 numpy array of shape (n_classes,)
    """

    weights: Numbers
    bias: Numbers

    def log_probabilities(self, features: Array) -> Numbers:
        """Of each class for each sample, (n, n_classes), on the host.

        Parameters
        ----------
        features : array of shape (n, d)

        Returns
        -------
        float64 NumPy array of shape (n, n_classes)
        """
        logits = product(features, self.weights.T) + self.bias
        return np.asarray(scipy.special.log_softmax(logits, axis=1))

    def distances(self) -> Numbers:
        """Between the weights of every two classes, (n_classes, n_classes).

        Returns
        -------
        float64 NumPy array of shape (n_classes, n_classes)
        """
        centred = self.weights - self.weights.mean(axis=0)
        gram = centred @ centred.T
        squares = np.add.outer(np.diag(gram), np.diag(gram)) - 2 * gram
        np.fill_diagonal(squares, 0.0)
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)))

    @property
    def steepness(self) -> float:
        """The Lipschitz constant of ``-ln p_j`` in the features, the same for every class j.

        The gradient is ``Wᵀ(p − e_j)``, a mean of differences between the weights of two classes:
        never longer than the longest of these, and as near to it as one likes.
        """
        return float(self.distances().max())

    def limited_to(self, tau: float | None) -> LinearHead:
        """This head, or one with weights so short that its steepness is tau.

        Parameters
        ----------
        tau : float or None
            None: no limit.

        Returns
        -------
        LinearHead
        """
        if tau is None or self.steepness <= tau:
            return self
        return LinearHead(self.weights * (tau / self.steepness), self.bias)


def product(features: Array, matrix: Numbers) -> Numbers:
    """``features @ matrix`` in the dtype and on the device of the features, handed to the host."""
    return arrays.to_numpy(features @ convert(matrix, features)).astype(np.float64)


def convert(matrix: Numbers, features: Array) -> Array:
    """Host numbers in the library, dtype and place of the features."""
    wide = "64" in str(features.dtype)
    return arrays.from_numpy(matrix if wide else matrix.astype(np.float32), features)


def train_head(
    features: Array,
    labels: npt.NDArray[np.int64],
    n_classes: int,
    tau: float | None,
    held_out: tuple[Array, npt.NDArray[np.int64]] | None,
    *,
    ridge: float = RIDGE,
    start: LinearHead | None = None,
) -> LinearHead:
    """Fit a softmax head by L-BFGS, and keep the step that is best on held-out samples.

    Parameters
    ----------
    features : array of shape (n, d)
    labels : int64 numpy array of shape (n,)
        In 0..n_classes-1.
    n_classes : int
    tau : float or None
        Largest steepness; None: as steep as may be.
    held_out : (features, labels) or None
        What the steps are judged on; None: the last step is kept.
    ridge : float
        Half of it is the price of the weights' squared norm.
    start : LinearHead, optional
        To start from; by default zeros, in large problems the class means.

    Notes
    -----
    Weights further apart than tau are penalised while training, and brought to it by one factor at
    the end; before that they were too far apart by 0.1 to 0.3 % (features of digits and clothes).

    Cost per step: two products O(n d n_classes), and O(n_classes² d) for the distances.
    """
    n, d = map(int, features.shape)
    best: tuple[float, Numbers | None] = (np.inf, None)
    lowest: list[float] = []
    large = n * d * n_classes > LARGE
    patience = SHORT_PATIENCE if large else PATIENCE
    if large and start is None:
        start = _head_of_means(features, labels, n_classes, 1 / d**0.5 if tau is None else tau)

    # weights in units of tau: their size is then that of the bias, which L-BFGS needs
    unit = 1.0 if tau is None else tau

    def unpack(theta: Numbers) -> LinearHead:
        weights = unit * theta[: n_classes * d].reshape(n_classes, d)
        return LinearHead(weights, theta[n_classes * d :])

    def loss(
        head: LinearHead, features: Array, labels: npt.NDArray[np.int64]
    ) -> tuple[float, Numbers]:
        """Mean loss, and probabilities minus one-hot."""
        if large:
            return _loss_in_place(head, features, labels)
        log_p = head.log_probabilities(features)
        index = np.arange(len(labels))
        residual = np.exp(log_p)
        residual[index, labels] -= 1
        return -float(np.mean(log_p[index, labels])), residual

    def value_and_gradient(theta: Numbers) -> tuple[float, Numbers]:
        head = unpack(theta)
        value, residual = loss(head, features, labels)
        # this way round the product keeps its speed on many threads
        by_weights = arrays.to_numpy(features.T @ convert(residual, features)).T / n
        by_weights = by_weights + ridge * head.weights
        value += ridge / 2 * float(np.sum(head.weights**2))
        if tau is not None:
            apart = head.distances()
            excess = np.maximum(apart / tau - 1, 0.0)
            value += PENALTY / 2 * float(np.sum(excess**2))  # every pair is there twice
            pull = 2 * PENALTY * excess / np.maximum(apart, 1e-300) / tau
            by_weights += pull.sum(axis=1)[:, None] * head.weights - pull @ head.weights
        by_bias = residual.mean(axis=0, dtype=np.float64)
        return value, np.concatenate([unit * by_weights.ravel(), by_bias])

    def judge(intermediate_result: Any) -> None:
        nonlocal best
        if held_out is None:
            return
        theta = intermediate_result.x
        value = loss(unpack(theta).limited_to(tau), *held_out)[0]
        if value < best[0]:
            best = (value, theta.copy())
        lowest.append(best[0])
        if len(lowest) > patience and lowest[-1] > (1 - GAIN) * lowest[-1 - patience]:
            raise StopIteration

    first = np.zeros(n_classes * d + n_classes)
    if start is not None:
        first = np.concatenate([start.weights.ravel() / unit, start.bias])
    with threads_for(n * d * n_classes):
        found = scipy.optimize.minimize(
            value_and_gradient,
            first,
            jac=True,
            method="L-BFGS-B",
            callback=judge,
            options={"maxiter": MAX_STEPS, "ftol": 1e-10, "gtol": 1e-7},
        )
    return unpack(found.x if best[1] is None else best[1]).limited_to(tau)


def _loss_in_place(
    head: LinearHead, features: Array, labels: npt.NDArray[np.int64]
) -> tuple[float, Numbers]:
    """Mean loss, and probabilities minus one-hot, in the features' precision and one array."""
    logits = arrays.to_numpy(features @ convert(head.weights.T, features))
    if not logits.flags.writeable:
        logits = logits.copy()
    logits += head.bias.astype(logits.dtype)
    logits -= logits.max(axis=1, keepdims=True)
    index = np.arange(len(labels))
    own = logits[index, labels].astype(np.float64)
    np.exp(logits, out=logits)
    sums = logits.sum(axis=1)
    value = float(np.mean(np.log(sums.astype(np.float64)) - own))
    logits /= sums[:, None]
    logits[index, labels] -= 1
    return value, logits


def _head_of_means(
    features: Array, labels: npt.NDArray[np.int64], n_classes: int, tau: float
) -> LinearHead:
    """The head whose weights are the class means, shortened to a steepness."""
    ids = arrays.from_numpy(labels, features)
    sums = arrays.to_numpy(arrays.class_sums(features, ids, n_classes)).astype(np.float64)
    counts = np.maximum(np.bincount(labels, minlength=n_classes), 1)
    means = sums / counts[:, None]
    head = LinearHead(means - means.mean(axis=0), np.log(counts / counts.sum()))
    steepness = head.steepness
    return head._replace(weights=head.weights * (tau / steepness)) if steepness > 0 else head


def constant_head(labels: npt.NDArray[np.int64], n_classes: int, d: int) -> LinearHead:
    """The head that looks at no feature: it guesses by the classes' shares.

    Half a sample is added to each class, so that none is held to be impossible.
    """
    counts = np.bincount(labels, minlength=n_classes) + 0.5
    return LinearHead(np.zeros((n_classes, d)), np.log(counts / counts.sum()))


def mean_loss(head: LinearHead, features: Array, labels: npt.NDArray[np.int64]) -> float:
    """Mean of ``-ln p`` of the samples' own classes."""
    log_p = head.log_probabilities(features)
    return -float(np.mean(log_p[np.arange(len(labels)), labels]))


def train_best_head(
    features: Array,
    labels: npt.NDArray[np.int64],
    n_classes: int,
    held_out: tuple[Array, npt.NDArray[np.int64]],
    tau: float | None = None,
) -> LinearHead:
    """A head whose penalty is chosen by its loss on samples that it was not trained on.

    The ridge is lowered as long as that loss falls, each head starting from the last; the head that
    guesses by the classes' shares is the first candidate. With few samples the loss is one of
    cross-validation over all that are given, and the last head is trained on all of them.

    Parameters
    ----------
    features : array of shape (n, d)
    labels : int64 numpy array of shape (n,)
        In 0..n_classes-1.
    n_classes : int
    held_out : (features, labels)
        What is judged on.
    tau : float, optional
        Largest steepness; None: as steep as is good for the loss.
    """
    if len(labels) + len(held_out[1]) <= FEW_SAMPLES:
        return _cross_validated_head(features, labels, n_classes, held_out, tau)
    best = constant_head(labels, n_classes, int(features.shape[1]))
    lowest, start = mean_loss(best, *held_out), None
    large = np.prod(features.shape) * n_classes > LARGE
    for ridge in (RIDGE,) if tau is not None else LARGE_RIDGES if large else RIDGES:
        head = train_head(features, labels, n_classes, tau, held_out, ridge=ridge, start=start)
        loss = mean_loss(head, *held_out)
        if loss >= lowest:
            break
        best, lowest, start = head, loss, head
    return best


def _cross_validated_head(
    features: Array,
    labels: npt.NDArray[np.int64],
    n_classes: int,
    held_out: tuple[Array, npt.NDArray[np.int64]],
    tau: float | None,
) -> LinearHead:
    ids = np.concatenate([labels, held_out[1]])
    both = [arrays.to_numpy(one).astype(np.float64) for one in (features, held_out[0])]
    x, axes = np.concatenate(both), None
    if x.shape[1] > x.shape[0]:
        # in the span of the samples: a ridge leaves no weight outside, and distances are the same
        left, lengths, axes = np.linalg.svd(x, full_matrices=False)
        x = left * lengths
    rows, _, _ = by_class(ids, np.random.default_rng(0).permutation(len(ids)))
    fold = np.empty(len(ids), np.int64)
    fold[rows] = np.arange(len(ids)) % FOLDS
    parts = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in np.unique(fold)]
    lowest = sum(
        len(out) * mean_loss(constant_head(ids[rest], n_classes, x.shape[1]), x[out], ids[out])
        for rest, out in parts
    )
    starts: list[LinearHead | None] = [None] * len(parts)
    best = None
    for ridge in (*STRONG_RIDGES, *RIDGES):
        heads = [
            train_head(x[rest], ids[rest], n_classes, tau, None, ridge=ridge, start=start)
            for (rest, _), start in zip(parts, starts, strict=True)
        ]
        total = sum(
            len(out) * mean_loss(head, x[out], ids[out])
            for (_, out), head in zip(parts, heads, strict=True)
        )
        if total >= lowest:
            break
        best, lowest, starts = ridge, total, list(heads)
    if best is None:
        return constant_head(ids, n_classes, int(features.shape[1]))
    head = train_head(x, ids, n_classes, tau, None, ridge=best)
    return head if axes is None else LinearHead(head.weights @ axes, head.bias)
