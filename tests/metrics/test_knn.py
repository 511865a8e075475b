"""k nearest neighbours against loops, scikit-learn, and public code."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import shapes
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from reference import knn as reference
from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._knn import knn, measure
from transferscope.numerics import arrays

# dbolya/parc at ddfca43, methods.py kNN(k=1), as a fraction
GOLDEN = {"A": 0.959, "C": 0.9775, "E": 0.7875}


def test_golden(case):
    assert knn(case["X"], case["y"], k=1) == pytest.approx(GOLDEN[case["name"]], abs=1e-9)


def task(n: int = 90, d: int = 5, n_classes: int = 2, seed: int = 0):
    return shapes.task(n, d, n_classes, seed=seed, at_least=0)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "d"), [(90, 5), (30, 60)])
def test_equals_scikit_learn_left_one_out(n, d, k, distance):
    # two classes and odd k: no tied votes, where scikit-learn takes the smaller label
    features, labels = task(n, d)
    judge = KNeighborsClassifier(k, metric=distance, algorithm="brute")
    predicted = cross_val_predict(judge, features, labels, cv=LeaveOneOut())
    assert knn(features, labels, k=k, distance=distance) == np.mean(predicted == labels)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_equals_loops_where_votes_tie(k, distance):
    features, labels = task(120, 4, n_classes=6)
    assert knn(features, labels, k=k, distance=distance) == pytest.approx(
        reference.knn(features, labels, k, distance)
    )


@pytest.mark.parametrize("k", [1, 5])
def test_regression_equals_loops_and_scikit_learn(k):
    features, _ = task()
    rng = np.random.default_rng(1)
    targets = features[:, :2] + 0.5 * rng.standard_normal((90, 2))
    value = knn(features, targets=targets, k=k)
    assert value == pytest.approx(reference.knn_regression(features, targets, k))
    judge = KNeighborsRegressor(k, algorithm="brute")
    predicted = cross_val_predict(judge, features, targets, cv=LeaveOneOut())
    share = ((targets - predicted) ** 2).mean(axis=0) / targets.var(axis=0)
    assert value == pytest.approx(np.mean(1 - share))


def test_blocks_make_no_difference(monkeypatch):
    features, labels = task(300, 4, n_classes=3)
    whole = knn(features, labels)
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 8)  # 64 rows at once
    # by sys.modules: as an attribute of its package the function of this name hides the file
    monkeypatch.setattr(sys.modules["transferscope.metrics._knn"], "QUERIES_AT_ONCE", 7)
    assert knn(features, labels) == whole


def test_duplicates_are_neighbours_and_the_query_is_not():
    features = np.array([[0.0], [0.0], [1.0], [1.0], [9.0]])
    # each twin finds its twin, the loner finds class 1
    assert knn(features, [0, 0, 1, 1, 0], k=1) == 0.8
    # twins of other classes mislead each other; removing by value instead of place would not see
    assert knn(np.repeat(np.arange(20.0), 2)[:, None], [0, 1] * 20, k=1) == 0.0


def test_votes_of_as_many_go_to_the_nearer():
    features = np.array([[0.0], [1.0], [-1.5], [2.0], [-2.5]])
    # the first sees 1 and 3 (ranks 1, 3) against 2 and 4 (ranks 2, 4)
    hits = measure(Embedding(features, [0, 0, 1, 0, 1]), k=4).influence() > 0
    assert hits[0]


def test_fewer_samples_than_neighbours():
    assert knn(np.array([[0.0], [0.1], [5.0]]), [0, 0, 1], k=50) == reference.knn(
        np.array([[0.0], [0.1], [5.0]]), np.array([0, 0, 1]), 2
    )


def test_zero_rows_have_no_direction_but_a_value():
    features, labels = task()
    features[3] = 0
    assert 0.5 < knn(features, labels, distance="cosine") <= 1


def test_large_offset_in_float32_loses_nothing():
    features, labels = task(200, 5, n_classes=4)
    grid = np.round(features * 64) / 64  # exact in float32 at this offset
    single = (grid + 4096).astype(np.float32)
    assert knn(single, labels, k=3) == pytest.approx(knn(grid, labels, k=3), abs=0.011)


def test_beyond_5000_samples_a_stratified_part_is_asked():
    features, labels = task(5_400, 2, n_classes=3)
    embedding = Embedding(features, labels)
    measured = measure(embedding)
    assert measured.warnings == ("5000 stratified queries stand for 5400 samples",)
    judge = KNeighborsClassifier(6).fit(features, labels)
    rows = embedding.influence_rows
    near = judge.kneighbors(features[rows], return_distance=False)
    others = np.array([row[row != i][:5] for row, i in zip(near, rows, strict=True)])
    votes = labels[others]
    hits = [
        np.bincount(v).max() > 2 and np.bincount(v).argmax() == labels[i]
        for v, i in zip(votes, rows, strict=True)
    ]
    tied = np.array([np.sort(np.bincount(v, minlength=3))[-2] == 2 for v in votes])
    influence = measured.influence()
    np.testing.assert_array_equal((influence > 0)[~tied], np.array(hits)[~tied])
    assert measured.value != knn(features, labels, seed=1)


@pytest.mark.parametrize(
    ("options", "message"), [({"k": 0}, "k must be"), ({"distance": "manhattan"}, "manhattan")]
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        knn(*task(), **options)


# --- how sure -----------------------------------------------------------------------------------


def test_influence_gives_the_standard_deviation_of_fresh_samples(fresh_ratio):
    """A delete-a-group jackknife gives 1.5 to 1.9 times as much: leaving samples out moves the
    votes of others up and down, which adds variance that fresh samples do not have.
    """
    assert 0.7 < fresh_ratio(measure) < 1.3
