"""The authors' stochastic procedure, for comparison: one optimal transport and one Adam step on a
class-balanced batch of each task per iteration.

Mehra, Zhang & Hamm, "Understanding the Transferability of Representations via Task-Relatedness",
NeurIPS 2024, with the gradients written out.
"""

from __future__ import annotations

import numpy as np

from transferscope.numerics import arrays, transport
from transferscope.relatedness._head import LinearHead, Numbers, convert, product
from transferscope.relatedness._transform import SMALLEST_SHARE, Side, Transform, label_map
from transferscope.relatedness._transport import Ids

BATCH, ITERATIONS, RATE = 500, 1001, 1e-3
#: Cost of a unit of distance between label distributions; weight of the Wasserstein term.
LABEL_COST, TRANSPORT_WEIGHT = 1e8, 2.0
#: Logit that a learned B starts from where the fixed one is 1.
START = 5.0


def learn_by_adam(
    reference: Side,
    target: Side,
    head: LinearHead,
    shares: Numbers,
    *,
    learn_labels: bool,
    seed: int,
    iterations: int = ITERATIONS,
) -> Transform:
    """Learn A, its approximate inverse, b, and (`learn_labels`) B and D, as the authors do."""
    rng = np.random.default_rng(seed)
    d = int(reference.features.shape[1])
    n_target, n_reference = shares.shape
    prior = np.bincount(target.labels, minlength=n_target) / len(target.labels)
    label_matrix, mass = label_map(shares, prior)
    theta: dict[str, Numbers] = {"A": np.eye(d), "inverse": np.eye(d), "b": np.zeros(d)}
    if learn_labels:
        theta["B"], theta["D"] = START * label_matrix, np.log(np.maximum(mass, 1e-6))
    first = {name: np.zeros_like(value) for name, value in theta.items()}
    second = {name: np.zeros_like(value) for name, value in theta.items()}
    xp = arrays.namespace(reference.features)
    trace = []
    for step in range(1, iterations + 1):
        rows = _balanced(reference.labels, n_reference, rng)
        columns = _balanced(target.labels, n_target, rng)
        z = xp.take(reference.features, arrays.from_numpy(rows, reference.features), axis=0)
        x = xp.take(target.features, arrays.from_numpy(columns, target.features), axis=0)
        y, t = reference.labels[rows], target.labels[columns]
        if learn_labels:
            label_matrix, mass = _softmax(theta["B"]), _softmax(theta["D"])
        counts = np.bincount(y, minlength=n_reference)
        present: Numbers = np.where(counts > 0, mass, 0.0)
        row_weights = (present / np.maximum(counts, 1))[y] / present.sum()
        target_counts = np.bincount(t, minlength=n_target)
        column_weights: Numbers = (prior / np.maximum(target_counts, 1))[t]
        column_weights = column_weights / column_weights.sum()
        moved = z @ convert(theta["A"].T, z) + convert(theta["b"], z)
        distance = arrays.to_numpy(transport.ground_cost(moved, x, "euclidean"))
        difference = label_matrix[:, y].T[:, None, :] - np.eye(n_target)[t][None, :, :]
        apart = np.sqrt(np.sum(difference**2, axis=2))
        plan = transport.exact_plan(distance + LABEL_COST * apart, row_weights, column_weights)
        log_p = head.log_probabilities(z)
        losses = -log_p[np.arange(len(y)), y]
        sums = np.bincount(y, weights=losses, minlength=n_reference)
        class_losses = sums / np.maximum(counts, 1)
        logs = np.log(np.maximum(label_matrix, 1e-30))
        mismatch = -np.sum(label_matrix * logs, axis=0)
        short = label_matrix @ mass - prior
        forth = theta["A"] @ theta["inverse"] - np.eye(d)
        back = theta["inverse"] @ theta["A"] - np.eye(d)
        trace.append(
            float(mass @ (class_losses + mismatch) + TRANSPORT_WEIGHT * plan.cost)
            + float(np.sum(short**2) + np.sum(forth**2) + np.sum(back**2))
        )
        pull = TRANSPORT_WEIGHT * plan.coupling / np.maximum(distance, 1e-9)
        by_moved = arrays.to_numpy(
            convert(pull.sum(axis=1), z)[:, None] * moved - convert(pull, z) @ x
        ).astype(np.float64)
        gradient = {
            "A": product(z.T, by_moved).T
            + 2 * (forth @ theta["inverse"].T + theta["inverse"].T @ back),
            "inverse": 2 * (theta["A"].T @ forth + back @ theta["A"].T),
            "b": by_moved.sum(axis=0),
        }
        if learn_labels:
            unit = TRANSPORT_WEIGHT * LABEL_COST * plan.coupling / np.maximum(apart, 1e-9)
            by_sample = np.sum(unit[:, :, None] * difference, axis=1)
            by_matrix = np.zeros_like(label_matrix)
            np.add.at(by_matrix.T, y, by_sample)
            by_matrix += -mass * (logs + 1) + 2 * short[:, None] * mass
            gradient["B"] = label_matrix * (
                by_matrix - np.sum(label_matrix * by_matrix, axis=0, keepdims=True)
            )
            potential = np.bincount(y, weights=plan.row_potentials, minlength=n_reference)
            by_mass = class_losses + mismatch + 2 * label_matrix.T @ short
            by_mass = by_mass + TRANSPORT_WEIGHT * potential / np.maximum(counts, 1)
            gradient["D"] = mass * (by_mass - mass @ by_mass)
        for name, slope in gradient.items():
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.999 * second[name] + 0.001 * slope**2
            corrected = first[name] / (1 - 0.9**step)
            theta[name] -= RATE * corrected / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
    if learn_labels:
        joint = _softmax(theta["B"]) * _softmax(theta["D"])
        joint = joint / joint.sum(axis=1, keepdims=True)
        joint = np.where(joint < SMALLEST_SHARE, 0.0, joint)
        shares = joint / joint.sum(axis=1, keepdims=True)
    matrix: Numbers = np.asarray(np.linalg.inv(theta["A"]), np.float64)
    return Transform(matrix, -matrix @ theta["b"], shares, tuple(trace))


def _softmax(logits: Numbers) -> Numbers:
    powers = np.exp(logits - logits.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0))


def _balanced(labels: Ids, n_classes: int, rng: np.random.Generator) -> Ids:
    """Rows of a batch with as many samples of each class, as far as there are so many."""
    each = max(1, BATCH // n_classes)
    members = [np.flatnonzero(labels == c) for c in range(n_classes)]
    drawn = [rng.choice(m, min(each, len(m)), replace=False) for m in members if len(m)]
    return np.concatenate(drawn)
