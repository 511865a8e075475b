"""Tensors of a safetensors file, read through file handles.

The file is never mapped: the pages of a mapping stay in memory as long as the system likes.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from transferscope.errors import CheckpointError
from transferscope.numerics.arrays import NumpyArray
from transferscope.parameter_distance._tensors import (
    PIECE,
    Tensor,
    at_least_float32,
    from_bfloat16,
)
from transferscope.storage.safetensors_files import DTYPES, StoredTensor, read_header


def open_safetensors(path: Path, files: ExitStack) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Parameters
    ----------
    path : Path
    files : ExitStack
        Closes the file.

    Raises
    ------
    CheckpointError
        If it is damaged, or stores numbers in a format that needs scales.
    """
    source = _File(path, files)
    try:
        stored = read_header(source.handle).tensors
    except ValueError as error:
        raise CheckpointError(
            f"weights file {path} is damaged or cut short ({error}). Copy or download it again."
        ) from error
    return {name: _tensor(source, path, name, place) for name, place in stored.items()}


def _tensor(source: _File, path: Path, name: str, stored: StoredTensor) -> Tensor:
    if stored.dtype.startswith(("I", "U", "BOOL")):
        return Tensor(stored.shape, _unreadable, is_float=False)
    # NumPy has no bfloat16, whose bits are read instead
    dtype = np.dtype("<u2") if stored.dtype == "BF16" else DTYPES.get(stored.dtype)
    if dtype is None:
        raise CheckpointError(
            f"{name} in {path} is stored as {stored.dtype}, which needs scales that are not part "
            "of it. Save the weights in bfloat16, float16 or float32."
        )
    convert = from_bfloat16 if stored.dtype == "BF16" else at_least_float32

    def read(start: int, stop: int) -> NumpyArray:
        size = (stop - start) * dtype.itemsize
        content = source.read(stored.start + start * dtype.itemsize, size)
        return convert(np.frombuffer(content, dtype=dtype))

    return Tensor(stored.shape, read)


class _File(threading.local):
    """An open file with a buffer, both of the thread that uses them."""

    def __init__(self, path: Path, files: ExitStack) -> None:
        self._path = path
        # one that a thread opened is closed with all others
        self.handle = files.enter_context(path.open("rb", buffering=0))
        self._buffer = memoryview(bytearray(8 * PIECE))

    def read(self, offset: int, size: int) -> memoryview:
        """Bytes of the file, valid until the next call in this thread."""
        view, filled = self._buffer[:size], 0
        self.handle.seek(offset)
        while filled < size:
            got = self.handle.readinto(view[filled:])
            if not got:
                raise CheckpointError(
                    f"weights file {self._path} was cut while it was read. Copy it again."
                )
            filled += got
        return view


def _unreadable(*_: int) -> NumpyArray:
    raise AssertionError("only floating-point tensors are read")
