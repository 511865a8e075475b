"""Weights files are read as data: what stands beside weights is skipped, and nothing is called."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import io
import os
import pathlib
import pickle
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transferscope.errors import CheckpointError  # noqa: E402
from transferscope.storage._pickles import HostilePickleError, Opaque, read_pickle  # noqa: E402
from transferscope.storage.weights_files import (  # noqa: E402
    nested_mappings,
    read_weights_file,
    tensors_of,
)

FORMS = ("zip", "before 1.6")


class Colour(enum.Enum):
    RED = 1


class Settings:
    """Of a training script: a class that nobody else has."""

    def __init__(self) -> None:
        self.lr = 0.1
        self.path = pathlib.PurePosixPath("/data")

    def __setstate__(self, state: object) -> None:
        raise AssertionError("this must never be called")


class Options(dict[str, object]):
    """A dictionary of another class, as OmegaConf and many others have."""


class Slotted:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


BESIDE: dict[str, Any] = {
    "posix path": pathlib.PurePosixPath("/a/b"),
    "windows path": pathlib.PureWindowsPath("c:\\a"),
    "path": Path("runs"),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "ordered": collections.OrderedDict(a=1, b={2, 3}),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2]),
    "timedelta": datetime.timedelta(hours=3),
    "datetime": datetime.datetime(2024, 1, 2),
    "array": np.arange(6.0).reshape(2, 3),
    "fortran array": np.arange(6.0).reshape(2, 3).T,
    "big-endian array": np.arange(4, dtype=">i4"),
    "array of objects": np.array([{"a": 1}, None]),
    "array of texts": np.array(["a", "b"]),
    "dates": np.array(["2024-01-01"], dtype="datetime64[D]"),
    "namespace": argparse.Namespace(lr=0.1, colour=Colour.RED),
    "enum": Colour.RED,
    "own class": Settings(),
    "own dictionary": Options(a=1),
    "slots": Slotted(),
    "function": os.path.join,
    "class": Settings,
    "complex": 1 + 2j,
    "set": frozenset({1, "a"}),
    "bytes": b"\xff\0",
    "bytearray": bytearray(b"abc"),
    "device": torch.device("cpu"),
    "dtype": torch.float16,
    "size": torch.Size([2, 3]),
    "generator state": torch.get_rng_state(),
    "numpy state": np.random.default_rng(0).bit_generator.state,
    "optimizer": torch.optim.Adam([torch.zeros(2)]).state_dict(),
    "sparse": torch.zeros(3, 3).to_sparse(),
    "recursive": None,
    "large integer": 10**300,
}
BESIDE["recursive"] = [BESIDE["set"]]
BESIDE["recursive"].append(BESIDE["recursive"])
# what is rebuilt, and not only skipped
KEPT = (
    *("defaultdict", "ordered", "counter", "set", "bytes", "size", "large integer", "dtype"),
    *("array", "fortran array", "big-endian array"),
)


def saved(content: Any, path: Path, form: str = "zip", protocol: int = 2) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(
            content,
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=form == "zip",
        )
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", FORMS)
def test_what_stands_beside_weights_is_skipped(tmp_path: Path, form: str, protocol: int) -> None:
    weights = {"w": torch.arange(6.0).reshape(2, 3).T, "h": torch.ones(2, dtype=torch.bfloat16)}
    content = read_weights_file(saved(BESIDE | weights, tmp_path / "w.pth", form, protocol))
    for name, tensor in weights.items():
        assert torch.equal(content[name], tensor)
        assert content[name].dtype == tensor.dtype
    assert content.keys() == BESIDE.keys() | weights.keys()
    for name in KEPT:
        assert np.array_equal(content[name], BESIDE[name]), name
    assert content["namespace"].lr == 0.1
    assert isinstance(content["own class"], Opaque)
    assert content["own class"].kind.endswith("Settings")
    assert content["own class"]["lr"] == 0.1
    assert content["own dictionary"] == {"a": 1}
    assert torch.equal(content["generator state"], BESIDE["generator state"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(()),
        torch.zeros(0, 3),
        torch.arange(24.0).reshape(2, 3, 4)[:, 1:, ::2],
        torch.arange(3).expand(4, 3),
        torch.tensor([True, False]),
        torch.tensor([1 + 2j]),
        torch.arange(5, dtype=torch.uint8),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)}",
)
def test_tensors_are_those_that_were_saved(tmp_path: Path, form: str, tensor: Any) -> None:
    shared = {"a": tensor, "b": [tensor.detach()]}
    content = read_weights_file(saved(shared, tmp_path / "w.pth", form))
    for found in (content["a"], content["b"][0]):
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


@pytest.mark.parametrize("kind", ["module", "module in a dictionary", "TorchScript"])
def test_weights_of_a_whole_module_are_read_without_its_code(tmp_path: Path, kind: str) -> None:
    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 1)
            self.register_buffer("kept", torch.ones(2))
            self.register_buffer("left_out", torch.ones(2), persistent=False)

    network = torch.nn.Sequential(Part() if kind != "TorchScript" else torch.nn.Linear(2, 3))
    network.append(torch.nn.BatchNorm1d(3))
    path = tmp_path / "w.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "TorchScript":
            torch.jit.script(network).save(path)
        else:
            Part.__qualname__ = "Part"
            sys.modules[__name__].Part = Part  # type: ignore[attr-defined]
            torch.save(network if kind == "module" else {"model": network, "epoch": 3}, path)
    found = next(
        tensors
        for _, part in nested_mappings(read_weights_file(path))
        if (tensors := tensors_of(part))
    )
    state = network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_arrays_of_numpy_count_as_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    arrays = {"w": np.arange(6.0).reshape(2, 3), "v": np.arange(3, dtype=">f4")}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    found = tensors_of(read_weights_file(path)["model"])
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }


# ------------------------------------------------------------------------------ hostile pickles


class Called:
    """Stands for a function with arguments: unpickled by Python itself it is called."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def marked(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()"


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "os.system": lambda m: Called(os.system, f"touch {m}"),
    "eval": lambda m: Called(eval, marked(m)),
    "exec": lambda m: Called(exec, marked(m)),
    "open": lambda m: Called(open, str(m), "w"),
    "import": lambda _: Called(__import__, "antigravity"),
    "in arguments": lambda m: Called(dict, [("a", Called(eval, marked(m)))]),
    "in state": lambda m: Called(Settings, state={"a": Called(eval, marked(m))}),
}
HARMLESS_HERE: dict[str, Callable[[Path], Any]] = {
    "write of a path": lambda m: Called(Path.write_text, Called(Path, str(m)), "x"),
    "touch by getattr": lambda m: Called(
        Called(getattr, Path(m), "touch").call[0], Path(m), "touch"
    ),
    "map": lambda m: Called(list, Called(map, Path.touch, [Path(m)])),
    "setstate": lambda _: Called(Settings, state={"x": 1}),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_execute_code_is_refused(tmp_path: Path, name: str, protocol: int) -> None:
    marker = tmp_path / "marker"
    data = pickle.dumps({"w": 1, "x": HOSTILE[name](marker)}, protocol=protocol)
    with pytest.raises(HostilePickleError):
        read_pickle(io.BytesIO(data))
    assert not marker.exists()


@pytest.mark.parametrize("name", HARMLESS_HERE)
def test_calls_of_other_names_are_not_made(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    data = pickle.dumps({"w": 1, "x": HARMLESS_HERE[name](marker)}, protocol=4)
    content = read_pickle(io.BytesIO(data))
    assert content["w"] == 1
    assert isinstance(content["x"], Opaque)
    assert not marker.exists()


def gadgets() -> dict[str, bytes]:
    """Pickles written by hand, which change what is on the stack in ways that Python allows."""
    build_on_class = b"\x80\x04ccollections\nOrderedDict\n}\x8c\x05evil1K\x01sb."
    build_on_builder = b"\x80\x04(ctorch._utils\n_rebuild_tensor_v2\n}\x8c\x0c__defaults__)sb."
    return {
        "state for a class": build_on_class,
        "slots for a class": b"\x80\x04ccollections\nOrderedDict\nN}\x8c\x05evil2K\x01s\x86b.",
        "state for a known function": build_on_builder,
        "state for a list": b"\x80\x04]}\x8c\x06appendK\x01sb.",
        "call of a text": b"\x80\x04\x8c\x05print)R.",
        "call of a number": b"\x80\x04K\x01)R.",
        "items for a tuple": b"\x80\x04)K\x01K\x02s.",
        "append to a number": b"\x80\x04K\x01K\x02a.",
        "new object of a text": b"\x80\x04\x8c\x03int)\x81.",
        "object on the stack": b"\x80\x04(cos.path\njoin\nK\x01o.",
        "instance": b"\x80\x04(K\x01ios.path\njoin\n.",
        "extension": b"\x80\x04\x82\x01.",
        "persistent": b"\x80\x04K\x01Q.",
    }


@pytest.mark.parametrize("name", gadgets())
def test_no_instruction_reaches_an_object_of_the_process(name: str) -> None:
    before = {key: vars(collections.OrderedDict).get(key) for key in ("evil1", "evil2")}
    read_pickle(io.BytesIO(gadgets()[name]))
    assert {key: vars(collections.OrderedDict).get(key) for key in before} == before


def bombs() -> dict[str, bytes]:
    def doubled(start: bytes, step: bytes) -> bytes:
        return b"\x80\x04" + start + step * 80 + b"."

    nested_dicts = b"\x80\x04" + b"}\x8c\x01a" * 50_000 + b"}" + b"s" * 50_000 + b"."
    return {
        "tuples doubled": doubled(b"K\x01", b"2\x86"),
        "lists doubled": doubled(b"]", b"2\x86"),
        "doubled tuple as a key": b"\x80\x04}K\x01" + b"2\x86" * 80 + b"K\x01s.",
        "huge memo number": b"\x80\x04K\x01r\xff\xff\xff\xff.",
        "huge frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"K\x01.",
        "nested dictionaries": nested_dicts,
        "nested tuples": b"\x80\x04)" + b"\x85" * 100_000 + b".",
        "long integer": b"\x80\x04\x8b" + struct.pack("<i", 200_000) + b"\x01" * 200_000 + b".",
        "long integer as a key": b"\x80\x04}\x8b"
        + struct.pack("<i", 2_000)
        + b"\x01" * 2_000
        + b"K\x01s.",
    }


LONG_TEXT = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000
TOO_MUCH = {
    "text encoded many times": b"\x80\x02c_codecs\nencode\nq\0"
    + (LONG_TEXT + b"X\x06\0\0\0latin1\x86q\x01R")
    + b"h\0h\x01R" * 300
    + b".",
    "dictionary copied many times": b"\x80\x02ccollections\nOrderedDict\nq\0}("
    + b"".join(b"M" + struct.pack("<H", n) + b"K\x01" for n in range(60_000))
    + b"u\x85q\x01R"
    + b"h\0h\x01R" * 100_000
    + b".",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.",
    "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"abc.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"abc.",
    "integer of many digits": b"I" + b"9" * 100_000 + b"\n.",
    "nothing on the stack": b"\x80\x040000.",
    "out of band": b"\x80\x05\x97.",
    "no end": b"\x80\x04K\x01",
    "no instruction": b"\x80\x04\xff.",
}


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_neither_takes_time_nor_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(bombs()[name])
    started = time.process_time()
    content = read_pickle(io.BytesIO(bombs()[name]))
    if isinstance(content, dict):
        assert sum(len(where) for where, _ in nested_mappings(content)) < 1_000_000
    assert time.process_time() - started < 5


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_a_pickle_promises_and_does_not_have_is_damage(tmp_path: Path, name: str) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(
        TOO_MUCH[name] if TOO_MUCH[name][:1] == b"\x80" else b"\x80\x04" + TOO_MUCH[name]
    )
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        read_weights_file(path)


def test_modules_that_hold_each_other_without_an_end_are_refused(tmp_path: Path) -> None:
    part: Any = Settings()
    for _ in range(60):
        whole = Settings()
        whole.left = whole.right = part
        part = whole
    with pytest.raises(CheckpointError, match="without an end"):
        read_weights_file(saved(part, tmp_path / "w.pth"))


def rezipped(path: Path, change: Callable[[str, bytes], bytes], compression: int = 0) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


def pickle_with(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x02K\x03\x86", b"K\x02K\x63\x86"),  # a shape beyond the storage
        (b"K\x02K\x03\x86", b"K\x02J\xff\xff\xff\xff\x86"),  # a negative length
        (b"K\x03K\x01\x86", b"K\x63K\x01\x86"),  # a step beyond the storage
        (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x007"),  # a storage that is not there
        (b"K\x06t", b"K\x66t"),  # more numbers than the record has
    ],
)
def test_a_tensor_beyond_its_storage_is_damage(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = saved({"w": torch.zeros(2, 3)}, tmp_path / "w.pth")
    rezipped(path, lambda n, d: pickle_with(d, old, new) if n.endswith("data.pkl") else d)
    with pytest.raises(CheckpointError, match=r"w\.pth is damaged"):
        read_weights_file(path)


def test_a_changed_bit_is_damage_where_there_is_a_checksum(tmp_path: Path) -> None:
    weights = torch.arange(1000.0)
    for has_checksum in (True, False):
        path = tmp_path / f"{has_checksum}.pt"
        torch.serialization.set_crc32_options(has_checksum)
        try:
            torch.save({"w": weights}, path)
        finally:
            torch.serialization.set_crc32_options(True)
        np.testing.assert_array_equal(read_weights_file(path)["w"], weights)
    path = tmp_path / "True.pt"
    data = path.read_bytes()
    where = data.index(weights[500:502].numpy().tobytes())
    path.write_bytes(data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :])
    with pytest.raises(CheckpointError, match=r"data/0 is not what its checksum says"):
        read_weights_file(path)


def test_compressed_and_foreign_archives_are_named(tmp_path: Path) -> None:
    path = saved({"w": torch.zeros(2, 3)}, tmp_path / "w.pth")
    rezipped(path, lambda _, data: data)
    assert torch.equal(read_weights_file(path)["w"], torch.zeros(2, 3))
    rezipped(path, lambda _, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        read_weights_file(path)
    np.savez(tmp_path / "w.npz", w=np.zeros(3))
    with pytest.raises(CheckpointError, match="NumPy archive"):
        read_weights_file(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"\x08\x08\x12\x07pytorch", "ONNX or TensorFlow"),
        (b"\x1c\0\0\0TFL3\0\0", "TensorFlow Lite"),
        (b"\x82\xa6params\x81", "msgpack file, as Flax"),
        (b"\xde\x00\x20\xa6params", "msgpack file, as Flax"),
        (b'{"model_type": "vit"}', "JSON"),
        (b"\x93NUMPY\x01\0", "NumPy file of one array"),
        (b"\xfd7zXZ\0", "xz archive"),
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"just text, nothing else at all", "none of the known formats"),
    ],
)
def test_what_is_no_file_of_weights_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_weights_file(path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="pipe or a device"):
        read_weights_file(tmp_path / "w.pth")


def test_twenty_thousand_tensors_are_read_in_seconds(tmp_path: Path) -> None:
    content = {f"layers.{n}.weight": torch.zeros(2) for n in range(20_000)}
    path = saved(content, tmp_path / "w.pth")
    started = time.process_time()
    assert len(read_weights_file(path)) == 20_000
    assert time.process_time() - started < 15  # about one on an idle machine
