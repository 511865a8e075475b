"""What all records of results have in common: frames, JSON and back, short displays."""

from __future__ import annotations

import html
import json
import types
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from transferscope.errors import InputError, require

if TYPE_CHECKING:
    import pandas as pd

#: Arrays in records.
Numbers = npt.NDArray[Any]
#: Metadata of fields that are too large for JSON; they are None in what `from_json` gives.
NOT_IN_JSON = {"json": False}
#: Metadata of fields that older JSON does not have; `from_json` then gives their defaults.
ADDED_LATER = {"added_later": True}
#: Most rows of a display on a terminal, and in a notebook.
TERMINAL_ROWS, NOTEBOOK_ROWS = 8, 30


@dataclass(frozen=True, repr=False)
class Record(ABC):
    """A frozen record of results."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """The record as a frame with typed columns.

        Returns
        -------
        pandas.DataFrame
        """

    def to_native(self, library: str) -> Any:
        """The frame of `to_frame` as one of another library.

        Parameters
        ----------
        library : str
            ``"polars"``, ``"pyarrow"`` or whatever else narwhals makes frames of.

        Returns
        -------
        frame
            Of that library, its first columns what `to_frame` has as an index.

        Raises
        ------
        InputError
            If narwhals makes no frames of that library.
        MissingExtraError
            If narwhals or the library is not installed.
        """
        narwhals = require("narwhals", extra="frames", purpose="make frames of other libraries")
        try:
            implementation = narwhals.Implementation.from_backend(library)
            known = implementation is not narwhals.Implementation.UNKNOWN
        except (TypeError, ValueError):
            known = False
        if not known:
            raise InputError(
                f"library must be one that narwhals knows, such as polars or pyarrow; got "
                f"{library!r}. to_frame gives a pandas frame."
            )
        require(library, extra="frames", purpose=f"make frames of {library}")
        frame = self.to_frame()
        if any(name is not None for name in frame.index.names):
            frame = frame.reset_index()
        columns = {
            str(name): frame[name].astype(object).where(frame[name].notna(), None).tolist()
            for name in frame.columns
        }
        schema = narwhals.from_native(frame, eager_only=True).schema
        return narwhals.from_dict(columns, schema, backend=library).to_native()

    @property
    @abstractmethod
    def headline(self) -> str:
        """What the record says, in one sentence."""

    def to_json(self) -> str:
        """The record as JSON.

        Returns
        -------
        str
            No number in it is NaN or infinite; `from_json` takes it back.
        """
        return json.dumps(self._to_plain(), indent=2, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild a record.

        Parameters
        ----------
        text : str
            What `to_json` gave.

        Returns
        -------
        Self

        Raises
        ------
        InputError
            If the text is not the JSON of such a record; the message says where it differs.
        """
        if not isinstance(text, str):
            raise InputError(f"text must be a str, got {type(text).__name__}. Read the file first.")
        try:
            plain = json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise InputError(
                f"text must be the JSON of a {cls.__name__}; it is no JSON ({error}). "
                "Pass what to_json gave."
            ) from error
        try:
            return cls._from_plain(plain)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            # a value that its record refuses, or a mapping that is none
            raise InputError(
                f"text must be the JSON of a {cls.__name__}; {error}. Pass what to_json gave."
            ) from error

    def _to_plain(self) -> object:
        return to_plain(self)

    @classmethod
    def _from_plain(cls, plain: object) -> Self:
        record = from_plain(cls, plain, cls.__name__)
        assert isinstance(record, cls)
        return record

    def __repr__(self) -> str:
        frame = self.to_frame()
        some = self._short(frame).iloc[:TERMINAL_ROWS]
        shown = some.to_string(max_colwidth=40, float_format="{:.4g}".format, na_rep="")
        return "\n".join(
            [f"{type(self).__name__}: {self.headline}", shown, *_more(frame, TERMINAL_ROWS)]
        )

    def _short(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The columns that a person needs first."""
        return frame.iloc[:, :8]

    def _repr_html_(self) -> str:
        frame = self.to_frame()
        table = (
            self._short(frame)
            .iloc[:NOTEBOOK_ROWS]
            .to_html(escape=True, border=0, float_format="{:.4g}".format, na_rep="")
        )
        lines = [self.headline, *_more(frame, NOTEBOOK_ROWS)]
        notes = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
        return f"<div>{notes}{table}</div>"


def _more(frame: pd.DataFrame, shown: int) -> list[str]:
    hidden = len(frame) - shown
    return [f"... and {hidden} more rows: to_frame() has all"] if hidden > 0 else []


class Part:
    """What a part of a record shows in a notebook: a row for each field that holds anything."""

    def _repr_html_(self) -> str:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]  # of a dataclass
        cells = {name: _in_words(getattr(self, name)) for name in names}
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(words)}</td></tr>"
            for name, words in cells.items()
            if words
        )
        return f"<table>{rows}</table>"


def _in_words(value: object) -> str:
    """A value in a few words, none where it holds nothing; of parts of parts the first field."""
    if is_dataclass(value):
        return _in_words(getattr(value, fields(value)[0].name))
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_in_words(item)}" for name, item in value.items())
    if isinstance(value, tuple | list):
        return "; ".join(map(_in_words, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def frame_of(kind: type, records: Sequence[object]) -> pd.DataFrame:
    """One row per record of a kind, a typed column per field; texts in tuples are joined."""
    import pandas as pd

    names = [field.name for field in fields(kind)]
    kinds = {name: _column_type(_hints(kind)[name]) for name in names}
    rows = [
        ["; ".join(v) if isinstance(v := getattr(one, name), tuple) else v for name in names]
        for one in records
    ]
    return pd.DataFrame(rows, columns=names).astype(kinds)


def _column_type(hint: Any) -> str:
    inner = [one for one in get_args(hint) if one is not type(None)]
    plain = inner[0] if get_origin(hint) in (Union, types.UnionType) else hint
    return {float: "float64", int: "Int64", bool: "boolean"}.get(plain, "string")


def to_plain(value: object) -> object:
    """Dictionaries, lists and scalars in place of records, tuples and arrays."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name))
            for field in fields(value)
            if _in_json(field)
        }
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def _in_json(field: Field[Any]) -> bool:
    return bool(field.metadata.get("json", True))


@cache
def _hints(record: type) -> dict[str, Any]:
    return get_type_hints(record)


def from_plain(hint: Any, value: object, where: str) -> object:
    """The value of type `hint` that `to_plain` made `value` of.

    `where` is the path to it, for messages.

    Raises
    ------
    InputError
        If the value is of another type, or a record has other fields.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in inner if option is not type(None)]
        return None if value is None else from_plain(options[0], value, where)
    if isinstance(hint, type) and is_dataclass(hint):
        return _record_of(hint, value, where)
    if origin is tuple:
        items = _expected(list, value, where)
        kinds = [inner[0]] * len(items) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) != len(items):
            raise _differs(where, f"{len(kinds)} items", f"{len(items)}")
        return tuple(
            from_plain(kind, item, f"{where}[{i}]")
            for i, (kind, item) in enumerate(zip(kinds, items, strict=True))
        )
    if origin is dict:
        content = _expected(dict, value, where)
        return {key: from_plain(inner[1], item, f"{where}.{key}") for key, item in content.items()}
    if origin is np.ndarray:
        return np.asarray(_expected(list, value, where))
    if origin is Literal:
        if value not in inner:
            raise _differs(where, f"one of {', '.join(map(str, inner))}", repr(value))
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _expected(hint, value, where)


def _record_of(hint: type, value: object, where: str) -> object:
    content, hints = _expected(dict, value, where), _hints(hint)
    names = {field.name for field in fields(hint) if _in_json(field)}
    later = {field.name for field in fields(hint) if field.metadata.get("added_later", False)}
    unknown = sorted(content.keys() - names)
    missing = sorted(names - content.keys() - later)
    if unknown or missing:
        found = ", ".join([*(f"no {name}" for name in missing), *unknown][:5])
        raise _differs(where, f"the fields {', '.join(sorted(names))}", found)
    given = {name: from_plain(hints[name], content[name], f"{where}.{name}") for name in content}
    absent = {field.name: None for field in fields(hint) if not _in_json(field)}
    return hint(**given, **absent)


def _expected(kind: Any, value: object, where: str) -> Any:
    # a bool is an int to Python, and no number here
    if kind is object or (isinstance(value, kind) and isinstance(value, bool) <= (kind is bool)):
        return value
    raise _differs(where, f"a {kind.__name__}", type(value).__name__)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _differs(where: str, expected: str, found: str) -> InputError:
    return InputError(
        f"{where} in the JSON must have {expected}; found: {found}. Pass what to_json gave."
    )
