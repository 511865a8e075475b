"""Tables: a column of texts, pairs or image paths, one of labels, perhaps one of splits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transferscope.datasets._dataset import Dataset, Request, choose_split, make_dataset
from transferscope.datasets._labels import RequestedTask
from transferscope.datasets._samples import ImageFiles, Samples, Texts
from transferscope.datasets._words import are_tags, listed, make_tagged
from transferscope.errors import DatasetError

#: Column names that are understood without being told, in lower case
LABEL_COLUMNS = frozenset({"label", "labels", "class", "target", "category", "y"})
TEXT_COLUMNS = frozenset({"text", "sentence", "content", "review", "question", "tokens", "words"})
#: Two columns that together are the sample, if both are there
PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text", "text_b"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)
IMAGE_COLUMNS = frozenset(
    {"image", "img", "path", "file", "filename", "file_name", "filepath", "image_path"}
)


def read_csv(path: Path, request: Request) -> Dataset:
    """Read a ``.csv`` with a header line; `read_table` says how columns are understood.

    Raises
    ------
    DatasetError
        If it cannot be parsed, or as `read_table` says.
    """
    import pandas as pd

    try:
        # everything as text: a class called "NA" and a text that is a number stay as written
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # pandas' parser errors and UnicodeDecodeError
        raise DatasetError(
            f"A .csv data set must be a UTF-8 table with a header line; {path} cannot be read "
            f"({type(error).__name__}: {error}). Repair it or export it anew."
        ) from error
    columns = {str(name): frame[name].to_numpy(dtype=object) for name in frame.columns}
    return read_table(columns, path, request)


def read_json(path: Path, request: Request) -> Dataset:
    """Read a ``.json`` list of records, or a ``.jsonl`` with one record per line.

    Raises
    ------
    DatasetError
        If it is neither, records have different names, or as `read_table` says.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = path.suffix.lower() == ".jsonl" or not text.lstrip().startswith("[")
        records = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else (
            json.loads(text)
        )  # fmt: skip
    except (ValueError, OSError) as error:  # JSONDecodeError and UnicodeDecodeError
        raise DatasetError(
            f"A .json data set must be a list of records, or one record per line; {path} cannot "
            f"be read ({type(error).__name__}: {error}). Repair it or export it anew."
        ) from error
    names = list(records[0]) if records and isinstance(records[0], dict) else []
    for number, record in enumerate(records):
        if not isinstance(record, dict) or set(record) != set(names):
            raise DatasetError(
                f"All records must be objects with the same names; of {path} record {number} is "
                f"not like the first, which has {', '.join(names) or 'none'}. Make them alike."
            )
    columns = {}
    for name in names:
        columns[name] = np.empty(len(records), dtype=object)  # lists stay cells
        columns[name][:] = [record[name] for record in records]
    return read_table(columns, path, request)


def read_table(columns: dict[str, npt.NDArray[Any]], path: Path, request: Request) -> Dataset:
    """Make a data set of the columns of a table.

    Parameters
    ----------
    columns : dict of str to ndarray
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
    source = str(path)
    request = request.of_columns(columns)
    label_columns: tuple[str, ...] = ()
    if not lacks_labels(request, columns):
        label_columns = find_label_columns(request.label_column, list(columns), source=source)
    others = [name for name in columns if name not in (*label_columns, "split")]
    images = [name for name in others if _holds_files(columns[name], path.parent)]
    texts = [name for name in others if name not in images and _holds_texts(columns[name], name)]
    inputs = find_input_columns(request.input_column, others, images, texts, source=source)

    rows, chosen = np.arange(len(columns[inputs[0]])), "all"
    if "split" in columns:
        parts = columns["split"].astype(str)
        chosen = choose_split(request.split, sorted(set(parts)), source=source)
        # another split's labels may be withheld; those it has take part in numbering the classes
        withheld = np.any([_gaps(columns[name]) for name in label_columns], axis=0)
        used = (parts == chosen) | ~withheld
        columns = {name: column[used] for name, column in columns.items()}
        rows = np.flatnonzero(parts[used] == chosen)
    elif request.split is not None:
        choose_split(request.split, [], source=f"{path} (it has no column split)")
    if len(inputs) == len(label_columns) == 1:
        words, tags = columns[inputs[0]], columns[label_columns[0]]
        if wants_tags(request, words, tags):
            return make_tagged(path.stem, list(words), list(tags), request, split=chosen, rows=rows)
    samples: Samples = text_samples([columns[name] for name in inputs], inputs, source)
    # by name too: better to say that images are not there than to take their paths for texts
    (input_column, *second) = inputs
    if not second and (input_column in images or input_column.lower() in IMAGE_COLUMNS):
        values = [str(value) for value in columns[input_column]]
        samples = ImageFiles([path.parent / value for value in values])
        missing = [] if request.skip_unreadable else _missing(values, rows, path.parent)
        if missing:
            raise DatasetError(
                f"Image paths must exist relative to the table's folder; of column "
                f"{input_column!r} of {path} {len(missing)} do not, the first is {missing[0]!r}. "
                "Correct them, or name another column with input_column=... (--text-column)."
            )
    # classes are numbered before the split is taken, so that ids agree between the splits
    labels, task, names = parse_labels(
        [columns[name] for name in label_columns], label_columns, len(samples)
    )
    whole = make_dataset(
        path.stem, samples, labels, split=chosen, task=request.task or task, class_names=names
    )
    return whole.subset(rows)


def wants_tags(request: Request, texts: npt.NDArray[Any], labels: npt.NDArray[Any]) -> bool:
    """Whether every word has a tag: because it was asked for, or because there are as many."""
    if request.task is not None:
        return request.task in ("tags", "entities")
    return are_tags(texts, labels)  # type: ignore[arg-type]


def text_samples(columns: Sequence[Iterable[Any]], names: Sequence[str], source: str) -> Texts:
    """Texts of one column, or pairs of two.

    Raises
    ------
    DatasetError
        If one is missing.
    """
    texts = [
        checked_texts(column, where=f"column {name!r} of {source}")
        for column, name in zip(columns, names, strict=True)
    ]
    return Texts(texts[0] if len(texts) == 1 else list(zip(*texts, strict=True)), source)


def parse_labels(
    columns: Sequence[npt.NDArray[Any]], names: Sequence[str], n_samples: int
) -> tuple[npt.NDArray[Any], RequestedTask | None, Sequence[str] | None]:
    """Labels of one column or several, with what follows from their form: task and class names.

    Several columns are targets of a regression, or classes if they hold 0 and 1 only. Cells that
    are lists hold the names of the classes that apply. Without a column the
    numbers of the rows stand for labels.
    """
    if not columns:
        return np.arange(n_samples, dtype=np.float64), "regression", None
    if len(columns) > 1:
        parsed = [parse_numbers(column) for column in columns]
        if any(column.dtype.kind not in "biuf" for column in parsed):
            return np.stack([column.astype(object) for column in columns], axis=1), None, None
        table = np.stack(parsed, axis=1).astype(np.float64)
        binary = bool(np.isin(table, (0, 1)).all())
        return table, "multilabel" if binary else "regression", names if binary else None
    (column,) = columns
    if any(isinstance(cell, list | tuple | np.ndarray) for cell in column[:10]):
        sets = [{str(name) for name in listed(cell)} for cell in column]
        classes = sorted(set().union(*sets))
        hit = np.array([[name in its for name in classes] for its in sets], dtype=np.float64)
        return hit, "multilabel", classes
    return parse_numbers(column), None, None


def parse_numbers(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn a column of text into numbers if all of it is numbers; empty cells become None."""
    if values.dtype.kind in "biuf":
        return values
    gaps = _gaps(values)
    cells = np.array([str(value).strip() for value in values], dtype=object)
    cells[gaps] = None
    # int("1_0") is 10 in Python, but "1_0" is a name
    if not gaps.any() and not any("_" in cell for cell in cells):
        for kind in (np.int64, np.float64):
            try:
                return cells.astype(str).astype(kind)
            except (ValueError, OverflowError):
                continue
    return cells


def checked_texts(values: Iterable[Any], *, where: str) -> list[str]:
    """Make a list of texts, lists of words joined, refusing rows without one.

    Raises
    ------
    DatasetError
        If a text is None or NaN; an empty text is one.
    """
    texts = list(values)
    gaps = [row for row, text in enumerate(texts) if text is None or _is_nan(text)]
    if gaps:
        raise DatasetError(
            f"Every sample needs an input; {where} lacks {len(gaps)}, the first at row {gaps[0]}. "
            "Fill them in or remove those rows."
        )
    several = (list, tuple, np.ndarray)
    return [" ".join(map(str, text)) if isinstance(text, several) else str(text) for text in texts]


def find_label_columns(
    requested: str | None, columns: Sequence[str], *, source: str
) -> tuple[str, ...]:
    """Find the column of labels, or several that are named with commas between.

    Raises
    ------
    DatasetError
        As `find_label_column` says.
    """
    if requested is None or requested in columns:
        return (find_label_column(requested, columns, source=source),)
    parts = [part.strip() for part in requested.split(",")]
    return tuple(find_label_column(part, columns, source=source) for part in parts)


def find_label_column(requested: str | None, columns: Sequence[str], *, source: str) -> str:
    """Find the column of labels by the name given, or by the usual names.

    Raises
    ------
    DatasetError
        If there is none, or more than one candidate.
    """
    present = ", ".join(map(str, columns))
    if requested is not None:
        if requested in columns:
            return requested
        raise DatasetError(
            f"Label column {requested!r} does not exist in {source}, whose columns are {present}. "
            "Choose one of them."
        )
    found = [name for name in columns if name.lower() in LABEL_COLUMNS]
    if len(found) == 1:
        return found[0]
    state = f"are several candidates ({', '.join(found)})" if found else "is none of a usual name"
    raise DatasetError(
        f"A data set needs one column of labels; in {source} there {state}. Its columns are "
        f"{present}. Name the right one with label_column=... (--label-column)."
    )


def lacks_labels(request: Request, columns: Iterable[str]) -> bool:
    """Whether it is a reference and has no column of labels, which is allowed."""
    usual = any(name.lower() in LABEL_COLUMNS for name in columns)
    return request.reference and request.label_column is None and not usual


def find_input_columns(
    requested: str | None,
    columns: Sequence[str],
    images: Sequence[str],
    texts: Sequence[str],
    *,
    source: str,
) -> tuple[str, ...]:
    """Find the column of samples, or the two of pairs of texts.

    By name if given, else images before texts, pairs before one, known names first.

    Parameters
    ----------
    requested : str or None
        One column, or two with a comma between.
    columns : sequence of str
        All that may be named.
    images, texts : sequence of str
        Those that hold images, and those that hold texts.
    source : str
        What to call the table in messages.

    Raises
    ------
    DatasetError
        If there is none, or more than one candidate.
    """
    present = ", ".join(columns)
    if requested is not None:
        if requested in columns:
            return (requested,)
        parts = [part.strip() for part in requested.split(",")]
        absent = [part for part in parts if part not in columns]
        if len(parts) == 2 and not absent:
            return (parts[0], parts[1])
        raise DatasetError(
            f"Input column {', '.join(map(repr, absent or parts))} does not exist in {source}, "
            f"which has {present}. Choose one of them, or two with a comma between for pairs."
        )
    pairs = [pair for pair in PAIR_COLUMNS if set(pair) <= set(texts)]
    if len(pairs) == 1 and not images:
        return pairs[0]
    for candidates, known in ((images, IMAGE_COLUMNS), (texts, TEXT_COLUMNS)):
        named = [name for name in candidates if name.lower() in known]
        found = named or candidates
        if len(found) == 1:
            return (found[0],)
        if found:
            break
    state = f"several columns could be it ({', '.join(found)})" if found else "none could be found"
    raise DatasetError(
        f"A data set needs one column of images or texts; in {source} {state}. Columns beside the "
        f"labels are {present or 'none'}. Name the right one with input_column=... (--text-column)."
    )


def _is_nan(cell: Any) -> bool:
    return isinstance(cell, float) and cell != cell


def _gaps(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which cells are None, NaN or empty."""
    words = ("", "nan")
    return np.array(
        [value is None or str(value).strip().lower() in words for value in values], dtype=bool
    )


def _holds_files(values: npt.NDArray[Any], folder: Path) -> bool:
    """Whether one of the first values is the path of a file."""
    # os.path, because Path.is_file raises for texts longer than a file name may be
    return any(os.path.isfile(folder / str(value)) for value in values[:10] if value)  # noqa: PTH113


def _holds_texts(values: npt.NDArray[Any], name: str) -> bool:
    """Whether a column is text: called so, or not all of it numbers."""
    return name.lower() in TEXT_COLUMNS or parse_numbers(values).dtype.kind not in "biuf"


def _missing(values: list[str], rows: npt.NDArray[np.int64], folder: Path) -> list[str]:
    return [values[row] for row in rows if not os.path.isfile(folder / values[row])]  # noqa: PTH113
