"""LEEP: log expected empirical prediction through the source model's own classes.

Nguyen, Hassner, Seeger & Archambeau, "LEEP: A New Measure to Evaluate Transferability of Learned
Representations", ICML 2020.
"""

from __future__ import annotations

from transferscope.embedding import Embedding
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import SOURCE, About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike


@documented
def leep(source_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """LEEP: mean log-likelihood of the labels under a dummy classifier on source classes.

    The encoder's own head says how probable each source class z is for a sample; the empirical
    ``P(y | z)`` turns that into a prediction of the label: ``mean_i ln Σ_z P(y_i | z) θ_iz``.

    Returns
    -------
    float
        At most 0, higher is better; natural logarithm.

    Notes
    -----
    Cost: two passes over the probabilities, O(n C_s). A source class of no mass at all says nothing
    and is left out; some public code returns NaN there.

    Examples
    --------
    >>> from transferscope.metrics import leep
    >>> round(leep(np.array([[0.9, 0.1], [0.1, 0.9]]), [0, 1]), 6)
    -0.198451

    References
    ----------
    Nguyen et al., ICML 2020 (arXiv 2002.12462).
    """
    return measure(
        Embedding(source_probabilities, labels, source_probabilities=source_probabilities)
    ).value


def measure(embedding: Embedding) -> Measurement:
    """LEEP of an embedding; see `leep`."""
    joint = embedding.source.joint
    xp = arrays.namespace(joint)
    mass = xp.sum(joint, axis=0)
    divisor = xp.where(mass > 0, mass, 1.0)
    conditional = joint / divisor[None, :]
    theta = arrays.as_float64(embedding.source.probabilities)
    likelihood = xp.sum(theta * xp.take(conditional, embedding.labels, axis=0), axis=1)
    log_likelihood = xp.log(likelihood)
    value = float(xp.mean(log_likelihood))

    def influence() -> Array:
        # the sample's own term, and what it does to P(y | z) of all others
        weight = arrays.class_sums(
            theta / likelihood[:, None], embedding.labels, embedding.n_classes
        ) / int(theta.shape[0])
        expected = xp.sum(conditional * weight, axis=0)
        rows, labels = embedding.influence_rows, embedding.influence_labels
        pull = (xp.take(weight, labels, axis=0) - expected[None, :]) / divisor[None, :]
        terms = xp.take(log_likelihood, rows) + xp.sum(xp.take(theta, rows, axis=0) * pull, axis=1)
        return terms - xp.mean(terms)

    warnings = embedding.shared_warnings(of_features=False)
    dead = int(xp.sum(xp.astype(mass == 0, xp.int64)))
    if dead:
        warnings.append(f"{dead} source classes never predicted, left out")
    return Measurement(value, influence, tuple(warnings))


ABOUT = About(
    "likelihood of labels through the source classes", "at most 0", "Nguyen et al., ICML 2020"
)
BEHAVIOUR = Behaviour(uses_features=False)
LEEP = Metric("leep", measure, ABOUT, needs=SOURCE, behaviour=BEHAVIOUR)
