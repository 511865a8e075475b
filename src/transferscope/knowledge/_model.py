"""The model of what is expected: encoders x tasks, Gaussian on the logit scale.

Task t measures encoder i as

    logit(accuracy_it) = a_t + s_t (w_i0 + w_i · f_t + e_it),    e_it ~ N(0, r_t ψ_i)

with a level a_t, a spread s_t and a roughness r_t of its own, and factors f_t ~ N(ν, I) that say
what kind of task it is; ν depends on the kind of measurement and is zero for the first. So encoders
with like weights w do well on the same tasks. Encoders of one family, or of one publisher, have a
share of e in common. Weights are drawn around what facts x_i predict, w_i ~ N(B'x_i, (1 + h_i) Λ);
h_i is how far these facts are from those that B was learned of. An encoder of which nothing but
facts is known has these weights, with all their variance.

`fit_model` learns the encoders by variational expectation-maximisation: each of f_t, w_i has a
normal distribution of its own; B, Λ, ν, ψ, a and s are numbers, r is one and no e is shared. What
tasks are like at large, `_tasks` learns afterwards, of tasks that were left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transferscope.numerics.arrays import NumpyArray

#: Kinds of measurement; the factors of tasks of the first kind have mean zero.
KINDS = ("probe", "fine-tuned")
#: Accuracies closer to 0 and 1 than this are taken to be this far off.
NEAREST = 1e-3
#: Degrees of freedom of the residuals' tails: failed runs must not move what is learned.
TAIL = 4.0
#: An encoder's own variance is drawn to the usual one with the weight of this many cells.
USUAL = 5.0
ROUNDS = 30


def logit(accuracy: NumpyArray) -> NumpyArray:
    """Log odds of accuracies, those of 0 and 1 kept finite; NaN stays NaN."""
    inside = np.clip(accuracy, NEAREST, 1 - NEAREST)
    return np.asarray(np.log(inside / (1 - inside)))


@dataclass(frozen=True)
class Model:
    """What is known of encoders, and of tasks at large.

    Attributes
    ----------
    weights : (n, 1 + k) array
        Mean of each encoder's weights: its standing, then its loadings.
    covariance : (n, 1 + k, 1 + k) array
        How sure they are.
    noise : (n,) array
        Own variance ψ of each encoder.
    kin : (n, 2) array
        Numbers of the family and of the publisher of each encoder.
    kind_factors : (n_kinds, k) array
        Mean ν of the factors, per kind of measurement.
    log_spread : (2,) array
        Mean and standard deviation of log s over tasks.
    log_roughness : (3,) array
        log r of a task: ``log_roughness[0] + log_roughness[1] * log s``, with standard deviation
        ``log_roughness[2]``.
    level : (3,) array
        The same of the level a.
    scatter : (1 + k, 1 + k) array
        Λ: scatter of weights about what facts predict.
    """

    weights: NumpyArray
    covariance: NumpyArray
    noise: NumpyArray
    kin: NumpyArray
    kind_factors: NumpyArray
    log_spread: NumpyArray
    log_roughness: NumpyArray
    level: NumpyArray
    scatter: NumpyArray

    def take(self, rows: NumpyArray) -> Model:
        """The same knowledge of some of the encoders."""
        return Model(
            self.weights[rows],
            self.covariance[rows],
            self.noise[rows],
            self.kin[rows],
            self.kind_factors,
            self.log_spread,
            self.log_roughness,
            self.level,
            self.scatter,
        )

    def standing(self, kind: int) -> tuple[NumpyArray, NumpyArray]:
        """Mean (n,) of the encoders on a task of level 0 and spread 1, and its variance (n,)."""
        at = np.concatenate([[1.0], self.kind_factors[kind]])
        return self.weights @ at, np.einsum("ijk,j,k->i", self.covariance, at, at)

    def own(self) -> NumpyArray:
        """Variance (n,) of each encoder on each task that no other encoder shares."""
        return np.asarray(self.noise + np.einsum("ijj->i", self.covariance[:, 1:, 1:]))


@dataclass
class _State:
    """The numbers of the model while they are learned; names as in this file's first lines."""

    W: NumpyArray
    V: NumpyArray
    psi: NumpyArray
    usual: float
    B: NumpyArray
    scatter: NumpyArray
    nu: NumpyArray
    a: NumpyArray
    s: NumpyArray
    F: NumpyArray
    C: NumpyArray
    tail: NumpyArray


def fit_model(
    accuracy: NumpyArray,
    facts: NumpyArray,
    kinds: NumpyArray,
    *,
    importance: NumpyArray | None = None,
    penalty: NumpyArray | None = None,
    kin: NumpyArray | None = None,
    n_factors: int = 4,
    rounds: int = ROUNDS,
) -> Model:
    """Learn the model.

    Parameters
    ----------
    accuracy : (n, t) array
        Of n encoders on t tasks, shares; NaN where nobody measured. Each task has two or more.
    facts : (n, p) array
        Of the encoders, the first column ones.
    kinds : (t,) array of int
        Kind of measurement of each task, places in `KINDS`.
    importance : (t,) array, optional
        Weight of each task, 1 for each if not given.
    penalty : (p,) array, optional
        Ridge penalty of each fact, 1 for all but the first if not given.
    kin : (n, 2) array of int, optional
        Numbers of the family and of the publisher; no two encoders are kin if not given.
    n_factors : int
    rounds : int

    Returns
    -------
    Model
        With spreads and levels of these very tasks, and roughness one.
    """
    y = logit(accuracy)
    seen = ~np.isnan(y)
    y = np.where(seen, y, 0.0)
    c = np.ones(y.shape[1]) if importance is None else importance
    ridge = np.r_[1e-6, np.ones(facts.shape[1] - 1)] if penalty is None else penalty
    known = np.asarray(seen.any(axis=1))
    y, seen, x = y[known], seen[known], facts[known]
    inverse = np.linalg.inv(x.T @ x + np.diag(ridge))
    distance = 1 + ((facts @ inverse) * facts).sum(axis=1)
    now = _start(y, seen, x, ridge, n_factors)
    for step in range(rounds):
        _learn_tasks(now, y, seen, kinds)
        _turn_factors(now, kinds, c)
        moments = _moments(now)
        _learn_encoders(now, y, seen, c, x @ now.B, distance[known], moments)
        if step > 2:  # before, the weights say nothing yet
            now.B = inverse @ (x.T @ now.W)
        _learn_scatter(now, x @ now.B)
        _learn_noise(now, y, seen, c, moments)
        _learn_levels(now, y, seen)
    alone = np.tile(np.arange(len(facts))[:, None], 2)
    return _finish(now, c, facts, distance, known, alone if kin is None else kin)


def _start(y: NumpyArray, seen: NumpyArray, facts: NumpyArray, ridge: NumpyArray, k: int) -> _State:
    """Levels and spreads by moments, standings by facts, loadings of the leading residuals.

    Tasks of different encoders have facts alone in common: what facts say is learned within
    tasks, and tells encoders of different tasks apart.
    """
    n, t = y.shape
    n_facts = facts.shape[1]
    count = seen.sum(axis=0)
    a = y.sum(axis=0) / count
    s = np.sqrt((np.where(seen, y - a, 0) ** 2).sum(axis=0) / count) + 0.05
    s /= np.exp(np.log(s).mean())
    z = np.where(seen, (y - a) / s, 0)
    within = np.diag(ridge.copy())
    slope = np.zeros(n_facts)
    for column, here in zip(z.T, seen.T, strict=True):
        x = facts[here] - facts[here].mean(axis=0)
        within += x.T @ x / here.sum()
        slope += x.T @ column[here] / here.sum()
    standing = facts @ np.linalg.solve(within, slope)
    standing -= standing[seen.any(axis=1)].mean()
    expected = np.where(seen, standing[:, None], 0).sum(axis=0) / count
    a = a - s * expected
    z = np.where(seen, (y - a) / s, 0)
    W = np.zeros((n, 1 + k))
    W[:, 0] = (z.sum(axis=1) + standing) / (seen.sum(axis=1) + 1)
    rest = np.where(seen, z - W[:, :1], 0)
    u, d, _ = np.linalg.svd(rest, full_matrices=False)
    most = min(k, len(d))
    W[:, 1 : 1 + most] = u[:, :most] * d[:most] / np.sqrt(t)
    usual = float((rest**2).sum() / seen.sum() / 2 + 1e-3)
    return _State(
        W=W,
        V=np.tile(np.eye(1 + k) * 0.1, (n, 1, 1)),
        psi=np.full(n, usual),
        usual=usual,
        B=np.zeros((n_facts, 1 + k)),
        scatter=np.diag(np.r_[W[:, 0].var() + 0.1, np.full(k, 0.1)]),
        nu=np.zeros((len(KINDS), k)),
        a=a,
        s=s,
        F=np.zeros((t, k)),
        C=np.zeros((t, k, k)),
        tail=seen.astype(float),
    )


def _residuals(now: _State, y: NumpyArray, seen: NumpyArray) -> NumpyArray:
    return np.where(seen, (y - now.a) / now.s, 0)


def _learn_tasks(now: _State, y: NumpyArray, seen: NumpyArray, kinds: NumpyArray) -> None:
    """Factors of each task, and their mean per kind."""
    k = now.F.shape[1]
    sure = now.tail / now.psi[:, None]
    loadings = now.W[:, 1:]
    second = np.einsum("ij,il->ijl", loadings, loadings) + now.V[:, 1:, 1:]
    precision = (sure.T @ second.reshape(len(second), k * k)).reshape(len(now.F), k, k) + np.eye(k)
    rest = sure * np.where(seen, _residuals(now, y, seen) - now.W[:, :1], 0)
    pull = rest.T @ loadings - sure.T @ now.V[:, 0, 1:] + now.nu[kinds]
    now.C = np.linalg.inv(precision)
    now.F = np.einsum("tjl,tl->tj", now.C, pull)


def _turn_factors(now: _State, kinds: NumpyArray, c: NumpyArray) -> None:
    """Give the factors mean zero (of the first kind) and unit variance; the weights make up."""
    t, k = now.F.shape
    if k == 0:  # nothing to turn
        return
    for kind in range(len(now.nu)):
        here = kinds == kind
        now.nu[kind] = c[here] @ now.F[here] / (c[here].sum() + 2 * (kind > 0) + 1e-12)
    centre = now.nu[0].copy()
    apart = now.F - now.nu[kinds]
    spread = np.einsum("t,tj,tl->jl", c, apart, apart) + np.einsum("t,tjl->jl", c, now.C)
    root = np.linalg.cholesky((spread * t / c.sum() + 2 * np.eye(k)) / (t + 2))
    back = np.linalg.inv(root)
    now.F, now.C = (now.F - centre) @ back.T, back @ now.C @ back.T
    now.nu = (now.nu - centre) @ back.T
    turn = np.zeros((1 + k, 1 + k))
    turn[0, 0], turn[0, 1:], turn[1:, 1:] = 1, centre, root.T
    now.W, now.B = now.W @ turn.T, now.B @ turn.T
    now.V, now.scatter = turn @ now.V @ turn.T, turn @ now.scatter @ turn.T


def _moments(now: _State) -> tuple[NumpyArray, NumpyArray]:
    """Mean (t, 1 + k) and second moment (t, 1 + k, 1 + k) of [1, f_t]."""
    first = np.c_[np.ones(len(now.F)), now.F]
    second = np.einsum("tj,tl->tjl", first, first)
    second[:, 1:, 1:] += now.C
    return first, second


def _learn_encoders(
    now: _State,
    y: NumpyArray,
    seen: NumpyArray,
    c: NumpyArray,
    predicted: NumpyArray,
    distance: NumpyArray,
    moments: tuple[NumpyArray, NumpyArray],
) -> None:
    """Weights of each encoder, from its cells and from what its facts predict."""
    first, second = moments
    n, width = now.W.shape
    sure = now.tail / now.psi[:, None] * c
    prior = np.linalg.inv(now.scatter)[None] / distance[:, None, None]
    cells = (sure @ second.reshape(len(second), width * width)).reshape(n, width, width)
    now.V = np.linalg.inv(cells + prior)
    pull = (sure * _residuals(now, y, seen)) @ first
    pull += np.einsum("ijl,il->ij", prior, predicted)
    now.W = np.einsum("ijl,il->ij", now.V, pull)


def _learn_scatter(now: _State, predicted: NumpyArray) -> None:
    off = now.W - predicted
    found = off.T @ off / len(off) + now.V.mean(axis=0)
    now.scatter = 0.98 * found + 0.001 * np.eye(len(found))


def _learn_noise(
    now: _State,
    y: NumpyArray,
    seen: NumpyArray,
    c: NumpyArray,
    moments: tuple[NumpyArray, NumpyArray],
) -> None:
    """Own variances, and how far each cell is out in the tail."""
    first, second = moments
    n, width = now.W.shape
    expected = now.W @ first.T
    outer = now.V + np.einsum("ij,il->ijl", now.W, now.W)
    unsure = outer.reshape(n, -1) @ second.reshape(-1, width * width).T - expected**2
    squares = np.where(seen, (_residuals(now, y, seen) - expected) ** 2 + unsure, 0)
    now.tail = np.where(seen, (TAIL + 1) / (TAIL + squares / now.psi[:, None]), 0)
    weight = (seen * c).sum(axis=1)
    now.psi = (USUAL * now.usual + (now.tail * squares * c).sum(axis=1)) / (USUAL + weight)
    now.usual = float(np.exp(np.average(np.log(now.psi), weights=np.minimum(weight, 20))))


def _learn_levels(now: _State, y: NumpyArray, seen: NumpyArray) -> None:
    """Level and spread of each task: its likelihood's maximum, in closed form."""
    expected = now.W @ np.c_[np.ones(len(now.F)), now.F].T
    sure = now.tail / now.psi[:, None]
    total = sure.sum(axis=0)
    mean_y, mean_e = (sure * y).sum(axis=0) / total, (sure * expected).sum(axis=0) / total
    off_y, off_e = np.where(seen, y - mean_y, 0), np.where(seen, expected - mean_e, 0)
    yy, ye = (sure * off_y**2).sum(axis=0), (sure * off_y * off_e).sum(axis=0)
    # of 1/s: count/b = b yy - ye
    s = 2 * yy / (ye + np.sqrt(ye**2 + 4 * seen.sum(axis=0) * yy))
    scale = np.exp(np.log(s).mean())
    for name, power in (("W", 1), ("B", 1), ("V", 2), ("scatter", 2), ("psi", 2), ("usual", 2)):
        setattr(now, name, getattr(now, name) * scale**power)
    now.s = s / scale
    now.a = mean_y - now.s * mean_e * scale


def _finish(
    now: _State,
    c: NumpyArray,
    facts: NumpyArray,
    distance: NumpyArray,
    known: NumpyArray,
    kin: NumpyArray,
) -> Model:
    """The model, with rows for encoders of which facts alone are known."""
    weights = facts @ now.B
    covariance = distance[:, None, None] * now.scatter
    noise = np.full(len(facts), now.usual)
    weights[known], covariance[known], noise[known] = now.W, now.V, now.psi
    log_s = np.log(now.s)
    off = c * (log_s - np.average(log_s, weights=c))
    slope = float(off @ now.a / max(off @ log_s, 1e-9))
    at_one = now.a - slope * log_s
    return Model(
        weights,
        covariance,
        noise,
        kin,
        now.nu,
        np.array([log_s.mean(), log_s.std()]),
        np.zeros(3),
        np.array([at_one.mean(), slope, at_one.std()]),
        now.scatter,
    )
