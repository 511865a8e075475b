"""From what was measured on a task to what is expected of all encoders on it.

The level of the user's task has a normal prior, its spread and its roughness log-normal ones, as
published tasks that were left out had them. Given spread and roughness everything is Gaussian, so
that these two are summed over a grid and the rest is exact; but for the tails of what an encoder
has on a task alone, of which the variance counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.special import expit, ndtr, ndtri

from transferscope.knowledge._model import TAIL, Model, logit
from transferscope.numerics.arrays import NumpyArray

#: Spreads and roughnesses that are tried, in standard deviations of their logarithms.
STEPS = np.linspace(-2.4, 2.4, 9), np.linspace(-2.0, 2.0, 5)
GRID = np.array(list(itertools.product(*STEPS)))
#: How alike tasks of one user are: share of factors and residuals that they have in common.
ALIKE = 0.3
#: Shares of what an encoder has on one task that those of its family and of its publisher have too.
KIN = np.array([0.25, 0.25])
#: What no other encoder shares has Student's t of `TAIL` degrees of freedom: its variance is so
#: many times that of the normal which stands for it where cells are measured.
TAILED = TAIL / (TAIL - 2)
#: How far differences between measured encoders are trusted to tell a task's spread and roughness:
#: the power of their likelihood. Those measured first are alike, more than the model knows.
TRUST = 0.5
#: Variance of a measured logit that repeating the measurement would show.
REPEATS = 1e-4
#: A cell of less weight than this (three and a half standard deviations off) is not trusted in
#: full, and how often that is looked at.
SUSPECT, SECOND_LOOKS = 0.3, 3
#: Nodes for means on the accuracy scale, and joint draws for what hangs on all encoders at once.
NODES = np.polynomial.hermite_e.hermegauss(11)
DRAWS = 1000


@dataclass(frozen=True)
class Cells:
    """Measured accuracies of one task.

    Attributes
    ----------
    rows : (m,) array of int
        Which encoders, as rows of the model.
    values : (m,) array
        Accuracies, shares.
    """

    rows: NumpyArray
    values: NumpyArray


@dataclass(frozen=True)
class Expected:
    """What is expected of each encoder on the user's task, as shares; (n,) arrays.

    Attributes
    ----------
    mean, sd : array
        Of the accuracy.
    p_best : array
        Probability that no other encoder is better.
    regret : array
        Expected gap to the best of all.
    improvement : array
        By how much measuring it is expected to raise the best accuracy that was measured.
    location, scale : array
        Mean and standard deviation on the logit scale.
    """

    mean: NumpyArray
    sd: NumpyArray
    p_best: NumpyArray
    regret: NumpyArray
    improvement: NumpyArray
    location: NumpyArray
    scale: NumpyArray

    def interval(self, share: float) -> tuple[NumpyArray, NumpyArray]:
        """Central interval that holds this share of the probability."""
        half = ndtri(0.5 + share / 2) * self.scale
        return expit(self.location - half), expit(self.location + half)


def condition(
    model: Model,
    kind: int,
    measured: Cells,
    history: Sequence[Cells] = (),
    *,
    among: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Expected:
    """What is expected of every encoder of the model to choose from.

    Parameters
    ----------
    model : Model
    kind : int
        Place in `KINDS`.
    measured : Cells
        Of the user's task; may be empty.
    history : sequence of Cells
        Of other tasks of the same user.
    among : int, optional
        Only the first so many encoders are to choose from; all if not given.
    seed : int
    draws : int
        Joint draws of all encoders.

    Returns
    -------
    Expected
    """
    prior = Prior.of(model, kind)
    observed = _Observed.of(prior, measured, history)
    parts = [_Given.of(prior, observed, task) for task in prior.tasks()]
    mass = _masses([part.fit for part in parts])
    choice = slice(None, among)
    means = np.array([part.mean[choice] for part in parts])
    variances = np.array([part.variance[choice] for part in parts])
    location = mass @ means
    scale = np.sqrt(mass @ (variances + means**2) - location**2)
    nodes, shares = NODES
    points = expit(means[:, None] + np.sqrt(variances)[:, None] * nodes[None, :, None])
    shares = mass[:, None] * shares / shares.sum()
    mean = np.einsum("gq,gqn->n", shares, points)
    sd = np.sqrt(np.maximum(np.einsum("gq,gqn->n", shares, points**2) - mean**2, 0))
    counts = np.diff(np.round(np.r_[0.0, np.cumsum(mass)] * draws).astype(int))
    rng = np.random.default_rng(seed)
    logits = [
        part.draw(prior, observed, count, rng)[:, choice]
        for part, count in zip(parts, counts, strict=True)
        if count
    ]
    sample = expit(np.concatenate(logits))
    # what was measured is known; whether it may be chosen or not, it has informed the others
    chosen = measured.rows < sample.shape[1]
    rows, values = measured.rows[chosen], measured.values[chosen]
    mean[rows], sd[rows], sample[:, rows] = values, 0, values
    best = int(mean.argmax())
    return Expected(
        mean,
        sd,
        p_best=np.bincount(sample.argmax(axis=1), minlength=len(mean)) / len(sample),
        # of the best the gap is drawn; what others lack besides is exact
        regret=mean[best] - mean + float((sample.max(axis=1) - sample[:, best]).mean()),
        improvement=_improvement(mean, sd, rows),
        location=location,
        scale=scale,
    )


def _improvement(mean: NumpyArray, sd: NumpyArray, measured: NumpyArray) -> NumpyArray:
    """E max(accuracy - best measured, 0) of a normal accuracy; the mean where none is measured."""
    if not len(measured):
        return mean
    gain = mean - mean[measured].max()
    z = gain / np.maximum(sd, 1e-9)
    found = gain * ndtr(z) + sd * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    found[measured] = 0
    return np.asarray(np.maximum(found, 0))


@dataclass(frozen=True)
class Prior:
    """The model for one kind of measurement, on a task of level 0 and spread 1.

    Attributes
    ----------
    standing, doubt : (n,) array
        Mean of each encoder over tasks, and how unsure that is (a variance).
    loadings : (n, k) array
    own : (n,) array
        Variance on each task besides that of the factors.
    kin : (n, 2) array
    log_spread, log_roughness, level : array
        As in `Model`.
    """

    standing: NumpyArray
    doubt: NumpyArray
    loadings: NumpyArray
    own: NumpyArray
    kin: NumpyArray
    log_spread: NumpyArray
    log_roughness: NumpyArray
    level: NumpyArray

    @classmethod
    def of(cls, model: Model, kind: int) -> Prior:
        standing, doubt = model.standing(kind)
        return cls(
            standing,
            doubt,
            model.weights[:, 1:],
            model.own(),
            model.kin,
            model.log_spread,
            model.log_roughness,
            model.level,
        )

    def tasks(self) -> NumpyArray:
        """Spread and roughness of the tasks of the grid."""
        spread = self.log_spread[0] + self.log_spread[1] * GRID[:, 0]
        centre, slope, width = self.log_roughness
        roughness = centre + slope * spread + width * GRID[:, 1]
        return np.asarray(np.exp(np.stack([spread, roughness], axis=1)))

    def kinship(self, rows: NumpyArray, others: NumpyArray | slice) -> NumpyArray:
        """Correlation (m, l) of what encoders have on one task besides its factors."""
        every = np.arange(len(self.own))
        found = (rows[:, None] == every[others]) * (1 - KIN.sum())
        for share, group in zip(KIN, self.kin.T, strict=True):
            found += share * (group[rows][:, None] == group[others])
        return np.asarray(found)

    def mean(self, rows: NumpyArray | slice, spread: NumpyArray | float) -> NumpyArray:
        """Expected logits (m,) of these encoders, on tasks of these spreads."""
        level = self.level[0] + self.level[1] * np.log(spread)
        return np.asarray(level + spread * self.standing[rows])


@dataclass(frozen=True)
class _Observed:
    """Measured cells of all tasks in one vector.

    Attributes
    ----------
    rows, logits : (m,) array
    task : (m,) array of int
        0 is the user's task, others are of the history.
    likely : (n_tasks, 2) array
        Spread and roughness of the tasks of the history; those of the user's are not known.
    extra : (m,) array
        Variance of logits that are far off what the others let expect: runs that failed, say.
    """

    rows: NumpyArray
    logits: NumpyArray
    task: NumpyArray
    likely: NumpyArray
    extra: NumpyArray

    @classmethod
    def of(cls, prior: Prior, measured: Cells, history: Sequence[Cells]) -> _Observed:
        tasks = [measured, *history]
        sizes = [len(cells.rows) for cells in tasks]
        found = cls(
            np.concatenate([cells.rows for cells in tasks]).astype(int),
            logit(np.concatenate([cells.values for cells in tasks])),
            np.repeat(np.arange(len(tasks)), sizes),
            np.array([[np.nan] * 2, *(_likely_task(prior, cells) for cells in history)]),
            np.zeros(sum(sizes)),
        )
        # of two cells nobody can tell which is off
        for _ in range(SECOND_LOOKS if len(found.rows) > 2 else 0):
            fits = [_Fit.of(prior, found, task) for task in prior.tasks()]
            found = replace(found, extra=fits[int(_masses(fits).argmax())].extra(found.extra))
        return found

    def tasks(self, task: NumpyArray) -> NumpyArray:
        """Spread and roughness (2, m) of the task of each cell, with `task` as the user's."""
        return np.asarray(np.concatenate([[task], self.likely[1:]])[self.task].T)

    def shared(self) -> NumpyArray:
        """Share (m,) of a cell's task that is the user's task too."""
        return np.asarray(np.where(self.task == 0, 1.0, ALIKE))


@dataclass(frozen=True)
class _Fit:
    """What was observed, given spread and roughness of the user's task.

    Attributes
    ----------
    evidence : float
        Log density, the part that differences between encoders have in it times `TRUST`.
    root : (m, m) array
        Cholesky factor of the covariance.
    off : (m,) array
        How far the logits are off their mean, divided by the root.
    """

    evidence: float
    root: NumpyArray
    off: NumpyArray

    @classmethod
    def of(cls, prior: Prior, observed: _Observed, task: NumpyArray) -> _Fit:
        rows, of_task = observed.rows, observed.task
        s, rough = observed.tasks(task)
        same = of_task[:, None] == of_task
        shared = np.where(same, 1.0, ALIKE)
        deviation = np.sqrt(prior.own[rows] * rough)
        covariance = prior.loadings[rows] @ prior.loadings[rows].T
        covariance += prior.kinship(rows, rows) * deviation[:, None] * deviation
        covariance = shared * covariance + (rows[:, None] == rows) * prior.doubt[rows]
        covariance = s[:, None] * s * covariance + prior.level[2] ** 2 * same
        root = np.linalg.cholesky(covariance + np.diag(REPEATS + observed.extra))
        off = solve_triangular(root, observed.logits - prior.mean(rows, s), lower=True)
        evidence = float(-off @ off / 2 - np.log(np.diag(root)).sum())
        level = 0.0
        if (of_task == 0).any():
            one = solve_triangular(root, (of_task == 0).astype(float), lower=True)
            sure = float(one @ one)
            level = float(np.log(sure) / 2 - (one @ off) ** 2 / sure / 2)
        return cls(TRUST * evidence + (1 - TRUST) * level, root, off)

    def extra(self, before: NumpyArray) -> NumpyArray:
        """Variance to add to each cell, by how far it is off what the other cells predict."""
        precision = np.diag(cho_solve((self.root, True), np.eye(len(self.root))))
        pull = solve_triangular(self.root, self.off, lower=True, trans="T")
        return suspicion(precision, pull, before)


@dataclass(frozen=True)
class _Given:
    """All encoders on the user's task, given its spread and roughness and what was observed.

    Attributes
    ----------
    task : (2,) array
        Spread and roughness.
    fit : _Fit
    cross : (m, n) array
        Covariance of the observed logits with those of all encoders, divided by the root.
    mean, variance : (n,) array
    """

    task: NumpyArray
    fit: _Fit
    cross: NumpyArray
    mean: NumpyArray
    variance: NumpyArray

    @classmethod
    def of(cls, prior: Prior, observed: _Observed, task: NumpyArray) -> _Given:
        fit, rows, shared = _Fit.of(prior, observed, task), observed.rows, observed.shared()
        (s, rough), (spread, roughness) = observed.tasks(task), task
        deviation = np.sqrt(prior.own[rows] * rough)[:, None] * np.sqrt(prior.own * roughness)
        cross = prior.loadings[rows] @ prior.loadings.T
        cross += prior.kinship(rows, slice(None)) * deviation
        cross *= shared[:, None]
        cross[np.arange(len(rows)), rows] += prior.doubt[rows]
        level = prior.level[2] ** 2
        cross = spread * s[:, None] * cross + level * (observed.task == 0)[:, None]
        cross = solve_triangular(fit.root, cross, lower=True)
        own = prior.own * roughness * (1 + (TAILED - 1) * (1 - KIN.sum()))
        before = (prior.loadings**2).sum(axis=1) + own + prior.doubt
        return cls(
            task,
            fit,
            cross,
            prior.mean(slice(None), spread) + fit.off @ cross,
            np.maximum(spread**2 * before + level - (cross**2).sum(axis=0), 1e-12),
        )

    def draw(
        self, prior: Prior, observed: _Observed, count: int, rng: np.random.Generator
    ) -> NumpyArray:
        """Joint logits (count, n): drawn as before the observation, then moved by it."""
        n, k = prior.loadings.shape
        rows, history = observed.rows, range(1, len(observed.likely))

        groups = [np.unique(group, return_inverse=True)[1] for group in prior.kin.T]

        def residuals(some: NumpyArray | slice, size: int) -> NumpyArray:
            """Of a task of roughness 1: the factors' part, and the encoders' own."""
            factors = rng.standard_normal((count, k)) @ prior.loadings[some].T
            own = rng.standard_normal((count, size)) * np.sqrt(1 - KIN.sum())
            for share, group in zip(KIN, groups, strict=True):
                of_group = rng.standard_normal((count, group.max() + 1)) * np.sqrt(share)
                own += of_group[:, group[some]]
            return np.stack([factors, own * np.sqrt(prior.own[some])])

        standing = rng.standard_normal((count, n)) * np.sqrt(prior.doubt)
        common = np.sqrt(ALIKE) * residuals(slice(None), n) if history else np.zeros((2, 1, n))
        alone = np.sqrt(1 - ALIKE) if history else 1.0

        def task(some: NumpyArray | slice, size: int, spread: float, rough: float) -> NumpyArray:
            factors, own = common[..., some] + alone * residuals(some, size)
            logits = spread * (standing[:, some] + factors + np.sqrt(rough) * own)
            return np.asarray(logits + prior.level[2] * rng.standard_normal((count, 1)))

        off = task(slice(None), n, *self.task)
        seen = np.empty((count, len(rows)))
        seen[:, observed.task == 0] = off[:, rows[observed.task == 0]]
        for one in history:
            here = observed.task == one
            seen[:, here] = task(rows[here], int(here.sum()), *observed.likely[one])
        seen += np.sqrt(REPEATS + observed.extra) * rng.standard_normal(seen.shape)
        if len(rows):
            off -= solve_triangular(self.fit.root, seen.T, lower=True).T @ self.cross
        tails = (TAILED - 1) * (1 - KIN.sum()) * prior.own * self.task[1]
        off += self.task[0] * np.sqrt(tails) * rng.standard_normal((count, n))
        return np.asarray(self.mean + off)


def suspicion(precision: NumpyArray, pull: NumpyArray, before: NumpyArray) -> NumpyArray:
    """Variance to add to each cell, by how far it is off what the other cells predict.

    Parameters
    ----------
    precision : (m,) array
        Diagonal of the inverse of the covariance of the cells.
    pull : (m,) array
        That inverse times how far the cells are off their mean.
    before : (m,) array
        Variances that were added already: no reason to trust a cell.

    Returns
    -------
    (m,) array
    """
    variance = np.maximum(1 / precision - before, REPEATS)
    weight = (TAIL + 1) / (TAIL + (pull / precision) ** 2 / variance)
    return np.where(weight < SUSPECT, variance * (1 / weight - 1), 0.0)


def _likely_task(prior: Prior, cells: Cells) -> NumpyArray:
    """Mean spread and roughness of a task of the history, given its cells alone."""
    alone = _Observed.of(prior, cells, ())
    fits = [_Fit.of(prior, alone, task) for task in prior.tasks()]
    return np.asarray(_masses(fits) @ prior.tasks())


def _masses(fits: Sequence[_Fit]) -> NumpyArray:
    """Probability of each task of the grid."""
    x = np.array([fit.evidence for fit in fits]) - (GRID**2).sum(axis=1) / 2
    mass = np.exp(x - x.max())
    return np.asarray(mass / mass.sum())
