"""Checkpoints of any kind as named tensors: files, folders, modules, state dicts, timm models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from transferscope.errors import CheckpointError, first_few, require
from transferscope.parameter_distance._stored_tensors import open_safetensors
from transferscope.parameter_distance._tensors import Tensor, tensor_in_memory
from transferscope.storage import read_weights_file
from transferscope.storage.checkpoint_folders import (
    read_json_file,
    read_shard_index,
    weights_as_saved,
)
from transferscope.storage.safetensors_files import is_safetensors
from transferscope.storage.weights_files import find_state_dict

if TYPE_CHECKING:
    from torch import nn

#: A state dict (nested or not), a module, a path, or ``timm/NAME``.
CheckpointSource: TypeAlias = "Mapping[str, object] | nn.Module | str | os.PathLike[str]"

#: What wrappers of training put before every name.
_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
_WEIGHT_FILES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar")


@dataclass
class Checkpoint:
    """Named tensors and where they came from.

    Attributes
    ----------
    label : str
        For messages, such as ``"the fine-tuned checkpoint (b.safetensors)"``.
    tensors : dict of str to Tensor
    adapter : mapping or None
        Content of ``adapter_config.json``, where it is a folder of an adapter.
    """

    label: str
    tensors: dict[str, Tensor]
    adapter: Mapping[str, object] | None = field(default=None, repr=False)


def open_checkpoint(source: object, role: str, files: ExitStack) -> Checkpoint:
    """Open a checkpoint.

    Parameters
    ----------
    source : mapping, torch.nn.Module, path, or str
        See `CheckpointSource`; everything else is refused.
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
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        label += f" ({path})"
        if path.is_dir() and (path / "adapter_config.json").is_file():
            adapter = read_json_file(path / "adapter_config.json")
        tensors = _of_path(path, files)
    elif isinstance(source, Mapping):
        tensors = _of_mapping(source)
    elif _is_module(source):
        tensors = _of_module(source)
    else:
        raise CheckpointError(
            f"{label} must be a state dict, a torch module, a path or timm/NAME; got "
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
    if is_safetensors(path):
        return open_safetensors(path, files)
    return _of_mapping(read_weights_file(path), is_mapped=True)


def _file_in(folder: Path) -> Path:
    """The weights file of a folder as Hugging Face, timm or PEFT save it."""
    names = sorted(p.name for p in folder.iterdir())
    for kind in (".safetensors.index.json", ".bin.index.json", *_WEIGHT_FILES):
        found = [n for n in names if n.endswith(kind)]
        chosen = [n for n in found if n.split(".")[0] in ("model", "pytorch_model")]
        chosen = chosen or [n for n in found if n.split(".")[0] == "adapter_model"] or found
        if len(chosen) > 1:
            raise CheckpointError(
                f"folder {folder} holds several weights files and no index: "
                f"{first_few(chosen)}. Name the file that you mean."
            )
        if chosen:
            return folder / chosen[0]
    raise CheckpointError(
        f"folder {folder} holds no weights file (looked for {', '.join(_WEIGHT_FILES)}). "
        "Give the folder that save_pretrained wrote, or a file."
    )


def _of_index(path: Path, files: ExitStack) -> dict[str, Tensor]:
    shards = read_shard_index(path)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(shards.values())):
        if not (path.parent / shard).is_file():
            raise CheckpointError(
                f"shard {shard}, named by {path}, is not in its folder. Download it as well."
            )
        tensors |= _of_path(path.parent / shard, files)
    absent = [name for name in shards if name not in tensors]
    if absent:
        raise CheckpointError(
            f"{len(absent)} tensors that {path} lists are in no shard, such as {absent[0]}. "
            "Index and shards are of different versions: download them again."
        )
    return tensors


def _is_module(value: object) -> TypeGuard[nn.Module]:
    return callable(getattr(value, "named_parameters", None))


def _of_module(module: nn.Module) -> dict[str, Tensor]:
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return {
        name: tensor_in_memory(value, is_buffer=name in buffers)
        for name, value in weights_as_saved(module).items()
        if hasattr(value, "shape")
    }


def _of_mapping(content: Mapping[str, object], *, is_mapped: bool = False) -> dict[str, Tensor]:
    return {
        name: tensor_in_memory(value, is_mapped=is_mapped)
        for name, value in find_state_dict(content).items()
    }
