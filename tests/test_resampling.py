"""Resampling: intervals that cover, probabilities that add up, ties that are ties."""

from __future__ import annotations

import numpy as np
import pytest

from transferscope.ranking._resampling import CONFIDENCE, REPLICATES, consensus, resample


def drawn(means, n: int = 400, seed: int = 0, together: float = 0.0, spread: float = 1.0):
    """Values and influences of k encoders whose score is a mean over n samples."""
    rng = np.random.default_rng(seed)
    k = len(means)
    shared = rng.standard_normal((n, 1)) * np.sqrt(together)
    own = rng.standard_normal((n, k)) * np.sqrt(1 - together)
    terms = np.asarray(means) + spread * (shared + own)
    values = terms.mean(axis=0)
    return values, terms - values


def one(means, **options):
    values, influences = drawn(means, **options)
    n = options.get("n", 400)
    return values, resample({"m": values}, {"m": influences}, n, ["m"], seed=0)


def test_intervals_cover_the_truth_as_often_as_they_say():
    hits = []
    for seed in range(200):
        values, influences = drawn([0.0, 1.0, -2.0], n=100, seed=seed)
        found = resample({"m": values}, {"m": influences}, 100, ["m"], seed=seed)
        hits.append((found.low["m"] < [0, 1, -2]) & (found.high["m"] > [0, 1, -2]))
    # 600 intervals: 0.95 give or take three standard deviations, less what 100 samples miss
    assert 0.915 < np.mean(hits) < 0.975
    assert CONFIDENCE == 0.95


def test_intervals_have_the_known_width():
    _, found = one([0.0, 1.0], n=2_000, spread=3.0)
    half = (found.high["m"] - found.low["m"]) / 2
    np.testing.assert_allclose(half, 1.96 * 3 / np.sqrt(2_000), rtol=0.08)


def test_a_few_samples_stand_for_all():
    """Influences of 500 of 8 000 samples give the interval of 8 000."""
    values, influences = drawn([0.0], n=8_000)
    whole = resample({"m": values}, {"m": influences}, 8_000, ["m"], seed=0)
    part = resample({"m": values}, {"m": influences[:500]}, 8_000, ["m"], seed=0)
    width = [float((f.high["m"] - f.low["m"])[0]) for f in (whole, part)]
    assert width[1] == pytest.approx(width[0], rel=0.12)


def test_probabilities_of_being_best_add_up_and_favour_the_better():
    _, found = one([0.0, 0.05, 0.1, -3.0])
    assert found.p_best.sum() == pytest.approx(1)
    assert found.p_best[3] == 0
    assert np.argmax(found.p_best) == np.argmin(found.mean_rank)


def test_probability_of_being_best_is_that_of_a_gaussian():
    values, found = one([0.0, 0.1], n=1_000)
    import scipy.stats

    expected = scipy.stats.norm.cdf((values[1] - values[0]) / np.sqrt(2 / 1_000))
    assert found.p_best[1] == pytest.approx(expected, abs=0.03)


def test_samples_are_drawn_together_for_all_encoders():
    """A difference that every sample shares is certain, however uncertain the scores are."""
    values, influences = drawn([0.0], n=300, spread=5.0)
    both = np.column_stack([influences, influences])
    found = resample({"m": np.append(values, values + 0.01)}, {"m": both}, 300, ["m"], seed=0)
    assert found.p_best.tolist() == [0, 1]
    assert found.tied.tolist() == [False, True]  # the first is tied with itself
    assert (found.high["m"] - found.low["m"] > 0.5).all()


def test_equal_encoders_share_everything():
    values, influences = drawn([1.0])
    values, influences = np.repeat(values, 3), np.repeat(influences, 3, axis=1)
    found = resample({"m": values}, {"m": influences}, 400, ["m"], seed=0)
    np.testing.assert_allclose(found.p_best, 1 / 3)
    assert found.mean_rank.tolist() == [2, 2, 2]
    assert found.tied.all()


def test_tied_are_those_who_lead_in_more_than_a_twentieth():
    for gap in (0.0, 1.0, 2.5, 4.0):
        n = 400
        rng = np.random.default_rng(3)
        influences = rng.standard_normal((n, 2))
        influences -= influences.mean(axis=0)
        deviation = (influences[:, 0] - influences[:, 1]).std() / np.sqrt(n)
        values = np.array([gap * deviation, 0.0])
        found = resample({"m": values}, {"m": influences}, n, ["m"], seed=0)
        assert found.tied[1] == (gap < 1.645), gap


def test_saturated_scores_tie():
    """No influence at all, the same value: nothing tells them apart."""
    none = np.zeros((50, 2))
    found = resample({"m": np.array([1.0, 1.0])}, {"m": none}, 50, ["m"], seed=0)
    assert found.tied.all()
    assert found.p_best.tolist() == [0.5, 0.5]
    assert found.low["m"].tolist() == found.high["m"].tolist() == [1.0, 1.0]


def test_ranks_are_averaged_over_metrics():
    scores = [np.array([3.0, 2.0, 1.0]), np.array([1.0, 5.0, 5.0])]
    assert consensus(scores).tolist() == [2.0, 1.75, 2.25]
    assert consensus(scores[:1]).tolist() == [1, 2, 3]
    replicates = [np.array([[3.0, 2.0], [2.0, 3.0]])]
    assert consensus(replicates).tolist() == [[1, 2], [2, 1]]


def test_metrics_outside_the_ranking_have_intervals_only():
    values, influences = drawn([0.0, 5.0])
    alone = np.array([1.0, np.nan])
    found = resample(
        {"m": values, "other": alone},
        {"m": influences, "other": influences * [1, 0]},
        400,
        ["m"],
        seed=0,
    )
    assert found.mean_rank.tolist() == [2, 1]
    assert found.low["other"][0] < 1 < found.high["other"][0]
    assert np.isnan(found.low["other"][1])


def test_the_seed_decides_and_nothing_else():
    values, influences = drawn([0.0, 0.1])
    kept = influences.copy()
    found = [resample({"m": values}, {"m": influences}, 400, ["m"], seed=s) for s in (0, 0, 1)]
    assert np.array_equal(found[0].low["m"], found[1].low["m"])
    assert np.array_equal(found[0].p_best, found[1].p_best)
    assert not np.array_equal(found[0].low["m"], found[2].low["m"])
    assert np.array_equal(influences, kept)
    assert REPLICATES >= 1_000
