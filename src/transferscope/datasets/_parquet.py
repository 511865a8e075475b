"""Parquet files: with images or types of the Hugging Face library, or plain tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transferscope.datasets._dataset import Dataset
from transferscope.datasets._hugging_face import from_hugging_face
from transferscope.datasets._request import Request
from transferscope.datasets._tables import read_table
from transferscope.errors import DatasetError, require


def read_parquet(path: Path, request: Request) -> Dataset:
    """Read a ``.parquet`` file: with embedded images or types of the library, or a plain table.

    Raises
    ------
    DatasetError
        If it cannot be read, or as `read_table` and `from_hugging_face` raise it.
    MissingExtraError
        If ``pyarrow``, or ``datasets`` for embedded images, is not installed.
    """
    parquet = require("pyarrow.parquet", extra="vision", purpose="read .parquet files")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own are subclasses of these
        raise DatasetError(
            f"{path} must be a Parquet file and cannot be read "
            f"({type(error).__name__}: {error}). Write it again."
        ) from error
    embedded = any(
        str(kind).startswith(("struct", "binary", "large_binary")) for kind in table.schema.types
    )
    if embedded or b"huggingface" in (table.schema.metadata or {}):
        library = require("datasets", extra="vision", purpose="read images embedded in .parquet")
        rows = library.Dataset(table)
        if "split" in table.column_names:
            parts = np.array(rows["split"][:], dtype=str)
            rows = {part: rows.select(np.flatnonzero(parts == part)) for part in sorted(set(parts))}
        return from_hugging_face(rows, request, name=path.stem)
    columns = {
        column: table[column].to_numpy(zero_copy_only=False) for column in table.column_names
    }
    return read_table(columns, path, request)
