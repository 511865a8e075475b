"""PACTran-Dirichlet and -Gamma against the formulas and the authors' code."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reference import pactran_source as reference
from transferscope.embedding import ClassMoments, Embedding
from transferscope.errors import InputError
from transferscope.metrics._pactran_source import (
    measure_dirichlet,
    measure_gamma,
    pactran_dirichlet,
    pactran_gamma,
)
from transferscope.numerics import arrays

# google-research/pactran_metrics at a5e4997, compute_metrics.py; sign turned.
# calculate_pac_dir(P, alpha=1)
DIRICHLET = {"A": -0.13099999963556122, "C": -0.1568483038093403, "E": -0.1580606348948086}
# calculate_pac_gamma(P, alpha=1)
GAMMA = {"A": -1.124773673775675, "C": -1.119377045075335, "E": -1.1760221523044652}


def test_golden_dirichlet_and_gamma(case):
    name = case["name"]
    assert pactran_dirichlet(case["P"], case["y"]) == pytest.approx(DIRICHLET[name], rel=1e-6)
    assert pactran_gamma(case["P"], case["y"]) == pytest.approx(GAMMA[name], rel=1e-6)


def source_task(n: int, n_source: int, n_classes: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    logits = 2 * rng.standard_normal((n_classes, n_source))[labels]
    powers = np.exp(logits + rng.standard_normal((n, n_source)))
    return powers / powers.sum(axis=1, keepdims=True), labels


def with_zeros():
    source, labels = source_task(60, 6, 3)
    source[source < 0.1] = 0
    source[:, 2] = 0
    source[:, 0] += 1e-3
    return source / source.sum(axis=1, keepdims=True), labels


SOURCES = {
    "more samples": source_task(80, 5, 3),
    "more source classes": source_task(40, 90, 3),
    "many classes": source_task(90, 3, 40),
    "two of each": source_task(30, 2, 2),
    "zeros and a dead class": with_zeros(),
    "one-hot": (np.eye(4)[np.arange(40) % 4], np.arange(40) % 3),
    "absent ids": (source_task(80, 5, 3)[0], source_task(80, 5, 3)[1] * 4 + 2),
    "singleton class": (source_task(50, 5, 3)[0], np.repeat([0, 1, 2], [1, 20, 29])),
}


@pytest.mark.parametrize("iterations", [1, 10, 40])
@pytest.mark.parametrize("name", SOURCES)
def test_dirichlet_and_gamma_equal_the_literal_formulas(name, iterations):
    source, labels = SOURCES[name]
    expected = reference.dirichlet(source, labels, iterations)
    found = pactran_dirichlet(source, labels, iterations=iterations)
    assert found == pytest.approx(expected, rel=1e-9)
    expected = reference.gamma(source, labels, iterations)
    assert pactran_gamma(source, labels, iterations=iterations) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", [pactran_dirichlet, pactran_gamma])
def test_source_classes_that_tell_the_labels_are_better(metric):
    source, labels = source_task(300, 8, 4)
    assert metric(source, labels) > metric(source, np.random.default_rng(0).permutation(labels))


def test_more_iterations_only_raise_the_dirichlet_evidence():
    source, labels = SOURCES["more samples"]
    values = [pactran_dirichlet(source, labels, iterations=i) for i in (1, 3, 10, 30, 100)]
    assert values == sorted(values)
    with pytest.raises(InputError, match="iterations"):
        pactran_dirichlet(source, labels, iterations=0)


def test_uniform_probabilities_have_a_value():
    labels = np.arange(30) % 3
    for metric in (pactran_dirichlet, pactran_gamma):
        assert math.isfinite(metric(np.full((30, 4), 0.25), labels))


@pytest.mark.parametrize("measure", [measure_dirichlet, measure_gamma])
def test_source_forms_in_every_array_library(backend, measure):
    source, labels = SOURCES["more samples"]
    expected = measure(Embedding(source, labels, source_probabilities=source))
    given = backend(source)
    found = measure(Embedding(given, backend(labels), source_probabilities=given))
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    influence = np.asarray(arrays.to_numpy(found.influence()))
    assert influence == pytest.approx(expected.influence(), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("measure", [measure_dirichlet, measure_gamma])
def test_source_forms_standard_error(case, error_ratio, measure):
    inputs = {"features": case["P"], "labels": case["y"], "source_probabilities": case["P"]}
    assert 0.7 < error_ratio(measure, **inputs) < 1.4


@pytest.mark.parametrize("measure", [measure_dirichlet, measure_gamma])
def test_source_forms_streamed(measure):
    source, labels = source_task(4000, 5, 3)
    moments = ClassMoments.from_arrays(source, labels)
    whole = measure(Embedding(source, labels, source_probabilities=source))
    half = source[:2000]
    streamed = measure(Embedding(half, labels[:2000], source_probabilities=half, moments=moments))
    assert streamed.value == pytest.approx(whole.value, rel=0.05)
    assert "2000 of 4000" in streamed.warnings[0]


def test_chunks_make_no_difference(monkeypatch):
    monkeypatch.setattr(arrays, "chunk_rows", lambda _: 7)
    source, labels = SOURCES["more samples"]
    assert pactran_gamma(source, labels) == pytest.approx(reference.gamma(source, labels))
