"""Features kept on disk: computed once per (data set, encoder, layer), then only read.

::

    ROOT/<key>.features/manifest.json               what the entry holds; written once
                        shard-000000.safetensors    rows 0 … shard_size - 1 of every array
                        shard-000001.safetensors    …
                        *.tmp                       a file being written, or left by a dead run
    ROOT/<token>.features-trash/                    an entry being deleted

Every file is written beside its target, flushed to the disk and renamed, so that a reader sees all
of it or nothing. A shard carries its own checksum, row range and cost in its safetensors header:
there is no index for two runs to fight over, and the shards that exist are the files that exist.
Runs that share a store write the same shards, and the last rename wins.

The checksum is CRC-32 of the whole file with its own eight digits as zeros. It guards against
accidents (bad disks, truncation), not against forgery, and is the fastest adequate one of the
standard library: on 400 MB, 3.1 GB/s against 1.1 for SHA-256 and 0.6 for BLAKE2b.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from transferscope.errors import (
    InputError,
    StoreError,
    StoreWarning,
    UnknownNameError,
    first_few,
)

FORMAT = 1
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1"}
_DTYPES |= {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1"}
_DTYPES |= {"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1"}
_METADATA_BYTES = 4096  # safetensors puts the metadata first, and ours is shorter than this
_CHECKSUM = re.compile(rb'"crc32":"([0-9a-f]{8})"')
_SECONDS = re.compile(rb'"seconds":"([^"]+)"')
_TEMPORARY = re.compile(r"\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]+\.tmp$")
_STALE_AFTER = 24 * 3600.0  # seconds; writing one file never takes that long
_ATTEMPTS = 20


class _DamagedError(Exception):
    """Raised inside this file when a file of the store cannot be used; the text is the reason."""


@dataclass(frozen=True)
class EntrySummary:
    """One entry of the store, as ``transferscope cache list`` shows it.

    ``n_bytes`` counts all its files, ``last_used`` is when it was last written or loaded (UTC), and
    ``problem`` says why its manifest cannot be read (empty if it can, else the facts are empty).
    """

    key: str
    about: Mapping[str, str]
    layer: str
    n_samples: int
    n_shards_present: int
    n_shards: int
    n_bytes: int
    last_used: datetime
    problem: str = ""


@dataclass(frozen=True)
class Damage:
    """One file that cannot be used: the entry's key, the file, and what is wrong with it."""

    key: str
    file: Path
    reason: str


class StoreEntry:
    """The shards of one (data set, encoder, layer); get one from `FeatureStore.entry`.

    Attributes
    ----------
    key : str
        Name of the entry, 20 hexadecimal digits.
    folder : Path
        Where its files lie; need not exist yet.
    n_samples, shard_size, n_shards : int
        Rows in all, rows per shard (the last may have fewer), and number of shards.
    """

    def __init__(self, root: Path, facts: Mapping[str, Any]) -> None:
        self.key = _key(facts)
        self.folder = root / f"{self.key}.features"
        self.n_samples: int = facts["n_samples"]
        self.shard_size: int = facts["shard_size"]
        self.n_shards = math.ceil(self.n_samples / self.shard_size)
        self._facts = facts
        self._swept = False

    def shard_rows(self, k: int) -> slice:
        """Rows of shard `k`: fixed by its number, so that every run cuts at the same places.

        Raises
        ------
        InputError
            If there is no shard `k`.
        """
        if not 0 <= k < self.n_shards:
            raise InputError(f"There are shards 0 to {self.n_shards - 1}, and {k} was asked for.")
        return slice(k * self.shard_size, min((k + 1) * self.shard_size, self.n_samples))

    def missing(self) -> list[int]:
        """Shards still to be computed: absent ones, and damaged ones with a `StoreWarning`.

        Reads and checks every shard. A damaged manifest is reported too, and written again.

        Raises
        ------
        StoreError
            If a newer version of transferscope wrote the entry.
        """
        missing: list[int] = []
        damaged: dict[str, list[str]] = {}
        try:
            _read_manifest(self.folder)
        except FileNotFoundError:
            pass
        except _DamagedError as error:
            damaged[str(error)] = ["manifest.json"]
            with suppress(OSError):  # a store that is read-only can still be read
                self._prepare()
        for k in range(self.n_shards):
            try:
                self._read(k)
            except FileNotFoundError:
                missing.append(k)
            except _DamagedError as error:
                missing.append(k)
                damaged.setdefault(str(error), []).append(self._path(k).name)
        for reason, files in damaged.items():
            warnings.warn(
                f"In {self.folder}, {first_few(files)} cannot be used ({reason}) and "
                f"will be made again. If this recurs, check the disk.",
                StoreWarning,
                stacklevel=2,
            )
        return missing

    def write(self, k: int, arrays: Mapping[str, NDArray[Any]], seconds: float) -> None:
        """Write shard `k` whole or not at all.

        Parameters
        ----------
        k : int
            Number of the shard.
        arrays : mapping of str to array of shape (rows of the shard, ...)
            What to keep, of numbers or booleans; the same names in every shard.
        seconds : float
            How long computing it took.

        Raises
        ------
        InputError
            If there is no shard `k`, or an array has other rows or a dtype that cannot be kept.
        StoreError
            If the disk is full or cannot be written. Shards written before stay as they are.
        """
        rows = self.shard_rows(k)
        for name, array in arrays.items():
            if array.shape[:1] != (rows.stop - rows.start,):
                raise InputError(
                    f"Shard {k} holds rows {rows.start} to {rows.stop - 1}, so {name!r} must have "
                    f"{rows.stop - rows.start} rows, and its shape is {array.shape}."
                )
            if array.dtype.newbyteorder("<").str not in _DTYPES.values():
                raise InputError(
                    f"The store keeps real numbers and booleans, and {name!r} is of dtype "
                    f"{array.dtype}. Convert it, say to float32."
                )
        if not arrays or "__metadata__" in arrays:
            raise InputError(
                f"A shard needs at least one array and none named '__metadata__', and was given "
                f"{list(arrays)}."
            )
        facts = {"format": str(FORMAT), "key": self.key, "rows": f"{rows.start}:{rows.stop}"}
        content = save(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            {**facts, "seconds": repr(float(seconds)), "crc32": "00000000"},
        )
        found = _CHECKSUM.search(content, 0, _METADATA_BYTES)
        assert found is not None
        at = found.start(1)
        rest = memoryview(content)[at + 8 :]
        parts: list[bytes | memoryview] = [content[:at], b"%08x" % crc32(content), rest]
        for _ in range(_ATTEMPTS):
            try:
                self._prepare()
                _write_file(self._path(k), parts)
                return
            except FileNotFoundError:
                pass  # a clear took the folder away under us: make it again
            except StoreError:
                raise
            except OSError as error:
                raise _unwritable(self._path(k), len(content), error) from error
        raise StoreError(
            f"{self._path(k)} vanished {_ATTEMPTS} times while it was written. Stop the program "
            f"that clears the store, or choose another place with `--store DIR`."
        )

    def read(self, k: int) -> dict[str, NDArray[Any]]:
        """Arrays of shard `k`, checked against its checksum.

        Raises
        ------
        InputError
            If there is no shard `k`.
        StoreError
            If the shard is absent or damaged.
        """
        try:
            return self._read(k)
        except FileNotFoundError:
            raise self._unusable(k, "it is absent") from None
        except _DamagedError as error:
            raise self._unusable(k, str(error)) from error

    def load(self) -> dict[str, NDArray[Any]]:
        """All rows of all arrays, checked; takes the memory of the result and of one shard.

        Raises
        ------
        StoreError
            If a shard is absent or damaged, or holds other arrays than the first one.
        """
        whole: dict[str, NDArray[Any]] = {}
        for k in range(self.n_shards):
            part = self.read(k)
            if k == 0:
                for name, array in part.items():
                    whole[name] = np.empty((self.n_samples, *array.shape[1:]), array.dtype)
            if _layout(part) != _layout(whole):
                raise self._unusable(k, f"it holds {_layout(part)}, and shard 0 {_layout(whole)}")
            for name, array in part.items():
                whole[name][self.shard_rows(k)] = array
        with suppress(OSError):
            os.utime(self.folder / "manifest.json")  # last used now
        return whole

    @property
    def seconds(self) -> float:
        """Computing time of the shards that exist, in seconds, whichever run wrote them."""
        total = 0.0
        for k in range(self.n_shards):
            with suppress(OSError), self._path(k).open("rb") as file:
                found = _SECONDS.search(file.read(_METADATA_BYTES))
                total += float(found[1]) if found else 0.0
        return total

    def _path(self, k: int) -> Path:
        return self.folder / f"shard-{k:06d}.safetensors"

    def _read(self, k: int) -> dict[str, NDArray[Any]]:
        rows = self.shard_rows(k)
        return _read_shard(self._path(k), self.key, f"{rows.start}:{rows.stop}")

    def _unusable(self, k: int, reason: str) -> StoreError:
        return StoreError(
            f"{self._path(k)} cannot be used: {reason}. Run again to compute it anew, or delete "
            f"the entry with `transferscope cache clear {self.key}`."
        )

    def _prepare(self) -> None:
        """Make folder and manifest where they are not there yet; tidy up after dead runs once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            _read_manifest(self.folder)
        except (FileNotFoundError, _DamagedError):
            text = json.dumps({"facts": self._facts, "crc32": _crc_of(self._facts)})
            _write_file(self.folder / "manifest.json", [text.encode()])
        if not self._swept:
            _sweep(self.folder.parent, [self.folder])
            self._swept = True


class FeatureStore:
    """A folder of features; several programs may use it at once.

    Parameters
    ----------
    root : path, optional
        Where to keep them. Without it, ``transferscope`` in the user's cache folder:
        ``%LOCALAPPDATA%`` on Windows, else ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises
    ------
    StoreError
        If `root` begins with ``~`` and the user has no home folder.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        if root is None:
            windows = os.name == "nt"
            base = os.environ.get("LOCALAPPDATA" if windows else "XDG_CACHE_HOME")
            root = Path(base or ("~/AppData/Local" if windows else "~/.cache")) / "transferscope"
        try:
            self.root = Path(root).expanduser()
        except RuntimeError as error:
            raise StoreError(
                f"{root} is in the home folder, and this user has none. Choose another place with "
                f"`--store DIR`."
            ) from error

    def entry(
        self,
        *,
        dataset: str,
        encoder: str,
        layer: str,
        n_samples: int,
        shard_size: int,
        about: Mapping[str, str] | None = None,
    ) -> StoreEntry:
        """Entry of these features; nothing is made on disk before its first write.

        Another `n_samples` or `shard_size` is another entry: keep `shard_size` the same whatever
        the batch size, or nothing is found again.

        Parameters
        ----------
        dataset, encoder : str
            Fingerprints of the data, and of the encoder's weights and preprocessing.
        layer : str
            Name of the layer, of any characters.
        n_samples, shard_size : int
            Rows in all and per shard, both at least 1.
        about : mapping of str to str, optional
            Readable facts for ``transferscope cache list``; they do not identify the entry.

        Raises
        ------
        InputError
            If `n_samples` or `shard_size` is below 1.
        """
        if n_samples < 1 or shard_size < 1:
            raise InputError(
                f"n_samples and shard_size must be at least 1, and are {n_samples} and "
                f"{shard_size}. Give the data set's size and, say, 1024."
            )
        facts = {"format": FORMAT, "dataset": dataset, "encoder": encoder, "layer": layer}
        facts |= {"n_samples": int(n_samples), "shard_size": int(shard_size)}
        return StoreEntry(self.root, {**facts, "about": dict(about or {})})

    def entries(self) -> list[EntrySummary]:
        """What the store holds, last used first; shards are counted, not checked."""
        found = [summary for folder in self._folders() if (summary := _summary(folder))]
        return sorted(found, key=lambda summary: summary.last_used, reverse=True)

    def clear(self, keys: Sequence[str] | None = None) -> int:
        """Delete entries, and what dead runs left behind.

        An entry is renamed before it is deleted, so that no run ever sees half of one; a run that
        is writing to it begins it anew.

        Parameters
        ----------
        keys : sequence of str, optional
            Keys, or beginnings of keys. Without it, everything goes.

        Returns
        -------
        int
            Bytes freed.

        Raises
        ------
        UnknownNameError
            If a key fits no entry; then nothing is deleted.
        StoreError
            If an entry may not be deleted.
        """
        folders = self._folders()
        for key in keys or ():
            if not key or not any(folder.stem.startswith(key) for folder in folders):
                raise UnknownNameError(
                    f"No entry of {self.root} has a key that begins with {key!r}. "
                    f"`transferscope cache list` shows the keys."
                )
        for folder in folders:
            if keys is None or folder.stem.startswith(tuple(keys)):
                try:
                    folder.rename(self.root / f"{secrets.token_hex(8)}.features-trash")
                except FileNotFoundError:
                    pass  # another clear was faster
                except OSError as error:
                    raise StoreError(
                        f"{folder} cannot be deleted: {error.strerror}. Change its permissions, "
                        f"or delete it by hand."
                    ) from error
        return _sweep(self.root, self._folders())

    def verify(self) -> list[Damage]:
        """Read every file of every entry and list the damaged ones; deletes nothing."""
        damages: list[Damage] = []
        for folder in self._folders():
            manifest, *shards = folder / "manifest.json", *sorted(folder.glob("shard-*"))
            entry = None
            try:
                entry = StoreEntry(self.root, _read_manifest(folder))
            except FileNotFoundError:
                pass  # a run that is only beginning, or was killed then
            except StoreError as error:
                damages.append(Damage(folder.stem, manifest, str(error)))
                continue  # a newer version's shards are not ours to judge
            except _DamagedError as error:
                damages.append(Damage(folder.stem, manifest, str(error)))
            for path in shards:
                if path.suffix != ".safetensors":
                    continue
                try:
                    rows = entry and entry.shard_rows(int(path.stem.removeprefix("shard-")))
                    expected = f"{rows.start}:{rows.stop}" if rows else None
                    _read_shard(path, folder.stem, expected)
                except FileNotFoundError:
                    pass  # cleared meanwhile
                except (ValueError, _DamagedError) as error:
                    damages.append(Damage(folder.stem, path, str(error)))
        return damages

    def _folders(self) -> list[Path]:
        return sorted(self.root.glob("[0-9a-f]" * 20 + ".features"))


def _key(facts: Mapping[str, Any]) -> str:
    identity = [facts[name] for name in ("dataset", "encoder", "layer", "n_samples", "shard_size")]
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=10).hexdigest()


def _crc_of(facts: Mapping[str, Any]) -> str:
    return f"{crc32(json.dumps(facts, sort_keys=True).encode()):08x}"


def _layout(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (array.dtype.name, array.shape[1:]) for name, array in sorted(arrays.items())}


def _read_shard(path: Path, key: str, rows: str | None) -> dict[str, NDArray[Any]]:
    """Arrays of a shard, as views of one buffer that holds the file; nothing else is copied."""
    try:
        content = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _DamagedError(f"it cannot be read: {error.strerror}") from error
    found = _CHECKSUM.search(content[:_METADATA_BYTES].tobytes())
    if found is None:
        raise _DamagedError(f"its {len(content)} bytes have no checksum")
    at = found.start(1)
    checksum = crc32(content.data[at + 8 :], crc32(b"00000000", crc32(content.data[:at])))
    if checksum != int(found[1], 16):
        raise _DamagedError("its bytes do not match its checksum")
    # from here on the file is as it was written, and can be taken at its word
    body = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:body].tobytes())
    facts = header.pop("__metadata__")
    if facts["format"] != str(FORMAT):
        raise _DamagedError(f"it is of format {facts['format']}, and this version reads {FORMAT}")
    if facts["key"] != key or rows not in (None, facts["rows"]):
        raise _DamagedError(f"it holds rows {facts['rows']} of entry {facts['key']}")
    arrays = {}
    for name, spec in header.items():
        start, stop = spec["data_offsets"]
        flat = content[body + start : body + stop].view(_DTYPES[spec["dtype"]])
        arrays[name] = flat.reshape(spec["shape"])
    return arrays


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        envelope = json.loads(path.read_bytes())
        facts: dict[str, Any] = envelope["facts"]
        # the layout up to here is for ever, so that a newer format is not taken for damage
        intact = envelope["crc32"] == _crc_of(facts)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _DamagedError(f"it cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _DamagedError("it is not a manifest") from error
    if not intact:
        raise _DamagedError("its text does not match its checksum")
    if facts["format"] > FORMAT:
        raise StoreError(
            f"{path} is of format {facts['format']}, and this version reads formats up to "
            f"{FORMAT}. Upgrade transferscope, or choose another place with `--store DIR`."
        )
    if facts["format"] < FORMAT:
        raise _DamagedError(f"it is of format {facts['format']}, and this version reads {FORMAT}")
    if _key(facts) != folder.stem:
        raise _DamagedError(f"it belongs to entry {_key(facts)}")
    return facts


def _write_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write beside the target, flush to the disk, rename: the target is whole or not there."""
    owner = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f"{path.name}.{owner}.tmp")
    try:
        with temporary.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _unwritable(path: Path, n_bytes: int, error: OSError) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(
            f"{path} cannot be written: {error.strerror}; it needs {n_bytes} bytes. Free some with "
            f"`transferscope cache clear`, or choose another place with `--store DIR`. What was "
            f"written before is kept."
        )
    return StoreError(
        f"{path} cannot be written: {error.strerror}. Change the permissions of its folder, or "
        f"choose another place with `--store DIR`."
    )


def _sweep(root: Path, folders: Sequence[Path]) -> int:
    """Delete trash, and the temporary files of dead runs in `folders`; return the bytes freed."""
    freed = 0
    for trash in root.glob("[0-9a-f]" * 16 + ".features-trash"):
        before = _size(trash)
        for _ in range(2):  # a run that was just creating a file there can have kept the folder
            shutil.rmtree(trash, ignore_errors=True)
        freed += before - _size(trash)
    for folder in folders:
        for path in folder.glob("*.tmp"):
            with suppress(OSError):
                status = path.stat()
                if _is_stale(path.name, status.st_mtime):
                    path.unlink()
                    freed += status.st_size
    return freed


def _is_stale(name: str, modified: float) -> bool:
    """Whether nobody writes this temporary file any more: it is old, or its process is dead."""
    owner = _TEMPORARY.search(name)
    if owner is None or time.time() - modified > _STALE_AFTER:
        return owner is not None
    # on Windows, os.kill would end the process it asks about
    if owner["host"] != _host() or os.name == "nt":
        return False
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # it lives, and belongs to someone else
    return False


def _host() -> str:
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def _summary(folder: Path) -> EntrySummary | None:
    """One line of the list, or None when a clear has just taken the folder away."""
    facts: dict[str, Any] = {"about": {}, "layer": "", "n_samples": 0, "shard_size": 1}
    problem = ""
    try:
        facts = _read_manifest(folder)
    except FileNotFoundError:
        problem = "it has no manifest yet"
    except (StoreError, _DamagedError) as error:
        problem = str(error)
    try:
        used = max(path.stat().st_mtime for path in [folder, *folder.glob("*")])
    except FileNotFoundError:
        return None
    return EntrySummary(
        key=folder.stem,
        about=facts["about"],
        layer=facts["layer"],
        n_samples=facts["n_samples"],
        n_shards_present=len(list(folder.glob("shard-*.safetensors"))),
        n_shards=math.ceil(facts["n_samples"] / facts["shard_size"]),
        n_bytes=_size(folder),
        last_used=datetime.fromtimestamp(used, UTC),
        problem=problem,
    )


def _size(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total
