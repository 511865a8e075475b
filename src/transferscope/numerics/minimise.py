"""L-BFGS on arrays of any library, wherever they live."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transferscope.numerics.arrays import Array, namespace

#: A function's value and its gradient at a point.
Function = Callable[[Array], tuple[float, Array]]
#: A step, the change of the gradient over it, and their product.
_Pair = tuple[Array, Array, float]

#: Steps and changes of the gradient that the curvature is known from.
MEMORY = 10
#: Wolfe's conditions: a step lowers the value by this share of what the slope promises, and leaves
#: no more than that share of the slope.
DECREASE, SLOPE = 1e-4, 0.9
#: Most evaluations along one line, and how much further than the last one the next may lie.
TRIES, FURTHER = 20, 4.0
#: How near to the ends of a bracket the next try may lie, as a share of its width.
MARGIN = 0.1


@dataclass(frozen=True)
class Minimum:
    """Where a descent ended; `settled` unless its steps were used up."""

    point: Array
    value: float
    settled: bool


@dataclass(frozen=True)
class _At:
    """A point `step` along a line: value, gradient, and the slope along the line."""

    step: float
    point: Array
    value: float
    gradient: Array
    slope: float


def minimise(
    function: Function,
    start: Array,
    *,
    unit: Array | float = 1.0,
    max_steps: int,
    value_tolerance: float,
    gradient_tolerance: float,
    callback: Callable[[Array], bool] | None = None,
) -> Minimum:
    """Minimise a smooth function by L-BFGS.

    Parameters
    ----------
    function : callable
        Takes a point and returns its value and its gradient, both of the shape of `start`.
    start : float64 array
    unit : float or array that broadcasts to the shape of `start`
        Steps are taken in these units. The Hessian should not be far from the identity in them: the
        first step is as long as the gradient.
    max_steps : int
    value_tolerance : float
        Ends when a step lowers the value by less than this share of it (of 1 if that is more).
    gradient_tolerance : float
        Ends when no entry of the gradient, in these units, is larger.
    callback : callable, optional
        Called with the point after each step; the descent ends when it returns True.

    Returns
    -------
    Minimum

    Notes
    -----
    It also ends where no point along the line is lower, which is how a function with rounding
    errors ends. Beyond the function itself a step costs some forty passes over n numbers, on the
    device where they are.

    SciPy's does the same on the host, by a BLAS of its own, whose threads and NumPy's wait for each
    other at every turn.

    References
    ----------
    Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical
    Programming 45, 1989.
    """
    xp = namespace(start)

    def in_units(theta: Array) -> tuple[float, Array]:
        value, gradient = function(unit * xp.reshape(theta, start.shape))
        return value, xp.reshape(unit * gradient, (-1,))

    def ends(theta: Array) -> bool:
        return callback is not None and callback(unit * xp.reshape(theta, start.shape))

    theta = xp.reshape(start / unit, (-1,))
    found = _descend(in_units, theta, max_steps, value_tolerance, gradient_tolerance, ends)
    return replace(found, point=unit * xp.reshape(found.point, start.shape))


def _descend(
    function: Function,
    start: Array,
    max_steps: int,
    value_tolerance: float,
    gradient_tolerance: float,
    ends: Callable[[Array], bool],
) -> Minimum:
    """`minimise` for a point of shape (n,)."""
    value, gradient = function(start)
    at = _At(0.0, start, value, gradient, 0.0)
    pairs: deque[_Pair] = deque(maxlen=MEMORY)
    for taken in range(max_steps + 1):
        if float(namespace(start).max(abs(at.gradient))) <= gradient_tolerance:
            return Minimum(at.point, at.value, settled=True)
        if taken == max_steps:
            break
        negligible = value_tolerance * max(abs(at.value), 1.0)
        found = _along(function, at, _direction(at.gradient, pairs), negligible)
        if not at.value - found.value > negligible:
            lower = min(found, at, key=lambda each: each.value)
            return Minimum(lower.point, lower.value, settled=True)
        moved, change = found.point - at.point, found.gradient - at.gradient
        curvature = float(moved @ change)
        if curvature > 0:
            pairs.append((moved, change, curvature))
        at = found
        if ends(at.point):
            return Minimum(at.point, at.value, settled=True)
    return Minimum(at.point, at.value, settled=False)


def _direction(gradient: Array, pairs: Sequence[_Pair]) -> Array:
    """Minus the gradient, times the inverse Hessian that the pairs tell (two-loop recursion)."""
    along = -gradient
    shares = []
    for moved, change, curvature in reversed(pairs):
        share = float(moved @ along) / curvature
        along = along - share * change
        shares.append(share)
    if pairs:
        _, change, curvature = pairs[-1]
        along = along * (curvature / float(change @ change))
    for (moved, change, curvature), share in zip(pairs, reversed(shares), strict=True):
        along = along + (share - float(change @ along) / curvature) * moved
    return along


def _along(function: Function, at: _At, direction: Array, negligible: float) -> _At:
    """A point along the direction that fulfils Wolfe's conditions; the start where none is found.

    A bracket is kept: its low end is a point that is low enough and still goes down, its high end
    one that is not. The next try is where the cubic through the low end and the last try is lowest.
    A rise by no more than is negligible counts as none, if the slope has become flat, and where the
    slope promises no more than that the search ends.
    """
    slope = float(at.gradient @ direction)
    low, high = _At(0.0, at.point, at.value, at.gradient, slope), math.inf
    step = 1.0
    for _ in range(TRIES):
        if -slope * step <= negligible:
            break  # as far as the slope promises, no more than rounding is to be had
        point = at.point + step * direction
        value, gradient = function(point)
        tried = _At(step, point, value, gradient, float(gradient @ direction))
        enough = value <= at.value + DECREASE * step * slope
        flat = abs(tried.slope) <= -SLOPE * slope
        if flat and (enough or value <= at.value + negligible):
            return tried
        guess = _lowest_of_cubic(low, tried)
        if enough and tried.slope < 0:
            low = tried
        else:
            high = step
        if high == math.inf:
            step = min(max(guess or math.inf, (1 + MARGIN) * step), FURTHER * step)
        else:
            margin = MARGIN * (high - low.step)
            middle = (low.step + high) / 2
            step = min(max(guess or middle, low.step + margin), high - margin)
    return low


def _lowest_of_cubic(a: _At, b: _At) -> float | None:
    """Where the cubic through the values and slopes of two points is lowest; None if nowhere."""
    width = b.step - a.step
    mixed = a.slope + b.slope - 3 * (b.value - a.value) / width
    root = math.sqrt(max(mixed * mixed - a.slope * b.slope, 0.0))
    below = b.slope - a.slope + 2 * root
    share = (b.slope + root - mixed) / below if below > 0 else math.nan
    return b.step - width * share if math.isfinite(share) else None
