"""Files of users: only regular ones are read, and an error names what is wrong with one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transferscope.errors import DatasetError, TransferscopeError

#: No image that can be decoded is longer; a sparse file may claim any length.
LONGEST_IMAGE = 2**30


@contextmanager
def naming(source: object, form: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into an error that names the source.

    Parsers have no common base of errors, and malformed input finds all of them.

    Parameters
    ----------
    source : object
        The file, as messages call it.
    form : str
        What it must be, such as "a Parquet file".

    Raises
    ------
    DatasetError
        If anything fails inside; errors of this package and lack of memory pass unchanged.
    """
    try:
        yield
    except (TransferscopeError, MemoryError):
        raise
    except Exception as error:
        raise DatasetError(
            f"{source} must be {form} and cannot be read ({type(error).__name__}: {error}). "
            "Repair it or write it again."
        ) from error


def read_regular(path: Path, *, most: int | None = None) -> bytes:
    """Read a regular file; a device, a pipe or a file of the kernel may never end.

    Parameters
    ----------
    path : Path
    most : int or None
        More bytes are refused.

    Raises
    ------
    OSError
        If it is absent, not a regular file, empty, or too long.
    """
    require_regular(path)  # before it is opened, which acts on some devices
    # not to wait: for the writer of a pipe that took the file's place, or in /proc for news
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        size = _check_regular(os.fstat(file.fileno()), most)
        return file.read(size)


def require_regular(path: Path) -> None:
    """Refuse what is not a regular file with content.

    Raises
    ------
    OSError
        If it is absent, not a regular file, or empty.
    """
    _check_regular(path.stat(), None)


def _check_regular(status: os.stat_result, most: int | None) -> int:
    if not stat.S_ISREG(status.st_mode):
        folder = stat.S_ISDIR(status.st_mode)
        raise OSError(f"it is {'a folder' if folder else 'a device or a pipe'}, not a regular file")
    if status.st_size == 0:
        raise OSError("it is empty")
    if most is not None and status.st_size > most:
        raise OSError(f"it has {status.st_size:,} bytes, more than {most:,}")
    return status.st_size


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; line ends stay as they are.

    Raises
    ------
    DatasetError
        If it holds anything else, with the line.
    OSError
        As `read_regular` raises it.
    """
    data = read_regular(path)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DatasetError(f"{path} must be UTF-8 and is UTF-16. Save it as UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path} must be UTF-8 and is not: line {line} has the byte {data[error.start]:#04x}. "
            "Save it as UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DatasetError(
            f"{path} must be text and has a zero byte in line {line}. Write it again."
        )
    return text
