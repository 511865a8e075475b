"""How close extraction comes to the best pass that a hand can tune: random weights, timm.

    python benchmarks/passes.py [--encoders LIST] [--samples 128] [--rounds 3] [--threads 1]

Three things in turn, round by round, for each encoder:

- plain: `extract(..., exact=True)` in batches of 64, as all extraction was before;
- tuned: the module alone on float images that lie ready, in the best of six ways: channels last,
  with batch norms folded (torch.fx), or frozen (torch.jit, optimised for inference), in batches of
  4 or 8 (16 never won), chosen beforehand by the faster of two turns of 8 images; of a language
  model, the module alone on token ids that are sorted by length, as it is or with linear layers
  that have packed weights, in batches of 4, 8, 16 or 32, chosen by two turns of 32 texts;
- extract: as it is; "plan" is the share of it that planning the pass takes.

Images lie in memory and have the size that the network takes, so that nothing is decoded or resized
(which timm's default crop would add: 1.1 ms an image of 224 pixels); texts have 5 to 60 words, and
are cut into tokens by extract only. A turn's time is both the clock's and the processor's, user and
system together: other work on the machine moves the first much more than the second.
Ratios are taken within each round, and their medians are shown; `tuned` of both kinds is measured
on the same calls. Bars: extract at 95 % of the tuned rate or more, and at 1.4 times the plain rate
in the geometric mean. With --rank, instead, system and user time of a `rank` of 300 photographs.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

import transferscope
from transferscope.datasets import Dataset
from transferscope.encoders._timm import wrap_timm
from transferscope.extraction import extract

sys.path.append(str(Path(__file__).parents[1] / "tests" / "encoders"))
import text_checkpoints

ENCODERS = (
    "resnet18,resnet50,efficientnet_lite0,efficientnet_b0,mobilenetv3_large_100,"
    "vit_small_patch16_224,convnext_tiny,bert-base,minilm,t5-small"
)
TEXT_SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "bert-base": (
        "bert",
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
         "intermediate_size": 3072, "max_position_embeddings": 512},
    ),
    "minilm": (
        "bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
         "intermediate_size": 1536, "max_position_embeddings": 512},
    ),
    "t5-small": (
        "t5", {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
    ),
}  # fmt: skip
PHOTOS = Path(__file__).parents[1] / "../shared/data/trees/flower_photos_300"
BATCH = 64


def clocks() -> tuple[float, float, float]:
    """Seconds so far: of the clock, of the processor in user mode, in system mode."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime, used.ru_stime


def timed(run: Callable[[], object], n: int) -> tuple[float, float, float]:
    """Milliseconds per image: clock, processor, system."""
    start = clocks()
    run()
    wall, user, system = (1e3 * (b - a) / n for a, b in zip(start, clocks(), strict=True))
    return wall, user + system, system


def network(name: str) -> Any:
    """A network with weights at random, also those of its batch norms."""
    torch.manual_seed(0)
    module = timm.create_model(name).eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module


def tuned_ways(module: nn.Module, image: torch.Tensor) -> Iterator[tuple[str, Any]]:
    """The module as a hand would make it faster."""
    yield "channels last", module
    try:
        yield "folded", fuse(copy.deepcopy(module))
    except Exception as error:  # noqa: BLE001  control flow that torch.fx cannot follow
        print(f"  cannot be folded: {type(error).__name__}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(torch.jit.trace(copy.deepcopy(module), image))
        yield "frozen", torch.jit.optimize_for_inference(frozen)


def passing(module: Any, images: torch.Tensor, batch: int) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                module(images[start : start + batch])

    return run


def best_tuned(module: nn.Module, images: torch.Tensor) -> tuple[str, Callable[[], None]]:
    """The way of least processor time."""
    few, best = images[:8], (math.inf, "", module, 0)
    with torch.inference_mode():
        for name, way in tuned_ways(module, images[:8]):
            for batch in (4, 8):
                for _ in range(2):  # frozen modules look at their first calls
                    passing(way, few[:batch], batch)()
                run = passing(way, few, batch)
                needed = min(timed(run, len(few))[1] for _ in range(2))
                if needed < best[0]:
                    best = needed, f"{name}, {batch}", way, batch
    return best[1], passing(best[2], images, best[3])


class PackedLinear(nn.Module):
    """A linear layer with its weight in oneDNN's order."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), 1024)
        self.bias = linear.bias

    def forward(self, rows: torch.Tensor) -> Any:
        return torch.ops.mkldnn._linear_pointwise.default(
            rows, self.weight, self.bias, "none", [], ""
        )


def with_packed_linears(module: nn.Module) -> nn.Module:
    copied = copy.deepcopy(module)
    for part in list(copied.modules()):
        for name, child in part.named_children():
            # T5 looks at the type of this one's weight
            if isinstance(child, nn.Linear) and name != "wo":
                setattr(part, name, PackedLinear(child))
    return copied


def padded(tokens: list[list[int]], batch: int) -> list[dict[str, torch.Tensor]]:
    """Token ids, the longest first, as batches with masks."""
    tokens = sorted(tokens, key=len, reverse=True)
    batches = []
    for start in range(0, len(tokens), batch):
        some = tokens[start : start + batch]
        mask = torch.tensor([[int(k < len(one)) for k in range(len(some[0]))] for one in some])
        ids = torch.tensor([one + [0] * (len(some[0]) - len(one)) for one in some])
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


def reading(module: Any, batches: list[dict[str, torch.Tensor]]) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                module(**batch)

    return run


def best_read(module: Any, tokens: list[list[int]]) -> tuple[str, Callable[[], None]]:
    """The way of least processor time to read texts."""
    few, best = tokens[:32], (math.inf, "", module, 0)
    for name, way in (("as it is", module), ("packed", with_packed_linears(module))):
        for batch in (4, 8, 16, 32):
            run = reading(way, padded(few, batch))
            run()
            needed = min(timed(run, len(few))[1] for _ in range(2))
            if needed < best[0]:
                best = needed, f"{name}, {batch}", way, batch
    return best[1], reading(best[2], padded(tokens, best[3]))


def language_model(shape: str, folder: str) -> Any:
    """A language model of this shape with weights at random."""
    architecture, settings = TEXT_SHAPES[shape]
    return transferscope.load_encoder(
        text_checkpoints.saved(Path(folder), architecture, **settings)
    )


def sentences(n: int) -> list[str]:
    """Texts of 5 to 60 words."""
    random = np.random.default_rng(0)
    words = " ".join(text_checkpoints.TEXTS).split()
    return [" ".join(random.choice(words, random.integers(5, 61))) for _ in range(n)]


def measure_texts(shape: str, n: int, rounds: int) -> tuple[float, float]:
    """Compare the three passes of one language model; ratios of processor time."""
    texts = sentences(n)
    with tempfile.TemporaryDirectory() as folder:
        encoder = language_model(shape, folder)
        dataset = transferscope.open_dataset((texts, np.arange(n) % 4))
        tokenizer = encoder.preprocessing.tokenizer
        ids = [list(one) for one in tokenizer(texts)["input_ids"]]
        way, tuned = best_read(encoder.module, ids)
        return compare(shape, dataset, encoder, way, tuned, rounds)


def measure(name: str, n: int, rounds: int) -> tuple[float, float]:
    """Compare the three passes of one image encoder; ratios of processor time."""
    encoder = wrap_timm(network(name), name)
    # images are as large as the network takes them: timm would make them larger, and then crop
    encoder._preprocessing = replace(encoder.preprocessing, resize=None)
    pixels = np.random.default_rng(0).integers(0, 256, (n, *encoder.input_size, 3), dtype=np.uint8)
    dataset = transferscope.open_dataset((pixels, np.arange(n) % 4))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().sub_(120).div_(58)
    way, tuned = best_tuned(encoder.module, images)
    return compare(name, dataset, encoder, way, tuned, rounds)


def compare(
    name: str, dataset: Dataset, encoder: Any, way: str, tuned: Callable[[], None], rounds: int
) -> tuple[float, float]:
    n, features = len(dataset), dict[str, Any]()

    def extracting(kind: str) -> Callable[[], None]:
        def run() -> None:
            features[kind] = extract_all(dataset, encoder, exact=kind == "plain")

        return run

    runs = {"plain": extracting("plain"), "tuned": tuned, "extract": extracting("extract")}
    times: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in runs}
    for _ in range(rounds):
        for kind, run in runs.items():
            times[kind].append(timed(run, n))
    error = np.abs(features["plain"] - features["extract"]).max() / np.abs(features["plain"]).max()
    shown = [statistics.median(one[k] for one in times[kind]) for kind in runs for k in (1, 2)]
    start = time.process_time()
    encoder.fast_embed()
    plan = time.process_time() - start

    def ratio(kind: str, k: int) -> float:
        pairs = zip(times[kind], times["extract"], strict=True)
        return statistics.median(one[k] / ours[k] for one, ours in pairs)

    cells = [
        name, f"{shown[0]:.1f} ({shown[1]:.1f})", f"{shown[2]:.1f} ({shown[3]:.1f})", way,
        f"{shown[4]:.1f} ({shown[5]:.1f})", f"{1e3 * plan / n:.1f}",
        f"{ratio('tuned', 1):.2f}", f"{ratio('tuned', 0):.2f}",
        f"{ratio('plain', 1):.2f}", f"{ratio('plain', 0):.2f}", f"{error:.0e}",
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)
    return ratio("tuned", 1), ratio("plain", 1)


def extract_all(dataset: Dataset, encoder: Any, *, exact: bool) -> Any:
    (item,) = extract(dataset, encoder, store=None, batch_size=BATCH, device="cpu", exact=exact)
    assert item.error is None, item.error
    return item.features


def rank_photographs(name: str) -> None:
    """System and user time of `rank`, and how much memory it takes."""
    encoder = wrap_timm(network(name), name)
    transferscope.open_dataset(PHOTOS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = clocks()
    transferscope.rank(PHOTOS, encoder, store=None, device="cpu")
    wall, user, system = (b - a for a, b in zip(start, clocks(), strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"rank of 300 photographs with {name}: {wall:.1f} s, user {user:.1f} s, system "
          f"{system:.1f} s, {system / user:.1%} of user (bar 10 %); memory {before / 1024:.0f} MB "
          f"before, at most {peak / 1024:.0f} MB")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoders", default=ENCODERS)
    parser.add_argument("--samples", type=int, default=2 * BATCH)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", metavar="ENCODER")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.rank:
        rank_photographs(options.rank)
        return
    print(f"load {os.getloadavg()[0]:.1f}; processor ms per sample, of these in system mode\n")
    columns = ["encoder", "plain", "tuned", "which", "extract", "plan", "of tuned", "by the clock",
               "of plain", "by the clock", "error"]  # fmt: skip
    print("| " + " | ".join(columns) + " |\n| --- |" + " ---: |" * (len(columns) - 1), flush=True)
    ratios = [
        (measure_texts if name in TEXT_SHAPES else measure)(name, options.samples, options.rounds)
        for name in options.encoders.split(",")
    ]
    tuned, plain = ([ratio[k] for ratio in ratios] for k in (0, 1))
    mean = statistics.geometric_mean(plain)
    print(
        f"\nextract, of the tuned rate: at least {min(tuned):.2f} (bar 0.95), geometric mean "
        f"{statistics.geometric_mean(tuned):.2f}; of the plain rate {mean:.2f} (bar 1.4)"
    )


if __name__ == "__main__":
    main()
