"""Sums over the elements of two tensors, from which every distance follows."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from transferscope.errors import CheckpointError
from transferscope.numerics.arrays import NumpyArray
from transferscope.parameter_distance._initialisation import Distribution
from transferscope.parameter_distance._tensors import PIECE, Tensor

Measure = Literal["mean_abs", "l2", "relative_l2", "cosine"]

#: Products are added up in float32 over rows of so many elements, in float64 from there on: of
#: equal elements, the worst case, less than 1e-6 is then lost.
_ROW = 2048
_ONES = {kind: np.ones(_ROW, kind) for kind in (np.float32, np.float64)}


@dataclass(frozen=True)
class Sums:
    """Sums over the elements of a tensor a and a target b.

    Attributes
    ----------
    n : int
    absolute, squares : float
        Of the difference.
    a, b : float
        Squares of the elements.
    """

    n: int
    absolute: float
    squares: float
    a: float
    b: float

    def distance(self, measure: Measure) -> float | None:
        """D(a, b); None where a norm of zero leaves it undefined."""
        if measure == "mean_abs":
            return self.absolute / self.n
        if measure == "l2":
            return math.sqrt(self.squares)
        if measure == "relative_l2":
            return math.sqrt(self.squares / self.b) if self.b > 0 else None
        # 1 - cos without the cancellation of 1 - a·b / |a||b| near 1
        if self.a <= 0 or self.b <= 0:
            return None
        norms = math.sqrt(self.a), math.sqrt(self.b)
        excess = self.squares - (norms[0] - norms[1]) ** 2
        return max(excess, 0.0) / (2 * norms[0] * norms[1])


def compare(
    target: tuple[Tensor, str], others: Sequence[tuple[Tensor, str]], steps: Steps
) -> list[Sums]:
    """One pass over a target and what it is compared with.

    Parameters
    ----------
    target : (Tensor, str)
        With its name for messages.
    others : sequence of (Tensor, str)
        Of the same size.
    steps : Steps
        Working memory of the calling thread.

    Raises
    ------
    CheckpointError
        If an element is NaN or infinite, or a file was cut.
    """
    tensor, where = target
    own, totals = 0.0, np.zeros((len(others), 3))
    for start, stop in tensor.pieces():
        b = tensor.read(start, stop)
        own += sum_of_squares(b, where)
        for total, (other, name) in zip(totals, others, strict=True):
            a = other.read(start, stop)
            total += (*_difference(a, b, steps), sum_of_squares(a, name))
    return [
        Sums(tensor.size, float(absolute), float(squares), float(a), own)
        for absolute, squares, a in totals
    ]


class Steps(threading.local):
    """Where each thread puts differences: fresh memory for each costs more than its sums."""

    def __init__(self) -> None:
        self._memory = {kind: np.empty(PIECE, kind) for kind in (np.float32, np.float64)}

    def between(self, a: NumpyArray, b: NumpyArray) -> NumpyArray:
        """Subtract b from a; valid until the next call in this thread."""
        step = self._memory[np.result_type(a, b).type][: a.size]
        np.subtract(a, b, out=step)
        return step


def _difference(a: NumpyArray, b: NumpyArray, steps: Steps) -> tuple[float, float]:
    """Sum of the absolute values and of the squares of a - b."""
    with np.errstate(over="ignore", invalid="ignore"):
        step = steps.between(a, b)
        squares = _dot(step)
        absolute = _total(np.abs(step, out=step))
    if math.isfinite(squares) and math.isfinite(absolute):
        return absolute, squares
    wide = np.abs(a.astype(np.float64) - b)  # overflown in float32, or not finite
    return _total(wide), _dot(wide)


def _dot(values: NumpyArray) -> float:
    """Sum of the squares."""
    cut = values.size // _ROW * _ROW
    rows = values[:cut].reshape(-1, _ROW)
    with np.errstate(over="ignore", invalid="ignore"):
        whole = np.sum(np.vecdot(rows, rows), dtype=np.float64)
        return float(whole) + float(values[cut:] @ values[cut:])


def _total(values: NumpyArray) -> float:
    """Sum of the elements: twice as fast by a product with ones as by np.sum."""
    cut = values.size // _ROW * _ROW
    rows = np.vecdot(values[:cut].reshape(-1, _ROW), _ONES[values.dtype.type])
    return float(np.sum(rows, dtype=np.float64)) + float(np.sum(values[cut:], dtype=np.float64))


def sum_of_squares(values: NumpyArray, name: str) -> float:
    """Sum of squares of the elements; refuses what is not finite."""
    squares = _dot(values)
    if math.isfinite(squares):
        return squares
    if not np.all(np.isfinite(values)):
        what = "NaN" if np.any(np.isnan(values)) else "infinity"
        raise CheckpointError(
            f"{name} holds {what}: training diverged, or the file is damaged. Take an earlier "
            "checkpoint."
        )
    return _dot(values.astype(np.float64))


def expected_sums(target: Tensor, distribution: Distribution) -> Sums:
    """What `compare` would give on average for a tensor drawn from a distribution."""
    absolute = squares = own = 0.0
    for start, stop in target.pieces():
        b = target.read(start, stop)
        absolute += distribution.expected_absolute(b)
        squares += distribution.expected_square(b)
        own += _dot(b)
    a = target.size * (distribution.mean**2 + distribution.deviation**2)
    return Sums(target.size, absolute, squares, a, own)
