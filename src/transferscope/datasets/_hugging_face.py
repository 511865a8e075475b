"""Data sets of the Hugging Face library: from the hub, from a local folder, or as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np

from transferscope.datasets._cells import text_samples
from transferscope.datasets._columns import (
    find_input_columns,
    find_label_column,
    may_lack_labels,
)
from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._images import decode
from transferscope.datasets._request import Request
from transferscope.datasets._samples import ImageFiles, Modality, Samples
from transferscope.datasets._splits import choose_split
from transferscope.datasets._words import make_tagged
from transferscope.errors import DatasetError, require
from transferscope.numerics.arrays import NumpyArray
from transferscope.numerics.targets import TaskType

if TYPE_CHECKING:
    from PIL import Image


class _Info(Protocol):
    dataset_name: str | None


class Table(Protocol):
    """What is used of a `datasets.Dataset`, whose library has no types."""

    features: Mapping[str, object]
    info: _Info

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, key: int, /) -> Mapping[str, Any]: ...

    @overload
    def __getitem__(self, key: str, /) -> Sequence[Any]: ...

    def with_format(self, kind: None, /) -> Table:
        """The same rows without a format."""

    def select_columns(self, names: list[str], /) -> Table:
        """The same rows with these columns only."""

    def cast_column(self, name: str, feature: object, /) -> Table:
        """The same rows with a column of another type."""


def load_hugging_face(identifier: str, request: Request) -> Dataset:
    """Load ``hf/<identifier>``: a local folder if there is one, otherwise from the hub.

    Parameters
    ----------
    identifier : str
        A folder written by ``save_to_disk``, a folder of parquet, csv or image files, or a hub id;
        ``?config=NAME`` after it chooses a configuration.
    request : Request

    Raises
    ------
    DatasetError
        If it cannot be loaded (the message carries the library's reason), or as
        `from_hugging_face` raises it.
    MissingExtraError
        If the library ``datasets`` is not installed.
    """
    library = require("datasets", extra="vision", purpose="open Hugging Face data sets")
    location, _, config = identifier.partition("?config=")
    folder = Path(location).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded = library.load_from_disk(str(folder))
        else:
            place = str(folder.resolve()) if folder.is_dir() else location
            loaded = library.load_dataset(place, name=config or None)
    except Exception as error:
        # its own errors have no common base, and those of the network underneath pass through
        raise DatasetError(
            f"hf/{identifier} cannot be loaded ({type(error).__name__}: {error}); hf/ must be "
            "followed by a local folder or the id of a data set. Check the spelling "
            "(hf/<id>?config=<name> chooses a configuration); without a connection, save it where "
            "there is one with save_to_disk, and give that folder after hf/."
        ) from error
    return from_hugging_face(loaded, request, name=folder.name if folder.is_dir() else location)


def from_hugging_face(
    source: Table | Mapping[str, Table], request: Request, *, name: str | None = None
) -> Dataset:
    """Take a `datasets.Dataset` or `datasets.DatasetDict`.

    Labels are the one column of type ``ClassLabel`` or of a usual name; a list of ``ClassLabel``
    means multi-label, or a tag for each word where samples are lists of words. Samples are the one
    image column, the one column of texts or lists of words, or two columns of a pair.

    Raises
    ------
    DatasetError
        If a column or split is absent or ambiguous, or the data set is an iterable stream.
    """
    parts = source if isinstance(source, Mapping) else {}
    table, split = _choose_part(source, request, name)
    name = name or table.info.dataset_name or "hugging_face"
    label, inputs = _find_columns(table.features, request, name)
    first = table.features[inputs[0]]
    samples: Samples
    if _is_image(first):
        samples = _images(table, inputs[0], name)
    elif label is not None and _is_words(first):
        tags = _tag_names(table, label)
        return make_tagged(name, table[inputs[0]][:], tags, request, split=split)
    else:
        samples = text_samples([table[column][:] for column in inputs], inputs, source=name)
    if label is None:
        return make_dataset(name, samples, None, split=split)
    labels, task, class_names = _read_labels(table, label, parts)
    return make_dataset(
        name, samples, labels, split=split, task=request.task or task, class_names=class_names
    )


def _choose_part(
    source: Table | Mapping[str, Table], request: Request, name: str | None
) -> tuple[Table, str]:
    """The table of the split that is asked for, without the format that a user may have set."""
    if isinstance(source, Mapping):
        name = name or "the DatasetDict"
        if not source:
            raise DatasetError(f"{name} has no splits, and a data set needs one. Fill it.")
        split = choose_split(request.split, source, source=name)
        table = source[split]
    else:
        table, name = source, name or "the data set"
        split = str(getattr(table, "split", None) or "all")
        if request.split is not None:
            split = choose_split(request.split, [split], source=name)
    if not hasattr(table, "__len__"):
        raise DatasetError(
            f"{name} is a stream ({type(table).__name__}), and a data set must have a length. "
            "Load it without streaming=True."
        )
    return table.with_format(None), split  # a format would make tensors of images


def _find_columns(
    features: Mapping[str, object], request: Request, name: str
) -> tuple[str | None, tuple[str, ...]]:
    """The column of labels, if there is one, and the column or columns of samples."""
    request = request.of_columns(features)
    with_names = [column for column, feature in features.items() if _class_names(feature)]
    wanted = request.label_column or (with_names[0] if len(with_names) == 1 else None)
    label = None
    if wanted is not None or not may_lack_labels(request, features):
        label = find_label_column(wanted, list(features), source=name)
    others = [column for column in features if column != label]
    images = [column for column in others if _is_image(features[column])]
    texts = [
        column for column in others if _is_words(features[column]) or _is_text(features[column])
    ]
    inputs = find_input_columns(request.input_column, others, images, texts, source=name)
    # a pair has two texts, a single sample may be an image
    allowed = texts if len(inputs) > 1 else [*images, *texts]
    for column in inputs:
        if column not in allowed:
            raise DatasetError(
                f"column {column!r} of {name} is {features[column]}, and samples must be images, "
                "texts or pairs of texts. Choose another one, or pass (samples, labels) as arrays."
            )
    return label, inputs


def _tag_names(table: Table, column: str) -> Sequence[object]:
    """Tags of each sentence, by their names where the column has names."""
    names, cells = _class_names(table.features[column]), table[column][:]
    return [[names[tag] for tag in tags] for tags in cells] if names else cells


def _read_labels(
    table: Table, column: str, parts: Mapping[str, Table]
) -> tuple[Sequence[object] | NumpyArray, TaskType | None, list[str] | None]:
    """Labels of a column, and the task and class names that follow from its type."""
    feature, cells = table.features[column], table[column][:]
    names = _class_names(feature)
    if names and hasattr(feature, "feature"):  # a list of classes
        columns = np.zeros((len(cells), len(names)))
        for row, ids in zip(columns, cells, strict=True):
            row[ids or []] = 1
        return columns, "multilabel", names
    if parts and _is_text(feature):
        # named by all splits, so that ids agree between them
        values = {value for part in parts.values() for value in part[column][:]}
        names = sorted(values - {None})
        ids = {name: class_id for class_id, name in enumerate(names)}
        return [ids.get(value) for value in cells], None, names
    return cells, None, names


@dataclass(frozen=True)
class _HuggingFaceImages:
    """An image column, fetched as file bytes so that it is decoded like all other images.

    The library's own decoding rotates images by their EXIF orientation, which ours does not.
    """

    table: Table
    column: str
    name: str
    modality: Modality = "image"

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Image.Image | NumpyArray:
        return decode(self.content(index), where=self.where(index))

    def content(self, index: int) -> bytes:
        value = self.table[index][self.column]
        if isinstance(value, bytes):
            return value
        if value is None:
            raise DatasetError(
                f"{self.where(index)} is empty, and every sample needs an image. Remove that row."
            )
        data: bytes | None = value["bytes"]
        return ImageFiles([Path(value["path"])]).content(0) if data is None else data

    def where(self, index: int) -> str:
        return f"row {index} of {self.name}, column {self.column!r}"


def _images(table: Table, column: str, name: str) -> _HuggingFaceImages:
    only = table.select_columns([column])
    if type(table.features[column]).__name__ == "Image":
        image = require("datasets", extra="vision", purpose="read image columns").Image
        only = only.cast_column(column, image(decode=False))
    return _HuggingFaceImages(only, column, name)


def _class_names(feature: object) -> list[str] | None:
    """Names of a ClassLabel, or of a list of them."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return list(names) if isinstance(names, list) else None


def _is_image(feature: object) -> bool:
    embedded = isinstance(feature, dict) and "bytes" in feature
    return (
        type(feature).__name__ == "Image"
        or embedded
        or _dtype(feature) in ("binary", "large_binary")
    )


def _is_words(feature: object) -> bool:
    return _is_text(getattr(feature, "feature", None))


def _is_text(feature: object) -> bool:
    return _dtype(feature) in ("string", "large_string")


def _dtype(feature: object) -> str:
    return str(getattr(feature, "dtype", ""))
