"""The closed leave-one-out form against n refits and scikit-learn."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import shapes
from sklearn.linear_model import RidgeCV

from reference import linear_probe as reference
from transferscope.embedding import Embedding
from transferscope.metrics._linear_probe import PENALTIES, linear_probe, measure
from transferscope.numerics import arrays

task = partial(shapes.task, spread=0.5, at_least=1)


def rank_deficient():
    features, labels = task(70, 6)
    return np.column_stack([features, features[:, :3].sum(axis=1), np.zeros(70)]), labels


SHAPES = {
    "n > d": task(80, 6),
    "n < d": task(30, 50),
    "n = d": task(40, 40),
    "one feature": task(50, 1),
    "many classes": task(120, 12, 30),
    "two classes": task(60, 5, 2),
    "noise": task(60, 8, spread=0.0),
    "separable": task(60, 8, spread=3.0),
    "rank-deficient": rank_deficient(),
    "offset 100": (task(80, 6)[0] + 100, task(80, 6)[1]),
    "x 1e4": (task(80, 6)[0] * 1e4, task(80, 6)[1]),
    "absent ids": (task(80, 6)[0], task(80, 6)[1] * 5 + 3),
    "singleton": (task(80, 6)[0], np.where(np.arange(80) == 40, 9, task(80, 6)[1])),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_n_refits(name):
    features, labels = SHAPES[name]
    assert linear_probe(features, labels) == pytest.approx(
        reference.linear_probe(features, labels), abs=1e-12
    )


@pytest.mark.parametrize(("n", "d"), [(80, 6), (30, 50)])
def test_regression_equals_n_refits_and_scikit_learn(n, d):
    features, _ = task(n, d)
    rng = np.random.default_rng(1)
    targets = features[:, :3] @ rng.standard_normal((3, 2)) + rng.standard_normal((n, 2)) + 7
    value = linear_probe(features, targets=targets)
    assert value == pytest.approx(reference.linear_probe_regression(features, targets), rel=1e-8)
    penalty = reference.best_penalty(features, targets)
    judge = RidgeCV([penalty], store_cv_results=True).fit(features, targets)
    share = judge.cv_results_[:, :, 0].mean(axis=0) / targets.var(axis=0)
    # scikit-learn centres once, with the sample left out still in the means
    assert value == pytest.approx(np.mean(1 - share), rel=2e-2)


def test_multilabel_is_regression_on_its_columns():
    features, _ = task(80, 6)
    targets = (features[:, :3] > 0.3) * 1.0
    value = linear_probe(features, targets=targets)
    assert value == pytest.approx(reference.linear_probe_regression(features, targets), rel=1e-8)


def test_penalties_are_those_of_the_docstring():
    assert pytest.approx(reference.PENALTIES) == PENALTIES


def test_chunks_make_no_difference(monkeypatch):
    features, labels = task(300, 6)
    whole = linear_probe(features, labels)
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 8)
    assert linear_probe(features, labels) == whole


def test_constant_targets_count_for_nothing():
    features, _ = task(80, 6)
    targets = np.column_stack([features[:, 0], np.ones(80)])
    measured = measure(Embedding(features, targets=targets))
    assert measured.value == pytest.approx(linear_probe(features, targets=targets[:, :1]))
    assert np.isfinite(measured.influence()).all()


def test_noise_is_no_better_than_the_largest_class():
    features, labels = task(200, 150, spread=0.0)
    assert linear_probe(features, labels) < 0.4  # in-sample it would be 1


def test_rounding_of_float32_does_not_decide_where_features_outnumber_samples():
    """Without a lower bound on the penalty two thirds were right: 1 - leverage was rounding."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    features = 0.5 * rng.standard_normal((10, 1280))[labels] + rng.standard_normal((200, 1280))
    features += rng.standard_normal((200, 10)) @ rng.standard_normal((10, 1280))
    features = np.maximum(features, 0).astype(np.float32)
    exact = linear_probe(features.astype(np.float64), labels)
    assert linear_probe(features, labels) == pytest.approx(exact, abs=0.006)


def test_a_sample_that_is_alone_in_its_direction_stays_finite():
    features, labels = task(40, 6)
    features = np.column_stack([features, np.zeros(40)])
    features[5, 6] = 1e6
    measured = measure(Embedding(features, labels))
    assert 0 <= measured.value <= 1


def test_influence_gives_the_standard_deviation_of_fresh_samples(fresh_ratio):
    """A delete-a-group jackknife gives 1.5 to 2 times as much, see test_knn.py."""
    assert 0.7 < fresh_ratio(measure) < 1.3
