"""Potential-energy decline, and moments and embeddings whose classes are displaced."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from reference import dynamics as literal
from transferscope import ClassMoments
from transferscope.embedding import ClassStatistics, Embedding
from transferscope.errors import InputError
from transferscope.metrics._potential_energy import own_deviation, potential_energy_decline
from transferscope.numerics import arrays


def overlapping(
    n: int = 120, d: int = 6, n_classes: int = 4, spread: float = 0.5, offset: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes of uneven size that overlap."""
    rng = np.random.default_rng(n + d)
    labels = np.minimum(rng.integers(0, 2 * n_classes, n), n_classes - 1)
    labels[:n_classes] = np.arange(n_classes)
    centres = spread * rng.standard_normal((n_classes, d))
    noise = rng.standard_normal((n, d)) * (0.5 + rng.random(d))
    return centres[labels] + noise + offset, labels


def decline(features: np.ndarray, labels: np.ndarray, deviation=None, **options):
    return potential_energy_decline(
        ClassMoments.from_arrays(features, labels), deviation, **options
    )


SHAPES = {
    "n > d": {},
    "n < d": {"n": 30, "d": 80},
    "many classes": {"n": 300, "d": 5, "n_classes": 40},
    "two classes": {"n_classes": 2},
    "offset": {"offset": 1000.0},
    "crowded": {"n": 200, "d": 3, "n_classes": 60, "spread": 0.01},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("options", [{}, {"step": 1.0}, {"exit_ratio": 0.97}, {"stiffness": 3.0}])
def test_it_is_the_loop_over_pairs(shape, options):
    features, labels = overlapping(**shape)
    reference = 3 * np.random.default_rng(5).random((50, features.shape[1])) ** 2
    moved = literal.displaced_features(features, labels, reference, **options)
    result = decline(features, labels, reference.std(axis=0), **options)
    np.testing.assert_allclose(
        features + result.displacement[labels], moved, rtol=1e-9, atol=1e-9 * np.abs(moved).max()
    )


def test_energies_are_those_of_the_standardised_classes():
    features, labels = overlapping()
    result = decline(features, labels)
    deviation = features.std(axis=0)
    before = literal.energy(features / deviation, labels, 0.6, 1.0)
    moved = features + result.displacement[labels]
    after = literal.energy(moved / deviation, labels, 0.6, 1.0)
    assert result.n_steps == 6
    np.testing.assert_allclose(result.energies[0], before)
    np.testing.assert_allclose(result.energies[-1], after)
    assert len(result.energies) == 7
    assert np.all(np.diff(result.energies) < 0)


def test_without_a_reference_the_features_own_deviation_serves():
    features, labels = overlapping(offset=50.0)
    moments = ClassMoments.from_arrays(features, labels)
    np.testing.assert_allclose(own_deviation(moments), features.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(
        decline(features, labels).displacement,
        potential_energy_decline(moments, own_deviation(moments)).displacement,
    )


def test_a_step_that_moves_too_little_is_not_taken():
    features, labels = overlapping()
    full = decline(features, labels)
    ratios = np.array(full.movements) / full.movements[0]
    assert np.all(np.diff(ratios) < 0)
    assert decline(features, labels, exit_ratio=(ratios[2] + ratios[3]) / 2).n_steps == 3
    assert decline(features, labels, max_steps=0).n_steps == 0


def test_no_overlap_moves_nothing():
    features, labels = overlapping(spread=1000.0)
    result = decline(features, labels, np.ones(6))
    assert result.n_steps == 0
    assert result.energies == (0.0,)
    assert not result.displacement.any()


def test_coincident_centres_exert_no_force():
    features = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + 7.0
    assert not decline(features, np.array([0, 0, 1, 1])).displacement.any()
    three = np.concatenate([features, features[:2] + np.array([0.5, 0.0])])
    labels = np.array([0, 0, 1, 1, 2, 2])
    result = decline(three, labels)
    assert np.isfinite(result.displacement).all()
    np.testing.assert_allclose(
        three + result.displacement[labels], literal.displaced_features(three, labels, three)
    )


def test_a_feature_that_is_dead_in_the_reference_counts_as_varying_by_a_thousandth():
    features, labels = overlapping()
    dead, thousandth = np.ones(6), np.ones(6)
    dead[2], thousandth[2] = 0.0, 1e-3
    np.testing.assert_array_equal(
        decline(features, labels, dead).displacement,
        decline(features, labels, thousandth).displacement,
    )


def test_singleton_and_absent_classes():
    features, labels = overlapping()
    labels = np.where(labels == 2, 5, labels)
    labels[-1] = 6
    result = decline(features, labels)
    present = np.unique(labels)
    assert not result.displacement[np.setdiff1d(np.arange(7), present)].any()
    np.testing.assert_allclose(
        result.displacement[present],
        decline(features, np.unique(labels, return_inverse=True)[1]).displacement,
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    "options",
    [{"nu": 0.0}, {"step": -1.0}, {"stiffness": 0.0}, {"exit_ratio": 1.0}, {"max_steps": -1}],
)
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="must be positive"):
        decline(*overlapping(), **options)


def test_a_deviation_of_another_shape_is_refused():
    with pytest.raises(InputError, match="one value per feature"):
        decline(*overlapping(), np.ones(5))


def test_same_on_every_array_library(backend):
    features, labels = overlapping()
    expected = decline(features, labels)
    result = decline(backend(features), backend(labels))
    np.testing.assert_allclose(
        arrays.to_numpy(result.displacement), expected.displacement, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(result.energies, expected.energies, rtol=1e-9)


def test_inputs_stay_and_the_same_call_gives_the_same_bits():
    moments = ClassMoments.from_arrays(*overlapping())
    before = {name: np.array(values) for name, values in moments.to_arrays().items()}
    first, second = potential_energy_decline(moments), potential_energy_decline(moments)
    np.testing.assert_array_equal(first.displacement, second.displacement)
    for name, values in moments.to_arrays().items():
        np.testing.assert_array_equal(values, before[name])


def test_a_thousand_classes_fit_into_200_megabytes():
    rng = np.random.default_rng(0)
    means = 0.5 * rng.standard_normal((1000, 2048))
    moments = ClassStatistics(np.full(1000, 50.0), means, 50 * rng.random((1000, 2048)))
    tracemalloc.start()
    try:
        potential_energy_decline(moments, max_steps=1)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_displaced_moments_are_those_of_the_displaced_features(shape):
    features, labels = overlapping(**shape)
    displacement = np.random.default_rng(1).standard_normal((labels.max() + 1, features.shape[1]))
    moved = ClassMoments.from_arrays(features, labels).displaced(displacement)
    again = ClassMoments.from_arrays(features + displacement[labels], labels)
    for name in ("counts", "means", "within_squares", "mean", "scatter"):
        expected = getattr(again, name)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            getattr(moved, name), expected, rtol=1e-10, atol=1e-10 * scale, err_msg=name
        )
    assert np.isnan(moved.total.quartic_sum)


def test_displaced_moments_leave_absent_classes_alone():
    features, labels = overlapping()
    displacement = np.random.default_rng(1).standard_normal((5, 6))
    moments = ClassMoments.from_arrays(features, np.where(labels == 1, 4, labels))
    np.testing.assert_array_equal(moments.displaced(displacement).means[1], moments.means[1])


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_displaced_embedding_is_one_of_displaced_features(backend, offset):
    features, labels = overlapping(offset=offset)
    displacement = np.random.default_rng(1).standard_normal((4, 6))
    plain = Embedding(backend(features), backend(labels))
    moved = plain.displaced(backend(displacement))
    again = Embedding(features + displacement[labels], labels)
    for name in ("features", "quartic_sum", "influence_features", "influence_labels"):
        given, expected = getattr(moved, name), getattr(again, name)
        if name == "influence_features":  # eigenvectors have no sign
            given, expected = abs(given), abs(expected)
        np.testing.assert_allclose(
            arrays.to_numpy(given), expected, rtol=1e-9, atol=1e-9, err_msg=name
        )
    np.testing.assert_allclose(
        arrays.to_numpy(moved.spread.spectrum.values), again.spread.spectrum.values, rtol=1e-10
    )
    parts = [arrays.to_numpy(part) for _, part in moved.matrix.chunks()]
    np.testing.assert_array_equal(np.concatenate(parts), arrays.to_numpy(moved.features))
    np.testing.assert_array_equal(arrays.to_numpy(plain.features), features)


def test_displacements_add_up():
    features, labels = overlapping()
    first, second = np.random.default_rng(1).standard_normal((2, 4, 6))
    twice = Embedding(features, labels).displaced(first).displaced(second)
    np.testing.assert_allclose(twice.features, features + (first + second)[labels], atol=1e-12)
    np.testing.assert_allclose(twice.moments.means, twice.displaced(0 * first).moments.means)


def test_moments_alone_do_not_make_a_second_array(monkeypatch):
    features, labels = overlapping()
    moved = Embedding(features, labels).displaced(np.ones((4, 6)))
    _ = moved.spread.spectrum, moved.quartic_sum, moved.influence_features, moved.rotated_means
    assert "features" not in vars(moved)


def test_quarts_of_streamed_features_come_from_those_kept():
    features, labels = overlapping(n=4000)
    displacement = np.random.default_rng(1).standard_normal((4, 6))
    moments = ClassMoments.from_arrays(features, labels)
    streamed = Embedding(features[::2], labels[::2], moments=moments).displaced(displacement)
    full = Embedding(features, labels).displaced(displacement)
    np.testing.assert_allclose(streamed.total.scatter, full.total.scatter)
    np.testing.assert_allclose(streamed.quartic_sum, full.quartic_sum, rtol=0.1)


def test_reference_deviation_matches_numpy():
    features, labels = overlapping()
    reference = np.random.default_rng(0).random((70, 6)) + 1000.0
    embedding = Embedding(features, labels, reference_features=reference)
    np.testing.assert_allclose(embedding.reference.deviation, reference.std(axis=0), rtol=1e-10)
