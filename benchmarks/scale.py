"""What a cluster would do: 1 to 1,000 workers, 10^6 to 10^9 samples, 10 to 1,000 encoders.

    python benchmarks/scale.py [--check] [--seed 0]

A simulation, call by call, of what `ray_executor.py` and `extraction/_elsewhere.py` do: workers
take ranges of the encoder that they hold, load another one when there are none left, are slow or
taken away; the process that waits for them has one thread, in which it hands out calls, adds up
sums and scores. What each of these costs is measured here first, but for the speed of encoders on
a GPU, which is published, and what storage and network carry, which is assumed and said.

--check compares the simulation with runs of 1, 2 and 4 workers on this machine.
"""

from __future__ import annotations

import argparse
import heapq
import io
import os
import pickle
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from transferscope import RayExecutor, extract, from_module, open_dataset, score
from transferscope.embedding import ClassMoments
from transferscope.encoders import CANDIDATES, ImagePreprocessing
from transferscope.extraction import _batches
from transferscope.extraction._elsewhere import MANY_RANGES
from transferscope.knowledge import Foresight
from transferscope.storage.feature_store import FeatureStore
from workers import all_up

D = 768  # features of a base-sized encoder
CLASSES = 100
#: Of more samples than these the features of one encoder fill the memory that scores them: 31 GB.
MOST_STORED = 10**7


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes; measured by `measure` unless it says otherwise."""

    #: of the waiting process, per call: hand out, wait, take the outcome (workers.py measures it)
    call: float = 0.7e-3
    #: per range without a store: read the sums that came, and add them to those before
    merge: float = 0.0
    sums_bytes: float = 0.0
    #: per shard with a store: look whether it is there, when it is not and when it is
    absent: float = 0.0
    present: float = 0.0
    #: per sample: features read at the end, to be scored
    read: float = 0.0
    #: per encoder: the default metrics, on 5 000 samples and all moments
    score: float = 0.0
    #: a process that has imported torch and the package; a worker needs it once
    start: float = 5.0
    #: published: images a second of one GPU, the harmonic mean of `vision-base`
    speed: float = 1.0
    #: assumed: weights of 350 MB from a disk or cache in the cluster
    load: float = 5.0
    #: assumed: the network of the machine that waits, and what the shared storage gives to all
    network: float = 1.25e9
    storage: float = 10e9
    image_bytes: float = 110e3
    #: per sample: a photograph of 500 x 375 is decoded and resized
    decode: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """Who works."""

    workers: int
    #: log-normal spread of how slow a worker is
    spread: float = 0.1
    #: taken away, per worker and hour; another one comes after so many seconds
    taken_per_hour: float = 0.05
    return_after: float = 120.0


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    samples: int
    encoders: int
    store: bool


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    seconds: float
    worked: float  # seconds of finished calls, per worker, had nobody waited for data
    lost: float  # worker-seconds of calls that were lost
    loads: int
    calls: int
    waiting: float  # seconds in which the waiting process was busy
    storage_share: float  # of what the storage gives, while all work

    @property
    def efficiency(self) -> float:
        return self.worked / self.seconds


def ranges(job: Job) -> tuple[int, int]:
    """How many ranges an encoder has, and how many samples each, as the code cuts them."""
    shards = _batches.n_shards(job.samples)
    length = max(1, min(_batches.RANGE_SHARDS, shards // MANY_RANGES))
    if not job.store:
        length = _batches.RANGE_SHARDS
    length = max(length, _batches.least_length(shards))
    return -(-shards // length), length * _batches.SHARD_ROWS


def simulate(job: Job, cluster: Cluster, costs: Costs, seed: int) -> Outcome:
    """Every call of every worker."""
    random = np.random.default_rng(seed)
    n_ranges, rows = ranges(job)
    slow = np.exp(random.normal(0.0, cluster.spread, cluster.workers))
    # a GPU starves where the storage does not keep up
    speed = min(costs.speed, costs.storage / costs.image_bytes / cluster.workers)
    driver = costs.call + (0.0 if job.store else costs.merge + costs.sums_bytes / costs.network)
    waiting = 0.0
    if job.store:
        waiting += costs.absent * _batches.n_shards(job.samples) * job.encoders
    left = Counter(dict.fromkeys(range(job.encoders), n_ranges))
    at: Counter[int] = Counter()
    holds = [-1] * cluster.workers
    order = list(range(job.encoders))  # those with ranges left, in order
    free_at = waiting  # when the waiting process is free
    hour = cluster.taken_per_hour / 3600
    gone = random.exponential(1 / hour, cluster.workers) if hour else np.full(cluster.workers, 1e18)
    queue = [(costs.start, worker) for worker in range(cluster.workers)]
    heapq.heapify(queue)
    calls = loads = 0
    worked = lost = last = 0.0
    while queue:
        now, worker = heapq.heappop(queue)
        now = max(now, free_at)
        if not order:
            continue
        free_at = now + driver
        waiting += driver
        encoder = holds[worker]
        duration = 0.0
        if not left[encoder]:
            # of the first few with the fewest workers: the code looks at all
            encoder = min(order[: cluster.workers + 1], key=lambda one: at[one])
            at[holds[worker]] -= 1
            at[encoder] += 1
            holds[worker] = encoder
            duration += costs.load
            loads += 1
        duration += slow[worker] * rows / speed
        left[encoder] -= 1
        if not left[encoder]:
            order.remove(encoder)
        end = free_at + duration
        if end > gone[worker]:
            lost += max(0.0, gone[worker] - free_at)
            if not left[encoder]:
                order.insert(0, encoder)
            left[encoder] += 1
            holds[worker] = -1
            at[encoder] -= 1
            back = max(gone[worker], free_at) + cluster.return_after + costs.start
            gone[worker] = back + random.exponential(1 / hour)
            heapq.heappush(queue, (back, worker))
            continue
        calls += 1
        worked += slow[worker] * rows / costs.speed
        last = max(last, end)
        heapq.heappush(queue, (end, worker))
    # scores one after the other, while workers work on later encoders
    reading = costs.read * job.samples if job.store else 0.0
    scoring = job.encoders * (costs.score + reading)
    waiting += scoring
    seconds = max(last, free_at + costs.score + reading, waiting)
    return Outcome(
        seconds, worked / cluster.workers, lost, loads, calls, waiting,
        cluster.workers * costs.speed * costs.image_bytes / costs.storage,
    )  # fmt: skip


def clock(function: Callable[[], object], repeats: int = 5) -> float:
    """The least processor seconds of a few calls: others use this machine."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def measure() -> Costs:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((8 * 512, D)).astype(np.float32)
    labels = rng.integers(0, CLASSES, len(features))
    whole = ClassMoments.from_arrays(features, labels)
    sent = pickle.dumps(whole.copy(), protocol=5)
    merge = clock(lambda: whole.merge(pickle.loads(sent)))
    some = rng.standard_normal((5_000, D)).astype(np.float32)
    classes = rng.integers(0, CLASSES, 5_000)
    scoring = clock(lambda: score(some, classes), 1)
    photograph = io.BytesIO()
    rough = Image.fromarray(rng.integers(0, 256, (94, 125, 3), np.uint8))
    rough.resize((500, 375), Image.Resampling.BICUBIC).save(photograph, "JPEG", quality=90)
    prepare = ImagePreprocessing((256, 256), (224, 224)).prepare
    decode = clock(lambda: prepare(Image.open(io.BytesIO(photograph.getvalue())).convert("RGB")))
    with tempfile.TemporaryDirectory() as folder:
        entry = FeatureStore(folder).entry(
            dataset="d", encoder="e", layer="l", n_samples=64 * 512, shard_size=512
        )
        absent = clock(entry.missing) / 64
        for k in range(64):
            entry.write(k, {"features": features[:512]}, 1.0)
        present = clock(entry.missing) / 64
        read = clock(entry.load) / (64 * 512)
    names = [one.name for one in CANDIDATES["vision-base"]]
    speeds = [one.gpu_speed for one in Foresight(names, "image").known if one and one.gpu_speed]
    return Costs(
        merge=merge, sums_bytes=len(sent), absent=absent, present=present, read=read,
        score=scoring, decode=decode, image_bytes=len(photograph.getvalue()),
        speed=len(speeds) / sum(1 / speed for speed in speeds),
    )  # fmt: skip


def words(outcome: Outcome, costs: Costs, job: Job, cluster: Cluster) -> str:
    """What binds, if anything does."""
    n_ranges, _ = ranges(job)
    handing = outcome.calls * costs.call
    merging = 0.0 if job.store else outcome.calls * (costs.merge + costs.sums_bytes / costs.network)
    ending = outcome.waiting - handing - merging
    binding = []
    if outcome.storage_share > 1:
        binding.append("storage")
    if merging > 0.5 * outcome.seconds:
        binding.append("reduce")
    if handing > 0.5 * outcome.seconds:
        binding.append("calls")
    if ending > 0.5 * outcome.seconds:
        binding.append("scores")
    if job.encoders * n_ranges < 4 * cluster.workers:
        binding.append("too few ranges")
    return ", ".join(binding) or "encoders"


def duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def table(costs: Costs, seed: int, grid: list[tuple[int, int, bool]]) -> None:
    print("| samples | encoders | store | workers | time | GPU hours | busy | lost | "
          "waiting process busy | binds |\n"
          "|---:|---:|---|---:|---:|---:|---:|---:|---:|---|")  # fmt: skip
    for samples, encoders, store in grid:
        for workers in (1, 10, 100, 1000):
            job, cluster = Job(samples, encoders, store), Cluster(workers)
            found = simulate(job, cluster, costs, seed)
            print(f"| 10^{round(np.log10(samples))} | {encoders:,} | {'yes' if store else 'no'} | "
                  f"{workers:,} | {duration(found.seconds)} | "
                  f"{found.seconds * workers / 3600:,.0f} | {found.efficiency:.0%} | "
                  f"{found.lost / found.seconds / workers:.1%} | "
                  f"{found.waiting / found.seconds:.0%} | "
                  f"{words(found, costs, job, cluster)} |", flush=True)  # fmt: skip
    print()


def limits(costs: Costs) -> None:
    """Where something else than the encoders begins to bind, in numbers of workers or seconds."""
    print("| what | binds from |\n|---|---|")
    rows = [("storage, each encoder reads all images anew",
             f"{costs.storage / costs.image_bytes / costs.speed:,.0f} workers")]  # fmt: skip
    for samples in (10**6, 10**7, 10**8, 10**9):
        exponent = round(np.log10(samples))
        for store in (True, False):
            if store and samples > MOST_STORED:
                continue
            n_ranges, n_rows = ranges(Job(samples, 1, store))
            each = costs.call + (0 if store else costs.merge + costs.sums_bytes / costs.network)
            what = "calls with a store" if store else "the reduce without a store"
            rows.append((f"{what}, 10^{exponent} samples ({n_ranges:,} ranges of {n_rows:,})",
                         f"{n_rows / costs.speed / each:,.0f} workers"))  # fmt: skip
        if samples <= MOST_STORED:
            scoring = costs.score + costs.read * samples
            rows.append((f"scores, 10^{exponent} stored samples: {scoring:.1f} s an encoder",
                         f"{samples / costs.speed / scoring:,.0f} workers"))  # fmt: skip
            n_shards = _batches.n_shards(samples)
            rows.append((f"the ledger of a run that begins again, 10^{exponent} samples",
                         f"{n_shards * costs.present:.1f} s an encoder (of a new run "
                         f"{n_shards * costs.absent:.2f} s)"))  # fmt: skip
    rows.append((f"scores without a store: {costs.score:.1f} s an encoder, 10^6 samples",
                 f"{10**6 / costs.speed / costs.score:,.0f} workers"))  # fmt: skip
    for what, where in rows:
        print(f"| {what} | {where} |")
    print()


def check(seed: int) -> None:
    """Runs of 1, 2 and 4 workers beside the simulation; encoders wait instead of computing."""
    digits = open_dataset("sklearn/digits")
    data = digits.subset(np.tile(np.arange(len(digits)), 8))
    pause = 0.2  # per batch of 64: other work on this machine does not change it

    def waiting(name: str) -> object:
        def forward(batch: np.ndarray) -> np.ndarray:
            time.sleep(pause)
            return np.ascontiguousarray(batch.reshape(len(batch), -1)[:, :64], np.float32)

        class Pixels:
            key = name

            def prepare(self, sample: object) -> np.ndarray:
                return np.asarray(sample)

            def collate(self, prepared: list[np.ndarray]) -> np.ndarray:
                return np.stack(prepared)

        return from_module(forward, Pixels(), identifier=name, version="1")

    encoders = [waiting("one"), waiting("two")]
    with tempfile.TemporaryDirectory() as folder:  # what a sample takes, all in all
        some = data.subset(np.arange(8 * 512))
        start = time.perf_counter()
        list(extract(some, encoders[0], store=Path(folder), device="cpu"))
        rate = len(some) / (time.perf_counter() - start)
    print(f"{rate:.0f} samples a second in one process\n")
    print("| workers | run | simulated | ratio |\n|---:|---:|---:|---:|")
    for workers in (1, 2, 4):
        with (
            RayExecutor("local", workers=workers, cpus=0.25) as executor,
            tempfile.TemporaryDirectory() as folder,
        ):
            all_up(executor)
            start = time.perf_counter()
            list(extract(data, encoders, store=Path(folder), executor=executor))
            seconds = time.perf_counter() - start
        costs = Costs(speed=rate, start=0.0, load=0.0, storage=1e15)
        job = Job(len(data), 2, store=True)
        found = simulate(job, Cluster(workers, spread=0.0, taken_per_hour=0.0), costs, seed)
        print(f"| {workers} | {seconds:.1f} s | {found.seconds:.1f} s | "
              f"{seconds / found.seconds:.2f} |", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.check:
        # else workers wait for all that others do here
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray spells it so
        check(options.seed)
        return 0
    costs = measure()
    for name, value in vars(costs).items():
        print(f"{name}: {value:.3g}")
    print(f"processors that decode for one GPU: {costs.decode * costs.speed:.0f}\n")
    local = replace(costs, storage=1e15)
    grid = [
        (10**n, encoders, store)
        for n in (6, 7, 8, 9)
        for encoders in (10, 100, 1000)
        for store in (True, False)
        if not (store and 10**n > MOST_STORED)
    ]
    print("What binds from where on:\n")
    limits(costs)
    print("Images on a disk of each machine:\n")
    table(local, options.seed, grid)
    print(f"Images on storage that gives {costs.storage / 1e9:.0f} GB/s to all:\n")
    table(costs, options.seed, [(10**6, 100, True), (10**7, 100, True), (10**9, 10, False)])
    print("Of 10^7 samples, 100 encoders, 100 workers, with a store and local images:\n")
    job, base = Job(10**7, 100, store=True), Cluster(100)
    print("| what changes | time | busy | lost |\n|---|---:|---:|---:|")
    for what, cluster in (
        ("nothing", base),
        ("no spread, nobody taken", replace(base, spread=0.0, taken_per_hour=0.0)),
        ("workers differ by 30 %", replace(base, spread=0.3)),
        ("workers taken every hour", replace(base, taken_per_hour=1.0)),
        ("workers taken every 10 minutes", replace(base, taken_per_hour=6.0)),
    ):
        found = simulate(job, cluster, local, options.seed)
        print(f"| {what} | {duration(found.seconds)} | {found.efficiency:.0%} | "
              f"{found.lost / found.seconds / cluster.workers:.1%} |")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
