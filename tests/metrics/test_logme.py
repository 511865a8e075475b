"""LogME against the formula, the density itself, and the authors' values."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import shapes

from reference import logme as reference
from transferscope.embedding import Embedding
from transferscope.metrics._logme import logme, measure

# thuml/LogME at 56551ca, LogME()._fit_icml: stops at a change of 1 %, hence the tolerance
GOLDEN = {"A": 0.7455836762668, "C": 0.6609559589331758, "E": -0.47602118106823454}
# the same commit, LogME(regression=True)._fit_icml, mean over the three targets
GOLDEN_REGRESSION = {"A": -1.0191492498833068, "C": -1.0191417456497591, "E": -1.0327899103788785}
# the same commit, LogME().fit, right where n > d and the rank is full
GOLDEN_DEFAULT_FORM = {"A": 0.7456036586016562, "E": -0.47601964899484084}


def test_golden(case):
    assert logme(case["X"], case["y"]) == pytest.approx(GOLDEN[case["name"]], abs=2e-3)
    if case["name"] in GOLDEN_DEFAULT_FORM:
        other = GOLDEN_DEFAULT_FORM[case["name"]]
        assert logme(case["X"], case["y"]) == pytest.approx(other, abs=1e-4)


def test_golden_regression(case):
    golden = GOLDEN_REGRESSION[case["name"]]
    assert logme(case["X"], targets=case["Y"]) == pytest.approx(golden, abs=2e-3)


task = partial(shapes.task, at_least=1)


def rank_deficient():
    features, labels = task(80, 10)
    return np.column_stack([features, features[:, :4] @ np.ones((4, 3)), np.zeros(80)]), labels


SHAPES = {
    "n > d": task(80, 10),
    "n < d": task(30, 70),
    "n = d": task(40, 40),
    "n = d + 1": task(41, 40),
    "one feature": task(50, 1),
    "many classes": task(150, 20, 40),
    "two classes": task(50, 6, 2),
    "overlap": task(90, 8, spread=0.1),
    "rank-deficient": rank_deficient(),
    "offset 30": (task(80, 10)[0] + 30, task(80, 10)[1]),
    "offset 30, n < d": (task(30, 70)[0] + 30, task(30, 70)[1]),
    "x 1e4": (task(80, 10)[0] * 1e4, task(80, 10)[1]),
    "x 1e-4": (task(80, 10)[0] * 1e-4, task(80, 10)[1]),
    "absent ids": (task(80, 10)[0], task(80, 10)[1] * 5 + 3),
    "rectified": (np.maximum(task(100, 12)[0] - 0.7, 0), task(100, 12)[1]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_literal_formula(name):
    features, labels = SHAPES[name]
    assert logme(features, labels) == pytest.approx(reference.logme(features, labels), abs=1e-7)


@pytest.mark.parametrize("name", ["n > d", "n < d", "rank-deficient"])
def test_the_formula_is_the_density_at_its_maximum(name):
    features, labels = SHAPES[name]
    y = (labels == 1) * 1.0
    alpha, beta = reference.maximise(features, y)
    best = reference.log_density(features, y, alpha, beta)
    assert reference.evidence(features, y, alpha, beta) == pytest.approx(best, abs=1e-6)
    for a, b in [(1.02, 1), (0.98, 1), (1, 1.02), (1, 0.98)]:
        assert reference.log_density(features, y, a * alpha, b * beta) < best


def test_the_authors_default_form_is_wrong_below_full_rank():
    """It counts d logarithms of alpha where r belong: far off on noise with n < d."""
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((60, 240)), np.arange(60) % 3
    theirs = []
    for c in range(3):
        y = (labels == c) * 1.0
        alpha, beta = reference.maximise(features, y)
        theirs.append(reference.evidence(features, y, alpha, beta, count_of_alpha=240) / 60)
    ours = logme(features, labels)
    assert ours == pytest.approx(reference.logme(features, labels), abs=1e-6)
    nothing_explained = -(np.log(2 * np.pi / 3) + 1) / 2  # a Gaussian about 0, E y² = 1/3
    assert ours == pytest.approx(nothing_explained, abs=0.01)
    assert np.mean(theirs) > ours + 5


def test_eleven_iterations_are_not_enough():
    """Converged, the value does not depend on the scale of the features."""
    features, labels = task(200, 30, spread=0.3)
    values = [logme(features * scale, labels) for scale in (1e-4, 1.0, 1e4)]
    assert values == pytest.approx([values[0]] * 3, abs=1e-8)


def two_maxima(seed):
    """For three of the first forty seeds the evidence of a class has two maxima."""
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(4), np.arange(4), rng.integers(0, 4, 82)]
    features = rng.standard_normal((90, 10)) * np.exp(rng.normal(size=10))
    return features + 1.2 * rng.standard_normal((4, 10))[labels], labels


SCALED = {
    name: SHAPES[name] for name in ("n > d", "n < d", "rank-deficient", "offset 30, n < d")
} | {f"two maxima {seed}": two_maxima(seed) for seed in (9, 29, 39)}


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SCALED)
def test_scale_does_not_matter(name, dtype, numbers):
    """To rounding, from a millionth to a million times."""
    features, labels = SCALED[name]
    features = features.astype(dtype)
    given = {"targets": np.eye(4)[labels][:, 1:]} if numbers else {"labels": labels}
    plain = logme(features, **given)
    for scale in (2.0**-20, 2.0**-9, 2.0**20):  # exact in float32
        assert logme(features * dtype(scale), **given) == pytest.approx(plain, abs=1e-11)
    for scale in (1e-6, 0.003, 0.1, 1e6):
        tolerance = 1e-9 if dtype == np.float64 else 1e-5
        assert logme(features * dtype(scale), **given) == pytest.approx(plain, abs=tolerance)


@pytest.mark.parametrize("seed", [0, 9, 29, 39])
@pytest.mark.parametrize("scale", [1.0, 0.003])
def test_the_highest_of_several_maxima_is_found(seed, scale):
    features, labels = two_maxima(seed)
    features, n = features * scale, len(labels)
    kernel = features @ features.T
    highest = []
    for c in range(4):
        y = (labels == c) * 1.0
        densities = []
        for t in np.geomspace(1e-9, 1e5, 400) * np.trace(kernel):
            beta = n / (y @ np.linalg.solve(np.eye(n) + kernel / t, y))  # the best for this ratio
            densities.append(reference.log_density(features, y, t * beta, beta) / n)
        highest.append(max(densities))
    assert logme(features, labels) == pytest.approx(np.mean(highest), abs=1e-3)
    assert logme(features, labels) >= np.mean(highest)


@pytest.mark.parametrize(("n", "d"), [(80, 10), (30, 70)])
def test_regression_and_multilabel_equal_the_formula(n, d):
    features, _ = task(n, d)
    rng = np.random.default_rng(3)
    targets = features[:, :3] @ rng.standard_normal((3, 3)) + rng.standard_normal((n, 3))
    for columns in (targets, targets + 50, (targets > 0) * 1.0):
        expected = reference.logme_of_columns(features, columns)
        assert logme(features, targets=columns) == pytest.approx(expected, abs=1e-7)
    one = reference.logme_of_columns(features, targets[:, :1])
    assert logme(features, targets=targets[:, 0]) == pytest.approx(one, abs=1e-7)


def test_labels_as_one_hot_targets_are_the_same():
    features, labels = task(80, 10)
    assert logme(features, targets=np.eye(4)[labels]) == pytest.approx(logme(features, labels))


@pytest.mark.parametrize("seed", range(12))
def test_converges_wherever_the_maximum_lies(seed, monkeypatch):
    """Within 150 steps, on features of any scale and decay, explaining all or nothing."""
    monkeypatch.setattr(sys.modules["transferscope.metrics._logme"], "MAX_ITERATIONS", 150)
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(5, 100)), int(rng.integers(1, 100))
    decay = np.logspace(0, -rng.uniform(0, 4), d) * 10 ** rng.uniform(-3, 3)
    features = rng.standard_normal((n, d)) * decay + rng.choice([0, 1, 30])
    signal = features @ rng.standard_normal(d) / np.abs(features).max()
    for share in (0, 0.01, 1):
        y = share * signal + rng.standard_normal(n) * 0.1
        expected = reference.logme_of_columns(features, y[:, None])
        assert logme(features, targets=y) == pytest.approx(expected, abs=2e-5)


def test_constant_target_columns_are_left_out():
    features, _ = task(80, 10)
    targets = np.column_stack([features[:, 0] ** 2, np.full(80, 3.0)])
    measured = measure(Embedding(features, targets=targets))
    assert measured.value == pytest.approx(logme(features, targets=targets[:, :1]))
    assert measured.warnings == ("1 constant target columns left out",)
    assert np.isfinite(measured.influence()).all()


def test_perfectly_predictable_columns_stay_finite_and_are_said():
    labels = np.arange(60) % 3
    measured = measure(Embedding(np.eye(3)[labels], labels))
    assert 5 < measured.value < 20
    assert measured.warnings == ("saturated: some columns are predicted without error",)
    assert np.isfinite(measured.influence()).all()
    noisy = np.eye(3)[labels] + 1e-3 * np.random.default_rng(0).standard_normal((60, 3))
    assert logme(noisy, labels) < measured.value


def test_offsets_in_float32_lose_little():
    features, labels = task(300, 20)
    single = (features + 1000).astype(np.float32)
    assert logme(single, labels) == pytest.approx(logme(single.astype(float), labels), abs=1e-5)


def test_influence_gives_the_standard_error(case, error_ratio):
    assert 0.7 < error_ratio(measure, features=case["X"], labels=case["y"]) < 1.4


def test_influence_gives_the_standard_error_of_regression(case, error_ratio):
    assert 0.7 < error_ratio(measure, features=case["X"], targets=case["Y"]) < 1.4


def test_influence_is_that_of_the_evidence(cases):
    """The value falls by phi_i / n when sample i is left out, to first order."""
    features, labels = cases["E"]["X"], cases["E"]["y"]
    influence = measure(Embedding(features, labels)).influence()
    rows, whole = np.arange(400), logme(features, labels)
    removed = [whole - logme(features[rows != i], labels[rows != i]) for i in range(0, 400, 4)]
    assert np.corrcoef(removed, influence[::4])[0, 1] > 0.95
