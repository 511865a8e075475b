"""Which encoder is best after fine-tuning: the plan, what is believed, and the clock."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transferscope.errors import EncoderError, InputError
from transferscope.executor import Executor
from transferscope.progress import ProgressCallback
from transferscope.results import Selection, SelectionCandidate, Trial
from transferscope.storage.atomic import remove_stale_files
from transferscope.training._belief import Belief, Observation, believe, look_ahead, spread
from transferscope.training._fine_tuning import VALIDATION
from transferscope.training._journal import Ended, Journal, Tried, key
from transferscope.training._trials import (
    OWN_FAILURES,
    Goal,
    Trials,
    TrialsElsewhere,
)

#: Of candidates of which nothing is expected: wide enough that what is measured decides.
UNKNOWN = (0.5, 0.5)
#: A candidate is left out unseen if this is the most that the chance is that it is better than the
#: leader by more than the tolerance.
HOPELESS = 0.02
#: Least probability of being best for which a rival of the leader is tried with further seeds.
IN_QUESTION = 0.1
#: Name of the file that a selection goes on from.
JOURNAL = "selection.json"


@dataclass
class _Candidate:
    """One candidate, and what was tried with it."""

    name: str
    prior: tuple[float, float] | None
    trials: list[Tried] = field(default_factory=list)
    error: str | None = None
    outcome: str = ""
    seconds: float = 0.0

    def best(self, seed: int) -> Tried | None:
        """The furthest trial of a seed; of equally far ones that of the best rate.

        Runs that diverged on their way are left out: they have no end.
        """
        diverged = {(t.seed, t.rate) for t in self.trials if t.validation is None}
        held = [t for t in self.trials if t.seed == seed and (t.seed, t.rate) not in diverged]
        return max(held, key=lambda one: (one.rung, *one.order), default=None)

    @property
    def is_alive(self) -> bool:
        """Whether it has a run that held."""
        return self.error is None and any(self.best(t.seed) for t in self.trials)

    def give_up_if_diverged(self) -> None:
        """Let it have failed if it was tried and no run held."""
        if self.error is None and self.trials and not self.is_alive:
            rates = sorted({t.rate for t in self.trials})
            self.error = f"every run diverged (learning rates {rates})"


class _Wanted(NamedTuple):
    """A trial: a run that is brought to a rung. Without a seed it is the first one."""

    one: _Candidate
    rate: float
    rung: int
    seed: int | None = None


class _BudgetSpentError(Exception):
    """What is left of the budget is needed for the leader's end."""


class Selector:
    """The state of one selection: candidates, journal, clock."""

    def __init__(
        self,
        trials: Trials,
        executor: Executor | None,
        expected: Mapping[str, tuple[float, float]],
        budget: float | None,
        report: Callable[[Selection], None] | None,
        progress: ProgressCallback | None,
    ) -> None:
        from transferscope.training._objective import Objective

        self.trials, self.settings, self.out = trials, trials.settings, trials.out
        self.train, self.test = trials.train, trials.test
        self.budget, self.report, self.progress = budget, report, progress
        self.objective = Objective(self.train)
        self.is_binary = self.objective.task == "classification"
        # the most promising first, of equal ones the first named
        priors = {name: expected.get(name) for name in trials.specs}
        order = sorted(priors, key=lambda name: -(priors[name] or UNKNOWN)[0])
        self.candidates = [_Candidate(name, priors[name]) for name in order]
        self.preferred: list[float] = []
        self.spent = 0.0
        self.tried: list[Trial] = []
        self.journal = Journal(
            self.out / JOURNAL,
            {
                **asdict(self.settings),
                "learning_rates": list(self.settings.learning_rates),
                "dataset": self.train.fingerprint,
                "test": self.test.fingerprint,
                "candidates": {c.name: None if c.prior is None else list(c.prior)
                               for c in self.candidates},
            },
        )  # fmt: skip
        # once it is known that the folder is not that of another selection
        self.carried = trials if executor is None else TrialsElsewhere(trials, executor)

    # -- the plan --------------------------------------------------------------------------------

    def run(self) -> Selection:
        """Go through the plan; what the journal knows is not done again."""
        try:
            return self._run()
        finally:
            self.carried.close()

    def _run(self) -> Selection:
        ended = self.journal.ended
        if ended is not None and ended.budget == self.budget:
            found = self._here(ended.selection)
            if found.weights is not None and Path(found.weights).exists():
                self._clear(found, ended.within)
                return found
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
        rates = self.settings.learning_rates
        for at, one in enumerate(self.candidates):
            if self._is_hopeless(one):
                continue
            sweep = list(reversed(rates)) if not self.preferred else [self.preferred[0]]
            found = []
            for k, rate in enumerate(sweep):
                ahead = [_Wanted(one, another, 0) for another in sweep[k + 1 :]]
                if self.preferred:
                    rest = self._promising(self.candidates[at + 1 :])
                    ahead += [_Wanted(other, rate, 0) for other in rest]
                found.append(self._try(_Wanted(one, rate, 0), ahead))
            held = [t for t in found if t is not None and t.validation is not None]
            if not self.preferred:
                held.sort(key=lambda t: t.order, reverse=True)
                self.preferred = [t.rate for t in held]
                continue
            # it diverged where others did not: with smaller steps
            for rate in (r for r in reversed(rates) if r < sweep[0]):
                if held or one.error is not None:
                    break
                tried = self._try(_Wanted(one, rate, 0))
                held += [tried] if tried is not None and tried.validation is not None else []
        for one in self.candidates:
            one.give_up_if_diverged()

    def _is_hopeless(self, one: _Candidate) -> bool:
        if self._promising([one]):
            return False
        assert one.prior is not None
        belief = self.belief()
        chance = self._chance(one, belief)
        one.outcome = (
            f"not begun: {one.prior[0]:.3f} ± {one.prior[1]:.3f} expected, {chance:.0%} chance to "
            f"be better than {self.candidates[self._leader(belief)].name} by more than the "
            "tolerance"
        )
        return True

    def _promising(self, some: Sequence[_Candidate]) -> list[_Candidate]:
        """Those of which it is not known that they are hopeless."""
        if all(one.prior is None for one in some) or not any(c.is_alive for c in self.candidates):
            return list(some)
        belief = self.belief()
        return [c for c in some if c.prior is None or self._chance(c, belief) > HOPELESS]

    def _chance(self, one: _Candidate, belief: Belief) -> float:
        """That it is better than the leader by more than the tolerance."""
        ahead = belief.draws[:, self._at(one)] - belief.draws[:, self._leader(belief)]
        return float((ahead > self.settings.tolerance).mean())

    def _halve(self) -> None:
        """Let the better half go on, rung after rung, until one is left or all is settled."""
        seed = self.settings.seed
        alive = [c for c in self.candidates if c.is_alive]
        for rung in range(1, len(self.settings.rungs)):
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
                # a worker may be at one of its runs, begun ahead: those go at the end
                for trial in one.trials if self.carried is self.trials else ():
                    _remove(self.out / trial.record.folder)
            alive = alive[:n_kept]
            for k, one in enumerate(alive):
                ahead = [trial for c in alive[k + 1 :] for trial in self._of_rung(c, rung)]
                if rung == 1:
                    self._try_another_rate(one, ahead)
                self._try(_Wanted(one, self._best(one).rate, rung), ahead)
            alive = [c for c in alive if c.is_alive]

    def _of_rung(self, one: _Candidate, rung: int) -> list[_Wanted]:
        """What will be tried with a candidate on a rung, as far as it is known."""
        another = self._another_rate(one) if rung == 1 else None
        first = [] if another is None else [_Wanted(one, another, 0)]
        return [*first, _Wanted(one, self._best(one).rate, rung)]

    def _another_rate(self, one: _Candidate) -> float | None:
        """The neighbour of a candidate's best rate that did best for others."""
        rates, tried = self.settings.learning_rates, {t.rate for t in one.trials}
        at = rates.index(self._best(one).rate)
        near = [r for r in (*rates[max(at - 1, 0) : at], *rates[at + 1 : at + 2]) if r not in tried]
        return next((rate for rate in self.preferred if rate in near), None)

    def _try_another_rate(self, one: _Candidate, ahead: Sequence[_Wanted]) -> None:
        rate = self._another_rate(one)
        if rate is None:
            return
        own = _Wanted(one, self._best(one).rate, 1)
        found = self._try(_Wanted(one, rate, 0), [own, *ahead])
        if found is not None and one.best(self.settings.seed) is found:
            self.preferred.remove(found.rate)
            self.preferred.insert(0, found.rate)

    def _settle(self) -> None:
        """Bring the leader to its end, and try those in question with further seeds."""
        while any(c.is_alive for c in self.candidates):
            belief = self.belief()
            leader = self._leader(belief)
            rivals = self._in_question(belief, leader)
            ended = self._has_ended(self.candidates[leader])
            if ended and self._is_settled(belief):
                return
            left = [self._left(self.candidates[at]) for at in (leader, *rivals)]
            ahead = [one for step in itertools.zip_longest(*left) for one in step if one]
            if not ended:
                self._try(left[0][0], ahead)
                continue
            # of the leader and the first of who may be better the one of which less is known
            pairs = (sorted((leader, rival), key=lambda i: -belief.sd[i]) for rival in rivals)
            following = (run for pair in pairs for at in pair
                         for run in self._left(self.candidates[at])[:1])  # fmt: skip
            wanted = next(following, None)
            if wanted is None:
                return
            self._try(wanted, ahead)

    def _in_question(self, belief: Belief, leader: int) -> list[int]:
        """Who may be better than the leader, who promises most first."""
        order = np.argsort(-belief.gain(leader), kind="stable")
        return [int(i) for i in order if i != leader and belief.p_best[i] >= IN_QUESTION]

    def _left(self, one: _Candidate) -> list[_Wanted]:
        """The runs to the end that a candidate may still have: the first one, and further seeds."""
        last, first = len(self.settings.rungs) - 1, self.settings.seed
        best = one.best(first)
        if one.error is not None or (best is None and one.trials):
            return []
        if best is None:  # was not begun
            rate = (self.preferred or list(self.settings.learning_rates))[0]
            return [_Wanted(one, rate, last)]
        # the first seed has other rates as well, of which one may have diverged at its end
        ended = {t.seed for t in one.trials if t.rung == last and t.seed != first}
        ended |= {first} if best.rung == last else set()
        seeds = range(first, first + self.settings.n_seeds)
        return [_Wanted(one, best.rate, last, seed) for seed in seeds if seed not in ended]

    def _has_ended(self, one: _Candidate) -> bool:
        best = one.best(self.settings.seed)
        return best is not None and best.record.epochs == self.settings.epochs

    def _end(self, reason: str, *, within: bool) -> Selection:
        """Measure the winner, write it down, and clear away what nobody needs."""
        winner = self._first()
        with suppress(_BudgetSpentError):
            while not self._has_ended(winner):
                # rung by rung, so that a larger budget finds what it would have found itself
                best = self._best(winner)
                ended = best.record.epochs == self.settings.rungs[best.rung]
                self._try(_Wanted(winner, best.rate, best.rung + ended), finish=True)
                winner = winner if winner.is_alive else self._first()
        best = self._best(winner)
        begin = time.perf_counter()
        scores = self.carried.measure((winner.name, best.rate, best.seed, best.record.epochs))
        value, low, high = interval(scores, binary=self.is_binary)
        self.spent += time.perf_counter() - begin
        settled = self._is_settled(self.belief())
        if not reason:
            p_best = np.delete(self.belief().p_best, self._at(winner))
            open_runs = (
                f"not settled, though those in question had {self.settings.n_seeds} runs each"
            )
            if max(p_best, default=0.0) < IN_QUESTION:
                open_runs = (
                    f"not settled, though no other one is best with {IN_QUESTION:.0%} chance"
                )
            reason = "settled" if settled else open_runs
        loss = 100 * float(self.belief().regret[self._at(winner)])
        unit = "points" if self.is_binary else "hundredths of R²"
        reason = f"{reason[0].upper()}{reason[1:]}; it is expected to lose {loss:.1f} {unit}."
        if best.record.epochs < self.settings.epochs:
            reason += f" Its run had {best.record.epochs} of {self.settings.epochs} epochs by then."
        selection = self.so_far(reason, winner, value, low, high)
        self.journal.end(Ended(self.budget, selection, within, self._scale(best)))
        self.carried.close()  # or what is still at work would write anew
        self._clear(selection, within)
        return selection

    def _first(self) -> _Candidate:
        """The leader, of those that were tried."""
        if not any(c.is_alive for c in self.candidates):
            failures = "; ".join(f"{c.name}: {c.error}" for c in self.candidates if c.error)
            raise EncoderError(f"no candidate could be fine-tuned on {self.train.name}: {failures}")
        return self.candidates[self._leader(self.belief())]

    def _clear(self, selection: Selection, within: bool) -> None:  # noqa: FBT001
        """Delete all weights but the winner's, unless a larger budget would go on with them."""
        remove_stale_files(self.out)
        for run in self.out.glob("*/lr*-wd*-seed*") if within else ():
            _remove(run, spare=selection.weights)
            for rest in run.glob("*.safetensors.*.tmp"):  # of a worker that was ended as it wrote
                rest.unlink(missing_ok=True)

    def _here(self, selection: Selection) -> Selection:
        """A selection that was read, its weights where they are for this call."""
        if selection.weights is None:
            return selection
        *_, candidate, run, name = Path(selection.weights).parts
        return replace(selection, weights=str(self.out / candidate / run / name))

    def _scale(self, best: Tried) -> list[list[float]] | None:
        """Mean and spread of the targets by which a regression was standardised."""
        from transferscope.training._objective import Objective

        if self.is_binary:
            return None
        objective = Objective(self.trials.part(best.seed)[0])
        return [objective.mean.tolist(), objective.spread.tolist()]

    # -- what is believed ------------------------------------------------------------------------

    def belief(self) -> Belief:
        """What the trials so far say of each candidate."""
        last = len(self.settings.rungs) - 1
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
            outlook=look_ahead(climbs, self.settings.rungs),
            binary=self.is_binary,
            seed=self.settings.seed,
        )

    def _is_settled(self, belief: Belief) -> bool:
        return float(belief.regret[self._leader(belief)]) <= self.settings.tolerance

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
        tried = [
            c for c in self.candidates if c.is_alive and c.best(self.settings.seed) is not None
        ]
        if not tried:
            return 0.0
        leader = self.candidates[self._leader(self.belief())]
        best = leader.best(self.settings.seed)
        if best is None:
            return 0.0
        own = leader is one and seed == self.settings.seed
        done = max(best.record.epochs, until if own else 0)
        return self._epoch_seconds(leader) * (self.settings.epochs - done + self._test_epochs())

    def _test_epochs(self) -> float:
        """What the pass over the test part costs, in epochs of three passes."""
        return len(self.test) / (3 * len(self.train) * (1 - VALIDATION))

    # -- one trial -------------------------------------------------------------------------------

    def _try(
        self, wanted: _Wanted, ahead: Iterable[_Wanted] = (), *, finish: bool = False
    ) -> Tried | None:
        """Bring a run to a rung, or take from the journal what came of it; None if it failed.

        Raises
        ------
        _BudgetSpentError
            If too little is left of the budget; the run goes on from its last epoch another time.
        """
        one, rate, rung = wanted.one, wanted.rate, wanted.rung
        if one.error is not None:
            return None
        known = self._known(wanted)
        if known is not None:
            return self._keep(one, known)
        seed, until = self._seed(wanted), self.settings.rungs[rung]
        limit = math.inf
        if self.budget is not None:
            reserve = (
                self._epoch_seconds(one) * self._test_epochs()
                if finish
                else self._reserve(one, seed, until)
            )
            limit = self.budget - reserve
            begun = any(c.is_alive for c in self.candidates)
            if begun and not finish and self.spent + self._needed(wanted) > limit:
                raise _BudgetSpentError
        begin = time.perf_counter()
        text = f"{len(self.tried) + 1}: {one.name}, learning rate {rate:g}, to epoch {until}"
        if self.progress is not None:
            self.progress(text, 0, self.settings.epochs)
        before = self._epochs_done(wanted)
        try:
            ran = self.carried.advance(
                (one.name, rate, seed, until), limit - self.spent, self._goals(wanted, ahead, limit)
            )
        except OWN_FAILURES as error:
            one.error = str(error)
            one.seconds += time.perf_counter() - begin
            self.spent += time.perf_counter() - begin
            return None
        found = ran.found
        # epochs that a killed call had done already
        seconds = ran.seconds
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
        folder = str(self.trials.folder(one.name, rate, seed).relative_to(self.trials.out))
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
        self.tried.append(tried.record)
        if tried.rung:  # on the first one, smaller steps are tried yet
            one.give_up_if_diverged()
        if self.report is not None and any(c.is_alive for c in self.candidates):
            leader = self.candidates[self._leader(self.belief())]
            self.report(self.so_far(f"{len(self.tried)} trials so far.", leader))
        return tried

    def _seed(self, wanted: _Wanted) -> int:
        return self.settings.seed if wanted.seed is None else wanted.seed

    def _known(self, wanted: _Wanted) -> Tried | None:
        """What the journal knows of a trial, if that is all that there is to know."""
        known = self.journal.find(wanted.one.name, wanted.rate, self._seed(wanted), wanted.rung)
        until = self.settings.rungs[wanted.rung]
        if known is not None and (known.record.epochs == until or known.validation is None):
            return known
        return None

    def _epochs_done(self, wanted: _Wanted) -> int:
        """How far the run of a trial has come."""
        run = self._seed(wanted), wanted.rate
        return max((t.record.epochs for t in wanted.one.trials if (t.seed, t.rate) == run),
                   default=0)  # fmt: skip

    def _needed(self, wanted: _Wanted) -> float:
        """Seconds that a trial will take."""
        epochs = self.settings.rungs[wanted.rung] - self._epochs_done(wanted)
        return epochs * self._epoch_seconds(wanted.one)

    def _goals(self, wanted: _Wanted, ahead: Iterable[_Wanted], limit: float) -> Iterator[Goal]:
        """Of what may be wanted next that which is not known, as far as the budget goes."""
        spent = self.spent + self._needed(wanted)
        for trial in ahead:
            if trial.one.error is not None or self._known(trial) is not None:
                continue
            spent += self._needed(trial)
            if spent > limit:
                return
            until = self.settings.rungs[trial.rung]
            yield trial.one.name, trial.rate, self._seed(trial), until

    def _best(self, one: _Candidate) -> Tried:
        """The furthest run of one that is alive."""
        best = one.best(self.settings.seed)
        assert best is not None
        return best

    def _epochs(self, tried: Tried) -> str:
        return f"{tried.record.epochs} of {self.settings.epochs} epochs"

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
        best = winner.best(self.settings.seed)
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
            trials=tuple(self.tried),
            epochs=self.settings.epochs,
            tolerance=self.settings.tolerance,
            budget=self.budget,
            class_names=self.train.class_names,
            n_train=len(self.train) - n_validation,
            n_validation=n_validation,
            n_test=len(self.test),
            seconds=self.spent,
            seed=self.settings.seed,
        )

    def _row(
        self, one: _Candidate, winner: _Candidate, belief: Belief, *, ended: bool
    ) -> SelectionCandidate:
        at, best = self._at(one), one.best(self.settings.seed)
        failed = one.error is not None
        if failed:
            outcome = f"failed: {one.error}"
        elif one is winner:
            outcome = "taken" if ended else "leads"
        elif best is not None and best.rung == len(self.settings.rungs) - 1:
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
