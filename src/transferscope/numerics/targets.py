"""What targets mean."""

from __future__ import annotations

from typing import Literal, TypeAlias

from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array

#: Classes, real numbers, or several classes at once (columns of 0 and 1).
TaskType: TypeAlias = Literal["classification", "regression", "multilabel"]

#: What varies by less than this share of its size is constant but for rounding.
ROUNDING = 2.0**-48


def varies(variance: Array, mean: Array) -> Array:
    """Which columns of float64 numbers vary by more than rounding, (k,) bool."""
    xp = arrays.namespace(mean)
    varying: Array = xp.sqrt(variance) > ROUNDING * xp.abs(mean)
    return varying
