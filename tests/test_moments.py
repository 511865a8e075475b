"""Moments that come in pieces equal the moments of the whole."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transferscope.embedding import ClassMoments, FeatureMoments, TargetMoments
from transferscope.errors import FeatureError, InputError
from transferscope.numerics import arrays

#: Relative to the largest entry of each moment.
FLOAT64, FLOAT32 = 1e-10, 1e-5


def samples(n: int = 60, d: int = 5, n_classes: int = 4, mean: float = 1000.0, seed: int = 0):
    """Features of mean 1000 and spread about 1, unlike per class, with their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    centres = rng.standard_normal((n_classes, d))
    features = mean + centres[labels] + rng.standard_normal((n, d)) * np.linspace(0.3, 2, d)
    return features, labels


def literal(features, labels, n_classes: int) -> dict[str, np.ndarray]:
    """Every moment sample by sample, in the widest floats there are."""
    x = np.asarray(features).astype(np.longdouble)
    n, d = x.shape
    found = {
        "n_samples": np.longdouble(n),
        "mean": x.mean(axis=0),
        "scatter": np.zeros((d, d), np.longdouble),
        "cubic_sums": np.zeros(d, np.longdouble),
        "quartic_sum": np.longdouble(0),
        "counts": np.zeros(n_classes, np.longdouble),
        "means": np.zeros((n_classes, d), np.longdouble),
        "within_squares": np.zeros((n_classes, d), np.longdouble),
    }
    for row in x:
        away = row - found["mean"]
        square = (away * away).sum()
        found["scatter"] += np.outer(away, away)
        found["cubic_sums"] += square * away
        found["quartic_sum"] += square**2
    for c in range(n_classes):
        members = x[np.asarray(labels) == c]
        if len(members):
            found["counts"][c] = len(members)
            found["means"][c] = members.mean(axis=0)
            found["within_squares"][c] = ((members - members.mean(axis=0)) ** 2).sum(axis=0)
    return found


def agree(moments: ClassMoments, expected: dict[str, np.ndarray], bound: float) -> None:
    got = moments.to_arrays()
    assert set(got) == set(expected)
    for name, want in expected.items():
        have = arrays.to_numpy(got[name])
        assert have.dtype == np.float64, name
        assert have.shape == np.shape(want), name
        # the third-order sum may cancel to nothing: it is measured by what it is summed from
        size = expected["quartic_sum"] ** 0.75 if name == "cubic_sums" else np.abs(want).max()
        np.testing.assert_allclose(
            have, np.asarray(want, float), rtol=0, atol=float(bound * (size + 1e-300)), err_msg=name
        )


def cut(n: int, sizes: list[int]) -> list[slice]:
    """Slices of the given sizes, repeated until n is used up."""
    slices, start, k = [], 0, 0
    while start < n:
        stop = min(n, start + sizes[k % len(sizes)])
        slices.append(slice(start, stop))
        start, k = stop, k + 1
    return slices


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, FLOAT64), (np.float32, FLOAT32)])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_at_once_equals_literal_sums(dtype, bound, mean):
    features, labels = samples(mean=mean)
    features = features.astype(dtype)
    agree(ClassMoments.from_arrays(features, labels), literal(features, labels, 4), bound)


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 25), min_size=1, max_size=6), single=st.booleans())
def test_batches_of_any_size_equal_literal_sums(sizes, single):
    features, labels = samples()
    features = features.astype(np.float32 if single else np.float64)
    moments = ClassMoments()
    for rows in cut(60, sizes):
        assert moments.update(features[rows], labels[rows]) is moments
    bound = FLOAT32 if single else FLOAT64
    agree(moments, literal(features, labels, int(labels.max()) + 1), bound)


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
    single=st.booleans(),
)
def test_merging_in_any_order_and_shape_of_tree(sizes, order, single):
    features, labels = samples(seed=1)
    features = features.astype(np.float32 if single else np.float64)
    parts = [ClassMoments.from_arrays(features[rows], labels[rows]) for rows in cut(60, sizes)]
    parts.append(ClassMoments())  # an empty one is neutral
    while len(parts) > 1:
        first = parts.pop(order.randrange(len(parts)))
        second = parts.pop(order.randrange(len(parts)))
        parts.append(first.merge(second))
    bound = FLOAT32 if single else FLOAT64
    agree(parts[0], literal(features, labels, int(labels.max()) + 1), bound)


def test_single_samples_merge():
    features, labels = samples(n=2)
    one = ClassMoments.from_arrays(features[:1], labels[:1])
    assert one.n_samples == 1
    assert not one.scatter.any()
    other = ClassMoments.from_arrays(features[1:], labels[1:])
    expected = literal(features, labels, int(labels.max()) + 1)
    agree(one.merge(other), expected, FLOAT64)
    agree(other.merge(one), expected, FLOAT64)


def test_far_apart_parts_lose_nothing():
    """Raw sums of squares would lose 6 digits here, and all of them in float32."""
    features, labels = samples(mean=0.0)
    features[30:] += 1e4
    merged = ClassMoments.from_arrays(features[:30], labels[:30]).merge(
        ClassMoments.from_arrays(features[30:], labels[30:])
    )
    agree(merged, literal(features, labels, 4), 1e-12)


def test_raw_sums_in_float32_are_what_this_avoids():
    features, labels = samples(n=2000)
    single = features.astype(np.float32)
    raw = single.T @ single - 2000 * np.outer(single.mean(axis=0), single.mean(axis=0))
    right = literal(single, labels, 4)["scatter"].astype(float)
    ours = ClassMoments.from_arrays(single, labels).scatter
    assert np.abs(raw - right).max() / right.max() > 0.01
    assert np.abs(ours - right).max() / right.max() < 1e-6


def test_many_chunks_of_one_update(monkeypatch):
    features, labels = samples(n=500, d=3)
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 8)
    assert arrays.chunk_rows(features) == 64
    agree(ClassMoments.from_arrays(features, labels), literal(features, labels, 4), FLOAT64)


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.uint8])
def test_other_dtypes_are_raised(dtype):
    features, labels = samples(mean=20.0)
    features = features.astype(dtype)
    agree(ClassMoments.from_arrays(features, labels), literal(features, labels, 4), 1e-6)


def test_every_library(backend):
    features, labels = samples()
    expected = literal(features, labels, 4)
    moments = ClassMoments()
    for rows in cut(60, [7, 1, 30]):
        moments.update(backend(features[rows]), backend(labels[rows]))
    assert arrays.namespace(moments.scatter) is arrays.namespace(backend(features))
    agree(moments, expected, FLOAT64)
    half = ClassMoments.from_arrays(backend(features[:20]), labels[:20])
    agree(half.merge(ClassMoments.from_arrays(backend(features[20:]), labels[20:])), expected, 1e-9)


def test_absent_classes_and_classes_that_come_later():
    features, _ = samples(n=6)
    moments = ClassMoments.from_arrays(features[:3], np.array([2, 2, 0]))
    assert moments.counts.tolist() == [1, 0, 2]
    assert not moments.means[1].any()
    assert not moments.within_squares[1].any()
    moments.update(features[3:], np.array([5, 1, 2]))
    labels = np.array([2, 2, 0, 5, 1, 2])
    agree(moments, literal(features, labels, 6), FLOAT64)
    present = moments.only_present()
    assert present.counts.tolist() == [1, 1, 3, 1]
    np.testing.assert_array_equal(present.means, moments.means[[0, 1, 2, 5]])
    np.testing.assert_array_equal(present.within_squares, moments.within_squares[[0, 1, 2, 5]])
    assert present.scatter is moments.scatter
    assert moments.n_classes == 6
    assert present.only_present() is present


def test_merge_changes_neither_part_and_takes_more_classes_from_both_sides():
    features, _ = samples(n=6)
    few = ClassMoments.from_arrays(features[:3], np.array([0, 1, 0]))
    many = ClassMoments.from_arrays(features[3:], np.array([3, 0, 3]))
    before = [{k: np.copy(v) for k, v in m.to_arrays().items()} for m in (few, many)]
    expected = literal(features, np.array([0, 1, 0, 3, 0, 3]), 4)
    agree(few.merge(many), expected, FLOAT64)
    agree(many.merge(few), expected, FLOAT64)
    for moments, kept in zip((few, many), before, strict=True):
        for name, values in moments.to_arrays().items():
            np.testing.assert_array_equal(values, kept[name])


def test_copy_is_independent():
    features, labels = samples()
    moments = ClassMoments.from_arrays(features[:30], labels[:30])
    twin = moments.copy()
    twin.update(features[30:], labels[30:])
    agree(moments, literal(features[:30], labels[:30], 4), FLOAT64)
    agree(twin, literal(features, labels, 4), FLOAT64)


def test_merge_with_an_empty_one_is_a_copy():
    features, labels = samples()
    moments = ClassMoments.from_arrays(features[:30], labels[:30])
    for joined in (moments.merge(ClassMoments()), ClassMoments().merge(moments)):
        joined.update(features[30:], labels[30:])
        assert moments.n_samples == 30
        assert joined.n_samples == 60


def test_saved_moments_come_back(tmp_path):
    features, labels = samples()
    moments = ClassMoments.from_arrays(features[:40], labels[:40])
    np.savez(tmp_path / "moments.npz", **moments.to_arrays())
    with np.load(tmp_path / "moments.npz") as saved:
        back = ClassMoments.from_saved(dict(saved))
    for name, values in moments.to_arrays().items():
        assert np.array_equal(back.to_arrays()[name], values), name
    agree(
        back.update(features[40:], labels[40:]),
        literal(features, labels, 4),
        FLOAT64,
    )


def test_labels_may_be_any_integers():
    features, labels = samples()
    for dtype in (np.uint8, np.int16, np.uint64):
        agree(
            ClassMoments.from_arrays(features, labels.astype(dtype)),
            literal(features, labels, 4),
            FLOAT64,
        )


def test_inputs_are_not_modified():
    features, labels = samples()
    kept = features.copy(), labels.copy()
    features.flags.writeable = labels.flags.writeable = False
    ClassMoments.from_arrays(features, labels)
    assert np.array_equal(features, kept[0])
    assert np.array_equal(labels, kept[1])


# --- what is refused, and that it leaves no trace -----------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_features_half_way_leave_everything_as_it_was(bad, monkeypatch):
    features, labels = samples(n=300)
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 8)  # several chunks: the last of them is bad
    moments = ClassMoments.from_arrays(features, labels)
    before = moments.to_arrays()
    worse = features.copy()
    worse[290, 1] = bad
    with pytest.raises(FeatureError, match="row"):
        moments.update(worse, labels + 3)
    assert moments.n_classes == 4
    for name, values in moments.to_arrays().items():
        assert np.array_equal(values, before[name]), name

    targets = np.column_stack([labels, -labels]).astype(float)
    joint = TargetMoments.from_arrays(features, targets)
    cross, total = joint.statistics.cross, joint.total
    with pytest.raises(FeatureError):
        joint.update(worse, targets)
    assert joint.statistics.cross is cross
    assert joint.total is total


@pytest.mark.parametrize("size", [1e15, 1e30])  # of the first the squares are finite
def test_overflow_names_the_way_out(size):
    features = np.full((4, 2), size, dtype=np.float32)
    features[0] = -size
    with pytest.raises(FeatureError, match=rf"{re.escape(f'{size:.0e}')}.*overflow.*float64"):
        ClassMoments.from_arrays(features, np.array([0, 1, 0, 1]))
    ClassMoments.from_arrays(features.astype(np.float64), np.array([0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.ones((3, 2)), np.array([0, 1]), "shapes"),
        (np.ones(3), np.array([0, 1, 1]), "shapes"),
        (np.ones((3, 2)), np.array([[0], [1], [1]]), "shapes"),
        (np.ones((0, 2)), np.array([], dtype=int), "at least one sample"),
        (np.ones((2, 2)), np.array([0, -1]), "smallest value -1"),
        (np.ones((2, 2)), np.array([0.0, 1.0]), "float64"),
        (np.ones((2, 3)), np.array([0, 1]), "2 features"),
    ],
)
def test_wrong_batches_are_refused(features, labels, message):
    moments = ClassMoments.from_arrays(np.ones((1, 2)), np.array([0]))
    with pytest.raises(InputError, match=message):
        moments.update(features, labels)
    assert moments.n_samples == 1


def test_moments_of_two_encoders_do_not_merge():
    a = ClassMoments.from_arrays(np.ones((1, 2)), np.array([0]))
    b = ClassMoments.from_arrays(np.ones((1, 3)), np.array([0]))
    with pytest.raises(InputError, match="2 and 3"):
        a.merge(b)


@pytest.mark.parametrize("kind", [ClassMoments, TargetMoments])
def test_empty_moments_have_no_total(kind):
    with pytest.raises(InputError, match="empty"):
        _ = kind().total


def test_sizes_of_empty_and_full():
    assert ClassMoments().n_samples == 0
    assert ClassMoments().n_classes == 0
    moments = ClassMoments.from_arrays(*samples())
    assert (moments.n_samples, moments.n_classes, moments.n_features) == (60, 4, 5)


# --- moments of real-valued targets -------------------------------------------------------------


def literal_targets(features, targets) -> dict[str, np.ndarray]:
    x, y = np.asarray(features).astype(np.longdouble), np.asarray(targets).astype(np.longdouble)
    cross = np.zeros((x.shape[1], y.shape[1]), np.longdouble)
    for row, target in zip(x - x.mean(axis=0), y - y.mean(axis=0), strict=True):
        cross += np.outer(row, target)
    return {
        "mean": y.mean(axis=0),
        "scatter": ((y - y.mean(axis=0)) ** 2).sum(axis=0),
        "cross": cross,
    }


def targets_agree(moments: TargetMoments, features, targets, bound: float) -> None:
    for name, want in literal_targets(features, targets).items():
        have = arrays.to_numpy(getattr(moments.statistics, name))
        assert have.dtype == np.float64
        atol = bound * float(np.abs(want).max())
        np.testing.assert_allclose(have, want.astype(float), rtol=0, atol=atol, err_msg=name)
    expected = literal(features, np.zeros(len(features), int), 1)
    total = moments.total
    assert isinstance(total, FeatureMoments)
    for name in ("mean", "scatter", "quartic_sum"):
        want, have = expected[name].astype(float), arrays.to_numpy(getattr(total, name))
        np.testing.assert_allclose(have, want, rtol=0, atol=bound * np.abs(want).max())


def with_targets(seed: int = 0):
    features, _ = samples(seed=seed)
    noise = np.random.default_rng(seed + 7).standard_normal((60, 3))
    return features, 500 + features[:, :3] - 1000 + noise


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 25), min_size=1, max_size=6), single=st.booleans())
def test_targets_in_batches_and_merged(sizes, single):
    features, targets = with_targets()
    features = features.astype(np.float32 if single else np.float64)
    streamed, merged = TargetMoments(), TargetMoments()
    for rows in cut(60, sizes):
        streamed.update(features[rows], targets[rows])
        part = TargetMoments.from_arrays(features[rows], targets[rows])
        merged = part.merge(merged)
    bound = FLOAT32 if single else FLOAT64
    targets_agree(streamed, features, targets, bound)
    targets_agree(merged, features, targets, bound)


def test_merging_targets_changes_neither_part():
    features, targets = with_targets()
    a = TargetMoments.from_arrays(features[:9], targets[:9])
    b = TargetMoments.from_arrays(features[9:], targets[9:])
    targets_agree(a.merge(b), features, targets, FLOAT64)
    targets_agree(b.merge(a), features, targets, FLOAT64)
    targets_agree(a, features[:9], targets[:9], FLOAT64)
    targets_agree(b, features[9:], targets[9:], FLOAT64)
    alone = a.merge(TargetMoments())
    alone.update(features[9:], targets[9:])
    targets_agree(a, features[:9], targets[:9], FLOAT64)
    targets_agree(alone, features, targets, FLOAT64)


def test_targets_in_every_library(backend):
    features, targets = with_targets()
    targets_agree(
        TargetMoments.from_arrays(backend(features), backend(targets)), features, targets, FLOAT64
    )
