"""The house plan, held: who may know whom.

A room may import from its own floor or below, never from above; on the numeric floor rooms are
strangers but for `ACQUAINTED`. Imports inside functions count, those under TYPE_CHECKING do not.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import transferscope

HOUSE = Path(transferscope.__file__).parent

FLOORS = {
    # floor 0: shared words
    "errors": 0,
    "results": 0,
    "progress": 0,
    "executor": 0,
    "ray_executor": 0,
    # floor 1: arrays of any library
    "numerics": 1,
    # floor 2: scores of features at hand
    "embedding": 2,
    "relatedness": 2,
    "metrics": 2,
    "evaluation": 2,
    "knowledge": 2,
    # floor 3: torch and the outside world
    "storage": 3,
    "datasets": 3,
    "encoders": 3,
    "training": 3,
    "parameter_distance": 3,
    # floor 4: running
    "extraction": 4,
    "ranking": 4,
    # floor 5: showing
    "plots": 5,
    "report": 5,
    "cli": 5,
    "__main__": 5,
    "": 5,  # the front door, __init__.py
}
NUMERIC = 2
#: On the numeric floor: room -> rooms of that floor that it may import.
ACQUAINTED = {"metrics": {"embedding", "relatedness"}, "knowledge": {"evaluation"}}
#: room -> the one above that a method of it may call, when it is called.
ASKS = {"results": "report"}
#: room -> what it must never import, whatever the floor.
FORBIDDEN = {
    "parameter_distance": {"metrics", "encoders", "datasets"},
    "storage": {"encoders", "metrics", "datasets"},
    "plots": {"torch", "metrics", "encoders"},
    "report": {"torch", "encoders"},
}
#: Files of the room of metrics that are no metrics, and may know these.
NO_METRICS = {
    *("__init__", "_metric", "_measurement", "_documentation", "_table", "_plan"),
    *("_ped", "_potential_energy", "_combined", "_score"),
}
#: What files of metrics share.
SHARED = {"_metric", "_measurement", "_documentation"}
#: outside package -> the only room that imports it.
ONLY_IN = {"matplotlib": "plots", "jinja2": "report", "markupsafe": "report", "ray": "ray_executor"}
NO_SUCH_FILES = {"utils", "helpers", "common", "misc"}
SPEAKING = {"cli", "__main__"}


def files() -> list[Path]:
    return sorted(HOUSE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room that a file belongs to: its package or module directly under transferscope."""
    first = path.relative_to(HOUSE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def module_of(path: Path) -> list[str]:
    """The dotted name of a file, in parts."""
    parts = ["transferscope", *path.relative_to(HOUSE).with_suffix("").parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _walk(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node that is executed, and whether it stands inside a function."""
    for child in ast.iter_child_nodes(node):
        if _is_type_checking(child):
            for other in getattr(child, "orelse", []):
                yield other, inside
                yield from _walk(other, inside)
            continue
        yield child, inside
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _walk(child, inside or function)


def imports(tree: ast.AST, module: list[str], is_package: bool) -> Iterator[tuple[str, bool]]:
    """Full dotted names imported, with whether the import stands inside a function.

    ``from a import b`` gives ``a.b``: b may be a module.
    """
    package = module if is_package else module[:-1]
    for node, inside in _walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, inside
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", inside
        elif isinstance(node, ast.Call) and node.args:
            # require("torch", ...), importlib.import_module("torch")
            called = ast.unparse(node.func).rpartition(".")[2]
            name = node.args[0]
            if called in ("require", "import_module", "__import__") and isinstance(
                name, ast.Constant
            ):
                yield str(name.value), inside


def inner_room(name: str) -> str | None:
    """The room behind an imported name, None for packages of other people."""
    parts = name.split(".")
    if parts[0] != "transferscope":
        return None
    if len(parts) > 1 and (HOUSE / parts[1]).is_dir() | (HOUSE / f"{parts[1]}.py").is_file():
        return parts[1]
    return ""


def complaints(source: str, path: Path) -> list[str]:  # noqa: C901  rule after rule
    """What a file does against the plan."""
    tree, room, module = ast.parse(source), room_of(path), module_of(path)
    found = []
    for name, inside in imports(tree, module, path.name == "__init__.py"):
        outside = name.partition(".")[0]
        known = inner_room(name)
        if known is None:
            if ONLY_IN.get(outside, room) != room:
                found.append(f"imports {outside}, which only {ONLY_IN[outside]} may")
            if outside in FORBIDDEN.get(room, ()):
                found.append(f"imports {outside}")
            if FLOORS[room] <= NUMERIC and outside in ("torch", "timm", "transformers"):
                found.append(f"imports {outside} on or below the numeric floor")
            if path.stem == "arrays" or inside or outside != "torch":
                continue
            if room == "metrics":
                found.append("imports torch at module level")
            continue
        if known == room:
            parts = name.split(".")
            if room == "metrics" and path.stem not in NO_METRICS and parts[2] not in SHARED:
                found.append(f"imports another metric, {parts[2]}")
            continue
        if known == "cli" and room != "__main__":
            found.append("imports cli")
        elif inside and ASKS.get(room) == known:
            continue
        elif FLOORS[known] > FLOORS[room]:
            found.append(f"imports {known or 'the front door'}, from a floor above")
        elif known in FORBIDDEN.get(room, ()):
            found.append(f"imports {known}")
        elif FLOORS[room] == FLOORS[known] == NUMERIC and known not in ACQUAINTED.get(room, ()):
            found.append(f"imports {known}, a stranger on the numeric floor")
    for node, _ in _walk(tree):
        name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)
        branches = FLOORS[room] <= NUMERIC and path.stem != "arrays"
        if branches and name in ("torch", "is_torch", "is_torch_array"):
            found.append(f"line {node.lineno} branches on torch")
        prints = isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
        if prints and room not in SPEAKING:
            found.append(f"line {node.lineno} prints")
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(HOUSE)))
def test_file_keeps_to_the_plan(path):
    room = room_of(path)
    assert room in FLOORS, f"the room {room} is on no floor: add it to FLOORS and architecture.md"
    assert path.stem not in NO_SUCH_FILES, f"{path.stem} says nothing: name what the file does"
    found = complaints(path.read_text(encoding="utf-8"), path)
    assert not found, f"{path.relative_to(HOUSE)} {'; '.join(found)}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(HOUSE)))
def test_private_names_stay_in_their_room(path):
    """No file imports an underscored module or name of another room."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name, _ in imports(tree, module_of(path), path.name == "__init__.py"):
        private = any(part.startswith("_") for part in name.split(".")[1:])
        if inner_room(name) not in (None, room_of(path)) and private:
            assert name.endswith("__version__"), f"imports {name}, private to another room"


def test_every_room_of_the_plan_exists():
    rooms = {room_of(path) for path in files()}
    assert set(FLOORS) == rooms
    assert set(ACQUAINTED) | set().union(*ACQUAINTED.values()) <= rooms
    ours = set().union(*FORBIDDEN.values()) - {"torch"}
    assert set(FORBIDDEN) | ours | set(ONLY_IN.values()) | SPEAKING <= rooms
    assert {path.stem for path in (HOUSE / "metrics").glob("*.py")} >= NO_METRICS


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("embedding/_moments.py", "from transferscope.metrics import logme", "a stranger"),
        ("numerics/checks.py", "from transferscope import embedding", "from a floor above"),
        ("numerics/checks.py", "from .. import embedding", "from a floor above"),
        ("errors.py", "import transferscope.ranking", "from a floor above"),
        ("errors.py", "import transferscope", "the front door"),
        ("results/_ranking.py", "from transferscope import report", "a floor above"),
        ("results/_ranking.py", "def f():\n    from transferscope import plots", "a floor above"),
        ("metrics/_gbc.py", "from transferscope.metrics import _logme", "another metric, _logme"),
        ("metrics/_gbc.py", "from transferscope.metrics._knn import knn", "another metric, _knn"),
        ("metrics/_gbc.py", "from ._knn import knn", "another metric, _knn"),
        ("metrics/_gbc.py", "def f():\n    from transferscope import ranking", "a floor above"),
        ("metrics/_gbc.py", "import torch", "torch on or below the numeric floor"),
        ("metrics/_gbc.py", "def f(x):\n    return arrays.is_torch(x)", "line 2 branches on torch"),
        ("storage/feature_store.py", "from transferscope.encoders import Encoder", "encoders"),
        ("ranking/_rank.py", "from transferscope.cli import main", "imports cli"),
        ("cli/_ranking.py", "import matplotlib.pyplot as plt", "which only plots may"),
        ("plots.py", "require('torch', extra='vision', purpose='')", "imports torch"),
        ("ranking/_rank.py", "print('done')", "line 1 prints"),
    ],
)
def test_the_walk_sees(file, source, complaint):
    assert any(complaint in found for found in complaints(source, HOUSE / file)), complaints(
        source, HOUSE / file
    )


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("metrics/_gbc.py", "from transferscope.metrics._metric import Measurement"),
        ("metrics/_gbc.py", "from transferscope.embedding import Embedding"),
        ("metrics/__init__.py", "from transferscope.metrics._knn import knn"),
        (
            "results/_scores.py",
            """
            from typing import TYPE_CHECKING
            if TYPE_CHECKING:
                from transferscope.ranking import rank
            """,
        ),
        ("__main__.py", "from transferscope.cli import main"),
        ("plots.py", "import matplotlib"),
        ("cli/_ranking.py", "print('hello')"),
    ],
)
def test_the_walk_lets_pass(file, source):
    assert complaints(textwrap.dedent(source), HOUSE / file) == []
