"""H-score and its regularised form: how much of the features' variance the classes explain.

Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer Learning",
ICIP 2019; Ibrahim, Ponomareva & Mazumder, "Newer is not always better", 2021.
"""

from __future__ import annotations

from collections.abc import Callable

from transferscope.embedding import Embedding
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike


@documented
def h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """H-score ``tr(S_t⁺ S_b)``: variance between classes in units of the total variance.

    Returns
    -------
    float
        In [0, C - 1]; higher is better.

    Notes
    -----
    Cost: one pass, O(n d²), and the shared eigendecomposition, O(d³). For d >= n any labels are
    explained fully and the value is C - 1 whatever the features: `regularized_h_score` is made for
    that. Published values outside [0, C - 1] come from too small a rank cut-off; ours drops the
    directions whose variance is rounding.

    Examples
    --------
    >>> from transferscope.metrics import h_score
    >>> features = np.array([[0.0], [0.0], [1.0], [1.0]])
    >>> round(h_score(features, [0, 0, 1, 1]), 12), round(h_score(features, [0, 1, 0, 1]), 12)
    (1.0, 0.0)

    References
    ----------
    Bao et al., ICIP 2019 (arXiv 2212.10082).
    """
    return measure_h_score(Embedding(features, labels)).value


@documented
def regularized_h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """H-score with a Ledoit-Wolf shrunk covariance: ``(1 - λ) tr(S_λ⁻¹ S_b)``.

    Returns
    -------
    float
        In [0, (C - 1) n / (n - 1)]; higher is better.

    Notes
    -----
    Cost: as `h_score`. The shrinkage coefficient λ is the one of scikit-learn's ``LedoitWolf``,
    computed from moments; as in the authors' code S_b is divided by n - 1 and S_t by n.

    Examples
    --------
    >>> from transferscope.metrics import regularized_h_score
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(100) % 2
    >>> noise = rng.standard_normal((100, 300))
    >>> bool(regularized_h_score(noise + 2 * labels[:, None], labels) >
    ...      regularized_h_score(noise, labels))
    True

    References
    ----------
    Ibrahim et al., 2021 (arXiv 2110.06893); Ledoit & Wolf, J. Multivariate Analysis 2004.
    """
    return measure_regularized_h_score(Embedding(features, labels)).value


def ledoit_wolf_shrinkage(embedding: Embedding) -> float:
    """Ledoit-Wolf coefficient λ in [0, 1] of the total covariance, from its moments."""
    total, n, d = embedding.total, embedding.n_samples, embedding.n_features
    xp = arrays.namespace(total.scatter)
    squares = (float(xp.linalg.vector_norm(total.scatter)) / n) ** 2
    trace = float(xp.linalg.trace(total.scatter)) / n
    scatter_of_estimate = (embedding.quartic_sum / n - squares) / n
    distance_to_identity = squares - trace * trace / d
    if scatter_of_estimate <= 0 or distance_to_identity <= 0:
        return 0.0
    return min(scatter_of_estimate / distance_to_identity, 1.0)


def _explained(
    embedding: Embedding, inverse: Array, factor: float, covariance_share: float, ridge_share: float
) -> tuple[float, Callable[[], Array]]:
    """``factor tr(M S_b)`` in the eigenbasis, M = diag(inverse), and its influence.

    M is the inverse of ``covariance_share S_t + ridge_share (tr S_t / d) I``.
    """
    counts, n = embedding.moments.counts, embedding.n_samples
    xp = arrays.namespace(counts)
    means = embedding.rotated_means
    class_terms = xp.sum(means * means * inverse[None, :], axis=1)
    weights = counts / n
    value = factor * float(weights @ class_terms)
    # tr(M S_b M), what a change of the ridge multiplies
    ridge_slope = float(weights @ xp.sum((means * inverse[None, :]) ** 2, axis=1))
    # E over the samples of x' M S_b M x, what the covariance's own change multiplies
    spread = embedding.spread.spectrum.values / n
    between = float(weights @ xp.sum((means * inverse[None, :]) ** 2 * spread[None, :], axis=1))

    def influence() -> Array:
        rows, labels = embedding.influence_features, embedding.influence_labels
        projected = rows @ (means * inverse[None, :]).T
        own = xp.sum(xp.take(means * inverse[None, :], labels, axis=0) * rows, axis=1)
        explained = (projected * projected) @ weights
        ridge = xp.sum(rows * rows, axis=1) / embedding.n_features
        terms = 2 * own - xp.take(class_terms, labels)
        terms = terms - covariance_share * (explained - between) - ridge_share * ridge_slope * ridge
        centred: Array = factor * (terms - xp.mean(terms))
        return centred

    return value, influence


def measure_h_score(embedding: Embedding) -> Measurement:
    """H-score of an embedding; see `h_score`."""
    inverse = embedding.n_samples / embedding.spread.spectrum.values
    value, influence = _explained(embedding, inverse, 1.0, 1.0, 0.0)
    warnings = embedding.shared_warnings()
    top = embedding.n_classes - 1
    rank = int(inverse.shape[0])
    if embedding.n_features >= embedding.n_samples:
        warnings.append(
            f"d >= n ({embedding.n_features} features, {embedding.n_samples} samples): the value "
            "says little, use regularized_h_score"
        )
    elif rank < embedding.n_features:
        warnings.append(f"rank-deficient: {rank} of {embedding.n_features} directions vary")
    return Measurement(min(max(value, 0.0), float(top)), influence, tuple(warnings))


def measure_regularized_h_score(embedding: Embedding) -> Measurement:
    """Regularised H-score of an embedding; see `regularized_h_score`."""
    shrinkage = ledoit_wolf_shrinkage(embedding)
    values, n = embedding.spread.spectrum.values, embedding.n_samples
    ridge = float(arrays.namespace(values).sum(values)) / n / embedding.n_features
    inverse = 1 / ((1 - shrinkage) * values / n + shrinkage * ridge)
    factor = (1 - shrinkage) * n / (n - 1)
    value, influence = _explained(embedding, inverse, factor, 1 - shrinkage, shrinkage)
    warnings = embedding.shared_warnings()
    if shrinkage == 1.0:
        warnings.append("shrunk to the identity: too few samples for any covariance")
    return Measurement(value, influence, tuple(warnings))


H_SCORE_ABOUT = About("between-class share of variance", "0 to C - 1", "Bao et al., ICIP 2019")
H_SCORE_BEHAVIOUR = Behaviour(warns_of=("n < d", "constant column"))
H_SCORE = Metric(
    "h_score", measure_h_score, H_SCORE_ABOUT, from_moments=True, behaviour=H_SCORE_BEHAVIOUR
)


REGULARIZED_H_SCORE_ABOUT = About(
    "H-score with shrunk covariance", "0 to C - 1", "Ibrahim et al., 2021"
)
REGULARIZED_H_SCORE_BEHAVIOUR = Behaviour(changes_with=("duplicated rows",))
REGULARIZED_H_SCORE = Metric(
    "regularized_h_score",
    measure_regularized_h_score,
    REGULARIZED_H_SCORE_ABOUT,
    from_moments=True,
    behaviour=REGULARIZED_H_SCORE_BEHAVIOUR,
)
