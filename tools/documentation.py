"""What the documentation holds beside its written pages: the reference, and the check of the site.

`docs/conf.py` calls `write_pages` before Sphinx reads; `make docs` ends with
`python tools/documentation.py SITE`, which follows every link of the built site.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import typer

import figures
import transferscope
from transferscope.cli import app
from transferscope.metrics import METRICS

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"
#: Packages whose names are documented, in the order in which a reader meets them.
ROOMS = (
    *("datasets", "encoders", "extraction", "extraction.estimator", "metrics", "ranking"),
    *("results", "report", "plots"),
    *("knowledge", "training", "evaluation", "relatedness", "parameter_distance"),
    *("progress", "executor", "ray_executor", "storage", "embedding", "errors"),
)


def write_pages(folder: Path) -> None:
    """Write all pages that follow from the code into a folder that holds nothing else."""
    folder.mkdir(exist_ok=True)
    _write(folder / "metrics.md", metric_table())
    _write(folder / "commands.md", "# Commands\n\n" + "\n".join(command_pages()))
    (folder / "notebooks").mkdir(exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        _write(folder / "notebooks" / f"{path.stem}.md", notebook_page(path))
    figures.draw_all(folder / "figures")
    (folder / "reference").mkdir(exist_ok=True)
    for name, text in reference_pages().items():
        _write(folder / "reference" / f"{name}.rst", text)


def _write(path: Path, text: str) -> None:
    # a file that did not change keeps its time, and Sphinx what it made of it
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def metric_table() -> str:
    """The table of metrics as Markdown."""
    lines = ["| metric | what it is | range | scores | needs besides | source |"]
    lines.append("|" + " --- |" * 6)
    for metric in METRICS.values():
        cells = (
            _linked(metric.name),
            metric.about.summary,
            metric.about.range,
            metric.scores,
            ", ".join(f"`{need}`" for need in metric.needs),
            metric.about.publication,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _linked(metric: str) -> str:
    is_function = metric in documented_names(transferscope.metrics)
    place = f"generated/reference/transferscope.metrics.{metric}.rst"
    return f"[`{metric}`]({place})" if is_function else f"`{metric}`"


def notebook_page(path: Path) -> str:
    """A notebook as a page to read, with a link to the notebook itself."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```ipython\n{text}\n```")
    parts.insert(1, f"[Download this notebook](../../notebooks/{path.name})")
    return "\n\n".join(parts) + "\n"


def command_pages() -> list[str]:
    """Each command with its arguments and options, as `--help` tells them."""
    root = typer.main.get_command(app)
    pages = []
    for name, command in root.commands.items():
        members = getattr(command, "commands", None) or {"": command}
        for member, one in members.items():
            called = f"{name} {member}".strip()
            pages.append(_command_page(called, one))
    return pages


def _command_page(name: str, command: typer.core.TyperCommand) -> str:
    context = typer.Context(command, info_name=f"transferscope {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {name}", "", command.help or "", "", "```text"]
    lines += [f"transferscope {name} {usage}", "```", ""]
    shown = [
        record
        for parameter in command.params
        if (record := parameter.get_help_record(context)) is not None
    ]
    for option, text in shown:
        lines += [f"`{option}`", f": {text}", ""]
    return "\n".join(lines) + "\n"


def reference_pages() -> dict[str, str]:
    """A page for each room, and one for each public function and class in it."""
    pages = {}
    rooms = []
    for room in ("", *ROOMS):
        module = importlib.import_module(f"transferscope.{room}".rstrip("."))
        names = documented_names(module)
        if not room:  # what is offered at the top is documented in its room
            continue
        rooms.append(module.__name__)
        pages[module.__name__] = _room_page(module.__name__, inspect.getdoc(module) or "", names)
        for name in names:
            full = f"{module.__name__}.{name}"
            pages[full] = _name_page(full, getattr(module, name))
    pages["index"] = _index_page(rooms)
    return pages


def documented_names(module: object) -> list[str]:
    """Functions and classes that a module offers."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__  # type: ignore[attr-defined]
        ]
    return [
        name
        for name in names
        if inspect.isclass(getattr(module, name)) or inspect.isfunction(getattr(module, name))
    ]


def _index_page(rooms: list[str]) -> str:
    lines = [_title("Python"), "The names that most people need:", ""]
    lines += [".. autosummary::", "   :nosignatures:", ""]
    lines += [f"   {home(name)}" for name in transferscope.__all__]
    lines += ["", "All of them are names of ``transferscope`` itself: ``transferscope.rank``.", ""]
    lines += [".. toctree::", "   :caption: By room", "   :maxdepth: 1", ""]
    lines += [f"   {room}" for room in rooms]
    return "\n".join(lines) + "\n"


def home(name: str) -> str:
    """The room in which a name that is offered at the top is documented."""
    value = getattr(transferscope, name)
    for room in ROOMS:
        module = importlib.import_module(f"transferscope.{room}")
        if getattr(module, name, None) is value and name in documented_names(module):
            return f"~transferscope.{room}.{name}"
    raise LookupError(f"{name} is in no room of the reference: add its room to ROOMS")


def _room_page(room: str, documentation: str, names: list[str]) -> str:
    lines = [_title(room), f".. module:: {room}", "", documentation, ""]
    lines += [".. autosummary::", "   :nosignatures:", "", *(f"   {name}" for name in names), ""]
    lines += [".. toctree::", "   :hidden:", "", *(f"   {room}.{name}" for name in names)]
    return "\n".join(lines) + "\n"


def _name_page(full: str, value: object) -> str:
    room, _, name = full.rpartition(".")
    lines = [_title(name), f".. currentmodule:: {room}", ""]
    if inspect.isclass(value):
        lines += [
            f".. autoclass:: {name}",
            "   :members:",
            # of scikit-learn's mixins nothing: their texts link to its own site
            "   :inherited-members: Exception,tuple,_SetOutputMixin,_MetadataRequester",
        ]
    else:
        lines += [f".. autofunction:: {name}"]
    return "\n".join(lines) + "\n"


def formulas_are_literal(
    _app: object, _kind: str, _name: str, _value: object, _options: object, lines: list[str]
) -> None:
    """Mark indented paragraphs that follow plain text as literal: they are formulas."""
    marked: list[str] = []
    for i, line in enumerate(lines):
        before = next((one for one in reversed(lines[:i]) if one.strip()), " ")
        begins = line.startswith("    ") and i > 0 and not lines[i - 1].strip()
        if begins and not before.startswith((" ", "..")) and not before.endswith("::"):
            marked += ["::", ""]
        marked.append(line)
    lines[:] = marked


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"


class _Page(HTMLParser):
    """Where a page leads, what it loads, and what can be linked to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "search"):
            self.loaded.append(given.get("href", ""))
        elif "src" in given:
            self.loaded.append(given["src"])


def complaints(site: Path) -> list[str]:
    """Links of a built site that lead nowhere, and what its pages load from outside."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        if "_static" in path.parts:  # templates of the theme
            continue
        pages[path] = page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
    found = []
    for path, page in pages.items():
        where = path.relative_to(site)
        for target in page.links + page.loaded:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "mailto", "data") or parts.netloc:
                if target in page.loaded and parts.scheme != "data":
                    found.append(f"{where} loads {target}")
                continue
            leads = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not leads.is_file():
                found.append(f"{where} leads to {target}, which is not there")
            elif leads in pages and unquote(parts.fragment) not in {"", *pages[leads].anchors}:
                found.append(f"{where} leads to {target}, which has no such place")
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        outside = re.findall(r"url\(['\"]?(https?:[^)'\"]+)|@import[^;]*(https?:[^;]+)", text)
        found += [f"{path.relative_to(site)} loads {''.join(one)}" for one in outside]
    return found


def main() -> None:
    """Check the site that is named."""
    site = Path(sys.argv[1]).resolve()
    found = complaints(site)
    print(*found, sep="\n")
    if found:
        sys.exit(f"{len(found)} complaints of the site")
    print("Every link leads somewhere, and nothing is loaded from outside.")


if __name__ == "__main__":
    main()
