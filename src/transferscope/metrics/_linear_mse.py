"""Linear MSE: how well a regularised linear regression on the features fits the targets.

Nguyen, Tran, Ho, Dinh, Tran, Hassner & Nguyen, "Simple Transferability Estimation for Regression
Tasks", UAI 2023.
"""

from __future__ import annotations

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import NUMBERS, About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike


@documented
def linear_mse(features: ArrayLike, targets: ArrayLike, *, penalty: float = 1.0) -> float:
    r"""Negated regularised squared error of a linear regression from features to targets.

    ``-min_{A,b} (1/n) Σ_i ‖y_i − A x_i − b‖² + λ ‖A‖²``, the intercept b unpenalised, ``‖·‖²``
    summing over all targets.

    Parameters
    ----------
    penalty : float
        λ, not negative. The paper uses 0 and 1.

    Returns
    -------
    float
        At most 0, which is best, and at least minus the summed variance of the targets, so in
        their unit squared; higher is better.

    Raises
    ------
    InputError
        If shapes disagree, the targets do not vary, or the penalty is negative.

    Notes
    -----
    Cost: the shared pass, O(n d²), and eigendecomposition, O(d³). The error is that of the fit, not
    of new samples: without penalty it is 0 whenever d ≥ n, with a warning. With a penalty
    the value depends on the scale of the features, as in the paper.

    The authors' published code fits the same regression but returns the squared error alone,
    without ``λ‖A‖²``, and averages over targets where the paper's norm sums.

    Examples
    --------
    >>> from transferscope.metrics import linear_mse
    >>> features, targets = [[0.0], [0.0], [2.0], [2.0]], [0, 0, 1, 1]
    >>> round(linear_mse(features, targets), 6)
    -0.125

    References
    ----------
    Nguyen et al., UAI 2023 (arXiv 2312.00656), definition 4.1.
    """
    return measure(Embedding(features, targets=targets), penalty=penalty).value


def measure(embedding: Embedding, penalty: float = 1.0) -> Measurement:
    """Linear MSE of an embedding with targets; see `linear_mse`."""
    if not penalty >= 0:
        raise InputError(f"penalty must be at least 0, got {penalty}.")
    if embedding.numbers is None:
        raise InputError(
            "linear_mse scores targets=, got class labels; use linear_probe for those."
        )
    moments, (values, vectors) = embedding.target_moments.statistics, embedding.spread.spectrum
    xp = arrays.namespace(values)
    n = embedding.n_samples
    variances = values / n
    cross = vectors.T @ moments.cross / n
    weights = cross / (variances + penalty)[:, None]
    explained = xp.sum(cross * weights, axis=0)
    unexplained = moments.scatter / n - explained
    value = -float(xp.sum(xp.where(unexplained > 0, unexplained, 0.0)))

    def influence() -> Array:
        # at the minimum, a change of A and b makes no difference: only the sample's own error does
        true = xp.take(embedding.numbers, embedding.influence_rows, axis=0) - moments.mean
        error = true - embedding.influence_features @ weights
        terms = -xp.sum(error * error, axis=1)
        return terms - xp.mean(terms)

    warnings = embedding.shared_warnings()
    if penalty == 0 and embedding.n_features >= n:
        warnings.append(
            f"d >= n ({embedding.n_features} features, {n} samples): any targets are fitted "
            "without error, use a penalty"
        )
    return Measurement(value, influence, tuple(warnings))


ABOUT = About(
    "negated regularised error of linear regression", "at most 0", "Nguyen et al., UAI 2023"
)
BEHAVIOUR = Behaviour(changes_with=("scale",))
LINEAR_MSE = Metric(
    "linear_mse", measure, ABOUT, tasks=NUMBERS, from_moments=True, behaviour=BEHAVIOUR
)
