"""One pass over a data set for many encoders: decode once, embed with each, keep the features."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from transferscope.datasets import Dataset, open_dataset
from transferscope.encoders import (
    POOLED,
    Embedded,
    Encoder,
    Preprocessing,
    encoder_name,
    expand_encoders,
    load_encoder,
    preparation_key,
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
from transferscope.executor import Executor, device_of
from transferscope.extraction._batches import (
    Batch,
    Prepared,
    check_batch_size,
    cut_into_batches,
    decode_ahead,
    shard_rows,
)
from transferscope.extraction._extracted import Extracted
from transferscope.extraction._layers import (
    MEAN,
    Layers,
    ParsedLayers,
    choose_layers,
    numbered_layers,
    parse_layers,
)
from transferscope.extraction._sinks import (
    Sink,
    Source,
    Store,
    StoreSink,
    StreamSink,
    open_store,
    quicker_pass,
    store_key,
)
from transferscope.numerics import arrays
from transferscope.numerics.arrays import NumpyArray
from transferscope.progress import ProgressCallback
from transferscope.storage.feature_store import FeatureStore

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Encoders share one pass over the data until their weights reach this many parameters.
PARAMETERS_AT_ONCE = 500_000_000

#: What `load_encoder` takes, and lists of it.
Encoders: TypeAlias = "str | Encoder | nn.Module | Sequence[str | Encoder | nn.Module]"


def extract(  # noqa: PLR0913  of what, where it is kept, and how it is computed
    dataset: object,
    encoders: Encoders,
    *,
    store: Store = "cache",
    layers: Layers = "last",
    batch_size: int = 64,
    device: str | None = None,
    seed: int = 0,
    exact: bool = False,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
) -> Iterator[Extracted]:
    """Compute the features of a data set with several encoders.

    Each sample is decoded once for all encoders that are in memory together, and prepared once for
    those of equal preprocessing. What is in the store already is not computed again.

    Parameters
    ----------
    dataset : Dataset, or what `open_dataset` takes
    encoders : str, Encoder, torch.nn.Module, or sequence of these
        As `load_encoder` takes them; a string may list several names with commas between. One that
        is given as an object is moved to `device`.
    store : "cache", path, FeatureStore or None
        Where features are kept and found again; ``"cache"`` is the user's cache folder. None:
        nothing is stored; moments of all samples and the features of a stratified sample of 5 000
        stay in memory. Features that code of your own computes are deleted with the result, unless
        it has a version: see `from_module`.
    layers : "last", "mean", "all", or numbers
        Which features: of the last layer as the encoder pools it, the mean of all numbered layers,
        all of them and the last, or the numbered ones given, as in ``[3, 6, -1]`` or ``"3,6,-1"``.
        All come from the same pass.
    batch_size : int
        Samples that are prepared together, at most 512. On the CPU an encoder takes them in smaller
        parts, see `exact`. Texts are read in parts of like length: 1 024 tokens on the CPU, 8 192
        elsewhere.
    device : str, optional
        By default a GPU where torch sees one.
    seed : int
        Of the stratified sample.
    exact : bool, default False
        Whether each batch of images goes through an encoder at once and as it was built. Otherwise
        parts are as long as suits the cache, and on the CPU batch norms are folded into packed
        convolutions: the same features up to rounding (1e-4 of the largest) in half the time.
        Features of exact passes have keys of their own in the store. With both, bits are the same
        from run to run on one kind of processor and number of threads.
    executor : Executor, optional
        Workers to compute on, such as `transferscope.RayExecutor`: the same features, to the bit
        where they have the same kind of processor and number of threads.
    progress : callable, optional
        Called as ``progress(text, done, total)``.

    Returns
    -------
    iterator of Extracted
        One per encoder, in the order given; a failed one with its error.

    Raises
    ------
    DatasetError
        If a sample cannot be decoded; what was extracted before stays in the store.
    StoreError
        If the store cannot be written.
    InputError
        If `batch_size` is out of range, `layers` or `store` is none of the above, or one of
        `encoders` is no encoder, or two of them have one name.
    UnknownNameError
        If there is no encoder of a name.
    MissingExtraError
        If torch is not installed.
    WorkerError
        If `executor` has no workers.

    Examples
    --------
    >>> import transferscope
    >>> digits = transferscope.open_dataset("sklearn/digits", per_class=20)
    >>> (item,) = transferscope.extract(digits, "mini/resnet-random", store=None)
    >>> item.features.shape == (200, item.feature_dim), item.labels.shape
    (True, (200,))
    """
    data = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    settings = ExtractionSettings(
        store, layers, batch_size, device, seed, progress, exact=exact, executor=executor
    )
    return (item for (item,) in extract_together([data], encoders, settings))


@dataclass(frozen=True)
class ExtractionSettings:
    """How features are computed; the fields are parameters of `extract`.

    But `n_shards`: only the first so many shards of the first data set, where features are stored
    (a reference is not in an order of which the beginning would do); and
    `keys`: those of encoders that were extracted before in the same run, with their names; and
    `named`: whether a user named the encoders, so that an unknown name is a wrong use.
    """

    store: Store = "cache"
    layers: Layers = "last"
    batch_size: int = 64
    device: str | None = None
    seed: int = 0
    progress: ProgressCallback | None = None
    n_shards: int | None = None
    keys: dict[str, str] = field(default_factory=dict)
    named: bool = True
    exact: bool = False
    executor: Executor | None = None


def extract_together(
    datasets: Sequence[Dataset | Source], encoders: Encoders, given: ExtractionSettings
) -> Iterator[tuple[Extracted, ...]]:
    """Compute the features of several data sets; each encoder is loaded once for all of them.

    Parameters
    ----------
    datasets : sequence of Dataset or Source
        Of a source the fingerprint is taken once, however often it is given.
    encoders : str, Encoder, torch.nn.Module, or sequence of these
    given : ExtractionSettings

    Returns
    -------
    iterator of tuple of Extracted
        One tuple per encoder, in the order given, with one item per data set.

    Raises
    ------
    InputError
        If the batch size, the layers or the seed are out of their range.
    UnknownNameError, EncoderError, DatasetError, StoreError
        As `extract` raises them.
    """
    check_batch_size(given.batch_size)
    if given.seed < 0:
        raise InputError(f"seed must not be negative, got {given.seed}; 0 is the default.")
    specs = expand_encoders(encoders)
    if given.executor is None:
        device = given.device or best_device()
    else:
        device = device_of(given.executor, given.device)
    settings = Settings(
        parse_layers(given.layers),
        open_store(given.store),
        given.batch_size,
        device,
        given.seed,
        given.n_shards,
        given.named,
        given.exact,
    )
    sources = [one if isinstance(one, Source) else Source(one) for one in datasets]
    if given.executor is not None:
        # late: it uses what stands below
        from transferscope.extraction._elsewhere import extract_elsewhere

        return extract_elsewhere(
            given.executor, sources, specs, settings, given.keys, given.progress
        )
    return _extract_in_groups(sources, specs, settings, given.keys, given.progress)


@dataclass(frozen=True)
class Settings:
    """The settings, looked into: the same for all encoders and data sets."""

    layers: ParsedLayers
    store: FeatureStore | None
    batch_size: int
    device: str
    seed: int
    n_shards: int | None
    named: bool
    exact: bool


def best_device() -> str:
    """Where encoders run when nobody says: a GPU where torch sees one.

    Returns
    -------
    str
        As torch names it.

    Raises
    ------
    MissingExtraError
        If torch is not installed.
    """
    torch = require("torch", extra="vision", purpose="run encoders")
    return "cuda" if torch.cuda.is_available() else "cpu"


def _extract_in_groups(
    sources: Sequence[Source],
    specs: Iterable[str | Encoder | nn.Module],
    settings: Settings,
    keys: dict[str, str],
    progress: ProgressCallback | None,
) -> Iterator[tuple[Extracted, ...]]:
    """Load encoders until there is no room for more, read all data sets with them, and go on."""
    rows: list[list[Job | Extracted]] = []
    n_parameters = 0
    for spec in specs:
        if progress is not None:
            progress(f"loading {encoder_name(spec)}", 0, 0)
        rows.append(load_jobs(spec, sources, settings, keys))
        n_parameters += next(
            (one.encoder.n_parameters for one in rows[-1] if isinstance(one, Job)), 0
        )
        if n_parameters >= PARAMETERS_AT_ONCE:
            yield from _read_and_free(rows, settings.batch_size, progress)
            n_parameters = 0
    yield from _read_and_free(rows, settings.batch_size, progress)


def _read_and_free(
    rows: list[list[Job | Extracted]], batch_size: int, progress: ProgressCallback | None
) -> list[tuple[Extracted, ...]]:
    """Walk over each data set with all encoders of `rows`, then empty it: it holds the weights."""
    for column in zip(*rows, strict=True):
        jobs = [one for one in column if isinstance(one, Job)]
        if jobs:
            walk(jobs[0].item.dataset, jobs, batch_size, progress)
    items = [tuple(one.item if isinstance(one, Job) else one for one in row) for row in rows]
    rows.clear()
    return items


def load_jobs(
    spec: str | Encoder | nn.Module,
    sources: Sequence[Source],
    settings: Settings,
    keys: dict[str, str],
) -> list[Job | Extracted]:
    """One encoder's part in the pass over each data set; where it has none, the reason.

    `keys` are those of the encoders before it, with their names.
    """
    name = encoder_name(spec)
    try:
        encoder = load_encoder(spec, device=settings.device)
        passes = _Passes(encoder, exact=settings.exact)
        key = None
        if settings.store is not None:
            key = store_key(encoder, settings.device, exact=settings.exact)
        refuse_shared_key(key, name, keys)
        shared_as = preparation_key(encoder.preprocessing)
    except Exception as error:
        # whatever it is, it must not stop the others
        if _concerns_all(error, spec, named=settings.named):
            raise
        return [Extracted(name, source, error=_reason(error)) for source in sources]
    row: list[Job | Extracted] = []
    for place, source in enumerate(sources):
        some = settings if place == 0 else replace(settings, n_shards=None)
        try:
            row.append(_job(passes, source, key, some, shared_as))
        except Exception as error:
            if _concerns_all(error, spec, named=settings.named):
                raise
            row.append(Extracted(name, source, error=_reason(error)))
    return row


def refuse_shared_key(key: str | None, name: str, keys: dict[str, str]) -> None:
    """Refuse an encoder that the store would take for another one of the same run."""
    if key is not None and (other := keys.setdefault(key, name)) != name:
        raise EncoderError(
            f"encoder {name} has the fingerprint of {other}: the same weights, architecture and "
            "preprocessing, so that its features are the same and would be found under one key. "
            "Leave one of them out; if they do differ, let their fingerprints differ."
        )


def _concerns_all(error: Exception, spec: object, *, named: bool) -> bool:
    """Whether an error at loading is more than one encoder's: wrong usage, data set or store."""
    if isinstance(error, UnknownNameError) and not named:
        return False
    usage = UnknownNameError if isinstance(spec, str) else InputError
    return isinstance(error, (usage, DatasetError, StoreError)) and not isinstance(
        error, EncoderError
    )


def _reason(error: Exception) -> str:
    if isinstance(error, TransferscopeError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _job(
    passes: _Passes, source: Source, key: str | None, settings: Settings, shared_as: str
) -> Job:
    encoder = passes.encoder
    refuse_other_modality(encoder, source.dataset)
    sinks: dict[str, Sink] = {}
    for layer in choose_layers(encoder, settings.layers):
        sinks[layer] = (
            StreamSink(source.dataset, settings.seed)
            if settings.store is None
            else StoreSink(
                source,
                encoder.identifier,
                key,
                layer,
                settings.store,
                n_shards=settings.n_shards,
            )
        )
    item = Extracted(
        encoder.identifier,
        source,
        n_parameters=encoder.n_parameters,
        input_size=encoder.input_size,
        notes=getattr(encoder, "notes", ()),  # not in the protocol: few encoders have any
        sinks=sinks,
    )
    missing = {layer: frozenset(sink.missing()) for layer, sink in sinks.items()}
    return Job(item, encoder, passes, shared_as, missing)


class _Passes:
    """The forward passes of one encoder, over all data sets; the quicker one is made when needed.

    It is kept for one choice of layers: it holds a copy of the weights.
    """

    def __init__(self, encoder: Encoder, *, exact: bool) -> None:
        self.encoder = encoder
        self._make = None if exact else quicker_pass(encoder)
        self._layers: tuple[str, ...] | None = None
        self._embed: Callable[[object], Embedded]

    def embed(self, samples: Prepared, layers: tuple[str, ...]) -> Embedded:
        if self._make is None:
            return self.encoder.embed(samples, layers)
        if layers != self._layers:
            self._embed, self._layers = self._make(layers), layers
        return self._embed(samples)


@dataclass
class Job:
    """One encoder's part in a pass over one data set."""

    item: Extracted
    encoder: Encoder
    passes: _Passes
    shared_as: str  # equal for encoders that take the same batches
    missing: dict[str, frozenset[int]]  # shards per layer
    parts: dict[tuple[str, str], list[NumpyArray]] = field(default_factory=dict)
    seconds: float = 0.0

    def needs(self, shard: int) -> bool:
        return self.item.error is None and any(shard in those for those in self.missing.values())

    def take(self, batch: Batch, samples: Prepared) -> None:
        """Embed a batch; with the last one of a shard, hand the shard to the sinks."""
        try:
            if isinstance(samples, Exception):
                raise samples
            self._embed(batch, samples)
            if batch.completes is not None:
                self._write(batch.shard, batch.completes)
        except Exception as error:
            if isinstance(error, StoreError):
                raise
            # out of memory, a broken model: it concerns this encoder only
            self.item.fail(_reason(error))
            self.parts = {}

    def _embed(self, batch: Batch, samples: Prepared) -> None:
        """Keep what the encoder gives for a batch until its shard is complete."""
        start = time.perf_counter()
        layers = [layer for layer, shards in self.missing.items() if batch.shard in shards]
        numbered = numbered_layers(self.encoder) if MEAN in layers else []
        names = dict.fromkeys([*(layer for layer in layers if layer != MEAN), *numbered])
        embedded = self.passes.embed(samples, tuple(names))
        outputs: dict[tuple[str, str], NumpyArray] = {}
        for layer in layers:
            if layer == MEAN:
                features = _mean([embedded.features[name] for name in numbered], self.item)
            else:
                features = embedded.features[layer]
            outputs[layer, "features"] = arrays.to_numpy(features)
            if embedded.truncated is not None:
                outputs[layer, "truncated"] = embedded.truncated[:, None]
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

    def _write(self, shard: int, places: NumpyArray) -> None:
        """Hand a complete shard to the sinks, in the order of the data set."""
        start = shard_rows(shard, len(self.item.dataset)).start
        for layer, missing in self.missing.items():
            if shard in missing:
                outputs = {
                    name: np.concatenate(parts)[places]
                    for (of, name), parts in self.parts.items()
                    if of == layer
                }
                _require_finite(outputs, start)
                self.item.sinks[layer].write(shard, outputs, self.seconds)
        self.parts, self.seconds = {}, 0.0

    def finish(self) -> None:
        """Note what is known when all shards are there."""
        if self.item.error is None:
            sink = next(iter(self.item.sinks.values()))
            seconds = sink.seconds
            self.item.feature_dim = sink.feature_dim
            self.item.samples_per_second = sink.n_rows / seconds if seconds > 0 else None


def _mean(features: Sequence[Tensor], item: Extracted) -> Tensor:
    """Mean of the layers' features."""
    widths = sorted({int(one.shape[1]) for one in features})
    if len(widths) > 1:
        raise EncoderError(
            f"layers of {item.identifier} have different widths "
            f"({', '.join(map(str, widths))}), and therefore no mean. Use all, or the last."
        )
    mean: Tensor = sum(features[1:], features[0]) / len(features)
    return mean


def _require_finite(outputs: Mapping[str, NumpyArray], start: int) -> None:
    """Refuse NaN and infinity in what was computed for the rows from `start` on."""
    for name, values in outputs.items():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            raise FeatureError(
                f"{name} of sample {start + bad[0]} hold NaN or infinity (and of "
                f"{bad.size - 1} more among the same {len(values)}); the weights are damaged, "
                "or overflow in half precision."
            )


def walk(
    dataset: Dataset, jobs: Sequence[Job], batch_size: int, progress: ProgressCallback | None
) -> None:
    """Walk over the data once and fill the sinks of every job."""
    shards = sorted({shard for job in jobs for those in job.missing.values() for shard in those})
    batches = cut_into_batches(shards, dataset, batch_size)
    done, total = 0, sum(len(batch.rows) for batch in batches)
    busy = sum(any(job.missing.values()) for job in jobs)
    text = f"extracting features with {busy} encoder{'s' if busy > 1 else ''}"

    def needed(shard: int) -> dict[str, Preprocessing]:
        return {job.shared_as: job.encoder.preprocessing for job in jobs if job.needs(shard)}

    if progress is not None and total:
        progress(text, 0, total)
    with closing(decode_ahead(dataset, batches, needed)) as stream:
        for batch, prepared in stream:
            for job in jobs:
                if job.needs(batch.shard):
                    job.take(batch, prepared[job.shared_as])
            done += len(batch.rows)
            if progress is not None:
                progress(text, done, total)
    for job in jobs:
        job.finish()
