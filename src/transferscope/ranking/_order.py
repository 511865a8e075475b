"""The candidates in order: ranked by which metrics, with intervals, ties and advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from transferscope.datasets import Dataset
from transferscope.metrics import Metric
from transferscope.ranking._candidates import Candidate
from transferscope.ranking._resampling import Resampled, resample
from transferscope.results import DatasetSummary, EncoderResult, Ranking


def order_candidates(
    data: Dataset, candidates: Sequence[Candidate], metrics: Sequence[Metric], seed: int
) -> Ranking:
    """Put the candidates in order, with intervals, probabilities and advice.

    Parameters
    ----------
    data : Dataset
    candidates : sequence of Candidate
    metrics : sequence of Metric
    seed : int
        Of the resampling.

    Returns
    -------
    Ranking
    """
    about = DatasetSummary(
        name=data.name,
        split=data.split,
        task=data.require_labels()[0],
        n_samples=len(data),
        n_classes=data.n_classes,
        n_skipped=len(data.skipped),
        fingerprint=data.fingerprint,
        notes=data.notes,
    )
    scored = [c for c in candidates if not c.failed]
    failed = [c.result for c in candidates if c.failed]
    by, scored, without = _common_metrics(scored, metrics)
    if not scored:
        advice = "Nothing could be ranked: see the error of each encoder."
        return Ranking(about, "nothing", tuple(without + failed), advice, seed)
    names = [m.name for m in metrics if any(m.name in c.result.scores for c in scored)]
    zeros = np.zeros(len(next(iter(scored[0].influences.values()))))
    resampled = resample(
        {n: np.array([_value(c.result, n) for c in scored]) for n in names},
        {n: np.stack([c.influences.get(n, zeros) for c in scored], axis=1) for n in names},
        len(data),
        by,
        seed,
    )
    rows = _rows([c.result for c in scored], resampled, by)
    ranked_by = by[0] if len(by) == 1 else f"consensus of {', '.join(by)}"
    return Ranking(about, ranked_by, (*rows, *without, *failed), _advice(rows), seed)


def _value(result: EncoderResult, metric: str) -> float:
    return result.scores[metric].value if metric in result.scores else float("nan")


def _common_metrics(
    scored: Sequence[Candidate], metrics: Sequence[Metric]
) -> tuple[list[str], list[Candidate], list[EncoderResult]]:
    """The metrics that rank, the candidates that have them all, and those that have none of them.

    Metrics that every candidate has; where there are none, the one that most candidates have.
    """
    if not scored:
        return [], [], []
    counts = {m.name: sum(m.name in c.result.scores for c in scored) for m in metrics}
    common = [name for name, count in counts.items() if count == len(scored)]
    if common:
        return common, list(scored), []
    most = max(counts, key=lambda name: counts[name])
    having = [c for c in scored if most in c.result.scores]
    without = [
        replace(c.result, error=f"no score by {most}: {c.result.skipped[most]}")
        for c in scored
        if most not in c.result.scores
    ]
    return [most], having, without


def _rows(
    results: Sequence[EncoderResult], resampled: Resampled, by: Sequence[str]
) -> list[EncoderResult]:
    """The results in order, with rank, intervals and probabilities."""
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
    """What to do, in one or two sentences."""
    best = rows[0]
    tied = [row for row in rows[1:] if row.tied_with_best]
    if len(rows) == 1:
        return f"{best.encoder} was the only encoder that could be scored: nothing to choose from."
    if not tied:
        return f"Fine-tune {best.encoder}: on these data no other encoder comes near it."
    names = ", ".join(row.encoder for row in tied)
    advice = f"Fine-tune {best.encoder}. These data cannot tell it from: {names}."
    speed = best.samples_per_second
    faster = [row for row in tied if speed and (row.samples_per_second or 0) > 1.2 * speed]
    if speed and faster:
        fastest = max(faster, key=lambda row: row.samples_per_second or 0)
        times = (fastest.samples_per_second or 0) / speed
        advice += f" Of these {fastest.encoder} runs {times:.1f} times as fast."
    return advice
