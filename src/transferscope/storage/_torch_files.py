"""Files written by torch.save and torch.jit.save, read as data.

Since PyTorch 1.6 such a file is a zip archive of uncompressed records: ``data.pkl``, a pickle of
what was saved, and one record for the numbers of each storage, by which the pickle refers to it.
Before, it was five pickles and then the storages. A TorchScript program is an archive of the same
records, with code beside them that is not looked at.

This module imports torch at the top.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from transferscope.storage._pickles import Builder, Opaque, read_pickle

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6

_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


@dataclass(frozen=True)
class _Storage:
    """Numbers of one type: a piece of a tensor of one dimension."""

    flat: Tensor
    start: int
    length: int

    def of_type(self, dtype: torch.dtype) -> _Storage:
        """The same bytes as numbers of another type."""
        size, wanted = self.flat.itemsize, dtype.itemsize
        if dtype == self.flat.dtype:
            return self
        if self.start * size % wanted:  # no number of this type begins there
            copy = self.flat[self.start : self.start + self.length].clone()
            return _Storage(copy, 0, self.length).of_type(dtype)
        flat = self.flat[: len(self.flat) * size // wanted * wanted // size].view(dtype)
        return _Storage(flat, self.start * size // wanted, self.length * size // wanted)


#: Bytes that are read at once: those of a mapping would count as memory of the process.
_PIECE = 2**20
# what a zip archive is that torch did not write, by a name in it
_ARCHIVES = ((".npy", "NumPy"), ("model.weights.h5", "Keras"))


def read_archive(path: Path) -> object:
    """Read a zip archive of torch; tensors are parts of a mapping of the file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    object
        What was saved.

    Raises
    ------
    ValueError, LookupError, TypeError, RuntimeError, zipfile.BadZipFile, OSError
        If it is damaged, or another kind of archive.
    HostilePickleError
        If its pickle names a function to execute code with.
    """
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: record for record in archive.infolist()}
        if len(records) < len(archive.infolist()):
            raise ValueError("two records of one name")
    pickles = [name for name in records if name.rpartition("/")[2] == "data.pkl"]
    if not pickles:
        kind = next((kind for sign, kind in _ARCHIVES if any(sign in n for n in records)), "zip")
        raise ValueError(f"a {kind} archive has no record data.pkl, as torch.save writes it")
    folder = min(pickles, key=len).removesuffix("data.pkl")
    with path.open("rb") as file:
        start_of = {
            name: _start(file, record)
            for name, record in records.items()
            if record.compress_type == zipfile.ZIP_STORED  # as torch stores all but code
        }
        for name, start in start_of.items():
            _refuse_changed(file, start, records[name])
        data = _content(file, start_of, records[f"{folder}data.pkl"])
        order = records.get(f"{folder}byteorder")
        if order is not None and _content(file, start_of, order) != b"little":
            raise ValueError("its bytes are in the order of another kind of computer")
        n_bytes = file.seek(0, os.SEEK_END)
    whole = torch.from_file(str(path), shared=False, size=n_bytes, dtype=torch.uint8)
    flat: dict[torch.dtype, Tensor] = {}  # the whole file as numbers of each type

    def storage(key: str, dtype: torch.dtype, numel: int) -> _Storage:
        record = records[f"{folder}data/{key}"]
        start = start_of[record.filename]
        if max(numel * dtype.itemsize, 0) > record.file_size or start + record.file_size > n_bytes:
            raise ValueError(f"the storage {key} is cut short")
        if start % dtype.itemsize:
            return _Storage(whole, start, numel * dtype.itemsize).of_type(dtype)
        if dtype not in flat:
            flat[dtype] = whole[: n_bytes // dtype.itemsize * dtype.itemsize].view(dtype)
        return _Storage(flat[dtype], start // dtype.itemsize, numel)

    return read_pickle(io.BytesIO(data), _named, _persistent(storage))


def _start(file: BinaryIO, record: zipfile.ZipInfo) -> int:
    """Where the bytes of a record begin: behind a header, its name, and more."""
    file.seek(record.header_offset + 26)
    lengths = file.read(4)
    return (
        record.header_offset
        + 30
        + int.from_bytes(lengths[:2], "little")
        + int.from_bytes(lengths[2:], "little")
    )


def _refuse_changed(file: BinaryIO, start: int, record: zipfile.ZipInfo) -> None:
    """Hold the bytes of a record to their checksum; torch can be told to write 0, for none."""
    file.seek(start)
    found, left = 0, record.file_size if record.CRC else 0
    while left > 0 and (piece := file.read(min(left, _PIECE))):
        found, left = crc32(piece, found), left - len(piece)
    if found != record.CRC and left == 0:  # what is cut short is named where it is read
        raise ValueError(f"the record {record.filename} is not what its checksum says")


def _content(file: BinaryIO, start_of: Mapping[str, int], record: zipfile.ZipInfo) -> bytes:
    start = start_of[record.filename]
    if start + record.file_size > file.seek(0, os.SEEK_END):
        raise ValueError(f"the record {record.filename} is cut short")
    file.seek(start)
    return file.read(record.file_size)


def read_pickles(file: BinaryIO) -> object:
    """Read a file of pickles: of torch before version 1.6, or one pickle of anything.

    Parameters
    ----------
    file : binary file
        With a file descriptor.

    Returns
    -------
    object
        What was saved.

    Raises
    ------
    ValueError, LookupError, TypeError, RuntimeError, OSError
        If it is damaged, or holds no pickle.
    HostilePickleError
        If a pickle names a function to execute code with.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        first = read_pickle(stream, _named)
        if first != _MAGIC:
            return first
        storages: dict[str, _Storage] = {}
        left = len(stream)

        def storage(key: str, dtype: torch.dtype, numel: int) -> _Storage:
            nonlocal left
            if key not in storages:
                left -= numel * dtype.itemsize
                if left < 0:
                    raise ValueError("more numbers than the file has bytes")
                storages[key] = _Storage(torch.empty(numel, dtype=dtype), 0, numel)
            return storages[key]

        for _ in ("version", "sizes of numbers"):
            read_pickle(stream, _named)
        content = read_pickle(stream, _named, _persistent(storage))
        keys = read_pickle(stream, _named)
        for key in keys if isinstance(keys, list) else ():
            count = int.from_bytes(stream.read(8), "little")
            empty = storages[str(key)].flat
            data = stream.read(count * empty.itemsize)
            if count != len(empty) or len(data) < count * empty.itemsize:
                raise ValueError(f"the storage {key} is cut short")
            if data:
                raw = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
                empty.copy_(raw.view(empty.dtype))
        return content


def _persistent(
    storage: Callable[[str, torch.dtype, int], _Storage],
) -> Callable[[object], object]:
    """What stands for ``("storage", type, key, device, length, view)`` in a pickle."""

    def load(identity: object) -> object:
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            return Opaque("persistent id")
        _, dtype, key, _, numel, *view = identity
        if not isinstance(dtype, torch.dtype):
            return Opaque("storage of an unknown type")
        if not isinstance(numel, int) or not 0 <= numel < 2**48:
            raise ValueError(f"a storage of {str(numel)[:20]} numbers")
        numbers = storage(str(key), dtype, numel)
        if numbers.length < numel:
            raise ValueError(f"the storage {key} is cut short")
        if view and isinstance(view[0], tuple):
            start, length = _counts(view[0][1:])
            if start + length > numel:
                raise ValueError(f"a part of the storage {key} that it has not")
            return _Storage(numbers.flat, numbers.start + start, length)
        return numbers

    return load


def _named(name: str) -> object | None:
    if name in _TENSORS:
        return _TENSORS[name]
    module, _, last = name.rpartition(".")
    if module in ("torch", "torch.cuda", "torch.storage"):
        return _DTYPES.get(f"torch.{last}") or _STORAGES.get(last)
    return None


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> object:
    """A tensor by where its numbers begin in a storage, and how far apart they are."""
    if not isinstance(storage, _Storage):
        return Opaque("torch.Tensor")
    (start,), lengths, steps = _counts((offset,)), _counts(size), _counts(stride)
    last = start + sum((n - 1) * step for n, step in zip(lengths, steps, strict=True))
    if 0 not in lengths and last >= storage.length:
        raise ValueError("a tensor reaches beyond its storage")
    if math.prod(lengths) > max(storage.length, 2**28):
        raise ValueError("a tensor repeats its numbers without an end")
    return storage.flat.as_strided(lengths, steps, storage.start + start)


def _counts(numbers: object) -> tuple[int, ...]:
    if not isinstance(numbers, tuple | list) or len(numbers) > 32:
        raise ValueError("a tensor of no shape")
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
        raise ValueError("a tensor of an impossible shape")
    return tuple(numbers)


def _typed_tensor(storage: object, *place: object) -> object:
    """As `_tensor`, of a storage of bytes; the type comes last but for metadata."""
    offset, size, stride, _, _, dtype, *_ = place
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
        return Opaque("torch.Tensor")
    return _tensor(storage.of_type(dtype), offset, size, stride)


def _first(value: object, *_: object) -> object:
    return value


def _of_type(function: object, _: object, arguments: object, *__: object) -> object:
    """A tensor of a class of its own: the tensor alone."""
    if isinstance(function, Builder) and isinstance(arguments, tuple):
        return function.build(*arguments)
    return Opaque("torch.Tensor")


def _from_numpy(array: object, *_: object) -> object:
    return torch.from_numpy(array.copy()) if isinstance(array, np.ndarray) else array


_TENSORS = {
    "torch._utils._rebuild_tensor": Builder(_tensor),
    "torch._utils._rebuild_tensor_v2": Builder(_tensor),
    "torch._utils._rebuild_tensor_v3": Builder(_typed_tensor),
    "torch._utils._rebuild_parameter": Builder(_first),
    "torch._utils._rebuild_parameter_with_state": Builder(_first),
    "torch._utils._rebuild_device_tensor_from_numpy": Builder(_from_numpy),
    "torch._tensor._rebuild_from_type_v2": Builder(_of_type),
    "torch.nn.parameter.Parameter": Builder(_first),
    "torch.Size": Builder(lambda sizes=(): tuple(sizes)),
}
