"""transferscope: which pre-trained encoder will transfer best to your data, how sure, and why.

Everything here is loaded when first used, so that ``import transferscope`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transferscope.datasets import Dataset, open_dataset
    from transferscope.embedding import ClassMoments, Embedding
    from transferscope.encoders import Encoder, list_encoders, load_encoder
    from transferscope.errors import TransferscopeError, TransferscopeWarning
    from transferscope.evaluation import evaluate
    from transferscope.metrics import list_metrics, score
    from transferscope.parameter_distance import layer_transferability
    from transferscope.ranking import rank
    from transferscope.relatedness import task_relatedness
    from transferscope.results import Agreement, Ranking, Score, ScoreTable
    from transferscope.storage.feature_store import FeatureStore

__version__ = "0.1.0"

_HOMES = {
    "Agreement": "results",
    "ClassMoments": "embedding",
    "Dataset": "datasets",
    "Embedding": "embedding",
    "Encoder": "encoders",
    "FeatureStore": "storage.feature_store",
    "Ranking": "results",
    "Score": "results",
    "ScoreTable": "results",
    "TransferscopeError": "errors",
    "TransferscopeWarning": "errors",
    "evaluate": "evaluation",
    "layer_transferability": "parameter_distance",
    "list_encoders": "encoders",
    "list_metrics": "metrics",
    "load_encoder": "encoders",
    "open_dataset": "datasets",
    "rank": "ranking",
    "score": "metrics",
    "task_relatedness": "relatedness",
}

__all__ = [
    "Agreement",
    "ClassMoments",
    "Dataset",
    "Embedding",
    "Encoder",
    "FeatureStore",
    "Ranking",
    "Score",
    "ScoreTable",
    "TransferscopeError",
    "TransferscopeWarning",
    "evaluate",
    "layer_transferability",
    "list_encoders",
    "list_metrics",
    "load_encoder",
    "open_dataset",
    "rank",
    "score",
    "task_relatedness",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"transferscope.{_HOMES[name]}"), name)
    try:
        return importlib.import_module(f"transferscope.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"transferscope.{name}":
            raise
    raise AttributeError(f"module 'transferscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
