"""Agreement of scores with fine-tuned accuracy: measures, intervals, tests, and bad tables."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import scipy.stats

from reference import agreement as reference
from transferscope.errors import InputError
from transferscope.evaluation import MEASURES, _agreement, evaluate
from transferscope.evaluation._measures import measure_draws

SCIPY = {
    "weighted_tau": scipy.stats.weightedtau,
    "kendall": scipy.stats.kendalltau,
    "spearman": scipy.stats.spearmanr,
    "pearson": scipy.stats.pearsonr,
}


def zoo(n_datasets=6, n_encoders=8, noises=(0.5, 3.0), seed=0):
    """Accuracies, and one metric per noise: m0 the better one."""
    rng = np.random.default_rng(seed)
    truth = {
        f"d{i}": {f"e{j}": float(v) for j, v in enumerate(80 + 3 * rng.standard_normal(n_encoders))}
        for i in range(n_datasets)
    }
    scores = {
        d: {
            f"m{i}": {e: v + noise * rng.standard_normal() for e, v in row.items()}
            for i, noise in enumerate(noises)
        }
        for d, row in truth.items()
    }
    return scores, truth


def once(scores, accuracy):
    found = measure_draws(np.array(scores), np.array(accuracy), np.ones((1, len(scores)), int))
    return {name: values[0] for name, values in found.items()}


@pytest.mark.parametrize("levels", [3, 6, 1000])
@pytest.mark.parametrize("repeated", [False, True])
def test_correlations_are_scipys_with_ties_and_repeated_encoders(levels, repeated):
    rng = np.random.default_rng(levels)
    seen = 0
    for _ in range(60):
        n = int(rng.integers(3, 14))
        s, a = rng.integers(0, levels, n).astype(float), rng.integers(0, levels, n).astype(float)
        counts = rng.integers(0, 3, (1, n)) if repeated else np.ones((1, n), int)
        found = measure_draws(s, a, counts)
        x, y = np.repeat(s, counts[0]), np.repeat(a, counts[0])
        if len(set(x)) < 2 or len(set(y)) < 2:
            assert all(np.isnan(found[name][0]) for name in (*SCIPY, "weighted_pearson"))
            continue
        seen += 1
        for name, function in SCIPY.items():
            assert found[name][0] == pytest.approx(function(x, y)[0], abs=1e-12), name
    assert seen > 20


def test_measures_are_the_literal_ones():
    rng = np.random.default_rng(1)
    for _ in range(40):
        n = int(rng.integers(3, 10))
        s, a = rng.integers(0, 5, n).astype(float), rng.integers(1, 6, n).astype(float)
        if len(set(s)) < 2 or len(set(a)) < 2:
            continue
        found = once(s, a)
        assert found["kendall"] == pytest.approx(reference.kendall_tau_b(s, a))
        assert found["weighted_pearson"] == pytest.approx(reference.weighted_pearson(s, a))
        for k in (1, 3):
            top = reference.best_of_top(s, a, k)
            assert found[f"rel@{k}"] == pytest.approx(top / a.max())
            assert found[f"recall@{k}"] == (top == a.max())
            assert found[f"regret@{k}"] == pytest.approx(a.max() - top)


def test_weighted_tau_stored_value():
    # scipy's documentation of weightedtau gives this value for these two rows
    found = once([12.0, 2.0, 1.0, 12.0, 2.0], [1.0, 4.0, 7.0, 1.0, 0.0])
    assert found["weighted_tau"] == pytest.approx(-0.56694968153682723, abs=1e-12)


def test_draws_do_not_depend_on_each_other_or_on_the_order_of_encoders():
    rng = np.random.default_rng(2)
    s, a = rng.integers(0, 4, 7).astype(float), rng.standard_normal(7) + 5
    counts, order = rng.integers(0, 3, (30, 7)), rng.permutation(7)
    together, shuffled = measure_draws(s, a, counts), measure_draws(s[order], a[order],
                                                                    counts[:, order])  # fmt: skip
    for i in range(30):
        alone = measure_draws(s, a, counts[i : i + 1])
        for name in MEASURES:
            np.testing.assert_allclose(alone[name][0], together[name][i], atol=1e-12)
            np.testing.assert_allclose(shuffled[name][i], together[name][i], atol=1e-12)


def test_average_is_that_of_the_data_sets_and_the_better_metric_wins():
    scores, truth = zoo()
    found = evaluate(scores, truth)
    for metric in ("m0", "m1"):
        for measure in MEASURES:
            each = [found[d, metric][measure].value for d in truth]
            assert found.average[metric][measure].value == pytest.approx(np.mean(each))
            interval = found.average[metric][measure]
            assert interval.low <= interval.high
    assert found.average["m0"]["weighted_tau"].value > found.average["m1"]["weighted_tau"].value
    assert found.warnings == ()
    assert evaluate(scores, truth) == found
    assert evaluate(scores, truth, seed=1) != found


def test_intervals_cover_the_population():
    # accuracies of spread 3 and noise of spread 2 correlate with 3/√13; tau is 2/π·asin of it
    truth = 2 / np.pi * np.arcsin(3 / np.sqrt(13))
    covered = 0
    for seed in range(30):
        interval = evaluate(*zoo(6, 25, (2.0,), seed=seed)).average["m0"]["kendall"]
        covered += interval.low <= truth <= interval.high
    assert covered >= 26  # 28.5 are expected


def test_paired_test_is_the_literal_one():
    scores, truth = zoo()
    found = evaluate(scores, truth)
    (pair,) = found.comparisons
    gaps = [
        found[d, "m0"]["weighted_tau"].value - found[d, "m1"]["weighted_tau"].value for d in truth
    ]
    assert (pair.first, pair.second, pair.n_datasets) == ("m0", "m1", 6)
    assert pair.difference == pytest.approx(np.mean(gaps))
    assert pair.p_value == pytest.approx(reference.sign_flip_p(gaps))
    assert pair.low < pair.difference < pair.high


def test_many_data_sets_draw_their_flips():
    (pair,) = evaluate(*zoo(16, 5)).comparisons
    assert 1 / 8193 <= pair.p_value < 0.05


def test_a_pair_is_compared_on_the_encoders_that_both_have():
    scores, truth = zoo(3)
    for d in truth:
        del scores[d]["m1"]["e0"]
    found = evaluate(scores, truth)
    common = {d: {m: {e: v for e, v in r.items() if e != "e0"} for m, r in row.items()}
              for d, row in scores.items()}  # fmt: skip
    fewer = {d: {e: v for e, v in row.items() if e != "e0"} for d, row in truth.items()}
    expected = evaluate(common, fewer).comparisons[0].difference
    assert found.comparisons[0].difference == pytest.approx(expected)
    assert any("m1 misses 1 of 8 encoders (e0)" in w for w in found.warnings)


@pytest.mark.parametrize(("n_encoders", "levels"), [(3, 1000), (5, 3), (8, 1000)])
def test_many_metrics_compare_as_each_pair_alone_to_the_bit(n_encoders, levels):
    """With ties, and encoders and data sets that are missing."""
    rng = np.random.default_rng(levels)
    _, truth = zoo(3, n_encoders)
    scores = {
        d: {
            f"m{i}": {e: float(rng.integers(levels)) for e in row if rng.random() > 0.1}
            for i in range(7)
            if (d, i) not in (("d0", 2), ("d1", 3), ("d2", 2), ("d2", 3))
        }
        for d, row in truth.items()
    }
    alone = []
    for first, second in itertools.combinations([f"m{i}" for i in range(7)], 2):
        two = {d: {m: r for m, r in row.items() if m in (first, second)}
               for d, row in scores.items()}  # fmt: skip
        alone += evaluate(two, truth).comparisons
    assert 10 < len(alone) < 7 * 6 / 2, "m2 and m3 have no data set in common"
    together = evaluate(scores, truth).comparisons
    assert sorted(together, key=str) == sorted(alone, key=str)


def test_metrics_that_order_the_encoders_alike_are_compared_once(monkeypatch):
    """Else the time would grow with the square of a thousand metrics."""
    compared = []

    def counted(gaps, draws):
        compared.append(len(gaps))
        return compare(gaps, draws)

    compare = _agreement._compare
    monkeypatch.setattr(_agreement, "_compare", counted)
    found = evaluate(*zoo(1, 3, noises=(3.0,) * 100))
    assert len(found.comparisons) == 100 * 99 / 2
    assert sum(compared) <= 6 * 6


def test_ties_and_constants_are_said():
    truth = {"d": {"a": 3.0, "b": 2.0, "c": 1.0}, "f": {"a": 3.0, "b": 2.0, "c": 1.0}}
    scores = {
        "d": {"flat": dict.fromkeys("abc", 1.0), "tied": {"a": 2.0, "b": 1.0, "c": 1.0}},
        "f": {"flat": {"a": 3.0, "b": 2.0, "c": 1.0}, "tied": {"a": 2.0, "b": 1.0, "c": 0.0}},
    }
    found = evaluate(scores, truth)
    assert any("all scores of flat are the same" in w and "on d." in w for w in found.warnings)
    assert "ties among the scores of tied on d." in found.warnings
    for name in ("weighted_tau", "kendall", "spearman", "pearson", "weighted_pearson"):
        assert found["d", "flat"][name].value is None
        assert "are the same" in found["d", "flat"][name].reason
        assert found.average["flat"][name].value == pytest.approx(1.0)  # of f alone
    assert found["d", "flat"]["regret@1"].value == 2.0  # against the metric
    constant = evaluate({"d": {"m": {"a": 1.0, "b": 2.0, "c": 3.0}}},
                        {"d": dict.fromkeys("abc", 5.0)})  # fmt: skip
    assert any("all accuracies are the same" in w for w in constant.warnings)
    assert "undefined on every data set" in constant.average["m"]["kendall"].reason


def test_fewer_than_three_encoders():
    truth = {"d": {"a": 3.0, "b": 2.0, "c": 1.0}, "f": {"a": 3.0, "b": 2.0}}
    scores = {"d": {"m": {"a": 3.0, "b": 2.0, "c": 1.0}}, "f": {"m": {"a": 3.0, "b": 2.0}}}
    found = evaluate(scores, truth)
    assert found["f", "m"]["weighted_tau"].value is None
    assert any("fewer than three encoders" in w and "on f." in w for w in found.warnings)
    with pytest.raises(InputError, match="at least three encoders"):
        evaluate({"f": scores["f"]}, truth)


def test_what_one_table_lacks_is_said():
    scores, truth = zoo(2, 5, (1.0,))
    scores["other"] = scores["d0"]
    truth["unscored"] = truth["d0"]
    scores["d0"]["m0"]["stranger"] = 1.0
    warnings = evaluate(scores, truth).warnings
    assert any("no accuracies for other" in w for w in warnings)
    assert any("no scores for unscored" in w for w in warnings)
    assert any("no accuracy of encoders (stranger) on d0" in w for w in warnings)
    with pytest.raises(InputError, match="must share a data set"):
        evaluate({"other": scores["other"]}, truth)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, 1e151])
def test_no_number_and_what_overflows_is_refused(value):
    scores, truth = zoo(1)
    scores["d0"]["m0"]["e1"] = value
    with pytest.raises(InputError, match="m0 of e1 on d0"):
        evaluate(scores, truth)
    scores, truth = zoo(1)
    truth["d0"]["e1"] = value
    with pytest.raises(InputError, match="that of e1 on d0"):
        evaluate(scores, truth)


def test_record_converts():
    scores, truth = zoo(2)
    scores["d0"]["m0"] = dict.fromkeys(scores["d0"]["m0"], 1.0)
    found = evaluate(scores, truth)
    record = json.loads(found.to_json())
    assert list(record)[:2] == ["per_dataset", "average"]
    assert record["per_dataset"]["d1"]["m1"]["weighted_tau"] == found["d1", "m1"][
        "weighted_tau"
    ].value  # fmt: skip
    assert record["per_dataset"]["d0"]["m0"]["weighted_tau"] is None
    assert "are the same" in record["per_dataset"]["d0"]["m0"]["weighted_tau_reason"]
    assert set(MEASURES) <= set(record["average"]["m1"])
    frame = found.to_frame()
    assert len(frame) == 3 * 2 * len(MEASURES)
    row = frame[(frame.dataset == "average") & (frame.metric == "m1")].set_index("measure")
    assert row.loc["kendall", "value"] == found.average["m1"]["kendall"].value
