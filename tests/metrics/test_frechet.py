"""The Fréchet distance against the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reference import frechet as reference
from transferscope.embedding import ClassMoments, Embedding
from transferscope.errors import FeatureError, InputError
from transferscope.metrics._frechet import _nuclear_norm, frechet, measure
from transferscope.numerics import arrays


def between(features, reference):
    return frechet(features, reference_features=reference)


def clouds(n: int, m: int, d: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    turn = rng.standard_normal((d, d)) / math.sqrt(d)
    return rng.standard_normal((n, d)) @ turn, 0.5 + rng.standard_normal((m, d))


SHAPES = {
    "more than features": clouds(80, 60, 10),
    "n < d": clouds(20, 90, 40),
    "m < d": clouds(90, 20, 40),
    "both < d": clouds(15, 20, 40),
    "one feature": clouds(30, 40, 1),
    "offset 1000": tuple(x + 1000 for x in clouds(80, 60, 10)),
    "dead dimensions": tuple(
        np.column_stack([x, np.zeros((len(x), 3))]) for x in clouds(50, 60, 5)
    ),
    "dead in one": (np.column_stack([clouds(50, 60, 5)[0], np.zeros(50)]), clouds(50, 60, 6)[1]),
    "scales": tuple(x * np.logspace(-3, 3, 10) for x in clouds(80, 60, 10)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_nuclear_norm_of_the_samples(name):
    expected = reference.between_samples(*SHAPES[name])
    assert between(*SHAPES[name]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["more than features", "one feature"])
def test_equals_the_literal_formula(name):
    assert between(*SHAPES[name]) == pytest.approx(reference.frechet(*SHAPES[name]), rel=1e-9)


def test_equals_the_literal_formula_on_the_cases(cases):
    for letter in "AE":
        case = cases[letter]
        expected = reference.frechet(case["X"], case["XS"])
        assert frechet(case["X"], reference_features=case["XS"]) == pytest.approx(
            expected, rel=1e-9
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SHAPES)
def test_equal_features_are_at_distance_0(name, dtype):
    features = SHAPES[name][0].astype(dtype)
    variance = float(features.astype(float).var(axis=0).sum())
    assert -1e-11 * variance <= frechet(features, reference_features=features) <= 0
    order = np.random.default_rng(0).permutation(len(features))
    assert -1e-5 * variance <= frechet(features, reference_features=features[order]) <= 0


def test_a_steep_spectrum_in_float32_loses_nothing():
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((600, 200)) / np.arange(1, 201) ** 2.5).astype(np.float32)
    assert frechet(features, reference_features=features) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", [(20, 20), (30, 12), (12, 30)])
@pytest.mark.parametrize("steepness", [0, 2, 12])
def test_the_nuclear_norm_is_exact_however_steep(shape, steepness):
    rng = np.random.default_rng(0)
    k = min(shape)
    left, right = (np.linalg.qr(rng.standard_normal((size, k)))[0] for size in shape)
    values = 10.0 ** -np.linspace(0, steepness, k)
    matrix = left * values @ right.T
    assert _nuclear_norm(matrix) == pytest.approx(values.sum(), rel=1e-12)
    if steepness == 12:  # which roots of the square's eigenvalues alone would not give
        squares = np.linalg.eigvalsh(matrix.T @ matrix)
        assert abs(np.sqrt(np.maximum(squares, 0)).sum() - values.sum()) > 1e-10


def test_it_is_symmetric_and_known_in_one_dimension():
    features, other = SHAPES["more than features"]
    assert frechet(features, reference_features=other) == pytest.approx(
        frechet(other, reference_features=features), rel=1e-12
    )
    a, b = SHAPES["one feature"]
    known = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert frechet(a, reference_features=b) == pytest.approx(-known)


def test_features_that_share_no_direction_with_the_reference():
    values = np.random.default_rng(0).standard_normal(40)
    along, across = np.column_stack([values, 0 * values]), np.column_stack([0 * values, values])
    measured = measure(Embedding(along, np.arange(40) % 2, reference_features=across))
    assert measured.value == pytest.approx(-2 * (values.var() + values.mean() ** 2))
    # what remains is the sample's own share of the variance and of the mean
    terms = -((values - values.mean()) ** 2) - 2 * values.mean() * (values - values.mean())
    assert measured.influence() == pytest.approx(terms - terms.mean())


def test_small_samples_are_said():
    def warnings(name):
        features, other = SHAPES[name]
        labels = np.arange(len(features)) % 2
        return measure(Embedding(features, labels, reference_features=other)).warnings

    assert warnings("more than features") == ()
    assert warnings("n < d") == ("20 samples for 40 features: the distance is too large",)
    assert warnings("m < d") == ("20 reference samples for 40 features: the distance is too large",)


def test_labels_say_nothing_and_targets_will_do():
    features, other = SHAPES["more than features"]
    given = {"reference_features": other}
    by_labels = measure(Embedding(features, np.arange(80) % 3, **given))
    by_targets = measure(Embedding(features, targets=np.arange(80.0), **given))
    assert by_labels.value == pytest.approx(by_targets.value, rel=1e-12)
    assert by_labels.influence() == pytest.approx(by_targets.influence())


def test_streamed_data_give_the_value_of_all():
    features, other = clouds(400, 100, 6)
    labels = np.arange(400) % 3
    moments = ClassMoments.from_arrays(features, labels)
    whole = measure(Embedding(features, labels, reference_features=other))
    streamed = measure(
        Embedding(features[::2], labels[::2], moments=moments, reference_features=other)
    )
    assert streamed.value == pytest.approx(whole.value, rel=1e-12)
    assert streamed.influence().std() == pytest.approx(whole.influence().std(), rel=0.2)


def test_what_cannot_be_scored_is_refused():
    features, other = SHAPES["more than features"]
    with pytest.raises(InputError, match="columns"):
        frechet(features, reference_features=other[:, :3])
    with pytest.raises(FeatureError):
        frechet(features, reference_features=np.ones_like(other))
    bad = features.copy()
    bad[3, 1] = np.nan
    for given in ((bad, other), (other, bad)):
        with pytest.raises(FeatureError):
            between(*given)


@pytest.mark.parametrize("name", ["more than features", "both < d"])
def test_every_array_library_gives_the_same(backend, name):
    features, other = SHAPES[name]
    labels = np.arange(len(features)) % 3
    expected = measure(Embedding(features, labels, reference_features=other))
    found = measure(
        Embedding(backend(features), backend(labels), reference_features=backend(other))
    )
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    assert frechet(backend(features), reference_features=backend(other)) == pytest.approx(
        expected.value, rel=1e-9
    )
    influence = np.asarray(arrays.to_numpy(found.influence()))
    assert influence == pytest.approx(expected.influence(), rel=1e-6, abs=1e-9)


def test_influences_are_what_leaving_a_sample_out_changes():
    features, other = clouds(150, 100, 4)
    whole = measure(Embedding(features, np.arange(150) % 2, reference_features=other))
    changes = np.array(
        [
            149 * (whole.value - frechet(np.delete(features, i, axis=0), reference_features=other))
            for i in range(150)
        ]
    )
    influence = whole.influence()
    assert np.corrcoef(influence, changes)[0, 1] > 0.999
    assert influence.std() == pytest.approx(changes.std(), rel=0.05)


def test_influences_have_the_standard_error_of_a_jackknife(case, error_ratio):
    data = {"features": case["X"], "labels": case["y"], "reference_features": case["XS"]}
    assert 0.7 < error_ratio(measure, **data) < 1.4
