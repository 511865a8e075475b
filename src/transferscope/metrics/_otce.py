"""OTCE and OT-NCE: how far the features are from the reference task's, and what the
reference labels then say about the labels.

Tan, Li & Huang, "OTCE: A Transferability Metric for Cross-Domain Cross-Task Representations",
CVPR 2021; "Transferability-Guided Cross-Domain Cross-Task Transfer Learning" (F-OTCE), 2022.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from transferscope.embedding import Embedding, computed_once
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import REFERENCE, About, Behaviour, Metric
from transferscope.numerics import arrays, transport
from transferscope.numerics.arrays import Array, ArrayLike, NumpyArray
from transferscope.numerics.sampling import stratified_rows

#: Samples of either side that are transported; more are drawn from, by class.
LIMIT = 2_500


@documented
def otce(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    reference_features: ArrayLike,
    reference_labels: ArrayLike,
    cost_weight: float = 1.0,
    entropy_weight: float = 1.0,
) -> float:
    """OTCE: minus the weighted sum of a transport cost and a conditional entropy of labels.

    The optimal plan π carries the reference task's features to the features (equal weights, squared
    Euclidean cost). ``W = Σ π_ij ‖x_i − r_j‖²``; ``H(Y | Y_ref)`` is taken under the joint
    distribution of labels that π induces; the score is ``−cost_weight·W − entropy_weight·H``.

    Parameters
    ----------
    cost_weight, entropy_weight : float
        ``1, 0`` gives −W, ``0, 1`` gives `ot_nce`.

    Returns
    -------
    float
        At most 0; higher is better. W is in squared units of the features, H in nats.

    Notes
    -----
    Cost: O(n m d) for the distances of n and m samples, at most 2 500 on either side, and the
    network simplex on the host, a few seconds then; shared with `ot_nce`.

    The authors fit both weights on encoders whose accuracy is known. With the default weights W,
    which grows with the scale and number of features, usually decides alone: encoders are
    comparable where their features are, say after standardising, or by weights of your own. A W of
    subsamples is larger than that of all samples, the more the more features there are.

    Examples
    --------
    >>> from transferscope.metrics import otce
    >>> reference = np.array([[0.0], [4.0]])
    >>> otce(reference + 1, [0, 1], reference_features=reference, reference_labels=[7, 9])
    -1.0

    References
    ----------
    Tan et al., CVPR 2021 (arXiv 2103.13843).
    """
    embedding = Embedding(
        features,
        labels,
        reference_features=reference_features,
        reference_labels=reference_labels,
    )
    return measure_otce(embedding, cost_weight, entropy_weight).value


@documented
def ot_nce(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    reference_features: ArrayLike,
    reference_labels: ArrayLike,
) -> float:
    """OT-NCE: ``-H(Y | Y_ref)`` under the optimal coupling with the reference task.

    Returns
    -------
    float
        In [-ln C, 0], higher is better; natural logarithm.

    Notes
    -----
    Cost: as `otce`, with which it shares the plan.

    Examples
    --------
    >>> from transferscope.metrics import ot_nce
    >>> reference = np.array([[0.0], [0.1], [4.0], [4.1]])
    >>> known = {"reference_features": reference, "reference_labels": [7, 7, 9, 9]}
    >>> ot_nce(reference + 1, [0, 0, 1, 1], **known)
    0.0

    References
    ----------
    Tan et al., CVPR 2021 (arXiv 2103.13843) and 2022 (arXiv 2207.05510).
    """
    embedding = Embedding(
        features,
        labels,
        reference_features=reference_features,
        reference_labels=reference_labels,
    )
    return measure_ot_nce(embedding).value


class _Transported(NamedTuple):
    """The reference task transported to the samples."""

    rows: NumpyArray  # the m kept samples it is transported to
    cost: float
    cost_terms: NumpyArray  # (m,) how the cost grows with each one's weight
    entropy: float
    entropy_terms: NumpyArray  # (m,) the same of the entropy, the plan held fixed
    warnings: tuple[str, ...]


@computed_once
def _transported(embedding: Embedding) -> _Transported:
    """The optimal plan between the reference task and the samples, and what follows from it."""
    embedding.check_features()
    labels = arrays.to_numpy(embedding.labels)
    reference_labels = arrays.to_numpy(embedding.reference.labels)
    n, m = len(labels), len(reference_labels)
    rows = stratified_rows(labels, n, LIMIT, embedding.seed)
    columns = stratified_rows(reference_labels, m, LIMIT, embedding.seed)
    reference = embedding.reference.features
    cost = transport.ground_cost(
        embedding.matrix.take(arrays.from_numpy(rows, embedding.labels)),
        arrays.namespace(reference).take(
            reference, arrays.from_numpy(columns, embedding.labels), axis=0
        ),
    )
    plan = transport.exact_plan(cost)
    own, theirs = labels[rows], reference_labels[columns]
    to_reference = np.asarray(
        arrays.class_sums(plan.coupling.T, theirs, int(reference_labels.max()) + 1)
    )
    joint = arrays.class_sums(to_reference.T, own, embedding.n_classes)
    mass = np.sum(joint, axis=0)
    conditional = joint / np.where(mass > 0, mass, 1.0)
    logs = np.log(np.where(joint > 0, conditional, 1.0))
    warnings = tuple(
        f"{name}: a stratified sample of {LIMIT} of {size}"
        for name, size in (("transported samples", n), ("reference samples", m))
        if size > LIMIT
    )
    return _Transported(
        rows=rows,
        cost=plan.cost,
        cost_terms=plan.row_potentials,
        entropy=-float(np.sum(joint * logs)),
        entropy_terms=-len(rows) * np.sum(to_reference.T * logs[own], axis=1),
        warnings=warnings,
    )


def measure_otce(
    embedding: Embedding, cost_weight: float = 1.0, entropy_weight: float = 1.0
) -> Measurement:
    """OTCE of an embedding; see `otce`."""
    transported = _transported(embedding)
    value = -cost_weight * transported.cost - entropy_weight * transported.entropy
    terms = -cost_weight * transported.cost_terms - entropy_weight * transported.entropy_terms

    def influence() -> Array:
        # only the samples that were transported to say anything, each for all that were not
        rows = arrays.to_numpy(embedding.influence_rows)
        spread = math.sqrt(embedding.n_samples * rows.size) / transported.rows.size
        every = np.zeros(embedding.n_kept)
        every[transported.rows] = spread * (terms - np.mean(terms))
        return arrays.from_numpy(every[rows], embedding.labels)

    warnings = (*embedding.shared_warnings(), *transported.warnings)
    return Measurement(value + 0.0, influence, warnings)


def measure_ot_nce(embedding: Embedding) -> Measurement:
    """OT-NCE of an embedding; see `ot_nce`."""
    return measure_otce(embedding, 0.0, 1.0)


OTCE_ABOUT = About(
    "transport cost and label entropy to the reference task", "at most 0", "Tan et al., CVPR 2021"
)
OTCE_BEHAVIOUR = Behaviour(
    changes_with=("scale",), copied_to_host="the matrix of costs, for the exact transport"
)
OTCE = Metric("otce", measure_otce, OTCE_ABOUT, needs=REFERENCE, behaviour=OTCE_BEHAVIOUR)


OT_NCE_ABOUT = About(
    "minus entropy of labels given the transported ones", "-ln C to 0", "Tan et al., CVPR 2021"
)
OT_NCE_BEHAVIOUR = Behaviour(copied_to_host="the matrix of costs, for the exact transport")
OT_NCE = Metric("ot_nce", measure_ot_nce, OT_NCE_ABOUT, needs=REFERENCE, behaviour=OT_NCE_BEHAVIOUR)
