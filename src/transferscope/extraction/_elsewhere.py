"""One pass over a data set by workers in other processes: each takes an encoder and ranges of rows.

A worker loads an encoder as this process would and walks over the shards that it is given, in the
same batches. What it found goes to the store, if it sees the folder of this process; else back to
here. Where nothing is stored, sums of each range come back, and are added up in the order of the
ranges. So it does not matter who computed what, or how often: a range whose worker died is computed
again, and one that was written by a run that was killed is found in the store.
"""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from transferscope.encoders import Encoder, encoder_name
from transferscope.errors import DatasetError, EncoderError, WorkerError
from transferscope.executor import Executor, Queues
from transferscope.extraction import _batches
from transferscope.extraction._batches import cut_into_ranges, least_length, shard_rows
from transferscope.extraction._extracted import Extracted
from transferscope.extraction._pass import Job, Settings, load_jobs, refuse_shared_key, walk
from transferscope.extraction._sinks import Part, Sink, Source, StoreSink, StreamSink, store_key
from transferscope.numerics.arrays import NumpyArray
from transferscope.progress import ProgressCallback
from transferscope.storage.feature_store import StoreEntry

if TYPE_CHECKING:
    from torch import nn

#: Samples of each range that worker and caller compare.
COMPARED = 8
#: Ranges are short as long as there are fewer: then there is work for all.
MANY_RANGES = 64

#: Shards by layer.
Missing: TypeAlias = Mapping[str, frozenset[int]]


class _Facts(NamedTuple):
    """What a worker knows of an encoder that it loaded."""

    identifier: str
    n_parameters: int | None
    input_size: tuple[int, int] | None
    notes: tuple[str, ...]
    key: str | None


class _Described(NamedTuple):
    """An encoder, and for each data set its layers, or why there are none."""

    facts: _Facts | None
    layers: list[tuple[str, ...] | str]


class _Range(NamedTuple):
    """What one call computes: shards of one data set with one encoder."""

    place: int
    number: int
    missing: Missing
    #: where features of each layer are stored, if they are
    entries: Mapping[str, StoreEntry]
    #: rows, and digests of their samples
    expected: Mapping[int, str]


class _Computed(NamedTuple):
    """What one call gave."""

    error: str | None = None
    #: layer, shard, arrays, seconds: of what could not be stored there
    shards: Sequence[tuple[str, int, Mapping[str, NumpyArray], float]] = ()
    #: by layer, where nothing is stored
    parts: Mapping[str, Part] | None = None


class _Collected:
    """A sink in a worker: into the entry where it is seen, else it is kept to be sent back.

    It has what a walk looks at; nothing is read from it.
    """

    n_rows, seconds, feature_dim, truncated = 0, 0.0, 0, None

    def __init__(self, entry: StoreEntry) -> None:
        self._entry = entry if entry.sees_hold() else None
        self.shards: list[tuple[int, Mapping[str, NumpyArray], float]] = []

    def write(self, shard: int, outputs: Mapping[str, NumpyArray], seconds: float) -> None:
        if self._entry is None:
            self.shards.append((shard, dict(outputs), seconds))
        else:
            self._entry.write(shard, outputs, seconds)


@dataclass
class _Work:
    """What every worker has: the data sets, the encoders' names, and the encoder it loaded last."""

    sources: Sequence[Source]
    specs: Sequence[str | Encoder | nn.Module]
    settings: Settings
    _loaded: tuple[int, list[Job | Extracted], str | None] | None = field(default=None, init=False)

    def __call__(self, index: int, task: _Range | None, key: str | None) -> object:
        """Describe an encoder, or compute a range with it; `key` is the one that it must have."""
        rows, own = self._load(index)
        if task is None:
            return self._described(rows, own)
        if own != key and isinstance(self.specs[index], str):
            return _Computed(
                f"encoder {self.specs[index]} is another one on {platform.node()} than on the "
                "machine that loaded it first. Give all machines the same files."
            )
        self._compare(task)
        job = rows[task.place]
        if not isinstance(job, Job):
            return _Computed(job.error)
        return self._computed(job, task)

    def _load(self, index: int) -> tuple[list[Job | Extracted], str | None]:
        if self._loaded is None or self._loaded[0] != index:
            self._loaded = None  # the one before is not to take memory beside it
            rows = load_jobs(self.specs[index], self.sources, self.settings, {})
            encoder = next((one.encoder for one in rows if isinstance(one, Job)), None)
            key = None
            if encoder is not None:
                key = store_key(encoder, self.settings.device, exact=self.settings.exact)
            self._loaded = index, rows, key
        return self._loaded[1:]

    def _described(self, rows: list[Job | Extracted], key: str | None) -> _Described:
        item = next((one.item for one in rows if isinstance(one, Job)), None)
        facts = None
        if item is not None:
            facts = _Facts(item.identifier, item.n_parameters, item.input_size, item.notes, key)
        layers = [one.item.layers if isinstance(one, Job) else str(one.error) for one in rows]
        return _Described(facts, layers)

    def _compare(self, task: _Range) -> None:
        """Refuse to compute of other samples than those of the caller."""
        data = self.sources[task.place].dataset
        for row, digest in task.expected.items():
            try:
                same = data.digest(row) == digest
            except DatasetError as error:
                raise DatasetError(
                    f"a worker on {platform.node()} cannot read the data: {error} Put the files "
                    "where all machines see them under the same path, or pass arrays, which are "
                    "sent."
                ) from None
            if not same:
                raise DatasetError(
                    f"{data.where(row)} holds something else for a worker on {platform.node()} "
                    "than for the process that it works for. Give all machines the same files; of "
                    "an object, let each item be the same whenever it is asked for."
                )

    def _computed(self, job: Job, task: _Range) -> _Computed:
        sinks: dict[str, Sink] = {}
        for layer, sink in job.item.sinks.items():
            assert isinstance(sink, StreamSink)  # there is no store in the settings
            sinks[layer] = sink.emptied()
            if task.entries:
                sinks[layer] = cast("Sink", _Collected(task.entries[layer]))
        item = replace(job.item, sinks=sinks)
        one = replace(job, item=item, missing=dict(task.missing), parts={}, seconds=0.0)
        walk(item.dataset, [one], self.settings.batch_size, None)
        if item.error is not None:
            return _Computed(item.error)
        collected = {name: one for name, one in sinks.items() if isinstance(one, _Collected)}
        streams = {name: one.taken() for name, one in sinks.items() if isinstance(one, StreamSink)}
        shards = [(layer, *shard) for layer, sink in collected.items() for shard in sink.shards]
        return _Computed(shards=shards, parts=streams or None)


class _Candidate:
    """An encoder as it is seen from where workers are waited for."""

    def __init__(
        self,
        name: str,
        sources: Sequence[Source],
        settings: Settings,
        digest: Callable[[int, int], str],
    ) -> None:
        self.name, self.sources, self.settings = name, sources, settings
        self._digest = digest
        self.key: str | None = None
        self.items: list[Extracted] = []
        self._described = False
        self._open: set[tuple[int, int]] = set()
        #: by data set: what failed, and sums whose turn has not come
        self._failures: list[dict[int, str]] = [{} for _ in sources]
        self._parts: list[dict[int, Mapping[str, Part]]] = [{} for _ in sources]
        self._added = [0 for _ in sources]

    def describe(self, found: _Described | WorkerError) -> list[_Range]:
        """Note what a worker says of it; gives what is to be computed."""
        self._described = True
        ranges: list[_Range] = []
        if isinstance(found, WorkerError):
            self.items = [Extracted(self.name, one, error=str(found)) for one in self.sources]
            return []
        self.key = found.facts and found.facts.key
        for place, (source, layers) in enumerate(zip(self.sources, found.layers, strict=True)):
            if found.facts is None or isinstance(layers, str):
                self.items.append(Extracted(self.name, source, error=str(layers)))
                continue
            sinks = {layer: self._sink(place, found.facts, layer) for layer in layers}
            identifier, n_parameters, input_size, notes, _ = found.facts
            item = Extracted(
                identifier, source, n_parameters, input_size=input_size, notes=notes, sinks=sinks
            )
            self.items.append(item)
            ranges += self._ranges(place, sinks)
        self._open = {(one.place, one.number) for one in ranges}
        return ranges

    def _sink(self, place: int, facts: _Facts, layer: str) -> Sink:
        source, settings = self.sources[place], self.settings
        if settings.store is None:
            return StreamSink(source.dataset, settings.seed)
        n_shards = settings.n_shards if place == 0 else None
        return StoreSink(
            source, facts.identifier, facts.key, layer, settings.store, n_shards=n_shards
        )

    def _ranges(self, place: int, sinks: Mapping[str, Sink]) -> list[_Range]:
        missing = {layer: frozenset(sink.missing()) for layer, sink in sinks.items()}
        entries = {
            layer: sink.entry for layer, sink in sinks.items() if isinstance(sink, StoreSink)
        }
        shards = sorted(frozenset().union(*missing.values()))
        (first, *_) = sinks.values()
        if isinstance(first, StreamSink):
            ranges = first.ranges()
        else:
            length = max(1, min(_batches.RANGE_SHARDS, len(shards) // MANY_RANGES))
            ranges = cut_into_ranges(shards, max(length, least_length(len(shards))))
        return [
            _Range(
                place,
                number,
                {layer: those & frozenset(chosen) for layer, those in missing.items()},
                entries,
                self._digests(place, chosen),
            )
            for number, chosen in enumerate(ranges)
        ]

    def _digests(self, place: int, shards: Sequence[int]) -> dict[int, str]:
        data = self.sources[place].dataset
        rows = [row for shard in shards for row in shard_rows(shard, len(data))]
        return {row: self._digest(place, row) for row in rows[:: -(-len(rows) // COMPARED)]}

    def take(self, task: _Range, found: _Computed | WorkerError) -> None:
        """Note what came of a range."""
        place, number = task.place, task.number
        if (place, number) not in self._open:
            return  # one before it failed meanwhile
        self._open.remove((place, number))
        if isinstance(found, WorkerError):
            found = _Computed(str(found))
        if found.error is not None:
            self._failures[place][number] = found.error
            # what stands behind it changes nothing, what stands before may fail first
            self._open = {one for one in self._open if one[0] != place or one[1] < number}
            return
        sinks = self.items[place].sinks
        for layer, shard, outputs, seconds in found.shards:
            sinks[layer].write(shard, outputs, seconds)
        if found.parts is not None:
            self._parts[place][number] = found.parts
        while (parts := self._parts[place].pop(self._added[place], None)) is not None:
            self._added[place] += 1
            for layer, part in parts.items():
                sink = sinks[layer]
                assert isinstance(sink, StreamSink)
                sink.whole.add(part)

    def wants(self, task: _Range) -> bool:
        """Whether a range still is to be computed."""
        return (task.place, task.number) in self._open

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be computed."""
        return self._described and not self._open

    def extracted(self, keys: dict[str, str]) -> tuple[Extracted, ...]:
        """What is there in the end; `keys` are those of the encoders before it."""
        try:
            refuse_shared_key(self.key, self.name, keys)
        except EncoderError as error:
            self._failures = [{0: str(error)} for _ in self.sources]
        for item, failures in zip(self.items, self._failures, strict=True):
            if item.error is not None:
                continue
            if failures:
                item.fail(failures[min(failures)])
            else:
                item.finish()
        return tuple(self.items)


def extract_elsewhere(
    executor: Executor,
    sources: Sequence[Source],
    specs: Sequence[str | Encoder | nn.Module],
    settings: Settings,
    keys: dict[str, str],
    progress: ProgressCallback | None,
) -> Iterator[tuple[Extracted, ...]]:
    """Compute the features of several data sets by the workers of an executor.

    Parameters
    ----------
    executor : Executor
    sources : sequence of Source
    specs : sequence of str, Encoder or torch.nn.Module
    settings : Settings
    keys : dict of str to str
        Those of encoders that were extracted before in the same run, with their names.
    progress : callable or None

    Yields
    ------
    tuple of Extracted
        As `extract_together` gives them, in the order of `specs`.
    """
    work = _Work(sources, specs, replace(settings, store=None))
    names = [encoder_name(spec) for spec in specs]
    queues: Queues = {name: deque([(i, None, None)]) for i, name in enumerate(names)}

    @cache  # all encoders have the same ranges, or nearly
    def digest(place: int, row: int) -> str:
        return sources[place].dataset.digest(row)

    candidates = [_Candidate(name, sources, settings, digest) for name in names]
    text = f"extracting features with {len(names)} encoder{'s' if len(names) > 1 else ''}"
    done = total = given = 0
    if progress is not None:
        progress("starting workers", 0, 0)
    with closing(executor.run(work, queues)) as outcomes:
        for (index, task, _), outcome in outcomes:
            one, queue = candidates[index], queues[names[index]]
            if task is None:
                for each in one.describe(outcome):
                    queue.append((index, each, one.key))
                    total += _n_rows(each, sources)
            else:
                one.take(task, outcome)
                done += _n_rows(task, sources)
                kept = [call for call in queue if call[1] is None or one.wants(call[1])]
                if len(kept) < len(queue):
                    done += sum(_n_rows(call[1], sources) for call in queue) - sum(
                        _n_rows(call[1], sources) for call in kept
                    )
                    queues[names[index]] = deque(kept)
            if progress is not None and total:
                progress(text, done, total)
            while given < len(candidates) and candidates[given].complete:
                yield candidates[given].extracted(keys)
                given += 1


def _n_rows(task: _Range, sources: Sequence[Source]) -> int:
    n = len(sources[task.place].dataset)
    shards = frozenset().union(*task.missing.values())
    return sum(len(shard_rows(shard, n)) for shard in shards)
