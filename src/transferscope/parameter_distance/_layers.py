"""From sums of tensors to the records of layers and their summary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from transferscope.parameter_distance._blocks import HEAD
from transferscope.parameter_distance._initialisation import RandomWeights
from transferscope.parameter_distance._matching import Matching
from transferscope.parameter_distance._sums import Measure, Sums
from transferscope.results import LayerDistance, LayerDistances

Group = Literal["block", "parameter"]
#: A block whose weights moved by less than this share of their norm could have been frozen:
#: rounding to eight bits moves weights by about as much, and is known to cost next to nothing.
FREEZE_DRIFT = 0.01


@dataclass(frozen=True)
class TensorSums:
    """What was found of every tensor that was compared, by its name in the pre-trained weights.

    Attributes
    ----------
    from_pretrained : mapping of str to Sums
        Pre-trained against fine-tuned.
    from_random : mapping of str to list of Sums
        Every draw of the random weights against fine-tuned; empty where there is none.
    updates : mapping of str to (float, float)
        Spectral norm and effective rank of the update, where these were asked for.
    measure : str
    """

    from_pretrained: Mapping[str, Sums]
    from_random: Mapping[str, Sequence[Sums]]
    updates: Mapping[str, tuple[float, float]]
    measure: Measure

    def compared(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Those of the names that were compared, and those of them with random weights."""
        compared = [name for name in names if name in self.from_pretrained]
        return compared, [name for name in compared if self.from_random[name]]

    def distances(self, names: Sequence[str]) -> tuple[float | None, list[float]]:
        """D(θ_A, θ_B) of a layer and D(θ_r, θ_B) of every draw, over the tensors that have all."""
        near, far = [], []
        for name in names:
            sums = (self.from_pretrained[name], *self.from_random[name])
            distances = [s.distance(self.measure) for s in sums]
            defined = [d for d in distances if d is not None]
            if len(defined) == len(distances):
                near.append(defined[0])
                far.append(defined[1:])
        if not near:
            return None, []
        return sum(near) / len(near), [sum(column) / len(far) for column in zip(*far, strict=True)]


def summarise(
    sums: TensorSums, matching: Matching, initial: RandomWeights, group: Group
) -> LayerDistances:
    """The record of all layers.

    Parameters
    ----------
    sums : TensorSums
    matching : Matching
    initial : RandomWeights
    group : {"block", "parameter"}
        What a layer is.

    Returns
    -------
    LayerDistances
    """
    rows = matching.rows(group)
    layers = {row: _layer(row, names, sums, matching, initial) for row, names in rows.items()}
    heads = [row for row, names in rows.items() if matching.blocks[names[0]] == HEAD]
    body = [layer for row, layer in layers.items() if row not in heads]
    # every draw of the random weights gives one overall value
    draws = [_ratios(sums, rows[row.name]) for row in body if row.transferability is not None]
    overall = [sum(column) / len(column) for column in zip(*draws, strict=True)]
    value = _mean(overall)
    return LayerDistances(
        overall=value,
        overall_spread=_spread(overall),
        layers=tuple(layers.values()),
        head=tuple(heads),
        unmatched={kind: tuple(lines) for kind, lines in matching.unmatched.kinds.items()},
        measure=sums.measure,
        parameters=matching.parameters,
        random=initial.kind,
        freeze_threshold=FREEZE_DRIFT,
        notes=(
            *_notes_on_rows(body, has_head=bool(heads)),
            *_notes_on_random(matching, initial),
            *_notes_on_confusions(body, value),
        ),
    )


def _layer(
    row: str,
    names: Sequence[str],
    sums: TensorSums,
    matching: Matching,
    initial: RandomWeights,
) -> LayerDistance:
    compared, with_random = sums.compared(names)
    if not compared:
        return LayerDistance(row, reason=matching.unmatched.why[names[0]])
    near, far = sums.distances(with_random or compared)
    reason: str | None = None
    if near is None:
        reason = f"{sums.measure} of a tensor of zeros is undefined"
    elif initial.is_missing:
        reason = "no random initialisation was given"
    elif not with_random:
        reason = matching.unmatched.why[compared[0]]
    elif near == 0:
        reason = "did not move in fine-tuning: the ratio has no bound"
    ratios = [] if reason or not near else [distance / near for distance in far]
    whole = _whole([sums.from_pretrained[name] for name in compared])
    drift = math.sqrt(whole.squares / whole.a) if whole.a > 0 else None
    unlike = whole.distance("cosine")
    updates = [sums.updates[name] for name in compared if name in sums.updates]
    return LayerDistance(
        name=row,
        transferability=_mean(ratios),
        spread=_spread(ratios),
        distance_random=_mean(far),
        distance_pretrained=near,
        n_parameters=whole.n,
        drift=drift,
        cosine=None if unlike is None else 1 - unlike,
        spectral_norm=max(norm for norm, _ in updates) if updates else None,
        effective_rank=_mean([rank for _, rank in updates]),
        suggestion=_suggestion(drift, _mean(ratios)),
        reason=reason,
    )


def _whole(parts: Sequence[Sums]) -> Sums:
    """Sums of several tensors as of one."""
    return Sums(
        n=sum(part.n for part in parts),
        absolute=sum(part.absolute for part in parts),
        squares=sum(part.squares for part in parts),
        a=sum(part.a for part in parts),
        b=sum(part.b for part in parts),
    )


def _ratios(sums: TensorSums, names: Sequence[str]) -> list[float]:
    """Transferability of a layer that has one, of every draw of the random weights."""
    _, with_random = sums.compared(names)
    near, far = sums.distances(with_random)
    assert near
    return [distance / near for distance in far]


def _suggestion(drift: float | None, transferability: float | None) -> str | None:
    if drift is not None and drift < FREEZE_DRIFT:
        return "freeze"
    return "reset" if transferability is not None and transferability <= 1 else None


def _notes_on_rows(body: Sequence[LayerDistance], *, has_head: bool) -> Iterator[str]:
    absent = [layer.name for layer in body if layer.transferability is None]
    if 0 < len(absent) < len(body):
        yield (
            f"the overall value is over {len(body) - len(absent)} of {len(body)} layers; without "
            f"{', '.join(absent)}"
        )
    if not has_head:
        yield "no head was recognised: every layer counts; name it with head="


def _notes_on_random(matching: Matching, initial: RandomWeights) -> Iterator[str]:
    found = {name: initial.distributions.get(there) for name, there in matching.in_random.items()}
    as_drawn = [
        name
        for name, distribution in found.items()
        if distribution is not None and distribution.kind == "other"
    ]
    if as_drawn:
        yield (
            "neither uniform nor normal, so that one draw stands for the expectation: "
            f"{', '.join(as_drawn)}"
        )


def _notes_on_confusions(body: Sequence[LayerDistance], overall: float | None) -> Iterator[str]:
    """Checkpoints that may have been swapped, or given twice."""
    if overall is not None and overall <= 1:
        yield (
            "the random weights lie as close to the fine-tuned ones as the pre-trained do: were "
            "random and pre-trained swapped?"
        )
    if body and all(layer.distance_pretrained == 0 for layer in body if layer.n_parameters):
        yield "pre-trained and fine-tuned weights are equal: was one file given twice?"
    if any(layer.distance_random == 0 for layer in body):
        yield (
            "random and fine-tuned weights are equal in some layers: is the random file the "
            "fine-tuned one?"
        )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _spread(values: Sequence[float]) -> float | None:
    """Standard deviation over the draws; None of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
