"""The parts of NCTI against the formulas and against scikit-learn, which public code rests on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapes
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from reference import ncti as reference
from transferscope.embedding import ClassMoments, Embedding
from transferscope.metrics._ncti import (
    measure_geometry,
    measure_nearest_center,
    measure_variability,
    ncti_geometry,
    ncti_nearest_center,
    ncti_variability,
)
from transferscope.numerics import arrays

MEASURES = (measure_variability, measure_geometry, measure_nearest_center)


def values(features, labels) -> tuple[float, float, float]:
    return (
        ncti_variability(features, labels),
        ncti_geometry(features, labels),
        ncti_nearest_center(features, labels),
    )


def task(n: int, d: int, n_classes: int = 4, seed: int = 0):
    features, labels = shapes.task(n, d, n_classes, seed=seed, at_least=1)
    return features * np.linspace(1, 2, d), labels


SHAPES = {
    "n > d": task(80, 10),
    "n < d": task(30, 70),
    "d > 64": task(150, 90),
    "one feature": task(50, 1),
    "many classes": task(150, 20, 40),
    "more classes than n / 2": task(60, 80, 40),
    "dead and repeated dimensions": (
        np.column_stack([task(80, 10)[0], task(80, 10)[0][:, :4], np.zeros(80)]),
        task(80, 10)[1],
    ),
    "offset 1000": (task(80, 10)[0] + 1000, task(80, 10)[1]),
    "much shrunk": (task(80, 10)[0] * 0.05, task(80, 10)[1]),
    "absent ids": (task(80, 10)[0], task(80, 10)[1] * 5 + 3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_literal_formula(name):
    features, labels = SHAPES[name]
    assert values(features, labels) == pytest.approx(reference.parts(features, labels), rel=1e-7)


def test_equals_the_literal_formula_on_golden_cases(case):
    expected = reference.parts(case["X"], case["y"])
    assert values(case["X"], case["y"]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("factor", [1.0, 0.02])
def test_equals_scikit_learn(case, factor):
    """BUserName/NCTI at b18d395 is made of these two classes; its first part is the second here."""
    features, labels = factor * case["X"], case["y"]
    n = len(labels)
    pca = PCA(min(64, features.shape[1]), svd_solver="full")
    rows = pca.fit_transform(features)
    variance = pca.explained_variance_[:32].sum() * (n - 1) / n  # theirs is divided by n - 1
    shrinkage = max(float(np.exp(-variance)), 1e-10)
    assert (shrinkage > 1e-3) == (factor < 1)
    fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage).fit(rows, labels)
    discriminant = fitted.transform(rows)
    probabilities = fitted.predict_proba(rows)
    norms = [np.linalg.norm(probabilities[labels == c], "nuc") for c in np.unique(labels)]
    expected = (
        0.5 * math.log(n) - math.log(sum(norms)),
        np.linalg.norm(discriminant - discriminant.mean(axis=0), "nuc") / math.sqrt(n),
        probabilities[np.arange(n), labels].mean(),
    )
    assert values(features, labels) == pytest.approx(expected, rel=1e-8)


def test_variability_alone_is_no_score():
    """Unsure probabilities, all alike, collapse more than sure ones."""
    features, labels = task(400, 10)
    shuffled = np.random.default_rng(1).permutation(labels)
    right, wrong = values(features, labels), values(features, shuffled)
    assert right[0] < wrong[0]
    assert right[1] > wrong[1]
    assert right[2] > wrong[2]


def test_collapsed_features():
    labels = np.arange(60) % 3
    measured = [measure(Embedding(np.eye(3)[labels], labels)) for measure in MEASURES]
    assert measured[0].value == pytest.approx(-math.log(math.sqrt(3)))
    assert measured[1].value > 1e3
    assert measured[2].value == pytest.approx(1)
    assert "saturated at 1: encoders beyond this are tied" in measured[2].warnings
    for one in measured:
        assert np.isfinite(one.influence()).all()


def test_few_samples_are_said():
    for measure in MEASURES:
        measured = measure(Embedding(*SHAPES["n < d"]))
        assert "30 in 4 classes determine no more than 26 components" in measured.warnings[0]
        assert measure(Embedding(*SHAPES["n > d"])).warnings == ()


def test_single_samples_of_each_class():
    features = np.random.default_rng(0).standard_normal((6, 4))
    for measure in MEASURES:
        measured = measure(Embedding(features, np.arange(6)))
        assert math.isfinite(measured.value)
        assert np.isfinite(measured.influence()).all()


def test_streamed_features():
    """The discriminant is that of all samples; probabilities are those of the samples kept."""
    features, labels = task(400, 10)
    moments = ClassMoments.from_arrays(features, labels)
    rows = slice(0, None, 2)
    streamed = Embedding(features[rows], labels[rows], moments=moments)
    assert measure_geometry(streamed).value == pytest.approx(ncti_geometry(features, labels))
    for measure in MEASURES:
        measured = measure(streamed)
        assert any("200 of 400" in text for text in measured.warnings)
        whole = measure(Embedding(features, labels))
        assert measured.value == pytest.approx(whole.value, rel=0.1)
        more = measured.influence().std() / whole.influence().std()
        assert 0.5 < more / (1 if measure is measure_geometry else math.sqrt(2)) < 2


@pytest.mark.parametrize("measure", MEASURES)
def test_influence_gives_the_standard_error(case, measure, error_ratio):
    assert 0.7 < error_ratio(measure, features=case["X"], labels=case["y"]) < 1.4


@pytest.mark.parametrize("measure", MEASURES)
def test_same_in_every_library(backend, measure):
    features, labels = SHAPES["d > 64"]
    expected = measure(Embedding(features, labels))
    measured = measure(Embedding(backend(features), backend(labels)))
    assert measured.value == pytest.approx(expected.value, rel=1e-6)
    influence = arrays.to_numpy(measured.influence())
    np.testing.assert_allclose(influence, expected.influence(), rtol=1e-6, atol=1e-8)
