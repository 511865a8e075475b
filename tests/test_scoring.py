"""Scoring features at hand: which metrics, in which order, and what becomes of failures."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

import transferscope
from transferscope.embedding import Embedding
from transferscope.errors import FeatureError, InputError, MissingInputError, UnknownNameError
from transferscope.metrics import METRICS, Measurement, Metric, get_metric, plan_metrics
from transferscope.metrics._score import (
    DEFAULT_METRICS,
    measure_all,
    require_inputs,
    score,
)
from transferscope.results import ScoreTable


def data(n: int = 60, d: int = 5):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return rng.standard_normal((3, d))[labels] + rng.standard_normal((n, d)), labels


def test_the_default_is_a_few_metrics():
    table = score(*data())
    assert tuple(table.scores) == DEFAULT_METRICS
    assert table.skipped == {}
    assert (table.n_samples, table.n_features, table.n_classes) == (60, 5, 3)


def test_scores_are_those_of_the_functions():
    features, labels = data()
    table = score(features, labels, "logme,knn")
    assert table["logme"] == transferscope.metrics.logme(features, labels)
    assert (
        table["knn"]
        == transferscope.metrics.get_metric("knn").measure(Embedding(features, labels)).value
    )
    assert all(entry.seconds > 0 for entry in table.scores.values())
    assert table.scores["knn"].low is None


@pytest.mark.parametrize(
    "metrics", ["knn,logme", " knn , logme ,", ["knn", "logme"], ("knn", "logme", "knn")]
)
def test_metrics_come_in_the_order_asked_for_and_once(metrics):
    assert [m.name for m in plan_metrics(metrics).asked] == ["knn", "logme"]
    assert list(score(*data(), metrics=metrics).scores) == ["knn", "logme"]


def test_all_is_the_whole_table():
    assert [m.name for m in plan_metrics("all").asked] == list(METRICS)
    table = score(*data(), metrics="all")
    assert {*table.scores, *table.skipped} == set(METRICS)
    assert {"leep", "nce"} <= set(table.skipped)
    assert "source_probabilities" in table.skipped["leep"]


@pytest.mark.parametrize("metrics", ["", ",", []])
def test_no_metric_is_an_error(metrics):
    with pytest.raises(InputError, match="no metric was named; choose from logme"):
        score(*data(), metrics=metrics)


def test_unknown_metrics_are_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"no metric 'logm'. Did you mean 'logme'\?"):
        score(*data(), metrics="knn,logm")
    with pytest.raises(UnknownNameError, match=r"no metric 'quux'\. Metrics: logme"):
        get_metric("quux")


def test_source_outputs_reach_their_metrics():
    features, labels = data()
    logits = np.eye(3)[labels] * 3 + np.random.default_rng(1).standard_normal((60, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    by_logits = score(features, labels, "leep,nce", source_logits=logits)
    given = score(features, labels, "leep,nce", source_probabilities=probabilities)
    assert by_logits["leep"] == pytest.approx(given["leep"])
    assert by_logits["leep"] == pytest.approx(transferscope.metrics.leep(probabilities, labels))
    assert by_logits["nce"] == given["nce"]


def test_targets_leave_out_what_is_for_classes():
    features, _ = data()
    table = score(features, metrics="logme,h_score,linear_probe", targets=features[:, 0] * 2 + 1)
    assert list(table.scores) == ["logme", "linear_probe"]
    assert "h_score is for classification, these are regression" in table.skipped["h_score"]
    assert table.n_classes == 0


def test_without_labels_only_metrics_that_need_none():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 4))
    reference = {
        "reference_features": rng.standard_normal((60, 4)) + np.arange(60)[:, None] % 3,
        "reference_labels": np.arange(60) % 3,
    }
    table = score(features, metrics="all", source_logits=rng.standard_normal((40, 5)), **reference)
    assert list(table.scores) == ["energy", "frechet", "relatedness_unlabelled"]
    logits = rng.standard_normal((40, 5))
    alone = score(features, metrics="energy", source_logits=logits)
    assert alone["energy"] == transferscope.metrics.energy(logits)
    assert table["frechet"] == transferscope.metrics.frechet(
        features, reference_features=reference["reference_features"]
    )
    assert "needs labels or targets" in table.skipped["logme"]


def test_inputs_that_are_absent_are_named_with_their_source():
    embedding = Embedding(*data())
    with pytest.raises(MissingInputError, match=r"leep needs source_probabilities, which an enco"):
        require_inputs(embedding, METRICS["leep"])
    both = replace(METRICS["logme"], needs=("reference_features", "reference_labels"))
    with pytest.raises(
        MissingInputError, match="reference_features and reference_labels, which a reference data"
    ):
        require_inputs(embedding, both)


def failing(name: str, measure) -> Metric:
    return replace(METRICS["logme"], name=name, measure=measure)


def test_one_metric_that_fails_does_not_stop_the_others():
    def raises(error: Exception):
        def measure(embedding: Embedding) -> Measurement:
            raise error

        return measure

    rows = [
        failing("refuses", raises(InputError("too few samples"))),
        failing("diverges", raises(np.linalg.LinAlgError("did not converge"))),
        failing("nan", lambda _: Measurement(math.nan, lambda: None)),
        METRICS["logme"],
    ]
    measured, skipped = measure_all(Embedding(*data()), rows)
    assert list(measured) == ["logme"]
    assert skipped == {
        "refuses": "too few samples",
        "diverges": "did not converge",
        "nan": "came out as nan",
    }


def test_a_bug_is_not_swallowed():
    def broken(embedding: Embedding) -> Measurement:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure_all(Embedding(*data()), [failing("broken", broken)])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: np.where(x == x[5, 1], np.nan, x), FeatureError, "row 5"),
        (np.zeros_like, FeatureError, "the same for all 60 samples"),
        (lambda x: x[:50], InputError, "60 labels for 50"),
        (lambda x: x[0], InputError, "must be a matrix"),
    ],
)
def test_features_that_no_metric_can_use_stop_everything(change, error, message):
    features, labels = data()
    with pytest.raises(error, match=message):
        score(change(features), labels)


def test_the_table_goes_to_json_and_back():
    table = score(*data(), metrics="logme,leep,h_score")
    record = json.loads(table.to_json())
    assert record["scores"]["logme"]["value"] == table["logme"]
    assert ScoreTable.from_json(table.to_json()) == table
    assert table.to_frame().loc["logme", "value"] == table["logme"]


def test_the_seed_decides_about_subsamples():
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((5_200, 2)), rng.integers(0, 2, 5_200)
    first, again, other = (score(features, labels, "knn", seed=s)["knn"] for s in (1, 1, 2))
    assert first == again != other


def test_mapped_features_are_scored_like_those_in_memory(tmp_path):
    features, labels = data()
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert score(mapped, labels, "logme")["logme"] == score(features, labels, "logme")["logme"]


ROWS = np.random.default_rng(1).standard_normal((40, 5))
IDS = np.arange(40) % 4
OF_LABELS = ("otce", "ot_nce", "relatedness", "relatedness_unlabelled")
OF_REFERENCE = ("frechet", "logme+ped", *OF_LABELS)


@pytest.mark.parametrize(
    ("reference_features", "reference_labels", "skipped", "reason"),
    [
        (ROWS, np.full(40, 3), OF_LABELS, r"^reference_labels must hold at least two classes.*3"),
        (ROWS, IDS[:-1], OF_LABELS, "^reference_labels and features must have the same length"),
        (ROWS, IDS - 1, OF_LABELS, "^reference_labels must not be negative"),
        (ROWS, IDS / 3, OF_LABELS, "^reference_labels must be class ids"),
        (ROWS * np.nan, IDS, OF_REFERENCE, "^reference_features must be finite"),
        (ROWS[:, :4], IDS, OF_REFERENCE, "^reference_features must have the 5 columns"),
        (ROWS[:1], IDS[:1], OF_REFERENCE, "^reference_features must have at least 2 samples"),
        (ROWS.astype(str), IDS, OF_REFERENCE, "^reference_features must hold real numbers"),
        (0 * ROWS + 7, IDS, ("frechet", *OF_LABELS[2:]), "^reference_features are the same"),
    ],
)
def test_an_unusable_reference_costs_the_metrics_that_need_it(
    reference_features, reference_labels, skipped, reason
):
    features, labels = data()
    reference = {"reference_features": reference_features, "reference_labels": reference_labels}
    table = score(features, labels, ["logme", *OF_REFERENCE], **reference)
    assert table["logme"] == score(features, labels, "logme")["logme"]
    assert sorted(table.skipped) == sorted(skipped)
    assert all(re.search(reason, text) for text in table.skipped.values()), table.skipped
    with pytest.raises((InputError, FeatureError), match=reason):
        METRICS[skipped[-1]].measure(Embedding(features, labels, **reference))
