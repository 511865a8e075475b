"""Peak memory and speed of comparing two checkpoints, beside merely reading both files.

Writes two checkpoints of a transformer to a temporary folder, then in turns reads both files and
compares them through the command line in a process of its own: once with the files thrown out of
the system's cache before, once with what is left there. Bars for 5 GB each: peak resident memory
under 1 GB, and at least 60 % of the speed of reading.

    python benchmarks/parameter_distance.py [--gigabytes 5] [--dtype float32]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH = 2048
DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}


def write(path: Path, gigabytes: float, dtype: str, seed: int) -> None:
    """Write the blocks of a transformer, tensor by tensor."""
    name, size = DTYPES[dtype]
    rng = np.random.default_rng(seed)
    base = 0.02 * np.random.default_rng(0).standard_normal((WIDTH, WIDTH), dtype=np.float32)
    noise = base + 0.001 * rng.standard_normal((WIDTH, WIDTH), dtype=np.float32)
    if dtype == "bfloat16":
        one = (noise.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    else:
        one = noise.astype(dtype).tobytes()
    entries, end = {}, 0
    block = {"attn.qkv": 3, "attn.proj": 1, "mlp.fc1": 4, "mlp.fc2": 4}
    depth = round(gigabytes * 1e9 / (size * WIDTH * WIDTH * sum(block.values())))
    for layer in range(depth):
        for part, times in block.items():
            start, end = end, end + times * len(one)
            entries[f"blocks.{layer}.{part}.weight"] = {
                "dtype": name,
                "shape": [times * WIDTH, WIDTH],
                "data_offsets": [start, end],
            }
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(end // len(one)):
            file.write(one)
        os.fsync(file.fileno())


def read(paths: list[Path]) -> float:
    """Seconds of merely reading the files, a megabyte at a time into one place."""
    buffer = bytearray(2**20)
    start = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def compare(paths: list[Path]) -> tuple[float, float, float]:
    """Seconds of the comparison, of the whole command, and its peak resident memory in GB."""
    code = (
        "import sys, time, json; start = time.perf_counter();"
        "from transferscope.parameter_distance import layer_transferability as f;"
        "found = f(None, sys.argv[1], sys.argv[2]);"
        "print(json.dumps([time.perf_counter() - start, len(found.layers)]))"
    )
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, paths)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    seconds, n_layers = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    assert n_layers > 1
    whole = time.perf_counter() - start
    return seconds, whole, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def forget(paths: list[Path]) -> None:
    """Throw the files out of the system's cache."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("a.safetensors", "b.safetensors")]
        for seed, path in enumerate(paths):
            write(path, given.gigabytes, given.dtype, seed)
        size = sum(path.stat().st_size for path in paths) / 1e9
        print(f"two checkpoints of {size / 2:.2f} GB, {given.dtype}")
        for state in ("thrown out of the cache", "cached as far as they fit"):
            cold = state.startswith("thrown")
            if cold:
                forget(paths)
            reading = read(paths)
            if cold:
                forget(paths)
            comparing, whole, peak = compare(paths)
            share = reading / comparing
            print(
                f"  {state:26} reading {size / reading:5.2f} GB/s, comparing "
                f"{size / comparing:5.2f} GB/s = {100 * share:.0f} % (with starting Python "
                f"{100 * reading / whole:.0f} %), peak {peak:.2f} GB: "
                f"{'met' if share >= 0.6 and peak < 1 else 'NOT MET'}"
            )


if __name__ == "__main__":
    main()
