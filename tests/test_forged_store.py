"""Entries that somebody else wrote, with right checksums: named, computed again, kept inside."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from transferscope.datasets import open_dataset
from transferscope.encoders import Embedded, ImagePreprocessing
from transferscope.errors import StoreWarning
from transferscope.extraction import extract
from transferscope.storage import _entry_files
from transferscope.storage.feature_store import FeatureStore, StoreEntry

torch = pytest.importorskip("torch", reason="an encoder gives tensors")
posix = pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")


def shard(header: object, body: bytes, path: Path) -> None:
    """Write a shard of any header and a right checksum."""
    text = json.dumps(header, separators=(",", ":")).encode()
    content = len(text).to_bytes(8, "little") + text + body
    at = content.index(b'"crc32":"') + 9
    path.write_bytes(content[:at] + b"%08x" % crc32(content) + content[at + 8 :])


def facts_of(entry: StoreEntry, k: int = 0) -> dict[str, str]:
    rows = entry.shard_rows(k)
    facts = {"format": "1", "key": entry.key, "rows": f"{rows.start}:{rows.stop}"}
    return {**facts, "seconds": "1", "crc32": "00000000"}


def tensor(shape: list[Any], n_bytes: int, dtype: str = "F32", start: int = 0) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + n_bytes]}


#: What a shard of 4 rows says of itself, and how many bytes follow.
SHARDS: dict[str, tuple[dict[str, Any], int]] = {
    "fewer rows": ({"features": tensor([2, 3], 24)}, 24),
    "more rows": ({"features": tensor([8, 3], 96)}, 96),
    "no rows": ({"features": tensor([0, 3], 0)}, 0),
    "a single number": ({"features": tensor([], 4)}, 4),
    "more bytes than it has": ({"features": tensor([4, 10**9], 16 * 10**9)}, 48),
    "a shape beyond all memory": ({"features": tensor([4, 2**62], 2**66)}, 48),
    "a shape of another size": ({"features": tensor([4, 3], 24)}, 24),
    "a shape of fractions": ({"features": tensor([4, 1.5], 24)}, 24),
    "a shape of texts": ({"features": tensor(["4", "3"], 48)}, 48),
    "negative offsets": ({"features": {**tensor([4, 3], 48), "data_offsets": [-48, 0]}}, 48),
    "an unknown type": ({"features": tensor([4, 3], 24, "F16X")}, 24),
    "a type without an array": ({"features": tensor([4, 3], 24, "BF16")}, 24),
    "no array": ({}, 0),
    "an array that is no table": ({"features": [1, 2]}, 0),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_forged_shard_is_named_and_computed_again(tmp_path, name):
    entry = FeatureStore(tmp_path).entry(
        dataset="d", encoder="e", layer="l", n_samples=8, shard_size=4
    )
    right = np.arange(24, dtype=np.float32).reshape(8, 3)
    for k in range(2):
        entry.write(k, {"features": right[entry.shard_rows(k)]}, 1.0)
    tensors, n_bytes = SHARDS[name]
    path = entry.folder / "shard-000000.safetensors"
    shard({"__metadata__": facts_of(entry), **tensors}, bytes(n_bytes), path)
    (damage,) = FeatureStore(tmp_path).verify()
    assert damage.file == path
    assert damage.reason
    with pytest.warns(StoreWarning, match="shard-000000"):
        assert entry.missing() == [0]
    entry.write(0, {"features": right[:4]}, 1.0)
    assert np.array_equal(entry.load()["features"], right)


@pytest.mark.parametrize(
    "change",
    [
        {"key": "../../etc"},
        {"rows": "0:8"},
        {"rows": "zero:four"},
        {"format": "../1"},
        {"format": None},
        {"key": None},
        {"rows": None},
        {"rows": 7},
    ],
)
def test_forged_facts_of_a_shard_are_refused(tmp_path, change):
    entry = FeatureStore(tmp_path).entry(
        dataset="d", encoder="e", layer="l", n_samples=4, shard_size=4
    )
    entry.write(0, {"features": np.ones((4, 3), np.float32)}, 1.0)
    facts = {**facts_of(entry), **change}
    facts = {name: fact for name, fact in facts.items() if fact is not None}
    path = entry.folder / "shard-000000.safetensors"
    shard({"__metadata__": facts, "features": tensor([4, 3], 48)}, bytes(48), path)
    with pytest.warns(StoreWarning, match="shard-000000"):
        assert entry.missing() == [0]
    assert len(FeatureStore(tmp_path).verify()) == 1
    assert [one.seconds for one in (entry,)] == [1.0]


@pytest.mark.parametrize("seconds", ["abc", "-1", "nan", "inf", "1e999"])
def test_forged_seconds_count_as_none(tmp_path, seconds):
    entry = FeatureStore(tmp_path).entry(
        dataset="d", encoder="e", layer="l", n_samples=4, shard_size=4
    )
    entry.write(0, {"features": np.ones((4, 3), np.float32)}, 1.0)
    facts = {**facts_of(entry), "seconds": seconds}
    path = entry.folder / "shard-000000.safetensors"
    shard({"__metadata__": facts, "features": tensor([4, 3], 48)}, bytes(48), path)
    assert entry.missing() == []
    assert entry.seconds == 0.0


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no table": lambda _: [1, 2],
    "a text": lambda _: "facts",
    "no format": lambda facts: {k: v for k, v in facts.items() if k != "format"},
    "a format of text": lambda facts: {**facts, "format": "1"},
    "no data set": lambda facts: {k: v for k, v in facts.items() if k != "dataset"},
    "no samples": lambda facts: {**facts, "n_samples": 0},
    "shards of no rows": lambda facts: {**facts, "shard_size": 0},
    "samples of text": lambda facts: {**facts, "n_samples": "many"},
    "endless samples": lambda facts: {**facts, "n_samples": 10**300, "shard_size": 1},
    "true samples": lambda facts: {**facts, "n_samples": True},
    "a layer of numbers": lambda facts: {**facts, "layer": 3},
    "about of numbers": lambda facts: {**facts, "about": {"dataset": 3}},
    "about a list": lambda facts: {**facts, "about": ["x"]},
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_forged_manifest_is_named_and_written_again(tmp_path, name):
    store = FeatureStore(tmp_path)
    entry = store.entry(dataset="d", encoder="e", layer="l", n_samples=4, shard_size=4)
    entry.write(0, {"features": np.ones((4, 3), np.float32)}, 1.0)
    path = entry.folder / "manifest.json"
    forged = MANIFESTS[name](json.loads(path.read_text())["facts"])
    path.write_text(_entry_files.manifest_text(forged))
    (summary,) = store.entries()
    assert summary.problem
    assert [damage.file for damage in store.verify()] == [path]
    with pytest.warns(StoreWarning, match=r"manifest\.json"):
        assert entry.missing() == []
    assert store.verify() == []


@posix
@pytest.mark.parametrize("what", ["pipe", "folder", "link to a file", "huge"])
@pytest.mark.parametrize("file", ["manifest.json", "shard-000000.safetensors"])
def test_what_is_no_ordinary_file_is_not_read(tmp_path, what, file):
    store = FeatureStore(tmp_path / "store")
    entry = store.entry(dataset="d", encoder="e", layer="l", n_samples=4, shard_size=4)
    entry.write(0, {"features": np.ones((4, 3), np.float32)}, 1.0)
    path = entry.folder / file
    path.unlink()
    (tmp_path / "mine").write_text("secret")
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "link to a file":
        path.symlink_to(tmp_path / "mine")
    else:
        with path.open("wb") as sparse:
            sparse.truncate(2**43)
    assert [damage.file for damage in store.verify()] == [path]
    assert store.entries()
    with pytest.warns(StoreWarning, match=file.replace(".", r"\.")):
        entry.missing()
    assert (tmp_path / "mine").read_text() == "secret"
    store.clear()
    assert list((tmp_path / "store").iterdir()) == []


@posix
def test_an_entry_that_is_a_link_does_not_lead_out_of_the_store(tmp_path):
    store = FeatureStore(tmp_path / "store")
    entry = store.entry(dataset="d", encoder="e", layer="l", n_samples=4, shard_size=4)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    (tmp_path / "store").mkdir()
    entry.folder.symlink_to(outside)
    assert [damage.reason for damage in store.verify()] == ["it is no folder"]
    entry.hold()
    with pytest.warns(StoreWarning, match="it is no folder"):
        assert entry.missing() == [0]
    entry.write(0, {"features": np.ones((4, 3), np.float32)}, 1.0)
    assert [path.name for path in outside.iterdir()] == ["mine.txt"]
    assert entry.load()["features"].shape == (4, 3)
    other = entry.folder.with_name(f"{'0' * 20}.features")
    other.symlink_to(outside)
    store.clear()
    assert [path.name for path in outside.iterdir()] == ["mine.txt"]
    assert list((tmp_path / "store").iterdir()) == []


class Colours:
    """An encoder without weights: mean colours."""

    identifier, fingerprint, n_parameters, feature_dim = "colours", "c" * 16, 0, 3
    input_size, layers = (8, 8), ("pooled",)
    preprocessing = ImagePreprocessing((8, 8), 8)

    def embed(self, batch: Any, layers: Any = ("pooled",)) -> Embedded:
        features = torch.as_tensor(np.asarray(batch)).float().mean(dim=(1, 2))
        return Embedded({"pooled": features}, None)

    def to(self, device: str) -> Colours:
        return self


@pytest.mark.parametrize(
    "forged",
    [
        {"other": np.ones((12, 3), np.float32)},
        {"features": np.ones(12, np.float32)},
        {"features": np.ones((12, 0), np.float32)},
        {"features": np.ones((12, 3, 2), np.float32)},
        {"features": np.ones((12, 3), bool)},
        {"features": np.ones((12, 3), np.float32), "logits": np.ones(12, np.float32)},
    ],
)
def test_an_entry_that_holds_no_features_is_computed_again(tmp_path, forged):
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)
    data = open_dataset((images, np.arange(12) % 2))

    def features() -> np.ndarray:
        (item,) = extract(data, Colours(), store=tmp_path, device="cpu")
        assert item.error is None, item.error
        return item.features

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # objects may not be kept by their class
        right = features()
        entries = FeatureStore(tmp_path).entries()
    if not entries:
        pytest.skip("this encoder's features are not kept")
    (folder,) = tmp_path.glob("*.features")
    parts = _entry_files.shard_parts(forged, folder.stem, slice(0, 12), 1.0)
    (folder / "shard-000000.safetensors").write_bytes(b"".join(parts))
    with pytest.warns(StoreWarning, match="will be computed again"):
        assert np.array_equal(features(), right)


def test_shards_of_different_arrays_are_all_computed_again(tmp_path):
    entry = FeatureStore(tmp_path).entry(
        dataset="d", encoder="e", layer="l", n_samples=8, shard_size=4
    )
    entry.write(0, {"features": np.ones((4, 3), np.float32)}, 1.0)
    entry.write(1, {"features": np.ones((4, 5), np.float32)}, 1.0)
    with pytest.warns(StoreWarning, match="different arrays"):
        assert entry.missing() == [0, 1]
