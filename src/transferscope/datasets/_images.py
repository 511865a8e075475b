"""Decoding images to RGB.

Images become what the pipelines make of them in which encoders are pre-trained and fine-tuned
(torchvision, timm), because features should come from the pixels that fine-tuning will see:

- the EXIF orientation is **not** applied;
- transparency is dropped, not blended with a background;
- palette, greyscale, black-and-white and CMYK images are converted; of an animation the first
  frame counts;
- of more than 8 bits the pixels are returned as they are: what is white depends on the other
  images of the data set (`_depth.py`). Those pipelines clip nearly all of them to white.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from transferscope.errors import DatasetError, require
from transferscope.numerics.arrays import NumpyArray

if TYPE_CHECKING:
    from PIL import Image


def decode(data: bytes, *, where: str) -> Image.Image | NumpyArray:
    """Decode an image file's bytes as `to_rgb` does, or name the image that is unreadable.

    Raises
    ------
    DatasetError
        If the bytes are no image, or a damaged one.
    """
    pil_image = require("PIL.Image", extra="vision", purpose="read images")
    try:
        with pil_image.open(io.BytesIO(data)) as image:
            return to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:
        # damaged files make PIL's plugins raise OSError, SyntaxError, ValueError, struct.error, ...
        raise unreadable(where, error) from error


def to_rgb(image: Image.Image) -> Image.Image | NumpyArray:
    """Convert an image of any mode to 8-bit RGB by the rules at the top of this file.

    Returns
    -------
    image or array
        The pixels (height, width), as they are, where they have more than 8 bits.
    """
    if image.mode[0] in "IF":
        return np.asarray(image)
    if "transparency" in image.info:
        # the same colours as straight to RGB, but without PIL's warning about palettes
        image = image.convert("RGBA")
    # convert() of an RGB image is a copy, which also detaches it from its file
    return image.convert("RGB")


def from_pixels(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Make an RGB image of pixels (height, width[, 1, 3 or 4])."""
    pil_image = require("PIL.Image", extra="vision", purpose="handle images")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    image: Image.Image = pil_image.fromarray(np.ascontiguousarray(pixels))
    return image if image.mode == "RGB" else image.convert("RGB")


def channels_last(array: NumpyArray) -> NumpyArray:
    """View (..., channels, height, width), where it is such, as (..., height, width, channels)."""
    looks_first = array.ndim >= 3 and array.shape[-3] in (1, 3) and array.shape[-1] not in (1, 3, 4)
    return np.moveaxis(array, -3, -1) if looks_first else array


def unreadable(where: str, error: BaseException) -> DatasetError:
    """The error for an image that cannot be read."""
    return DatasetError(
        f"{where} is not readable as an image ({type(error).__name__}: {error}). Repair or remove "
        "it, or leave such images out with skip_unreadable=True."
    )
