"""Where the features of one layer of an encoder go: into the feature store, or into moments."""

from __future__ import annotations

import copy
import os
import secrets
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeAlias, TypedDict

import numpy as np

from transferscope.datasets import Dataset
from transferscope.embedding import INFLUENCE_SAMPLES, ClassMoments, Embedding, TargetMoments
from transferscope.encoders import Embedded, Encoder
from transferscope.errors import FeatureError, InputError, StoreWarning, TransferscopeError
from transferscope.extraction import _batches
from transferscope.extraction._batches import (
    cut_into_ranges,
    least_length,
    n_shards,
    shard_rows,
)
from transferscope.numerics import arrays
from transferscope.numerics.arrays import NumpyArray
from transferscope.numerics.sampling import stratified_rows
from transferscope.storage.feature_store import FeatureStore, StoreEntry

#: Where features are kept: ``"cache"`` is the user's cache folder, anything else a folder or a
#: store; None: nothing is stored.
Store: TypeAlias = str | os.PathLike[str] | FeatureStore | None


def open_store(store: Store) -> FeatureStore | None:
    """The feature store that a caller named.

    Parameters
    ----------
    store : "cache", path, FeatureStore or None
        ``"cache"`` is the user's cache folder; None: nothing is stored.

    Returns
    -------
    FeatureStore or None

    Raises
    ------
    InputError
        If it is "cache" or "none" in another spelling, or empty.
    """
    if store is None or isinstance(store, FeatureStore):
        return store
    if (
        isinstance(store, str)
        and store != "cache"
        and store.strip().casefold() in ("cache", "none", "")
    ):
        raise InputError(
            f'store {store!r} is neither "cache", the user\'s cache folder, nor None, which stores '
            f"nothing. Write one of these; for a folder of this name write ./{store}."
        )
    return FeatureStore(None if store == "cache" else store)


class Targets(TypedDict, total=False):
    """The labels of a data set under the name that `Embedding` has for them; empty without."""

    labels: NumpyArray
    targets: NumpyArray


def _targets(task: str | None, labels: NumpyArray | None) -> Targets:
    if labels is None:
        return {}
    return {"labels": labels} if task == "classification" else {"targets": labels}


class ReferenceTask(TypedDict, total=False):
    """What `Embedding` takes of a reference task."""

    reference_features: NumpyArray
    reference_labels: NumpyArray | None
    #: why there are none
    reference_error: FeatureError


class LayerArrays(TypedDict, total=False):
    """Arrays of one layer, a row per sample; what an encoder does not give is absent."""

    features: NumpyArray
    logits: NumpyArray
    #: tokens that were cut off
    truncated: NumpyArray


class Sink(Protocol):
    """Where the features of one layer go, shard by shard."""

    def missing(self) -> list[int]:
        """Shards that are still to be computed."""

    def write(self, shard: int, outputs: Mapping[str, NumpyArray], seconds: float) -> None:
        """Take the features (and logits) of a shard."""

    def read(self) -> tuple[LayerArrays, NumpyArray | None]:
        """What was kept, and the labels of these samples."""

    def embedding(self, seed: int, reference: ReferenceTask) -> Embedding:
        """What was taken, as an embedding, with a reference task."""

    @property
    def rows(self) -> NumpyArray:
        """Which samples of the data set were kept."""

    @property
    def feature_dim(self) -> int:
        """Dimension of the features."""

    @property
    def seconds(self) -> float:
        """Computing time of `n_rows` samples, in seconds."""

    @property
    def n_rows(self) -> int:
        """Samples that were computed."""

    @property
    def truncated(self) -> tuple[int, int] | None:
        """How many samples lost tokens and at most how many; None where nothing can be cut off."""


@dataclass
class Source:
    """A data set as one run sees it: its fingerprint is taken once, and anew for every run."""

    dataset: Dataset

    @cached_property
    def fingerprint(self) -> str:
        """That of the data set, when it was first needed."""
        return self.dataset.fingerprint


def store_key(encoder: Encoder, device: str, *, exact: bool = False) -> str | None:
    """Name under which the features of an encoder are found again.

    Parameters
    ----------
    encoder : Encoder
    device : str
        Where it runs.
    exact : bool, default False
        Whether it is to compute as it was built; an encoder that knows of no other way always does.

    Returns
    -------
    str or None
        None: another run cannot know that it is the same encoder.
    """
    fingerprint = encoder.fingerprint
    # in bfloat16 on a GPU features come out rounded: not the same features as on the CPU
    kind = device.partition(":")[0]
    if fingerprint is None:
        return None
    way = "-exact" if exact and quicker_pass(encoder) is not None else ""
    return f"{fingerprint}{way}" if kind == "cpu" else f"{fingerprint}-{kind}{way}"


def quicker_pass(encoder: Encoder) -> Callable[..., Callable[[Any], Embedded]] | None:
    """`fast_embed` of an encoder, where it is the quicker form of the very `embed` it has.

    A wrapper or a subclass that changes `embed` alone still has that of what it wraps or extends,
    and its features would be others.
    """
    owner = next((one for one in type(encoder).__mro__ if "embed" in vars(one)), object)
    if "fast_embed" not in vars(owner) or "embed" in getattr(encoder, "__dict__", {}):
        return None
    found: Callable[..., Callable[[Any], Embedded]] = getattr(encoder, "fast_embed")  # noqa: B009
    return found


class StoreSink:
    """Keeps all samples in the feature store; without a key until the sink is released."""

    def __init__(
        self,
        source: Source,
        encoder: str,
        key: str | None,
        layer: str,
        store: FeatureStore,
        *,
        n_shards: int | None = None,
    ) -> None:
        self._dataset = source.dataset
        self._n_shards = n_shards
        about = {"dataset": self._dataset.name, "encoder": encoder}
        self.entry: StoreEntry = store.entry(
            dataset=source.fingerprint,
            encoder=key or f"one run: {secrets.token_hex(16)}",
            layer=layer,
            n_samples=len(self._dataset),
            shard_size=_batches.SHARD_ROWS,
            about=about if key else {**about, "kept": "while one run needs it"},
        )
        if key is None:
            # of the entry, and before it is held: then it is let go before it is deleted
            weakref.finalize(self.entry, _delete, store, self.entry.key)
        self.truncated: tuple[int, int] | None = None

    def missing(self) -> list[int]:
        """Shards that are absent or damaged; from now on nobody clears the others."""
        self.entry.hold()
        shards = range(self.entry.n_shards)[: self._n_shards]
        missing = [k for k in self.entry.missing() if k in shards]
        present = next((k for k in shards if k not in missing), None)
        if present is None or _are_features(self.entry.read(present)):
            return missing
        warnings.warn(
            f"{self.entry.folder} holds no features and will be computed again. If this happens "
            "again, clear the store.",
            StoreWarning,
            stacklevel=2,
        )
        return list(shards)

    def write(self, shard: int, outputs: Mapping[str, NumpyArray], seconds: float) -> None:
        """Write a shard to the store."""
        self.entry.write(shard, outputs, seconds)

    def read(self) -> tuple[LayerArrays, NumpyArray | None]:
        """All samples, read from the store."""
        kept = _layer_arrays(self.entry.load(self._n_shards))
        if "truncated" in kept:
            self.truncated = _count_truncated(kept["truncated"])
        labels = self._dataset.labels
        return kept, None if labels is None else labels[: len(kept["features"])]

    def embedding(self, seed: int, reference: ReferenceTask) -> Embedding:
        """All samples, read from the store."""
        kept, labels = self.read()
        return Embedding(
            kept["features"],
            source_logits=kept.get("logits"),
            seed=seed,
            **_targets(self._dataset.task, labels),
            **reference,
        )

    @property
    def rows(self) -> NumpyArray:
        """All samples, or those of the first shards."""
        last = self.entry.n_shards if self._n_shards is None else self._n_shards
        return np.arange(shard_rows(last - 1, len(self._dataset)).stop)

    @property
    def feature_dim(self) -> int:
        """Columns of the first shard."""
        return int(self.entry.read(0)["features"].shape[1])

    @property
    def seconds(self) -> float:
        """Computing time, in seconds, of whichever run."""
        return self.entry.seconds

    @property
    def n_rows(self) -> int:
        """Samples that are in the store."""
        return self.entry.n_rows


@dataclass
class _SourceCounts:
    """What `leep` and `nce` need of the encoder's own head, summed over all samples.

    Attributes
    ----------
    joint : (C, n_source_classes) float64
        Sum of the source probabilities per class.
    counts : (C, n_source_classes) float64
        How often each class met each most probable source class.
    """

    joint: NumpyArray
    counts: NumpyArray

    @classmethod
    def of(cls, logits: NumpyArray, labels: NumpyArray, n_classes: int) -> _SourceCounts:
        theta = arrays.softmax(arrays.as_float64(logits))
        n_source = theta.shape[1]
        pairs = labels * n_source + theta.argmax(axis=1)
        counts = np.bincount(pairs, minlength=n_classes * n_source).reshape(n_classes, n_source)
        return cls(arrays.class_sums(theta, labels, n_classes), counts.astype(np.float64))

    def merge(self, other: _SourceCounts) -> _SourceCounts:
        # not in place: what another process sent is read-only
        return _SourceCounts(self.joint + other.joint, self.counts + other.counts)


@dataclass
class Part:
    """What is kept of some samples that stand one after the other: sums, and the rows of a few."""

    moments: ClassMoments | TargetMoments | None = None
    source: _SourceCounts | None = None
    kept: dict[str, list[NumpyArray]] = field(default_factory=dict)
    truncated: tuple[int, int] | None = None
    seconds: float = 0.0
    feature_dim: int = 0

    def add(self, later: Part) -> None:
        """Add what was kept of the samples that follow.

        Parameters
        ----------
        later : Part
        """
        if self.moments is None or later.moments is None:
            self.moments = self.moments or later.moments
        else:  # both are of one kind: that of the labels
            self.moments = self.moments.merge(later.moments)  # type: ignore[arg-type]
        if self.source is not None and later.source is not None:
            self.source = self.source.merge(later.source)
        else:
            self.source = self.source or later.source
        for name, values in later.kept.items():
            self.kept.setdefault(name, []).extend(values)
        if later.truncated is not None:
            before = self.truncated or (0, 0)
            count, longest = later.truncated
            self.truncated = (before[0] + count, max(before[1], longest))
        self.seconds += later.seconds
        self.feature_dim = later.feature_dim or self.feature_dim


class StreamSink:
    """Keeps moments of all samples and the features of a stratified few, in memory.

    Sums are taken over ranges of shards, and these are added up in order: the same numbers come
    out where the ranges were computed by several processes.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.n_rows = self._n_samples = len(dataset)
        self._labels: NumpyArray | None = dataset.labels
        self._targets = _targets(dataset.task, dataset.labels)
        classes = None
        if "labels" in self._targets:
            # numbered without gaps, as Embedding numbers them
            classes = np.unique(self._targets["labels"], return_inverse=True)[1]
            self._targets = {"labels": classes}
        elif "targets" in self._targets:
            self._targets = {"targets": self._targets["targets"].reshape(len(dataset), -1)}
        self._rows = stratified_rows(classes, len(dataset), INFLUENCE_SAMPLES, seed)
        if classes is not None:
            # a class too rare for a share of the sample is in it all the same: the sample's
            # classes are those of the moments
            first = np.unique(classes, return_index=True)[1]
            rare = np.bincount(classes[self._rows], minlength=len(first)) == 0
            self._rows = np.union1d(self._rows, first[rare])
        self.whole, self._part = Part(), Part()
        self._ends = {shards[-1] for shards in self.ranges()}

    def emptied(self) -> StreamSink:
        """One of the same data set that has taken nothing yet.

        Returns
        -------
        StreamSink
        """
        other = copy.copy(self)
        other.whole, other._part = Part(), Part()
        return other

    def taken(self) -> Part:
        """All that was taken, also of a range that is not complete.

        Returns
        -------
        Part
        """
        self.whole.add(self._part)
        self._part = Part()
        return self.whole

    def ranges(self) -> list[list[int]]:
        """The shards, in the ranges over which sums are taken."""
        length = max(_batches.RANGE_SHARDS, least_length(n_shards(self._n_samples)))
        return cut_into_ranges(self.missing(), length)

    @property
    def rows(self) -> NumpyArray:
        """The stratified few."""
        return self._rows

    def missing(self) -> list[int]:
        """All shards: nothing was kept by earlier runs."""
        return list(range(n_shards(self._n_samples)))

    def write(self, shard: int, outputs: Mapping[str, NumpyArray], seconds: float) -> None:
        """Add a shard to the sums of its range, and a range that is complete to those before."""
        self._part.add(self._of(shard, outputs, seconds))
        if shard in self._ends:
            self.whole.add(self._part)
            self._part = Part()

    def _of(self, shard: int, outputs: Mapping[str, NumpyArray], seconds: float) -> Part:
        rows = shard_rows(shard, self._n_samples)
        taken = slice(rows.start, rows.stop)
        features = outputs["features"]
        part = Part(seconds=seconds, feature_dim=int(features.shape[1]))
        if "labels" in self._targets:
            labels = self._targets["labels"][taken]
            part.moments = ClassMoments.from_arrays(features, labels)
            if "logits" in outputs:
                n_classes = int(self._targets["labels"].max()) + 1
                part.source = _SourceCounts.of(outputs["logits"], labels, n_classes)
        elif "targets" in self._targets:
            part.moments = TargetMoments.from_arrays(features, self._targets["targets"][taken])
        if "truncated" in outputs:
            part.truncated = _count_truncated(outputs["truncated"])
        first, last = np.searchsorted(self._rows, (rows.start, rows.stop))
        inside = self._rows[first:last] - rows.start
        part.kept = {name: [values[inside]] for name, values in outputs.items()}
        return part

    @property
    def feature_dim(self) -> int:
        """Dimension of the features."""
        return self.whole.feature_dim

    @property
    def seconds(self) -> float:
        """Computing time, in seconds."""
        return self.whole.seconds

    @property
    def truncated(self) -> tuple[int, int] | None:
        """How many samples lost tokens and at most how many; None where nothing can be cut off."""
        return self.whole.truncated

    def read(self) -> tuple[LayerArrays, NumpyArray | None]:
        """The stratified few."""
        kept = {name: np.concatenate(parts) for name, parts in self.whole.kept.items()}
        return _layer_arrays(kept), None if self._labels is None else self._labels[self._rows]

    def embedding(self, seed: int, reference: ReferenceTask) -> Embedding:
        """Moments of all samples, features of the few."""
        kept, _ = self.read()
        targets: Targets = {}
        if "labels" in self._targets:
            targets = {"labels": self._targets["labels"][self._rows]}
        elif "targets" in self._targets:
            targets = {"targets": self._targets["targets"][self._rows]}
        return Embedding(
            kept["features"],
            source_logits=kept.get("logits"),
            moments=self.whole.moments,
            source_joint=None if self.whole.source is None else self.whole.source.joint,
            source_counts=None if self.whole.source is None else self.whole.source.counts,
            seed=seed,
            **targets,
            **reference,
        )


def _delete(store: FeatureStore, key: str) -> None:
    """Delete an entry, where there is one."""
    with suppress(TransferscopeError):
        store.clear([key])


def _are_features(arrays: Mapping[str, NumpyArray]) -> bool:
    """Whether a shard holds what an encoder gives, whoever wrote it."""
    return "features" in arrays and all(
        array.ndim == 2 and array.shape[1] > 0 and array.dtype.kind in "iuf"
        for array in arrays.values()
    )


def _layer_arrays(kept: Mapping[str, NumpyArray]) -> LayerArrays:
    found: LayerArrays = {"features": kept["features"]}
    if "logits" in kept:
        found["logits"] = kept["logits"]
    if "truncated" in kept:
        found["truncated"] = kept["truncated"]
    return found


def _count_truncated(truncated: NumpyArray) -> tuple[int, int]:
    """How many samples lost tokens, and the most that one lost."""
    return int((truncated > 0).sum()), int(truncated.max())
