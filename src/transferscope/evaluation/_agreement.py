"""Do scores agree with fine-tuned accuracy? Rank correlations, regret, intervals, paired tests.

One formula per measure serves the value and its bootstrap: every measure is a function of how often
each encoder was drawn, and the value is the draw that takes each of them once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from transferscope.errors import InputError, first_few
from transferscope.results import Agreement, Comparison, Estimate

Array = npt.NDArray[Any]
#: data set -> metric -> encoder -> score
Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
#: data set -> encoder -> fine-tuned accuracy
Accuracies = Mapping[str, Mapping[str, float]]

#: Fewer encoders cannot show agreement.
FEWEST = 3
#: Number of resampled zoos.
REPLICATES = 1_000
#: Width of the intervals, in percent.
CONFIDENCE = 95
#: Sign flips of the paired test: all of them up to 13 data sets, else this many drawn ones.
FLIPS = 2**13
#: The k of rel@k, recall@k and regret@k.
TOP = (1, 3)
#: Undefined when all scores, or all accuracies, are the same.
CORRELATIONS = ("weighted_tau", "kendall", "spearman", "pearson", "weighted_pearson")
#: Every measure, in the order shown; for all but regret higher is better.
MEASURES = (*CORRELATIONS, *(f"{name}@{k}" for name in ("rel", "recall", "regret") for k in TOP))


def evaluate(scores: Scores, accuracy: Accuracies, *, seed: int = 0) -> Agreement:
    """Measure how well scores foresee fine-tuned accuracy, per data set and on average.

    Parameters
    ----------
    scores : mapping of data set to metric to encoder to float
        Higher = expected to transfer better.
    accuracy : mapping of data set to encoder to float
        Accuracy after fine-tuning, in one unit throughout (percent or share); `regret@k` is in
        the same unit.
    seed : int
        Of the resampling.

    Returns
    -------
    Agreement
        ``result["aircraft", "logme"]["weighted_tau"].value``; ``result.average["logme"]``.

    Raises
    ------
    InputError
        If a value is NaN or infinite, an accuracy is negative, or no metric has three encoders in
        common with the accuracies on any data set.

    Notes
    -----
    Measures, with encoder i of score s_i and accuracy a_i:

    - ``weighted_tau`` (-1 to 1): `scipy.stats.weightedtau` with its defaults: pairs count
      ``1/(r_i + 1) + 1/(r_j + 1)``, ranks r from 0 for the best, ties broken by the other
      variable; the mean of ranking by score and by accuracy, so neither comes first.
    - ``kendall`` (tau-b), ``spearman``, ``pearson`` (-1 to 1).
    - ``weighted_pearson`` (-1 to 1): Pearson with weights ``1/r_i``, r_i the rank by accuracy from
      1 for the best; equal ones share their mean rank.
    - ``rel@k`` (0 to 1): best accuracy among the k highest scores over the best of all.
    - ``recall@k`` (0 or 1): whether an encoder of best accuracy is among the k highest scores.
    - ``regret@k`` (0 or more, lower is better): best of all minus best among the k highest scores.

    Equal scores are ordered against the metric: the less accurate first. So a constant score earns
    the worst `rel@k`, not one that hangs on the order of the rows.

    Each metric is measured on the encoders that have both a score and an accuracy; what is missing
    is said in `warnings`. The average is over the data sets where the measure is defined.

    Intervals are 95 % percentiles of 1 000 zoos: encoders are drawn with replacement, the same for
    all data sets and metrics; for averages data sets are drawn as well. Drawn twice, an encoder
    ties with itself, which no correlation counts. With fewer than ten encoders or five data sets
    such intervals are too narrow. Draws where a measure is undefined are left out.

    `comparisons` holds every pair of metrics: the difference of mean weighted tau over the data
    sets and encoders that both have, its interval by the same draws, and the p-value of a two-sided
    sign-flip permutation test over data sets (all ``2^D`` flips up to D = 13 data sets). The
    smallest possible p is ``2/2^D``: five data sets can never reach 0.05. Of many pairs some will
    look different by chance. The test takes the encoders as given and the data sets as independent;
    on the same encoders these agree with each other, so a small p beside an interval that holds 0
    says that the difference is of these encoders, and may not hold for others.

    Cost: O(replicates · n²) per data set and metric, n encoders; on one core 0.4 s for 5 metrics
    on 11 data sets of 12 encoders, 7.5 s for 10 metrics on 19 data sets of 120.

    References
    ----------
    S. Vigna. A weighted correlation index for rankings with ties. WWW 2015.
    Y. Li et al. Ranking neural checkpoints. CVPR 2021 (rel@k, recall@k).

    Examples
    --------
    >>> accuracy = {"pets": {"resnet": 90.0, "vit": 93.0, "swin": 92.0, "pvt": 88.0}}
    >>> scores = {"pets": {"logme": {"resnet": 0.2, "vit": 0.9, "swin": 0.5, "pvt": 0.1}}}
    >>> result = evaluate(scores, accuracy)
    >>> round(result["pets", "logme"]["weighted_tau"].value, 6)
    1.0
    >>> result["pets", "logme"]["regret@1"].value
    0.0
    """
    _check(scores, accuracy)
    datasets = [name for name in accuracy if name in scores]
    metrics = list(dict.fromkeys(m for name in datasets for m in scores[name]))
    encoders = list(dict.fromkeys(e for name in datasets for e in accuracy[name]))
    warnings = list(_absences(scores, accuracy))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(encoders), np.full(len(encoders), 1 / len(encoders)), REPLICATES)
    counts = np.concatenate([np.ones((1, len(encoders)), dtype=int), drawn])
    picks = rng.integers(0, len(datasets), size=(REPLICATES, len(datasets)))

    def known(dataset: str, metric: str) -> Array:
        own = scores[dataset].get(metric, {})
        return np.array([e in own and e in accuracy[dataset] for e in encoders])

    def measure(dataset: str, metric: str, at: Array) -> dict[str, Array]:
        names = [encoders[i] for i in np.flatnonzero(at)]
        values = np.array([scores[dataset][metric][e] for e in names], dtype=float)
        truth = np.array([accuracy[dataset][e] for e in names], dtype=float)
        return measure_draws(values, truth, counts[:, at])

    # (1 + replicates, data sets) per metric and measure; row 0 is the value, NaN where undefined
    table = {
        metric: {name: np.full((1 + REPLICATES, len(datasets)), np.nan) for name in MEASURES}
        for metric in metrics
    }
    per_dataset: dict[str, dict[str, dict[str, Estimate]]] = {name: {} for name in datasets}
    reasons: dict[str, dict[str, list[str]]] = {m: {name: [] for name in MEASURES} for m in metrics}
    use: dict[tuple[str, str], Array] = {}
    notes: dict[str, list[str]] = {}  # -> the data sets concerned
    for (d, dataset), metric in itertools.product(enumerate(datasets), metrics):
        if metric not in scores[dataset]:
            continue
        at = use[dataset, metric] = known(dataset, metric)
        n = int(at.sum())
        if n < FEWEST:
            why = f"fewer than three encoders have both ({n} of {len(accuracy[dataset])})"
            note = f"fewer than three encoders have a score of {metric} and an accuracy"
            notes.setdefault(f"{note}: nothing is measured", []).append(dataset)
            per_dataset[dataset][metric] = {name: Estimate(None, reason=why) for name in MEASURES}
            for name in MEASURES:
                reasons[metric][name].append(why)
            continue
        names = [encoders[i] for i in np.flatnonzero(at)]
        why = ""
        for what, column in (
            (f"scores of {metric}", scores[dataset][metric]),
            ("accuracies", accuracy[dataset]),
        ):
            different = len({column[encoder] for encoder in names})
            if different == 1:
                why = why or f"all {n} {what} are the same"
                note = f"all {what} are the same, correlations are undefined"
                notes.setdefault(note, []).append(dataset)
            elif different < n:
                notes.setdefault(f"ties among the {what}", []).append(dataset)
        measured = measure(dataset, metric, at)
        per_dataset[dataset][metric] = {}
        for name in MEASURES:
            table[metric][name][:, d] = measured[name]
            undefined = why or "the best accuracy is zero"
            if np.isnan(measured[name][0]):
                reasons[metric][name].append(undefined)
            per_dataset[dataset][metric][name] = _measured(
                measured[name][0], measured[name][1:], undefined
            )
    warnings += [f"{note} on {first_few(dict.fromkeys(where))}." for note, where in notes.items()]
    if all(at.sum() < FEWEST for at in use.values()):
        raise InputError(
            f"Agreement needs at least three encoders with a score and an accuracy on one data "
            f"set; of {len(use)} pairs of metric and data set none has them. Check that both "
            f"tables name encoders alike: accuracies know {first_few(encoders)}."
        )
    average = {}
    for metric in metrics:
        average[metric] = {
            name: _measured(
                _mean(table[metric][name][:1])[0],
                _mean(np.take_along_axis(table[metric][name][1:], picks, axis=1)),
                "undefined on every data set: " + "; ".join(dict.fromkeys(reasons[metric][name])),
            )
            for name in MEASURES
        }

    def on_common(metric: str, other: str) -> Array:
        """Weighted tau of `metric` on the encoders that both metrics have."""
        values = np.full((1 + REPLICATES, len(datasets)), np.nan)
        for d, dataset in enumerate(datasets):
            if (dataset, metric) not in use or (dataset, other) not in use:
                continue
            common = use[dataset, metric] & use[dataset, other]
            if np.array_equal(common, use[dataset, metric]):
                values[:, d] = table[metric]["weighted_tau"][:, d]
            elif common.sum() >= FEWEST:
                values[:, d] = measure(dataset, metric, common)["weighted_tau"]
        return values

    flips = _flips(len(datasets), rng)
    comparisons = []
    for first, second in itertools.combinations(metrics, 2):
        gap = on_common(first, second) - on_common(second, first)
        if np.isnan(gap[0]).all():
            continue
        spread = _mean(np.take_along_axis(gap[1:], picks, axis=1))
        interval = _measured(_mean(gap[:1])[0], spread, "")
        total = np.abs(flips @ np.nan_to_num(gap[0]))
        reached = total >= abs(np.nansum(gap[0])) - 1e-12
        exact = len(flips) == 2 ** len(datasets)
        p_value = reached.mean() if exact else (reached.sum() + 1) / (len(flips) + 1)
        comparisons.append(
            Comparison(
                first,
                second,
                float(interval.value or 0.0),
                interval.low,
                interval.high,
                float(p_value),
                int((~np.isnan(gap[0])).sum()),
            )
        )
    return Agreement(
        per_dataset=per_dataset,
        average=average,
        comparisons=tuple(comparisons),
        scores={d: {m: dict(v) for m, v in scores[d].items()} for d in datasets},
        accuracy={d: dict(accuracy[d]) for d in datasets},
        warnings=tuple(warnings),
        seed=seed,
    )


def measure_draws(scores: Array, accuracy: Array, counts: Array) -> dict[str, Array]:
    """Every measure, of many draws of the same encoders at once.

    Parameters
    ----------
    scores, accuracy : (n,) array
        Finite.
    counts : (b, n) array of int
        How often each encoder is in each draw.

    Returns
    -------
    dict of str to (b,) array
        NaN where a measure is undefined: all drawn scores or accuracies are the same, or no
        encoder is drawn.

    Examples
    --------
    >>> import numpy as np
    >>> a, s = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    >>> round(float(measure_draws(s, a, np.ones((1, 3), dtype=int))["kendall"][0]), 6)
    0.333333
    """
    s, a = np.asarray(scores, dtype=float), np.asarray(accuracy, dtype=float)
    m = np.asarray(counts)
    sign_s, sign_a = (np.sign(x[:, None] - x[None, :]) for x in (s, a))
    # (b, n): signed pairs of each encoder with the copies of all others
    both, by_s, by_a = (m @ pairs for pairs in (sign_s * sign_a, sign_s**2, sign_a**2))

    def correlate(weight: Array) -> Array:
        return _ratio(
            (weight * both).sum(1), np.sqrt((weight * by_s).sum(1) * (weight * by_a).sum(1))
        )

    taus = [correlate(_hyperbolic(m, order)) for order in (_best_first(s, a), _best_first(a, s))]
    rank_s, rank_a = (_mid_ranks(x, m) for x in (s, a))
    found = {
        "weighted_tau": (taus[0] + taus[1]) / 2,
        "kendall": correlate(m),
        "spearman": _pearson(rank_s, rank_a, m),
        "pearson": _pearson(s, a, m),
        "weighted_pearson": _pearson(s, a, m / np.maximum(_mid_ranks(-a, m), 1)),
    }
    best = np.where(m > 0, a, -np.inf).max(axis=1)
    order = np.lexsort((a, -s))  # of equal scores the less accurate first
    before = np.cumsum(m[:, order], axis=1) - m[:, order]
    for k in TOP:
        taken = (before < k) & (m[:, order] > 0)
        reached = np.where(taken, a[order], -np.inf).max(axis=1)
        some = m.any(axis=1)
        found[f"rel@{k}"] = _ratio(np.where(some, reached, 0), np.where(some, best, 0))
        found[f"recall@{k}"] = np.where(some, reached == best, np.nan)
        found[f"regret@{k}"] = np.where(some, best, np.nan) - np.where(some, reached, 0)
    return {name: found[name] for name in MEASURES}


def _best_first(first: Array, second: Array) -> Array:
    return np.lexsort((-second, -first))


def _hyperbolic(counts: Array, order: Array) -> Array:
    """Per encoder the sum of 1/rank over its copies, which stand side by side in `order`."""
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, counts.sum(1).max() + 1))])
    after = np.cumsum(counts[:, order], axis=1)
    weight = np.empty(counts.shape)
    weight[:, order] = harmonic[after] - harmonic[after - counts[:, order]]
    return weight


def _mid_ranks(x: Array, counts: Array) -> Array:
    """(b, n) ranks from 1 for the lowest; copies and equal ones share their mean."""
    # floats: matrix products of whole numbers are many times slower
    lower = (x[None, :] < x[:, None]).astype(float)
    equal = (x[None, :] == x[:, None]).astype(float)
    counts = counts.astype(float)
    return np.asarray(counts @ lower.T + (counts @ equal.T + 1) / 2)


def _pearson(x: Array, y: Array, weight: Array) -> Array:
    """Weighted, per row of `weight`; x and y are (n,) or (b, n)."""
    total = np.maximum(weight.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    dx, dy = (v - (weight * v).sum(axis=1, keepdims=True) / total for v in (x, y))
    # of values that are all the same only rounding is left
    flat = [
        (weight * d**2).sum(1) <= (1e-14 * np.abs(v).max(initial=0)) ** 2 * total[:, 0]
        for d, v in ((dx, x), (dy, y))
    ]
    norm = np.sqrt((weight * dx**2).sum(1) * (weight * dy**2).sum(1))
    return _ratio((weight * dx * dy).sum(1), np.where(flat[0] | flat[1], 0, norm))


def _ratio(above: Array, below: Array) -> Array:
    ratio: Array = np.full(len(below), np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def _mean(values: Array) -> Array:
    """Mean over the last axis of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1).astype(float))


def _measured(value: float, replicates: Array, reason: str) -> Estimate:
    if math.isnan(value):
        return Estimate(None, reason=reason)
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return Estimate(float(value), reason="no interval: undefined in every draw")
    low, high = np.percentile(defined, [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    return Estimate(float(value), float(low), float(high))


def _flips(n: int, rng: np.random.Generator) -> Array:
    """(f, n) signs: all 2^n, or `FLIPS` random ones when these are fewer."""
    if 2**n <= FLIPS:
        return np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    return rng.choice((-1.0, 1.0), size=(FLIPS, n))


def _check(scores: Scores, accuracy: Accuracies) -> None:
    if not set(scores) & set(accuracy):
        raise InputError(
            f"Scores and accuracies must share a data set; scores are of {first_few(scores)}, "
            f"accuracies of {first_few(accuracy)}. Name them alike in both."
        )
    for dataset, rows in accuracy.items():
        for encoder, value in rows.items():
            if not math.isfinite(value) or value < 0:
                raise InputError(
                    f"An accuracy must be a finite number of at least 0; that of {encoder} on "
                    f"{dataset} is {value}. Correct it, or leave the encoder out."
                )
    for dataset, metrics in scores.items():
        for metric, row in metrics.items():
            for encoder, value in row.items():
                if not math.isfinite(value):
                    raise InputError(
                        f"A score must be a finite number; {metric} of {encoder} on {dataset} is "
                        f"{value}. Correct it, or leave the encoder out."
                    )


def _absences(scores: Scores, accuracy: Accuracies) -> Iterator[str]:
    """What one table has and the other has not."""
    if unknown := [name for name in scores if name not in accuracy]:
        yield f"no accuracies for {first_few(unknown)}; these scores are left out."
    if unscored := [name for name in accuracy if name not in scores]:
        yield f"no scores for {first_few(unscored)}; these data sets are left out."
    every = dict.fromkeys(m for name in accuracy for m in scores.get(name, ()))
    gaps: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for dataset in (name for name in accuracy if name in scores):
        for metric in every:
            row = scores[dataset].get(metric)
            if row is None:
                gaps.setdefault((f"{metric} has no scores", ()), []).append(dataset)
                continue
            without = tuple(e for e in accuracy[dataset] if e not in row)
            extra = tuple(e for e in row if e not in accuracy[dataset])
            if without:
                what = f"{metric} misses {len(without)} of {len(accuracy[dataset])}"
                gaps.setdefault((what, without), []).append(dataset)
            if extra:
                gaps.setdefault((f"{metric}: no accuracy of", extra), []).append(dataset)
    for (what, encoders), where in gaps.items():
        which = f" encoders ({first_few(encoders)})" if encoders else ""
        yield f"{what}{which} on {first_few(where)}."
