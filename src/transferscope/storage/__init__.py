"""What is kept on disk: the feature store, files of features, files of weights."""

from transferscope.storage.feature_files import KNOWN_ARRAYS, read_feature_file, write_feature_file
from transferscope.storage.feature_store import Damage, EntrySummary, FeatureStore, StoreEntry
from transferscope.storage.weights_files import read_weights_file

__all__ = [
    "KNOWN_ARRAYS",
    "Damage",
    "EntrySummary",
    "FeatureStore",
    "StoreEntry",
    "read_feature_file",
    "read_weights_file",
    "write_feature_file",
]
