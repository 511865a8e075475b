"""Task-relatedness as a score: minus the bound on the loss of a head taken over from a reference
task.

Mehra, Zhang & Hamm, "Understanding the Transferability of Representations via Task-Relatedness",
NeurIPS 2024.
"""

from __future__ import annotations

import math

import numpy as np

from transferscope.embedding import Embedding
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import EVERYTHING, REFERENCE, About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike, NumpyArray
from transferscope.numerics.sampling import stratified_rows
from transferscope.relatedness import task_relatedness
from transferscope.results import Relatedness

#: Samples of either side that are looked at; more are drawn from, by class.
LIMIT = 5_000
#: How often the bound is learned anew for its standard error.
REFITS = 6


@documented
def relatedness(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    reference_features: ArrayLike,
    reference_labels: ArrayLike,
) -> float:
    """Minus the bound on the loss of a head on the target, by its relatedness to a reference task.

    The bound is that of ``transferscope.relatedness.task_relatedness`` in its setting ``sparse``,
    evaluated on a fifth of the samples.

    Returns
    -------
    float
        At most 0, in nats; higher is better.

    Raises
    ------
    InputError
        If shapes disagree or fewer than two classes with three samples each occur on either side.

    Notes
    -----
    Cost: that of `task_relatedness` for at most 5 000 samples on either side: seconds. An interval
    takes a multiple of that: the bound is learned anew on random halves of the samples, six times,
    for its terms on held-out samples leave out how much what is learned varies.

    Examples
    --------
    >>> from transferscope.metrics import relatedness
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(200) % 2
    >>> reference = 4 * np.eye(2)[labels] + rng.standard_normal((200, 2))
    >>> near, far = reference[::-1], rng.standard_normal((200, 2))
    >>> known = {"reference_features": reference, "reference_labels": labels}
    >>> relatedness(near, labels[::-1], **known) > relatedness(far, labels, **known)
    True

    References
    ----------
    Mehra, Zhang & Hamm, NeurIPS 2024 (arXiv 2307.00823).
    """
    embedding = Embedding(
        features,
        labels,
        reference_features=reference_features,
        reference_labels=reference_labels,
    )
    return measure_relatedness(embedding).value


@documented
def relatedness_unlabelled(
    features: ArrayLike, *, reference_features: ArrayLike, reference_labels: ArrayLike
) -> float:
    """`relatedness` without looking at labels: pseudo-labels of the transformed head replace them.

    Returns
    -------
    float
        At most 0, in nats; higher is better. It bounds a loss by pseudo-labels: of tasks that the
        reference's classes do not describe it says little.

    Raises
    ------
    InputError
        If shapes disagree or fewer than two reference classes with three samples each occur.

    Notes
    -----
    Cost: as `relatedness`.

    Examples
    --------
    >>> from transferscope.metrics import relatedness_unlabelled
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(200) % 2
    >>> reference = 4 * np.eye(2)[labels] + rng.standard_normal((200, 2))
    >>> near, far = reference[::-1], rng.standard_normal((200, 2))
    >>> known = {"reference_features": reference, "reference_labels": labels}
    >>> relatedness_unlabelled(near, **known) > relatedness_unlabelled(far, **known)
    True

    References
    ----------
    Mehra, Zhang & Hamm, NeurIPS 2024 (arXiv 2307.00823).
    """
    embedding = Embedding(
        features, reference_features=reference_features, reference_labels=reference_labels
    )
    return measure_relatedness_unlabelled(embedding).value


def measure_relatedness(embedding: Embedding) -> Measurement:
    """Relatedness of an embedding; see `relatedness`."""
    return _measure(embedding, arrays.to_numpy(embedding.labels))


def measure_relatedness_unlabelled(embedding: Embedding) -> Measurement:
    """Relatedness of an embedding whose labels are not looked at; see `relatedness_unlabelled`."""
    return _measure(embedding, None)


def _measure(embedding: Embedding, labels: NumpyArray | None) -> Measurement:
    embedding.check_features()
    reference, reference_labels = (
        embedding.reference.features,
        arrays.to_numpy(embedding.reference.labels),
    )
    rows = stratified_rows(labels, embedding.n_kept, LIMIT, embedding.seed)
    columns = stratified_rows(reference_labels, len(reference_labels), LIMIT, embedding.seed)
    xp = arrays.namespace(reference)

    def related_with(n_refits: int) -> Relatedness:
        return task_relatedness(
            embedding.matrix.take(arrays.from_numpy(rows, reference)),
            None if labels is None else labels[rows],
            reference_features=xp.take(reference, arrays.from_numpy(columns, reference), axis=0),
            reference_labels=reference_labels[columns],
            tau="width",
            measure_target=False,
            measure_noise=False,
            n_refits=n_refits,
            seed=embedding.seed,
        )

    related = related_with(0)
    warnings = tuple(
        f"{name}: a stratified sample of {LIMIT} of {size}"
        for name, size in (
            ("samples", embedding.n_kept),
            ("reference samples", len(reference_labels)),
        )
        if size > LIMIT
    )

    def influence() -> Array:
        # only held-out samples say anything, each for all that were not; what is learned varies as
        # well, which no sample's own term shows: all terms are scaled to the error with refits
        kept = arrays.to_numpy(embedding.influence_rows)
        terms, held_out_rows = related.target_terms, related.held_out_rows
        assert terms is not None
        assert held_out_rows is not None
        error = related_with(REFITS).standard_errors["bound"]
        wider = error / related.standard_errors["bound"] if error > 0 else 1.0
        every = np.zeros(embedding.n_kept)
        held_out = rows[held_out_rows]
        every[held_out] = (
            wider
            * math.sqrt(embedding.n_samples * kept.size)
            / terms.size
            * (np.mean(terms) - terms)
        )
        chosen = every[kept]
        return arrays.from_numpy(chosen - np.mean(chosen), embedding.influence_rows)

    return Measurement(
        -related.bound, influence, (*embedding.shared_warnings(), *warnings, *related.warnings)
    )


RELATEDNESS_ABOUT = About(
    "minus the bound on a head's loss by relatedness to the reference task",
    "at most 0",
    "Mehra et al., NeurIPS 2024",
)
RELATEDNESS_BEHAVIOUR = Behaviour(
    changes_with=("row order", "duplicated rows", "rotation"),
    warns_of=("singleton class",),
    float32_tolerance=0.001,
    copied_to_host="gradients, outputs of the heads and matrices of distances",
)
RELATEDNESS = Metric(
    "relatedness",
    measure_relatedness,
    RELATEDNESS_ABOUT,
    needs=REFERENCE,
    behaviour=RELATEDNESS_BEHAVIOUR,
)


RELATEDNESS_UNLABELLED_ABOUT = About(
    "the same bound by pseudo-labels; label-free", "at most 0", "Mehra et al., NeurIPS 2024"
)
RELATEDNESS_UNLABELLED_BEHAVIOUR = Behaviour(
    prefers_separable=False,
    changes_with=("row order", "duplicated rows", "rotation"),
    float32_tolerance=0.001,
    copied_to_host="gradients, outputs of the heads and matrices of distances",
)
RELATEDNESS_UNLABELLED = Metric(
    "relatedness_unlabelled",
    measure_relatedness_unlabelled,
    RELATEDNESS_UNLABELLED_ABOUT,
    tasks=EVERYTHING,
    needs=REFERENCE,
    needs_targets=False,
    behaviour=RELATEDNESS_UNLABELLED_BEHAVIOUR,
)
