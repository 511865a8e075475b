"""What each metric measures of each encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy

from transferscope.encoders import POOLED
from transferscope.errors import FeatureError
from transferscope.extraction import Extracted
from transferscope.metrics import EncoderScores, Metric, MetricPlan, measure_all
from transferscope.numerics import arrays
from transferscope.numerics.arrays import NumpyArray
from transferscope.ranking._evidence import Evidence, evidence_of
from transferscope.results import EncoderResult, Score


@dataclass
class Measured:
    """One encoder before it has a place in the ranking.

    Attributes
    ----------
    result : EncoderResult
        Its scores, without rank and intervals; or why there are none.
    influences : dict of str to (m,) array
        Influence of each sample on each score.
    n_samples : int
        Samples that were looked at.
    n_kept : int
        Those of them that are looked at one by one: fewer where features are not stored.
    evidence : Evidence or None
        What its probe says of single samples; None without a probe of classes.
    """

    result: EncoderResult
    influences: dict[str, NumpyArray] = field(default_factory=dict)
    n_samples: int = 0
    n_kept: int = 0
    evidence: Evidence | None = None

    @property
    def failed(self) -> bool:
        """Whether it cannot be ranked."""
        return self.result.error is not None


def measure_candidate(
    item: Extracted,
    reference: Extracted | None,
    metrics: Sequence[Metric],
    seed: int,
    probe: Metric | None = None,
) -> Measured:
    """Score one encoder, by its best layer where there are several.

    Parameters
    ----------
    item : Extracted
    reference : Extracted or None
        The same encoder's features of the reference.
    metrics : sequence of Metric
        Without those that compare encoders.
    seed : int
    probe : Metric, optional
        Measured as well; it chooses the layer only where no other metric can.

    Returns
    -------
    Measured
        What goes wrong becomes its error.
    """
    facts = EncoderResult(
        encoder=item.identifier,
        n_parameters=item.n_parameters,
        feature_dim=item.feature_dim,
        input_size=item.input_size,
        samples_per_second=item.samples_per_second,
        error=item.error,
    )
    if item.error is not None:
        return Measured(facts)
    every = list({one.name: one for one in (*metrics, *([probe] if probe else []))}.values())
    by_layer = {
        layer: _measure_layer(facts, item, layer, reference, every, seed, probe)
        for layer in item.layers
    }
    scores = {layer: one.result.scores for layer, one in by_layer.items() if not one.failed}
    if not scores:
        return next(iter(by_layer.values()))
    best = _best_layer(scores, {one.name for one in metrics})
    chosen = by_layer[best]
    failures = tuple(
        f"no scores of {layer}: {one.result.error}" for layer, one in by_layer.items() if one.failed
    )
    chosen.result = replace(
        chosen.result,
        layer=None if list(by_layer) == [POOLED] else best,
        layers=scores if len(by_layer) > 1 else {},
        warnings=item.warnings + failures,
    )
    return chosen


def _measure_layer(
    facts: EncoderResult,
    item: Extracted,
    layer: str,
    reference: Extracted | None,
    metrics: Sequence[Metric],
    seed: int,
    probe: Metric | None,
) -> Measured:
    scores: dict[str, Score] = {}
    influences: dict[str, NumpyArray] = {}
    try:
        embedding = item.embedding(seed, reference, layer)
        facts = replace(facts, feature_dim=embedding.n_features)
        measured, skipped = measure_all(embedding, metrics)
        for name, (measurement, seconds) in measured.items():
            influence = arrays.to_numpy(measurement.influence())
            if np.isfinite(influence).all():
                scores[name] = Score(measurement.value, measurement.warnings, seconds)
                influences[name] = influence
            else:
                skipped[name] = "its uncertainty came out as NaN or infinity"
        evidence = None
        if probe is not None and probe.name in scores:
            evidence = evidence_of(embedding, item.rows(layer), item.dataset.require_labels()[1])
    except (FeatureError, MemoryError, np.linalg.LinAlgError) as error:
        return Measured(replace(facts, error=str(error) or "not enough memory to score it"))
    reason = None if scores else "; ".join(f"{name}: {why}" for name, why in skipped.items())
    done = replace(facts, scores=scores, skipped=skipped, error=reason)
    return Measured(done, influences, embedding.n_samples, embedding.n_kept, evidence)


def _best_layer(scores: Mapping[str, Mapping[str, Score]], asked: set[str]) -> str:
    """The layer of the best mean rank over the metrics that all have; of equals the deepest."""
    shared = set.intersection(*(set(those) for those in scores.values()))
    common = shared & asked or shared
    if not common:
        return list(scores)[-1]
    table = np.array([[scores[layer][name].value for name in sorted(common)] for layer in scores])
    mean_rank = scipy.stats.rankdata(-table, axis=0).mean(axis=1)
    deepest = int(np.flatnonzero(mean_rank == mean_rank.min())[-1])
    return list(scores)[deepest]


def combine_scores(measured: Sequence[Measured], plan: MetricPlan) -> list[Measured]:
    """Add the metrics that compare encoders, and leave out parts that were not asked for.

    Parameters
    ----------
    measured : sequence of Measured
        Those that did not fail.
    plan : MetricPlan

    Returns
    -------
    list of Measured
    """
    scored = [
        EncoderScores(dict(one.result.scores), dict(one.influences), dict(one.result.skipped))
        for one in measured
    ]
    plan.combine(scored)
    names = [metric.name for metric in plan.asked]
    return [
        replace(
            one,
            influences=those.influences,
            result=replace(
                one.result,
                scores=those.scores,
                skipped=those.skipped,
                layers={
                    layer: {name: kept[name] for name in names if name in kept}
                    for layer, kept in one.result.layers.items()
                },
            ),
        )
        for one, those in zip(measured, scored, strict=True)
    ]
