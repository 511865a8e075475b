"""What is already known: published results as the starting point of every choice."""

from transferscope.knowledge._baselines import with_baselines
from transferscope.knowledge._expect import expect
from transferscope.knowledge._fit import Matrix, result_matrix
from transferscope.knowledge._foretelling import Foresight, Probe
from transferscope.knowledge._select import PERMISSIVE, select_encoders
from transferscope.knowledge._sources import SOURCES, Source
from transferscope.knowledge._tables import (
    KnownEncoder,
    Result,
    known_encoders,
    published_results,
)

__all__ = [
    "PERMISSIVE",
    "SOURCES",
    "Foresight",
    "KnownEncoder",
    "Matrix",
    "Probe",
    "Result",
    "Source",
    "expect",
    "known_encoders",
    "published_results",
    "result_matrix",
    "select_encoders",
    "with_baselines",
]
