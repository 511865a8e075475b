"""What is believed of candidates while they are fine-tuned: one Gaussian over their accuracies.

θ_c is the accuracy that candidate c reaches after fine-tuning, in the mean over seeds (R² for
regression; both are means over samples). Before anything is measured it is

    θ ~ N(m, diag(s²) + LEVEL² 11ᵀ)

the prior of each, and a level that may be off for all of them alike. A run that is paused after
rung r, with scores u of mean y on the n samples of a held-out part, is the observation

    y + g_r h + ε,   h = 1 - y,   ε ~ N(0, C/n + v_r² h hᵀ + D),   D_c = h_c² t_r² + σ_c² SEED²

C is the covariance of scores over samples: two candidates that err on the same samples are told
apart better than two shares of the same size, and runs on other parts are independent. g_r is the
share of its error that a run still loses after rung r, t_r how much that differs from run to run,
v_r how little is known of it for all. σ_c is the standard deviation of a single score, and SEED is
by how much of it seeds change the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]

#: Standard deviation of what the priors of all candidates may be off by together.
LEVEL = 0.1
#: Standard deviation of accuracies over seeds, in standard deviations of a score: the truth table
#: of benchmarks/agreement.py has 0.02 to 0.04.
SEED = 0.03
#: Share of its error that a run loses while its epochs double, how much that differs from one data
#: set to another, and from run to run (benchmarks/results/selection.md). What is expected of a
#: difference counts as much as `CERTAINTY` runs.
LOSS, OF_DATASETS, OF_RUNS = 0.15, 0.15, 0.07
CERTAINTY = 4
#: Samples that are added to each candidate's, half of them right: an accuracy of 1 on few samples
#: is not certain (Agresti and Coull).
ADDED = 4
DRAWS = 4000


@dataclass(frozen=True)
class Observation:
    """Scores of a paused run on its held-out part."""

    candidate: int
    part: int
    rung: int
    scores: Numbers

    @property
    def value(self) -> float:
        """Accuracy, or R²."""
        return float(self.scores.mean())


@dataclass(frozen=True)
class Outlook:
    """What is ahead of a run at a rung: g, t and v of the docstring of this module."""

    gain: float
    doubt: float
    common: float


@dataclass(frozen=True)
class Belief:
    """A Gaussian over the accuracies of candidates, and draws of it."""

    mean: Numbers
    covariance: Numbers
    draws: Numbers

    @property
    def sd(self) -> Numbers:
        """Standard deviation of each."""
        found: Numbers = np.sqrt(np.diag(self.covariance))
        return found

    @property
    def leader(self) -> int:
        """The highest mean; of equal ones the first."""
        return int(np.argmax(self.mean))

    @property
    def p_best(self) -> Numbers:
        """Probability that no other is better."""
        counts = np.bincount(self.draws.argmax(axis=1), minlength=len(self.mean))
        shares: Numbers = counts / len(self.draws)
        return shares

    @property
    def regret(self) -> Numbers:
        """Accuracy that taking each is expected to lose against the best."""
        found: Numbers = (self.draws.max(axis=1)[:, None] - self.draws).mean(axis=0)
        return found

    def gain(self, over: int) -> Numbers:
        """By how much each is expected to be better than another one, where it is."""
        found: Numbers = np.maximum(self.draws - self.draws[:, [over]], 0.0).mean(axis=0)
        return found


def believe(
    mean: Numbers,
    sd: Numbers,
    observations: Sequence[Observation],
    *,
    outlook: Sequence[Outlook],
    binary: bool,
    seed: int = 0,
) -> Belief:
    """Combine what was expected of candidates with what their runs show.

    Parameters
    ----------
    mean, sd : ndarray, shape (k,)
        The prior.
    observations : sequence of Observation
    outlook : sequence of Outlook
        Per rung.
    binary : bool
        Whether scores are 0 or 1.
    seed : int
        Of the draws.

    Returns
    -------
    Belief
    """
    prior = np.diag(sd**2) + LEVEL**2
    if observations:
        which = np.eye(len(mean))[[one.candidate for one in observations]]
        ahead = [outlook[one.rung] for one in observations]
        value = np.array([one.value for one in observations])
        seen = value + np.array([one.gain for one in ahead]) * (1 - value)
        unit = np.array([spread(one.scores, binary=binary) for one in observations])
        doubt = (1 - value) * np.array([one.doubt for one in ahead])
        common = (1 - value) * np.array([one.common for one in ahead])
        noise = sampling_noise(observations, binary=binary)
        noise += np.diag(doubt**2 + (unit * SEED) ** 2) + np.outer(common, common)
        weights = np.linalg.solve(which @ prior @ which.T + noise, which @ prior).T
        mean = mean + weights @ (seen - which @ mean)
        prior = prior - weights @ which @ prior
        prior = (prior + prior.T) / 2
    values, vectors = np.linalg.eigh(prior)
    normal = np.random.default_rng([seed, 2]).standard_normal((DRAWS, len(mean)))
    draws = mean + normal @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    return Belief(mean, prior, draws)


def sampling_noise(observations: Sequence[Observation], *, binary: bool) -> Numbers:
    """Covariance of the observed means that comes from the held-out samples being few."""
    k, added = len(observations), ADDED if binary else 0
    noise = np.zeros((k, k))
    for i, one in enumerate(observations):
        for j, other in enumerate(observations):
            if one.part == other.part:
                n = len(one.scores) + added
                apart = (one.scores - one.value) @ (other.scores - other.value)
                noise[i, j] = apart / n**2
        noise[i, i] = spread(one.scores, binary=binary) ** 2 / (len(one.scores) + added)
    return noise


def spread(scores: Numbers, *, binary: bool) -> float:
    """Standard deviation of a single score."""
    if binary:
        share = (scores.sum() + ADDED / 2) / (len(scores) + ADDED)
        return math.sqrt(share * (1 - share))
    return max(float(scores.std(ddof=1)) if len(scores) > 1 else 1.0, 1e-3)


def look_ahead(
    climbs: Sequence[Sequence[tuple[float, float]]], epochs: Sequence[int]
) -> list[Outlook]:
    """What is ahead at each rung, from what runs gained that got further.

    Parameters
    ----------
    climbs : sequence of sequence of (float, float)
        Per step from one rung to the next the accuracies of runs before and after it.
    epochs : sequence of int
        Of each rung.

    Returns
    -------
    list of Outlook
        Per rung; of the last one nothing is ahead.
    """
    found = [Outlook(0.0, 0.0, 0.0)]
    for rung in reversed(range(len(epochs) - 1)):
        doublings = math.log2(epochs[rung + 1] / epochs[rung])
        usual, between, within = (
            LOSS * doublings,
            OF_DATASETS**2 * doublings,
            OF_RUNS**2 * doublings,
        )
        before, after = np.array(climbs[rung], dtype=float).reshape(-1, 2).T
        n, error, made = len(before), 1 - before, after - before
        weight = float((error**2).sum())
        gain = usual
        if weight > 0:
            # as if `between` had been seen in errors of the same size
            known = within / between * weight / n
            gain = (float(made @ error) + known * usual) / (weight + known)
            squares = n * float(((made - gain * error) ** 2).sum()) / weight
            within = (CERTAINTY * within + squares) / (CERTAINTY + n)
        common = between / (1 + n * between / within)
        next_one = found[0]
        found.insert(
            0,
            Outlook(
                1 - (1 - gain) * (1 - next_one.gain),
                math.hypot(next_one.doubt, math.sqrt(within)),
                math.hypot(next_one.common, math.sqrt(common)),
            ),
        )
    return found
