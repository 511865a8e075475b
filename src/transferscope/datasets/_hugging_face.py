"""Data sets of the Hugging Face library: from the hub, from a local folder, or as an object."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, overload

from transferscope.datasets._dataset import Dataset
from transferscope.datasets._delimited import read_delimited
from transferscope.datasets._files import naming
from transferscope.datasets._images import decode
from transferscope.datasets._json import read_json
from transferscope.datasets._request import Request
from transferscope.datasets._samples import ImageFiles, Modality
from transferscope.datasets._splits import choose_split, note_choice
from transferscope.datasets._tables import Column, Rows, Table, column_of, read_table
from transferscope.errors import DatasetError, TransferscopeError, require
from transferscope.numerics.arrays import NumpyArray

if TYPE_CHECKING:
    from PIL import Image

#: Files that the library reads, or that are often beside them.
_DATA_SUFFIXES = (
    *(".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".txt", ".md", ".xml", ".h5"),
    *(".zip", ".tar", ".gz", ".xz", ".zst", ".bz2", ".wav", ".mp3", ".flac", ".ogg", ".mp4"),
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"),
)
#: More files of other kinds than this make a folder that is no data set.
_MOST_FOREIGN = 10_000
_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".json": read_json,
    ".jsonl": read_json,
}


class _Info(Protocol):
    dataset_name: str | None


class Rowed(Protocol):
    """What is used of a `datasets.Dataset`, whose library has no types."""

    features: Mapping[str, object]
    info: _Info

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, key: int, /) -> Mapping[str, Any]: ...

    @overload
    def __getitem__(self, key: str, /) -> Sequence[Any]: ...

    def with_format(self, kind: str | None, /) -> Rowed:
        """The same rows in another format, or in none."""

    def select(self, rows: Rows, /) -> Rowed:
        """Some of the rows."""

    def select_columns(self, names: list[str], /) -> Rowed:
        """The same rows with these columns only."""

    def cast_column(self, name: str, feature: object, /) -> Rowed:
        """The same rows with a column of another type."""


def load_hugging_face(identifier: str, request: Request) -> Dataset:
    """Load ``hf/<identifier>``: a local folder if there is one, otherwise from the hub.

    Parameters
    ----------
    identifier : str
        A folder written by ``save_to_disk``, a folder of parquet, csv or image files, or a hub id;
        ``?config=NAME`` after it chooses a configuration. Files of csv and JSON are read as
        anywhere else, not by the library, which takes a class called NA for a missing one.
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
    name = folder.name if folder.is_dir() else location
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded = library.load_from_disk(str(folder))
        else:
            if folder.is_dir():
                _refuse_foreign(folder)
            place = str(folder.resolve()) if folder.is_dir() else location
            builder = library.load_dataset_builder(place, name=config or None)
            table = _text_table(library, builder, name, request)
            if table is not None:
                return read_table(table, request)
            builder.download_and_prepare()
            loaded = builder.as_dataset()
    except (TransferscopeError, MemoryError):
        raise
    except Exception as error:
        # its own errors have no common base, and those of the network underneath pass through
        raise DatasetError(
            f"hf/{identifier} cannot be loaded ({type(error).__name__}: {error}); hf/ must be "
            "followed by a local folder or the id of a data set. Check the spelling "
            "(hf/<id>?config=<name> chooses a configuration); without a connection, save it where "
            "there is one with save_to_disk, and give that folder after hf/."
        ) from error
    return from_hugging_face(loaded, request, name=name)


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder through which the library would search for hours, such as a home folder."""
    foreign = count = 0
    for _, _, files in os.walk(folder):
        count += len(files)
        foreign += sum(not name.lower().endswith(_DATA_SUFFIXES) for name in files)
        if foreign > _MOST_FOREIGN and 2 * foreign > count:
            raise DatasetError(
                f"{folder} must be the folder of a data set; it holds more than {_MOST_FOREIGN:,} "
                "files that are no data. Give the folder that holds the data files alone."
            )


def _text_table(library: ModuleType, builder: Any, name: str, request: Request) -> Table | None:
    """The table of the chosen split, of files of csv or JSON without declared types; else None."""
    if builder.name not in ("csv", "json") or builder.info.features is not None:
        return None
    parts = {
        str(split): list(map(str, files)) for split, files in builder.config.data_files.items()
    }
    split = choose_split(request.split, parts, source=name)
    suffixes = [Path(file).suffix.lower() for file in parts[split]]
    if not set(suffixes) <= _READERS.keys():
        return None
    files = map(Path, library.DownloadManager().download(parts[split]))
    tables = [_READERS[suffix](file) for suffix, file in zip(suffixes, files, strict=True)]
    first = tables[0]
    for other in tables[1:]:
        if other.columns.keys() != first.columns.keys():
            raise DatasetError(
                f"{name} must have the same columns in all files; {first.source} has "
                f"{', '.join(first.columns)} and {other.source} has {', '.join(other.columns)}. "
                "Make them alike."
            )
    rows = [(table, row) for table in tables for row in range(table.n_rows)]

    def place(row: int) -> str:
        table, number = rows[row]
        return f"{table.place(number)} of {table.source}"

    def joined(column: str) -> Column:
        cells = [cell for table in tables for cell in table.columns[column]]
        texts = builder.name == "json" and all(isinstance(cell, str) for cell in cells)
        return replace(column_of(cells), kind="text" if texts else None)

    columns = {column: joined(column) for column in first.columns}
    return replace(
        first, columns=columns, n_rows=len(rows), source=name, name=name, place=place, split=split
    )


def from_hugging_face(
    source: Rowed | Mapping[str, Rowed], request: Request, *, name: str | None = None
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
    with naming(name or "the data set", "a data set of the Hugging Face library"):
        rows, split, notes = _choose_part(source, request, name)
        name = name or rows.info.dataset_name or "hugging_face"
        return read_table(replace(table_of(rows, name, name), split=split, notes=notes), request)


def _choose_part(
    source: Rowed | Mapping[str, Rowed], request: Request, name: str | None
) -> tuple[Rowed, str, tuple[str, ...]]:
    """The rows of the split that is asked for, without the format that a user may have set."""
    notes: tuple[str, ...] = ()
    if isinstance(source, Mapping):
        name = name or "the DatasetDict"
        if not source:
            raise DatasetError(f"{name} has no splits, and a data set needs one. Fill it.")
        split = choose_split(request.split, source, source=name)
        notes = note_choice(request.split, split, source)
        rows = source[split]
    else:
        rows, name = source, name or "the data set"
        split = str(getattr(rows, "split", None) or "all")
        if request.split is not None:
            split = choose_split(request.split, [split], source=name)
    if not hasattr(rows, "__len__"):
        raise DatasetError(
            f"{name} is a stream ({type(rows).__name__}), and a data set must have a length. "
            "Load it without streaming=True."
        )
    return rows.with_format(None), split, notes  # a format would make tensors of images


def table_of(rows: Rowed, source: str, name: str, folder: Path | None = None) -> Table:
    """A table of a data set of the library, whose columns are what its types say.

    Parameters
    ----------
    rows : datasets.Dataset
    source, name, folder
        As `Table` takes them.
    """
    columns = {column: _column(rows, column, name) for column in rows.features}
    return Table(columns, len(rows), source, name, folder)


def _column(rows: Rowed, name: str, source: str) -> Column:
    feature = rows.features[name]
    if _is_image(feature):
        return Column(
            lambda: rows[name][:],
            "image",
            images=lambda used: _images(
                rows if len(used) == len(rows) else rows.select(used), name, source
            ),
        )
    if _dtype(feature) == "time64[ns]":  # as text, because Python's times have no nanoseconds
        arrow: Any = rows.with_format("arrow")
        return Column(lambda: arrow[name].cast("string").to_pylist(), "other")
    text = _is_text(feature) or _is_text(getattr(feature, "feature", None))
    return Column(lambda: rows[name][:], "text" if text else "other", _class_names(feature) or ())


@dataclass(frozen=True)
class _HuggingFaceImages:
    """An image column, fetched as file bytes so that it is decoded like all other images.

    The library's own decoding rotates images by their EXIF orientation, which ours does not.
    """

    table: Rowed
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


def _images(table: Rowed, column: str, name: str) -> _HuggingFaceImages:
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
    holds = feature.get("bytes") if isinstance(feature, dict) else feature
    return type(feature).__name__ == "Image" or _dtype(holds) in ("binary", "large_binary")


def _is_text(feature: object) -> bool:
    return _dtype(feature) in ("string", "large_string")


def _dtype(feature: object) -> str:
    return str(getattr(feature, "dtype", ""))
