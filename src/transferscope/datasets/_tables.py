"""Tables: a column of texts, pairs or image paths, one of labels, perhaps one of splits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from transferscope.datasets._cells import (
    checked_texts,
    gaps,
    parse_labels,
    parse_numbers,
    text_samples,
)
from transferscope.datasets._columns import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    find_input_columns,
    find_label_columns,
    may_lack_labels,
)
from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._request import Request
from transferscope.datasets._samples import ImageFiles, Samples
from transferscope.datasets._splits import choose_split
from transferscope.datasets._words import make_tagged, wants_tags
from transferscope.errors import DatasetError
from transferscope.numerics.arrays import NumpyArray


def read_csv(path: Path, request: Request) -> Dataset:
    """Read a ``.csv`` with a header line; `read_table` describes how columns are read.

    Raises
    ------
    DatasetError
        If it cannot be parsed, or as `read_table` raises it.
    """
    import pandas as pd

    try:
        # everything as text: a class called "NA" and a text that is a number stay as written
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # pandas' parser errors and UnicodeDecodeError
        raise DatasetError(
            f"{path} must be a UTF-8 table with a header line and cannot be read "
            f"({type(error).__name__}: {error}). Repair it or export it again."
        ) from error
    columns = {str(name): frame[name].to_numpy(dtype=object) for name in frame.columns}
    return read_table(columns, path, request)


def read_json(path: Path, request: Request) -> Dataset:
    """Read a ``.json`` list of records, or a ``.jsonl`` with one record per line.

    Raises
    ------
    DatasetError
        If it is neither, records have different names, or as `read_table` raises it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl" or not text.lstrip().startswith("["):
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            records = json.loads(text)
    except (ValueError, OSError) as error:  # JSONDecodeError and UnicodeDecodeError
        raise DatasetError(
            f"{path} must be a list of records, or one record per line, and cannot be read "
            f"({type(error).__name__}: {error}). Repair it or export it again."
        ) from error
    names = list(records[0]) if records and isinstance(records[0], dict) else []
    for number, record in enumerate(records):
        if not isinstance(record, dict) or set(record) != set(names):
            raise DatasetError(
                f"{path} must hold objects with the same names; record {number} is not like the "
                f"first, which has {', '.join(names) or 'none'}. Make them alike."
            )
    columns = {}
    for name in names:
        columns[name] = np.empty(len(records), dtype=object)  # lists stay cells
        columns[name][:] = [record[name] for record in records]
    return read_table(columns, path, request)


def read_table(columns: Mapping[str, NumpyArray], path: Path, request: Request) -> Dataset:
    """Make a data set of the columns of a table.

    Parameters
    ----------
    columns : mapping of str to ndarray
        Labels may be class names, whole numbers (classes) or other numbers (regression), as text
        or not; lists of names (multi-label); or one tag for every word of the text, in lists or
        with spaces between. A column ``split``, if present, divides the rows.
    path : Path
        The table's file; image paths are relative to its folder.
    request : Request

    Raises
    ------
    DatasetError
        If a column is absent or ambiguous, samples or labels are missing, or image files do not
        exist.
    """
    source, name = str(path), path.stem
    request = request.of_columns(columns)
    label_columns: tuple[str, ...] = ()
    if not may_lack_labels(request, columns):
        label_columns = find_label_columns(request.label_column, list(columns), source=source)
    inputs, hold_images = _find_inputs(columns, label_columns, path, request)
    columns, rows, split = _choose_rows(columns, label_columns, source, request)
    if len(inputs) == len(label_columns) == 1:
        words, tags = columns[inputs[0]], columns[label_columns[0]]
        if wants_tags(request, words, tags):
            return make_tagged(name, words, tags, request, split=split, rows=rows)
    samples: Samples
    if hold_images:
        samples = _image_files(columns[inputs[0]], inputs[0], rows, path, request)
    else:
        samples = text_samples([columns[column] for column in inputs], inputs, source=source)
    # classes are numbered before the split is taken, so that ids agree between the splits
    labels, task, class_names = parse_labels(
        [columns[column] for column in label_columns], label_columns
    )
    whole = make_dataset(
        name, samples, labels, split=split, task=request.task or task, class_names=class_names
    )
    return whole.subset(rows)


def _find_inputs(
    columns: Mapping[str, NumpyArray], label_columns: Sequence[str], path: Path, request: Request
) -> tuple[tuple[str, ...], bool]:
    """Columns of the samples, and whether they hold paths of images."""
    others = [name for name in columns if name not in (*label_columns, "split")]
    images = [name for name in others if _holds_files(columns[name], path.parent)]
    texts = [name for name in others if name not in images and _holds_texts(columns[name], name)]
    inputs = find_input_columns(request.input_column, others, images, texts, source=str(path))
    # by name too: better to report that images are absent than to take their paths for texts
    named_so = inputs[0] in images or inputs[0].lower() in IMAGE_COLUMNS
    return inputs, len(inputs) == 1 and named_so


def _choose_rows(
    columns: Mapping[str, NumpyArray], label_columns: Sequence[str], source: str, request: Request
) -> tuple[Mapping[str, NumpyArray], npt.NDArray[np.int64], str]:
    """Rows that take part in numbering the classes, which of them are chosen, and their split."""
    if "split" not in columns:
        chosen = choose_split(request.split, (), source=f"{source} (it has no column split)")
        return columns, np.arange(len(next(iter(columns.values())))), chosen
    parts = columns["split"].astype(str)
    chosen = choose_split(request.split, sorted(set(parts)), source=source)
    # another split's labels may be withheld; those it has take part in numbering the classes
    withheld = np.zeros(len(parts), dtype=bool)
    for name in label_columns:
        withheld |= gaps(columns[name])
    used = (parts == chosen) | ~withheld
    kept = {name: column[used] for name, column in columns.items()}
    return kept, np.flatnonzero(parts[used] == chosen), chosen


def _image_files(
    cells: NumpyArray, column: str, rows: npt.NDArray[np.int64], path: Path, request: Request
) -> ImageFiles:
    """Images at paths relative to the table's folder; those of the chosen rows must exist."""
    values = checked_texts(cells, where=f"column {column!r} of {path}")
    files = ImageFiles([path.parent / value for value in values])
    if request.skip_unreadable:
        return files
    missing = [values[row] for row in rows if not _is_file(path.parent, values[row])]
    if missing:
        raise DatasetError(
            f"column {column!r} of {path} must hold paths of images relative to the table's "
            f"folder; {len(missing)} do not exist, the first is {missing[0]!r}. Correct them, or "
            "name another column with input_column=..."
        )
    return files


def _holds_files(values: NumpyArray, folder: Path) -> bool:
    """Whether one of the first values is the path of a file."""
    return any(_is_file(folder, str(value)) for value in values[:10] if value)


def _is_file(folder: Path, name: str) -> bool:
    # os.path, because Path.is_file raises for texts longer than a file name may be
    return os.path.isfile(folder / name)  # noqa: PTH113


def _holds_texts(values: NumpyArray, name: str) -> bool:
    """Whether a column is text: called so, or not all of it numbers."""
    return name.lower() in TEXT_COLUMNS or parse_numbers(values).dtype.kind not in "biuf"
