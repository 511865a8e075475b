"""Files of a run, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from transferscope.storage.atomic import write_atomically


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None
) -> None:
    """Write tensors of any device to a safetensors file, whole or not at all."""
    # clones: tied weights share memory, which safetensors refuses
    copies = {name: value.cpu().clone().contiguous() for name, value in tensors.items()}
    write_atomically(path, [save(copies, metadata=about)], elsewhere="choose another out")


def write_text(path: Path, text: str) -> None:
    """Write text to a file, whole or not at all."""
    write_atomically(path, text, elsewhere="choose another out")
