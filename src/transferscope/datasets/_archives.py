"""Archives: images are read from unpacked files, and an error says how to unpack what is not yet.

Single images of a compressed archive cannot be read without all that lie before them, and some
archives take tens of gigabytes when they are unpacked. Where they go is for their owner to say.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from transferscope.errors import DatasetError

#: Data set -> what lies beside its archives once they are unpacked -> files that it comes from.
_ARCHIVES: dict[str, dict[str, tuple[str, ...]]] = {
    "emnist": {"gzip": ("gzip.zip",)},
    "dtd": {"dtd": ("dtd-r1.0.1.tar.gz",)},
    "fgvc_aircraft": {"fgvc-aircraft-2013b": ("fgvc-aircraft-2013b.tar.gz",)},
    "oxford_iiit_pet": {"images": ("images.tar.gz",), "annotations": ("annotations.tar.gz",)},
    "flowers102": {
        "jpg": ("102flowers.tgz",),
        **{name: (name,) for name in ("imagelabels.mat", "setid.mat")},
    },
    "food101": {"food-101": ("food-101.tar.gz",)},
    "stanford_cars": {
        "cars_train": ("cars_train.tgz",),
        "cars_test": ("cars_test.tgz",),
        "devkit": ("car_devkit.tgz",),
    },
    "caltech101": {"101_ObjectCategories": ("101_ObjectCategories.tar.gz", "caltech-101.zip")},
    "sun397": {"SUN397": ("SUN397.tar.gz",)},
    "imagenet": {
        "train": ("ILSVRC2012_img_train.tar",),
        "val": ("ILSVRC2012_img_val.tar",),
        "meta.bin": ("ILSVRC2012_devkit_t12.tar.gz",),
    },
}
#: Names that other people's archives have as well: alone they say nothing.
_COMMON = ("images.tar.gz", "annotations.tar.gz")
#: The archive in an archive.
_INNER = {"caltech-101.zip": "caltech-101/101_ObjectCategories.tar.gz"}
_ENDINGS = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")


def packed(name: str, folder: Path) -> DatasetError | None:
    """Why a data set cannot be read from a folder where its archives lie as they were fetched.

    Parameters
    ----------
    name : str
        As in ``torchvision/<name>``.
    folder : Path

    Returns
    -------
    DatasetError or None
        With the command that unpacks them; None where there is nothing to unpack.
    """
    found: list[Path] = []
    absent: list[str] = []
    for made, files in _ARCHIVES.get(name, {}).items():
        if not (folder / made).exists():
            whole = [folder / file for file in files if (folder / file).is_file()]
            found += whole[:1]
            absent += () if whole else files[:1]
    if not found:
        return None
    names = ", ".join(path.name for path in found)
    lacking = f"Fetch {' and '.join(absent)} as well. " if absent else ""
    return DatasetError(
        f"torchvision/{name} must be unpacked; {folder} holds {names} as fetched. {lacking}Run "
        f"`{_command(name, found)}`, and open torchvision/{name}?root={folder}."
    )


def packed_folder(folder: Path) -> DatasetError | None:
    """The same for a folder that holds nothing else, whichever data set it is."""
    try:
        inside = {path.name: path.is_dir() for path in folder.iterdir()}
    except OSError:  # who reads it as something else will say so
        return None
    folders = {name for name, is_folder in inside.items() if is_folder}
    for name, kinds in _ARCHIVES.items():
        own = any(file in inside and file not in _COMMON for its in kinds.values() for file in its)
        whole = all(made in inside or inside.keys() & set(its) for made, its in kinds.items())
        partly = name == "imagenet" and folders  # one part is enough to read it
        if (own or whole) and folders <= kinds.keys() and not partly:
            error = packed(name, folder)
            if error is not None:
                return error
    return None


def packed_file(path: Path) -> DatasetError | None:
    """Why an archive that is given itself is not read; None for other files."""
    folder, file = path.parent, path.name
    if not file.lower().endswith(_ENDINGS):
        return None
    for name, kinds in _ARCHIVES.items():
        if file not in _COMMON and any(file in files for files in kinds.values()):
            return packed(name, folder) or DatasetError(
                f"{path} must be unpacked, and is. Open torchvision/{name}?root={folder}."
            )
    place = folder / file[: -max(len(e) for e in _ENDINGS if file.lower().endswith(e))]
    make = "" if file.lower().endswith(".zip") else shlex.join(["mkdir", str(place)]) + " && "
    return DatasetError(
        f"{path} must be unpacked to be read. Run `{make}{_unpack(path, place)}`, and open the "
        "folder or the file that is in it."
    )


def _command(name: str, archives: list[Path]) -> str:
    folder = archives[0].parent
    if name == "imagenet":  # archives of archives, and a list of which image is which class
        names = " ".join(path.name for path in archives)
        parts = [part for part in ("train", "val") if f"img_{part}" in names] or ["train", "val"]
        calls = "; ".join(f"ImageNet({str(folder)!r}, {part!r})" for part in parts)
        return shlex.join(["python", "-c", f"from torchvision.datasets import ImageNet; {calls}"])
    inner = [folder / _INNER[path.name] for path in archives if path.name in _INNER]
    return " && ".join(_unpack(path, folder) for path in (*archives, *inner))


def _unpack(archive: Path, folder: Path) -> str:
    if archive.suffix.lower() == ".zip":
        return shlex.join(["python", "-m", "zipfile", "-e", str(archive), str(folder)])
    return shlex.join(["tar", "-xf", str(archive), "-C", str(folder)])
