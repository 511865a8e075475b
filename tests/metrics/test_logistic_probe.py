"""The logistic probe against a literal minimisation, and its split."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import shapes
from sklearn.linear_model import LogisticRegression

from reference import logistic_probe as reference
from transferscope.embedding import ClassMoments, Embedding
from transferscope.errors import InputError
from transferscope.metrics._logistic_probe import logistic_probe, measure
from transferscope.numerics import arrays

# the module: as an attribute of the package its name is the function's
module = sys.modules["transferscope.metrics._logistic_probe"]

task = partial(shapes.task, spread=0.7, at_least=1)


SHAPES = {
    "n > d": task(150, 8),
    "n < d": task(60, 90),
    "one feature": task(80, 1),
    "many classes": task(150, 20, 15),
    "two classes": task(90, 6, 2),
    "imbalance": (task(120, 9)[0], np.repeat(np.arange(4), [3, 7, 20, 90])),
    "dead dimensions": (np.column_stack([task(80, 10)[0], np.zeros((80, 3))]), task(80, 10)[1]),
}


def split(features, labels):
    """Masks of the samples to fit, to validate and to test."""
    centred = features - features.mean(axis=0)
    return module._split(np.argsort(np.sum(centred**2, axis=1), kind="stable"), labels, seed=0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_fits_are_the_minimum_of_their_objective(name, dtype):
    """One after another, each from the one before."""
    features, labels = SHAPES[name]
    known, _, test = split(features, labels)
    task = module._Task(features.astype(dtype), labels, labels.max() + 1)
    for fit in task.fits(known, module.STRENGTHS):
        hits, loss = reference.held_out(features, labels, known, test, fit.strength)
        assert task.loss(fit, test) == pytest.approx(loss, rel=5e-4)
        assert np.mean(task.right(fit)[test] == hits) > 0.95


@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"two classes"}))
def test_fits_are_those_of_scikit_learn(name):
    """Whose two classes share one set of weights, and pay half."""
    features, labels = SHAPES[name]
    known, _, test = split(features, labels)
    spread = features[known].std(axis=0)
    scaled = (features - features[known].mean(axis=0)) / np.where(spread > 0, spread, 1)
    task = module._Task(features, labels, labels.max() + 1)
    for fit in task.fits(known, module.STRENGTHS):
        theirs = LogisticRegression(C=fit.strength, tol=1e-6, max_iter=5000)
        log_p = theirs.fit(scaled[known], labels[known]).predict_log_proba(scaled)
        loss = -np.mean(log_p[test, labels[test]])
        assert task.loss(fit, test) == pytest.approx(loss, rel=5e-4)


def test_a_fit_may_start_anywhere():
    features, labels = SHAPES["n > d"]
    known, _, test = split(features, labels)
    task = module._Task(features, labels, 4)
    _, far = task.fits(~test, [1e-3, 10.0])
    (near,), (again,) = (task.fits(known, [0.1], start) for start in (None, far))
    assert again.log_p == pytest.approx(near.log_p, abs=5e-3)


def test_value_is_the_accuracy_of_the_best_penalty():
    features, labels = SHAPES["n > d"]
    known, validation, test = split(features, labels)
    losses = [
        reference.held_out(features, labels, known, validation, strength)[1]
        for strength in module.STRENGTHS
    ]
    best = module.STRENGTHS[int(np.argmin(losses))]
    hits, _ = reference.held_out(features, labels, ~test, test, best)
    assert logistic_probe(features, labels) == pytest.approx(np.mean(hits), abs=1e-12)


def test_split_takes_its_share_of_every_class():
    features, labels = task(400, 5)
    labels = np.append(labels, [4, 5, 5])  # a class of one, a class of two
    features = np.vstack([features, features[:3]])
    known, validation, test = split(features, labels)
    assert (known.astype(int) + validation + test == 1).all()
    for label in range(4):
        of_class = labels == label
        assert test[of_class].mean() == pytest.approx(0.3, abs=0.01)
        assert validation[of_class].mean() == pytest.approx(0.15, abs=0.01)
    assert known[labels == 4].all()
    assert (known[labels == 5].sum(), test[labels == 5].sum()) == (1, 1)
    assert all(known[labels == label].any() for label in range(6))


def test_order_scale_shift_and_names_change_nothing():
    features, labels = SHAPES["n > d"]
    order = np.random.default_rng(3).permutation(len(labels))
    values = [
        logistic_probe(features, labels),
        logistic_probe(features[order], labels[order]),
        logistic_probe(50 * features - 7, labels),
        logistic_probe(features, np.array(["owl", "cat", "newt", "ant"])[labels]),
        logistic_probe(features, np.array([2, 0, 3, 1])[labels]),
    ]
    assert len(set(values)) == 1
    assert len({logistic_probe(features, labels, seed=seed) for seed in range(5)}) > 1


def test_singleton_classes():
    features, _ = task(60, 5)
    assert 0 <= logistic_probe(features, np.repeat(np.arange(4), [1, 19, 20, 20])) <= 1
    with pytest.raises(InputError, match="no class has two"):
        logistic_probe(features, np.arange(60))


def test_large_samples_are_subsampled_and_say_so(monkeypatch):
    monkeypatch.setattr("transferscope.embedding._embedding.INFLUENCE_SAMPLES", 300)
    features, labels = task(1000, 5)
    measured = measure(Embedding(features, labels))
    assert measured.warnings == ("300 stratified samples stand for 1000",)
    # the error is that of the 90 samples held out
    error = np.sqrt(measured.value * (1 - measured.value) / 90)
    assert measured.influence().std() / np.sqrt(1000) == pytest.approx(error, rel=0.02)


def test_streamed_data_say_so():
    features, labels = task(400, 8)
    moments = ClassMoments.from_arrays(features, labels)
    streamed = measure(Embedding(features[::2], labels[::2], moments=moments))
    assert "200 of 400" in streamed.warnings[0]
    assert streamed.influence().shape == (200,)


@pytest.mark.parametrize("name", ["n > d", "n < d"])
def test_every_array_library_gives_the_same(backend, name):
    features, labels = SHAPES[name]
    expected = measure(Embedding(features, labels))
    found = measure(Embedding(backend(features), backend(labels)))
    assert found.value == pytest.approx(expected.value, rel=1e-6)
    influence = np.asarray(arrays.to_numpy(found.influence()))
    assert influence == pytest.approx(expected.influence(), rel=1e-6, abs=1e-6)


def test_influences_have_the_standard_error_of_fresh_samples(fresh_ratio):
    """A jackknife would split anew for every group, which says nothing of one split."""
    assert 0.7 < fresh_ratio(measure, draws=60) < 1.4


def test_separable_classes_are_told_apart(case):
    value = logistic_probe(case["X"], case["y"])
    assert value >= {"A": 0.98, "C": 0.98, "E": 0.9}[case["name"]]


def test_says_when_the_fit_had_not_converged(monkeypatch):
    embedding = Embedding(*SHAPES["n > d"])
    assert not any("converged" in warning for warning in module.measure(embedding).warnings)
    monkeypatch.setattr(module, "MAX_STEPS", 2)
    assert "the classifier had not converged after 2 steps" in module.measure(embedding).warnings
