"""Ranking step by step: a first look, a full one where it matters, and no row computed twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import transferscope

torch = pytest.importorskip("torch", reason="ranking runs encoders in torch")

from transferscope.encoders import from_module  # noqa: E402
from transferscope.errors import InputError  # noqa: E402
from transferscope.extraction import _batches  # noqa: E402
from transferscope.ranking import _rank, _search  # noqa: E402
from transferscope.results import Ranking  # noqa: E402

N, SHARD, FIRST = 160, 16, 32


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_batches, "SHARD_ROWS", SHARD)


class Vectors:
    key = "vectors"

    def prepare(self, sample: Any) -> Any:
        return sample

    def collate(self, prepared: Sequence[Any]) -> Any:
        return np.stack(prepared)


@pytest.fixture(scope="module")
def data() -> Any:
    """Three classes, those in front more often; the last number of a sample is its row."""
    random = np.random.default_rng(0)
    labels = np.sort(np.arange(N) % 9 // 2 % 3)
    samples = 2 * np.eye(3, 8)[labels] + 0.4 * random.standard_normal((N, 8))
    samples[:, 7] = np.arange(N)
    return transferscope.open_dataset((samples.astype(np.float32), labels))


class Encoders:
    """Encoders that see the class through noise of their own, and what each of them looked at."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}
        self.stop: tuple[str, int] | None = None
        self.now, self.seconds = 0.0, 0.0

    def one(self, name: str, noise: float) -> Any:
        seen = self.rows.setdefault(name, [])

        def function(batch: Any) -> Any:
            if self.stop is not None and self.stop[0] == name and len(seen) >= self.stop[1]:
                raise KeyboardInterrupt
            rows = batch[:, 7].astype(int).tolist()
            seen.extend(rows)
            self.now += self.seconds * len(rows)
            own = [np.random.default_rng([row, len(name)]).standard_normal(7) for row in rows]
            return (batch[:, :7] + noise * np.array(own)).astype("f4")

        return from_module(function, Vectors(), identifier=name, version="1")

    def all(self) -> list[Any]:
        return [self.one("good", 0.3), self.one("as good", 0.32), self.one("hopeless", 40.0)]

    def counts(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self.rows.items()}

    def require_no_row_twice(self) -> None:
        for name, rows in self.rows.items():
            assert max(Counter(rows).values()) == 1, name


def rank(dataset: Any, encoders: Any, store: Path | None, **options: Any) -> Ranking:
    return transferscope.rank(
        dataset, encoders, "logme", **{"store": store, "device": "cpu", "batch_size": 8, **options}
    )


def facts(ranking: Ranking) -> Any:
    return [
        (row.encoder, row.rank, row.p_best, row.expected and row.expected.mean, row.error)
        for row in ranking
    ]


def test_a_full_look_continues_the_first(data, tmp_path):
    encoders = Encoders()
    ranking = rank(data, encoders.all(), tmp_path, stop_regret=0.0)
    assert encoders.counts() == {"good": N, "as good": N, "hopeless": FIRST}
    encoders.require_no_row_twice()
    # all classes have their share in the first look
    first = np.bincount(data.labels[encoders.rows["hopeless"]])
    assert np.abs(first / FIRST - np.bincount(data.labels) / N).max() < 0.04
    assert {row.encoder: row.expected.n_probed for row in ranking} == {
        "good": N,
        "as good": N,
        "hopeless": FIRST,
    }
    note = "a first look: its scores are of 32 of 160 samples"
    assert [note in row.warnings for row in ranking] == [False, False, True]
    assert ranking.encoders[2].encoder == "hopeless"
    assert (ranking.verdict.n_candidates, ranking.verdict.n_measured) == (3, 3)
    assert ranking.verdict.stopped == "all"
    assert ranking.dataset.fingerprint == data.fingerprint
    assert ranking.dataset.n_samples == N
    # scores of all samples are those of all samples, whatever the order
    whole = rank(data, Encoders().all(), None, stop_regret=None)
    values = {row.encoder: row for row in whole}
    for row in ranking.encoders[:2]:
        expected = values[row.encoder]
        assert row.expected.probe == pytest.approx(expected.expected.probe, abs=1e-9)
        assert row.scores["logme"].value == pytest.approx(expected.scores["logme"].value, rel=1e-4)
    assert all(row.scores["logme"].low < row.scores["logme"].high for row in ranking)


def test_repeated_and_completed_nothing_is_computed_twice(data, tmp_path):
    encoders = Encoders()
    first = rank(data, encoders.all(), tmp_path, stop_regret=0.0)
    before = encoders.counts()
    assert facts(rank(data, encoders.all(), tmp_path, stop_regret=0.0)) == facts(first)
    assert encoders.counts() == before
    # all of them in full: only what is not there yet
    complete = rank(data, encoders.all(), tmp_path, stop_regret=None)
    assert encoders.counts() == dict.fromkeys(before, N)
    encoders.require_no_row_twice()
    assert {row.expected.n_probed for row in complete} == {N}


def test_one_seed_one_ranking(data, tmp_path):
    rankings = [
        rank(data, Encoders().all(), tmp_path / str(i), stop_regret=0.0, seed=seed)
        for i, seed in enumerate((1, 1, 2))
    ]
    assert facts(rankings[0]) == facts(rankings[1])
    assert facts(rankings[0]) != facts(rankings[2])


def test_interrupted_it_says_what_is_known_and_continues(data, tmp_path):
    encoders = Encoders()
    encoders.stop = ("as good", 100)  # in the full look
    updates: list[Ranking] = []
    ranking = rank(data, encoders.all(), tmp_path, stop_regret=0.0, report=updates.append)
    assert ranking.verdict.stopped == "interrupted"
    assert len(ranking) == 3
    assert [one.verdict.stopped for one in updates] == ["not yet"]
    assert facts(ranking) == facts(updates[0])
    left = encoders.counts()
    assert left["hopeless"] == FIRST
    encoders.stop = None
    again = rank(data, encoders.all(), tmp_path, stop_regret=0.0)
    assert again.verdict.stopped == "all"
    # what a killed run can lose is the shard it was at, of each encoder of the pass
    assert encoders.counts()["hopeless"] == FIRST
    for name in ("good", "as good"):
        assert N <= encoders.counts()[name] <= N + SHARD
    assert facts(again) == facts(rank(data, Encoders().all(), tmp_path / "b", stop_regret=0.0))


def test_interrupted_before_anything_is_known_it_is_an_interrupt(data, tmp_path):
    encoders = Encoders()
    encoders.stop = ("good", 10)
    with pytest.raises(KeyboardInterrupt):
        rank(data, encoders.all(), tmp_path)


def test_updates_are_rankings_of_all_candidates(data, tmp_path):
    updates: list[Ranking] = []
    ranking = rank(data, Encoders().all(), tmp_path, stop_regret=0.0, report=updates.append)
    assert len(updates) == 2  # after the first look and after the full one
    assert [one.verdict.stopped for one in updates] == ["not yet"] * 2
    assert all(len(one) == 3 for one in updates)
    assert facts(updates[-1]) == facts(ranking)
    assert updates[0].encoders[0].expected.n_probed == FIRST


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Encoders:
    """Encoders by which the clock goes."""
    encoders = Encoders()
    clock = SimpleNamespace(perf_counter=lambda: encoders.now)
    monkeypatch.setattr(_search, "time", clock)
    monkeypatch.setattr(_rank, "time", clock)
    return encoders


@pytest.mark.parametrize("stop_regret", [0.0, None])
def test_a_budget_is_kept_and_what_is_known_by_then_is_said(
    data, tmp_path, clocked, monkeypatch, stop_regret
):
    clocked.seconds = 1.0
    # one encoder at a time
    monkeypatch.setattr(_search, "ROUND_SECONDS", 0.0)
    ranking = rank(data, clocked.all(), tmp_path, stop_regret=stop_regret, budget=250.0)
    assert ranking.verdict.stopped == "budget"
    assert clocked.now <= 275
    assert ranking.verdict.seconds == pytest.approx(clocked.now)
    assert len(ranking) == 3
    assert {row.error for row in ranking} == {None}
    assert 1 <= ranking.verdict.n_measured <= 3
    for row in ranking:
        measured = row.expected.probe is not None
        assert bool(row.scores) == measured
        assert (row.expected.n_probed > 0) == measured
    # with time it goes on where it was
    clocked.seconds = 0.0
    rank(data, clocked.all(), tmp_path, stop_regret=None)
    assert max(clocked.counts().values()) <= N + SHARD


def test_a_budget_of_a_streamed_pass(data, clocked):
    """Nothing is stored: what was cut off is lost, and without anything known there is no rank."""
    clocked.seconds = 1.0
    ranking = rank(data, clocked.all(), None, budget=30.0)
    assert clocked.now <= 40
    assert ranking.verdict is None
    assert ranking.ranked == ()
    assert len(ranking) == 3
    assert all("the budget was spent before" in row.error for row in ranking)
    assert "Nothing could be ranked" in ranking.advice


def test_hopeless_ones_stay_unmeasured(data, tmp_path, clocked, monkeypatch):
    """By default those that promise nothing any more are not looked at."""
    monkeypatch.setattr(_search, "ROUND_SECONDS", 0.0)
    ranking = rank(data, clocked.all(), tmp_path, stop_regret=0.9)
    assert ranking.verdict.stopped == "settled"
    assert ranking.verdict.n_measured == 1
    assert len(ranking) == 3
    unmeasured = [row for row in ranking if row.expected.probe is None]
    assert len(unmeasured) == 2
    for row in unmeasured:
        assert (row.scores, row.error, row.samples_per_second) == ({}, None, None)
        assert row.expected.seconds_per_sample > 0
        assert row.encoder != ranking.verdict.recommended
    assert Ranking.from_json(ranking.to_json()) == ranking


def test_without_a_store_all_that_are_measured_are_looked_at_in_full(data):
    encoders = Encoders()
    ranking = rank(data, encoders.all(), None, stop_regret=0.0)
    assert encoders.counts() == dict.fromkeys(encoders.rows, N)
    assert {row.expected.n_probed for row in ranking} == {N}


def test_one_that_fails_in_its_full_look_costs_its_own_row(data, tmp_path):
    encoders = Encoders()
    good = encoders.one("good", 0.3)
    seen: list[int] = []

    def function(batch: Any) -> Any:
        seen.append(len(batch))
        if sum(seen) > FIRST:
            raise MemoryError("no more")
        return batch[:, :7]

    broken = from_module(function, Vectors(), identifier="breaks later", version="1")
    ranking = rank(data, [good, broken, encoders.one("as good", 0.3)], tmp_path, stop_regret=0.0)
    assert ranking.encoders[2].encoder == "breaks later"
    assert ranking.encoders[2].error == "MemoryError: no more"
    assert ranking.verdict.n_candidates == 3
    assert ranking.verdict.n_measured == 2


# --- without names ------------------------------------------------------------------------------


def test_without_encoders_the_known_ones_are_the_candidates(monkeypatch, tmp_path):
    asked: list[str] = []

    def available(modality: str) -> Any:
        asked.append(modality)
        return ["mini/resnet-mnist-supervised", "mini/resnet-random"], ("the hub does not answer",)

    monkeypatch.setattr(_rank, "available_encoders", available)
    digits = transferscope.open_dataset("sklearn/digits", per_class=12)
    options = {"store": None, "device": "cpu", "batch_size": SHARD, "stop_regret": None}
    ranking = transferscope.rank(digits, metrics="knn", **options)
    assert asked == ["image"]
    assert {row.encoder for row in ranking} == {
        "mini/resnet-mnist-supervised", "mini/resnet-random",
    }  # fmt: skip
    assert "the hub does not answer" in ranking.verdict.notes


def test_of_data_that_nothing_is_published_about_encoders_must_be_named(data):
    with pytest.raises(InputError, match="Name some, or an encoder of your own"):
        transferscope.rank(data, store=None)
