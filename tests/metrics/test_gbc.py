"""GBC against the formula and public code."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from shapes import SHAPES, task

from reference import gbc as reference
from transferscope.embedding import ClassMoments, Embedding
from transferscope.errors import InputError
from transferscope.metrics._gbc import gbc, measure

# Ba1Jun/model-selection-nlp at 00d1fcb, gbc.py, after scikit-learn's PCA(64)
GOLDEN = {"A": -0.7691996265572415, "C": -0.25652071001096427, "E": -0.8357769960189295}
# the same with the spherical covariance, whose logarithm it takes once instead of once per axis
GOLDEN_ONE_LOGARITHM = {
    "A": -0.6455671095519083, "C": -0.39621673810788116, "E": -1.011278074958607,
}  # fmt: skip


def test_golden(case):
    assert gbc(case["X"], case["y"]) == pytest.approx(GOLDEN[case["name"]], rel=1e-8)


def test_public_spherical_form_misses_logarithms(case):
    features, labels, golden = case["X"], case["y"], GOLDEN_ONE_LOGARITHM[case["name"]]
    assert reference.gbc_one_logarithm(features, labels) == pytest.approx(golden, rel=1e-8)
    ours = gbc(features, labels, covariance="spherical")
    assert ours == pytest.approx(reference.gbc(features, labels, "spherical"), rel=1e-8)
    assert abs(ours - golden) > 1e-3


def test_the_spherical_overlap_is_the_integral_it_stands_for():
    """exp(-B) is the integral of the root of the product of the densities: by a grid in 2D."""
    grid = np.stack(np.meshgrid(np.arange(-30, 30, 0.05), np.arange(-30, 30, 0.05)), axis=-1)
    densities = []
    for mean, variance in (((0.0, 0.0), 1.0), ((1.0, 0.5), 9.0)):
        squares = ((grid - np.array(mean)) ** 2).sum(axis=-1)
        densities.append(np.exp(-squares / (2 * variance)) / (2 * np.pi * variance))
    integral = np.sqrt(densities[0] * densities[1]).sum() * 0.05**2
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    features = np.vstack([corners, 3 * corners + [1.0, 0.5]])  # variances 1 and 9 per axis
    value = gbc(features, np.repeat([0, 1], 4), covariance="spherical")
    assert value == pytest.approx(-2 * integral, rel=1e-6)


@pytest.mark.parametrize("covariance", ["diagonal", "spherical"])
@pytest.mark.parametrize("name", [*SHAPES, "more than 64 axes"])
def test_equals_the_literal_formula(name, covariance):
    features, labels = SHAPES.get(name) or task(150, 80, spread=0.2)
    expected = reference.gbc(features, labels, covariance)
    assert gbc(features, labels, covariance=covariance) == pytest.approx(expected, rel=1e-6)


def test_classes_of_one_sample_overlap_with_nothing():
    features, _ = task(40, 6, spread=0.2)
    labels = np.array([0] * 20 + [1] * 18 + [2, 3])
    measured = measure(Embedding(features, labels))
    assert measured.warnings == ("2 classes of one sample have no spread and overlap with nothing",)
    without = [
        -np.exp(-reference.bhattacharyya(*a, *b))
        for a, b in [reference.gaussians(features, labels, "diagonal")[:2]]
    ]
    assert measured.value == pytest.approx(2 * without[0], rel=1e-6)
    assert np.isfinite(measured.influence()).all()


def test_saturation_is_said():
    labels = np.arange(60) % 3
    noise = 1e-3 * np.random.default_rng(0).standard_normal((60, 3))
    measured = measure(Embedding(np.eye(3)[labels] + noise, labels))
    assert -1e-12 < measured.value <= 0
    assert "saturated" in measured.warnings[0]
    assert np.isfinite(measured.influence()).all()


@pytest.mark.parametrize("covariance", ["diagonal", "spherical"])
def test_influences_are_derivatives(covariance):
    """Against the change of the value when one sample counts a little more.

    On axes so unequal that damping their turn changes nothing.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(6000) % 3
    features = rng.standard_normal((3, 4))[labels] + rng.standard_normal((6000, 4))
    features = features * [27, 9, 3, 1]
    measured = measure(Embedding(features, labels), covariance)
    for i in (0, 17, 401, 1000):
        row = int(Embedding(features, labels).influence_rows[i])
        times = np.ones(6000, dtype=int)
        times[row] = 2
        changed = gbc(
            np.repeat(features, times, axis=0), np.repeat(labels, times), covariance=covariance
        )
        change = (changed - measured.value) * 6001
        assert measured.influence()[i] == pytest.approx(change, abs=0.03 + 0.03 * abs(change))


def test_streamed_data_take_variances_from_what_was_kept():
    features, labels = task(400, 8, spread=0.3)
    moments = ClassMoments.from_arrays(features, labels)
    whole = gbc(features, labels)
    streamed = measure(Embedding(features[::2], labels[::2], moments=moments))
    assert streamed.value == pytest.approx(whole, rel=0.1)
    assert "stratified sample of 200 of 400" in streamed.warnings[0]
    everything = measure(Embedding(features, labels, moments=moments))
    assert everything.value == pytest.approx(whole, rel=1e-12)


def test_spherical_influences_have_the_standard_error_of_a_jackknife(case, error_ratio):
    spherical = partial(measure, covariance="spherical")
    assert 0.7 < error_ratio(spherical, features=case["X"], labels=case["y"]) < 1.4


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="covariance"):
        gbc(*SHAPES["n > d"], covariance="full")
