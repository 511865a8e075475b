"""The page: its template, style and script, and the policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from transferscope import __version__
from transferscope.report._evidence import Beside, beside_views
from transferscope.report._text import visible
from transferscope.report._view import ROWS_PER_PAGE, comparison_of, title_of, view_of
from transferscope.results import Ranking


def page(rankings: Sequence[Ranking], names: tuple[str, str], beside: Mapping[str, Beside]) -> str:
    """The page of one ranking, or of two, and of other results."""
    style, script = _file("style.css"), _file("script.js")
    two = len(rankings) > 1
    views = [
        view_of(one, f"r{i}-" if two else "", f"{name}: {one.dataset.name}" if two else "")
        for i, (one, name) in enumerate(zip(rankings, names, strict=False))
    ]
    return _template().render(
        title=title_of(rankings, names),
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        policy=(
            f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        ),
        views=views,
        comparison=comparison_of(rankings, names) if two else None,
        beside=beside_views(beside),
        rows_per_page=ROWS_PER_PAGE,
    )


def _file(name: str) -> str:
    return (resources.files("transferscope.report") / "templates" / name).read_text("utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalised,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _finalised(value: object) -> object:
    """What a template writes: markup of ours as it is, of all else the visible text."""
    return value if isinstance(value, Markup) else visible(value)


def _digest(text: str) -> str:
    """What a policy calls an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
