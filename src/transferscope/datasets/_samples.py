"""Where samples lie and how one of them is decoded; every kind is safe to read from many threads.

Images become 8-bit RGB as the pipelines do in which encoders are pre-trained and fine-tuned
(torchvision, timm), because features should come from the pixels that fine-tuning will see:

- the EXIF orientation is **not** applied;
- transparency is dropped, not blended with a background;
- palette, greyscale, black-and-white and CMYK images are converted; of an animation the first
  frame counts;
- 16-bit greyscale is scaled to 8 bits, where those pipelines clip nearly all of it to white;
- floating-point pixels have no agreed white point and are refused.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from transferscope.errors import DatasetError, require

if TYPE_CHECKING:
    from PIL import Image

Modality = Literal["image", "text", "array"]
Sample = Any  # a PIL image, a text, a pair, a Word or a NumPy array, by the modality

# A stranger's `__getitem__` may seek in a shared file, so one thread at a time; a module-level
# lock, because a data set must stay picklable
_ONE_AT_A_TIME = threading.RLock()  # a stranger may wrap one of ours


class Samples(Protocol):
    """The samples of a data set, decoded one by one on demand."""

    @property
    def modality(self) -> Modality:
        """What kind of thing `__getitem__` returns."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def content(self, index: int) -> bytes | npt.NDArray[Any]:
        """Bytes of one sample as stored, not decoded: what a fingerprint is made of."""

    def where(self, index: int) -> str:
        """Path or position of one sample, for messages."""


@dataclass(frozen=True)
class ImageFiles:
    """Images in files of their own."""

    paths: Sequence[Path]
    modality: Modality = "image"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        return decode(self.content(index), where=self.where(index))

    def content(self, index: int) -> bytes:
        try:
            return self.paths[index].read_bytes()
        except OSError as error:
            raise unreadable(self.where(index), error) from error

    def where(self, index: int) -> str:
        return str(self.paths[index])


@dataclass(frozen=True)
class EncodedImages:
    """Image files end to end in one array; the i-th is ``stream[offsets[i]:offsets[i + 1]]``."""

    stream: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    name: str
    modality: Modality = "image"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Image.Image:
        return decode(self.content(index).tobytes(), where=self.where(index))

    def content(self, index: int) -> npt.NDArray[np.uint8]:
        return self.stream[self.offsets[index] : self.offsets[index + 1]]

    def where(self, index: int) -> str:
        return f"image {index} of {self.name}"


@dataclass(frozen=True)
class Rows:
    """One array, a sample per row: pixels (n, height, width[, channels]) or vectors (n, d)."""

    array: npt.NDArray[Any]
    name: str
    modality: Modality

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Image.Image | npt.NDArray[Any]:
        row = self.array[index]
        return from_pixels(row) if self.modality == "image" else row

    def content(self, index: int) -> npt.NDArray[Any]:
        return np.ascontiguousarray(self.array[index])

    def where(self, index: int) -> str:
        return f"row {index} of {self.name}"


@dataclass(frozen=True)
class Texts:
    """Texts, or pairs of texts, kept in memory."""

    texts: Sequence[str | tuple[str, str]]
    name: str
    modality: Modality = "text"

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str | tuple[str, str]:
        return self.texts[index]

    def content(self, index: int) -> bytes:
        return text_bytes(self.texts[index])

    def where(self, index: int) -> str:
        return f"text {index} of {self.name}"


@dataclass(frozen=True)
class ForeignSamples:
    """Samples that somebody else's Python object hands out, bare or as the first of a pair."""

    items: Any
    paired: bool
    name: str
    modality: Modality

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        with _ONE_AT_A_TIME:
            item = self.items[index][0] if self.paired else self.items[index]
            modality, sample = as_sample(item, where=self.where(index))
        if modality != self.modality:
            raise DatasetError(
                f"All samples must be of one kind, but {self.where(index)} is {modality} and the "
                f"first sample is {self.modality}. Keep one kind of sample."
            )
        return sample

    def content(self, index: int) -> bytes | npt.NDArray[Any]:
        sample = self[index]
        if self.modality == "text":
            return text_bytes(sample)
        return np.asarray(sample)

    def where(self, index: int) -> str:
        return f"sample {index} of {self.name}"


class Word(NamedTuple):
    """One word of a sentence: the sample of a task that gives every word a tag."""

    words: tuple[str, ...]
    position: int


@dataclass(frozen=True)
class Words:
    """All words of sentences, one after the other; each is a sample that knows its sentence."""

    sentences: Sequence[tuple[str, ...]]
    name: str
    modality: Modality = "text"

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Number of words before each sentence, and of all."""
        return np.cumsum([0, *map(len, self.sentences)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Word:
        sentence = int(np.searchsorted(self.starts, index, side="right")) - 1
        return Word(self.sentences[sentence], index - int(self.starts[sentence]))

    def content(self, index: int) -> bytes:
        word = self[index]
        # 254 and 255 begin no character of UTF-8
        return b"\xfe".join([b"%d" % word.position, *map(text_bytes, word.words)])

    def where(self, index: int) -> str:
        sentence = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"word {index - int(self.starts[sentence])} of sentence {sentence} of {self.name}"


def text_bytes(text: str | tuple[str, str]) -> bytes:
    """Bytes of a text or of a pair, no two of them the same."""
    if isinstance(text, tuple):
        return b"\xff" + b"\xff".join(map(text_bytes, text))
    # a lone surrogate in the text must not stop the hash
    return text.encode("utf-8", "surrogatepass")


def as_sample(item: Any, *, where: str) -> tuple[Modality, Sample]:
    """Recognise one sample by what it is.

    Parameters
    ----------
    item : PIL image, str, pair of str, or array
        uint8 of shape (height, width[, channels]) or (1 or 3, height, width) is an image, a vector
        of numbers is modality "array".
    where : str
        What to call it in the message.

    Returns
    -------
    (modality, sample)

    Raises
    ------
    DatasetError
        If it is none of these; in particular for images that already are normalised floats.
    """
    if isinstance(item, str):
        return "text", item
    if is_pair(item):
        return "text", tuple(item)
    if hasattr(item, "convert") and hasattr(item, "mode"):
        return "image", to_rgb(item, where=where)
    array = channels_last(np.asarray(item))
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype == np.uint8 and array.ndim in (2, 3) and channels in (1, 3, 4):
        return "image", from_pixels(array)
    if array.dtype.kind in "fiu" and array.ndim == 1:
        return "array", array
    raise DatasetError(
        "A sample must be an image (PIL, or uint8 pixels), a text, or a vector of numbers; "
        f"{where} is a {type(item).__name__} of dtype {array.dtype} and shape {array.shape}. "
        "For images, remove the transform that normalises them: encoders bring their own."
    )


def is_pair(item: Any) -> bool:
    """Whether it is a tuple of two texts."""
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(t, str) for t in item)


def decode(data: bytes, *, where: str) -> Image.Image:
    """Decode an image file's bytes to 8-bit RGB, or say which image is unreadable.

    Raises
    ------
    DatasetError
        If the bytes are no image, a damaged one, or one without an agreed range of pixel values.
    """
    pil_image = require("PIL.Image", extra="vision", purpose="read images")
    try:
        with pil_image.open(io.BytesIO(data)) as image:
            return to_rgb(image, where=where)
    except (DatasetError, MemoryError):
        raise
    except Exception as error:
        # PIL's plugins raise OSError, SyntaxError, ValueError, struct.error, ... on damaged files
        raise unreadable(where, error) from error


def to_rgb(image: Image.Image, *, where: str) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB by the rules at the top of this file.

    Raises
    ------
    DatasetError
        If the mode has no agreed range of pixel values.
    """
    if image.mode == "F":
        raise DatasetError(
            f"Pixels must be integers, because floating-point ones have no agreed white point: "
            f"{where} has mode F. Convert it to 8 or 16 bits."
        )
    if image.mode.startswith("I"):  # "I;16", and "I" as older versions of Pillow read 16-bit PNG
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
            raise DatasetError(
                f"Integer pixels must lie in 0..65535: {where} has {pixels.min()}..{pixels.max()}. "
                "Convert it to 8 or 16 bits."
            )
        return from_pixels(((pixels + 128) // 257).astype(np.uint8))
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


def image_rows(images: npt.NDArray[Any], name: str) -> Rows:
    """Check an array of images and take its rows as samples.

    Raises
    ------
    DatasetError
        If it is not uint8 of shape (n, height, width) or (n, height, width, 1, 3 or 4).
    """
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or channels not in (1, 3, 4):
        raise DatasetError(
            f"Images must be uint8 of shape (n, height, width) or (n, height, width, 3); {name} is "
            f"{images.dtype} of shape {images.shape}. Convert it; encoders normalise by themselves."
        )
    return Rows(images, name, "image")


def channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View (..., channels, height, width) as (..., height, width, channels) if it is laid so."""
    looks_first = array.ndim >= 3 and array.shape[-3] in (1, 3) and array.shape[-1] not in (1, 3, 4)
    return np.moveaxis(array, -3, -1) if looks_first else array


def unreadable(where: str, error: BaseException) -> DatasetError:
    """Word the error for an image that cannot be read."""
    return DatasetError(
        f"Every image must be readable: {where} is not ({type(error).__name__}: {error}). Repair "
        "or remove it, or leave such images out with skip_unreadable=True (--skip-unreadable)."
    )
