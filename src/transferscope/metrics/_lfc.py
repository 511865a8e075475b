"""LFC: correlation between likeness of features and sameness of labels over all pairs of samples.

Deshpande, Achille, Ravichandran, Li, Zancato, Fowlkes, Bhotika, Soatto & Perona, "A linearized
framework and a new benchmark for model selection for fine-tuning", 2021.
"""

from __future__ import annotations

import math

from transferscope.embedding import Embedding
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike


@documented
def lfc(features: ArrayLike, labels: ArrayLike) -> float:
    """Label-feature correlation: of the entries of ``K = F Fᵀ`` with those of ``L = Y Yᵀ``.

    ``K_ij = f_i · f_j`` says how alike two samples look to the encoder, ``L_ij`` is 1 where their
    classes are the same and 0 elsewhere; the score is the Pearson correlation over all n² pairs:

        Σ (K_ij - K̄)(L_ij - L̄) / √(Σ (K_ij - K̄)² Σ (L_ij - L̄)²)

    Returns
    -------
    float
        In [-1, 1]; higher is better.

    Notes
    -----
    Cost: O(d² + C d) from the class moments; no n x n matrix. With the features' mean m, their
    scatter S and the class means ``m + z_c``,

        Σ (K - K̄)(L - L̄) = Σ_c n_c² (|z_c|² + 2 m·z_c),  Σ (K - K̄)² = |S|² + 2n mᵀSm,

    which lose no digits however large m is. Public code holds the n x n matrices and cuts the data
    at a random 45 000 samples.

    Each matrix is centred by the mean of its entries (an ordinary correlation), as in public code,
    not by rows and columns: features enter as they are, and a shift of them changes the value.
    Pairs of a sample with itself are included. Labels of ±1 instead of 1 and 0 change nothing.

    Examples
    --------
    >>> from transferscope.metrics import lfc
    >>> round(lfc(np.array([[-1.0], [-1.0], [1.0], [1.0]]), [0, 0, 1, 1]), 12)
    1.0

    References
    ----------
    Deshpande et al., 2021 (arXiv 2102.00084).
    """
    return measure(Embedding(features, labels)).value


def measure(embedding: Embedding) -> Measurement:
    """Label-feature correlation of an embedding; see `lfc`."""
    total, counts, n = embedding.total, embedding.moments.counts, embedding.n_samples
    xp = arrays.namespace(counts)
    mean, scatter, share = total.mean, total.scatter, counts / n
    offsets = embedding.moments.means - mean
    drift = offsets @ mean
    pull = total.lifted(scatter @ total.inside(mean)) / n
    joint = float((share * share) @ (xp.sum(offsets * offsets, axis=1) + 2 * drift))
    feature_spread = (float(xp.linalg.vector_norm(scatter)) / n) ** 2 + 2 * float(mean @ pull)
    sameness = float(share @ share)
    label_spread = sameness * (1 - sameness)
    size = math.sqrt(feature_spread * label_spread)
    value = joint / size

    def influence() -> Array:
        # a mean over pairs: twice the mean over the partners of a sample
        labels = embedding.influence_labels
        centred = arrays.as_float64(embedding.matrix.take(embedding.influence_rows)) - mean
        along = centred @ mean
        own_share = xp.take(share, labels)
        own = xp.sum(centred * xp.take(offsets, labels, axis=0), axis=1)
        joint_term = own_share * (own + along + xp.take(drift, labels)) - sameness * along
        feature_term = (
            xp.sum(
                total.inside(centred) * embedding.project_influence(total.lifted(scatter / n)),
                axis=1,
            )
            + 2 * (centred @ pull)
            + along * along
        )
        label_term = (1 - 2 * sameness) * own_share
        terms: Array = 2 * joint_term / size - value * (
            feature_term / feature_spread + label_term / label_spread
        )
        return terms - xp.mean(terms)

    value = min(max(value, -1.0), 1.0)
    return Measurement(value, influence, tuple(embedding.shared_warnings()))


ABOUT = About(
    "correlation of feature likeness and label sameness", "-1 to 1", "Deshpande et al., 2021"
)
BEHAVIOUR = Behaviour(changes_with=("shift",))
LFC = Metric("lfc", measure, ABOUT, from_moments=True, behaviour=BEHAVIOUR)
