"""Where samples lie and how one of them is read; every kind is safe to read from many threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeGuard,
    runtime_checkable,
)

import numpy as np
import numpy.typing as npt

from transferscope.datasets._files import LONGEST_IMAGE, read_regular
from transferscope.datasets._images import channels_last, decode, from_pixels, to_rgb, unreadable
from transferscope.errors import DatasetError
from transferscope.numerics.arrays import NumpyArray

if TYPE_CHECKING:
    from PIL import Image

Modality = Literal["image", "text", "array"]
Text: TypeAlias = "str | tuple[str, str] | Word"
#: What a data set returns for an index, by its modality.
Sample: TypeAlias = "Image.Image | Text | NumpyArray"

# The `__getitem__` of a user's object may seek in a shared file, so one thread at a time; a
# module-level lock, because a data set must stay picklable; reentrant, because the object may wrap
# a data set of ours.
_ONE_AT_A_TIME = threading.RLock()


@runtime_checkable
class Items(Protocol):
    """An object with a length and items, such as a list or a torch data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object: ...


class Samples(Protocol):
    """The samples of a data set, decoded one by one on demand."""

    @property
    def modality(self) -> Modality:
        """What kind of thing `__getitem__` returns."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """One sample; an array in place of an image has more than 8 bits, see `_depth.py`."""

    def content(self, index: int) -> bytes | NumpyArray:
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

    def __getitem__(self, index: int) -> Image.Image | NumpyArray:
        return decode(self.content(index), where=self.where(index))

    def content(self, index: int) -> bytes:
        try:
            return read_regular(self.paths[index], most=LONGEST_IMAGE)
        except (OSError, ValueError) as error:  # a zero byte in a path is a ValueError
            raise unreadable(self.where(index), error) from error

    def where(self, index: int) -> str:
        return str(self.paths[index])


class _Numbered:
    """What messages call a sample: a word for it, its number, and the source."""

    unit: ClassVar[str]
    name: str

    def where(self, index: int) -> str:
        return f"{self.unit} {index} of {self.name}"


@dataclass(frozen=True)
class EncodedImages(_Numbered):
    """Image files end to end in one array; the i-th is ``stream[offsets[i]:offsets[i + 1]]``."""

    unit: ClassVar[str] = "image"

    stream: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    name: str
    modality: Modality = "image"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Image.Image | NumpyArray:
        return decode(self.content(index).tobytes(), where=self.where(index))

    def content(self, index: int) -> npt.NDArray[np.uint8]:
        return self.stream[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class Rows(_Numbered):
    """One array, a sample per row: pixels (n, height, width[, channels]) or vectors (n, d)."""

    unit: ClassVar[str] = "row"

    array: NumpyArray
    name: str
    modality: Modality

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Image.Image | NumpyArray:
        row: NumpyArray = self.array[index]
        return from_pixels(row) if self.modality == "image" and row.dtype == np.uint8 else row

    def content(self, index: int) -> NumpyArray:
        return np.ascontiguousarray(self.array[index])


@dataclass(frozen=True)
class Texts(_Numbered):
    """Texts, or pairs of texts, kept in memory."""

    unit: ClassVar[str] = "text"

    texts: Sequence[str | tuple[str, str]]
    name: str
    modality: Modality = "text"

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str | tuple[str, str]:
        return self.texts[index]

    def content(self, index: int) -> bytes:
        return text_bytes(self.texts[index])


@dataclass(frozen=True)
class ObjectSamples(_Numbered):
    """Samples that a user's Python object returns, alone or as the first of a pair."""

    unit: ClassVar[str] = "sample"

    items: Items
    paired: bool
    name: str
    modality: Modality

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        with _ONE_AT_A_TIME:
            item = self.items[index]
            if self.paired and isinstance(item, tuple | list):
                item = item[0]
            modality, sample = as_sample(item, where=self.where(index))
        if modality != self.modality:
            raise DatasetError(
                f"{self.where(index)} is {modality}, but the first sample is {self.modality}, and "
                "all must be of one kind. Keep one kind of sample."
            )
        return sample

    def content(self, index: int) -> bytes | NumpyArray:
        sample = self[index]
        return text_bytes(sample) if isinstance(sample, str | tuple) else np.asarray(sample)


class Word(NamedTuple):
    """One word of a sentence: the sample of a task that gives every word a tag.

    Parameters
    ----------
    words : tuple of str
        All words of the sentence.
    position : int
        Which of them it is, from 0.
    """

    words: tuple[str, ...]
    position: int


@dataclass(frozen=True)
class Words:
    """All words of sentences, one after the other; each is a sample with its sentence."""

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
        return text_bytes(self[index])

    def where(self, index: int) -> str:
        sentence = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"word {index - int(self.starts[sentence])} of sentence {sentence} of {self.name}"


def text_bytes(text: Text) -> bytes:
    """Bytes of a text, a pair or a word of a sentence, no two of them the same."""
    # 254 and 255 begin no character of UTF-8
    if isinstance(text, Word):
        return b"\xfe".join([b"%d" % text.position, *map(text_bytes, text.words)])
    if isinstance(text, tuple):
        return b"\xff" + b"\xff".join(map(text_bytes, text))
    # a lone surrogate in the text must not stop the hash
    return text.encode("utf-8", "surrogatepass")


def as_sample(item: object, *, where: str) -> tuple[Modality, Sample]:
    """Recognise one sample by what it is.

    Parameters
    ----------
    item : PIL image, str, pair of str, or array
        Numbers of shape (height, width[, channels]) or (1 or 3, height, width) are an image, a
        vector of numbers is modality "array".
    where : str
        What to call it in the message.

    Returns
    -------
    (modality, sample)

    Raises
    ------
    DatasetError
        If it is none of these.
    """
    if isinstance(item, str):
        return "text", item
    if is_pair(item):
        return "text", item
    if is_image(item):
        return "image", to_rgb(item)
    array = channels_last(np.asarray(item))
    if array.dtype.kind in "fiu":
        if array.ndim == 1:
            return "array", array
        if array.ndim in (2, 3) and (*array.shape, 1)[2] in (1, 3, 4):
            return "image", from_pixels(array) if array.dtype == np.uint8 else array
    raise DatasetError(
        f"{where} must be an image (PIL, or an array of pixels), a text, or a vector of numbers; "
        f"it is a {type(item).__name__} of dtype {array.dtype} and shape {array.shape}. Convert it."
    )


def is_image(item: object) -> TypeGuard[Image.Image]:
    """Whether it is a PIL image, by what it offers, so that PIL need not be imported."""
    return hasattr(item, "convert") and hasattr(item, "mode")


def is_pair(item: object) -> TypeGuard[tuple[str, str]]:
    """Whether it is a tuple of two texts."""
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(t, str) for t in item)


def image_rows(images: NumpyArray, name: str) -> Rows:
    """Check an array of images and take its rows as samples.

    Raises
    ------
    DatasetError
        If it is not of numbers and of shape (n, height, width) or (n, height, width, 1, 3 or 4).
    """
    channels = images.shape[3] if images.ndim == 4 else 1
    if images.dtype.kind not in "fiu" or images.ndim not in (3, 4) or channels not in (1, 3, 4):
        raise DatasetError(
            f"{name} must be numbers of shape (n, height, width) or (n, height, width, 3); it is "
            f"{images.dtype} of shape {images.shape}. Convert it; encoders normalise by themselves."
        )
    return Rows(images, name, "image")
