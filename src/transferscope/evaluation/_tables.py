"""Scores and fine-tuned accuracies as nested mappings, from files and from data frames.

A table is long, with a row per number, or wide, with a column per metric (scores) or per data set
(accuracies). What our commands write is read, too: rankings, and what training reached.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, SupportsFloat, TypeAlias

from transferscope.errors import InputError, first_few
from transferscope.results import Ranking

if TYPE_CHECKING:
    import pandas as pd

#: data set -> metric -> encoder -> score
Scores: TypeAlias = Mapping[str, Mapping[str, Mapping[str, float]]]
#: data set -> encoder -> fine-tuned accuracy
Accuracies: TypeAlias = Mapping[str, Mapping[str, float]]


#: Columns by which the table of a ranking is known.
_OF_RANKINGS = ("rank", "p_best", "in_group")
#: What a ranking expects of fine-tuning, in points; scores have an interval as well.
_NO_SCORE = "loss"
#: Columns of accuracies, and what the records of training call them.
_ACCURACIES, _MEASURED = ("dataset", "encoder", "accuracy"), ("dataset", "encoder", "value")


def read_scores(
    *paths: str | os.PathLike[str], dataset: str | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Read scores from tables, long or wide, and from what our commands write.

    Parameters
    ----------
    *paths : path
        - CSV with the columns ``dataset, encoder, metric, value`` (long), or ``dataset, encoder``
          and one column per metric (wide); an empty cell is a score that is missing;
        - CSV or JSON of `rank`: each metric, and ``expected``, the accuracy that is expected after
          fine-tuning;
        - CSV or JSON of `probe` and `finetune`: a score that is named after the file.
    dataset : str or None
        The data set of tables that do not name theirs.

    Returns
    -------
    dict of data set to metric to encoder to float

    Raises
    ------
    InputError
        If one cannot be read, a column is missing, unknown or named twice, a value is no finite
        number, a row comes twice in a file, or two files differ in a score.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "scores.csv")
    >>> _ = path.write_text("dataset,encoder,logme,knn\\npets,vit,0.5,0.9\\n")
    >>> read_scores(path)
    {'pets': {'logme': {'vit': 0.5}, 'knn': {'vit': 0.9}}}
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for path in paths:
        for name, metrics in _nested_scores(_read(path, dataset).as_scores()).items():
            of_dataset = found.setdefault(name, {})
            for metric, row in metrics.items():
                _join(of_dataset.setdefault(metric, {}), row, f"{metric} on {name}", path)
    return found


def read_accuracy(
    *paths: str | os.PathLike[str], dataset: str | None = None
) -> dict[str, dict[str, float]]:
    """Read fine-tuned accuracies from tables, long or wide, and from what our commands write.

    Parameters
    ----------
    *paths : path
        - CSV with the columns ``dataset, encoder, accuracy`` (long), as `finetune` and `probe`
          write it, or ``encoder`` and one column per data set (wide); an empty cell is an accuracy
          that is missing;
        - JSON of `finetune` and `probe`.
    dataset : str or None
        The data set of tables of ``encoder, accuracy``.

    Returns
    -------
    dict of data set to encoder to float

    Raises
    ------
    InputError
        As `read_scores`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "accuracy.csv")
    >>> _ = path.write_text("encoder,pets,cars\\nvit,93.1,88\\nresnet,90.2,\\n")
    >>> read_accuracy(path)
    {'pets': {'vit': 93.1, 'resnet': 90.2}, 'cars': {'vit': 88.0}}
    """
    found: dict[str, dict[str, float]] = {}
    for path in paths:
        table = _read(path)
        if dataset is not None and set(table.columns) == {"encoder", "accuracy"}:
            table = table.of_dataset(dataset)
        for name, row in _nested_accuracy(table).items():
            _join(found.setdefault(name, {}), row, f"the accuracy on {name}", path)
    return found


def _join(
    known: dict[str, float], row: Mapping[str, float], what: str, path: str | os.PathLike[str]
) -> None:
    """Add what another file says of the same encoders.

    Raises
    ------
    InputError
        If it says something else.
    """
    for encoder, value in row.items():
        if known.setdefault(encoder, value) != value:
            raise InputError(
                f"files must agree; {what} of {encoder} is {value} in {path}, and {known[encoder]} "
                "in a file before it. Leave one of the two out."
            )


def read_measured(path: str | os.PathLike[str]) -> dict[str, float]:
    """Read accuracies on one data set.

    Parameters
    ----------
    path : path
        CSV with the columns ``encoder, accuracy``; a column ``dataset`` may say which, once. Or
        JSON of `probe` and `finetune`.

    Returns
    -------
    dict of encoder to float

    Raises
    ------
    InputError
        As `read_scores`, and if there are several data sets.
    """
    table = _read(path)
    if "dataset" in table.columns:
        found = _nested_accuracy(table)
        if len(found) > 1:
            raise InputError(
                f"{path} must hold accuracies on one data set; it has {first_few(found)}. Keep the "
                "rows of one."
            )
        return next(iter(found.values()), {})
    table.check_columns(["encoder", "accuracy"], is_long=True)
    row: dict[str, float] = {}
    for place, names, cell in table.numbers(("encoder", "accuracy"), "accuracy"):
        table.put(row, names["encoder"], cell, place, names["encoder"])
    return row


def score_table(scores: Scores | pd.DataFrame) -> Scores:
    """Scores as a nested mapping, from one or from a long or wide frame."""
    if isinstance(scores, Mapping):
        return scores
    return _nested_scores(_of_frame(scores, "scores").as_scores())


def accuracy_table(accuracy: Accuracies | pd.DataFrame) -> Accuracies:
    """Accuracies as a nested mapping, from one or from a long or wide frame.

    Parameters
    ----------
    accuracy : mapping of data set to encoder to float, or DataFrame
        As for `evaluate`.

    Returns
    -------
    mapping of data set to encoder to float

    Raises
    ------
    InputError
        As `read_scores`.
    """
    if isinstance(accuracy, Mapping):
        return accuracy
    return _nested_accuracy(_of_frame(accuracy, "accuracy"))


@dataclass(frozen=True)
class _Table:
    """Cells by column.

    Attributes
    ----------
    source : str
        For messages: the path, or the argument.
    columns : list of str
    rows : list of (str, dict of str to object)
        Where each row is, for messages; and its cells, an empty text where a value is missing.
    accuracies_are : str
        The metric that accuracies are if they are taken for scores.
    """

    source: str
    columns: list[str]
    rows: list[tuple[str, dict[str, object]]]
    accuracies_are: str = "accuracy"

    def __post_init__(self) -> None:
        names = dict.fromkeys(self.columns)
        twice = [name for name in names if self.columns.count(name) > 1 or not name]
        if twice:
            raise InputError(
                f"columns of {self.source} must have names of their own; {twice[0]!r} is there "
                "twice or is no name. Rename it."
            )
        if not self.rows:
            raise InputError(f"{self.source} must have at least one row below its header.")

    def of_dataset(self, name: str) -> _Table:
        """The same, with the data set that all rows are about."""
        rows: list[tuple[str, dict[str, object]]]
        rows = [(place, {"dataset": name, **row}) for place, row in self.rows]
        return replace(self, columns=["dataset", *self.columns], rows=rows)

    def as_scores(self) -> _Table:
        """The same; of a ranking its scores alone, and accuracies as a metric of their own."""
        keys = ["dataset", "encoder"]
        renamed = {name: name for name in self.columns}
        if set(_OF_RANKINGS) <= set(self.columns):
            # a score has an interval, or at least its columns; facts of encoders have none
            kept = [
                name
                for name in self.columns
                if {f"{name}_low", f"{name}_high"} <= set(self.columns) and name != _NO_SCORE
            ]
            renamed = {name: name for name in (*keys, *kept) if name in self.columns}
        elif set(self.columns) == set(_ACCURACIES):
            renamed["accuracy"] = self.accuracies_are
        rows: list[tuple[str, dict[str, object]]]
        rows = [(place, {renamed[k]: row[k] for k in renamed}) for place, row in self.rows]
        return replace(self, columns=list(renamed.values()), rows=rows)

    def numbers(
        self, long: Sequence[str], per_column: str
    ) -> Iterator[tuple[str, dict[str, str], object]]:
        """Walk over the cells of numbers.

        Parameters
        ----------
        long : sequence of str
            The columns of a long table, that of the numbers last.
        per_column : str
            Which of them a wide table has as the names of columns.

        Yields
        ------
        (str, dict of str to str, object)
            Where it is, for messages; its data set, encoder and so on; the cell.
        """
        *names, value = long
        is_long = bool({per_column, value} & set(self.columns))
        fixed = [name for name in names if is_long or name != per_column]
        self.check_columns([*fixed, *([value] if is_long else [])], is_long=is_long)
        spread = [name for name in self.columns if name not in fixed]
        if not spread:
            what = "data set" if per_column == "dataset" else per_column
            raise InputError(
                f"{self.source} must have a column per {what} in addition to "
                f"{' and '.join(fixed)}, or the columns {', '.join(long)}. Add them."
            )
        for place, row in self.rows:
            for column in spread:
                found = {name: str(row[name]) for name in fixed}
                if not is_long:
                    found[per_column] = column
                self._check_names(found, place)
                yield place, found, row[column]

    def check_columns(self, needed: list[str], *, is_long: bool) -> None:
        """Refuse a table that misses one of these columns; a long one may have no others."""
        missing = [name for name in needed if name not in self.columns]
        unknown = [name for name in self.columns if name not in needed] if is_long else []
        if missing or unknown:
            what = f"has no {first_few(missing)}" if missing else f"has also {first_few(unknown)}"
            raise InputError(
                f"columns of {self.source} must be {', '.join(needed)}; it {what} (its columns: "
                f"{first_few(self.columns)}). Rename or remove columns."
            )

    def _check_names(self, names: Mapping[str, str], place: str) -> None:
        for what, name in names.items():
            if not name:
                raise InputError(
                    f"every row of {self.source} needs a value under {what}; {place} has none. "
                    "Fill it in."
                )

    def put(self, row: dict[str, float], encoder: str, cell: object, place: str, what: str) -> None:
        """Put a cell's number under its encoder; an empty cell puts nothing."""
        if encoder in row:
            raise InputError(
                f"a row of {self.source} may be there only once; {what} is there again at {place}. "
                "Remove one."
            )
        if cell == "":
            return
        try:
            value = float(cell) if isinstance(cell, SupportsFloat | str) else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(
                f"values of {self.source} must be finite numbers; {what} is {cell!r} at {place}. "
                "Correct it, or leave the cell empty if it is missing."
            )
        row[encoder] = value


def _nested_scores(table: _Table) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for place, names, cell in table.numbers(("dataset", "encoder", "metric", "value"), "metric"):
        row = found.setdefault(names["dataset"], {}).setdefault(names["metric"], {})
        table.put(row, names["encoder"], cell, place, f"{names['metric']} of {names['encoder']}")
    return {
        dataset: {metric: row for metric, row in metrics.items() if row}
        for dataset, metrics in found.items()
    }


def _nested_accuracy(table: _Table) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for place, names, cell in table.numbers(("dataset", "encoder", "accuracy"), "dataset"):
        row = found.setdefault(names["dataset"], {})
        table.put(row, names["encoder"], cell, place, f"{names['encoder']} on {names['dataset']}")
    return {dataset: row for dataset, row in found.items() if row}


def _read(path: str | os.PathLike[str], dataset: str | None = None) -> _Table:
    """Cells of a file of either kind; `dataset` where it does not name its own."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    table = _of_json(path, text) if text.lstrip()[:1] in ("{", "[") else _of_csv(path, text)
    table = replace(table, accuracies_are=Path(path).stem)
    return table if dataset is None or "dataset" in table.columns else table.of_dataset(dataset)


def _of_csv(path: str | os.PathLike[str], text: str) -> _Table:
    """Cells of a CSV; a row's place is its line."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        columns = [name.strip() for name in next(reader, [])]
        lines = [
            (reader.line_num, [cell.strip() for cell in cells])
            for cells in reader
            if any(cell.strip() for cell in cells)
        ]
    except csv.Error as error:
        raise _unreadable(path, error) from error
    for line, cells in lines:
        if len(cells) != len(columns):
            raise InputError(
                f"every row of {path} must have as many cells as its header; line {line} has "
                f"{len(cells)} and the header {len(columns)}. Correct it."
            )
    rows: list[tuple[str, dict[str, object]]] = [
        (f"line {line}", dict(zip(columns, cells, strict=True))) for line, cells in lines
    ]
    return _Table(str(path), columns, rows)


def _of_json(path: str | os.PathLike[str], text: str) -> _Table:
    """Cells of what `rank`, `probe` and `finetune` write as JSON."""
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise _unreadable(path, error) from error
    if isinstance(plain, dict) and "ranked_by" in plain:
        frame = Ranking.from_json(text).to_frame()
        return _of_frame(frame.reset_index(), str(path))
    if isinstance(plain, list) and all(map(_is_measured, plain)):
        rows: list[tuple[str, dict[str, object]]] = [
            (f"record {i}", dict(zip(_ACCURACIES, map(one.get, _MEASURED), strict=True)))
            for i, one in enumerate(plain)
        ]
        return _Table(str(path), list(_ACCURACIES), rows)
    raise InputError(
        f"{path} must be the JSON of rank, probe or finetune, or a .csv; it is other JSON. Write "
        "it with --format json, or convert it to a .csv."
    )


def _is_measured(record: object) -> bool:
    """Whether it says what training reached."""
    return isinstance(record, dict) and all(
        isinstance(record.get(name), kind)
        for name, kind in zip(_MEASURED, (str, str, float | int), strict=True)
    )


def _unreadable(path: str | os.PathLike[str], error: Exception) -> InputError:
    return InputError(
        f"{path} must be a UTF-8 .csv with a header line, or what rank, probe or finetune wrote as "
        f"JSON; it cannot be read ({error}). Check the path, or write the table again."
    )


def _of_frame(frame: pd.DataFrame, argument: str) -> _Table:
    """Cells of a frame; levels of its index with the name of a column count as columns."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"{argument} must be a nested mapping or a DataFrame; got {type(frame).__name__}. Read "
            f"a .csv with {'read_scores' if argument == 'scores' else 'read_accuracy'}."
        )
    names = list(frame.index.names)
    if names == [None] and "encoder" not in frame and not isinstance(frame.index, pd.RangeIndex):
        frame, names = frame.rename_axis("encoder"), ["encoder"]
    levels = [n for n in names if n in ("dataset", "encoder", "metric") and n not in frame]
    frame = frame.reset_index(levels)
    columns = [str(name) for name in frame.columns]
    rows = [
        (f"row {i}", dict(zip(columns, ("" if pd.isna(x) else x for x in cells), strict=True)))
        for i, cells in enumerate(frame.itertuples(index=False, name=None))
    ]
    return _Table(argument, columns, rows)
