"""Damaged npz and safetensors files: a named error, or the right arrays; never other ones."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from transferscope.datasets import open_dataset
from transferscope.errors import DatasetError, InputError
from transferscope.storage.feature_files import read_feature_file
from transferscope.storage.npz_files import npz_names, read_npz
from transferscope.storage.safetensors_files import serialise

RNG = np.random.default_rng(15)
ARRAYS = {
    "features": RNG.standard_normal((60, 12)).astype(np.float32),
    "labels": np.repeat(np.arange(4), 15),
}
CONTENT = ARRAYS["features"].tobytes()
NAMED = "is damaged or of another format than its name"


def npz_of(arrays, write=np.savez):
    file = io.BytesIO()
    write(file, **arrays)
    return bytearray(file.getvalue())


def safetensors_of(arrays):
    return bytearray(b"".join(serialise(arrays, {"encoder": "é"})))


def npy_of(header, content=CONTENT, version=(1, 0)):
    """An array in NumPy's format under a header of one's own."""
    text = header.encode("utf-8") + b"\n"
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + content


def archive_of(**members):
    """A zip archive whose checksums are right, whatever is in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def require_right_or_named(path, expected):
    """What every damaged file must give."""
    try:
        found = read_feature_file(path)
    except InputError as refused:
        error = str(refused)
        found = None
    if found is None:
        assert str(path) in error
        return False
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name], strict=True)
    return True


# --- npz -----------------------------------------------------------------------------------------


def test_flipped_bits_of_an_npz(tmp_path):
    whole = npz_of(ARRAYS)
    path = tmp_path / "f.npz"
    # the headers, where a flipped bit gave other arrays, and the rest
    places = [*range(180), *range(len(whole) - 150, len(whole)), *RNG.integers(0, len(whole), 30)]
    read = 0
    for place in places:
        damaged = whole.copy()
        damaged[place] ^= 1 << RNG.integers(8)
        path.write_bytes(damaged)
        read += require_right_or_named(path, ARRAYS)
    assert 0 < read < len(places) / 3  # dates and rights of files are in no checksum


@pytest.mark.parametrize(("rows", "reason"), [(60, "Bad CRC"), (60000, "2880000 are there")])
def test_a_flipped_bit_in_the_shape_is_seen(tmp_path, rows, reason):
    content = npz_of({"features": np.zeros((rows, 12), np.float32)})
    content[content.index(b"(60") + 1] ^= 4  # 60 becomes 20, and 60000 20000
    (tmp_path / "f.npz").write_bytes(content)
    with pytest.raises(InputError, match=rf"{NAMED} .*{reason}"):
        read_feature_file(tmp_path / "f.npz")
    images = npz_of({"images": np.zeros((rows, 8, 8), np.uint8), "labels": np.arange(rows) % 2})
    images[images.index(b"(60") + 1] ^= 4
    (tmp_path / "i.npz").write_bytes(images)
    with pytest.raises(DatasetError, match=rf"i\.npz {NAMED}"):
        open_dataset(tmp_path / "i.npz")


def facts(descr="'<f4'", fortran="False", shape="(60, 12)"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    "header",
    [
        *(
            facts(shape=shape)
            for shape in (
                *("(True, 12)", "(60, 99999999999)", "(99999999999999999999, 12)", "(-60, -12)"),
                *("(60.0, 12)", "[60, 12]", "720", "None", "('60', 12)", "(60, 11)", "(61, 12)"),
                *("(0, 12)", "()", "(60, 12, 0)", "(0, 99999999999999999999)", f"({'1,' * 70})"),
            )
        ),
        *(
            facts(descr=descr)
            for descr in (
                *("'O'", "'|O'", "'<f3'", "'zzz'", "''", "None", "7", "{}", "[]", "'<U0'", "'V0'"),
                *("[('a', 'O')]", "('<f4', (2,))", "[('a', '<f4', (9,) * 9)]"),
            )
        ),
        *(facts(fortran=fortran) for fortran in ("1", "None", "'no'")),
        *("", "{}", "[]", "7", "{'descr': '<f4'}", "(" * 200, "{" * 200, "[" * 9000, "x" * 20_000),
        *("\0", "'a' * 9", "__import__('os')", facts() + ")", "{**1}", "-" * 3000 + "1"),
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (9, 9)])
def test_headers_that_describe_other_bytes(tmp_path, header, version):
    (tmp_path / "f.npz").write_bytes(archive_of(features=npy_of(header, version=version)))
    with pytest.raises(InputError, match=NAMED):
        read_feature_file(tmp_path / "f.npz")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_form_that_numpy_writes_is_read(tmp_path, version, order):
    header = facts(fortran=str(order == "F"))
    content = ARRAYS["features"].tobytes(order)
    path = tmp_path / "f.npz"
    path.write_bytes(archive_of(features=npy_of(header, content, version)))
    assert require_right_or_named(path, ARRAYS)
    others = {
        "empty": np.zeros((0, 5)),
        "one": np.float64(3),
        "names": np.array(["a", "bé"]),
        "bytes": np.array([b"a", b"bc"]),
        "big": np.arange(5, dtype=">i4"),
        "flags": np.array([[True], [False]]),
        "f": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "days": np.array(["2026-01-01"], "M8[D]"),
    }
    path.write_bytes(npz_of(others, np.savez_compressed))
    assert npz_names(path) == list(others)
    found = read_npz(path, [*others, "absent"])
    assert found.keys() == others.keys()
    for name, array in others.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert found[name].flags.writeable


def changed_member(change):
    """An archive whose table of contents says something else of the first array."""
    content = npz_of(ARRAYS)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        change(content, content.index(signature) + offset)
    return bytes(content)


def encrypted(content, at):
    content[at] |= 1


def packed_otherwise(content, at):
    content[at + 2] = 99


def too_large(content, at):
    content[at + 16 : at + 20] = struct.pack("<I", 2**31)


def twice():
    other = npy_of(facts(), bytes(len(CONTENT)))
    both = bytearray(archive_of(features=npy_of(facts()), peatures=other))
    return both.replace(b"peatures", b"features")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: changed_member(encrypted), "encrypted"),
        (lambda: changed_member(packed_otherwise), "compression"),
        (lambda: changed_member(too_large), NAMED),
        (twice, "two arrays are called features"),
        (lambda: archive_of(features=b"no array"), "no array in NumPy's format"),
        (lambda: archive_of(features=b""), "no array in NumPy's format"),
        (lambda: bytes(npz_of({"features": np.array([{}, None], object)})), "of Python objects"),
        (lambda: b"PK\x05\x06" + bytes(18), "must hold an array 'features'"),
        (lambda: archive_of(features=npy_of(facts())[:-1]), "2879 are there"),
        (lambda: archive_of(features=npy_of(facts()) + b"x"), "2881 are there"),
    ],
)
def test_archives_that_are_not_as_numpy_writes_them(tmp_path, make, reason):
    (tmp_path / "f.npz").write_bytes(make())
    with pytest.raises(InputError, match=reason):
        read_feature_file(tmp_path / "f.npz")


def test_packed_bytes_that_are_damaged(tmp_path):
    whole = npz_of(ARRAYS, np.savez_compressed)
    read = 0
    for place in range(40, 120):
        damaged = whole.copy()
        damaged[place] ^= 1 << RNG.integers(8)
        (tmp_path / "f.npz").write_bytes(damaged)
        read += require_right_or_named(tmp_path / "f.npz", ARRAYS)
    assert read <= 20  # a field that repeats the size, between the name and the packed bytes


def test_sizes_that_the_file_cannot_fill_take_no_memory(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", npy_of(facts(shape="(60000, 12000)"), b"\0" * 1000))
    content = file.getvalue()
    claimed = 60_000 * 12_000 * 4 + len(npy_of(facts(shape="(60000, 12000)"), b""))
    at = content.index(b"PK\x01\x02") + 24
    (tmp_path / "f.npz").write_bytes(content[:at] + struct.pack("<I", claimed) + content[at + 4 :])
    tracemalloc.start()
    with pytest.raises(InputError, match="2880000000 bytes made of"):
        read_feature_file(tmp_path / "f.npz")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_offsets": np.arange(5.0)}, "whole numbers that rise"),
        ({"train_offsets": np.array([-1, 3, 5, 7, 9])}, "whole numbers that rise"),
        ({"train_offsets": np.array([0, 5, 3, 7, 9])}, "whole numbers that rise"),
        ({"train_offsets": np.array([0, 3, 5, 7, 999])}, "whole numbers that rise"),
        ({"train_offsets": np.array([9, 3, 2], np.uint64)}, "whole numbers that rise"),
        ({"train_offsets": np.array([], int)}, "whole numbers that rise"),
        ({"train_offsets": np.array(7)}, "whole numbers that rise"),
        ({"train_jpeg": np.array(7, np.uint8)}, "uint8 in one dimension"),
        ({"train_jpeg": np.zeros(9, np.int8)}, "uint8 in one dimension"),
        ({"train_labels": np.array(3)}, "4 samples and 0 labels"),
        ({"class_names": np.array("ab")}, r"class_names of .* has shape \(\)"),
    ],
)
def test_arrays_that_do_not_fit_together(tmp_path, arrays, message):
    good = {
        "train_jpeg": np.zeros(9, np.uint8),
        "train_offsets": np.array([0, 3, 5, 7, 9]),
        "train_labels": np.array([0, 0, 1, 1]),
    }
    np.savez(tmp_path / "a.npz", **good)
    assert len(open_dataset(tmp_path / "a.npz")) == 4
    np.savez(tmp_path / "a.npz", **good | arrays)
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path / "a.npz")


# --- safetensors ---------------------------------------------------------------------------------


def with_header(change):
    """A file whose header was changed; the tensors behind it stay."""
    content = safetensors_of(ARRAYS)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = change(header) or json.dumps(header)
    return len(text.encode()).to_bytes(8, "little") + text.encode() + content[8 + length :]


def set_entry(**entry):
    return lambda header: header["features"].update(entry)


def add(name, shape, start, stop, dtype="F32"):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
    return lambda header: header.update({name: entry})


LABELS_END, END = 480, 480 + 2880

CHANGES = [
    *(set_entry(dtype=dtype) for dtype in ({}, [], None, 7, "F31", "F64", "f32", "BF16")),
    *(
        set_entry(shape=shape)
        for shape in (
            *([-1], [60, -12], [60.0, 12], ["60", 12], None, {}, 720, [True, 720], [60, 13]),
            *([10**30, 12], [], [0], [[60, 12]], [None]),
        )
    ),
    *(
        set_entry(data_offsets=offsets)
        for offsets in (
            *([480.0, 3360.0], ["480", "3360"], None, {}, 480, [480], [480, 3360, 9], []),
            *([-480, 2400], [0, 2880], [240, 3120], [481, 3361], [3360, 480], [480, 10**30]),
            *([None, None], [True, 3360], [480, 3359]),
        )
    ),
    add("more", [1], END, END + 4),
    add("more", [1], 0, 4),
    add("more", [1], LABELS_END, LABELS_END + 4),
    add("more", [5], END, END, "F8_E4M3"),
    lambda header: header.pop("labels") and None,
    lambda header: header.update(features=7),
    lambda header: header.update(__metadata__={"a": 7}),
    lambda header: header.update(__metadata__=[]),
    lambda header: json.dumps(header)[:-1] + ', "features": {}}',
    lambda header: json.dumps(header)[:-1] + f', "labels": {json.dumps(header["labels"])}}}',
    lambda header: json.dumps(header).replace('"dtype"', '"dtype": "F32", "dtype"'),
    lambda _: "[" * 100_000,
    lambda _: '{"a":' * 100_000,
    lambda header: json.dumps(header)[:-1],
    lambda header: json.dumps(header) + "}",
    lambda _: "7",
    lambda header: json.dumps(header).replace("60", "9" * 5000),
    lambda header: json.dumps(header).replace("60", "NaN"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_headers_that_the_format_forbids(tmp_path, change):
    (tmp_path / "f.safetensors").write_bytes(with_header(change))
    with pytest.raises(InputError, match=NAMED):
        read_feature_file(tmp_path / "f.safetensors")


def test_bytes_before_and_behind(tmp_path):
    whole = bytes(safetensors_of(ARRAYS))
    path = tmp_path / "f.safetensors"
    for content in (whole + b"\0", whole[:-1], whole[:8], whole[:4], b"", b"\xff" * 8 + whole[8:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=NAMED):
            read_feature_file(path)
    path.write_bytes(with_header(lambda header: header.update(__metadata__=None)))
    assert require_right_or_named(path, ARRAYS)


def test_flipped_bits_of_a_header_as_the_library_of_the_format_sees_them(tmp_path):
    whole = safetensors_of(ARRAYS)
    length = int.from_bytes(whole[:8], "little")
    path = tmp_path / "f.safetensors"
    read = 0
    for place in range(8 + length):
        for bit in RNG.choice(8, 2, replace=False):
            damaged = whole.copy()
            damaged[place] ^= 1 << int(bit)
            path.write_bytes(damaged)
            if require_right_or_named(path, ARRAYS):
                read += 1
                assert safetensors.numpy.load(bytes(damaged)).keys() >= {"features"}
    assert 0 < read < length / 2  # the metadata, and the name of the labels
