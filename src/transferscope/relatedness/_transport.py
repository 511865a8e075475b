"""Coupling of the target's classes with the reference classes that stand for them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transferscope.numerics import arrays, transport
from transferscope.numerics.arrays import Array

Numbers = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


class Block(NamedTuple):
    """Samples of one target class, and reference samples that are coupled with them."""

    target_class: int
    mass: float  # of all target samples, those in the block
    targets: Ids  # rows
    references: Ids  # rows
    weights: Numbers  # of the references, of sum 1


class Coupled(NamedTuple):
    """A solved block."""

    block: Block
    cost: Numbers  # Euclidean, targets x references
    plan: transport.TransportPlan


def make_blocks(
    target_labels: Ids,
    reference_labels: Ids,
    shares: Numbers,
    size: int | None,
    rng: np.random.Generator | None = None,
) -> list[Block]:
    """Split each class in blocks of about `size` samples a side.

    Parameters
    ----------
    target_labels, reference_labels : int64 numpy arrays
    shares : float64 numpy array of shape (n_target_classes, n_reference_classes)
        The mixture of reference classes that stands for each target class; rows of sum 1.
    size : int or None
        None: whole classes, split only where a plan would be too large for the memory.
    rng : numpy Generator, optional
        Who goes in which block; None: in the order of the rows.

    Notes
    -----
    Coupling block with block is a coupling of the whole, if not always the cheapest. So costs over
    blocks are never too low, and grow linearly with the number of samples.
    """
    blocks = []
    for k in np.unique(target_labels):
        rows = np.flatnonzero(target_labels == k)
        groups = [
            (share, np.flatnonzero(reference_labels == j))
            for j, share in enumerate(shares[k])
            if share > 0
        ]
        n_references = sum(len(members) for _, members in groups)
        if size is None:
            n_blocks = math.ceil(math.sqrt(len(rows) * n_references / transport.MAX_ENTRIES))
        else:
            n_blocks = math.ceil(max(len(rows), n_references) / size)
        n_blocks = max(1, min(n_blocks, len(rows)))
        if rng is not None:
            rows = rng.permutation(rows)
            groups = [(share, rng.permutation(members)) for share, members in groups]
        for part in range(n_blocks):
            # a class of fewer samples than blocks stands in each of them as a whole
            chosen = [
                (share, members[part::n_blocks] if len(members) >= n_blocks else members)
                for share, members in groups
            ]
            inside = rows[part::n_blocks]
            weights = [np.full(len(members), share / len(members)) for share, members in chosen]
            blocks.append(
                Block(
                    int(k),
                    len(inside) / len(target_labels),
                    inside,
                    np.concatenate([members for _, members in chosen]),
                    np.concatenate(weights),
                )
            )
    return blocks


def couple(targets: Array, references: Array, blocks: list[Block]) -> tuple[float, list[Coupled]]:
    """Cheapest plan of every block, and the mean distance over all of them."""
    xp = arrays.namespace(targets)
    total, solved = 0.0, []
    for block in blocks:
        cost = arrays.to_numpy(
            transport.ground_cost(
                xp.take(targets, arrays.from_numpy(block.targets, targets), axis=0),
                xp.take(references, arrays.from_numpy(block.references, references), axis=0),
                "euclidean",
            )
        )
        plan = transport.exact_plan(cost, None, block.weights)
        total += block.mass * plan.cost
        solved.append(Coupled(block, cost, plan))
    return total, solved
