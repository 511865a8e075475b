"""Safetensors files: where each tensor lies, and its bytes as NumPy arrays without a copy.

A file is eight bytes of length, a JSON header of so many bytes, and the tensors one after another::

    {"__metadata__": {name: text}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}

The package `safetensors` copies every array that it reads or writes; features and weights may be
larger than memory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeGuard

import numpy as np

from transferscope.errors import InputError
from transferscope.numerics.arrays import NumpyArray

Bytes: TypeAlias = bytes | memoryview

#: The format's names of what NumPy can hold.
DTYPES = {"BOOL": np.dtype("?")} | {
    f"{kind}{8 * size}": np.dtype(f"<{kind.lower()}{size}")
    for kind, sizes in {"F": (2, 4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}.items()
    for size in sizes
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ITEM_BYTES = {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1} | {
    name: dtype.itemsize for name, dtype in DTYPES.items()
}
_LONGEST_HEADER = 100_000_000  # as the format says


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file.

    Attributes
    ----------
    dtype : str
        As the format names it, such as ``"F32"``; a file may hold types that NumPy has not.
    shape : tuple of int
    start, stop : int
        First byte and the one after the last, counted from the beginning of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def view(self, content: NumpyArray) -> NumpyArray:
        """Take the tensor out of the bytes of its file, without a copy.

        Parameters
        ----------
        content : uint8 array
            The whole file.

        Returns
        -------
        array
            Of the shape and the type of the tensor, which must be one of `DTYPES`.
        """
        flat = content[self.start : self.stop].view(DTYPES[self.dtype])
        return flat.reshape(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file holds: its tensors by name, and its metadata."""

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]


def is_safetensors(path: Path) -> bool:
    """Whether a file begins like a safetensors file; False where it cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(9)[8:] == b"{"  # after the length of the header
    return False


def read_header(file: BinaryIO) -> Header:
    """Read the header of an open file; damage is a ValueError, as in `parse_header`."""
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    return parse_header(start + file.read(min(length, n_bytes, _LONGEST_HEADER)), n_bytes)


def parse_header(start: Bytes, n_bytes: int) -> Header:
    """Read the header from the first bytes of a file.

    Parameters
    ----------
    start : bytes or memoryview
        The beginning of the file, or all of it.
    n_bytes : int
        Size of the file.

    Returns
    -------
    Header

    Raises
    ------
    ValueError
        If the file is damaged or cut short; the text is the reason. As the format demands, the
        tensors must fill the file: no gap, no overlap, no byte behind the last.
    """
    length = int.from_bytes(start[:8], "little")
    if not 2 <= length <= min(n_bytes - 8, _LONGEST_HEADER):
        raise ValueError(f"a header of {length} bytes in a file of {n_bytes}")
    text = bytes(start[8 : 8 + length]).decode()
    try:
        header = json.loads(text, object_pairs_hook=_without_twins)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    metadata = {} if (given := header.pop("__metadata__", None)) is None else given
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are not texts")
    tensors = {name: _place(name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != end:
            raise ValueError(f"{name} begins at byte {tensor.start} and not at {end}")
        end = tensor.stop
    if end != n_bytes:
        raise ValueError(f"{n_bytes} bytes of {end}")
    return Header(tensors, metadata)


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A table of the header, in which every name must stand once."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("its header has a name twice")
    return table


def _place(name: str, entry: object, body: int) -> StoredTensor:
    """Check one entry of the header, whose offsets count from the end of the header."""
    facts = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (facts.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and _are_counts(shape) and _are_counts(offsets)):
        raise ValueError(f"its header does not describe {name}")
    if len(offsets) != 2:
        raise ValueError(f"its header gives {name} {len(offsets)} offsets")
    first, last = offsets
    n_bytes = math.prod(shape) * _ITEM_BYTES.get(dtype, 0)
    if last < first or (dtype in _ITEM_BYTES and n_bytes != last - first):
        raise ValueError(
            f"{name} of shape {tuple(shape)} and type {dtype} has {last - first} bytes"
        )
    return StoredTensor(dtype, tuple(shape), body + first, body + last)


def _are_counts(values: object) -> TypeGuard[list[int]]:
    """Whether these are whole numbers of at least 0; True is none."""
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)


def serialise(arrays: Mapping[str, NumpyArray], metadata: Mapping[str, str]) -> list[Bytes]:
    """Lay out a file; the arrays are not copied.

    Parameters
    ----------
    arrays : mapping of str to array
        Of the types of `DTYPES`, in either byte order.
    metadata : mapping of str to str

    Returns
    -------
    list of bytes or memoryview
        The header, then the arrays: the parts of the file.

    Raises
    ------
    InputError
        If an array has another type.
    """
    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in _NAMES:
            raise InputError(
                f"{name} must hold real numbers or booleans; its dtype is {array.dtype}. Convert "
                "it, for example to float32."
            )
    # the largest items first: then each array begins at a multiple of its item size
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    parts: list[Bytes] = []
    offset = 0
    for name in names:
        dtype = arrays[name].dtype.newbyteorder("<")
        flat = np.ascontiguousarray(arrays[name], dtype).reshape(-1).view(np.uint8)
        place = [offset, offset := offset + flat.size]
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": place,
        }
        parts.append(flat.data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *parts]
