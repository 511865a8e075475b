"""`expect`: what is expected of encoders on the user's task."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from transferscope.errors import InputError
from transferscope.evaluation import accuracy_table, read_accuracy
from transferscope.knowledge._conditioning import Cells, Expected, condition
from transferscope.knowledge._model import KINDS
from transferscope.knowledge._names import Candidates
from transferscope.knowledge._tables import MODALITIES, KnownEncoder
from transferscope.results import Expectation, ExpectedEncoder

if TYPE_CHECKING:
    import pandas as pd

    from transferscope.evaluation import Accuracies

#: An encoder is sufficient within this much of the best expected accuracy.
SUFFICIENT = 0.01


def expect(
    measured: Mapping[str, float] | None = None,
    *,
    modality: Literal["image", "text"],
    encoders: Sequence[str] | None = None,
    kind: Literal["probe", "fine-tuned"] = "probe",
    history: str | os.PathLike[str] | Accuracies | pd.DataFrame | None = None,
    seed: int = 0,
) -> Expectation:
    """What accuracy to expect of encoders on your task, from published results.

    Parameters
    ----------
    measured : mapping of str to float, optional
        Accuracies on your task of encoders that you have tried, as shares.
    modality : {"image", "text"}
    encoders : sequence of str, optional
        Which encoders; all known ones of the modality, without the bundled ones, and those that
        were measured if not given. The same weights under another name are recognised.
    kind : {"probe", "fine-tuned"}
        What accuracy means: of a linear head on frozen features, or after fine-tuning.
    history : path, mapping of data set to encoder to float, or DataFrame, optional
        Your results on other data sets, as shares; a file is one that ``finetune --csv`` writes.
        Tasks of one user are taken to be more alike than published ones, so they count for more.
    seed : int
        Of the joint draws behind ``p_best`` and ``expected_regret``.

    Returns
    -------
    Expectation
        Encoders in the order of their expected accuracy.

    Raises
    ------
    UnknownNameError
        If an encoder is unknown and of no known family, or of the other modality.
    InputError
        If an accuracy is outside 0 to 1, an encoder is named twice, or nothing is left.

    Notes
    -----
    An encoder i measured on task t is modelled as
    ``logit(accuracy) = a_t + s_t (w_i0 + w_i · f_t + e_it)``: a level and a spread of the task, the
    encoder's standing and loadings, the task's factors, and what only this encoder has on this
    task. Level, spread and factors of your task are unknown; their priors are those of published
    tasks, and what you measured narrows them. Encoders of which nothing was published have the
    standing and loadings that their facts predict, with all the doubt of that.

    Examples
    --------
    >>> import transferscope
    >>> found = transferscope.expect({"hf/BAAI/bge-small-en-v1.5": 0.83}, modality="text")
    >>> found["hf/BAAI/bge-small-en-v1.5"].measured
    0.83
    >>> found.next.measured is None  # the encoder to measure next
    True
    """
    if modality not in MODALITIES:
        raise InputError(f"modality must be one of {', '.join(MODALITIES)}; got {modality!r}.")
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    candidates = Candidates(modality)
    tried = _cells(candidates, dict(measured or {}), "measured")
    before = [_cells(candidates, row, f"history, {name}") for name, row in _tables(history)]
    wanted = _wanted(candidates, encoders, tried)
    if not wanted:
        raise InputError(
            "encoders must name at least one encoder; it is empty. Leave it out for all known ones."
        )
    # whoever was measured informs, wanted or not
    rows = list(dict.fromkeys([*wanted, *tried.rows, *(r for c in before for r in c.rows)]))
    place = {row: i for i, row in enumerate(rows)}

    def local(cells: Cells) -> Cells:
        return Cells(np.array([place[r] for r in cells.rows], int), cells.values)

    found = condition(
        candidates.model.take(np.array(rows)),
        KINDS.index(kind),
        local(tried),
        [local(cells) for cells in before],
        seed=seed,
        among=len(wanted),
    )
    known = [candidates.encoders[row] for row in wanted]
    return Expectation(
        modality,
        kind,
        tuple(_describe(known, found, dict(zip(tried.rows, tried.values, strict=True)), wanted)),
        len(tried.rows),
        tuple(dict.fromkeys(candidates.remarks)),
        seed,
    )


def _tables(
    history: str | os.PathLike[str] | Accuracies | pd.DataFrame | None,
) -> Iterable[tuple[str, Mapping[str, float]]]:
    if history is None:
        return []
    if isinstance(history, str | os.PathLike):
        history = read_accuracy(history)
    return accuracy_table(history).items()


def _cells(candidates: Candidates, row: Mapping[str, float], argument: str) -> Cells:
    """Measured accuracies as rows and values, checked."""
    names: dict[int, str] = {}
    for name, value in row.items():
        if not isinstance(value, int | float | np.number) or not 0 <= float(value) <= 1:
            percent = isinstance(value, int | float) and 1 < value <= 100
            hint = "Divide percent by 100" if percent else "Correct it, or leave it out"
            raise InputError(
                f"accuracies of {argument} must be shares from 0 to 1; that of {name} is {value}. "
                f"{hint}."
            )
        at = candidates.row(name, argument)
        if at in names:
            raise InputError(
                f"{argument} must name each encoder once; {names[at]} and {name} are the same "
                "weights. Remove one."
            )
        names[at] = name
    return Cells(np.array(list(names), int), np.array([float(v) for v in row.values()]))


def _wanted(candidates: Candidates, encoders: Sequence[str] | None, tried: Cells) -> list[int]:
    if encoders is None:
        return [i for i, one in enumerate(candidates.encoders) if one.usual or i in tried.rows]
    if isinstance(encoders, str):
        raise InputError(
            f"encoders must be a sequence of names; got the text {encoders!r}. Put it in a list."
        )
    rows: dict[int, str] = {}
    for name in encoders:
        at = candidates.row(name, "encoders")
        if at in rows:
            candidates.remarks.append(f"{rows[at]} and {name} are the same weights; listed once.")
        rows.setdefault(at, name)
    return list(rows)


def _describe(
    known: Sequence[KnownEncoder],
    found: Expected,
    measured: Mapping[int, float],
    rows: Sequence[int],
) -> Iterable[ExpectedEncoder]:
    low, high = found.interval(0.9)
    order = sorted(range(len(known)), key=lambda i: (-found.mean[i], known[i].name))
    smallest = math.inf
    cheapest = set()
    for i in order:
        size = known[i].n_parameters
        if (
            size is not None
            and size < smallest
            and found.mean[order[0]] - found.mean[i] <= SUFFICIENT
        ):
            smallest = size
            cheapest.add(i)
    for i in order:
        one = known[i]
        value = float(measured[rows[i]]) if rows[i] in measured else None
        yield ExpectedEncoder(
            encoder=one.name,
            mean=float(found.mean[i]),
            sd=float(found.sd[i]),
            low=float(low[i]) if value is None else value,
            high=float(high[i]) if value is None else value,
            p_best=float(found.p_best[i]),
            expected_regret=float(found.regret[i]),
            expected_improvement=float(found.improvement[i]),
            measured=value,
            n_results=one.n_results,
            sources=one.sources,
            n_parameters=one.n_parameters,
            feature_dim=one.feature_dim,
            input_size=one.input_size,
            download_mb=one.download_mb,
            gpu_speed=one.gpu_speed,
            cpu_speed=one.cpu_speed,
            license=one.license,
            released=one.released,
            pretraining=one.pretraining,
            open_weights=one.open_weights,
            cheapest=i in cheapest,
            reason=_reason(one, value),
        )


def _reason(one: KnownEncoder, measured: float | None) -> str:
    if measured is not None:
        return "measured on this task"
    if not one.loadable:
        return f"{one.n_results} published results; a service, or weights not known to be open"
    if one.n_results:
        return f"{one.n_results} published results"
    if "imagenet" in one.accuracies:
        return f"ImageNet accuracy {one.accuracies['imagenet']:.3f}; no results on other tasks"
    if one.n_parameters:
        return "known by its facts alone"
    return f"known by its family alone, {one.family}"
