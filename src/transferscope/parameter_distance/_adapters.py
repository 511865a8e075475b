"""Adapters of low rank (LoRA) merged into the pre-trained weights, as PEFT saves them.

Nothing is merged on disk: a merged tensor is made when it is read. What the adapter does not touch
is the pre-trained tensor itself, at distance zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from transferscope.errors import CheckpointError
from transferscope.numerics.arrays import NumpyArray
from transferscope.parameter_distance._checkpoints import Checkpoint
from transferscope.parameter_distance._tensors import Tensor

_PREFIX = "base_model.model."
#: ``layer.lora_A.weight``, ``layer.lora_A.default.weight``, ``layer.lora_embedding_A``
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.\w+)?(\.weight)?")


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether these are factors of updates rather than weights."""
    return checkpoint.adapter is not None or any(".lora_" in name for name in checkpoint.tensors)


def merge_adapter(adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The fine-tuned checkpoint that an adapter stands for.

    Parameters
    ----------
    adapter : Checkpoint
        With the content of ``adapter_config.json``.
    base : Checkpoint
        The pre-trained weights that it was trained on.

    Raises
    ------
    CheckpointError
        If it is no LoRA adapter, its settings are absent, or it does not fit the base.
    """
    settings = adapter.adapter
    if settings is None:
        raise CheckpointError(
            f"{adapter.label} holds LoRA factors without adapter_config.json, which gives their "
            "scale. Give the folder that save_pretrained wrote, or the merged weights."
        )
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA" or settings.get("use_dora"):
        name = "DORA" if settings.get("use_dora") else kind
        raise CheckpointError(
            f"{adapter.label} is an adapter of type {name}; only LORA is merged here. Merge it "
            "with model.merge_and_unload() and give the result."
        )
    tensors = dict(base.tensors)
    factors: dict[tuple[str, bool], dict[str, Tensor]] = {}
    for name, tensor in adapter.tensors.items():
        bare = name.removeprefix(_PREFIX)
        found = _FACTOR.fullmatch(bare)
        if found is not None:
            factors.setdefault((found[1], bool(found[2])), {})[found[3]] = tensor
            continue
        bare = re.sub(r"\.(modules_to_save(\.default)?|base_layer)\.", ".", bare)
        tensors[_place(bare, base, adapter)] = tensor
    for (module, is_embedding), pair in factors.items():
        place = _place(f"{module}.weight", base, adapter)
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            raise CheckpointError(
                f"{adapter.label} holds factors A and B of {module} that do not fit each other. "
                "Save the adapter again."
            )
        scale = _scale(settings, module, rank=pair["A"].shape[0])
        transposed = is_embedding or bool(settings.get("fan_in_fan_out"))
        update = _Update(pair["A"], pair["B"], scale, transposed, tensors[place].shape)
        if not update.fits:
            raise CheckpointError(
                f"{adapter.label} holds an update of {module} of another size than {place} of "
                f"{base.label}, {tensors[place].shape}. Give the model that it was trained on."
            )
        tensors[place] = Tensor(tensors[place].shape, _sum(tensors[place], update))
    return Checkpoint(f"{adapter.label}, merged", tensors)


def _place(name: str, base: Checkpoint, adapter: Checkpoint) -> str:
    """The name in the base of what the adapter calls `name`."""
    candidates = [name] if name in base.tensors else []
    if not candidates:
        candidates = [n for n in base.tensors if name.endswith(f".{n}") or n.endswith(f".{name}")]
    if len(candidates) != 1:
        raise CheckpointError(
            f"{adapter.label} changes {name}, which {base.label} does not have. Give the model "
            "that it was trained on."
        )
    return candidates[0]


def _scale(settings: Mapping[str, object], module: str, *, rank: int) -> float:
    alpha = settings.get("lora_alpha")
    patterns = settings.get("alpha_pattern")
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = value
    if not isinstance(alpha, int | float):
        raise CheckpointError(
            f"lora_alpha of {module} in adapter_config.json must be a number; got {alpha!r}. "
            "Take the file that PEFT saved."
        )
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


@dataclass(frozen=True)
class _Update:
    """``scale · B A``, in the layout of the weight."""

    a: Tensor
    b: Tensor
    scale: float
    transposed: bool
    shape: tuple[int, ...]

    @property
    def fits(self) -> bool:
        rank = self.a.shape[0]
        rows, columns = self.b.size // rank, self.a.size // rank
        first = columns if self.transposed else rows
        return rows * columns == math.prod(self.shape) and first == self.shape[0]

    def values(self) -> NumpyArray:
        rank = self.a.shape[0]
        b = self.b.whole().reshape(-1, rank)
        update = self.scale * (b @ self.a.whole().reshape(rank, -1))
        return (update.T if self.transposed else update).reshape(-1)


def _sum(base: Tensor, update: _Update) -> Callable[[int, int], NumpyArray]:
    """Read the base plus the update, made at the first piece and dropped after the last."""
    made: list[NumpyArray] = []

    def read(start: int, stop: int) -> NumpyArray:
        if not made:
            made.append(update.values())
        values = base.read(start, stop).astype(np.float64) + made[0][start:stop]
        if stop == base.size:
            made.clear()
        return values

    return read
