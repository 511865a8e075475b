"""What the cells of a column are: texts, numbers, lists, nothing. Every cell is looked at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from transferscope.datasets._labels import exact_array
from transferscope.datasets._request import RequestedTask
from transferscope.errors import DatasetError, first_few
from transferscope.numerics.arrays import NumpyArray
from transferscope.numerics.checks import INEXACT
from transferscope.numerics.targets import TaskType

#: Names a row for messages: ``"line 7"``.
Place = Callable[[int], str]

_NUMBER = re.compile(r"(-?)(0|[1-9][0-9]*|(?=\.))(\.[0-9]+)?(?:[eE]([-+]?)0*([0-9]+))?")
_THOUSANDS = re.compile(r"-?[1-9][0-9]{0,2},[0-9]{3}")
#: Words that programs write for a number that is missing or not finite, in lower case.
_NO_NUMBER = frozenset({"nan", "na", "n/a", "none", "null", "inf", "-inf", "infinity", "-infinity"})
#: A list as Python, JSON or NumPy prints it; with round brackets or braces only of quoted texts.
_LIST = re.compile(r"""\[.*\]|[({]\s*['"].*[)}]""", re.DOTALL)
_ITEM = re.compile(
    r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|(-?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?))"""
    r"""\s*(?:,|(?=\s|$))""",
    re.DOTALL,
)


def place_of_row(row: int) -> str:
    """How a row is called where nothing better is known."""
    return f"row {row}"


def kind_of(cell: object) -> str:
    """What a cell holds, in a word: nothing, text, number, list, or the name of its type."""
    if isinstance(cell, str):
        return "text" if cell and not cell.isspace() else "nothing"
    if cell is None:
        return "nothing"
    if isinstance(cell, bool | np.bool_):
        return "bool"
    if isinstance(cell, int | float | np.integer | np.floating):
        return "number" if cell == cell else "nothing"  # NaN
    if isinstance(cell, list | tuple | np.ndarray):
        return "list"
    name = type(cell).__name__
    return "nothing" if name in ("NaTType", "NAType") else name


def rows_without(cells: Iterable[object]) -> list[int]:
    """Rows whose cell is None, NaN or blank."""
    return [row for row, cell in enumerate(cells) if kind_of(cell) == "nothing"]


def the_kind(cells: Sequence[object], *, what: str, place: Place) -> str:
    """The one kind of thing that all cells hold.

    Raises
    ------
    DatasetError
        If they hold several, with the rows of the rarest.
    """
    rows: dict[str, list[int]] = {}
    for row, cell in enumerate(cells):
        rows.setdefault(kind_of(cell), []).append(row)
    if len(rows) > 1:
        rare, *_, common = sorted(rows, key=lambda kind: (len(rows[kind]), kind))
        raise DatasetError(
            f"{what} must hold one kind of thing; it holds {common} in {len(rows[common])} rows "
            f"and {rare} in {len(rows[rare])} ({first_few(map(place, rows[rare]))}). Make them "
            "alike or remove those rows."
        )
    return next(iter(rows), "text")


def texts_of(cells: Iterable[object], *, what: str, place: Place = place_of_row) -> list[str]:
    """Texts of a column, lists of words joined, numbers as they are written.

    Raises
    ------
    DatasetError
        If one is missing (an empty text is one), or some are texts and others are something else.
    """
    column = list(cells)
    missing = [
        row
        for row, cell in enumerate(column)
        if not isinstance(cell, str) and kind_of(cell) == "nothing"
    ]
    if missing:
        raise DatasetError(
            f"{what} must hold an input for every sample; it lacks {len(missing)}, the first at "
            f"{place(missing[0])}. Fill them in or remove those rows."
        )
    if all(isinstance(cell, str) for cell in column):
        return [str(cell) for cell in column]
    kind = the_kind(["text" if isinstance(c, str) else c for c in column], what=what, place=place)
    if kind == "list":
        return [" ".join(words) for words in words_of(column, what=what, place=place)]
    if kind in ("number", "bool"):
        return [str(cell) for cell in column]
    raise DatasetError(
        f"{what} must hold texts; it holds {kind}, the first at {place(0)}. Name another column, "
        "or write its texts into a column of their own."
    )


def words_of(cells: Iterable[object], *, what: str, place: Place) -> list[list[str]]:
    """Words or tags of each cell: of a list, or of a text with spaces between them.

    Raises
    ------
    DatasetError
        If a list holds anything but texts and numbers.
    """
    found = []
    for row, cell in enumerate(cells):
        listed = list_of(cell)
        items = str(cell).split() if listed is None else listed
        wrong = [
            i for i in items if not isinstance(i, str) and kind_of(i) not in ("number", "bool")
        ]
        if wrong:
            raise DatasetError(
                f"{what} must be lists of texts; {place(row)} holds {wrong[0]!r:.60} in its list. "
                "Correct it or remove that row."
            )
        found.append([str(item) for item in items])
    return found


def list_of(cell: object) -> list[object] | None:
    """The list that a cell is, or shows as a text; None for anything else."""
    if isinstance(cell, list | tuple | np.ndarray):
        return list(cell)
    return list_in(cell) if isinstance(cell, str) else None


def numbers_in(cells: Sequence[str], *, comma: bool = False) -> NumpyArray | None:
    """The numbers that texts are, if writing the numbers gives every text again; else None.

    ``01`` beside ``1``, ``3.1`` beside ``3.10`` and ids beyond 64 bits are names for that reason.

    Parameters
    ----------
    cells : sequence of str
        Without blanks around them.
    comma : bool
        Whether a comma may stand before decimals.

    Returns
    -------
    int64 or float64 array, or None
    """
    plain = [_with_point(cell) for cell in cells] if comma else list(cells)
    distinct = list(dict.fromkeys(plain))
    if not distinct or not all(map(_NUMBER.fullmatch, distinct)):
        return None
    if all(cell.lstrip("-").isdigit() for cell in distinct):
        limits = np.iinfo(np.int64)
        exact = all(
            len(cell) < 21 and str(int(cell)) == cell and limits.min <= int(cell) <= limits.max
            for cell in distinct
        )
        return np.array([int(cell) for cell in plain], dtype=np.int64) if exact else None
    values = {cell: float(cell) for cell in distinct}
    if all(value.is_integer() for value in values.values()) and (
        max(map(abs, values.values())) >= INEXACT or any("e" in c.lower() for c in distinct)
    ):
        return None
    spelled = {cell: _spelling(cell) for cell in distinct}
    decimals = len(re.split("[eE]", distinct[0])[0].partition(".")[2])
    styles: list[Callable[[float], str]] = [
        f"{{:.{decimals}f}}".format,
        f"{{:.{decimals}e}}".format,
        repr,
        lambda value: repr(value).removesuffix(".0"),
        "{:g}".format,
    ]
    alike = any(
        all(_spelling(style(v)) == spelled[c] for c, v in values.items()) for style in styles
    )
    if not alike or len(set(values.values())) < len(distinct):
        return None
    return np.array([values[cell] for cell in plain])


def _spelling(number: str) -> str:
    """A number in letters that do not differ between programs: ``1E-05`` is ``1e-5``."""
    found = _NUMBER.fullmatch(number)
    if found is None:
        return number
    sign, whole, fraction, exponent_sign, exponent = found.groups("")
    power = f"e{exponent_sign.strip('+')}{exponent}" if exponent else ""
    return f"{sign}{whole or '0'}{fraction}{power}"


def _with_point(cell: str) -> str:
    return cell if "." in cell else cell.replace(",", ".", 1)


def looks_numeric(cells: Iterable[object], *, comma: bool = False) -> bool:
    """Whether all cells that hold anything hold numbers, however they are written."""
    held = [cell for cell in cells if kind_of(cell) != "nothing"]
    return bool(held) and all(_float_of(cell, comma=comma) is not None for cell in held)


def _float_of(cell: object, *, comma: bool) -> float | None:
    """The number that a cell is or shows, however it is written."""
    text = str(int(cell)) if isinstance(cell, bool | np.bool_) else str(cell).strip()
    if "_" in text:  # float("1_0") is 10 in Python, but "1_0" is a name
        return None
    try:
        return float(_with_point(text) if comma else text)
    except ValueError:
        return None


def list_in(text: str) -> list[object] | None:
    """The list that a text shows, as Python, JSON or NumPy write lists; None for other texts."""
    text = text.strip()
    if text[:1] not in ("[", "(", "{") or not _LIST.fullmatch(text):
        return None
    items: list[object] = []
    inside, place = text[1:-1].strip(), 0
    while place < len(inside):
        found = _ITEM.match(inside, place)
        if found is None:
            return None
        single, double, number = found.groups()
        if number is None:
            items.append(re.sub(r"\\(.)", r"\1", double if single is None else single))
        else:
            items.append(int(number) if number.lstrip("-").isdigit() else float(number))
        place = found.end()
    return items


@dataclass(frozen=True)
class Labels:
    """Labels as `encode_labels` takes them, and what they were taken for."""

    values: NumpyArray
    #: What they are, for people: ``"classes"``.
    reading: str
    task: TaskType | None = None
    class_names: Sequence[str] | None = None


@dataclass(frozen=True)
class LabelReader:
    """From the cells of a column of labels to labels; refuses what has no clear meaning.

    Parameters
    ----------
    what : str
        What to call the labels in messages.
    place : Place
        Names their rows.
    task : str or None
        What was asked for; None: recognise it.
    comma : bool
        Whether a comma may stand before decimals.
    """

    what: str
    place: Place
    task: RequestedTask | None = None
    comma: bool = False

    def read(
        self, cells: Sequence[object], class_names: Sequence[str] = (), *, as_names: bool = False
    ) -> Labels:
        """Labels of one column.

        Parameters
        ----------
        cells : sequence
        class_names : sequence of str
            If given, whole numbers are ids into them.
        as_names : bool
            Texts are names as they are written, even if they look like numbers.

        Raises
        ------
        DatasetError
            If a label is missing, cells differ in kind, or lists have no clear meaning.
        """
        missing = rows_without(cells)
        if missing:
            raise DatasetError(
                f"{self.what} must be complete; {len(missing)} are missing, the first at "
                f"{self.place(missing[0])}. Fill them in or remove those rows."
            )
        kind = the_kind(cells, what=self.what, place=self.place)
        if kind == "list":
            return self._of_lists([list_of(cell) or [] for cell in cells], class_names)
        if kind in ("number", "bool"):
            return self._of_numbers(cells, class_names)
        if kind in ("dict", "bytes"):
            raise DatasetError(
                f"{self.what} must be names, numbers or lists; they hold {kind}, the first at "
                f"{self.place(0)}. Name another column with label_column=..."
            )
        # dates and the like count by how they are written
        return self._of_texts([str(cell) for cell in cells], as_names=as_names)

    def numbers(self, cells: Sequence[object], column: str) -> NumpyArray:
        """Numbers of one of several columns of labels.

        Raises
        ------
        DatasetError
            If one is missing or no number.
        """
        values = [_float_of(cell, comma=self.comma) for cell in cells]
        for row, value in enumerate(values):
            if value is None or not np.isfinite(value):
                raise DatasetError(
                    f"several columns of labels must hold numbers; column {column!r} holds "
                    f"{cells[row]!r:.40} at {self.place(row)}. Name one column, or correct that "
                    "cell."
                )
        self._refuse_thousands([str(cell).strip() for cell in cells])
        return np.array(values, dtype=np.float64)

    def _of_numbers(self, cells: Sequence[object], class_names: Sequence[str]) -> Labels:
        quantities = self.task == "regression"
        values = np.asarray(cells, dtype=np.float64) if quantities else exact_array(cells)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise DatasetError(
                f"{self.what} must be finite; they hold {values[row]} at {self.place(row)}. "
                "Correct it or remove that row."
            )
        if self.task == "regression" or (values.dtype.kind == "f" and not _whole(values)):
            return Labels(values, "numbers")
        if class_names:
            return Labels(values, "classes", None, class_names)
        return Labels(values, "classes")

    def _of_texts(self, written: list[str], *, as_names: bool) -> Labels:
        texts = [text.strip() for text in written]
        if self.task == "regression":
            wrong = [i for i, t in enumerate(texts) if _float_of(t, comma=self.comma) is None]
            if wrong:
                raise DatasetError(
                    f"{self.what} must be numbers for a regression; {len(wrong)} are not, such as "
                    f"{texts[wrong[0]]!r} at {self.place(wrong[0])}. Correct them, or leave out "
                    "the task."
                )
            self._refuse_thousands(texts)
            return self._of_numbers([_float_of(t, comma=self.comma) for t in texts], ())
        lists = [list_in(text) for text in texts]
        if any(one is not None for one in lists):
            others = [row for row, one in enumerate(lists) if one is None]
            if others:
                raise DatasetError(
                    f"{self.what} must all be lists or none; {len(others)} are not, "
                    f"{first_few(map(self.place, others))}. Make them alike or remove those rows."
                )
            return self._of_lists([one for one in lists if one is not None], ())
        if as_names:
            return Labels(np.array(written), "classes")
        self._refuse_thousands(texts)
        numbers = numbers_in(texts, comma=self.comma)
        if numbers is not None:
            return self._of_numbers(numbers.tolist(), ())
        absent = [row for row, text in enumerate(texts) if text.lower() in _NO_NUMBER]
        rest = [text for text in texts if text.lower() not in _NO_NUMBER]
        if absent and numbers_in(rest, comma=self.comma) is not None:
            raise DatasetError(
                f"{self.what} must be complete and finite; {len(absent)} are missing or not "
                f"finite, {first_few(map(self.place, absent))} ({texts[absent[0]]!r} among "
                "numbers). Fill them in or remove those rows."
            )
        several = looks_numeric(texts, comma=self.comma)
        reading = "classes by name (numbers are not written like that)" if several else "classes"
        return Labels(np.array(texts), reading)

    def _refuse_thousands(self, texts: Sequence[str]) -> None:
        rows = [row for row, text in enumerate(texts) if "," in text]
        if self.comma and rows and all(_THOUSANDS.fullmatch(texts[row]) for row in rows):
            text = texts[rows[0]]
            raise DatasetError(
                f"{self.what} must be clear numbers; {text!r} at {self.place(rows[0])} may be "
                f"{text.replace(',', '.')} or {text.replace(',', '')}. Write a point before "
                "decimals, and nothing between thousands."
            )

    def _of_lists(self, lists: list[list[object]], class_names: Sequence[str]) -> Labels:
        """Names or ids of the classes that apply, columns of 0 and 1, or several targets."""
        owners = [row for row, items in enumerate(lists) for _ in items]
        flat = [item for items in lists for item in items]
        kind = the_kind(
            flat, what=f"the lists of {self.what}", place=lambda i: self.place(owners[i])
        )
        if not flat or kind not in ("text", "number", "bool"):
            raise DatasetError(
                f"{self.what} must be lists of names or of numbers; they are lists of "
                f"{kind if flat else 'nothing'}. Name another column with label_column=..."
            )
        if kind == "text":
            return _several([list(map(str, items)) for items in lists])
        widths = {len(items) for items in lists}
        if class_names:
            ids = self._ids(lists, len(class_names))
            return _several([[class_names[i] for i in its] for its in ids], class_names)
        if widths == {1}:
            return self._of_numbers(flat, ())
        values = np.asarray(flat, dtype=np.float64)
        if len(widths) > 1:
            return _several([[str(i) for i in its] for its in self._ids(lists, INEXACT)])
        table = values.reshape(len(lists), -1)
        if self.task != "regression" and np.isin(table, (0, 1)).all():
            return Labels(table, "0 or 1 for each class", "multilabel")
        if self.task == "regression" or not _whole(values):
            return Labels(table, f"{table.shape[1]} numbers a sample", "regression")
        if self.task == "multilabel":
            return _several([[str(i) for i in its] for its in self._ids(lists, INEXACT)])
        raise DatasetError(
            f"{self.what} are lists of {table.shape[1]} whole numbers each, which may be ids of "
            f"classes or quantities, such as {lists[0]!r:.60} at {self.place(0)}. Give "
            'task="multilabel" or task="regression".'
        )

    def _ids(self, lists: list[list[object]], count: int) -> list[list[int]]:
        """Lists of whole numbers in 0..count-1, refused where they hold anything else."""
        ids = [[_float_of(item, comma=False) for item in items] for items in lists]
        for row, its in enumerate(ids):
            if any(i is None or not i.is_integer() or not 0 <= i < count for i in its):
                raise DatasetError(
                    f"{self.what} must be lists of class ids in 0..{count - 1}, or of as many "
                    f"numbers in every row; {self.place(row)} holds {lists[row]!r:.60}. Correct "
                    "it; a test split whose labels are withheld (-1) cannot be used."
                )
        return [[int(i) for i in its if i is not None] for its in ids]


def _several(named: list[list[str]], class_names: Sequence[str] | None = None) -> Labels:
    """Columns of 0 and 1 from the names of the classes that apply to each sample."""
    names = class_names or sorted({name for its in named for name in its})
    column = {name: i for i, name in enumerate(names)}
    hit = np.zeros((len(named), len(names)))
    for row, its in zip(hit, named, strict=True):
        row[[column[name] for name in its]] = 1
    return Labels(hit, "several classes a sample", "multilabel", names)


def _whole(values: NumpyArray) -> bool:
    return bool((values == np.rint(values)).all())
