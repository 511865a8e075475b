"""The embedding: what is shared by metrics, and what it is made of."""

from __future__ import annotations

import numpy as np
import pytest

from transferscope import score
from transferscope.embedding import (
    INFLUENCE_SAMPLES,
    ClassMoments,
    Embedding,
    TargetMoments,
    computed_once,
)
from transferscope.errors import FeatureError, InputError, MissingInputError
from transferscope.numerics import arrays
from transferscope.numerics.sampling import stratified_rows


def data(n: int = 40, d: int = 6, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3)
    return rng.standard_normal((3, d))[labels] + rng.standard_normal((n, d)) + 5, labels


# --- a stratified choice of rows ----------------------------------------------------------------


def test_all_rows_when_there_are_few():
    assert stratified_rows(np.zeros(5, int), 5, 5, 0).tolist() == [0, 1, 2, 3, 4]
    assert stratified_rows(None, 4, 9, 0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("limit", [10, 100, 999])
def test_each_class_has_its_share(limit):
    counts = np.array([700, 200, 80, 20])
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), counts))
    rows = stratified_rows(labels, 1000, limit, seed=1)
    assert len(rows) == limit
    assert np.all(np.diff(rows) > 0)
    assert np.all(np.abs(np.bincount(labels[rows], minlength=4) - counts * limit / 1000) < 1)


def test_rows_follow_from_the_seed_alone():
    labels = np.arange(300) % 7
    first = stratified_rows(labels, 300, 50, 3)
    assert np.array_equal(first, stratified_rows(labels, 300, 50, 3))
    assert not np.array_equal(first, stratified_rows(labels, 300, 50, 4))
    free = stratified_rows(None, 300, 50, 3)
    assert len(set(free.tolist())) == 50


def test_rows_are_drawn_evenly():
    labels = np.repeat([0, 1], [60, 20])
    drawn = np.zeros(80)
    for seed in range(400):
        drawn[stratified_rows(labels, 80, 20, seed)] += 1
    # each row 100 times, give or take four standard deviations
    assert np.all(np.abs(drawn - 100) < 4 * np.sqrt(400 * 0.25 * 0.75))


# --- what goes in -------------------------------------------------------------------------------


def test_sizes_and_names():
    features, labels = data()
    embedding = Embedding(features, np.array(["b", "a", "z"])[labels])
    assert (embedding.n_samples, embedding.n_kept, embedding.n_features) == (40, 40, 6)
    assert embedding.n_classes == 3
    assert embedding.classes.names.tolist() == ["a", "b", "z"]
    assert embedding.features is features


def test_labels_or_targets_but_not_both():
    features, labels = data()
    with pytest.raises(InputError, match="not both"):
        Embedding(features, labels, targets=labels)


@pytest.mark.parametrize(
    ("targets", "task"),
    [
        (np.eye(3), "multilabel"),
        (np.eye(3)[:, :1], "regression"),  # one 0/1 column is a regression target
        (np.arange(9.0).reshape(3, 3), "regression"),
    ],
)
def test_task(targets, task):
    embedding = Embedding(np.eye(3), targets=targets)
    assert embedding.task == task
    assert embedding.n_classes == 0
    assert Embedding(np.eye(3), [0, 1, 1]).task == "classification"


def test_probabilities_follow_from_logits():
    features, labels = data()
    logits = np.random.default_rng(1).standard_normal((40, 4))
    embedding = Embedding(features, labels, source_logits=logits)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(embedding.source.probabilities, expected)
    given = Embedding(
        features, labels, source_logits=logits, source_probabilities=np.full((40, 4), 0.25)
    )
    assert np.all(given.source.probabilities == 0.25)
    bare = Embedding(features, labels)
    assert bare.inputs == {"labels"}
    assert embedding.inputs == {"labels", "source_logits", "source_probabilities"}
    with pytest.raises(MissingInputError, match="source_probabilities"):
        _ = bare.source


def test_reference_labels_are_numbered():
    features, labels = data()
    embedding = Embedding(
        features, labels, reference_features=features[:5], reference_labels=list("xyxyz")
    )
    assert embedding.reference.labels.tolist() == [0, 1, 0, 1, 2]
    with pytest.raises(InputError, match="4 labels for 5"):
        _ = Embedding(
            features, labels, reference_features=features[:5], reference_labels=list("xyxy")
        ).reference.labels


def test_reference_deviation(backend):
    features, labels = data()
    embedding = Embedding(backend(features), labels, reference_features=backend(features[:9] + 100))
    np.testing.assert_allclose(
        arrays.to_numpy(embedding.reference.deviation), features[:9].std(axis=0)
    )


# --- what follows -------------------------------------------------------------------------------


def test_moments_are_taken_once_and_of_classes_that_occur():
    features, labels = data()
    embedding = Embedding(features, labels * 4 + 2)
    assert embedding.moments is embedding.moments
    assert embedding.moments.counts.tolist() == np.bincount(labels).tolist()


@pytest.mark.parametrize("level", [0.0, 0.1, 3.7e3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_features_cannot_be_scored(level, dtype):
    for kind in ({"labels": np.arange(30) % 2}, {"targets": np.arange(30.0)}):
        embedding = Embedding(np.full((30, 4), level, dtype), **kind)
        with pytest.raises(FeatureError, match="the same for all 30 samples"):
            _ = embedding.total


def test_features_that_barely_vary_can_be_scored():
    features, labels = data()
    features = 1000 + 1e-6 * features
    assert Embedding(features, labels).total.n_samples == 40


@pytest.mark.parametrize(("n", "d"), [(40, 6), (10, 25)])
def test_spectrum_is_that_of_the_centred_scatter(n, d, backend):
    features, labels = data(n, d)
    embedding = Embedding(backend(features), labels)
    values, vectors = map(arrays.to_numpy, embedding.spread.spectrum)
    centred = features - features.mean(axis=0)
    assert len(values) == min(d, n - 1)
    assert np.all(np.diff(values) <= 0)
    np.testing.assert_allclose(vectors * values @ vectors.T, centred.T @ centred, atol=1e-9)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rank_does_not_depend_on_scale(dtype, scale):
    features, labels = data(60, 6)
    copies = np.column_stack([features, features[:, :4] @ np.ones((4, 3)), np.zeros(60)])
    embedding = Embedding((copies * scale).astype(dtype), labels)
    assert embedding.spread.spectrum.values.shape == (6,)


def test_rotations_are_those_of_the_spectrum(backend):
    features, labels = data()
    embedding = Embedding(backend(features), labels)
    rows = arrays.from_numpy(np.array([3, 0, 9]), embedding.features)
    vectors = arrays.to_numpy(embedding.spread.spectrum.vectors)
    expected = (features - features.mean(axis=0)) @ vectors
    rotated = embedding.rotate(embedding.matrix.take(rows))
    np.testing.assert_allclose(arrays.to_numpy(rotated), expected[[3, 0, 9]])
    means = np.stack([expected[labels == c].mean(axis=0) for c in range(3)])
    np.testing.assert_allclose(arrays.to_numpy(embedding.rotated_means), means, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d"), [(40, 6), (10, 25)])
def test_root_is_one_of_the_scatter(n, d, dtype, backend):
    features, labels = data(n, d)
    embedding = Embedding(backend(features.astype(dtype)), labels)
    root, scatter = (arrays.to_numpy(a) for a in (embedding.spread.root, embedding.total.scatter))
    assert root.shape == (d, min(d, n - 1))
    np.testing.assert_allclose(root @ root.T, scatter, atol=1e-5 * np.max(scatter))


def test_root_leaves_out_what_rounding_makes_of_nothing():
    """A column that repeats others within float32 passes Cholesky's test now and then."""
    features, labels = data(60, 6)
    for seed in range(20):
        mixing = np.random.default_rng(seed).standard_normal((6, 2))
        copies = np.column_stack([features, features @ mixing]).astype(np.float32)
        assert Embedding(copies, labels).spread.root.shape == (8, 6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_projected_rows_are_the_centred_ones_times_the_axes(dtype, backend):
    features, labels = data()
    features = (features + 1000).astype(dtype)
    embedding = Embedding(backend(features), labels)
    axes = np.random.default_rng(1).standard_normal((6, 2))
    exact = features.astype(float)
    expected = (exact - exact.mean(axis=0)) @ axes
    found = embedding.project_influence(arrays.from_numpy(axes, embedding.features))
    tolerance = 1e-12 if dtype is np.float64 else 1e-6
    np.testing.assert_allclose(arrays.to_numpy(found), expected, atol=20 * tolerance)
    assert found.dtype == arrays.namespace(found).float64


def test_displaced_embeddings_share_the_reference():
    features, labels = data()
    embedding = Embedding(features, labels, reference_features=features + 1)
    moved = embedding.displaced(np.ones((3, 6)))
    assert moved.reference is embedding.reference
    np.testing.assert_allclose(embedding.reference.spread.total.mean, features.mean(axis=0) + 1)


def test_influences_belong_to_at_most_5000_stratified_rows():
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((6_000, 2)), rng.integers(0, 3, 6_000)
    embedding = Embedding(features, labels, seed=4)
    rows = embedding.influence_rows
    assert len(rows) == INFLUENCE_SAMPLES == 5_000
    assert np.array_equal(rows, stratified_rows(labels, 6_000, 5_000, 4))
    assert np.array_equal(embedding.influence_labels, labels[rows])
    assert embedding.influence_features.shape == (5_000, 2)
    targets = Embedding(features, targets=features[:, 0])
    assert len(targets.influence_rows) == 5_000


def test_source_joint_and_counts(backend):
    features, labels = data()
    probabilities = np.random.default_rng(2).dirichlet(np.ones(5), 40)
    embedding = Embedding(backend(features), labels, source_probabilities=backend(probabilities))
    joint, counts = np.zeros((3, 5)), np.zeros((3, 5))
    for row, label in zip(probabilities, labels, strict=True):
        joint[label] += row / 40
        counts[label, row.argmax()] += 1
    np.testing.assert_allclose(arrays.to_numpy(embedding.source.joint), joint)
    np.testing.assert_array_equal(arrays.to_numpy(embedding.source.counts), counts)
    np.testing.assert_array_equal(
        arrays.to_numpy(embedding.source.predicted), probabilities.argmax(axis=1)
    )
    assert embedding.source.joint is embedding.source.joint


def test_chunks_and_take_are_the_features(backend, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 8)
    features, labels = data(200)
    embedding = Embedding(backend(features), labels)
    pieces = list(embedding.matrix.chunks())
    assert len(pieces) == 4
    for rows, piece in pieces:
        np.testing.assert_array_equal(arrays.to_numpy(piece), features[rows])
    chosen = arrays.from_numpy(np.array([199, 0]), embedding.features)
    np.testing.assert_array_equal(
        arrays.to_numpy(embedding.matrix.take(chosen)), features[[199, 0]]
    )


def test_without_labels_and_targets():
    """Features alone have moments and a spectrum, and say what they lack."""
    features, labels = data()
    bare, labelled = Embedding(features), Embedding(features, labels)
    assert (bare.task, bare.targets, bare.n_classes, bare.n_samples) == (None, None, 0, 40)
    np.testing.assert_allclose(bare.total.scatter, labelled.total.scatter)
    np.testing.assert_allclose(bare.spread.spectrum.values, labelled.spread.spectrum.values)
    assert bare.influence_rows.tolist() == list(range(40))
    for absent in ("labels", "moments", "rotated_means", "influence_labels"):
        with pytest.raises(MissingInputError, match="Pass labels"):
            getattr(bare, absent)
    with pytest.raises(MissingInputError, match="Pass targets"):
        _ = bare.numbers
    with pytest.raises(MissingInputError, match="reference task"):
        _ = bare.reference
    half = Embedding(features[::2], moments=labelled.total)
    assert (half.n_samples, half.n_kept) == (40, 20)
    assert half.total is labelled.total


def test_computed_once_makes_once():
    made = []

    @computed_once
    def answer(embedding: Embedding) -> int:
        made.append(embedding)
        return 41 + len(made)

    first, second = Embedding(*data()), Embedding(*data())
    assert [answer(first), answer(first), answer(second), answer(first)] == [42, 42, 43, 42]
    assert made == [first, second]
    moved = first.displaced(np.zeros((3, 6)))
    assert answer(moved) == 44


def test_displaced_is_a_second_embedding(backend):
    features, labels = data()
    move = np.random.default_rng(3).standard_normal((3, 6))
    before = Embedding(backend(features), labels)
    kept = arrays.to_numpy(before.spread.spectrum.values).copy()
    after = before.displaced(backend(move))
    expected = Embedding(features + move[labels], labels)
    np.testing.assert_allclose(arrays.to_numpy(after.features), expected.features)
    np.testing.assert_allclose(
        arrays.to_numpy(after.spread.spectrum.values), expected.spread.spectrum.values, rtol=1e-9
    )
    assert after.quartic_sum == pytest.approx(expected.quartic_sum)
    np.testing.assert_array_equal(arrays.to_numpy(before.spread.spectrum.values), kept)
    twice = after.displaced(backend(-move))
    np.testing.assert_allclose(arrays.to_numpy(twice.features), features)


# --- streamed: moments of all, features of a sample ---------------------------------------------


def test_streamed_moments_speak_for_all_samples():
    features, labels = data(90)
    streamed = Embedding(
        features[::3], labels[::3], moments=ClassMoments.from_arrays(features, labels)
    )
    whole = Embedding(features, labels)
    assert (streamed.n_samples, streamed.n_kept) == (90, 30)
    assert len(streamed.influence_rows) == 30
    assert streamed.shared_warnings() == [
        "per-sample terms come from a stratified sample of 30 of 90"
    ]
    assert whole.shared_warnings() == []
    np.testing.assert_allclose(streamed.spread.spectrum.values, whole.spread.spectrum.values)


def test_streamed_targets():
    features, _ = data(90)
    targets = features[:, :2] ** 2
    streamed = Embedding(
        features[::3],
        targets=targets[::3],
        moments=TargetMoments.from_arrays(features, targets),
    )
    assert streamed.n_samples == 90
    np.testing.assert_allclose(
        streamed.target_moments.statistics.cross,
        Embedding(features, targets=targets).target_moments.statistics.cross,
    )


def test_streamed_source_sums():
    features, labels = data(90)
    probabilities = np.random.default_rng(2).dirichlet(np.ones(5), 90)
    whole = Embedding(features, labels, source_probabilities=probabilities)
    streamed = Embedding(
        features[::3],
        labels[::3],
        source_probabilities=probabilities[::3],
        moments=whole.moments,
        source_joint=90 * whole.source.joint,
        source_counts=whole.source.counts,
    )
    np.testing.assert_allclose(streamed.source.joint, whole.source.joint)
    np.testing.assert_array_equal(streamed.source.counts, whole.source.counts)


def test_a_sample_without_a_class_of_the_moments_is_refused():
    features, labels = np.random.default_rng(0).standard_normal((40, 3)), np.arange(40) % 4
    moments = ClassMoments.from_arrays(features, labels)
    keep = labels != 1
    with pytest.raises(InputError, match="got 3 of 4"):
        Embedding(features[keep], labels[keep], moments=moments)


@pytest.mark.parametrize(
    ("offset", "dtype", "digits"),
    [(1e3, np.float32, None), (1e5, np.float32, 2), (1e5, np.float64, None)],
)
def test_features_whose_spread_was_rounded_away_are_warned_of(offset, dtype, digits):
    rng = np.random.default_rng(0)
    features = (offset + rng.standard_normal((60, 5))).astype(dtype)
    probabilities = np.full((60, 4), 0.25)
    table = score(
        features, np.arange(60) % 3, metrics="logme,knn,leep", source_probabilities=probabilities
    )
    for name in ("logme", "knn"):
        said = [text for text in table.scores[name].warnings if "float32 cancellation" in text]
        assert len(said) == (digits is not None)
        assert digits is None or f"1e+05 times their spread, of which {digits} digits" in said[0]
    assert table.scores["leep"].warnings == ()
