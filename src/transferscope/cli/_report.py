"""`report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transferscope.cli._outputs import (
    Content,
    ForceOption,
    claim,
    deliver,
    refuse_as_report,
    text_content,
)
from transferscope.errors import InputError
from transferscope.results import Ranking


def report(
    *,
    result: Annotated[
        Path, typer.Argument(help="JSON of `rank --format json`.", show_default=False)
    ],
    other: Annotated[
        Path | None, typer.Argument(help="Another, to set beside it.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="The .html file to write.")] = Path("report.html"),
    force: ForceOption = False,
) -> None:
    """Write a ranking, or two side by side, as one HTML page."""
    refuse_as_report(out)
    claim("report", out, force=force, shown=False)
    first = _read(result)
    second = None if other is None else _read(other)
    names = ("A", "B") if other is None else _names(result, other)

    def page(_: Path) -> Content:
        from transferscope.report import report_html

        return text_content(report_html(first, second, names=names))

    deliver("report", (out, page))


def _read(path: Path) -> Ranking:
    """The ranking in a file.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no ranking.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} must be a file; it is none. Give what `rank --out` wrote.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(
            f"{path} cannot be read: {why}. Give what `rank --format json --out` wrote."
        ) from error
    try:
        return Ranking.from_json(text)
    except InputError as error:
        raise InputError(
            f"{path} holds no ranking: {error} `rank --format json --out FILE` writes one."
        ) from error


def _names(one: Path, other: Path) -> tuple[str, str]:
    """What two files are called: by their names, or where these are alike with their folders."""
    if one.name != other.name:
        return one.name, other.name
    if str(one) != str(other):
        return str(one), str(other)
    return f"{one} (A)", f"{other} (B)"
