"""Metrics after potential-energy decline."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import transferscope
from transferscope import ClassMoments
from transferscope.embedding import Embedding
from transferscope.errors import InputError, UnknownNameError
from transferscope.metrics import METRICS, plan_metrics, potential_energy_decline
from transferscope.metrics._ped import _changes, applies_to, with_ped
from transferscope.metrics._plan import resolve_metric
from transferscope.numerics import arrays

#: Golden values of lixiaotong97/PED (commit e5af6e7), reference task G, nu 0.6, step 0.1, exit 0.5.
DISPLACEMENT = {"A": 13.172621325528004, "C": 72.75756167702758, "E": 1.1503779131113012}
GOLDEN = {  # metric: values, absolute tolerance
    "logme": ({"A": 0.787873411264862, "C": 0.9438921548433522, "E": -0.45593610098115844}, 2e-3),
    "sfda": ({"A": 0.9983783546086761, "C": 0.9999697334248474, "E": 0.8020345442452518}, 1e-6),
}
FROM_MOMENTS = [m.name for m in METRICS.values() if m.from_moments and applies_to(m)]


def classes(n: int = 90, d: int = 8, n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(n) % n_classes)
    return 0.7 * rng.standard_normal((n_classes, d))[labels] + rng.standard_normal((n, d)), labels


def test_displacement_is_that_of_the_authors(case):
    moments = ClassMoments.from_arrays(case["X"], case["y"])
    decline = potential_energy_decline(moments, case["G"].std(axis=0))
    length = math.sqrt(float(np.sum(moments.counts[:, None] * decline.displacement**2)))
    np.testing.assert_allclose(length, DISPLACEMENT[case["name"]], rtol=1e-6)
    assert decline.n_steps == 6


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name, case):
    values, tolerance = GOLDEN[name]
    embedding = Embedding(case["X"], case["y"], reference_features=case["G"])
    assert abs(resolve_metric(f"{name}+ped").measure(embedding).value - values[case["name"]]) < (
        tolerance
    )


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("name", FROM_MOMENTS)
def test_from_moments_it_equals_scoring_the_displaced_features(name, reference, case):
    if METRICS[name].needs and not reference:
        return  # it has no value without one
    G = case["G"] if reference else None
    embedding = Embedding(case["X"], case["y"], reference_features=G)
    decline = potential_energy_decline(
        embedding.moments, embedding.reference.deviation if reference else None
    )
    moved = case["X"] + decline.displacement[case["y"]]
    again = Embedding(moved, case["y"], reference_features=G)
    np.testing.assert_allclose(
        resolve_metric(f"{name}+ped").measure(embedding).value,
        METRICS[name].measure(again).value,
        rtol=1e-10,
    )


@pytest.mark.parametrize("name", ["knn", "linear_probe"])
def test_metrics_that_look_at_samples_see_displaced_ones(name, case):
    embedding = Embedding(case["X"], case["y"], reference_features=case["G"])
    decline = potential_energy_decline(embedding.moments, embedding.reference.deviation)
    again = Embedding(case["X"] + decline.displacement[case["y"]], case["y"])
    assert resolve_metric(f"{name}+ped").measure(embedding).value == pytest.approx(
        METRICS[name].measure(again).value, rel=1e-12
    )


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("name", ["logme+ped", "h_score+ped"])
def test_standard_errors_hold_against_a_jackknife_with_ped_in_it(
    name, reference, case, error_ratio
):
    inputs = {"reference_features": case["G"]} if reference else {}
    measure = resolve_metric(name).measure
    ratio = error_ratio(measure, features=case["X"], labels=case["y"], **inputs)
    assert 0.7 < ratio < 1.4


def test_an_unsure_displacement_adds_its_share(cases):
    # feature 184 is dead in the reference and rules PED: a few samples decide how far classes move
    case = cases["C"]
    embedding = Embedding(case["X"], case["y"], reference_features=case["G"])
    measurement = resolve_metric("logme+ped").measure(embedding)
    assert any("ruled by 1 features" in warning for warning in measurement.warnings)
    influence = measurement.influence()
    moved = Embedding(
        case["X"]
        + potential_energy_decline(embedding.moments, embedding.reference.deviation).displacement[
            case["y"]
        ],
        case["y"],
    )
    fixed = METRICS["logme"].measure(moved).influence()
    assert influence.std() > 3 * fixed.std()
    assert abs(influence.mean()) < 1e-12


@pytest.mark.parametrize("name", ["logme", "h_score", "knn", "linear_probe"])
def test_same_on_every_array_library(name, backend):
    features, labels = classes()
    reference = np.random.default_rng(1).random((40, 8))
    metric = resolve_metric(f"{name}+ped")
    expected = metric.measure(Embedding(features, labels, reference_features=reference))
    measured = metric.measure(
        Embedding(backend(features), backend(labels), reference_features=backend(reference))
    )
    assert measured.value == pytest.approx(expected.value, rel=1e-6)
    np.testing.assert_allclose(
        arrays.to_numpy(measured.influence()), expected.influence(), rtol=1e-6, atol=1e-9
    )


def test_unsure_displacements_on_every_array_library(backend):
    features, labels = classes()
    features[:, 0] = np.where(np.arange(90) % 30 == 0, 5.0, 0.0)
    reference = np.random.default_rng(1).random((40, 8))
    reference[:, 0] = 0.0
    metric = resolve_metric("logme+ped")
    embeddings = [
        Embedding(make(features), make(labels), reference_features=make(reference))
        for make in (np.asarray, backend)
    ]
    expected, given = (arrays.to_numpy(metric.measure(e).influence()) for e in embeddings)
    assert _changes(embeddings[0]) is not None
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-8)


def test_streamed_features():
    features, labels = classes(n=2000)
    moments = ClassMoments.from_arrays(features, labels)
    streamed = Embedding(features[::4], labels[::4], moments=moments)
    full = Embedding(features, labels)
    measured = resolve_metric("logme+ped").measure(streamed)
    assert measured.value == pytest.approx(resolve_metric("logme+ped").measure(full).value)
    assert measured.influence().shape == (500,)


def test_warnings_say_what_ped_stood_on():
    features, labels = classes()
    metric = resolve_metric("logme+ped")
    without = metric.measure(Embedding(features, labels))
    assert any("without a reference task" in warning for warning in without.warnings)
    apart = features + 1e3 * labels[:, None]
    far = metric.measure(Embedding(apart, labels, reference_features=features))
    assert far.warnings[-1] == "PED moved nothing: no two classes overlap"
    assert far.value == METRICS["logme"].measure(Embedding(apart, labels)).value
    assert np.isfinite(far.influence()).all()


def test_ped_is_worked_out_once(monkeypatch):
    calls = []
    from transferscope.metrics import _ped as ped_metrics

    def counted(*args, **options):
        calls.append(1)
        return potential_energy_decline(*args, **options)

    monkeypatch.setattr(ped_metrics, "potential_energy_decline", counted)
    transferscope.score(*classes(), metrics="logme+ped,h_score+ped,knn+ped")
    assert len(calls) == 1


def test_names():
    metric = resolve_metric("logme+ped")
    assert metric.name == "logme+ped"
    assert metric.tasks == ("classification",)
    assert "ICCV 2023" in metric.about.publication
    assert resolve_metric("logme") is METRICS["logme"]
    assert [m.name for m in plan_metrics(["knn", "logme+ped", "knn"]).asked] == ["knn", "logme+ped"]
    assert [m.name for m in plan_metrics("all").asked] == list(METRICS)
    both = [m.name for m in plan_metrics("all+ped").asked]
    assert both[: len(METRICS)] == list(METRICS)
    assert "logme+ped" in both
    assert "leep+ped" not in both


def test_names_that_do_not_exist():
    with pytest.raises(UnknownNameError, match="Did you mean 'logme'"):
        resolve_metric("logmee+ped")
    with pytest.raises(InputError, match="no leep\\+ped"):
        resolve_metric("leep+ped")
    regression = replace(METRICS["logme"], tasks=("regression",))
    with pytest.raises(InputError, match="PED goes with"):
        with_ped(regression)


def test_scores_beside_the_plain_ones():
    features, labels = classes()
    kept = features.copy()
    table = transferscope.score(features, labels, metrics=["logme", "logme+ped"])
    assert table["logme+ped"] > table["logme"]
    np.testing.assert_array_equal(features, kept)
    regression = transferscope.score(features, targets=features[:, 0], metrics="logme,logme+ped")
    assert "for classification" in regression.skipped["logme+ped"]
