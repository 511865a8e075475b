"""The measured encoders in order of their scores, with intervals and ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from transferscope.metrics import Metric
from transferscope.numerics.arrays import NumpyArray
from transferscope.ranking._measured import Measured
from transferscope.ranking._resampling import Resampled, intervals, resample
from transferscope.results import EncoderResult, Score


def order_by_scores(
    measured: Sequence[Measured], metrics: Sequence[Metric], n_samples: int, seed: int
) -> tuple[list[EncoderResult], str]:
    """Put encoders in the order of the mean of their ranks by the metrics that all have.

    Parameters
    ----------
    measured : sequence of Measured
        None of them failed.
    metrics : sequence of Metric
    n_samples : int
        Size of the data set.
    seed : int
        Of the resampling.

    Returns
    -------
    rows : list of EncoderResult
        Best first, those without a score by a common metric last.
    ranked_by : str
    """
    by, scored, without = _common_metrics(measured, metrics)
    if not scored:
        return without, "nothing"
    resampled = resample(*_tables(scored, metrics), n_samples, by, seed)
    ranked_by = by[0] if len(by) == 1 else f"consensus of {', '.join(by)}"
    return [*_rows([one.result for one in scored], resampled, by), *without], ranked_by


def with_intervals(
    measured: Sequence[Measured], metrics: Sequence[Metric], seed: int
) -> dict[str, EncoderResult]:
    """The encoders with an interval of each score; those of equally many samples together.

    Parameters
    ----------
    measured : sequence of Measured
        None of them failed.
    metrics : sequence of Metric
    seed : int
        Of the resampling.

    Returns
    -------
    dict of str to EncoderResult
        By name.
    """
    found = {one.result.encoder: one.result for one in measured}
    for size in sorted({one.n_samples for one in measured}):
        scored = [one for one in measured if one.n_samples == size and one.result.scores]
        if not scored:
            continue
        low, high = intervals(*_tables(scored, metrics), size, seed)
        for i, one in enumerate(scored):
            scores = _scores(one.result, low, high, i)
            found[one.result.encoder] = replace(one.result, scores=scores)
    return found


def _tables(
    scored: Sequence[Measured], metrics: Sequence[Metric]
) -> tuple[dict[str, NumpyArray], dict[str, NumpyArray]]:
    """Values (k,) and influences (m, k) of each metric that any of k encoders has."""
    names = [m.name for m in metrics if any(m.name in one.result.scores for one in scored)]
    zeros = np.zeros(len(next(iter(scored[0].influences.values()))))
    return (
        {n: np.array([_value(one.result, n) for one in scored]) for n in names},
        {n: np.stack([one.influences.get(n, zeros) for one in scored], axis=1) for n in names},
    )


def _value(result: EncoderResult, metric: str) -> float:
    return result.scores[metric].value if metric in result.scores else float("nan")


def _common_metrics(
    scored: Sequence[Measured], metrics: Sequence[Metric]
) -> tuple[list[str], list[Measured], list[EncoderResult]]:
    """The metrics that rank, the encoders that have them all, and those that have none of them.

    Metrics that every encoder has; where there are none, the one that most encoders have.
    """
    if not scored:
        return [], [], []
    counts = {m.name: sum(m.name in one.result.scores for one in scored) for m in metrics}
    common = [name for name, count in counts.items() if count == len(scored)]
    if common:
        return common, list(scored), []
    most = max(counts, key=lambda name: counts[name])
    having = [one for one in scored if most in one.result.scores]
    without = [
        replace(one.result, error=f"no score by {most}: {one.result.skipped.get(most, 'none')}")
        for one in scored
        if most not in one.result.scores
    ]
    return ([most] if having else []), having, without


def _scores(
    result: EncoderResult, low: Mapping[str, NumpyArray], high: Mapping[str, NumpyArray], i: int
) -> dict[str, Score]:
    """The scores of the i-th encoder, with their intervals."""
    return {
        name: replace(score, low=float(low[name][i]), high=float(high[name][i]))
        for name, score in result.scores.items()
    }


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
        scores = _scores(results[i], resampled.low, resampled.high, i)
        for name in scores.keys() - set(by):
            note = "not in the consensus: some encoders have no such score"
            scores[name] = replace(scores[name], warnings=(*scores[name].warnings, note))
        rows.append(
            replace(
                results[i],
                rank=rows[-1].rank if same else place + 1,
                scores=scores,
                p_best=float(resampled.p_best[i]),
                in_group=bool(resampled.tied[i]) or place == 0,
            )
        )
    return rows
