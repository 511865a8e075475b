"""Ground costs and transport plans."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from reference import otce as reference
from transferscope.errors import InputError
from transferscope.numerics import arrays, transport


def clouds(n: int, m: int, d: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), 0.5 + 2 * rng.standard_normal((m, d))


@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 3), (1, 4, 2), (6, 6, 1), (3, 2, 50)])
def test_squared_and_plain_distances(n, m, d):
    rows, columns = clouds(n, m, d)
    expected = reference.distances(rows, columns)
    np.testing.assert_allclose(transport.ground_cost(rows, columns), expected, rtol=1e-12)
    np.testing.assert_allclose(
        transport.ground_cost(rows, columns, "euclidean"), np.sqrt(expected), rtol=1e-12
    )


def test_cosine_distance():
    rows, columns = clouds(5, 7, 3)
    columns[2] = 0
    found = transport.ground_cost(rows, columns, "cosine")
    for i, x in enumerate(rows):
        for j, r in enumerate(columns):
            lengths = math.sqrt((x @ x) * (r @ r))
            assert found[i, j] == pytest.approx(1 - (x @ r / lengths if lengths else 0))


def test_offsets_cost_no_digits_and_equal_vectors_nothing():
    rows, columns = clouds(20, 30, 8)
    near = transport.ground_cost(rows, columns)
    np.testing.assert_allclose(transport.ground_cost(rows + 1e6, columns + 1e6), near, rtol=1e-8)
    for kind in ("squared_euclidean", "euclidean"):
        assert np.all(np.diag(transport.ground_cost(rows + 1e3, rows + 1e3, kind)) == 0)


def test_a_cost_is_never_negative_and_in_double_precision():
    rows = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    for kind in ("squared_euclidean", "euclidean", "cosine"):
        cost = transport.ground_cost(rows, rows[::-1], kind)
        assert cost.dtype == np.float64
        assert cost.min() >= 0


WEIGHTS = {
    "equal": (None, None),
    "unequal": (np.array([0.1, 0.2, 0.3, 0.15, 0.25]), np.array([0.4, 0.1, 0.1, 0.1, 0.1, 0.2])),
    "with zeros": (np.array([0.0, 0.4, 0.3, 0.3, 0.0]), np.array([0.5, 0.0, 0.1, 0.1, 0.1, 0.2])),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("seed", range(3))
def test_exact_plan_equals_linear_programming(name, seed):
    rows, columns = clouds(5, 6, 2, seed)
    cost = reference.distances(rows, columns)
    a, b = WEIGHTS[name]
    plan = transport.exact_plan(cost, a, b)
    expected = reference.least_plan(cost, a, b)
    np.testing.assert_allclose(plan.coupling, expected, atol=1e-9)
    assert plan.cost == pytest.approx((expected * cost).sum())
    assert plan.coupling.sum(axis=1) == pytest.approx(np.full(5, 0.2) if a is None else a)
    assert plan.coupling.sum(axis=0) == pytest.approx(np.full(6, 1 / 6) if b is None else b)


@pytest.mark.parametrize("seed", range(3))
def test_potentials_are_the_dual_solution(seed):
    rows, columns = clouds(15, 11, 3, seed)
    cost = reference.distances(rows, columns)
    plan = transport.exact_plan(cost)
    slack = cost - plan.row_potentials[:, None] - plan.column_potentials
    assert slack.min() > -1e-9
    assert np.abs(slack[plan.coupling > 1e-12]).max() < 1e-9
    dual = plan.row_potentials.mean() + plan.column_potentials.mean()
    assert plan.cost == pytest.approx(dual)


def test_potentials_are_how_the_cost_grows_with_a_weight():
    rows, columns = clouds(7, 9, 2)
    cost = reference.distances(rows, columns)
    plan = transport.exact_plan(cost)
    moved = np.full(7, 1 / 7)
    moved[1] += 1e-6
    moved[4] -= 1e-6
    change = (transport.exact_plan(cost, moved).cost - plan.cost) / 1e-6
    assert change == pytest.approx(plan.row_potentials[1] - plan.row_potentials[4], rel=1e-4)


@pytest.mark.parametrize("name", WEIGHTS)
def test_entropic_plan_is_the_scaled_kernel_with_the_right_margins(name):
    rows, columns = clouds(5, 6, 2)
    cost = reference.distances(rows, columns)
    a, b = WEIGHTS[name]
    plan = transport.entropic_plan(cost, 2.0, a, b)
    kernel = np.exp(-cost / 2.0)
    left, right = np.ones(5), np.ones(6)
    row_sums = np.full(5, 0.2) if a is None else a
    column_sums = np.full(6, 1 / 6) if b is None else b
    for _ in range(2000):
        left = row_sums / (kernel @ right)
        right = column_sums / (kernel.T @ left)
    expected = left[:, None] * kernel * right
    np.testing.assert_allclose(plan.coupling, expected, atol=1e-8)
    assert plan.cost == pytest.approx((expected * cost).sum(), rel=1e-6)
    potentials = plan.row_potentials[:, None] + plan.column_potentials
    np.testing.assert_allclose(np.exp((potentials - cost) / 2.0), expected, atol=1e-8)


def test_entropic_cost_comes_down_to_the_exact_one():
    rows, columns = clouds(12, 15, 3)
    cost = transport.ground_cost(rows, columns)
    exact = transport.exact_plan(cost).cost
    costs = [transport.entropic_plan(cost, r).cost for r in (10.0, 1.0, 0.3)]
    assert costs[0] > costs[1] > costs[2] > exact
    assert costs[2] == pytest.approx(exact, rel=0.01)


def test_no_convergence_is_an_error_that_says_what_to_do(monkeypatch):
    rows, columns = clouds(12, 15, 3)
    monkeypatch.setattr(transport, "MAX_SINKHORN", 12)
    with pytest.raises(InputError, match="use a larger one"):
        transport.entropic_plan(transport.ground_cost(rows, columns), 1e-3)


def test_what_makes_no_sense_is_refused(monkeypatch):
    cost = np.ones((3, 4))
    with pytest.raises(InputError, match="squared_euclidean"):
        transport.ground_cost(cost, cost, "manhattan")  # type: ignore[arg-type]
    for rows, columns in ((cost, cost.T), (cost[0], cost)):
        with pytest.raises(InputError, match="got shapes"):
            transport.ground_cost(rows, columns)
    with pytest.raises(InputError, match="matrix"):
        transport.exact_plan(cost[0])
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match="finite"):
            transport.exact_plan(np.where(np.eye(3, 4) > 0, bad, cost))
    for weights in ([0.5, 0.5], [0.5, 0.6, 0.5], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]):
        with pytest.raises(InputError, match="row_weights"):
            transport.exact_plan(cost, weights)
    for regularization in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="regularization"):
            transport.entropic_plan(cost, regularization)
    monkeypatch.setattr(transport, "MAX_ENTRIES", 11)
    with pytest.raises(InputError, match="subsample"):
        transport.exact_plan(cost)
    with pytest.raises(InputError, match="subsample"):
        transport.ground_cost(cost, cost[:, :4].repeat(2, axis=0))


def test_every_array_library(backend):
    rows, columns = clouds(8, 9, 3)
    cost = transport.ground_cost(backend(rows), backend(columns))
    assert arrays.namespace(cost) is arrays.namespace(backend(rows))
    expected = reference.distances(rows, columns)
    np.testing.assert_allclose(np.asarray(arrays.to_numpy(cost)), expected, rtol=1e-12)
    plan = transport.exact_plan(cost, backend(np.full(8, 1 / 8)))
    np.testing.assert_allclose(plan.coupling, reference.least_plan(expected), atol=1e-9)
    entropic = transport.entropic_plan(cost, 5.0)
    np.testing.assert_array_equal(
        entropic.coupling.shape, transport.entropic_plan(expected, 5.0).coupling.shape
    )


def test_inputs_are_not_modified_and_bits_repeat():
    rows, columns = clouds(8, 9, 3)
    cost = transport.ground_cost(rows, columns)
    cost.flags.writeable = False
    first, second = transport.exact_plan(cost), transport.exact_plan(cost)
    assert np.array_equal(first.coupling, second.coupling)
    assert np.array_equal(first.row_potentials, second.row_potentials)


def test_importing_it_does_not_import_pot():
    code = "import sys, transferscope.numerics.transport; sys.exit('ot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_simplex_is_loaded_without_the_rest_of_pot():
    """And a later import of POT finds its parts, and knows torch where that is installed."""
    code = """
import os, sys
import numpy as np
from transferscope.numerics.transport import exact_plan
before = dict(os.environ)
rng = np.random.default_rng(0)
cost, rows = rng.random((7, 9)), np.arange(1, 8) / 28
mine = exact_plan(cost, rows)
assert "ot" not in sys.modules and "torch" not in sys.modules and "sklearn" not in sys.modules
assert dict(os.environ) == before
import ot
coupling, log = ot.emd(rows, np.full(9, 1 / 9), cost, log=True)
np.testing.assert_array_equal(coupling, mine.coupling)
np.testing.assert_allclose(log["u"], mine.row_potentials, rtol=1e-12, atol=1e-15)
np.testing.assert_allclose(log["v"], mine.column_potentials, rtol=1e-12, atol=1e-15)
np.testing.assert_array_equal(exact_plan(cost, rows).coupling, mine.coupling)
if "torch" in sys.modules:
    import torch
    assert ot.emd(*map(torch.tensor, (rows, np.full(9, 1 / 9), cost))).shape == (7, 9)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_pot_of_another_make_is_asked_as_a_whole(monkeypatch):
    def other():
        raise AttributeError("emd_c")

    cost = np.random.default_rng(1).random((4, 6))
    mine = transport.exact_plan(cost)
    monkeypatch.setattr(transport, "_simplex", other)
    np.testing.assert_allclose(
        transport.exact_plan(cost).row_potentials, mine.row_potentials, atol=1e-12
    )
    weights = np.array([0.5, 0.5, 0.0, 0.0])
    assert np.isfinite(transport.exact_plan(cost, weights).row_potentials).all()
