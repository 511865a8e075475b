"""`import transferscope` costs next to nothing and loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ["torch", "timm", "transformers", "matplotlib", "torchvision", "datasets"]
NOT_FOR_SCORES = [*HEAVY, "typer", "rich", "ot", "PIL"]
SECONDS = 0.5
RUNS = 3

MEASURE = """
import json, sys, time
start = time.process_time()
import transferscope
seconds = time.process_time() - start
{more}
print(json.dumps([seconds, sorted(name for name in sys.modules if "." not in name)]))
"""


def run(more: str = "") -> tuple[float, set[str]]:
    """CPU seconds of the import, and what is loaded after `more` as well."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(more=more)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, loaded = json.loads(done.stdout)
    return seconds, set(loaded)


def test_import_is_cheap_and_loads_nothing_heavy():
    # CPU time and the best of a few runs: a busy machine must not fail this
    runs = [run() for _ in range(RUNS)]
    assert not runs[0][1] & {*NOT_FOR_SCORES, "numpy", "scipy", "pandas", "sklearn"}
    assert min(seconds for seconds, _ in runs) < SECONDS


def test_listing_metrics_loads_nothing_heavy():
    _, loaded = run("transferscope.list_metrics()")
    assert not loaded & set(NOT_FOR_SCORES)


def test_scoring_numpy_features_loads_nothing_heavy():
    _, loaded = run(
        "import numpy as np; x = np.random.default_rng(0).standard_normal((60, 4)); "
        "transferscope.score(x, np.arange(60) % 3)"
    )
    assert not loaded & set(HEAVY)


def test_commands_load_what_they_compute_with_when_they_compute():
    loaded = submodules("transferscope.cli", "transferscope.extraction", "transferscope.metrics")
    assert not loaded & {"scipy.linalg", "scipy.optimize", "scipy.sparse", "scipy.special"}
    loaded |= submodules("transferscope.ranking")
    assert not loaded & {"scipy.stats", "pandas", "sklearn", "transformers", "torch"}


def submodules(*rooms: str) -> set[str]:
    """Everything that is loaded after these rooms, with the metrics' table."""
    code = "import sys, {}; transferscope.list_metrics(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code.format(", ".join(("transferscope", *rooms)))],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())
