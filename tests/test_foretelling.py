"""From a probe to the accuracy after fine-tuning: against the formula written out in full."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from transferscope.knowledge import Foresight, Probe, known_encoders
from transferscope.knowledge._foretelling import (
    FOREIGN,
    GAIN,
    LEVEL,
    MORE_SAMPLES,
    PROBE_ALIKE,
    STRETCH,
    foretell,
)
from transferscope.knowledge._model import Model

N, K = 4, 2
DRAWS = 200_000
#: What the formula is summed over, in standard deviations.
SPREADS, ROUGHNESSES = np.linspace(-2.4, 2.4, 9), np.linspace(-2.0, 2.0, 5)
STRETCHES = np.array([-1.5, -0.5, 0.5, 1.5])


def small_model(seed: int = 0) -> Model:
    rng = np.random.default_rng(seed)
    root = 0.3 * rng.standard_normal((N, 1 + K, 1 + K))
    return Model(
        weights=rng.standard_normal((N, 1 + K)) * [1.0, 0.6, 0.4],
        covariance=root @ root.transpose(0, 2, 1),
        noise=rng.uniform(0.05, 0.3, N),
        kin=np.array([[0, 0], [0, 1], [1, 1], [2, 2]]),
        kind_factors=np.array([[0.0, 0.0], [0.7, -0.4]]),
        log_spread=np.array([-0.3, 0.4]),
        log_roughness=np.array([0.1, 0.2, 0.5]),
        level=np.array([1.2, 0.5, 0.8]),
        scatter=np.eye(1 + K),
    )


MODEL = small_model()


def probe_of(rows, accuracy, n_samples, correlation=None) -> Probe:
    m = len(rows)
    correlation = np.eye(m) if correlation is None else correlation
    return Probe(
        np.array(rows, int), np.array(accuracy, float), correlation, np.array(n_samples, int)
    )


def literal(model: Model, probe: Probe) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of all fine-tuned logits, and the probability of the second reading.

    Every random number of the model has a place in one vector; logits are that vector times a
    matrix, and what was seen conditions it.
    """
    m = len(probe.rows)
    share = (probe.accuracy * probe.n_samples + 0.5) / (probe.n_samples + 1)
    inside = np.clip(share, 1e-3, 1 - 1e-3)
    x = np.log(inside / (1 - inside))

    def noise_of(share):
        noise = np.zeros((m, m))
        for i, j in itertools.product(range(m), repeat=2):
            noise[i, j] = probe.correlation[i, j] / np.sqrt(
                probe.n_samples[i] * share[i] * (1 - share[i])
            )
            noise[i, j] /= np.sqrt(probe.n_samples[j] * share[j] * (1 - share[j]))
            first = probe.n_samples.min()
            if probe.n_samples[i] == probe.n_samples[j] > first:
                noise[i, j] += MORE_SAMPLES**2
        return noise

    noise = noise_of(share)
    at = [np.r_[1.0, factors] for factors in model.kind_factors]
    standing = [model.weights @ a for a in at]
    doubt = [np.array([a @ c @ a for c in model.covariance]) for a in at]
    loadings = model.weights[:, 1:]
    own = model.noise + np.array([np.trace(c[1:, 1:]) for c in model.covariance])
    # a quarter of it is the family's, a quarter the publisher's
    kinship = 0.5 * np.eye(N)
    for i, j, k in itertools.product(range(N), range(N), range(2)):
        kinship[i, j] += 0.25 * (model.kin[i, k] == model.kin[j, k])
    readings = []
    for kind in (0, 1):
        total = standing[kind].var() + (doubt[kind] + (loadings**2).sum(axis=1) + own).mean()
        readings.append((np.full(N, standing[kind].mean()), np.full(N, total / 2)))
    known = (standing, doubt, [loadings] * 2, [own] * 2)
    foreign = (
        [mean for mean, _ in readings],
        [half for _, half in readings],
        [np.zeros((N, K))] * 2,
        [half for _, half in readings],
    )

    found = []
    for (reading, prior), a, b, c in itertools.product(
        (((known), 1 - FOREIGN), ((foreign), FOREIGN)), SPREADS, ROUGHNESSES, STRETCHES
    ):
        mean, unsure, loads, own_of = reading
        spread = np.exp(model.log_spread[0] + model.log_spread[1] * a)
        centre, slope, width = model.log_roughness
        rough = np.exp(centre + slope * np.log(spread) + width * b)
        s = spread * np.exp(STRETCH[0] + STRETCH[1] * c)
        level = model.level[0] + model.level[1] * np.log(spread)
        # the vector: level, standings, factors of both tasks, residuals of both tasks
        size = 1 + N + 2 * K + 2 * N
        scatter = np.eye(size)
        related = np.eye(N) if reading is foreign else kinship
        for start, block in ((1 + N, np.eye(K)), (1 + N + 2 * K, related)):
            both = np.kron(np.array([[1, PROBE_ALIKE], [PROBE_ALIKE, 1]]), block)
            scatter[start : start + len(both), start : start + len(both)] = both
        seen, tuned = np.zeros((2, N, size))
        for kind, (matrix, scale) in enumerate(((seen, spread), (tuned, s))):
            matrix[:, 0] = LEVEL
            matrix[:, 1 : 1 + N] = np.diag(scale * np.sqrt(unsure[kind]))
            at_factors = 1 + N + kind * K
            matrix[:, at_factors : at_factors + K] = scale * loads[kind]
            at_own = 1 + N + 2 * K + kind * N
            matrix[:, at_own : at_own + N] = np.diag(scale * np.sqrt(rough * own_of[kind]))
        before = level + s * mean[1]
        covariance = tuned @ scatter @ tuned.T
        rows = seen[probe.rows]
        expected = (level + spread * mean[0])[probe.rows]
        total = rows @ scatter @ rows.T + noise
        log_mass = -(a**2 + b**2 + c**2) / 2 + np.log(prior)
        log_mass -= (x - expected) @ np.linalg.solve(total, x - expected) / 2
        log_mass -= np.linalg.slogdet(total)[1] / 2
        # the accuracies as they would be linear about the logits that are found from them
        alone, seen_x, seen_noise = rows @ scatter @ rows.T, x, noise
        for _ in range(100):
            about = expected + alone @ np.linalg.solve(alone + seen_noise, seen_x - expected)
            here = 1 / (1 + np.exp(-about))
            seen_x = about + (share - here) / (here * (1 - here))
            seen_noise = noise_of(here)
        gain = np.linalg.solve(alone + seen_noise, rows @ scatter @ tuned.T).T
        after = before + gain @ (seen_x - expected)
        left = covariance - gain @ (rows @ scatter @ tuned.T)
        found.append((log_mass, after, left, reading is foreign))
    mass = np.exp([one[0] for one in found] - np.max([one[0] for one in found]))
    mass /= mass.sum()
    means = np.array([one[1] for one in found])
    mean = mass @ means
    off = means - mean
    covariance = np.einsum("g,gij->ij", mass, [one[2] for one in found])
    covariance += np.einsum("g,gi,gj->ij", mass, off, off)
    # what fine-tuning adds is log-normal, and the same for all
    added = np.exp(GAIN[0] + GAIN[1] ** 2 / 2)
    covariance += added**2 * np.expm1(GAIN[1] ** 2)
    return mean + added - GAIN[2], covariance, float(mass @ [one[3] for one in found])


CASES = {
    "nothing": probe_of([], [], []),
    "one": probe_of([2], [0.9], [300]),
    "two that err alike": probe_of([0, 3], [0.62, 0.9], [60, 60], np.array([[1, 0.8], [0.8, 1]])),
    "two looks of one, one of another": probe_of([1, 2, 1], [0.7, 0.8, 0.76], [100, 100, 900]),
    "full looks of two": probe_of(
        [1, 2, 1, 2],
        [0.7, 0.8, 0.76, 0.78],
        [100, 100, 900, 900],
        np.kron(np.eye(2), [[1, 0.5], [0.5, 1]]),
    ),
    "unlike what is known": probe_of([0, 1, 2, 3], [0.999, 0.02, 0.02, 0.999], [5_000] * 4),
    "nobody fails, somebody always": probe_of([0, 1], [1.0, 0.0], [40, 40]),
    "every sample there is": probe_of([0, 1], [0.8, 0.6], [10**9, 10**9]),
}


@pytest.mark.parametrize("case", CASES)
def test_draws_are_those_of_the_formula(case):
    mean, covariance, foreign = literal(MODEL, CASES[case])
    accuracies, said = foretell(MODEL, CASES[case], seed=1, draws=DRAWS)
    assert accuracies.shape == (DRAWS, N)
    assert ((accuracies > 0) & (accuracies < 1)).all()
    assert said == pytest.approx(foreign, rel=1e-6)
    logits = np.log(accuracies) - np.log1p(-accuracies)
    off = logits - mean
    # five standard errors, and what rounding the number of draws of each cell may do
    error = np.sqrt(np.diag(covariance) / DRAWS)
    np.testing.assert_array_less(np.abs(off.mean(axis=0)), 5 * error + 3e-3)
    for i, j in itertools.combinations_with_replacement(range(N), 2):
        products = off[:, i] * off[:, j]
        error = 5 * products.std() / np.sqrt(DRAWS) + 5e-3
        assert products.mean() == pytest.approx(covariance[i, j], abs=error), (i, j)


def test_the_cases_tell_readings_apart():
    """The comparison above would be of little worth if one reading had all the weight."""
    foreign = {case: literal(MODEL, probe)[2] for case, probe in CASES.items()}
    assert foreign["nothing"] == pytest.approx(FOREIGN)
    assert foreign["unlike what is known"] > 0.5
    assert foreign["two that err alike"] < 0.5
    assert sum(0.01 < share < 0.99 for share in foreign.values()) > 3


def test_the_better_the_probe_the_more_is_expected_and_more_so_of_many_samples():
    def expected(accuracy: float, n: int) -> float:
        accuracies, _ = foretell(MODEL, probe_of([0, 1], [accuracy, 0.7], [n, n]), draws=20_000)
        return float((accuracies[:, 0] - accuracies[:, 1]).mean())

    few, many = (np.array([expected(a, n) for a in (0.6, 0.75, 0.9)]) for n in (20, 10_000))
    assert (np.diff(few) > 0.01).all()
    assert (np.diff(many) > np.diff(few)).all()


def test_all_of_many_samples_right_is_believed():
    """As a logit such an accuracy is known badly, but it is hardly possible far below."""
    accuracies, _ = foretell(MODEL, probe_of([0, 1, 2], [1.0, 0.5, 0.5], [1000] * 3))
    assert accuracies.mean(axis=0)[0] > 0.93
    assert (accuracies.argmax(axis=1) == 0).mean() > 0.8


def test_the_seed_decides_and_nothing_else():
    probe = CASES["one"]
    one, two, other = (foretell(MODEL, probe, seed=seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one.mean(axis=0), other.mean(axis=0), atol=0.03)


# --- whatever the candidates are ----------------------------------------------------------------


def any_known() -> str:
    return next(
        one.name for one in known_encoders().values() if "image" in one.modalities and one.usual
    )


def test_foresight_of_known_and_unknown_names():
    known = any_known()
    foresight = Foresight([known, "mine", "checkpoint:w.pth?arch=resnet50&x=1", "other"], "image")
    assert [one.name for one in foresight.known] == [
        known, "mine", "checkpoint:w.pth?arch=resnet50&x=1", "other",
    ]  # fmt: skip
    assert [one.n_results > 0 for one in foresight.known] == [True, False, False, False]
    everything, foreign = foresight.given(np.arange(4), CASES["nothing"], seed=0)
    assert everything.shape[1] == 4
    assert foreign == pytest.approx(FOREIGN)
    # two that nobody has heard of are alike, but for the draws
    mean, deviation = everything.mean(axis=0), everything.std(axis=0)
    assert mean[1] == pytest.approx(mean[3], abs=0.02)
    assert deviation[1] == pytest.approx(deviation[3], abs=0.02)


def test_foresight_of_some_candidates():
    foresight = Foresight(["a", "b", "c"], "image")
    probe = probe_of([1], [0.95], [1_000])
    two, _ = foresight.given(np.array([0, 2]), probe)
    three, _ = foresight.given(np.arange(3), probe_of([2], [0.95], [1_000]))
    assert two.shape[1] == 2
    assert two.mean(axis=0) == pytest.approx(three.mean(axis=0)[[0, 2]], abs=0.03)


@pytest.mark.parametrize("modality", ["image", "text", "array"])
def test_every_modality_has_a_foresight(modality):
    foresight = Foresight(["mine"], modality)
    accuracies, _ = foresight.given(np.array([0]), probe_of([0], [0.7], [50]))
    assert 0.3 < accuracies.mean() < 0.95


@pytest.mark.parametrize(
    ("name", "family"),
    [("timm/resnet50.nobody_knows", "resnet"), ("checkpoint:w.pth?arch=resnet50", "resnet")],
)
def test_an_unknown_one_of_a_known_family(name, family):
    foresight = Foresight([name, "mine"], "image")
    one, nobody = foresight.known
    assert (one.name, one.family, one.n_results) == (name, family, 0)
    assert nobody.family == ""
    # its family is less of a mystery than any encoder
    accuracies, _ = foresight.given(np.arange(2), CASES["nothing"])
    apart = np.log(accuracies / (1 - accuracies))
    assert apart[:, 0].std() != pytest.approx(apart[:, 1].std(), rel=1e-3)


def test_a_probe_below_chance_tells_no_more_than_chance():
    """Leaving one out of few samples of two even classes finds far less than half by itself."""

    def drawn(accuracy: float) -> np.ndarray:
        probe = probe_of([0, 1], [accuracy, 0.8], [10, 10])
        return foretell(MODEL, replace(probe, chance=0.5), draws=500)[0]

    assert np.array_equal(drawn(0.0), drawn(0.5))
    assert not np.array_equal(drawn(0.5), drawn(0.6))
    assert drawn(0.0).min() >= 0.5


def test_the_name_of_a_folder_is_no_family(tmp_path):
    """``hf/<folder>/model`` once had the family of the published model2vec."""
    (tmp_path / "model").mkdir()
    own = Foresight([f"hf/{tmp_path}/model"], "text")
    assert [one.family for one in own.known] == [""]
    assert own.remarks == ()
    assert Foresight(["hf/somebody/bge-unheard-of"], "text").known[0].family == "bge"
