"""Adapters of low rank (LoRA) as PEFT saves them: what they change in which weight of their base.

Nothing is computed here. Tensors may be of any kind that has a shape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from transferscope.errors import CheckpointError, first_few

_PREFIX = "base_model.model."
#: ``layer.lora_A.weight``, ``layer.lora_A.default.weight``, ``layer.lora_embedding_A``
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.(?!weight|bias)\w+)?(\.weight)?")

# settings that are read here, or that the names and shapes of the factors show as well
_UNDERSTOOD = frozenset(
    {
        *("peft_type", "use_rslora", "lora_alpha", "alpha_pattern", "fan_in_fan_out"),
        *("init_lora_weights", "r", "rank_pattern", "target_modules", "exclude_modules"),
        *("layers_to_transform", "layers_pattern", "modules_to_save", "bias", "task_type"),
        *("base_model_name_or_path", "revision", "auto_mapping", "peft_version"),
        # only for training, or only where the layers run
        *("lora_dropout", "inference_mode", "eva_config", "ensure_weight_tying"),
        *("megatron_config", "megatron_core", "runtime_config", "qalora_group_size"),
    }
)
# ways to begin that leave the weights of the base as they are; others take something out of them
_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")


class Shaped(Protocol):
    """A tensor of any library."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its lengths."""


T = TypeVar("T", bound=Shaped)


@dataclass(frozen=True)
class LowRank(Generic[T]):
    """An update of a weight: ``scale · B A``.

    Parameters
    ----------
    a, b : tensor
        Of shape (rank, ...) and (..., rank, 1, ...).
    scale : float
    transposed : bool
        Whether the weight is laid out the other way round.
    """

    a: T
    b: T
    scale: float
    transposed: bool

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it is an update of a weight of this shape.

        Parameters
        ----------
        shape : tuple of int

        Returns
        -------
        bool
        """
        rank = self.a.shape[0]
        rows, columns = math.prod(self.b.shape) // rank, math.prod(self.a.shape) // rank
        first = columns if self.transposed else rows
        return rows * columns == math.prod(shape) and first == shape[0]


@dataclass(frozen=True)
class AdapterChanges(Generic[T]):
    """What an adapter does to its base.

    Parameters
    ----------
    whole : dict of str to tensor
        Name of a weight of the base -> what it is replaced by.
    low_rank : dict of str to LowRank
        Name of a weight of the base -> what is added to it.
    unplaced : list of str
        Weights that it changes and that were not found in the base.
    unplaced_updates : list of str
        Those of them to which something is added.
    """

    whole: dict[str, T] = field(default_factory=dict)
    low_rank: dict[str, LowRank[T]] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)
    unplaced_updates: list[str] = field(default_factory=list)


def adapter_changes(
    settings: Mapping[str, object] | None,
    tensors: Mapping[str, T],
    base: Mapping[str, tuple[int, ...]],
    find: Callable[[str], str | None],
    *,
    label: str,
    base_label: str,
) -> AdapterChanges[T]:
    """Find what an adapter does to the weights of its base.

    Parameters
    ----------
    settings : mapping or None
        Content of ``adapter_config.json``.
    tensors : mapping of str to tensor
        Content of ``adapter_model.safetensors``.
    base : mapping of str to tuple of int
        Names and shapes of the weights of the base.
    find : callable
        From what the adapter calls a weight to its name in the base, None where there is none.
    label, base_label : str
        The adapter and its base, for messages.

    Returns
    -------
    AdapterChanges

    Raises
    ------
    CheckpointError
        If it is no LoRA adapter, its settings are absent or not understood, or it does not fit the
        base.
    """
    if settings is None:
        raise CheckpointError(
            f"{label} holds LoRA factors without adapter_config.json, which gives their "
            "scale. Give the folder that save_pretrained wrote, or the merged weights."
        )
    _refuse_other_kinds(settings, label)
    changes: AdapterChanges[T] = AdapterChanges()
    factors: dict[tuple[str, bool], dict[str, T]] = {}
    for name, tensor in tensors.items():
        bare = name.removeprefix(_PREFIX)
        found = _FACTOR.fullmatch(bare)
        if found is not None:
            factors.setdefault((found[1], bool(found[2])), {})[found[3]] = tensor
            continue
        bare = re.sub(r"\.(modules_to_save(\.default)?|base_layer)\.", ".", bare)
        place = find(bare)
        if place is None:
            changes.unplaced.append(bare)
        else:
            changes.whole[place] = tensor
    for (module, is_embedding), pair in factors.items():
        place = find(f"{module}.weight")
        if place is None:
            changes.unplaced.append(f"{module}.weight")
            changes.unplaced_updates.append(f"{module}.weight")
            continue
        if set(pair) != {"A", "B"} or not _are_of_one_rank(pair["A"].shape, pair["B"].shape):
            raise CheckpointError(
                f"{label} holds factors A and B of {module} that do not fit each other. "
                "Save the adapter again."
            )
        scale = _scale(settings, module, rank=pair["A"].shape[0])
        transposed = is_embedding or bool(settings.get("fan_in_fan_out"))
        update = LowRank(pair["A"], pair["B"], scale, transposed)
        if not update.fits(base[place]):
            raise CheckpointError(
                f"{label} holds an update of {module} of another size than {place} of "
                f"{base_label}, {base[place]}. Give the model that it was trained on."
            )
        changes.low_rank[place] = update
    return changes


def no_place(names: list[str], label: str, base_label: str) -> CheckpointError:
    """Make the error of an adapter that changes what its base does not have.

    Parameters
    ----------
    names : list of str
        What it changes.
    label, base_label : str
        The adapter and its base.

    Returns
    -------
    CheckpointError
    """
    return CheckpointError(
        f"{label} changes {first_few(names)}, which {base_label} does not have. Give the model "
        "that it was trained on."
    )


def _refuse_other_kinds(settings: Mapping[str, object], label: str) -> None:
    """Refuse adapters that are more than products of factors."""
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA" or settings.get("use_dora"):
        name = "DORA" if settings.get("use_dora") else kind
        raise CheckpointError(
            f"{label} is an adapter of type {name}; only LORA is merged here. Merge it "
            "with model.merge_and_unload() and give the result."
        )
    unknown = [f"{k}={v!r}" for k, v in settings.items() if v and k not in _UNDERSTOOD]
    if settings.get("init_lora_weights") not in _INITIALISATIONS:
        unknown.append(f"init_lora_weights={settings['init_lora_weights']!r}")
    if unknown:
        raise CheckpointError(
            f"{label} is an adapter with settings that are not known here and may change the "
            f"weights: {first_few(unknown)}. Merge it with model.merge_and_unload() and give the "
            "result."
        )


def _are_of_one_rank(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return len(a) > 1 and len(b) > 1 and a[0] == b[1] and a[0] > 0


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
