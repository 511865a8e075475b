"""CSV files of scores and of fine-tuned accuracies, long or wide."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path

from transferscope.errors import InputError, first_few

#: Per row its line, and its cells by column.
Rows = list[tuple[int, dict[str, str]]]


def read_scores(path: str | os.PathLike[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Read a CSV of scores, long or wide.

    Parameters
    ----------
    path : path
        With the columns ``dataset, encoder, metric, value`` (long), or ``dataset, encoder`` and one
        column per metric (wide). An empty cell is a score that is missing.

    Returns
    -------
    dict of data set to metric to encoder to float

    Raises
    ------
    InputError
        If it cannot be read, a column is missing, unknown or named twice, a value is no finite
        number, or a row comes twice.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "scores.csv")
    >>> _ = path.write_text("dataset,encoder,logme,knn\\npets,vit,0.5,0.9\\n")
    >>> read_scores(path)
    {'pets': {'logme': {'vit': 0.5}, 'knn': {'vit': 0.9}}}
    """
    columns, rows = _read(path)
    found: dict[str, dict[str, dict[str, float]]] = {}
    long = {"metric", "value"} & set(columns)
    needed = ["dataset", "encoder", "metric", "value"] if long else ["dataset", "encoder"]
    _need(path, columns, needed, exactly=bool(long))
    metrics = [name for name in columns if name not in needed]
    if not long and not metrics:
        raise InputError(
            f"A wide table of scores needs a column per metric beside dataset and encoder; {path} "
            "has none. Add them, or use dataset, encoder, metric, value."
        )
    for line, row in rows:
        cells = {row["metric"]: row["value"]} if long else {name: row[name] for name in metrics}
        for metric, cell in cells.items():
            by_metric = found.setdefault(_name(path, line, "dataset", row["dataset"]), {})
            encoder = _name(path, line, "encoder", row["encoder"])
            by_encoder = by_metric.setdefault(_name(path, line, "metric", metric), {})
            _put(by_encoder, encoder, cell, path, line, f"{metric} of {encoder}")
    return found


def read_accuracy(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Read a CSV of fine-tuned accuracies, long or wide.

    Parameters
    ----------
    path : path
        With the columns ``dataset, encoder, accuracy`` (long), or ``encoder`` and one column per
        data set (wide). An empty cell is an accuracy that is missing.

    Returns
    -------
    dict of data set to encoder to float

    Raises
    ------
    InputError
        As `read_scores` says.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "accuracy.csv")
    >>> _ = path.write_text("encoder,pets,cars\\nvit,93.1,88\\nresnet,90.2,\\n")
    >>> read_accuracy(path)
    {'pets': {'vit': 93.1, 'resnet': 90.2}, 'cars': {'vit': 88.0}}
    """
    columns, rows = _read(path)
    found: dict[str, dict[str, float]] = {}
    long = {"dataset", "accuracy"} & set(columns)
    needed = ["dataset", "encoder", "accuracy"] if long else ["encoder"]
    _need(path, columns, needed, exactly=bool(long))
    datasets = [name for name in columns if name not in needed]
    if not long and not datasets:
        raise InputError(
            f"A wide table of accuracies needs a column per data set beside encoder; {path} has "
            "none. Add them, or use dataset, encoder, accuracy."
        )
    for line, row in rows:
        cells = {row["dataset"]: row["accuracy"]} if long else {d: row[d] for d in datasets}
        encoder = _name(path, line, "encoder", row["encoder"])
        for dataset, cell in cells.items():
            by_encoder = found.setdefault(_name(path, line, "dataset", dataset), {})
            _put(by_encoder, encoder, cell, path, line, f"{encoder} on {dataset}")
    return found


def _read(path: str | os.PathLike[str]) -> tuple[list[str], Rows]:
    """Column names, and per row its line and its cells."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            rows: Rows = []
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(columns):
                    raise InputError(
                        f"Every row must have as many cells as the header; line {reader.line_num} "
                        f"of {path} has {len(cells)}, the header {len(columns)}. Correct it."
                    )
                row = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
                rows.append((reader.line_num, row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"A table must be a UTF-8 .csv with a header line; {path} cannot be read ({error})."
        ) from error
    twice = [name for name in dict.fromkeys(columns) if columns.count(name) > 1 or not name]
    if twice:
        raise InputError(
            f"Columns need names of their own; {path} has {twice[0]!r} twice or without a name."
        )
    if not rows:
        raise InputError(f"A table needs at least one row below its header; {path} has none.")
    return columns, rows


def _need(
    path: str | os.PathLike[str], columns: Sequence[str], needed: Sequence[str], *, exactly: bool
) -> None:
    missing = [name for name in needed if name not in columns]
    unknown = [name for name in columns if name not in needed] if exactly else []
    if missing or unknown:
        what = f"has no {first_few(missing)}" if missing else f"has also {first_few(unknown)}"
        raise InputError(
            f"The columns must be {', '.join(needed)}; {path} {what} (its columns: "
            f"{first_few(columns)}). Rename or remove columns."
        )


def _name(path: str | os.PathLike[str], line: int, what: str, cell: str) -> str:
    if not cell:
        raise InputError(
            f"Every row needs a value under {what}; line {line} of {path} has none. Fill it in."
        )
    return cell


def _put(
    row: dict[str, float],
    encoder: str,
    cell: str,
    path: str | os.PathLike[str],
    line: int,
    what: str,
) -> None:
    """Put a cell's number under its encoder; an empty cell puts nothing."""
    if encoder in row:
        raise InputError(
            f"A row may come only once; {what} is in {path} again at line {line}. Remove one."
        )
    if not cell:
        return
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"Values must be finite numbers; {what} is {cell!r} at line {line} of {path}. Correct "
            "it, or leave the cell empty if it is missing."
        )
    row[encoder] = value
