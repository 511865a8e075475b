"""Files that are written whole or not at all.

A file is written under another name next to its target, flushed to the disk and renamed: a reader
sees the old content or the new. A run that is killed leaves a temporary file at most, which goes
when the same file is written again::

    NAME.<host>-<process>-<random>.tmp
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from transferscope.errors import StoreError

_TEMPORARY = re.compile(r"\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]+\.tmp$")
_STALE_AFTER = 24 * 3600.0  # seconds; writing one file never takes that long
_IN_USE = "in-use"
_IF_FULL = "Free some space"
_A_FILE_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(
    path: Path,
    content: str | Sequence[bytes | memoryview],
    *,
    if_full: str = _IF_FULL,
    elsewhere: str = "choose another place",
) -> None:
    """Write a file whole or not at all; its folder is made where it does not exist.

    Parameters
    ----------
    path : Path
    content : str, or sequence of bytes or memoryview
        Text, which is written as UTF-8; or the parts of the file, one after another.
    if_full : str
        What to do about a full disk, to complete "... , or <elsewhere>." in the message.
    elsewhere : str
        How to write to another place, to complete "... , or <elsewhere>." in the message.

    Raises
    ------
    StoreError
        If the disk is full, or the file or its folder cannot be written; its ``__cause__`` is the
        `OSError`. A file that was there before stays as it was.
    """
    # a name that is no Unicode (a lone surrogate) stays readable, and valid in JSON
    parts = [content.encode(errors="backslashreplace")] if isinstance(content, str) else content
    temporary = _temporary(path)
    try:
        _make_folder(path.parent)
        with temporary.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        n_bytes = sum(len(part) for part in parts)
        raise _unwritable(path, error, n_bytes, if_full, elsewhere) from error
    finally:
        with suppress(OSError):  # renamed, or never made
            temporary.unlink()
        remove_stale_files(path.parent, of=path)


def _make_folder(folder: Path) -> None:
    """Make a folder, where others may make and delete it meanwhile."""
    for _ in range(100):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except FileExistsError:
            # it is a file; or it was a folder, and went before this was looked at
            if folder.exists() and not folder.is_dir():
                raise
    folder.mkdir(parents=True, exist_ok=True)


def _unwritable(
    path: Path, error: OSError, n_bytes: int, if_full: str, elsewhere: str
) -> StoreError:
    what, first = error.strerror, "Change the permissions of its folder"
    if error.errno in _DISK_FULL:
        what, first = f"{error.strerror}; it needs {n_bytes} bytes", if_full
    elif error.errno in _A_FILE_IN_THE_WAY:
        what, first = "its folder cannot be made, for there is a file of this name", "Rename it"
    return StoreError(f"{path} cannot be written: {what}. {first}, or {elsewhere}.")


def refuse_unwritable(path: Path, *, elsewhere: str = "choose another place") -> None:
    """Refuse a file that could not be written; to be known before long work, not after it.

    Another file is made beside it and removed, and so are the folders that are missing.

    Parameters
    ----------
    path : Path
    elsewhere : str
        How to write to another place, to complete "... , or <elsewhere>." in the message.

    Raises
    ------
    StoreError
        If its folder cannot be made or written to, or the path is a folder.
    """
    made: list[Path] = []
    try:
        if path.is_dir():
            raise OSError(errno.EISDIR, "it is a folder")
        for folder in reversed([one for one in path.parents if not one.exists()]):
            folder.mkdir(exist_ok=True)
            made.append(folder)
        trial = _temporary(path)
        trial.open("xb").close()
        trial.unlink()
    except OSError as error:
        raise _unwritable(path, error, 0, _IF_FULL, elsewhere) from error
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # somebody else uses it already
                folder.rmdir()


def _temporary(path: Path) -> Path:
    """Name of the file that becomes `path`; it tells whose it is."""
    owner = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{_start(path)}.{owner}.tmp")


def _start(path: Path) -> str:
    """The name of a file, cut so that there is room for more in a name of 255 bytes."""
    return path.name[:50]


def mark_in_use(folder: Path) -> Path:
    """Make a file in a folder that says which process uses it.

    Parameters
    ----------
    folder : Path
        Is made where it does not exist.

    Returns
    -------
    Path
        The file; the folder is in use until it is deleted, its process has ended, or it has not
        been touched for a day.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    _make_folder(folder)
    mark = _temporary(folder / _IN_USE)
    mark.open("xb").close()
    return mark


def is_in_use(folder: Path) -> bool:
    """Whether another process has marked a folder by `mark_in_use`."""
    for mark in folder.glob(f"{_IN_USE}.*.tmp"):
        owner = _TEMPORARY.search(mark.name)
        is_own = owner is not None and (owner["host"], owner["pid"]) == (_host(), str(os.getpid()))
        with suppress(OSError):
            if not is_own and not _is_stale(mark.name, mark.stat().st_mtime):
                return True
    return False


def remove_stale_files(folder: Path, *, of: Path | None = None) -> int:
    """Delete the temporary files that killed runs left in a folder; `of` one file, or of any."""
    freed = 0
    start = "" if of is None else f"{glob.escape(_start(of))}."
    found: list[Path] = []
    with suppress(OSError):  # the folder may go meanwhile
        found = list(folder.glob(f"{start}*.tmp"))
    for path in found:
        with suppress(OSError):
            status = path.stat()
            if _is_stale(path.name, status.st_mtime):
                path.unlink()
                freed += status.st_size
    return freed


def _is_stale(name: str, modified: float) -> bool:
    """Whether no run writes this temporary file any more: it is old, or its process has ended."""
    owner = _TEMPORARY.search(name)
    if owner is None or time.time() - modified > _STALE_AFTER:
        return owner is not None
    # on Windows, os.kill would end the process it asks about
    if owner["host"] != _host() or os.name == "nt":
        return False
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # it runs, and belongs to another user
    return False


def _host() -> str:
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
