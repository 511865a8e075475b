"""How close extraction comes to the bare forward pass: 224 x 224 JPEG images, timm resnet18.

    python benchmarks/extraction.py [--samples 2000] [--rounds 3] [--threads N]

The bare pass runs the module on float tensors that are ready, in batches of the same size and in
the faster of the two memory layouts. Everything is measured in turn within one run, round by round,
and the medians are compared. Bars: extraction with one encoder at 85 % of the bare rate or more,
with and without a store; ranking with four encoders of the same input in 1.15 times the sum of
their bare passes or less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image

import transferscope
from transferscope.datasets import Dataset
from transferscope.encoders._timm import wrap_timm
from transferscope.extraction import extract
from transferscope.storage.feature_store import FeatureStore

BATCH = 64
PHOTOS = Path(__file__).parents[1] / "../shared/data/trees"


def make_images(folder: Path, n: int) -> None:
    """Write n JPEG files of 224 x 224 in ten classes, cut from photographs where there are any."""
    photos = sorted(PHOTOS.rglob("*.jpg"))
    random = np.random.default_rng(0)
    for i in range(n):
        if photos:
            image = Image.open(photos[i % len(photos)]).convert("RGB").resize((256, 256))
        else:
            coarse = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC)
        left, top = random.integers(0, 33, 2).tolist()
        path = folder / f"class{i % 10}" / f"{i:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        image.crop((left, top, left + 224, top + 224)).save(path, quality=90)


def encoder(seed: int) -> Any:
    torch.manual_seed(seed)
    return wrap_timm(timm.create_model("resnet18").eval(), f"timm/resnet18-{seed}")


def ready_batches(dataset: Dataset, count: int) -> list[torch.Tensor]:
    """Float images as the encoders normalise them."""
    preprocessing = encoder(0).preprocessing
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    batches = []
    for start in range(0, min(count * BATCH, len(dataset)), BATCH):
        rows = range(start, min(start + BATCH, len(dataset)))
        pixels = preprocessing.collate([preprocessing.prepare(dataset[row]) for row in rows])
        batches.append(((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2))
    return batches


def forward(module: torch.nn.Module, batches: Sequence[torch.Tensor], n: int) -> None:
    """Pass n images through the module."""
    done = 0
    with torch.inference_mode():
        while done < n:
            for batch in batches:
                module(batch[: n - done])
                done += len(batch)
                if done >= n:
                    break


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def extract_all(dataset: Dataset, encoders: list[Any], store: FeatureStore | None) -> None:
    for item in extract(dataset, encoders, store=store, batch_size=BATCH, device="cpu"):
        assert item.error is None, item.error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n, times = options.samples, dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        make_images(images, n)
        dataset = transferscope.open_dataset(images)
        batches = ready_batches(dataset, 8)
        contiguous = [batch.contiguous() for batch in batches]
        four = [encoder(seed) for seed in range(4)]
        module = four[0].module
        stores = (FeatureStore(Path(folder) / f"store{i}") for i in range(2 * options.rounds))
        runs: dict[str, Callable[[], object]] = {
            "bare, channels last": lambda: forward(module, batches, n),
            "bare, contiguous": lambda: forward(module, contiguous, n),
            "extract, streamed": lambda: extract_all(dataset, four[:1], None),
            "extract, stored": lambda: extract_all(dataset, four[:1], next(stores)),
            "four bare passes": lambda: [forward(e.module, batches, n) for e in four],
            "rank, four encoders": lambda: transferscope.rank(
                dataset, four, store=next(stores), batch_size=BATCH, device="cpu"
            ),
        }
        forward(module, batches, 2 * BATCH)
        for number in range(options.rounds):
            for name, run in runs.items():
                times.setdefault(name, []).append(seconds(run))
                load = os.getloadavg()[0]
                print(f"round {number + 1}  {name:20} {times[name][-1]:8.2f} s  (load {load:.1f})",
                      flush=True)  # fmt: skip
    print(f"\n{n} images of 224 x 224, {options.threads} threads, {options.rounds} rounds")
    # other work on the machine spoils medians; the fastest rounds show what is possible
    for kind, choose in (("medians", statistics.median), ("fastest rounds", min)):
        chosen = {name: choose(values) for name, values in times.items()}
        bare = min(chosen["bare, channels last"], chosen["bare, contiguous"])
        for name in ("extract, streamed", "extract, stored"):
            share = bare / chosen[name]
            print(f"{kind}: {name}: {n / chosen[name]:.1f} images/s, {share:.1%} of the bare pass "
                  f"({n / bare:.1f}/s); bar 85 %: {verdict(share >= 0.85)}")  # fmt: skip
        ratio = chosen["rank, four encoders"] / chosen["four bare passes"]
        print(f"{kind}: rank, four encoders: {ratio:.3f} times the sum of their bare passes; "
              f"bar 1.15: {verdict(ratio <= 1.15)}")  # fmt: skip


def verdict(good: bool) -> str:
    return "met" if good else "MISSED"


if __name__ == "__main__":
    main()
