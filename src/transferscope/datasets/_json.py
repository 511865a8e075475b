"""Tables in JSON: records, a record per line, or columns, as pandas and others write them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from transferscope.datasets._cells import Place
from transferscope.datasets._columns import is_usual
from transferscope.datasets._files import read_text
from transferscope.datasets._splits import known_splits
from transferscope.datasets._tables import Numbered, Table, column_of
from transferscope.errors import DatasetError, first_few

_FORM = "a table in JSON: a list of records, one record per line, or columns ({name: [...]})"
_Columns = Mapping[str, Sequence[object]]


def read_json(path: Path) -> Table:
    """Read a ``.json`` or ``.jsonl`` in any form that names the columns.

    Records in a list or on a line each; lists by name; all that pandas' ``to_json`` writes but
    ``orient="values"``; one of these within an object, or several that are named as splits.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DatasetError
        If it is no JSON or of no such form, records have different names, or columns different
        lengths.
    """
    text = read_text(path)
    lines = text.split("\n")  # and nowhere else: texts may hold other ends of lines
    numbers = [n for n, line in enumerate(lines, 1) if line.strip()]
    if len(numbers) > 1 and (path.suffix.lower() == ".jsonl" or _is_object(lines[numbers[0] - 1])):
        place: Place = Numbered("line", numbers)
        values = [_decode(lines[n - 1], f"line {n} of {path}") for n in numbers]
        columns = _of_records(values, place, path)
    else:
        columns, place = _columns_of(_decode(text, str(path)), path)
    n_rows = len(next(iter(columns.values()), ()))
    cells = {name: column_of(column) for name, column in columns.items()}
    return Table(cells, n_rows, str(path), path.stem, path.parent, place)


def _record(row: int) -> str:
    return f"record {row}"


def _is_object(line: str) -> bool:
    """Whether a line holds an object as a whole."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _decode(text: str, where: str) -> object:
    try:
        value: object = _DECODER.decode(text)
    except ValueError as error:
        raise DatasetError(
            f"{where} must be {_FORM}; it is not: {error}. Write it again."
        ) from error
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"an object has several values called {', '.join(twice)}")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _of_records(records: Iterable[object], place: Place, path: Path) -> _Columns:
    rows = list(records)
    names = list(rows[0]) if rows and isinstance(rows[0], dict) else []
    columns: dict[str, list[object]] = {name: [] for name in names}
    for number, record in enumerate(rows):
        if not isinstance(record, dict) or record.keys() != columns.keys():
            has = f"has {', '.join(names)}" if names else "is no object with names"
            raise DatasetError(
                f"{path} must hold objects with the same names; {place(number)} is not like the "
                f"first, which {has}. Make them alike."
            )
        for name, column in columns.items():
            column.append(record[name])
    return columns


def _columns_of(value: object, path: Path) -> tuple[_Columns, Place]:
    """The columns of a whole document, and what to call its rows."""
    if isinstance(value, list):
        return _of_records(value, _record, path), _record
    if not isinstance(value, dict) or not value:
        raise DatasetError(f"{path} must be {_FORM}; it is a {type(value).__name__}. Write one.")
    inside = list(value.values())
    if len(known_splits(value)) == len(value) and all(isinstance(v, list | dict) for v in inside):
        return _of_splits({name: _columns_of(v, path) for name, v in value.items()}, path)
    names, data = value.get("columns"), value.get("data")
    if _are_lists(data) and isinstance(names, list):  # "split" and "tight"
        rows = [dict(zip(map(str, names), row, strict=True)) for row in data]
        return _of_records(rows, _record, path), _record
    if all(isinstance(column, list) for column in inside) and not _are_records(inside[0]):
        return _even({name: list(v) for name, v in value.items() if isinstance(v, list)}, path)
    tables = [v for v in inside if _are_records(v) or (len(value) == 1 and _are_nested(v))]
    if len(tables) == 1:  # {"data": [...]}, and "table"
        return _columns_of(tables[0], path)
    rows_of = [v for v in inside if isinstance(v, dict)]
    if len(rows_of) == len(inside):
        return _of_objects({name: v for name, v in value.items() if isinstance(v, dict)}, path)
    if tables or rows_of or any(isinstance(v, list) for v in inside):
        raise DatasetError(
            f"{path} must be {_FORM}; it is an object with {first_few(value)}, of which none or "
            "several could be the table. Write one table to a file."
        )
    return _of_records([value], _record, path), _record


def _are_records(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _are_lists(value: object) -> TypeGuard[list[list[object]]]:
    return isinstance(value, list) and all(isinstance(v, list) for v in value)


def _are_nested(value: object) -> bool:
    """Whether it is an object of objects or lists, so that it may be a table by itself."""
    return isinstance(value, dict) and all(isinstance(v, list | dict) for v in value.values())


def _even(columns: _Columns, path: Path) -> tuple[_Columns, Place]:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        states = first_few(f"{name} has {n}" for name, n in lengths.items())
        raise DatasetError(
            f"{path} must hold columns of equal length; {states}. Write the file again."
        )
    return columns, lambda row: f"row {row}"


def _of_objects(value: Mapping[str, Mapping[str, object]], path: Path) -> tuple[_Columns, Place]:
    """Columns by name with cells by row, or rows by name with cells by column."""
    outer, inner = list(value), list(next(iter(value.values())))
    if any(its.keys() != set(inner) for its in value.values()):
        raise DatasetError(
            f"{path} must hold objects with the same names; {first_few(outer)} differ in theirs. "
            "Make them alike."
        )
    signs = [(any(map(is_usual, keys)), not all(map(str.isdigit, keys))) for keys in (outer, inner)]
    if signs[0] == signs[1]:
        raise DatasetError(
            f"{path} must be {_FORM}; its objects ({first_few(outer)}, each with "
            f"{first_few(inner)}) may be rows or columns. Write a list of records."
        )
    if signs[0] > signs[1]:
        columns: _Columns = {name: [its[row] for row in inner] for name, its in value.items()}
        rows = inner
    else:
        columns, rows = {name: [its[name] for its in value.values()] for name in inner}, outer
    return columns, lambda row: f"row {rows[row]!r}"


def _of_splits(parts: Mapping[str, tuple[_Columns, Place]], path: Path) -> tuple[_Columns, Place]:
    """Tables of several splits, one after the other, with a column that names the split."""
    first = next(iter(parts.values()))[0]
    whole: dict[str, list[object]] = {name: [] for name in (*first, "split")}
    owners: list[tuple[str, int]] = []
    for split, (columns, _) in parts.items():
        if columns.keys() != first.keys() or "split" in columns:
            raise DatasetError(
                f"{path} must hold the same names in all splits, and none called split; {split} "
                f"has {', '.join(columns)}. Make them alike."
            )
        n_rows = len(next(iter(columns.values())))
        for name, cells in columns.items():
            whole[name] += cells
        whole["split"] += [split] * n_rows
        owners += [(split, row) for row in range(n_rows)]

    def place(row: int) -> str:
        split, number = owners[row]
        return f"{parts[split][1](number)} of {split}"

    return whole, place
