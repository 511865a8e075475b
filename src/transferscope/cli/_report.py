"""`report`."""

from __future__ import annotations

import json
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
from transferscope.results import LayerDistances, Ranking, Relatedness


def report(
    *,
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT...",
            help="JSON of `rank`; two of these are set side by side. Beside them JSON of "
            "`task-relatedness` and `layer-transferability`.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .html file to write.")] = Path("report.html"),
    force: ForceOption = False,
) -> None:
    """Write a ranking, or two side by side, as one HTML page."""
    refuse_as_report(out)
    claim("report", out, force=force, shown=False)
    rankings: list[tuple[Path, Ranking]] = []
    beside: dict[str, Relatedness | LayerDistances] = {}
    for path in results:
        found = _read(path)
        if isinstance(found, Ranking):
            rankings.append((path, found))
            continue
        for name, one in found.items():
            called = f"{path.stem}: {name}" if name else path.stem
            beside[f"{called} ({path})" if called in beside else called] = one
    if not 1 <= len(rankings) <= 2:
        raise InputError(
            f"a report is of one ranking or of two; {len(rankings)} of the files given hold one. "
            "`rank --format json --out FILE` writes one."
        )
    first, *others = [ranking for _, ranking in rankings]
    names = _names(*(path for path, _ in rankings)) if others else ("A", "B")

    def page(_: Path) -> Content:
        from transferscope.report import report_html

        other = others[0] if others else None
        return text_content(report_html(first, other, names=names, beside=beside))

    deliver("report", (out, page))


def _read(path: Path) -> Ranking | dict[str, Relatedness | LayerDistances]:
    """The ranking in a file, or the other results in it by name.

    Raises
    ------
    InputError
        If the file cannot be read, or holds neither.
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
        found = _other_results(text)
        if found:
            return found
        raise InputError(
            f"{path} holds no ranking: {error} `rank --format json --out FILE` writes one."
        ) from error


def _other_results(text: str) -> dict[str, Relatedness | LayerDistances]:
    """What is no ranking: one record without a name, or several by name; none if it is neither."""
    for kind in (Relatedness, LayerDistances):
        try:
            return {"": kind.from_json(text)}
        except InputError:
            continue
    try:
        return {
            name: Relatedness.from_json(json.dumps(one)) for name, one in json.loads(text).items()
        }
    except (ValueError, AttributeError):
        return {}


def _names(one: Path, other: Path) -> tuple[str, str]:
    """What two files are called: by their names, or where these are alike with their folders."""
    if one.name != other.name:
        return one.name, other.name
    if str(one) != str(other):
        return str(one), str(other)
    return f"{one} (A)", f"{other} (B)"
