"""Records of results: conversions keep everything, JSON holds no NaN."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from transferscope.results import (
    DatasetSummary,
    EncoderResult,
    Ranking,
    Score,
    ScoreTable,
    format_score,
    score_digits,
)

GOOD = EncoderResult(
    encoder="mini/a",
    rank=1,
    scores={
        "logme": Score(0.5, ("d >= n",), 0.1, 0.4, 0.6),
        "knn": Score(0.91, (), 0.2, 0.9, 0.92),
    },
    p_best=0.97,
    n_parameters=1_234_567,
    feature_dim=96,
    input_size=(32, 48),
    samples_per_second=1234.5,
    skipped={"leep": "no head"},
)
FAILED = EncoderResult(encoder="timm/b", error="line one\nline | two")
RANKING = Ranking(
    DatasetSummary("digits", "all", "classification", 10, 2, 0, "f00d"),
    "consensus of logme, knn",
    (GOOD, FAILED),
    "Fine-tune mini/a.",
    seed=3,
)


def test_ranking_survives_json():
    assert Ranking.from_json(RANKING.to_json()) == RANKING
    record = json.loads(RANKING.to_json())
    row = record["encoders"][0]
    assert row["scores"]["logme"].keys() >= {"value", "low", "high", "warnings"}
    assert row["input_size"] == [32, 48]
    assert record["encoders"][1]["error"] == "line one\nline | two"
    assert record["encoders"][1]["scores"] == {}
    assert {"dataset", "ranked_by", "encoders"} <= record.keys()


def test_score_table_survives_json():
    table = ScoreTable(10, 4, 2, {"knn": Score(0.5, ("x",), 0.25)}, {"leep": "no head"})
    assert ScoreTable.from_json(table.to_json()) == table
    record = json.loads(table.to_json())
    assert record["scores"]["knn"].items() >= {"value": 0.5, "seconds": 0.25, "low": None}.items()
    assert record["scores"]["knn"]["warnings"] == ["x"]
    assert record["skipped"] == {"leep": "no head"}
    assert table["knn"] == 0.5
    assert table.to_frame().loc["knn", "warnings"] == "x"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_score_is_ever_nan(value):
    with pytest.raises(ValueError, match="finite"):
        Score(value)


def test_frame_and_csv_have_a_row_per_encoder():
    frame = RANKING.to_frame()
    assert list(frame.index) == ["mini/a", "timm/b"]
    assert frame.loc["mini/a", "logme_low"] == 0.4
    assert frame.loc["mini/a", "input_size"] == "32x48"
    assert frame.loc["mini/a", "warnings"] == "logme: d >= n"
    assert pd.isna(frame.loc["timm/b", "rank"])
    assert (
        RANKING.to_csv()
        .splitlines()[0]
        .startswith("encoder,dataset,rank,logme,logme_low,logme_high,knn")
    )


def test_markdown_is_one_table_with_the_advice_below():
    lines = RANKING.to_markdown().splitlines()
    widths = {line.replace("\\|", "").count("|") for line in lines if line.startswith("|")}
    assert len(widths) == 1
    assert lines[-1] == "Fine-tune mini/a."
    assert "0.50 ± 0.10" in lines[2]
    assert "line one line \\| two" in lines[3]


@pytest.mark.parametrize(
    ("halves", "digits"), [([0.012, 0.013, 0.5], 3), ([12.0], 0), ([1e-9], 6), ([], 3), ([0.0], 3)]
)
def test_two_digits_of_the_typical_interval(halves, digits):
    assert score_digits(Score(1.0, (), 0.0, 1 - half, 1 + half) for half in halves) == digits


def test_scores_for_people():
    assert format_score(None, 3) == "-"
    assert format_score(Score(0.12345), 3) == "0.123"
    assert format_score(Score(-0.0001), 3) == "0.000"
    assert format_score(Score(0.5, (), 0.0, 0.4, 0.6), 2) == "0.50 ± 0.10"
