"""Which encoder to measure next, and when to stop: what more would tell against what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from transferscope.encoders import EncoderSpec
from transferscope.knowledge import Foresight, KnownEncoder, Probe
from transferscope.numerics.arrays import NumpyArray
from transferscope.progress import ProgressCallback
from transferscope.ranking._measured import Measured

#: The metric that tells of the accuracy.
PROBE = "linear_probe"
#: Shards of the first look, 1 024 samples.
FIRST_LOOK = 2
#: What measuring an encoder tells of how it differs from another: share of the deviation.
TOLD = 0.8
#: Encoders that cost no more than this together are measured in one pass.
ROUND_SECONDS = 20.0
#: After the first look encoders that are best with this probability are looked at in full, and at
#: most so many.
IN_QUESTION, MOST_IN_QUESTION = 0.05, 8
#: Seconds of a forward pass, per parameter and sample of 224 pixels; and on a GPU.
SECONDS_PER_PARAMETER = {"cpu": 2e-9, "cuda": 2e-11}
#: Parameters of an encoder of which nothing is known, and megabytes a second that are downloaded.
USUAL_PARAMETERS, DOWNLOAD = 5e7, 10.0


class OutOfTimeError(Exception):
    """The budget is spent."""


@dataclass
class Contender:
    """One candidate of a search.

    Attributes
    ----------
    spec : str, Encoder or torch.nn.Module
    name : str
    known : KnownEncoder or None
        None where nothing is to be foreseen.
    looks : list of Measured
        What was measured, on more and more samples; a failed one is the last.
    """

    spec: EncoderSpec
    name: str
    known: KnownEncoder | None = None
    looks: list[Measured] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether it cannot be measured."""
        return bool(self.looks) and self.looks[-1].failed

    @property
    def probed(self) -> list[Measured]:
        """The looks that have a probe."""
        return [one for one in self.looks if PROBE in one.influences]


@dataclass(frozen=True)
class Outlook:
    """What is expected of the candidates that have not failed.

    Attributes
    ----------
    contenders : list of Contender
    accuracies : (draws, n) array
    foreign : float
        Probability that published results say nothing about these data.
    """

    contenders: list[Contender]
    accuracies: NumpyArray
    foreign: float


@dataclass
class Search:
    """Measure candidates in the order of what they promise per second, until it is settled.

    Attributes
    ----------
    contenders : list of Contender
    foresight : Foresight
        Of all of them, in the same order.
    measure : callable
        ``measure(contenders, n_shards, progress)`` adds a look to each; None for all shards.
    n_first, n_samples : int
        Samples of the first look, and all.
    chance : float
        Share of the most frequent class.
    stop_regret : float or None
        None: measure all, on all samples.
    budget : float or None
        Seconds.
    device : str
    seed : int
    progress : callable or None
    """

    contenders: list[Contender]
    foresight: Foresight
    measure: Callable[[Sequence[Contender], int | None, ProgressCallback | None], None]
    n_first: int
    n_samples: int
    chance: float
    stop_regret: float | None
    budget: float | None
    device: str
    seed: int
    progress: ProgressCallback | None
    started: float = field(default_factory=time.perf_counter)
    judged: float = 0.0
    _latest: tuple[int, Outlook] | None = None

    def run(self, on_update: Callable[[Outlook], None]) -> str:
        """Measure until it is settled, everything is measured, or time is over.

        Parameters
        ----------
        on_update : callable
            Is told the outlook after each round.

        Returns
        -------
        {"all", "settled", "budget", "interrupted"}
            Why it ended.
        """
        try:
            while True:
                outlook = self.outlook()
                if any(one.probed for one in outlook.contenders):
                    on_update(outlook)
                chosen, n_shards, why = self._next(outlook)
                if not chosen:
                    return why
                self.measure(chosen, n_shards, self._watched())
                n = self.n_samples if n_shards is None else self.n_first
                self.judged += sum(self.seconds(one, n) for one in chosen)
        except OutOfTimeError:
            return "budget"
        except KeyboardInterrupt:
            if not any(one.probed for one in self.contenders):
                raise
            return "interrupted"

    def seconds_per_sample(self, one: Contender) -> float:
        """Of the forward pass of an encoder, judged by published speeds, or by its size."""
        known, kind = one.known, "cpu" if self.device == "cpu" else "cuda"
        speed = known and (known.cpu_speed if kind == "cpu" else known.gpu_speed)
        if speed:
            return 1 / speed
        size = ((known and known.input_size) or 224) / 224
        n_parameters = (known and known.n_parameters) or USUAL_PARAMETERS
        return SECONDS_PER_PARAMETER[kind] * n_parameters * size**2

    @property
    def slowness(self) -> float:
        """How many times the judged time per sample measured encoders took, as a median."""
        ratios = [
            1 / (speed * self.seconds_per_sample(one))
            for one in self.contenders
            if one.looks and (speed := one.looks[-1].result.samples_per_second)
        ]
        return float(np.median(ratios)) if ratios else 1.0

    def seconds(self, one: Contender, n_samples: int) -> float:
        """Judged cost of measuring an encoder, with what loading takes."""
        loading = 0.1
        if one.name.startswith(("hf/", "timm/", "torchvision/")):
            bytes_each = 4e-6 * ((one.known and one.known.n_parameters) or USUAL_PARAMETERS)
            loading = 1 + ((one.known and one.known.download_mb) or bytes_each) / DOWNLOAD
        return loading + n_samples * self.seconds_per_sample(one)

    def outlook(self) -> Outlook:
        """What is expected now; found once for what was measured."""
        n_looks = sum(len(one.looks) for one in self.contenders)
        if self._latest is None or self._latest[0] != n_looks:
            self._latest = n_looks, self._outlook()
        return self._latest[1]

    def _outlook(self) -> Outlook:
        places = np.flatnonzero([not one.failed for one in self.contenders])
        there = [self.contenders[i] for i in places]
        if not there:
            return Outlook([], np.empty((0, 0)), 0.0)
        accuracies, foreign = self.foresight.given(
            places, _probe(there, self.chance), seed=self.seed
        )
        return Outlook(there, accuracies, foreign)

    def _next(self, outlook: Outlook) -> tuple[list[Contender], int | None, str]:
        """Which to measure next, on how many shards; or none, and why."""
        there, y = outlook.contenders, outlook.accuracies
        if not there:
            return [], None, "all"
        new = np.array([not one.looks for one in there], bool)
        staged = self.stop_regret is not None and self.n_first < self.n_samples
        n_shards, n = (FIRST_LOOK, self.n_first) if staged else (None, self.n_samples)
        costs = np.array([self.seconds(one, n) for one in there])
        if self.stop_regret is None and self.budget is None:
            return [one for one, is_new in zip(there, new, strict=True) if is_new], None, "all"
        gain = _gain(y, new)
        started = any(one.probed for one in there)
        if new.any() and (not started or gain.any.mean() >= (self.stop_regret or 0.0)):
            worth = np.where(new, gain.each / costs, -1.0)
            order = [i for i in np.argsort(-worth, kind="stable") if new[i]]
            together = np.cumsum(costs[order]) <= self._round_seconds()
            together[0] = True
            chosen = [there[i] for i, is_in in zip(order, together, strict=True) if is_in]
            return self._affordable(chosen, n, n_shards, "all")
        if staged:
            question = self._in_question(there, y)
            if question:
                return self._affordable(question, self.n_samples, None, "settled")
        return [], None, "settled" if new.any() else "all"

    def _round_seconds(self) -> float:
        """Judged cost of a round: with a budget little, so that something is known when it ends."""
        if self.budget is None:
            return ROUND_SECONDS
        spent = time.perf_counter() - self.started
        left = (self.budget - spent) * self.judged / spent if self.judged else 0.0
        return min(ROUND_SECONDS, left / 4)

    def _in_question(self, there: Sequence[Contender], y: NumpyArray) -> list[Contender]:
        """Encoders that may be the best and were not looked at in full."""
        first = y == y.max(axis=1, keepdims=True)
        p_best = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
        order = np.argsort(-p_best, kind="stable")[:MOST_IN_QUESTION]
        looked = [there[i] for i in order if p_best[i] >= IN_QUESTION and there[i].probed]
        if len(looked) < 2:
            return []
        return [one for one in looked if one.looks[-1].n_samples < self.n_samples]

    def _affordable(
        self, chosen: list[Contender], n: int, n_shards: int | None, why: str
    ) -> tuple[list[Contender], int | None, str]:
        """Those for which there is time, by what earlier ones took against what was judged."""
        if self.budget is None or not chosen:
            return chosen, n_shards, why
        spent = time.perf_counter() - self.started
        slower = spent / self.judged if self.judged else 1.0
        left, fitting = self.budget - spent, []
        for one in chosen:
            left -= slower * self.seconds(one, n)
            if left >= 0:
                fitting.append(one)
        if not fitting and not self.judged and spent < self.budget:
            fitting = chosen[:1]  # judged by nothing: try
        return fitting, n_shards, "budget"

    def _watched(self) -> ProgressCallback | None:
        """The progress callback, which also looks at the clock."""
        if self.budget is None:
            return self.progress
        end = self.started + self.budget

        def watched(text: str, done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(text, done, total)
            if time.perf_counter() > end:
                raise OutOfTimeError

        return watched


@dataclass(frozen=True)
class _Gain:
    """What measuring would add to the accuracy of the best measured one.

    Attributes
    ----------
    each : (n,) array
        By measuring one.
    any : (draws,) array
        By measuring all, per draw.
    """

    each: NumpyArray
    any: NumpyArray


def _gain(y: NumpyArray, new: NumpyArray) -> _Gain:
    mean = y.mean(axis=0)
    if new.all():  # nothing to compare with but what encoders of the first tenth are expected to do
        ahead = y - np.quantile(mean, 0.9)
        ahead -= (y - mean).mean(axis=1, keepdims=True)  # a level that all share tells nothing
    else:
        best = int(np.where(new, -1.0, mean).argmax())
        ahead = y - y[:, [best]]
    expected = ahead.mean(axis=0)
    told = np.maximum(expected + TOLD * (ahead - expected), 0.0)
    told[:, ~new] = 0.0
    return _Gain(told.mean(axis=0), told.max(axis=1))


def _probe(there: Sequence[Contender], chance: float) -> Probe:
    """What was measured, as places in `there`."""
    cells = [(i, look) for i, one in enumerate(there) for look in one.probed]
    n = np.array([look.n_kept for _, look in cells], int)
    correlation = np.eye(len(cells))
    for size in np.unique(n):
        here = np.flatnonzero(n == size)
        rows = np.stack([cells[i][1].influences[PROBE] for i in here])
        deviation = np.sqrt((rows**2).sum(axis=1))
        rows = rows / np.where(deviation > 0, deviation, 1.0)[:, None]
        # a tenth on its own: two encoders that err alike are two all the same
        correlation[np.ix_(here, here)] = 0.9 * (rows @ rows.T)
    np.fill_diagonal(correlation, 1.0)
    return Probe(
        np.array([i for i, _ in cells], int),
        np.array([look.result.scores[PROBE].value for _, look in cells]),
        correlation,
        n,
        chance,
    )
