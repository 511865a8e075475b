"""SFDA against the formula and the authors' code."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import shapes

from reference import sfda as reference
from transferscope.embedding import ClassMoments, Embedding
from transferscope.errors import InputError
from transferscope.metrics._sfda import measure, sfda
from transferscope.numerics import arrays

# TencentARC/SFDA at 3b7edf7, metrics.py, SFDA_Score
GOLDEN = {"A": 0.9976214926014136, "C": 0.9941191757095613, "E": 0.7815352227999404}


def test_golden(case):
    assert sfda(case["X"], case["y"]) == pytest.approx(GOLDEN[case["name"]], abs=1e-9)


task = partial(shapes.task, spread=0.3, at_least=1)


def dead_dimensions():
    features, labels = task(80, 10)
    return np.column_stack([features, np.zeros((80, 3))]), labels


SHAPES = {
    "n > d": task(80, 10),
    "large shrinkage": (0.3 * task(80, 10)[0], task(80, 10)[1]),
    "nearly n = d": task(60, 50),
    "one feature": task(50, 1),
    "many classes": task(150, 20, 40),
    "two classes": task(60, 6, 2),
    "imbalance": (task(120, 9)[0], np.repeat(np.arange(4), [3, 7, 20, 90])),
    "singleton class": (task(60, 6)[0], np.repeat(np.arange(4), [1, 19, 20, 20])),
    "dead dimensions": dead_dimensions(),
    "offset 1000": (task(80, 10)[0] + 1000, task(80, 10)[1]),
    "absent ids": (task(80, 10)[0], task(80, 10)[1] * 5 + 3),
}


@pytest.mark.parametrize("eigenvalue", ["power", "exact"])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_literal_formula(name, eigenvalue):
    features, labels = SHAPES[name]
    expected = reference.sfda(features, labels, exact=eigenvalue == "exact")
    assert sfda(features, labels, eigenvalue=eigenvalue) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [0, 1, 1000])
def test_saturation_with_fewer_samples_than_features_is_said(dtype, spread):
    features, labels = task(60, 200, spread=spread)
    measured = measure(Embedding(features.astype(dtype), labels))
    assert measured.value == pytest.approx(1, abs=1e-6)
    assert [text.split()[0] for text in measured.warnings] == ["saturated", "d"]
    assert np.isfinite(measured.influence()).all()


def test_collapsed_classes_are_saturated_and_nothing_worse():
    features = np.repeat(np.random.default_rng(0).standard_normal((4, 6)), 5, axis=0)
    measured = measure(Embedding(features, np.repeat(np.arange(4), 5)))
    assert measured.value == pytest.approx(1)
    assert "saturated" in measured.warnings[0]


def test_rows_of_equal_sum_do_not_stop_the_power_iteration():
    """Of probabilities the covariance has row sums of zero, where public code divides by zero."""
    features, labels = task(120, 8, spread=1)
    features = np.exp(features) / np.exp(features).sum(axis=1, keepdims=True)
    assert sfda(features, labels) == pytest.approx(reference.sfda(features, labels, True), rel=1e-6)


def test_offsets_in_float32_lose_little():
    features, labels = task(300, 20)
    single = (features + 1000).astype(np.float32)
    assert sfda(single, labels) == pytest.approx(sfda(single.astype(float), labels), abs=1e-5)


def test_chunks_make_no_difference(monkeypatch):
    features, labels = task(300, 20)
    whole = measure(Embedding(features, labels))
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 8 * 20 * 70)
    pieces = measure(Embedding(features, labels))
    assert pieces.value == pytest.approx(whole.value, rel=1e-10)
    assert pieces.influence() == pytest.approx(whole.influence(), rel=1e-6, abs=1e-9)


def test_streamed_data_are_fitted_to_all_samples():
    features, labels = task(800, 8)
    moments = ClassMoments.from_arrays(features, labels)
    streamed = measure(Embedding(features[::2], labels[::2], moments=moments))
    assert streamed.value == pytest.approx(sfda(features, labels), abs=0.05)
    assert "400 of 800" in streamed.warnings[0]
    # the value is of 400 samples, so its error is that of 400
    alone = measure(Embedding(features[::2], labels[::2])).influence().std() / 20
    assert streamed.influence().std() / np.sqrt(800) == pytest.approx(alone, rel=0.1)


@pytest.mark.parametrize("name", ["n > d", "imbalance", "large shrinkage"])
def test_every_array_library_gives_the_same(backend, name):
    features, labels = SHAPES[name]
    expected = measure(Embedding(features, labels))
    found = measure(Embedding(backend(features), backend(labels)))
    assert found.value == pytest.approx(expected.value, rel=1e-6)
    influence = np.asarray(arrays.to_numpy(found.influence()))
    assert influence == pytest.approx(expected.influence(), rel=1e-6, abs=1e-6)


def test_influences_are_derivatives():
    """Against the change of the value when one sample counts a little more."""
    features, labels = task(2000, 5, 3, spread=0.8)
    measured = measure(Embedding(features, labels))
    influence = measured.influence()
    for i in (0, 17, 401, 1000):
        times = np.ones(2000, dtype=int)
        times[i] = 2
        changed = sfda(np.repeat(features, times, axis=0), np.repeat(labels, times))
        change = (changed - measured.value) * 2001
        assert influence[i] == pytest.approx(change, abs=0.01 + 0.02 * abs(change))


def test_influences_have_the_standard_error_of_a_jackknife(case, error_ratio):
    assert 0.7 < error_ratio(measure, features=case["X"], labels=case["y"]) < 1.4


def test_unknown_eigenvalue_is_refused():
    with pytest.raises(InputError, match="eigenvalue"):
        sfda(*SHAPES["n > d"], eigenvalue="best")
