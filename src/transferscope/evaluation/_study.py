"""How metrics compare: beyond agreement, over parts of encoders and samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np

from transferscope.evaluation._agreement import FEWEST, evaluate
from transferscope.evaluation._measures import measure_draws
from transferscope.evaluation._tables import Accuracies, Scores
from transferscope.results import (
    ALIKE,
    ALL,
    SMALLER,
    WITHOUT,
    Agreement,
    MetricStudy,
    Robustness,
    SamplePoint,
)

#: The baseline that knows how encoders did elsewhere, and nothing of the data set.
ELSEWHERE = "other_datasets"
#: What part of the encoders "the largest" are, and how many groups of like size there are.
LARGEST, N_SIZES = 4, 3


def study_metrics(
    scores: Scores,
    accuracy: Accuracies,
    *,
    sizes: Mapping[str, float] | None = None,
    by_samples: Mapping[int, Scores] | None = None,
    seed: int = 0,
) -> MetricStudy:
    """Measure how well scores foresee fine-tuned accuracy, and how far that holds.

    Parameters
    ----------
    scores : mapping of data set to metric to encoder to float
        Baselines among them. One more is added: ``other_datasets``, the mean rank by accuracy on
        the other data sets, as a fixed list of encoders that has seen no result on this one.
    accuracy : mapping of data set to encoder to float
    sizes : mapping of encoder to float, optional
        Parameters of the encoders, for what holds when size does not count.
    by_samples : mapping of int to scores, optional
        The same scores, computed of so many samples of each data set.
    seed : int
        Of the resampling.

    Returns
    -------
    MetricStudy

    Raises
    ------
    InputError
        As `evaluate`.

    Examples
    --------
    >>> from transferscope.evaluation import study_metrics
    >>> accuracy = {"a": {"x": 0.7, "y": 0.8, "z": 0.9, "w": 0.6}}
    >>> scores = {"a": {"knn": {"x": 0.2, "y": 0.5, "z": 0.6, "w": 0.3}}}
    >>> found = study_metrics(scores, accuracy)
    >>> low, high = found.leaving_one_out("knn")
    >>> high, low < high
    (1.0, True)
    """
    together = _with_elsewhere(scores, accuracy)
    agreement = evaluate(together, accuracy, seed=seed)
    curves: list[SamplePoint] = []
    for n, part in sorted((by_samples or {}).items()):
        curves += _points(evaluate(part, accuracy, seed=seed), n)
    measured = {one.metric for one in curves}  # baselines depend on no samples
    curves += [one for one in _points(agreement, None) if one.metric in measured]
    metrics = list(agreement.average)
    return MetricStudy(
        agreement,
        tuple(_robustness(agreement, sizes or {})),
        {a: {b: _correlation(agreement, a, b) for b in metrics} for a in metrics},
        tuple(curves),
    )


def _with_elsewhere(scores: Scores, accuracy: Accuracies) -> Scores:
    """Scores with the order of the encoders on the other data sets beside them."""
    together = {}
    for dataset, found in scores.items():
        ranks: dict[str, list[float]] = {}
        for other, row in accuracy.items():
            if other == dataset or len(row) < FEWEST:
                continue
            names, values = list(row), np.array(list(row.values()))
            # share of the others that it beats, a tie being half of one
            beats = (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) - 1) / 2
            for name, share in zip(names, beats / (len(names) - 1), strict=True):
                ranks.setdefault(name, []).append(float(share))
        fixed = {e: float(np.mean(ranks[e])) for e in accuracy.get(dataset, {}) if e in ranks}
        together[dataset] = {**found, **({ELSEWHERE: fixed} if len(fixed) >= FEWEST else {})}
    return together


def _points(agreement: Agreement, n_samples: int | None) -> list[SamplePoint]:
    taus = {metric: found["weighted_tau"] for metric, found in agreement.average.items()}
    return [SamplePoint(m, n_samples, tau.value, tau.low, tau.high) for m, tau in taus.items()]


def _robustness(agreement: Agreement, sizes: Mapping[str, float]) -> Iterable[Robustness]:
    encoders = list(dict.fromkeys(e for row in agreement.accuracy.values() for e in row))
    cases: dict[str, list[set[str]]] = {ALL: [set(encoders)]}
    sized = sorted((e for e in encoders if e in sizes), key=lambda e: sizes[e])
    if len(sized) > FEWEST:
        largest = set(sized[len(sized) - math.ceil(len(sized) / LARGEST) :])
        cases[SMALLER] = [set(encoders) - largest]
        groups = [set(part.tolist()) for part in np.array_split(np.array(sized), N_SIZES)]
        cases[ALIKE] = groups
    cases |= {f"{WITHOUT}{e}": [set(encoders) - {e}] for e in encoders}
    for (case, groups), metric in itertools.product(cases.items(), agreement.average):
        taus = [
            tau
            for dataset, group in itertools.product(agreement.per_dataset, groups)
            if (tau := _tau(agreement, dataset, metric, group)) is not None
        ]
        value = float(np.mean(taus)) if taus else None
        yield Robustness(case, metric, value, len(set().union(*groups)))


def _tau(agreement: Agreement, dataset: str, metric: str, group: set[str]) -> float | None:
    """Weighted tau of a metric over some of the encoders; None where it is undefined."""
    row, truth = agreement.scores[dataset].get(metric, {}), agreement.accuracy[dataset]
    both = [e for e in row if e in truth and e in group]
    return _measured([row[e] for e in both], [truth[e] for e in both], "weighted_tau")


def _correlation(agreement: Agreement, first: str, second: str) -> float | None:
    found = []
    for rows in agreement.scores.values():
        a, b = rows.get(first, {}), rows.get(second, {})
        both = [e for e in a if e in b]
        value = _measured([a[e] for e in both], [b[e] for e in both], "spearman")
        found += [] if value is None else [value]
    return float(np.mean(found)) if found else None


def _measured(first: list[float], second: list[float], measure: str) -> float | None:
    if len(first) < FEWEST:
        return None
    once = np.ones((1, len(first)), dtype=int)
    value = float(measure_draws(np.array(first), np.array(second), once)[measure][0])
    return value if math.isfinite(value) else None
