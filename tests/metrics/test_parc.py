"""PARC against the formula and the authors' code."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import shapes
from sklearn.decomposition import PCA

from reference import parc as reference
from transferscope.embedding import ClassMoments, Embedding
from transferscope.errors import FeatureError, InputError
from transferscope.metrics._parc import measure, parc
from transferscope.numerics import arrays

# the module: as an attribute of the package its name is the function's
module = sys.modules["transferscope.metrics._parc"]

# dbolya/parc at ddfca43, methods.py, PARC(n_dims=32) and PARC()
GOLDEN = {"A": 37.36495202647367, "C": 26.849093863780894, "E": 9.7471885721925}
GOLDEN_UNPROJECTED = {"A": 52.84320420365146, "C": 55.75636394301575, "E": 11.795396869613619}


@pytest.mark.parametrize("n_axes", [32, None])
def test_golden(case, n_axes):
    """Public code ranks label distances that differ by rounding: 1e-16 apart, so not tied.

    With that mistake, and its projection of one randomised power iteration, the literal formula
    gives its value. Of two classes there is no such rounding, and all agree.
    """
    features, labels = case["X"], case["y"]
    golden = (GOLDEN_UNPROJECTED if n_axes is None else GOLDEN)[case["name"]]
    theirs = features
    if n_axes is not None:
        projection = PCA(n_axes, svd_solver="randomized", random_state=1919, iterated_power=1)
        theirs = projection.fit_transform(features)
    assert reference.parc_of_rounded_labels(theirs, labels) == pytest.approx(golden, rel=1e-6)
    value = parc(features, labels, n_axes=n_axes)
    if case["name"] == "E":
        assert value == pytest.approx(golden, rel=1e-9)
    else:
        ours = features if n_axes is None else reference.project(features, n_axes)
        with_mistake = reference.parc_of_rounded_labels(ours, labels)
        assert abs(value - with_mistake) > 0.3


task = partial(shapes.task, spread=0.7, at_least=1)


def with_duplicates():
    features, labels = task(60, 5)
    return np.vstack([features, features[:30]]), np.concatenate([labels, labels[:30]])


SHAPES = {
    "n > d": task(80, 10),
    "n < d": task(30, 70),
    "two features": task(50, 2),
    "many classes": task(90, 20, 40),
    "two classes": task(60, 6, 2),
    "imbalance": (task(100, 9)[0], np.repeat(np.arange(4), [3, 7, 20, 70])),
    "dead dimensions": (np.column_stack([task(80, 10)[0], np.zeros((80, 3))]), task(80, 10)[1]),
    "duplicates": with_duplicates(),
    "whole numbers": (np.round(task(70, 4)[0]), task(70, 4)[1]),
    "offset 1000": (task(80, 10)[0] + 1000, task(80, 10)[1]),
    "absent ids": (task(80, 10)[0], task(80, 10)[1] * 5 + 3),
}


@pytest.mark.parametrize("n_axes", [32, 3, None])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_literal_formula(name, n_axes):
    features, labels = SHAPES[name]
    expected = reference.parc(features, labels, n_axes)
    assert parc(features, labels, n_axes=n_axes) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_many_pairs_follow_the_approximation_of_the_docstring():
    features, labels = task(800, 12)
    value = parc(features, labels)
    embedding = Embedding(features, labels)
    rows, _ = module._unit_rows(module._standardised(embedding, 32))
    pairs = module._pairs(rows, embedding.influence_labels)
    approximation = (2 * pairs.auc - 1) * np.sqrt(3 * pairs.p * (1 - pairs.p))
    assert value == pytest.approx(100 * approximation, rel=1e-4)


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (task(20, 1)[0], task(20, 1)[1]),  # every row is one number: rows correlate with nothing
        (np.random.default_rng(0).standard_normal((9, 4)), np.arange(9)),  # no pair of one class
        (np.eye(2), [0, 1]),  # one pair
    ],
)
def test_what_is_undefined_is_zero_and_says_so(features, labels):
    measured = measure(Embedding(features, labels))
    assert measured.value == 0
    assert "undefined" in measured.warnings[0]
    assert not measured.influence().any()


def test_constant_rows_correlate_with_nothing():
    features, labels = task(40, 3)
    features = np.vstack([features, features.mean(axis=0)])  # on the mean: all standardised are 0
    labels = np.append(labels, 0)
    value = parc(features, labels, n_axes=None)
    assert value == pytest.approx(reference.parc(features, labels, None), rel=1e-6)


def test_large_samples_are_subsampled_and_say_so(monkeypatch):
    monkeypatch.setattr("transferscope.embedding._embedding.INFLUENCE_SAMPLES", 300)
    features, labels = task(1000, 8)
    measured = measure(Embedding(features, labels))
    assert measured.warnings == ("pairs of 300 stratified samples stand for 1000",)
    assert measured.value == parc(features, labels)
    assert measured.value != parc(features, labels, seed=1)
    monkeypatch.undo()
    assert abs(measured.value - parc(features, labels)) < 4
    # the error is that of 300 samples
    of_all = measure(Embedding(features, labels)).influence().std() / np.sqrt(1000)
    of_few = measured.influence().std() / np.sqrt(1000)
    assert of_few == pytest.approx(of_all * np.sqrt(1000 / 300), rel=0.3)


def test_streamed_data_are_projected_by_all_moments():
    features, labels = task(400, 8)
    moments = ClassMoments.from_arrays(features, labels)
    streamed = measure(Embedding(features[::2], labels[::2], moments=moments))
    assert streamed.value == pytest.approx(parc(features, labels), abs=4)
    assert "200 of 400" in streamed.warnings[0]


@pytest.mark.parametrize("n_axes", [32, None])
@pytest.mark.parametrize("name", ["n > d", "n < d", "duplicates"])
def test_every_array_library_gives_the_same(backend, name, n_axes):
    features, labels = SHAPES[name]
    expected = measure(Embedding(features, labels), n_axes)
    found = measure(Embedding(backend(features), backend(labels)), n_axes)
    assert found.value == pytest.approx(expected.value, rel=1e-6)
    influence = np.asarray(arrays.to_numpy(found.influence()))
    assert influence == pytest.approx(expected.influence(), rel=1e-6, abs=1e-6)


def test_influences_have_the_standard_error_of_a_jackknife(case, error_ratio):
    """Without projection: axes that change sign between groups are no matter for a jackknife."""
    if case["name"] == "C":
        rows = np.arange(0, 2000, 4)  # fifty times all pairs of 2 000 samples take long
        case = case | {"X": case["X"][rows], "y": case["y"][rows]}
    unprojected = partial(measure, n_axes=None)
    assert 0.7 < error_ratio(unprojected, features=case["X"], labels=case["y"]) < 1.4


def test_influences_have_the_standard_error_of_fresh_samples(fresh_ratio):
    assert 0.7 < fresh_ratio(measure, draws=25) < 1.4


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="n_axes"):
        parc(*SHAPES["n > d"], n_axes=0)
    with pytest.raises(FeatureError, match="the same"):
        parc(np.ones((6, 3)), [0, 1, 0, 1, 0, 1], n_axes=None)
