"""Do scores agree with fine-tuned accuracy? Measures with intervals, and paired tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transferscope.errors import InputError, first_few
from transferscope.evaluation._measures import MEASURES, measure_draws, ratio
from transferscope.evaluation._tables import Accuracies, Scores, accuracy_table, score_table
from transferscope.numerics.arrays import NumpyArray
from transferscope.results import Agreement, Comparison, Estimate

if TYPE_CHECKING:
    import pandas as pd

#: Fewer encoders cannot show agreement.
FEWEST = 3
#: Squares of larger scores and accuracies, and their sums, may overflow.
LARGEST = 1e150
#: Number of resampled sets of encoders.
REPLICATES = 1_000
#: Scores that know nothing of the data set.
BASELINES = ("expectation", "imagenet_accuracy", "n_parameters", "other_datasets")
#: Width of the intervals, in percent.
CONFIDENCE = 95
#: Sign flips of the paired test: all of them up to 13 data sets, else this many drawn ones.
FLIPS = 2**13
#: So many pairs of metrics are compared at once.
AT_ONCE = 64


def evaluate(
    scores: Scores | pd.DataFrame, accuracy: Accuracies | pd.DataFrame, *, seed: int = 0
) -> Agreement:
    """Measure how well scores predict fine-tuned accuracy, per data set and on average.

    Parameters
    ----------
    scores : mapping of data set to metric to encoder to float, or DataFrame
        Higher = expected to transfer better. A frame has the columns ``dataset, encoder, metric,
        value``, or ``dataset, encoder`` and one column per metric; NaN is a score that is missing.
    accuracy : mapping of data set to encoder to float, or DataFrame
        Accuracy after fine-tuning, in one unit throughout (percent or share); `regret@k` is in
        the same unit. A frame has the columns ``dataset, encoder, accuracy``, or one row per
        encoder (column or index) and one column per data set.
    seed : int
        Of the resampling.

    Returns
    -------
    Agreement
        ``result["aircraft", "logme"]["weighted_tau"].value``; ``result.average["logme"]``.

    Raises
    ------
    InputError
        If a value is NaN or infinite, an accuracy is negative, no metric has three encoders in
        common with the accuracies on any data set, or a frame has other columns.

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
    is listed in `warnings`. The average is over the data sets where the measure is defined.

    Intervals are 95 % percentiles of 1 000 draws: encoders are drawn with replacement, the same
    for all data sets and metrics; for averages data sets are drawn as well. Drawn twice, an encoder
    ties with itself, which no correlation counts. With fewer than ten encoders or five data sets
    such intervals are too narrow. Draws where a measure is undefined are left out.

    `comparisons` holds every pair of metrics: the difference of mean weighted tau over the data
    sets and encoders that both have, its interval by the same draws, and the p-value of a two-sided
    sign-flip permutation test over data sets (all ``2^D`` flips up to D = 13 data sets). The
    smallest possible p is ``2/2^D``: five data sets can never reach 0.05. Of many pairs some will
    look different by chance. The test takes the encoders as given and the data sets as independent;
    on the same encoders these agree with each other, so a small p next to an interval that holds 0
    means that the difference is of these encoders, and may not hold for others.

    Cost: O(replicates · n²) per data set and metric, n encoders; on one core 0.4 s for 5 metrics
    on 11 data sets of 12 encoders, 7.5 s for 10 metrics on 19 data sets of 120. Of 1 000 metrics
    the pairs are what takes time: 5 s on 5 encoders of one data set, whose orders repeat.

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
    scores, accuracy = score_table(scores), accuracy_table(accuracy)
    _check(scores, accuracy)
    sample = _Sample(scores, accuracy)
    draws = _Draws.of(sample, np.random.default_rng(seed))
    pairs = {
        (dataset, metric): _measure_pair(sample, draws, dataset, metric)
        for dataset, metric in itertools.product(sample.datasets, sample.metrics)
        if metric in scores[dataset]
    }
    _refuse_too_few(sample, pairs)
    comparisons = tuple(_comparisons(sample, draws, pairs))
    return Agreement(
        per_dataset={
            dataset: {
                m: pairs[dataset, m].estimates() for m in sample.metrics if (dataset, m) in pairs
            }
            for dataset in sample.datasets
        },
        average={metric: _average(sample, draws, pairs, metric) for metric in sample.metrics},
        comparisons=comparisons,
        scores={d: {m: dict(v) for m, v in scores[d].items()} for d in sample.datasets},
        accuracy={d: dict(accuracy[d]) for d in sample.datasets},
        warnings=(*_absences(scores, accuracy), *_remarks(pairs), *_unbeaten(comparisons)),
        seed=seed,
    )


class _Sample:
    """The data sets, metrics and encoders that both tables know."""

    def __init__(self, scores: Scores, accuracy: Accuracies) -> None:
        self.scores, self.accuracy = scores, accuracy
        self.datasets = [name for name in accuracy if name in scores]
        self.metrics = list(dict.fromkeys(m for name in self.datasets for m in scores[name]))
        self.encoders = list(dict.fromkeys(e for name in self.datasets for e in accuracy[name]))

    def used(self, dataset: str, metric: str) -> NumpyArray:
        """(n_encoders,) bool: which encoders have a score and an accuracy."""
        row, truth = self.scores[dataset][metric], self.accuracy[dataset]
        return np.array([e in row and e in truth for e in self.encoders])

    def columns(self, dataset: str, metric: str, used: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
        """Scores and accuracies of these encoders."""
        names = [self.encoders[i] for i in np.flatnonzero(used)]
        row, truth = self.scores[dataset][metric], self.accuracy[dataset]
        return np.array([row[e] for e in names], float), np.array([truth[e] for e in names], float)


@dataclass(frozen=True)
class _Draws:
    """The bootstrap: which encoders and which data sets are drawn, the same for all metrics.

    Attributes
    ----------
    counts : (1 + replicates, n_encoders) array of int
        How often each encoder is drawn; the first row takes each once and gives the value.
    picks : (replicates, n_datasets) array of int
        The data sets drawn, for averages.
    flips : (f, n_datasets) array
        Signs of the paired test.
    """

    counts: NumpyArray
    picks: NumpyArray
    flips: NumpyArray

    @classmethod
    def of(cls, sample: _Sample, rng: np.random.Generator) -> _Draws:
        n, n_datasets = len(sample.encoders), len(sample.datasets)
        drawn = rng.multinomial(n, np.full(n, 1 / n), REPLICATES)
        counts = np.concatenate([np.ones((1, n), dtype=int), drawn])
        picks = rng.integers(0, n_datasets, size=(REPLICATES, n_datasets))
        return cls(counts, picks, _flips(n_datasets, rng))

    def mean(self, tables: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
        """Means over the data sets of k tables (k, 1 + replicates, n_datasets), and intervals."""
        drawn = np.take_along_axis(tables[:, 1:], self.picks[None], axis=2)
        return _mean(tables[:, 0]), _intervals(_mean(drawn))


@dataclass(frozen=True)
class _Pair:
    """One metric on one data set.

    Attributes
    ----------
    used : (n_encoders,) array of bool
        Which encoders have a score and an accuracy.
    draws : dict of str to (1 + replicates,) array
        Every measure, of every draw; NaN where it is undefined.
    order : bytes
        The same for metrics that have the same encoders and order them alike, ties included.
    reason : str
        Why a measure is undefined here.
    remarks : tuple of str
        What a reader must know; the data set is added later.
    """

    used: NumpyArray
    draws: dict[str, NumpyArray]
    order: bytes
    reason: str
    remarks: tuple[str, ...]

    def estimates(self) -> dict[str, Estimate]:
        values = np.stack(list(self.draws.values()))
        reasons = [self.reason] * len(MEASURES)
        return _estimates(values[:, 0], _intervals(values[:, 1:]), reasons)


def _measure_pair(sample: _Sample, draws: _Draws, dataset: str, metric: str) -> _Pair:
    used = sample.used(dataset, metric)
    n = int(used.sum())
    if n < FEWEST:
        why = f"fewer than three encoders have both ({n} of {len(sample.accuracy[dataset])})"
        remark = (
            f"fewer than three encoders have a score of {metric} and an accuracy: nothing is "
            "measured"
        )
        undefined = np.full(1 + REPLICATES, np.nan)
        return _Pair(used, dict.fromkeys(MEASURES, undefined), used.tobytes(), why, (remark,))
    values, truth = sample.columns(dataset, metric, used)
    why, remarks = "", []
    for what, column in ((f"scores of {metric}", values), ("accuracies", truth)):
        different = len(np.unique(column))
        if different == 1:
            why = why or f"all {n} {what} are the same"
            remarks.append(f"all {what} are the same, correlations are undefined")
        elif different < n:
            remarks.append(f"ties among the {what}")
    found = measure_draws(values, truth, draws.counts[:, used])
    order = used.tobytes() + np.unique(values, return_inverse=True)[1].tobytes()
    return _Pair(used, found, order, why or "the best accuracy is zero", tuple(remarks))


_Pairs = Mapping[tuple[str, str], _Pair]


def _refuse_too_few(sample: _Sample, pairs: _Pairs) -> None:
    if all(pair.used.sum() < FEWEST for pair in pairs.values()):
        raise InputError(
            "scores and accuracy must have at least three encoders in common on one data set; of "
            f"{len(pairs)} pairs of metric and data set none has them. Check that both tables "
            f"name encoders alike: the accuracies are of {first_few(sample.encoders)}."
        )


def _average(sample: _Sample, draws: _Draws, pairs: _Pairs, metric: str) -> dict[str, Estimate]:
    """Mean over the data sets where the measure is defined."""
    tables = np.stack([_table(sample, pairs, metric, name) for name in MEASURES])
    reasons = []
    for undefined in np.isnan(tables[:, 0]):
        those = [
            pairs[dataset, metric].reason
            for dataset, here in zip(sample.datasets, undefined, strict=True)
            if here and (dataset, metric) in pairs
        ]
        reasons.append("undefined on every data set: " + "; ".join(dict.fromkeys(those)))
    return _estimates(*draws.mean(tables), reasons)


def _table(sample: _Sample, pairs: _Pairs, metric: str, measure: str) -> NumpyArray:
    """(1 + replicates, n_datasets) values of a measure; NaN where it is undefined."""
    table = np.full((1 + REPLICATES, len(sample.datasets)), np.nan)
    for d, dataset in enumerate(sample.datasets):
        if (dataset, metric) in pairs:
            table[:, d] = pairs[dataset, metric].draws[measure]
    return table


class _Compared(NamedTuple):
    """A `Comparison` without the names of its metrics."""

    difference: float
    low: float | None
    high: float | None
    p_value: float
    n_datasets: int


def _comparisons(sample: _Sample, draws: _Draws, pairs: _Pairs) -> Iterator[Comparison]:
    """Every pair of metrics that have a data set in common."""
    # two metrics that order the encoders alike compare alike: each kind of pair is looked at once
    alike: dict[tuple[bytes, ...], str] = {}
    kind = {
        metric: alike.setdefault(
            tuple(pairs[d, metric].order if (d, metric) in pairs else b"" for d in sample.datasets),
            metric,
        )
        for metric in sample.metrics
    }
    taus = {metric: _table(sample, pairs, metric, "weighted_tau") for metric in alike.values()}
    known: dict[tuple[str, str], _Compared | None] = {}
    for place, first in enumerate(sample.metrics):
        others = sample.metrics[place + 1 :]
        one = kind[first]
        new = [two for two in dict.fromkeys(kind[m] for m in others) if (one, two) not in known]
        for start in range(0, len(new), AT_ONCE):
            some = new[start : start + AT_ONCE]
            gaps = np.stack([taus[one] - taus[two] for two in some])
            for gap, two in zip(gaps, some, strict=True):
                _on_common(sample, draws, pairs, one, two, gap)
            for two, found in zip(some, _compare(gaps, draws), strict=True):
                known[one, two] = found
        for second in others:
            if (compared := known[one, kind[second]]) is not None:
                yield Comparison(first, second, *compared)


def _unbeaten(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Which scores are not shown to beat a score that knows nothing of the data set."""
    for pair in comparisons:
        for score, other, sign in ((pair.first, pair.second, 1), (pair.second, pair.first, -1)):
            if other not in BASELINES or score in BASELINES:
                continue
            interval, sure = "no interval", False
            if pair.low is not None and pair.high is not None:
                low, high = sorted((sign * pair.low, sign * pair.high))
                interval, sure = f"{low:.2f} to {high:.2f}", low > 0
            if not sure:
                yield (
                    f"{score} is not shown to beat {other}, which knows nothing of the data set: "
                    f"mean weighted tau differs by {sign * pair.difference:+.3f} ({interval})."
                )


def _on_common(
    sample: _Sample, draws: _Draws, pairs: _Pairs, first: str, second: str, gap: NumpyArray
) -> None:
    """Take `gap` (1 + replicates, n_datasets) anew where the metrics have different encoders."""
    for d, dataset in enumerate(sample.datasets):
        one, two = pairs.get((dataset, first)), pairs.get((dataset, second))
        if one is None or two is None or np.array_equal(one.used, two.used):
            continue
        common = one.used & two.used
        taus = []
        for metric, pair in ((first, one), (second, two)):
            if np.array_equal(common, pair.used):
                taus.append(pair.draws["weighted_tau"])
            elif common.sum() >= FEWEST:
                columns = sample.columns(dataset, metric, common)
                taus.append(measure_draws(*columns, draws.counts[:, common])["weighted_tau"])
            else:
                taus.append(np.full(1 + REPLICATES, np.nan))
        gap[:, d] = taus[0] - taus[1]


def _compare(gaps: NumpyArray, draws: _Draws) -> Iterator[_Compared | None]:
    """What is to be said of k pairs of metrics, from gaps of weighted tau as tables of draws.

    None where the two metrics have no data set in common.
    """
    values, intervals = draws.mean(gaps)
    p_values = _sign_flip_p_values(gaps[:, 0], draws.flips)
    n_datasets = (~np.isnan(gaps[:, 0])).sum(axis=1)
    for value, (low, high), p, n in zip(values, intervals, p_values, n_datasets, strict=True):
        if not n:
            yield None
        elif math.isnan(low):
            yield _Compared(float(value), None, None, float(p), int(n))
        else:
            yield _Compared(float(value), float(low), float(high), float(p), int(n))


def _sign_flip_p_values(gaps: NumpyArray, flips: NumpyArray) -> NumpyArray:
    """Two-sided: how often random signs give a sum as far from zero as that of each row of gaps."""
    total = np.abs(np.nan_to_num(gaps) @ flips.T)
    reached = (total >= np.abs(np.nansum(gaps, axis=1))[:, None] - 1e-12).sum(axis=1)
    exact = len(flips) == 2 ** gaps.shape[1]
    return np.asarray(reached / len(flips) if exact else (reached + 1) / (len(flips) + 1))


def _mean(values: NumpyArray) -> NumpyArray:
    """Mean over the last axis of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1).astype(float))


def _intervals(replicates: NumpyArray) -> NumpyArray:
    """Low and high end of each row, (k, 2), over what is defined; NaN where nothing is."""
    ordered = np.sort(replicates, axis=1)  # NaN comes last
    n_defined = (~np.isnan(ordered)).sum(axis=1)
    tail = (100 - CONFIDENCE) / 2
    ends = np.full((len(ordered), 2), np.nan)
    for n in np.unique(n_defined[n_defined > 0]):
        rows = n_defined == n
        ends[rows] = np.percentile(ordered[rows, :n], [tail, 100 - tail], axis=1).T
    return ends


def _estimates(
    values: NumpyArray, intervals: NumpyArray, reasons: Sequence[str]
) -> dict[str, Estimate]:
    """Every measure, from its value and interval and the reason why it may have none."""
    found = {}
    for name, value, (low, high), why in zip(MEASURES, values, intervals, reasons, strict=True):
        if math.isnan(value):
            found[name] = Estimate(None, reason=why)
        elif math.isnan(low):
            found[name] = Estimate(float(value), reason="no interval: undefined in every draw")
        else:
            found[name] = Estimate(float(value), float(low), float(high))
    return found


def _flips(n: int, rng: np.random.Generator) -> NumpyArray:
    """(f, n) signs: all 2^n, or `FLIPS` random ones when these are fewer."""
    if 2**n <= FLIPS:
        return np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    return rng.choice((-1.0, 1.0), size=(FLIPS, n))


def _check(scores: Scores, accuracy: Accuracies) -> None:
    if not set(scores) & set(accuracy):
        raise InputError(
            f"scores and accuracy must share a data set; scores are of {first_few(scores)}, "
            f"accuracies of {first_few(accuracy)}. Name them alike in both."
        )
    for dataset, rows in accuracy.items():
        for encoder, value in rows.items():
            if not 0 <= value <= LARGEST:
                raise InputError(
                    f"accuracy must hold numbers from 0 to {LARGEST:.0e}; that of {encoder} on "
                    f"{dataset} is {value}. Correct it, or leave the encoder out."
                )
    for dataset, metrics in scores.items():
        for metric, row in metrics.items():
            for encoder, value in row.items():
                if not abs(value) <= LARGEST:
                    raise InputError(
                        f"scores must be numbers of at most {LARGEST:.0e} in size; {metric} of "
                        f"{encoder} on {dataset} is {value}. Correct it, or leave the encoder out."
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


def _remarks(pairs: _Pairs) -> Iterator[str]:
    """What the pairs remark, each once with all its data sets."""
    where: dict[str, list[str]] = {}
    for (dataset, _), pair in pairs.items():
        for remark in pair.remarks:
            where.setdefault(remark, []).append(dataset)
    for remark, datasets in where.items():
        yield f"{remark} on {first_few(dict.fromkeys(datasets))}."
