"""Peak memory: of scoring a file larger than the memory allowed, and of extracting features.

Writes n x d float32 features to a temporary safetensors file, then scores them through the command
line in a process of its own, and prints its peak resident memory. Bar: 1,000,000 x 512 (2 GB) in
less than 1.5 GB.

    python benchmarks/memory.py [--samples 1000000] [--metrics logme,...]

With --extraction: how much resident memory `extract` takes at most beyond what there was when the
encoder was loaded with its weights (at random) and the data opened, each in a process of its own.
192 images of the encoder's size, or texts of 5 to 60 words, in batches of 64, nothing stored;
packed weights are part of it. Bar: 1.5 GB.

    python benchmarks/memory.py --extraction [--encoders LIST]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def write(path: Path, n_samples: int, n_features: int, n_classes: int) -> None:
    """Write a feature file piece by piece."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, n_samples)
    means = rng.standard_normal((n_classes, n_features)).astype(np.float32)
    n_bytes = 4 * n_samples * n_features
    header = json.dumps(
        {
            "features": {
                "dtype": "F32",
                "shape": [n_samples, n_features],
                "data_offsets": [0, n_bytes],
            },
            "labels": {
                "dtype": "I64",
                "shape": [n_samples],
                "data_offsets": [n_bytes, n_bytes + 8 * n_samples],
            },
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, n_samples, 10_000):
            part = labels[start : start + 10_000]
            noise = rng.standard_normal((len(part), n_features), dtype=np.float32)
            file.write((means[part] + 4 * noise).tobytes())
        file.write(labels.tobytes())


def resident() -> float:
    """Bytes that this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def extract_with(name: str) -> None:
    """Extract with one encoder, and print what memory that took."""
    import passes  # loads torch
    import transferscope

    n = 192
    with tempfile.TemporaryDirectory() as folder:
        samples: object = passes.sentences(n)
        if name in passes.TEXT_SHAPES:
            encoder = passes.language_model(name, folder)
        else:
            encoder = passes.wrap_timm(passes.network(name), name)
            shape = (n, *encoder.input_size, 3)
            samples = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        dataset = transferscope.open_dataset((samples, np.arange(n) % 4))
        weights = sum(one.nbytes for one in encoder.module.parameters())
        before = resident()
        passes.extract_all(dataset, encoder, exact=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    met = "met" if peak - before <= 1.5e9 else "MISSED"
    print(f"| {name} | {weights / 1e6:.0f} | {(peak - before) / 1e6:.0f} | {met} |", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--metrics", default="logme,regularized_h_score,knn,linear_probe")
    parser.add_argument("--extraction", action="store_true")
    parser.add_argument("--encoders")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        extract_with(given.one)
        return
    if given.extraction:
        from passes import ENCODERS

        columns = "| encoder | weights, MB | beyond them, MB | bar 1,500 MB |"
        print(f"{columns}\n| --- | ---: | ---: | --- |", flush=True)
        for name in (given.encoders or ENCODERS).split(","):
            subprocess.run([sys.executable, __file__, "--one", name], check=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.safetensors"
        write(path, given.samples, given.features, given.classes)
        command = [sys.executable, "-m", "transferscope", "score", path, "--format", "json"]
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--metrics", given.metrics], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        table = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        assert status == 0
        size = path.stat().st_size / 1e9
    print(f"{given.samples:,} x {given.features} float32, {given.classes} classes: {size:.2f} GB")
    for name, score in table["scores"].items():
        print(f"  {name:24} {score['value']:10.5f}  {score['seconds']:7.1f} s")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(f"peak resident memory {peak:.2f} GB, {seconds:.0f} s in all")
    if given.samples == 1_000_000 and given.features == 512:
        print(f"bar 1.5 GB: {'met' if peak < 1.5 else 'NOT MET'}")


if __name__ == "__main__":
    main()
