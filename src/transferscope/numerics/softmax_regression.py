"""Multinomial logistic regression on arrays of any library, wherever they live."""

from __future__ import annotations

from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array


def log_probabilities(features: Array, weights: Array, bias: Array) -> Array:
    """Log-probabilities of all classes; the product is in the dtype of the features.

    Parameters
    ----------
    features : array of shape (n, d)
    weights : array of shape (d, n_classes)
    bias : float64 array of shape (n_classes,)

    Returns
    -------
    float64 array of shape (n, n_classes)
    """
    weights = arrays.namespace(features).astype(weights, features.dtype, copy=False)
    return arrays.log_softmax(arrays.as_float64(features @ weights) + bias)


def weighted_loss(
    features: Array, truth: Array, share: Array | float, weights: Array, bias: Array
) -> tuple[Array, Array, Array]:
    """The cross-entropy of weighted samples, and its gradients.

    Parameters
    ----------
    features : array of shape (n, d)
    truth : float64 array of shape (n, n_classes)
        One-hot labels times the weights of the samples.
    share : float or float64 array of shape (n, 1)
        The weights of the samples; 1/n gives the mean.
    weights : array of shape (d, n_classes)
    bias : float64 array of shape (n_classes,)

    Returns
    -------
    loss : float64 array of shape ()
    by_weights : float64 array of shape (d, n_classes)
        Products are in the dtype of the features.
    by_bias : float64 array of shape (n_classes,)
    """
    xp = arrays.namespace(features)
    log_p = log_probabilities(features, weights, bias)
    pull = xp.exp(log_p) * share - truth
    by_weights = arrays.as_float64(features.T @ xp.astype(pull, features.dtype))
    return -xp.sum(log_p * truth), by_weights, xp.sum(pull, axis=0)


def penalised_loss(
    features: Array, truth: Array, theta: Array, ridge: float
) -> tuple[float, Array]:
    """The mean cross-entropy plus ``ridge/2 ‖W‖²``, and its gradient.

    Parameters
    ----------
    features : array of shape (n, d)
    truth : float64 array of shape (n, n_classes)
        One-hot labels, divided by n.
    theta : float64 array of shape (d + 1, n_classes)
        Weights, and below them the biases, which have no penalty.
    ridge : float

    Returns
    -------
    float
    float64 array of shape (d + 1, n_classes)
    """
    xp = arrays.namespace(features)
    weights, share = theta[:-1, :], 1 / int(truth.shape[0])
    loss, by_weights, by_bias = weighted_loss(features, truth, share, weights, theta[-1, :])
    heavy = ridge * weights
    gradient = xp.concat([by_weights + heavy, by_bias[None, :]])
    return float(loss + xp.sum(heavy * weights) / 2), gradient
