"""Extraction: one pass for many encoders, failures kept apart, and every interruption survived."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="extraction runs encoders in torch")

from transferscope.datasets import Dataset, open_dataset  # noqa: E402
from transferscope.encoders import (  # noqa: E402
    Embedded,
    Encoder,
    ImagePreprocessing,
    _torch_encoder,
    from_module,
    load_encoder,
)
from transferscope.errors import (  # noqa: E402
    DatasetError,
    FeatureError,
    InputError,
    StoreError,
    UnknownNameError,
)
from transferscope.extraction import (  # noqa: E402
    Extracted,
    ExtractionSettings,
    Source,
    _batches,
    _pass,
    _sinks,
    extract,
    extract_together,
)
from transferscope.metrics import (  # noqa: E402
    METRICS,
    measure_all,
    score,
)
from transferscope.storage.feature_store import FeatureStore  # noqa: E402

SHARD = 16
N = 70


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_batches, "SHARD_ROWS", SHARD)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Vectors:
    """Vectors are stacked as they are."""

    key = "vectors"

    def prepare(self, sample: Any) -> Any:
        return sample

    def collate(self, prepared: Sequence[Any]) -> Any:
        return np.stack(prepared)


class Counting:
    """A function from vectors to features that knows how many rows it was given, and may fail."""

    def __init__(self, width: int = 5, fail: Callable[[int], None] | None = None) -> None:
        self.weights = np.random.default_rng(width).standard_normal((8, width)).astype(np.float32)
        self.rows: list[int] = []
        self.fail = fail

    def __call__(self, batch: Any) -> Any:
        if self.fail is not None:
            self.fail(sum(self.rows))
        self.rows.append(len(batch))
        return np.tanh(batch @ self.weights)


def encoder_of(function: Any, name: str, **options: Any) -> Any:
    return from_module(function, Vectors(), identifier=name, **{"version": "1", **options})


@pytest.fixture
def vectors() -> Dataset:
    random = np.random.default_rng(0)
    labels = np.arange(N) % 3
    samples = random.standard_normal((N, 8)) + 2 * np.eye(3, 8)[labels]
    return open_dataset((samples.astype(np.float32), labels))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 2 x 20 noisy pictures of 40 x 36."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 160)):
        (folder / name).mkdir()
        for i in range(20):
            pixels = np.clip(noise.normal(level, 40, (40, 36, 3)), 0, 255).astype(np.uint8)
            image.fromarray(pixels).save(folder / name / f"{i:02d}.png")
    return folder


def run(dataset: Dataset, encoders: Any, store: FeatureStore | None = None, **options: Any) -> Any:
    encoders = encoders if isinstance(encoders, list) else [encoders]
    options = {"device": "cpu", "batch_size": 12, **options}
    return list(extract(dataset, encoders, store=store, **options))


def features_of(item: Extracted) -> Any:
    assert item.error is None, item.error
    return item.embedding().features


# --- what comes out -----------------------------------------------------------------------------


def test_features_are_those_of_the_encoder_in_the_order_of_the_samples(vectors, tmp_path):
    counting = Counting()
    head = np.eye(5, 4, dtype=np.float32)
    encoder = encoder_of(counting, "mine", head=lambda pooled: pooled @ head)
    (item,) = run(vectors, encoder, FeatureStore(tmp_path), batch_size=6)
    samples = np.stack([vectors[i] for i in range(N)])
    embedding = item.embedding(seed=3)
    np.testing.assert_array_equal(embedding.features, np.tanh(samples @ counting.weights))
    np.testing.assert_allclose(embedding.source.logits, embedding.features @ head, rtol=1e-6)
    np.testing.assert_array_equal(embedding.labels, vectors.labels)
    assert embedding.seed == 3
    assert (item.identifier, item.feature_dim, item.n_parameters) == ("mine", 5, 0)
    assert item.samples_per_second is not None
    assert item.samples_per_second > 0


def test_batches_end_where_shards_end(vectors):
    counting = Counting()
    run(vectors, encoder_of(counting, "mine"), batch_size=6)
    assert counting.rows == [6, 6, 4] * 4 + [6]


@pytest.mark.parametrize("batch_size", [0, SHARD + 1])
def test_a_batch_lies_within_a_shard(vectors, batch_size):
    with pytest.raises(InputError, match="between 1 and 16"):
        run(vectors, encoder_of(Counting(), "mine"), batch_size=batch_size)


def regression() -> Dataset:
    random = np.random.default_rng(1)
    samples = random.standard_normal((N, 8)).astype(np.float32)
    targets = samples @ random.standard_normal(8) + 0.1 * random.standard_normal(N)
    return open_dataset((samples, targets), task="regression")


def multilabel() -> Dataset:
    random = np.random.default_rng(2)
    samples = random.standard_normal((N, 8)).astype(np.float32)
    targets = (samples[:, :4] + 0.5 * random.standard_normal((N, 4)) > 0).astype(float)
    return open_dataset((samples, targets), task="multilabel")


def without_a_class() -> Dataset:
    random = np.random.default_rng(3)
    labels = np.arange(2 * N) % 6
    data = open_dataset((random.standard_normal((2 * N, 8)).astype(np.float32), labels))
    return data.subset(labels % 2 == 0)


@pytest.mark.parametrize("kept", [5_000, 40])
@pytest.mark.parametrize("make", [regression, multilabel, without_a_class, None])
def test_streamed_scores_are_those_of_stored_features(make, kept, vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(_sinks, "INFLUENCE_SAMPLES", kept)
    data = vectors if make is None else make()
    head = np.random.default_rng(4).standard_normal((5, 4)).astype(np.float32)
    encoder = encoder_of(Counting(), "mine", head=lambda pooled: pooled @ head)
    (stored,) = run(data, encoder, FeatureStore(tmp_path))
    (streamed,) = run(data, encoder, None)
    metrics = [metric for metric in METRICS.values() if data.task in metric.tasks]
    if kept < N:  # then only what follows from the moments of all samples is the same
        metrics = [m for m in metrics if m.from_moments or m.name == "nce"]
        assert streamed.embedding().n_kept == kept
    whole, _ = measure_all(stored.embedding(), metrics)
    parts, _ = measure_all(streamed.embedding(), metrics)
    assert whole.keys() == parts.keys()
    assert "logme" in whole
    for name, (measurement, _) in whole.items():
        assert parts[name][0].value == pytest.approx(measurement.value, rel=2e-6), name
    assert streamed.embedding().n_samples == len(data)
    assert (streamed.feature_dim, stored.feature_dim) == (5, 5)


def test_a_stream_counts_many_source_classes_without_a_square_of_them(vectors):
    wide = np.random.default_rng(0).standard_normal((5, 20_000)).astype(np.float32)
    encoder = encoder_of(Counting(), "mine", head=lambda pooled: pooled @ wide)
    (item,) = run(vectors, encoder, None)  # the square would take 3 GB
    embedding = item.embedding()
    assert embedding.source.counts.shape == (3, 20_000)
    assert embedding.source.counts.sum() == N


def test_encoders_given_as_objects_need_only_follow_the_protocol(vectors, tmp_path):
    class Bare:
        identifier, fingerprint, preprocessing = "bare", "f" * 16, Vectors()
        feature_dim, n_parameters, input_size, layers = 8, 0, None, ("pooled",)

        def embed(self, batch: Any, layers: Any = ("pooled",)) -> Embedded:
            return Embedded({"pooled": torch.from_numpy(batch)})

        def to(self, device: str) -> Encoder:
            return self

    (item,) = run(vectors, Bare(), FeatureStore(tmp_path))
    np.testing.assert_array_equal(features_of(item), np.stack([vectors[i] for i in range(N)]))


def test_another_device_has_features_of_its_own(vectors, tmp_path):
    encoder, store = encoder_of(Counting(), "mine"), FeatureStore(tmp_path)
    encoder.to = lambda _: encoder  # as if there were such a device
    for device in ("cpu", "cuda", "cuda:1"):
        run(vectors, encoder, store, device=device)
    assert len(store.entries()) == 2


@pytest.fixture
def convolution() -> Any:
    """An encoder of torch that the store can know again."""
    torch.manual_seed(0)
    part = torch.nn.BatchNorm2d(8)
    torch.nn.init.uniform_(part.running_var, 0.2, 3)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), part, torch.nn.ReLU())
    return from_module(network, ImagePreprocessing((32, 32), 32), identifier="convolution")


def test_an_exact_pass_is_that_of_embed_and_the_usual_one_close_to_it(pictures, convolution):
    dataset = open_dataset(pictures)
    kind = convolution.preprocessing
    pixels = kind.collate([kind.prepare(dataset[row]) for row in range(len(dataset))])
    batches = [pixels[start : start + SHARD] for start in range(0, len(pixels), SHARD)]
    expected = np.concatenate([convolution.embed(one).features["pooled"] for one in batches])
    (exact,), (usual,) = (
        run(dataset, convolution, batch_size=SHARD, exact=exact) for exact in (True, False)
    )
    np.testing.assert_array_equal(features_of(exact), expected)
    np.testing.assert_allclose(features_of(usual), expected, atol=1e-4 * np.abs(expected).max())


def test_the_store_keeps_features_of_exact_passes_apart(pictures, convolution, tmp_path):
    store = FeatureStore(tmp_path)
    for exact in (False, True, False, True):
        run(open_dataset(pictures), convolution, store, exact=exact)
    assert len(store.entries()) == 2
    kinds = [(device, exact) for device in ("cpu", "cuda", "cuda:1") for exact in (False, True)]
    assert len({_sinks.store_key(convolution, on, exact=exact) for on, exact in kinds}) == 4


def test_one_quicker_pass_serves_all_data_sets_and_none_what_is_stored(
    pictures, convolution, tmp_path, monkeypatch
):
    made: list[object] = []

    class Counted(_torch_encoder.PassPlan):
        def __init__(self, *args: Any, **options: Any) -> None:
            made.append(args)
            super().__init__(*args, **options)

    monkeypatch.setattr(_torch_encoder, "PassPlan", Counted)
    settings = ExtractionSettings(FeatureStore(tmp_path), device="cpu", batch_size=7)
    for _ in range(2):
        list(extract_together([open_dataset(pictures)] * 2, convolution, settings))
    assert len(made) == 1


# --- one pass -----------------------------------------------------------------------------------


class CountedSamples:
    """Counts how often each sample of a data set is decoded."""

    def __init__(self, samples: Any) -> None:
        self.samples, self.decoded = samples, Counter[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.samples, name)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        self.decoded[index] += 1
        return self.samples[index]


def counted(dataset: Dataset) -> tuple[Dataset, Counter[int]]:
    samples = CountedSamples(dataset._samples)
    object.__setattr__(dataset, "_samples", samples)
    return dataset, samples.decoded


def colours(size: int, resize: int, **options: Any) -> Any:
    preprocessing = ImagePreprocessing((size, size), resize, **options)
    name = f"colours-{size}-{resize}-{options}"
    return from_module(lambda images: images.mean(axis=(2, 3)), preprocessing, identifier=name)


@pytest.mark.parametrize("kept", [True, False])
def test_each_image_is_decoded_once_for_all_encoders(pictures, tmp_path, monkeypatch, kept):
    data, decoded = counted(open_dataset(pictures))
    prepared: Counter[str] = Counter()
    original = ImagePreprocessing.prepare

    def prepare(self: ImagePreprocessing, sample: Any) -> Any:
        prepared[self.key] += 1
        return original(self, sample)

    monkeypatch.setattr(ImagePreprocessing, "prepare", prepare)
    encoders = [colours(32, 36), colours(32, 36, mean=(0.5, 0.5, 0.5)), colours(16, 20)]
    items = run(data, encoders, FeatureStore(tmp_path) if kept else None)
    assert [item.error for item in items] == [None] * 3
    assert decoded == dict.fromkeys(range(40), 1)
    assert sorted(prepared.values()) == [40, 40]  # twice: the first two are fed the same pixels


def test_only_missing_shards_are_computed(vectors, tmp_path):
    store = FeatureStore(tmp_path)
    first, second = Counting(5), Counting(6)
    (item,) = run(vectors, encoder_of(first, "first"), store)
    whole = features_of(item)
    entry = item.sinks["pooled"].entry
    for k in (1, 4):
        (entry.folder / f"shard-{k:06d}.safetensors").unlink()
    first.rows.clear()
    data, decoded = counted(vectors)
    (again,) = run(data, encoder_of(first, "first"), store)
    np.testing.assert_array_equal(features_of(again), whole)
    assert sum(first.rows) == SHARD + N % SHARD
    assert set(decoded) == {*range(16, 32), *range(64, 70)}
    # another encoder needs all rows, and that costs the first nothing
    first.rows.clear()
    items = run(data, [encoder_of(first, "first"), encoder_of(second, "second")], store)
    assert [item.feature_dim for item in items] == [5, 6]
    assert (sum(first.rows), sum(second.rows)) == (0, N)


def test_nothing_is_decoded_when_all_is_stored(vectors, tmp_path):
    store = FeatureStore(tmp_path)
    run(vectors, encoder_of(Counting(), "mine"), store)
    data, decoded = counted(vectors)
    calls: list[Any] = []
    # an encoder of vectors knows its dimension only after a batch, and none is needed here
    (item,) = run(data, encoder_of(Counting(), "mine"), store, progress=lambda *a: calls.append(a))
    assert not decoded
    assert item.feature_dim == 5
    assert item.samples_per_second > 0
    assert calls == [("loading mine", 0, 0)]


def test_a_damaged_shard_is_computed_again(vectors, tmp_path):
    store = FeatureStore(tmp_path)
    (item,) = run(vectors, encoder_of(Counting(), "mine"), store)
    whole = features_of(item)
    path = item.sinks["pooled"].entry.folder / "shard-000002.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="shard-000002"):
        (again,) = run(vectors, encoder_of(Counting(), "mine"), store)
    np.testing.assert_array_equal(features_of(again), whole)


def settings(store: FeatureStore | None) -> ExtractionSettings:
    return ExtractionSettings(store, device="cpu", batch_size=12)


def test_weights_are_freed_before_more_are_loaded(vectors, tmp_path, monkeypatch):
    import gc
    import weakref

    monkeypatch.setattr(_pass, "PARAMETERS_AT_ONCE", 20)
    loaded: list[weakref.ref[Any]] = []
    most = 0

    def load(spec: Any, **options: Any) -> Any:
        nonlocal most
        gc.collect()
        most = max(most, sum(reference() is not None for reference in loaded))
        module = torch.nn.Linear(8, 2, bias=False)
        encoder = from_module(module, Tensors(), identifier=spec)
        loaded.append(weakref.ref(encoder))
        return encoder

    class Tensors(Vectors):
        def collate(self, prepared: Sequence[Any]) -> Any:
            return torch.from_numpy(np.stack(prepared))

    monkeypatch.setattr(_pass, "load_encoder", load)
    names = ["a", "b", "c", "d", "e"]
    items = run(vectors, names, FeatureStore(tmp_path))
    assert [item.identifier for item in items] == names
    assert [item.error for item in items] == [None] * 5
    assert most == 1  # two of 16 parameters make a group


def test_progress_only_grows(vectors):
    calls: list[tuple[str, int, int]] = []
    encoders = [encoder_of(Counting(w), f"width {w}") for w in (3, 4)]
    run(vectors, encoders, batch_size=10, progress=lambda *call: calls.append(call))
    assert calls[:2] == [("loading width 3", 0, 0), ("loading width 4", 0, 0)]
    texts, done, totals = zip(*calls[2:], strict=True)
    assert set(texts) == {"extracting features with 2 encoders"}
    assert set(totals) == {N}
    assert (done[0], done[-1]) == (0, N)
    assert list(done) == sorted(set(done))


def test_each_encoder_is_loaded_once_for_several_data_sets(vectors, tmp_path, monkeypatch):
    loaded: list[str] = []

    def load(spec: Any, **options: Any) -> Any:
        loaded.append(spec)
        return encoder_of(Counting(len(spec)), spec)

    monkeypatch.setattr(_pass, "load_encoder", load)
    other = regression()
    for store in (None, FeatureStore(tmp_path)):
        loaded.clear()
        names = ["one", "three"]
        rows = list(extract_together([vectors, other], names, settings(store)))
        assert loaded == names
        for name, row in zip(names, rows, strict=True):
            assert [item.identifier for item in row] == [name, name]
            for item, data in zip(row, (vectors, other), strict=True):
                (alone,) = run(data, name, store)
                np.testing.assert_array_equal(item.features, alone.features)
                assert item.dataset is data


def test_a_first_look_is_the_beginning_and_a_full_one_continues_it(vectors, tmp_path):
    function, store = Counting(), FeatureStore(tmp_path)
    (whole,) = run(vectors, encoder_of(Counting(), "whole"))
    looks = []
    for n_shards in (2, 2, None, 1):
        given = replace(settings(store), n_shards=n_shards)
        ((item,),) = extract_together([vectors], encoder_of(function, "mine"), given)
        looks.append((sum(function.rows), len(item.features), item.embedding().n_samples))
        np.testing.assert_array_equal(item.features, whole.features[: len(item.features)])
        np.testing.assert_array_equal(item.labels, vectors.labels[: len(item.features)])
        assert item.samples_per_second > 0
    # rows computed so far, and rows of the look
    assert looks == [(32, 32, 32), (32, 32, 32), (N, N, N), (N, 16, 16)]


def test_a_first_look_that_was_killed_is_continued(vectors, tmp_path):
    def at(row: int) -> None:
        if row >= 24:
            raise KeyboardInterrupt

    given = replace(settings(FeatureStore(tmp_path)), n_shards=3)
    killed, function = Counting(fail=at), Counting()
    with pytest.raises(KeyboardInterrupt):
        list(extract_together([vectors], encoder_of(killed, "mine"), given))
    ((item,),) = extract_together([vectors], encoder_of(function, "mine"), given)
    assert sum(function.rows) == 32  # of the killed run its whole shards stand
    assert len(item.features) == 48


def test_a_first_look_leaves_a_reference_whole(vectors, tmp_path):
    """Its beginning may be of one class alone."""
    other = regression()
    function = Counting()
    given = replace(settings(FeatureStore(tmp_path)), n_shards=1)
    ((item, reference),) = extract_together([vectors, other], encoder_of(function, "mine"), given)
    assert len(item.features) == 16
    assert len(reference.features) == len(other)
    assert sum(function.rows) == 16 + len(other)


def test_a_source_is_read_for_its_fingerprint_once(vectors, tmp_path, monkeypatch):
    counted: list[int] = []
    digests = Dataset._digests

    def noted(self: Any, indices: Any) -> Any:
        counted.append(len(indices))
        return digests(self, indices)

    monkeypatch.setattr(Dataset, "_digests", noted)
    source, given = Source(vectors), settings(FeatureStore(tmp_path))
    for n_shards in (1, 2, None):
        look = replace(given, n_shards=n_shards)
        list(extract_together([source], encoder_of(Counting(), "mine"), look))
    assert sum(counted) == N


def test_the_same_data_set_twice_is_read_as_two(vectors):
    ((one, two),) = extract_together(
        [vectors, vectors], encoder_of(Counting(), "mine"), settings(None)
    )
    np.testing.assert_array_equal(one.features, two.features)
    assert (one.embedding().n_samples, two.embedding().n_samples) == (N, N)


def test_an_encoder_may_fail_on_one_of_two_data_sets(vectors, pictures):
    ((good, bad),) = extract_together(
        [open_dataset(pictures), vectors],
        "mini/resnet-random",
        settings(None),
    )
    assert good.error is None
    assert good.features.shape == (40, good.feature_dim)
    assert "takes images" in bad.error


@pytest.mark.parametrize("store", [True, False])
def test_arrays_of_an_item_are_those_of_the_data_set(vectors, tmp_path, store):
    for data in (vectors, without_a_class(), regression()):
        (item,) = run(
            data, encoder_of(Counting(), "mine"), FeatureStore(tmp_path) if store else None
        )
        assert item.layers == ("pooled",)
        assert item.features.shape == (len(data), 5)
        np.testing.assert_array_equal(item.labels, data.labels)
        assert item.logits is None
        item.release()
        with pytest.raises(FeatureError, match="released"):
            _ = item.features


@pytest.mark.parametrize("store", [True, False])
def test_features_come_without_labels_where_the_data_set_has_none(vectors, tmp_path, store):
    whole = run(vectors, encoder_of(Counting(), "mine"))[0]
    object.__setattr__(vectors, "labels", None)
    object.__setattr__(vectors, "task", None)
    (item,) = run(
        vectors, encoder_of(Counting(), "mine"), FeatureStore(tmp_path) if store else None
    )
    np.testing.assert_array_equal(item.features, whole.features)
    assert item.labels is None
    other = run(regression(), encoder_of(Counting(), "mine"))[0]
    embedding = other.embedding(reference=item)
    np.testing.assert_array_equal(embedding.reference.features, whole.features)
    assert embedding.reference.classes is None


def test_cache_is_the_users_cache_folder_and_a_path_is_a_folder(vectors, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    encoder = encoder_of(Counting(), "mine")
    list(extract(vectors, encoder, device="cpu", batch_size=12))
    assert len(FeatureStore(tmp_path / "users" / "transferscope").entries()) == 1
    list(extract(vectors, encoder, store=tmp_path / "mine", device="cpu", batch_size=12))
    list(extract(vectors, encoder, store=None, device="cpu", batch_size=12))
    assert {path.name for path in tmp_path.iterdir()} == {"users", "mine"}


# --- failures stay where they happen ------------------------------------------------------------


def raising(after: int, error: BaseException) -> Callable[[int], None]:
    def fail(rows: int) -> None:
        if rows >= after:
            raise error

    return fail


def spoiled(batch: Any) -> Any:
    features = batch[:, :3].copy()
    features[-1, 1] = np.nan
    return features


class Unprepared(Vectors):
    key = "unprepared"

    def prepare(self, sample: Any) -> Any:
        raise ValueError("no such\n  sample")


@pytest.mark.parametrize("kept", [True, False])
def test_one_failing_encoder_does_not_stop_the_others(vectors, tmp_path, kept):
    def wrong_rows(batch: Any) -> Any:
        return batch[:-1]

    encoders = [
        encoder_of(Counting(3), "good"),
        encoder_of(Counting(4, raising(20, RuntimeError("out of\n memory"))), "raising"),
        encoder_of(spoiled, "nan"),
        encoder_of(wrong_rows, "short"),
        from_module(Counting(6), Unprepared(), identifier="unprepared"),
        "checkpoint:none.pth?arch=resnet18",
        "mini/resnet-random",
        encoder_of(Counting(5), "also good"),
    ]
    items = run(vectors, encoders, FeatureStore(tmp_path) if kept else None)
    errors = {item.identifier: item.error for item in items}
    assert list(errors) == [
        "good", "raising", "nan", "short", "unprepared",
        "checkpoint:none.pth?arch=resnet18", "mini/resnet-random", "also good",
    ]  # fmt: skip
    assert errors["good"] is None
    assert errors["also good"] is None
    assert errors["raising"] == "RuntimeError: out of memory"
    assert "features of sample 11 hold NaN" in errors["nan"]
    assert "one row of features per sample" in errors["short"]
    assert errors["unprepared"] == "ValueError: no such sample"
    assert "none.pth" in errors["checkpoint:none.pth?arch=resnet18"]
    assert "takes images" in errors["mini/resnet-random"]
    for item in items:
        if item.error is not None:
            assert not item.sinks
            with pytest.raises(FeatureError):
                item.embedding()
    np.testing.assert_array_equal(
        items[0].embedding().features, features_of(run(vectors, encoders[0])[0])
    )


def test_nothing_more_is_decoded_when_all_encoders_have_failed(vectors):
    data, decoded = counted(vectors)
    encoder = encoder_of(Counting(4, raising(0, RuntimeError("broken"))), "broken")
    (item,) = run(data, encoder, batch_size=4)
    assert item.error == "RuntimeError: broken"
    assert len(decoded) <= 4 * (_batches.BATCHES_AHEAD + 2)


@pytest.mark.parametrize(("room", "ahead"), [(0, 1), (2.5, 2), (100, 3)])
def test_what_is_decoded_ahead_is_bounded_by_bytes(vectors, monkeypatch, room, ahead):
    kinds = {"one": encoder_of(Counting(4), "one").preprocessing}
    batches = _batches.cut_into_batches([0, 1], vectors, 4)
    n_bytes = kinds["one"].collate([kinds["one"].prepare(vectors[row]) for row in range(4)]).nbytes
    monkeypatch.setattr(_batches, "BYTES_AHEAD", int(room * n_bytes))
    started: list[int] = []

    def needed(shard: int) -> Any:
        started.append(shard)
        return kinds

    with closing(_batches.decode_ahead(vectors, batches, needed)) as stream:
        for place in range(3):
            batch, _ = next(stream)
            assert batch.rows == range(4 * place, 4 * place + 4)
            assert len(started) == place + 1 + ahead


def test_what_a_failing_encoder_finished_is_kept(vectors, tmp_path):
    store = FeatureStore(tmp_path)
    counting = Counting(4, raising(40, RuntimeError("broken")))
    (item,) = run(vectors, encoder_of(counting, "mine"), store, batch_size=8)
    assert item.error is not None
    mended = Counting(4)
    (item,) = run(vectors, encoder_of(mended, "mine"), store, batch_size=8)
    assert item.error is None
    assert sum(mended.rows) == N - 2 * SHARD


@pytest.mark.parametrize("spec", ["mini/resnet-randon", "resnet18"])
def test_a_wrong_name_is_wrong_usage(pictures, spec):
    with pytest.raises(UnknownNameError, match="resnet"):
        run(open_dataset(pictures), [spec])


def test_what_is_no_encoder_is_wrong_usage(vectors):
    with pytest.raises(InputError, match="from_module"):
        run(vectors, [Counting()])


def test_an_unreadable_image_stops_the_run_and_keeps_what_was_finished(pictures, tmp_path):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "pictures"
    for path in sorted(pictures.rglob("*.png")):
        copy = folder / path.relative_to(pictures)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    bad = folder / "light" / "03.png"  # row 23, in the second shard
    bad.write_bytes(b"no image")
    store = FeatureStore(tmp_path / "store")
    threads = threading.active_count()
    with pytest.raises(DatasetError, match=r"light.03\.png"):
        run(open_dataset(folder), colours(16, 20), store, batch_size=4)
    assert threading.active_count() == threads
    assert [entry.n_shards_present for entry in store.entries()] == [1]
    image.new("RGB", (16, 16)).save(bad)


@pytest.mark.filterwarnings("ignore::transferscope.errors.StoreWarning")
def test_a_store_that_cannot_be_written_stops_the_run(vectors, tmp_path):
    (tmp_path / "store").write_text("a file, where a folder should be")
    with pytest.raises(StoreError, match="store"):
        run(vectors, encoder_of(Counting(), "mine"), FeatureStore(tmp_path / "store"))


# --- interruptions ------------------------------------------------------------------------------


def test_ctrl_c_leaves_no_thread_and_the_next_run_continues(vectors, tmp_path):
    store = FeatureStore(tmp_path)
    threads = threading.active_count()
    interrupted = encoder_of(Counting(5, raising(40, KeyboardInterrupt())), "mine")
    with pytest.raises(KeyboardInterrupt):
        run(vectors, interrupted, store, batch_size=8)
    assert threading.active_count() == threads
    counting = Counting(5)
    (item,) = run(vectors, encoder_of(counting, "mine"), store, batch_size=8)
    assert sum(counting.rows) == N - 2 * SHARD
    (undisturbed,) = run(vectors, encoder_of(Counting(5), "mine"), FeatureStore(tmp_path / "other"))
    np.testing.assert_array_equal(features_of(item), features_of(undisturbed))


#: What a process of its own runs: image folder, store, seconds to think per batch.
CHILD = """
import sys, time, torch
torch.set_num_threads(1)
from transferscope.extraction import _batches, extract
from transferscope.datasets import open_dataset
from transferscope.encoders import load_encoder
from transferscope.storage.feature_store import FeatureStore

_batches.SHARD_ROWS = 8
folder, store, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
encoders = [load_encoder("mini/resnet-random"), load_encoder("mini/vit-random")]
print("ready", flush=True)
sys.stdin.readline()
list(extract(
    open_dataset(folder), encoders, store=FeatureStore(store), device="cpu", batch_size=4,
    progress=lambda *_: time.sleep(pause),
))
"""


def child(folder: Path, store: Path, pause: float) -> subprocess.Popen[bytes]:
    source = str(Path(_pass.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(store), str(pause)],
        env={**os.environ, "PYTHONPATH": source},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def here(folder: Path, store: Path) -> list[Any]:
    encoders = [load_encoder("mini/resnet-random"), load_encoder("mini/vit-random")]
    return [
        features_of(item)
        for item in run(open_dataset(folder), encoders, FeatureStore(store), batch_size=4)
    ]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_killed_at_any_moment_the_next_run_gives_the_same_bits(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(_batches, "SHARD_ROWS", 8)
    undisturbed = here(pictures, tmp_path / "undisturbed")
    moments = random.Random(0)
    stores = [tmp_path / f"killed {i}" for i in range(3)]
    children = [child(pictures, store, 0.02) for store in stores]  # 10 batches: some 0.3 s
    for process in children:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    present = []
    for process, store in zip(children, stores, strict=True):
        with process:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0.05, 0.2))
            process.send_signal(signal.SIGKILL)
        present += [entry.n_shards_present for entry in FeatureStore(store).entries()]
        for again, before in zip(here(pictures, store), undisturbed, strict=True):
            np.testing.assert_array_equal(again, before)
    assert sum(present) < 2 * 5 * 3  # the kills came in time to do harm


def test_two_runs_at_once_share_a_store(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(_batches, "SHARD_ROWS", 8)
    with child(pictures, tmp_path / "store", 0.0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        together = here(pictures, tmp_path / "store")
        assert process.wait(60) == 0
    assert FeatureStore(tmp_path / "store").verify() == []
    after = here(pictures, tmp_path / "store")
    alone = here(pictures, tmp_path / "alone")
    for one, two, three in zip(together, after, alone, strict=True):
        np.testing.assert_array_equal(one, three)
        np.testing.assert_array_equal(two, three)


def test_a_rare_class_keeps_its_place_in_a_stream():
    # of 60,000 samples a class of three has no share in a sample of 5,000
    labels = np.repeat(np.arange(4), [20_000, 3, 20_000, 19_997])
    rng = np.random.default_rng(0)
    values = rng.standard_normal((60_000, 4)).astype(np.float32)
    features = values + 2 * np.eye(4, dtype=np.float32)[labels]
    sink = _sinks.StreamSink(open_dataset((features, labels)), seed=0)
    for shard in sink.missing():
        rows = _batches.shard_rows(shard, len(labels))
        sink.write(shard, {"features": features[rows.start : rows.stop]}, 0.0)
    streamed = sink.embedding(0, {})
    assert streamed.n_classes == 4
    assert 5_000 <= streamed.n_kept <= 5_001
    whole = score(features, labels, metrics="logme,regularized_h_score")
    for name in whole.scores:
        assert METRICS[name].measure(streamed).value == pytest.approx(whole[name], rel=1e-6)
    METRICS["linear_probe"].measure(streamed).influence()
