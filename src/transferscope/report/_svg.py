"""Inline SVG: elements whose text and attributes are escaped, scales, ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup, escape

from transferscope.report._text import visible


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element; of attributes ``class_`` is class and ``stroke_width`` stroke-width."""
    opened = name
    for key, value in attributes.items():
        if isinstance(value, float):
            value = coordinate(value)
        opened += f' {key.rstrip("_").replace("_", "-")}="{escape(visible(value))}"'
    inner = "".join(
        str(child) if isinstance(child, Markup) else str(escape(visible(child)))
        for child in children
    )
    return Markup(f"<{opened}>{inner}</{name}>" if inner else f"<{opened}/>")


def coordinate(value: float) -> str:
    """A coordinate to a tenth of a pixel."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def drawing(
    size: tuple[float, float], name: str, title: str, description: str, parts: Iterable[object]
) -> Markup:
    """A whole figure, with a title and a description for those who cannot see it.

    `name` is its id on the page.
    """
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *parts,
        viewBox=f"0 0 {size[0]:g} {size[1]:g}",
        width=f"{size[0]:g}",
        height=f"{size[1]:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        id=name,
    )


def scale(
    low: float, high: float, start: float, end: float, *, log: bool = False
) -> Callable[[float], float]:
    """The way from values to pixels."""
    if log:
        low, high = math.log(low), math.log(high)
    span = high - low or 1.0

    def place(value: float) -> float:
        at = math.log(value) if log else value
        return start + (end - start) * (at - low) / span

    return place


def padded(values: Iterable[float], share: float = 0.06) -> tuple[float, float]:
    """The range of values, somewhat wider; never empty."""
    known = list(values)
    low, high = min(known, default=0.0), max(known, default=1.0)
    margin = share * (high - low) or max(abs(high), 1e-3) * 0.1
    return low - margin, high + margin


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within a range, at most so many."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis: 1, 2 and 5 times powers of ten, or fewer, or more."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    coarse = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(fine) < 3:
        return ticks(low, high)
    return coarse if len(fine) > 9 else fine


def mark(x: float, y: float, shape: str, class_: str, size: float = 5) -> Markup:
    """A dot, or where the shape is so a diamond or a square."""
    if shape == "diamond":
        far = size * 1.5
        points = [(x, y - far), (x + far, y), (x, y + far), (x - far, y)]
        return element("polygon", points=path_points(points), class_=class_)
    if shape == "square":
        side = 1.8 * size
        left, top = float(x - side / 2), float(y - side / 2)
        return element("rect", x=left, y=top, width=side, height=side, class_=class_)
    return element("circle", cx=float(x), cy=float(y), r=float(size), class_=class_)


def path_points(points: Sequence[tuple[float, float]]) -> str:
    """Points as an attribute."""
    return " ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in points)
