"""Leave-one-out accuracy of k nearest neighbours: the baseline that is hard to beat."""

from __future__ import annotations

from typing import Literal

from transferscope.embedding import Classes, Embedding
from transferscope.errors import InputError
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement, hit_rate, r_squared
from transferscope.metrics._metric import EVERYTHING, About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike

#: Distances are computed in blocks of this many queries against one chunk of the samples.
QUERIES_AT_ONCE = 1_024

Distance = Literal["euclidean", "cosine"]


@documented
def knn(
    features: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    targets: ArrayLike | None = None,
    k: int = 5,
    distance: Distance = "euclidean",
    seed: int = 0,
) -> float:
    """Leave-one-out accuracy (for targets: R²) of the k nearest neighbours.

    Each sample is predicted from its k nearest *other* samples: by majority, ties going to the
    nearer neighbours; with targets, by their mean. Duplicates of a sample are legitimate
    neighbours, the sample itself is not.

    Parameters
    ----------
    k : int
        Number of neighbours, at least 1; at most n_samples - 1 are used.
    distance : {"euclidean", "cosine"}
        Cosine between the features as they are (not centred).
    seed : int
        Of the subsample of queries, see Notes.

    Returns
    -------
    float
        Accuracy in [0, 1], or R² (mean over targets) in (-inf, 1]; higher is better.

    Raises
    ------
    InputError
        If shapes disagree, k < 1, the distance is unknown, or fewer than two classes occur.

    Notes
    -----
    Cost: O(q n d) time for q queries, in blocks of bounded memory. Beyond 5 000 samples, 5 000
    stratified, seeded queries are asked of all samples, which estimates the same accuracy to about
    half a point; the result then has a warning.

    Examples
    --------
    >>> from transferscope.metrics import knn
    >>> knn(np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]]), [0, 0, 0, 1, 1, 1], k=1)
    1.0

    References
    ----------
    Cover & Hart, IEEE Trans. Information Theory 1967.
    """
    embedding = Embedding(features, labels, targets=targets, seed=seed)
    return measure(embedding, k=k, distance=distance).value


def measure(embedding: Embedding, k: int = 5, distance: Distance = "euclidean") -> Measurement:
    """Leave-one-out k-NN accuracy or R² of an embedding; see `knn`."""
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}.")
    if distance not in ("euclidean", "cosine"):
        raise InputError(f"distance must be 'euclidean' or 'cosine', got {distance!r}.")
    queries = embedding.influence_rows
    xp = arrays.namespace(queries)
    n_queries = int(queries.shape[0])
    neighbours = xp.concat(
        [
            _neighbours(
                embedding, queries[start : min(start + QUERIES_AT_ONCE, n_queries)], k, distance
            )
            for start in range(0, n_queries, QUERIES_AT_ONCE)
        ]
    )
    warnings = embedding.shared_warnings()
    if n_queries < embedding.n_kept:
        warnings.append(f"{n_queries} stratified queries stand for {embedding.n_kept} samples")
    every = xp.arange(n_queries, device=arrays.device_of(queries))
    if isinstance(embedding.targets, Classes):
        return hit_rate(_hits(embedding, neighbours), every, embedding.n_samples, warnings)
    around = xp.take(embedding.numbers, xp.reshape(neighbours, (-1,)), axis=0)
    predicted = xp.mean(xp.reshape(around, (*neighbours.shape, -1)), axis=1)
    true = xp.take(embedding.numbers, queries, axis=0)
    return r_squared(true, predicted, every, embedding.n_samples, warnings)


def _neighbours(embedding: Embedding, queries: Array, k: int, distance: Distance) -> Array:
    """The k nearest other samples of each query, nearest first: (n_queries, k) indices."""
    features, xp = embedding.features, arrays.namespace(embedding.features)
    mean = xp.astype(embedding.total.mean, features.dtype)
    asked = -2 * _prepared(xp.take(features, queries, axis=0), mean, distance)
    k = min(k, embedding.n_kept - 1)
    best: tuple[Array, Array] | None = None  # gaps, and the samples that they are to
    for part in arrays.chunks(features):
        known = _prepared(features[part, :], mean, distance)
        gap = asked @ known.T + xp.sum(known * known, axis=1)
        # one more than asked for: the query itself may be among them
        found = arrays.smallest(gap, min(k + 1, int(known.shape[0])))
        gap = xp.take_along_axis(gap, found, axis=1)
        found = found + part.start
        if best is not None:
            gap, found = xp.concat([best[0], gap], axis=1), xp.concat([best[1], found], axis=1)
            keep = arrays.smallest(gap, min(k + 1, int(gap.shape[1])))
            gap = xp.take_along_axis(gap, keep, axis=1)
            found = xp.take_along_axis(found, keep, axis=1)
        best = gap, found
    assert best is not None  # there is at least one chunk
    gaps, nearest = best
    gaps = xp.where(nearest == queries[:, None], xp.inf, gaps)
    return xp.take_along_axis(nearest, arrays.smallest(gaps, k), axis=1)


def _prepared(features: Array, mean: Array, distance: Distance) -> Array:
    """Features whose squared Euclidean distance orders as the distance asked for."""
    xp = arrays.namespace(features)
    if distance == "euclidean":
        return features - mean  # distances stay the same, their rounding shrinks
    length = xp.sqrt(xp.sum(features * features, axis=1))[:, None]
    return features / xp.where(length > 0, length, 1.0)


def _hits(embedding: Embedding, neighbours: Array) -> Array:
    """1.0 for each query whose neighbours vote for its class, else 0.0."""
    xp = arrays.namespace(neighbours)
    m, k = map(int, neighbours.shape)
    votes = xp.reshape(xp.take(embedding.labels, xp.reshape(neighbours, (-1,))), (m, k))
    # nearer neighbours weigh more, by less than one vote in sum: it decides ties only; in whole
    # numbers, so that what is left of ties goes to the nearest and not by rounding
    weights = k * (k + 1) + xp.arange(k, 0, -1, device=arrays.device_of(votes))
    same = votes[:, :, None] == votes[:, None, :]
    support = xp.sum(xp.where(same, weights[None, None, :], 0), axis=2)
    winner = xp.take_along_axis(votes, xp.argmax(support, axis=1)[:, None], axis=1)[:, 0]
    return xp.astype(winner == embedding.influence_labels, xp.float64)


ABOUT = About(
    "leave-one-out accuracy of 5 nearest neighbours", "0 to 1 (R² to 1)", "Cover & Hart, 1967"
)
BEHAVIOUR = Behaviour(changes_with=("duplicated rows",))
KNN = Metric("knn", measure, ABOUT, tasks=EVERYTHING, behaviour=BEHAVIOUR)
