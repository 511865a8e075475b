"""Tables: a column of texts, pairs or images, one of labels, perhaps one of splits.

Readers of files make a `Table` of what they find, and say no more of a column than its source does;
`read_table` decides for all of them what the columns are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from transferscope.datasets._cells import (
    LabelReader,
    Labels,
    Place,
    looks_numeric,
    place_of_row,
    rows_without,
    texts_of,
)
from transferscope.datasets._columns import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    find_input_columns,
    find_label_columns,
    may_lack_labels,
)
from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._image_folder import IMAGE_EXTENSIONS
from transferscope.datasets._request import Request
from transferscope.datasets._samples import ImageFiles, Samples, Texts
from transferscope.datasets._splits import choose_split, find_split_column, note_choice
from transferscope.datasets._words import find_tagged, make_tagged
from transferscope.errors import DatasetError

Rows = npt.NDArray[np.int64]
_Reading = Literal["texts", "images"]

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://\S+", re.IGNORECASE)
_IMAGE_SUFFIXES = (*IMAGE_EXTENSIONS, ".gif", ".jfif", ".heic", ".avif")
_IMAGE_WORDS = re.compile(r"image|img|photo|picture|file|path", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    read : callable
        Gives its cells; called when they are first needed.
    kind : {"text", "number", "image", "other"} or None
        What its source declares it to hold; None: its cells tell.
    class_names : sequence of str
        Names of the classes that its whole numbers are ids of.
    images : callable or None
        For images that lie in the table: from rows to samples.
    """

    read: Callable[[], Sequence[object]] = field(repr=False)
    kind: Literal["text", "number", "image", "other"] | None = None
    class_names: Sequence[str] = ()
    images: Callable[[Rows], Samples] | None = field(default=None, repr=False)

    @cached_property
    def cells(self) -> Sequence[object]:
        """One cell for every row."""
        return self.read()

    def __iter__(self) -> Iterator[object]:
        return iter(self.cells)


@dataclass(frozen=True)
class Table:
    """What a reader found: columns, and where each row came from.

    Parameters
    ----------
    columns : mapping of str to Column
    n_rows : int
    source : str
        What to call the table in messages.
    name : str
        What to call the data set.
    folder : Path or None
        Paths of images are relative to it; None where there can be none.
    place : Place
        Names a row for messages: ``"line 7"``.
    split : str or None
        Which part of its source it is, where the source is divided otherwise than by a column.
    comma : bool
        Whether a comma may stand before decimals.
    notes : tuple of str
    """

    columns: Mapping[str, Column]
    n_rows: int
    source: str
    name: str
    folder: Path | None = None
    place: Place = place_of_row
    split: str | None = None
    comma: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Numbered:
    """Names rows by numbers of their own, such as lines."""

    unit: str
    numbers: Sequence[int]

    def __call__(self, row: int) -> str:
        return f"{self.unit} {self.numbers[row]}"


def column_of(cells: Sequence[object]) -> Column:
    """A column whose cells are at hand and speak for themselves."""
    return Column(lambda: cells)


def read_table(table: Table, request: Request) -> Dataset:
    """Make a data set of a table.

    Labels may be class names, whole numbers (classes) or other numbers (regression), as text or
    not; lists of names, or of 0 and 1 (multi-label); or one tag for every word, in lists. A column
    of splits, if present, divides the rows.

    Parameters
    ----------
    table : Table
    request : Request

    Raises
    ------
    DatasetError
        If a column is absent or ambiguous, samples or labels are missing or of several kinds, or
        image files do not exist.
    """
    if table.n_rows == 0:
        raise DatasetError(
            f"{table.source} is empty, and a data set needs samples. Check how it was written."
        )
    request = request.of_columns(table.columns)
    label_columns = _label_columns(table, request)
    others = {name: c for name, c in table.columns.items() if name not in label_columns}
    split_column = None if table.split is not None else find_split_column(others)
    others.pop(split_column or "", None)
    inputs, reading = _inputs(table, others, request)
    part = _choose_rows(table, label_columns, split_column, request)
    place = _Places(table.place, part.used)
    columns = [_taken(table.columns[name].cells, part.used) for name in label_columns]
    if len(inputs) == len(columns) == 1 and reading == "texts":
        words = _taken(table.columns[inputs[0]].cells, part.used)
        names = table.columns[label_columns[0]].class_names
        tagged = find_tagged(request, words, columns[0], names, place)
        if tagged is not None:
            note = f"words of {_listed(inputs)}, a tag for each of {_listed(label_columns)}"
            notes = (*table.notes, note, *part.notes)
            return make_tagged(
                table.name, *tagged, request, split=part.split, rows=part.chosen, notes=notes
            )
    samples = _samples(table, inputs, reading, part, request)
    labels = _labels(columns, label_columns, table, place, request)
    note = f"{'pairs of texts' if len(inputs) > 1 else reading} of {_listed(inputs)}"
    if labels is not None:
        note += f", {labels.reading} of {_listed(label_columns)}"
    whole = make_dataset(
        table.name,
        samples,
        None if labels is None else labels.values,
        split=part.split,
        task=request.task or (None if labels is None else labels.task),
        class_names=None if labels is None else labels.class_names,
        notes=(*table.notes, note, *part.notes),
    )
    # classes are numbered before the split is taken, so that what a cell means is not for one
    # split to decide
    return whole.subset(part.chosen)


def _listed(columns: Sequence[str]) -> str:
    return f"column{'s' * (len(columns) > 1)} {', '.join(map(repr, columns))}"


def _taken(cells: Sequence[object], rows: Rows) -> Sequence[object]:
    return cells if len(rows) == len(cells) else [cells[row] for row in rows]


@dataclass(frozen=True)
class _Places:
    """Names rows of a part of a table as the table names them."""

    place: Place
    rows: Rows

    def __call__(self, row: int) -> str:
        return self.place(int(self.rows[row]))


@dataclass(frozen=True)
class _Part:
    """Rows that take part in deciding what the labels are, and which of these are chosen."""

    used: Rows
    chosen: Rows
    split: str
    notes: tuple[str, ...] = ()


def _choose_rows(
    table: Table, label_columns: Sequence[str], split_column: str | None, request: Request
) -> _Part:
    every = np.arange(table.n_rows)
    if table.split is not None:
        return _Part(every, every, table.split)
    if split_column is None:
        source = f"{table.source} (it has no column split)"
        return _Part(every, every, choose_split(request.split, (), source=source))
    cells = table.columns[split_column].cells
    if absent := rows_without(cells):
        raise DatasetError(
            f"column {split_column!r} of {table.source} must name the split of every row; "
            f"{len(absent)} are empty, the first at {table.place(absent[0])}. Fill them in or "
            "remove those rows."
        )
    parts = np.array([str(cell).strip() for cell in cells])
    names = sorted(set(parts.tolist()))
    chosen = choose_split(request.split, names, source=table.source)
    # another split's labels may be withheld; those it has take part
    withheld = np.zeros(len(parts), dtype=bool)
    for name in label_columns:
        withheld[rows_without(table.columns[name].cells)] = True
    used = np.flatnonzero((parts == chosen) | ~withheld)
    notes = note_choice(request.split, chosen, names)
    return _Part(used, np.flatnonzero(parts[used] == chosen), chosen, notes)


def _label_columns(table: Table, request: Request) -> tuple[str, ...]:
    if request.label_column is None:
        with_names = [name for name, column in table.columns.items() if column.class_names]
        if len(with_names) == 1:
            return (with_names[0],)
    if may_lack_labels(request, table.columns):
        return ()
    return find_label_columns(request.label_column, list(table.columns), source=table.source)


def _inputs(
    table: Table, columns: Mapping[str, Column], request: Request
) -> tuple[tuple[str, ...], _Reading]:
    """Columns of the samples, and what they are."""
    others = list(columns)
    if request.input_column is None:
        images = [
            name
            for name, column in columns.items()
            if column.kind == "image" or _names_files(table, column)
        ]
        texts = [name for name in others if name not in images and _holds_texts(table, name)]
    else:
        images, texts = [], others
    inputs = find_input_columns(request.input_column, others, images, texts, source=table.source)
    for name in inputs:
        kind = columns[name].kind
        if kind == "other" or (kind == "image" and len(inputs) > 1):
            raise DatasetError(
                f"column {name!r} of {table.source} is neither texts nor images that can be "
                "paired, and samples must be images, texts or pairs of texts. Name another one "
                "with input_column=..."
            )
    if columns[inputs[0]].kind == "image":
        return inputs, "images"
    if len(inputs) > 1:
        return inputs, "texts"
    (name,) = inputs
    _refuse_addresses(table, name)
    # by name too: better to report that images are absent than to take their paths for texts
    called_so = name.strip().lower() in IMAGE_COLUMNS and table.folder is not None
    column = columns[name]
    is_path = called_so or _called_images(column) or _names_files(table, column)
    return inputs, "images" if is_path else "texts"


def _refuse_addresses(table: Table, name: str) -> None:
    """Refuse addresses of images on the web; other addresses are texts."""
    cells = [str(cell).strip() for cell in table.columns[name].cells]
    if not all(_ADDRESS.fullmatch(cell) or _has_image_suffix(cell) for cell in cells):
        return
    rows = [row for row, cell in enumerate(cells) if _ADDRESS.fullmatch(cell)]
    of_images = [row for row in rows if _has_image_suffix(cells[row].partition("?")[0])]
    if of_images or (rows and _IMAGE_WORDS.search(name)):
        row = (of_images or rows)[0]
        raise DatasetError(
            f"column {name!r} of {table.source} holds addresses of images, such as "
            f"{cells[row]!r:.120} at {table.place(row)}, and images are read from files only. "
            "Download them, and write their paths into the column."
        )


def _called_images(column: Column) -> bool:
    """Whether every cell is called as an image file is."""
    texts = [cell for cell in column.cells if isinstance(cell, str)]
    return len(texts) == len(column.cells) and all(map(_has_image_suffix, texts))


def _names_files(table: Table, column: Column) -> bool:
    """Whether one of the cells is the path of a file."""
    folder = table.folder
    if column.kind not in ("text", None) or folder is None or looks_numeric(column.cells):
        return False
    texts = dict.fromkeys(cell for cell in column.cells if isinstance(cell, str))
    # a text of several words is no path, unless it ends as images do
    likely = (t for t in texts if _has_image_suffix(t) or not any(map(str.isspace, t.strip())))
    return any(_file_at(folder, text) is not None for text in likely)


def _has_image_suffix(text: str) -> bool:
    return text.rstrip().lower().endswith(_IMAGE_SUFFIXES) and "\n" not in text


def _file_at(folder: Path, cell: str) -> Path | None:
    """The file that a cell names, on Windows or elsewhere; None if there is none."""
    for text in dict.fromkeys((cell, cell.strip(), cell.strip().replace("\\", "/"))):
        # os.path: Path.is_file raises for texts longer than a name may be, and is slow
        if text and "\0" not in text and os.path.isfile(os.path.join(folder, text)):  # noqa: PTH113, PTH118
            return folder / text
    return None


def _holds_texts(table: Table, name: str) -> bool:
    """Whether a column is text: declared or called so, or not all of it numbers."""
    column = table.columns[name]
    if column.kind == "text" or (column.kind != "other" and name.strip().lower() in TEXT_COLUMNS):
        return True
    held = column.kind is None and len(rows_without(column.cells)) < table.n_rows
    return held and not looks_numeric(column.cells, comma=table.comma)


def _samples(
    table: Table, inputs: Sequence[str], reading: _Reading, part: _Part, request: Request
) -> Samples:
    """Samples of the used rows: images in the table or in files, texts, or pairs of texts."""
    first = table.columns[inputs[0]]
    if first.images is not None:
        return first.images(part.used)
    place = _Places(table.place, part.used)
    texts = [
        texts_of(
            _taken(table.columns[name].cells, part.used),
            what=f"column {name!r} of {table.source}",
            place=place,
        )
        for name in inputs
    ]
    if reading == "images":
        return _image_files(texts[0], inputs[0], table, part, request)
    return Texts(list(zip(*texts, strict=True)) if len(texts) > 1 else texts[0], table.source)


def _image_files(
    values: Sequence[str], column: str, table: Table, part: _Part, request: Request
) -> ImageFiles:
    """Images at paths relative to the table's folder; those of the chosen rows must exist."""
    what = f"column {column!r} of {table.source}"
    if table.folder is None:
        raise DatasetError(
            f"{what} holds paths of images, such as {values[0]!r:.120}, and there is no folder "
            "that they are relative to. Turn it into images: cast_column(..., datasets.Image())."
        )
    folder = table.folder
    found = [_file_at(folder, value) for value in values]
    files = ImageFiles([path or folder / v for path, v in zip(found, values, strict=True)])
    if request.skip_unreadable:
        return files
    missing = [row for row in part.chosen if found[row] is None]
    if missing:
        row = int(missing[0])
        there = os.path.exists(files.paths[row])  # noqa: PTH110  as above
        state = "are devices, pipes or folders" if there else "do not exist"
        at = table.place(int(part.used[row]))
        raise DatasetError(
            f"{what} must hold paths of images relative to the table's folder; {len(missing)} "
            f"{state}, the first is {values[row]!r:.120} at {at}. Correct them, or name another "
            "column with input_column=..."
        )
    return files


def _labels(
    columns: Sequence[Sequence[object]],
    names: Sequence[str],
    table: Table,
    place: Place,
    request: Request,
) -> Labels | None:
    """Labels of one column or several; several are targets, or classes if they hold 0 and 1."""
    if not columns:
        return None
    what = f"the labels of {table.source} (column {names[0]!r})"
    reader = LabelReader(what, place, request.task, table.comma)
    if len(columns) == 1:
        column = table.columns[names[0]]
        return reader.read(columns[0], column.class_names, as_names=column.kind == "text")
    values = np.stack(
        [reader.numbers(cells, name) for cells, name in zip(columns, names, strict=True)], axis=1
    )
    if request.task != "regression" and np.isin(values, (0, 1)).all():
        return Labels(values, "0 or 1 for each class", "multilabel", names)
    return Labels(values, "numbers", "regression")
