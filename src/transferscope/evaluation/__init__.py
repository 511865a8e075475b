"""Whether scores foresee fine-tuned accuracy, on accuracies of one's own or published ones."""

from transferscope.evaluation._agreement import CORRELATIONS, MEASURES, evaluate
from transferscope.evaluation._score_files import read_accuracy, read_scores

__all__ = ["CORRELATIONS", "MEASURES", "evaluate", "read_accuracy", "read_scores"]
