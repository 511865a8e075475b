"""Which encoder is measured next, and when it ends: planted encoders and a planted clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from transferscope.knowledge._foretelling import foretell
from transferscope.knowledge._model import Model
from transferscope.knowledge._names import _blank
from transferscope.ranking import _search
from transferscope.ranking._measured import Measured
from transferscope.ranking._search import (
    FIRST_LOOK,
    MOST_IN_QUESTION,
    PROBE,
    Contender,
    Outlook,
    Search,
)
from transferscope.results import EncoderResult, Score

N = 1_000
#: How often an encoder at work tells how far it is.
STEPS = 200


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_search, "time", SimpleNamespace(perf_counter=clock))
    return clock


class Foresight:
    """What published results say: one figure per encoder, rather sure."""

    def __init__(self, standing: Sequence[float], doubt: float = 0.05) -> None:
        n = len(standing)
        self.model = Model(
            weights=np.c_[standing, np.full((n, 1), 0.2)],
            covariance=np.tile(np.diag([doubt, 0.01]), (n, 1, 1)),
            noise=np.full(n, 0.05),
            kin=np.tile(np.arange(n), (2, 1)).T,
            kind_factors=np.zeros((2, 1)),
            log_spread=np.array([0.0, 0.2]),
            log_roughness=np.array([0.0, 0.0, 0.2]),
            level=np.array([1.0, 0.0, 0.5]),
            scatter=np.eye(2),
        )

    def given(self, among: Any, probe: Any, *, seed: int = 0) -> Any:
        return foretell(self.model.take(among), probe, seed=seed)


class World:
    """Encoders with a true accuracy; measuring takes the time that the clock is told."""

    def __init__(self, accuracy: dict[str, float], clock: Clock, slowness: float = 1.0) -> None:
        self.accuracy, self.clock, self.slowness = accuracy, clock, slowness
        self.calls: list[tuple[list[str], int | None]] = []
        self.broken: set[str] = set()
        self.interrupt_at: str | None = None
        self.search: Search | None = None
        self.u = np.random.default_rng(0).random((4 * N, 2))

    def __call__(self, contenders: Sequence[Contender], n_shards: int | None, watch: Any) -> None:
        assert self.search is not None
        self.calls.append(([one.name for one in contenders], n_shards))
        n = self.search.n_samples if n_shards is None else self.search.n_first
        for one in contenders:
            if one.name == self.interrupt_at:
                raise KeyboardInterrupt
            for step in range(STEPS):
                self.clock.now += self.slowness * self.search.seconds(one, n) / STEPS
                if watch is not None:
                    watch(f"extracting {one.name}", step, STEPS)
            one.looks.append(self.look(one.name, n))

    def look(self, name: str, n: int) -> Measured:
        if name in self.broken:
            return Measured(EncoderResult(name, error="not enough memory"))
        own = np.random.default_rng(len(name)).random(n)
        hits = (np.where(own < 0.3, own / 0.3, self.u[:n, 0]) < self.accuracy[name]).astype(float)
        value = float(hits.mean())
        result = EncoderResult(name, scores={PROBE: Score(value)}, samples_per_second=100.0)
        return Measured(result, {PROBE: (hits - value) / n}, n, n)

    @property
    def measured(self) -> list[str]:
        return [name for names, _ in self.calls for name in names]


def searching(
    world: World,
    standing: Sequence[float],
    seconds: Sequence[float],
    *,
    n_first: int = N,
    n_samples: int = N,
    **options: Any,
) -> Search:
    """A search among the encoders of the world, each of so many seconds for N samples."""
    contenders = [
        Contender(name, name, replace(_blank(name, "image", ""), cpu_speed=N / cost))
        for name, cost in zip(world.accuracy, seconds, strict=True)
    ]
    given: dict[str, Any] = {"stop_regret": 0.003, "budget": None, "seed": 0, "progress": None}
    foresight: Any = Foresight(standing)
    search = Search(
        contenders, foresight, world, n_first, n_samples, 0.0, device="cpu",
        **(given | {"started": world.clock()} | options),
    )  # fmt: skip
    world.search = search
    return search


def outlooks() -> tuple[list[Outlook], Callable[[Outlook], None]]:
    seen: list[Outlook] = []
    return seen, seen.append


FOUR = {"good slow": 0.86, "good fast": 0.86, "middling": 0.80, "hopeless": 0.55}
STANDING = [2.0, 1.9, 0.8, -2.5]
SECONDS = [60.0, 25.0, 30.0, 30.0]  # each more than a round


def test_the_most_promising_per_second_goes_first_and_the_hopeless_never(clock):
    world = World(FOUR, clock)
    search = searching(world, STANDING, SECONDS)
    seen, note = outlooks()
    assert search.run(note) == "settled"
    assert world.measured[0] == "good fast"
    assert "hopeless" not in world.measured
    assert all(len(names) == 1 for names, _ in world.calls)
    assert len(seen) == len(world.calls)  # told once after each round
    # the speed decides: with the costs turned round the other one is first
    world = World(FOUR, clock)
    searching(world, STANDING, [25.0, 60.0, 30.0, 30.0]).run(lambda _: None)
    assert world.measured[0] == "good slow"


def test_it_is_settled_by_what_is_left_and_not_by_what_was_found(clock):
    """The stricter, the more is measured; the more is measured, the better is known."""
    counts = []
    for stop in (0.5, 0.003, 0.0):
        world = World(FOUR, clock)
        searching(world, STANDING, SECONDS, stop_regret=stop).run(lambda _: None)
        counts.append(len(world.measured))
    assert counts[0] == 1
    assert counts[0] < counts[1] < counts[2] == len(FOUR)


def test_a_probe_that_disappoints_lets_others_in(clock):
    """The favourite turns out to be bad: the next ones are measured after all."""
    good, bad = (World(FOUR | {"good fast": accuracy}, clock) for accuracy in (0.86, 0.5))
    for world in (good, bad):
        searching(world, [0.5, 2.5, 0.4, -2.5], SECONDS, stop_regret=0.02).run(lambda _: None)
        assert world.measured[0] == "good fast"
    assert good.measured == ["good fast"]
    assert "good slow" in bad.measured


@pytest.mark.parametrize("n_first", [100, N])
def test_none_measures_all_on_all_samples(clock, n_first):
    world = World(FOUR, clock)
    seen, note = outlooks()
    assert searching(world, STANDING, SECONDS, stop_regret=None, n_first=n_first).run(note) == "all"
    assert world.calls == [(list(FOUR), None)]
    assert len(seen) == 1
    assert [len(one.looks) for one in seen[0].contenders] == [1] * 4


def test_cheap_ones_are_measured_together(clock):
    world = World(FOUR, clock)
    assert searching(world, STANDING, [2.0, 1.0, 3.0, 4.0]).run(lambda _: None) == "all"
    assert len(world.calls) == 1
    assert sorted(world.measured) == sorted(FOUR)
    world = World(FOUR, clock)
    searching(world, STANDING, [12.0, 9.0, 15.0, 15.0]).run(lambda _: None)
    costs = dict(zip(FOUR, [12.0, 9.0, 15.0, 15.0], strict=True))
    for names, _ in world.calls:
        assert len(names) == 1 or sum(costs[name] for name in names) < 20


def test_one_that_fails_costs_its_own_row(clock):
    world = World(FOUR, clock)
    world.broken = {"good fast"}
    search = searching(world, STANDING, SECONDS)
    seen, note = outlooks()
    assert search.run(note) in ("all", "settled")
    assert world.measured[:2] == ["good fast", "good slow"]
    assert world.measured.count("good fast") == 1
    names = [one.name for one in search.outlook().contenders]
    assert names == ["good slow", "middling", "hopeless"]
    assert search.outlook().accuracies.shape[1] == 3
    assert len(seen) == len(world.calls) - 1  # nothing was known after the first
    assert [one.failed for one in search.contenders] == [False, True, False, False]


def test_when_all_fail_it_ends(clock):
    world = World(FOUR, clock)
    world.broken = set(FOUR)
    seen, note = outlooks()
    search = searching(world, STANDING, SECONDS)
    assert search.run(note) == "all"
    assert sorted(world.measured) == sorted(FOUR)
    assert seen == []
    assert search.outlook().contenders == []


# --- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("slowness", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("budget", [20.0, 40.0, 70.0, 130.0])
@pytest.mark.parametrize("stop_regret", [0.0, None])
def test_a_budget_is_kept_within_a_tenth(clock, slowness, budget, stop_regret):
    world = World(FOUR, clock, slowness)
    search = searching(world, STANDING, SECONDS, stop_regret=stop_regret, budget=budget)
    start = clock.now
    why = search.run(lambda _: None)
    taken, whole = (
        clock.now - start,
        slowness * sum(search.seconds(c, N) for c in search.contenders),
    )
    assert taken <= 1.1 * budget
    assert why == ("all" if whole <= budget else "budget")
    if why == "all":
        assert len(world.measured) == 4


def test_the_progress_of_others_is_passed_on(clock):
    told: list[str] = []
    world = World(FOUR, clock)
    searching(
        world, STANDING, SECONDS, stop_regret=None, budget=60.0,
        progress=lambda text, *_: told.append(text),
    ).run(lambda _: None)  # fmt: skip
    assert set(told) <= {f"extracting {name}" for name in FOUR}
    assert len(told) > 10


def test_with_time_for_none_one_is_tried_and_cut_off(clock):
    world = World(FOUR, clock)
    search = searching(world, STANDING, SECONDS, budget=3.0)
    start = clock.now
    assert search.run(lambda _: None) == "budget"
    assert world.measured == ["good fast"]
    assert 3.0 < clock.now - start < 5.0
    assert not any(one.looks for one in search.contenders)


def test_without_time_nothing_is_begun(clock):
    world = World(FOUR, clock)
    search = searching(world, STANDING, SECONDS, budget=3.0, started=clock.now - 10)
    assert search.run(lambda _: None) == "budget"
    assert world.calls == []


def test_interrupted_it_tells_what_is_known(clock):
    world = World(FOUR, clock)
    world.interrupt_at = "good slow"
    search = searching(world, STANDING, SECONDS, stop_regret=0.0)
    seen, note = outlooks()
    assert search.run(note) == "interrupted"
    assert [one.name for one in search.contenders if one.probed] == ["good fast"]
    assert len(seen) == 1


def test_interrupted_before_anything_is_known_it_is_an_interrupt(clock):
    world = World(FOUR, clock)
    world.interrupt_at = "good fast"
    with pytest.raises(KeyboardInterrupt):
        searching(world, STANDING, SECONDS).run(lambda _: None)


# --- a first look, and a full one ---------------------------------------------------------------


def test_those_in_question_are_looked_at_in_full(clock):
    world = World(FOUR, clock)
    search = searching(
        world, [0.0] * 4, [2.0, 1.0, 3.0, 4.0], n_first=400, n_samples=4 * N, stop_regret=0.0
    )
    assert search.run(lambda _: None) == "all"
    assert [shards for _, shards in world.calls] == [FIRST_LOOK, None]
    (first, _), (full, _) = world.calls
    assert sorted(first) == sorted(FOUR)
    assert {"good slow", "good fast"} <= set(full)
    assert "hopeless" not in full
    for one in search.contenders:
        looks = [look.n_samples for look in one.looks]
        assert looks == ([400, 4_000] if one.name in full else [400])


def test_where_one_is_far_ahead_a_first_look_is_enough(clock):
    world = World({"ahead": 0.97, "bad": 0.5, "worse": 0.4}, clock)
    search = searching(
        world, [2.5, -2.0, -3.0], [1.0, 1.0, 1.0], n_first=400, n_samples=4 * N, stop_regret=0.0
    )
    search.run(lambda _: None)
    assert {shards for _, shards in world.calls} == {FIRST_LOOK}


def test_of_many_alike_only_some_are_looked_at_in_full(clock):
    names = {f"encoder {i:02d}": 0.8 for i in range(15)}
    world = World(names, clock)
    search = searching(world, [0.0] * 15, [0.5] * 15, n_first=400, n_samples=4 * N, stop_regret=0.0)
    search.run(lambda _: None)
    full = [name for called, shards in world.calls if shards is None for name in called]
    assert 2 <= len(set(full)) <= 15
    assert len(full) == len(set(full))
    assert all(len(called) <= MOST_IN_QUESTION for called, shards in world.calls if shards is None)


def test_one_seed_one_way(clock):
    def way(seed: int) -> Any:
        world = World(FOUR, clock)
        search = searching(world, STANDING, SECONDS, seed=seed, n_first=300, n_samples=N)
        why = search.run(lambda _: None)
        return world.calls, why, search.outlook().accuracies

    one, two, other = way(3), way(3), way(4)
    assert one[:2] == two[:2]
    assert np.array_equal(one[2], two[2])
    assert one[2].shape != other[2].shape or not np.array_equal(one[2], other[2])


# --- costs --------------------------------------------------------------------------------------


def test_what_an_encoder_costs(clock):
    world = World({"mini/a": 0.5, "timm/b": 0.5, "hf/c": 0.5}, clock)
    search = searching(world, [0.0] * 3, [10.0] * 3)
    bundled, download, unknown = search.contenders
    assert search.seconds_per_sample(bundled) == pytest.approx(0.01)
    assert search.seconds(bundled, 500) == pytest.approx(5.1)
    facts = replace(_blank("timm/b", "image", ""), cpu_speed=50.0, download_mb=100)
    download.known = facts
    assert search.seconds(download, 500) == pytest.approx(500 / 50 + 1 + 10)
    # without a published speed by size: of 50 million parameters 0.1 s a sample, and 200 MB
    unknown.known = None
    assert search.seconds(unknown, 500) == pytest.approx(500 * 0.1 + 1 + 20)
    unknown.known = replace(_blank("hf/c", "image", ""), n_parameters=10**7, input_size=112)
    assert search.seconds_per_sample(unknown) == pytest.approx(0.02 / 4)
    search.device = "cuda"
    assert search.seconds_per_sample(unknown) == pytest.approx(2e-4 / 4)
    assert search.seconds_per_sample(bundled) == pytest.approx(5e7 * 2e-11)  # no speed on a GPU
