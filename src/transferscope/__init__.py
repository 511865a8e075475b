"""Which pre-trained encoder will transfer best to your data, how sure, and why.

Everything here is loaded when first used, so that ``import transferscope`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transferscope.datasets import Dataset, open_dataset
    from transferscope.embedding import ClassMoments, Embedding
    from transferscope.encoders import (
        Encoder,
        ImagePreprocessing,
        from_module,
        list_encoders,
        load_encoder,
    )
    from transferscope.errors import TransferscopeError, TransferscopeWarning
    from transferscope.evaluation import evaluate
    from transferscope.extraction import extract
    from transferscope.extraction.estimator import EncoderFeatures
    from transferscope.knowledge import expect
    from transferscope.metrics import get_metric, list_metrics, score
    from transferscope.parameter_distance import layer_transferability
    from transferscope.ranking import rank
    from transferscope.ray_executor import RayExecutor
    from transferscope.relatedness import task_relatedness
    from transferscope.results import (
        Agreement,
        Expectation,
        Ranking,
        Score,
        ScoreTable,
        Selection,
    )
    from transferscope.storage.feature_store import FeatureStore
    from transferscope.training import select

__version__ = "0.1.0"

__all__ = [
    "Agreement",
    "ClassMoments",
    "Dataset",
    "Embedding",
    "Encoder",
    "EncoderFeatures",
    "Expectation",
    "FeatureStore",
    "ImagePreprocessing",
    "Ranking",
    "RayExecutor",
    "Score",
    "ScoreTable",
    "Selection",
    "TransferscopeError",
    "TransferscopeWarning",
    "evaluate",
    "expect",
    "extract",
    "from_module",
    "get_metric",
    "layer_transferability",
    "list_encoders",
    "list_metrics",
    "load_encoder",
    "open_dataset",
    "rank",
    "score",
    "select",
    "task_relatedness",
]

_ROOMS = {
    "datasets": ("Dataset", "open_dataset"),
    "embedding": ("ClassMoments", "Embedding"),
    "encoders": (
        *("Encoder", "ImagePreprocessing"),
        *("from_module", "list_encoders", "load_encoder"),
    ),
    "errors": ("TransferscopeError", "TransferscopeWarning"),
    "evaluation": ("evaluate",),
    "extraction": ("extract",),
    "extraction.estimator": ("EncoderFeatures",),
    "knowledge": ("expect",),
    "metrics": ("get_metric", "list_metrics", "score"),
    "parameter_distance": ("layer_transferability",),
    "ranking": ("rank",),
    "ray_executor": ("RayExecutor",),
    "relatedness": ("task_relatedness",),
    "results": ("Agreement", "Expectation", "Ranking", "Score", "ScoreTable", "Selection"),
    "storage.feature_store": ("FeatureStore",),
    "training": ("select",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

# type checkers see the imports above, and report a name that does not exist
if not TYPE_CHECKING:

    def __getattr__(name):
        if name in _ROOM_OF:
            return getattr(importlib.import_module(f"transferscope.{_ROOM_OF[name]}"), name)
        try:
            return importlib.import_module(f"transferscope.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"transferscope.{name}":
                raise
        raise AttributeError(f"module 'transferscope' has no attribute {name!r}")

    def __dir__():
        return sorted([*__all__, "__version__"])
