"""The feature store keeps what it was given, through kills, full disks, damage and company."""

from __future__ import annotations

import errno
import inspect
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from transferscope.errors import InputError, StoreError, StoreWarning, UnknownNameError
from transferscope.storage import _entry_files
from transferscope.storage.feature_store import FeatureStore, StoreEntry

IDENTITY: dict[str, Any] = {"dataset": "d" * 16, "encoder": "e" * 16, "layer": "pooled"}
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals, limits and users")


def small(root: Path, **changes: Any) -> StoreEntry:
    return FeatureStore(root).entry(**{**IDENTITY, "n_samples": 10, "shard_size": 4, **changes})


def rows_of(entry: StoreEntry, k: int, width: int = 3) -> dict[str, np.ndarray]:
    rows = np.arange(entry.n_samples, dtype=np.float32)[entry.shard_rows(k), None]
    return {"features": rows + np.linspace(0, 0.5, width, dtype=np.float32)}


def fill(entry: StoreEntry, width: int = 3) -> StoreEntry:
    for k in entry.missing():
        entry.write(k, rows_of(entry, k, width), 0.5)
    return entry


def files_in(folder: Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


# --- what goes in comes out ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f4"]
)
def test_every_dtype_comes_back_as_it_went_in(tmp_path, dtype):
    entry = small(tmp_path)
    values = (np.random.default_rng(0).standard_normal((10, 3, 2)) * 50).astype(dtype)
    for k in range(entry.n_shards):
        entry.write(k, {"features": values[entry.shard_rows(k)]}, 1.0)
    loaded = entry.load()["features"]
    np.testing.assert_array_equal(loaded, values, strict=dtype != ">f4")
    np.testing.assert_array_equal(entry.read(1)["features"], values[4:8])
    assert loaded.flags.writeable
    assert loaded.flags.c_contiguous


def test_several_arrays_of_any_memory_order(tmp_path):
    entry = small(tmp_path, n_samples=5, shard_size=5)
    given_arrays = {
        "features": np.asfortranarray(np.arange(20.0).reshape(5, 4)),
        "labels": np.arange(10)[::2],
        "nothing": np.empty((5, 0), np.float32),
        'crc32":"00000000" é': np.ones((5, 1), np.float16),
    }
    given_arrays["features"].flags.writeable = False
    entry.write(0, given_arrays, 0.0)
    loaded = entry.load()
    assert loaded.keys() == given_arrays.keys()
    for name, array in given_arrays.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)


def test_logits_that_were_not_given_are_not_there(tmp_path):
    assert fill(small(tmp_path)).load().keys() == {"features"}


def test_shards_are_ordinary_safetensors_files(tmp_path):
    entry = fill(small(tmp_path))
    path = entry.folder / "shard-000002.safetensors"
    np.testing.assert_array_equal(
        safetensors.numpy.load_file(path)["features"], rows_of(entry, 2)["features"]
    )


def test_seconds_are_the_sum_over_the_shards_that_exist(tmp_path):
    entry = small(tmp_path)
    assert entry.seconds == 0
    entry.write(0, rows_of(entry, 0), 1.25)
    entry.write(2, rows_of(entry, 2), 0.5)
    assert entry.seconds == 1.75


def test_a_part_is_loaded_by_its_shards(tmp_path):
    entry = small(tmp_path)
    assert entry.n_rows == 0
    entry.write(0, rows_of(entry, 0), 0.5)
    entry.write(1, rows_of(entry, 1), 0.5)
    # what is not there yet does not matter
    np.testing.assert_array_equal(entry.load(1)["features"], rows_of(entry, 0)["features"])
    assert entry.load(2)["features"].shape == (8, 3)
    assert entry.n_rows == 8
    with pytest.raises(StoreError):
        entry.load()
    entry.write(2, rows_of(entry, 2), 0.5)
    assert entry.n_rows == 10  # the last shard is shorter
    whole = entry.load()["features"]
    for n_shards, n_rows in ((1, 4), (2, 8), (3, 10), (4, 10), (None, 10)):
        np.testing.assert_array_equal(entry.load(n_shards)["features"], whole[:n_rows])


def test_a_part_is_checked_as_the_whole_is(tmp_path):
    entry = fill(small(tmp_path))
    spoiled = entry.folder / "shard-000001.safetensors"
    spoiled.write_bytes(spoiled.read_bytes()[:-1])
    assert entry.load(1)["features"].shape == (4, 3)
    with pytest.raises(StoreError, match=f"shard-000001.*cache clear {entry.key}"):
        entry.load(2)


def test_nothing_is_on_disk_before_the_first_write(tmp_path):
    root = tmp_path / "store"
    entry = small(root)
    assert entry.missing() == [0, 1, 2]
    assert entry.seconds == 0
    assert FeatureStore(root).entries() == []
    assert FeatureStore(root).verify() == []
    assert FeatureStore(root).clear() == 0
    assert not root.exists()


@given(st.integers(1, 10_000), st.integers(1, 5_000))
def test_shards_cover_every_row_once_and_in_order(n_samples, shard_size):
    entry = small(Path("nowhere"), n_samples=n_samples, shard_size=shard_size)
    cuts = [entry.shard_rows(k) for k in range(entry.n_shards)]
    assert [cut.start for cut in cuts] == list(range(0, n_samples, shard_size))
    assert [cut.stop for cut in cuts] == [*(cut.start for cut in cuts[1:]), n_samples]
    assert max(cut.stop - cut.start for cut in cuts) <= shard_size


def test_every_fact_but_the_readable_ones_makes_another_entry(tmp_path):
    entry = fill(small(tmp_path))
    for change in ({"n_samples": 9}, {"shard_size": 5}, {"layer": "x"}, {"encoder": "f"}):
        assert small(tmp_path, **change).missing()
    assert small(tmp_path, about={"dataset": "digits"}).key == entry.key


@pytest.mark.parametrize("layer", ["../../etc/x", "a/b", "", "con", "é\n\0", "x" * 5000])
def test_any_layer_name_is_safe(tmp_path, layer):
    entry = fill(small(tmp_path / "store", layer=layer))
    assert entry.missing() == []
    assert files_in(tmp_path) == ["store"]
    assert FeatureStore(tmp_path / "store").entries()[0].layer == layer


@pytest.mark.parametrize(
    ("arrays", "hint"),
    [
        ({"features": np.zeros((3, 2))}, "must have 4 rows"),
        ({"features": np.float32(1)}, "must have 4 rows"),
        ({"features": np.zeros((4, 2), complex)}, "complex128"),
        ({"names": np.array(["a", "b", "c", "d"])}, "<U1"),
        ({"__metadata__": np.zeros((4, 2))}, "__metadata__"),
        ({}, "at least one array"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path, arrays, hint):
    with pytest.raises(InputError, match=hint):
        small(tmp_path / "store").write(0, arrays, 0.0)
    assert not (tmp_path / "store").exists()


def test_numbers_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least 1"):
        small(tmp_path, n_samples=0)
    with pytest.raises(InputError, match="at least 1"):
        small(tmp_path, shard_size=0)
    with pytest.raises(InputError, match="shard 3 does not exist; this entry has shards 0 to 2"):
        small(tmp_path).read(3)


def test_root_is_in_the_users_cache_unless_given(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert FeatureStore().root == tmp_path / "transferscope"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if os.name != "nt":
        assert FeatureStore().root == tmp_path / "home" / ".cache" / "transferscope"
        assert FeatureStore("~/x").root == tmp_path / "home" / "x"


@posix
def test_a_user_without_a_home_is_told_to_choose_a_place(monkeypatch):
    def nobody(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(StoreError, match="another folder with store="):
        FeatureStore()


# --- damage is found, named and mended ----------------------------------------------------------


@pytest.mark.parametrize("mask", [0xFF, 0x01])
def test_every_single_flipped_byte_of_a_shard_is_noticed(tmp_path, mask):
    entry = fill(small(tmp_path))
    path = entry.folder / "shard-000001.safetensors"
    intact = path.read_bytes()
    for at in range(len(intact)):
        path.write_bytes(intact[:at] + bytes([intact[at] ^ mask]) + intact[at + 1 :])
        with pytest.raises(StoreError, match=r"shard-000001.safetensors cannot be used"):
            entry.read(1)


@pytest.mark.parametrize("mask", [0xFF, 0x01])
def test_every_single_flipped_byte_of_a_manifest_is_noticed(tmp_path, mask):
    entry = fill(small(tmp_path, about={"dataset": "digits"}))
    path = entry.folder / "manifest.json"
    intact = path.read_bytes()
    for at in range(len(intact)):
        path.write_bytes(intact[:at] + bytes([intact[at] ^ mask]) + intact[at + 1 :])
        damages = FeatureStore(tmp_path).verify()
        assert [damage.file.name for damage in damages] == ["manifest.json"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-5],
        lambda content: content[:20],
        lambda _: b"",
        lambda _: b"garbage" * 50,
        lambda content: content + b"\0",
        lambda content: content.replace(b"0:4", b"4:8"),
        lambda content: b"\xff" * 8 + content[8:],
    ],
    ids=["short", "very-short", "empty", "garbage", "long", "edited", "huge-header"],
)
def test_a_damaged_shard_is_named_and_computed_again(tmp_path, spoil):
    entry = fill(small(tmp_path))
    path = entry.folder / "shard-000000.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    (damage,) = FeatureStore(tmp_path).verify()
    assert (damage.key, damage.file) == (entry.key, path)
    with pytest.raises(StoreError, match=f"shard-000000.*cache clear {entry.key}"):
        entry.load()
    with pytest.warns(StoreWarning, match=r"shard-000000.safetensors cannot be used \(.*checksum"):
        assert entry.missing() == [0]
    entry.write(0, rows_of(entry, 0), 0.5)
    assert entry.missing() == []
    assert entry.load()["features"][:, 0].tolist() == list(range(10))


def test_an_intact_shard_in_the_wrong_place_is_noticed(tmp_path):
    entry, other = fill(small(tmp_path)), fill(small(tmp_path, layer="other"))
    shutil.copy(
        entry.folder / "shard-000000.safetensors", entry.folder / "shard-000001.safetensors"
    )
    shutil.copy(entry.folder / "shard-000002.safetensors", other.folder)
    with pytest.raises(StoreError, match="holds rows 0:4"):
        entry.read(1)
    with pytest.raises(StoreError, match=f"rows 8:10 of entry {entry.key}"):
        other.load()
    assert len(FeatureStore(tmp_path).verify()) == 2


def test_a_shard_with_other_arrays_than_the_first_is_noticed(tmp_path):
    entry = fill(small(tmp_path))
    entry.write(2, rows_of(entry, 2, width=4), 0.0)
    with pytest.raises(StoreError, match="shard-000002"):
        entry.load()
    entry.write(2, rows_of(entry, 2) | {"logits": np.zeros((2, 2))}, 0.0)
    with pytest.raises(StoreError, match="logits"):
        entry.load()


def test_an_absent_shard_is_not_loaded_over(tmp_path):
    entry = fill(small(tmp_path))
    (entry.folder / "shard-000001.safetensors").unlink()
    assert entry.missing() == [1]
    with pytest.raises(StoreError, match=r"shard-000001.* absent"):
        entry.load()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"facts": 1}'])
def test_a_garbage_manifest_is_named_and_written_again_and_the_shards_are_kept(tmp_path, text):
    entry = fill(small(tmp_path))
    (entry.folder / "manifest.json").write_bytes(text)
    (summary,) = FeatureStore(tmp_path).entries()
    assert summary.problem == "it is not a manifest"
    with pytest.warns(StoreWarning, match=r"manifest.json cannot be used"):
        assert entry.missing() == []
    assert FeatureStore(tmp_path).verify() == []
    assert entry.missing() == []


def test_shards_are_checked_even_where_the_manifest_is_damaged(tmp_path):
    entry = fill(small(tmp_path))
    (entry.folder / "manifest.json").write_bytes(b"")
    (entry.folder / "shard-000001.safetensors").write_bytes(b"")
    files = [damage.file.name for damage in FeatureStore(tmp_path).verify()]
    assert files == ["manifest.json", "shard-000001.safetensors"]


def test_an_older_format_is_computed_again(tmp_path, monkeypatch):
    entry = fill(small(tmp_path, n_samples=80))
    monkeypatch.setattr(_entry_files, "FORMAT", 2)
    entry = small(tmp_path, n_samples=80)
    with pytest.warns(StoreWarning, match="and 16 more cannot be used .it is of format 1") as told:
        assert entry.missing() == list(range(20))
    assert len(told) == 1
    for k in range(entry.n_shards):
        entry.write(k, rows_of(entry, k), 0.5)
    assert entry.missing() == []
    assert FeatureStore(tmp_path).verify() == []


def test_a_newer_format_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(_entry_files, "FORMAT", 2)
    fill(small(tmp_path))
    monkeypatch.undo()
    entry = small(tmp_path)
    with pytest.raises(StoreError, match=r"manifest.json is of format 2.*Upgrade"):
        entry.missing()
    with pytest.raises(StoreError, match="Upgrade"):
        entry.write(0, rows_of(entry, 0), 0.5)
    assert "Upgrade" in FeatureStore(tmp_path).entries()[0].problem
    assert [damage.file.name for damage in FeatureStore(tmp_path).verify()] == ["manifest.json"]


# --- disks that refuse --------------------------------------------------------------------------


def test_a_full_disk_is_explained_and_costs_only_this_shard(tmp_path, monkeypatch):
    entry = small(tmp_path)
    entry.write(0, rows_of(entry, 0), 0.5)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StoreError, match=r"shard-000001.*needs \d+ bytes.*cache clear.*another folder with store="
    ):
        entry.write(1, rows_of(entry, 1), 0.5)
    monkeypatch.undo()
    assert files_in(entry.folder) == ["manifest.json", "shard-000000.safetensors"]
    assert entry.missing() == [1, 2]


PRELUDE = f"""
import os, sys
from pathlib import Path
from typing import Any
import numpy as np
from transferscope.errors import StoreError
from transferscope.storage.feature_store import FeatureStore, StoreEntry
IDENTITY = {IDENTITY}
{inspect.getsource(small)}
{inspect.getsource(rows_of)}
"""


def run(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


@posix
def test_a_write_that_the_kernel_cuts_short_is_taken_back(tmp_path):
    script = """
import resource
entry = small(Path(sys.argv[1]))
entry.write(0, rows_of(entry, 0), 0.5)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    entry.write(1, rows_of(entry, 1, width=50_000), 0.5)
except StoreError as error:
    print(error)
"""
    with run(script, tmp_path) as process:
        assert "needs 800" in process.communicate()[0]
    entry = small(tmp_path)
    assert files_in(entry.folder) == ["manifest.json", "shard-000000.safetensors"]
    assert entry.missing() == [1, 2]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that an ordinary user can reach even when the tests run as root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@posix
def test_a_store_without_write_permission_is_read_but_not_changed(shared_folder):
    entry = fill(small(shared_folder))
    mode = entry.folder.stat().st_mode
    am_root = os.geteuid() == 0
    for folder in (entry.folder, shared_folder):
        folder.chmod(0o555)
    if am_root:
        os.seteuid(65534)
    try:
        entry = small(shared_folder)
        assert entry.missing() == []
        assert entry.load()["features"].shape == (10, 3)
        with pytest.raises(StoreError, match=r"Permission denied.*another folder with store="):
            entry.write(0, rows_of(entry, 0), 0.5)
        with pytest.raises(StoreError, match="Permission denied"):
            small(shared_folder / "deeper").write(0, rows_of(entry, 0), 0.5)
        with pytest.raises(StoreError, match=r"cannot be deleted: Permission denied"):
            FeatureStore(shared_folder).clear()
    finally:
        if am_root:
            os.seteuid(0)
        for folder in (shared_folder, entry.folder):
            folder.chmod(mode)


def test_a_file_in_the_place_of_the_store_is_explained(tmp_path):
    (tmp_path / "store").write_text("mine")
    entry = small(tmp_path / "store")
    with pytest.raises(StoreError, match="another folder with store="):
        entry.write(0, rows_of(entry, 0), 0.5)
    assert FeatureStore(tmp_path / "store").entries() == []


# --- company and sudden death -------------------------------------------------------------------

# writes every shard again and again, and says which are safely written
WRITER = """
width = int(sys.argv[2])
entry = small(Path(sys.argv[1]), n_samples=60)
print("ready", flush=True)
input()
while True:
    for k in entry.missing() or range(entry.n_shards):
        entry.write(k, rows_of(entry, k, width), 0.5)
        print(k, flush=True)
"""


@posix
def test_sigkill_at_any_moment_costs_at_most_the_shard_being_written(tmp_path):
    width = 60_000  # about 1 MB a shard
    undisturbed = fill(small(tmp_path / "undisturbed", n_samples=60), width).load()
    chance = random.Random(0)
    entry = small(tmp_path / "store", n_samples=60)
    safe: set[int] = set()
    writers = [run(WRITER, tmp_path / "store", str(width)) for _ in range(2)]
    for turn in range(20):
        with writers.pop(0) as process:
            writers += [run(WRITER, tmp_path / "store", str(width))] if turn < 18 else []
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("\n")
            process.stdin.flush()
            time.sleep(chance.uniform(0, 0.15))
            process.kill()
            safe |= {int(line) for line in process.stdout.read().split("\n")[:-1]}
        assert FeatureStore(tmp_path / "store").verify() == []
        assert not safe & set(entry.missing())
    assert len(safe) > 1
    resumed = fill(small(tmp_path / "store", n_samples=60), width)
    resumed.write(0, rows_of(resumed, 0, width), 0.5)
    assert resumed.load()["features"].tobytes() == undisturbed["features"].tobytes()
    assert files_in(resumed.folder, "*.tmp") == []


@posix
def test_two_writers_a_reader_and_a_clearer_do_not_disturb_each_other(tmp_path):
    store = FeatureStore(tmp_path)
    chance = random.Random(0)
    entry = small(tmp_path, n_samples=60)
    writers = [run(WRITER, tmp_path, "3000") for _ in range(2)]
    for process in writers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        process.stdin.write("\n")
        process.stdin.flush()
    cleared = 0
    for turn in range(60):
        time.sleep(chance.uniform(0, 0.05))
        assert store.verify() == []
        entry.missing()  # a damaged shard would warn, and so fail
        store.entries()
        if turn % 3 == 2:
            cleared += store.clear() > 0
    assert cleared > 3
    for process in writers:
        assert process.poll() is None
        process.kill()
        process.communicate()
    assert fill(entry, 3000).load()["features"][:, 0].tolist() == list(range(60))
    store.clear()
    assert files_in(tmp_path) == []


def test_a_folder_cleared_under_a_write_is_made_again(tmp_path, monkeypatch):
    entry, replace, turns = small(tmp_path), Path.replace, iter([True, False, True])

    def clear_first(path, target):
        if next(turns, False):
            FeatureStore(tmp_path).clear()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", clear_first)
    entry.write(0, rows_of(entry, 0), 0.5)
    assert entry.missing() == [1, 2]
    assert files_in(entry.folder) == ["manifest.json", "shard-000000.safetensors"]


def test_a_store_that_is_cleared_for_ever_ends_in_an_error(tmp_path, monkeypatch):
    entry = small(tmp_path)
    monkeypatch.setattr(
        Path, "replace", lambda path, target: path.rename(target.parent / "a" / "b")
    )
    with pytest.raises(StoreError, match="vanished 20 times"):
        entry.write(0, rows_of(entry, 0), 0.5)


@posix
def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    entry = small(tmp_path)
    entry.write(0, rows_of(entry, 0), 0.5)
    with run(
        "from transferscope.storage.atomic import _host; print(_host(), os.getpid())"
    ) as process:
        host, dead = process.communicate()[0].split()
    old = time.time() - 2 * 24 * 3600
    ages = {
        f"shard-000001.safetensors.{host}-{dead}-00ff.tmp": None,
        f"shard-000001.safetensors.{host}-{os.getpid()}-00ff.tmp": None,
        f"shard-000002.safetensors.{'0' * 8}-{dead}-00ff.tmp": None,
        f"shard-000002.safetensors.{'0' * 8}-{dead}-00fe.tmp": old,
        "mine.tmp": old,
    }
    for name, age in ages.items():
        (entry.folder / name).write_bytes(b"half a shard")
        if age is not None:
            os.utime(entry.folder / name, (age, age))
    again = small(tmp_path)
    assert again.missing() == [1, 2]
    again.write(1, rows_of(again, 1), 0.5)
    living = sorted(list(ages)[i] for i in (1, 2, 4))
    assert files_in(entry.folder, "*.tmp") == living
    assert FeatureStore(tmp_path).verify() == []


# --- list and clear -----------------------------------------------------------------------------


def test_the_list_shows_facts_progress_size_and_use(tmp_path):
    entry = small(tmp_path, about={"dataset": "digits", "encoder": "mini/a"})
    entry.write(1, rows_of(entry, 1), 0.5)
    other = fill(small(tmp_path, layer="other"))
    os.utime(entry.folder / "manifest.json")
    for path in [*other.folder.glob("*"), other.folder]:
        os.utime(path, (1e9, 1e9))
    first, second = FeatureStore(tmp_path).entries()
    assert (first.key, first.layer, first.n_samples) == (entry.key, "pooled", 10)
    assert first.about == {"dataset": "digits", "encoder": "mini/a"}
    assert (first.n_shards_present, first.n_shards, first.problem) == (1, 3, "")
    assert first.n_bytes == sum(path.stat().st_size for path in entry.folder.iterdir())
    assert abs(first.last_used.timestamp() - time.time()) < 60
    assert (second.key, second.last_used.timestamp()) == (other.key, 1e9)
    other.load()
    assert FeatureStore(tmp_path).entries()[0].key == other.key


def test_clear_takes_keys_or_their_beginnings_and_nothing_that_is_not_its_own(tmp_path):
    one, two = fill(small(tmp_path)), fill(small(tmp_path, layer="other"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.trash").write_text("mine")
    store = FeatureStore(tmp_path)
    for key in ("", "zz", one.key + "0"):
        with pytest.raises(UnknownNameError, match="cache list"):
            store.clear([one.key, key])
    assert len(store.entries()) == 2
    n_bytes = {summary.key: summary.n_bytes for summary in store.entries()}
    assert store.clear([one.key[:12]]) == n_bytes[one.key]
    assert [summary.key for summary in store.entries()] == [two.key]
    assert store.clear([]) == 0
    assert store.clear() == n_bytes[two.key]
    assert files_in(tmp_path) == ["notes.trash", "photos"]


def test_a_clear_that_was_killed_is_finished_by_the_next(tmp_path):
    entry = fill(small(tmp_path))
    size = FeatureStore(tmp_path).entries()[0].n_bytes
    entry.folder.rename(tmp_path / f"{'0a' * 8}.features-trash")
    assert FeatureStore(tmp_path).entries() == []
    assert entry.missing() == [0, 1, 2]
    assert FeatureStore(tmp_path).clear() == size
    assert files_in(tmp_path) == []


def test_a_run_killed_before_its_manifest_is_listed_and_cleared(tmp_path):
    entry = small(tmp_path)
    entry.folder.mkdir()
    (summary,) = FeatureStore(tmp_path).entries()
    assert (summary.key, summary.problem) == (entry.key, "it has no manifest yet")
    assert FeatureStore(tmp_path).verify() == []
    FeatureStore(tmp_path).clear([entry.key])
    assert files_in(tmp_path) == []


def test_the_manifest_says_in_plain_text_what_the_entry_holds(tmp_path):
    entry = fill(small(tmp_path, about={"encoder": "mini/a"}))
    facts = json.loads((entry.folder / "manifest.json").read_text())["facts"]
    expected = {**IDENTITY, "n_samples": 10, "shard_size": 4, "about": {"encoder": "mini/a"}}
    assert facts == {"format": 1, **expected}
