"""Linear MSE against the formula and what the authors' code returns."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from reference import linear_mse as reference
from transferscope.embedding import Embedding, TargetMoments
from transferscope.errors import InputError
from transferscope.metrics._linear_mse import linear_mse, measure
from transferscope.numerics import arrays


def task(n: int, d: int, k: int = 2, *, seed: int = 0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, d)) * np.linspace(0.2, 2, d)
    targets = features @ rng.standard_normal((d, k)) / np.sqrt(d) + rng.standard_normal((n, k)) + 5
    return features, targets


SHAPES = {
    "n > d": task(80, 10),
    "n < d": task(30, 70),
    "n = d + 1": task(41, 40),
    "one feature": task(50, 1),
    "one target": (task(50, 6)[0], task(50, 6, 1)[1][:, 0]),
    "0/1 columns": (task(80, 10)[0], (task(80, 10)[1] > 5) * 1.0),
    "a constant target": (task(50, 6)[0], np.column_stack([task(50, 6)[1], np.ones(50)])),
    "dead dimensions": (np.column_stack([task(80, 10)[0], np.zeros((80, 3))]), task(80, 10)[1]),
    "offset 1000": (task(80, 10)[0] + 1000, task(80, 10)[1]),
}


@pytest.mark.parametrize("penalty", [0.0, 0.1, 1.0, 50.0])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_literal_formula(name, penalty):
    features, targets = SHAPES[name]
    expected = reference.linear_mse(features, targets, penalty)
    assert linear_mse(features, targets, penalty=penalty) == pytest.approx(
        expected, rel=1e-7, abs=1e-9
    )


def test_authors_code_leaves_out_the_penalty_and_averages_over_targets():
    """CuongNN218/regression_transferability at 53ada9f, reg_score.py; the paper is right."""
    features, targets = SHAPES["n > d"]
    ours, theirs = linear_mse(features, targets), reference.authors_code(features, targets)
    weights, _ = reference.fit(features, targets, 1.0)
    assert ours == pytest.approx(2 * theirs - (weights**2).sum(), rel=1e-9)
    # without penalty and of one target they are one
    unpenalised = linear_mse(features, targets[:, 0], penalty=0)
    assert unpenalised == pytest.approx(reference.authors_code(features, targets[:, 0], 0))


def test_values_lie_between_the_variance_and_zero():
    features, targets = SHAPES["n > d"]
    variance = targets.var(axis=0).sum()
    values = [linear_mse(features, targets, penalty=p) for p in (0, 1, 100, 1e9)]
    assert 0 >= values[0] > values[1] > values[2] > values[3] > -variance
    assert values[3] == pytest.approx(-variance, rel=1e-6)


def test_saturation_without_penalty_is_said():
    measured = measure(Embedding(SHAPES["n < d"][0], targets=SHAPES["n < d"][1]), 0.0)
    assert measured.value == pytest.approx(0, abs=1e-9)
    assert "d >= n" in measured.warnings[0]
    assert measure(Embedding(SHAPES["n < d"][0], targets=SHAPES["n < d"][1])).warnings == ()


def test_streamed_data_have_the_value_of_all():
    features, targets = SHAPES["n > d"]
    moments = TargetMoments.from_arrays(features, targets)
    streamed = measure(Embedding(features[::2], targets=targets[::2], moments=moments))
    assert streamed.value == pytest.approx(linear_mse(features, targets), rel=1e-12)
    assert "40 of 80" in streamed.warnings[0]


def test_offsets_in_float32_lose_little():
    features, targets = task(300, 20)
    single = (features + 1000).astype(np.float32)
    same = single.astype(np.float64)
    assert linear_mse(single, targets) == pytest.approx(linear_mse(same, targets), rel=1e-5)


@pytest.mark.parametrize("name", ["n > d", "n < d", "0/1 columns"])
def test_every_array_library_gives_the_same(backend, name):
    features, targets = SHAPES[name]
    expected = measure(Embedding(features, targets=targets))
    found = measure(Embedding(backend(features), targets=backend(targets)))
    assert found.value == pytest.approx(expected.value, rel=1e-6)
    influence = np.asarray(arrays.to_numpy(found.influence()))
    assert influence == pytest.approx(expected.influence(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_influences_have_the_standard_error_of_a_jackknife(case, error_ratio, penalty):
    penalised = partial(measure, penalty=penalty)
    assert 0.7 < error_ratio(penalised, features=case["X"], targets=case["Y"]) < 1.4


def test_what_makes_no_sense_is_refused():
    features, targets = SHAPES["n > d"]
    for penalty in (-1.0, np.nan):
        with pytest.raises(InputError, match="penalty"):
            linear_mse(features, targets, penalty=penalty)
    with pytest.raises(InputError, match="Pass targets"):
        measure(Embedding(features, np.arange(80) % 3))
