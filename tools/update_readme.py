"""Write the table of metrics into README.md; with --check, fail when it is out of date."""

from __future__ import annotations

import sys
from pathlib import Path

from transferscope.metrics import METRICS

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- metrics: written by tools/update_readme.py -->\n"
END = "<!-- end of metrics -->"


def table() -> str:
    """The table of metrics as Markdown."""
    lines = ["| metric | what it is | range | scores | needs besides | source |"]
    lines.append("|" + " --- |" * 6)
    for metric in METRICS.values():
        cells = (
            f"`{metric.name}`",
            metric.about.summary,
            metric.about.range,
            metric.scores,
            ", ".join(f"`{need}`" for need in metric.needs),
            metric.about.publication,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare or write."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END, 1)[1]
    updated = before + BEGIN + table() + END + after
    if "--check" in sys.argv:
        if text != updated:
            sys.exit("README.md is out of date: run python tools/update_readme.py")
        return
    README.write_text(updated, encoding="utf-8")


if __name__ == "__main__":
    main()
