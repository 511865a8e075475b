"""Feature files: arrays by name in one ``.npz`` or ``.safetensors`` file."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transferscope.errors import InputError, StoreError

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
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1"}
_DTYPES |= {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}


def read_feature_file(
    path: str | os.PathLike[str], names: Sequence[str] = KNOWN_ARRAYS
) -> dict[str, np.ndarray[Any, Any]]:
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
            f"{path} is a folder; give a .npz or .safetensors feature file. "
            "To rank encoders on a folder of samples use `transferscope rank`."
        )
    if not path.is_file():
        raise InputError(f"there is no file {path}; give a .npz or .safetensors feature file.")
    try:
        if path.suffix == ".npz":
            found = _read_npz(path, names)
        elif path.suffix == ".safetensors":
            found = _map_safetensors(path, names)
        else:
            raise InputError(
                f"a feature file is .npz or .safetensors, got {path.name}; "
                "to rank encoders on a data set use `transferscope rank`."
            )
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is damaged or not what its name says ({error}); write it again, with "
            f"{'numpy.savez' if path.suffix == '.npz' else 'safetensors'} from plain arrays."
        ) from error
    if "features" not in found:
        raise InputError(
            f"{path} holds no array 'features' (it holds {sorted(found) or 'none that is known'}); "
            f"known names are {', '.join(names)}."
        )
    return found


def _read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    with path.open("rb") as file:  # np.load leaves a damaged file open
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            raise InputError(f"{path} is a bare array; save it with np.savez(..., features=...).")
        if not zipfile.is_zipfile(file):  # np.load would take it for a pickle
            raise ValueError("no zip archive")
        file.seek(0)
        archive = np.load(file, allow_pickle=False)
        return {name: archive[name] for name in names if name in archive.files}


def _map_safetensors(path: Path, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    # mapped by hand: safetensors' own NumPy reader copies every array into memory
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= path.stat().st_size - 8:
            raise ValueError("its header is cut short")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    found = {}
    for name in names:
        if name in header:
            entry = header[name]
            if entry["dtype"] not in _DTYPES:
                raise ValueError(f"{name} is of dtype {entry['dtype']}, convert it to float32")
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            if last > mapped.size:
                raise ValueError("it is cut short")
            values = np.asarray(mapped[first:last]).view(_DTYPES[entry["dtype"]])
            found[name] = values.reshape(entry["shape"])
    return found


def write_feature_file(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray[Any, Any]],
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
        If the file cannot be written.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(contiguous, unfinished, metadata=dict(about))
        unfinished.replace(path)
    except Exception as error:  # safetensors raises its own for a full disk
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written ({error}); choose another place.") from error
