"""Metrics that compare encoders: their parts are scaled over the candidates and added up.

`ncti` and `etran` are rows of the metric table with parts but without a measure of their own. Here
parts take their place before encoders are measured, and are put together when all have been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transferscope.metrics._metric import Metric
from transferscope.metrics._ped import SUFFIX, applies_to, resolve_metric
from transferscope.metrics._table import get_metric
from transferscope.results import Score

#: An encoder's scores and their influences, by metric.
Measured = tuple[Mapping[str, Score], Mapping[str, npt.NDArray[Any]]]
#: Parts that differ by less, relative to their size, are equal up to rounding.
ROUNDING = 1e-12


def part_names(metric: Metric) -> list[str]:
    """The metrics that this one is made of; of ``etran+ped`` those after PED, too."""
    if not metric.name.endswith(SUFFIX):
        return list(metric.parts)
    return [part + SUFFIX if applies_to(get_metric(part)) else part for part in metric.parts]


def with_parts(metrics: Sequence[Metric]) -> list[Metric]:
    """What has to be measured for these metrics: parts in place of wholes, each once."""
    wanted: dict[str, Metric] = {}
    for metric in metrics:
        for one in map(resolve_metric, part_names(metric)) if metric.parts else [metric]:
            wanted.setdefault(one.name, one)
    return list(wanted.values())


def combine(
    metric: Metric, encoders: Sequence[Measured]
) -> list[tuple[Score, npt.NDArray[Any]] | None]:
    """Scale each part to 0..1 over the encoders and add them up, by the metric's weights.

    Parameters
    ----------
    metric : Metric
        With parts.
    encoders : sequence of (scores, influences)
        What each encoder's parts came to.

    Returns
    -------
    list of (Score, influences), or None
        For each encoder. None where it lacks a part: it does not count in the scaling either.

    Notes
    -----
    A part that is the same for all encoders (so with one encoder every part) tells nothing: it
    contributes 0, and the score says so. Influences are those of the parts with the ranges held
    fixed.
    """
    parts = part_names(metric)
    whole = [i for i, (scores, _) in enumerate(encoders) if all(part in scores for part in parts)]
    combined: list[tuple[Score, npt.NDArray[Any]] | None] = [None] * len(encoders)
    if not whole:
        return combined
    values = np.array([[encoders[i][0][part].value for part in parts] for i in whole])
    lowest, spread = values.min(axis=0), np.ptp(values, axis=0)
    constant = spread <= ROUNDING * np.abs(values).max(axis=0)
    shares = np.where(constant, 0.0, np.asarray(metric.weights) / np.where(constant, 1.0, spread))
    candidates = f"these {len(whole)} encoders" if len(whole) > 1 else "this one encoder"
    about = (
        f"depends on the candidates: parts are scaled over {candidates}",
        *(
            f"{part} is the same for all candidates and contributes 0"
            for part, same in zip(parts, constant, strict=True)
            if same
        ),
    )
    for i, row in zip(whole, values, strict=True):
        scores, influences = encoders[i]
        said = dict.fromkeys(text for part in parts for text in scores[part].warnings)
        score = Score(
            float((row - lowest) @ shares),
            (*about, *said),
            seconds=sum(scores[part].seconds for part in parts),
        )
        terms = sum(share * influences[part] for share, part in zip(shares, parts, strict=True))
        combined[i] = score, np.asarray(terms)
    return combined


def why_not(metric: Metric, scores: Mapping[str, Score], skipped: Mapping[str, str]) -> str:
    """Why an encoder has no such score: the parts that it lacks, with the reason of each."""
    lacking = [part for part in part_names(metric) if part not in scores]
    return "; ".join(f"{part}: {skipped[part]}" for part in lacking)
