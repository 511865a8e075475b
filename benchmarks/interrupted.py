"""Kill an extraction at random moments, run it again, and compare with an undisturbed run.

    python benchmarks/interrupted.py [--kills 20] [--images FOLDER] [--encoders LIST] [--seed 0]

Each time a process of its own extracts real images into a fresh store and is killed with SIGKILL at
a random moment of its work; then the same extraction runs to its end on what was left. The features
must be bit-identical to those of a run that nobody disturbed, every file of the store intact, and
finished shards not computed again.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from transferscope.datasets import open_dataset
from transferscope.encoders import expand_encoders, load_encoder
from transferscope.extraction import _batches
from transferscope.extraction import extract as extract_features
from transferscope.storage.feature_store import FeatureStore

IMAGES = Path(__file__).parents[1] / "../shared/data/trees/caltech101_10x30"


def extract(options: argparse.Namespace, store: Path, announce: bool = False) -> list[npt.NDArray]:
    """Features of every encoder; announces when the work begins."""
    _batches.SHARD_ROWS = options.shard
    torch.set_num_threads(1)  # sums are taken in another order with more, so bits would differ
    encoders = [load_encoder(name) for name in expand_encoders(options.encoders)]
    dataset = open_dataset(options.images)
    if announce:
        print("begin", flush=True)
    features = []
    for item in extract_features(
        dataset, encoders, store=FeatureStore(store), batch_size=options.batch, device="cpu"
    ):
        assert item.error is None, item.error
        features.append(item.embedding().features)
    return features


def run_for(store: Path, limit: float | None) -> float:
    """Run an extraction in a process, kill it after `limit` seconds; return how long it worked."""
    arguments = [sys.executable, __file__, *sys.argv[1:], "--into", str(store)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begin\n"
        start = time.perf_counter()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit)
        length = time.perf_counter() - start
        process.kill()
        assert process.wait() in (0, -signal.SIGKILL)
    return length


def shards(store: Path) -> tuple[int, int]:
    entries = FeatureStore(store).entries()
    return sum(e.n_shards_present for e in entries), sum(e.n_shards for e in entries)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", default=str(IMAGES))
    parser.add_argument("--encoders", default="mini/resnet-random,mini/vit-random")
    parser.add_argument("--shard", type=int, default=16, help="rows per shard")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--into", help=argparse.SUPPRESS)  # the process that will be killed
    options = parser.parse_args()
    if options.into:
        extract(options, Path(options.into), announce=True)
        return 0
    moments = random.Random(options.seed)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "undisturbed"
        length = run_for(store, None)
        total, _ = shards(store)
        undisturbed = extract(options, store)
        n, widths = len(undisturbed[0]), [each.shape[1] for each in undisturbed]
        print(f"{n} images of {options.images}; features of {widths} dimensions, {total} shards")
        print(f"undisturbed: {length:.2f} s\n\nkill  after     shards kept  left over  bits")
        kills = 0
        while kills < options.kills:
            store = Path(folder) / f"killed{moments.random()}"
            delay = moments.uniform(0, length)
            run_for(store, delay)
            kept, _ = shards(store)
            if kept == total:  # too late to do harm: does not count
                length = delay
                continue
            kills += 1
            temporary = len(list(store.rglob("*.tmp")))
            before = {path: path.stat().st_mtime_ns for path in store.rglob("shard-*.safetensors")}
            again = extract(options, store)
            equal = all(map(np.array_equal, again, undisturbed))
            touched = [p for p, when in before.items() if p.stat().st_mtime_ns != when]
            damaged = FeatureStore(store).verify()
            good = equal and not touched and not damaged
            wrong += not good
            print(f"{kills:4}  {delay:6.3f} s  {kept:5} of {total:3}  {temporary:9}  "
                  f"{'identical' if good else f'WRONG {equal=} {touched=} {damaged=}'}",
                  flush=True)  # fmt: skip
    print(f"\n{options.kills} runs were killed at work; {wrong} came out wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
