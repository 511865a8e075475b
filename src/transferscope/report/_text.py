"""What text becomes on the page: words for numbers, and nothing that hides or turns text around."""

from __future__ import annotations

import unicodedata

#: Characters that are written as escapes: control characters and lone surrogates.
_UNSEEN = ("Cc", "Cs")
#: What turns the direction of the text around it, and what no page may hold.
_TURNING = {*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufffe\uffff"}


def visible(text: object) -> str:
    """Text with control characters, lone surrogates and turns of direction as escapes."""
    text = str(text)
    # nothing of what is escaped is printable
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in "\n\t":
        return character
    if unicodedata.category(character) in _UNSEEN or character in _TURNING:
        return character.encode("unicode_escape").decode()
    return character


def shortened(text: str, most: int) -> str:
    """A name of at most so many characters: what is too long loses its middle."""
    text = " ".join(visible(text).split())
    if len(text) <= most:
        return text
    tail = (most - 1) * 2 // 3
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"


def number(value: float, digits: int = 1) -> str:
    """A number with so many decimals; never minus zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def percent(share: float) -> str:
    """A share in percent."""
    return number(100 * share)


def interval(middle: float, low: float, high: float) -> str:
    """Shares in points, with an interval."""
    return f"{percent(middle)} ({percent(low)} to {percent(high)})"


def probability(p: float | None) -> str:
    """A probability with two decimals."""
    if p is None:
        return ""
    return "<0.01" if 0 <= p < 0.005 else f"{p:.2f}"


def count(value: float) -> str:
    """A count with three digits and k, M or G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:g}"


def seconds(value: float) -> str:
    """A time in the unit in which it is read at a glance."""
    if value < 120:
        return f"{value:.1f} s"
    if value < 7200:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"
