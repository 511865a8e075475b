"""Minimisation, against SciPy's and known minima."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from transferscope.numerics import arrays
from transferscope.numerics.minimise import minimise

EXACT = {"max_steps": 500, "value_tolerance": 1e-15, "gradient_tolerance": 1e-9}


def softmax_loss(seed: int = 0, n: int = 60, d: int = 5, classes: int = 3):
    """A penalised softmax regression, as function of a flat NumPy vector."""
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((n, d)), rng.integers(0, classes, n)
    truth = np.eye(classes)[labels]

    def loss(theta):
        weights = theta.reshape(d, classes)
        log_p = scipy.special.log_softmax(x @ weights, axis=1)
        gradient = x.T @ (np.exp(log_p) - truth) / n + 0.01 * weights
        return -np.sum(log_p * truth) / n + 0.005 * np.sum(weights**2), gradient.ravel()

    return loss, np.zeros(d * classes)


@pytest.mark.parametrize("seed", range(5))
def test_is_where_scipy_ends(seed):
    loss, start = softmax_loss(seed)
    found = minimise(loss, start, **EXACT)
    theirs = scipy.optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}
    )
    assert found.settled
    assert found.value == pytest.approx(theirs.fun, rel=1e-12)
    np.testing.assert_allclose(found.point, theirs.x, atol=1e-6)


def test_bent_valley():
    found = minimise(
        lambda x: (scipy.optimize.rosen(x), scipy.optimize.rosen_der(x)), -np.ones(6), **EXACT
    )
    # which has a second minimum next to its start
    slope = scipy.optimize.rosen_der(found.point)
    assert found.settled
    assert np.max(np.abs(slope)) < 1e-5
    assert np.linalg.eigvalsh(scipy.optimize.rosen_hess(found.point)).min() > 0


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1e2, 1e6])
def test_whatever_the_units(scale):
    """The curvature at the start may be far from one, and differ by two orders of magnitude."""
    bends = scale * np.logspace(0, 2, 20)
    goal = np.linspace(1, 2, 20)
    found = minimise(
        lambda x: (0.5 * float(bends @ (x - goal) ** 2), bends * (x - goal)),
        np.zeros(20),
        max_steps=500,
        value_tolerance=0.0,
        gradient_tolerance=1e-9 * scale,
    )
    assert found.settled
    np.testing.assert_allclose(found.point, goal, rtol=1e-8)


def test_steps_into_what_is_not_finite():
    """Of -log x + x, infinite below zero; the first step leads there."""

    def barrier(x):
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.sum(x - np.log(x))), 1 - 1 / x

    for start in ([3.0, 0.9], [200.0, 1e-3], [1e-6, 1.0]):
        found = minimise(barrier, np.array(start), **EXACT)
        np.testing.assert_allclose(found.point, 1.0, rtol=1e-6)


def test_ends_in_the_rounding_of_the_function():
    """Values in single precision: ends at once when they no longer tell, near the minimum."""
    loss, start = softmax_loss()
    calls = []

    def rounded(theta):
        calls.append(theta)
        value, gradient = loss(theta.astype(np.float32))
        return float(np.float32(value)), gradient.astype(np.float32).astype(np.float64)

    tight = {"max_steps": 500, "value_tolerance": 1e-10, "gradient_tolerance": 0.0}
    found = minimise(rounded, start, **tight)
    assert found.settled
    assert len(calls) < 80
    assert found.value == pytest.approx(minimise(loss, start, **EXACT).value, rel=1e-6)


def test_says_when_steps_are_used_up():
    loss, start = softmax_loss()
    found = minimise(loss, start, **{**EXACT, "max_steps": 3})
    assert not found.settled
    assert found.value < loss(start)[0]


def test_ends_at_a_minimum():
    found = minimise(lambda x: (float(x @ x), 2 * x), np.zeros(3), **EXACT)
    assert found.settled
    assert found.value == 0.0


def test_every_backend_alike(backend):
    loss, start = softmax_loss()
    like = backend(start)

    def there(theta):
        value, gradient = loss(arrays.to_numpy(theta))
        return value, arrays.from_numpy(gradient, theta)

    found = minimise(there, like, **EXACT)
    assert arrays.device_of(found.point) == arrays.device_of(like)
    expected = minimise(loss, start, **EXACT).point
    np.testing.assert_allclose(arrays.to_numpy(found.point), expected, atol=1e-8)


def test_callback_sees_each_step_and_ends_the_descent():
    loss, start = softmax_loss()
    seen = []

    def third(point):
        seen.append(point)
        return len(seen) == 3

    found = minimise(loss, start, unit=2.0, callback=third, **EXACT)
    assert len(seen) == 3
    np.testing.assert_array_equal(found.point, seen[-1])
    values = [loss(point)[0] for point in seen]
    assert values == sorted(values, reverse=True)
    assert found.value == pytest.approx(values[-1])
    assert found.value > minimise(loss, start, **EXACT).value
