"""What the cells of tables hold: texts, lists of words or tags, numbers, class names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from transferscope.datasets._samples import Texts
from transferscope.errors import DatasetError
from transferscope.numerics.arrays import NumpyArray
from transferscope.numerics.targets import TaskType


def gaps(values: NumpyArray) -> npt.NDArray[np.bool_]:
    """Which cells are None, NaN or empty."""
    words = ("", "nan")
    return np.array(
        [value is None or str(value).strip().lower() in words for value in values], dtype=bool
    )


def pieces(cell: object) -> list[str]:
    """Words or tags of a cell: a list, or a text with spaces between them."""
    return cell.split() if isinstance(cell, str) else [str(piece) for piece in listed(cell)]


def listed(cell: object) -> list[object]:
    """The items of a list-like cell; nothing for anything else."""
    return list(cell) if isinstance(cell, list | tuple | np.ndarray) else []


def parse_numbers(values: NumpyArray) -> NumpyArray:
    """Make numbers of a column of text if all of it is numbers; empty cells become None."""
    if values.dtype.kind in "biuf":
        return values
    empty = gaps(values)
    cells = np.array([str(value).strip() for value in values], dtype=object)
    cells[empty] = None
    # int("1_0") is 10 in Python, but "1_0" is a name
    if not empty.any() and not any("_" in cell for cell in cells):
        for kind in (np.int64, np.float64):
            try:
                return cells.astype(str).astype(kind)
            except (ValueError, OverflowError):
                continue
    return cells


def parse_labels(
    columns: Sequence[NumpyArray], names: Sequence[str]
) -> tuple[NumpyArray | None, TaskType | None, Sequence[str] | None]:
    """Labels of one column or several, with what follows from their form: task and class names.

    Several columns are targets of a regression, or classes if they hold 0 and 1 only. Cells that
    are lists hold the names of the classes that apply. Without a column there are no labels.
    """
    if not columns:
        return None, None, None
    if len(columns) > 1:
        return _parse_label_columns(columns, names)
    (column,) = columns
    if any(isinstance(cell, list | tuple | np.ndarray) for cell in column[:10]):
        sets = [{str(name) for name in listed(cell)} for cell in column]
        classes = sorted(set().union(*sets))
        hit = np.array([[name in its for name in classes] for its in sets], dtype=np.float64)
        return hit, "multilabel", classes
    return parse_numbers(column), None, None


def _parse_label_columns(
    columns: Sequence[NumpyArray], names: Sequence[str]
) -> tuple[NumpyArray, TaskType | None, Sequence[str] | None]:
    parsed = [parse_numbers(column) for column in columns]
    if any(column.dtype.kind not in "biuf" for column in parsed):
        return np.stack([column.astype(object) for column in columns], axis=1), None, None
    table = np.stack(parsed, axis=1).astype(np.float64)
    if np.isin(table, (0, 1)).all():
        return table, "multilabel", names
    return table, "regression", None


def text_samples(
    columns: Sequence[Iterable[object]], names: Sequence[str], *, source: str
) -> Texts:
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
    if len(texts) == 1:
        return Texts(texts[0], source)
    return Texts(list(zip(texts[0], texts[1], strict=True)), source)


def checked_texts(values: Iterable[object], *, where: str) -> list[str]:
    """Make a list of texts, lists of words joined, refusing rows without one.

    Raises
    ------
    DatasetError
        If a text is None or NaN; an empty text is one.
    """
    texts = list(values)
    missing = [row for row, text in enumerate(texts) if text is None or _is_nan(text)]
    if missing:
        raise DatasetError(
            f"{where} must hold an input for every sample; it lacks {len(missing)}, the first at "
            f"row {missing[0]}. Fill them in or remove those rows."
        )
    several = (list, tuple, np.ndarray)
    return [" ".join(map(str, text)) if isinstance(text, several) else str(text) for text in texts]


def _is_nan(cell: object) -> bool:
    return isinstance(cell, float) and cell != cell
