"""Within- to between-class variance against the formula."""

from __future__ import annotations

import numpy as np
import pytest
from shapes import SHAPES

from reference import within_between as reference
from transferscope.embedding import Embedding
from transferscope.metrics._within_between import measure, within_between

# there is no public code with a value for this form


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_literal_formula(name):
    features, labels = SHAPES[name]
    assert within_between(features, labels) == pytest.approx(
        reference.within_between(features, labels), rel=1e-8, abs=1e-9
    )


def test_collapsed_classes_have_the_largest_value():
    measured = measure(Embedding(np.eye(3)[np.arange(30) % 3], np.arange(30) % 3))
    assert measured.value == 0
    assert "single point" in measured.warnings[0]
    assert np.isfinite(measured.influence()).all()


def test_equal_class_means_stay_finite_and_are_said():
    features = np.array([[-1.0], [1.0], [-1.0], [1.0]])
    measured = measure(Embedding(features, [0, 0, 1, 1]))
    assert -1e17 < measured.value < -1e14
    assert "coincide" in measured.warnings[0]
    assert np.isfinite(measured.influence()).all()
