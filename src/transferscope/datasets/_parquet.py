"""Parquet files: with images or types of the Hugging Face library, or plain tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transferscope.datasets._files import require_regular
from transferscope.datasets._hugging_face import table_of
from transferscope.datasets._tables import Column, Table
from transferscope.errors import require


def read_parquet(path: Path) -> Table:
    """Read a ``.parquet`` file: with embedded images or types of the library, or a plain table.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        If it is not a regular file, or empty.
    MissingExtraError
        If ``pyarrow``, or ``datasets`` for embedded images, is not installed.
    """
    parquet = require("pyarrow.parquet", extra="vision", purpose="read .parquet files")
    require_regular(path)
    arrow = parquet.read_table(path)
    embedded = any(
        str(kind).startswith(("struct", "binary", "large_binary")) for kind in arrow.schema.types
    )
    if embedded or b"huggingface" in (arrow.schema.metadata or {}):
        library = require("datasets", extra="vision", purpose="read images in .parquet files")
        return table_of(library.Dataset(arrow), str(path), path.stem, path.parent)
    columns = {name: _column(arrow[name]) for name in arrow.column_names}
    return Table(columns, arrow.num_rows, str(path), path.stem, path.parent)


def _column(cells: Any) -> Column:
    kind = str(cells.type)
    if kind.startswith(("int", "uint", "float", "double", "halffloat", "bool")):
        return Column(cells.to_pylist, "number")
    if kind.startswith(("string", "large_string", "list", "large_list", "dictionary", "null")):
        return Column(cells.to_pylist)
    # as text, because Python's times have no nanoseconds
    return Column(lambda: cells.cast("string").to_pylist(), "other")
