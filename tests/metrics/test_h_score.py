"""H-score and its regularised form against the formula, scikit-learn, and public code."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import shapes
from sklearn.covariance import LedoitWolf, ledoit_wolf

from reference import h_score as reference
from transferscope.embedding import Embedding
from transferscope.metrics._h_score import (
    h_score,
    ledoit_wolf_shrinkage,
    measure_h_score,
    measure_regularized_h_score,
    regularized_h_score,
)

# thuml/Transfer-Learning-Library at c4aa59e, tllib/ranking/hscore.py
GOLDEN = {"A": 7.243504249656956, "C": 5.159256561126452, "E": 0.7244689344687351}
GOLDEN_REGULARIZED = {"A": 7.090547265122218, "C": 5.114035088819887, "E": 0.7053994080413024}


def test_golden(case):
    value = h_score(case["X"], case["y"])
    assert value == pytest.approx(GOLDEN[case["name"]], rel=1e-6)


def test_golden_regularized(case):
    value = regularized_h_score(case["X"], case["y"])
    assert value == pytest.approx(GOLDEN_REGULARIZED[case["name"]], rel=1e-6)


task = partial(shapes.task, at_least=1)


def rank_deficient():
    features, labels = task(80, 10)
    return np.column_stack([features, features[:, :4].sum(axis=1), np.zeros(80)]), labels


SHAPES = {
    "n > d": task(80, 10),
    "n < d": task(30, 70),
    "n = d + 1": task(41, 40),
    "one feature": task(50, 1),
    "many classes": task(150, 20, 40),
    "rank-deficient": rank_deficient(),
    "offset 1000": (task(80, 10)[0] + 1000, task(80, 10)[1]),
    "x 1e-6": (task(80, 10)[0] * 1e-6, task(80, 10)[1]),
    "absent ids": (task(80, 10)[0], task(80, 10)[1] * 5 + 3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_literal_formula(name):
    features, labels = SHAPES[name]
    assert h_score(features, labels) == pytest.approx(reference.h_score(features, labels), rel=1e-8)
    expected = reference.regularized_h_score(features, labels)
    assert regularized_h_score(features, labels) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", SHAPES)
def test_shrinkage_is_that_of_scikit_learn(name):
    features, labels = SHAPES[name]
    _, expected = ledoit_wolf(features)
    shrinkage = ledoit_wolf_shrinkage(Embedding(features, labels))
    assert shrinkage == pytest.approx(expected, rel=1e-7, abs=1e-12)
    assert reference.shrinkage(features) == pytest.approx(expected, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("name", ["n > d", "n < d", "offset 1000"])
def test_regularized_with_the_precision_of_scikit_learn(name):
    features, labels = SHAPES[name]
    n = len(features)
    fitted = LedoitWolf().fit(features)
    scatter = reference.between(features, labels) / (n - 1)
    expected = (1 - fitted.shrinkage_) * np.trace(fitted.precision_ @ scatter)
    assert regularized_h_score(features, labels) == pytest.approx(expected, rel=1e-7)


def test_range_and_saturation():
    labels = np.arange(60) % 3
    assert h_score(np.eye(3)[labels], labels) == pytest.approx(2, abs=1e-12)
    noise = np.random.default_rng(0).standard_normal((60, 90))
    measured = measure_h_score(Embedding(noise, labels))
    assert measured.value == pytest.approx(2, abs=1e-9)
    assert "d >= n (90 features, 60 samples)" in measured.warnings[0]
    assert regularized_h_score(noise, labels) < 1.0


def test_rank_deficiency_is_said():
    measured = measure_h_score(Embedding(*rank_deficient()))
    assert measured.warnings == ("rank-deficient: 10 of 12 directions vary",)


def test_values_outside_the_range_come_from_too_small_a_cut_off():
    """Directions that are only rounding, inverted as if they were real."""
    features, labels = task(200, 10)
    copies = np.column_stack(
        [features, features @ np.random.default_rng(5).standard_normal((10, 10))]
    )
    single = copies.astype(np.float32)
    # rounded once and inverted in float64: the same on every processor
    covariance = np.cov(single.T.astype(np.float64)).astype(np.float32).astype(np.float64)
    means = np.stack([single[labels == c].mean(axis=0, dtype=np.float64) for c in labels])
    between = np.cov(means.T).astype(np.float32).astype(np.float64)
    theirs = np.trace(np.linalg.pinv(covariance, rcond=1e-15) @ between)
    assert not 0 <= theirs <= 3
    assert h_score(single, labels) == pytest.approx(h_score(features, labels), rel=1e-4)


def test_one_feature_is_not_shrunk():
    """Its covariance is a multiple of the identity already, as scikit-learn has it."""
    embedding = Embedding(*SHAPES["one feature"])
    assert ledoit_wolf_shrinkage(embedding) == 0.0
    value = measure_regularized_h_score(embedding).value
    assert value == pytest.approx(50 / 49 * measure_h_score(embedding).value)


def test_shrunk_to_the_identity_is_said():
    # one sample in two dimensions far from the others: its outer product is all there is
    features = np.array([[1.0, 0.1], [-1.0, 0.1], [0.1, 1.0], [0.1, -1.0]])
    measured = measure_regularized_h_score(Embedding(features, [0, 1, 0, 1]))
    assert ledoit_wolf(features)[1] == 1.0
    assert measured.value == 0.0
    assert measured.warnings == ("shrunk to the identity: too few samples for any covariance",)


@pytest.mark.parametrize("measure", [measure_h_score, measure_regularized_h_score])
def test_influence_gives_the_standard_error(case, measure, error_ratio):
    assert 0.7 < error_ratio(measure, features=case["X"], labels=case["y"]) < 1.4


@pytest.mark.parametrize("measure", [measure_h_score, measure_regularized_h_score])
def test_influence_is_that_of_the_value(cases, measure):
    features, labels = cases["E"]["X"], cases["E"]["y"]
    whole = measure(Embedding(features, labels))
    rows = np.arange(400)
    removed = [
        whole.value - measure(Embedding(features[rows != i], labels[rows != i])).value
        for i in range(0, 400, 4)
    ]
    assert np.corrcoef(removed, whole.influence()[::4])[0, 1] > 0.99
