"""From a probe of the user's data to the accuracy after fine-tuning on them.

The probe and fine-tuning are two tasks of the model (`_model.py`) on the same data. They share the
standing of the encoders in full, and `PROBE_ALIKE` of factors and residuals. The spread of
fine-tuned accuracies is the probe's times a factor that is known roughly, their level is the
probe's and a gain that is known roughly. On the logit scale, of encoder i:

    probe       x_i = a + s (w_i0 + w_i · f + e_i) + noise
    fine-tuned  y_i = a + gain + s exp(stretch) (w_i0 + w_i · f' + e'_i)

The noise of the probe is that of its finite sample, the same samples for all encoders.

Published results may say nothing about these data. So there is a second reading, in which no
encoder has a standing of its own, and the probe weighs the two by how likely each makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import expit

from transferscope.knowledge._conditioning import GRID, KIN, Prior
from transferscope.knowledge._model import KINDS, Model, logit
from transferscope.knowledge._names import Candidates
from transferscope.numerics.arrays import NumpyArray

#: Share of factors and residuals that a probe and fine-tuning on the same data have in common.
PROBE_ALIKE = 0.4
#: What fine-tuning adds to the logit of a probe's accuracy, ``exp(N(a, b²)) - c``: seldom less than
#: nothing, at times a lot.
GAIN = (-0.45, 0.7, 0.2)
#: Logarithm of the spread of fine-tuned logits over that of a probe's: mean, standard deviation.
STRETCH = (-0.3, 0.4)
#: Standard deviation of a task's level, on the logit scale: the probe tells it.
LEVEL = 2.5
#: Standard deviation of what more samples add to the logits of all probes.
MORE_SAMPLES = 1.0
#: Probability, before the probe, that published results say nothing about these data.
FOREIGN = 0.1
#: Joint draws of all encoders, and how many numbers they may be: of very many encoders fewer.
DRAWS, LEAST_DRAWS, NUMBERS = 4000, 1000, 2_000_000
#: How often the noise of a probe is looked at anew, and how little logits then move at the end.
LOOKS, NEAR = 12, 0.01
#: Steps of the stretch, in standard deviations, and their probabilities.
STEPS = np.array([-1.5, -0.5, 0.5, 1.5])
SHARES = np.exp(-(STEPS**2) / 2) / np.exp(-(STEPS**2) / 2).sum()


@dataclass(frozen=True)
class Probe:
    """What a probe measured on the user's data.

    Attributes
    ----------
    rows : (m,) array of int
        Which encoders, as rows of the model.
    accuracy : (m,) array
        Shares.
    correlation : (m, m) array
        Of the accuracies of two encoders, over samples drawn anew.
    n_samples : (m,) array of int
        How many samples each accuracy is of. An encoder may have several accuracies, of more and
        more samples; those of equally many samples are compared with one another alone.
    chance : float
        Share of the most frequent class, which naming it always reaches. Leaving one out of few
        samples that tell nothing finds less than that, and far less: it tells no more than chance.
    """

    rows: NumpyArray
    accuracy: NumpyArray
    correlation: NumpyArray
    n_samples: NumpyArray
    chance: float = 0.0

    def logits(self, about: NumpyArray | None = None) -> tuple[NumpyArray, NumpyArray]:
        """The accuracies as logits, and their covariance.

        Half a sample is added to either side: an accuracy of 1 is as sure as its sample is large.

        Parameters
        ----------
        about : (m,) array, optional
            Logits about which the noise is taken and the accuracies are made linear; those of the
            accuracies themselves if not given.

        Returns
        -------
        logits : (m,) array
        covariance : (m, m) array
        """
        n = self.n_samples.astype(float)
        share = (np.maximum(self.accuracy, self.chance) * n + 0.5) / (n + 1)
        here = share if about is None else expit(about)
        slope = here * (1 - here)
        x = logit(share) if about is None else about + (share - here) / slope
        deviation = 1 / np.sqrt(slope * n)
        covariance = deviation[:, None] * self.correlation * deviation
        same = (n[:, None] == n) & (n > n.min(initial=np.inf))
        return x, covariance + MORE_SAMPLES**2 * same


def foretell(
    model: Model, probe: Probe, *, seed: int = 0, draws: int = DRAWS
) -> tuple[NumpyArray, float]:
    """Draw the accuracy after fine-tuning of every encoder of the model.

    Parameters
    ----------
    model : Model
        Of the encoders to choose from, and of those that were probed.
    probe : Probe
        Of any number of encoders; none leaves what published results say.
    seed : int
    draws : int

    Returns
    -------
    accuracies : (draws, n) array
        Joint draws, shares; none is below chance.
    foreign : float
        Probability that published results say nothing about these data.
    """
    x, noise = probe.logits()
    probed, tuned = (Prior.of(model, KINDS.index(kind)) for kind in ("probe", "fine-tuned"))
    readings = [
        _Reading.of(*priors, task, probe.rows, x, noise)
        for priors in ((probed, tuned), (_foreign(probed), _foreign(tuned)))
        for task in probed.tasks()
    ]
    log_mass = np.array([one.evidence for one in readings])
    log_mass -= np.tile((GRID**2).sum(axis=1) / 2, 2)
    log_mass += np.repeat(np.log([1 - FOREIGN, FOREIGN]), len(GRID))
    mass = np.exp(log_mass - log_mass.max())
    mass /= mass.sum()
    ends = np.round(np.cumsum(np.outer(mass, SHARES)) * draws).astype(int)
    counts = np.diff(ends, prepend=0).reshape(-1, len(STEPS))
    rng = np.random.default_rng(seed)
    logits = []
    for one, row in zip(readings, counts, strict=True):
        if row.any():
            reading = one.settled(probe)
            logits += [
                reading.draw(float(np.exp(STRETCH[0] + STRETCH[1] * step)), int(count), rng)
                for step, count in zip(STEPS, row, strict=True)
                if count
            ]
    accuracies = np.maximum(expit(np.concatenate(logits)), probe.chance)
    return accuracies, float(mass[len(GRID) :].sum())


def _foreign(prior: Prior) -> Prior:
    """The prior of encoders that all look alike; they scatter as published ones do."""
    total = prior.standing.var() + (prior.doubt + (prior.loadings**2).sum(axis=1) + prior.own)
    half = np.full(len(total), total.mean() / 2)
    nothing = np.zeros_like(prior.loadings)
    middle = np.full(len(total), prior.standing.mean())
    alone = np.tile(np.arange(len(total)), (2, 1)).T
    return replace(prior, standing=middle, doubt=half, own=half, loadings=nothing, kin=alone)


@dataclass(frozen=True)
class _Reading:
    """One reading of the probe: which prior, and which spread and roughness of its task.

    Attributes
    ----------
    probed, tuned : Prior
        Of the two kinds of measurement.
    spread, roughness : float
        Of the probe's task.
    rows : (m,) array of int
    before : (m, m) array
        Covariance of the probe's logits without the noise of the finite sample.
    off : (m,) array
        How far the probe's logits are off their mean, divided by `root`.
    root : (m, m) array
        Cholesky factor of their covariance.
    noise : (m, m) array
        Cholesky factor of the part of it that is the finite sample's.
    evidence : float
        Log density of the probe's logits.
    """

    probed: Prior
    tuned: Prior
    spread: float
    roughness: float
    rows: NumpyArray
    before: NumpyArray
    off: NumpyArray
    root: NumpyArray
    noise: NumpyArray
    evidence: float

    @classmethod
    def of(
        cls,
        probed: Prior,
        tuned: Prior,
        task: NumpyArray,
        rows: NumpyArray,
        x: NumpyArray,
        noise: NumpyArray,
    ) -> _Reading:
        spread, roughness = map(float, task)
        loadings, deviation = probed.loadings[rows], np.sqrt(roughness * probed.own[rows])
        covariance = loadings @ loadings.T
        covariance += probed.kinship(rows, rows) * deviation[:, None] * deviation
        covariance += (rows[:, None] == rows) * probed.doubt[rows]
        before = spread**2 * covariance + LEVEL**2
        root = np.linalg.cholesky(before + noise)
        off = solve_triangular(root, x - probed.mean(rows, spread), lower=True)
        evidence = float(-off @ off / 2 - np.log(np.diag(root)).sum())
        sample = np.linalg.cholesky(noise + 1e-9 * np.eye(len(x)))
        return cls(probed, tuned, spread, roughness, rows, before, off, root, sample, evidence)

    def settled(self, probe: Probe) -> _Reading:
        """The same, with the noise that the sample has where this reading finds the accuracies.

        All of many samples right is hardly possible below a certain accuracy, though as a logit it
        is known badly: noise taken about the observed logit would draw it far down.
        """
        mean, now = self.probed.mean(self.rows, self.spread), self
        about = np.full(len(mean), np.inf)
        for _ in range(LOOKS):
            last = about
            pull = solve_triangular(now.root, now.off, lower=True, trans="T")
            about = mean + self.before @ pull
            if len(about) == 0 or abs(about - last).max() < NEAR:
                break
            x, noise = probe.logits(about)
            root = np.linalg.cholesky(self.before + noise)
            now = replace(
                self,
                off=solve_triangular(root, x - mean, lower=True),
                root=root,
                noise=np.linalg.cholesky(noise + 1e-9 * np.eye(len(x))),
            )
        return now

    def draw(self, stretch: float, count: int, rng: np.random.Generator) -> NumpyArray:
        """Joint fine-tuned logits (count, n): drawn as before the probe, then moved by it."""
        probed, tuned, rows = self.probed, self.tuned, self.rows
        n, k = tuned.loadings.shape
        s = self.spread * stretch
        groups = [np.unique(group, return_inverse=True)[1] for group in tuned.kin.T]

        def pair(size: int) -> tuple[NumpyArray, NumpyArray]:
            """Standard normals of the two tasks, correlated by `PROBE_ALIKE`."""
            common, one, other = rng.standard_normal((3, count, size))
            shared, alone = np.sqrt(PROBE_ALIKE) * common, np.sqrt(1 - PROBE_ALIKE)
            return shared + alone * one, shared + alone * other

        level = LEVEL * rng.standard_normal((count, 1))
        standing = rng.standard_normal((count, n))
        factors = pair(k)
        own = [np.sqrt(1 - KIN.sum()) * e for e in pair(n)]
        for share, group in zip(KIN, groups, strict=True):
            for e, of_group in zip(own, pair(int(group.max()) + 1), strict=True):
                e += np.sqrt(share) * of_group[:, group]
        drawn = [
            level
            + scale
            * (
                standing * np.sqrt(prior.doubt)
                + f @ prior.loadings.T
                + e * np.sqrt(self.roughness * prior.own)
            )
            for scale, prior, f, e in zip(
                (self.spread, s), (probed, tuned), factors, own, strict=True
            )
        ]
        seen = drawn[0][:, rows] + rng.standard_normal((count, len(rows))) @ self.noise.T
        gain = np.exp(GAIN[0] + GAIN[1] * rng.standard_normal((count, 1))) - GAIN[2]
        cross = PROBE_ALIKE * (probed.loadings[rows] @ tuned.loadings.T)
        deviation = [np.sqrt(self.roughness * prior.own) for prior in (probed, tuned)]
        kinship = probed.kinship(rows, slice(None))
        cross += PROBE_ALIKE * kinship * deviation[0][rows][:, None] * deviation[1]
        cross[np.arange(len(rows)), rows] += np.sqrt(probed.doubt * tuned.doubt)[rows]
        pull = solve_triangular(self.root, self.spread * s * cross + LEVEL**2, lower=True)
        mean = probed.mean(slice(None), self.spread) - self.spread * probed.standing
        mean = mean + s * tuned.standing
        missed = self.off - solve_triangular(self.root, seen.T, lower=True).T
        return np.asarray(mean + drawn[1] + gain + missed @ pull)


class Foresight:
    """What is known of the candidates of one choice, whatever they are.

    Parameters
    ----------
    names : sequence of str
        Of the candidates. One that nobody has heard of is expected to be like any other of its
        modality, with all the doubt of that; a checkpoint like the family of its architecture.
    modality : str
        ``"text"``; anything else is taken for images.

    Attributes
    ----------
    known : list of KnownEncoder
    remarks : tuple of str
        What was assumed of names.
    """

    def __init__(self, names: Sequence[str], modality: str) -> None:
        candidates = Candidates("text" if modality == "text" else "image")
        rows = [candidates.row_of_any(name) for name in names]
        self.remarks = tuple(dict.fromkeys(candidates.remarks))
        self.known = [candidates.encoders[row] for row in rows]
        self._model = candidates.model.take(np.array(rows, int))

    def given(self, among: NumpyArray, probe: Probe, *, seed: int = 0) -> tuple[NumpyArray, float]:
        """Draw the accuracy after fine-tuning of some candidates.

        Parameters
        ----------
        among : (n,) array of int
            Which candidates; what was probed is among them.
        probe : Probe
            Its rows are places in `among`.
        seed : int

        Returns
        -------
        accuracies : (draws, n) array
        foreign : float
        """
        draws = min(DRAWS, max(LEAST_DRAWS, NUMBERS // max(len(among), 1)))
        return foretell(self._model.take(among), probe, seed=seed, draws=draws)
