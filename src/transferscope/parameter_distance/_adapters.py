"""Adapters of low rank (LoRA) as PEFT saves them: what they change, and merged into their base.

Nothing is merged on disk: a merged tensor is made when it is read. What the adapter does not touch
is the pre-trained tensor itself, at distance zero.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from transferscope.errors import CheckpointError
from transferscope.numerics.arrays import NumpyArray
from transferscope.parameter_distance._checkpoints import (
    Checkpoint,
    CheckpointSource,
    open_checkpoint,
)
from transferscope.parameter_distance._tensors import Tensor
from transferscope.storage.adapters import AdapterChanges, LowRank, adapter_changes, no_place


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether these are factors of updates rather than weights."""
    return checkpoint.adapter is not None or any(".lora_" in name for name in checkpoint.tensors)


def open_base(pretrained: CheckpointSource, files: ExitStack) -> Checkpoint:
    """The pre-trained weights.

    Raises
    ------
    CheckpointError
        If they cannot be read, or are an adapter themselves.
    """
    base = open_checkpoint(pretrained, "pre-trained", files)
    if is_adapter(base):
        raise CheckpointError(
            f"{base.label} is an adapter, not a model. Give the model that it was trained on."
        )
    return base


def changes_of(adapter: Checkpoint, base: Checkpoint) -> AdapterChanges[Tensor]:
    """What an adapter changes, under the names of its base.

    Parameters
    ----------
    adapter : Checkpoint
        With the content of ``adapter_config.json``.
    base : Checkpoint
        The pre-trained weights that it was trained on.

    Raises
    ------
    CheckpointError
        If it is no LoRA adapter, its settings are absent or not understood, or it does not fit the
        base.
    """
    shapes = {name: tensor.shape for name, tensor in base.tensors.items()}

    def find(name: str) -> str | None:
        if name in shapes:
            return name
        found = [n for n in shapes if name.endswith(f".{n}") or n.endswith(f".{name}")]
        return found[0] if len(found) == 1 else None

    return adapter_changes(
        adapter.adapter, adapter.tensors, shapes, find, label=adapter.label, base_label=base.label
    )


def merge_adapter(adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The fine-tuned checkpoint that an adapter stands for.

    Raises
    ------
    CheckpointError
        As `changes_of` does, and if the base does not have all that it changes.
    """
    changes = changes_of(adapter, base)
    if changes.unplaced:
        raise no_place(changes.unplaced, adapter.label, base.label)
    tensors = base.tensors | changes.whole
    for place, update in changes.low_rank.items():
        tensors[place] = Tensor(tensors[place].shape, _sum(tensors[place], update))
    return Checkpoint(f"{adapter.label}, merged", tensors)


def update_of(update: LowRank[Tensor]) -> NumpyArray:
    """The update in the layout of the weight, flat."""
    rank = update.a.shape[0]
    b = update.b.whole().reshape(-1, rank)
    product = update.scale * (b @ update.a.whole().reshape(rank, -1))
    return (product.T if update.transposed else product).reshape(-1)


def _sum(base: Tensor, update: LowRank[Tensor]) -> Callable[[int, int], NumpyArray]:
    """Read the base plus the update, made at the first piece and dropped after the last."""
    made: list[NumpyArray] = []

    def read(start: int, stop: int) -> NumpyArray:
        if not made:
            made.append(update_of(update))
        values = base.read(start, stop).astype(np.float64) + made[0][start:stop]
        if stop == base.size:
            made.clear()
        return values

    return read
