"""LogME: maximised log evidence of Bayesian linear regression on the features.

You, Liu, Wang & Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning",
ICML 2021; "Ranking and Tuning Pre-trained Models", JMLR 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from transferscope.embedding import Classes, Embedding
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import EVERYTHING, About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike
from transferscope.numerics.targets import varies

#: Stop when no log(alpha/beta) moves more than this; the evidence is then exact to its square.
TOLERANCE = 1e-7
MAX_ITERATIONS = 1_000
#: In ln(alpha/beta).
LONGEST_LEAP = 2.0
#: How far apart the ratios lie that are tried at first, in ln(alpha/beta).
GRID = 1.0
#: A column predicted better than this share of its variance counts as predicted this well.
NOISE_FLOOR = 1e-12


@documented
def logme(
    features: ArrayLike, labels: ArrayLike | None = None, *, targets: ArrayLike | None = None
) -> float:
    r"""Log evidence per sample that a linear model explains the labels (LogME).

    For each one-hot label column (or real-valued target) ``y`` the evidence
    ``p(y | F) = ∫ N(y; Fw, 1/β) N(w; 0, 1/α) dw`` is maximised over α and β; the score is the mean
    over columns of ``ln p / n``. With eigenvalues σ of ``FᵀF`` of rank r:

        [r ln α + n ln β − Σ_{i≤r} ln(α + βσ_i) − β‖y − Fm‖² − α‖m‖² − n ln 2π] / (2n)

    Features enter as they are (not centred), as in the papers.

    Returns
    -------
    float
        Natural logarithm per sample, unbounded, typically between -2 and 2; higher is better.
        Comparable between encoders on the same samples only.

    Raises
    ------
    InputError
        If shapes disagree, fewer than two classes occur, or neither or both of labels and targets
        are given.

    Notes
    -----
    Cost: one pass over the features, O(n d²), one eigendecomposition, O(d³), shared with other
    metrics. Each column iterates to convergence, from the best of ninety ratios α/β that move with
    the scale of the features, on which the value does not depend.

    Differences from public code, the authors' default form included: that sums r logarithms but
    writes ``d ln α``, which is wrong whenever n < d or the features are rank-deficient (on
    500 x 2048 noise it gives +13.2 where -0.69 is right); it stops after a fixed number of
    iterations or at a change of 1 %, which matters on badly scaled features; it starts from
    α = β = 1, from where it may find a lower maximum; some versions carry α
    and β from one class into the next.

    Examples
    --------
    >>> from transferscope.metrics import logme
    >>> round(logme(np.array([[0.0], [0.2], [5.0], [5.2]]), [0, 0, 1, 1]), 6)
    0.055784

    References
    ----------
    You et al., ICML 2021 (arXiv 2102.11005); You et al., JMLR 2022 (arXiv 2110.10545).
    """
    return measure(Embedding(features, labels, targets=targets)).value


@dataclass(frozen=True)
class _Problem:
    """k ridge problems that share one design, in the eigenbasis of the centred scatter.

    ``FᵀF = diag(s) + u uᵀ`` there: `s` of the centred features, `u` = √n times the mean. The basis
    has one vector more than the scatter's rank where the mean points out of its range (always so
    for n ≤ d). `w` is the centred ``Fᵀy``, `b0` = √n ȳ, so ``Fᵀy = w + b0 u``.
    """

    n: int
    s: Array  # (p,)
    u: Array  # (p,)
    w: Array  # (k, p)
    b0: Array  # (k,)
    unexplained: Array  # (k,) squared error of the centred least-squares fit
    norm: Array  # (k,) |y|²


@dataclass(frozen=True)
class _Solution:
    """Everything the evidence is made of, at given ratios t = α/β; (k,) each, m (k, p)."""

    m: Array
    inside: Array  # 1 + uᵀ(S + t)⁻¹u
    gamma: Array  # effective number of parameters
    free: Array  # n - gamma
    error: Array  # |y - Fm|²
    length: Array  # |m|²


def _solve(problem: _Problem, t: Array) -> _Solution:
    """Posterior mean and sums at t = α/β, by a rank-one update of the centred problem."""
    xp = arrays.namespace(t)
    s, u, n = problem.s[None, :], problem.u[None, :], problem.n
    inverse = 1 / (s + t[:, None])
    inside = 1 + xp.sum(u * u * inverse, axis=1)
    slope = (problem.b0 - xp.sum(problem.w * u * inverse, axis=1)) / inside
    pull = u * slope[:, None]
    m = (problem.w + pull) * inverse
    short = xp.where(s > 0, s, 1.0)
    missed = xp.where(s > 0, (pull * s - t[:, None] * problem.w) * inverse, 0.0)
    error = problem.unexplained + xp.sum(missed * missed / short, axis=1) + slope * slope
    error = xp.where(error > NOISE_FLOOR * problem.norm, error, NOISE_FLOOR * problem.norm)
    correction = t * xp.sum((u * inverse) ** 2, axis=1) / inside
    return _Solution(
        m=m,
        inside=inside,
        gamma=xp.sum(s * inverse, axis=1) + correction,
        free=(n - s.shape[1]) + t * xp.sum(inverse, axis=1) - correction,
        error=error,
        length=xp.sum(m * m, axis=1),
    )


def _log_ratio_step(problem: _Problem, log_t: Array) -> Array:
    """ln of MacKay's next α/β."""
    xp = arrays.namespace(log_t)
    at = _solve(problem, xp.exp(log_t))
    tiny = float(xp.finfo(xp.float64).smallest_normal)
    ratio = (at.gamma + tiny) * at.error / ((at.length + tiny) * (at.free + tiny))
    return xp.log(ratio)


def _best_of_grid(problem: _Problem, low: float, high: float) -> Array:
    """The logarithm of t of highest evidence, among steps of `GRID` from low to high, (k,).

    With the posterior mean put in, the error and penalty of `_evidence` are one quadratic form,
    ``yᵀ(I + FFᵀ/t)⁻¹y``, whose sums are matrix products.
    """
    xp = arrays.namespace(problem.s)
    steps = xp.arange(int((high - low) / GRID) + 1, device=arrays.device_of(problem.s))
    x = low + GRID * xp.astype(steps, xp.float64)
    t, s, u = xp.exp(x)[:, None], problem.s[None, :], problem.u[None, :]
    inverse = 1 / (s + t)  # (g, p)
    inside = 1 + xp.sum(u * u * inverse, axis=1)
    left = problem.b0[:, None] - problem.w @ (u * inverse).T  # (k, g)
    of_s = xp.where(s > 0, t * inverse / xp.where(s > 0, s, 1.0), 0.0)
    form = problem.unexplained[:, None] + (problem.w * problem.w) @ of_s.T + left * left / inside
    floor = NOISE_FLOOR * problem.norm[:, None]
    form = xp.where(form > floor, form, floor)
    log_det = xp.sum(xp.log(s + t), axis=1) + xp.log(inside)
    evidence = int(s.shape[1]) * x - log_det - problem.n * xp.log(form)
    return xp.take(x, xp.argmax(evidence, axis=1))


def _maximise(problem: _Problem) -> Array:
    """t = α/β of every column at the maximum of its evidence.

    From the best of ratios `GRID` apart, which move with the scale of the features: the evidence
    may have more than one maximum. MacKay's fixed-point iteration on ln t, accelerated by the
    secant through the last two steps (Anderson, depth one), kept between the nearest points known
    to lie on either side of the maximum, and held between bounds beyond which the evidence is flat.
    """
    xp = arrays.namespace(problem.s)
    scale = math.log(float(xp.max(problem.s + problem.u * problem.u)))
    low, high = scale - 60.0, scale + 30.0
    x = _best_of_grid(problem, low, high)
    below, above = x - xp.inf, x + xp.inf
    step = xp.clip(_log_ratio_step(problem, x), low, high) - x
    last_x, last_step = x, step
    x = x + step
    for _ in range(MAX_ITERATIONS):
        step = xp.clip(_log_ratio_step(problem, x), low, high) - x
        if float(xp.max(xp.abs(step))) < TOLERANCE:
            break
        below = xp.where(step > 0, xp.maximum(below, x), below)
        above = xp.where(step < 0, xp.minimum(above, x), above)
        bend = step - last_step
        leap = -step * (x - last_x) / xp.where(bend == 0, 1.0, bend)
        # trust the secant where it goes the way of the plain step and not absurdly far: the
        # evidence has no two maxima within LONGEST_LEAP
        plain = xp.abs(step)
        far = xp.minimum(xp.where(plain > LONGEST_LEAP, plain, LONGEST_LEAP), 20 * plain)
        leap = xp.where((bend != 0) & (leap * step > 0), leap, step)
        last_x, last_step = x, step
        x = xp.clip(x + xp.sign(leap) * xp.minimum(xp.abs(leap), far), low, high)
        outside = ((x >= above) | (x <= below)) & (plain > TOLERANCE)
        x = xp.where(outside, (last_x + xp.where(step > 0, above, below)) / 2, x)
    return xp.exp(x)


def _evidence(problem: _Problem, t: Array, at: _Solution) -> tuple[Array, Array, Array]:
    """Log evidence per sample of each column, with its α and β."""
    xp = arrays.namespace(t)
    n = problem.n
    # β at its maximum for this t; at convergence the same as (n - γ)/error
    beta = n / (at.error + t * at.length)
    log_det = xp.sum(xp.log(problem.s[None, :] + t[:, None]), axis=1) + xp.log(at.inside)
    p = problem.s.shape[0]
    evidence = (p * xp.log(t) - log_det + n * xp.log(beta) - n - n * math.log(2 * math.pi)) / 2
    return evidence / n, t * beta, beta


def _problem(embedding: Embedding) -> tuple[_Problem, Array, Array]:
    """The ridge problems of all columns, the mean in their basis, and the columns' means."""
    total, (s, vectors) = embedding.total, embedding.spread.spectrum
    xp = arrays.namespace(s)
    n = embedding.n_samples
    target_mean, scatter, w = embedding.columns
    unexplained = scatter - xp.sum(w * w / s[None, :], axis=1)
    mean = vectors.T @ total.mean
    outside = total.mean - vectors @ mean
    beyond = float(xp.sqrt(xp.sum(outside * outside)))
    length = float(xp.sqrt(xp.sum(total.mean * total.mean)))
    if beyond > 1e-7 * length:
        none = xp.zeros_like(s[:1])
        s, mean = xp.concat([s, none]), xp.concat([mean, none + beyond])
        w = xp.concat([w, xp.zeros_like(w[:, :1])], axis=1)
    problem = _Problem(
        n=n,
        s=s,
        u=math.sqrt(n) * mean,
        w=w,
        b0=math.sqrt(n) * target_mean,
        unexplained=xp.where(unexplained > 0, unexplained, 0.0),
        norm=scatter + n * target_mean**2,
    )
    return problem, mean, scatter


def measure(embedding: Embedding) -> Measurement:
    """LogME of an embedding; see `logme`."""
    problem, mean, scatter = _problem(embedding)
    xp = arrays.namespace(problem.s)
    t = _maximise(problem)
    at = _solve(problem, t)
    evidence, _, beta = _evidence(problem, t, at)
    varying = varies(scatter / problem.n, problem.b0 / math.sqrt(problem.n))
    n_columns = float(xp.sum(xp.astype(varying, xp.float64)))
    value = float(xp.sum(xp.where(varying, evidence, 0.0))) / n_columns
    warnings = embedding.shared_warnings()
    if n_columns < scatter.shape[0]:
        warnings.append(f"{scatter.shape[0] - int(n_columns)} constant target columns left out")
    if bool(xp.any(varying & (at.error <= NOISE_FLOOR * problem.norm))):
        warnings.append("saturated: some columns are predicted without error")

    def influence() -> Array:
        rows = embedding.influence_features + mean[: embedding.spread.spectrum.values.shape[0]]
        if problem.s.shape[0] > rows.shape[1]:
            rows = xp.concat([rows, xp.zeros_like(rows[:, :1]) + mean[-1]], axis=1)
        inverse = 1 / (problem.s[None, :] + t[:, None])
        spread = (rows * rows) @ inverse.T
        spread = spread - (rows @ (problem.u[None, :] * inverse).T) ** 2 / at.inside[None, :]
        fitted = rows @ at.m.T
        if isinstance(embedding.targets, Classes):
            y = arrays.one_hot(embedding.influence_labels, int(problem.b0.shape[0]))
        else:
            y = xp.take(embedding.numbers, embedding.influence_rows, axis=0)
        terms = (xp.log(beta / (2 * math.pi)) - spread - beta * (y - fitted) ** 2) / 2
        terms = xp.sum(xp.where(varying[None, :], terms, 0.0), axis=1) / n_columns
        return terms - xp.mean(terms)

    return Measurement(value, influence, tuple(warnings))


ABOUT = About("log evidence of Bayesian linear regression", "unbounded", "You et al., ICML 2021")
BEHAVIOUR = Behaviour(changes_with=("duplicated rows", "shift"))
LOGME = Metric("logme", measure, ABOUT, tasks=EVERYTHING, from_moments=True, behaviour=BEHAVIOUR)
