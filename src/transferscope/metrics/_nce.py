"""NCE: negative conditional entropy of the labels given the most probable source class.

Tran, Nguyen & Hassner, "Transferability and Hardness of Supervised Classification Tasks",
ICCV 2019.
"""

from __future__ import annotations

from transferscope.embedding import Embedding
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import SOURCE, About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike


@documented
def nce(source_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """NCE: ``-H(Y | Z)``, Z the most probable source class of each sample.

    Returns
    -------
    float
        In [-ln C, 0], higher is better; natural logarithm.

    Notes
    -----
    Cost: one pass, O(n C_s).

    Examples
    --------
    >>> from transferscope.metrics import nce
    >>> round(nce(np.array([[0.9, 0.1], [0.2, 0.8]]), [0, 1]), 12)
    0.0

    References
    ----------
    Tran et al., ICCV 2019 (arXiv 1908.08142).
    """
    return measure(
        Embedding(source_probabilities, labels, source_probabilities=source_probabilities)
    ).value


def measure(embedding: Embedding) -> Measurement:
    """NCE of an embedding; see `nce`."""
    counts = embedding.source.counts
    xp = arrays.namespace(counts)
    mass = xp.sum(counts, axis=0)
    seen = counts > 0
    conditional = counts / xp.where(mass > 0, mass, 1.0)[None, :]
    logs = xp.log(xp.where(seen, conditional, 1.0))
    value = float(xp.sum(counts * logs)) / embedding.n_samples

    def influence() -> Array:
        rows, labels = embedding.influence_rows, embedding.influence_labels
        n_source = int(counts.shape[1])
        pairs = labels * n_source + xp.take(embedding.source.predicted, rows)
        terms = xp.take(xp.reshape(logs, (-1,)), pairs)
        return terms - xp.mean(terms)

    return Measurement(value + 0.0, influence, tuple(embedding.shared_warnings(of_features=False)))


ABOUT = About(
    "minus entropy of labels given the source class", "-ln C to 0", "Tran et al., ICCV 2019"
)
BEHAVIOUR = Behaviour(uses_features=False)
NCE = Metric("nce", measure, ABOUT, needs=SOURCE, behaviour=BEHAVIOUR)
