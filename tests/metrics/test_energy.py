"""Energy against the formula and public code."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import numpy as np
import pytest

from reference import energy as reference
from transferscope.embedding import Embedding
from transferscope.errors import FeatureError, InputError
from transferscope.metrics._energy import energy, measure
from transferscope.numerics import arrays

# mgholamikn/ETran at d4551ed, metrics.py, Energy_Score(L, 0.5, 'bot'): half a percent
GOLDEN = {"A": 2.865108484974995, "C": 3.778664016094294, "E": 0.5498629895741995}


def test_golden(case):
    lowest = energy(case["L"], lowest=0.005)
    assert lowest == pytest.approx(GOLDEN[case["name"]], abs=1e-5)
    embedding = Embedding(case["X"], case["y"], source_logits=case["L"])
    assert measure(embedding, 0.005).value == lowest
    assert measure(embedding).value == energy(case["L"]) > lowest + 1
    assert measure(embedding).warnings == ()


@pytest.mark.parametrize(
    "lowest", [Fraction(1), Fraction(1, 2), Fraction(1, 100), Fraction(29, 100), Fraction(1, 999)]
)
@pytest.mark.parametrize("shape", [(100, 7), (150, 3), (7, 90), (5, 1)])
def test_equals_the_literal_formula(shape, lowest):
    logits = 3 * np.random.default_rng(0).standard_normal(shape) - 2
    expected = reference.energy(logits, lowest)
    assert energy(logits, lowest=float(lowest)) == pytest.approx(expected, rel=1e-12)


def test_large_logits_do_not_overflow():
    assert energy(np.array([[1e4, 0.0], [-1e4, -1e4]])) == pytest.approx(np.log(2) / 2)


def test_features_stand_in_for_logits_and_say_so():
    features = np.random.default_rng(0).standard_normal((60, 8))
    measured = measure(Embedding(features, np.arange(60) % 3))
    assert measured.value == pytest.approx(energy(features), rel=1e-12)
    assert "no source logits" in measured.warnings[0]


def test_labels_play_no_part():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((60, 8)), np.arange(60) % 3
    values = [
        measure(Embedding(logits, y, source_logits=logits)).value for y in (labels, labels > 0)
    ]
    values.append(measure(Embedding(logits, targets=labels, source_logits=logits)).value)
    assert len(set(values)) == 1


@pytest.mark.parametrize("lowest", [1.0, 0.2])
def test_every_array_library_gives_the_same(backend, lowest):
    logits, labels = np.random.default_rng(0).standard_normal((60, 8)), np.arange(60) % 3
    expected = measure(Embedding(logits, labels, source_logits=logits), lowest)
    other = backend(logits)
    found = measure(Embedding(other, backend(labels), source_logits=other), lowest)
    assert found.value == pytest.approx(expected.value, rel=1e-6)
    influence = np.asarray(arrays.to_numpy(found.influence()))
    assert influence == pytest.approx(expected.influence(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("lowest", [1.0, 0.1])
def test_influences_have_the_standard_error_of_a_jackknife(case, error_ratio, lowest):
    inputs = {"features": case["X"], "labels": case["y"], "source_logits": case["L"]}
    assert 0.7 < error_ratio(partial(measure, lowest=lowest), **inputs) < 1.4


@pytest.mark.parametrize("lowest", [0.0, -1.0, 1.5, np.nan])
def test_shares_out_of_range_are_refused(lowest):
    with pytest.raises(InputError, match="lowest"):
        energy(np.eye(3), lowest=lowest)


def test_logits_that_are_not_finite_are_refused():
    logits = np.array([[0.0, 1.0], [np.inf, 0.0]])
    with pytest.raises(FeatureError, match="row 1"):
        energy(logits)
    with pytest.raises(FeatureError, match="same"):
        measure(Embedding(np.ones((4, 2)), [0, 1, 0, 1]))
