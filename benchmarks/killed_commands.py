"""Kill commands at random moments of their work, repeat them, and compare what they leave.

    python benchmarks/killed_commands.py [--kills 30] [--seed 0] [--max-samples 600]

`rank`, `extract`, `finetune`, `select` and `pretrain` run in turn on scikit-learn's digits, each
time in a folder of its own, and are killed with SIGKILL between their first file and their end. The
same command, run again, must end well and leave the same bits as a run that nobody disturbed:
scores and intervals, feature files, weights, accuracies; every file of the store intact, no
temporary file left in the outputs. Times are left out of the comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from transferscope.storage.feature_store import FeatureStore

ENCODER = "mini/resnet-random"
PAIR = "mini/resnet-random,mini/vit-random"
#: Facts that are not the same in two runs.
CLOCKS = ("seconds", "samples_per_second")
#: What the advice of a ranking says of speed, which is measured.
SPEED = re.compile(r" Of these [^.]* runs [\d.]+ times as fast\.")


def commands(max_samples: int) -> dict[str, list[str]]:
    data = ["sklearn/digits", "--max-samples", str(max_samples)]
    short = ["--batch-size", "32", "--epochs", "3"]
    return {
        "rank": ["rank", *data, "-e", PAIR, "-m", "logme,knn", "--out", "out/r.json",
                 "--store", "store"],
        "extract": ["extract", *data, "-e", PAIR, "--out", "out", "--store", "store"],
        "finetune": ["finetune", *data, "-e", ENCODER, "--out", "out", "--csv", "out/a.csv",
                     "--learning-rates", "1e-3,3e-3", "--weight-decays", "0", "--seeds", "2",
                     *short],
        "select": ["select", *data, "-e", PAIR, "--out", "out", "--learning-rates", "1e-3,3e-3",
                   "--seeds", "2", "--batch-size", "32", "--epochs", "4", "--format", "json"],
        "pretrain": ["pretrain", *data, "-e", ENCODER, "--out", "out", *short],
    }  # fmt: skip


def run(arguments: list[str], folder: Path, limit: float | None = None) -> tuple[float, float, int]:
    """Run a command; when its first file was there, how long it took, and its exit status."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    line = [sys.executable, "-m", "transferscope", *arguments]
    begin, first = time.perf_counter(), 0.0
    with subprocess.Popen(
        line, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None:
            now = time.perf_counter() - begin
            if not first and any(files for _, _, files in os.walk(folder)):
                first = now
            if limit is not None and first and now > first + limit:
                process.kill()
                break
            time.sleep(0.02)
        assert process.stderr is not None
        errors = process.stderr.read()
        status = process.wait()
    if status > 0:
        print(errors.decode())
    return first, time.perf_counter() - begin, status


def without_clocks(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if k not in CLOCKS}
    if isinstance(value, str):
        return SPEED.sub("", value)
    return [without_clocks(one) for one in value] if isinstance(value, list) else value


def bits(folder: Path) -> dict[str, str]:
    """What a command left, as digests by name; text that holds times without them."""
    found = {}
    for path in sorted((folder / "out").rglob("*")):
        if not path.is_file() or path.name == "log.csv":  # with the seconds of each epoch
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(without_clocks(json.loads(content))).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--max-samples", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, wrong, rows = random.Random(options.seed), 0, []
    all_commands = commands(options.max_samples)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        expected, length = {}, {}
        for name, arguments in all_commands.items():
            first, total, status = run(arguments, root / name)
            assert status == 0, name
            expected[name], length[name] = bits(root / name), total - first
            print(f"{name}: {total:.1f} s undisturbed, {len(expected[name])} files", flush=True)
        kills = 0
        while kills < options.kills:
            name = list(all_commands)[kills % len(all_commands)]
            folder = root / f"{name} {kills}"
            delay = chance.uniform(0, length[name])
            _, _, status = run(all_commands[name], folder, delay)
            if status == 0:  # it had ended: does not count
                length[name] *= 0.9
                subprocess.run(["rm", "-rf", str(folder)], check=True)
                continue
            kills += 1
            left = len(list(folder.rglob("*.tmp")))
            n_files = len([path for path in folder.rglob("*") if path.is_file()])
            _, _, status = run(all_commands[name], folder)
            same = status == 0 and bits(folder) == expected[name]
            damaged = FeatureStore(folder / "store").verify()
            good = same and not damaged
            wrong += not good
            rows.append((kills, name, delay, n_files, left, good))
            print(f"{kills:3} {name:9} after {delay:5.2f} s: {n_files:3} files, {left} of them "
                  f"temporary; {'same bits' if good else f'WRONG {status=} {damaged=}'}",
                  flush=True)  # fmt: skip
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores. "
          f"{kills} kills, {wrong} wrong.\n\n"
          "| command | kills | files there at the kill | temporary ones | same bits |\n"
          "| --- | --- | --- | --- | --- |")  # fmt: skip
    for name in all_commands:
        own = [row for row in rows if row[1] == name]
        files, left = [row[3] for row in own], [row[4] for row in own]
        print(f"| `{name}` | {len(own)} | {min(files)} to {max(files)} | {min(left)} to "
              f"{max(left)} | {sum(row[5] for row in own)} |")  # fmt: skip
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
