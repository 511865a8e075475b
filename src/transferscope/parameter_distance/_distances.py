"""Distances between checkpoints, layer by layer, in one pass over their tensors."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from transferscope.errors import CheckpointError, InputError
from transferscope.parameter_distance import _blocks, _initialisation
from transferscope.parameter_distance._adapters import is_adapter, merged
from transferscope.parameter_distance._blocks import HEAD, Parameters
from transferscope.parameter_distance._checkpoints import (
    Checkpoint,
    Tensor,
    open_checkpoint,
)
from transferscope.parameter_distance._initialisation import Law
from transferscope.parameter_distance._sums import Measure, Steps, Sums, compare, expected_sums
from transferscope.results import LayerDistance, LayerDistances

if TYPE_CHECKING:
    from torch import nn

Group = Literal["block", "parameter"]
MEASURES = ("mean_abs", "l2", "relative_l2", "cosine")
#: A block whose weights moved by less than this share of their norm could have been frozen:
#: rounding to eight bits moves weights by about as much, and is known to cost next to nothing.
FREEZE_DRIFT = 0.01
#: Below this share of matched weights two checkpoints are of different architectures.
_SAME_ARCHITECTURE = 0.5
#: Tensors are compared on several threads, up to what memory can feed.
_THREADS = 4


def layer_transferability(
    random: Mapping[str, Any] | nn.Module | str | os.PathLike[str] | Callable[[], Any] | None,
    pretrained: Mapping[str, Any] | nn.Module | str | os.PathLike[str],
    finetuned: Mapping[str, Any] | nn.Module | str | os.PathLike[str],
    measure: Measure = "mean_abs",
    group: Group = "block",
    *,
    parameters: Parameters = "weights",
    seeds: int = 3,
    spectra: bool = False,
    head: str | None = None,
) -> LayerDistances:
    """Say layer by layer how far pre-training carried the weights to where fine-tuning ends.

    With θ_r the random initialisation, θ_A the pre-trained and θ_B the fine-tuned weights,
    ``T = D(θ_r, θ_B) / D(θ_A, θ_B)``: how many times closer pre-training brought a layer. Of a
    block, each distance is first averaged over the block's tensors, then divided.

    Parameters
    ----------
    random : checkpoint, function, or None
        The initialisation that pre-training started from; or a function that builds an untrained
        network (see `architecture`), which is drawn with `seeds` seeds; or None: distances and
        drifts only, no T.
    pretrained, finetuned : checkpoint
        A state dict, a module, or a path: ``.safetensors``, ``.pth``, ``.pt``, ``.ckpt``, ``.tar``
        (never executed), an index of shards, a folder of Hugging Face or timm; or ``timm/NAME`` for
        its pre-trained weights. `finetuned` may be the folder of a LoRA adapter, which is merged.
    measure : {"mean_abs", "l2", "relative_l2", "cosine"}
        D: mean absolute difference (as in the authors' code), Euclidean distance, that relative to
        the norm of θ_B, or one minus the cosine. In units of the weights for the first two.
    group : {"block", "parameter"}
        Rows: residual, dense or transformer blocks found in the module tree; or single tensors.
    parameters : {"weights", "all", "with_statistics"}
        What counts: weights of convolutions and linear layers, without the projection shortcuts of
        residual blocks (the authors'); all that is trained; that and the running statistics of
        normalisation.
    seeds : int
        With a function as `random`: how many draws are averaged; 0 for the closed-form expectation
        over the distributions that two draws show.
    spectra : bool
        Compute spectral norm and effective rank of the updates, too.
    head : str, optional
        Name of the module that is the head, where its own name does not give it away.

    Returns
    -------
    LayerDistances
        T above 1: pre-training brought the layer closer. The overall value is the mean of T over
        the blocks that moved, without the head.

    Raises
    ------
    CheckpointError
        If a checkpoint is missing, damaged, of another architecture, holds NaN, is an adapter that
        cannot be merged, or would execute code.
    InputError
        If an option is none of those above.
    MissingExtraError
        If torch is needed to read a checkpoint and is not installed.

    Notes
    -----
    Cost: one pass over the three checkpoints, piece by piece; no checkpoint is held in memory that
    was not there before (but for files from before PyTorch 1.6). Sums are float64 over
    pieces of float32. `seeds` draws take as many passes over θ_B. `spectra` holds two tensors at a
    time in float64 and takes their singular values, O(rows · columns · min) each.

    Traps: if pre-trained and fine-tuned files are swapped, every number looks plausible; if the
    random one is swapped in, T falls below 1, and a note says so. A layer that did not move at all
    (frozen, or the same file twice) has an infinite ratio: its T is None, with a reason. The head
    is usually drawn anew for the new classes, so its T is about 1, or None for want of a common
    shape.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.parameter_distance import layer_transferability
    >>> def weights(x):
    ...     return {"layers.0.weight": np.full((2, 2), x), "fc.weight": np.full((2, 2), 2 * x)}
    >>> found = layer_transferability(weights(0.0), weights(3.0), weights(4.0))
    >>> found.overall, [(layer.name, layer.transferability) for layer in found.layers]
    (4.0, [('layers.0', 4.0), ('head', 4.0)])

    References
    ----------
    Chen et al., AAAI 2024 (arXiv 2212.00399); effective rank: Roy & Vetterli, EUSIPCO 2007.
    """
    _check_options(measure, group, parameters, seeds)
    with ExitStack() as files:
        base = open_checkpoint(pretrained, "pre-trained", files)
        target = open_checkpoint(finetuned, "fine-tuned", files)
        if is_adapter(base):
            raise CheckpointError(
                f"{base.label} is an adapter, not a model; give the model it was trained on."
            )
        unmatched = _Unmatched()
        if is_adapter(target):
            target = merged(target, base)
        shapes = {name: t.shape for name, t in base.tensors.items() if _trained(t, parameters)}
        blocks = _blocks.block_of_each(shapes, head)
        counted = _counted(base, blocks, parameters)
        if not counted:
            raise CheckpointError(
                f"{base.label} holds no {parameters} to compare; try parameters='all'."
            )
        _drop_tied(counted, base, target, unmatched)
        names = _matched(counted, base, target, parameters, unmatched)
        _refuse_other_architecture(names, counted, blocks, base, target)
        initial = _Initial.of(random, seeds, files)
        drawn = initial.first
        initial_names: dict[str, str] = {}
        if drawn is not None:
            initial_names = _matched(counted, base, drawn, parameters, unmatched)
            _refuse_other_architecture(initial_names, counted, blocks, base, drawn)
            laws = ((name, initial.laws.get(there)) for name, there in initial_names.items())
            initial.as_drawn += [name for name, law in laws if law and law.kind == "other"]

        steps = Steps()

        def measured(name: str) -> list[Sums]:
            a, b, r_name = base.tensors[name], target.tensors[names[name]], initial_names.get(name)
            law = None if r_name is None else initial.laws.get(r_name)
            tensors = [(a, f"{name} of {base.label}")]
            if drawn is not None and r_name is not None and not (law and law.has_expectation):
                tensors.append((drawn.tensors[r_name], f"{r_name} of {drawn.label}"))
            sums = compare((b, f"{names[name]} of {target.label}"), tensors, steps)
            if law is not None and law.has_expectation:
                sums.append(expected_sums(b, law))
            for tensor, _ in [(b, ""), *tensors]:
                tensor.done()
            return sums

        def redrawn(name: str, more: Checkpoint) -> Sums:
            b, r_name = target.tensors[names[name]], initial_names[name]
            tensors = [(more.tensors[r_name], f"{r_name} of {more.label}")]
            (sums,) = compare((b, f"{names[name]} of {target.label}"), tensors, steps)
            b.done()
            return sums

        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
            found = dict(zip(names, threads.map(measured, names), strict=True))
            moved = {name: sums[0] for name, sums in found.items()}
            carried = {name: sums[1:] for name, sums in found.items()}
            drawn = None
            again = [name for name in names if name in initial_names]
            for more in initial.further():
                sums = threads.map(redrawn, again, itertools.repeat(more))
                for name, one in zip(again, sums, strict=False):
                    carried[name].append(one)
        updates = {
            name: _spectrum(base.tensors[name], target.tensors[there])
            for name, there in names.items()
            if spectra and len(base.tensors[name].shape) > 1
        }

    rows = _rows(group, counted)
    layers = [
        _layer(row, names, moved, carried, updates, unmatched, measure, initial.missing)
        for row, names in rows.items()
    ]
    is_head = {row: blocks[names[0]] == HEAD for row, names in rows.items()}
    return _summary(layers, is_head, carried, moved, rows, measure, parameters, initial, unmatched)


def _check_options(measure: str, group: str, parameters: str, seeds: int) -> None:
    for name, given, known in (
        ("measure", measure, MEASURES),
        ("group", group, ("block", "parameter")),
        ("parameters", parameters, ("weights", "all", "with_statistics")),
    ):
        if given not in known:
            raise InputError(f"{name} is one of {', '.join(known)}, got {given!r}.")
    if seeds < 0:
        raise InputError(f"seeds must not be negative, got {seeds}.")


class _Unmatched:
    """What of the checkpoints did not match, for the report."""

    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, None]] = {
            "missing": {},  # in the pre-trained checkpoint only
            "extra": {},  # in another one only
            "other_shape": {},  # left out
            "reshaped": {},  # compared element by element
            "tied": {},  # second names of one tensor
        }
        self.why: dict[str, str] = {}

    def add(self, kind: str, name: str, text: str | None = None) -> None:
        self.kinds[kind][text or name] = None
        if kind in ("missing", "other_shape"):
            self.why[name] = text or name


def _trained(tensor: Tensor, parameters: Parameters) -> bool:
    return tensor.is_float and (not tensor.is_buffer or parameters == "with_statistics")


def _counted(
    checkpoint: Checkpoint, blocks: Mapping[str, str], parameters: Parameters
) -> dict[str, str]:
    """Names that count -> their block."""
    names: dict[str, list[str]] = {}
    for name, tensor in checkpoint.tensors.items():
        fits = _trained(tensor, parameters) and tensor.size > 0
        if fits and _blocks.counts(name, tensor.shape, parameters):
            names.setdefault(blocks[name], []).append(name)
    if parameters == "weights":
        names = {b: _blocks.without_shortcuts(n, b) for b, n in names.items()}
    kept = {name: block for block, group in names.items() for name in group}
    return {name: kept[name] for name in checkpoint.tensors if name in kept}


def _drop_tied(
    counted: dict[str, str], base: Checkpoint, target: Checkpoint, unmatched: _Unmatched
) -> None:
    """Count a tensor with several names once, where no checkpoint holds it untied."""
    first: dict[Any, str] = {}
    for name in sorted(counted, key=lambda name: name not in target.tensors):
        storage = base.tensors[name].storage
        if storage is None:
            continue
        other = first.setdefault(storage, name)
        beside = target.tensors.get(name)
        alone = beside is not None and other in target.tensors
        if other != name and not (
            alone and beside is not None and beside.storage != target.tensors[other].storage
        ):
            del counted[name]
            unmatched.add("tied", name, f"{name} = {other}")


def _matched(
    counted: Mapping[str, str],
    base: Checkpoint,
    other: Checkpoint,
    parameters: Parameters,
    unmatched: _Unmatched,
) -> dict[str, str]:
    """Name in the pre-trained checkpoint -> name in the other, where the elements correspond."""
    translate = _translation(base, other)
    found: dict[str, str] = {}
    for name in counted:
        there = translate(name)
        tensor = other.tensors.get(there)
        shape = base.tensors[name].shape
        text = f"{name}: {shape} pre-trained, {tensor and tensor.shape} in {other.label}"
        if tensor is None or not tensor.is_float:
            unmatched.add("missing", name, f"{name}: not in {other.label}")
        elif tensor.shape == shape:
            found[name] = there
        elif tensor.size == math.prod(shape) and _same_elements(tensor.shape, shape):
            found[name] = there
            unmatched.add("reshaped", name, text)
        else:
            unmatched.add("other_shape", name, text)
    known = {translate(name) for name in base.tensors}
    for name, tensor in other.tensors.items():
        is_counted = _blocks.counts(name, tensor.shape, parameters)
        if name not in known and _trained(tensor, parameters) and is_counted:
            unmatched.add("extra", name, f"{name}: only in {other.label}")
    return found


def _same_elements(one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    """Whether two shapes of one size list the same elements in the same order.

    A linear layer and the convolution that it equals do: the first axis stays the first.
    """
    if [n for n in one if n > 1] == [n for n in two if n > 1]:
        return True
    return bool(one) and bool(two) and one[0] == two[0] and min(len(one), len(two)) == 2


def _translation(base: Checkpoint, other: Checkpoint) -> Callable[[str], str]:
    """How names of the base are written in the other: with a prefix more or less, or the same."""
    names, there = list(base.tensors), other.tensors

    def prefixes(given: Sequence[str]) -> set[str]:
        cut = (name.split(".") for name in given)
        return {".".join(parts[:k]) + "." for parts in cut for k in (1, 2) if len(parts) > k}

    def hits(add: str, drop: str) -> int:
        return sum(add + name.removeprefix(drop) in there for name in names)

    ways = [("", "")]
    if hits("", "") < len(names):
        ways += [(p, "") for p in sorted(prefixes(list(there)))]
        ways += [("", p) for p in sorted(prefixes(names))]
    add, drop = max(ways, key=lambda way: hits(*way))

    def translate(name: str) -> str:
        written = add + name.removeprefix(drop)
        # the head of a model for a task stands outside of the base model's prefix
        return written if written in there or name not in there else name

    return translate


def _refuse_other_architecture(
    plan: Mapping[str, Any],
    counted: Mapping[str, str],
    blocks: Mapping[str, str],
    base: Checkpoint,
    other: Checkpoint,
) -> None:
    body = [name for name in counted if blocks[name] != HEAD] or list(counted)
    matched = [name for name in body if name in plan]
    if len(matched) < _SAME_ARCHITECTURE * len(body):
        example = next(name for name in body if name not in plan)
        raise CheckpointError(
            f"{base.label} and {other.label} are of different architectures: {len(matched)} of "
            f"{len(body)} weights have the same name and shape, and {example} is not among them. "
            "Give checkpoints of one architecture; of a transformers model in memory the module, "
            "for its state dict may have other names than its files."
        )


@dataclass
class _Initial:
    """Where the random initialisation comes from."""

    kind: str
    first: Checkpoint | None = None
    laws: Mapping[str, Law] = field(default_factory=dict)
    build: Callable[[], Any] | None = None
    seeds: int = 0
    #: Tensors for which there is no closed form.
    as_drawn: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, random: Any, seeds: int, files: ExitStack) -> _Initial:
        if random is None:
            return cls("none")
        is_weights = isinstance(random, Mapping | str | os.PathLike)
        if isinstance(random, str) and random.startswith("timm/"):
            random, is_weights = _initialisation.architecture(random), False
        if is_weights or (hasattr(random, "state_dict") and not isinstance(random, type)):
            return cls("checkpoint", open_checkpoint(random, "random", files))
        if not callable(random):
            raise CheckpointError(
                "random must be a checkpoint, a function that builds a network, or None, got "
                f"{type(random).__name__}."
            )
        if seeds == 0:
            checkpoint, laws = _initialisation.laws(random, files)
            return cls("closed form", checkpoint, laws)
        drawn = _initialisation.draw(random, 0, files)
        return cls(f"{seeds} seed{'s' * (seeds > 1)}", drawn, {}, random, seeds)

    @property
    def missing(self) -> bool:
        return self.kind == "none"

    def further(self) -> Any:
        """The draws after the first, one at a time."""
        for seed in range(1, self.seeds):
            assert self.build is not None
            self.first = None  # one network at a time
            yield _initialisation.draw(self.build, seed, ExitStack())


def _spectrum(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Spectral norm and effective rank of b - a, rows by all other axes."""
    step = (b.whole().reshape(b.shape) - a.whole().reshape(b.shape)).reshape(b.shape[0], -1)
    values = np.linalg.svd(step, compute_uv=False)
    total = float(values.sum())
    if total == 0:
        return 0.0, 0.0
    shares = values[values > 0] / total
    return float(values[0]), float(np.exp(-np.sum(shares * np.log(shares))))


def _rows(group: Group, counted: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of the layers shown -> their tensors, from the stem to the head."""
    members: dict[str, list[str]] = {}
    for name, block in counted.items():
        members.setdefault(block, []).append(name)
    ordered = {b: sorted(members[b], key=_blocks.natural) for b in _blocks.in_order(members)}
    if group == "block":
        return ordered
    return {name: [name] for names in ordered.values() for name in names}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _ratios(
    names: Sequence[str],
    moved: Mapping[str, Sums],
    carried: Mapping[str, list[Sums]],
    measure: Measure,
) -> tuple[float | None, list[float]]:
    """D(θ_A, θ_B) of a layer and D(θ_r, θ_B) of every draw, over the tensors that have all."""
    near, far = [], []
    for name in names:
        distances = [s.distance(measure) for s in (moved[name], *carried[name])]
        defined = [d for d in distances if d is not None]
        if len(defined) == len(distances):
            near.append(defined[0])
            far.append(defined[1:])
    if not near:
        return None, []
    return sum(near) / len(near), [sum(column) / len(far) for column in zip(*far, strict=True)]


def _layer(
    row: str,
    names: Sequence[str],
    moved: Mapping[str, Sums],
    carried: Mapping[str, list[Sums]],
    updates: Mapping[str, tuple[float, float]],
    unmatched: _Unmatched,
    measure: Measure,
    without_random: bool,
) -> LayerDistance:
    here = [name for name in names if name in moved]
    if not here:
        return LayerDistance(row, reason=unmatched.why[names[0]])
    n = sum(moved[name].n for name in here)
    with_random = [name for name in here if carried[name]]
    near, far = _ratios(with_random or here, moved, carried, measure)
    sums = [moved[name] for name in here]
    step, a, b = (math.sqrt(sum(getattr(s, k) for s in sums)) for k in ("squares", "a", "b"))
    whole = Sums(n, 0.0, step * step, a * a, b * b).distance("cosine")
    spectra = [updates[name] for name in here if name in updates]
    reason: str | None = None
    if near is None:
        reason = f"{measure} of a tensor of zeros is undefined"
    elif without_random:
        reason = "no random initialisation was given"
    elif not with_random:
        reason = unmatched.why[here[0]]
    elif near == 0:
        reason = "did not move in fine-tuning: the ratio has no bound"
    ratios = [] if reason or not near else [distance / near for distance in far]
    drift = step / a if a > 0 else None
    transferability = _mean(ratios)
    suggestion = None
    if drift is not None and drift < FREEZE_DRIFT:
        suggestion = "freeze"
    elif transferability is not None and transferability <= 1:
        suggestion = "reset"
    return LayerDistance(
        name=row,
        transferability=transferability,
        spread=float(np.std(ratios, ddof=1)) if len(ratios) > 1 else None,
        distance_random=_mean(far),
        distance_pretrained=near,
        n_parameters=n,
        drift=drift,
        cosine=None if whole is None else 1 - whole,
        spectral_norm=max(s for s, _ in spectra) if spectra else None,
        effective_rank=sum(r for _, r in spectra) / len(spectra) if spectra else None,
        suggestion=suggestion,
        reason=reason,
    )


def _summary(
    layers: list[LayerDistance],
    is_head: Mapping[str, bool],
    carried: Mapping[str, list[Sums]],
    moved: Mapping[str, Sums],
    rows: Mapping[str, list[str]],
    measure: Measure,
    parameters: Parameters,
    initial: _Initial,
    unmatched: _Unmatched,
) -> LayerDistances:
    body = [layer for layer in layers if not is_head[layer.name]]
    usable = [layer for layer in body if layer.transferability is not None]
    draws: list[list[float]] = []
    for layer in usable:
        here = [name for name in rows[layer.name] if carried.get(name)]
        near, far = _ratios(here, moved, carried, measure)
        assert near
        draws.append([distance / near for distance in far])
    overall = [sum(column) / len(column) for column in zip(*draws, strict=True)]
    notes = []
    absent = [layer.name for layer in body if layer.transferability is None]
    if absent and usable:
        notes.append(
            f"the overall value is over {len(usable)} of {len(body)} layers; without "
            f"{', '.join(absent)}"
        )
    if not any(is_head.values()):
        notes.append("no head was recognised: every layer counts; name it with head=")
    if initial.as_drawn:
        notes.append(
            "neither uniform nor normal, so that one draw stands for the expectation: "
            f"{', '.join(initial.as_drawn)}"
        )
    value = _mean(overall)
    if value is not None and value <= 1:
        notes.append(
            "the random weights lie as close to the fine-tuned ones as the pre-trained do: were "
            "random and pre-trained swapped?"
        )
    if body and all(layer.distance_pretrained == 0 for layer in body if layer.n_parameters):
        notes.append("pre-trained and fine-tuned weights are equal: was one file given twice?")
    if any(layer.distance_random == 0 for layer in body):
        notes.append(
            "random and fine-tuned weights are equal in some layers: is the random file the "
            "fine-tuned one?"
        )
    return LayerDistances(
        overall=value,
        overall_spread=float(np.std(overall, ddof=1)) if len(overall) > 1 else None,
        layers=tuple(layers),
        head=tuple(name for name, head in is_head.items() if head),
        unmatched={kind: tuple(names) for kind, names in unmatched.kinds.items()},
        measure=measure,
        parameters=parameters,
        random=initial.kind,
        freeze_threshold=FREEZE_DRIFT,
        notes=tuple(notes),
    )
