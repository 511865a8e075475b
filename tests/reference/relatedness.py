"""The bound of task-relatedness, literally: one linear programme per class."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog


def log_head(weights, bias, z):
    logits = weights @ z + bias
    top = logits.max()
    return logits - top - np.log(np.exp(logits - top).sum())


def transport_cost(cost, rows, columns):
    n, m = cost.shape
    conditions = []
    for i in range(n):
        conditions.append(np.repeat(np.arange(n) == i, m).astype(float))
    for j in range(m):
        conditions.append(np.tile(np.arange(m) == j, n).astype(float))
    solved = linprog(cost.ravel(), A_eq=np.array(conditions), b_eq=np.r_[rows, columns])
    return solved.fun


def relatedness(weights, bias, matrix, offset, label_matrix, shares, z, y, x, t):
    """Terms of the bound on samples z, y of the reference and x, t of the target.

    Returns (reference loss, label mismatch, wasserstein, tau, loss of the transformed head).
    """
    n_target, n_reference = shares.shape
    reference_loss = mismatch = wasserstein = loss = 0.0
    tau = max(np.linalg.norm(one - other) for one in weights for other in weights)
    carried = [matrix @ one + offset for one in x]
    for k in range(n_target):
        mine = [u for u, label in zip(carried, t, strict=True) if label == k]
        if not mine:
            continue
        share = len(mine) / len(t)
        theirs, columns = [], []
        for j in range(n_reference):
            members = [one for one, label in zip(z, y, strict=True) if label == j]
            if shares[k, j] == 0:
                continue
            mismatch -= share * shares[k, j] * np.log(label_matrix[k, j])
            for one in members:
                weight = shares[k, j] / len(members)
                reference_loss -= share * weight * log_head(weights, bias, one)[j]
                theirs.append(one)
                columns.append(weight)
        cost = np.array([[np.linalg.norm(u - one) for one in theirs] for u in mine])
        wasserstein += share * transport_cost(cost, np.full(len(mine), 1 / len(mine)), columns)
        for u in mine:
            p = np.exp(log_head(weights, bias, u))
            loss -= np.log(label_matrix[k] @ p) / len(t)
    return reference_loss, mismatch, wasserstein, tau, loss
