"""Image folders: one sub-folder per class, optionally inside one sub-folder per split."""

from __future__ import annotations

import os
from pathlib import Path

from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._request import Request
from transferscope.datasets._samples import ImageFiles
from transferscope.datasets._splits import choose_split
from transferscope.errors import DatasetError

#: torchvision's list, so that both see the same samples
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

_SPLIT_FOLDERS = frozenset({"train", "val", "valid", "validation", "dev", "test"})


def read_image_folder(folder: Path, request: Request) -> Dataset:
    """Read a folder with one sub-folder of images per class.

    Class ids follow the sorted folder names and samples the sorted paths, as in torchvision's
    ``ImageFolder``. Hidden entries and files that are no images are ignored.

    Raises
    ------
    DatasetError
        If the folder holds no class sub-folders or no images, or the split does not exist.
    """
    inside = _sub_folders(folder)
    named_as_splits = [entry for entry in inside if entry.name in _SPLIT_FOLDERS]
    # a class may be called "train" (vehicles): a split differs from it by having sub-folders
    splits = {entry.name: entry for entry in named_as_splits if _sub_folders(entry)}
    chosen = choose_split(request.split, splits, source=str(folder))
    classes = _sub_folders(splits[chosen]) if splits else inside
    if not classes or (named_as_splits == inside and not splits):
        raise DatasetError(
            f"{folder} must have one sub-folder per class; it {_describe(folder, inside)}. "
            "Sort the images into folders, or list them with their labels in a .csv; a folder in "
            f"Hugging Face format is opened as hf/{folder}."
        )
    paths: list[Path] = []
    ids: list[int] = []
    for class_id, class_folder in enumerate(classes):
        found = _images_below(class_folder)
        paths += found
        ids += [class_id] * len(found)
    if not paths:
        raise DatasetError(
            f"{folder} must hold images ({', '.join(IMAGE_EXTENSIONS)}); its {len(classes)} "
            "sub-folders hold none. Check the path."
        )
    names = [class_folder.name for class_folder in classes]
    name = folder.resolve().name
    return make_dataset(name, ImageFiles(paths), ids, split=chosen, class_names=names)


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(
        (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")),
        key=lambda entry: entry.name,
    )


def _images_below(folder: Path) -> list[Path]:
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place, name)
            for name in sorted(files)
            if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")
        ]
    return found


def _describe(folder: Path, inside: list[Path]) -> str:
    if inside:
        return f"has {', '.join(entry.name for entry in inside)} with none inside them"
    images = sum(entry.name.lower().endswith(IMAGE_EXTENSIONS) for entry in folder.iterdir())
    return f"holds {images} images and no sub-folders" if images else "holds neither"
