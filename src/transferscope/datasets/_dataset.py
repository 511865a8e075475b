"""The one record that every data set becomes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from transferscope.datasets._labels import RequestedTask, Task, encode_labels
from transferscope.datasets._samples import Modality, Sample, Samples
from transferscope.errors import DatasetError

#: Part of every fingerprint. Raise it when the decoding rules change: features then change too.
_FINGERPRINT_VERSION = "transferscope-dataset-1"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Request:
    """What the caller of `open_dataset` asked of a source; the same for all readers."""

    split: str | None = None
    label_column: str | None = None
    input_column: str | None = None
    task: RequestedTask | None = None
    skip_unreadable: bool = False
    #: Columns are named as those of another data set are, and labels may be absent.
    reference: bool = False

    def of_columns(self, columns: Iterable[str]) -> Request:
        """The same; of a reference without the names that it does not have."""
        if not self.reference:
            return self
        present = set(columns)

        def kept(named: str | None) -> str | None:
            parts = {part.strip() for part in (named or "").split(",")}
            return named if named in present or parts <= present else None

        return replace(
            self, label_column=kept(self.label_column), input_column=kept(self.input_column)
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples, decoded one by one on demand. Made by `open_dataset`.

    Indexing returns the decoded sample: an RGB `PIL.Image`, a text or a NumPy vector, by
    `modality`. A text is a `str`, a pair of them, or a `Word` of a sentence. Indexing is safe from
    many threads and raises `DatasetError` for an unreadable image.

    Parameters
    ----------
    name : str
        What to call it in reports.
    task : {"classification", "regression", "multilabel"}
        What the labels mean.
    labels : ndarray, read-only
        Classification: (n,) int64 ids in 0..C-1. Regression: (n,) or (n, k) float64.
        Multi-label: (n, C) float64 of 0 and 1.
    class_names : tuple of str
        One name per class id; empty for regression.
    split : str
        Which part of the source this is; ``"all"`` where the source has no parts.
    skipped : tuple of str
        Paths of samples that were left out because they are unreadable.
    """

    name: str
    task: Task
    labels: npt.NDArray[Any] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    split: str
    skipped: tuple[str, ...] = ()
    _samples: Samples = field(repr=False, kw_only=True)
    # which of the samples; a subset shares them and holds only other indices
    _indices: npt.NDArray[np.int64] = field(repr=False, kw_only=True)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[int(self._indices[index])]

    @property
    def modality(self) -> Modality:
        """What a sample is: ``"image"``, ``"text"`` or ``"array"``."""
        return self._samples.modality

    @property
    def n_classes(self) -> int:
        """Number of classes, 0 for regression."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of samples (as stored, in order), labels and class names.

        Equal content gives an equal fingerprint wherever it lies. Computed when first asked for:
        it reads every sample of this data set once, and none that `subset` left out.
        """
        summary = [_FINGERPRINT_VERSION, self.modality, self.task, *self.class_names]
        whole = hashlib.blake2b(json.dumps(summary).encode(), digest_size=16)
        for digests in map_blocks(self._digests, self._indices):
            whole.update(digests)
        whole.update(str(self.labels.shape).encode())
        whole.update(self.labels.astype(self.labels.dtype.newbyteorder("<")).tobytes())
        return whole.hexdigest()

    def _digests(self, indices: npt.NDArray[np.int64]) -> bytes:
        digests = []
        for index in indices.tolist():
            content: bytes | npt.NDArray[Any] | memoryview = self._samples.content(index)
            one = hashlib.blake2b(digest_size=16)
            if isinstance(content, np.ndarray):
                one.update(f"{content.dtype.str}{content.shape}".encode())
                content = np.ascontiguousarray(content).data
            one.update(content)
            digests.append(one.digest())
        return b"".join(digests)

    def subset(self, indices: npt.ArrayLike) -> Dataset:
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
            proportion to what each class has beyond them. Regression and multi-label: any samples.
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
        classes = self.labels if self.task == "classification" else np.zeros(len(self), np.int64)
        counts = np.bincount(classes, minlength=1)
        keep = counts
        if per_class is not None:
            if self.task != "classification" or per_class < 2:
                raise DatasetError(
                    "per_class needs classification, and at least 2 samples per class; got "
                    f"per_class={per_class} for {self.task}. Use max_samples, or a larger value."
                )
            keep = np.minimum(keep, per_class)
        if max_samples is not None and max_samples < keep.sum():
            floor = np.minimum(keep, 2)
            if max_samples < floor.sum():
                raise DatasetError(
                    f"max_samples must leave two samples per class: {self.name} needs at least "
                    f"{floor.sum()}, got {max_samples}. Raise it or leave it out."
                )
            # largest remainders, in integers, so that the sum is exact
            spare, rest = keep - floor, int(max_samples - floor.sum())
            extra, remainder = np.divmod(spare * rest, int(spare.sum()))
            last = np.argsort(-remainder, kind="stable")[: rest - int(extra.sum())]
            extra[last] += 1
            keep = floor + extra
        if keep.sum() == len(self):
            return self
        order = np.random.default_rng(seed).permutation(len(self))
        by_class = order[np.argsort(classes[order], kind="stable")]
        place_in_class = np.arange(len(self)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.subset(np.sort(by_class[place_in_class < np.repeat(keep, counts)]))

    def without_unreadable(self) -> Dataset:
        """Decode every sample once, on several threads, and leave out those that cannot be.

        Returns
        -------
        Dataset
            With the paths of what was left out in `skipped`.
        """

        def readable(positions: npt.NDArray[np.int64]) -> list[bool]:
            return [self._is_readable(position) for position in positions.tolist()]

        kept = [ok for block in map_blocks(readable, np.arange(len(self))) for ok in block]
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
    labels: Any,
    *,
    split: str = "all",
    task: RequestedTask | None = None,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Join samples and labels of any form to a `Dataset`; shared by all readers.

    Raises
    ------
    DatasetError
        If there are no samples, the lengths differ, or the labels do not suit the task.
    """
    if len(samples) == 0:
        raise DatasetError(
            f"A data set needs samples; {name} is empty. Check the path or the split."
        )
    if len(samples) != len(labels):
        raise DatasetError(
            f"There must be one label per sample; {name} has {len(samples)} samples and "
            f"{len(labels)} labels. Make the lengths agree."
        )
    kind, encoded, names = encode_labels(
        labels, task=task, class_names=class_names, where=f"the labels of {name}"
    )
    return Dataset(
        name, kind, encoded, names, split, _samples=samples, _indices=np.arange(len(samples))
    )


def choose_split(requested: str | None, available: Iterable[str], *, source: str) -> str:
    """Find the part of a source that was asked for; by default its training part.

    ``val``, ``valid``, ``validation`` and ``dev`` mean the same.

    Raises
    ------
    DatasetError
        If there is no such part, or none was asked for and it is not clear which to take.
    """
    names = list(available)
    validation = {"val", "valid", "validation", "dev"}
    if requested is None:
        if "train" in names:
            return "train"
        if len(names) == 1:
            return names[0]
        raise DatasetError(
            f"{source} has several splits and none is called train: {', '.join(names)}. "
            "Name one with split=... (--split)."
        )
    for name in names:
        if name == requested or (name in validation and requested in validation):
            return name
    raise DatasetError(
        f"Split {requested!r} does not exist in {source}, which has "
        f"{', '.join(names) or 'no splits'}. {'Choose one of them' if names else 'Leave it out'}."
    )


def map_blocks(
    function: Callable[[npt.NDArray[np.int64]], _T], indices: npt.NDArray[np.int64]
) -> list[_T]:
    """Apply a function to blocks of indices on a few threads; results in order.

    Blocks, because one task per sample costs more than hashing a small one.
    """
    blocks = np.split(indices, np.arange(64, len(indices), 64))
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(function, blocks))
