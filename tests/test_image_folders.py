"""Image folders: what is a split, what is a class, what is read and what is said to be left out."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from transferscope.datasets import open_dataset
from transferscope.errors import DatasetError

Image = pytest.importorskip("PIL.Image", reason="images need the extra [vision]")

RNG = np.random.default_rng(15)


def write(path, size=(4, 4)):
    """An image of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG" if path.suffix == ".jfif" else None)
    return path


def fill(folder, classes=("cat", "dog"), count=3):
    for name in classes:
        for number in range(count):
            write(folder / name / f"{number}.png")
    return folder


def tree(folder, **parts):
    """A folder with a number of images per class in each of its parts."""
    for name, count in parts.items():
        fill(folder / name.replace("__", "/"), count=count)
    return folder


def read(folder, **options):
    """Class and path of each sample, as the data set has them."""
    data = open_dataset(folder, **options)
    paths = [data._samples.where(int(index)) for index in data._indices]
    return [(data.class_names[label], path) for label, path in zip(data.labels, paths, strict=True)]


def literally(folder, classes=None):
    """The same, as a reader of ten lines has them."""
    found = []
    for name in sorted(classes or next(os.walk(folder))[1]):
        for place, folders, files in os.walk(folder / name):
            folders.sort()
            found += [(name, str(Path(place, file))) for file in sorted(files)]
    return found


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("Training", "Testing"),
        ("training", "validation"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("cars_train", "cars_test"),
        ("train2017", "val2017"),
        ("TrainSet", "DevSet"),
        ("training_set/training_set", "test_set/test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
    ],
)
def test_splits_by_any_of_their_names(tmp_path, train, test):
    tree(tmp_path, **{train.replace("/", "__"): 3, test.replace("/", "__"): 2})
    name, other = train.split("/")[0], test.split("/")[0]
    data = open_dataset(tmp_path)
    assert (data.split, len(data), data.class_names) == (name, 6, ("cat", "dog"))
    assert data.notes[0] == f"split {name} was read, the others were not ({other})"
    assert read(tmp_path) == literally(tmp_path / train)
    meaning = "test" if "est" in test else "validation"
    for asked in (meaning, meaning.upper(), f"{meaning}_set", other):
        assert read(tmp_path, split=asked) == literally(tmp_path / test)
        assert not any("was read" in note for note in open_dataset(tmp_path, split=asked).notes)


def test_three_splits_and_what_lies_beside_them(tmp_path):
    tree(tmp_path, Training=4, Validation=2, Testing=3)
    write(tmp_path / "unlabelled" / "0.png")
    (tmp_path / "docs").mkdir()
    data = open_dataset(tmp_path)
    assert data.notes == (
        "split Training was read, the others were not (Testing, Validation, unlabelled)",
    )
    assert len(open_dataset(tmp_path, split="val")) == 4
    with pytest.raises(DatasetError, match=r"'unlabelled' does not exist .* Testing, Training, V"):
        open_dataset(tmp_path, split="unlabelled")


def test_a_test_folder_without_classes_is_no_split(tmp_path):
    fill(tmp_path / "train")
    write(tmp_path / "test1" / "7.png")
    data = open_dataset(tmp_path)
    assert (data.split, len(data)) == ("train", 6)
    assert data.notes == ("split train was read, the others were not (test1)",)


@pytest.mark.parametrize(
    ("parts", "state"),
    [
        (["fold1", "fold2"], r"fold1, fold2 all hold folders called cat, dog"),
        (["amazon/images", "dslr/images"], r"amazon, dslr all hold folders called cat, dog"),
        (["train", "extra"], r"train may be a split, or a class like extra"),
        (["gallery", "query", "rest"], r"gallery, query, rest all hold folders called cat, dog"),
    ],
)
def test_what_may_be_splits_or_classes_is_asked_for(tmp_path, parts, state):
    tree(tmp_path, **{part.replace("/", "__"): count for count, part in enumerate(parts, 2)})
    with pytest.raises(DatasetError, match=rf"{state}.*split=.*split=\"all\""):
        open_dataset(tmp_path)
    first = parts[0].split("/")[0]
    assert read(tmp_path, split=first) == literally(tmp_path / parts[0])
    assert read(tmp_path, split="all") == literally(tmp_path)
    with pytest.raises(DatasetError, match="'other' does not exist in"):
        open_dataset(tmp_path, split="other")


def test_one_of_the_parts_may_lack_a_class(tmp_path):
    fill(tmp_path / "fold1", ("ant", "bee", "cat"))
    fill(tmp_path / "fold2", ("ant", "cat"))
    with pytest.raises(DatasetError, match="all hold folders called ant, cat, and may be"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("inner", [["x", "y"], ["images", "images"]])
def test_folders_within_classes_are_no_splits(tmp_path, inner):
    for name, below in zip(("cat", "dog"), inner, strict=True):
        write(tmp_path / name / "0.png")
        write(tmp_path / name / below / "1.png")
    assert read(tmp_path) == literally(tmp_path)
    assert open_dataset(tmp_path).notes == ()


def test_splits_by_several_names_at_once_must_be_chosen_from(tmp_path):
    tree(tmp_path, train_a=2, train_b=2, test=2)
    with pytest.raises(
        DatasetError, match=r"test may be a split, or a class like train_a, train_b"
    ):
        open_dataset(tmp_path)
    tree(tmp_path / "two", train_1=2, train_2=3)
    with pytest.raises(DatasetError, match="train_1, train_2 may all be train"):
        open_dataset(tmp_path / "two")
    assert len(open_dataset(tmp_path / "two", split="train_2")) == 6


def test_a_folder_that_an_archive_was_unpacked_to_is_gone_into(tmp_path):
    fill(tmp_path / "download" / "flowers")
    data = open_dataset(tmp_path)
    assert (len(data), data.name) == (6, tmp_path.name)
    assert data.notes == (f"classes are the folders in {Path('download', 'flowers')}",)


# --- what is read --------------------------------------------------------------------------------


def test_endings_that_pillow_reads(tmp_path):
    names = [
        "0.jfif",
        "1.gif",
        "2.JPE",
        "3.Png",
        "4.apng",
        "5.dib",
        "6.tga",
        "7.pbm",
        "8.pnm",
        "9.jp2",
        "10.webp",
    ]
    for name in names:
        write(tmp_path / "a" / name)
    fill(tmp_path, ("b",))
    data = open_dataset(tmp_path)
    assert (len(data), data.notes) == (14, ())
    assert len([data[row] for row in range(14)]) == 14


def test_other_files_are_counted_and_said(tmp_path):
    fill(tmp_path)
    for name in ("cat/0.txt", "cat/deep/1.TXT", "dog/a.heic", "dog/README", "list.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    for hidden in ("cat/.0.png", ".git/0.png", "cat/.thumbs/0.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_text("hidden")
    write(tmp_path / "loose.png")
    data = open_dataset(tmp_path)
    assert len(data) == 6
    assert data.notes == (
        "images beside the folders of classes, not read: 1 (loose.png)",
        "files that do not end like images, not read: 5 (2 .txt, 1 .csv, 1 .heic, 1 without)",
    )


def test_classes_without_images_are_left_out_with_a_note(tmp_path):
    fill(tmp_path, ("ant", "cat", "dog"))
    (tmp_path / "bee").mkdir()
    (tmp_path / "eel").mkdir()
    (tmp_path / "eel" / "0.heic").write_text("")
    data = open_dataset(tmp_path)
    assert data.class_names == ("ant", "cat", "dog")
    assert np.bincount(data.labels).tolist() == [3, 3, 3]
    assert data.notes[1] == "classes without samples, left out: 2 (bee, eel)"


def test_links_to_folders_around_them_or_beside_them_do_not_count_twice(tmp_path):
    folder = fill(tmp_path / "data", ("cat", "dog"))
    (folder / "cat" / "itself").symlink_to(folder / "cat")
    (folder / "cat" / "up").symlink_to(folder)
    (folder / "cat" / "out").symlink_to(tmp_path)
    (folder / "ant").symlink_to(folder / "dog")  # before its target
    (folder / "cat" / "other").symlink_to(folder / "dog")
    (folder / "cat" / "nowhere").symlink_to("nowhere")
    fill(tmp_path / "other data")
    data = open_dataset(folder)
    assert data.class_names == ("cat", "dog")
    assert read(folder) == literally(folder, ["cat", "dog"])[:3] + literally(folder, ["dog"])
    assert "links to folders that count elsewhere, not followed: 5 (ant" in " ".join(data.notes)


def test_folders_of_links_do_not_multiply(tmp_path):
    fill(tmp_path / "data")
    outside = tmp_path / "outside"
    for number in range(8):
        write(outside / str(number) / "x.png")
    for one in range(8):
        for other in range(8):
            (outside / str(one) / f"to{other}").symlink_to(outside / str(other))
    (tmp_path / "data" / "cat" / "more").symlink_to(outside)
    assert len(open_dataset(tmp_path / "data")) == 14


def test_links_to_outside_are_followed_in_the_order_of_their_names(tmp_path):
    fill(tmp_path / "elsewhere", ("x",))
    folder = fill(tmp_path / "data")
    (folder / "bee").symlink_to(tmp_path / "elsewhere" / "x")
    fill(tmp_path / "more", ("y",))
    (folder / "cat" / "01").symlink_to(tmp_path / "more" / "y")
    write(folder / "cat" / "02" / "0.png")
    found = read(folder)
    assert [name for name, _ in found] == ["bee"] * 3 + ["cat"] * 7 + ["dog"] * 3
    expected = ["bee/0.png", "bee/1.png", "bee/2.png", "cat/0.png", "cat/1.png", "cat/2.png"]
    expected += ["cat/01/0.png", "cat/01/1.png", "cat/01/2.png", "cat/02/0.png"]
    assert [os.path.relpath(path, folder) for _, path in found[:10]] == expected
    assert open_dataset(folder).notes == ()


def test_pipes_and_sockets_are_counted_and_never_opened(tmp_path, monkeypatch):
    fill(tmp_path)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    os.mkfifo(tmp_path / "dog" / "pipe")
    (tmp_path / "dog" / "null.png").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path / "dog")  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
    data = open_dataset(tmp_path)
    assert len(data) == 6
    (note,) = data.notes
    assert note.startswith("entries that are no files, not read: 4 (")
    assert data.fingerprint


def test_a_pipe_in_place_of_a_data_set(tmp_path):
    for name in ("a.csv", "a.npz", "a.json", "a.parquet"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DatasetError, match=f"{name} is neither"):
            open_dataset(tmp_path / name)


def test_a_link_to_nowhere_is_an_unreadable_image(tmp_path):
    fill(tmp_path)
    for name, target in (("gone.png", "nowhere.png"), ("round.png", "round.png")):
        (tmp_path / "cat" / name).symlink_to(target)
    data = open_dataset(tmp_path)
    assert len(data) == 8
    with pytest.raises(DatasetError, match=r"gone\.png is not readable"):
        data[3]
    skipping = open_dataset(tmp_path, skip_unreadable=True)
    assert [Path(path).name for path in skipping.skipped] == ["gone.png", "round.png"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    fill(tmp_path)
    plain = os.scandir

    def scandir(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DatasetError, match=r"dog cannot be listed \(Permission denied\)"):
        open_dataset(tmp_path)


# --- against a literal reader --------------------------------------------------------------------

CLASSES = ("cat", "Dog", "x 1", "é", "10", "9", "train station", "tests")
PARTS = ("train", "Training", "val", "test", "Testing", "fold1", "cat")


def test_generated_folders_are_read_as_they_are_or_refused(tmp_path):
    refused = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        folder = tmp_path / str(seed)
        classes = [str(name) for name in rng.choice(CLASSES, rng.integers(2, 5), replace=False)]
        parts = [str(name) for name in rng.choice(PARTS, rng.integers(2, 4), replace=False)]
        parts = parts if rng.random() < 0.6 else []
        for part in parts or [""]:
            for name in classes:
                for number in range(rng.integers(0 if rng.random() < 0.1 else 2, 5)):
                    below = ("", "in", "in/er")[rng.integers(3)]
                    ending = ("png", "PNG", "bmp", "jfif")[rng.integers(4)]
                    write(folder / part / name / below / f"{rng.integers(99)}_{number}.{ending}")
        options = {"split": parts[0]} if parts and rng.random() < 0.5 else {}
        try:
            found, split = read(folder, **options), open_dataset(folder, **options).split
        except DatasetError as error:
            refused.append(f"{parts} {classes}: {error}")
            continue
        assert split in parts if parts else split == "all", f"{parts} were taken for classes"
        assert split == options.get("split", split)
        assert found == literally(folder / split if parts else folder)
    assert len(refused) <= 12, refused
