"""The README is executed: its Python, its commands and its table are true."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from transferscope.cli import app

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


@pytest.mark.needs("torch")
def test_python_examples_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "example.py").write_text("\n".join(blocks), encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert names["ranking"].best.encoder == "mini/resnet-mnist-supervised"
    assert "| logme" in capsys.readouterr().out


def test_table_of_metrics_is_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "update_readme.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_command_named_exists():
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"`transferscope ([\w-]+)", text))
    groups = {group.name for group in app.registered_groups}
    callbacks = {command.callback.__name__ for command in app.registered_commands}
    assert named == {name.replace("_", "-") for name in callbacks} | groups


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
