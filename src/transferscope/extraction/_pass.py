"""One pass over a data set for many encoders: decode once, embed with each, keep the features.

Samples are decoded and prepared on worker threads while the encoders compute. Rows are cut into
shards of fixed size and shards into batches, the same in every run, so that a run that was killed
and repeated gives the same bits. Within a shard texts are taken by length: little is padded then.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from transferscope.datasets import Dataset
from transferscope.embedding import INFLUENCE_SAMPLES, ClassMoments, Embedding, TargetMoments
from transferscope.encoders import (
    POOLED,
    Encoder,
    Preprocessing,
    load_encoder,
    refuse_other_modality,
)
from transferscope.errors import (
    DatasetError,
    EncoderError,
    FeatureError,
    InputError,
    StoreError,
    TransferscopeError,
    UnknownNameError,
    require,
)
from transferscope.numerics import arrays
from transferscope.numerics.sampling import stratified_rows
from transferscope.storage.feature_store import FeatureStore, StoreEntry

if TYPE_CHECKING:
    from torch import nn

#: Rows of one shard of the store: what a killed run can lose.
SHARD_ROWS = 512
#: Encoders share one pass over the data until their weights reach this many parameters.
PARAMETERS_AT_ONCE = 500_000_000
#: Batches that are decoded ahead of the encoders.
BATCHES_AHEAD = 3
#: More threads than this wait for Python's lock more than they decode.
DECODING_THREADS = 16

#: The mean of an encoder's numbered layers, taken as a layer of its own.
MEAN = "mean"

#: Called with what is going on, how many samples are done, and of how many.
ProgressCallback = Callable[[str, int, int], None]
Array = npt.NDArray[Any]
#: Which layers' features: the pooled one, the mean of all, each of them, or these numbers.
Layers = Literal["last", "mean", "all"] | Sequence[int]


@dataclass
class Extracted:
    """What is known of one encoder after the pass; its features come with `embedding`.

    Attributes
    ----------
    identifier : str
    n_parameters, feature_dim : int or None
    input_size : (int, int) or None
    samples_per_second : float or None
        Of the forward pass alone.
    error : str or None
        Why there are no features.
    sinks : dict of str to Sink
        Where the features of each layer are; empty it when they are no longer needed.
    """

    identifier: str
    n_parameters: int | None = None
    feature_dim: int | None = None
    input_size: tuple[int, int] | None = None
    samples_per_second: float | None = None
    error: str | None = None
    sinks: dict[str, Sink] = field(default_factory=dict, repr=False)

    def embedding(
        self, seed: int = 0, reference: Extracted | None = None, layer: str | None = None
    ) -> Embedding:
        """The features with their labels, ready to be scored.

        Parameters
        ----------
        seed : int
            Of every subsampling that a metric may need.
        reference : Extracted, optional
            The same encoder's features of a reference task.
        layer : str, optional
            One of `sinks`; by default the first.

        Raises
        ------
        FeatureError
            If there are none, with the reason.
        StoreError
            If they have been deleted from the store meanwhile.
        """
        if not self.sinks:
            raise FeatureError(self.error or f"the features of {self.identifier} were let go.")
        sink = self.sinks[layer or next(iter(self.sinks))]
        if reference is None:
            return sink.embedding(seed)
        if reference.error is not None:
            raise FeatureError(f"features of the reference task: {reference.error}")
        beside = reference.embedding(seed, layer=layer)
        return sink.embedding(
            seed, reference_features=beside.features, reference_labels=beside.labels
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the features must be read with; known once an `embedding` has been made."""
        for sink in self.sinks.values():
            if sink.truncated is not None and sink.truncated[0]:
                count, longest = sink.truncated
                return (
                    f"{count:,} samples have more tokens than it reads at once: of the longest "
                    f"{longest:,} were not seen",
                )
        return ()


class Sink(Protocol):
    """Where the features of one encoder go, shard by shard."""

    def missing(self) -> list[int]:
        """Shards that are still wanted."""

    def write(self, shard: int, outputs: Mapping[str, Array], seconds: float) -> None:
        """Take the features (and logits) of a shard."""

    def embedding(self, seed: int, **reference: Array) -> Embedding:
        """What has been taken, as an embedding, beside a reference task."""

    @property
    def feature_dim(self) -> int:
        """Dimension of the features taken."""

    @property
    def seconds(self) -> float:
        """Seconds of computing behind them."""

    @property
    def truncated(self) -> tuple[int, int] | None:
        """How many samples lost tokens and at most how many; None where nothing can be cut off."""


@dataclass
class StoreSink:
    """Keeps everything in the feature store."""

    entry: StoreEntry
    dataset: Dataset
    truncated: tuple[int, int] | None = None

    def missing(self) -> list[int]:
        """Shards that are absent or damaged."""
        return self.entry.missing()

    def write(self, shard: int, outputs: Mapping[str, Array], seconds: float) -> None:
        """Write a shard to the store."""
        self.entry.write(shard, outputs, seconds)

    def embedding(self, seed: int, **reference: Array) -> Embedding:
        """All features, read from the store."""
        kept = self.entry.load()
        if "truncated" in kept:
            self.truncated = _lost(kept["truncated"])
        more: dict[str, Any] = {_target_name(self.dataset): _labels(self.dataset), **reference}
        return Embedding(kept["features"], source_logits=kept.get("logits"), seed=seed, **more)

    @property
    def feature_dim(self) -> int:
        """Columns of the first shard."""
        return int(self.entry.read(0)["features"].shape[1])

    @property
    def seconds(self) -> float:
        """Seconds of computing, of whichever run."""
        return self.entry.seconds


class StreamSink:
    """Keeps moments of all samples and the features of a stratified few, in memory."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.seconds, self.feature_dim = 0.0, 0
        self.truncated: tuple[int, int] | None = None
        self._name = _target_name(dataset)
        self._moments: ClassMoments | TargetMoments
        classes = None
        if self._name == "labels":
            # numbered without gaps, as Embedding numbers them
            classes = np.unique(_labels(dataset), return_inverse=True)[1]
            self._moments, self._targets = ClassMoments(), classes
        else:
            self._moments = TargetMoments()
            self._targets = _labels(dataset).reshape(len(dataset), -1)
        self._rows = stratified_rows(classes, len(dataset), INFLUENCE_SAMPLES, seed)
        if classes is not None:
            # a class too rare for a share of the sample is in it all the same: the sample's
            # classes are those of the moments
            first = np.unique(classes, return_index=True)[1]
            rare = np.bincount(classes[self._rows], minlength=len(first)) == 0
            self._rows = np.union1d(self._rows, first[rare])
        self._kept: dict[str, list[Array]] = {}
        self._joint: Any = 0.0
        self._counts: Any = 0.0

    def missing(self) -> list[int]:
        """All shards: nothing was kept by earlier runs."""
        return list(range(_n_shards(len(self._targets))))

    def write(self, shard: int, outputs: Mapping[str, Array], seconds: float) -> None:
        """Add a shard to the moments and keep its share of the sample."""
        rows = _shard_rows(shard, len(self._targets))
        targets = self._targets[rows.start : rows.stop]
        self._moments.update(outputs["features"], targets)
        if "logits" in outputs and self._name == "labels":
            self._count(outputs["logits"], targets)
        if "truncated" in outputs:
            before, now = self.truncated or (0, 0), _lost(outputs["truncated"])
            self.truncated = (before[0] + now[0], max(before[1], now[1]))
        first, last = np.searchsorted(self._rows, (rows.start, rows.stop))
        inside = self._rows[first:last] - rows.start
        for name, values in outputs.items():
            self._kept.setdefault(name, []).append(values[inside])
        self.feature_dim = outputs["features"].shape[1]
        self.seconds += seconds

    def _count(self, logits: Array, labels: Array) -> None:
        """Add to what `leep` and `nce` know of source classes."""
        theta = arrays.softmax(arrays.as_float64(logits))
        n_classes, n_source = int(self._targets.max()) + 1, theta.shape[1]
        self._joint = self._joint + arrays.class_sums(theta, labels, n_classes)
        pairs = labels * n_source + theta.argmax(axis=1)
        counts = np.bincount(pairs, minlength=n_classes * n_source)
        self._counts = self._counts + counts.reshape(n_classes, n_source)

    def embedding(self, seed: int, **reference: Array) -> Embedding:
        """Moments of all samples, features of the few."""
        kept = {name: np.concatenate(parts) for name, parts in self._kept.items()}
        counted = "logits" in kept and self._name == "labels"
        return Embedding(
            kept["features"],
            source_logits=kept.get("logits"),
            moments=self._moments,
            source_joint=self._joint if counted else None,
            source_counts=self._counts.astype(np.float64) if counted else None,
            seed=seed,
            **{self._name: self._targets[self._rows], **reference},
        )


def _lost(truncated: Array) -> tuple[int, int]:
    """How many samples lost tokens, and the most that one lost."""
    return int((truncated > 0).sum()), int(truncated.max())


def _labels(dataset: Dataset) -> npt.NDArray[Any]:
    """Labels; for a reference without any, row numbers stand in until sinks can do without."""
    return np.arange(len(dataset), dtype=float) if dataset.labels is None else dataset.labels


def _target_name(dataset: Dataset) -> str:
    """What Embedding calls the labels of such a data set."""
    return "labels" if dataset.task == "classification" else "targets"


def _n_shards(n_samples: int) -> int:
    return -(-n_samples // SHARD_ROWS)


def _shard_rows(shard: int, n_samples: int) -> range:
    return range(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, n_samples))


def extract(
    dataset: Dataset,
    encoders: Iterable[str | Encoder | nn.Module],
    *,
    store: FeatureStore | None,
    layers: Layers = "last",
    batch_size: int = 64,
    device: str | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Iterator[Extracted]:
    """Compute the features of a data set with several encoders.

    Each sample is decoded once for all encoders that are in memory together, and prepared once for
    those of equal preprocessing. What is in the store already is not computed again.

    Parameters
    ----------
    dataset : Dataset
    encoders : iterable of str, Encoder or torch.nn.Module
        As `load_encoder` takes them; one that is given as an object is moved to `device`.
    store : FeatureStore or None
        Where features are kept and found again. None: they stream through, and moments and a
        stratified sample stay in memory.
    layers : "last", "mean", "all", or sequence of int
        Which features: of the last layer as the encoder pools it, the mean of all numbered layers,
        each of them beside the last, or the numbered ones named (negative ones from the end). All
        come from the same pass.
    batch_size : int
        Samples per forward pass, at most 512. Of texts this many are prepared together, and read in
        parts of like length: 1 024 tokens on the CPU, 8 192 elsewhere.
    device : str, optional
        By default a GPU where torch sees one.
    seed : int
        Of the stratified sample.
    progress : callable, optional
        Called as ``progress(text, done, total)``.

    Yields
    ------
    Extracted
        One per encoder, in the order given; a failed one with its error.

    Raises
    ------
    DatasetError
        If a sample cannot be decoded; what was extracted before stays in the store.
    StoreError
        If the store cannot be written.
    InputError
        If `batch_size` is out of range, or one of `encoders` is no encoder.
    UnknownNameError
        If there is no encoder of a name.
    MissingExtraError
        If torch is not installed.
    """
    if not 1 <= batch_size <= SHARD_ROWS:
        raise InputError(f"batch_size must be between 1 and {SHARD_ROWS}, got {batch_size}.")
    device = device or _best_device()
    jobs: list[_Job] = []
    waiting: list[Extracted] = []
    for spec in encoders:
        name = spec if isinstance(spec, str) else getattr(spec, "identifier", type(spec).__name__)
        if progress is not None:
            progress(f"loading {name}", 0, 0)
        try:
            jobs.append(_job(spec, dataset, store, layers, device, seed))
            waiting.append(jobs[-1].item)
        except Exception as error:  # whatever it is, it must not stop the others
            if _concerns_all(error, spec):
                raise
            waiting.append(Extracted(name, error=_reason(error)))
        if sum(job.item.n_parameters or 0 for job in jobs) >= PARAMETERS_AT_ONCE:
            _pass(dataset, jobs, batch_size, progress)
            jobs.clear()  # lets go of the weights before the next ones are loaded
            yield from waiting
            waiting.clear()
    _pass(dataset, jobs, batch_size, progress)
    jobs.clear()
    yield from waiting


def _best_device() -> str:
    torch = require("torch", extra="vision", purpose="run encoders")
    return "cuda" if torch.cuda.is_available() else "cpu"


def _concerns_all(error: Exception, spec: object) -> bool:
    """Whether an error at loading is more than one encoder's: wrong usage, data set or store."""
    usage = UnknownNameError if isinstance(spec, str) else InputError
    return isinstance(error, (usage, DatasetError, StoreError)) and not isinstance(
        error, EncoderError
    )


def _reason(error: Exception) -> str:
    if isinstance(error, TransferscopeError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@dataclass
class _Job:
    """One encoder's part in a pass."""

    item: Extracted
    encoder: Encoder
    wanted: dict[str, frozenset[int]]  # shards per layer
    parts: dict[tuple[str, str], list[Array]] = field(default_factory=dict)
    seconds: float = 0.0

    def wants(self, shard: int) -> bool:
        return self.item.error is None and any(shard in those for those in self.wanted.values())

    def take(self, batch: _Batch, samples: Any) -> None:
        """Embed a batch; with the last one of a shard, hand the shard to the sink."""
        try:
            self._embed(batch, samples)
            if batch.completes is not None:
                for layer, wanted in self.wanted.items():
                    if batch.shard in wanted:
                        outputs = self._shard(layer, batch.completes)
                        _require_finite(outputs, batch.shard * SHARD_ROWS)
                        self.item.sinks[layer].write(batch.shard, outputs, self.seconds)
                self.parts, self.seconds = {}, 0.0
        except StoreError:
            raise
        except Exception as error:  # out of memory, a broken model: this encoder's row only
            self.item.error, self.item.sinks = _reason(error), {}
            self.parts = {}

    def _shard(self, layer: str, places: Array) -> dict[str, Array]:
        """What was computed for a layer, in the order of the data set."""
        return {
            name: np.concatenate(parts)[places]
            for (of, name), parts in self.parts.items()
            if of == layer
        }

    def _embed(self, batch: _Batch, samples: Any) -> None:
        if isinstance(samples, Exception):
            raise samples
        start = time.perf_counter()
        layers = [layer for layer, shards in self.wanted.items() if batch.shard in shards]
        numbered = numbered_layers(self.encoder) if MEAN in layers else []
        named = dict.fromkeys([*(layer for layer in layers if layer != MEAN), *numbered])
        embedded = self.encoder.embed(samples, tuple(named))
        outputs: dict[tuple[str, str], Array] = {}
        for layer in layers:
            if layer == MEAN:
                features = _mean_of([embedded.features[name] for name in numbered], self.item)
            else:
                features = embedded.features[layer]
            outputs[layer, "features"] = arrays.to_numpy(features)
            truncated = getattr(embedded, "truncated", None)
            if truncated is not None:
                outputs[layer, "truncated"] = truncated[:, None]
        if embedded.logits is not None and POOLED in layers:
            outputs[POOLED, "logits"] = arrays.to_numpy(embedded.logits)
        self.seconds += time.perf_counter() - start
        for (layer, name), values in outputs.items():
            if values.ndim != 2 or len(values) != len(batch.rows):
                raise EncoderError(
                    f"{self.item.identifier} must give one row of {name} per sample; for "
                    f"{len(batch.rows)} samples it gave an array of shape {values.shape}."
                )
            self.parts.setdefault((layer, name), []).append(values)

    def finish(self, n_samples: int) -> None:
        """Note what is known when all shards are there."""
        if self.item.error is None:
            sink = next(iter(self.item.sinks.values()))
            seconds = sink.seconds
            self.item.feature_dim = sink.feature_dim
            self.item.samples_per_second = n_samples / seconds if seconds > 0 else None


def _job(
    spec: str | Encoder | nn.Module,
    dataset: Dataset,
    store: FeatureStore | None,
    layers: Layers,
    device: str,
    seed: int,
) -> _Job:
    encoder = load_encoder(spec, device=device)
    refuse_other_modality(encoder, dataset)
    sinks: dict[str, Sink] = {}
    for layer in chosen_layers(encoder, layers):
        sinks[layer] = (
            StreamSink(dataset, seed)
            if store is None
            else _stored(dataset, encoder, layer, device, store)
        )
    item = Extracted(
        encoder.identifier,
        n_parameters=encoder.n_parameters,
        input_size=encoder.input_size,
        sinks=sinks,
    )
    wanted = {layer: frozenset(sink.missing()) for layer, sink in sinks.items()}
    return _Job(item, encoder, wanted)


def numbered_layers(encoder: Encoder) -> list[str]:
    """An encoder's layers in order of depth, without the pooled one."""
    return [layer for layer in encoder.layers if layer != POOLED]


def chosen_layers(encoder: Encoder, layers: Layers) -> list[str]:
    """Names of the layers asked for.

    Raises
    ------
    EncoderError
        If this encoder has no such layer.
    """
    if layers == "last":
        return [POOLED]
    numbered = numbered_layers(encoder)
    if layers == "all":
        return list(encoder.layers)
    if layers == MEAN:
        if numbered:
            return [MEAN]
        raise EncoderError(
            f"{encoder.identifier} has no numbered layers whose mean could be taken. Use the last."
        )
    absent = [number for number in layers if not 1 <= abs(int(number)) <= len(numbered)]
    if absent:
        raise EncoderError(
            f"{encoder.identifier} has {len(numbered)} numbered layers, and no layer "
            f"{', '.join(map(str, absent))}. Count from 1, or from the end with -1."
        )
    return list(dict.fromkeys(numbered[n - 1 if n > 0 else n] for n in map(int, layers)))


def _mean_of(features: Sequence[Any], item: Extracted) -> Any:
    """Mean of the layers' features."""
    widths = sorted({int(one.shape[1]) for one in features})
    if len(widths) > 1:
        raise EncoderError(
            f"Layers of {item.identifier} have different widths "
            f"({', '.join(map(str, widths))}): they have no mean. Use all, or the last."
        )
    return sum(features[1:], features[0]) / len(features)


def _stored(
    dataset: Dataset, encoder: Encoder, layer: str, device: str, store: FeatureStore
) -> Sink:
    # in bfloat16 on a GPU features come out rounded: not the same features as on the CPU
    kind = device.partition(":")[0]
    entry = store.entry(
        dataset=dataset.fingerprint,
        encoder=encoder.fingerprint + ("" if kind == "cpu" else f"-{kind}"),
        layer=layer,
        n_samples=len(dataset),
        shard_size=SHARD_ROWS,
        about={"dataset": dataset.name, "encoder": encoder.identifier},
    )
    return StoreSink(entry, dataset)


def _require_finite(outputs: Mapping[str, Array], start: int) -> None:
    """Refuse NaN and infinity in what was computed for the rows from `start` on."""
    for name, values in outputs.items():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            raise FeatureError(
                f"{name} of sample {start + bad[0]} hold NaN or infinity (and of "
                f"{bad.size - 1} more among the same {len(values)}); the weights are damaged, "
                "or overflow in half precision."
            )


class _Batch(NamedTuple):
    """Rows that go through the encoders together."""

    shard: int
    rows: Sequence[int]
    completes: Array | None  # with the last one of a shard: where each of its rows was computed


def _batches(shards: Iterable[int], dataset: Dataset, batch_size: int) -> list[_Batch]:
    batches = []
    for shard in shards:
        rows: Sequence[int] = _shard_rows(shard, len(dataset))
        if dataset.modality == "text":
            rows = sorted(rows, key=lambda row: _length(dataset[row]))
        for at in range(0, len(rows), batch_size):
            last = at + batch_size >= len(rows)
            places = np.argsort(rows) if last else None
            batches.append(_Batch(shard, rows[at : at + batch_size], places))
    return batches


def _length(sample: Any) -> int:
    """Characters of a text, of a pair, or of the sentence around a word."""
    if isinstance(sample, str):
        return len(sample)
    return sum(map(len, getattr(sample, "words", sample)))


def _pass(
    dataset: Dataset, jobs: Sequence[_Job], batch_size: int, progress: ProgressCallback | None
) -> None:
    """Walk over the data once and fill the sink of every job."""
    shards = sorted(frozenset().union(*(those for job in jobs for those in job.wanted.values())))
    batches = _batches(shards, dataset, batch_size)
    done, total = 0, sum(len(batch.rows) for batch in batches)
    busy = sum(any(job.wanted.values()) for job in jobs)
    text = f"extracting features with {busy} encoder{'s' if busy > 1 else ''}"

    def askers(shard: int) -> list[_Job]:
        return [job for job in jobs if job.wants(shard)]

    if progress is not None and total:
        progress(text, 0, total)
    with closing(_prepared(dataset, batches, askers)) as stream:
        for batch, prepared in stream:
            for job in askers(batch.shard):
                job.take(batch, prepared[job.encoder.preprocessing.key])
            done += len(batch.rows)
            if progress is not None:
                progress(text, done, total)
    for job in jobs:
        job.finish(len(dataset))


def _prepared(
    dataset: Dataset, batches: Iterable[_Batch], askers: Callable[[int], Sequence[_Job]]
) -> Generator[tuple[_Batch, dict[str, Any]]]:
    """Decode ahead on worker threads; give each batch, in order, once per preprocessing."""

    def prepare(row: int, kinds: Mapping[str, Preprocessing]) -> dict[str, Any]:
        sample = dataset[row]
        return {key: _attempt(kind.prepare, sample) for key, kind in kinds.items()}

    def collate(kind: Preprocessing, samples: list[Any]) -> Any:
        failed = next((sample for sample in samples if isinstance(sample, Exception)), None)
        return _attempt(kind.collate, samples) if failed is None else failed

    def start(
        batch: _Batch,
    ) -> tuple[_Batch, dict[str, Preprocessing], list[Future[dict[str, Any]]]]:
        kinds = {
            job.encoder.preprocessing.key: job.encoder.preprocessing for job in askers(batch.shard)
        }
        # where all encoders have failed nothing is decoded
        return batch, kinds, [pool.submit(prepare, row, kinds) for row in batch.rows if kinds]

    cores = getattr(os, "process_cpu_count", os.cpu_count)() or 1  # Python 3.13 knows affinity
    pool = ThreadPoolExecutor(min(cores, DECODING_THREADS), "decode")
    try:
        coming = map(start, batches)
        ahead = deque(islice(coming, BATCHES_AHEAD))
        while ahead:
            ahead.extend(islice(coming, 1))
            batch, kinds, futures = ahead.popleft()
            samples = [future.result() for future in futures]
            prepared = {
                key: collate(kind, [sample[key] for sample in samples])
                for key, kind in kinds.items()
            }
            del samples, futures  # collated now: not to be held twice while encoders compute
            yield batch, prepared
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(function: Callable[[Any], Any], given: Any) -> Any:
    """What the function gives, or the exception it raises: it concerns those who use it."""
    try:
        return function(given)
    except Exception as error:
        return error
