"""Ten thousand malformed inputs: no traceback, no hang, no blow-up, no wrong value.

    OMP_NUM_THREADS=1 python benchmarks/fuzz.py [--cases 10000] [--family checkpoints] [--first 0]

Each case (tests/fuzzing.py) runs in a process forked from one that has everything loaded. It may
take 10 seconds of the processor, a minute of waiting, 1.5 GB of address space and 0.5 GB of memory
beyond what is loaded. A fault is repeated alone, with its traceback, by `--family NAME --first
NUMBER --cases 1`. The table is benchmarks/results/fuzz.md.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import fuzzing

SECONDS, WAIT, BYTES, RESIDENT = 10, 60, 1_500_000_000, 500_000_000
KINDS = ("value", "refused", "wrong", "traceback", "hang", "killed", "memory")


def case_of(family: str, number: int, folder: Path) -> fuzzing.Case:
    seed = [sorted(fuzzing.FAMILIES).index(family), number]
    return fuzzing.FAMILIES[family](np.random.default_rng(seed), folder)


def size(name: str) -> int:
    """A size of this process in bytes, as the kernel tells it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def in_child(family: str, number: int, folder: Path, pipe: int) -> None:
    """Make the case and act on it; the outcome goes through the pipe."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    before = size("VmRSS")
    case = case_of(family, number, folder)
    allowed = size("VmSize") + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAIT)
    kind, said = fuzzing.outcome(case)
    grown = size("VmHWM") - before
    if grown > RESIDENT:
        kind, said = "memory", f"{grown / 1e6:.0f} MB; {kind}: {said}"
    os.write(pipe, json.dumps([kind, case.label, said]).encode("utf-8", "replace")[:60_000])


def run(family: str, number: int, folder: Path) -> tuple[str, str, str]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            in_child(family, number, folder, writing)
        except BaseException:  # noqa: BLE001  a child must never go on as its parent
            text = ["traceback", "while the case was made", traceback.format_exc()[-2000:]]
            os.write(writing, json.dumps(text).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        told = file.read()
    _, status = os.waitpid(child, 0)
    if told:
        kind, label, said = json.loads(told)
        return kind, label, said
    ended_by = signal.Signals(os.WTERMSIG(status))
    kind = "hang" if ended_by in (signal.SIGALRM, signal.SIGPROF) else "killed"
    return kind, "", ended_by.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--family", choices=list(fuzzing.FAMILIES))
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    families = [options.family] if options.family else list(fuzzing.FAMILIES)
    each = -(-options.cases // len(families))
    warnings.simplefilter("ignore")
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf")}
    import torch

    torch.set_num_threads(1)
    print(f"loading what the cases need ({', '.join(families)})", file=sys.stderr)
    for family in families:  # what is loaded once is in every child
        for number in range(40):
            folder = place / "warm"
            fuzzing.outcome(case_of(family, number, folder)) if number < 12 else None
            shutil.rmtree(folder, ignore_errors=True)
    if options.cases == 1:
        case = case_of(families[0], options.first, place / "case")
        print(case.label)
        print(case.is_right(case.act()))
        return
    counts: dict[str, collections.Counter[str]] = {}
    faults: dict[str, list[str]] = collections.defaultdict(list)
    started = time.perf_counter()
    for family in families:
        counts[family] = collections.Counter()
        for number in range(options.first, options.first + each):
            folder = place / "case"
            folder.mkdir()
            kind, label, said = run(family, number, folder)
            shutil.rmtree(folder, ignore_errors=True)
            counts[family][kind] += 1
            if kind not in ("value", "refused"):
                faults[family].append(f"{number} {kind} [{label}] {said}")
        print(family, dict(counts[family]), file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)
    print(f"| inputs | cases | {' | '.join(KINDS)} |\n| --- | {'--- | ' * (len(KINDS) + 1)}")
    for family, found in counts.items():
        cells = " | ".join(str(found[kind]) for kind in KINDS)
        print(f"| {family} | {found.total()} | {cells} |")
    print(f"\n{each * len(families):,} cases in {time.perf_counter() - started:.0f} s")
    for family, lines in faults.items():
        print(f"\n{family}")
        for line in lines:
            print("  " + line)


if __name__ == "__main__":
    main()
