"""LDA against the formula, scikit-learn, and public code."""

from __future__ import annotations

import numpy as np
import pytest
from shapes import SHAPES, task
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from reference import lda as reference
from transferscope.embedding import ClassMoments, Embedding
from transferscope.errors import InputError
from transferscope.metrics._lda import lda, measure

# mgholamikn/ETran at d4551ed, metrics.py, LDA_Score: a symmetric eigensolver on another matrix
GOLDEN = {"A": 0.9881624724139487, "C": 0.985941797512647, "E": 0.8116009800388335}


def test_public_code_reduces_to_the_nearest_class_mean(case):
    features, labels, golden = case["X"], case["y"], GOLDEN[case["name"]]
    assert reference.nearest_class_mean(features, labels) == pytest.approx(golden, rel=1e-9)
    assert lda(features, labels) > golden + 0.01


def test_the_nearest_class_mean_misses_what_lda_finds():
    """Four classes that differ in one direction of small variance only."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    features = np.column_stack([100 * rng.standard_normal((400, 3)), 0.3 * labels])
    features[:, 3] += 0.02 * rng.standard_normal(400)
    assert lda(features, labels) > 0.999
    assert reference.nearest_class_mean(features, labels) < 0.35


@pytest.mark.parametrize("shrinkage", [None, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_literal_formula(name, shrinkage):
    features, labels = SHAPES[name]
    if name == "dead dimensions" and shrinkage is None:
        shrinkage = 1e-4  # unshrunk, the literal inverse of a singular matrix is all rounding
    centred = features - features.mean(axis=0)  # the literal formula loses digits far from zero
    expected = reference.lda(centred, labels, shrinkage)
    assert lda(features, labels, shrinkage=shrinkage) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [0.02, 0.3, 0.7, 3.0])
def test_adaptive_shrinkage_follows_the_largest_eigenvalue(scale):
    features, labels = task(80, 10, spread=0.5)
    features = scale * features
    shrinkage = reference.adaptive_shrinkage(features, labels)
    expected = lda(features, labels, shrinkage=shrinkage)
    assert lda(features, labels) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.9])
def test_equals_scikit_learn(shrinkage):
    features, labels = task(120, 10, spread=0.5)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(features, labels)
    expected = theirs.predict_proba(features)[np.arange(120), labels].mean()
    assert lda(features, labels, shrinkage=shrinkage) == pytest.approx(expected, rel=1e-6)


def test_random_labels_saturate_for_more_features_than_samples_and_that_is_said():
    rng = np.random.default_rng(0)
    features, labels = 3 * rng.standard_normal((40, 100)), rng.integers(0, 4, 40)
    measured = measure(Embedding(features, labels))
    assert measured.value == pytest.approx(1.0)
    assert "d >= n" in measured.warnings[0]
    assert np.isfinite(measured.influence()).all()
    assert lda(features, labels, shrinkage=1.0) < 0.9999


def test_collapsed_classes_stay_finite_and_are_said():
    labels = np.arange(60) % 3
    for scale in (1e-3, 1.0, 1e3):
        measured = measure(Embedding(scale * np.eye(3)[labels], labels))
        assert measured.value == pytest.approx(1.0)
        assert "saturated" in measured.warnings[0]
        assert np.isfinite(measured.influence()).all()


def test_a_class_of_one_sample_counts():
    features, _ = task(40, 6, spread=0.2)
    labels = np.array([0] * 20 + [1] * 19 + [2])
    measured = measure(Embedding(features, labels), shrinkage=0.3)
    assert measured.value == pytest.approx(reference.lda(features, labels, 0.3), rel=1e-8)
    assert np.isfinite(measured.influence()).all()


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_influences_are_derivatives(shrinkage):
    """Against the change of the value when one sample counts a little more."""
    features, labels = task(400, 5, spread=0.5)
    measured = measure(Embedding(features, labels), shrinkage)
    for i in (0, 17, 200, 399):
        twice = np.append(np.arange(400), i)
        changed = lda(features[twice], labels[twice], shrinkage=shrinkage)
        change = (changed - measured.value) * 401
        assert measured.influence()[i] == pytest.approx(change, abs=0.02 + 0.02 * abs(change))


def test_streamed_data_are_judged_on_what_was_kept():
    features, labels = task(400, 8, spread=0.5)
    moments = ClassMoments.from_arrays(features, labels)
    streamed = measure(Embedding(features[::2], labels[::2], moments=moments))
    assert streamed.value == pytest.approx(lda(features, labels), abs=0.03)
    assert "stratified sample of 200 of 400" in streamed.warnings[0]


def test_what_makes_no_sense_is_refused():
    for shrinkage in (-0.1, 1.1, np.nan):
        with pytest.raises(InputError, match="shrinkage"):
            lda(*SHAPES["n > d"], shrinkage=shrinkage)
