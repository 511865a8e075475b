"""Features and targets of one data set under one encoder, with all that metrics share."""

from transferscope.embedding._class_moments import ClassMoments, ClassStatistics
from transferscope.embedding._embedding import INFLUENCE_SAMPLES, Embedding, computed_once
from transferscope.embedding._feature_moments import FeatureMoments
from transferscope.embedding._matrix import FeatureMatrix
from transferscope.embedding._reference import ReferenceTask
from transferscope.embedding._source import SourceOutputs
from transferscope.embedding._spectrum import Spectrum
from transferscope.embedding._target_moments import TargetMoments
from transferscope.embedding._targets import Classes, Numbers, Targets

__all__ = [
    "INFLUENCE_SAMPLES",
    "ClassMoments",
    "ClassStatistics",
    "Classes",
    "Embedding",
    "FeatureMatrix",
    "FeatureMoments",
    "Numbers",
    "ReferenceTask",
    "SourceOutputs",
    "Spectrum",
    "TargetMoments",
    "Targets",
    "computed_once",
]
