"""Leave-one-out accuracy of a ridge classifier, in closed form: a linear probe without training.

The leave-one-out residual of ridge regression is ``(y - ŷ) / (1 - h)`` with h the sample's leverage
(Allen's PRESS, 1974), so one eigendecomposition answers for every sample and every penalty.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from transferscope.embedding import Classes, Embedding, computed_once
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement, hit_rate, r_squared
from transferscope.metrics._metric import EVERYTHING, About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike

#: Ridge penalties tried, in units of n times the mean variance of a feature.
PENALTIES = tuple(float(p) for p in np.logspace(-6, 2, 17))
#: With no more samples than features and hardly a penalty, samples determine their own predictions.
#: What is left, by which residuals are divided, must on average be so many times the features'
#: rounding.
LEAST_REST = 1e4
#: A sample that determines its own prediction entirely would divide by zero.
LARGEST_LEVERAGE = 1 - 1e-12


@documented
def linear_probe(
    features: ArrayLike, labels: ArrayLike | None = None, *, targets: ArrayLike | None = None
) -> float:
    """Leave-one-out accuracy (for targets: R²) of a ridge linear probe.

    Every sample is predicted by the ridge regression (with intercept, one-hot targets, largest
    output wins) that was fitted to all *other* samples, in closed form. The penalty is the one of
    17, from 1e-6 to 1e2 times n times the mean feature variance, with the least error by
    generalised cross-validation. Of float32 features and no more samples than features those are
    left out under which leverages are on average above 0.9988: rounding would decide.

    Returns
    -------
    float
        Accuracy in [0, 1], or R² (mean over targets) in (-inf, 1]; higher is better.

    Notes
    -----
    Cost: the shared O(n d²) and O(d³), and a second pass over the features of the same order.

    Examples
    --------
    >>> from transferscope.metrics import linear_probe
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> linear_probe(np.eye(3)[labels] + 0.1 * rng.standard_normal((60, 3)), labels)
    1.0

    References
    ----------
    Allen, Technometrics 1974 (leave-one-out); Golub, Heath & Wahba, Technometrics 1979 (penalty).
    """
    return measure(Embedding(features, labels, targets=targets)).value


def measure(embedding: Embedding) -> Measurement:
    """Leave-one-out ridge accuracy or R² of an embedding; see `linear_probe`."""
    n, warnings = embedding.n_samples, embedding.shared_warnings()
    if isinstance(embedding.targets, Classes):
        predicted = leave_one_out(embedding).predicted
        xp = arrays.namespace(predicted)
        hits = xp.astype(predicted == embedding.labels, xp.float64)
        return hit_rate(hits, embedding.influence_rows, n, warnings)
    outputs = [output for _, output in _outputs(embedding)]
    predicted = arrays.namespace(outputs[0]).concat(outputs)
    return r_squared(embedding.numbers, predicted, embedding.influence_rows, n, warnings)


class LeftOut(NamedTuple):
    """What the probe says of each kept sample, having been fitted to all others.

    Attributes
    ----------
    predicted : (n_kept,) int64 array
        Ids of classes.
    margin : (n_kept,) float64 array
        By how much the output of the predicted class is above that of the label; 0 where they are
        the same.
    """

    predicted: Array
    margin: Array


@computed_once
def leave_one_out(embedding: Embedding) -> LeftOut:
    """The class that `linear_probe` predicts of each sample, and how far off that is.

    Parameters
    ----------
    embedding : Embedding
        With classes.

    Returns
    -------
    LeftOut
    """
    predicted, margin = [], []
    for part, output in _outputs(embedding):
        xp = arrays.namespace(output)
        highest = xp.argmax(output, axis=1)
        true = arrays.one_hot(embedding.labels[part], embedding.n_classes)
        predicted.append(highest)
        margin.append(xp.max(output, axis=1) - xp.sum(output * true, axis=1))
    return LeftOut(xp.concat(predicted), xp.concat(margin))


def _outputs(embedding: Embedding) -> Iterator[tuple[slice, Array]]:
    """What the probe gives for each sample, fitted to all others: (m, k), slice by slice."""
    values = embedding.spread.spectrum.values
    xp = arrays.namespace(values)
    target_mean, _, cross = embedding.columns
    unit = float(xp.sum(values)) / embedding.n_features
    penalty = unit * _best_penalty(embedding, cross, unit)
    inverse = 1 / (values + penalty)
    weights = (cross * inverse[None, :]).T
    for part in arrays.chunks(embedding.features):
        rows = embedding.rotate(embedding.features[part, :])
        own = 1 / embedding.n_samples + (rows * rows) @ inverse
        own = xp.where(own < LARGEST_LEVERAGE, own, LARGEST_LEVERAGE)
        true = _true_columns(embedding, part)
        residual = true - target_mean[None, :] - rows @ weights
        yield part, true - residual / (1 - own)[:, None]


def _best_penalty(embedding: Embedding, cross: Array, unit: float) -> float:
    """The penalty of least generalised cross-validation error, which needs no pass."""
    values = embedding.spread.spectrum.values
    xp = arrays.namespace(values)
    n = embedding.n_samples
    if isinstance(embedding.targets, Classes):
        share = embedding.moments.counts / n
        variation = n * float(xp.sum(share * (1 - share)))
    else:
        variation = float(xp.sum(embedding.target_moments.statistics.scatter))
    fitted = xp.sum(cross * cross, axis=0) / values
    n_never = n - 1 - int(values.shape[0])
    never_fitted = max(variation - float(xp.sum(fitted)), 0.0) if n_never > 0 else 0.0

    def shrunk(penalty: float) -> Array:
        return penalty * unit / (values + penalty * unit)

    def free(penalty: float) -> float:
        return n_never + float(xp.sum(shrunk(penalty)))

    def error(penalty: float) -> float:
        residual = never_fitted + float(xp.sum(fitted * shrunk(penalty) ** 2))
        return float(residual / free(penalty) ** 2)

    least = LEAST_REST * float(xp.finfo(embedding.matrix.dtype).eps) * n
    precise = [penalty for penalty in PENALTIES if free(penalty) >= least]
    return min(precise or PENALTIES[-1:], key=error)


def _true_columns(embedding: Embedding, part: slice) -> Array:
    """One-hot labels, or targets, of a slice of the samples: (m, k) float64."""
    if not isinstance(embedding.targets, Classes):
        return embedding.numbers[part, :]
    return arrays.one_hot(embedding.labels[part], embedding.n_classes)


ABOUT = About("leave-one-out accuracy of a ridge classifier", "0 to 1 (R² to 1)", "Allen, 1974")
BEHAVIOUR = Behaviour(changes_with=("duplicated rows",))
LINEAR_PROBE = Metric("linear_probe", measure, ABOUT, tasks=EVERYTHING, behaviour=BEHAVIOUR)
