"""Carries out the trials of a selection: here, or on the workers of an executor."""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from transferscope.datasets import Dataset
from transferscope.encoders import Encoder, TrainableEncoder, identity, refuse_other_modality
from transferscope.errors import (
    EncoderError,
    FeatureError,
    InputError,
    MissingExtraError,
    TransferscopeError,
    UnknownNameError,
    WorkerError,
)
from transferscope.executor import Call, Executor, Queues
from transferscope.progress import ProgressCallback
from transferscope.storage.atomic import mark_in_use
from transferscope.storage.file_names import clean_file_name
from transferscope.training._fine_tuning import VALIDATION, hold_out, refuse_unseen, trainable

if TYPE_CHECKING:
    from torch import nn

    from transferscope.training._descent import Advance, Run

#: Shares of the epochs at which runs are paused and compared.
RUNGS = (0.25, 0.5, 1.0)
#: Epochs of the first of them at least: before, what is measured says little.
LEAST = 3
#: What fails for one candidate, and is no matter of the others.
OWN_FAILURES = (EncoderError, UnknownNameError, FeatureError, MissingExtraError)


@dataclass(frozen=True)
class Settings:
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


#: A run and the epoch that it is brought to: candidate, learning rate, seed, epoch.
Goal: TypeAlias = tuple[str, float, int, int]
#: What is done with a run: it is brought to an epoch, or measured.
_Key: TypeAlias = tuple[Literal["advance", "measure"], Goal]


@dataclass(frozen=True)
class Ran:
    """How far a run has come, the seconds that took, and the digest of its encoder."""

    found: Advance
    seconds: float
    about: str


class Trials:
    """Runs of candidates, one after the other; the last encoder and its samples are kept.

    Parameters
    ----------
    specs : mapping of str to encoder
        The candidates by name.
    settings : Settings
    train, test : Dataset
    out : Path
        Each run has a folder in it.
    device : str
    progress : callable, optional
    """

    def __init__(
        self,
        specs: Mapping[str, str | Encoder | nn.Module],
        settings: Settings,
        train: Dataset,
        test: Dataset,
        out: Path,
        device: str,
        progress: ProgressCallback | None,
    ) -> None:
        self.specs, self.settings, self.device, self.progress = specs, settings, device, progress
        self.train, self.test, self.out = train, test, out
        #: what says that a worker sees the folder
        self.mark: Path | None = None
        self._loaded: tuple[str, TrainableEncoder, str] | None = None
        self._data: dict[tuple[int, str], Any] = {}
        self._parts: dict[int, tuple[Dataset, Dataset]] = {}

    def folder(self, name: str, rate: float, seed: int) -> Path:
        """Where a run is kept."""
        run = f"lr{rate:g}-wd{self.settings.weight_decay:g}-seed{seed}"
        return self.out / clean_file_name(name) / run

    def part(self, seed: int) -> tuple[Dataset, Dataset]:
        """What a seed trains on, and what it holds out."""
        if seed not in self._parts:
            self._parts[seed] = hold_out(self.train, VALIDATION, seed)
        return self._parts[seed]

    def advance(self, goal: Goal, left: float = math.inf, _ahead: Iterable[Goal] = ()) -> Ran:
        """Bring a run to an epoch, or to where `left` seconds end."""
        from transferscope.training._descent import restored

        name, rate, seed, until = goal
        begin = time.perf_counter()
        encoder, about = self._load(name)
        with restored(encoder.module):
            found = self._run(name, rate, seed).advance(
                until, lambda seconds: time.perf_counter() - begin + seconds <= left
            )
        return Ran(found, time.perf_counter() - begin, about)

    def measure(self, goal: Goal) -> npt.NDArray[Any]:
        """Scores of the test samples under a run's best weights; what is missing of it is run."""
        from transferscope.training._descent import restored

        name, rate, seed, until = goal
        encoder, _ = self._load(name)
        with restored(encoder.module):
            run = self._run(name, rate, seed)
            weights = {which: run.folder / f"{which}.safetensors" for which in ("best", "last")}
            if weights["last"].exists() or not weights["best"].exists():
                run.advance(until)
            return run.measure()

    def __call__(self, what: Literal["advance", "measure"], goal: Goal, left: float) -> object:
        """In a worker: what the candidate itself fails of is an outcome, too."""
        if self.mark is not None:
            refuse_unseen(self.mark, self.out)
        try:
            return self.advance(goal, left) if what == "advance" else self.measure(goal)
        except TransferscopeError as error:  # of a run that nobody may ever ask for
            return error

    def close(self) -> None:
        """End what is still at work: nothing, here."""

    def _load(self, name: str) -> tuple[TrainableEncoder, str]:
        if self._loaded is None or self._loaded[0] != name:
            self._loaded, self._data = None, {}  # before the next one needs the room
            encoder = trainable(self.specs[name], self.device)
            refuse_other_modality(encoder, self.train)
            digest = encoder.fingerprint or identity(encoder.identifier, encoder.module).digest
            self._loaded = name, encoder, digest
        return self._loaded[1:]

    def _run(self, name: str, rate: float, seed: int) -> Run:
        from transferscope.training._data import Data
        from transferscope.training._descent import Hyperparameters, Run
        from transferscope.training._objective import Objective

        encoder, about = self._load(name)
        kept, held = self.part(seed)
        parts = {"train": kept, "validation": held, "test": self.test}
        for which, part in parts.items():
            # the test part is the same for all seeds
            key = (0 if which == "test" else seed, which)
            self._data.setdefault(key, Data(part, encoder.preprocessing))
        data = {which: self._data[0 if which == "test" else seed, which] for which in parts}
        given = self.settings
        chosen = Hyperparameters(
            rate, given.weight_decay, seed, given.epochs, given.batch_size, given.mode,
            given.augment, patience=None, max_gradient_norm=None,
        )  # fmt: skip
        contents = "|".join((about, self.train.fingerprint, self.test.fingerprint))
        return Run(
            encoder,
            Objective(kept),
            data,
            chosen,
            self.folder(name, rate, seed),
            hashlib.sha256(contents.encode()).hexdigest(),
            self.progress,
        )


class TrialsElsewhere:
    """Trials on the workers of an executor, which also begin those that are probably wanted next.

    What was begun ahead of its turn is an outcome that lies ready, or is dropped. So the plan, and
    what it ends with, is that of one process.

    Parameters
    ----------
    trials : Trials
        Sent to the workers.
    executor : Executor
    """

    def __init__(self, trials: Trials, executor: Executor) -> None:
        self.trials, self.executor = trials, executor
        trials.out, trials.progress = trials.out.absolute(), None
        trials.mark = mark_in_use(trials.out)
        self._queues: Queues = {}
        self._outcomes: Generator[tuple[Call, Any]] | None = None
        #: calls as they were first made: an executor counts deaths by the very tuple
        self._calls: dict[Call, Call] = {}
        #: what was put into the queues and has no outcome yet
        self._given: set[_Key] = set()
        self._done: dict[_Key, object] = {}
        self._digests: dict[str, str] = {}

    def advance(self, goal: Goal, left: float = math.inf, ahead: Iterable[Goal] = ()) -> Ran:
        """Bring a run to an epoch, or to where `left` seconds end.

        Raises
        ------
        EncoderError
            If workers died of it again and again.
        InputError
            If a worker does not see the folder of runs, or has another encoder of this name.
        WorkerError
            If there are no workers.
        """
        ran = self._wait(("advance", goal), left, ahead)
        assert isinstance(ran, Ran)
        if self._digests.setdefault(goal[0], ran.about) != ran.about:
            raise InputError(
                f"{goal[0]} is another encoder on one worker than on another. Give all machines "
                "the same files."
            )
        return ran

    def measure(self, goal: Goal) -> npt.NDArray[Any]:
        """Scores of the test samples under a run's best weights; what is missing of it is run."""
        scores = self._wait(("measure", goal), math.inf, ())
        assert isinstance(scores, np.ndarray)
        return scores

    def close(self) -> None:
        """End what is still at work."""
        if self._outcomes is not None:
            self._outcomes.close()
        if self.trials.mark is not None:
            self.trials.mark.unlink(missing_ok=True)

    def _wait(self, wanted: _Key, left: float, ahead: Iterable[Goal]) -> object:
        plan = [(*wanted, left), *(("advance", goal, left) for goal in ahead)]
        while wanted not in self._done:
            self._queue(plan)
            if self._outcomes is None:
                self._outcomes = self.executor.run(self.trials, self._queues)
            try:
                (what, goal, _), outcome = next(self._outcomes)
            except OWN_FAILURES as error:  # those of candidates are outcomes
                raise WorkerError(str(error)) from error
            self._given.discard((what, goal))
            self._done[what, goal] = outcome
        outcome = self._done.pop(wanted)
        if isinstance(outcome, WorkerError):
            raise EncoderError(str(outcome))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _queue(self, plan: Sequence[Call]) -> None:
        """Let the queues hold what of a plan was not begun, in its order."""
        queued = {call[:2] for calls in self._queues.values() for call in calls}
        self._given -= queued
        self._queues.clear()
        # a run is one folder: it is at one worker at a time
        busy = {goal[:3] for _, goal in self._given}
        for call in plan:
            what, goal, _ = call
            if (what, goal) in self._done or goal[:3] in busy:
                continue
            busy.add(goal[:3])
            self._given.add((what, goal))
            calls = self._queues.setdefault(goal[0], deque())
            calls.append(self._calls.setdefault(call, call))
