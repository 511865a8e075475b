"""N-LEEP against LEEP of its own posteriors and public code."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import shapes
from sklearn.mixture import GaussianMixture

from reference import nleep as reference
from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._nleep import measure, nleep
from transferscope.numerics import arrays

# the module: as an attribute of the package its name is the function's
module = sys.modules["transferscope.metrics._nleep"]

# secret-hammer/Awesome-Model-Transferability-Evaluation at bae6af6, metrics/nleep.py
GOLDEN = {"A": -0.2890506088733673, "C": -0.13959790766239166, "E": -0.5824540853500366}
# lixiaotong97/PED at e5af6e7, metrics.py, NLEEP(component_ratio=5): no logarithm, unseeded
GOLDEN_NO_LOG = {"A": 0.8574754729244901, "C": 0.9224969923725411, "E": 0.5769788893447568}


def test_golden(case):
    features, labels, name = case["X"], case["y"], case["name"]
    assert nleep(features, labels) == pytest.approx(GOLDEN[name], rel=0.3)
    assert nleep(features, labels, log=False) == pytest.approx(GOLDEN_NO_LOG[name], rel=0.1)


task = partial(shapes.task, spread=0.7, at_least=1)


SHAPES = {
    "n > d": task(150, 10),
    "n < d": task(60, 90),
    "one feature": task(80, 1),
    "many classes": task(150, 20, 20),
    "imbalance": (task(120, 9)[0], np.repeat(np.arange(4), [3, 7, 20, 90])),
    "dead dimensions": (np.column_stack([task(80, 10)[0], np.zeros((80, 3))]), task(80, 10)[1]),
    "offset 1000": (task(80, 10)[0] + 1000, task(80, 10)[1]),
}


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_leep_of_the_posteriors_of_scikit_learns_mixture(name, log, monkeypatch):
    monkeypatch.setattr(module, "CACHED_POSTERIORS", 1)  # blocks of 64 samples
    features, labels = SHAPES[name]
    points, order = module._points(Embedding(features, labels), np.arange(len(labels)))
    mixture = GaussianMixture(
        5 * len(np.unique(labels)),
        covariance_type="spherical",
        reg_covar=module.LEAST_VARIANCE,
        random_state=0,
    ).fit(points)
    theta = mixture.predict_proba(points)
    expected = reference.leep(theta, labels[order], log)
    assert nleep(features, labels, log=log) == pytest.approx(expected, rel=1e-8)


def test_mixtures_go_on_from_a_start_as_scikit_learns():
    features, labels = task(200, 5)
    points, _ = module._points(Embedding(features, labels), np.arange(200))
    plain = GaussianMixture(12, covariance_type="spherical", reg_covar=1e-5, random_state=3)
    plain.fit(points)
    table = module._table(points)
    found = module._fit(table, module._start(points, 12, 3))
    assert found.settled == plain.converged_
    densities, theta = (
        np.concatenate(parts)
        for parts in list(zip(*module._posteriors(table, found.coefficients), strict=True))[1:]
    )
    assert densities == pytest.approx(plain.score_samples(points), rel=1e-9)
    assert theta == pytest.approx(plain.predict_proba(points), abs=1e-9)


def test_a_mixture_that_does_not_settle_is_stated(monkeypatch):
    monkeypatch.setattr(module, "MAX_ROUNDS", 2)
    assert measure(Embedding(*task(300, 4))).warnings == (
        "the mixture had not settled after 2 rounds",
    )


@pytest.mark.parametrize("name", SHAPES)
def test_projection_keeps_four_fifths_of_the_variance(name):
    features, labels = SHAPES[name]
    points = module._projected(Embedding(features, labels), np.arange(len(labels)))
    assert points.shape[1] == reference.axes_for_energy(features)


def test_mixture_is_as_good_as_any_start_of_scikit_learn():
    """The order and the units of the samples do not make the mixture worse."""
    features, labels = task(300, 4)
    points = module._projected(Embedding(features, labels), np.arange(300))
    plain = [
        GaussianMixture(20, covariance_type="spherical", random_state=seed).fit(points)
        for seed in range(8)
    ]
    values = [reference.leep(mixture.predict_proba(points), labels) for mixture in plain]
    assert min(values) - 0.1 < nleep(features, labels) < max(values) + 0.1


def test_order_scale_shift_and_rotation_change_nothing():
    features, labels = SHAPES["n > d"]
    value = nleep(features, labels)
    rng = np.random.default_rng(3)
    order = rng.permutation(len(labels))
    turn = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    assert nleep(features[order], labels[order]) == pytest.approx(value, rel=1e-9)
    assert nleep(features @ turn, labels) == pytest.approx(value, rel=1e-9)
    assert nleep(50 * features - 7, labels) == pytest.approx(value, rel=1e-9)


def test_seed_decides_the_start():
    features, labels = SHAPES["n > d"]
    assert nleep(features, labels) == nleep(features, labels, seed=0)
    assert nleep(features, labels) != nleep(features, labels, seed=1)


def test_subsample_and_clusters_are_stated(monkeypatch):
    monkeypatch.setattr(module, "MAX_SAMPLES", 400)
    monkeypatch.setattr("transferscope.embedding._embedding.INFLUENCE_SAMPLES", 300)
    features, labels = task(1000, 6)
    measured = measure(Embedding(features, labels))
    assert measured.warnings == ("the mixture is of 400 stratified samples of 1000",)
    influence = measured.influence()
    assert influence.shape == (300,)
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    monkeypatch.setattr(module, "MAX_POSTERIORS", 20 * 200)
    assert "200 stratified" in measure(Embedding(features, labels)).warnings[0]

    few = measure(Embedding(features[:13], labels[:13]))
    assert few.warnings == ("12 clusters: too few samples for 20",)


def test_more_clusters_than_distinct_points_is_no_error():
    features = np.repeat(np.random.default_rng(0).standard_normal((4, 6)), 15, axis=0)
    assert nleep(features, np.repeat(np.arange(4), 15)) == pytest.approx(0, abs=1e-9)


def test_all_singletons_still_have_a_value():
    assert np.isfinite(nleep(np.random.default_rng(0).standard_normal((6, 3)), np.arange(6)))


@pytest.mark.parametrize("name", ["n > d", "n < d"])
def test_every_array_library_gives_the_same(backend, name):
    features, labels = SHAPES[name]
    expected = measure(Embedding(features, labels))
    found = measure(Embedding(backend(features), backend(labels)))
    assert found.value == pytest.approx(expected.value, rel=1e-6)
    influence = np.asarray(arrays.to_numpy(found.influence()))
    assert influence == pytest.approx(expected.influence(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("log", [True, False])
def test_standard_error_is_that_over_fresh_data(fresh_ratio, log):
    """The mixture is fitted again without each group, so its own uncertainty counts."""
    assert 0.75 < fresh_ratio(partial(measure, log=log), draws=25) < 1.2


def test_influences_where_a_group_is_larger_than_what_the_clusters_leave():
    features, labels = task(18, 3)
    assert np.isfinite(measure(Embedding(features, labels)).influence()).all()


def test_no_clusters_are_refused():
    with pytest.raises(InputError, match="clusters_per_class"):
        nleep(*SHAPES["n > d"], clusters_per_class=0)
