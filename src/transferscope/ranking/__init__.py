"""Rank pre-trained encoders for a data set."""

from transferscope.ranking._rank import rank

__all__ = ["rank"]
