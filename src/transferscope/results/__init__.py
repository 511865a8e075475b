"""Frozen records of results: they convert to frames, JSON and back, and know nothing else.

No number in JSON is ever NaN or infinite: what could not be computed is null, with its reason.
"""

from __future__ import annotations

from transferscope.results._agreement import Agreement, Comparison, Estimate
from transferscope.results._expectation import Expectation, ExpectedEncoder
from transferscope.results._parameter_distance import (
    DatasetFactors,
    LayerDistance,
    LayerDistances,
    TransferabilityForecast,
)
from transferscope.results._ranking import (
    COSTS,
    DatasetSummary,
    EncoderResult,
    ExpectedAccuracy,
    Priced,
    Ranking,
    Verdict,
    format_expected,
    frontier,
    notes_of,
    priced,
)
from transferscope.results._relatedness import Relatedness, SteepnessPoint
from transferscope.results._scores import PedTrace, Score, ScoreTable, format_score, score_digits
from transferscope.results._training import (
    FineTuningResult,
    ProbeResult,
    Selection,
    SelectionCandidate,
    TrainingRun,
    Trial,
)

__all__ = [
    "COSTS",
    "Agreement",
    "Comparison",
    "DatasetFactors",
    "DatasetSummary",
    "EncoderResult",
    "Estimate",
    "Expectation",
    "ExpectedAccuracy",
    "ExpectedEncoder",
    "FineTuningResult",
    "LayerDistance",
    "LayerDistances",
    "PedTrace",
    "Priced",
    "ProbeResult",
    "Ranking",
    "Relatedness",
    "Score",
    "ScoreTable",
    "Selection",
    "SelectionCandidate",
    "SteepnessPoint",
    "TrainingRun",
    "TransferabilityForecast",
    "Trial",
    "Verdict",
    "format_expected",
    "format_score",
    "frontier",
    "notes_of",
    "priced",
    "score_digits",
]
