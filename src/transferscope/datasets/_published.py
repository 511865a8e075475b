"""Published data sets by name, ``torchvision/<name>?root=DIR``, and recognised as paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from transferscope.datasets import _published_layouts as layouts
from transferscope.datasets._archives import packed, packed_folder
from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._image_folder import read_image_folder
from transferscope.datasets._published_layouts import Parts
from transferscope.datasets._request import Request
from transferscope.datasets._splits import choose_split, note_choice
from transferscope.errors import DatasetError, require

PREFIX = "torchvision/"


@dataclass(frozen=True)
class _Published:
    """A data set that torchvision knows.

    Attributes
    ----------
    kind : str
        The class of torchvision that can download it.
    folders : tuple of str
        Where it may lie below the folder that is given, which itself is looked at last.
    parts : callable
        From a place to the parts that are there.
    n_parts : int
        As many as there are after a download.
    downloads : tuple of dict
        Arguments of the calls that download all of it; none where torchvision cannot.
    idx : sequence of str or None
        Names of the classes, where the files are in IDX.
    """

    kind: str
    folders: tuple[str, ...]
    parts: Callable[[Path], Parts] | None = None
    n_parts: int = 2
    downloads: tuple[Mapping[str, Any], ...] = ({},)
    idx: tuple[str, ...] | None = None


def _in_idx(kind: str, names: tuple[str, ...] = layouts.DIGITS) -> _Published:
    return _Published(kind, (f"{kind}/raw", kind, "raw"), idx=names)


_CIFAR10, _CIFAR100 = "cifar-10-batches-py", "cifar-100-python"
_SPLITS = ({"split": "train"}, {"split": "test"})
_PUBLISHED = {
    "mnist": _in_idx("MNIST"),
    "fashion_mnist": _in_idx("FashionMNIST", layouts.FASHION),
    "kmnist": _in_idx("KMNIST", layouts.KUZUSHIJI),
    "emnist": _Published(
        "EMNIST", ("EMNIST/raw", "EMNIST/raw/gzip", "EMNIST", "raw", "gzip"), idx=layouts.DIGITS
    ),
    "usps": _Published("USPS", (), layouts.usps, downloads=({"train": True}, {"train": False})),
    "cifar10": _Published("CIFAR10", (_CIFAR10, "cifar-10-python.tar.gz"), layouts.cifar10),
    "cifar100": _Published("CIFAR100", (_CIFAR100, f"{_CIFAR100}.tar.gz"), layouts.cifar100),
    "svhn": _Published("SVHN", (), layouts.svhn, downloads=_SPLITS),
    "dtd": _Published("DTD", ("dtd/dtd", "dtd"), layouts.dtd, 3),
    "fgvc_aircraft": _Published(
        "FGVCAircraft", ("fgvc-aircraft-2013b/data", "data"), layouts.aircraft, 4
    ),
    "oxford_iiit_pet": _Published("OxfordIIITPet", ("oxford-iiit-pet",), layouts.pets),
    "flowers102": _Published("Flowers102", ("flowers-102",), layouts.flowers, 3),
    "food101": _Published("Food101", ("food-101",), layouts.food),
    "stanford_cars": _Published("StanfordCars", ("stanford_cars",), layouts.cars, downloads=()),
    "caltech101": _Published("Caltech101", ("caltech101",), layouts.caltech101, 1),
    "sun397": _Published("SUN397", ("SUN397",), layouts.sun, 1),
    "imagenet": _Published("ImageNet", (), downloads=()),
}
#: Files that are data sets by their names: the data set, the part, and where to look for parts.
_FILES: dict[str, tuple[str, str | None, Callable[[Path], Parts]]] = {
    "cifar-10-python.tar.gz": ("cifar10", None, layouts.cifar10),
    f"{_CIFAR100}.tar.gz": ("cifar100", None, layouts.cifar100),
    "usps_28x28.pkl": ("usps", None, layouts.usps_28),
    "usps.bz2": ("usps", "train", lambda path: layouts.usps(path.parent)),
    "usps.t.bz2": ("usps", "test", lambda path: layouts.usps(path.parent)),
    **{
        f"{part}_32x32.mat": ("svhn", part, lambda path: layouts.svhn(path.parent))
        for part in ("train", "test", "extra")
    },
}
_OPTIONS = ("root", "split", "download", "subset")


def load_published(spec: str, request: Request) -> Dataset:
    """Open ``torchvision/<name>?root=DIR&split=test&download=1``.

    Parameters
    ----------
    spec : str
        ``root`` is the folder that torchvision would take; ``subset`` one of EMNIST's.
    request : Request
        Whose split counts where the name has none.

    Raises
    ------
    DatasetError
        If there is no such data set, its files are not there, or cannot be read.
    MissingExtraError
        If it is to be downloaded, and torchvision is not installed.
    """
    written, _, query = spec.removeprefix(PREFIX).partition("?")
    plain = {re.sub(r"[^a-z0-9]", "", known): known for known in _PUBLISHED}
    name = plain.get(re.sub(r"[^a-z0-9]", "", written.lower()))
    if name is None:
        raise DatasetError(
            f"data set {PREFIX}{written} is unknown; there are {', '.join(_PUBLISHED)}. Name one; "
            f"a folder is written ./{PREFIX}{written}."
        )
    options = _options(query, spec)
    if "root" not in options:
        raise DatasetError(
            f"{spec} must say where its files are: {PREFIX}{name}?root=DIR; &download=1 lets "
            "torchvision fetch what is not there. Write it so."
        )
    split = options.get("split", request.split)
    if request.split not in (None, split):
        raise DatasetError(
            f"{spec} names the split {split}, and split={request.split!r} is asked for. Leave one "
            "of them out."
        )
    root, known = Path(options["root"]).expanduser(), _PUBLISHED[name]
    request.refuse_columns(spec)
    request.refuse_other_task(spec, "classification")
    subset = options.get("subset")
    if name == "imagenet":
        if options.get("download") == "1":
            raise _no_download(name)
        if root.is_dir() and (error := packed_folder(root)):
            raise error
        return read_image_folder(root, replace(request, split=split))
    found = _find(known, root, subset)
    if options.get("download") == "1" and len(found) < known.n_parts:
        _download(name, known, root, subset)
        found = _find(known, root, subset)
    if not found:
        for place in (*(root / one for one in known.folders), root):
            if error := packed(name, place):
                raise error
        places = " or ".join(str(root / one) for one in known.folders) or str(root)
        hint = "let torchvision fetch it with &download=1, or " if known.downloads else ""
        raise DatasetError(
            f"{spec} must lie in {places} as torchvision keeps it, and does not. Check the folder, "
            f"{hint}unpack its archive there."
        )
    return _make(name, found, split, source=spec)


def recognise(path: Path, request: Request) -> Dataset | None:
    """Open a path that is a published data set by the names of its files; None for others.

    Raises
    ------
    DatasetError
        If it is one, and cannot be read.
    """
    found: Parts = {}
    name, split = path.resolve().name, request.split
    if path.is_file():
        place = layouts.idx_place(path)
        if place is not None:
            subset, part = place
            found = layouts.idx_subsets(path.parent).get(subset, {})
            name, split = _idx_name(path.parent, subset), split or part
            if not found:
                raise DatasetError(
                    f"{path} must lie beside the file of its labels or images, whose name differs "
                    "by these words and idx1 or idx3. Put it there."
                )
        elif path.name in _FILES:
            name, part_of_file, reader = _FILES[path.name]
            found, split = reader(path), split or part_of_file
    else:
        for folder in _places(path):
            name, found = _known_folder(folder)
            if found:
                break
    if not found:
        return None
    request.refuse_columns(str(path))
    request.refuse_other_task(str(path), "classification")
    return _make(name, found, split, source=str(path))


def _places(path: Path) -> list[Path]:
    """The folder itself, and the one inside it where the archives of its name have one."""
    nested = [one.split("/") for known in _PUBLISHED.values() for one in known.folders]
    inner = dict.fromkeys(one[1] for one in nested if one[1:] and one[0] == path.resolve().name)
    return [path, *(path / one for one in inner if (path / one).is_dir())]


def _known_folder(path: Path) -> tuple[str, Parts]:
    """The data set in a folder, by the names of its files; no parts where it is none."""
    subsets = layouts.idx_subsets(path)
    if len(subsets) > 1:
        raise DatasetError(
            f"{path} holds {', '.join(subsets)} of EMNIST. Name one: give its file, or "
            f"{PREFIX}emnist?root=DIR&subset=NAME."
        )
    for subset, parts in subsets.items():
        return _idx_name(path, subset), parts
    there = {name: known.parts(path) for name, known in _PUBLISHED.items() if known.parts}
    there = {name: found for name, found in there.items() if found}
    if len(there) > 1:
        raise DatasetError(
            f"{path} holds several data sets: {', '.join(there)}. Name one, such as "
            f"{PREFIX}{next(iter(there))}?root={path}."
        )
    return next(iter(there.items()), ("", {}))


def _find(known: _Published, root: Path, subset: str | None) -> Parts:
    """The parts in the first of the places where it may lie."""
    for place in (*(root / folder for folder in known.folders), root):
        if not place.exists():
            continue
        if known.idx is None:
            assert known.parts is not None
            found = known.parts(place) if place.is_dir() or place != root else {}
        else:
            subsets = layouts.idx_subsets(place, known.idx) if place.is_dir() else {}
            if known.kind == "EMNIST" and subsets and subset not in subsets:
                raise DatasetError(
                    f"EMNIST has several subsets, and {place} holds {', '.join(subsets)}; "
                    f"got subset={subset!r}. Choose one with &subset=NAME."
                )
            found = subsets.get(subset or "", {})
        if found:
            return found
    return {}


def _make(name: str, found: Parts, split: str | None, *, source: str) -> Dataset:
    chosen = choose_split(split, () if set(found) == {"all"} else found, source=source)
    part = found[chosen]()
    notes = (*note_choice(split, chosen, found), *part.notes)
    return make_dataset(
        name, part.samples, part.labels, split=chosen, class_names=part.class_names, notes=notes
    )


def _idx_name(folder: Path, subset: str) -> str:
    """What to call a folder of files in IDX."""
    place = folder.resolve()
    return f"emnist-{subset}" if subset else (place.parent if place.name == "raw" else place).name


def _options(query: str, spec: str) -> dict[str, str]:
    pairs = [one.partition("=") for one in query.split("&") if one]
    options = {key: unquote(value) for key, _, value in pairs}
    unknown = [key for key in options if key not in _OPTIONS]
    twice = len(options) < len(pairs)
    if unknown or twice or options.get("download", "1") not in ("0", "1"):
        raise DatasetError(
            f"{spec} may have {', '.join(_OPTIONS)}, each once, and download=0 or 1; it has "
            f"{query!r}. Correct it."
        )
    return options


def _download(name: str, known: _Published, root: Path, subset: str | None) -> None:
    if not known.downloads:
        raise _no_download(name)
    library: Any = require(
        "torchvision.datasets", extra="vision", purpose=f"download {PREFIX}{name}"
    )
    emnist = {"split": subset or "balanced"} if known.kind == "EMNIST" else {}
    try:
        for arguments in known.downloads:
            getattr(library, known.kind)(str(root), download=True, **arguments, **emnist)
    except Exception as error:
        # its downloads end in errors of urllib, of archives, and of its own
        raise DatasetError(
            f"{PREFIX}{name} could not be downloaded to {root} ({type(error).__name__}: {error}). "
            "Check the network, or put its files there and leave download out."
        ) from error


def _no_download(name: str) -> DatasetError:
    return DatasetError(
        f"{PREFIX}{name} cannot be downloaded: its authors give it to whoever asks them. Fetch it "
        "yourself, and leave download out."
    )
