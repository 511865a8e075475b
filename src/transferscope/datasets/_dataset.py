"""The one record that every data set becomes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from transferscope.datasets._depth import (
    Levels,
    brightest_of,
    brightest_pixels,
    describe,
    has_more_bits,
    to_8_bits,
    white_points,
)
from transferscope.datasets._images import from_pixels
from transferscope.datasets._labels import encode_labels
from transferscope.datasets._request import RequestedTask
from transferscope.datasets._samples import Modality, Sample, Samples
from transferscope.datasets._stratified import MINIMUM_PER_CLASS, draw_part
from transferscope.errors import DatasetError, first_few
from transferscope.numerics.arrays import ArrayLike, NumpyArray
from transferscope.numerics.targets import TaskType

#: Part of every fingerprint. Raise it when the decoding rules change: features then change too.
_FINGERPRINT_VERSION = "transferscope-dataset-1"

#: Images that are looked at when a data set is opened, evenly spaced.
_LOOKED_AT = 8

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples, decoded one by one on demand, and their labels. Made by `open_dataset`.

    Indexing returns the decoded sample: an RGB `PIL.Image`, a text or a NumPy vector, by
    `modality`. A text is a `str`, a pair of them, or a `Word` of a sentence. Indexing is safe from
    many threads and raises `DatasetError` for an unreadable image.

    Parameters
    ----------
    name : str
        What to call it in reports.
    task : {"classification", "regression", "multilabel"} or None
        What the labels mean; None without labels.
    labels : ndarray, read-only, or None
        Classification: (n,) int64 ids in 0..C-1. Regression: (n,) or (n, k) float64.
        Multi-label: (n, C) float64 of 0 and 1. None for a reference without labels, which only
        `open_reference` returns.
    class_names : tuple of str
        One name per class id; empty for regression and without labels.
    split : str
        Which part of the source this is; ``"all"`` where the source has no parts.
    skipped : tuple of str
        Paths of samples that were left out because they are unreadable.

    Notes
    -----
    `fingerprint` is the same for the same content, in whatever place. Each time it is asked for it
    reads every sample of this data set once, and none that `subset` left out; samples may have
    changed meanwhile.
    """

    name: str
    task: TaskType | None
    labels: NumpyArray | None = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    split: str
    skipped: tuple[str, ...] = ()
    _samples: Samples = field(repr=False, kw_only=True)
    # which of the samples; a subset shares them and holds only other indices
    _indices: npt.NDArray[np.int64] = field(repr=False, kw_only=True)
    _notes: tuple[str, ...] = field(default=(), repr=False, kw_only=True)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        at = int(self._indices[index])
        sample = self._samples[at]
        if self.modality == "image" and isinstance(sample, np.ndarray):
            whites = white_points(self._levels, self.name)
            return from_pixels(to_8_bits(sample, whites, where=self._samples.where(at)))
        return sample

    def where(self, index: int) -> str:
        """The file of a sample, or its place in the source.

        Parameters
        ----------
        index : int

        Returns
        -------
        str
        """
        return self._samples.where(int(self._indices[index]))

    @property
    def modality(self) -> Modality:
        """What a sample is: ``"image"``, ``"text"`` or ``"array"``."""
        return self._samples.modality

    @property
    def n_classes(self) -> int:
        """Number of classes, 0 for regression and without labels."""
        return len(self.class_names)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed or left out when the source was read, a line each."""
        levels: Levels = vars(self).get("_levels", {})  # nothing is assumed before it is needed
        return (*self._notes, *describe(levels, white_points(levels, self.name)))

    @cached_property
    def _levels(self) -> Levels:
        """The brightest of the pixels of more than 8 bits."""
        blocks = _map_blocks(partial(brightest_pixels, self._samples), self._indices)
        return brightest_of(blocks)

    def look_at_depth(self) -> None:
        """Find what is white now, if one of a few images has more than 8 bits: for the notes."""
        if self.modality == "image":
            some = self._indices[:: -(-len(self) // _LOOKED_AT)]
            if brightest_pixels(self._samples, some):
                white_points(self._levels, self.name)

    @property
    def fingerprint(self) -> str:
        """Hex digest of samples (as stored, in order), labels and class names, as they are now."""
        summary = [_FINGERPRINT_VERSION, self.modality, self.task, *self.class_names]
        whole = hashlib.blake2b(json.dumps(summary).encode(), digest_size=16)
        blocks = _map_blocks(self._digests, self._indices)
        for digests, _ in blocks:
            whole.update(digests)
        if any(deep for _, deep in blocks):
            vars(self).pop("_levels", None)  # samples may have changed
            whites = white_points(self._levels, self.name)
            if whites.items() - {("integer", 65535.0)}:  # then pixels are what they always were
                whole.update(json.dumps(whites).encode())
        if self.labels is not None:
            whole.update(str(self.labels.shape).encode())
            whole.update(self.labels.astype(self.labels.dtype.newbyteorder("<")).tobytes())
        return whole.hexdigest()

    def digest(self, index: int) -> str:
        """Hex digest of one sample as stored, as it is now.

        Parameters
        ----------
        index : int

        Returns
        -------
        str

        Raises
        ------
        DatasetError
            If it cannot be read.
        """
        return self._digests(self._indices[[index]])[0].hex()

    def _digests(self, indices: npt.NDArray[np.int64]) -> tuple[bytes, bool]:
        """Digests of samples, and whether one is an image of more than 8 bits."""
        digests, deep = [], False
        for index in indices.tolist():
            content = self._samples.content(index)
            deep |= self.modality == "image" and has_more_bits(content)
            one = hashlib.blake2b(digest_size=16)
            if isinstance(content, np.ndarray):
                one.update(f"{content.dtype.str}{content.shape}".encode())
                one.update(np.ascontiguousarray(content).data)
            else:
                one.update(content)
            digests.append(one.digest())
        return b"".join(digests), deep

    def require_labels(self) -> tuple[TaskType, NumpyArray]:
        """Task and labels, where a computation cannot do without.

        Returns
        -------
        task : {"classification", "regression", "multilabel"}
        labels : ndarray, read-only
            As `labels`.

        Raises
        ------
        DatasetError
            If this data set has no labels.
        """
        if self.task is None or self.labels is None:
            raise DatasetError(
                f"{self.name} has no labels, and every sample needs one here; only a reference may "
                "be without. Add labels, or use the data set as a reference."
            )
        return self.task, self.labels

    def subset(self, indices: ArrayLike) -> Dataset:
        """Keep the samples at these positions, in the order given.

        Parameters
        ----------
        indices : array-like of int, or boolean mask of shape (n,)

        Returns
        -------
        Dataset
            It shares the samples with this one; nothing is read or copied but labels.

        Raises
        ------
        IndexError
            If a position does not exist.
        """
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        labels = None
        if self.labels is not None:
            labels = self.labels[chosen]
            labels.setflags(write=False)
        return replace(self, labels=labels, _indices=self._indices[chosen])

    def subsample(
        self, max_samples: int | None = None, per_class: int | None = None, seed: int = 0
    ) -> Dataset:
        """Draw a random part that keeps the order, and for classification the class proportions.

        Parameters
        ----------
        max_samples : int or None
            Keep this many in all. Every class keeps at least two; the rest is shared out in
            proportion to what each class has beyond them. Without classes: any samples.
        per_class : int or None
            Keep at most this many of each class, before `max_samples` applies.
        seed : int
            The same seed draws the same samples, and of a larger number mostly the same and more.

        Returns
        -------
        Dataset
            This very data set if nothing has to go.

        Raises
        ------
        DatasetError
            If `max_samples` leaves fewer than two samples per class, or `per_class` is below two
            or given for anything but classification.
        """
        classes = np.zeros(len(self), dtype=np.int64)
        if self.labels is not None and self.task == "classification":
            classes = self.labels
        elif per_class is not None:
            raise DatasetError(
                f"per_class needs classes; got per_class={per_class} for "
                f"{self.task or 'samples without labels'}. Use max_samples."
            )
        if per_class is not None and per_class < MINIMUM_PER_CLASS:
            raise DatasetError(
                f"per_class must be at least {MINIMUM_PER_CLASS}; got {per_class}. Raise it or "
                "leave it out."
            )
        smallest = np.minimum(np.bincount(classes), MINIMUM_PER_CLASS).sum()
        if max_samples is not None and max_samples < smallest:
            raise DatasetError(
                f"max_samples must leave {MINIMUM_PER_CLASS} samples per class: {self.name} needs "
                f"at least {smallest}, got {max_samples}. Raise it or leave it out."
            )
        rows = draw_part(classes, max_samples=max_samples, per_class=per_class, seed=seed)
        return self if len(rows) == len(self) else self.subset(rows)

    def without_empty_classes(self) -> Dataset:
        """Leave out the names of classes that no sample has, as nothing can be said of them.

        Returns
        -------
        Dataset
            This very data set if every class has a sample; else with a line more in `notes`.
        """
        if self.labels is None or self.task != "classification":
            return self
        counts = np.bincount(self.labels, minlength=self.n_classes)
        if counts.all():
            return self
        labels = np.cumsum(counts > 0)[self.labels] - 1
        labels.setflags(write=False)
        names = np.array(self.class_names, dtype=object)
        empty = names[counts == 0]
        note = f"classes without samples, left out: {len(empty)} ({first_few(empty)})"
        return replace(
            self, labels=labels, class_names=tuple(names[counts > 0]), _notes=(*self._notes, note)
        )

    def without_unreadable(self) -> Dataset:
        """Decode every sample once, on several threads, and leave out those that cannot be.

        Returns
        -------
        Dataset
            With the paths of what was left out in `skipped`.
        """

        def readable(positions: npt.NDArray[np.int64]) -> list[bool]:
            return [self._is_readable(position) for position in positions.tolist()]

        kept = [ok for block in _map_blocks(readable, np.arange(len(self))) for ok in block]
        skipped = [
            self._samples.where(int(self._indices[i])) for i, ok in enumerate(kept) if not ok
        ]
        if not skipped:
            return self
        return replace(self.subset(np.array(kept, dtype=bool)), skipped=(*self.skipped, *skipped))

    def _is_readable(self, position: int) -> bool:
        try:
            self[position]
        except DatasetError:
            return False
        return True


def make_dataset(
    name: str,
    samples: Samples,
    labels: Sized | None,
    *,
    split: str = "all",
    task: RequestedTask | None = None,
    class_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """Join samples and labels of any form to a `Dataset`; shared by all readers.

    Parameters
    ----------
    name : str
    samples : Samples
    labels : array-like of shape (n,) or (n, k), or None
        None: the data set has no labels.
    split : str
    task, class_names
        As `encode_labels` takes them.
    notes : sequence of str
        As `Dataset.notes`.

    Raises
    ------
    DatasetError
        If there are no samples, the lengths differ, or the labels do not suit the task.
    """
    if len(samples) == 0:
        raise DatasetError(
            f"{name} is empty, and a data set needs samples. Check the path or the split."
        )
    meaning: TaskType | None = None
    encoded: NumpyArray | None = None
    names: tuple[str, ...] = ()
    if labels is not None:
        n_labels = len(labels) if getattr(labels, "ndim", 1) else 0  # a single value in an array
        if len(samples) != n_labels:
            raise DatasetError(
                f"{name} has {len(samples)} samples and {n_labels} labels, and every sample needs "
                "one. Make the lengths agree."
            )
        meaning, encoded, names = encode_labels(
            labels, task=task, class_names=class_names, where=f"the labels of {name}"
        )
    return Dataset(
        *(name, meaning, encoded, names, split),
        _notes=tuple(notes),
        _samples=samples,
        _indices=np.arange(len(samples)),
    )


def _map_blocks(
    function: Callable[[npt.NDArray[np.int64]], _T], indices: npt.NDArray[np.int64]
) -> list[_T]:
    """Apply a function to blocks of indices on a few threads; results in order.

    Blocks, because one call per sample costs more than hashing a small one.
    """
    blocks = np.split(indices, np.arange(64, len(indices), 64))
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(function, blocks))
