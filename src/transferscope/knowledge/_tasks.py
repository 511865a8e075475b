"""What tasks are like at large: level, spread and roughness, of tasks that were left out.

Encoders foresee a task better if they were learned from it. So roughness is learned of tasks that
the model has not seen, with all that is measured there: how likely each spread and roughness makes
the cells, summed over a grid, for a normal distribution of their logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import eigh, solve_triangular

from transferscope.knowledge._conditioning import (
    REPEATS,
    SECOND_LOOKS,
    Cells,
    Prior,
    suspicion,
)
from transferscope.knowledge._model import Model, logit
from transferscope.numerics.arrays import NumpyArray

#: Logarithms of spread and roughness that are tried.
SPREADS, ROUGHNESSES = np.arange(-3.5, 2.51, 0.25), np.arange(-3.0, 4.01, 0.5)
PLACES = np.stack(np.meshgrid(SPREADS, ROUGHNESSES, indexing="ij"), axis=-1).reshape(-1, 2)
ROUNDS = 60


@dataclass(frozen=True)
class LeftOut:
    """A task and a model that has not seen it.

    Attributes
    ----------
    model : Model
    kind : int
        Place in `KINDS`.
    cells : Cells
    """

    model: Model
    kind: int
    cells: Cells


def with_tasks(model: Model, tasks: Sequence[LeftOut]) -> Model:
    """A model with levels, spreads and roughnesses as tasks that were left out have them.

    Parameters
    ----------
    model : Model
    tasks : sequence of LeftOut
        Five or more.

    Returns
    -------
    Model
    """
    found = [_evidence(task) for task in tasks]
    evidence = np.array([one for one, _ in found])
    levels = np.array([level for _, level in found])
    centre, scatter = np.zeros(2), np.eye(2)
    for _ in range(ROUNDS):
        off = PLACES - centre
        x = evidence - ((off @ np.linalg.inv(scatter)) * off).sum(axis=1) / 2
        share = np.exp(x - x.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        mass = share.mean(axis=0)
        centre = mass @ PLACES
        off = PLACES - centre
        scatter = (off * mass[:, None]).T @ off + 1e-3 * np.eye(2)
    # a new task is as far from what so few show as they are from each other, and some
    few = (len(tasks) + 1) / (len(tasks) - 3)
    slope = scatter[0, 1] / scatter[0, 0]
    rest = scatter[1, 1] - slope * scatter[0, 1]
    log_s, level = share @ PLACES[:, 0], (share * levels).sum(axis=1)
    tilt = np.cov(log_s, level)[0, 1] / max(np.var(log_s, ddof=1), 1e-3)
    at_one = level - tilt * log_s
    return replace(
        model,
        log_spread=np.array([centre[0], np.sqrt(few * scatter[0, 0])]),
        log_roughness=np.array([centre[1] - slope * centre[0], slope, np.sqrt(few * rest)]),
        level=np.array([at_one.mean(), tilt, np.sqrt(few) * at_one.std()]),
    )


def _evidence(task: LeftOut) -> tuple[NumpyArray, NumpyArray]:
    """Log density of a task's cells at `PLACES` with any level as likely, and the likely level."""
    prior, rows, y = Prior.of(task.model, task.kind), task.cells.rows, logit(task.cells.values)
    n, spread = len(rows), np.exp(SPREADS)
    deviation = np.sqrt(prior.own[rows])
    rough = prior.kinship(rows, rows) * deviation[:, None] * deviation
    smooth = prior.loadings[rows] @ prior.loadings[rows].T
    extra = np.zeros(n)
    for look in range(SECOND_LOOKS + 1):
        # both are diagonal in these directions, whatever the roughness
        root = np.linalg.cholesky(smooth + np.diag(prior.doubt[rows] + REPEATS + extra))
        half = solve_triangular(root, rough, lower=True)
        size, turn = eigh(solve_triangular(root, half.T, lower=True))
        turn = solve_triangular(root, turn, lower=True, trans="T")
        scale = 1 + np.exp(ROUGHNESSES)[:, None] * np.maximum(size, 0)
        # products of ones, standings and logits, weighted by how sure each direction is
        along = turn.T @ np.stack([np.ones(n), prior.standing[rows], y], axis=1)
        both = np.einsum("ri,ia,ib->rab", 1 / scale, along, along)
        (ones, of_m, of_z), one = both[:, 0].T, along[:, 0]
        # without their means: any level is as likely
        apart = both - np.einsum("ra,rb->rab", both[:, 0], both[:, 0]) / ones[:, None, None]
        wide = spread[:, None]
        square = apart[:, 2, 2] / wide**2 - 2 * apart[:, 1, 2] / wide + apart[:, 1, 1]
        log_det = np.log(scale).sum(axis=1) / 2 + np.log(np.diag(root)).sum() + np.log(ones) / 2
        evidence = -square / 2 - log_det - (n - 1) * SPREADS[:, None]
        level = (of_z - wide * of_m) / ones
        if look == SECOND_LOOKS or n < 3:
            break
        i, j = np.unravel_index(evidence.argmax(), evidence.shape)
        precision = (turn**2 / scale[j]).sum(axis=1)
        off = (along[:, 2] - level[i, j] * one) / spread[i] - along[:, 1]
        extra = suspicion(precision, turn @ (off / scale[j]), extra)
    return evidence.ravel(), level.ravel()
