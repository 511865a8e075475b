"""What a selection remembers: every trial by what it was, and how the selection ended."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transferscope.results import Selection, Trial


@dataclass(frozen=True)
class Tried:
    """A trial, with the scores of the held-out samples."""

    record: Trial
    scores: npt.NDArray[Any] | None

    @property
    def seed(self) -> int:
        return self.record.seed

    @property
    def rate(self) -> float:
        return self.record.learning_rate

    @property
    def rung(self) -> int:
        """Place in the rungs, from 0."""
        return self.record.rung - 1

    @property
    def validation(self) -> float | None:
        return self.record.validation

    @property
    def order(self) -> tuple[float, float]:
        assert self.record.validation is not None
        assert self.record.validation_loss is not None
        return self.record.validation, -self.record.validation_loss


Key = tuple[str, float, int, int]


def key(record: Trial) -> Key:
    """What a trial was."""
    return record.encoder, record.learning_rate, record.seed, record.rung


@dataclass(frozen=True)
class Ended:
    """How a call ended: within its budget or at it; mean and spread of numbers as targets."""

    budget: float | None
    selection: Selection
    within: bool
    scale: list[list[float]] | None


class Journal:
    """The file of a selection: what was asked, what was tried, and how it ended."""

    def __init__(self, path: Path, wanted: Mapping[str, object]) -> None:
        from transferscope.training._saving import reading, refuse_other_run

        self.path, self.identity = path, wanted
        self._trials: dict[Key, tuple[Trial, str | None]] = {}
        self.ended: Ended | None = None
        if not path.exists():
            return
        with reading(path):
            content = json.loads(path.read_text(encoding="utf-8"))
            refuse_other_run(path, content["identity"], wanted)
            for row in content["trials"]:
                scores = row.pop("scores")
                trial = Trial(**row)
                self._trials[key(trial)] = trial, scores
            if content["ended"] is not None:
                selection = Selection.from_json(json.dumps(content["ended"]["selection"]))
                self.ended = Ended(**{**content["ended"], "selection": selection})

    def find(self, encoder: str, rate: float, seed: int, rung: int) -> Tried | None:
        """A trial of an earlier call."""
        found = self._trials.get((encoder, rate, seed, rung + 1))
        return None if found is None else self._with_scores(*found)

    def add(self, record: Trial, scores: npt.NDArray[Any] | None) -> Tried:
        """Write a trial down; gives it back as it will be read."""
        text = None
        if scores is not None:
            binary = bool(np.isin(scores, (0, 1)).all())
            packed = np.packbits(scores.astype(bool)) if binary else scores.astype("<f4")
            kind = f"bits {len(scores)} " if binary else "floats "
            text = kind + base64.b64encode(packed.tobytes()).decode()
        self._trials[key(record)] = record, text
        self._write()
        return self._with_scores(record, text)

    def end(self, ended: Ended) -> None:
        """Write the end down."""
        self.ended = ended
        self._write()

    def _write(self) -> None:
        from transferscope.training._saving import write_text

        ended = None
        if self.ended is not None:
            plain = json.loads(self.ended.selection.to_json())
            ended = {**vars(self.ended), "selection": plain}
        trials = [{**asdict(record), "scores": text} for record, text in self._trials.values()]
        content = {"identity": self.identity, "trials": trials, "ended": ended}
        write_text(self.path, json.dumps(content, indent=1))

    def _with_scores(self, record: Trial, text: str | None) -> Tried:
        from transferscope.training._saving import reading

        if text is None:
            return Tried(record, None)
        with reading(self.path):
            kind, _, rest = text.partition(" ")
            if kind == "floats":
                return Tried(record, np.frombuffer(base64.b64decode(rest), "<f4").astype(float))
            n, _, packed = rest.partition(" ")
            bits = np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8))
            return Tried(record, bits[: int(n)].astype(float))
