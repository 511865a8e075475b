"""Feature files: what is written is read, and what is damaged is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from transferscope import score
from transferscope.errors import InputError, StoreError
from transferscope.storage import atomic
from transferscope.storage.atomic import write_atomically
from transferscope.storage.feature_files import KNOWN_ARRAYS, read_feature_file, write_feature_file
from transferscope.storage.safetensors_files import parse_header, serialise


def contents() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "features": rng.standard_normal((12, 3)).astype(np.float32),
        "labels": np.arange(12) % 3,
        "source_logits": rng.standard_normal((12, 4)),
        "reference_features": rng.standard_normal((5, 3)),
    }


def save(path, arrays) -> None:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)


@pytest.mark.parametrize("name", ["f.npz", "f.safetensors"])
def test_arrays_come_back(tmp_path, name):
    save(tmp_path / name, contents() | {"something_else": np.zeros(2)})
    found = read_feature_file(tmp_path / name)
    assert set(found) == set(contents())
    for key, values in contents().items():
        assert found[key].dtype == values.dtype
        np.testing.assert_array_equal(found[key], values)
    assert read_feature_file(str(tmp_path / name)).keys() == found.keys()


def test_names_are_those_of_the_score(tmp_path):
    import inspect

    assert set(KNOWN_ARRAYS) <= set(inspect.signature(score).parameters)
    save(tmp_path / "f.npz", contents())
    assert score(**read_feature_file(tmp_path / "f.npz"), metrics="logme,leep").skipped == {}


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
)
def test_every_dtype_of_safetensors_is_mapped(tmp_path, dtype):
    values = np.arange(6).reshape(2, 3).astype(dtype)
    save(tmp_path / "f.safetensors", {"features": values})
    found = read_feature_file(tmp_path / "f.safetensors")["features"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_bfloat16_is_refused_with_the_way_out(tmp_path):
    torch = pytest.importorskip("torch")
    import safetensors.torch

    path = tmp_path / "f.safetensors"
    safetensors.torch.save_file({"features": torch.ones(2, 2, dtype=torch.bfloat16)}, path)
    with pytest.raises(InputError, match="BF16, convert it to float32"):
        read_feature_file(path)


def test_safetensors_are_mapped_not_copied(tmp_path):
    save(tmp_path / "f.safetensors", contents())
    features = read_feature_file(tmp_path / "f.safetensors")["features"]
    assert not features.flags.owndata
    assert not features.flags.writeable


@pytest.mark.parametrize("name", ["f.npz", "f.safetensors", "f.csv"])
def test_no_such_file(tmp_path, name):
    with pytest.raises(InputError, match=f"{name} does not exist"):
        read_feature_file(tmp_path / name)


def test_other_kinds_are_refused(tmp_path):
    (tmp_path / "f.csv").write_text("a,b\n")
    with pytest.raises(InputError, match=r"f.csv must be .npz or .safetensors. .*rank"):
        read_feature_file(tmp_path / "f.csv")
    np.save(tmp_path / "f.npy", np.zeros(3))
    (tmp_path / "f.npy").rename(tmp_path / "g.npz")
    with pytest.raises(InputError, match=r"single array .* with np\.savez"):
        read_feature_file(tmp_path / "g.npz")


@pytest.mark.parametrize("name", ["f.npz", "f.safetensors"])
def test_features_must_be_there(tmp_path, name):
    save(tmp_path / name, {"labels": np.arange(3), "x": np.zeros(3)})
    with pytest.raises(InputError, match=r"must hold an array 'features'; it holds \['labels'\]"):
        read_feature_file(tmp_path / name)


@pytest.mark.parametrize("name", ["f.npz", "f.safetensors"])
@pytest.mark.parametrize("keep", [0, 4, 9, 60, -1])
def test_a_file_cut_short_is_damaged(tmp_path, name, keep):
    save(tmp_path / name, contents())
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:keep])
    with pytest.raises(InputError, match="damaged or of another format than its name"):
        read_feature_file(tmp_path / name)


@pytest.mark.parametrize("name", ["f.npz", "f.safetensors"])
def test_rubbish_is_damaged(tmp_path, name):
    for rubbish in (b"rubbish" * 50, b"\x10" + b"\0" * 7 + b"[1, 2, 3, 4, 5] ", b"\xff" * 40):
        (tmp_path / name).write_bytes(rubbish)
        with pytest.raises(
            InputError, match="damaged or of another format than its name"
        ) as refused:
            read_feature_file(tmp_path / name)
        assert "pickle" not in str(refused.value)


def test_a_folder_is_no_feature_file(tmp_path):
    with pytest.raises(InputError, match=r"is a folder; it must .*transferscope rank"):
        read_feature_file(tmp_path)


def test_pickles_are_not_executed(tmp_path):
    np.savez(tmp_path / "f.npz", features=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(InputError, match="damaged"):
        read_feature_file(tmp_path / "f.npz")


def test_written_files_are_read(tmp_path):
    path = tmp_path / "deep" / "er" / "f.safetensors"
    turned = contents() | {"features": np.asfortranarray(contents()["features"])}
    write_feature_file(path, turned, {"encoder": "mini/resnet-random"})
    for key, values in read_feature_file(path).items():
        np.testing.assert_array_equal(values, turned[key])
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"encoder": "mini/resnet-random"}
    assert [p.name for p in path.parent.iterdir()] == ["f.safetensors"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "f.safetensors"
    write_feature_file(path, contents(), {})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"No space left.*choose another place"):
            write_feature_file(path, contents(), {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f.safetensors"]
    (tmp_path / "in_the_way").write_text("")
    with pytest.raises(StoreError):
        write_feature_file(tmp_path / "in_the_way" / "f.safetensors", contents(), {})


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u1", "u4", "?", ">f4"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3)])
def test_safetensors_reads_what_is_serialised(dtype, shape):
    arrays = {"a": np.ones(shape).astype(dtype), "b": np.arange(3, dtype="u1"), "c": np.ones(1)}
    content = b"".join(serialise(arrays, {"é": "x"}))
    for found in (
        safetensors.numpy.load(content),
        {
            name: tensor.view(np.frombuffer(content, np.uint8))
            for name, tensor in parse_header(content, len(content)).tensors.items()
        },
    ):
        assert found.keys() == arrays.keys()
        for name, values in arrays.items():
            assert found[name].shape == values.shape
            assert found[name].dtype == values.dtype.newbyteorder("=")
            np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("[1, 2]", "is no table"),
        ('{"a": 1}', "does not describe a"),
        ('{"a": {"dtype": "F32", "shape": [1]}}', "does not describe a"),
        ('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "does not describe a"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "type F32 has 4 bytes"),
        ('{"a": {"dtype": "BF16", "shape": [1], "data_offsets": [4, 0]}}', "has -4 bytes"),
        ('{"a": {"dtype": "F8_E4M3", "shape": [9], "data_offsets": [0, 9]}}', "bytes of"),
        ('{"a"', "Expecting"),
    ],
)
def test_damaged_headers_are_described(header, reason):
    content = len(header).to_bytes(8, "little") + header.encode() + b"1234"
    with pytest.raises(ValueError, match=reason):
        parse_header(content, len(content))


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "notes.txt"
    write_atomically(path, "first: é\n")
    assert path.read_bytes() == "first: é\n".encode()
    monkeypatch.setattr(
        Path, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "No"))
    )
    with pytest.raises(StoreError, match=r"notes.txt cannot be written: No. .*, or rename it\."):
        write_atomically(path, [b"second"], elsewhere="rename it")
    assert path.read_bytes() == "first: é\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["notes.txt"]


def test_what_a_killed_run_left_of_a_file_goes_when_it_is_written_again(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    dead, alive = (f"{atomic._host()}-{pid}-0a.tmp" for pid in (ended.pid, os.getpid()))
    for name in (f"r.json.{dead}", f"r.json.{alive}", f"other.{dead}", "r.json.tmp"):
        (tmp_path / name).write_text("half", encoding="utf-8")
    write_atomically(tmp_path / "r.json", "whole\n")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"r.json", f"r.json.{alive}", f"other.{dead}", "r.json.tmp"}
