"""Rank pre-trained encoders for a data set: extract, score, and say how sure that is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from transferscope.datasets import Dataset, RequestedTask, open_dataset, open_reference
from transferscope.encoders import POOLED, Encoder, expand_encoders
from transferscope.errors import FeatureError, InputError
from transferscope.extraction import Extracted, Layers, ProgressCallback, extract
from transferscope.metrics import (
    DEFAULT_METRICS,
    Metric,
    combine,
    measure_all,
    parse_metrics,
    why_not,
    with_parts,
)
from transferscope.numerics import arrays
from transferscope.ranking._resampling import Resampled, resample
from transferscope.results import DatasetSummary, EncoderResult, Ranking, Score
from transferscope.storage.feature_store import FeatureStore

if TYPE_CHECKING:
    from torch import nn


@dataclass
class _Candidate:
    """An encoder's row in the making."""

    result: EncoderResult
    influences: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


def rank(
    dataset: Any,
    encoders: str | Encoder | nn.Module | Sequence[str | Encoder | nn.Module],
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    *,
    layers: str | Sequence[int] = "last",
    reference: Any = None,
    store: FeatureStore | str | os.PathLike[str] | None = None,
    keep_features: bool = True,
    split: str | None = None,
    label_column: str | None = None,
    input_column: str | None = None,
    task: RequestedTask | None = None,
    max_samples: int | None = None,
    per_class: int | None = None,
    skip_unreadable: bool = False,
    batch_size: int = 64,
    device: str | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Ranking:
    """Rank pre-trained encoders by how well they are expected to transfer to a data set.

    Each encoder sees the data once. Its features are kept in the store, so that a run that was
    interrupted continues, and one with more encoders or metrics computes only what is new.

    Parameters
    ----------
    dataset : str, Path, Dataset or other object
        An image folder, ``.npz``, ``.csv``, ``.parquet``, ``hf/<id>``, ``sklearn/digits``, or a
        Python object; see `open_dataset`.
    encoders : str, Encoder, or sequence of these
        Such as ``"mini/all"`` or ``["timm/resnet18", "hf/facebook/dinov2-base"]``; several names
        may be joined by commas. See ``transferscope.encoders``.
    metrics : str or sequence of str
        Names from ``transferscope.list_metrics()``, or ``"all"``. Those that compare encoders
        (`ncti`, `etran`) are put together from their parts, which are scaled over the candidates.
    layers : str or sequence of int
        Which layer's features are scored: ``"last"``, as the encoder pools it; ``"mean"`` of all
        numbered layers; or each of several, all in one pass: ``"all"``, ``"best"``, or numbers such
        as ``"3,6,-1"``. An encoder with several is ranked by the one of the best mean rank over the
        metrics, and ``EncoderResult.layers`` holds the scores of each. The choice is made on the
        same data: it flatters encoders with many layers a little.
    reference : str, Path, Dataset or other object, optional
        A data set close to what the encoders were pre-trained on, or a corpus: a table without
        labels. Each encoder's features of it set the scale of PED, and are what `frechet`, and with
        labels `otce` and `ot_nce`, compare with. Columns are named as those of `dataset`, where it
        has such, and else recognised.
    store : FeatureStore or path, optional
        Where features are kept; by default the user's cache folder.
    keep_features : bool
        False: features are not stored but stream through, for data larger than disk or memory.
        What looks at single samples then uses a stratified sample of 5 000.
    split, label_column, input_column, task, max_samples, per_class, skip_unreadable
        Which part of the data set, see `open_dataset`.
    batch_size : int
        Samples per forward pass, at most 512; of texts fewer, see `extract`.
    device : str, optional
        ``"cpu"``, ``"cuda"``, ...; by default a GPU where there is one. Encoders that are given as
        objects are moved there.
    seed : int
        Of subsampling and resampling; the same seed gives the same ranking.
    progress : callable, optional
        Called as ``progress(text, done, total)`` while it works.

    Returns
    -------
    Ranking
        Best first: ranked by the mean of the metrics' ranks (``consensus``), with a 95 % interval
        for every score, and for every encoder the probability of being best and whether the data
        can tell it from the first. An encoder that failed stands last, with its error.

    Raises
    ------
    DatasetError
        If the data set cannot be read; what was extracted before stays in the store.
    UnknownNameError
        If there is no encoder or metric of a name.
    InputError
        If `layers` is none of the above.
    StoreError
        If the store cannot be written.
    MissingExtraError
        If torch is not installed.

    Examples
    --------
    >>> import transferscope
    >>> ranking = transferscope.rank(
    ...     "sklearn/digits", "mini/resnet-mnist-supervised,mini/resnet-random",
    ...     metrics="logme,knn", per_class=20, keep_features=False)
    >>> ranking.best.encoder
    'mini/resnet-mnist-supervised'
    """
    chosen = parse_metrics(metrics)
    wanted = _parse_layers(layers)
    specs = expand_encoders(encoders)
    if progress is not None:
        progress("reading the data set", 0, 0)
    data = open_dataset(
        dataset,
        split=split,
        label_column=label_column,
        input_column=input_column,
        task=task,
        max_samples=max_samples,
        per_class=per_class,
        seed=seed,
        skip_unreadable=skip_unreadable,
    )
    if not keep_features:
        store = None
    elif not isinstance(store, FeatureStore):
        store = FeatureStore(store)
    measured = with_parts(chosen)
    candidates: list[_Candidate] = []
    run = partial(
        extract,
        encoders=specs,
        store=store,
        layers=wanted,
        batch_size=batch_size,
        device=device,
        seed=seed,
        progress=progress,
    )
    beside: Iterable[Extracted | None] = repeat(None)
    if reference is not None:
        columns = {"label_column": label_column, "input_column": input_column}
        beside = list(run(open_reference(reference, **columns)))
    for item, its_reference in zip(run(data), beside, strict=False):
        if progress is not None:
            progress(f"scoring {item.identifier}", len(candidates), len(specs))
        candidates.append(_measured(item, its_reference, measured, seed))
        item.sinks = {}  # its features are no longer needed
    _compare([c for c in candidates if c.result.error is None], chosen)
    return _ranked(data, candidates, chosen, seed)


def _measured(
    item: Extracted, reference: Extracted | None, metrics: Sequence[Metric], seed: int
) -> _Candidate:
    """Score one encoder; what goes wrong becomes its error."""
    facts = EncoderResult(
        encoder=item.identifier,
        n_parameters=item.n_parameters,
        feature_dim=item.feature_dim,
        input_size=item.input_size,
        samples_per_second=item.samples_per_second,
        error=item.error,
    )
    if item.error is not None:
        return _Candidate(facts)
    found: dict[str, _Candidate] = {}
    for layer in item.sinks:
        found[layer] = _measured_layer(facts, item, layer, reference, metrics, seed)
    alive = {layer: one for layer, one in found.items() if one.result.error is None}
    if not alive:
        return next(iter(found.values()))
    best = _best_layer({layer: one.result.scores for layer, one in alive.items()})
    chosen = alive[best]
    warnings = item.warnings
    if len(found) > 1:
        warnings += tuple(
            f"no scores of {layer}: {one.result.error}"
            for layer, one in found.items()
            if one.result.error is not None
        )
        chosen.result = replace(
            chosen.result, layers={layer: one.result.scores for layer, one in alive.items()}
        )
    chosen.result = replace(
        chosen.result, layer=None if list(found) == [POOLED] else best, warnings=warnings
    )
    return chosen


def _measured_layer(
    facts: EncoderResult,
    item: Extracted,
    layer: str,
    reference: Extracted | None,
    metrics: Sequence[Metric],
    seed: int,
) -> _Candidate:
    scores: dict[str, Score] = {}
    influences: dict[str, npt.NDArray[Any]] = {}
    try:
        embedding = item.embedding(seed, reference, layer)
        facts = replace(facts, feature_dim=embedding.n_features)
        measured, skipped = measure_all(embedding, metrics)
        for name, (measurement, seconds) in measured.items():
            influence = arrays.to_numpy(measurement.influence())
            if np.isfinite(influence).all():
                scores[name] = Score(measurement.value, measurement.warnings, seconds)
                influences[name] = influence
            else:
                skipped[name] = "its uncertainty came out as NaN or infinity"
    except (FeatureError, MemoryError, np.linalg.LinAlgError) as error:
        return _Candidate(replace(facts, error=str(error) or "not enough memory to score it"))
    reason = None if scores else "; ".join(f"{name}: {why}" for name, why in skipped.items())
    return _Candidate(replace(facts, scores=scores, skipped=skipped, error=reason), influences)


def _best_layer(scores: dict[str, dict[str, Score]]) -> str:
    """The layer of the best mean rank over the metrics that all have; of equals the deepest."""
    common = set.intersection(*(set(those) for those in scores.values()))
    if not common:
        return list(scores)[-1]
    table = np.array([[scores[layer][name].value for name in sorted(common)] for layer in scores])
    mean_rank = rankdata(-table, axis=0).mean(axis=1)
    deepest = int(np.flatnonzero(mean_rank == mean_rank.min())[-1])
    return list(scores)[deepest]


def _parse_layers(layers: str | Sequence[int]) -> Layers:
    """What `extract` is asked for.

    Raises
    ------
    InputError
        If it is none of the words, and no list of numbers.
    """
    if layers in ("last", "mean", "all"):
        return layers  # type: ignore[return-value]
    if layers == "best":
        return "all"
    try:
        parts = layers.split(",") if isinstance(layers, str) else layers
        numbers = [int(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or 0 in numbers:
        raise InputError(
            "layers must be last, mean, best, all, or numbers from 1 (-1 is the last) with commas "
            f"between; got {layers!r}. Choose one of these."
        )
    return numbers


def _compare(alive: Sequence[_Candidate], metrics: Sequence[Metric]) -> None:
    """Add the metrics that compare encoders, and let go of parts that nobody asked for."""
    scores = [dict(c.result.scores) for c in alive]
    skipped = [dict(c.result.skipped) for c in alive]
    for metric in metrics:
        if not metric.parts:
            continue
        together = combine(metric, [(c.result.scores, c.influences) for c in alive])
        for i, one in enumerate(together):
            if one is None:
                skipped[i][metric.name] = why_not(metric, scores[i], skipped[i])
            else:
                scores[i][metric.name], alive[i].influences[metric.name] = one
    names = [metric.name for metric in metrics]
    for i, candidate in enumerate(alive):
        candidate.result = replace(
            candidate.result,
            scores={name: scores[i][name] for name in names if name in scores[i]},
            skipped={name: skipped[i][name] for name in names if name in skipped[i]},
            layers={
                layer: {name: those[name] for name in names if name in those}
                for layer, those in candidate.result.layers.items()
            },
        )


def _ranked(
    data: Dataset, candidates: Sequence[_Candidate], metrics: Sequence[Metric], seed: int
) -> Ranking:
    """Put the candidates in order, with intervals, probabilities and advice."""
    about = DatasetSummary(
        name=data.name,
        split=data.split,
        task=data.task,
        n_samples=len(data),
        n_classes=data.n_classes,
        n_skipped=len(data.skipped),
        fingerprint=data.fingerprint,
    )
    alive = [c for c in candidates if c.result.error is None]
    failed = [c.result for c in candidates if c.result.error is not None]
    by, alive, left_out = _common_metrics(alive, metrics)
    if not alive:
        advice = "Nothing could be ranked: see the error of each encoder."
        return Ranking(about, "nothing", tuple(left_out + failed), advice, seed)
    names = [m.name for m in metrics if any(m.name in c.result.scores for c in alive)]
    nothing = np.zeros(len(next(iter(alive[0].influences.values()))))
    resampled = resample(
        {n: np.array([_value(c.result, n) for c in alive]) for n in names},
        {n: np.stack([c.influences.get(n, nothing) for c in alive], axis=1) for n in names},
        len(data),
        by,
        seed,
    )
    rows = _rows([c.result for c in alive], resampled, by)
    ranked_by = by[0] if len(by) == 1 else f"consensus of {', '.join(by)}"
    return Ranking(about, ranked_by, (*rows, *left_out, *failed), _advice(rows), seed)


def _value(result: EncoderResult, metric: str) -> float:
    return result.scores[metric].value if metric in result.scores else float("nan")


def _common_metrics(
    alive: Sequence[_Candidate], metrics: Sequence[Metric]
) -> tuple[list[str], list[_Candidate], list[EncoderResult]]:
    """The metrics that rank, the candidates that have them all, and those that have none of them.

    Metrics that every candidate has; where there are none, the one that most candidates have.
    """
    if not alive:
        return [], [], []
    how_many = {m.name: sum(m.name in c.result.scores for c in alive) for m in metrics}
    common = [name for name, count in how_many.items() if count == len(alive)]
    if common:
        return common, list(alive), []
    most = max(how_many, key=lambda name: how_many[name])
    with_it = [c for c in alive if most in c.result.scores]
    without = [
        replace(c.result, error=f"no score by {most}: {c.result.skipped[most]}")
        for c in alive
        if most not in c.result.scores
    ]
    return [most], with_it, without


def _rows(
    results: Sequence[EncoderResult], resampled: Resampled, by: Sequence[str]
) -> list[EncoderResult]:
    order = sorted(
        range(len(results)),
        key=lambda i: (resampled.mean_rank[i], -resampled.p_best[i], results[i].encoder),
    )
    rows: list[EncoderResult] = []
    for place, i in enumerate(order):
        same = place > 0 and resampled.mean_rank[i] == resampled.mean_rank[order[place - 1]]
        scores = {}
        for name, score in results[i].scores.items():
            warnings = score.warnings
            if name not in by:
                warnings = (*warnings, "not in the consensus: some encoders have no such score")
            scores[name] = replace(
                score,
                low=float(resampled.low[name][i]),
                high=float(resampled.high[name][i]),
                warnings=warnings,
            )
        rows.append(
            replace(
                results[i],
                rank=rows[-1].rank if same else place + 1,
                scores=scores,
                p_best=float(resampled.p_best[i]),
                tied_with_best=bool(resampled.tied[i]) and place > 0,
            )
        )
    return rows


def _advice(rows: Sequence[EncoderResult]) -> str:
    best = rows[0]
    tied = [row for row in rows[1:] if row.tied_with_best]
    if len(rows) == 1:
        return f"{best.encoder} was the only encoder that could be scored: nothing to choose from."
    if not tied:
        return f"Fine-tune {best.encoder}: on these data no other encoder comes near it."
    names = ", ".join(row.encoder for row in tied)
    advice = f"Fine-tune {best.encoder}. These data cannot tell it from: {names}."
    cheaper = [
        row
        for row in tied
        if (row.samples_per_second or 0) > 1.2 * (best.samples_per_second or float("inf"))
    ]
    if cheaper:
        fastest = max(cheaper, key=lambda row: row.samples_per_second or 0)
        times = (fastest.samples_per_second or 0) / (best.samples_per_second or 1)
        advice += f" Of these {fastest.encoder} runs {times:.1f} times as fast."
    return advice
