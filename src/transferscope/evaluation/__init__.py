"""Whether scores predict fine-tuned accuracy, on your own accuracies or on published ones."""

from transferscope.evaluation._agreement import evaluate
from transferscope.evaluation._benchmarks import (
    Benchmark,
    evaluate_on,
    get_benchmark,
    list_benchmarks,
)
from transferscope.evaluation._measures import CORRELATIONS, MEASURES
from transferscope.evaluation._study import study_metrics
from transferscope.evaluation._tables import (
    Accuracies,
    Scores,
    accuracy_table,
    read_accuracy,
    read_measured,
    read_scores,
)

__all__ = [
    "CORRELATIONS",
    "MEASURES",
    "Accuracies",
    "Benchmark",
    "Scores",
    "accuracy_table",
    "evaluate",
    "evaluate_on",
    "get_benchmark",
    "list_benchmarks",
    "read_accuracy",
    "read_measured",
    "read_scores",
    "study_metrics",
]
