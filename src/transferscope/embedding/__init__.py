"""Features and targets of one data set under one encoder, with all that metrics share."""

from transferscope.embedding._embedding import INFLUENCE_SAMPLES, Embedding, Spectrum
from transferscope.embedding._moments import ClassMoments, FeatureMoments, TargetMoments

__all__ = [
    "INFLUENCE_SAMPLES",
    "ClassMoments",
    "Embedding",
    "FeatureMoments",
    "Spectrum",
    "TargetMoments",
]
