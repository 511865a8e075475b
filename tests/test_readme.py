"""What README and the overview of commands say is so: commands exist, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from transferscope.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "generated" not in page.parts]


def test_every_command_is_in_the_overview():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`transferscope ([\w-]+)", text))
    groups = {group.name for group in app.registered_groups}
    callbacks = {command.callback.__name__ for command in app.registered_commands}
    assert named == {name.replace("_", "-") for name in callbacks} | groups


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text):
        if "generated/" not in target:  # `make docs` follows links to what it makes
            assert (page.parent / target).exists(), f"{page} leads to {target}"


def test_readme_is_one_screen_and_a_half():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 75
    assert sum("![" in line for line in lines) == 2
