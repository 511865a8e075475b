"""Image folders: one sub-folder per class, optionally inside one sub-folder per split."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._request import Request
from transferscope.datasets._samples import ImageFiles
from transferscope.datasets._splits import choose_split, known_splits, meaning_of, note_choice
from transferscope.errors import DatasetError, first_few

#: torchvision's list, and further endings of formats that every build of Pillow reads
IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
    *(".jpe", ".jfif", ".gif", ".apng", ".dib", ".pbm", ".pnm", ".tga", ".jp2"),
)


def read_image_folder(folder: Path, request: Request) -> Dataset:
    """Read a folder with one sub-folder of images per class.

    Class ids follow the sorted folder names and samples the sorted paths, as in torchvision's
    ``ImageFolder``. Hidden entries are ignored; files that are no images, pipes and devices are
    never opened, and counted in the notes. Every folder counts once: a link to one that lies
    elsewhere in the data set, or around it, is not followed.

    Raises
    ------
    DatasetError
        If the folder holds no class sub-folders or no images, the split does not exist, or it is
        not clear whether sub-folders are splits or classes.
    """
    top = _unwrap(_list(folder))
    inside = [_list(path) for path in top.folders]
    splits = _find_splits(inside, request, folder)
    chosen = choose_split(request.split, splits, source=str(folder))
    place = _unwrap(splits[chosen]) if splits else top
    flat_splits = not splits and all(meaning_of(one.path.name) for one in inside)
    if not place.folders or flat_splits:
        raise DatasetError(
            f"{folder} must have one sub-folder per class; it {_describe(top)}. "
            "Sort the images into folders, or list them with their labels in a .csv; a folder in "
            f"Hugging Face format is opened as hf/{folder}."
        )
    classes = [_list(path) for path in place.folders] if splits else inside
    paths, notes = _walk(place, classes)
    if not any(paths):
        raise DatasetError(
            f"{folder} must hold images ({', '.join(IMAGE_EXTENSIONS)}); its {len(classes)} "
            "sub-folders hold none. Check the path."
        )
    if top.path != folder or (splits and place is not splits[chosen]):
        notes.insert(0, f"classes are the folders in {place.path.relative_to(folder)}")
    if splits:
        beside = [one.path.name for one in inside if one.folders or one.images]
        notes = [*note_choice(request.split, chosen, beside), *notes]
    return make_dataset(
        folder.resolve().name,
        ImageFiles([path for its in paths for path in its]),
        [class_id for class_id, its in enumerate(paths) for _ in its],
        split=chosen,
        class_names=[one.path.name for one in classes],
        notes=notes,
    )


@dataclass(frozen=True)
class _Listing:
    """What lies directly in a folder, sorted by name, without hidden entries."""

    path: Path
    #: the same for every path to the folder
    identity: tuple[int, int]
    folders: Sequence[Path]
    images: Sequence[Path]
    #: files of other kinds
    others: Sequence[Path]
    #: what is neither a file nor a folder
    specials: Sequence[Path]


def _list(folder: Path) -> _Listing:
    kinds: dict[str, list[Path]] = {"folders": [], "images": [], "others": [], "specials": []}
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.name.startswith("."):
                    kinds[_kind(entry)].append(folder / entry.name)
        return _Listing(folder, _identity(folder), **kinds)
    except OSError as error:
        raise DatasetError(
            f"folder {folder} cannot be listed ({error.strerror}). Make it readable, or move it "
            "out of the data set."
        ) from error


def _identity(folder: Path) -> tuple[int, int]:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folders"
        is_file = entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:  # a link to itself
        is_file = True
    if not is_file:
        return "specials"
    # a link to nowhere too: an image that cannot be read is an error when it is decoded
    return "images" if entry.name.lower().endswith(IMAGE_EXTENSIONS) else "others"


def _unwrap(listing: _Listing) -> _Listing:
    """Go into an only sub-folder that is neither a class nor a split, as archives unpack to."""
    seen = set()
    while len(listing.folders) == 1 and not listing.images and listing.identity not in seen:
        seen.add(listing.identity)
        inner = _list(listing.folders[0])
        if not inner.folders or meaning_of(inner.path.name) not in (
            None,
            meaning_of(listing.path.name),
        ):
            break  # a class, or the only split
        listing = inner
    return listing


def _find_splits(inside: Sequence[_Listing], request: Request, folder: Path) -> dict[str, _Listing]:
    """The sub-folders that are splits, by name; none where the sub-folders are the classes.

    Raises
    ------
    DatasetError
        If they may be the one or the other, and no split was asked for.
    """
    names = [one.path.name for one in inside if one.folders or one.images]
    # a class may be called "train" (vehicles): a split differs from it by having sub-folders
    parted = {one.path.name: one for one in inside if one.folders}
    splits = {name: parted[name] for name in known_splits(parted)}
    if splits:
        others = [name for name in names if name not in splits and not meaning_of(name)]
        unclear = len(splits) == 1 and bool(others)
        state = f"{', '.join(splits)} may be a split, or a class like {first_few(others)}"
    else:
        sets = [{path.name for path in _unwrap(one).folders} for one in parted.values()]
        shared = sorted(set.intersection(*sets)) if len(names) == len(sets) > 1 else []
        unclear = len(shared) > 1
        splits = parted if unclear else {}
        state = (
            f"{first_few(parted)} all hold folders called {first_few(shared)}, and may be splits "
            "or classes"
        )
    if unclear and request.split is None:
        raise DatasetError(
            f"{folder} must have one sub-folder per class, perhaps inside one per split; {state}. "
            f"Name the split with split=... ({first_few(splits)}), or give "
            'split="all" to take them for classes.'
        )
    return {} if unclear and request.split == "all" else splits


def _walk(place: _Listing, classes: Sequence[_Listing]) -> tuple[list[list[Path]], list[str]]:
    """Images of each class in the order of their paths, and notes of what was not read."""
    seen = {_identity(path) for path in (place.path, *place.path.resolve().parents)}
    found: list[list[_Listing]] = [[] for _ in classes]
    repeated: list[Path] = []
    # links come last, so that a folder counts where it lies
    order = sorted(enumerate(classes), key=lambda item: item[1].path.is_symlink())
    todo = deque((class_id, one.path) for class_id, one in order)
    known = {one.path: one for one in classes}
    while todo:
        class_id, path = todo.popleft()
        one = known.get(path) or _list(path)
        if one.identity in seen:
            repeated.append(path.relative_to(place.path))
            continue
        seen.add(one.identity)
        found[class_id].append(one)
        for inner in one.folders:
            if inner.is_symlink():
                todo.append((class_id, inner))
            else:
                todo.appendleft((class_id, inner))
    images = [
        [path for one in sorted(its, key=lambda one: one.path.parts) for path in one.images]
        for its in found
    ]
    everything = [place, *(one for its in found for one in its)]
    endings = [path.suffix.lower() or "without" for one in everything for path in one.others]
    counted = sorted(Counter(endings).items(), key=lambda item: (-item[1], item[0]))
    loose = [path.name for path in place.images]
    specials = [path.relative_to(place.path) for one in everything for path in one.specials]
    return images, [
        f"{what}: {number} ({first_few(names)})"
        for what, number, names in (
            ("images beside the folders of classes, not read", len(loose), loose),
            (
                "files that do not end like images, not read",
                len(endings),
                [f"{n} {ending}" for ending, n in counted],
            ),
            ("entries that are no files, not read", len(specials), specials),
            ("links to folders that count elsewhere, not followed", len(repeated), repeated),
        )
        if number
    ]


def _describe(listing: _Listing) -> str:
    if listing.folders:
        names = ", ".join(path.name for path in listing.folders)
        return f"has {names} with none inside them"
    images = len(listing.images)
    return f"holds {images or 'no'} images and no sub-folders"
