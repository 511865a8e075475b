"""Ray on this machine: what a call costs, the rate of two workers, and 20 kills at random moments.

    python benchmarks/workers.py [--kills 20] [--turns 3] [--seed 0] [--encoder timm/NAME]

1. An empty (encoder, range) call.
2. Rate: the same encoder over the same images in one process with two threads, and by two workers
   of one thread, in turns, into fresh stores. Start of the cluster is not counted; loading encoders
   is.
3. Kills: each time a driver of its own extracts with two encoders on a cluster of three raylets,
   into a store or into moments, and a worker, a raylet or the driver is killed with SIGKILL at a
   random moment. A raylet comes back; a driver that was killed is started again. What comes out
   must have the bits of a run in one process without Ray, the store be whole, and shards that a
   killed driver left not be written again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

# of the workers, and of NumPy here: sums are taken in another order with more threads
os.environ["OMP_NUM_THREADS"] = "1"
# else workers wait for all that others do here
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray spells it so

import numpy as np
import torch

from transferscope import FeatureStore, RayExecutor, extract, from_module, open_dataset
from transferscope.datasets import Dataset
from transferscope.encoders import ImagePreprocessing
from transferscope.extraction import Source
from transferscope.extraction import _elsewhere as elsewhere
from transferscope.extraction import _pass as extraction_pass

KILLED = "mini/resnet-random,mini/vit-random"
#: How often the digits are repeated, and the side of the images that rates are measured with.
TILES, SIDE = 8, 112


def many_digits() -> Dataset:
    """Scikit-learn's digits several times over, with noise: 14,376 images of 8 x 8."""
    digits = open_dataset("sklearn/digits")
    pixels = np.stack([np.asarray(digits[i])[..., 0] for i in range(len(digits))])
    noise = np.random.default_rng(0).integers(-20, 20, (TILES, *pixels.shape))
    images = np.clip(pixels + noise, 0, 255).astype(np.uint8).reshape(-1, 8, 8)
    return open_dataset((images, np.tile(digits.labels, TILES)))


def digest(data: Dataset, store: Path | None, executor: RayExecutor | None, announce=False) -> str:
    """Of all that comes out: features, labels and, without a store, moments."""
    whole = hashlib.sha256()

    def progress(_: str, done: int, total: int) -> None:
        if announce and total and not done:
            print("begin", flush=True)

    for item in extract(
        data, KILLED, store=store, device=None if executor else "cpu", executor=executor,
        progress=progress,
    ):  # fmt: skip
        assert item.error is None, item.error
        embedding = item.embedding()
        whole.update(np.ascontiguousarray(embedding.features).tobytes())
        whole.update(np.ascontiguousarray(item.labels).tobytes())
        if store is None:
            for name, values in sorted(embedding.moments.to_arrays().items()):
                whole.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return whole.hexdigest()


def drive(address: str, into: str) -> None:
    """The driver that may be killed: says when it begins, and what came out."""
    with RayExecutor(address) as executor:
        print(digest(many_digits(), None if into == "none" else Path(into), executor, True))


def all_up(executor: RayExecutor) -> set[int]:
    """Wait until all workers are there, each with torch imported; gives their processes."""

    def process(_: int) -> int:
        import torch  # noqa: F401

        time.sleep(1)
        return os.getpid()

    seen: set[int] = set()
    while len(seen) < (executor.workers or 1):
        seen |= {found for _, found in executor.run(process, {"": deque([(0,), (1,), (2,), (3,)])})}
    return seen


def empty_calls(executor: RayExecutor) -> None:
    all_up(executor)
    data = open_dataset("sklearn/digits")
    settings = extraction_pass.Settings("last", None, 64, "cpu", 0, None, True, False)
    work = elsewhere._Work([Source(data)], ["mini/vit-random"], settings)
    nothing = elsewhere._Range(0, 0, {"pooled": frozenset()}, {}, {})
    queues = {"mini/vit-random": deque([(0, None, None)] * 8)}
    ((_, described), *_) = list(executor.run(work, queues))  # workers are up, the encoder is loaded
    calls = [(0, nothing, described.facts.key)] * 400
    before = time.process_time()
    outcomes = executor.run(work, {"mini/vit-random": deque(calls)})
    # the first ones of this run take the work and load the encoder
    took = np.diff([time.perf_counter() for _ in outcomes])[40:]
    busy = (time.process_time() - before) / len(calls)
    print(f"empty (encoder, range) call, {len(calls)} by two workers: one every "
          f"{1e3 * took.mean():.2f} ms ({1e3 * np.quantile(took, 0.99):.1f} ms at most in 99 of "
          f"100), so {2e3 * took.mean():.2f} ms each; {1e3 * busy:.2f} ms of the processor of the "
          "waiting process", flush=True)  # fmt: skip


def processor_seconds(workers: set[int]) -> float:
    """Of this process and of its workers."""
    ticks = 0
    for process in (os.getpid(), *workers):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rates(executor: RayExecutor, name: str, n_images: int, turns: int) -> None:
    import timm

    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=0)
    encoder = from_module(
        module, ImagePreprocessing((SIDE, SIDE), (SIDE, SIDE)), identifier=name, version="1"
    )
    processes = all_up(executor)
    shape = (n_images, SIDE, SIDE, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    data = open_dataset((pixels, np.arange(n_images) % 10))
    print(f"\n{name}, {n_images} images of {SIDE} x {SIDE}; images per second, and per second of a "
          "processor\n\n| turn | one process, two threads | two workers of one thread | ratio | "
          "bits |\n|---|---|---|---|---|")  # fmt: skip
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns + 1):  # the first one warms up and is not counted
            part = data.subset(np.arange(256)) if turn == 0 else data
            features, rate = [], []
            for workers in (None, executor):
                torch.set_num_threads(2)
                start, before = time.perf_counter(), processor_seconds(processes)
                (item,) = extract(
                    part, encoder, store=Path(folder) / f"{turn} {workers}",
                    executor=workers, device=None if workers else "cpu",
                )  # fmt: skip
                assert item.error is None, item.error
                spent = time.perf_counter() - start, processor_seconds(processes) - before
                rate.append([len(part) / each for each in spent])
                features.append(item.features)
            same = np.array_equal(*features)
            apart = float(np.abs(features[0] - features[1]).max() / np.abs(features[0]).max())
            ratio = np.divide(rate[1], rate[0])
            if turn:
                ratios.append(ratio)
                bits = "the same" if same else f"apart by {apart:.0e} of the largest"
                print(f"| {turn} | {rate[0][0]:.1f}, {rate[0][1]:.1f} | {rate[1][0]:.1f}, "
                      f"{rate[1][1]:.1f} | {ratio[0]:.2f}, {ratio[1]:.2f} | {bits} |",
                      flush=True)  # fmt: skip
    median = np.median(ratios, axis=0)
    print(f"\nTwo workers do {median[0]:.2f} x the rate of one process, {median[1]:.2f} x for each "
          f"second of a processor (medians of {turns} turns).")  # fmt: skip


def shards(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.rglob("shard-*.safetensors")}


def worker_processes(nodes: list) -> list[int]:
    """The processes of workers on these machines: children of their raylets."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in nodes}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            title = (process / "cmdline").read_bytes()
            if parent in raylets and title.startswith(b"ray::_Held"):
                found.append(int(process.name))
    return found


def kills(n_kills: int, victims: list[str], seed: int) -> int:
    from ray.cluster_utils import Cluster

    torch.set_num_threads(1)  # as in the workers: sums are taken in another order with more
    moments = random.Random(seed)
    data = many_digits()
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    wrong = done = 0
    with tempfile.TemporaryDirectory() as folder:
        expected = {
            "store": digest(data, Path(folder) / "alone", None), "moments": digest(data, None, None)
        }  # fmt: skip
        total = len(shards(Path(folder) / "alone"))
        length = 15.0
        print(f"{len(data)} images, two encoders, {total} shards\n")
        print("| kill | of | into | after | shards there | came out |\n|---|---|---|---|---|---|")
        while done < n_kills:
            victim = victims[done % len(victims)]
            into = "moments" if victim != "driver" and moments.random() < 0.4 else "store"
            store = Path(folder) / f"store{moments.random()}"
            delay = moments.uniform(0, length)
            command = [sys.executable, __file__, "--drive", cluster.address, "--into"]
            command += ["none" if into == "moments" else str(store)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            assert process.stdout.readline() == "begin\n"
            started = time.perf_counter()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            there = shards(store)
            if process.poll() is not None:  # too late to do harm: does not count
                length = min(length, time.perf_counter() - started)
                continue
            if victim == "worker":
                processes = worker_processes(nodes)
                if not processes:  # it is ending: too late, too
                    process.communicate()
                    continue
                chosen = moments.choice(processes)
                os.kill(chosen, signal.SIGKILL)
            elif victim == "raylet":
                chosen = nodes.pop(moments.randrange(len(nodes)))
                cluster.remove_node(chosen, allow_graceful=False)
                nodes.append(cluster.add_node(num_cpus=1))
            else:
                process.kill()
                process.wait()
                process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            output = process.communicate(timeout=300)[0].split()
            done += 1
            damaged = FeatureStore(store).verify() if into == "store" else []
            touched = [
                path for path, when in there.items()
                if victim == "driver" and path.stat().st_mtime_ns != when
            ]  # fmt: skip
            good = output[-1:] == [expected[into]] and not damaged and not touched
            wrong += not good
            kept = f"{len(there)} of {total}" if into == "store" else ""
            came = "the same bits" if good else f"WRONG {output=} {damaged=} {touched=}"
            print(f"| {done} | {victim} | {into} | {delay:.1f} s | {kept} | {came} |", flush=True)
    cluster.shutdown()
    print(f"\n{n_kills} kills; {wrong} came out wrong")
    return int(wrong > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--victims", default="worker,raylet,driver")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", help=argparse.SUPPRESS)  # the process that may be killed
    parser.add_argument("--into", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(options.drive, options.into)
        return 0
    if options.turns:
        with RayExecutor("local", workers=2) as executor:
            empty_calls(executor)
            rates(executor, options.encoder, options.images, options.turns)
    victims = options.victims.split(",")
    return kills(options.kills, victims, options.seed) if options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
