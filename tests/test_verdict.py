"""The verdict: draws of accuracies, counted one by one; which is recommended, and what is said."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from transferscope.ranking._verdict import CHEAPER, PREFERENCES, Candidate, judge
from transferscope.results import EncoderResult

DRAWS = 500


def candidate(name: str, **facts) -> Candidate:
    result = EncoderResult(
        name,
        n_parameters=facts.pop("n_parameters", 10**6),
        feature_dim=facts.pop("feature_dim", 100),
    )
    usual = {
        "probe": 0.8,
        "n_probed": 200,
        "n_results": 3,
        "seconds_per_sample": 0.01,
        "permissive": True,
        "before": 0.7,
    }
    return Candidate(result, **(usual | facts))


def draws(means, seed: int = 0, spread: float = 0.02) -> np.ndarray:
    """Draws whose means are these, to the last bit but one."""
    noise = np.random.default_rng(seed).standard_normal((DRAWS, len(means)))
    noise -= noise.mean(axis=0)
    return np.asarray(means) + spread * noise


def judged(candidates, accuracies, tolerance=0.005, prefer="speed"):
    rows, chosen, reason = judge(candidates, accuracies, tolerance=tolerance, prefer=prefer)
    assert chosen in rows
    assert "no other" not in reason.lower() or "was measured" in reason
    assert "nan" not in reason
    assert "inf" not in reason
    return {row.encoder: row for row in rows}, chosen.encoder, reason


@pytest.mark.parametrize("seed", range(5))
def test_every_number_is_what_counting_gives(seed):
    rng = np.random.default_rng(seed)
    n = 5
    # few values, so that draws have several at the top
    accuracies = rng.integers(80, 100, (DRAWS, n)) / 100
    candidates = [candidate(f"e{i}", before=0.5 + i / 10) for i in range(n)]
    found, chosen, _ = judged(candidates, accuracies, tolerance=0.003)
    place = int(chosen[1])
    mean = [sum(draw) / DRAWS for draw in accuracies.T]
    assert list(found) == [f"e{i}" for i in sorted(range(n), key=lambda i: -mean[i])]
    for i in range(n):
        row = found[f"e{i}"]
        wins = regret = loss = 0.0
        for draw in accuracies:
            top = max(draw)
            wins += (draw[i] == top) / sum(value == top for value in draw)
            regret += top - draw[i]
            loss += draw[place] - draw[i]
        assert row.p_best == pytest.approx(wins / DRAWS)
        assert row.in_group == (mean[i] >= max(mean) - 0.003)
        assert row.rank == 1 + sum(other > mean[i] for other in mean)
        assert row.expected.mean == pytest.approx(mean[i])
        assert row.expected.regret == pytest.approx(regret / DRAWS)
        assert row.expected.loss == pytest.approx(loss / DRAWS)
        ordered = sorted(accuracies[:, i])
        assert ordered[23] <= row.expected.low <= ordered[26]
        assert ordered[473] <= row.expected.high <= ordered[476]
        behind = sorted(accuracies[:, place] - accuracies[:, i])
        assert behind[23] <= row.expected.loss_low <= behind[26]
        assert behind[473] <= row.expected.loss_high <= behind[476]
        assert row.expected.loss_before == pytest.approx((place - i) / 10)
    assert sum(row.p_best for row in found.values()) == pytest.approx(1)


def test_what_is_known_of_each_is_passed_on():
    candidates = [candidate("a", probe=0.7, n_probed=90, n_results=7, seconds_per_sample=0.25),
                  candidate("b", probe=None, n_probed=0, n_results=0)]  # fmt: skip
    found, _, _ = judged(candidates, draws([0.9, 0.8]))
    one, other = found["a"].expected, found["b"].expected
    assert (one.probe, one.n_probed, one.n_results, one.seconds_per_sample) == (0.7, 90, 7, 0.25)
    assert (other.probe, other.n_probed, other.n_results) == (None, 0, 0)


#: Expected accuracies, and what each costs; all but the last are within half a point of the best.
FOUR = {
    "best": (0.900, {"seconds_per_sample": 0.10, "n_parameters": 9_000, "feature_dim": 900,
                     "permissive": False}),
    "quick": (0.899, {"seconds_per_sample": 0.02, "n_parameters": 8_000, "feature_dim": 800,
                      "permissive": False}),
    "small": (0.898, {"seconds_per_sample": 0.09, "n_parameters": 2_000, "feature_dim": 850,
                      "permissive": False}),
    "narrow": (0.897, {"seconds_per_sample": 0.08, "n_parameters": 7_000, "feature_dim": 300,
                       "permissive": False}),
    "free": (0.896, {"seconds_per_sample": 0.07, "n_parameters": 8_500, "feature_dim": 700,
                     "permissive": True}),
    "cheapest of all": (0.880, {"seconds_per_sample": 0.001, "n_parameters": 10, "feature_dim": 1,
                                "permissive": True}),
}  # fmt: skip


def four(**changes):
    candidates = [candidate(name, **facts) for name, (_, facts) in FOUR.items()]
    candidates = [
        replace(one, **changes.get(one.result.encoder.replace(" ", "_"), {})) for one in candidates
    ]
    return candidates, draws([mean for mean, _ in FOUR.values()])


@pytest.mark.parametrize(
    ("prefer", "chosen", "said"),
    [
        ("speed", "quick", "runs 5.0 x as fast"),
        ("size", "small", "has 0.22 of its parameters"),
        ("dimension", "narrow", "has 0.33 of its features"),
        ("licence", "free", "its licence allows any use"),
    ],
)
def test_the_cheapest_of_the_group_by_each_preference(prefer, chosen, said):
    found, recommended, reason = judged(*four(), prefer=prefer)
    assert recommended == chosen
    assert [name for name, row in found.items() if row.in_group] == list(FOUR)[:-1]
    mean = FOUR[chosen][0]
    assert reason.startswith(f"Fine-tune {chosen}: {100 * mean:.1f} % expected (")
    lost = 100 * (0.9 - mean)
    assert f"It is expected to lose {lost:.1f} points (" in reason
    assert f"to best, and {said}." in reason
    low, high = map(float, re.findall(r"points \((-?\d+\.\d) to (-?\d+\.\d)\) to best", reason)[0])
    assert low < lost < high


def test_every_preference_is_tried():
    assert set(PREFERENCES) == {"speed", "size", "dimension", "licence"}


def test_numbers_of_the_sentence_are_those_of_the_rows():
    found, chosen, reason = judged(*four())
    row, best = found[chosen].expected, found["best"].expected
    shown = f"{100 * row.mean:.1f} % expected ({100 * row.low:.1f} to {100 * row.high:.1f})"
    assert shown in reason
    against = f"{-100 * best.loss:.1f} points ({-100 * best.loss_high:.1f} to "
    assert f"{against}{-100 * best.loss_low:.1f}) to best" in reason
    cheaper = found["cheapest of all"].expected
    assert (
        "The next cheaper, cheapest of all, is expected to lose "
        f"{100 * cheaper.loss:.1f} points ({100 * cheaper.loss_low:.1f} to "
        f"{100 * cheaper.loss_high:.1f}), and runs 20.0 x as fast." in reason
    )


def test_without_tolerance_the_best_is_recommended():
    found, recommended, reason = judged(*four(), tolerance=0)
    assert recommended == "best"
    assert sum(row.in_group for row in found.values()) == 1
    assert "The next, quick, is expected to lose 0.1 points (" in reason
    assert reason.endswith("), and runs 5.0 x as fast.")
    assert reason.count("quick") == 1
    # the next one is not cheaper: the first that is comes after it
    _, _, reason = judged(*four(), tolerance=0, prefer="size")
    assert "The next, quick, is expected to lose 0.1 points (" in reason
    assert "The next cheaper, small, is expected to lose 0.2 points (" in reason
    assert reason.endswith("), and has 0.22 of its parameters.")


def test_a_little_cheaper_is_no_reason():
    """A factor of less than 1.5 in cost is not worth a tenth of a point."""
    for factor, chosen in ((1.49, "best"), (1.51, "other")):
        candidates = [
            candidate("best", seconds_per_sample=0.03),
            candidate("other", seconds_per_sample=0.03 / factor),
        ]
        assert judged(candidates, draws([0.9, 0.899]))[1] == chosen
    assert CHEAPER == 1.5


@pytest.mark.parametrize("prefer", PREFERENCES)
def test_unknown_costs_are_never_cheap_and_never_a_number(prefer):
    nothing = {"seconds_per_sample": None, "permissive": False}
    unknown = [candidate("a", **nothing), candidate("b", **nothing)]
    unknown = [
        replace(one, result=replace(one.result, n_parameters=None, feature_dim=None))
        for one in unknown
    ]
    known = candidate("known", seconds_per_sample=0.01)
    _, recommended, _ = judged([unknown[0], known], draws([0.9, 0.899]), prefer=prefer)
    # a licence that is not known is not permissive: this one is known to be better
    assert recommended == ("known" if prefer == "licence" else "a")
    assert judged([known, unknown[0]], draws([0.9, 0.899]), prefer=prefer)[1] == "known"
    # all draws equal: no order, and nothing to compare
    equal = np.repeat(draws([0.9]), 2, axis=1)
    found, recommended, reason = judged(unknown, equal, prefer=prefer)
    assert [row.rank for row in found.values()] == [1, 1]
    assert [row.p_best for row in found.values()] == [0.5, 0.5]
    assert "is expected to lose 0.0 points (0.0 to 0.0)" in reason
    assert " x as fast" not in reason


def test_only_what_was_measured_is_recommended():
    candidates, accuracies = four(best={"probe": None}, quick={"probe": None})
    found, recommended, reason = judged(candidates, accuracies)
    assert recommended == "small"
    assert found["best"].rank == 1
    assert found["best"].in_group
    assert found["best"].expected.loss < 0  # it may be better: that is shown, and not said
    assert "best" not in reason
    assert "quick" not in reason
    # nothing of the group was measured: the best of what was
    measured = {name: {"probe": None} for name in FOUR if name != "cheapest of all"}
    candidates, accuracies = four(**measured)
    found, recommended, reason = judged(candidates, accuracies)
    assert recommended == "cheapest of all"
    assert reason.endswith("No other candidate was measured.")
    assert not found["cheapest of all"].in_group


def test_one_alone():
    found, recommended, reason = judged([candidate("only")], draws([0.9]))
    row = found[recommended]
    assert (row.rank, row.p_best, row.in_group, row.expected.regret) == (1, 1.0, True, 0.0)
    assert reason.endswith("No other candidate was measured.")


def test_order_of_equals_is_that_of_their_names():
    candidates = [candidate("b"), candidate("a")]
    rows, _, _ = judge(candidates, np.full((10, 2), 0.5), tolerance=0.0, prefer="speed")
    assert [row.encoder for row in rows] == ["a", "b"]


def test_how_sure_it_sounds_is_how_sure_it_is():
    """Two that differ by chance: the interval of the loss holds zero, and says so."""
    candidates = [candidate("a"), candidate("b")]
    _, _, reason = judged(candidates, draws([0.9, 0.899], spread=0.05), tolerance=0)
    low, high = map(float, re.findall(r"points \((-?\d+\.\d) to (-?\d+\.\d)\)", reason)[0])
    assert low < -5 < 5 < high
