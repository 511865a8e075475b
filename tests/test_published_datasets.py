"""Published data sets in the files of their authors, told by name and by path."""

from __future__ import annotations

import bz2
import gzip
import json
import pickle
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from transferscope.datasets import open_dataset
from transferscope.errors import DatasetError, MissingExtraError, TransferscopeError

Image = pytest.importorskip("PIL.Image", reason="images need the extra [vision]")

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def text_2(value: str | bytes) -> bytes:
    """A text as Python 2 pickles it."""
    raw = value.encode() if isinstance(value, str) else value
    return b"T" + struct.pack("<i", len(raw)) + raw


def array_2(array: np.ndarray) -> bytes:
    """An array as NumPy of Python 2 pickles it, as in the archives of CIFAR."""
    shape = b"".join(b"J" + struct.pack("<i", n) for n in array.shape)
    return b"".join(
        [
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t",
            *(text_2("b"), b"tR(K\x01(", shape, b"tcnumpy\ndtype\n("),
            *(text_2(array.dtype.str[1:]), b"K\x00K\x01tR(K\x03", text_2("|"), b"NNN"),
            *(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbI00\n", text_2(array.tobytes()), b"tb"),
        ]
    )


def pickle_2(content: object) -> bytes:
    def write(value: object) -> bytes:
        if isinstance(value, dict):
            cells = b"".join(text_2(k) + write(v) for k, v in value.items())
            return b"(d" if not cells else b"}(" + cells + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(write, value)) + b"e"
        if isinstance(value, np.ndarray):
            return array_2(value)
        return text_2(value) if isinstance(value, str) else b"J" + struct.pack("<i", value)

    return b"\x80\x02" + write(content) + b"."


def images_in(folder: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * i % 256, 0, 0)).save(path)


def write_all(root: Path, files: dict[str, bytes | str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        (root / name).write_bytes(raw)


GREY = RNG.integers(0, 256, (6, 28, 28), dtype=np.uint8)
TWICE = np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)


def mnist_like(folder: str):
    def make(root: Path) -> None:
        for part, shift in (("train", 0), ("t10k", 1)):
            labels = (TWICE + shift).astype(np.uint8)
            write_all(
                root / folder / "raw",
                {
                    f"{part}-images-idx3-ubyte": idx(GREY + np.uint8(shift)),
                    f"{part}-labels-idx1-ubyte": idx(labels),
                },
            )

    return make


def emnist(root: Path) -> None:
    for part in ("train", "test"):
        stem = f"EMNIST/raw/emnist-letters-{part}"
        write_all(
            root,
            {
                f"{stem}-images-idx3-ubyte": idx(GREY),
                f"{stem}-labels-idx1-ubyte": idx(TWICE + np.uint8(1)),
            },
        )


CIFAR = RNG.integers(0, 256, (6, 3072), dtype=np.uint8)


def cifar10(root: Path) -> None:
    batch = {"batch_label": "x", "labels": TWICE.tolist(), "data": CIFAR, "filenames": ["a"] * 6}
    names = [f"data_batch_{i}" for i in range(1, 6)]
    meta = {"label_names": ["airplane", "automobile", "bird"], "num_vis": 3072}
    write_all(
        root / "cifar-10-batches-py",
        {**dict.fromkeys([*names, "test_batch"], pickle_2(batch)), "batches.meta": pickle_2(meta)},
    )


def cifar100(root: Path) -> None:
    batch = {"fine_labels": TWICE.tolist(), "coarse_labels": [0] * 6, "data": CIFAR}
    meta = {"fine_label_names": ["apple", "bear", "cup"], "coarse_label_names": ["x"]}
    write_all(
        root / "cifar-100-python",
        {"train": pickle_2(batch), "test": pickle_2(batch), "meta": pickle_2(meta)},
    )


def svhn(root: Path) -> None:
    pixels = CIFAR.reshape(6, 32, 32, 3).transpose(1, 2, 3, 0)
    labels = np.array([10, 1, 2, 10, 1, 2], dtype=np.uint8)[:, None]
    for part in ("train", "test"):
        savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": labels})


def usps(root: Path) -> None:
    rows = np.round(RNG.uniform(-1, 1, (6, 256)), 6)
    lines = [
        " ".join([str(label + 1), *(f"{i + 1}:{v:.6g}" for i, v in enumerate(row))])
        for label, row in zip(TWICE, rows, strict=True)
    ]
    packed = bz2.compress(("\n".join(lines) + "\n").encode())
    write_all(root, {"usps.bz2": packed, "usps.t.bz2": packed})


def dtd(root: Path) -> None:
    names = [f"{c}/{c}_{i}.jpg" for c in ("banded", "dotted", "woven") for i in range(2)]
    images_in(root / "dtd/dtd/images", names)
    lists = {f"dtd/dtd/labels/{part}1.txt": "\n".join(names) for part in ("train", "val", "test")}
    write_all(root, lists)


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    names = [f"{1000 + i}" for i in range(6)]
    images_in(data / "images", [f"{name}.jpg" for name in names])
    variants = ["707-320", "Boeing 737", "A/B 3"]
    text = "\n".join(f"{name} {variants[i % 3]}" for i, name in enumerate(names))
    parts = ("train", "val", "trainval", "test")
    write_all(data, {f"images_variant_{part}.txt": text for part in parts})
    write_all(data, {"variants.txt": "\n".join(variants) + "\n"})


def pets(root: Path) -> None:
    breeds = ["Abyssinian", "american_bulldog", "Bengal"]
    names = [f"{breed}_{i}" for i in (1, 2) for breed in breeds]
    images_in(root / "oxford-iiit-pet/images", [f"{name}.jpg" for name in names])
    text = "\n".join(f"{name} {i % 3 + 1} 1 1" for i, name in enumerate(names))
    folder = root / "oxford-iiit-pet/annotations"
    write_all(folder, {"trainval.txt": text, "test.txt": text})


def flowers(root: Path) -> None:
    folder = root / "flowers-102"
    images_in(folder / "jpg", [f"image_{i:05d}.jpg" for i in range(1, 19)])
    savemat(folder / "imagelabels.mat", {"labels": np.tile([1, 2, 3], 6)[None]})
    ids = np.arange(1, 19)[None]
    savemat(
        folder / "setid.mat", {"trnid": ids[:, :6], "valid": ids[:, 6:12], "tstid": ids[:, 12:]}
    )


def food(root: Path) -> None:
    folder = root / "food-101"
    meta = {name: [f"{name}/{i}" for i in range(2)] for name in ("apple_pie", "pho", "waffles")}
    images_in(folder / "images", [f"{one}.jpg" for its in meta.values() for one in its])
    write_all(folder, dict.fromkeys(("meta/train.json", "meta/test.json"), json.dumps(meta)))


def cars(root: Path) -> None:
    folder = root / "stanford_cars"
    names = [f"{i:05d}.jpg" for i in range(1, 7)]
    kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    rows = np.array([(1, int(c) + 1, n) for c, n in zip(TWICE, names, strict=True)], dtype=kind)
    (folder / "devkit").mkdir(parents=True)
    for part in ("train", "test"):
        images_in(folder / f"cars_{part}", names)
    savemat(folder / "devkit/cars_train_annos.mat", {"annotations": rows})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows})
    models = np.array(["AM General Hummer", "Acura RL", "Audi A5"], dtype=object)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": models})


def caltech101(root: Path) -> None:
    folder = root / "caltech101/101_ObjectCategories"
    names = ("BACKGROUND_Google", "Faces", "accordion", "airplanes")
    images_in(folder, [f"{name}/image_{i:04d}.jpg" for name in names for i in (1, 2)])


def sun(root: Path) -> None:
    names = ["a/abbey", "a/apartment_building/outdoor", "y/yard"]
    images_in(root / "SUN397", [f"{name}/sun_{i}.jpg" for name in names for i in "ab"])
    write_all(root / "SUN397", {"ClassName.txt": "".join(f"/{name}\n" for name in names)})


def imagenet(root: Path) -> None:
    parts = ("train", "val")
    names = ("n01440764", "n01443537")
    images_in(root, [f"{p}/{n}/{n}_{i}.JPEG" for p in parts for n in names for i in (0, 1)])


#: name -> writes the files, names of classes, parts, where they lie below the root
LAYOUTS = {
    "mnist": (mnist_like("MNIST"), "0,1,2", "train,test", "MNIST/raw"),
    "fashion_mnist": (
        *(mnist_like("FashionMNIST"), "T-shirt/top,Trouser,Pullover", "train,test"),
        "FashionMNIST",
    ),
    "kmnist": (mnist_like("KMNIST"), "o,ki,su", "train,test", "KMNIST/raw"),
    "emnist": (emnist, "a,b,c", "train,test", "EMNIST/raw"),
    "usps": (usps, "0,1,2", "train,test", "."),
    "cifar10": (cifar10, "airplane,automobile,bird", "train,test", "cifar-10-batches-py"),
    "cifar100": (cifar100, "apple,bear,cup", "train,test", "cifar-100-python"),
    "svhn": (svhn, "0,1,2", "train,test", "."),
    "dtd": (dtd, "banded,dotted,woven", "train,val,test", "dtd"),
    "fgvc_aircraft": (
        *(aircraft, "707-320,Boeing 737,A/B 3", "train,val,trainval,test"),
        "fgvc-aircraft-2013b",
    ),
    "oxford_iiit_pet": (
        *(pets, "Abyssinian,American Bulldog,Bengal", "trainval,test"),
        "oxford-iiit-pet",
    ),
    "flowers102": (flowers, "1,2,3", "train,val,test", "flowers-102"),
    "food101": (food, "apple_pie,pho,waffles", "train,test", "food-101"),
    "stanford_cars": (
        *(cars, "AM General Hummer,Acura RL,Audi A5", "train,test"),
        "stanford_cars",
    ),
    "caltech101": (caltech101, "Faces,accordion,airplanes", "all", "caltech101"),
    "sun397": (sun, "abbey,apartment_building/outdoor,yard", "all", "SUN397"),
    "imagenet": (imagenet, "n01440764,n01443537", "train,val", "."),
}


def spec(name: str, root: Path, more: str = "") -> str:
    subset = "&subset=letters" if name == "emnist" else ""
    return f"torchvision/{name}?root={root}{subset}{more}"


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read_by_name_and_by_path(tmp_path, name):
    make, classes, parts, place = LAYOUTS[name]
    make(tmp_path)
    for part in parts.split(","):
        dataset = open_dataset(spec(name, tmp_path), split=part)
        assert dataset.modality == "image"
        assert dataset.split == part
        n_classes = dataset.n_classes
        if "mnist" not in name or name == "emnist" or part == "train":
            assert ",".join(dataset.class_names) == classes
        each = 10 if name == "cifar10" and part == "train" else 2
        assert np.bincount(dataset.labels).tolist() == [each] * n_classes
        assert dataset[len(dataset) - 1].mode == "RGB"
        again = open_dataset(tmp_path / place, split=part)
        assert again.fingerprint == dataset.fingerprint
        if part != "all":
            named = open_dataset(spec(name, tmp_path, f"&split={part}"))
            assert named.fingerprint == dataset.fingerprint
    for absent in ("nothing", "train" if parts == "all" else "all"):
        with pytest.raises(DatasetError, match="split"):
            open_dataset(spec(name, tmp_path), split=absent)


@pytest.mark.needs("torchvision")
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "imagenet"])
def test_torchvision_reads_the_same(tmp_path, monkeypatch, name):
    from torchvision import datasets as library

    from transferscope.datasets._published import _PUBLISHED

    make, _, parts, _ = LAYOUTS[name]
    make(tmp_path)
    for module in (library.cifar, library.svhn, library.flowers102, library.mnist):
        # its sums are those of the whole files
        monkeypatch.setattr(module, "check_integrity", lambda path, *_: Path(path).exists())
    monkeypatch.setattr(library.Caltech101, "_check_integrity", lambda _: True)
    kind = getattr(library, _PUBLISHED[name].kind)
    for part in parts.split(","):
        if part == "all":
            theirs = kind(str(tmp_path))
        elif name == "emnist":
            theirs = kind(str(tmp_path), split="letters", train=part == "train")
        elif name in ("mnist", "fashion_mnist", "kmnist", "usps", "cifar10", "cifar100"):
            theirs = kind(str(tmp_path), train=part == "train")
        else:
            theirs = kind(str(tmp_path), split=part)
        ours = open_dataset(spec(name, tmp_path), split=part)
        pairs = [theirs[i] for i in range(len(theirs))]
        # their order is that of the disk
        order = np.argsort([label for _, label in pairs], kind="stable")
        own = np.argsort(ours.labels, kind="stable")
        known = np.unique([label for _, label in pairs])
        for i, j in zip(order, own, strict=True):
            image, label = pairs[i]
            assert np.searchsorted(known, label) == ours.labels[j]
            pixels = np.asarray(image.convert("RGB")).astype(int)
            if name == "emnist":
                pixels = pixels.transpose(1, 0, 2)
            if name in ("sun397", "caltech101"):
                continue
            # they cut the shares of USPS down to whole numbers, which we round
            assert np.abs(pixels - np.asarray(ours[int(j)])).max() <= (name == "usps")


def test_pixels_and_labels_are_those_in_the_files(tmp_path):
    mnist_like("MNIST")(tmp_path)
    emnist(tmp_path)
    cifar10(tmp_path)
    found = open_dataset(tmp_path / "MNIST/raw/t10k-images-idx3-ubyte")
    assert (found.name, found.split) == ("MNIST", "test")
    assert np.array_equal(np.asarray(found[2])[..., 0], GREY[2] + np.uint8(1))
    assert found.labels.tolist() == TWICE.tolist()
    assert found.class_names == ("1", "2", "3")
    letters = open_dataset(tmp_path / "EMNIST/raw/emnist-letters-train-labels-idx1-ubyte")
    assert np.array_equal(np.asarray(letters[1])[..., 0], GREY[1].T)
    assert any("upright" in note for note in letters.notes)
    cifar = open_dataset(f"torchvision/CIFAR10?root={tmp_path}")
    assert len(cifar) == 30
    assert np.array_equal(np.asarray(cifar[7]), CIFAR[1].reshape(3, 32, 32).transpose(1, 2, 0))
    assert any("split train was read" in note for note in cifar.notes)


def test_archives_and_packed_files_are_read_as_they_are(tmp_path):
    cifar100(tmp_path)
    unpacked = open_dataset(tmp_path / "cifar-100-python", split="test")
    archive = tmp_path / "packed" / "cifar-100-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "cifar-100-python", "cifar-100-python")
    for source in (archive, f"torchvision/cifar100?root={archive.parent}"):
        assert open_dataset(source, split="test").fingerprint == unpacked.fingerprint
    for name, content in (("images-idx3", idx(GREY)), ("labels-idx1", idx(TWICE))):
        write_all(tmp_path, {f"train-{name}-ubyte.gz": gzip.compress(content)})
    found = open_dataset(tmp_path / "train-images-idx3-ubyte.gz")
    assert np.array_equal(np.asarray(found[3])[..., 0], GREY[3])
    enlarged = [[GREY[:, None] / 255, TWICE.astype(np.int32)] for _ in range(2)]
    packed = gzip.compress(pickle_2(enlarged))
    write_all(tmp_path, {"usps_28x28.pkl": packed})
    digits = open_dataset(tmp_path / "usps_28x28.pkl", split="test")
    assert np.array_equal(np.asarray(digits[5])[..., 0], GREY[5])


def test_classes_that_are_missing_from_a_part_keep_their_names(tmp_path):
    pets(tmp_path)
    path = tmp_path / "oxford-iiit-pet/annotations/test.txt"
    lines = [line for line in path.read_text().splitlines() if "bulldog" not in line]
    path.write_text("\n".join(lines))
    found = open_dataset(spec("oxford_iiit_pet", tmp_path), split="test")
    assert found.class_names == ("Abyssinian", "Bengal")


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def damage(root: Path) -> dict[str, tuple[str, str]]:
    """Of each kind of damage: what to open, and what the message says."""
    mnist_like("MNIST")(root)
    cifar10(root)
    svhn(root)
    aircraft(root)
    raw, cut = root / "MNIST/raw/train-images-idx3-ubyte", root / "cut"
    write_all(
        cut,
        {
            "train-images-idx3-ubyte": raw.read_bytes()[:-1],
            "train-labels-idx1-ubyte": idx(TWICE),
        },
    )
    write_all(root / "alone", {"train-images-idx3-ubyte": raw.read_bytes()})
    write_all(
        root / "high",
        {
            "train-images-idx3-ubyte": raw.read_bytes(),
            "train-labels-idx1-ubyte": idx(TWICE + np.uint8(9)),
        },
    )
    (root / "cifar-10-batches-py/data_batch_3").write_bytes(pickle.dumps(Evil()))
    (root / "train_32x32.mat").write_bytes(b"MATLAB 5.0" + bytes(200))
    path = root / "fgvc-aircraft-2013b/data/images_variant_train.txt"
    path.write_text("1000 Concorde\n1001 Concorde\n")
    write_all(root, {"usps_28x28.pkl": gzip.compress(pickle.dumps(Evil()))})
    return {
        "cut": (str(cut), "IDX"),
        "alone": (str(root / "alone/train-images-idx3-ubyte"), "beside"),
        "labels": (str(root / "high"), "from 0 to 9"),
        "pickle": (f"torchvision/cifar10?root={root}", "cannot be read"),
        "gadget": (str(root / "usps_28x28.pkl"), "cannot be read"),
        "mat": (f"torchvision/svhn?root={root}", "MATLAB"),
        "class": (f"torchvision/fgvc_aircraft?root={root}&split=train", "not listed: Concorde"),
        "absent": (f"torchvision/food101?root={root}", "download=1"),
        "unfetchable": (f"torchvision/stanford_cars?root={root}&download=1", "cannot be down"),
        "root": ("torchvision/mnist", "root=DIR"),
        "name": (f"torchvision/mnista?root={root}", "unknown; there are mnist"),
        "option": (f"torchvision/mnist?root={root}&part=1", "each once"),
        "imagenet": (f"torchvision/imagenet?root={root}&download=1", "cannot be downloaded"),
    }


DAMAGE = (
    *("cut", "alone", "labels", "pickle", "gadget", "mat", "class", "absent", "unfetchable"),
    *("root", "name", "option", "imagenet"),
)


def test_every_damage_is_tried(tmp_path):
    assert set(damage(tmp_path)) == set(DAMAGE)


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_and_nothing_is_executed(tmp_path, capsys, what):
    source, message = damage(tmp_path)[what]
    with pytest.raises(TransferscopeError, match=message):
        open_dataset(source)
    assert capsys.readouterr().out == ""


def test_two_splits_or_two_data_sets_are_refused(tmp_path):
    mnist_like("MNIST")(tmp_path)
    with pytest.raises(DatasetError, match="names the split test"):
        open_dataset(f"torchvision/mnist?root={tmp_path}&split=test", split="train")
    emnist(tmp_path)
    with pytest.raises(DatasetError, match="subset=None"):
        open_dataset(f"torchvision/emnist?root={tmp_path}")
    svhn(tmp_path)
    usps(tmp_path)
    with pytest.raises(DatasetError, match="several data sets: usps, svhn"):
        open_dataset(tmp_path)


def test_torchvision_is_asked_only_for_what_is_not_there(tmp_path, monkeypatch):
    asked = []

    class Library:
        @staticmethod
        def MNIST(root, *, download):  # noqa: N802
            asked.append((root, download))
            mnist_like("MNIST")(Path(root))

        @staticmethod
        def DTD(*_, **__):  # noqa: N802
            raise OSError("no network")

    found = {"torchvision.datasets": Library}
    monkeypatch.setattr(
        "transferscope.datasets._published.require", lambda module, **_: found[module]
    )
    for _ in range(2):
        dataset = open_dataset(f"torchvision/mnist?root={tmp_path}&download=1")
    assert len(dataset) == 6
    assert asked == [(str(tmp_path), True)]
    with pytest.raises(DatasetError, match=r"could not be downloaded to .*no network"):
        open_dataset(f"torchvision/dtd?root={tmp_path}&download=1")


def test_without_torchvision_download_says_so(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(MissingExtraError, match="download torchvision/mnist"):
        open_dataset(f"torchvision/mnist?root={tmp_path}&download=1")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("imagelabels.mat", {"labels": np.tile([0, 1, 2], 6)[None]}, "from -1 to 1"),
        (
            "setid.mat",
            dict.fromkeys(("trnid", "valid", "tstid"), np.arange(6)[None]),
            r"numbered from 1; setid\.mat names 0",
        ),
    ],
)
def test_flowers_that_are_numbered_from_nought_are_refused(file, content, message, tmp_path):
    """Counted from the end they would be images and classes, and wrong ones."""
    flowers(tmp_path)
    savemat(tmp_path / "flowers-102" / file, content)
    with pytest.raises(DatasetError, match=message):
        open_dataset(f"torchvision/flowers102?root={tmp_path}", split="train")


#: name -> where the archives lie, and each with what it holds
ARCHIVES = {
    "dtd": ("dtd", {"dtd-r1.0.1.tar.gz": "dtd"}),
    "fgvc_aircraft": (".", {"fgvc-aircraft-2013b.tar.gz": "fgvc-aircraft-2013b"}),
    "oxford_iiit_pet": (
        "oxford-iiit-pet",
        {"images.tar.gz": "images", "annotations.tar.gz": "annotations"},
    ),
    "flowers102": ("flowers-102", {"102flowers.tgz": "jpg"}),
    "food101": (".", {"food-101.tar.gz": "food-101"}),
    "stanford_cars": (
        "stanford_cars",
        {
            "cars_train.tgz": "cars_train",
            "cars_test.tgz": "cars_test",
            "car_devkit.tgz": "devkit",
        },
    ),
    "caltech101": ("caltech101", {"101_ObjectCategories.tar.gz": "101_ObjectCategories"}),
    "sun397": (".", {"SUN397.tar.gz": "SUN397"}),
}


def pack(folder: Path, archives: dict[str, str]) -> None:
    for archive, held in archives.items():
        with tarfile.open(folder / archive, "w:gz") as file:
            file.add(folder / held, held)
        shutil.rmtree(folder / held)


def advised(source: object, **options: str) -> tuple[list[list[str]], str]:
    """The commands that an error says to run, and what it then says to open."""
    with pytest.raises(DatasetError, match="must be unpacked") as caught:
        open_dataset(source, **options)
    found = re.search(r"Run `(.+)`, and open (?:(torchvision/.+)\.$|the folder)", str(caught.value))
    assert found is not None, caught.value
    return [shlex.split(one) for one in found[1].split(" && ")], found[2]


def run(commands: list[list[str]]) -> None:
    for command in commands:
        program = sys.executable if command[0] == "python" else command[0]
        subprocess.run([program, *command[1:]], check=True)


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_are_unpacked_by_the_command_that_the_error_names(tmp_path, name):
    root = tmp_path / "my data"
    root.mkdir()
    make, _, parts, _ = LAYOUTS[name]
    make(root)
    part = parts.split(",")[0]
    whole = open_dataset(spec(name, root), split=part)
    place, archives = ARCHIVES[name]
    folder = root / place
    pack(folder, archives)
    commands, then = advised(spec(name, root), split=part)
    assert advised(folder) == (commands, then)
    if name != "oxford_iiit_pet":
        assert advised(folder / next(iter(archives))) == (commands, then)
    assert {Path(command[2]).name for command in commands} == set(archives)
    run(commands)
    for source in (then, spec(name, root)):
        assert open_dataset(source, split=part).fingerprint == whole.fingerprint
    with pytest.raises(DatasetError, match=r"must be unpacked"):
        open_dataset(folder / next(iter(archives)))


def test_archives_in_a_zip_are_unpacked_too(tmp_path):
    emnist(tmp_path)
    caltech101(tmp_path)
    raw = tmp_path / "EMNIST/raw"
    with zipfile.ZipFile(raw / "gzip.zip", "w") as file:
        for path in sorted(raw.glob("emnist-*")):
            file.writestr(f"gzip/{path.name}.gz", gzip.compress(path.read_bytes()))
            path.unlink()
    letters, then = advised(spec("emnist", tmp_path))
    assert then == f"torchvision/emnist?root={raw}"
    run(letters)
    assert open_dataset(spec("emnist", tmp_path)).class_names == ("a", "b", "c")
    assert open_dataset(f"{then}&subset=letters").class_names == ("a", "b", "c")

    folder = tmp_path / "caltech101"
    pack(folder, {"101_ObjectCategories.tar.gz": "101_ObjectCategories"})
    inner = "caltech-101/101_ObjectCategories.tar.gz"
    with zipfile.ZipFile(folder / "caltech-101.zip", "w") as file:
        file.write(folder / "101_ObjectCategories.tar.gz", inner)
    (folder / "101_ObjectCategories.tar.gz").unlink()
    run(advised(spec("caltech101", tmp_path))[0])
    assert open_dataset(spec("caltech101", tmp_path)).n_classes == 3


def test_what_is_still_to_be_fetched_is_said(tmp_path):
    for name, lacking in (
        ("oxford_iiit_pet", "annotations.tar.gz"),
        ("flowers102", "imagelabels.mat and setid.mat"),
    ):
        root = tmp_path / name
        root.mkdir()
        archive = next(iter(ARCHIVES[name][1]))
        (root / archive).write_bytes(b"")
        with pytest.raises(DatasetError, match=f"{archive} as fetched. Fetch {lacking} as well"):
            open_dataset(f"torchvision/{name}?root={root}")


def test_imagenet_is_unpacked_by_torchvision(tmp_path):
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(b"")
    for source in (f"torchvision/imagenet?root={tmp_path}", tmp_path):
        (command,), _ = advised(source)
        assert command[2].endswith(f"ImageNet({str(tmp_path)!r}, 'val')")
        compile(command[2], "command", "exec")
        with pytest.raises(DatasetError, match=r"Fetch .*train.tar and ILSVRC2012_devkit"):
            open_dataset(source)
    imagenet(tmp_path)
    shutil.rmtree(tmp_path / "val")
    assert open_dataset(tmp_path, split="train").n_classes == 2


def test_other_archives_are_named_as_such(tmp_path):
    for name, content in (("photos", imagenet), ("texts", None)):
        folder = tmp_path / name
        folder.mkdir()
        if content:
            content(folder)
        else:
            (folder / "texts.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 2)
        for kind in ("gztar", "zip"):
            path = Path(shutil.make_archive(str(tmp_path / f"{name}-{kind}"), kind, folder))
            commands, _ = advised(path)
            run(commands)
            place = tmp_path / f"{name}-{kind}"
            assert len(open_dataset(place if content else place / "texts.csv")) == 4


def test_archives_beside_a_data_set_do_not_matter(tmp_path):
    """A folder of classes is read whatever else lies in it."""
    images_in(tmp_path, [f"{name}/{i}.jpg" for name in ("images", "others") for i in (0, 1)])
    for name in ("food-101.tar.gz", "images.tar.gz", "annotations.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    assert open_dataset(tmp_path).class_names == ("images", "others")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "images.tar.gz").write_bytes(b"")
    with pytest.raises(DatasetError, match="one sub-folder per class"):
        open_dataset(alone)
