"""What every record of results keeps to: JSON and back, typed frames, short displays."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from transferscope import results
from transferscope.errors import EncoderError, InputError, SkippedMetricError, UnknownNameError
from transferscope.evaluation import read_scores
from transferscope.results import (
    AdapterDelta,
    AdapterDistances,
    Agreement,
    Comparison,
    Confusion,
    DatasetFactors,
    DatasetSummary,
    EncoderResult,
    Estimate,
    Expectation,
    ExpectedAccuracy,
    ExpectedEncoder,
    FineTuningResult,
    LayerDistance,
    LayerDistances,
    MetricStudy,
    Misjudged,
    PedTrace,
    ProbeResult,
    Ranking,
    Relatedness,
    RelatednessPair,
    RelatednessPairs,
    Robustness,
    SampleMap,
    SamplePoint,
    SampleViews,
    Score,
    ScoreTable,
    Selection,
    SelectionCandidate,
    ShownSample,
    SteepnessPoint,
    TrainingRun,
    TransferabilityForecast,
    Trial,
    Verdict,
    format_expected,
)

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>&'
DIGITS = DatasetSummary("digits", "all", "classification", 1_797, 10, 0, "f00d")


def encoder(i: int, **more) -> EncoderResult:
    scores = {
        name: Score(0.5 - i / 10, ("careful",) if i else (), 0.25, 0.4 - i / 10, 0.6 - i / 10)
        for name in ("logme", "knn", "h_score")
    }
    return EncoderResult(
        f"mini/encoder-{i}", i + 1, scores, 0.9 if i == 0 else 0.01, i < 2, n_parameters=10**6,
        feature_dim=96, input_size=(32, 32), samples_per_second=1_000.0,
        skipped={"leep": "no head"}, **more,
    )  # fmt: skip


def expected(i: int, probe: float | None) -> ExpectedAccuracy:
    loss = i / 100
    return ExpectedAccuracy(
        0.9 - loss, 0.8 - loss, 0.95 - loss, 0.01, loss, loss - 0.02, loss + 0.02, loss + 0.001,
        probe, 0 if probe is None else 200, 0.01, 12, 0.001,
    )  # fmt: skip


VERDICT = Verdict(
    "mini/encoder-0", "Fine-tune mini/encoder-0: 90.0 % expected (80.0 to 95.0).", "speed", 0.005,
    0.001, 0.05, 4, 3, "settled", 12.5, ("the hub does not answer",),
)  # fmt: skip


CONFUSION = Confusion(
    ("zero", "one", "two"), (5, 5, 4), {"mini/encoder-0": ((3, 1, 1), (2, 3, 0), (0, 0, 4))}, 3
)


def judged() -> Ranking:
    """Three that were measured, one that was not, one that failed."""
    rows = [replace(encoder(i), expected=expected(i, 0.8)) for i in range(3)]
    rows.append(EncoderResult("timm/unmeasured", 4, p_best=0.05, expected=expected(3, None)))
    rows.append(EncoderResult("timm/broken", error="out of memory\nat last"))
    by = "expected accuracy after fine-tuning"
    rows[0] = replace(rows[0], license="mit", family="resnet", curve=((1024, 0.7), (1797, 0.8)))
    samples = SampleViews(
        "text",
        (ShownSample("row 3", "zero", "a zero"), ShownSample("row 4", "one", "a one")),
        (SampleMap("mini/encoder-0", ((0, 0.5, -0.5), (1, 0.0, 0.25)), ("zero", "zero"), 0.75,
                   (Misjudged(1, "zero", 0.5),)),),
    )  # fmt: skip
    return Ranking(
        DIGITS, by, tuple(rows), VERDICT.reason, 3, VERDICT, CONFUSION, samples,
        {"features": 12.5}, {"python": "3.13.1"},
    )  # fmt: skip


def ranking(n: int = 8) -> Ranking:
    failed = EncoderResult("timm/broken", error="out of memory\nat last")
    rows = (*map(encoder, range(n)), failed)
    return Ranking(DIGITS, "consensus of logme, knn, h_score", rows, "Fine-tune mini/encoder-0.", 3)


LAYERED = encoder(0, layer="layer2", layers={"layer1": {"logme": Score(0.25)}}, warnings=("cut",))
ADDED = AdapterDelta("stem", 100, 2.5, 0.01, 0.02, 0.015, 0.5)
LAYER = LayerDistance("stem", 1.5, None, 2.0, 1.5, 100, 0.1, 0.9, 0.2, 3.0, "freeze", None)
RELATED = Relatedness(
    setting="sparse", bound=1.5, reference_loss=0.25, label_mismatch=0.5,
    distribution_mismatch=0.75, tau=0.5, wasserstein=1.5, transformed_loss=1.0,
    transformed_accuracy=0.5, target_loss=None, target_accuracy=None, free_loss=None,
    free_accuracy=None, noise_floor=0.5, standard_errors={"bound": 0.1}, unlabelled=True,
    pseudo_label_agreement=None, condition_number=3.0,
    matrix=None, offset=None, label_matrix=np.eye(2), reference_prior=np.array([0.5, 0.5]),
    reference_classes=("a", "b"), target_classes=("c", "d"),
    steepness_path=(SteepnessPoint(0.5, 1.0, 0.25),), trace=(2.0, 1.5), view=None,
    target_terms=None, held_out_rows=None, seconds=1.0, warnings=("few samples",),
)  # fmt: skip
RUN = TrainingRun(0.1, 0.0, 0, "runs/0", 3, 5, 0.9, 0.3, None, None, None, 12.0)
TAU = {"weighted_tau": Estimate(0.5, 0.1, 0.75), "rel@1": Estimate(None, reason="tied")}
AGREEMENT = Agreement(
    {"pets": {"logme": TAU}},
    {"logme": {"weighted_tau": Estimate(0.5)}},
    (Comparison("logme", "knn", 0.25, None, None, 0.5, 3),),
    {"pets": {"logme": {"a": 0.5}}},
    {"pets": {"a": 90.0}},
    ("few encoders",),
)  # fmt: skip
EXPECTED = ExpectedEncoder(
    "hf/a", 0.8, 0.1, 0.6, 0.9, 0.7, 0.01, 0.02, None, 12, ("mteb",), 10, 4, None, None, 9.5, None,
    "mit", "2024-01-01", "", True, True, "12 published results",
)  # fmt: skip

CHOSEN = SelectionCandidate(
    "mini/a", "taken", 0.9, 0.01, 0.8, 0.002, 0.92, 12, 1e-3, 30.5, None, None
)
SELECTION = Selection(
    "pets", "accuracy", "mini/a", 0.9, 0.85, 0.95, True, "Settled.", "out/a/best.safetensors",
    (CHOSEN, replace(CHOSEN, encoder="b", outcome="failed: no", mean=None, sd=None, p_best=0.0)),
    (Trial("mini/a", 1e-3, 0, 1, 3, 0.8, 0.5, 9.5, "a"),
     Trial("b", 1e-3, 0, 1, 1, None, None, 1.0, "b")),
    12, 0.005, None, ("cat", "dog"), 80, 20, 50, 31.5, 0,
)  # fmt: skip

#: One of each record; a new one is tested by itself once it stands here.
EXAMPLES = {
    type(example).__name__: example
    for example in (
        judged(),
        AGREEMENT,
        RelatednessPairs(
            (RelatednessPair("mnist", "usps", 1.5, 1.25, None),),
            {name: {"spearman": None, "pearson": 0.5} for name in ("target_loss", "x")},
        ),
        MetricStudy(
            AGREEMENT, (Robustness("all", "logme", 0.5, 3),), {"logme": {"logme": 1.0}},
            (SamplePoint("logme", None, 0.5, None, None),),
        ),
        Expectation("text", "probe", (EXPECTED,), 0, ("few",)),
        ScoreTable(10, 4, 2, {"knn": Score(0.5, ("x",), 0.25)}, {"leep": "no head"}),
        RELATED,
        LayerDistances(1.5, (LAYER, replace(LAYER, name="head", transferability=None)), "l2", "all",
                       "3 seeds", 0.01, None, ("head",), {"missing": ("a.b",)}, ("note",)),
        AdapterDistances(replace(ADDED, name="all"), (ADDED, replace(ADDED, cosine=None)),
                         ("a", "b"), ("fc.weight: new",), ("note",)),
        DatasetFactors(None, 0.5, 100, 10, "frechet", "relative", ("no reference",)),
        TransferabilityForecast(1.5, 1.0, 2.0, {"constant": {"value": 1.0, "low": 0.5, "high": 1.5,
                                "p_value": 0.01}}, 0.9, 12, {"resnet50": {"constant": 0.5}}, "how"),
        FineTuningResult("a", "pets", "accuracy", "full", 0.9, 0.3, None, 0.1, 0.0, (RUN,),
                         8, 2, 5, 1.0),
        SELECTION,
        ProbeResult(0.9, 1.0, (0.1, 1.0), (0.8, 0.9), (0.5, 0.3), 8, 2, 5, 1.0),
        PedTrace(("a", "b"), ((0.0, 1.0), (1.0, 0.0)), ((0.0, 2.0), (2.0, 0.0)), (0.5, 0.5), 0.75,
                 (1.0, 0.5), 3.0, ()),
    )
}  # fmt: skip
RECORDS = [
    name
    for name in results.__all__
    if inspect.isclass(found := getattr(results, name)) and hasattr(found, "from_json")
]
each = pytest.mark.parametrize("name", RECORDS)


def test_every_record_has_an_example():
    assert set(RECORDS) == set(EXAMPLES)


@each
def test_json_and_back(name):
    example = EXAMPLES[name]
    text = example.to_json()
    again = type(example).from_json(text)
    assert again == example
    assert again.to_json() == text
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in JSON"))
    for field in fields(example):
        found, expected = getattr(again, field.name), getattr(example, field.name)
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(found, expected)
        else:
            assert type(found) is type(expected), field.name


@each
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"a": 1}', '{"scores": NaN}'])
def test_foreign_json_is_refused_by_name(name, text):
    with pytest.raises(InputError, match=rf"{name}.*Pass what to_json gave"):
        type(EXAMPLES[name]).from_json(text)


@each
def test_every_damaged_field_is_refused(name):
    """Each value in turn becomes of another type, or is missing where it never was."""
    plain = json.loads(EXAMPLES[name].to_json())
    later = {f.name for f in fields(EXAMPLES[name]) if f.metadata.get("added_later")}
    for key in plain:
        without = [{k: v for k, v in plain.items() if k != key}] if key not in later else []
        for damaged in ({**plain, key: object}, *without):
            text = json.dumps(damaged, default=lambda _: {"un": ["expected", 1, True]})
            with pytest.raises(InputError, match=rf"{key}|{name}"):
                type(EXAMPLES[name]).from_json(text)


def test_json_of_before_is_read():
    """What `rank` wrote before records had these fields."""
    plain = json.loads(judged().to_json())
    for name in ("confusion", "samples", "steps", "versions"):
        del plain[name]
    del plain["verdict"]["loading"]
    for row in plain["encoders"]:
        for name in ("license", "family", "curve"):
            del row[name]
    again = Ranking.from_json(json.dumps(plain))
    new = judged()
    rows = tuple(replace(row, license="", family="", curve=()) for row in new.encoders)
    assert again == replace(new, encoders=rows, confusion=None, samples=None, steps={}, versions={})
    # a field that was always there is no less needed
    del plain["seed"]
    with pytest.raises(InputError, match="no seed"):
        Ranking.from_json(json.dumps(plain))


def test_confusions_name_the_hard_classes():
    assert CONFUSION.hardest_pairs("mini/encoder-0") == [
        ("zero", "one", 5, 5, 1, 2), ("zero", "two", 5, 4, 1, 0),
    ]  # fmt: skip
    assert [pair.n_mistaken for pair in CONFUSION.hardest_pairs("mini/encoder-0", 1)] == [3]
    assert CONFUSION.recognised("mini/encoder-0") == [
        ("zero", 3, 5), ("one", 3, 5), ("two", 4, 4),
    ]  # fmt: skip


def test_the_place_of_the_damage_is_named():
    plain = json.loads(ranking().to_json())
    plain["encoders"][1]["rank"] = "second"
    with pytest.raises(InputError, match=r"encoders\[1\]\.rank in the JSON must have a int"):
        Ranking.from_json(json.dumps(plain))
    plain["encoders"][1]["rank"] = False
    with pytest.raises(InputError, match=r"encoders\[1\]\.rank.*found: bool"):
        Ranking.from_json(json.dumps(plain))


@each
def test_frames_have_typed_columns(name):
    frame = EXAMPLES[name].to_frame()
    assert len(frame) > 0
    for column in frame.columns:
        assert not pd.api.types.is_object_dtype(frame[column]), f"{column} is of no type"


@each
def test_displays_are_short_and_escape(name):
    example = EXAMPLES[name]
    text = repr(example)
    assert text.startswith(f"{name}: {example.headline}")
    assert len(text) <= 1_200, text
    page = example._repr_html_()
    assert page.startswith("<div>")
    assert page.count("<tr") <= 32


def test_displays_of_many_rows_say_how_many_are_left():
    many = ranking(50)
    assert "... and 43 more rows" in repr(many)
    assert "... and 21 more rows" in many._repr_html_()
    assert many._repr_html_().count("<tr") <= 32


def test_parts_of_records_are_shown_by_field():
    page = encoder(0)._repr_html_()
    assert "<th>encoder</th>" in page
    assert "<th>error</th>" not in page  # it did not fail
    assert "<th>scores</th><td>logme: " in page
    assert len(page) < 2_000


def test_hostile_strings_stay_strings():
    row = replace(encoder(0), encoder=HOSTILE, error=HOSTILE, warnings=(HOSTILE,))
    pages = [
        replace(ranking(), encoders=(row, encoder(1)), advice=HOSTILE)._repr_html_(),
        ScoreTable(1, 1, 1, {HOSTILE: Score(1.0, (HOSTILE,))}, {"b": HOSTILE})._repr_html_(),
        replace(row, scores={HOSTILE: Score(1.0, (HOSTILE,))})._repr_html_(),
        replace(EXAMPLES["PedTrace"], class_names=(HOSTILE, "b"))._repr_html_(),
        replace(EXAMPLES["DatasetFactors"], gap=HOSTILE, warnings=(HOSTILE,))._repr_html_(),
    ]
    for page in pages:
        assert "<script" not in page
        assert "<img" not in page
        assert "&lt;script" in page


def test_a_ranking_shows_what_a_person_needs_first():
    text = repr(ranking())
    for word in ("logme", "knn", "h_score", "p_best", "error", "mini/encoder-0"):
        assert word in text
    frame = ranking().to_frame()
    assert frame["skipped"].iloc[0] == "leep: no head"
    assert frame["rank"].dtype == "Int64"
    assert frame["logme"].dtype == np.float64
    assert pd.isna(frame.loc["timm/broken", "logme"])
    assert Ranking(DIGITS, "nothing", (), "Nothing.").to_frame().empty


def test_a_ranking_by_scores_survives():
    assert Ranking.from_json(ranking().to_json()) == ranking()
    assert ranking().verdict is None
    assert "expected" not in ranking().to_frame()
    assert "expected" not in ranking().to_markdown()


def test_a_verdict_survives_and_is_shown():
    again = Ranking.from_json(judged().to_json())
    assert again == judged()
    assert again.verdict == VERDICT
    assert again.verdict.notes == ("the hub does not answer",)
    frame = judged().to_frame()
    columns = [
        "expected", "expected_low", "expected_high", "loss", "loss_low", "loss_high",
        "expected_regret", "probe",
    ]  # fmt: skip
    found = expected(1, 0.8)
    assert frame.loc["mini/encoder-1", columns].tolist() == [
        found.mean, found.low, found.high, found.loss, found.loss_low, found.loss_high,
        found.regret, found.probe,
    ]  # fmt: skip
    assert pd.isna(frame.loc["timm/unmeasured", "probe"])
    assert frame.loc["timm/broken", columns].isna().all()
    assert frame["in_group"].tolist() == [True, True, False, False, False]
    assert judged().headline == VERDICT.reason
    for text in (repr(judged()), judged()._repr_html_()):
        assert "expected_low" in text
        assert "loss" in text
    lines = judged().to_markdown().splitlines()
    assert "| expected, % | loss, points |" in lines[0]
    assert "| 89.0 (79.0 to 94.0) | 1.0 (-1.0 to 3.0) |" in lines[3]
    assert {line.count("|") for line in lines if line.startswith("|")} == {lines[0].count("|")}


def test_a_damaged_verdict_is_refused():
    plain = json.loads(judged().to_json())
    plain["encoders"][0]["expected"]["mean"] = "high"
    with pytest.raises(InputError, match=r"encoders\[0\]\.expected\.mean"):
        Ranking.from_json(json.dumps(plain))
    plain = json.loads(judged().to_json())
    del plain["verdict"]["regret"]
    with pytest.raises(InputError, match="regret"):
        Ranking.from_json(json.dumps(plain))


@pytest.mark.parametrize(
    ("mean", "loss", "shown"),
    [
        (0.9, 0.0, ("90.0 (80.0 to 95.0)", "0.0 (0.0 to 0.0)")),
        (0.9, -0.0001, ("90.0 (80.0 to 95.0)", "0.0 (0.0 to 0.0)")),
        (0.8999, -0.05, ("90.0 (80.0 to 95.0)", "-5.0 (-5.0 to -5.0)")),
    ],
)
def test_shares_are_shown_in_percent_and_points(mean, loss, shown):
    found = replace(expected(0, None), mean=mean, loss=loss, loss_low=loss, loss_high=loss)
    assert format_expected(found) == shown


def test_best_is_never_an_encoder_that_failed():
    failed = EncoderResult("timm/a", error="out of memory")
    assert ranking().best.encoder == "mini/encoder-0"
    assert replace(ranking(), encoders=(failed, encoder(0))).best.encoder == "mini/encoder-0"
    with pytest.raises(EncoderError, match="timm/a: out of memory"):
        _ = replace(ranking(), encoders=(failed,)).best


def test_a_table_says_why_there_is_no_score():
    table = EXAMPLES["ScoreTable"]
    with pytest.raises(SkippedMetricError) as caught:
        table["leep"]
    assert str(caught.value) == "leep has no score: no head"
    assert isinstance(caught.value, KeyError)
    with pytest.raises(UnknownNameError, match=r"only knn, leep. Did you mean 'knn'"):
        table["knnn"]
    frame = table.to_frame()
    assert list(frame.index) == ["knn", "leep"]
    assert np.isnan(frame.loc["leep", "value"])
    assert frame.loc["leep", "skipped"] == "no head"


def test_a_layered_ranking_survives():
    whole = replace(ranking(), encoders=(LAYERED,))
    assert Ranking.from_json(whole.to_json()) == whole
    assert whole.to_frame()["layer"].iloc[0] == "layer2"


def test_rankings_are_read_as_scores(tmp_path):
    (tmp_path / "a.csv").write_text(judged().to_csv())
    (tmp_path / "a.json").write_text(judged().to_json())
    found = read_scores(tmp_path / "a.csv")
    wanted = {
        name: {row.encoder: row.scores[name].value for row in judged() if name in row.scores}
        for name in judged().metrics
    }
    wanted["expected"] = {r.encoder: r.expected.mean for r in judged() if r.expected is not None}
    assert len(wanted) > 1
    assert len(wanted["expected"]) == 4
    assert found == {judged().dataset.name: wanted}
    assert read_scores(tmp_path / "a.json") == found
    assert read_scores(tmp_path / "a.csv", tmp_path / "a.json") == found
