"""Metrics that compare encoders: how their parts are put together, and what the ranking says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import transferscope
from transferscope import metrics
from transferscope.errors import MissingInputError
from transferscope.metrics import METRICS, EncoderScores, Metric, plan_metrics
from transferscope.metrics._combined import combine, combined_metric
from transferscope.ranking._measured import Measured
from transferscope.ranking._order import order_by_scores
from transferscope.results import EncoderResult, Ranking, Score

ROWS = {
    "ncti": {"ncti_variability": 1.0, "ncti_geometry": 1.0, "ncti_nearest_center": 1.0},
    "etran": {"energy": 0.15, "lda": 0.85},
}


@pytest.mark.parametrize("name", [m.name for m in METRICS.values() if m.parts])
def test_rows_of_the_table(name):
    row = METRICS[name]
    assert row.parts == ROWS[name]
    assert all(not METRICS[part].parts for part in row.parts)
    assert not hasattr(metrics, name) or not callable(getattr(metrics, name))


def whole(**parts: float) -> Metric:
    return combined_metric("whole", parts, summary="", publication="")


def encoder(**parts: float) -> EncoderScores:
    """Scores as given, and influences that tell parts and encoders apart."""
    scores = {name: Score(value, seconds=0.5) for name, value in parts.items()}
    influences = {name: np.array([-1.0, 1.0]) * value for name, value in parts.items()}
    return EncoderScores(scores, influences, {name: "absent" for name in "ab" if name not in parts})


def values(metric: Metric, encoders: list[EncoderScores]) -> list[float | None]:
    """What each encoder's score comes to."""
    combine(metric, encoders)
    return [one.scores["whole"].value if "whole" in one.scores else None for one in encoders]


def test_parts_are_scaled_over_the_encoders_and_added():
    encoders = [encoder(a=1.0, b=-10.0), encoder(a=3.0, b=0.0), encoder(a=2.0, b=-5.0)]
    assert values(whole(a=1.0, b=2.0), encoders) == [0.0, 3.0, 1.5]
    for one in encoders:
        expected = one.influences["a"] / 2 + 2 * one.influences["b"] / 10
        np.testing.assert_allclose(one.influences["whole"], expected)
        assert one.scores["whole"].seconds == 1.0
        assert one.scores["whole"].warnings == (
            "depends on the candidates: parts are scaled over these 3 encoders",
        )


def test_another_candidate_changes_the_values():
    few = [encoder(a=1.0), encoder(a=2.0)]
    assert values(whole(a=1.0), few)[1] == 1.0
    assert values(whole(a=1.0), [*few, encoder(a=5.0)])[1] == 0.25


def test_an_encoder_without_a_part_has_no_score_and_does_not_count():
    metric = whole(a=1.0, b=1.0)
    encoders = [encoder(a=1.0, b=1.0), encoder(a=100.0), encoder(a=2.0, b=2.0)]
    assert values(metric, encoders) == [0.0, None, 2.0]
    assert encoders[1].skipped["whole"] == "b: absent"
    assert "over these 2 encoders" in encoders[2].scores["whole"].warnings[0]
    neither = [encoder(a=1.0), encoder()]
    assert values(metric, neither) == [None, None]
    assert neither[1].skipped["whole"] == "a: absent; b: absent"


def test_a_constant_part_contributes_nothing_and_says_so():
    encoders = [encoder(a=0.3, b=1.0), encoder(a=0.1 + 0.2, b=2.0)]
    assert values(whole(a=1.0, b=1.0), encoders) == [0.0, 1.0]
    np.testing.assert_array_equal(encoders[1].influences["whole"], encoders[1].influences["b"])
    warnings = encoders[0].scores["whole"].warnings
    assert "a is the same for all candidates and contributes 0" in warnings


def test_one_encoder_alone_comes_to_zero_and_says_so():
    alone = encoder(a=1.0, b=2.0)
    assert values(whole(a=1.0, b=1.0), [alone]) == [0.0]
    assert not alone.influences["whole"].any()
    assert alone.scores["whole"].warnings[0].endswith("scaled over this one encoder")
    assert len(alone.scores["whole"].warnings) == 3


def test_warnings_of_parts_are_passed_on_once():
    one = encoder(a=1.0, b=1.0)
    one.scores = {"a": Score(1.0, ("careful",)), "b": Score(1.0, ("careful", "d >= n"))}
    combine(whole(a=1.0, b=1.0), [one])
    assert one.scores["whole"].warnings[3:] == ("careful", "d >= n")


# --- in the ranking -----------------------------------------------------------------------------


def test_parts_are_measured_once_and_after_ped_where_asked():
    plan = plan_metrics("etran,logme,lda,etran+ped")
    names = [metric.name for metric in plan.measured]
    assert names == ["energy", "lda", "logme", "energy+ped", "lda+ped"]
    assert list(plan.asked[-1].parts) == ["energy+ped", "lda+ped"]


def test_score_lists_them_as_skipped():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = np.eye(3)[labels] + rng.standard_normal((60, 3))
    table = transferscope.score(features, labels, metrics="etran,lda,etran+ped")
    assert list(table.scores) == ["lda"]
    assert table.skipped == {
        "etran": "etran compares encoders: ask `rank` for it; its parts are energy and lda",
        "etran+ped": "etran+ped compares encoders: ask `rank` for it; its parts are energy+ped and "
        "lda+ped",
    }
    with pytest.raises(MissingInputError, match="ask `rank`"):
        METRICS["ncti"].measure(None)


def rank(names: dict[str, float], chosen: str, targets: Any = None) -> Ranking:
    """Encoders that see three classes, each through so much noise."""
    pytest.importorskip("torch", reason="ranking runs encoders in torch")
    from transferscope.encoders import from_module

    class Vectors:
        key = "vectors"

        def prepare(self, sample: Any) -> Any:
            return sample

        def collate(self, prepared: Any) -> Any:
            return np.stack(prepared)

    def one(name: str, noise: float) -> Any:
        def function(batch: Any) -> Any:
            random = np.random.default_rng([int(1e6 * abs(batch[0, 0])), len(name)])
            return (batch + noise * random.standard_normal(batch.shape)).astype("f4")

        return from_module(function, Vectors(), identifier=name)

    labels = np.arange(120) % 3
    samples = 2 * np.eye(3, 8)[labels] + 0.4 * np.random.default_rng(0).standard_normal((120, 8))
    data = transferscope.open_dataset(
        (samples.astype(np.float32), labels if targets is None else samples[:, 0])
    )
    encoders = [one(name, noise) for name, noise in names.items()]
    options = {"store": None, "device": "cpu", "stop_regret": None}
    return transferscope.rank(data, encoders, chosen, **options)


THREE = {"bad": 4.0, "best": 0.3, "middle": 1.5}


def test_what_compares_encoders_stands_beside_the_verdict():
    ranking = rank(THREE, "ncti")
    assert ranking.metrics == ["ncti"]  # the parts were not asked for
    assert ranking.best.encoder == "best"
    values = [row.scores["ncti"].value for row in ranking.encoders]
    assert max(values) == values[0]
    assert all(0 <= value <= 3 for value in values)
    for row in ranking.encoders:
        score = row.scores["ncti"]
        assert score.low < score.value < score.high
        assert score.warnings[0].startswith("depends on the candidates: parts are scaled over")
        assert "these 3 encoders" in score.warnings[0]
    assert Ranking.from_json(ranking.to_json()) == ranking


def test_ordered_by_what_compares_encoders():
    values = {"bad": 0.2, "best": 2.5, "middle": 1.5}
    rng = np.random.default_rng(0)
    metric = METRICS["ncti"]
    measured = [
        Measured(
            EncoderResult(name, scores={"ncti": Score(value)}),
            {"ncti": rng.standard_normal(120)},
            120,
            120,
        )
        for name, value in values.items()
    ]
    rows, ranked_by = order_by_scores(measured, [metric], 120, seed=0)
    assert ranked_by == "ncti"
    assert [(row.encoder, row.rank) for row in rows] == [("best", 1), ("middle", 2), ("bad", 3)]
    assert rows[0].p_best > 0.8
    assert [row.in_group for row in rows] == [True, False, False]
    for row in rows:
        assert row.scores["ncti"].low < row.scores["ncti"].value < row.scores["ncti"].high


def test_beside_its_parts_other_metrics_and_ped():
    ranking = rank(THREE, "logme,etran,lda,etran+ped")
    assert ranking.metrics == ["logme", "etran", "lda", "etran+ped"]
    rows = {row.encoder: row.scores for row in ranking.encoders}
    own = {name: scores["lda"].value for name, scores in rows.items()}
    assert rows["best"]["lda"].value == max(own.values())
    for scores in rows.values():
        assert any("no source logits" in text for text in scores["etran"].warnings)
        assert any("PED without a reference" in text for text in scores["etran+ped"].warnings)
    # 0.15 energy + 0.85 lda, each scaled
    energies = {row.encoder: row.scores["energy"].value for row in rank(THREE, "energy").encoders}
    for name, scores in rows.items():
        expected = sum(
            weight * (part[name] - min(part.values())) / np.ptp(list(part.values()))
            for weight, part in ((0.15, energies), (0.85, own))
        )
        assert scores["etran"].value == pytest.approx(expected)


def test_one_encoder():
    ranking = rank({"only": 1.0}, "ncti,logme")
    assert ranking.best.rank == 1
    assert ranking.best.scores["ncti"].value == 0.0
    assert ranking.advice.endswith("No other candidate was measured.")


def test_regression_has_no_such_score():
    ranking = rank(THREE, "etran,logme", targets="numbers")
    for row in ranking.encoders:
        assert list(row.scores) == ["logme"]
        assert row.skipped == {
            "etran": "lda: lda is for classification, these are regression targets"
        }
    alone = rank(THREE, "etran", targets="numbers")
    assert alone.advice.startswith("Nothing could be ranked")
    assert all("lda is for classification" in row.error for row in alone.encoders)
