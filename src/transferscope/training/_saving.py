"""Files of a run, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from transferscope.errors import StoreError


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None
) -> None:
    """Write tensors of any device to a safetensors file, whole or not at all."""
    partial = path.with_name(f".{path.name}.tmp")
    # clones: tied weights share memory, which safetensors refuses
    copies = {name: value.cpu().clone().contiguous() for name, value in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(copies, partial, metadata=about)
        partial.chmod(0o644)  # safetensors writes files that only their owner may read
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written ({error}); choose another out.") from error


def write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error}); choose another out.") from error
