"""Tables in text files: a header line, and a record of as many cells on every other."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transferscope.datasets._cells import numbers_in
from transferscope.datasets._columns import is_usual
from transferscope.datasets._files import read_text
from transferscope.datasets._tables import Numbered, Table, column_of
from transferscope.errors import DatasetError, first_few

_LINE_END = re.compile(r"\r\n|\r|\n")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class _Records:
    """What a text is with one separator: records, and the lines on which each begins and ends."""

    separator: str
    records: list[list[str]]
    first: list[int]
    last: list[int]

    @property
    def width(self) -> int:
        return len(self.records[0])

    @property
    def even(self) -> bool:
        return all(len(record) == self.width for record in self.records)


def read_delimited(path: Path) -> Table:
    """Read a ``.csv`` or ``.tsv`` with a header line, strictly.

    Cells are separated by commas, semicolons, tabs or bars, whichever the header has; all of them
    are texts. Where it is not commas, a comma may stand before decimals.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DatasetError
        If it is no such table, with the line: rows of another length than the header, quotes that
        are not closed or close rows later, columns of one name, a header that is missing or is
        there twice.
    """
    text = read_text(path)
    if not text.strip():
        raise DatasetError(f"{path} must be a UTF-8 table and is empty. Write it again.")
    found = _parse(text, path)
    _refuse_uneven(found, path)
    names = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(found.records[0])]
    _refuse_header(names, found, path)
    _refuse_swallowed(found, path)
    cells = list(zip(*found.records[1:], strict=True)) or [()] * len(names)
    columns = {
        name: column_of(column)
        for name, given, column in zip(names, found.records[0], cells, strict=True)
        if given.strip() or any(map(str.strip, column))
    }
    commas = found.separator == ","
    notes = () if commas else (f"columns separated by {_SEPARATORS[found.separator]}",)
    return Table(
        columns,
        len(found.records) - 1,
        str(path),
        path.stem,
        path.parent,
        Numbered("line", found.first[1:]),
        comma=not commas,
        notes=notes,
    )


def _parse(text: str, path: Path) -> _Records:
    """The records, with the separator that gives all of them the same number of cells."""
    header = _header_of(text)
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    present = [separator for separator in _SEPARATORS if separator in header] or [usual]
    present.sort(key=lambda separator: separator != usual)
    if len(present) == 1:
        return _split(text, present[0], path)
    several = []
    for separator in present:
        try:
            several.append(_split(text, separator, path))
        except DatasetError:
            continue
    even = [found for found in several if found.even and found.width > 1]
    return even[0] if even else _split(text, present[0], path)


def _header_of(text: str) -> str:
    found = re.search(r"[^\r\n]+", text)
    return found[0] if found else ""


def _split(text: str, separator: str, path: Path) -> _Records:
    lines = io.StringIO(text, newline="")  # a line ends where csv ends it, and nowhere else
    # blanks after separators belong to the layout if the header has them
    blanks = f"{separator} " in _header_of(text)
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=blanks)
    found = _Records(separator, [], [], [])
    end = 0
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        for record in reader:
            begin, end = end + 1, reader.line_num
            if not record or (len(record) == 1 and not record[0].strip()):
                continue  # a blank line
            found.records.append(record)
            found.first.append(begin)
            found.last.append(end)
    except csv.Error as error:
        reason = "is never closed" if "end of data" in str(error) else "is closed within a cell"
        raise DatasetError(
            f"{path} has a quote that {reason}: the row from line {end + 1} to line "
            f"{reader.line_num} cannot be read ({error}). Write quotes within a quoted cell twice, "
            "and put quotes around whole cells only."
        ) from error
    finally:
        csv.field_size_limit(limit)
    return found


def _refuse_uneven(found: _Records, path: Path) -> None:
    wrong = [i for i, record in enumerate(found.records) if len(record) != found.width]
    if wrong:
        states = (f"line {found.first[i]} has {len(found.records[i])}" for i in wrong)
        raise DatasetError(
            f"{path} must have as many cells in every row as in its header line, {found.width} "
            f"separated by {_SEPARATORS[found.separator]}; {len(wrong)} rows have not: "
            f"{first_few(states)}. Put cells in quotes that hold a separator, and remove "
            "separators at the ends of lines."
        )


def _refuse_header(names: Sequence[str], found: _Records, path: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(
            f"{path} must have a name for each column; several are called {', '.join(twice)}. "
            "Rename or remove them."
        )
    if len(names) == 1:
        return
    again = [i for i, record in enumerate(found.records) if record == found.records[0]][1:]
    if again:
        raise DatasetError(
            f"{path} must have one header line; it stands again on "
            f"{first_few(f'line {found.first[i]}' for i in again)}. Remove it there."
        )
    usual = [i for i, name in enumerate(names) if is_usual(name)]
    if len(usual) > 1:
        return
    for i in usual or range(len(names)):
        name = names[i]
        same = next((r for r in range(1, len(found.records)) if found.records[r][i] == name), None)
        if same is not None:
            raise DatasetError(
                f"{path} must begin with a header line, and its first line looks like a row: "
                f"{name!r} stands in the same column of line {found.first[same]}. Add a line with "
                "the names of the columns, such as text,label."
            )


def _refuse_swallowed(found: _Records, path: Path) -> None:
    """Refuse quotes that make one cell of several rows: its lines read as pieces of rows."""
    spread = [i for i in range(len(found.records)) if found.last[i] > found.first[i]]
    if not spread:
        return
    simple = [r for i, r in enumerate(found.records) if i and found.last[i] == found.first[i]]
    columns = list(zip(*simple, strict=True)) or [()] * found.width
    values = [set(column) - {""} for column in columns]
    ranges = [_range_of(column) for column in columns]
    for i in spread:
        for column, cell in enumerate(found.records[i]):
            pieces = _pieces(cell, column, found)
            known = any(text in values[c] for piece in pieces for c, text in piece or ())
            numbers = bool(pieces) and all(
                piece is not None and any(_lies_in(text, *ranges[c]) for c, text in piece)
                for piece in pieces
            )
            if known or numbers:
                raise DatasetError(
                    f"{path} has a quote on line {found.first[i]} that is closed on line "
                    f"{found.last[i]} only, and what lies between reads as rows of their own. "
                    "Remove the quote, or write the file as .jsonl if the cell is meant so."
                )


def _pieces(cell: str, column: int, found: _Records) -> list[list[tuple[int, str]] | None]:
    """The cells of other columns that the lines of one cell would be if they were rows.

    Such a cell begins in its column of one row and ends in its column of another. None for a line
    with another number of cells; lines that are of this column alone are left out.
    """
    lines = _LINE_END.split(cell)
    if len(lines) == 1:
        return []
    pieces: list[list[tuple[int, str]] | None] = []
    for n, line in enumerate(lines):
        begin = column if n == 0 else 0
        end = column + 1 if n == len(lines) - 1 else found.width
        texts = line.split(found.separator)
        if end - begin > 1 or len(texts) > 1:
            those = [(begin + k, text) for k, text in enumerate(texts) if begin + k != column]
            pieces.append(those if len(texts) == end - begin else None)
    return pieces


def _range_of(cells: Sequence[str]) -> tuple[float, float]:
    """Where a further number of a column of numbers may lie; nowhere for other columns."""
    numbers = numbers_in([cell for cell in cells if cell.strip()])
    if numbers is None:
        return 1, 0
    low, high = float(numbers.min()), float(numbers.max())
    return low - 3 * (high - low), high + 3 * (high - low)


def _lies_in(cell: str, low: float, high: float) -> bool:
    number = numbers_in([cell])
    return number is not None and low <= number[0] <= high
