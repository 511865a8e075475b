"""Read the tensors of a weights file without ever running what is in it.

PyTorch files are pickles, and a pickle can name any function of any module and have it called.
Only `torch.load(weights_only=True)` is used here: it knows a short list of harmless names and
refuses the rest. The kind of file is read from its first bytes, never from its extension: research
code names a zip archive ``.pth.tar`` and a safetensors file ``.bin``.
"""

from __future__ import annotations

import argparse
import io
import pickletools
import re
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias, cast

import numpy as np

from transferscope.errors import CheckpointError, require
from transferscope.numerics.arrays import Array

if TYPE_CHECKING:
    from torch import Tensor

#: What a weights file holds: tensors, numbers, texts, and lists and dictionaries of these.
Content: TypeAlias = dict[str, object]

# torch keeps its list of allowed names per process; adding to it is not safe between threads
_ALLOW_LIST_LOCK = threading.Lock()

# what every file of plain tensors names
_PARTS_OF_TENSORS = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_\w+|torch\.(\w+Storage|Size)"
)

# what disassembling raises where the archive or the pickle ends or is damaged
_NO_PICKLE = (
    *(ValueError, LookupError, ArithmeticError, AttributeError, EOFError, OSError, RuntimeError),
    *(StopIteration, struct.error, zipfile.BadZipFile, zlib.error),
)

# the first bytes of what is saved under a weights file's name by mistake
_NOT_WEIGHTS = (
    (b"<", "a web page (a download that needed a click or a login)"),
    (b"version https://git-lfs", "a Git LFS pointer (fetch the file itself with: git lfs pull)"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it"),
    (b"\x1f\x8b", "a gzip archive (unpack it first)"),
)


def read_weights_file(path: Path) -> Content:
    """Read the content of a weights file; nothing in it is executed.

    Parameters
    ----------
    path : Path
        A safetensors file, or a file written by `torch.save` (a zip archive, or the format before
        PyTorch 1.6), whatever its extension.

    Returns
    -------
    dict
        The content as it was saved: for safetensors name -> tensor, otherwise often nested, such as
        ``{"epoch": 200, "state_dict": {name: tensor}}``. Tensors are on the CPU. Where the format
        allows it they are memory-mapped: a tensor that is never touched is never read from disk.

    Raises
    ------
    CheckpointError
        If the path is missing or a folder; if the file is empty, cut short, or no weights file; if
        it would execute code, naming what it would call; if what was saved is not a dictionary.
    """
    if path.is_dir():
        raise CheckpointError(f"path {path} is a folder, not a weights file. Name the file in it.")
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
    elif start[:2] in (b"PK", b"\x80\x02"):  # torch.save: a zip archive; before PyTorch 1.6 pickles
        content = _read_torch(path, mmap=start[:2] == b"PK")
    elif start[:1] == b"\x80":
        raise _unsafe(path, _named_globals(path))
    else:
        kind = next(
            (what for magic, what in _NOT_WEIGHTS if start.lstrip().startswith(magic)), None
        )
        raise CheckpointError(
            f"file {path} holds no weights: it looks like {kind or 'none of the known formats'}. "
            "Give a file written by torch.save or safetensors."
        )
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"file {path} holds one {type(content).__name__}, not a dictionary of named tensors. "
            "Save model.state_dict() instead."
        )
    return dict(content)


def tensors_of(mapping: Mapping[str, object]) -> dict[str, Tensor]:
    """Select the torch tensors under names of one mapping, without those nested deeper.

    Parameters
    ----------
    mapping : mapping
        A part of what `read_weights_file` returns.

    Returns
    -------
    dict of str to Tensor
    """
    import torch

    return {
        name: value
        for name, value in mapping.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }


def nested_mappings(
    content: Mapping[str, object],
) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    """Walk over a mapping and all mappings in it, shallow ones first.

    Parameters
    ----------
    content : mapping
        What `read_weights_file` returns, or any nesting of mappings. A module in it counts as its
        state dict. It may contain itself.

    Yields
    ------
    path : tuple of str
        Keys that lead to the mapping; empty for `content` itself.
    mapping : mapping
    """
    todo: list[tuple[tuple[str, ...], Mapping[str, object]]] = [((), content)]
    seen = {id(content)}
    for path, mapping in todo:  # grows while it is walked
        yield path, mapping
        for key, value in mapping.items():
            save = getattr(value, "state_dict", None)
            inner = save() if callable(save) else value
            if isinstance(inner, Mapping) and id(inner) not in seen:
                seen.add(id(inner))
                todo.append(((*path, str(key)), inner))


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


def _read_torch(path: Path, *, mmap: bool) -> object:
    torch = require("torch", extra="vision", purpose="read a weights file")
    content: object
    try:
        with (
            _ALLOW_LIST_LOCK,
            torch.serialization.safe_globals(_harmless_globals()),
            warnings.catch_warnings(),
        ):
            # before it refuses a TorchScript program or a newer pickle, torch also warns of it
            warnings.simplefilter("ignore", UserWarning)
            if path.suffix == ".safetensors":  # torch believes this name; an open file has none
                with path.open("rb") as file:
                    content = torch.load(file, map_location="cpu", weights_only=True)
            else:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        return content
    except MemoryError:
        raise
    except Exception as error:
        # torch names the broken rule after advice to switch the check off: keep the rule only
        finding = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise _unsafe(path, [refused.group(1)]) from error
        if "Unsupported operand" in finding and (named := _named_globals(path)):
            raise _unsafe(path, named) from error
        if "TorchScript" in finding:
            raise CheckpointError(
                f"file {path} is a TorchScript program, not a set of weights, and is not run. "
                "If you trust it, write torch.jit.load(path).state_dict() with torch.save and give "
                "that file."
            ) from error
        raise _damaged(path, finding or type(error).__name__) from error


def _harmless_globals() -> list[object]:
    """List what research checkpoints hold besides weights and what runs no code when rebuilt.

    `argparse.Namespace` (the options of the training script, stored as ``args`` by DINO, MAE and
    DeiT) only takes attributes, and what these hold passes through the same check. A NumPy scalar
    (a best accuracy, a loss) is a dtype and its bytes.
    """
    scalar = np.float64(0).__reduce__()[0]
    kinds = ("float16", "float32", "float64", "bool", "int32", "int64", "uint8")
    return [
        argparse.Namespace,
        (scalar, "numpy._core.multiarray.scalar"),
        (scalar, "numpy.core.multiarray.scalar"),  # as files written with NumPy 1 name it
        np.dtype,
        *(type(np.dtype(kind)) for kind in kinds),
    ]


def _unsafe(path: Path, named: list[str]) -> CheckpointError:
    finding = (
        f"is a pickle that asks for {', '.join(named)}, which a set of weights does not need and "
        "which could execute code"
        if named
        else "uses a pickle protocol that cannot be checked for code"
    )
    return CheckpointError(
        f"file {path} is refused: it {finding}. Nothing was run. If you trust where the file comes "
        "from, load it in the environment of its own project, write the tensors alone with "
        "torch.save(model.state_dict(), ...) or safetensors, and give that file."
    )


def _damaged(path: Path, finding: str) -> CheckpointError:
    return CheckpointError(
        f"weights file {path} is damaged or cut short ({finding[:200]}). Copy or download it again."
    )


def _named_globals(path: Path) -> list[str]:
    """List what a pickle refers to by disassembling it; nothing is imported or called."""
    names: dict[str, None] = {}  # a set that keeps the order
    try:
        with path.open("rb") as file:
            stream: IO[bytes] = file
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    record = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                    stream = io.BytesIO(archive.read(record))
            else:
                file.seek(0)
            for _ in range(5):  # before PyTorch 1.6 a file was five pickles, one after another
                strings: list[str] = []
                memo: list[str] = []
                for opcode, argument, _position in pickletools.genops(stream):
                    if opcode.name == "GLOBAL":
                        names[str(argument).replace(" ", ".")] = None
                    elif opcode.name == "STACK_GLOBAL":
                        names[".".join(strings[-2:])] = None
                    elif opcode.name == "MEMOIZE":
                        memo.append(strings[-1] if strings else "")
                    elif opcode.name in ("BINGET", "LONG_BINGET"):
                        strings.append(memo[int(str(argument))])
                    elif isinstance(argument, str):
                        strings.append(argument)
    except _NO_PICKLE:  # the end of the file, or no pickle from here on: what was found counts
        pass
    return [name for name in names if not _PARTS_OF_TENSORS.fullmatch(name)]
