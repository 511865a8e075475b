"""Optimal transport: a ground cost and two sets of weights in, a plan out.

Exact (network simplex) and entropic (Sinkhorn in the log domain), both by POT on the host. A plan
is dense: whoever has more than `MAX_ENTRIES` pairs takes a seeded subsample first.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from transferscope.errors import InputError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, NumpyArray

Cost = Literal["squared_euclidean", "euclidean", "cosine"]

#: Largest rows x columns of a plan; the exact solver takes some 100 bytes for each: 0.8 GB.
MAX_ENTRIES = 2**23
#: Far more pivots of the simplex than a problem of that size has needed.
MAX_PIVOTS = 10**8
#: What the simplex calls an optimum.
OPTIMAL = 1
#: Most Sinkhorn iterations, and the error of the column sums at which it stops earlier.
MAX_SINKHORN = 10_000
SINKHORN_ERROR = 1e-9


@dataclass(frozen=True)
class TransportPlan:
    """A solved transport problem.

    Attributes
    ----------
    coupling : float64 numpy array of shape (n, m)
        How much mass goes from each row to each column.
    cost : float
        ``Σ coupling · cost``; of an entropic plan without the entropy.
    row_potentials : float64 numpy array of shape (n,)
        Dual variables f: how fast the cost of the exact plan grows with a row's weight, up to a
        constant. ``f_i + g_j ≤ cost_ij`` there, and equal where mass flows.
    column_potentials : float64 numpy array of shape (m,)
        The same, g, for columns.
    """

    coupling: np.ndarray[Any, np.dtype[np.float64]]
    cost: float
    row_potentials: np.ndarray[Any, np.dtype[np.float64]]
    column_potentials: np.ndarray[Any, np.dtype[np.float64]]


def ground_cost(rows: Array, columns: Array, kind: Cost = "squared_euclidean") -> Array:
    """Cost of moving each row vector to each column vector.

    Parameters
    ----------
    rows : array of shape (n, d)
    columns : array of shape (m, d)
        Of the same library and device.
    kind : {"squared_euclidean", "euclidean", "cosine"}
        Cosine is ``1 − cos``, and 1 from or to a zero vector.

    Returns
    -------
    float64 array of shape (n, m)
        Not negative; 0 between equal vectors.

    Raises
    ------
    InputError
        If the shapes do not fit, there are more than `MAX_ENTRIES` pairs, or the kind is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.numerics.transport import ground_cost
    >>> ground_cost(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [[25.0, 1.0]]
    """
    if kind not in ("squared_euclidean", "euclidean", "cosine"):
        raise InputError(f"a cost is squared_euclidean, euclidean or cosine, got {kind!r}.")
    if rows.ndim != 2 or columns.ndim != 2 or rows.shape[1] != columns.shape[1]:
        raise InputError(
            "rows and columns must be (n, d) and (m, d), got shapes "
            f"{tuple(rows.shape)} and {tuple(columns.shape)}."
        )
    _check_size(int(rows.shape[0]), int(columns.shape[0]))
    xp = arrays.namespace(rows, columns)
    rows, columns = arrays.as_float64(rows), arrays.as_float64(columns)
    if kind == "cosine":
        rows, columns = _directions(rows), _directions(columns)
        cost = 1 - rows @ columns.T
        return xp.where(cost > 0, cost, 0.0)
    # about a common centre, so that large offsets cost no digits
    centre = (xp.mean(rows, axis=0) + xp.mean(columns, axis=0)) / 2
    rows, columns = rows - centre, columns - centre
    row_norms, column_norms = xp.sum(rows * rows, axis=1), xp.sum(columns * columns, axis=1)
    level = row_norms[:, None] + column_norms[None, :]
    cost = level - 2 * (rows @ columns.T)
    # what rounding leaves of the distance between equal vectors is none
    cost = xp.where(cost > 1e-14 * level, cost, 0.0)
    return xp.sqrt(cost) if kind == "euclidean" else cost


def _directions(vectors: Array) -> Array:
    xp = arrays.namespace(vectors)
    lengths = xp.sqrt(xp.sum(vectors * vectors, axis=1))[:, None]
    return vectors / xp.where(lengths > 0, lengths, 1.0)


def exact_plan(cost: Array, row_weights: Any = None, column_weights: Any = None) -> TransportPlan:
    """The plan of least cost, by the network simplex.

    Parameters
    ----------
    cost : array of shape (n, m)
    row_weights : array-like of shape (n,), optional
        Not negative, of sum 1; equal by default.
    column_weights : array-like of shape (m,), optional

    Returns
    -------
    TransportPlan

    Raises
    ------
    InputError
        If shapes disagree, an entry is not finite, weights are no distribution, or there are more
        than `MAX_ENTRIES` pairs.

    Notes
    -----
    Runs on the host, whatever the device of `cost`: a few seconds for 2 500 x 2 500, and growing
    faster than the number of pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.numerics.transport import exact_plan
    >>> plan = exact_plan(np.array([[0.0, 2.0], [1.0, 0.0]]))
    >>> plan.cost, plan.coupling.tolist()
    (0.0, [[0.5, 0.0], [0.0, 0.5]])

    References
    ----------
    Bonneel, van de Panne, Paris & Heidrich, SIGGRAPH Asia 2011; Flamary et al., JMLR 2021 (POT).
    """
    matrix, rows, columns = _problem(cost, row_weights, column_weights)
    unit = _unit(matrix)
    solved = _solve_at_once(rows, columns, matrix / unit)
    if solved is None:
        coupling, log = _pot().emd(rows, columns, matrix / unit, numItermax=MAX_PIVOTS, log=True)
        solved = coupling, log["u"], log["v"]
    coupling, u, v = solved
    return _plan(coupling, matrix, unit * u, unit * v)


def entropic_plan(
    cost: Array, regularization: float, row_weights: Any = None, column_weights: Any = None
) -> TransportPlan:
    """The plan of least cost minus `regularization` times its entropy (Sinkhorn).

    Parameters
    ----------
    cost : array of shape (n, m)
    regularization : float
        Positive, in units of the cost; the smaller, the closer to `exact_plan` and the slower.
    row_weights : array-like of shape (n,), optional
        Not negative, of sum 1; equal by default.
    column_weights : array-like of shape (m,), optional

    Returns
    -------
    TransportPlan

    Raises
    ------
    InputError
        As `exact_plan`; also if the iteration does not converge, for too small a regularization.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.numerics.transport import entropic_plan
    >>> plan = entropic_plan(np.array([[0.0, 2.0], [1.0, 0.0]]), 1.0)
    >>> plan.coupling.round(6).tolist()
    [[0.408787, 0.091213], [0.091213, 0.408787]]

    References
    ----------
    Cuturi, NeurIPS 2013 (arXiv 1306.0895).
    """
    if not 0 < regularization < math.inf:
        raise InputError(f"regularization must be positive and finite, got {regularization}.")
    matrix, rows, columns = _problem(cost, row_weights, column_weights)
    # a weight of zero has the logarithm -inf, rightly; and POT takes exponents that we do not use
    with np.errstate(divide="ignore", over="ignore"):
        coupling, log = _pot().sinkhorn(
            rows,
            columns,
            matrix,
            regularization,
            method="sinkhorn_log",
            numItermax=MAX_SINKHORN,
            stopThr=SINKHORN_ERROR,
            warn=False,
            log=True,
        )
    if not log["err"] or not log["err"][-1] <= SINKHORN_ERROR:
        raise InputError(
            f"Sinkhorn did not converge in {MAX_SINKHORN} iterations at regularization "
            f"{regularization:.3g} (costs reach {matrix.max():.3g}); use a larger one, or "
            "exact_plan."
        )
    return _plan(coupling, matrix, regularization * log["log_u"], regularization * log["log_v"])


def _unit(cost: NumpyArray) -> float:
    """A power of two that brings costs to where POT's tolerances, which are not relative, hold."""
    _, exponent = math.frexp(float(np.max(np.abs(cost))))
    return 1.0 if -10 <= exponent <= 40 else math.ldexp(1.0, exponent)


def _plan(coupling: Any, cost: Any, row_potentials: Any, column_potentials: Any) -> TransportPlan:
    return TransportPlan(
        coupling, float(np.sum(coupling * cost)), row_potentials, column_potentials
    )


def _problem(cost: Array, row_weights: Any, column_weights: Any) -> tuple[Any, Any, Any]:
    """Checked cost matrix and weights as float64 NumPy arrays."""
    if cost.ndim != 2:
        raise InputError(f"cost must be a matrix, got shape {tuple(cost.shape)}.")
    n, m = map(int, cost.shape)
    _check_size(n, m)
    matrix = np.ascontiguousarray(arrays.to_numpy(cost), dtype=np.float64)
    if not np.all(np.isfinite(matrix)):
        raise InputError("cost must be finite.")
    return matrix, _weights(row_weights, n, "row"), _weights(column_weights, m, "column")


def _weights(given: Any, n: int, side: str) -> Any:
    if given is None:
        return np.full(n, 1 / n)
    weights = np.asarray(arrays.to_numpy(arrays.as_array(given)), dtype=np.float64)
    if weights.shape != (n,):
        raise InputError(f"{side}_weights must have shape ({n},), got {weights.shape}.")
    total = float(weights.sum())
    if not np.all(weights >= 0) or not abs(total - 1) < 1e-6:
        raise InputError(
            f"{side}_weights must not be negative and must sum to 1, got sum {total:.6g} and "
            f"smallest {float(weights.min()):.3g}."
        )
    return weights / total


def _check_size(n: int, m: int) -> None:
    if n < 1 or m < 1 or n * m > MAX_ENTRIES:
        raise InputError(
            f"a plan has at least one row and column and at most {MAX_ENTRIES} entries, got "
            f"{n} x {m}; take a subsample of each side."
        )


def _solve_at_once(rows: Any, columns: Any, cost: Any) -> tuple[Any, Any, Any] | None:
    """Plan and potentials of POT's simplex, as `ot.emd` has them; None where that is asked itself:
    where a weight is zero, no optimum is reached, or this POT has another simplex."""
    if not (np.all(rows > 0) and np.all(columns > 0)):
        return None
    columns = columns * rows.sum() / columns.sum()
    try:
        coupling, _, u, v, status = _simplex()(rows, columns, cost, MAX_PIVOTS, 1)
    except (ImportError, AttributeError, TypeError, ValueError):
        return None
    if status != OPTIMAL:
        return None
    centre = (u @ rows - v @ columns) / (rows.sum() + columns.sum())
    return coupling, u - centre, v + centre


@cache
def _simplex() -> Callable[..., Any]:
    """The compiled simplex of POT, without the rest of it.

    ``import ot`` loads torch, scikit-learn, pandas and more, for seconds. The simplex is one file
    that needs two modules of the package: it is loaded as if the package had run, and what stood in
    for that is taken away again, so that a later ``import ot`` finds all as it should be.
    """
    if "ot" in sys.modules:
        return import_module("ot.lp.emd_wrap").emd_c  # type: ignore[no-any-return]
    found = find_spec("ot")
    if found is None or not found.submodule_search_locations:
        raise ImportError("POT is not installed.")
    folder = Path(next(iter(found.submodule_search_locations)))
    names = {f"POT_BACKEND_DISABLE_{one}" for one in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW")}
    names -= os.environ.keys()
    try:
        for name, place in (("ot", folder), ("ot.lp", folder / "lp")):
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [str(place)]
        os.environ.update(dict.fromkeys(names, "1"))
        return import_module("ot.lp.emd_wrap").emd_c  # type: ignore[no-any-return]
    finally:
        for name in names:
            os.environ.pop(name, None)
        for name in [one for one in sys.modules if one == "ot" or one.startswith("ot.")]:
            # what is compiled can be loaded once only
            if name != "ot.lp.emd_wrap":
                del sys.modules[name]


def _pot() -> ModuleType:
    """POT, imported when first needed: it loads every array library that it finds."""
    with warnings.catch_warnings():
        # not ours to mend: escapes in its docstrings, when Python first compiles it
        warnings.simplefilter("ignore")
        import ot
    module: ModuleType = ot
    return module
