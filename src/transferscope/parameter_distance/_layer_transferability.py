"""How much closer pre-training brought each layer to its fine-tuned weights."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from transferscope.errors import InputError
from transferscope.parameter_distance._adapters import is_adapter, merge_adapter, open_base
from transferscope.parameter_distance._blocks import Parameters
from transferscope.parameter_distance._checkpoints import (
    Checkpoint,
    CheckpointSource,
    open_checkpoint,
)
from transferscope.parameter_distance._initialisation import RandomWeights
from transferscope.parameter_distance._layers import Group, TensorSums, summarise
from transferscope.parameter_distance._matching import Matching
from transferscope.parameter_distance._sums import Measure, Steps, Sums, compare, expected_sums
from transferscope.parameter_distance._tensors import Tensor
from transferscope.results import LayerDistances

MEASURES = ("mean_abs", "l2", "relative_l2", "cosine")
#: Tensors are compared on several threads, up to what memory can feed.
_THREADS = 4


def layer_transferability(
    random: CheckpointSource | Callable[[], object] | None,
    pretrained: CheckpointSource,
    finetuned: CheckpointSource,
    measure: Measure = "mean_abs",
    group: Group = "block",
    *,
    parameters: Parameters = "weights",
    seeds: int = 3,
    spectra: bool = False,
    head: str | None = None,
) -> LayerDistances:
    """Measure how much closer pre-training brought each layer to its fine-tuned weights.

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
        its pre-trained weights. `finetuned` may be the folder of a LoRA adapter, which is merged;
        `compare_adapters` looks at what it adds alone.
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
        Name of the module that is the head, where its own name does not show it.

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
    random one is swapped in, T falls below 1, and a note tells it. A layer that did not move at all
    (frozen, or the same file twice) has an infinite ratio: its T is None, with a reason. The head
    is usually drawn again for the new classes, so its T is about 1, or None because the shapes
    differ.

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
        base, target = _open_pair(pretrained, finetuned, files)
        matching = Matching(base, target, parameters, head)
        initial = RandomWeights.of(random, seeds, files)
        if initial.drawn is not None:
            matching.add_random(initial.drawn)
        from_pretrained, from_random = _compare_all(matching, initial)
        updates = _spectra(matching) if spectra else {}
    sums = TensorSums(from_pretrained, from_random, updates, measure)
    return summarise(sums, matching, initial, group)


def _check_options(measure: str, group: str, parameters: str, seeds: int) -> None:
    for name, given, known in (
        ("measure", measure, MEASURES),
        ("group", group, ("block", "parameter")),
        ("parameters", parameters, ("weights", "all", "with_statistics")),
    ):
        if given not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}; got {given!r}.")
    if seeds < 0:
        raise InputError(f"seeds must be at least 0; got {seeds}.")


def _open_pair(
    pretrained: CheckpointSource, finetuned: CheckpointSource, files: ExitStack
) -> tuple[Checkpoint, Checkpoint]:
    """The pre-trained and the fine-tuned weights; an adapter is merged."""
    base = open_base(pretrained, files)
    target = open_checkpoint(finetuned, "fine-tuned", files)
    return base, merge_adapter(target, base) if is_adapter(target) else target


def _compare_all(
    matching: Matching, initial: RandomWeights
) -> tuple[dict[str, Sums], dict[str, list[Sums]]]:
    """Sums of every tensor against its fine-tuned values: of pre-trained, of random weights."""
    names, drawn_again = list(matching.in_target), list(matching.in_random)
    steps = Steps()
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        found = threads.map(
            _compare_tensor,
            names,
            itertools.repeat(matching),
            itertools.repeat(initial),
            itertools.repeat(steps),
        )
        sums = dict(zip(names, found, strict=True))
        from_pretrained = {name: first for name, (first, *_) in sums.items()}
        from_random = {name: rest for name, (_, *rest) in sums.items()}
        drawn_again = [name for name in drawn_again if name in from_random]
        for checkpoint in initial.further_draws():
            more = threads.map(
                _compare_draw,
                drawn_again,
                itertools.repeat(matching),
                itertools.repeat(checkpoint),
                itertools.repeat(steps),
            )
            for name, one in zip(drawn_again, more, strict=True):
                from_random[name].append(one)
    return from_pretrained, from_random


def _compare_tensor(
    name: str, matching: Matching, initial: RandomWeights, steps: Steps
) -> list[Sums]:
    """The pre-trained tensor against the fine-tuned one, and the random one where there is one."""
    base, target = matching.base, matching.target
    a, b = base.tensors[name], target.tensors[matching.in_target[name]]
    compared = [(a, f"{name} of {base.label}")]
    random_name = matching.in_random.get(name)
    distribution = None if random_name is None else initial.distributions.get(random_name)
    has_expectation = distribution is not None and distribution.has_expectation
    if random_name is not None and initial.drawn is not None and not has_expectation:
        random_tensor = initial.drawn.tensors[random_name]
        compared.append((random_tensor, f"{random_name} of {initial.drawn.label}"))
    sums = compare((b, f"{matching.in_target[name]} of {target.label}"), compared, steps)
    if distribution is not None and has_expectation:
        sums.append(expected_sums(b, distribution))
    for tensor, _ in [(b, ""), *compared]:
        tensor.done()
    return sums


def _compare_draw(name: str, matching: Matching, drawn: Checkpoint, steps: Steps) -> Sums:
    """A further draw of the random tensor against the fine-tuned one."""
    there, random_name = matching.in_target[name], matching.in_random[name]
    b = matching.target.tensors[there]
    other = (drawn.tensors[random_name], f"{random_name} of {drawn.label}")
    (sums,) = compare((b, f"{there} of {matching.target.label}"), [other], steps)
    b.done()
    return sums


def _spectra(matching: Matching) -> dict[str, tuple[float, float]]:
    """Spectral norm and effective rank of the update of every matrix."""
    return {
        name: _spectrum(matching.base.tensors[name], matching.target.tensors[there])
        for name, there in matching.in_target.items()
        if len(matching.base.tensors[name].shape) > 1
    }


def _spectrum(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Spectral norm and effective rank of b - a, rows by all other axes."""
    step = (b.whole().reshape(b.shape) - a.whole().reshape(b.shape)).reshape(b.shape[0], -1)
    values = np.linalg.svd(step, compute_uv=False)
    total = float(values.sum())
    if total == 0:
        return 0.0, 0.0
    shares = values[values > 0] / total
    return float(values[0]), float(np.exp(-np.sum(shares * np.log(shares))))
