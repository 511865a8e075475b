"""TransRate against the formula and public code."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from shapes import SHAPES, task

from reference import transrate as reference
from transferscope.embedding import ClassMoments, Embedding
from transferscope.errors import InputError
from transferscope.metrics._transrate import measure, transrate

# thuml/Transfer-Learning-Library at c4aa59e, tllib/ranking/transrate.py (eps=1e-4), which weights
# every class by 1/C
GOLDEN = {"A": 47.58382049947181, "C": 228.99735493895116, "E": 0.8130790855632029}


def test_golden(case):
    value = transrate(case["X"], case["y"], weighting="classes")
    assert value == pytest.approx(GOLDEN[case["name"]], rel=1e-8)


def test_the_formula_of_the_paper_weights_by_samples(case):
    ours = transrate(case["X"], case["y"])
    assert ours == pytest.approx(reference.transrate(case["X"], case["y"]), rel=1e-8)
    assert ours < 0.95 * GOLDEN[case["name"]]  # all three cases are imbalanced


@pytest.mark.parametrize("weighting", ["samples", "classes"])
@pytest.mark.parametrize("eps", [1e-4, 0.1])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_literal_formula(name, weighting, eps):
    features, labels = SHAPES[name]
    expected = reference.transrate(features, labels, weighting, eps)
    found = transrate(features, labels, weighting=weighting, eps=eps)
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_kernel_and_scatter_have_the_same_determinant():
    """The class of 5 takes the kernel, the class of 35 the scatter; more features turn it round."""
    features, _ = task(40, 12)
    labels = np.repeat([0, 1], [5, 35])
    wide = np.column_stack([features, np.zeros((40, 30))])
    assert transrate(wide, labels) == pytest.approx(transrate(features, labels), rel=1e-9)


def test_never_negative_when_weighted_by_samples():
    rng = np.random.default_rng(0)
    for seed in range(5):
        features, _ = task(60, 15, seed=seed)
        assert transrate(features, rng.integers(0, 5, 60)) >= 0


def test_a_class_of_one_sample_counts():
    features, _ = task(40, 6)
    labels = np.array([0] * 20 + [1] * 19 + [2])
    measured = measure(Embedding(features, labels))
    assert measured.value == pytest.approx(reference.transrate(features, labels), rel=1e-8)
    assert np.isfinite(measured.influence()).all()


def test_duplicated_and_constant_rows_keep_influences_finite():
    features, labels = task(20, 30)
    features[labels == 0] = features[0]
    features = np.vstack([features, features])
    assert np.isfinite(measure(Embedding(features, np.tile(labels, 2))).influence()).all()


def test_more_features_than_samples_are_said():
    assert "d >= n" in measure(Embedding(*SHAPES["n < d"])).warnings[0]
    assert measure(Embedding(*SHAPES["n > d"])).warnings == ()


def test_large_variances_in_single_precision_are_said():
    features, labels = task(300, 20)
    single = (100 * features).astype(np.float32)
    assert "pass float64" in measure(Embedding(single, labels)).warnings[0]
    assert measure(Embedding(single.astype(np.float64), labels)).warnings == ()


@pytest.mark.parametrize("d", [20, 90])
def test_single_precision_is_close(d):
    features, labels = task(200, d)
    single = features.astype(np.float32)
    expected = transrate(single.astype(np.float64), labels)
    assert transrate(single, labels) == pytest.approx(expected, rel=1e-5)


def test_streamed_data_are_measured_on_what_was_kept():
    features, labels = task(200, 12)
    moments = ClassMoments.from_arrays(features, labels)
    streamed = measure(Embedding(features[::2], labels[::2], moments=moments))
    kept = measure(Embedding(features[::2], labels[::2]))
    assert streamed.value == kept.value
    assert streamed.warnings == ("measured on a stratified sample of 100 of 200",)
    # the standard error is that of the samples it was measured on
    by_streamed = streamed.influence().std() / np.sqrt(200)
    assert by_streamed == pytest.approx(kept.influence().std() / np.sqrt(100))


def test_influences_of_a_part_are_those_of_the_whole(monkeypatch):
    features, labels = task(200, 12)
    whole = Embedding(features, labels)
    part = Embedding(features, labels)
    part.__dict__["influence_rows"] = np.arange(0, 200, 3)
    expected = measure(whole).influence()[::3]
    assert measure(part).influence() == pytest.approx(expected - expected.mean())


@pytest.mark.parametrize("weighting", ["samples", "classes"])
def test_influences_are_what_leaving_a_sample_out_changes(weighting):
    features, labels = task(120, 30, 3)
    measured = measure(Embedding(features, labels), weighting)
    without = [
        transrate(np.delete(features, i, axis=0), np.delete(labels, i), weighting=weighting)
        for i in range(120)
    ]
    changes = 119 * (measured.value - np.array(without))
    changes = changes - changes.mean()
    influence = measured.influence()
    assert np.corrcoef(influence, changes)[0, 1] > 0.995
    assert influence.std() == pytest.approx(changes.std(), rel=0.05)


def test_what_makes_no_sense_is_refused():
    features, labels = SHAPES["n > d"]
    with pytest.raises(InputError, match="weighting"):
        transrate(features, labels, weighting="sample")
    for eps in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match="eps"):
            transrate(features, labels, eps=eps)


@pytest.mark.parametrize("letter", ["A", "E"])
def test_influences_weighted_by_classes_as_well(cases, letter, error_ratio):
    case, by_classes = cases[letter], partial(measure, weighting="classes")
    assert 0.7 < error_ratio(by_classes, features=case["X"], labels=case["y"]) < 1.4
