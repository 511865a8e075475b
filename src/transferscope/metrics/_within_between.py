"""Within- to between-class variance: the cheapest baseline, and the measure of neural collapse.

Papyan, Han & Donoho, "Prevalence of neural collapse during the terminal phase of deep learning
training", PNAS 2020, study this kind of ratio; the trace form needs no inverse.
"""

from __future__ import annotations

from transferscope.embedding import Embedding
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import About, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike


@documented
def within_between(features: ArrayLike, labels: ArrayLike) -> float:
    """Within-class over between-class variance, negated: ``-tr(S_w) / tr(S_b)``.

    Returns
    -------
    float
        At most 0, which means that every class is one point; higher is better.

    Notes
    -----
    Cost: O(C d) from the class moments. Unchanged by rotation, shift and a common scale. Where the
    class means coincide the ratio has no bound: it is then held at minus the reciprocal of the
    rounding of float64, with a warning.

    Examples
    --------
    >>> from transferscope.metrics import within_between
    >>> within_between(np.array([[0.0], [2.0], [4.0], [6.0]]), [0, 0, 1, 1])
    -0.25

    References
    ----------
    Papyan, Han & Donoho, PNAS 2020 (arXiv 2008.08186).
    """
    return measure(Embedding(features, labels)).value


def measure(embedding: Embedding) -> Measurement:
    """Negated within- to between-class variance of an embedding; see `within_between`."""
    mean = embedding.total.mean
    xp = arrays.namespace(mean)
    counts, n = embedding.moments.counts, embedding.n_samples
    offsets = embedding.moments.means - mean
    squares = xp.sum(offsets * offsets, axis=1)
    within = float(xp.sum(embedding.moments.within_squares)) / n
    between = float(counts @ squares) / n
    rounding = float(xp.finfo(xp.float64).eps) * (within + between)
    warnings = embedding.shared_warnings()
    if between <= rounding:
        between = rounding
        warnings.append("the class means coincide: the value is a bound, not a ratio")
    elif within <= rounding:
        within = 0.0
        warnings.append("every class is a single point: the value is the largest there is")

    def influence() -> Array:
        labels = embedding.influence_labels
        centred = arrays.as_float64(embedding.matrix.take(embedding.influence_rows)) - mean
        total_term = xp.sum(centred * centred, axis=1)
        between_term = 2 * xp.sum(centred * xp.take(offsets, labels, axis=0), axis=1) - xp.take(
            squares, labels
        )
        terms = (between_term * (within + between) / between - total_term) / between
        return terms - xp.mean(terms)

    return Measurement(-within / between if within else 0.0, influence, tuple(warnings))


ABOUT = About(
    "within- to between-class variance, negated", "at most 0", "Papyan, Han & Donoho, PNAS 2020"
)
WITHIN_BETWEEN = Metric("within_between", measure, ABOUT, from_moments=True)
