"""LFC against the formula and public code."""

from __future__ import annotations

import numpy as np
import pytest
from shapes import SHAPES

from reference import lfc as reference
from transferscope.metrics._lfc import lfc

# zhangyikaii/Model-Spider at d2a53e4, mptms/LFC.py (float32 features, float64 here)
GOLDEN = {"A": 0.6542058349263999, "C": 0.678988062299063, "E": 0.11970072859875529}


def test_golden(case):
    assert lfc(case["X"], case["y"]) == pytest.approx(GOLDEN[case["name"]], abs=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_literal_formula(name):
    features, labels = SHAPES[name]
    assert lfc(features, labels) == pytest.approx(
        reference.lfc(features, labels), rel=1e-8, abs=1e-9
    )


def test_centred_by_the_mean_of_all_pairs_not_by_rows():
    """A shift of the features changes the value, which it would not under double centring."""
    features, labels = SHAPES["n > d"]
    assert abs(lfc(features + 3, labels) - lfc(features, labels)) > 0.01
    assert lfc(5 * features, labels) == pytest.approx(lfc(features, labels))


def test_an_offset_loses_no_digits():
    """Held as an n x n matrix, the likeness of samples far from zero would be all rounding."""
    features, labels = SHAPES["n > d"]
    features = np.rint(features * 1024) / 1024  # so that the shifted features are exact
    direction = np.ones(10)
    direction[5:] = -1
    far = [lfc(features + shift * direction, labels) for shift in (1e7, 1e9)]
    assert far[0] == pytest.approx(far[1], rel=1e-5)
    centred = features - features.mean(axis=0)
    along = centred @ direction  # all that is left of the likeness at infinity, pairwise summed
    alike = along[:, None] + along[None, :]
    same = labels[:, None] == labels[None, :]
    assert far[1] == pytest.approx(np.corrcoef(alike.ravel(), same.ravel())[0, 1], rel=1e-5)


def test_range():
    sides = np.outer(np.tile([1.0, -1.0], 20), np.ones(3))
    assert lfc(sides, np.arange(40) % 2) == pytest.approx(1.0)
    assert lfc(sides, np.repeat([0, 1], 20)) == pytest.approx(0.0, abs=1e-12)
    # the larger class lies nearer to zero, so its members are the less alike
    nearer = np.repeat([1.0, 3.0], [30, 10])[:, None]
    assert -1 <= lfc(nearer, np.repeat([0, 1], [30, 10])) < -0.1
