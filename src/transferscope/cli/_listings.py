"""`encoders` and `metrics`: what can be asked for by name."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from transferscope.cli._options import FormatOption
from transferscope.cli._terminal import literal, short_count, stderr, stdout, write_line


def encoders(
    *,
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a name, or a pattern such as timm/*dinov2*.")
    ] = None,
    format: FormatOption = "table",
) -> None:
    """List encoders that can be asked for by name."""
    from transferscope.encoders import list_encoders

    rows = list_encoders(pattern)
    if format == "json":
        write_line(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("encoder", no_wrap=True)
    for name in ("params", "dim", "input"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what it is")
    for row in rows:
        size = "" if row.input_size is None else f"{row.input_size[0]}x{row.input_size[1]}"
        dim = "" if row.feature_dim is None else str(row.feature_dim)
        table.add_row(row.name, short_count(row.n_parameters), dim, size, literal(row.summary))
    stdout.print(table)
    if not rows:
        stderr.print(
            f"no listed encoder matches {literal(repr(pattern))}; "
            "list all with: transferscope encoders"
        )
        raise typer.Exit(1)


def metrics(*, format: FormatOption = "table") -> None:
    """List the metrics."""
    from transferscope.metrics import METRICS

    rows = list(METRICS.values())
    if format == "json":
        records = [
            {
                "name": m.name,
                "summary": m.about.summary,
                "tasks": list(m.tasks),
                "needs": list(m.needs),
                "range": m.about.range,
                "publication": m.about.publication,
            }
            for m in rows
        ]
        write_line(json.dumps(records, indent=2, ensure_ascii=False))
        return
    table = Table(header_style="bold", pad_edge=False)
    for name in ("metric", "what it is", "range", "scores", "also needs"):
        table.add_column(name, no_wrap=name == "metric", overflow="fold")
    for m in rows:
        what = f"{m.about.summary} ({m.about.publication})"
        table.add_row(m.name, what, m.about.range, m.scores, ", ".join(m.needs))
    stdout.print(table)
