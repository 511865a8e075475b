"""Frozen records of results: they convert to frames, JSON and back, and know nothing else.

No number in JSON is ever NaN or infinite: what could not be computed is null, with its reason.
"""

from __future__ import annotations

from transferscope.results._agreement import Agreement, Comparison, Estimate
from transferscope.results._evidence import (
    HARDEST_PAIRS,
    ConfusedPair,
    Confusion,
    Misjudged,
    SampleMap,
    SampleViews,
    ShownSample,
)
from transferscope.results._expectation import Expectation, ExpectedEncoder
from transferscope.results._loading import Loading, loading, loading_line
from transferscope.results._metric_study import (
    ALIKE,
    ALL,
    SMALLER,
    WITHOUT,
    MetricStudy,
    Robustness,
    SamplePoint,
)
from transferscope.results._parameter_distance import (
    AdapterDelta,
    AdapterDistances,
    DatasetFactors,
    LayerDistance,
    LayerDistances,
    TransferabilityForecast,
)
from transferscope.results._ranking import (
    CHEAPER,
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
from transferscope.results._relatedness import (
    Relatedness,
    RelatednessPair,
    RelatednessPairs,
    SteepnessPoint,
)
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
    "ALIKE",
    "ALL",
    "CHEAPER",
    "COSTS",
    "HARDEST_PAIRS",
    "SMALLER",
    "WITHOUT",
    "AdapterDelta",
    "AdapterDistances",
    "Agreement",
    "Comparison",
    "ConfusedPair",
    "Confusion",
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
    "Loading",
    "MetricStudy",
    "Misjudged",
    "PedTrace",
    "Priced",
    "ProbeResult",
    "Ranking",
    "Relatedness",
    "RelatednessPair",
    "RelatednessPairs",
    "Robustness",
    "SampleMap",
    "SamplePoint",
    "SampleViews",
    "Score",
    "ScoreTable",
    "Selection",
    "SelectionCandidate",
    "ShownSample",
    "SteepnessPoint",
    "TrainingRun",
    "TransferabilityForecast",
    "Trial",
    "Verdict",
    "format_expected",
    "format_score",
    "frontier",
    "loading",
    "loading_line",
    "notes_of",
    "priced",
    "score_digits",
]
