"""Features kept on disk: computed once per (data set, encoder, layer), then only read.

::

    ROOT/<key>.features/manifest.json               what the entry holds; written once
                        shard-000000.safetensors    rows 0 … shard_size - 1 of every array
                        shard-000001.safetensors    …
                        *.tmp                       a file being written, or left by a killed run
    ROOT/<token>.features-trash/                    an entry being deleted

Every file is written under another name, flushed to the disk and renamed, so that a reader sees all
of it or nothing. A shard carries its own checksum, row range and cost in its safetensors header:
there is no index for two runs to fight over, and the shards that exist are the files that exist.
Runs that share a store write the same shards, and the last rename wins.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from transferscope.errors import (
    InputError,
    StoreError,
    StoreWarning,
    UnknownNameError,
    first_few,
)
from transferscope.numerics.arrays import NumpyArray
from transferscope.storage import _entry_files
from transferscope.storage._entry_files import DamagedError, Facts
from transferscope.storage.atomic import (
    is_in_use,
    mark_in_use,
    remove_stale_files,
    write_atomically,
)

_ATTEMPTS = 20
_IF_FULL = "Free some with `transferscope cache clear`"
_ELSEWHERE = "choose another folder with store=; what was written before is kept"


@dataclass(frozen=True)
class EntrySummary:
    """One entry of the store, as ``transferscope cache list`` shows it.

    Attributes
    ----------
    key : str
    about : mapping of str to str
        Readable facts of the data set and the encoder.
    layer : str
    n_samples : int
    n_shards_present, n_shards : int
    n_bytes : int
        Of all its files.
    last_used : datetime
        When it was last written or loaded, UTC.
    problem : str
        Why its manifest cannot be read; empty if it can, else the facts are empty.
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
    """One file of the store that cannot be used.

    Attributes
    ----------
    key : str
        Of the entry.
    file : Path
    reason : str
    """

    key: str
    file: Path
    reason: str


class StoreEntry:
    """The shards of one (data set, encoder, layer); get one from `FeatureStore.entry`.

    Parameters
    ----------
    root : Path
        Folder of the store.
    facts : dict
        What the entry is of.

    Attributes
    ----------
    key : str
        Name of the entry, 20 hexadecimal digits.
    folder : Path
        Where its files lie; need not exist yet.
    n_samples, shard_size, n_shards : int
        Rows in all, rows per shard (the last may have fewer), and number of shards.
    """

    def __init__(self, root: Path, facts: Facts) -> None:
        self.key = _entry_files.key_of(facts)
        self.folder = root / f"{self.key}.features"
        self.n_samples = facts["n_samples"]
        self.shard_size = facts["shard_size"]
        self.n_shards = math.ceil(self.n_samples / self.shard_size)
        self._facts = facts
        self._swept = False
        self._mark = self.folder / "manifest.json"

    def __getstate__(self) -> dict[str, object]:
        """For other processes, which may work in another folder."""
        absolute = {"folder": self.folder.absolute(), "_mark": self._mark.absolute()}
        return {**vars(self), **absolute}

    def shard_rows(self, k: int) -> slice:
        """Rows of shard `k`: fixed by its number, so that every run cuts at the same places.

        Parameters
        ----------
        k : int

        Returns
        -------
        slice

        Raises
        ------
        InputError
            If there is no shard `k`.
        """
        if not 0 <= k < self.n_shards:
            raise InputError(
                f"shard {k} does not exist; this entry has shards 0 to {self.n_shards - 1}."
            )
        return slice(k * self.shard_size, min((k + 1) * self.shard_size, self.n_samples))

    def missing(self) -> list[int]:
        """Shards still to be computed: absent ones, and damaged ones with a `StoreWarning`.

        Reads and checks every shard. A damaged manifest is reported too, and written again.

        Returns
        -------
        list of int
            Numbers of the shards.

        Raises
        ------
        StoreError
            If a newer version of transferscope wrote the entry.
        """
        missing: list[int] = []
        damaged: dict[str, list[str]] = {}
        layouts: set[str] = set()
        if _is_no_folder(self.folder):
            damaged["it is no folder"] = [self.folder.name]
            _discard(self.folder)
        try:
            _entry_files.read_manifest(self.folder)
        except FileNotFoundError:
            pass
        except DamagedError as error:
            damaged[str(error)] = ["manifest.json"]
            with suppress(StoreError):  # a store that is read-only can still be read
                self._prepare()
        for k in range(self.n_shards):
            try:
                layouts.add(repr(_layout(self._read(k))))
            except FileNotFoundError:
                missing.append(k)
            except DamagedError as error:
                missing.append(k)
                damaged.setdefault(str(error), []).append(self._path(k).name)
        if len(layouts) > 1:
            damaged["its shards hold different arrays"] = [self.folder.name]
            missing = list(range(self.n_shards))
        for reason, files in damaged.items():
            warnings.warn(
                f"in {self.folder}, {first_few(files)} cannot be used ({reason}) and "
                "will be computed again. If this happens again, check the disk.",
                StoreWarning,
                stacklevel=2,
            )
        return missing

    def hold(self) -> None:
        """Keep the entry from being cleared by another program, as long as this object lives.

        Where the store cannot be written, this does nothing: nobody can clear it either.
        """
        if _is_no_folder(self.folder):
            return
        with suppress(OSError):
            self._mark = mark_in_use(self.folder)
            weakref.finalize(self, _let_go, self._mark)

    def sees_hold(self) -> bool:
        """Whether this process, perhaps on another machine, sees the folder that `hold` marked.

        Returns
        -------
        bool
            Of a copy of the entry that was held: whether what is written to it is seen by its
            holder.
        """
        return self._mark.name != "manifest.json" and self._mark.exists()

    def write(self, k: int, arrays: Mapping[str, NumpyArray], seconds: float) -> None:
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
                    f"array {name!r} must have {rows.stop - rows.start} rows, those of shard {k} "
                    f"({rows.start} to {rows.stop - 1}); its shape is {array.shape}."
                )
        if not arrays or "__metadata__" in arrays:
            raise InputError(
                "arrays must hold at least one array, and none named '__metadata__'; got "
                f"{list(arrays)}."
            )
        parts = _entry_files.shard_parts(arrays, self.key, rows, float(seconds))
        for _ in range(_ATTEMPTS):
            try:
                self._prepare()
                write_atomically(self._path(k), parts, if_full=_IF_FULL, elsewhere=_ELSEWHERE)
                self._touch()
                return
            except StoreError as error:
                # another run can clear the folder while it is written to: make it again
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
        raise StoreError(
            f"{self._path(k)} vanished {_ATTEMPTS} times while it was written. Stop the program "
            "that clears the store, or choose another folder with store=."
        )

    def read(self, k: int) -> dict[str, NumpyArray]:
        """Arrays of shard `k`, checked against its checksum.

        Parameters
        ----------
        k : int

        Returns
        -------
        dict of str to array of shape (rows of the shard, ...)

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
        except DamagedError as error:
            raise self._unusable(k, str(error)) from error

    def load(self, n_shards: int | None = None) -> dict[str, NumpyArray]:
        """All rows of all arrays, checked; takes the memory of the result and of one shard.

        Parameters
        ----------
        n_shards : int, optional
            Only the rows of the first so many shards.

        Returns
        -------
        dict of str to array of shape (n_samples, ...)

        Raises
        ------
        StoreError
            If a shard is absent or damaged, or holds other arrays than the first one.
        """
        whole: dict[str, NumpyArray] = {}
        n_shards = self.n_shards if n_shards is None else min(n_shards, self.n_shards)
        for k in range(n_shards):
            part = self.read(k)
            if k == 0:
                n_rows = self.shard_rows(n_shards - 1).stop
                for name, array in part.items():
                    whole[name] = np.empty((n_rows, *array.shape[1:]), array.dtype)
            if _layout(part) != _layout(whole):
                raise self._unusable(k, f"it holds {_layout(part)}, and shard 0 {_layout(whole)}")
            for name, array in part.items():
                whole[name][self.shard_rows(k)] = array
        self._touch()
        return whole

    def _touch(self) -> None:
        """Note that the entry is used now."""
        for path in (self.folder / "manifest.json", self._mark):
            with suppress(OSError, NotImplementedError):
                os.utime(path, follow_symlinks=False)

    @property
    def seconds(self) -> float:
        """Computing time of the shards that exist, in seconds, whichever run wrote them."""
        return sum(_entry_files.read_seconds(self._path(k)) for k in range(self.n_shards))

    @property
    def n_rows(self) -> int:
        """Rows of the shards that exist, whichever run wrote them."""
        there = (self.shard_rows(k) for k in range(self.n_shards) if self._path(k).exists())
        return sum(rows.stop - rows.start for rows in there)

    def _path(self, k: int) -> Path:
        return self.folder / f"shard-{k:06d}.safetensors"

    def _read(self, k: int) -> dict[str, NumpyArray]:
        return _entry_files.read_shard(self._path(k), self.key, self.shard_rows(k))

    def _unusable(self, k: int, reason: str) -> StoreError:
        return StoreError(
            f"{self._path(k)} cannot be used: {reason}. Run again to compute it again, or "
            f"delete the entry with `transferscope cache clear {self.key}`."
        )

    def _prepare(self) -> None:
        """Write the manifest where there is none; the first time, clean up after killed runs."""
        try:
            _entry_files.read_manifest(self.folder)
        except (FileNotFoundError, DamagedError):
            write_atomically(
                self.folder / "manifest.json",
                _entry_files.manifest_text(self._facts),
                if_full=_IF_FULL,
                elsewhere=_ELSEWHERE,
            )
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
                f"folder {root} cannot be found: this user has no home folder. Choose another "
                "folder with store=."
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

        Returns
        -------
        StoreEntry

        Raises
        ------
        InputError
            If `n_samples` or `shard_size` is below 1.
        """
        if n_samples < 1 or shard_size < 1:
            raise InputError(
                f"n_samples and shard_size must be at least 1; got {n_samples} and {shard_size}. "
                "Give the size of the data set and, for example, 1024."
            )
        facts = Facts(
            format=_entry_files.FORMAT,
            dataset=dataset,
            encoder=encoder,
            layer=layer,
            n_samples=int(n_samples),
            shard_size=int(shard_size),
            about=dict(about or {}),
        )
        return StoreEntry(self.root, facts)

    def entries(self) -> list[EntrySummary]:
        """What the store holds; shards are counted, not checked.

        Returns
        -------
        list of EntrySummary
            Last used first.
        """
        found = [summary for folder in self._folders() if (summary := _summary(folder))]
        return sorted(found, key=lambda summary: summary.last_used, reverse=True)

    def clear(self, keys: Sequence[str] | None = None) -> int:
        """Delete entries, and what killed runs left behind.

        An entry is renamed before it is deleted, so that no run ever sees half of one; a run that
        is writing to it begins it again.

        Parameters
        ----------
        keys : sequence of str, optional
            Keys, or beginnings of keys. Without it, everything goes. Entries that a run of another
            process uses stay.

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
                    f"key {key!r} is the beginning of no key in {self.root}. "
                    "`transferscope cache list` shows the keys."
                )
        for folder in folders:
            if is_in_use(folder):
                continue
            if keys is None or folder.stem.startswith(tuple(keys)):
                try:
                    folder.rename(self.root / f"{secrets.token_hex(8)}.features-trash")
                except FileNotFoundError:
                    pass  # another clear was faster
                except OSError as error:
                    raise StoreError(
                        f"{folder} cannot be deleted: {error.strerror}. Change its permissions, "
                        "or delete it by hand."
                    ) from error
        return _sweep(self.root, self._folders())

    def verify(self) -> list[Damage]:
        """Read every file of every entry and list the damaged ones; deletes nothing.

        Returns
        -------
        list of Damage
        """
        damages: list[Damage] = []
        for folder in self._folders():
            if _is_no_folder(folder):
                damages.append(Damage(folder.stem, folder, "it is no folder"))
                continue
            manifest, *shards = folder / "manifest.json", *sorted(folder.glob("shard-*"))
            entry = None
            try:
                entry = StoreEntry(self.root, _entry_files.read_manifest(folder))
            except FileNotFoundError:
                pass  # a run that is only beginning, or was killed then
            except StoreError as error:
                damages.append(Damage(folder.stem, manifest, str(error)))
                continue  # shards of a newer version are not checked
            except DamagedError as error:
                damages.append(Damage(folder.stem, manifest, str(error)))
            for path in shards:
                if path.suffix != ".safetensors":
                    continue
                try:
                    k = int(path.stem.removeprefix("shard-"))
                    rows = None if entry is None else entry.shard_rows(k)
                    _entry_files.read_shard(path, folder.stem, rows)
                except FileNotFoundError:
                    pass  # cleared meanwhile
                except (ValueError, DamagedError) as error:
                    damages.append(Damage(folder.stem, path, str(error)))
        return damages

    def _folders(self) -> list[Path]:
        try:
            return sorted(self.root.glob("[0-9a-f]" * 20 + ".features"))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"folder {self.root} cannot be read: {error}. Choose another folder with store=."
            ) from error


def _layout(arrays: Mapping[str, NumpyArray]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (array.dtype.name, array.shape[1:]) for name, array in sorted(arrays.items())}


def _is_no_folder(path: Path) -> bool:
    """Whether something else is there: a file, or a link, which could lead out of the store."""
    with suppress(OSError):
        return path.is_symlink() or (path.exists() and not path.is_dir())
    return False


def _discard(path: Path) -> None:
    """Delete a file, or a link but not what it leads to, where the store can be written."""
    with suppress(OSError):
        path.unlink()


def _let_go(mark: Path) -> None:
    """End what `StoreEntry.hold` began."""
    with suppress(OSError):
        mark.unlink()
        mark.parent.rmdir()  # only if nothing was written


def _sweep(root: Path, folders: Sequence[Path]) -> int:
    """Delete trash, and the temporary files of killed runs in `folders`; return the bytes freed."""
    freed = 0
    for trash in root.glob("[0-9a-f]" * 16 + ".features-trash"):
        if _is_no_folder(trash):
            _discard(trash)
            continue
        before = _size(trash)
        for _ in range(2):  # a run that was just creating a file there can have kept the folder
            shutil.rmtree(trash, ignore_errors=True)
        freed += before - _size(trash)
    return freed + sum(remove_stale_files(one) for one in folders if not _is_no_folder(one))


def _summary(folder: Path) -> EntrySummary | None:
    """One line of the list, or None when a clear has just taken the folder away."""
    about: dict[str, str] = {}
    layer, problem, n_samples, n_shards = "", "", 0, 0
    try:
        facts = _entry_files.read_manifest(folder)
        about, layer, n_samples = facts["about"], facts["layer"], facts["n_samples"]
        n_shards = math.ceil(n_samples / facts["shard_size"])
    except FileNotFoundError:
        problem = "it has no manifest yet"
    except (StoreError, DamagedError) as error:
        problem = str(error)
    try:
        used = max(path.stat().st_mtime for path in [folder, *folder.glob("*")])
    except FileNotFoundError:
        return None
    return EntrySummary(
        key=folder.stem,
        about=about,
        layer=layer,
        n_samples=n_samples,
        n_shards_present=len(list(folder.glob("shard-*.safetensors"))),
        n_shards=n_shards,
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
