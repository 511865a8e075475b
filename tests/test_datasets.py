"""Every form of data set becomes the same record, and every bad one is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transferscope.datasets import Dataset, open_dataset, open_reference
from transferscope.errors import DatasetError

Image = pytest.importorskip("PIL.Image", reason="images need the extra [vision]")
hf = pytest.importorskip("datasets", reason="Hugging Face data sets need the extra [vision]")
torch = pytest.importorskip("torch", reason="torch data sets need the extra [vision]")


CLASSES = ("ant", "bee", "cat")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
TEXTS = [f"text number {i}" for i in range(12)]
NAMES = [CLASSES[label] for label in LABELS]


@pytest.fixture(autouse=True)
def hf_cache_in_tmp(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf_cache"))


def write_tree(folder: Path, *, per_class: int = 4, classes=CLASSES, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def write_csv(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


class Pairs(torch.utils.data.Dataset):
    """A torch data set; counts how often an item is fetched."""

    def __init__(self, samples, labels):
        self.samples, self._labels, self.fetched = samples, labels, 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.fetched += 1
        return self.samples[index], self._labels[index]


def pil(pixels):
    return Image.fromarray(pixels)


# --- one record for every source -----------------------------------------------------------------


def image_folder(tmp):
    return write_tree(tmp / "animals")


def split_folder(tmp):
    write_tree(tmp / "animals" / "train")
    write_tree(tmp / "animals" / "test", per_class=2, seed=1)
    return tmp / "animals"


def npz_plain(tmp):
    np.savez(tmp / "a.npz", images=PIXELS, labels=LABELS, class_names=np.array(CLASSES))
    return tmp / "a.npz"


def npz_splits(tmp):
    np.savez_compressed(
        tmp / "a.npz",
        train_images=PIXELS[..., 0],
        train_labels=LABELS,
        test_images=PIXELS[:6, ..., 0],
        test_labels=LABELS[:6],
        class_names=np.array(CLASSES),
    )
    return tmp / "a.npz"


def npz_jpeg(tmp):
    files = []
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp / f"{i}.jpg")
        files.append(np.fromfile(tmp / f"{i}.jpg", dtype=np.uint8))
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(
        tmp / "a.npz", train_jpeg=np.concatenate(files), train_offsets=offsets, train_labels=LABELS
    )
    return tmp / "a.npz"


def csv_texts(tmp):
    rows = [f"{text},{name}" for text, name in zip(TEXTS, NAMES, strict=True)]
    return write_csv(tmp / "a.csv", "text,label", *rows)


def csv_images(tmp):
    write_tree(tmp / "files")
    rows = [f"files/{name}/{i}.png,{name}" for name in CLASSES for i in range(4)]
    return write_csv(tmp / "a.csv", "path,label", *rows)


def parquet_texts(tmp):
    import pandas as pd

    pd.DataFrame({"sentence": TEXTS, "label": LABELS}).to_parquet(tmp / "a.parquet")
    return tmp / "a.parquet"


def parquet_images(tmp):
    hf_object(tmp).to_parquet(tmp / "a.parquet")
    return tmp / "a.parquet"


def hf_object(tmp):
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=list(CLASSES))})
    columns = {"image": [pil(p) for p in PIXELS], "label": LABELS.tolist()}
    return hf.Dataset.from_dict(columns, features=features)


def hf_dict(tmp):
    return hf.DatasetDict(train=hf_object(tmp), test=hf_object(tmp).select(range(6)))


def hf_saved(tmp):
    hf_object(tmp).save_to_disk(tmp / "saved")
    return f"hf/{tmp / 'saved'}"


def hf_dict_saved(tmp):
    hf_dict(tmp).save_to_disk(tmp / "saved")
    return f"hf/{tmp / 'saved'}"


def hf_parquet_folder(tmp):
    (tmp / "data").mkdir()
    hf_object(tmp).to_parquet(tmp / "data" / "train.parquet")
    return f"hf/{tmp / 'data'}"


def hf_image_folder(tmp):
    return f"hf/{write_tree(tmp / 'data' / 'train').parent}"


def digits(tmp):
    return "sklearn/digits"


def torch_pairs(tmp):
    return Pairs([pil(p) for p in PIXELS], LABELS.tolist())


def torch_tensors(tmp):
    images = torch.from_numpy(np.moveaxis(PIXELS, -1, 1).copy())
    return torch.utils.data.TensorDataset(images, torch.from_numpy(LABELS))


def torch_subset(tmp):
    return torch.utils.data.Subset(torch_pairs(tmp), range(2, 12))


def list_of_pairs(tmp):
    return list(zip(TEXTS, NAMES, strict=True))


def tuple_images(tmp):
    return PIXELS, LABELS


def tuple_texts(tmp):
    return TEXTS, NAMES


def tuple_vectors(tmp):
    return RNG.normal(size=(12, 7)), LABELS


def tuple_pil(tmp):
    return [pil(p) for p in PIXELS], NAMES


def tuple_paths(tmp):
    write_tree(tmp / "files")
    return [tmp / "files" / name / f"{i}.png" for name in CLASSES for i in range(4)], LABELS


def tuple_torch(tmp):
    images = torch.from_numpy(np.moveaxis(PIXELS, -1, 1).copy())
    return images, torch.from_numpy(LABELS)


def dataset(tmp):
    return open_dataset((PIXELS, LABELS))


SOURCES = {
    image_folder: "image",
    split_folder: "image",
    npz_plain: "image",
    npz_splits: "image",
    npz_jpeg: "image",
    csv_texts: "text",
    csv_images: "image",
    parquet_texts: "text",
    parquet_images: "image",
    hf_object: "image",
    hf_dict: "image",
    hf_saved: "image",
    hf_dict_saved: "image",
    hf_parquet_folder: "image",
    hf_image_folder: "image",
    digits: "image",
    torch_pairs: "image",
    torch_tensors: "image",
    torch_subset: "image",
    list_of_pairs: "text",
    tuple_images: "image",
    tuple_texts: "text",
    tuple_vectors: "array",
    tuple_pil: "image",
    tuple_paths: "image",
    tuple_torch: "image",
    dataset: "image",
}


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_every_source_keeps_the_contract(make, tmp_path):
    source = make(tmp_path)
    data = open_dataset(source)

    assert isinstance(data, Dataset)
    assert data.modality == SOURCES[make]
    assert data.task == "classification"
    assert data.name
    assert data.split
    assert data.skipped == ()
    assert data.labels.shape == (len(data),)
    assert data.labels.dtype == np.int64
    assert not data.labels.flags.writeable
    assert set(data.labels.tolist()) == set(range(data.n_classes))
    assert len(data.class_names) == data.n_classes
    assert all(type(name) is str for name in data.class_names)
    sample = data[0]
    if data.modality == "image":
        assert isinstance(sample, Image.Image)
        assert sample.mode == "RGB"
    else:
        assert isinstance(sample, {"text": str, "array": np.ndarray}[data.modality])
    with pytest.raises(IndexError):
        data[len(data)]
    np.testing.assert_array_equal(np.asarray(data[-1]), np.asarray(data[len(data) - 1]))

    # the same fingerprint every time, another one for a part
    int(data.fingerprint, 16)
    assert open_dataset(source).fingerprint == data.fingerprint
    assert data.subset(range(len(data))).fingerprint == data.fingerprint
    assert data.subset(range(6)).fingerprint != data.fingerprint

    few = open_dataset(source, max_samples=2 * data.n_classes, seed=3)
    assert np.bincount(few.labels).tolist() == [2] * data.n_classes
    assert few.split == data.split
    assert (open_dataset(source, per_class=2, seed=3).labels == few.labels).all()

    # it travels to another process, and many threads see what one sees
    again = pickle.loads(pickle.dumps(data))
    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(data.__getitem__, list(range(6)) * 4))
    for i, seen in enumerate(at_once):
        np.testing.assert_array_equal(np.asarray(seen), np.asarray(data[i % 6]))
    np.testing.assert_array_equal(np.asarray(again[5]), np.asarray(data[5]))

    assert len(open_dataset(source, skip_unreadable=True)) == len(data)


@pytest.mark.parametrize(
    "make",
    [tuple_images, npz_plain, hf_object, parquet_images, torch_pairs, tuple_pil, tuple_torch],
    ids=lambda make: make.__name__,
)
def test_pixels_and_labels_arrive_unchanged(make, tmp_path):
    data = open_dataset(make(tmp_path))
    np.testing.assert_array_equal(data.labels, LABELS)
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in data]), PIXELS)


def test_array_images_are_not_copied():
    data = open_dataset((PIXELS, LABELS))
    assert data.subset([1, 2])._samples.array is PIXELS


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [split_folder, npz_splits, hf_dict, hf_dict_saved])
def test_split_default_choice_and_unknown(make, tmp_path):
    source = make(tmp_path)
    assert open_dataset(source).split == "train"
    test = open_dataset(source, split="test")
    assert (test.split, len(test)) == ("test", 6)
    with pytest.raises(DatasetError, match=r"'holdout' does not exist .* which has .*test"):
        open_dataset(source, split="holdout")


@pytest.mark.parametrize(
    "make", [image_folder, npz_plain, csv_texts, digits, tuple_texts, torch_pairs, dataset]
)
def test_split_of_a_source_without_splits_is_refused(make, tmp_path):
    with pytest.raises(DatasetError, match=r"split 'test' does not exist"):
        open_dataset(make(tmp_path), split="test")


def test_validation_folder_by_any_of_its_names(tmp_path):
    write_tree(tmp_path / "valid", per_class=2)
    write_tree(tmp_path / "train")
    assert open_dataset(tmp_path, split="val").split == "valid"
    shutil.rmtree(tmp_path / "train")
    assert open_dataset(tmp_path).split == "valid"
    write_tree(tmp_path / "test", per_class=2)
    with pytest.raises(DatasetError, match=r"\(test, valid\), and none is called train"):
        open_dataset(tmp_path)


def test_class_called_train_is_a_class(tmp_path):
    data = open_dataset(write_tree(tmp_path / "vehicles", classes=("plane", "train")))
    assert data.class_names == ("plane", "train")


def test_flat_split_folders_are_not_taken_for_classes(tmp_path):
    with pytest.raises(DatasetError, match=r"test, train with none inside"):
        open_dataset(write_tree(tmp_path / "flat", classes=("train", "test")))


def test_csv_split_column_keeps_class_ids_of_the_whole(tmp_path):
    rows = [f"t{i},{'zebra' if i < 4 else 'ant'},train" for i in range(8)]
    rows += [f"u{i},{('cow', 'zebra', 'ant')[i % 3]},test" for i in range(6)]
    rows += ["w0,cow,train", "w1,cow,train"]
    path = write_csv(tmp_path / "a.csv", "text,label,split", *rows)
    train, test = open_dataset(path), open_dataset(path, split="test")
    assert train.class_names == test.class_names == ("ant", "cow", "zebra")
    assert [test.class_names[label] for label in test.labels[:3]] == ["cow", "zebra", "ant"]
    assert train[8] == "w0"


def test_csv_labels_may_be_withheld_in_another_split(tmp_path):
    rows = ["a,1,train", "b,1,train", "c,2,train", "d,2,train", "e,,test", "f,,test"]
    path = write_csv(tmp_path / "a.csv", "text,label,split", *rows)
    assert list(open_dataset(path)) == list("abcd")
    assert open_dataset(path).class_names == ("1", "2")
    with pytest.raises(DatasetError, match=r"2 are missing, the first at line 6"):
        open_dataset(path, split="test")


def test_a_class_that_one_split_lacks_is_left_out_of_it():
    train = hf.Dataset.from_dict({"text": list("abcd"), "label": ["x", "x", "z", "z"]})
    test = hf.Dataset.from_dict({"text": list("abcd"), "label": ["y", "y", "z", "z"]})
    both = hf.DatasetDict(train=train, test=test)
    for split, names, labels in (("train", "xz", [0, 0, 1, 1]), ("test", "yz", [0, 0, 1, 1])):
        data = open_dataset(both, split=split)
        assert data.class_names == tuple(names)  # without the class that this part lacks
        assert data.labels.tolist() == labels


# --- image folders -------------------------------------------------------------------------------


def test_folder_agrees_with_torchvision(tmp_path):
    folder = pytest.importorskip("torchvision.datasets", reason="compares with torchvision")
    write_tree(tmp_path / "t", classes=("10", "9", "Zoo", "ape"), per_class=3)
    (tmp_path / "t" / "ape" / "deep").mkdir()
    Image.new("L", (4, 4), 7).save(tmp_path / "t" / "ape" / "deep" / "x.JPG", format="jpeg")
    data, theirs = open_dataset(tmp_path / "t"), folder.ImageFolder(tmp_path / "t")
    assert list(data.class_names) == theirs.classes
    assert [str(path) for path in data._samples.paths] == [path for path, _ in theirs.samples]
    assert data.labels.tolist() == theirs.targets
    for ours, (image, _) in zip(data, theirs, strict=True):
        assert ours.tobytes() == image.tobytes()
    # handed over as a torch data set it is the same too, and labels cost no decoding
    assert open_dataset(theirs).labels.tolist() == theirs.targets
    assert open_dataset(theirs).class_names == data.class_names


def test_hidden_and_other_files_are_ignored(tmp_path):
    write_tree(tmp_path / "t")
    (tmp_path / "t" / ".checkpoints").mkdir()
    (tmp_path / "t" / "ant" / "._0.png").write_bytes(b"resource fork")
    (tmp_path / "t" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "t" / "readme.md").write_text("no image")
    data = open_dataset(tmp_path / "t", skip_unreadable=True)
    assert (data.class_names, len(data), data.skipped) == (CLASSES, 12, ())


def test_empty_flat_and_imageless_folders(tmp_path):
    nothing = r"one sub-folder per class; .* holds no images and no sub-folders"
    with pytest.raises(DatasetError, match=nothing):
        open_dataset(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"holds 1 images and no sub-folders"):
        open_dataset(tmp_path)
    (tmp_path / "ant").mkdir()
    with pytest.raises(DatasetError, match=r"its 1 sub-folders hold none"):
        open_dataset(tmp_path)


# --- decoding ------------------------------------------------------------------------------------


def decoded(tmp_path, name, image, **options):
    write_tree(tmp_path / "t")
    image.save(tmp_path / "t" / "ant" / name, **options)
    data = open_dataset(tmp_path / "t")
    at = [path.name for path in data._samples.paths].index(name)
    return np.asarray(data[at])


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    image = Image.fromarray(np.array([[0, 257, 65535, 32768]], dtype=np.uint16))
    assert decoded(tmp_path, "x.png", image)[0, :, 1].tolist() == [0, 1, 255, 128]


def test_transparency_is_dropped(tmp_path):
    image = Image.new("RGBA", (2, 2), (200, 100, 50, 0))
    assert decoded(tmp_path, "x.png", image)[0, 0].tolist() == [200, 100, 50]


def test_palette_with_transparency_gives_its_colours_without_a_warning(tmp_path):
    image = Image.new("RGB", (2, 2), (200, 100, 50)).quantize(4)
    shown = decoded(tmp_path, "x.png", image, transparency=bytes([0, 9, 9, 9]))
    assert shown[0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize(("mode", "colour"), [("L", 90), ("1", 1), ("LA", (9, 9)), ("CMYK", 0)])
def test_other_modes_become_rgb(tmp_path, mode, colour):
    suffix = "jpg" if mode == "CMYK" else "png"
    assert decoded(tmp_path, f"x.{suffix}", Image.new(mode, (4, 3), colour)).shape == (3, 4, 3)


def test_orientation_is_ignored_in_folders_and_in_hugging_face_alike(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image = Image.new("RGB", (8, 4), (1, 2, 3))
    assert decoded(tmp_path, "x.png", image, exif=exif).shape == (4, 8, 3)
    path = str(tmp_path / "t" / "ant" / "x.png")
    table = hf.Dataset.from_dict({"image": [path] * 4, "label": [0, 0, 1, 1]})
    table = table.cast_column("image", hf.Image())
    assert table[0]["image"].size == (4, 8), "the library turns it"
    assert open_dataset(table)[0].size == (8, 4)


# --- npz -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": PIXELS, "y": LABELS}, r"must hold the arrays images and labels.* holds z, y"),
        ({"features": PIXELS, "labels": LABELS}, r"Pass features .* to `score`"),
        ({"images": PIXELS > 9, "labels": LABELS}, r"must be numbers .* is bool"),
        ({"images": PIXELS[0], "labels": LABELS}, None),
        ({"images": PIXELS[:5], "labels": LABELS}, r"has 5 samples and 12 labels"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, r"is empty"),
        ({"images": PIXELS, "labels": LABELS, "class_names": ["a", "b"]}, r"in 0\.\.1, .* hold 2"),
        ({"images": PIXELS, "labels": LABELS, "class_names": [list("abc")]}, r"shape \(1, 3\)"),
        ({"images": PIXELS, "labels": LABELS, "class_names": "a"}, r"shape \(\)"),
        ({"images": PIXELS, "labels": 7}, r"12 samples and 0 labels"),
        ({"train_jpeg": PIXELS, "train_offsets": [0, 9], "train_labels": [0]}, r"one dimension"),
        ({"train_jpeg": 7, "train_offsets": [0, 9], "train_labels": [0]}, r"one dimension"),
        ({"x_train": PIXELS, "X_train": PIXELS, "y_train": LABELS}, r"one array of images"),
        ({"images": PIXELS, "labels": LABELS - 1, "class_names": list("abc")}, r"withheld \(-1\)"),
        ({"images": PIXELS, "labels": np.where(LABELS, LABELS, np.nan)}, r"4 are missing .* row 0"),
        ({"images": PIXELS, "labels": LABELS.astype(object)}, r"an array of Python objects"),
        (
            {"train_jpeg": PIXELS.ravel(), "train_offsets": [0, 9, 5], "train_labels": [0, 1]},
            r"offsets whole numbers that rise within its length",
        ),
    ],
)
def test_bad_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path / "a.npz")


def test_damaged_npz(tmp_path):
    path = npz_splits(tmp_path)
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"is damaged .*numpy\.savez"):
        open_dataset(path)


def test_file_that_is_no_npz(tmp_path):
    np.save(tmp_path / "bare.npy", PIXELS)
    bare = (tmp_path / "bare.npy").read_bytes()
    for content in (b"PK but not really", b"hello", b"", bare):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(
            DatasetError, match=r"damaged or of another format.*numpy\.savez|single"
        ):
            open_dataset(tmp_path / "a.npz")


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "rows", "options", "message"),
    [
        ("text,label", ["a,x"] * 4, {"label_column": "tag"}, r"'tag' does not exist .* text"),
        ("text,tag", ["a,x"] * 4, {}, r"none of a usual name; its columns are text, tag"),
        ("text,label,y", ["a,x,x"] * 4, {}, r"several candidates \(label, y\)"),
        ("a,b,label", ["a,b,x"] * 4, {}, r"several columns could be it \(a, b\)"),
        ("a,label", ["1,x", "2,x"], {}, r"none could be found"),
        ("text,label", ["a,x"] * 4, {"input_column": "body"}, r"'body' does not exist"),
        ("path,label", ["gone.png,x"] * 4, {}, r"4 do not exist, the first is 'gone\.png'"),
        ("text,label", ["a,x", "b,x", "c,", "d,y", "e,y"], {}, r"1 are missing, .* line 4"),
        ("text,label", ["a,1.5", "b,nan"], {}, r"1 are missing or not finite, line 3"),
        ("text,label", ["a,x"] * 4, {}, r"^a must have at least two classes; it has 1: x"),
        ("text,label", ["a,x", "b,x", "c,y"], {}, r"two samples of every class; 'y' has 1"),
        ("text,label", [f"t{i},{i}" for i in range(9)], {}, r"'4' has 1 and 4 more.*regression"),
        ("text,label", [], {}, r"is empty"),
        ("text,label", ["a,x", "b,y"], {"task": "regression"}, r"must be numbers"),
        ("text,label", ["a,1.5", "b,2"], {"task": "classification"}, r"whole numbers .* hold 1\.5"),
        ("text,label", ["a,1", "b,2"], {"task": "ranking"}, r"task must be"),
        ("text,label,split", ["a,x,train"] * 4, {"split": "dev"}, r"'dev' .* which has train"),
    ],
)  # fmt: skip
def test_bad_tables(tmp_path, header, rows, options, message):
    path = write_csv(tmp_path / "a.csv", header, *rows)
    with pytest.raises(DatasetError, match=message):
        open_dataset(path, **options)


def test_csv_that_is_no_table(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00text")
    with pytest.raises(DatasetError, match=r"must be UTF-8 and is UTF-16"):
        open_dataset(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("")
    with pytest.raises(DatasetError, match=r"UTF-8 table"):
        open_dataset(tmp_path / "b.csv")


def test_parquet_that_is_none(tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(DatasetError, match=r"must be a Parquet file"):
        open_dataset(tmp_path / "a.parquet")


def test_csv_words_that_pandas_would_take_for_missing(tmp_path):
    rows = ["null,NA", "NaN,NA", "007,None", "x,None"]
    data = open_dataset(write_csv(tmp_path / "a.csv", "text,label", *rows))
    assert list(data) == ["null", "NaN", "007", "x"]
    assert data.class_names == ("NA", "None")


def test_csv_integer_classes_sort_as_numbers_and_underscored_names_stay_names(tmp_path):
    rows = [f"t,{label}" for label in (10, 9, 10, 9, 2, 2)]
    assert open_dataset(write_csv(tmp_path / "a.csv", "text,label", *rows)).class_names == (
        *("2", "9", "10"),
    )
    rows = [f"t,{label}" for label in ("1_0", "10", "1_0", "10")]
    data = open_dataset(write_csv(tmp_path / "b.csv", "text,label", *rows))
    assert data.class_names == ("10", "1_0")


def test_csv_regression_by_fractions_or_by_name(tmp_path):
    path = write_csv(tmp_path / "a.csv", "text,label", "a,1.5", "b,2", "c,3")
    data = open_dataset(path)
    assert (data.task, data.class_names, data.n_classes) == ("regression", (), 0)
    assert data.labels.tolist() == [1.5, 2, 3]
    path = write_csv(tmp_path / "b.csv", "text,label", "a,1", "b,2", "c,3")
    assert open_dataset(path, task="regression").labels.dtype == np.float64


def test_csv_columns_chosen_by_hand(tmp_path):
    rows = ["a,b,1,x", "c,d,2,x", "e,f,1,y", "g,h,2,y"]
    path = write_csv(tmp_path / "a.csv", "left,right,number,kind", *rows)
    data = open_dataset(path, label_column="kind", input_column="right")
    assert list(data) == ["b", "d", "f", "h"]
    assert open_dataset(path, label_column="kind", input_column="number")[0] == "1"


def test_csv_missing_images_are_skipped_on_request(tmp_path):
    path = csv_images(tmp_path)
    (tmp_path / "files" / "bee" / "3.png").unlink()
    with pytest.raises(DatasetError, match=r"1 do not exist, the first is 'files/bee/3\.png'"):
        open_dataset(path)
    assert len(open_dataset(path, skip_unreadable=True).skipped) == 1


def test_csv_chosen_image_column_is_never_read_as_texts(tmp_path):
    path = write_csv(tmp_path / "a.csv", "path,text,label", *(["gone.png,a,x", "gone.png,b,y"] * 2))
    assert list(open_dataset(path)) == ["a", "b", "a", "b"]
    with pytest.raises(DatasetError, match=r"4 do not exist, the first is 'gone\.png'"):
        open_dataset(path, input_column="path")


def test_csv_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,x\nb,x\nc,y\nd,y\n", encoding="utf-8-sig")
    assert list(open_dataset(path)) == list("abcd")


def test_texts_longer_than_a_file_name_are_texts(tmp_path):
    rows = [f"{'word ' * 2000}{i},{i % 2}" for i in range(4)]
    assert open_dataset(write_csv(tmp_path / "a.csv", "text,label", *rows)).modality == "text"


def test_parquet_null_text_is_named(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"text": ["a", None, "c", "d"], "label": [0, 0, 1, 1]})
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match=r"lacks 1, the first at row 1"):
        open_dataset(tmp_path / "a.parquet")


# --- Hugging Face --------------------------------------------------------------------------------


def test_hub_data_set_that_cannot_be_loaded_says_what_to_do(monkeypatch):
    monkeypatch.setattr(hf.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError, match=r"no/where cannot be loaded \(ConnectionError.*save_to"):
        open_dataset("hf/no/where")


def test_configuration_is_handed_on(monkeypatch):
    class Builder(mock.Mock):
        name = "parquet"
        as_dataset = staticmethod(lambda: hf_object(None))

    asked = []
    builder = lambda *a, **k: asked.append((a, k)) or Builder()  # noqa: E731
    monkeypatch.setattr(hf, "load_dataset_builder", builder)
    open_dataset("hf/glue?config=sst2")
    assert asked == [(("glue",), {"name": "sst2"})]


def test_stream_is_refused():
    with pytest.raises(DatasetError, match=r"without streaming=True"):
        open_dataset(hf_object(None).to_iterable_dataset())


def test_class_label_column_is_found_by_type_and_format_is_ignored():
    table = hf_object(None).rename_column("label", "species").with_format("numpy")
    data = open_dataset(table)
    assert data.class_names == CLASSES
    assert isinstance(data[0], Image.Image)


def test_several_class_label_columns_must_be_chosen_from():
    table = hf_object(None).add_column("coarse", [0, 1] * 6)
    table = table.cast_column("coarse", hf.ClassLabel(names=["a", "b"])).rename_column(
        "label", "fine"
    )
    with pytest.raises(DatasetError, match=r"image, fine, coarse.*label_column"):
        open_dataset(table)
    assert open_dataset(table, label_column="coarse").class_names == ("a", "b")


def test_withheld_labels_are_refused():
    table = hf_object(None).remove_columns("label").add_column("label", [-1] * 12)
    table = table.cast_column("label", hf.ClassLabel(names=list(CLASSES)))
    with pytest.raises(DatasetError, match=r"withheld"):
        open_dataset(table)


def test_column_of_another_type_is_refused():
    table = hf.Dataset.from_dict({"text": list("abcd"), "n": [1, 2, 3, 4], "label": [0, 0, 1, 1]})
    with pytest.raises(DatasetError, match=r"column 'n' .* neither texts nor images"):
        open_dataset(table, input_column="n")


def test_empty_image_cell_is_named():
    features = hf.Features({"image": hf.Image(), "label": hf.Value("int64")})
    table = hf.Dataset.from_dict({"image": [None] * 4, "label": [0, 0, 1, 1]}, features=features)
    with pytest.raises(DatasetError, match=r"row 0 of .* is empty"):
        open_dataset(table)[0]


def test_list_of_class_labels_is_multilabel():
    names = hf.List(hf.ClassLabel(names=list(CLASSES)))
    features = hf.Features({"text": hf.Value("string"), "label": names})
    rows = {"text": list("abc"), "label": [[0, 2], [], [1]]}
    data = open_dataset(hf.Dataset.from_dict(rows, features=features))
    assert (data.task, data.class_names) == ("multilabel", CLASSES)
    assert data.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_split_column_of_a_parquet_with_images(tmp_path):
    parts = ["test" if i < 6 else "train" for i in range(12)]
    hf_object(None).add_column("split", parts).to_parquet(tmp_path / "a.parquet")
    np.testing.assert_array_equal(np.asarray(open_dataset(tmp_path / "a.parquet")[0]), PIXELS[6])
    assert len(open_dataset(tmp_path / "a.parquet", split="test")) == 6


# --- Python objects ------------------------------------------------------------------------------


def test_mismatched_lengths():
    with pytest.raises(DatasetError, match=r"12 samples and 11 labels"):
        open_dataset((PIXELS, LABELS[:-1]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (7, r"got a int"),
        ({"a": 1}, r"got a dict"),
        ((PIXELS.astype(complex), LABELS), r"must be numbers .* is complex128"),
        ((np.arange(12), LABELS), r"dtype int64 of shape \(12,\)"),
        ((["a", None, "c", "d"], [0, 0, 1, 1]), r"sample 1 is a NoneType"),
        ((PIXELS, [None, *LABELS[1:]]), r"1 are missing"),
        ((PIXELS, np.eye(3)[LABELS]), r'task="multilabel"'),
        ((PIXELS, [[0], [1, 2]] * 6), r"same shape for every sample"),
        (Pairs([], []), r"is empty"),
        (["ab", "cd", "efg"], r"item 0 of list must be a pair .* is a str"),
        (Pairs([torch.zeros(3, 8, 5, 2)] * 4, [0, 0, 1, 1]), r"shape \(3, 8, 5, 2\)"),
        (Pairs([pil(PIXELS[0]), "text", "text", "text"], [0, 0, 1, 1]), r"sample 1 .* is text"),
    ],
)
def test_bad_objects(source, message):
    with pytest.raises(DatasetError, match=message):
        list(open_dataset(source))


def test_random_augmentation_is_refused():
    class Augmented(Pairs):
        def __getitem__(self, index):
            return RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8), self._labels[index]

    with pytest.raises(DatasetError, match=r"Remove the random augmentation"):
        open_dataset(Augmented(PIXELS, LABELS))


def test_listed_labels_spare_the_decoding_unless_they_are_transformed():
    many = Pairs([pil(p) for p in PIXELS] * 20, LABELS.tolist() * 20)
    many.targets = LABELS.tolist() * 20
    open_dataset(many)
    assert many.fetched < 60 < len(many)
    listed = Pairs([pil(p) for p in PIXELS], LABELS.tolist())
    listed.targets, listed.classes = LABELS.tolist(), list(CLASSES)
    data = open_dataset(listed)
    assert data.class_names == CLASSES
    part = open_dataset(torch.utils.data.Subset(listed, [0, 1, 2, 6, 7, 8]))
    assert part.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert part.class_names == CLASSES
    # the list says one thing, the items another
    listed.targets = [0, *([1] * 10), 2]
    listed._labels = (LABELS + 1) % 3
    assert open_dataset(listed).labels.tolist() == ((LABELS + 1) % 3).tolist()
    listed._labels = LABELS.tolist()
    listed.targets, listed.target_transform = [0] * 11 + [2], lambda label: label
    assert open_dataset(listed).labels.tolist() == LABELS.tolist()


def test_one_thread_at_a_time_in_a_strangers_object():
    class Careful(Pairs):
        busy = False

        def __getitem__(self, index):
            assert not self.busy
            self.busy = True
            item = super().__getitem__(index)
            self.busy = False
            return item

    data = open_dataset(Careful([pil(p) for p in PIXELS], LABELS.tolist()))
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(data.__getitem__, [i % 12 for i in range(400)]))) == 400


def test_regression_and_multilabel_arrays():
    vectors = RNG.normal(size=(5, 3))
    data = open_dataset((vectors, RNG.normal(size=(5, 2))))
    assert (data.task, data.labels.shape) == ("regression", (5, 2))
    targets = np.eye(5, 3)
    data = open_dataset((vectors, targets), task="multilabel")
    assert (data.task, data.class_names) == ("multilabel", ("0", "1", "2"))
    assert len(data.subsample(max_samples=3)) == 3
    with pytest.raises(DatasetError, match=r"array of 0 and 1"):
        open_dataset((vectors, targets * 2), task="multilabel")
    with pytest.raises(DatasetError, match=r"at least two samples"):
        open_dataset((vectors[:1], [0.5]))


@pytest.mark.parametrize(
    "values",
    [
        LABELS.astype(np.uint8),
        LABELS.astype(float),
        LABELS == 0,
        np.array(CLASSES)[LABELS],
        np.array(CLASSES, object)[LABELS],
    ],
)
def test_labels_in_one_column_are_labels(values, tmp_path):
    flat = open_dataset((PIXELS, values))
    for column in (values[:, None], pd.DataFrame({"label": values})[["label"]]):
        data = open_dataset((PIXELS, column))
        assert (data.task, data.class_names) == ("classification", flat.class_names)
        np.testing.assert_array_equal(data.labels, flat.labels, strict=True)
        assert data.fingerprint == flat.fingerprint
    pairs = open_dataset(Pairs([pil(p) for p in PIXELS], list(values[:, None])))
    np.testing.assert_array_equal(pairs.labels, flat.labels)
    named = open_dataset((PIXELS, values[:, None]), task="classification")
    assert named.fingerprint == flat.fingerprint
    numbers = open_dataset((PIXELS, RNG.normal(size=(12, 1))))
    assert (numbers.task, numbers.labels.shape) == ("regression", (12, 1))


def test_labels_of_the_caller_stay_writeable():
    labels = LABELS.copy()
    data = open_dataset((PIXELS, labels))
    labels[0] = 2
    assert data.labels[0] == 0
    quantities = RNG.normal(size=12)
    open_dataset((PIXELS, quantities))
    assert quantities.flags.writeable


def test_options_that_do_not_apply_are_refused(tmp_path):
    for source in (image_folder(tmp_path), "sklearn/digits", (PIXELS, LABELS), dataset(None)):
        with pytest.raises(DatasetError, match=r"label_column='label' cannot apply"):
            open_dataset(source, label_column="label")
    with pytest.raises(DatasetError, match=r"is classification; got task='regression'"):
        open_dataset(tmp_path / "animals", task="regression")


def test_paths_and_names_that_do_not_exist(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no .*nowhere"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"sklearn/digits .* not sklearn/iris"):
        open_dataset("sklearn/iris")
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"\.npz, \.csv, \.tsv, \.json, \.jsonl or \.parquet"):
        open_dataset(tmp_path / "a.xlsx")


def test_a_dataset_passes_through_and_options_apply():
    data = open_dataset((PIXELS, LABELS))
    assert open_dataset(data) is data
    assert len(open_dataset(data, per_class=2)) == 6
    assert open_dataset(data, split="all") is data


# --- subsets -------------------------------------------------------------------------------------


def test_digits_are_scaled_to_the_full_range():
    from sklearn.datasets import load_digits

    data, theirs = open_dataset("sklearn/digits"), load_digits()
    assert len(data) == 1797
    whole = np.stack([np.asarray(image)[..., 0] for image in data])
    assert (whole.min(), whole.max()) == (0, 255)
    assert np.abs(whole * (16 / 255) - theirs.images).max() < 0.05


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=6),
    share=st.floats(0, 1.2),
    per_class=st.none() | st.integers(2, 30),
    seed=st.integers(0, 99),
)
def test_subsample_properties(counts, share, per_class, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    data = open_dataset((np.arange(len(labels), dtype=float)[:, None], labels))
    wanted = max(2 * len(counts), int(share * len(labels)))
    part = data.subsample(wanted, per_class, seed)
    rows = np.array([int(row[0]) for row in part])
    assert (np.diff(rows) > 0).all(), "order is kept, nothing twice"
    np.testing.assert_array_equal(part.labels, labels[rows])
    available = np.minimum(counts, per_class or 99)
    assert len(part) == min(wanted, available.sum())
    got = np.bincount(part.labels, minlength=len(counts))
    assert (got >= 2).all()
    assert (got <= available).all()
    # proportional in what exceeds two per class
    ideal = (available - 2) * (len(part) - 2 * len(counts)) / max(1, (available - 2).sum())
    assert np.abs(got - 2 - ideal).max() < 1
    again = data.subsample(wanted, per_class, seed)
    np.testing.assert_array_equal(np.stack(list(again)), np.stack(list(part)))


def test_subsample_depends_on_the_seed_and_grows_by_adding():
    data = open_dataset("sklearn/digits")
    small, large = (data.subsample(per_class=k, seed=1) for k in (5, 9))
    assert set(small._indices) < set(large._indices)
    assert set(data.subsample(per_class=5, seed=2)._indices) != set(small._indices)
    # of a subset, positions are the subset's
    assert set(large.subsample(max_samples=40)._indices) < set(large._indices)


def test_subsample_too_small():
    data = open_dataset("sklearn/digits")
    with pytest.raises(DatasetError, match=r"needs at least 20, got 19"):
        open_dataset("sklearn/digits", max_samples=19)
    with pytest.raises(DatasetError, match=r"per_class must be at least 2; got 1"):
        data.subsample(per_class=1)
    with pytest.raises(DatasetError, match=r"per_class=3 for regression"):
        open_dataset((PIXELS, RNG.normal(size=12)), per_class=3)
    with pytest.raises(DatasetError, match=r"needs at least 2, got 0"):
        open_dataset((PIXELS, RNG.normal(size=12)), max_samples=0)


def test_subset_takes_positions_or_a_mask_in_any_order():
    data = open_dataset((PIXELS, LABELS))
    np.testing.assert_array_equal(data.subset([3, 0]).labels, LABELS[[3, 0]])
    np.testing.assert_array_equal(np.asarray(data.subset([3, 0])[1]), PIXELS[0])
    assert len(data.subset(LABELS == 1)) == 4
    with pytest.raises(IndexError):
        data.subset([12])


def test_draws_that_stored_features_are_found_by_stay():
    digits = open_dataset("sklearn/digits")
    for options, expected in (
        ({"max_samples": 301, "seed": 5}, "4938396df47296fa07150535205f2992"),
        ({"per_class": 7, "max_samples": 50, "seed": 1}, "81779b383f2df672f24691b10691e31b"),
    ):
        assert digits.subsample(**options).fingerprint == expected


# --- fingerprints --------------------------------------------------------------------------------


def test_fingerprint_is_of_the_content_not_the_place(tmp_path):
    here, there = write_tree(tmp_path / "here"), tmp_path / "far" / "there"
    shutil.copytree(here, there)
    os.utime(there / "ant" / "0.png", (1, 1))
    (there / "ant" / "0.png").rename(there / "ant" / "00.png")
    first, second = open_dataset(here), open_dataset(there)
    assert first.fingerprint == second.fingerprint
    # one byte of one file
    with (there / "cat" / "3.png").open("ab") as file:
        file.write(b"\0")
    assert open_dataset(there).fingerprint != first.fingerprint
    assert second.fingerprint == open_dataset(there).fingerprint, "of the files as they are now"


def test_fingerprint_sees_samples_order_labels_and_names():
    base = open_dataset((TEXTS, NAMES))
    prints = {
        base.fingerprint,
        open_dataset((TEXTS[::-1], NAMES)).fingerprint,
        open_dataset((TEXTS, NAMES[::-1])).fingerprint,
        open_dataset((TEXTS, [f"{name}s" for name in NAMES])).fingerprint,
        open_dataset((["x", *TEXTS[1:]], NAMES)).fingerprint,
        base.subset(np.arange(11, -1, -1)).fingerprint,
        open_dataset((TEXTS, LABELS + 0.5)).fingerprint,
    }
    assert len(prints) == 7
    # where one text ends counts
    assert (
        open_dataset((["ab", "c", "d", "e"], [0, 0, 1, 1])).fingerprint
        != open_dataset((["a", "bc", "d", "e"], [0, 0, 1, 1])).fingerprint
    )
    # shape and type count, not the bytes alone
    flat = np.arange(24, dtype=np.uint8)
    wide, tall = flat.reshape(4, 2, 3), flat.reshape(4, 3, 2)
    labels = [0, 0, 1, 1]
    assert open_dataset((wide, labels)).fingerprint != open_dataset((tall, labels)).fingerprint
    view = np.asfortranarray(wide)
    assert open_dataset((view, labels)).fingerprint == open_dataset((wide, labels)).fingerprint


def test_fingerprint_of_a_subset_reads_only_its_samples(tmp_path):
    data = open_dataset(write_tree(tmp_path / "t"))
    part = data.subset([0, 1, 4, 5])
    shutil.rmtree(tmp_path / "t" / "cat")
    alone = part.fingerprint
    write_tree(tmp_path / "u")
    assert open_dataset(tmp_path / "u").subset([0, 1, 4, 5]).fingerprint == alone


def test_fingerprints_are_stable_between_releases():
    # written by version 0.1.0; a change here means that every feature store starts anew
    data = open_dataset((["one", "two", "three", "four"], ["a", "a", "b", "b"]))
    assert data.fingerprint == GOLDEN_TEXT
    images = np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2)
    assert open_dataset((images, [0, 0, 1, 1])).fingerprint == GOLDEN_IMAGES


GOLDEN_TEXT = "94e3c661c0a3920e6492b49fb3730b32"
GOLDEN_IMAGES = "d8c9b7c5a24fda22cb96f904036d94ea"


# --- references ----------------------------------------------------------------------------------

CORPUS = [f"corpus text {i}" for i in range(9)]


def bare_csv(folder: Path):
    return write_csv(folder / "bare.csv", "text", *CORPUS)


def bare_json_of_words(folder: Path):
    path = folder / "bare.json"
    path.write_text(json.dumps([{"text": text.split()} for text in CORPUS]))
    return path


def bare_hugging_face(folder: Path):
    return hf.Dataset.from_dict({"text": CORPUS})


def bare_parquet(folder: Path):
    hf.Dataset.from_dict({"text": CORPUS}).to_parquet(folder / "bare.parquet")
    return folder / "bare.parquet"


def bare_texts(folder: Path):
    return CORPUS, None


def bare_words(folder: Path):
    return [text.split() for text in CORPUS], None


BARE = [bare_csv, bare_json_of_words, bare_hugging_face, bare_parquet, bare_texts, bare_words]


@pytest.mark.parametrize("make", BARE)
def test_a_reference_without_labels_has_none(make, tmp_path):
    source = make(tmp_path)
    corpus = open_reference(source, label_column="kind", input_column="body")
    assert (corpus.labels, corpus.task, corpus.class_names, corpus.n_classes) == (None, None, (), 0)
    assert list(corpus) == CORPUS
    assert open_reference(corpus) is corpus
    for refused in (source, corpus):
        with pytest.raises(DatasetError, match=r"labels"):
            open_dataset(refused)
    with pytest.raises(DatasetError, match=r"has no labels, and every sample needs one"):
        corpus.require_labels()


def test_a_part_of_a_reference_without_labels():
    corpus = open_reference((CORPUS, None))
    part = corpus.subset([4, 2])
    assert (list(part), part.labels, part.task) == ([CORPUS[4], CORPUS[2]], None, None)
    drawn = corpus.subsample(max_samples=5, seed=3)
    assert (len(drawn), drawn.labels) == (5, None)
    assert list(drawn) == list(corpus.subsample(max_samples=5, seed=3))
    assert corpus.subsample(max_samples=9) is corpus
    with pytest.raises(DatasetError, match=r"per_class=3 for samples without labels"):
        corpus.subsample(per_class=3)


def test_a_reference_of_one_class_or_sample_is_for_the_metrics_to_refuse():
    assert len(open_reference((CORPUS[:1], None))) == 1
    alike = open_reference((CORPUS, ["a"] * len(CORPUS)))
    assert (alike.n_classes, alike.class_names) == (1, ("a",))
    with pytest.raises(DatasetError, match="at least two classes"):
        open_dataset((CORPUS, ["a"] * len(CORPUS)))


def test_the_fingerprint_of_a_reference_without_labels():
    corpus = open_reference((CORPUS, None))
    assert corpus.fingerprint == open_reference((list(CORPUS), None)).fingerprint
    assert pickle.loads(pickle.dumps(corpus)).fingerprint == corpus.fingerprint
    assert corpus.fingerprint != corpus.subset(np.arange(8)).fingerprint
    numbers = open_dataset((CORPUS, np.arange(9.0)), task="regression")
    assert corpus.fingerprint != numbers.fingerprint


def test_unreadable_images_of_a_reference_without_labels(tmp_path):
    write_tree(tmp_path / "files")
    (tmp_path / "files" / "bee" / "1.png").write_bytes(b"no image")
    rows = [f"files/{name}/{i}.png" for name in CLASSES for i in range(4)]
    corpus = open_reference(write_csv(tmp_path / "a.csv", "path", *rows))
    kept = corpus.without_unreadable()
    assert (len(kept), kept.labels, len(kept.skipped)) == (11, None, 1)


def test_a_reference_with_labels_keeps_them_and_takes_the_columns_that_it_has(tmp_path):
    rows = ["a,x,1", "b,x,1", "c,y,2", "d,y,2"]
    path = write_csv(tmp_path / "a.csv", "body,kind,label", *rows)
    named = open_reference(path, label_column="kind", input_column="body")
    assert (named.class_names, list(named)) == (("x", "y"), list("abcd"))
    found = open_reference(path, label_column="absent", input_column="body")
    assert (found.task, found.class_names) == ("classification", ("1", "2"))
    assert found.require_labels()[1] is found.labels
    digits = open_reference("sklearn/digits", label_column="kind")
    assert digits.n_classes == 10


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (LABELS, "26b2e65b1ff74a2bb979209b27f01b58"),
        (np.linspace(0.5, 1.5, 12), "261b13bf39d9619240f87b14e1686f7b"),
        (NAMES, "7bab09070bae9d159a6ff35d9a87a159"),
    ],
)
def test_fingerprints_that_stored_features_are_found_by_stay(labels, expected):
    pixels = np.arange(12 * 6, dtype=np.uint8).reshape(12, 2, 3)
    assert open_dataset((pixels, labels)).fingerprint == expected


# --- photographs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """24 cuttings of scikit-learn's two photographs, one photograph after the other."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    cuttings = []
    for photograph in load_sample_images().images:
        for _ in range(12):
            top, left = rng.integers(0, 350), rng.integers(0, 550)
            height, width = rng.integers(40, 77, 2)
            cuttings.append(photograph[top : top + height, left : left + width])
    return cuttings


def test_folder_of_photographs_decodes_as_torchvision_does(photographs, tmp_path):
    folder = pytest.importorskip("torchvision.datasets", reason="compares with torchvision")
    for i, pixels in enumerate(photographs):
        file = tmp_path / ("china", "flower")[i // 12] / f"{i:02}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).convert("L" if i % 5 == 4 else "RGB").save(file)
    theirs = folder.ImageFolder(tmp_path)
    ours = open_dataset(tmp_path)
    assert (len(ours), ours.class_names, ours.split) == (24, ("china", "flower"), "all")
    assert ours.labels.tolist() == theirs.targets
    for mine, (other, _) in zip(ours, theirs, strict=True):
        assert mine.tobytes() == other.tobytes()
    assert ours.fingerprint == open_dataset(tmp_path).fingerprint


def test_archive_of_photographs_of_many_sizes(photographs, tmp_path):
    parts = {}
    for part, rows in {"train": range(0, 24, 2), "test": range(1, 24, 2)}.items():
        files = []
        for i in rows:
            Image.fromarray(photographs[i]).save(tmp_path / "one.jpg")
            files.append(np.fromfile(tmp_path / "one.jpg", dtype=np.uint8))
        parts[f"{part}_jpeg"] = np.concatenate(files)
        parts[f"{part}_offsets"] = np.cumsum([0, *map(len, files)])
        parts[f"{part}_labels"] = np.array(rows) // 12
    np.savez(tmp_path / "a.npz", class_names=np.array(["china", "flower"]), **parts)
    data = open_dataset(tmp_path / "a.npz", split="test", max_samples=8)
    assert (len(data), data.class_names) == (8, ("china", "flower"))
    whole = open_dataset(tmp_path / "a.npz", split="test")
    assert [image.size for image in whole] == [photographs[i].shape[1::-1] for i in range(1, 24, 2)]
    assert whole.labels.tolist() == [0] * 6 + [1] * 6


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, json, transferscope.datasets; heavy = 'torch datasets PIL pandas pyarrow'; "
        "print(json.dumps([name for name in heavy.split() if name in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []
