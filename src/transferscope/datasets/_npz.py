"""NumPy archives of images."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._request import Request
from transferscope.datasets._samples import EncodedImages, Samples, image_rows
from transferscope.datasets._splits import choose_split
from transferscope.errors import DatasetError
from transferscope.numerics.arrays import NumpyArray


def read_npz(path: Path, request: Request) -> Dataset:
    """Read images and labels from an ``.npz`` file.

    Parameters
    ----------
    path : Path
        Its file holds ``images`` (uint8, (n, height, width[, channels])) and ``labels``, or the
        same with a split before: ``train_images``, ``train_labels``, ``test_images`` ...;
        optionally ``class_names``. In place of images, ``train_jpeg`` (uint8, image files laid end
        to end) and ``train_offsets`` (n + 1).

    Raises
    ------
    DatasetError
        If the file cannot be read, lacks these arrays, or they do not fit together.
    """
    try:
        if not zipfile.is_zipfile(path):  # np.load would take it for a bare array or a pickle
            raise ValueError("no zip archive")
        with np.load(path, allow_pickle=False) as archive:
            keys = list(archive)
            splits = [key[: -len("labels")].rstrip("_") for key in keys if key.endswith("labels")]
            if not splits or splits == [""]:
                chosen, prefix = choose_split(request.split, (), source=str(path)), ""
            else:
                chosen = choose_split(request.split, filter(None, splits), source=str(path))
                prefix = f"{chosen}_"
            samples = _samples(archive, prefix, path)
            labels = archive[f"{prefix}labels"]
            names = archive["class_names"] if "class_names" in keys else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{path} must be a NumPy archive without Python objects and is not "
            f"({type(error).__name__}: {error}). Write it with numpy.savez."
        ) from error
    class_names = None if names is None else [str(name) for name in names]
    return make_dataset(
        path.stem, samples, labels, split=chosen, task=request.task, class_names=class_names
    )


def _samples(archive: Mapping[str, NumpyArray], prefix: str, path: Path) -> Samples:
    keys = list(archive)
    if f"{prefix}labels" in keys and f"{prefix}images" in keys:
        return image_rows(archive[f"{prefix}images"], f"{prefix}images of {path}")
    if f"{prefix}labels" in keys and {f"{prefix}jpeg", f"{prefix}offsets"} <= set(keys):
        stream, offsets = archive[f"{prefix}jpeg"], archive[f"{prefix}offsets"]
        if stream.dtype != np.uint8 or (np.diff(offsets) < 0).any() or offsets[-1] > len(stream):
            raise DatasetError(
                f"{prefix}jpeg in {path} must be uint8 and {prefix}offsets rise within its length; "
                "they do not. Write the file again."
            )
        return EncodedImages(stream, offsets, str(path))
    hint = "Rename them"
    if "features" in keys:
        hint = "Pass features that are already extracted to `score`"
    raise DatasetError(
        f"{path} must hold the arrays images and labels, or train_images and train_labels "
        f"(or train_jpeg, train_offsets, train_labels); it holds {', '.join(keys)}. {hint}."
    )
