"""Checkpoints of any kind as named tensors that are read piece by piece.

A safetensors file is read by its header and never mapped: the pages of a mapping stay in memory as
long as the system likes. Where `torch.load` maps a file, its pages are handed back tensor by
tensor. What lies in memory already (a module, a state dict) is taken as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import mmap
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from transferscope.errors import CheckpointError, first_few, require
from transferscope.numerics import arrays
from transferscope.storage.weights_files import read_weights_file

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[Any]
#: Elements read at a time: two pieces and their difference fit into a core's own cache.
PIECE = 2**18

#: How safetensors stores floats; NumPy has no bfloat16, whose bits are read instead.
_FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
#: What wrappers of training put before every name.
_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
_WEIGHT_FILES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar")


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint, not yet read.

    Attributes
    ----------
    shape : tuple of int
    read : function
        From the first element and the one after the last to a flat float array, which is valid
        until the next call in this thread.
    is_float : bool
    storage : hashable or None
        Equal for two names of one tensor; None where that cannot be known.
    is_buffer : bool or None
        Whether training leaves it alone; None where that cannot be known.
    done : function
        Called when it will not be read again.
    """

    shape: tuple[int, ...]
    read: Callable[[int, int], Array]
    is_float: bool = True
    storage: Hashable = None
    is_buffer: bool | None = None
    done: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Walk over the elements in pieces."""
        for start in range(0, self.size, PIECE):
            yield start, min(start + PIECE, self.size)

    def whole(self) -> Array:
        """The tensor at once, in its shape; float64."""
        values = np.empty(self.size)
        for start, stop in self.pieces():
            values[start:stop] = self.read(start, stop)
        return values.reshape(self.shape)


@dataclass
class Checkpoint:
    """Named tensors and where they came from.

    Attributes
    ----------
    label : str
        For messages, such as ``"the fine-tuned checkpoint (b.safetensors)"``.
    tensors : dict of str to Tensor
    adapter : dict or None
        Content of ``adapter_config.json``, where it is a folder of an adapter.
    """

    label: str
    tensors: dict[str, Tensor]
    adapter: dict[str, Any] | None = field(default=None, repr=False)


def open_checkpoint(source: Any, role: str, files: ExitStack) -> Checkpoint:
    """Open a state dict, a module, a file, a folder, or a timm model with its weights.

    Parameters
    ----------
    source : mapping, torch.nn.Module, path, or str
    role : str
        ``"random"``, ``"pre-trained"`` or ``"fine-tuned"``, for messages.
    files : ExitStack
        Closes the files.

    Raises
    ------
    CheckpointError
        If it cannot be read, is damaged, would execute code, or holds no floating-point tensor.
    """
    label = f"the {role} checkpoint"
    adapter = None
    if isinstance(source, str) and source.startswith("timm/") and not Path(source).exists():
        label += f" ({source})"
        tensors = _of_module(timm_model(source, pretrained=True))
    elif isinstance(source, str | Path):
        path = Path(source)
        label += f" ({path})"
        if path.is_dir() and (path / "adapter_config.json").is_file():
            adapter = _json(path / "adapter_config.json")
        tensors = _of_path(path, files)
    elif isinstance(source, Mapping):
        tensors = _of_mapping(source)
    elif callable(getattr(source, "named_parameters", None)):
        tensors = _of_module(source)
    else:
        raise CheckpointError(
            f"{label} must be a state dict, a torch module, a path or timm/NAME, got "
            f"{type(source).__name__}."
        )
    tensors = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    if not any(t.is_float for t in tensors.values()):
        raise CheckpointError(
            f"{label} holds no floating-point tensor under a name. Give the file that "
            "model.state_dict() or save_pretrained was written to."
        )
    return Checkpoint(label, tensors, adapter)


def timm_model(name: str, *, pretrained: bool) -> nn.Module:
    """Build a timm model, ``timm/NAME``.

    Raises
    ------
    CheckpointError
        If timm has no such model, or its weights cannot be had.
    """
    timm = require("timm", extra="vision", purpose=f"build {name}")
    bare = name.removeprefix("timm/")
    if not timm.is_model(bare):
        raise CheckpointError(
            f"timm has no architecture {bare!r}. List them with: transferscope encoders timm/*"
        )
    try:
        model: nn.Module = timm.create_model(bare, pretrained=pretrained)
    except Exception as error:  # a download raises whatever its libraries raise
        lines = str(error).strip().splitlines() or [""]
        raise CheckpointError(
            f"timm cannot give {bare} ({type(error).__name__}: {lines[0][:200]}). Weights are "
            "downloaded once and then kept; without a connection give the path of their file."
        ) from error
    return model


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper).replace(f".{wrapper}", ".")
    return name


def _of_path(path: Path, files: ExitStack) -> dict[str, Tensor]:
    if path.is_dir():
        path = _file_in(path)
    if path.name.endswith(".index.json"):
        return _of_index(path, files)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(
            f"The weights file {path} cannot be opened ({error.strerror}). Check the path."
        ) from error
    if start[8:9] == b"{":
        return _of_safetensors(path, files)
    return _of_mapping(read_weights_file(path), mapped=True)


def _file_in(folder: Path) -> Path:
    """The weights file of a folder as Hugging Face, timm or PEFT save it."""
    names = sorted(p.name for p in folder.iterdir())
    for kind in (".safetensors.index.json", ".bin.index.json", *_WEIGHT_FILES):
        found = [n for n in names if n.endswith(kind)]
        chosen = [n for n in found if n.split(".")[0] in ("model", "pytorch_model")]
        chosen = chosen or [n for n in found if n.split(".")[0] == "adapter_model"] or found
        if len(chosen) > 1:
            raise CheckpointError(
                f"The folder {folder} holds several weights files and no index: "
                f"{first_few(chosen)}. Name the one that is meant."
            )
        if chosen:
            return folder / chosen[0]
    raise CheckpointError(
        f"The folder {folder} holds no weights file (looked for {', '.join(_WEIGHT_FILES)}). "
        "Give the folder that save_pretrained wrote, or a file."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no dictionary. Copy it again.")
    return content


def _of_index(path: Path, files: ExitStack) -> dict[str, Tensor]:
    shards = _json(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        raise CheckpointError(f"{path} has no weight_map, so it is no index of shards.")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or not (path.parent / shard).is_file():
            raise CheckpointError(
                f"The shard {shard}, named by {path}, is not beside it. Download it as well."
            )
        tensors |= _of_path(path.parent / shard, files)
    absent = [name for name in shards if name not in tensors]
    if absent:
        raise CheckpointError(
            f"{len(absent)} tensors that {path} lists are in no shard, such as {absent[0]}. "
            "Index and shards are of different versions: download them again."
        )
    return tensors


def _of_safetensors(path: Path, files: ExitStack) -> dict[str, Tensor]:
    source = _File(path, files)
    file = source.handle
    try:
        length = int.from_bytes(file.read(8), "little")
        total = path.stat().st_size
        if length > total - 8:
            raise ValueError(f"a header of {length} bytes in a file of {total}")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        start, end = 8 + length, 0
        entries = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            entries[name] = (entry["dtype"], tuple(entry["shape"]), start + first, last - first)
            end = max(end, start + last)
        if end > total:
            raise ValueError(f"{total} bytes of {end}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The weights file {path} is damaged or cut short ({error}). Copy or download it again."
        ) from error

    def tensor(name: str, dtype: str, shape: tuple[int, ...], offset: int, n_bytes: int) -> Tensor:
        if dtype.startswith(("I", "U", "BOOL")):
            return Tensor(shape, _unreadable, is_float=False)
        kind = _FLOATS.get(dtype)
        if kind is None:
            raise CheckpointError(
                f"{name} in {path} is stored as {dtype}, which needs scales that are no part of "
                "it. Save the weights in bfloat16, float16 or float32."
            )
        if kind.itemsize * math.prod(shape) != n_bytes:
            raise CheckpointError(
                f"The weights file {path} is damaged: {name} of shape {shape} and type {dtype} has "
                f"{n_bytes} bytes. Copy or download it again."
            )

        def read(start: int, stop: int) -> Array:
            size = (stop - start) * kind.itemsize
            view = source.read(offset + start * kind.itemsize, size)
            values = np.frombuffer(view, dtype=kind)
            return _of_bfloat16(values) if dtype == "BF16" else _working(values)

        return Tensor(shape, read)

    return {name: tensor(name, *entry) for name, entry in entries.items()}


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
                raise CheckpointError(f"The weights file {self._path} was cut while it was read.")
            filled += got
        return view


def _unreadable(*_: int) -> Array:
    raise AssertionError("only floating-point tensors are read")


def _of_bfloat16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _working(values: Array) -> Array:
    return values.astype(np.float32) if values.dtype.itemsize < 4 else values


def _of_module(module: nn.Module) -> dict[str, Tensor]:
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return {
        name: _in_memory(value, is_buffer=name in buffers)
        for name, value in _as_saved(module).items()
        if hasattr(value, "shape")
    }


def _as_saved(module: nn.Module) -> Mapping[str, Any]:
    """The state dict, under the names of its files: transformers 5 has others in memory."""
    state: Mapping[str, Any] = module.state_dict()
    if not (hasattr(module, "save_pretrained") and hasattr(module, "config")):
        return state
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before version 5 there was one set of names
        return state
    return dict(revert_weight_conversion(module, dict(state)))


def _of_mapping(content: Mapping[str, Any], *, mapped: bool = False) -> dict[str, Tensor]:
    """The largest dictionary of tensors in a (nested) one."""
    todo: list[Mapping[str, Any]] = [content]
    seen = {id(content)}
    largest: dict[str, Any] = {}
    for mapping in todo:  # grows while it is walked
        named = {k: v for k, v in mapping.items() if isinstance(k, str) and hasattr(v, "shape")}
        if len(named) > len(largest):
            largest = named
        for value in mapping.values():
            if callable(getattr(value, "named_parameters", None)):
                value = value.state_dict()
            if isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                todo.append(value)
    return {name: _in_memory(value, mapped=mapped) for name, value in largest.items()}


def _in_memory(value: Any, *, is_buffer: bool | None = None, mapped: bool = False) -> Tensor:
    shape = tuple(int(n) for n in value.shape)
    if not arrays.is_torch(value):
        values = np.asarray(value)
        is_float = values.dtype.kind == "f"
        return Tensor(shape, lambda i, j: _working(values.reshape(-1)[i:j]), is_float)
    value = value.detach()
    if value.device.type == "meta":
        raise CheckpointError("a tensor on the meta device has no values; load the weights first.")

    def read(start: int, stop: int) -> Array:
        piece = value.reshape(-1)[start:stop].cpu()
        if str(piece.dtype) == "torch.bfloat16":
            return _of_bfloat16(piece.view(_int16()).numpy().view(np.uint16))
        if piece.element_size() < 2:  # float8: few tensors, no NumPy type
            return np.asarray(piece.float().numpy())
        return _working(piece.numpy())

    storage = (value.data_ptr(), shape, value.stride()) if value.numel() else None
    return Tensor(
        shape,
        read,
        value.dtype.is_floating_point,
        storage,
        is_buffer,
        (lambda: _hand_back(value)) if mapped else lambda: None,
    )


def _int16() -> Any:
    import torch

    return torch.int16


def _hand_back(value: Any) -> None:
    """Tell the system that the pages of a tensor in a mapped file are not needed any more.

    Only whole pages inside the tensor: a page that another tensor shares is read again anyway.
    """
    if not sys.platform.startswith("linux"):
        return
    first = value.data_ptr()
    last = first + value.numel() * value.element_size()
    page = mmap.PAGESIZE
    first, last = -(-first // page) * page, last // page * page
    if last > first and _is_file_mapping(first):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).madvise(
                ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED
            )


def _is_file_mapping(address: int) -> bool:
    """Whether the memory at an address mirrors a file; other memory would lose its content."""
    with Path("/proc/self/maps").open(encoding="utf-8") as maps:
        for line in maps:
            span, _, _, _, inode, *_ = line.split()
            low, high = (int(part, 16) for part in span.split("-"))
            if low <= address < high:
                return inode != "0"
    return False
