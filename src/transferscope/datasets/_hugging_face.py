"""Data sets of the Hugging Face library: from the hub, from a local folder, or as an object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transferscope.datasets._dataset import Dataset, Request, choose_split, make_dataset
from transferscope.datasets._samples import ImageFiles, Modality, Samples, decode
from transferscope.datasets._tables import (
    find_input_columns,
    find_label_column,
    lacks_labels,
    read_table,
    text_samples,
)
from transferscope.datasets._words import make_tagged
from transferscope.errors import DatasetError, require

if TYPE_CHECKING:
    from PIL import Image


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
        `from_hugging_face` says.
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
            f"hf/ must be followed by a local folder or the id of a data set that can be loaded; "
            f"hf/{identifier} cannot ({type(error).__name__}: {error}). Check the spelling "
            f"(hf/<id>?config=<name> chooses a configuration). Without a connection, save it where "
            "there is one with save_to_disk, and give that folder after hf/."
        ) from error
    return from_hugging_face(loaded, request, name=folder.name if folder.is_dir() else location)


def from_hugging_face(source: Any, request: Request, *, name: str | None = None) -> Dataset:
    """Take a `datasets.Dataset` or `datasets.DatasetDict`.

    Labels are the one column of type ``ClassLabel`` or of a usual name; a list of ``ClassLabel``
    means multi-label, or a tag for each word where samples are lists of words. Samples are the one
    image column, the one column of texts or lists of words, or two columns of a pair.

    Raises
    ------
    DatasetError
        If a column or split is absent or ambiguous, or the data set is an iterable stream.
    """
    parts: dict[str, Any] | None = source if isinstance(source, dict) else None
    if parts is not None:
        split = choose_split(request.split, parts, source=name or "the DatasetDict")
        source = parts[split]
    else:
        split = str(getattr(source, "split", None) or "all")
        if request.split is not None:
            split = choose_split(request.split, [split], source=name or "the data set")
    if not hasattr(source, "__len__"):
        raise DatasetError(
            f"A data set must have a length; {name or 'this one'} is a stream "
            f"({type(source).__name__}). Load it without streaming=True."
        )
    name = name or source.info.dataset_name or "hugging_face"
    table = source.with_format(None)  # a format set by the user would turn images into tensors
    features: dict[str, Any] = table.features
    request = request.of_columns(features)

    with_names = [column for column, feature in features.items() if _class_names(feature)]
    wanted = request.label_column or (with_names[0] if len(with_names) == 1 else None)
    bare = wanted is None and lacks_labels(request, features)
    label_column = None if bare else find_label_column(wanted, list(features), source=name)
    others = [column for column in features if column != label_column]
    images = [column for column in others if _is_image(features[column])]
    words = [column for column in others if _is_text(getattr(features[column], "feature", None))]
    texts = [column for column in others if column in words or _is_text(features[column])]
    inputs = find_input_columns(request.input_column, others, images, texts, source=name)

    strange = [column for column in inputs if column not in images and column not in texts]
    if strange or (len(inputs) > 1 and any(column not in texts for column in inputs)):
        column = (strange or list(inputs))[0]
        raise DatasetError(
            f"Samples must be images, texts or pairs of texts; column {column!r} of {name} is "
            f"{features[column]}. Choose another one, or hand in (samples, labels) as arrays."
        )
    samples: Samples
    class_names = None if label_column is None else _class_names(features[label_column])
    if inputs[0] in images:
        samples = _images(table, inputs[0], name)
    elif inputs[0] in words and label_column is not None:
        tags = table[label_column][:]
        if class_names:
            tags = [[class_names[tag] for tag in its_tags] for its_tags in tags]
        return make_tagged(name, table[inputs[0]][:], tags, request, split=split)
    else:
        samples = text_samples([table[column][:] for column in inputs], inputs, name)
    if label_column is None:
        rows = np.arange(len(samples), dtype=np.float64)
        return make_dataset(name, samples, rows, split=split, task="regression")
    labels, task = table[label_column][:], request.task
    if parts is not None and _is_text(features[label_column]):
        # named by all splits, so that ids agree between them
        values = {value for part in parts.values() for value in part[label_column][:]}
        class_names = sorted(values - {None})
        ids = {name: class_id for class_id, name in enumerate(class_names)}
        labels = [ids.get(value) for value in labels]
    if class_names and hasattr(features[label_column], "feature"):
        columns = np.zeros((len(labels), len(class_names)))
        for row, ids in zip(columns, labels, strict=True):
            row[ids or []] = 1
        labels, task = columns, task or "multilabel"
    return make_dataset(name, samples, labels, split=split, task=task, class_names=class_names)


def read_parquet(path: Path, request: Request) -> Dataset:
    """Read a ``.parquet`` file: with embedded images or types of the library, or a plain table.

    Raises
    ------
    DatasetError
        If it cannot be read, or as `read_table` and `from_hugging_face` say.
    MissingExtraError
        If ``pyarrow``, or ``datasets`` for embedded images, is not installed.
    """
    parquet = require("pyarrow.parquet", extra="vision", purpose="read .parquet files")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own are subclasses of these
        raise DatasetError(
            f"A .parquet data set must be a Parquet file; {path} cannot be read "
            f"({type(error).__name__}: {error}). Write it anew."
        ) from error
    embedded = any(
        str(kind).startswith(("struct", "binary", "large_binary")) for kind in table.schema.types
    )
    if embedded or b"huggingface" in (table.schema.metadata or {}):
        library = require("datasets", extra="vision", purpose="read images embedded in .parquet")
        rows = library.Dataset(table)
        if "split" in table.column_names:
            parts = np.array(rows["split"][:], dtype=str)
            rows = {part: rows.select(np.flatnonzero(parts == part)) for part in sorted(set(parts))}
        return from_hugging_face(rows, request, name=path.stem)
    columns = {
        column: table[column].to_numpy(zero_copy_only=False) for column in table.column_names
    }
    return read_table(columns, path, request)


@dataclass(frozen=True)
class _HuggingFaceImages:
    """An image column, fetched as file bytes so that it is decoded like all other images.

    The library's own decoding turns images by their EXIF orientation, which ours does not.
    """

    table: Any
    column: str
    name: str
    modality: Modality = "image"

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Image.Image:
        return decode(self.content(index), where=self.where(index))

    def content(self, index: int) -> bytes:
        value = self.table[index][self.column]
        if isinstance(value, bytes):
            return value
        if value is None:
            raise DatasetError(
                f"Every sample needs an image; {self.where(index)} is empty. Remove that row."
            )
        data: bytes | None = value["bytes"]
        return ImageFiles([Path(value["path"])]).content(0) if data is None else data

    def where(self, index: int) -> str:
        return f"row {index} of {self.name}, column {self.column!r}"


def _images(table: Any, column: str, name: str) -> _HuggingFaceImages:
    only = table.select_columns([column])
    if type(table.features[column]).__name__ == "Image":
        image = require("datasets", extra="vision", purpose="read image columns").Image
        only = only.cast_column(column, image(decode=False))
    return _HuggingFaceImages(only, column, name)


def _class_names(feature: Any) -> list[str] | None:
    """Names of a ClassLabel, or of a list of them."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return list(names) if isinstance(names, list) else None


def _is_image(feature: Any) -> bool:
    embedded = isinstance(feature, dict) and "bytes" in feature
    return (
        type(feature).__name__ == "Image"
        or embedded
        or _dtype(feature) in ("binary", "large_binary")
    )


def _is_text(feature: Any) -> bool:
    return _dtype(feature) in ("string", "large_string")


def _dtype(feature: Any) -> str:
    return str(getattr(feature, "dtype", ""))
