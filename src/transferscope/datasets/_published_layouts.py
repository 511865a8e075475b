"""How published data sets of images lie on a disk: which files are which part, and their readers.

The forms are those in which their authors publish them and torchvision keeps them, but nothing here
needs torchvision. A function per form finds the parts in a folder; a part is read when it is asked
for.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import math
import re
import string
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from transferscope.datasets._files import naming, read_regular, read_text
from transferscope.datasets._samples import ImageFiles, Rows, Samples
from transferscope.errors import DatasetError, first_few
from transferscope.numerics.arrays import NumpyArray
from transferscope.storage.pickled_data import read_pickled


class Part(NamedTuple):
    """One part of a data set.

    Attributes
    ----------
    samples : Samples
    labels : sequence of int
        Ids into `class_names`.
    class_names : sequence of str
    notes : tuple of str
    """

    samples: Samples
    labels: Sequence[int] | NumpyArray
    class_names: Sequence[str]
    notes: tuple[str, ...] = ()


#: The parts that are there, by name; a call reads one.
Parts: TypeAlias = dict[str, Callable[[], Part]]

DIGITS = tuple(string.digits)
FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"),
    "Ankle boot",
)
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

# --- IDX, the form of MNIST and its kin

_IDX = re.compile(
    r"(?P<part>.+?)[-_.](?P<what>images|labels)[-_.]idx(?P<n>[13])-ubyte(?P<gz>\.gz)?"
)
_IDX_PARTS = {"train": "train", "t10k": "test", "test": "test"}
_EMNIST = re.compile(r"emnist-(?P<subset>\w+)-(?P<part>train|test)")
#: Letters whose capitals look the same are one class in these parts of EMNIST.
_MERGED = set(string.ascii_letters) - set("cijklmopsuvwxyz")
_EMNIST_CLASSES = {
    "byclass": sorted(string.digits + string.ascii_letters),
    "bymerge": sorted({*string.digits, *_MERGED}),
    "balanced": sorted({*string.digits, *_MERGED}),
    "letters": ["N/A", *string.ascii_lowercase],  # their labels begin at 1
    "digits": list(string.digits),
    "mnist": list(string.digits),
}
#: No file of these data sets is larger when it is unpacked; others may never end.
_LARGEST = 2**31


def idx_subsets(folder: Path, names: Sequence[str] | None = None) -> dict[str, Parts]:
    """Parts of what is in a folder in IDX, by the subset of EMNIST; ``""`` where it has none."""
    found: dict[str, Parts] = {}
    images = {m["part"]: path for path, m in _idx_files(folder) if m["what"] == "images"}
    labels = {m["part"]: path for path, m in _idx_files(folder) if m["what"] == "labels"}
    for stem in sorted(images.keys() & labels.keys()):
        emnist = _EMNIST.fullmatch(stem)
        subset, part = (emnist["subset"], emnist["part"]) if emnist else ("", stem)
        if emnist and subset not in _EMNIST_CLASSES:
            continue
        classes = _EMNIST_CLASSES[subset] if emnist else names or _names_by(folder)
        read = partial(_read_idx_part, images[stem], labels[stem], classes, upright=bool(emnist))
        found.setdefault(subset, {})[_IDX_PARTS.get(part, part)] = read
    return found


def idx_place(path: Path) -> tuple[str, str] | None:
    """Subset and part that a file in IDX belongs to by its name; None for other names."""
    match = _IDX.fullmatch(path.name)
    if match is None:
        return None
    emnist = _EMNIST.fullmatch(match["part"])
    subset, part = (emnist["subset"], emnist["part"]) if emnist else ("", match["part"])
    return subset, _IDX_PARTS.get(part, part)


def _idx_files(folder: Path) -> Iterable[tuple[Path, re.Match[str]]]:
    """Files with such names; one that is unpacked comes last, and counts."""
    try:
        paths = sorted(folder.iterdir(), key=lambda path: (path.suffix != ".gz", path.name))
    except OSError:  # who reads it as something else will say so
        return
    for path in paths:
        match = _IDX.fullmatch(path.name)
        if match is not None and path.is_file():
            yield path, match


def _names_by(folder: Path) -> Sequence[str]:
    """What classes are called by the names of the folders around; else digits."""
    around = " ".join(part.lower() for part in folder.resolve().parts[-2:])
    if "fashion" in around:
        return FASHION
    return KUZUSHIJI if "kmnist" in around or "kuzushiji" in around else DIGITS


def _read_idx_part(images: Path, labels: Path, names: Sequence[str], *, upright: bool) -> Part:
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or classes.ndim != 1:
        raise DatasetError(
            f"{images} must hold images and {labels} one label each; they have the shapes "
            f"{pixels.shape} and {classes.shape}. Fetch them again."
        )
    if not upright:
        return Part(Rows(pixels, str(images), "image"), _ids(classes, names, labels), names)
    note = "images of EMNIST lie on their side in the files, and were turned upright"
    rows = Rows(pixels.transpose(0, 2, 1), str(images), "image")
    return Part(rows, _ids(classes, names, labels), names, (note,))


def read_idx(path: Path) -> NumpyArray:
    """Read an array of bytes in IDX, perhaps packed by gzip.

    Raises
    ------
    DatasetError
        If it is anything else, or does not hold as many numbers as it says.
    """
    with naming(path, "an array of bytes in IDX"):
        raw = read_regular(path)
        if path.suffix == ".gz":
            raw = _unpacked(raw)
        shape = _idx_shape(raw)
        data = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape))
        if len(data) != math.prod(shape):
            raise ValueError(f"it says {shape}, which are not the {len(data)} bytes that follow")
        return data.reshape(shape)


def _unpacked(raw: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"unpacked it has more than {_LARGEST:,} bytes")
    return content


def _idx_shape(raw: bytes) -> tuple[int, ...]:
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or not 1 <= raw[3] <= 3:
        raise ValueError("it does not begin as such an array does")
    return tuple(np.frombuffer(raw, ">u4", count=raw[3], offset=4).tolist())


# --- CIFAR: pickles, loose or in their archive


def cifar10(place: Path) -> Parts:
    """Parts of CIFAR-10: five batches to train on."""
    return _cifar(place, [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", "")


def cifar100(place: Path) -> Parts:
    """Parts of CIFAR-100, with its 100 fine classes."""
    return _cifar(place, ["train"], "test", "meta", "fine_")


def _cifar(place: Path, train: list[str], test: str, meta: str, prefix: str) -> Parts:
    archive = place.is_file()
    parts = {"train": train, "test": [test]}
    return {
        part: partial(_read_cifar, place, files, meta, prefix)
        for part, files in parts.items()
        if archive or all((place / name).is_file() for name in (*files, meta))
    }


def _read_cifar(place: Path, files: list[str], meta: str, prefix: str) -> Part:
    with naming(place, "CIFAR as its authors publish it for Python"):
        content = _members(place, [*files, meta])
        names = [str(name) for name in content[meta][f"{prefix}label_names"]]
        pixels = np.concatenate([content[name]["data"] for name in files])
        labels = [label for name in files for label in content[name][f"{prefix}labels"]]
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        if images.dtype != np.uint8:
            raise TypeError(f"its pixels are {images.dtype}, not uint8")
        return Part(Rows(images, str(place), "image"), _ids(labels, names, place), names)


def _members(place: Path, names: list[str]) -> dict[str, Any]:
    """The pickles of these names, in a folder or in an archive."""
    if place.is_dir():
        return {
            name: read_pickled(read_regular(place / name), where=place / name) for name in names
        }
    found = {}
    with tarfile.open(place) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name not in names or not member.isfile() or member.size > _LARGEST:
                continue
            if file := archive.extractfile(member):
                found[name] = read_pickled(file.read(), where=f"{member.name} in {place}")
    missing = [name for name in names if name not in found]
    if missing:
        raise DatasetError(f"{place} must hold {first_few(missing)}. Fetch it again.")
    return found


# --- SVHN and USPS


def svhn(folder: Path) -> Parts:
    """Parts of SVHN, cropped digits."""
    return {
        part: partial(_read_svhn, folder / f"{part}_32x32.mat")
        for part in ("train", "test", "extra")
        if (folder / f"{part}_32x32.mat").is_file()
    }


def _read_svhn(path: Path) -> Part:
    with naming(path, "digits of SVHN, a file of MATLAB"):
        content = _read_mat(path)
        images = np.asarray(content["X"]).transpose(3, 0, 1, 2)
        labels = np.asarray(content["y"]).reshape(-1).astype(np.int64) % 10  # 10 stands for 0
        if images.dtype != np.uint8:
            raise TypeError(f"its pixels are {images.dtype}, not uint8")
        return Part(Rows(images, str(path), "image"), _ids(labels, DIGITS, path), DIGITS)


def usps(folder: Path) -> Parts:
    """Parts of USPS in the form of LIBSVM, of 16 x 16 pixels."""
    files = {"train": "usps.bz2", "test": "usps.t.bz2"}
    return {
        part: partial(_read_usps, folder / name)
        for part, name in files.items()
        if (folder / name).is_file()
    }


def _read_usps(path: Path) -> Part:
    with naming(path, "USPS in the form of LIBSVM"):
        unpacker = bz2.BZ2Decompressor()
        text = unpacker.decompress(read_regular(path), _LARGEST)
        if not unpacker.eof:
            raise ValueError("it is cut off, or larger than any such file")
        rows = [line.split() for line in text.decode().splitlines()]
        labels = [int(row[0]) - 1 for row in rows]
        values = np.zeros((len(rows), 256))
        for i, row in enumerate(rows):
            for cell in row[1:]:
                index, _, value = cell.partition(":")
                if not 1 <= int(index) <= 256:
                    raise ValueError(f"row {i + 1} has a pixel {index}; there are 1 to 256")
                values[i, int(index) - 1] = float(value)
        pixels = _bytes_of((values + 1) / 2).reshape(-1, 16, 16)
        return Part(Rows(pixels, str(path), "image"), _ids(labels, DIGITS, path), DIGITS)


def usps_28(path: Path) -> Parts:
    """Parts of ``usps_28x28.pkl``, USPS enlarged to 28 x 28 pixels, in research code."""
    return {part: partial(_read_usps_28, path, i) for i, part in enumerate(("train", "test"))}


def _read_usps_28(path: Path, which: int) -> Part:
    with naming(path, "USPS as a packed pickle, a list of images and labels for each part"):
        raw = _unpacked(read_regular(path))
        content: Any = read_pickled(raw, where=path)
        images, labels = content[which]
        pixels = _bytes_of(np.asarray(images, dtype=np.float64)).reshape(-1, 28, 28)
        classes = np.asarray(labels).reshape(-1).astype(np.int64)
        return Part(Rows(pixels, str(path), "image"), _ids(classes, DIGITS, path), DIGITS)


def _bytes_of(shares: NumpyArray) -> NumpyArray:
    """Pixels of 8 bits from shares of white."""
    if not (np.isfinite(shares).all() and shares.min() >= 0 and shares.max() <= 1):
        raise ValueError("its pixels are not between black and white")
    pixels: NumpyArray = np.rint(255 * shares).astype(np.uint8)
    return pixels


# --- folders of images with lists


def dtd(folder: Path) -> Parts:
    """Parts of the describable textures, first of its ten partitions."""
    lists = {part: folder / "labels" / f"{part}1.txt" for part in ("train", "val", "test")}
    return {part: partial(_read_dtd, folder, path) for part, path in _there(lists, folder).items()}


def _read_dtd(folder: Path, path: Path) -> Part:
    lines = _lines(path)
    return _of_files(path, [(folder / "images" / one, one.partition("/")[0]) for one in lines])


def aircraft(folder: Path) -> Parts:
    """Parts of FGVC-Aircraft, with its 100 variants."""
    names = ("train", "val", "trainval", "test")
    lists = {part: folder / f"images_variant_{part}.txt" for part in names}
    there = _there(lists, folder)
    return {part: partial(_read_aircraft, folder, path) for part, path in there.items()}


def _read_aircraft(folder: Path, path: Path) -> Part:
    pairs = [line.partition(" ")[::2] for line in _lines(path)]
    files = [(folder / "images" / f"{image}.jpg", variant) for image, variant in pairs]
    return _of_files(path, files, _lines(folder / "variants.txt"))


def pets(folder: Path) -> Parts:
    """Parts of the Oxford-IIIT pets, with its 37 breeds."""
    lists = {part: folder / "annotations" / f"{part}.txt" for part in ("trainval", "test")}
    there = _there(lists, folder)
    return {part: partial(_read_pets, folder, path) for part, path in there.items()}


def _read_pets(folder: Path, path: Path) -> Part:
    with naming(path, "lines of image, class, species and breed"):
        rows = [line.split()[:2] for line in _lines(path) if not line.startswith("#")]
        numbers = [int(number) - 1 for _, number in rows]
        breeds = {int(n) - 1: image.rpartition("_")[0] for image, n in rows}
        names = [
            breeds.get(i, f"class {i + 1}").replace("_", " ").title()
            for i in range(max(numbers, default=-1) + 1)
        ]
        images = ImageFiles([folder / "images" / f"{image}.jpg" for image, _ in rows])
        return Part(images, _ids(numbers, names, path), names)


def flowers(folder: Path) -> Parts:
    """Parts of Oxford's 102 flowers."""
    there = (folder / "jpg").is_dir() and all(
        (folder / name).is_file() for name in ("setid.mat", "imagelabels.mat")
    )
    keys = {"train": "trnid", "val": "valid", "test": "tstid"}
    return {part: partial(_read_flowers, folder, key) for part, key in keys.items() if there}


def _read_flowers(folder: Path, key: str) -> Part:
    with naming(folder, "the 102 flowers with imagelabels.mat and setid.mat"):
        ids = np.asarray(_read_mat(folder / "setid.mat")[key]).reshape(-1).tolist()
        labels = np.asarray(_read_mat(folder / "imagelabels.mat")["labels"]).reshape(-1)
        paths = [folder / "jpg" / f"image_{int(one):05d}.jpg" for one in ids]
        names = [str(number) for number in range(1, int(labels.max()) + 1)]
        if min(ids, default=1) < 1:
            raise ValueError(f"images are numbered from 1; setid.mat names {min(ids)}")
        # their authors number the classes and name none
        classes = [int(labels[int(one) - 1]) - 1 for one in ids]
        return Part(ImageFiles(paths), _ids(classes, names, folder), names)


def food(folder: Path) -> Parts:
    """Parts of Food-101."""
    lists = {part: folder / "meta" / f"{part}.json" for part in ("train", "test")}
    there = _there(lists, folder)
    return {part: partial(_read_food, folder, path) for part, path in there.items()}


def _read_food(folder: Path, path: Path) -> Part:
    with naming(path, "a dictionary of class to images"):
        content: Mapping[str, Sequence[str]] = json.loads(read_text(path))
        files = [
            (folder / "images" / f"{image}.jpg", name)
            for name, images in content.items()
            for image in images
        ]
    return _of_files(path, files)


def cars(folder: Path) -> Parts:
    """Parts of Stanford's cars; of the test part the labels are a file of its own."""
    lists = {
        "train": folder / "devkit" / "cars_train_annos.mat",
        "test": folder / "cars_test_annos_withlabels.mat",
    }
    return {
        part: partial(_read_cars, folder, path, folder / f"cars_{part}")
        for part, path in lists.items()
        if path.is_file() and (folder / f"cars_{part}").is_dir()
    }


def _read_cars(folder: Path, path: Path, images: Path) -> Part:
    with naming(path, "annotations of Stanford's cars, a file of MATLAB"):
        known = _read_mat(folder / "devkit" / "cars_meta.mat")["class_names"]
        names = [str(name) for name in np.atleast_1d(known)]
        rows = np.atleast_1d(_read_mat(path)["annotations"])
        labels = [int(row["class"]) - 1 for row in rows]
        files = ImageFiles([images / str(row["fname"]) for row in rows])
        return Part(files, _ids(labels, names, path), names)


def sun(folder: Path) -> Parts:
    """SUN397 as a whole; it has no parts."""
    path = folder / "ClassName.txt"
    return {"all": partial(_read_sun, folder, path)} if path.is_file() else {}


def _read_sun(folder: Path, path: Path) -> Part:
    places = [line.strip("/") for line in _lines(path)]
    names = [place.partition("/")[2] for place in places]  # below the folder of its first letter
    files = [
        (image, name)
        for place, name in zip(places, names, strict=True)
        for image in sorted((folder / place).glob("sun_*.jpg"))
    ]
    return _of_files(path, files, names)


def caltech101(folder: Path) -> Parts:
    """Caltech-101 as a whole, without its folder of clutter; it has no parts."""
    there = (folder / "101_ObjectCategories").is_dir()
    return {"all": partial(_read_caltech, folder / "101_ObjectCategories")} if there else {}


def _read_caltech(folder: Path) -> Part:
    clutter = "BACKGROUND_Google"
    names = sorted(one.name for one in folder.iterdir() if one.is_dir() and one.name != clutter)
    files = [(path, name) for name in names for path in sorted((folder / name).glob("*.jpg"))]
    return _of_files(folder, files)


def _there(lists: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The lists that are there, if the images are; lists of such names alone may be anybody's."""
    has_images = (folder / "images").is_dir()
    return {part: path for part, path in lists.items() if has_images and path.is_file()}


def _lines(path: Path) -> list[str]:
    with naming(path, "a text file with a line for each image"):
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _of_files(
    source: Path, files: Sequence[tuple[Path, str]], names: Sequence[str] | None = None
) -> Part:
    known = sorted({name for _, name in files}) if names is None else list(names)
    number = {name: i for i, name in enumerate(known)}
    unknown = sorted({name for _, name in files} - number.keys())
    if unknown:
        raise DatasetError(
            f"{source} has images of classes that are not listed: {first_few(unknown)}. "
            "Fetch the data set again."
        )
    return Part(ImageFiles([path for path, _ in files]), [number[n] for _, n in files], known)


def _ids(
    labels: Sequence[int] | NumpyArray, names: Sequence[str], source: Path
) -> Sequence[int] | NumpyArray:
    """Labels that all have a name."""
    found = np.asarray(labels)
    if found.size and (found.min() < 0 or found.max() >= len(names)):
        raise DatasetError(
            f"labels of {source} must be from 0 to {len(names) - 1}; they are from {found.min()} "
            f"to {found.max()}. Fetch the data set again."
        )
    return labels


def _read_mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    content: dict[str, Any] = loadmat(io.BytesIO(read_regular(path)), squeeze_me=True)
    return content
