"""NumPy archives (``.npz``): arrays by name, each read to its end so that damage is seen.

`numpy.load` stops where the header of an array says that the array ends. After one flipped bit in
that header it gives another array without a word, because the archive compares its checksum only
at the last byte. Here the header must describe exactly the bytes that are there, nothing is
allocated that the file cannot fill, and the checksum is compared in the same pass.
"""

from __future__ import annotations

import ast
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np

from transferscope.errors import InputError
from transferscope.numerics.arrays import NumpyArray
from transferscope.storage._border import refuse_damage

_MAGIC = b"\x93NUMPY"
#: Size of the field that holds the length of the header, by the format's version.
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
#: As in NumPy: a longer text could exhaust the stack of Python's parser.
_LONGEST_HEADER = 10_000
#: DEFLATE makes nothing smaller than by this; a size beyond it is not believed.
_LARGEST_RATIO = 1100
_PIECE = 2**20  # bytes read at once


def npz_names(path: Path) -> list[str]:
    """Names of the arrays in an archive.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        If the file is damaged or no archive.
    """
    with _opened(path) as archive:
        return list(_members(archive))


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NumpyArray]:
    """Read arrays of an archive.

    Parameters
    ----------
    path : Path
    names : sequence of str
        Those that are not in it are left out.

    Returns
    -------
    dict of str to array

    Raises
    ------
    InputError
        If the file is damaged or no archive, or an array holds Python objects.
    """
    with _opened(path) as archive:
        members = _members(archive)
        return {
            name: _read_array(archive, members[name], name) for name in names if name in members
        }


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with refuse_damage(path, writer="numpy.savez"), path.open("rb") as file:
        if file.read(len(_MAGIC)) == _MAGIC:
            raise InputError(
                f"file {path} is a single array without a name. Save it with "
                "np.savez(..., name=array)."
            )
        with zipfile.ZipFile(file) as archive:
            yield archive


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in members:
            raise ValueError(f"two arrays are called {name}")
        with archive.open(member):  # compares the name with the one in front of the array
            members[name] = member
    return members


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> NumpyArray:
    with archive.open(member) as stream:
        dtype, shape, order, n_header = _read_header(stream)
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_header + n_bytes != member.file_size:
            raise ValueError(
                f"{name} of shape {shape} and type {dtype} takes {n_bytes} bytes, and "
                f"{member.file_size - n_header} are there"
            )
        if n_bytes > _LARGEST_RATIO * member.compress_size:
            raise ValueError(f"{name} is {n_bytes} bytes made of {member.compress_size}")
        content = np.empty(n_bytes, np.uint8)
        for start in range(0, n_bytes, _PIECE):
            piece = stream.read(min(_PIECE, n_bytes - start))
            content[start : start + _PIECE] = np.frombuffer(piece, np.uint8)
        stream.read(1)  # at the end the checksum is compared
    return content.view(dtype).reshape(shape, order=order)


def _read_header(stream: IO[bytes]) -> tuple[np.dtype, tuple[int, ...], Literal["C", "F"], int]:
    """Type, shape and order of an array in NumPy's format, and where its bytes begin."""
    start = stream.read(8)
    if start[:6] != _MAGIC or start[6] not in _LENGTH_BYTES:
        raise ValueError("no array in NumPy's format")
    field = stream.read(_LENGTH_BYTES[start[6]])
    length = int.from_bytes(field, "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    text = stream.read(length).decode("utf-8" if start[6] == 3 else "latin-1")
    facts = ast.literal_eval(text)
    descr, fortran, shape = (facts[key] for key in ("descr", "fortran_order", "shape"))
    if type(fortran) is not bool or not (
        isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    ):
        raise ValueError(f"a header that says {text.strip()}")
    dtype = np.lib.format.descr_to_dtype(descr)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    return dtype, shape, "F" if fortran else "C", len(start) + len(field) + length
