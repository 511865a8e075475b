"""Any metric after potential-energy decline: ``logme+ped`` and its like.

A wrapper around the rows of the metric table, kept apart from them: a metric knows nothing of PED,
and PED (`transferscope.metrics._potential_energy`) knows no metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from transferscope.embedding import ClassStatistics, Embedding, computed_once
from transferscope.errors import InputError
from transferscope.metrics._combined import combined_metric
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import About, Metric
from transferscope.metrics._potential_energy import (
    SMALLEST_DEVIATION,
    Decline,
    own_deviation,
    potential_energy_decline,
)
from transferscope.metrics._table import METRICS
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike, NumpyArray
from transferscope.results import PedTrace

#: What follows a metric's name to have it measured after PED.
SUFFIX = "+ped"
#: Groups of the jackknife, see `with_ped`.
GROUPS = 32
#: Relative standard error of the displacement's length from which on that is made.
LARGEST_UNCERTAINTY = 0.2


def applies_to(metric: Metric) -> bool:
    """Whether the metric looks at features of labelled samples, which PED moves."""
    return "classification" in metric.tasks and "source_probabilities" not in metric.needs


def with_ped(metric: Metric) -> Metric:
    """The metric measured after PED has displaced the classes; named ``<metric>+ped``.

    Its measurement is that of the displaced features, exactly: from moments where the metric needs
    moments only. Its influences are those of the samples on the metric with the displacement held
    fixed, which leaves out little as long as the displacement is well determined. Where it is not
    (its length uncertain by more than a fifth), as when one feature that hardly varies in the
    reference task rules it, a delete-a-group jackknife over the displacement alone adds its share,
    for 32 more measurements.

    Raises
    ------
    InputError
        If it does not look at features, which is all that PED changes.
    """
    if not applies_to(metric):
        able = ", ".join(name for name, other in METRICS.items() if applies_to(other))
        raise InputError(
            f"{metric.name} does not look at the features, which is all that PED changes: there is "
            f"no {metric.name}{SUFFIX}. PED goes with: {able}."
        )
    name = metric.name + SUFFIX
    parts = {
        part + SUFFIX if applies_to(METRICS[part]) else part: weight
        for part, weight in metric.parts.items()
    }
    summary = f"{metric.about.summary}, after potential-energy decline"
    publication = f"{metric.about.publication}; Li et al., ICCV 2023"
    if parts:
        return combined_metric(name, parts, summary, publication)
    return replace(
        metric,
        name=name,
        measure=partial(_measure, metric),
        tasks=("classification",),
        needs_targets=True,
        about=About(summary, metric.about.range, publication),
    )


def _measure(metric: Metric, embedding: Embedding) -> Measurement:
    displaced, decline, warnings = after_ped(embedding)
    measurement = metric.measure(displaced)
    return replace(
        measurement,
        influence=partial(_influence, metric, embedding, decline, measurement.influence),
        warnings=(*measurement.warnings, *warnings),
    )


@computed_once
def after_ped(embedding: Embedding) -> tuple[Embedding, Decline, tuple[str, ...]]:
    """The embedding with its classes displaced by PED, how they moved, and what to say of that.

    Worked out once per embedding, for all metrics. The reference task of the embedding, where it
    has one, sets the scale of every feature.
    """
    embedding.check_features()
    decline = potential_energy_decline(embedding.moments, _reference_deviation(embedding))
    warnings = tuple(_warnings(embedding, decline))
    return embedding.displaced(decline.displacement), decline, warnings


def trace_ped(
    features: ArrayLike, labels: ArrayLike, *, reference_features: ArrayLike | None = None
) -> PedTrace:
    """How PED moves the classes of one encoder's features, ready to be drawn.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
    labels : array-like of shape (n_samples,)
    reference_features : array of shape (n_reference, n_features), optional
        The same encoder's features of a reference task, which set the scale of each feature.

    Returns
    -------
    PedTrace

    Raises
    ------
    InputError
        If shapes disagree or fewer than two classes occur.
    FeatureError
        If features are not finite or all the same.

    Examples
    --------
    >>> from transferscope.metrics import trace_ped
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(90) % 3
    >>> trace = trace_ped(0.3 * np.eye(3)[labels] + rng.standard_normal((90, 3)), labels)
    >>> trace.energies[0] > trace.energies[-1]
    True
    """
    embedding = Embedding(features, labels, reference_features=reference_features)
    _, decline, warnings = after_ped(embedding)
    moments = embedding.moments
    counts, means, within, moves = (
        arrays.to_numpy(a)
        for a in (moments.counts, moments.means, moments.within_squares, decline.displacement)
    )
    centred = means - counts @ means / counts.sum()
    _, spread, axes = np.linalg.svd(np.sqrt(counts)[:, None] * centred, full_matrices=False)
    plane = np.zeros((2, means.shape[1]))
    plane[: min(2, len(axes))] = axes[:2]
    total = float((spread**2).sum())
    variances = within / counts[:, None]
    return PedTrace(
        class_names=tuple(str(name) for name in embedding.classes.names),
        before=_points(centred @ plane.T),
        after=_points((centred + moves) @ plane.T),
        radii=tuple(float(r) for r in np.sqrt((variances @ (plane**2).T).sum(axis=1))),
        explained=float((spread[:2] ** 2).sum()) / total if total > 0 else 0.0,
        energies=decline.energies,
        displacement=float(np.sqrt(counts @ (moves**2).sum(axis=1))),
        warnings=warnings,
    )


def _points(rows: NumpyArray) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in rows)


def _reference_deviation(embedding: Embedding) -> Array | None:
    return None if "reference_features" not in embedding.inputs else embedding.reference.deviation


def _warnings(embedding: Embedding, decline: Decline) -> list[str]:
    warnings = []
    if "reference_features" not in embedding.inputs:
        warnings.append(
            "PED without a reference task: standardised by the target's own mean and deviation"
        )
    else:
        still = embedding.reference.deviation < SMALLEST_DEVIATION
        blown_up = still & (own_deviation(embedding.moments) > SMALLEST_DEVIATION)
        xp = arrays.namespace(blown_up)
        how_many = int(xp.sum(xp.astype(blown_up, xp.int64)))
        if how_many:
            warnings.append(
                f"PED is ruled by {how_many} features that vary here but hardly in the reference "
                f"task (deviation below {SMALLEST_DEVIATION:g})"
            )
    if decline.n_steps == 0:
        warnings.append("PED moved nothing: no two classes overlap")
    return warnings


def _influence(
    metric: Metric, embedding: Embedding, decline: Decline, fixed: Callable[[], Array]
) -> Array:
    """Influences with the displacement held fixed and, where it is unsure, its own share."""
    influence = fixed()
    changes = _changes(embedding)
    if changes is None:
        return influence
    values = [
        metric.measure(embedding.displaced(decline.displacement + change)).value
        for change in changes
    ]
    xp = arrays.namespace(influence)
    groups = _groups(embedding)
    # so that std / sqrt(m) over the m rows is the jackknife's standard error
    spread = math.sqrt(int(groups.shape[0]) * (GROUPS - 1))
    per_group = spread * (np.mean(values) - np.asarray(values))
    share = xp.take(arrays.from_numpy(per_group, influence), groups)
    return influence + share - xp.mean(share)


def _groups(embedding: Embedding) -> Array:
    """The group of each of `influence_rows`."""
    m = int(embedding.influence_rows.shape[0])
    groups = np.random.default_rng(embedding.seed).permutation(m) % GROUPS
    return arrays.from_numpy(groups, embedding.influence_rows)


@computed_once
def _changes(embedding: Embedding) -> list[Array] | None:
    """How the displacement changes without each group; None where its length is well determined.

    From `influence_rows`, of which class sums are all that it takes.
    """
    labels, groups = embedding.influence_labels, _groups(embedding)
    xp = arrays.namespace(embedding.moments.means)
    C, centre = embedding.n_classes, embedding.moments.means
    parts = []
    for g in range(GROUPS):
        inside = xp.nonzero(groups == g)[0]
        ids = xp.take(labels, inside)
        rows = arrays.as_float64(embedding.matrix.take(xp.take(embedding.influence_rows, inside)))
        rows = rows - xp.take(centre, ids, axis=0)
        sums = (arrays.class_sums(rows, ids, C), arrays.class_sums(rows * rows, ids, C))
        parts.append((arrays.class_counts(ids, C), *sums))
    counts, sums, squares = (sum(values[1:], values[0]) for values in zip(*parts, strict=True))

    def displacement(n: Array, s: Array, q: Array) -> Array:
        offset = s / xp.where(n > 0, n, 1.0)[:, None]
        within = q - n[:, None] * offset**2
        statistics = ClassStatistics(n, centre + offset, xp.where(within > 0, within, 0.0))
        return potential_energy_decline(statistics, _reference_deviation(embedding)).displacement

    whole = displacement(counts, sums, squares)
    changes = []
    for n, s, q in parts:
        change = displacement(counts - n, sums - s, squares - q) - whole
        changes.append(xp.where((counts > n)[:, None], change, 0.0))
    # the length of the displacement, in units of the features' own deviation
    deviation = own_deviation(embedding.moments)
    weights = counts[:, None] * whole / xp.where(deviation > 0, deviation, xp.inf) ** 2
    length = float(xp.sum(weights * whole))
    if length == 0:
        return None
    longer = np.asarray([float(xp.sum(weights * change)) for change in changes]) / length
    unsure = float(np.sqrt((GROUPS - 1) * longer.var()))
    return changes if unsure > LARGEST_UNCERTAINTY else None
