"""Runs every command of the pages in docs/coming-from from an empty folder, and times it.

python benchmarks/coming_from.py [PAGE ...]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "coming-from"
RESULT = HERE / "results" / "coming_from.md"


def steps(page: Path) -> Iterator[tuple[str, str]]:
    """Blocks of Python, and commands of the shell, in the order of the page."""
    text = page.read_text(encoding="utf-8")
    for kind, block in re.findall(r"^```(python|console)\n(.*?)^```", text, re.DOTALL | re.M):
        if kind == "python":
            yield "python", block
        else:
            for line in block.splitlines():
                yield "shell", line.removeprefix("$ ")


def run(page: Path, folder: Path) -> Iterator[tuple[str, float]]:
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / ".cache"), "OMP_NUM_THREADS": "1"}
    # the command of this environment, under its own name
    program = f'transferscope() {{ "{sys.executable}" -m transferscope "$@"; }}\n'
    for kind, content in steps(page):
        command = [sys.executable, "-c", content] if kind == "python" else None
        started = time.perf_counter()
        done = subprocess.run(
            command or ["bash", "-ec", program + content],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            sys.exit(f"{page.name}: {content}\n{done.stdout}\n{done.stderr}")
        if kind == "shell":
            print(f"{seconds:6.1f} s  {content}", flush=True)
            yield content, seconds


def main() -> None:
    chosen = sys.argv[1:]
    pages = [p for p in sorted(PAGES.glob("*.md")) if not chosen or p.stem in chosen]
    lines = [
        "# Commands of the pages for those who come from the papers' scripts",
        "",
        f"Made by `benchmarks/coming_from.py` on {datetime.now(UTC).date()}, 2 cores, no GPU, one "
        "thread, each command from the start of Python to its end.",
    ]
    for page in pages:
        if not list(steps(page)):
            continue
        lines += ["", f"## {page.stem}", "", "| command | seconds |", "| --- | --- |"]
        with tempfile.TemporaryDirectory() as folder:
            for command, seconds in run(page, Path(folder)):
                lines.append(f"| `{command}` | {seconds:.1f} |")
    if not chosen:
        RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
