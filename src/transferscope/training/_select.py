"""Which of several encoders is best after fine-tuning: successive halving over epochs."""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from transferscope.datasets import Dataset
from transferscope.encoders import (
    Encoder,
    TrainableEncoder,
    encoder_name,
    expand_encoders,
    identity,
    refuse_other_modality,
)
from transferscope.errors import (
    EncoderError,
    FeatureError,
    InputError,
    MissingExtraError,
    UnknownNameError,
    first_few,
    require,
)
from transferscope.progress import ProgressCallback
from transferscope.results import Selection, SelectionCandidate, Trial
from transferscope.storage.atomic import refuse_unwritable
from transferscope.storage.file_names import clean_file_name
from transferscope.training._belief import Belief, Observation, believe, look_ahead, spread
from transferscope.training._fine_tuning import (
    AUGMENTATIONS,
    MODES,
    TEST,
    VALIDATION,
    hold_out,
    refuse_other_classes,
    trainable,
)
from transferscope.training._journal import Ended, Journal, Tried, key

if TYPE_CHECKING:
    from torch import nn

    from transferscope.training._descent import Advance, Run

#: Shares of the epochs at which runs are paused and compared.
RUNGS = (0.25, 0.5, 1.0)
#: Epochs of the first of them at least: before, what is measured says little.
LEAST = 3
#: Of candidates of which nothing is expected: wide enough that what is measured decides.
UNKNOWN = (0.5, 0.5)
#: A candidate is left out unseen if this is the most that the chance is that it is better than the
#: leader by more than the tolerance.
HOPELESS = 0.02
#: Least probability of being best for which a rival of the leader is tried with further seeds.
IN_QUESTION = 0.1
#: Name of the file that a selection goes on from.
JOURNAL = "selection.json"

#: What fails for one candidate, and is no matter of the others.
_OWN_FAILURES = (EncoderError, UnknownNameError, FeatureError, MissingExtraError)


def select(  # noqa: PLR0913  data, hyper-parameters and how it is run
    dataset: Dataset,
    encoders: str | Encoder | nn.Module | Sequence[str | Encoder | nn.Module],
    *,
    out: str | Path,
    test: Dataset | None = None,
    expected: Mapping[str, tuple[float, float]] | None = None,
    budget: float | None = None,
    tolerance: float = 0.005,
    learning_rates: Sequence[float] = (3e-4, 1e-3, 3e-3),
    weight_decay: float = 1e-2,
    epochs: int = 20,
    n_seeds: int = 3,
    batch_size: int = 64,
    mode: Literal["full", "last-block", "head"] = "full",
    augment: Literal["none", "shift", "flip"] = "none",
    device: str | None = None,
    seed: int = 0,
    report: Callable[[Selection], None] | None = None,
    progress: ProgressCallback | None = None,
) -> Selection:
    """Fine-tune candidates until one is known to be good enough, and keep it.

    All begin with a quarter of the epochs; the better half goes on to half of them, and the better
    half of these to the end. While it is not settled which one is best, the leader and those that
    are it with a probability of 0.1 are trained with further seeds, which hold out other samples.
    It stops when the leader is expected to lose less than `tolerance` against the best candidate,
    when nothing of that is left to try, or at the budget.

    Parameters
    ----------
    dataset : Dataset
        With classes, or numbers as targets.
    encoders : str, Encoder, torch.nn.Module, or sequence of these
        The candidates, as `rank` takes them.
    out : path
        Folder for all runs and ``selection.json``. The same call goes on after a kill or, with
        another budget, after its end; afterwards ``<encoder>/<run>/best.safetensors`` holds the
        winner's weights, and `load_winner` loads them.
    test : Dataset, optional
        With the same classes. By default 30 % of each class of `dataset` is held out. Only the
        winner is measured on it, once.
    expected : mapping of str to (float, float), optional
        Mean and standard deviation of the accuracy that is expected of a candidate after
        fine-tuning, as shares. Of candidates that are not in it nothing is expected.
    budget : float, optional
        Seconds, those of earlier calls included. What the leader needs to its end is kept back.
    tolerance : float
        Accuracy (a share; R² for regression) that does not matter.
    learning_rates : sequence of float
        The first candidate tries all of them for a quarter of the epochs. The others begin with the
        best one, and those that reach half of the epochs try one more.
    weight_decay : float
    epochs : int
        Of a whole run.
    n_seeds : int
        Most runs of one candidate to the end.
    batch_size : int
    mode : {"full", "last-block", "head"}
    augment : {"none", "shift", "flip"}
    device : str, optional
    seed : int
        The first seed, and that of what is held out. All of these as in `finetune`.
    report : callable, optional
        Called after each trial with the `Selection` so far.
    progress : callable, optional
        Called as ``progress(text, done, total)``.

    Returns
    -------
    Selection
        A candidate that cannot be loaded or trained stands in it with the reason.

    Raises
    ------
    InputError
        If an option is out of range, the targets are several labels per sample, the budget ended
        before the first epoch did, or `out` holds another selection.
    EncoderError
        If no candidate could be trained.
    StoreError
        If `out` cannot be written, or a file in it is damaged.

    See Also
    --------
    load_winner : Load what it left.

    Notes
    -----
    A run that is paused goes on along the schedule of the whole run, a cosine to its planned end,
    so nothing is trained twice and the winner has the weights that `finetune` would give it. Runs
    that anneal at every rung before they go on were tried, too: neither did they foretell the end
    better, nor end better (benchmarks/results/selection.md).

    What is believed is a Gaussian over the candidates' accuracies: the prior, and per run the
    scores of held-out samples as a noisy observation. Its noise is that of few samples (candidates
    are compared on the same ones), what a run at a part of its epochs leaves open, which is learned
    from runs that got further, and what seeds change. R² is a mean over samples like an accuracy;
    mean average precision is not, so several labels per sample are refused.

    Without a budget the same call gives the same selection, killed or not, and on the CPU the same
    bits. With one, what is tried depends on the clock; it is kept to an epoch's end, at worst.
    """
    begin = time.perf_counter()
    call = _Call(
        learning_rates=tuple(sorted(learning_rates)),
        weight_decay=weight_decay,
        epochs=epochs,
        n_seeds=n_seeds,
        batch_size=batch_size,
        mode=mode,
        augment=augment,
        tolerance=tolerance,
        seed=seed,
    )
    specs = {encoder_name(one): one for one in expand_encoders(encoders)}
    _check(call, budget, expected, list(specs))
    refuse_unwritable(Path(out) / JOURNAL, elsewhere="choose another out")
    torch = require("torch", extra="vision", purpose="fine-tune")
    task, _ = dataset.require_labels()
    if task == "multilabel":
        raise InputError(
            f"{dataset.name} has several labels per sample; its measure, mean average precision, "
            "is no mean over samples, so its noise is not known. Use `finetune` for each encoder."
        )
    if test is None:
        dataset, test = hold_out(dataset, TEST, 0)
    else:
        refuse_other_classes(dataset, test)
    selector = _Selector(
        specs, call, dataset, test, Path(out), expected or {}, budget, report, progress
    )
    selector.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    selector.spent = time.perf_counter() - begin
    return selector.run()


@dataclass(frozen=True)
class _Call:
    """What decides how a selection ends, beside data, candidates and the clock."""

    learning_rates: tuple[float, ...]
    weight_decay: float
    epochs: int
    n_seeds: int
    batch_size: int
    mode: Literal["full", "last-block", "head"]
    augment: Literal["none", "shift", "flip"]
    tolerance: float
    seed: int

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which runs are compared; the last one is their end."""
        least = min(LEAST, self.epochs)
        return tuple(sorted({max(math.ceil(share * self.epochs), least) for share in RUNGS}))


def _check(
    call: _Call,
    budget: float | None,
    expected: Mapping[str, tuple[float, float]] | None,
    names: Sequence[str],
) -> None:
    rates, decay = call.learning_rates, call.weight_decay
    if not rates or not all(0 < rate < math.inf for rate in rates) or len(set(rates)) < len(rates):
        raise InputError(f"learning rates must be positive and different, got {list(rates)}.")
    if not 0 <= decay < math.inf:
        raise InputError(f"weight_decay must be zero or more, got {decay}.")
    if min(call.epochs, call.n_seeds, call.batch_size) < 1:
        raise InputError(
            f"epochs, n_seeds and batch_size must be at least 1, got {call.epochs}, "
            f"{call.n_seeds} and {call.batch_size}."
        )
    if not 0 < call.tolerance < 1:
        raise InputError(
            f"tolerance must be a share of the test samples between 0 and 1, got {call.tolerance}. "
            "Half a point of accuracy is 0.005."
        )
    if budget is not None and not 0 < budget < math.inf:
        raise InputError(f"budget must be a number of seconds above 0, got {budget}.")
    for name, value, known in (
        ("mode", call.mode, MODES),
        ("augment", call.augment, AUGMENTATIONS),
    ):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
    for name, belief in (expected or {}).items():
        if name not in names:
            raise InputError(
                f"expected is about {name}, which is no candidate ({first_few(names)}). Leave it "
                "out, or write the name as the candidate's."
            )
        if len(belief) != 2 or not math.isfinite(belief[0]) or not 0 < belief[1] < math.inf:
            raise InputError(
                f"expected of {name} must be (mean, sd) of an accuracy as shares, sd above 0; got "
                f"{belief}."
            )


@dataclass
class _Candidate:
    """One candidate, and what was tried with it."""

    name: str
    spec: str | Encoder | nn.Module
    prior: tuple[float, float] | None
    trials: list[Tried] = field(default_factory=list)
    error: str | None = None
    outcome: str = ""
    seconds: float = 0.0

    def best(self, seed: int) -> Tried | None:
        """The furthest trial of a seed; of equally far ones that of the best rate."""
        held = [one for one in self.trials if one.seed == seed and one.validation is not None]
        return max(held, key=lambda one: (one.rung, *one.order), default=None)

    @property
    def is_alive(self) -> bool:
        """Whether it has a run that held."""
        return self.error is None and any(t.validation is not None for t in self.trials)


class _BudgetSpentError(Exception):
    """What is left of the budget is needed for the leader's end."""


class _Selector:
    """The state of one selection: candidates, journal, clock."""

    device = "cpu"

    def __init__(
        self,
        specs: Mapping[str, str | Encoder | nn.Module],
        call: _Call,
        dataset: Dataset,
        test: Dataset,
        out: Path,
        expected: Mapping[str, tuple[float, float]],
        budget: float | None,
        report: Callable[[Selection], None] | None,
        progress: ProgressCallback | None,
    ) -> None:
        from transferscope.training._objective import Objective

        self.call, self.train, self.test, self.out = call, dataset, test, out
        self.budget, self.report, self.progress = budget, report, progress
        self.objective = Objective(dataset)
        self.is_binary = self.objective.task == "classification"
        # the most promising first, of equal ones the first named
        priors = {name: expected.get(name) for name in specs}
        order = sorted(specs, key=lambda name: -(priors[name] or UNKNOWN)[0])
        self.candidates = [_Candidate(name, specs[name], priors[name]) for name in order]
        self.preferred: list[float] = []
        self.spent = 0.0
        self.trials: list[Trial] = []
        self._loaded: tuple[str, TrainableEncoder, str] | None = None
        self._data: dict[tuple[int, str], Any] = {}
        self._parts: dict[int, tuple[Dataset, Dataset]] = {}
        self.journal = Journal(
            out / JOURNAL,
            {
                **asdict(call),
                "learning_rates": list(call.learning_rates),
                "dataset": dataset.fingerprint,
                "test": test.fingerprint,
                "candidates": {c.name: None if c.prior is None else list(c.prior)
                               for c in self.candidates},
            },
        )  # fmt: skip

    # -- the plan --------------------------------------------------------------------------------

    def run(self) -> Selection:
        """Go through the plan; what the journal knows is not done again."""
        ended = self.journal.ended
        if ended is not None and ended.budget == self.budget:
            weights = ended.selection.weights
            if weights is not None and Path(weights).exists():
                self._clear(ended.selection, ended.within)
                return ended.selection
        try:
            self._first_rung()
            self._halve()
            self._settle()
            reason, within = "", True
        except _BudgetSpentError:
            reason, within = f"stopped at the budget of {_duration(self.budget)}", False
        return self._end(reason, within=within)

    def _first_rung(self) -> None:
        """Give every candidate that has a chance its first epochs."""
        rates = self.call.learning_rates
        for one in self.candidates:
            if self._is_hopeless(one):
                continue
            sweep = list(reversed(rates)) if not self.preferred else [self.preferred[0]]
            found = [self._try(one, rate, 0) for rate in sweep]
            held = [t for t in found if t is not None and t.validation is not None]
            if not self.preferred:
                held.sort(key=lambda t: t.order, reverse=True)
                self.preferred = [t.rate for t in held]
                continue
            # it diverged where others did not: with smaller steps
            for rate in (r for r in reversed(rates) if r < sweep[0]):
                if held or one.error is not None:
                    break
                tried = self._try(one, rate, 0)
                held += [tried] if tried is not None and tried.validation is not None else []
        for one in self.candidates:
            if one.error is None and one.trials and not one.is_alive:
                rates_tried = sorted({t.rate for t in one.trials})
                one.error = f"every run diverged (learning rates {rates_tried})"

    def _is_hopeless(self, one: _Candidate) -> bool:
        if one.prior is None or not any(c.is_alive for c in self.candidates):
            return False
        belief = self.belief()
        ahead = belief.draws[:, self._at(one)] - belief.draws[:, self._leader(belief)]
        chance = float((ahead > self.call.tolerance).mean())
        if chance > HOPELESS:
            return False
        one.outcome = (
            f"not begun: {one.prior[0]:.3f} ± {one.prior[1]:.3f} expected, {chance:.0%} chance to "
            f"be better than {self.candidates[self._leader(belief)].name} by more than the "
            "tolerance"
        )
        return True

    def _halve(self) -> None:
        """Let the better half go on, rung after rung, until one is left or all is settled."""
        seed = self.call.seed
        alive = [c for c in self.candidates if c.is_alive]
        for rung in range(1, len(self.call.rungs)):
            belief = self.belief()
            if not alive or self._is_settled(belief):
                return
            alive.sort(key=lambda c: -belief.mean[self._at(c)])
            n_kept = math.ceil(len(alive) / 2)
            for one in alive[n_kept:]:
                last = one.best(seed)
                assert last is not None
                one.outcome = (
                    f"dropped after {self._epochs(last)}: {last.validation:.3f}, in the lower half "
                    f"({alive[0].name} {_value(alive[0].best(seed))})"
                )
                for trial in one.trials:
                    _remove(self.out / trial.record.folder)
            alive = alive[:n_kept]
            for one in alive:
                if rung == 1:
                    self._try_another_rate(one)
                best = one.best(seed)
                assert best is not None
                self._try(one, best.rate, rung)
            alive = [c for c in alive if c.is_alive]

    def _try_another_rate(self, one: _Candidate) -> None:
        """Try the neighbour of a candidate's best rate that did best for others."""
        rates, best = self.call.learning_rates, one.best(self.call.seed)
        assert best is not None
        at = rates.index(best.rate)
        tried = {t.rate for t in one.trials}
        near = [r for r in (*rates[max(at - 1, 0) : at], *rates[at + 1 : at + 2]) if r not in tried]
        known = [rate for rate in self.preferred if rate in near]
        if not known:
            return
        found = self._try(one, known[0], 0)
        if found is not None and one.best(self.call.seed) is found:
            self.preferred.remove(found.rate)
            self.preferred.insert(0, found.rate)

    def _settle(self) -> None:
        """Bring the leader to its end, and try those in question with further seeds."""
        while any(c.is_alive for c in self.candidates):
            belief = self.belief()
            leader = self._leader(belief)
            if not self._has_ended(self.candidates[leader]):
                self._continue(self.candidates[leader])
                continue
            if self._is_settled(belief) or not self._try_further(belief, leader):
                return

    def _try_further(self, belief: Belief, leader: int) -> bool:
        """One more run of the leader or of who may be better; False where none is left."""
        gain, p_best = belief.gain(leader), belief.p_best
        for rival in np.argsort(-gain, kind="stable"):
            if rival == leader or p_best[rival] < IN_QUESTION:
                continue
            # of the two the one of which less is known
            for at in sorted((leader, int(rival)), key=lambda i: -belief.sd[i]):
                if self._continue(self.candidates[at]):
                    return True
        return False

    def _continue(self, one: _Candidate) -> bool:
        """Bring a candidate's first run to its end, or begin the next seed; False where all are."""
        last = len(self.call.rungs) - 1
        best = one.best(self.call.seed)
        if one.error is not None or (best is None and one.trials):
            return False
        if best is None:  # was not begun
            self._try(one, (self.preferred or list(self.call.learning_rates))[0], last)
            return True
        for seed in range(self.call.seed, self.call.seed + self.call.n_seeds):
            if all(t.seed != seed or t.rung < last for t in one.trials):
                self._try(one, best.rate, last, seed)
                return True
        return False

    def _has_ended(self, one: _Candidate) -> bool:
        best = one.best(self.call.seed)
        return best is not None and best.record.epochs == self.call.epochs

    def _end(self, reason: str, *, within: bool) -> Selection:
        """Measure the winner, write it down, and clear away what nobody needs."""
        if not any(c.is_alive for c in self.candidates):
            failures = "; ".join(f"{c.name}: {c.error}" for c in self.candidates if c.error)
            raise EncoderError(f"no candidate could be fine-tuned on {self.train.name}: {failures}")
        winner = self.candidates[self._leader(self.belief())]
        best = self._best(winner)
        if not self._has_ended(winner):
            with suppress(_BudgetSpentError):
                self._try(winner, best.rate, len(self.call.rungs) - 1, finish=True)
            best = self._best(winner)
        begin = time.perf_counter()
        value, low, high = self._measure(winner, best)
        self.spent += time.perf_counter() - begin
        settled = self._is_settled(self.belief())
        if not reason:
            p_best = np.delete(self.belief().p_best, self._at(winner))
            open_runs = f"not settled, though those in question had {self.call.n_seeds} runs each"
            if max(p_best, default=0.0) < IN_QUESTION:
                open_runs = (
                    f"not settled, though no other one is best with {IN_QUESTION:.0%} chance"
                )
            reason = "settled" if settled else open_runs
        loss = 100 * float(self.belief().regret[self._at(winner)])
        unit = "points" if self.is_binary else "hundredths of R²"
        reason = f"{reason[0].upper()}{reason[1:]}; it is expected to lose {loss:.1f} {unit}."
        if best.record.epochs < self.call.epochs:
            reason += f" Its run had {best.record.epochs} of {self.call.epochs} epochs by then."
        selection = self.so_far(reason, winner, value, low, high)
        self.journal.end(Ended(self.budget, selection, within, self._scale(best)))
        self._clear(selection, within)
        return selection

    def _clear(self, selection: Selection, within: bool) -> None:  # noqa: FBT001
        """Delete all weights but the winner's, unless a larger budget would go on with them."""
        for trial in selection.trials if within else ():
            _remove(self.out / trial.folder, spare=selection.weights)

    def _scale(self, best: Tried) -> list[list[float]] | None:
        """Mean and spread of the targets by which a regression was standardised."""
        from transferscope.training._objective import Objective

        if self.is_binary:
            return None
        objective = Objective(self._part(best.seed)[0])
        return [objective.mean.tolist(), objective.spread.tolist()]

    # -- what is believed ------------------------------------------------------------------------

    def belief(self) -> Belief:
        """What the trials so far say of each candidate."""
        last = len(self.call.rungs) - 1
        climbs: list[list[tuple[float, float]]] = [[] for _ in range(last)]
        observations = []
        for i, one in enumerate(self.candidates):
            for seed in sorted({t.seed for t in one.trials}):
                best = one.best(seed)
                if best is None or one.error is not None:
                    continue
                assert best.scores is not None
                observations.append(Observation(i, seed, best.rung, best.scores))
                run = sorted(
                    (t for t in one.trials if (t.seed, t.rate) == (seed, best.rate)),
                    key=lambda t: t.rung,
                )
                for before, after in itertools.pairwise(run):
                    if after.rung == before.rung + 1:
                        assert before.scores is not None
                        assert after.scores is not None
                        climbs[before.rung].append(
                            (float(before.scores.mean()), float(after.scores.mean()))
                        )
        priors = np.array([c.prior or UNKNOWN for c in self.candidates], dtype=float)
        # who failed is no rival
        out = [i for i, c in enumerate(self.candidates) if c.error is not None]
        priors[out] = (-1e3, 1e-3)
        return believe(
            priors[:, 0],
            priors[:, 1],
            observations,
            outlook=look_ahead(climbs, self.call.rungs),
            binary=self.is_binary,
            seed=self.call.seed,
        )

    def _is_settled(self, belief: Belief) -> bool:
        return float(belief.regret[self._leader(belief)]) <= self.call.tolerance

    def _leader(self, belief: Belief) -> int:
        """The highest mean among those that were tried."""
        tried = [i for i, c in enumerate(self.candidates) if c.is_alive]
        return max(tried, key=lambda i: belief.mean[i])

    def _at(self, one: _Candidate) -> int:
        return self.candidates.index(one)

    # -- the clock -------------------------------------------------------------------------------

    def _epoch_seconds(self, one: _Candidate) -> float:
        """Of a candidate that was not tried: as long as the others take in the mean."""
        costs = [_epoch_costs(c) for c in ([one] if one.trials else self.candidates)]
        known = [cost for cost in costs if cost]
        return sum(known) / len(known) if known else 0.0

    def _reserve(self, one: _Candidate, seed: int, until: int) -> float:
        """What bringing the leader to its end, and measuring it, takes after this trial."""
        tried = [c for c in self.candidates if c.is_alive and c.best(self.call.seed) is not None]
        if not tried:
            return 0.0
        leader = self.candidates[self._leader(self.belief())]
        best = leader.best(self.call.seed)
        if best is None:
            return 0.0
        own = leader is one and seed == self.call.seed
        done = max(best.record.epochs, until if own else 0)
        return self._epoch_seconds(leader) * (self.call.epochs - done + self._test_epochs())

    def _test_epochs(self) -> float:
        """What the pass over the test part costs, in epochs of three passes."""
        return len(self.test) / (3 * len(self.train) * (1 - VALIDATION))

    # -- one trial -------------------------------------------------------------------------------

    def _try(
        self,
        one: _Candidate,
        rate: float,
        rung: int,
        seed: int | None = None,
        *,
        finish: bool = False,
    ) -> Tried | None:
        """Bring a run to a rung, or take from the journal what came of it; None if it failed.

        Raises
        ------
        _BudgetSpentError
            If too little is left of the budget; the run goes on from its last epoch another time.
        """
        if one.error is not None:
            return None
        seed = self.call.seed if seed is None else seed
        until = self.call.rungs[rung]
        known = self.journal.find(one.name, rate, seed, rung)
        if known is not None and (known.record.epochs == until or known.validation is None):
            return self._keep(one, known)
        limit = math.inf
        if self.budget is not None:
            done = max((t.record.epochs for t in one.trials if (t.seed, t.rate) == (seed, rate)),
                       default=0)  # fmt: skip
            needed = (until - done) * self._epoch_seconds(one)
            reserve = (
                self._epoch_seconds(one) * self._test_epochs()
                if finish
                else self._reserve(one, seed, until)
            )
            limit = self.budget - reserve
            begun = any(c.is_alive for c in self.candidates)
            if begun and not finish and self.spent + needed > limit:
                raise _BudgetSpentError
        begin = time.perf_counter()

        def may_take(seconds: float) -> bool:
            return self.spent + time.perf_counter() - begin + seconds <= limit

        text = f"{len(self.trials) + 1}: {one.name}, learning rate {rate:g}, to epoch {until}"
        if self.progress is not None:
            self.progress(text, 0, self.call.epochs)
        before = max((t.record.epochs for t in one.trials if (t.seed, t.rate) == (seed, rate)),
                     default=0)  # fmt: skip
        try:
            found = self._advance(one, rate, seed, until, may_take)
        except _OWN_FAILURES as error:
            one.error = str(error)
            one.seconds += time.perf_counter() - begin
            self.spent += time.perf_counter() - begin
            return None
        # epochs that a killed call had done already
        seconds = time.perf_counter() - begin
        seconds += sum(row["seconds"] for row in found.history[before : found.n_resumed])
        if found.n_epochs == 0:
            self.spent += seconds
            one.seconds += seconds
            if not any(c.is_alive for c in self.candidates):
                raise InputError(
                    f"the budget of {_duration(self.budget)} ended within the first epoch of "
                    f"{one.name}, so nothing is known. Give more, or take fewer samples."
                )
            raise _BudgetSpentError
        diverged = not math.isfinite(found.history[-1]["validation"])
        folder = str(self._folder(one, rate, seed).relative_to(self.out))
        validation = None if diverged else found.validation
        loss = None if diverged else found.validation_loss
        record = Trial(
            one.name, rate, seed, rung + 1, found.n_epochs, validation, loss, seconds, folder
        )
        tried = self._keep(one, self.journal.add(record, None if diverged else found.scores))
        if found.n_epochs < until and not diverged:
            raise _BudgetSpentError
        return tried

    def _keep(self, one: _Candidate, tried: Tried) -> Tried:
        one.trials = [t for t in one.trials if key(t.record) != key(tried.record)] + [tried]
        one.seconds += tried.record.seconds
        self.spent += tried.record.seconds
        self.trials.append(tried.record)
        if self.report is not None:
            leader = self.candidates[self._leader(self.belief())]
            self.report(self.so_far(f"{len(self.trials)} trials so far.", leader))
        return tried

    def _advance(
        self,
        one: _Candidate,
        rate: float,
        seed: int,
        until: int,
        may_take: Callable[[float], bool],
    ) -> Advance:
        from transferscope.training._descent import restored

        encoder, about = self._load(one)
        with restored(encoder.module):
            return self._run(one, encoder, about, rate, seed).advance(until, may_take)

    def _load(self, one: _Candidate) -> tuple[TrainableEncoder, str]:
        """The encoder of a candidate; the last one is kept, with its prepared samples."""
        if self._loaded is None or self._loaded[0] != one.name:
            self._loaded, self._data = None, {}  # before the next one needs the room
            encoder = trainable(one.spec, self.device)
            refuse_other_modality(encoder, self.train)
            digest = encoder.fingerprint or identity(encoder.identifier, encoder.module).digest
            self._loaded = one.name, encoder, digest
        return self._loaded[1:]

    def _run(
        self, one: _Candidate, encoder: TrainableEncoder, about: str, rate: float, seed: int
    ) -> Run:
        from transferscope.training._data import Data
        from transferscope.training._descent import Hyperparameters, Run
        from transferscope.training._objective import Objective

        kept, held = self._part(seed)
        parts = {"train": kept, "validation": held, "test": self.test}
        for name, part in parts.items():
            # the test part is the same for all seeds
            key = (0 if name == "test" else seed, name)
            self._data.setdefault(key, Data(part, encoder.preprocessing))
        data = {name: self._data[0 if name == "test" else seed, name] for name in parts}
        call = self.call
        chosen = Hyperparameters(
            rate, call.weight_decay, seed, call.epochs, call.batch_size, call.mode, call.augment,
            patience=None, max_gradient_norm=None,
        )  # fmt: skip
        contents = "|".join((about, str(self.journal.identity["dataset"]),
                             str(self.journal.identity["test"])))  # fmt: skip
        return Run(
            encoder,
            Objective(kept),
            data,
            chosen,
            self._folder(one, rate, seed),
            hashlib.sha256(contents.encode()).hexdigest(),
            self.progress,
        )

    def _part(self, seed: int) -> tuple[Dataset, Dataset]:
        """What a seed trains on, and what it holds out."""
        if seed not in self._parts:
            self._parts[seed] = hold_out(self.train, VALIDATION, seed)
        return self._parts[seed]

    def _best(self, one: _Candidate) -> Tried:
        """The furthest run of one that is alive."""
        best = one.best(self.call.seed)
        assert best is not None
        return best

    def _measure(self, one: _Candidate, best: Tried) -> tuple[float, float, float]:
        """What the winner reaches on the test part, with its interval."""
        from transferscope.training._descent import restored

        encoder, about = self._load(one)
        with restored(encoder.module):
            run = self._run(one, encoder, about, best.rate, best.seed)
            weights = {name: run.folder / f"{name}.safetensors" for name in ("best", "last")}
            if weights["last"].exists() or not weights["best"].exists():
                run.advance(best.record.epochs)  # what is missing of it
            scores = run.measure()
        return interval(scores, binary=self.is_binary)

    def _folder(self, one: _Candidate, rate: float, seed: int) -> Path:
        name = f"lr{rate:g}-wd{self.call.weight_decay:g}-seed{seed}"
        return self.out / clean_file_name(one.name) / name

    def _epochs(self, tried: Tried) -> str:
        return f"{tried.record.epochs} of {self.call.epochs} epochs"

    # -- what is known ---------------------------------------------------------------------------

    def so_far(
        self,
        reason: str,
        winner: _Candidate,
        value: float | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> Selection:
        """The selection as it stands."""
        belief = self.belief()
        rows = [self._row(one, winner, belief, ended=value is not None) for one in self.candidates]
        rows.sort(key=lambda r: (r.encoder != winner.name, r.mean is None, -(r.mean or 0.0)))
        best = winner.best(self.call.seed)
        weights = None
        if value is not None and best is not None:
            weights = str(self.out / best.record.folder / "best.safetensors")
        n_validation = len(best.scores) if best is not None and best.scores is not None else 0
        return Selection(
            dataset=self.train.name,
            measure=self.objective.measure,
            winner=winner.name,
            value=value,
            low=low,
            high=high,
            settled=self._is_settled(belief),
            reason=reason,
            weights=weights,
            candidates=tuple(rows),
            trials=tuple(self.trials),
            epochs=self.call.epochs,
            tolerance=self.call.tolerance,
            budget=self.budget,
            class_names=self.train.class_names,
            n_train=len(self.train) - n_validation,
            n_validation=n_validation,
            n_test=len(self.test),
            seconds=self.spent,
            seed=self.call.seed,
        )

    def _row(
        self, one: _Candidate, winner: _Candidate, belief: Belief, *, ended: bool
    ) -> SelectionCandidate:
        at, best = self._at(one), one.best(self.call.seed)
        failed = one.error is not None
        if failed:
            outcome = f"failed: {one.error}"
        elif one is winner:
            outcome = "taken" if ended else "leads"
        elif best is not None and best.rung == len(self.call.rungs) - 1:
            loss = 100 * (belief.mean[self._at(winner)] - belief.mean[at])
            runs = len({t.seed for t in one.trials if t.rung == best.rung})
            outcome = f"{runs} run{'s' * (runs > 1)} to the end: {loss:.1f} points behind"
        elif one.outcome:
            outcome = one.outcome
        elif best is not None:
            outcome = f"stopped after {self._epochs(best)}" if ended else "in question"
        else:
            outcome = "not reached" if ended else "not begun"
        return SelectionCandidate(
            encoder=one.name,
            outcome=outcome,
            mean=None if failed else float(belief.mean[at]),
            sd=None if failed else float(belief.sd[at]),
            p_best=0.0 if failed else float(belief.p_best[at]),
            expected_regret=None if failed else float(belief.regret[at]),
            validation=None if best is None else best.validation,
            epochs=0 if best is None else best.record.epochs,
            learning_rate=None if best is None else best.rate,
            seconds=one.seconds,
            prior_mean=None if one.prior is None else float(one.prior[0]),
            prior_sd=None if one.prior is None else float(one.prior[1]),
        )


def _epoch_costs(one: _Candidate) -> float:
    """Seconds per epoch of what was tried with a candidate, its loading shared out."""
    runs: dict[tuple[int, float], int] = {}
    for tried in one.trials:
        key = tried.seed, tried.rate
        runs[key] = max(runs.get(key, 0), tried.record.epochs)
    n = sum(runs.values())
    return sum(t.record.seconds for t in one.trials) / n if n else 0.0


def _remove(folder: Path, *, spare: str | None = None) -> None:
    """Delete the weights of a run; its log stays."""
    for name in ("best.safetensors", "last.safetensors"):
        if str(folder / name) != spare:
            (folder / name).unlink(missing_ok=True)


def _value(tried: Tried | None) -> str:
    return "" if tried is None or tried.validation is None else f"{tried.validation:.3f}"


def _duration(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds:g} s"


def interval(scores: npt.NDArray[Any], *, binary: bool) -> tuple[float, float, float]:
    """Mean of scores, with its 95 % interval: Wilson's for shares, else the normal one."""
    n, value, z = len(scores), float(scores.mean()), 1.959963984540054
    if binary:
        centre = (value + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
        return value, max(centre - half, 0.0), min(centre + half, 1.0)
    half = z * spread(scores, binary=False) / math.sqrt(n)
    return value, value - half, value + half
