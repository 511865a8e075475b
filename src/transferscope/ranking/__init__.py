"""Rank pre-trained encoders for a data set."""

from transferscope.ranking._available import available_encoders
from transferscope.ranking._benchmark import Benchmarked, benchmark
from transferscope.ranking._rank import rank

__all__ = ["Benchmarked", "available_encoders", "benchmark", "rank"]
