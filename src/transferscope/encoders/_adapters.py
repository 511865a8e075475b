"""Adapters of PEFT as encoders: a folder without a model, whose factors are merged into its base.

What an adapter changes outside of the trunk, such as a head of its own, is left out: the features
are those of the adapted trunk.

This module imports torch at the top.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from transferscope.encoders._pretrained import Pretrained
from transferscope.errors import CheckpointError, EncoderError
from transferscope.storage import read_weights_file
from transferscope.storage.adapters import AdapterChanges, LowRank, adapter_changes, no_place
from transferscope.storage.checkpoint_folders import read_json_file, weights_as_saved

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Adapter:
    """An adapter as PEFT saves it.

    Parameters
    ----------
    place : Pretrained
        Its own folder.
    base : Pretrained
        The model that it was trained on.
    settings : mapping
        Content of ``adapter_config.json``.
    tensors : mapping of str to Tensor
        Content of ``adapter_model.safetensors``.
    """

    place: Pretrained
    base: Pretrained
    settings: Mapping[str, object]
    tensors: Mapping[str, Tensor]

    def with_file(self, name: str, otherwise: Pretrained) -> Pretrained:
        """Its own folder where it holds this file, another place where not."""
        return otherwise if self.place.beside(name) is None else self.place

    def merge_into(self, model: nn.Module) -> None:
        """Change the weights of its base in place; `CheckpointError` if it does not fit."""
        label, base_label = f"the adapter {self.place.source}", f"its base {self.base.source}"
        changes, weights = self._changes(model, label, base_label)
        own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
        for name in (*changes.whole, *changes.low_rank):
            weight, given = weights[name], changes.whole.get(name)
            is_alone = not weight.is_meta and weight.untyped_storage().data_ptr() in own
            if not is_alone or (given is not None and given.shape != weight.shape):
                other = "" if given is None else f" by one of shape {tuple(given.shape)}"
                raise CheckpointError(
                    f"{label} replaces {name} of {base_label}, {tuple(weight.shape)}{other}, which "
                    "cannot be done in place. Merge it with model.merge_and_unload() and give the "
                    "result."
                )
        with torch.no_grad():
            for name, tensor in changes.whole.items():
                weights[name].copy_(tensor)
            for name, update in changes.low_rank.items():
                weights[name].add_(_product(update, weights[name]))

    def _changes(
        self, model: nn.Module, label: str, base_label: str
    ) -> tuple[AdapterChanges[Tensor], Mapping[str, Tensor]]:
        """Its changes under the names in memory, or else under those in files; and the weights."""
        failure: CheckpointError | None = None
        for named in (nn.Module.state_dict, weights_as_saved):
            weights: Mapping[str, Tensor] = named(model)
            shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
            find = _Finder(set(shapes), getattr(model, "base_model_prefix", ""))
            try:
                changes = adapter_changes(
                    self.settings, self.tensors, shapes, find, label=label, base_label=base_label
                )
                lost = [name for name in changes.unplaced if find.is_inside(name)]
                if lost or not (changes.whole or changes.low_rank):
                    raise no_place(lost or changes.unplaced, label, base_label)
            except CheckpointError as error:
                failure = failure or error
            else:
                return changes, weights
        assert failure is not None
        raise failure


@dataclass(frozen=True)
class _Finder:
    """From what an adapter calls a weight to its name in a trunk.

    An adapter of a model with a head names the trunk first, as in ``bert.encoder``. No other prefix
    is passed over: ``text_model.encoder`` is not the encoder of images.
    """

    names: Set[str]
    trunk: str

    def __call__(self, name: str) -> str | None:
        bare = self._bare(name)
        return bare if bare in self.names else None

    def is_inside(self, name: str) -> bool:
        """Whether a weight would lie in a part that the trunk has."""
        return self._bare(name).partition(".")[0] in self._parts

    @cached_property
    def _parts(self) -> Set[str]:
        return {name.partition(".")[0] for name in self.names}

    def _bare(self, name: str) -> str:
        first, _, rest = name.partition(".")
        is_trunk = first in {self.trunk, "model", "vision_model"} - self._parts
        return self._bare(rest) if is_trunk and rest else name


def find_adapter(place: Pretrained) -> Adapter | None:
    """Find the adapter that lies in a place; None where there is a model and no adapter.

    Parameters
    ----------
    place : Pretrained

    Returns
    -------
    Adapter or None

    Raises
    ------
    EncoderError
        If there are both or only half of an adapter, or its base is not at hand.
    """
    config = place.beside(_CONFIG)
    if config is None and not Path(place.source).is_dir():
        return None  # the hub is not asked for halves
    files = [file for name in _WEIGHTS if (file := place.beside(name)) is not None]
    if config is None and not files:
        return None
    if place.has_weights:
        raise EncoderError(
            f"encoder {place.identifier} holds an adapter beside a whole model, and which of the "
            f"two is meant cannot be known. Move {_CONFIG} and {_WEIGHTS[0]} into a folder of "
            "their own and write the model's as their base_model_name_or_path, or delete them."
        )
    if config is None or not files:
        lost = _CONFIG if config is None else _WEIGHTS[0]
        raise EncoderError(
            f"encoder {place.identifier} is half of an adapter: it lacks {lost}. Save the adapter "
            "again with its save_pretrained."
        )
    settings = read_json_file(config)
    content = read_weights_file(files[0])
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    return Adapter(place, _base(place, settings), settings, tensors)


def _base(place: Pretrained, settings: Mapping[str, object]) -> Pretrained:
    """Where the model lies that an adapter was trained on."""
    named = settings.get("base_model_name_or_path")
    how = (
        f"Write the folder of a copy, or its id on the hub, as base_model_name_or_path in "
        f"{_CONFIG}, or merge the adapter with model.merge_and_unload() and give the result."
    )
    if not isinstance(named, str) or not named:
        raise EncoderError(f"encoder {place.identifier} is an adapter that names no base. {how}")
    folders = [Path(named).expanduser(), Path(place.source) / place.subfolder / named]
    found = next((str(folder) for folder in folders if _holds_model(folder)), None)
    if found is None and not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", named):
        raise EncoderError(
            f"encoder {place.identifier} is an adapter, and its base {named} is not on this "
            f"machine. {how}"
        )
    revision = settings.get("revision")
    return replace(
        place,
        source=found or named,
        subfolder="",
        revision=str(revision) if revision and found is None else None,
        advice=f"It is an adapter, and this is its base, {named}. {how}",
    )


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "modules.json", _CONFIG))


def _product(update: LowRank[Tensor], weight: Tensor) -> Tensor:
    rank = update.a.shape[0]
    a, b = update.a.double().reshape(rank, -1), update.b.double().reshape(-1, rank)
    product = update.scale * (b @ a)
    laid_out = product.T if update.transposed else product
    return laid_out.reshape(weight.shape).to(weight.device, weight.dtype)
