"""Images of more than 8 bits: which number is white is found from all such images of a data set.

A camera of 12 bits writes files of 16 bits whose brightest pixel is 4095. Divided by 257 they
would be black, and nothing in the file says so. Therefore white is the smallest of the usual
depths that no pixel exceeds: 8, 10, 12, 14 or 16 bits; and 1 for floating-point pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from transferscope.datasets._samples import Samples
from transferscope.errors import DatasetError, require
from transferscope.numerics.arrays import NumpyArray

#: Of the pixels of more than 8 bits, by kind ("integer", "float", or "colour" in files of 16 bits):
#: the brightest one, or what is white.
Levels: TypeAlias = dict[str, float]

_DEPTHS = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
_EIGHT_BITS = (b"\xff\xd8", b"GIF8", b"RIFF", b"BM")  # formats that have no more, by first bytes
_PNG = b"\x89PNG"


def has_more_bits(content: bytes | NumpyArray) -> bool:
    """Whether an image has more than 8 bits per channel; False for a file that is damaged.

    Parameters
    ----------
    content : bytes or array
        As samples have it: a file, or pixels in two or three dimensions.
    """
    if isinstance(content, np.ndarray):
        if content.ndim > 1:
            return content.dtype != np.uint8
        content = content.tobytes()
    if content.startswith(_EIGHT_BITS):
        return False
    if content.startswith(_PNG):
        return content[24:25] == b"\x10"
    try:
        pil_image = require("PIL.Image", extra="vision", purpose="read images")
        with pil_image.open(io.BytesIO(content)) as image:
            # decoded colours have 8 bits in any case: only how they are stored tells
            return image.mode[0] in "IF" or any(";16" in str(tile) for tile in image.tile)
    except Exception:  # noqa: BLE001 (whatever is wrong with it, decoding it will tell)
        return False


def brightest_pixels(samples: Samples, indices: npt.NDArray[np.int64]) -> Levels:
    """The brightest pixels of those images that have more than 8 bits and can be read."""
    found: list[Levels] = []
    for index in indices.tolist():
        with suppress(DatasetError):
            if has_more_bits(samples.content(index)):
                pixels = np.asarray(samples[index])
                level = float(np.max(pixels, initial=0, where=np.isfinite(pixels)))
                # of colours Pillow keeps the upper byte only
                colour = pixels.dtype == np.uint8
                found.append({"colour": level * 257} if colour else {_kind(pixels): level})
    return brightest_of(found)


def brightest_of(levels: Iterable[Levels]) -> Levels:
    """The brightest of each kind."""
    found: Levels = {}
    for one in levels:
        for kind, level in one.items():
            found[kind] = max(level, found.get(kind, 0))
    return found


def white_points(levels: Levels, name: str) -> Levels:
    """What is white, by the brightest pixels of a data set.

    Parameters
    ----------
    levels : dict of str to float
        The brightest pixel of each kind.
    name : str
        What to call the data set in messages.

    Raises
    ------
    DatasetError
        If all pixels are so dark that no usual depth is likely, or are colours of which too little
        can be read.
    """
    whites: Levels = {}
    for kind, level in sorted(levels.items()):
        depths = (1.0, *_DEPTHS) if kind == "float" else _DEPTHS
        white = next((depth for depth in depths if level <= depth), depths[-1])
        if level * 8 < white or (kind == "colour" and white <= 4095):
            raise DatasetError(
                f"images of {name} with more than 8 bits must use their depth; the brightest "
                f"{kind} pixel is about {level:g}, and they would come out black. Convert them to "
                "8 bits."
            )
        if kind != "colour":
            whites[kind] = white
    return whites


def describe(levels: Levels, whites: Levels) -> tuple[str, ...]:
    """Notes of what was taken for white."""
    return tuple(
        f"pixels are not of 8 bits: {white:g} was taken for white, the brightest {kind} pixel is "
        f"{levels[kind]:g}"
        for kind, white in whites.items()
    )


def to_8_bits(
    pixels: NumpyArray, whites: Mapping[str, float], *, where: str
) -> npt.NDArray[np.uint8]:
    """Scale the pixels of an image so that white is 255.

    Raises
    ------
    DatasetError
        If they are negative or brighter than white, as those of normalised images are.
    """
    white = whites.get(_kind(pixels), 0.0)  # none where the samples have changed meanwhile
    if not bool(((pixels >= 0) & (pixels <= white)).all()):
        raise DatasetError(
            f"pixels of {where} must lie in 0..{white:g}; they lie in {pixels.min():g}.."
            f"{pixels.max():g}. Convert them to 8 bits; if a transform normalises them, remove it: "
            "encoders have their own."
        )
    return np.rint(pixels.astype(np.float64) * 255 / white).astype(np.uint8)


def _kind(pixels: NumpyArray) -> str:
    return "float" if pixels.dtype.kind == "f" else "integer"
