"""Malformed inputs of every kind that users bring: what each reader makes of them.

A case is a file or folder, made from a seed, and what a user does with it. It may give a value, a
warning and a value, or an error of ours; anything else is a fault. Where the truth is known the
value must be it. tests/test_fuzz.py runs a few of each family, benchmarks/fuzz.py ten thousand in
processes of their own, with limits of time and memory.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from transferscope.errors import TransferscopeError

Random = np.random.Generator


@dataclass(frozen=True)
class Case:
    """What was done to the input, what a user does with it, and whether what came is right."""

    label: str
    act: Callable[[], object]
    is_right: Callable[[Any], bool] = lambda _: True


def outcome(case: Case) -> tuple[str, str]:
    """("value" | "refused" | "wrong" | "traceback", what was said)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = case.act()
        except TransferscopeError as error:
            return ("refused", str(error)) if str(error).strip() else ("traceback", "empty message")
        except Exception as error:
            trace, places = error.__traceback__, []
            while trace is not None:
                code = trace.tb_frame.f_code
                if "transferscope" in code.co_filename:
                    places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno}")
                trace = trace.tb_next
            where = " > ".join(places[-3:])
            return "traceback", f"{type(error).__name__}: {str(error)[:200]} @ {where}"
    return ("value", "") if case.is_right(found) else ("wrong", repr(found)[:300])


# -- damage to bytes ----------------------------------------------------------------------------


def pick(random: Random, items: Sequence[Any]) -> Any:
    return items[int(random.integers(len(items)))]


def damaged(random: Random, data: bytes) -> tuple[str, bytes]:
    """The bytes with one accident of a disk, a network or an editor."""
    kind = pick(random, ("bit", "byte", "cut", "hole", "zeros", "twice", "inserted", "tail"))
    at = int(random.integers(len(data) or 1))
    # headers decide most, and they are short
    at = min(at, int(random.integers(200))) if random.random() < 0.5 else at
    length = int(random.integers(1, 64))
    changed = bytearray(data)
    if kind == "bit" and data:
        changed[at] ^= 1 << int(random.integers(8))
    elif kind == "byte" and data:
        changed[at] = int(random.integers(256))
    elif kind == "cut":
        del changed[at:]
    elif kind == "hole":
        del changed[at : at + length]
    elif kind == "zeros":
        changed[at : at + length] = bytes(min(length, len(data) - at))
    elif kind == "twice":
        changed[at:at] = changed[at : at + length]
    elif kind == "inserted":
        changed[at:at] = random.bytes(length)
    else:
        changed += random.bytes(length)
    return f"{kind} at {at}", bytes(changed)


#: Values that stand where a reader expects another.
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, 1e-308),
    *("", " ", "0", "-1", "nan", "inf", "NA", "null", "\x00", "a\nb", "é", "\u2028", "\ud83d"),
    *("[red]", "../x", "/dev/zero", "/proc/kmsg", "~", "x" * 5000, "http://localhost:1/x"),
    *([], [[]], {}, {"a": 1}, [None], ["a", 1], [0, 1], [float("nan")]),
)


def altered(random: Random, tree: Any) -> tuple[str, Any]:
    """A JSON value with one entry somewhere replaced, removed, doubled or renamed."""
    tree = json.loads(json.dumps(tree))
    parents: list[Any] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict | list) and node:
            parents.append(node)
            stack.extend(node.values() if isinstance(node, dict) else node)
    if not parents:
        return "replaced whole", pick(random, ODD_VALUES)
    node = pick(random, parents)
    key = pick(random, list(node)) if isinstance(node, dict) else int(random.integers(len(node)))
    kind = pick(random, ("replaced", "replaced", "replaced", "removed", "added", "moved"))
    if kind == "removed":
        del node[key]
    elif kind == "added":
        value = pick(random, ODD_VALUES)
        if isinstance(node, dict):
            node[str(pick(random, ODD_VALUES))[:40]] = value
        else:
            node.insert(key, value)
    elif kind == "moved":
        node[key] = json.loads(json.dumps(pick(random, parents)))
    else:
        node[key] = pick(random, ODD_VALUES)
    return f"{kind} {key!r}", tree


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# -- features and arrays ------------------------------------------------------------------------


@cache
def sample_arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = random.standard_normal((60, 12)).astype(np.float32) + labels[:, None]
    return {"features": features, "labels": labels}


def odd_array(random: Random, like: np.ndarray) -> tuple[str, np.ndarray]:
    """An array of another shape, type or content."""
    n = len(like)
    made: dict[str, Callable[[], np.ndarray]] = {
        "0-d": lambda: np.array(3.0),
        "empty": lambda: like[:0],
        "no columns": lambda: np.empty((n, 0), np.float32),
        "one row": lambda: like[:1],
        "shorter": lambda: like[: n // 2],
        "column": lambda: like.reshape(n, -1)[:, :1],
        "3-d": lambda: like.reshape(n, -1, 1),
        "bool": lambda: like > 0,
        "text": lambda: like.astype("U8"),
        "bytes": lambda: like.astype("S8"),
        "complex": lambda: like.astype(complex),
        "dates": lambda: np.abs(like).astype("int64").astype("datetime64[s]"),
        "record": lambda: np.zeros(n, [("a", "f4"), ("b", "i8")]),
        "big-endian": lambda: like.astype(like.dtype.newbyteorder(">")),
        "long double": lambda: like.astype(np.longdouble),
        "half": lambda: like.astype(np.float16),
        "fortran": lambda: np.asfortranarray(like),
        "uint8": lambda: np.abs(like).astype(np.uint8),
        "nan": lambda: np.where(np.arange(like.size).reshape(like.shape) == 7, np.nan, like),
        "inf": lambda: np.where(np.arange(like.size).reshape(like.shape) == 7, np.inf, like),
        "constant": lambda: np.zeros_like(like),
        "tiny": lambda: like.astype(np.float64) * 1e-300,
        "huge": lambda: like.astype(np.float64) * 1e300,
        "integers above 2^53": lambda: np.abs(like).astype(np.int64) + 2**60,
        "unsigned above 2^63": lambda: np.abs(like).astype(np.uint64) + np.uint64(2**63),
        "negative": lambda: -np.abs(like) - 1,
        "all different": lambda: np.arange(like.size).reshape(like.shape),
    }
    name = pick(random, list(made))
    return name, made[name]()


NPY_HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 12), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (60, 99999999999), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 12), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 12), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (60.0, 12), }",
    "{'descr': '<f4', 'fortran_order': 3, 'shape': (60, 12), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (60, 12), }",
    "{'descr': '<f9', 'fortran_order': False, 'shape': (60, 12), }",
    "{'descr': [('a', '<f4'), ('a', '<f4')], 'fortran_order': False, 'shape': (60,), }",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (60, 12), }",
    "{'descr': '<f4', 'shape': (60, 12), }",
    "{" * 300 + "}" * 300,
    "[" * 3000,
    "__import__('os').system('true')",
    "",
)


def npy(header: str, content: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin1", "replace") + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + content


def npz(members: Mapping[str, bytes], compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", kind) as archive:
        warnings.simplefilter("ignore")  # names that are there twice
        for name, content in members.items():
            archive.writestr(name.split("#")[0], content)
    return buffer.getvalue()


def npy_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def odd_archive(random: Random, arrays: Mapping[str, np.ndarray]) -> tuple[str, bytes, bool]:
    """An .npz that is not as it should be; whether its arrays can still only be the true ones."""
    members = {f"{name}.npy": npy_of(array) for name, array in arrays.items()}
    first = next(iter(members))
    kind = pick(random, ("damage", "damage", "header", "array", "array", "member", "object"))
    compressed = bool(random.integers(2))
    if kind == "damage":
        label, data = damaged(random, npz(members, compressed))
        return f"npz {label}", data, True
    if kind == "header":
        header = pick(random, NPY_HEADERS)
        content = next(iter(arrays.values())).tobytes()
        members[first] = npy(header, content, pick(random, ((1, 0), (2, 0), (3, 0), (9, 9))))
    elif kind == "array":
        name = pick(random, [name for name in arrays if arrays[name].dtype.kind != "U"])
        label, array = odd_array(random, arrays[name])
        members[f"{name}.npy"] = npy_of(array)
        return f"{name} {label}", npz(members, compressed), False
    elif kind == "object":
        buffer = io.BytesIO()
        np.save(buffer, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
        members[first] = buffer.getvalue()
    else:
        name = pick(random, ("twice", "nested", "text", "none", "flag", "folder"))
        if name == "twice":
            members[first + "#2"] = npy_of(next(iter(arrays.values()))[::-1])
        elif name == "nested":
            members[first] = npz(members)
        elif name == "text":
            members[first] = b"hello"
        elif name == "none":
            members = {}
        elif name == "folder":
            members["a/../" + first] = members.pop(first)
        data = bytearray(npz(members, compressed))
        if name == "flag":  # "encrypted"
            data[6] |= 1
            data[data.rindex(b"PK\x01\x02") + 8] |= 1
        return f"npz {name}", bytes(data), False
    return f"npz {kind}", npz(members, compressed), False


def scored(path: Path) -> dict[str, Any]:
    from transferscope.metrics import score
    from transferscope.storage.feature_files import read_feature_file

    arrays = read_feature_file(path)
    table = score(**arrays, metrics=["logme", "knn", "linear_probe", "gbc"])
    table.to_json()
    return {name: np.asarray(array) for name, array in arrays.items()}


def equal_arrays(truth: Mapping[str, np.ndarray]) -> Callable[[Any], bool]:
    def check(found: Any) -> bool:
        same = (np.array_equal(found[name], truth[name]) for name in truth if name in found)
        return set(found) <= set(truth) and all(same)

    return check


def features_npz(random: Random, folder: Path) -> Case:
    arrays = dict(sample_arrays())
    if random.random() < 0.3:
        arrays["targets"] = arrays.pop("labels") * 1.5
    label, data, known = odd_archive(random, arrays)
    path = written(folder / "f.npz", data)
    right = equal_arrays(arrays) if known else Case.is_right
    return Case(label, lambda: scored(path), right)


def features_safetensors(random: Random, folder: Path) -> Case:
    from safetensors.numpy import save

    arrays = dict(sample_arrays())
    data = save(arrays, {"made by": "a test"})
    (size,) = struct.unpack("<Q", data[:8])
    header, content = json.loads(data[8 : 8 + size]), data[8 + size :]
    kind = pick(random, ("damage", "json", "json", "json", "length", "array"))
    if kind == "damage":
        label, data = damaged(random, data)
    elif kind == "json":
        label, header = altered(random, header)
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text)) + text + content
    elif kind == "length":
        label = "length"
        data = struct.pack("<Q", int(pick(random, (0, 1, size + 1, 2**40, 2**64 - 1)))) + data[8:]
    else:
        name = pick(random, list(arrays))
        label, array = odd_array(random, arrays[name])
        try:
            data = save({**arrays, name: np.ascontiguousarray(array)})
        except Exception:
            label = f"{label} (cannot be saved)"
    path = written(folder / "f.safetensors", data)
    return Case(label, lambda: scored(path))


# -- tables -------------------------------------------------------------------------------------


def opened(path: Path | str, **options: Any) -> list[tuple[Any, Any]]:
    """Every sample with its label, as a user's run would read them, and the fingerprint taken."""
    from transferscope.datasets import open_dataset

    dataset = open_dataset(str(path), **options)
    assert dataset.fingerprint
    labels: Sequence[Any] = [None] * len(dataset)
    if dataset.labels is not None:
        labels = dataset.labels.tolist()
        if dataset.task == "classification":
            labels = [dataset.class_names[k] for k in labels]
    rows = []
    for index in range(len(dataset)):
        sample: Any = dataset[index]
        rows.append(
            (sample if isinstance(sample, str | tuple) else np.asarray(sample), labels[index])
        )
    return rows


WORDS = (
    "the bank",
    "a river",
    'said "no"',
    "naïve",
    "x,y",
    "a;b",
    "tab\there",
    "one\ntwo",
    "0",
    "7.50",
)
NAMES = (
    "01",
    "1",
    "3.1",
    "3.10",
    "1E2",
    "100",
    "nan",
    "NA",
    "None",
    "inf",
    "cat",
    "Cat",
    " dog",
    "é",
)


def table_text(random: Random, folder: Path) -> Case:
    n = int(random.integers(6, 40))
    classes = [str(name) for name in random.choice(NAMES, size=3, replace=False)]
    rows = [[f"{pick(random, WORDS)} {i}", classes[i % 3]] for i in range(n)]
    separator = pick(random, (",", ",", ";", "\t", "|"))
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator, lineterminator=pick(random, ("\n", "\r\n")))
    header = pick(
        random, (["text", "label"], ["text", "label"], ["Sentence", "Class"], [" text ", " label"])
    )
    writer.writerows([header, *rows])
    text = buffer.getvalue()
    encoding = pick(random, (*["utf-8"] * 6, "utf-8-sig", "utf-8-sig", "utf-16", "latin1"))
    data = text.encode(encoding, "replace")
    label, truth = "whole", True
    kind = pick(random, ("damage", "damage", "ragged", "odd cell", "path", "whole"))
    if kind == "damage":
        label, data = damaged(random, data)
        truth = False
    elif kind == "ragged":
        lines = text.splitlines()
        at = int(random.integers(len(lines)))
        lines[at] = pick(
            random, (lines[at] + separator, lines[at] + separator + "more", "x", '"' + lines[at])
        )
        label, data, truth = f"ragged line {at}", "\n".join(lines).encode(), False
    elif kind in ("odd cell", "path"):
        paths = (
            "/dev/zero",
            "/proc/kmsg",
            "/etc/passwd",
            "~/x.png",
            "C:\\x\\y.jpg",
            "http://a/b.jpg",
            ".",
            "",
        )
        odd = pick(random, paths) if kind == "path" else str(pick(random, ODD_VALUES))
        column = int(random.integers(2))
        chosen = range(n) if random.random() < 0.5 else [int(random.integers(n))]
        for i in chosen:
            rows[i][column] = odd
        buffer = io.StringIO()
        csv.writer(buffer).writerows([["path" if kind == "path" else "text", "label"], *rows])
        label, data, truth = (
            f"{kind} {odd[:20]!r}",
            buffer.getvalue().encode("utf-8", "replace"),
            False,
        )
    ending = pick(random, (*[".csv"] * 8, ".tsv", ".txt"))
    path = written(folder / f"t{ending}", data)
    expected = [tuple(row) for row in rows]

    def is_right(found: Any) -> bool:
        # numbers may be targets; texts and names of classes must come as they were written
        if not truth or any(isinstance(name, float) for _, name in found):
            return True
        given = [(words, name.strip()) for words, name in expected]
        return [(words, name.strip()) for words, name in found] == given or encoding == "latin1"

    options = {"skip_unreadable": True} if random.random() < 0.2 else {}
    return Case(label, lambda: opened(path, **options), is_right)


def table_json(random: Random, folder: Path) -> Case:
    n = int(random.integers(6, 20))
    names = [str(name) for name in random.choice(NAMES, size=3, replace=False)]
    rows: list[Any] = [
        {"text": f"{pick(random, WORDS)} {i}", "label": names[i % 3]} for i in range(n)
    ]
    columns = {name: [row[name] for row in rows] for name in ("text", "label")}
    tree = pick(
        random,
        (
            rows,
            columns,
            {"data": rows},
            {name: dict(enumerate(cells)) for name, cells in columns.items()},
            {
                "columns": ["text", "label"],
                "index": [*range(n)],
                "data": [[*r.values()] for r in rows],
            },
            [[*row.values()] for row in rows],
        ),
    )
    label = "whole"
    for _ in range(int(random.integers(4))):
        label, tree = altered(random, tree)
    ending = pick(random, (".json", ".jsonl"))
    if ending == ".jsonl" and isinstance(tree, list):
        text = "\n".join(json.dumps(row, ensure_ascii=bool(random.integers(2))) for row in tree)
    else:
        text = json.dumps(tree, ensure_ascii=bool(random.integers(2)))
    if random.random() < 0.05:
        label, text = "deep", "[" * 100_000
    data = text.encode("utf-8", "surrogatepass")
    if random.random() < 0.3:
        label, data = damaged(random, data)
    path = written(folder / f"t{ending}", data)
    return Case(label, lambda: opened(path))


def table_parquet(random: Random, folder: Path) -> Case:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = 12
    texts = pa.array([f"{pick(random, WORDS)} {i}" for i in range(n)])
    labels = pa.array([i % 3 for i in range(n)])
    odd: dict[str, Callable[[], Any]] = {
        "struct": lambda: pa.array([{"a": i} for i in range(n)]),
        "list": lambda: pa.array([[i] for i in range(n)]),
        "ragged list": lambda: pa.array([[0] * (i % 3) for i in range(n)]),
        "time": lambda: pa.array([i * 1000 for i in range(n)], pa.time32("ms")),
        "date": lambda: pa.array(range(n), pa.date32()),
        "decimal": lambda: pa.array([str(i) for i in range(n)]).cast(pa.decimal128(10, 2)),
        "dictionary": lambda: pa.array([f"c{i % 3}" for i in range(n)]).dictionary_encode(),
        "null": lambda: pa.nulls(n),
        "half null": lambda: pa.array([None if i % 2 else i for i in range(n)]),
        "bool": lambda: pa.array([bool(i % 2) for i in range(n)]),
        "binary": lambda: pa.array([bytes([i]) for i in range(n)]),
        "image struct": lambda: pa.array([{"bytes": b"\x89PNG", "path": None}] * n),
        "map": lambda: pa.array([[("a", i)] for i in range(n)], pa.map_(pa.string(), pa.int64())),
        "uint64": lambda: pa.array([2**63 + i % 3 for i in range(n)], pa.uint64()),
        "float nan": lambda: pa.array([float("nan") if i == 3 else i % 2 for i in range(n)]),
    }
    label = "whole"
    columns = {"text": texts, "label": labels}
    if random.random() < 0.6:
        kind = pick(random, list(odd))
        column = pick(random, ("text", "label", "image"))
        columns[column] = odd[kind]()
        label = f"{column} {kind}"
    table = pa.table(columns)
    if random.random() < 0.3:
        about = pick(
            random,
            (
                b"[]",
                b"{}",
                b"bad{",
                b'{"info":{"features":{"text":{"dtype":"zzz","_type":"Value"}}}}',
                b'{"info":{"features":{"label":{"names":["a"],"_type":"ClassLabel"}}}}',
                b'{"info":{"features":{"label":{"names":null,"_type":"ClassLabel"}}}}',
            ),
        )
        table = table.replace_schema_metadata({b"huggingface": about})
        label += f", metadata {about[:20]!r}"
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    data = buffer.getvalue()
    if random.random() < 0.3:
        label, data = damaged(random, data)
    path = written(folder / "t.parquet", data)
    return Case(label, lambda: opened(path))


def images_npz(random: Random, folder: Path) -> Case:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    arrays = {"images": pixels, "labels": np.arange(12) % 3}
    if random.random() < 0.3:
        arrays["class_names"] = np.array(["a", "b", "c"])
    label, data, known = odd_archive(random, arrays)
    path = written(folder / "d.npz", data)

    def is_right(found: Any) -> bool:
        return not known or np.array_equal(np.stack([image for image, _ in found]), pixels)

    return Case(label, lambda: opened(path), is_right)


# -- folders ------------------------------------------------------------------------------------


@cache
def picture(seed: int, form: str, mode: str = "RGB") -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, form)
    return buffer.getvalue()


def folders(random: Random, folder: Path) -> Case:
    root = folder / "data"
    splits = pick(
        random, ((), (), ("train", "test"), ("Training", "Testing"), ("a", "b"), ("train",))
    )
    label = "/".join(splits) or "flat"
    odd_names = (
        "cat",
        "dog",
        "[red]",
        " x ",
        "é",
        "-",
        "a.b",
        ".hidden",
        "nan",
        "1",
        "01",
        "train",
    )
    classes = random.choice(odd_names, size=3, replace=False)
    for split in splits or ("",):
        for k, name in enumerate(classes):
            for i in range(int(random.integers(2, 5))):
                form, ending = pick(
                    random, (("PNG", ".png"), ("JPEG", ".jpg"), ("PNG", ".PNG"), ("GIF", ".gif"))
                )
                mode = pick(random, ("RGB", "RGB", "L", "P")) if form != "JPEG" else "RGB"
                data = picture(int(random.integers(20)), form, mode)
                if random.random() < 0.03:
                    _, data = damaged(random, data)
                written(root / split / str(name) / f"{k}_{i}{ending}", data)
    root.mkdir(exist_ok=True)
    inside = root / pick(random, (str(classes[0]), "", "new"))
    inside.mkdir(parents=True, exist_ok=True)
    kind = pick(
        random,
        ("loop", "fifo", "broken link", "link to zero", "text", "empty", "file link", "none"),
    )
    if kind == "loop":
        (inside / "loop").symlink_to(root, target_is_directory=True)
    elif kind == "fifo":
        os.mkfifo(inside / "pipe.png")
    elif kind == "broken link":
        (inside / "gone.png").symlink_to(root / "nowhere.png")
    elif kind == "link to zero":
        (inside / "zero.png").symlink_to("/dev/zero")
    elif kind == "text":
        written(inside / "notes.png", b"no picture")
    elif kind == "empty":
        written(inside / "empty.jpg", b"")
    elif kind == "file link":
        written(folder / "outside.png", picture(3, "PNG"))
        (inside / "link.png").symlink_to(folder / "outside.png")
    options = {"skip_unreadable": True} if random.random() < 0.3 else {}
    return Case(f"{label}, {kind}", lambda: opened(root, **options))


def hub_folders(random: Random, folder: Path) -> Case:
    """Folders in the forms of the Hugging Face hub."""
    root = folder / "hf"
    n = 12
    rows = [{"text": f"{pick(random, WORDS)} {i}", "label": i % 3} for i in range(n)]
    kind = pick(random, ("csv", "jsonl", "parquet", "infos", "script", "mixed"))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["text", "label"])
    writer.writeheader()
    writer.writerows(rows)
    lines = "\n".join(map(json.dumps, rows)).encode()
    if kind in ("csv", "infos", "mixed"):
        written(root / "train.csv", buffer.getvalue().encode())
    if kind in ("jsonl", "mixed"):
        written(root / "train.jsonl", lines)
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        root.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), root / "train.parquet")
    if kind == "infos":
        _, about = altered(random, {"features": {"label": {"_type": "ClassLabel", "names": ["a"]}}})
        written(root / "dataset_info.json", json.dumps(about).encode())
    if kind == "script":
        written(root / "hf.py", b"open('canary', 'w')")
    label = kind
    for file in sorted(root.iterdir()):
        if random.random() < 0.4:
            damage, data = damaged(random, file.read_bytes())
            file.write_bytes(data)
            label += f", {file.name} {damage}"
    return Case(label, lambda: opened(f"hf/{root}"))


# -- encoders -----------------------------------------------------------------------------------


@cache
def small_state() -> dict[str, Any]:
    import timm

    network = timm.create_model("test_resnet")
    return {name: value.clone() for name, value in network.state_dict().items()}


class Gadget:
    """Would make a file if it were rebuilt."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.canary, "w")


def checkpoints(random: Random, folder: Path) -> Case:
    canary = folder / "canary"
    kinds = {
        "entry": odd_state,
        "wrapped": wrapped_state,
        "extras": state_with_extras,
        "hostile": lambda _: ("", {"state_dict": small_state(), "hook": Gadget(canary)}),
        "bytes": lambda _: ("", small_state()),
    }
    kind = pick(random, (*kinds, "pickle", "safetensors"))
    if kind == "safetensors":
        label, data = odd_safetensors(random)
    elif kind == "pickle":
        arrays = {name: value.numpy() for name, value in small_state().items()}
        label, data = "", pickle.dumps({"state_dict": arrays})
    else:
        label, content = kinds[kind](random)
        data = saved_by_torch(content, new=bool(random.integers(4)))
    if kind == "bytes" or (kind == "pickle" and random.random() < 0.5):
        label, data = damaged(random, data)
    path = written(folder / pick(random, ("w.pt", "w.pth", "w.bin", "w.ckpt")), data)
    name = f"checkpoint:{path}?arch=test_resnet"
    return Case(f"{kind} {label}", lambda: embedded(name), lambda _: not canary.exists())


def saved_by_torch(content: object, *, new: bool) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def odd_state(random: Random) -> tuple[str, object]:
    import torch

    state = dict(small_state())
    name = pick(random, list(state))
    tensors = (torch.zeros(0), torch.zeros(3, 3), torch.tensor(float("nan")))
    state[name] = odd = pick(random, (*ODD_VALUES, *tensors))
    if random.random() < 0.3:
        del state[name]
    return f"{name} = {str(odd)[:20]}", state


def wrapped_state(random: Random) -> tuple[str, object]:
    prefixes = ("module.", "_orig_mod.", "model.", "0.", "..", "", "encoder.", "x" * 200)
    prefix = pick(random, prefixes)
    inner = {prefix + name: value for name, value in small_state().items()}
    outer = (
        {"state_dict": inner},
        {"model": inner, "epoch": 3},
        [inner],
        {"a": {"b": {"c": inner}}},
    )
    return f"prefix {prefix[:20]!r}", pick(random, outer)


def state_with_extras(random: Random) -> tuple[str, object]:
    import argparse
    import datetime

    extras = (
        Path("a"),
        argparse.Namespace(a=1),
        datetime.timedelta(1),
        np.arange(3),
        {1},
        Fraction(1, 3),
    )
    more = pick(random, extras)
    return type(more).__name__, {"state_dict": small_state(), "more": more}


def odd_safetensors(random: Random) -> tuple[str, bytes]:
    from safetensors.torch import save

    data = save(small_state())
    if random.random() < 0.5:
        return damaged(random, data)
    (size,) = struct.unpack("<Q", data[:8])
    label, header = altered(random, json.loads(data[8 : 8 + size]))
    text = json.dumps(header).encode()
    return label, struct.pack("<Q", len(text)) + text + data[8 + size :]


def embedded(name: str) -> Any:
    """Features of two samples: whatever is loaded must also run."""
    from transferscope.encoders import load_encoder

    encoder: Any = load_encoder(name)
    assert encoder.fingerprint
    samples: list[Any] = ["one text", "another one"]
    if encoder.input_size is not None:
        from PIL import Image

        samples = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    ready = [encoder.preprocessing.prepare(sample) for sample in samples]
    return encoder.embed(encoder.preprocessing.collate(ready)).features["pooled"]


@cache
def model_files(kind: str) -> dict[str, bytes]:
    """A folder of a small model, as its library saves it."""
    import tempfile

    import torch

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        if kind == "timm":
            import timm

            timm.models.save_for_hf(timm.create_model("test_resnet"), root, safe_serialization=True)
        elif kind == "bert":
            import transformers

            config = transformers.BertConfig(
                vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=16, max_position_embeddings=32,
            )  # fmt: skip
            transformers.BertModel(config).save_pretrained(root)
            words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
            (root / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
            tokenizer = transformers.BertTokenizerFast(
                vocab=dict(zip(words, range(40), strict=False))
            )
            tokenizer.save_pretrained(root)
        else:
            import transformers

            config = transformers.ViTConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                image_size=32, patch_size=16,
            )  # fmt: skip
            transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(root)
            about = {
                "image_processor_type": "ViTImageProcessor",
                "size": {"height": 32, "width": 32},
            }
            (root / "preprocessor_config.json").write_text(json.dumps(about), encoding="utf-8")
        return {file.name: file.read_bytes() for file in root.iterdir() if file.is_file()}


def model_folders(random: Random, folder: Path) -> Case:
    kind = pick(random, ("timm", "bert", "vit"))
    files = dict(model_files(kind))
    name = pick(random, [file for file in files if file.endswith(".json") or random.random() < 0.3])
    label = f"{kind} {name} "
    action = pick(random, ("altered", "altered", "altered", "damaged", "removed", "empty"))
    if action == "removed":
        del files[name]
    elif action == "empty":
        files[name] = b""
    elif action == "altered" and name.endswith(".json"):
        what, tree = altered(random, json.loads(files[name]))
        files[name] = json.dumps(tree).encode("utf-8", "surrogatepass")
        label += what
    else:
        what, files[name] = damaged(random, files[name])
        label += what
    for file, data in files.items():
        written(folder / "model" / file, data)
    prefix = "timm" if kind == "timm" else "hf"
    return Case(f"{label} {action}", lambda: embedded(f"{prefix}/{folder / 'model'}"))


# -- tables of scores, records, the store -------------------------------------------------------


def score_tables(random: Random, folder: Path) -> Case:
    encoders, sets = [f"e{i}" for i in range(6)], ["a", "b"]
    accuracy = [["dataset", "encoder", "accuracy"]]
    accuracy += [[s, e, f"{random.random():.3f}"] for s in sets for e in encoders]
    scores = [["dataset", "encoder", "logme", "knn"]]
    scores += [
        [s, e, f"{random.normal():.3f}", f"{random.random():.3f}"] for s in sets for e in encoders
    ]
    label, paths = "whole", []
    for name, rows in (("accuracy", accuracy), ("scores", scores)):
        if random.random() < 0.5:
            i, j = int(random.integers(len(rows))), int(random.integers(len(rows[0])))
            odd = str(pick(random, ODD_VALUES))
            label, rows[i][j] = f"{name} [{i}, {j}] = {odd[:20]!r}", odd
        if random.random() < 0.2:
            rows.append(list(pick(random, rows)))
        buffer = io.StringIO()
        csv.writer(buffer).writerows(rows)
        data = buffer.getvalue().encode("utf-8", "replace")
        if random.random() < 0.2:
            label, data = damaged(random, data)
        paths.append(written(folder / f"{name}.csv", data))

    def act() -> object:
        from transferscope.evaluation import evaluate, read_accuracy, read_scores

        return evaluate(read_scores(paths[1]), read_accuracy(paths[0])).to_json()

    return Case(label, act)


@cache
def ranking_json() -> str:
    from transferscope.datasets import open_dataset
    from transferscope.ranking import rank

    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    dataset = open_dataset((pixels, np.arange(30) % 3))
    return rank(dataset, ["mini/resnet-random"], "logme,knn", store=None).to_json()


def records(random: Random, folder: Path) -> Case:
    from transferscope.results import Ranking

    label, text = "whole", ranking_json()
    for _ in range(int(random.integers(1, 3))):
        label, tree = altered(random, json.loads(text))
        text = json.dumps(tree)
    if random.random() < 0.2:
        label, data = damaged(random, text.encode())
        text = data.decode("utf-8", "replace")

    def act() -> object:
        ranking = Ranking.from_json(text)
        return ranking.to_json(), repr(ranking), ranking.to_frame(), ranking._repr_html_()

    return Case(label, act)


def store_entries(random: Random, folder: Path) -> Case:
    """A store with a damaged file gives the same scores as none, and never an error."""
    from transferscope.datasets import open_dataset
    from transferscope.ranking import rank

    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    dataset = open_dataset((pixels, np.arange(30) % 3))

    def scores() -> dict[str, float]:
        ranking = rank(dataset, ["mini/resnet-random"], "logme,knn", store=folder / "store")
        return {name: one.value for name, one in ranking.encoders[0].scores.items()}

    truth = scores()
    files = sorted(path for path in (folder / "store").rglob("*") if path.is_file())
    path = pick(random, files)
    label, data = damaged(random, path.read_bytes())
    if random.random() < 0.1:
        path.unlink()
        label = "removed"
    else:
        path.write_bytes(data)
    return Case(f"{path.suffix} {label}", scores, lambda found: found == truth)


FAMILIES: dict[str, Callable[[Random, Path], Case]] = {
    "features .npz": features_npz,
    "features .safetensors": features_safetensors,
    "tables as text": table_text,
    "tables as JSON": table_json,
    "tables as parquet": table_parquet,
    "images in .npz": images_npz,
    "image folders": folders,
    "hub folders": hub_folders,
    "checkpoints": checkpoints,
    "model folders": model_folders,
    "tables of scores": score_tables,
    "stored results": records,
    "feature store": store_entries,
}
