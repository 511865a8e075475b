"""NumPy archives of images."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._images import channels_last
from transferscope.datasets._request import Request
from transferscope.datasets._samples import EncodedImages, Samples, image_rows
from transferscope.datasets._splits import choose_split, meaning_of, note_choice
from transferscope.errors import DatasetError, InputError, first_few
from transferscope.numerics.arrays import NumpyArray
from transferscope.storage.npz_files import npz_names, read_npz

#: What an array holds, by a word of its name, the first words before the others; the rest of the
#: name is a split.
_ROLES = {
    "jpeg": "jpeg",
    "offsets": "offsets",
    **dict.fromkeys(("images", "image", "imgs", "img", "x", "data"), "images"),
    **dict.fromkeys(("labels", "label", "y", "targets", "target"), "labels"),
}
_ROLE_WORD = re.compile(rf"(?<![a-z])({'|'.join(_ROLES)})(?![a-z])", re.IGNORECASE)
_CLASS_NAMES = "class_names"


def read_npz_images(path: Path, request: Request) -> Dataset:
    """Read images and labels from an ``.npz`` file.

    Parameters
    ----------
    path : Path
        Its file holds ``images`` (numbers, (n, height, width[, channels]) or (n, channels, height,
        width)) and ``labels``, or the same with a split: ``train_images``, ``train_labels``,
        ``x_test``, ``y_test`` ...; optionally ``class_names``. In place of images, ``train_jpeg``
        (uint8, image files laid end to end) and ``train_offsets`` (n + 1).
    request : Request

    Raises
    ------
    DatasetError
        If the file cannot be read, lacks these arrays, or they do not fit together.
    """
    try:
        names = npz_names(path)
        parts = _parts(names, path)
        chosen = choose_split(request.split, filter(None, parts), source=str(path))
        keys = parts["" if chosen == "all" and "" in parts else chosen] if parts else {}
        arrays = read_npz(path, [*keys.values(), _CLASS_NAMES])
    except DatasetError:
        raise
    except InputError as error:
        raise DatasetError(str(error)) from error
    found = {role: arrays[key] for role, key in keys.items()}
    samples = _samples(found, keys, names, path)
    return make_dataset(
        path.stem,
        samples,
        found["labels"],
        split=chosen,
        task=request.task,
        class_names=_class_names(arrays, path),
        notes=note_choice(request.split, chosen, filter(None, parts)),
    )


def _parts(names: Iterable[str], path: Path) -> dict[str, dict[str, str]]:
    """The parts of an archive that have labels: of each, the name of the array of each role."""
    named: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        if found := list(_ROLE_WORD.finditer(name)):
            part = (name[: found[-1].start()] + name[found[-1].end() :]).strip(" _-.")
            named[found[-1][0].lower(), part].append(name)
    parts: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for word, part in sorted(named, key=lambda key: list(_ROLES).index(key[0])):
        if _ROLES[word] not in parts[part]:
            if len(named[word, part]) > 1:
                raise DatasetError(
                    f"{path} must hold one array of {_ROLES[word]} for each split; "
                    f"{first_few(named[word, part])} could be it. Remove or rename the others."
                )
            parts[part][_ROLES[word]] = named[word, part][0]
    return {
        part: keys
        for part, keys in parts.items()
        if "labels" in keys and ({"images", "jpeg"} & set(keys) or not part or meaning_of(part))
    }


def _samples(
    found: Mapping[str, NumpyArray], keys: Mapping[str, str], names: Iterable[str], path: Path
) -> Samples:
    if {"images", "labels"} <= set(found):
        return image_rows(channels_last(found["images"]), f"{keys['images']} of {path}")
    if {"jpeg", "offsets", "labels"} <= set(found):
        stream, offsets = found["jpeg"], found["offsets"]
        if not _are_places(stream, offsets):
            raise DatasetError(
                f"{keys['jpeg']} in {path} must be uint8 in one dimension, and {keys['offsets']} "
                "whole numbers that rise within its length; they are not. Write the file again."
            )
        return EncodedImages(stream, offsets, str(path))
    hint = "Rename them"
    if "features" in names:
        hint = "Pass features that are already extracted to `score`"
    raise DatasetError(
        f"{path} must hold the arrays images and labels, or train_images and train_labels "
        f"(or train_jpeg, train_offsets, train_labels); it holds {', '.join(names)}. {hint}."
    )


def _are_places(stream: NumpyArray, offsets: NumpyArray) -> bool:
    """Whether these are files end to end and where each begins."""
    return bool(
        stream.dtype == np.uint8
        and stream.ndim == offsets.ndim == 1
        and offsets.dtype.kind in "iu"
        and len(offsets)
        and offsets[0] >= 0
        and offsets[-1] <= len(stream)
        and (offsets[1:] >= offsets[:-1]).all()
    )


def _class_names(arrays: Mapping[str, NumpyArray], path: Path) -> list[str] | None:
    names = arrays.get(_CLASS_NAMES)
    if names is None:
        return None
    if names.ndim != 1:
        raise DatasetError(
            f"{_CLASS_NAMES} of {path} must be a list of names; it has shape {names.shape}. "
            "Correct it or leave it out."
        )
    return [str(name) for name in names]
