"""Every code block of the documentation and of README runs, page by page, in the order of the page.

A block of ``python`` is executed, a block of ``console`` runs its lines that begin with ``$``; a
block of ``text`` right after either, and what follows a command, is compared with what was printed,
where ``...`` stands for anything. A block that begins with ``# not run by our tests: REASON`` is
shown only.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from numpy.lib.npyio import NpzFile

from transferscope import cli

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "generated" not in page.parts),
]
LANGUAGES = {"python", "console", "text", "yaml", "toml", "csv", "bibtex"}
NOT_RUN = re.compile(r"# not run by our tests: \w+")
#: What only Sphinx reads.
DIRECTIVE = re.compile(r"\{[\w-]+\}")
COMPARED = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line that it begins in."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    found = []
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^( *)```([^\n`]*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        indent, language, body = match.groups()
        body = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        found.append(Block(language.strip(), body, text[: match.start()].count("\n") + 1))
    return found


def name(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


def is_run(block: Block) -> bool:
    return block.language in ("python", "console") and not NOT_RUN.match(block.text)


def commands(text: str) -> list[tuple[str, str]]:
    """Each command of a block of ``console``, and the output that is shown of it."""
    found: list[list[str]] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command = command[:-1] + " " + next(lines).strip()
            found.append([command, ""])
        else:
            assert found, f"a block of console begins with $, got {line!r}"
            found[-1][1] += line + "\n"
    return [(command, output) for command, output in found]


class Terminal:
    """Runs commands as a person at a terminal in one folder does, in this process if it can."""

    def __init__(self, monkeypatch):
        self.patch = monkeypatch
        # what a console of rich prints goes to the standard output of the moment
        for console in (cli.stdout, cli.stderr):
            monkeypatch.setattr(console, "width", 160)

    def run(self, command):
        parser = shlex.shlex(command, posix=True, punctuation_chars="|;><&")
        parser.whitespace_split = True
        words = list(parser)
        if words[0] == "export":
            self.patch.setenv(*words[1].split("=", 1))
            return ""
        if words[0] == "transferscope" and not any(
            set(w) & set("$*") or set(w) <= set("|;><&") for w in words
        ):
            return self.transferscope(words[1:])
        ours = f'transferscope() {{ "{sys.executable}" -m transferscope "$@"; }}'
        done = subprocess.run(
            ["bash", "-euc", f"{ours}; {command}"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def transferscope(self, words):
        printed, messages = io.StringIO(), io.StringIO()
        self.patch.setattr(sys, "argv", ["transferscope", *words])
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(messages),
            pytest.raises(SystemExit) as ended,
        ):
            cli.main()
        assert not ended.value.code, f"{words}: {ended.value.code}\n{messages.getvalue()}"
        return printed.getvalue()


def compare(expected: str, printed: str, where: str) -> None:
    if not doctest.OutputChecker().check_output(expected, printed, COMPARED):
        pytest.fail(f"{where} shows\n{expected}\nbut this was printed:\n{printed}", pytrace=False)


@pytest.mark.parametrize("page", [p for p in PAGES if any(map(is_run, blocks(p)))], ids=name)
def test_page_runs(page, example_data, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(example_data)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # the variable is read when the hub's library is imported, which may have been before
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    terminal = Terminal(monkeypatch)
    names: dict[str, object] = {"__name__": "__page__"}
    try:
        run_blocks(page, terminal, names)
    finally:  # what a page leaves open would be complained of in another test
        for value in names.values():
            if isinstance(value, NpzFile):
                value.close()


def run_blocks(page, terminal, names):
    printed = None
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.language == "text" and printed is not None:
            compare(block.text, printed, where)
        printed = None
        if not is_run(block):
            continue
        if block.language == "python":
            code = compile("\n" * block.line + block.text, str(page), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(code, names)
            printed = output.getvalue()
            continue
        for command, shown in commands(block.text):
            printed = terminal.run(command)
            if shown.strip():
                compare(shown, printed, f"{where}, {command}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_say_what_they_are(page):
    for block in blocks(page):
        known = block.language in LANGUAGES or DIRECTIVE.match(block.language)
        assert known, f"{page}:{block.line}: ```{block.language} is none of {sorted(LANGUAGES)}"


def test_few_blocks_are_not_run():
    shown = [
        f"{name(page)}:{block.line}: {block.text.splitlines()[0]}"
        for page in PAGES
        for block in blocks(page)
        if block.language in ("python", "console") and not is_run(block)
    ]
    run = sum(is_run(block) for page in PAGES for block in blocks(page))
    assert len(shown) <= run / 5, "\n".join(shown)


def test_what_is_shown_is_compared(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n", encoding="utf-8")
    assert [block.language for block in blocks(page)] == ["python", "text"]
    with pytest.raises(pytest.fail.Exception, match="shows\n3"):
        compare("3\n", "2\n", "page.md:5")
    assert commands("$ a \\\n    b\nout\n$ c\n") == [("a  b", "out\n"), ("c", "")]
