"""Images of more than 8 bits: what is white, how it is said, and its part in the fingerprint."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from transferscope.datasets import open_dataset
from transferscope.errors import DatasetError

Image = pytest.importorskip("PIL.Image", reason="images need the extra [vision]")

LABELS = [0, 0, 0, 1, 1, 1]
#: As bright as white; the same for every depth.
GREY = np.random.default_rng(0).integers(0, 256, (6, 5, 7)) / 255
GREY[0, 0, 0] = 1


def write_folder(folder, images, name="png"):
    for row, image in enumerate(images):
        place = folder / "ab"[LABELS[row]]
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{row}.{name}")
    return folder


def seen(dataset):
    return np.stack([np.asarray(dataset[row])[:, :, 0] for row in range(len(dataset))])


def as_folder(pixels, tmp_path):
    name = "tif" if pixels.dtype.kind == "f" else "png"
    return write_folder(tmp_path / "t", [Image.fromarray(p) for p in pixels], name)


def as_objects(pixels, tmp_path):
    return [(Image.fromarray(p), label) for p, label in zip(pixels, LABELS, strict=True)]


def as_items(pixels, tmp_path):
    return [(p[None], label) for p, label in zip(pixels, LABELS, strict=True)]


def as_arrays(pixels, tmp_path):
    return pixels, LABELS


def as_npz(pixels, tmp_path):
    np.savez(tmp_path / "a.npz", train_images=pixels[:, None], train_labels=np.c_[LABELS])
    return tmp_path / "a.npz"


@pytest.mark.parametrize("make", [as_folder, as_objects, as_items, as_arrays, as_npz])
@pytest.mark.parametrize("white", [255, 1023, 4095, 16383, 65535, 1.0, 255.0])
def test_white_is_the_smallest_depth_that_holds_all(make, white, tmp_path):
    dtype = np.float32 if isinstance(white, float) else np.uint16
    # the darkest of the images alone would have another depth
    pixels = (GREY * np.linspace(1, 0.01, 6)[:, None, None] * white * 0.9).astype(dtype)
    data = open_dataset(make(pixels, tmp_path))
    expected = np.rint(pixels.astype(float) * 255 / white)
    np.testing.assert_array_equal(seen(data), expected)
    (note,) = data.notes
    assert f": {white:g} was taken for white, the brightest" in note
    assert f"pixel is {pixels.max():g}" in note
    # read again, in another order of asking, it is the same data set
    again = open_dataset(make(pixels, tmp_path))
    assert again.fingerprint == data.fingerprint
    np.testing.assert_array_equal(seen(again), expected)


def test_what_is_white_is_part_of_the_fingerprint_of_a_part(tmp_path):
    pixels = np.full((6, 4, 4), 900, np.uint16)
    data = open_dataset((pixels, LABELS))
    brighter = pixels.copy()
    brighter[5] = 4000
    other = open_dataset((brighter, LABELS))
    # all but the last are the same pixels, and look different
    assert (seen(data)[:5] != seen(other)[:5]).all()
    assert data.fingerprint != other.fingerprint
    part = other.subset([0, 1, 3, 4])
    assert part.fingerprint == data.subset([0, 1, 3, 4]).fingerprint
    np.testing.assert_array_equal(seen(part), seen(data)[[0, 1, 3, 4]])


def test_one_image_of_more_bits_among_others(tmp_path):
    images = [Image.fromarray((g * 255).astype(np.uint8)) for g in GREY]
    images[4] = Image.fromarray((GREY[4] * 4000).astype(np.uint16))
    # so many images that the few looked at when it is opened have 8 bits
    folder = write_folder(tmp_path / "t", images)
    for number in range(60):
        images[0].save(folder / "a" / f"more{number}.png")
    data = open_dataset(folder)
    assert data.notes == ()
    row = len(data) - 2
    assert np.abs(np.asarray(data[row])[:, :, 0] - GREY[4] * 4000 / 4095 * 255).max() <= 1
    assert "4095 was taken for white" in data.notes[0]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_negative_pixels_are_refused(dtype, tmp_path):
    pixels = (GREY * 1000).astype(dtype)
    pixels[2, 0, 0] = -1
    data = open_dataset((pixels, LABELS))
    with pytest.raises(
        DatasetError, match=r"row 2 of .* must lie in 0\.\.1023; they lie in -1\.\."
    ):
        data[2]


@pytest.mark.parametrize("value", [np.nan, np.inf, 70000.0])
def test_pixels_that_are_no_brightness_are_refused(value, tmp_path):
    pixels = GREY.astype(np.float32)
    pixels[2, 0, 0] = value
    with pytest.raises(DatasetError, match=r"row 2 of .* must lie in 0"):
        open_dataset((pixels, LABELS))[2]


@pytest.mark.parametrize("level", [0, 20, 1e-3])
def test_what_would_be_black_is_refused(level):
    dtype = np.uint16 if isinstance(level, int) else np.float32
    with pytest.raises(DatasetError, match=r"with more than 8 bits must use their depth"):
        open_dataset((np.full((6, 4, 4), level, dtype), LABELS))


def png_of(pixels):
    """A PNG of 16 bits: Pillow cannot write colours so, and other versions write other bytes."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2 * (pixels.ndim - 2), 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 0))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("white", [255, 4095, 65535])
def test_colours_of_16_bits_are_read_or_refused(white, tmp_path):
    folder = write_folder(tmp_path / "t", [Image.new("RGB", (7, 5))] * 6)
    for path in folder.rglob("*.png"):
        pixels = np.repeat((GREY[int(path.stem)] * white)[:, :, None], 3, axis=2)
        path.write_bytes(png_of(pixels))
    if white < 65535:
        with pytest.raises(DatasetError, match=r"brightest colour pixel .* come out black"):
            open_dataset(folder)
    else:
        assert np.abs(seen(open_dataset(folder)) - GREY * 255).max() <= 1


def test_all_of_16_bits_has_the_fingerprint_that_it_always_had(tmp_path):
    folder = write_folder(tmp_path / "t", [Image.new("L", (7, 5))] * 6)
    for path in folder.rglob("*.png"):
        path.write_bytes(png_of(GREY[int(path.stem)] * 65535))
    data = open_dataset(folder)
    np.testing.assert_array_equal(seen(data), np.rint(GREY * 255))
    assert data.fingerprint == "3ae2688d1d42034f1081a05e89d6b04a"


def test_damaged_images_do_not_count_and_are_left_out(tmp_path):
    pixels = (GREY * 4000).astype(np.uint16)
    folder = as_folder(np.concatenate([pixels, pixels])[:6], tmp_path)
    for row in range(6, 9):
        Image.fromarray(pixels[row - 6]).save(folder / "b" / f"{row}.png")
    damaged = folder / "b" / "7.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    data = open_dataset(folder, skip_unreadable=True)
    assert [path[-5:] for path in data.skipped] == ["7.png"]
    assert np.abs(seen(data)[:6] - GREY * 4000 / 4095 * 255).max() <= 1
