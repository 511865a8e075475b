"""Metrics that compare encoders: their parts are scaled over the encoders and added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from transferscope.embedding import Embedding
from transferscope.errors import MissingInputError
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import About, Metric
from transferscope.numerics.arrays import NumpyArray
from transferscope.results import Score

#: Parts that differ by less, relative to their size, are equal up to rounding.
ROUNDING = 1e-12


@dataclass
class EncoderScores:
    """The scores of one encoder.

    Attributes
    ----------
    scores : dict of str to Score
    influences : dict of str to float64 NumPy array of shape (m,)
        Influence of the samples on each score.
    skipped : dict of str to str
        Metrics without a score, with the reason.
    """

    scores: dict[str, Score] = field(default_factory=dict)
    influences: dict[str, NumpyArray] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def combined_metric(name: str, parts: dict[str, float], summary: str, publication: str) -> Metric:
    """Describe a metric that is a weighted sum of others, each scaled over the encoders."""
    return Metric(
        name,
        partial(_refuse_one_encoder, name, tuple(parts)),
        About(summary, f"0 to {sum(parts.values()):g}", publication),
        parts=parts,
    )


def _refuse_one_encoder(name: str, parts: Sequence[str], _: Embedding) -> Measurement:
    raise MissingInputError(
        f"{name} compares encoders: ask `rank` for it; its parts are {' and '.join(parts)}"
    )


def combine(metric: Metric, encoders: Sequence[EncoderScores]) -> None:
    """Give each encoder its score by a metric with parts, or the reason why it has none.

    Each part is scaled to 0..1 over the encoders, and they are added up by the metric's weights.

    Parameters
    ----------
    metric : Metric
        With parts.
    encoders : sequence of EncoderScores
        With the scores of the parts; changed in place.

    Notes
    -----
    An encoder that lacks a part does not count in the scaling either. A part that is the same for
    all encoders (so with one encoder every part) says nothing: it contributes 0, with a warning.
    Influences are those of the parts with the ranges taken as given.
    """
    parts = list(metric.parts)
    complete = [one for one in encoders if all(part in one.scores for part in parts)]
    for one in encoders:
        lacking = [part for part in parts if part not in one.scores]
        if lacking:
            one.skipped[metric.name] = "; ".join(f"{p}: {one.skipped[p]}" for p in lacking)
    if not complete:
        return
    values = np.array([[one.scores[part].value for part in parts] for one in complete])
    lowest, spread = values.min(axis=0), np.ptp(values, axis=0)
    constant = spread <= ROUNDING * np.abs(values).max(axis=0)
    weights = np.asarray(list(metric.parts.values()))
    shares = np.where(constant, 0.0, weights / np.where(constant, 1.0, spread))
    warnings = (_of_candidates(len(complete)), *_of_constant(parts, constant))
    for one, row in zip(complete, values, strict=True):
        of_parts = dict.fromkeys(text for part in parts for text in one.scores[part].warnings)
        one.scores[metric.name] = Score(
            float((row - lowest) @ shares),
            (*warnings, *of_parts),
            seconds=sum(one.scores[part].seconds for part in parts),
        )
        terms = sum(share * one.influences[p] for share, p in zip(shares, parts, strict=True))
        one.influences[metric.name] = np.asarray(terms)


def _of_candidates(n_encoders: int) -> str:
    encoders = f"these {n_encoders} encoders" if n_encoders > 1 else "this one encoder"
    return f"depends on the candidates: parts are scaled over {encoders}"


def _of_constant(parts: Sequence[str], constant: NumpyArray) -> list[str]:
    return [
        f"{part} is the same for all candidates and contributes 0"
        for part, same in zip(parts, constant, strict=True)
        if same
    ]


NCTI = combined_metric(
    "ncti",
    {"ncti_variability": 1.0, "ncti_geometry": 1.0, "ncti_nearest_center": 1.0},
    "nearness to neural collapse, scaled over the encoders",
    "Wang et al., ICCV 2023",
)
ETRAN = combined_metric(
    "etran",
    {"energy": 0.15, "lda": 0.85},
    "energy and linear discriminant, scaled over the encoders",
    "Gholami et al., ICCV 2023",
)
