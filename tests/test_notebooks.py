"""The example notebooks run from top to bottom, and show what they make."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

nbformat = pytest.importorskip("nbformat", reason="notebooks are run by nbclient")
nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient")
pytest.importorskip("ipykernel", reason="notebooks are run by nbclient")


def shown(notebook):
    """What each cell of code showed, by its kind."""
    return [
        {kind: text for output in cell.outputs for kind, text in output.get("data", {}).items()}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, example_data, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(example_data)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    outputs = shown(notebook)
    tables = [one["text/html"] for one in outputs if "text/html" in one]
    assert sum("<table" in table for table in tables) >= 3
    assert sum("image/png" in one for one in outputs) == 1
    said = [
        o.text for c in notebook.cells for o in c.get("outputs", []) if o.get("name") == "stderr"
    ]
    # tqdm says so where ipywidgets is not installed, and shows a bar of text
    text = re.sub(r".*TqdmWarning: IProgress not found.*\n.*\n", "", "".join(said))
    assert not re.search(r"Warning|Error", text), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert os.sep + "work" not in path.read_text(encoding="utf-8")
