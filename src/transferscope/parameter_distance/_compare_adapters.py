"""What adapters add to their base, as deltas: how large, how far apart, in which direction."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transferscope.errors import CheckpointError, InputError
from transferscope.numerics.arrays import NumpyArray
from transferscope.parameter_distance._adapters import (
    changes_of,
    is_adapter,
    open_base,
    update_of,
)
from transferscope.parameter_distance._checkpoints import (
    Checkpoint,
    CheckpointSource,
    open_checkpoint,
)
from transferscope.parameter_distance._layers import Group
from transferscope.parameter_distance._matching import counted, rows_of
from transferscope.parameter_distance._sums import sum_of_squares
from transferscope.parameter_distance._tensors import Tensor
from transferscope.results import AdapterDelta, AdapterDistances
from transferscope.storage.adapters import LowRank, no_place


def compare_adapters(
    pretrained: CheckpointSource,
    first: str | os.PathLike[str],
    second: str | os.PathLike[str] | None = None,
    *,
    group: Group = "block",
) -> AdapterDistances:
    """Measure what one adapter adds to its base, or compare what two of them add.

    With W a weight of the base and ΔW₁, ΔW₂ what the adapters add to it, a layer has the drifts
    ``‖ΔW₁‖ / ‖W‖`` and ``‖ΔW₂‖ / ‖W‖``, the distance ``‖ΔW₁ − ΔW₂‖ / ‖W‖``, and the cosine
    ``⟨ΔW₁, ΔW₂⟩ / ‖ΔW₁‖ ‖ΔW₂‖``, of Frobenius norms over all weights in it that either changes.
    Merged weights hide all but the first: next to W every delta is small.

    Parameters
    ----------
    pretrained : checkpoint
        The base, in all forms that `layer_transferability` takes.
    first, second : path
        Folders of LoRA adapters as PEFT saves them. Weights that an adapter replaces as a whole
        count with their difference from the base.
    group : {"block", "parameter"}
        Rows: blocks found in the module tree, or single weights.

    Returns
    -------
    AdapterDistances
        Of `first` alone without distances and cosines.

    Raises
    ------
    CheckpointError
        If a checkpoint cannot be read, holds NaN, is no LoRA adapter (or as base, is one), does
        not fit the base, or the adapters name different bases.
    InputError
        If `group` is none of those above.

    Notes
    -----
    Exact, without forming a delta: with the R-factors of the two adapters' factors side by side,
    ``[B₁ B₂]`` and ``[A₁ᵀ A₂ᵀ]``, all norms are those of matrices of at most r₁ + r₂ rows and
    columns. Cost O((rows + columns)(r₁ + r₂)²) for each weight, and a pass over those weights of
    the base that are changed. Only of a weight that an adapter replaces as a whole are the updates
    formed. Sums over deltas are float64.

    Factors A and B are never compared themselves: they may be rotated against each other without
    a change of what they add.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> from transferscope.parameter_distance import compare_adapters
    >>> def adapter(folder, b):  # what PEFT saves
    ...     folder.mkdir()
    ...     factors = {"fc.lora_A.weight": np.ones((1, 2)), "fc.lora_B.weight": np.array(b)}
    ...     save_file(factors, folder / "adapter_model.safetensors")
    ...     settings = '{"peft_type": "LORA", "lora_alpha": 1}'
    ...     (folder / "adapter_config.json").write_text(settings)
    ...     return folder
    >>> with TemporaryDirectory() as folder:
    ...     one = adapter(Path(folder) / "one", [[1.0], [0.0]])
    ...     two = adapter(Path(folder) / "two", [[1.0], [1.0]])
    ...     found = compare_adapters({"fc.weight": np.eye(2)}, one, two)
    >>> round(found.overall.drift, 3), round(found.overall.cosine, 3)
    (1.0, 0.707)

    References
    ----------
    Hu et al., ICLR 2022 (arXiv 2106.09685), for what an adapter adds.
    """
    if group not in ("block", "parameter"):
        raise InputError(f"group must be one of block, parameter; got {group!r}.")
    with ExitStack() as files:
        base = open_base(pretrained, files)
        sources = [first] if second is None else [first, second]
        checkpoints = [_open_adapter(source, files) for source in sources]
        _refuse_other_bases(checkpoints)
        blocks = counted(base, "all", None)
        adapters = [_Adapter.of(one, base, set(blocks)) for one in checkpoints]
        changed = {name: block for name, block in blocks.items() if _is_changed(name, adapters)}
        sums = {name: _compare(name, base, adapters) for name in changed}
    rows = rows_of(changed, group)
    layers = tuple(
        _layer(row, [sums[name] for name in names], len(adapters)) for row, names in rows.items()
    )
    n_all = len(rows_of(blocks, group))
    return AdapterDistances(
        overall=_layer("all", list(sums.values()), len(adapters)),
        layers=layers,
        adapters=tuple(str(source) for source in sources),
        left_out=tuple(line for one in adapters for line in one.left_out),
        notes=(
            *_notes_on_deltas(list(sums.values()), adapters, n_all - len(rows), n_all),
            *_notes_on_bases(pretrained, checkpoints),
        ),
    )


def _open_adapter(source: object, files: ExitStack) -> Checkpoint:
    adapter = open_checkpoint(source, "adapter", files)
    if not is_adapter(adapter):
        raise CheckpointError(
            f"{adapter.label} is no adapter: it has neither adapter_config.json nor LoRA factors. "
            "Give the folder that PEFT saved; compare whole weights with layer_transferability."
        )
    return adapter


@dataclass(frozen=True)
class _Delta:
    """What an adapter adds to a weight: an update, or a new value minus the old, or both."""

    update: LowRank[Tensor] | None
    whole: Tensor | None
    label: str


@dataclass(frozen=True)
class _Adapter:
    """Deltas of an adapter by the names of the base, and what of it has none."""

    label: str
    deltas: dict[str, _Delta]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, adapter: Checkpoint, base: Checkpoint, known: set[str]) -> _Adapter:
        changes = changes_of(adapter, base)
        if changes.unplaced_updates:
            raise no_place(changes.unplaced_updates, adapter.label, base.label)
        left_out = dict.fromkeys(changes.unplaced, f"only in {adapter.label}")
        whole = {}
        for name, tensor in changes.whole.items():
            there = base.tensors[name].shape
            if tensor.shape == there:
                whole[name] = tensor
            else:
                left_out[name] = f"{there} in the base, {tensor.shape} in {adapter.label}"
        names = dict.fromkeys((*changes.low_rank, *whole))
        for name in [name for name in names if name not in known]:
            del names[name]
            left_out[name] = f"no trained floating-point weight in {base.label}"
        if not names:
            raise CheckpointError(
                f"{adapter.label} changes no trained floating-point weight of {base.label}. Give "
                "the model that it was trained on."
            )
        deltas = {
            name: _Delta(changes.low_rank.get(name), whole.get(name), f"{name} of {adapter.label}")
            for name in names
        }
        lines = tuple(f"{name}: {why}" for name, why in left_out.items())
        return cls(adapter.label, deltas, lines)


def _is_changed(name: str, adapters: Sequence[_Adapter]) -> bool:
    return any(name in one.deltas for one in adapters)


class _Sums(NamedTuple):
    """Sums over the elements of a weight and of its deltas.

    Attributes
    ----------
    n : int
    base, one, two : float
        Squares of the weight and of its deltas.
    inner : float
        Products of the deltas.
    apart : float
        Squares of their difference.
    """

    n: int
    base: float
    one: float
    two: float
    inner: float
    apart: float


def _compare(name: str, base: Checkpoint, adapters: Sequence[_Adapter]) -> _Sums:
    weight = base.tensors[name]
    deltas = [one.deltas.get(name) for one in adapters]
    if any(delta is not None and delta.whole is not None for delta in deltas):
        sums = _by_elements(weight, f"{name} of {base.label}", deltas)
    else:
        squares = sum(
            sum_of_squares(weight.read(start, stop), f"{name} of {base.label}")
            for start, stop in weight.pieces()
        )
        sums = _Sums(weight.size, squares, *_products(*_cores(deltas)))
    for tensor in (weight, *(delta.whole for delta in deltas if delta is not None)):
        if tensor is not None:
            tensor.done()
    return sums


def _products(one: NumpyArray, two: NumpyArray) -> tuple[float, float, float, float]:
    """Squares of two deltas, their product, and the squares of their difference."""
    apart = one - two

    def product(a: NumpyArray, b: NumpyArray) -> float:
        return float(np.sum(a * b))

    return product(one, one), product(two, two), product(one, two), product(apart, apart)


def _cores(deltas: Sequence[_Delta | None]) -> tuple[NumpyArray, NumpyArray]:
    """Small matrices with the norms and products of updates: R_B Rᵀ_A, of rows by columns."""
    pairs = [_factors(delta) if delta is not None else None for delta in deltas]
    given = [pair for pair in pairs if pair is not None]
    left, right = (_r_factor([pair[side] for pair in given]) for side in (0, 1))
    cores, start = [], 0
    for pair in pairs:
        stop = start + (0 if pair is None else pair[0].shape[1])
        cores.append(left[:, start:stop] @ right[:, start:stop].T)
        start = stop
    return cores[0], cores[1] if len(cores) > 1 else np.zeros_like(cores[0])


def _r_factor(columns: Sequence[NumpyArray]) -> NumpyArray:
    """R of the QR decomposition of matrices side by side."""
    return np.asarray(np.linalg.qr(np.hstack(columns), mode="r"))


def _factors(delta: _Delta) -> tuple[NumpyArray, NumpyArray]:
    """(rows, rank) and (columns, rank) in the layout of the weight, the first with the scale."""
    update = delta.update
    assert update is not None
    rank = update.a.shape[0]
    a, b = update.a.whole().reshape(rank, -1), update.b.whole().reshape(-1, rank)
    for factor, letter in ((a, "A"), (b, "B")):
        sum_of_squares(factor.reshape(-1), f"factor {letter} of {delta.label}")
    return (update.scale * a.T, b) if update.transposed else (update.scale * b, a.T)


def _by_elements(weight: Tensor, where: str, deltas: Sequence[_Delta | None]) -> _Sums:
    """The same, piece by piece, where a weight is replaced as a whole."""
    updates = [
        update_of(delta.update) if delta is not None and delta.update is not None else None
        for delta in deltas
    ]
    squares, products = 0.0, np.zeros(4)
    for start, stop in weight.pieces():
        old = weight.read(start, stop).astype(np.float64)
        squares += sum_of_squares(old, where)
        added = [np.zeros(stop - start), np.zeros(stop - start)]
        for piece, delta, update in zip(added, deltas, updates, strict=False):
            if delta is not None and delta.whole is not None:
                piece += delta.whole.read(start, stop)
                piece -= old
            if update is not None:
                piece += update[start:stop]
            if delta is not None:
                sum_of_squares(piece, delta.label)
        products += _products(*added)
    return _Sums(weight.size, squares, *map(float, products))


def _layer(name: str, parts: Sequence[_Sums], n_adapters: int) -> AdapterDelta:
    n, base, one, two, inner, apart = map(sum, zip(*parts, strict=True))

    def share(squares: float) -> float | None:
        return math.sqrt(squares / base) if base > 0 else None

    if n_adapters == 1:
        return AdapterDelta(name, n, math.sqrt(base), share(one))
    cosine = inner / math.sqrt(one) / math.sqrt(two) if one > 0 and two > 0 else None
    return AdapterDelta(
        name,
        n,
        math.sqrt(base),
        share(one),
        share(two),
        share(apart),
        None if cosine is None else min(max(cosine, -1.0), 1.0),
    )


def _notes_on_deltas(
    sums: Sequence[_Sums], adapters: Sequence[_Adapter], n_same: int, n_all: int
) -> Iterator[str]:
    if n_same:
        yield f"unchanged, and not shown: {n_same} of {n_all} layers"
    for adapter, squares in zip(
        adapters, ([s.one for s in sums], [s.two for s in sums]), strict=False
    ):
        if not any(squares):
            yield f"{adapter.label} adds nothing: its deltas are zero, as before training"
    if len(adapters) > 1 and not set(adapters[0].deltas) & set(adapters[1].deltas):
        yield "the adapters change no weight in common, so their cosine is 0"


def _named_base(adapter: Checkpoint) -> tuple[str, object]:
    """Name of the base without its folder or owner, empty where none is named; its revision."""
    settings = adapter.adapter or {}
    return Path(str(settings.get("base_model_name_or_path") or "")).name, settings.get("revision")


def _refuse_other_bases(adapters: Sequence[Checkpoint]) -> None:
    """Refuse adapters that say themselves that they were trained on different models."""
    named = [_named_base(one) for one in adapters]
    names = {name for name, _ in named if name}
    revisions = {str(revision) for _, revision in named if revision}
    if len(names) > 1 or len(revisions) > 1:
        said = " and ".join(
            f"{one.label} on {name}" + (f" ({revision})" if revision else "")
            for one, (name, revision) in zip(adapters, named, strict=True)
        )
        raise CheckpointError(
            f"adapters must be of one base; got {said}. Give adapters of one base; if both names "
            "mean one model, write one of them into both adapter_config.json."
        )


def _notes_on_bases(pretrained: object, adapters: Sequence[Checkpoint]) -> Iterator[str]:
    """Where a base that was given by its path has another name than adapters give it."""
    if not isinstance(pretrained, str | os.PathLike):
        return
    parts = Path(pretrained).absolute().parts
    for one in adapters:
        name, _ = _named_base(one)
        # the cache of the hub calls its folders models--owner--name
        if name and not any(part == name or part.endswith(f"--{name}") for part in parts):
            yield f"{one.label} was trained on {name}: is {os.fspath(pretrained)} that model?"
