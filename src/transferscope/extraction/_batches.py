"""The samples of a data set in batches, decoded ahead of the encoders on worker threads.

Rows are cut into shards of fixed size and shards into batches, the same in every run, so that a run
that was killed and repeated gives the same bits. Within a shard texts are taken by length: little
is padded then.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import NamedTuple, TypeVar

import numpy as np

from transferscope.datasets import Dataset, Word
from transferscope.encoders import Preprocessing
from transferscope.errors import InputError
from transferscope.numerics.arrays import NumpyArray

_Given = TypeVar("_Given")

#: Rows of one shard of the store: what a killed run can lose.
SHARD_ROWS = 512
#: Shards whose sums are taken together where features are not stored, and that a worker is given at
#: once: so many that the moments of 2 048 features take less room than the features.
RANGE_SHARDS = 8
#: Ranges of one encoder and data set are made longer rather than more than these.
MOST_RANGES = 8_192
#: Batches that are decoded ahead of the encoders at most, and bytes that they may take; one is
#: decoded ahead whatever it takes.
BATCHES_AHEAD = 3
BYTES_AHEAD = 128 * 2**20
#: More threads than this wait for Python's lock more than they decode.
DECODING_THREADS = 16


def n_shards(n_samples: int) -> int:
    """Number of shards of so many samples."""
    return -(-n_samples // SHARD_ROWS)


def shard_rows(shard: int, n_samples: int) -> range:
    """Rows of one shard of so many samples.

    Parameters
    ----------
    shard, n_samples : int

    Returns
    -------
    range
    """
    return range(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, n_samples))


def least_length(n_shards: int) -> int:
    """Shards of a range, so that there are no more than `MOST_RANGES`."""
    return -(-n_shards // MOST_RANGES) or 1


def cut_into_ranges(shards: Sequence[int], length: int) -> list[list[int]]:
    """Shards in ranges: those in ascending order that lie between two multiples of `length`."""
    return [list(group) for _, group in groupby(shards, lambda shard: shard // length)]


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch that is empty or longer than a shard."""
    if not 1 <= batch_size <= SHARD_ROWS:
        raise InputError(
            f"batch_size must be between 1 and {SHARD_ROWS}; got {batch_size}. "
            "Choose a value in this range."
        )


class Batch(NamedTuple):
    """Rows that go through the encoders together."""

    shard: int
    rows: Sequence[int]
    #: with the last batch of a shard: where each row of the shard was computed
    completes: NumpyArray | None


#: A batch as one preprocessing collated it, or the exception that it raised.
Prepared = object


def cut_into_batches(shards: Iterable[int], dataset: Dataset, batch_size: int) -> list[Batch]:
    """The batches of these shards, in order."""
    batches = []
    for shard in shards:
        rows: Sequence[int] = shard_rows(shard, len(dataset))
        if dataset.modality == "text":
            rows = sorted(rows, key=lambda row: _length(dataset[row]))
        for start in range(0, len(rows), batch_size):
            last = start + batch_size >= len(rows)
            places = np.argsort(rows) if last else None
            batches.append(Batch(shard, rows[start : start + batch_size], places))
    return batches


def _length(sample: object) -> int:
    """Characters of a text, of a pair, or of the sentence around a word."""
    if isinstance(sample, str):
        return len(sample)
    parts = sample.words if isinstance(sample, Word) else sample
    return sum(map(len, parts)) if isinstance(parts, Sequence) else 0


def decode_ahead(
    dataset: Dataset,
    batches: Iterable[Batch],
    needed: Callable[[int], Mapping[str, Preprocessing]],
) -> Generator[tuple[Batch, dict[str, Prepared]]]:
    """Decode and prepare each batch, in order, on worker threads.

    Parameters
    ----------
    dataset : Dataset
    batches : iterable of Batch
    needed : callable
        Gives the preprocessings, by key, that a shard has to be prepared with; where there are
        none, nothing is decoded.

    Yields
    ------
    batch : Batch
    prepared : dict of str to object
        What each preprocessing made of it, or the exception that it raised.

    Raises
    ------
    DatasetError
        If a sample cannot be decoded.
    """

    def prepare(row: int, kinds: Mapping[str, Preprocessing]) -> dict[str, Prepared]:
        sample = dataset[row]
        return {key: _attempt(kind.prepare, sample) for key, kind in kinds.items()}

    def start(
        batch: Batch,
    ) -> tuple[Batch, Mapping[str, Preprocessing], list[Future[dict[str, Prepared]]]]:
        kinds = needed(batch.shard)
        return batch, kinds, [pool.submit(prepare, row, kinds) for row in batch.rows if kinds]

    cores = getattr(os, "process_cpu_count", os.cpu_count)() or 1  # Python 3.13 knows affinity
    pool = ThreadPoolExecutor(min(cores, DECODING_THREADS), "decode")
    try:
        started = map(start, batches)
        ahead = deque(islice(started, 1))  # how much room a batch takes is known from the first
        while ahead:
            batch, kinds, futures = ahead.popleft()
            samples = [future.result() for future in futures]
            prepared = {
                key: _collate(kind, [sample[key] for sample in samples])
                for key, kind in kinds.items()
            }
            del samples, futures  # collated now: not to be held twice while encoders compute
            ahead.extend(islice(started, max(0, _batches_ahead(prepared) - len(ahead))))
            yield batch, prepared
    finally:
        pool.shutdown(cancel_futures=True)


def _batches_ahead(prepared: Mapping[str, Prepared]) -> int:
    """How many batches like this one are decoded ahead."""
    n_bytes = sum(one.nbytes for one in prepared.values() if isinstance(one, np.ndarray))
    return min(BATCHES_AHEAD, max(1, BYTES_AHEAD // max(1, n_bytes)))


def _collate(kind: Preprocessing, samples: list[Prepared]) -> Prepared:
    failed = next((sample for sample in samples if isinstance(sample, Exception)), None)
    return _attempt(kind.collate, samples) if failed is None else failed


def _attempt(function: Callable[[_Given], Prepared], given: _Given) -> Prepared:
    """What the function gives, or the exception it raises."""
    try:
        return function(given)
    except Exception as error:  # noqa: BLE001  it concerns only encoders with this preprocessing
        return error
