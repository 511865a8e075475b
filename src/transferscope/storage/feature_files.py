"""Feature files: arrays by name in one ``.npz`` or ``.safetensors`` file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from transferscope.errors import InputError
from transferscope.numerics.arrays import NumpyArray
from transferscope.storage import safetensors_files
from transferscope.storage._border import refuse_damage
from transferscope.storage.atomic import write_atomically
from transferscope.storage.npz_files import read_npz

#: Names that a feature file may hold.
KNOWN_ARRAYS = (
    "features",
    "labels",
    "targets",
    "source_probabilities",
    "source_logits",
    "reference_features",
    "reference_labels",
)


def read_feature_file(
    path: str | os.PathLike[str], names: Sequence[str] = KNOWN_ARRAYS
) -> dict[str, NumpyArray]:
    """Read the arrays of a feature file.

    Parameters
    ----------
    path : path
        ``.npz``, or ``.safetensors``, whose arrays are memory-mapped and so may be larger than
        memory.
    names : sequence of str
        Arrays to read where they are there; "features" must be.

    Returns
    -------
    dict of str to array
        By default those of ``features, labels, targets, source_probabilities, source_logits,
        reference_features, reference_labels`` that are there.

    Raises
    ------
    InputError
        If the file does not exist, is damaged, or holds no ``features``.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"feature file {path} is a folder; it must be a .npz or .safetensors file. "
            "To rank encoders on a folder of samples use `transferscope rank`."
        )
    if not path.is_file():
        raise InputError(f"feature file {path} does not exist. Give a .npz or .safetensors file.")
    if path.suffix == ".npz":
        found = read_npz(path, names)
    elif path.suffix == ".safetensors":
        found = _map_safetensors(path, names)
    else:
        raise InputError(
            f"feature file {path} must be .npz or .safetensors. "
            "To rank encoders on a data set use `transferscope rank`."
        )
    if "features" not in found:
        raise InputError(
            f"feature file {path} must hold an array 'features'; it holds "
            f"{sorted(found) or 'no array of a known name'}. Known names are {', '.join(names)}."
        )
    return found


def _map_safetensors(path: Path, names: Sequence[str]) -> dict[str, NumpyArray]:
    found = {}
    with refuse_damage(path, writer="safetensors"):
        with path.open("rb") as file:
            tensors = safetensors_files.read_header(file).tensors
        content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        for name in names:
            if name in tensors:
                if tensors[name].dtype not in safetensors_files.DTYPES:
                    raise ValueError(
                        f"{name} is of dtype {tensors[name].dtype}, convert it to float32"
                    )
                found[name] = tensors[name].view(content)
    return found


def write_feature_file(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NumpyArray],
    about: Mapping[str, str],
) -> None:
    """Write arrays to a ``.safetensors`` feature file, whole or not at all.

    Parameters
    ----------
    path : path
    arrays : mapping of str to array
        Under the names that `read_feature_file` knows.
    about : mapping of str to str
        Kept in the file's metadata, for people.

    Raises
    ------
    StoreError
        If the disk is full or the file cannot be written.
    """
    write_atomically(Path(path), safetensors_files.serialise(arrays, about))
