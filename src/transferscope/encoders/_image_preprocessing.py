"""From a decoded RGB image to the pixels that an image encoder takes; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from transferscope.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

#: Resized images of more times the pixels that the encoder sees are computed only where it looks.
RESIZED_AT_MOST = 16


@dataclass(frozen=True)
class ImagePreprocessing:
    """From a decoded RGB image to the input of an image encoder.

    Split in two, so that encoders of the same *geometry* share one decoded and resized uint8 image:
    `prepare` (resize, crop; per image, on a worker thread) and the normalisation by `mean` and
    `std` (per batch, by the encoder, on its device).

    Parameters
    ----------
    size : (int, int)
        Height and width in pixels of what the encoder sees: the centre of the resized image,
        padded with `fill` where the resized image is smaller.
    resize : (int, int) or int or None
        Resize before cropping: to this height and width, or so that the *shorter* side has this
        length (aspect ratio kept). None: no resizing.
    interpolation : str
        Name of the PIL filter.
    keep_ratio : {"cover", "contain"} or None
        What becomes of the aspect ratio when `resize` is a pair. None: the image is squashed to
        the pair. ``"cover"``: the image is made just large enough to cover the pair,
        ``"contain"``: just small enough to fit into it.
    fill : (int, int, int)
        Colour of the padding.
    crop_rounding : {"nearest", "down"}
        Where the crop begins when it cannot lie in the middle of a pixel grid: as torchvision and
        timm round, or as transformers does.
    mean, std : tuple of float
        Per channel, for pixels in [0, 1].

    Raises
    ------
    InputError
        If a size is not positive, the interpolation is unknown, `keep_ratio` comes without a pair,
        or a `std` is not positive.

    Examples
    --------
    >>> ImagePreprocessing((224, 224), 256).key
    'image:(224, 224):256:bilinear:None:(0, 0, 0):nearest'
    """

    size: tuple[int, int]
    resize: tuple[int, int] | int | None
    interpolation: Interpolation = "bilinear"
    keep_ratio: Literal["cover", "contain"] | None = field(default=None, kw_only=True)
    fill: tuple[int, int, int] = field(default=(0, 0, 0), kw_only=True)
    crop_rounding: Literal["nearest", "down"] = field(default="nearest", kw_only=True)
    mean: tuple[float, ...] = field(default=(0.485, 0.456, 0.406), kw_only=True)
    std: tuple[float, ...] = field(default=(0.229, 0.224, 0.225), kw_only=True)

    def __post_init__(self) -> None:
        resize = self.resize if isinstance(self.resize, tuple) else (self.resize,)
        if any(length is not None and length < 1 for length in (*self.size, *resize)):
            raise InputError(
                f"size {self.size} and resize {self.resize} must be at least one pixel in every "
                "direction. Give heights and widths."
            )
        if self.interpolation not in get_args(Interpolation):
            raise InputError(
                f"interpolation {self.interpolation!r} is unknown. "
                f"Choose one of: {', '.join(get_args(Interpolation))}."
            )
        if self.keep_ratio is not None and not isinstance(self.resize, tuple):
            raise InputError(
                f"keep_ratio {self.keep_ratio!r} needs a height and a width for resize; "
                f"got {self.resize}. Give a pair, or leave keep_ratio out."
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(
                f"mean {self.mean} and std {self.std} must have one value for each of the three "
                "channels, and those of std must be positive. Give three of each."
            )

    @property
    def key(self) -> str:
        """Text that is equal for encoders that take the same prepared images."""
        geometry = (self.size, self.resize, self.interpolation, self.keep_ratio)
        return ":".join(map(str, ("image", *geometry, self.fill, self.crop_rounding)))

    def prepare(self, sample: Image.Image) -> npt.NDArray[np.uint8]:
        """Resize and centre-crop one RGB image.

        Gives the very pixels that torchvision and timm give for a PIL image. Only of an image so
        long that resized it would hold sixteen times the pixels that the encoder sees, what lies
        outside is not computed; there a pixel may be rounded to the next of its 256 values.

        Parameters
        ----------
        sample : PIL.Image.Image
            In mode RGB.

        Returns
        -------
        array of uint8, shape (height, width, 3)
            May be read-only.
        """
        from PIL import Image

        image = sample
        resized = self._resized(image.width, image.height)
        height, width = self.size
        left, top = self._offset(resized[0], width), self._offset(resized[1], height)
        if resized != image.size:
            box = None
            if resized[0] * resized[1] > RESIZED_AT_MOST * width * height:
                across = _seen(image.width, resized[0], left, width)
                down = _seen(image.height, resized[1], top, height)
                image = image.crop((across.start, down.start, across.stop, down.stop))
                box = (across.box[0], down.box[0], across.box[1], down.box[1])
                resized = across.length, down.length
                left, top = min(left, 0), min(top, 0)
            image = image.resize(resized, Image.Resampling[self.interpolation.upper()], box)
        if left < 0 or top < 0:
            canvas = Image.new("RGB", (width, height), self.fill)
            canvas.paste(image, (-left, -top))
            image = canvas
        elif image.size != (width, height):
            image = image.crop((left, top, left + width, top + height))
        return np.asarray(image)

    def collate(self, prepared: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        """Stack prepared images to a batch.

        Parameters
        ----------
        prepared : sequence of n arrays, shape (height, width, 3)

        Returns
        -------
        array of uint8, shape (n, height, width, 3)
        """
        return np.stack(prepared)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing; each rule rounds as the library it comes from."""
        if self.resize is None:
            return width, height
        if isinstance(self.resize, int):
            longer = int(self.resize * max(width, height) / min(width, height))
            return (self.resize, longer) if width <= height else (longer, self.resize)
        new_height, new_width = self.resize
        if self.keep_ratio is None:
            return new_width, new_height
        ratios = height / new_height, width / new_width
        ratio = min(ratios) if self.keep_ratio == "cover" else max(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _offset(self, length: int, crop: int) -> int:
        """First pixel of the centred crop; negative where it begins with padding."""
        if length < crop:
            return -((crop - length) // 2)
        if self.crop_rounding == "down":
            return (length - crop) // 2
        return round((length - crop) / 2)


class _Seen(NamedTuple):
    """What of one direction of a long image has to be resized."""

    #: pixels of the image that are read
    start: int
    stop: int
    #: from where to where among them, in fractions of pixels
    box: tuple[float, float]
    #: to how many pixels
    length: int


def _seen(given: int, resized: int, offset: int, crop: int) -> _Seen:
    """What is seen of `given` pixels that are resized to `resized` and then cropped."""
    first, last = max(offset, 0), min(offset + crop, resized)
    scale = given / resized
    # the longest filter, Lanczos, reads three pixels to each side; when it shrinks, three new ones
    margin = 4 * max(1.0, scale)
    start = max(0, math.floor(first * scale - margin))
    stop = min(given, math.ceil(last * scale + margin))
    return _Seen(start, stop, (first * scale - start, last * scale - start), last - first)
