"""Read the tensors of a weights file without ever running what is in it.

PyTorch files are pickles, and a pickle can name any function of any module and have it called.
Here they are read as data (`_pickles`): tensors, numbers, texts and their lists and dictionaries
are rebuilt, everything else that stands beside weights is noted and left alone. The kind of file is
read from its first bytes, never from its extension: research code names a zip archive ``.pth.tar``
and a safetensors file ``.bin``.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from transferscope.errors import CheckpointError, require
from transferscope.numerics.arrays import Array
from transferscope.storage._pickles import HostilePickleError, Opaque

if TYPE_CHECKING:
    from torch import Tensor

#: What a weights file holds: tensors, numbers, texts, and lists and dictionaries of these.
Content: TypeAlias = dict[str, object]

# sixty dictionaries inside of each other are a joke, and thousands an attack
_MAX_DEPTH, _MAX_PARTS, _LONGEST_NAME = 100, 2_000_000, 1_000

# what a damaged archive or pickle raises; the builders of `_pickles` check what they are given
_DAMAGE = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError),
    *(OSError, EOFError, struct.error, zipfile.BadZipFile),
)

# the first bytes of what is given for a weights file by mistake
_NOT_WEIGHTS = (
    (b"<", "a web page (a download that needed a click or a login)"),
    (b"version https://git-lfs", "a Git LFS pointer (fetch the file itself with: git lfs pull)"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it"),
    (b"\x1f\x8b", "a gzip archive (unpack it first)"),
    (b"BZh", "a bzip2 archive (unpack it first)"),
    (b"\xfd7zXZ", "an xz archive (unpack it first)"),
    (b"7z\xbc\xaf", "a 7z archive (unpack it first)"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive (unpack it first)"),
    (b"Rar!", "a rar archive (unpack it first)"),
    (b"GGUF", "a GGUF file, as llama.cpp reads it"),
    (b"\x93NUMPY", "a NumPy file of one array"),
    (b"{", "a JSON file (a configuration or an index, not the weights)"),
    *((bytes([8, version, 18]), "an ONNX or TensorFlow graph") for version in range(1, 32)),
    *((bytes([128 + n]), "a msgpack file, as Flax writes it") for n in range(1, 16)),
    (b"\xde", "a msgpack file, as Flax writes it"),
)


def read_weights_file(path: Path) -> Content:
    """Read the content of a weights file; nothing in it is executed.

    Parameters
    ----------
    path : Path
        A safetensors file, or a file written by `torch.save` (a zip archive, or the format before
        PyTorch 1.6), by `torch.jit.save` or by `pickle`, whatever its extension.

    Returns
    -------
    dict
        The content as it was saved: for safetensors name -> tensor, otherwise often nested, such as
        ``{"epoch": 200, "state_dict": {name: tensor}}``. Tensors are on the CPU. Where the format
        allows it they are memory-mapped: a tensor that is never touched is never read from disk.
        A whole module is its state dict. An object of another class is a dictionary of its
        attributes and items.

    Raises
    ------
    CheckpointError
        If the path is missing or a folder; if the file is empty, cut short, or no weights file; if
        it would execute code, naming what it would call; if what was saved is not a dictionary.
    """
    if path.is_dir():
        raise CheckpointError(f"path {path} is a folder, not a weights file. Name the file in it.")
    if path.exists() and not path.is_file():
        raise CheckpointError(f"path {path} is a pipe or a device. Give a file.")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(
            f"weights file {path} cannot be opened ({error.strerror}). Check the path."
        ) from error
    if not start:
        raise CheckpointError(f"weights file {path} is empty. Copy or download it again.")

    if start[8:9] == b"{":  # eight bytes of length, then a JSON header: safetensors
        content = _read_safetensors(path)
    elif start[:2] == b"PK" or (
        start[:1] == b"\x80" and start[1:2] < b"\6"
    ):  # zip; a pickle's protocol
        content = _read_torch(path, is_archive=start[:2] == b"PK")
    else:
        kind = next(
            (what for magic, what in _NOT_WEIGHTS if start.lstrip().startswith(magic)), None
        )
        if start[4:8] == b"TFL3":
            kind = "a TensorFlow Lite model"
        raise CheckpointError(
            f"file {path} holds no weights: it looks like {kind or 'none of the known formats'}. "
            "Give a file written by torch.save or safetensors."
        )
    if isinstance(content, Opaque):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"file {path} holds one {type(content).__name__}, not a dictionary of named tensors. "
            "Save model.state_dict() instead."
        )
    return dict(content)


def tensors_of(mapping: Mapping[str, object]) -> dict[str, Tensor]:
    """Select the tensors under names of one mapping, without those nested deeper.

    Parameters
    ----------
    mapping : mapping
        A part of what `read_weights_file` returns.

    Returns
    -------
    dict of str to Tensor
        Without names that cannot be printed. Arrays of NumPy as tensors.
    """
    import torch

    tensors: dict[str, Tensor] = {}
    for name, value in mapping.items():
        if isinstance(name, str) and len(name) <= _LONGEST_NAME and name.isprintable():
            if isinstance(value, torch.Tensor):
                tensors[name] = value
            elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
                native = value.astype(value.dtype.newbyteorder("="))
                tensors[name] = torch.from_numpy(native)
    return tensors


def nested_mappings(
    content: Mapping[str, object],
) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    """Walk over a mapping and all mappings in it, shallow ones first.

    Parameters
    ----------
    content : mapping
        What `read_weights_file` returns, or any nesting of mappings and lists. A module in it
        counts as its state dict. It may contain itself. What lies deeper than anybody puts
        weights is not looked at.

    Yields
    ------
    path : tuple of str
        Keys that lead to the mapping; empty for `content` itself.
    mapping : mapping

    Raises
    ------
    CheckpointError
        If modules in it hold each other without an end.
    """
    todo: list[tuple[tuple[str, ...], object]] = [((), content)]
    seen = {id(content)}
    n_parts = 0
    for path, part in todo:  # grows while it is walked
        if isinstance(part, Mapping):
            yield path, part
            items: Iterable[tuple[object, object]] = part.items()
        else:
            items = enumerate(cast("Sequence[object]", part))
        if len(path) >= _MAX_DEPTH:
            continue
        for key, value in items:
            if id(value) in seen:
                continue
            save = getattr(value, "state_dict", None)
            inner = save() if callable(save) else value
            if isinstance(inner, Mapping | list | tuple):
                seen.add(id(value))
                n_parts += getattr(value, "n_parts", 0)
                if n_parts > _MAX_PARTS:
                    raise CheckpointError(
                        "weights file holds objects inside of each other without an end. "
                        "Save model.state_dict() and give that file."
                    )
                label = (
                    key[:100]
                    if isinstance(key, str)
                    else type(key).__name__
                    if isinstance(key, bytes)
                    else str(key)[:20]
                )
                todo.append(((*path, label), inner))


def find_state_dict(content: Mapping[str, object]) -> dict[str, Array]:
    """Find the state dict in the content of a weights file: its largest mapping of arrays.

    Files of research code keep it under ``state_dict``, ``model`` and many other keys. Of several
    mappings with equally many arrays the shallowest and first one is taken.

    Parameters
    ----------
    content : mapping
        What `read_weights_file` returns, or any nesting of mappings; see `nested_mappings`.

    Returns
    -------
    dict of str to array
        Name -> torch tensor or NumPy array; empty where there is none.
    """
    largest: dict[str, Array] = {}
    for _, mapping in nested_mappings(content):
        named = {
            name: cast("Array", value)
            for name, value in mapping.items()
            if isinstance(name, str) and hasattr(value, "shape")
        }
        if len(named) > len(largest):
            largest = named
    return largest


def _read_safetensors(path: Path) -> object:
    module = require("safetensors.torch", extra="vision", purpose="read a safetensors file")
    try:
        content: object = module.load_file(path, device="cpu")
        return content
    except Exception as error:
        raise _damaged(path, str(error)) from error


def _read_torch(path: Path, *, is_archive: bool) -> object:
    require("torch", extra="vision", purpose="read a weights file")
    from transferscope.storage._torch_files import read_archive, read_pickles

    try:
        if is_archive:
            return read_archive(path)
        with path.open("rb") as file:
            return read_pickles(file)
    except HostilePickleError as error:
        raise CheckpointError(
            f"file {path} is refused: it is a pickle that asks for {error}, which no weights need "
            "and which could execute code. Nothing was run. If you trust where the file comes "
            "from, load it in the environment of its own project, write the tensors alone with "
            "torch.save(model.state_dict(), ...) or safetensors, and give that file."
        ) from error
    except _DAMAGE as error:
        raise _damaged(path, str(error) or type(error).__name__) from error


def _damaged(path: Path, finding: str) -> CheckpointError:
    return CheckpointError(
        f"weights file {path} is damaged or cut short ({finding[:200]}). Copy or download it again."
    )
