"""The transformation of the reference task into the target that makes the bound small.

Everything happens in the space of the reference features, where the head lives: what is learned is
``x ↦ M x + c``, that is ``M = A⁻¹`` and ``c = −A⁻¹ b`` of the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array
from transferscope.relatedness._head import LinearHead, Numbers, convert, product
from transferscope.relatedness._transport import Coupled, Ids, couple, make_blocks

#: Samples of one side that are coupled at a time while the map is learned.
BLOCK = 100
#: Pull of the map towards the identity, relative to the first weights; the best one on held-out
#: samples is taken.
RIDGES = (0.003, 0.03, 0.3, 3.0)
#: Most rounds of coupling and map, and the relative gain below which they end.
MAX_ROUNDS, SMALLEST_GAIN = 20, 2e-3
#: Shares of a reference class below this are none.
SMALLEST_SHARE = 1e-3


class Side(NamedTuple):
    """Standardised samples of one task with class ids."""

    features: Array
    labels: Ids


@dataclass(frozen=True)
class Transform:
    """What is learned.

    Attributes
    ----------
    matrix : float64 numpy array of shape (d, d)
    offset : float64 numpy array of shape (d,)
        Together ``u = matrix x + offset`` carries target features to the reference's space.
    shares : float64 numpy array of shape (n_target_classes, n_reference_classes)
        The mixture of reference classes that stands for each target class; rows of sum 1.
    trace : tuple of float
        Objective on the samples it was learned from, after each round.
    """

    matrix: Numbers
    offset: Numbers
    shares: Numbers
    trace: tuple[float, ...] = ()

    def transform(self, features: Array) -> Array:
        """Target features in the reference's space."""
        return features @ convert(self.matrix.T, features) + convert(self.offset, features)


def identity(d: int, shares: Numbers) -> Transform:
    """No change of features."""
    return Transform(np.eye(d), np.zeros(d), shares)


def label_map(shares: Numbers, prior: Numbers) -> tuple[Numbers, Numbers]:
    """The papers' B (n_target_classes, n_reference_classes) and D, from shares and target prior.

    ``Q_kj = P_T(k) shares_kj`` is the joint distribution of target and reference class; its columns
    sum to D, and ``B_kj = Q_kj / D_j``: so ``B D = P_T`` holds exactly, whatever is learned. A
    reference class of no mass is divided among target classes as the prior is.
    """
    joint = prior[:, None] * shares
    mass = joint.sum(axis=0)
    label_matrix = np.where(mass > 0, joint / np.where(mass > 0, mass, 1.0), prior[:, None])
    return label_matrix, mass


def log_labels(log_p: Numbers, label_matrix: Numbers) -> Numbers:
    """``ln B h`` (n, n_target_classes) from the log-probabilities of the reference classes."""
    top = log_p.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(log_p - top) @ label_matrix.T) + top)


def pseudo_labels(head: LinearHead, transform: Transform, label_matrix: Numbers, x: Array) -> Ids:
    """Most probable target class of each sample under the transformed head."""
    log_p = head.log_probabilities(transform.transform(x))
    return np.asarray(np.argmax(log_labels(log_p, label_matrix), axis=1), np.int64)


def learn_transform(  # noqa: PLR0913  samples to learn from and to choose by, what may move
    reference: Side,
    target: Side,
    judge_reference: Side,
    judge_target: Side,
    head: LinearHead,
    shares: Numbers,
    *,
    learn_shares: bool,
    learn_assignment: bool,
    relabel: Callable[[Transform, Array], Ids] | None,
    seed: int,
) -> Transform:
    """Lower the bound by turns: couple the classes, fit the map, move the shares.

    Given the coupling, the map is a weighted least-squares problem with a closed form: distances
    are majorised by squares (weights 1/distance), and a ridge draws it to the identity. Given the
    map, the coupling is exact within each block. Shares follow the dual potentials of the coupling
    by exponentiated gradient; a step that does not lower the objective is not taken. So the
    objective never rises, unless pseudo-labels change beneath it. The judging samples choose the
    ridge and the round to stop at.

    Parameters
    ----------
    reference, target : Side
        To learn from.
    judge_reference, judge_target : Side
        To judge by.
    head : LinearHead
        Of the reference.
    shares : float64 numpy array of shape (n_target_classes, n_reference_classes)
        To start from.
    learn_shares, learn_assignment : bool
        Whether shares within a target class's reference classes move, and whether a target class
        may take another reference class.
    relabel : callable, optional
        Gives pseudo-labels of target samples under a transform; target labels are then not read.
    seed : int
        Of the division into blocks.
    """
    losses = _class_losses(head, reference, len(shares[0]))
    objective = _Objective(reference, judge_reference, judge_target, losses, head.steepness,
                           len(shares), relabel, seed)  # fmt: skip
    d = int(reference.features.shape[1])
    current, side = identity(d, shares), objective.labelled(target, identity(d, shares))
    if learn_assignment and relabel is None:
        current = _with_best_assignment(objective, current, side)
    several = learn_shares and bool(np.any((shares > 0).sum(axis=1) > 1))
    rate, penalty, ridge = 1.0, 0.0, 0.0
    trace: list[float] = []
    best, best_judged = current, objective.judged(current)
    cost, solved = objective.coupled(current, side)
    for step in range(MAX_ROUNDS):
        before = objective.value(cost, current.shares, side.labels) + head.steepness * penalty
        trace.append(before)
        if several:
            moved = _moved_shares(current, solved, reference.labels, losses, head.steepness, rate)
            proposal = replace(current, shares=moved)
            new_cost, new_solved = objective.coupled(proposal, side)
            after = objective.value(new_cost, moved, side.labels) + head.steepness * penalty
            if after < before:
                current, cost, solved = proposal, new_cost, new_solved
            else:
                rate /= 4
        moments = _moments(side.features, reference.features, solved)
        if step == 0:
            ridge, current, value = _best_ridge(objective, current, moments)
        else:
            current = _solved(current, moments, ridge)
            value = objective.judged(current)
        last = best_judged if step else np.inf  # the first round is never the last
        if value < best_judged:
            best, best_judged = current, value
        penalty = ridge / 2 * float(np.sum((current.matrix - np.eye(d)) ** 2))
        side = objective.labelled(target, current)
        if last - value < SMALLEST_GAIN * abs(value):
            break
        cost, solved = objective.coupled(current, side)
    return replace(best, trace=tuple(trace))


def _class_losses(head: LinearHead, reference: Side, n_classes: int) -> Numbers:
    """Mean loss of the head on each reference class."""
    log_p = head.log_probabilities(reference.features)
    own = log_p[np.arange(len(reference.labels)), reference.labels]
    counts = np.maximum(np.bincount(reference.labels, minlength=n_classes), 1)
    return -np.bincount(reference.labels, weights=own, minlength=n_classes) / counts


@dataclass(frozen=True)
class _Objective:
    """The bound, on the samples that are learned from and on those that choose."""

    reference: Side
    judge_reference: Side
    judge_target: Side
    losses: Numbers
    tau: float
    n_target_classes: int
    relabel: Callable[[Transform, Array], Ids] | None
    seed: int

    def labelled(self, side: Side, transform: Transform) -> Side:
        """The samples with their labels, or with pseudo-labels."""
        if self.relabel is None:
            return side
        return Side(side.features, self.relabel(transform, side.features))

    def prior_of(self, labels: Ids) -> Numbers:
        """Share of each target class."""
        return np.bincount(labels, minlength=self.n_target_classes) / len(labels)

    def value(self, cost: float, shares: Numbers, labels: Ids) -> float:
        """The bound, given the cost of the coupling."""
        return _label_terms(shares, self.prior_of(labels), self.losses) + self.tau * cost

    def coupled(self, transform: Transform, side: Side) -> tuple[float, list[Coupled]]:
        """The coupling of the samples to learn from, block by block."""
        reference, rng = self.reference, np.random.default_rng(self.seed)
        blocks = make_blocks(side.labels, reference.labels, transform.shares, BLOCK, rng)
        return couple(transform.transform(side.features), reference.features, blocks)

    def judged(self, transform: Transform) -> float:
        """The bound on the samples that choose."""
        reference, side = self.judge_reference, self.labelled(self.judge_target, transform)
        blocks = make_blocks(side.labels, reference.labels, transform.shares, 4 * BLOCK)
        cost, _ = couple(transform.transform(side.features), reference.features, blocks)
        return self.value(cost, transform.shares, side.labels)


def _with_best_assignment(objective: _Objective, start: Transform, side: Side) -> Transform:
    """The start with other reference classes for target classes, where that lowers the bound."""
    prior = objective.prior_of(side.labels)
    shares = _reassigned(start, side, objective.reference, objective.losses, objective.tau, prior)
    other = replace(start, shares=shares)
    return start if objective.judged(other) > objective.judged(start) else other


def _best_ridge(
    objective: _Objective, current: Transform, moments: _Moments
) -> tuple[float, Transform, float]:
    """The ridge of the lowest bound on the samples that choose, its map, and that bound."""
    unit = float(moments.mass)
    candidates = [_solved(current, moments, ridge * unit) for ridge in RIDGES]
    scores = [objective.judged(candidate) for candidate in candidates]
    best = int(np.argmin(scores))
    return RIDGES[best] * unit, candidates[best], scores[best]


def _label_terms(shares: Numbers, prior: Numbers, losses: Numbers) -> float:
    """Re-weighted reference loss plus label mismatch."""
    label_matrix, mass = label_map(shares, prior)
    joint = prior[:, None] * shares
    logs = np.log(np.where(joint > 0, label_matrix, 1.0))
    return float(mass @ losses - np.sum(joint * logs))


class _Moments(NamedTuple):
    mass: float
    target_mean: Numbers
    reference_mean: Numbers
    scatter: Numbers  # (d, d) of the targets
    crossed: Numbers  # (d, d) references times targets


def _moments(targets: Array, references: Array, solved: list[Coupled]) -> _Moments:
    """Weighted moments of target samples and of the reference points they are coupled with."""
    xp = arrays.namespace(targets)
    rows, weights, centres = [], [], []
    for block, cost, plan in solved:
        nearest = max(1e-3 * float(cost.mean()), 1e-12)
        pull = block.mass * plan.coupling / np.maximum(cost, nearest)
        weight = pull.sum(axis=1)
        points = xp.take(references, arrays.from_numpy(block.references, references), axis=0)
        rows.append(block.targets)
        weights.append(weight)
        centres.append(convert(pull / weight[:, None], references) @ points)
    weight = np.concatenate(weights)
    mass = float(weight.sum())
    x = xp.take(targets, arrays.from_numpy(np.concatenate(rows), targets), axis=0)
    z = xp.concat(centres, axis=0)
    target_mean, reference_mean = product(x.T, weight) / mass, product(z.T, weight) / mass
    root = convert(np.sqrt(weight), x)[:, None]
    x = (x - convert(target_mean, x)) * root
    z = (z - convert(reference_mean, z)) * root
    scatter, crossed = (arrays.to_numpy(m).astype(np.float64) for m in (x.T @ x, z.T @ x))
    return _Moments(mass, target_mean, reference_mean, scatter, crossed)


def _solved(current: Transform, moments: _Moments, ridge: float) -> Transform:
    """The map of least squares, drawn to the identity."""
    eye = ridge * np.eye(len(moments.scatter))
    matrix = arrays.solve_positive(moments.scatter + eye, (moments.crossed + eye).T).T
    offset = moments.reference_mean - matrix @ moments.target_mean
    return Transform(np.ascontiguousarray(matrix), offset, current.shares)


def _moved_shares(
    current: Transform,
    solved: list[Coupled],
    reference_labels: Ids,
    losses: Numbers,
    tau: float,
    rate: float,
) -> Numbers:
    """Shares after one step of exponentiated gradient."""
    shares = current.shares
    slope = np.where(shares > 0, losses[None, :], 0.0)
    mass = np.zeros(len(shares))
    potentials = np.zeros(shares.shape)
    for block, _, plan in solved:
        k, ids = block.target_class, reference_labels[block.references]
        n = np.bincount(ids, minlength=shares.shape[1])
        sums = np.bincount(ids, weights=plan.column_potentials, minlength=shares.shape[1])
        potentials[k] += block.mass * sums / np.maximum(n, 1)
        mass[k] += block.mass
    slope = slope + tau * potentials / np.where(mass > 0, mass, 1.0)[:, None]
    slope = slope - np.where(shares > 0, slope, np.inf).min(axis=1, keepdims=True)
    moved = shares * np.exp(-rate * np.where(shares > 0, slope, 0.0))
    moved = moved / moved.sum(axis=1, keepdims=True)
    moved = np.where(moved < SMALLEST_SHARE, 0.0, moved)
    return np.asarray(moved / moved.sum(axis=1, keepdims=True))


def _reassigned(
    current: Transform,
    target: Side,
    reference: Side,
    losses: Numbers,
    tau: float,
    prior: Numbers,
) -> Numbers:
    """Shares in which each target class takes the one reference class that costs it least.

    The price of giving target class k to reference class j is ``loss_j + τ·distance_kj`` and what
    the sharing of j among target classes costs in label mismatch. As that entropy is concave, the
    optimum of a row, the others held fixed, lies at one reference class: classes are visited in
    turn until none changes. Distances are those of Gaussians of the classes' means and spreads.
    """
    n_target, n_reference = current.shares.shape
    means, spread = class_means(current.transform(target.features), target.labels, n_target)
    centres, radii = class_means(reference.features, reference.labels, n_reference)
    gaps = np.sum((means[:, None, :] - centres[None, :, :]) ** 2, axis=2)
    price = losses[None, :] + tau * np.sqrt(gaps + spread[:, None] + radii[None, :])
    choice = np.argmax(current.shares, axis=1)
    for _ in range(MAX_ROUNDS):
        before = choice.copy()
        for k in range(n_target):
            mass = np.bincount(choice, weights=prior, minlength=n_reference).astype(np.float64)
            mass[choice[k]] -= prior[k]
            shared = mass + prior[k]
            # label mismatch of a column: Σ q ln q, of the column's sum taken away
            mixing = _xlogx(shared) - _xlogx(mass) - _xlogx(prior[k])
            choice[k] = int(np.argmin(prior[k] * price[k] + mixing))
        if np.array_equal(before, choice):
            break
    return np.asarray(np.eye(n_reference)[choice], np.float64)


def _xlogx(values: Any) -> Numbers:
    positive: Numbers = np.maximum(values, 0.0)
    logs: Numbers = np.log(np.where(positive > 0, positive, 1.0))
    return np.asarray(positive * logs, np.float64)


def class_means(features: Array, labels: Ids, n_classes: int) -> tuple[Numbers, Numbers]:
    """Mean of each class (n_classes, d), and the mean squared distance from it (n_classes,)."""
    ids = arrays.from_numpy(labels, features)
    counts = np.maximum(np.bincount(labels, minlength=n_classes), 1)
    sums = arrays.to_numpy(arrays.class_sums(features, ids, n_classes)).astype(np.float64)
    xp = arrays.namespace(features)
    norms = arrays.to_numpy(xp.sum(features * features, axis=1)).astype(np.float64)
    means = sums / counts[:, None]
    squares = np.bincount(labels, weights=norms, minlength=n_classes) / counts
    return means, np.maximum(squares - np.sum(means**2, axis=1), 0.0)
