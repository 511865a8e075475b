"""NCE against the formula and public code."""

from __future__ import annotations

import numpy as np
import pytest

from reference import nce as reference
from transferscope.embedding import Embedding
from transferscope.metrics._nce import measure, nce

# thuml/LogME at 56551ca, NCE.py, source label = argmax P
GOLDEN = {"A": -0.7437480815385579, "C": -0.3202764602749575, "E": -0.27746426940925506}


def test_golden(case):
    assert nce(case["P"], case["y"]) == pytest.approx(GOLDEN[case["name"]], rel=1e-9)


@pytest.mark.parametrize(
    ("n", "n_source", "n_classes"), [(60, 5, 3), (60, 200, 3), (90, 3, 40), (20, 2, 2)]
)
def test_equals_the_literal_formula(n, n_source, n_classes):
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    probabilities = rng.dirichlet(np.full(n_source, 0.3), n)
    expected = reference.nce(probabilities, labels)
    assert nce(probabilities, labels) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert nce(probabilities, labels * 3 + 1) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_bounds():
    labels = np.arange(30) % 3
    perfect = nce(np.eye(3)[labels], labels)
    assert perfect == 0
    assert not np.signbit(perfect)
    assert nce(np.full((30, 4), 0.25), labels) == pytest.approx(-np.log(3))


def test_of_equal_probabilities_the_first_counts():
    tied = np.array([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]])
    assert nce(tied, [0, 0, 1]) == 0
    assert nce(tied, [0, 1, 1]) == pytest.approx(-2 / 3 * np.log(2))


def inputs(case) -> dict[str, np.ndarray]:
    return {"features": case["P"], "labels": case["y"], "source_probabilities": case["P"]}


def test_influence_gives_the_standard_error(case, error_ratio):
    assert 0.7 < error_ratio(measure, **inputs(case)) < 1.4


def test_streamed_counts_give_the_value_of_all(cases):
    case = cases["E"]
    whole = Embedding(**inputs(case))
    half = {name: values[::2] for name, values in inputs(case).items()}
    streamed = Embedding(**half, moments=whole.moments, source_counts=whole.source.counts)
    measured = measure(streamed)
    assert measured.value == measure(whole).value
    assert len(measured.influence()) == 200
