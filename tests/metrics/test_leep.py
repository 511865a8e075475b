"""LEEP against the formula and public code."""

from __future__ import annotations

import numpy as np
import pytest

from reference import leep as reference
from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._leep import leep, measure

# thuml/LogME at 56551ca, LEEP.py
GOLDEN = {"A": -1.537150509278023, "C": -1.3302673372577056, "E": -0.38522581048441173}
# google-research/google-research, stable_transfer/transferability/leep.py, in float32, with
# source class 0 zero everywhere
GOLDEN_DEAD = {"A": -1.536255121231079, "C": -1.3444507122039795, "E": -0.42678606510162354}


def test_golden(case):
    assert leep(case["P"], case["y"]) == pytest.approx(GOLDEN[case["name"]], rel=1e-9)


def test_golden_with_a_dead_source_class(case):
    probabilities, labels = case["Pdead"], case["y"]
    assert leep(probabilities, labels) == pytest.approx(GOLDEN_DEAD[case["name"]], abs=1e-5)
    embedding = Embedding(probabilities, labels, source_probabilities=probabilities)
    assert measure(embedding).warnings == ("1 source classes never predicted, left out",)


def test_most_public_code_is_not_a_number_with_a_dead_source_class(cases):
    probabilities, labels = cases["E"]["Pdead"], cases["E"]["y"]
    joint = np.stack([probabilities[labels == c].sum(axis=0) for c in (0, 1)])
    with np.errstate(invalid="ignore"):
        conditional = joint / joint.sum(axis=0)
    assert np.isnan(np.log((probabilities * conditional[labels]).sum(axis=1)).mean())
    assert np.isfinite(leep(probabilities, labels))


def task(n: int, n_source: int, n_classes: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    logits = 2 * rng.standard_normal((n_classes, n_source))[labels]
    logits = np.exp(logits + rng.standard_normal((n, n_source)))
    return logits / logits.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize(
    ("n", "n_source", "n_classes"), [(60, 5, 3), (60, 200, 3), (90, 3, 40), (20, 2, 2)]
)
def test_equals_the_literal_formula(n, n_source, n_classes):
    probabilities, labels = task(n, n_source, n_classes)
    expected = reference.leep(probabilities, labels)
    assert leep(probabilities, labels) == pytest.approx(expected, rel=1e-12)
    assert leep(probabilities, labels * 3 + 1) == pytest.approx(expected, rel=1e-12)


def test_bounds():
    labels = np.arange(30) % 3
    assert leep(np.eye(3)[labels], labels) == 0.0
    uniform = np.full((30, 4), 0.25)
    assert leep(uniform, labels) == pytest.approx(-np.log(3))


def test_one_hot_probabilities_make_it_nce():
    from transferscope.metrics import nce

    probabilities, labels = task(80, 6, 4)
    hard = np.eye(6)[probabilities.argmax(axis=1)]
    assert leep(hard, labels) == pytest.approx(nce(hard, labels), rel=1e-12)


def test_logits_serve_through_the_embedding():
    probabilities, labels = task(60, 5, 3)
    embedding = Embedding(probabilities, labels, source_logits=np.log(probabilities) + 7)
    assert measure(embedding).value == pytest.approx(leep(probabilities, labels), rel=1e-12)


def test_not_probabilities_are_refused():
    with pytest.raises(InputError, match="source_logits="):
        leep(np.full((4, 3), 0.5), [0, 1, 0, 1])


def test_influence_gives_the_standard_error(case, error_ratio):
    inputs = {"features": case["P"], "labels": case["y"], "source_probabilities": case["P"]}
    assert 0.7 < error_ratio(measure, **inputs) < 1.4


def test_influence_is_that_of_the_value(cases):
    probabilities, labels = cases["E"]["P"], cases["E"]["y"]
    whole = measure(Embedding(probabilities, labels, source_probabilities=probabilities))
    rows = np.arange(400)
    removed = [
        whole.value - leep(probabilities[rows != i], labels[rows != i]) for i in range(0, 400, 4)
    ]
    np.testing.assert_allclose(399 * np.array(removed), whole.influence()[::4], atol=0.02)
