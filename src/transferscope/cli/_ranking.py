"""`rank`."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from transferscope.cli._options import (
    DatasetOptions,
    EncodersOption,
    ExtractionOptions,
    MetricsOption,
    PlotOption,
    ReferenceOption,
    with_option_records,
)
from transferscope.cli._outputs import (
    Content,
    ForceOption,
    claim,
    deliver,
    figure_content,
    text_content,
)
from transferscope.cli._terminal import (
    WHAT_IS_KEPT,
    literal,
    progress_bar,
    short_count,
    show_notes,
    stdout,
    write_line,
)
from transferscope.errors import InputError
from transferscope.results import EncoderResult, Ranking, format_score, score_digits

RankFormat: TypeAlias = Literal["table", "json", "csv", "markdown"]

_SUFFIXES: dict[str, RankFormat] = {
    ".json": "json",
    ".csv": "csv",
    ".md": "markdown",
    ".txt": "table",
}


@with_option_records
def rank(
    *,
    encoders: EncodersOption,
    metrics: MetricsOption = None,
    format: Annotated[
        RankFormat | None,
        typer.Option(
            help="Form of the output, or with --out of the file.  [default: table, or by the "
            "ending of --out]"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file, too.")] = None,
    force: ForceOption = False,
    layers: Annotated[
        str, typer.Option(help="last, mean, best, all, or numbers from 1 with commas between.")
    ] = "last",
    plot: PlotOption = None,
    reference: ReferenceOption = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Store no features, for very large data.")
    ] = False,
    data: DatasetOptions,
    extraction: ExtractionOptions,
) -> None:
    """Rank encoders for a data set: which one to fine-tune, and how sure that is."""
    from transferscope.metrics import DEFAULT_METRICS
    from transferscope.ranking import rank as rank_encoders

    if plot is not None and layers in ("last", "mean"):
        raise InputError(
            f"--plot draws the scores of several layers, and --layers is {layers}. "
            "Give --layers all, or leave --plot out."
        )
    claim("rank", out, force=force)
    claim("rank", plot, force=force, figures=True)
    with progress_bar("nothing was kept" if no_store else WHAT_IS_KEPT) as progress:
        ranking = rank_encoders(
            data.open(),
            encoders,
            metrics or DEFAULT_METRICS,
            layers=layers,
            reference=data.open_reference(reference),
            store=None if no_store else extraction.store or "cache",
            batch_size=extraction.batch_size,
            device=extraction.device,
            seed=data.seed,
            progress=progress,
        )
    if out is None and format not in (None, "table"):
        write_line(_ranking_text(ranking, format))
    else:
        show_ranking(ranking, stdout)
        if layers != "best":
            show_layers(ranking, stdout)
    figure = plot if any(row.layers for row in ranking.encoders) else None
    deliver(
        "rank",
        (out, lambda path: _ranking_content(ranking, format, path)),
        (figure, lambda path: _layer_figure(ranking, path)),
    )
    if all(row.error is not None for row in ranking.encoders):
        raise typer.Exit(1)


def _ranking_content(ranking: Ranking, format: RankFormat | None, path: Path) -> Content:
    return text_content(_ranking_text(ranking, format or _SUFFIXES.get(path.suffix, "table")))


def _layer_figure(ranking: Ranking, path: Path) -> Content:
    from transferscope.plots import plot_layers

    return figure_content(plot_layers(ranking), path)


def _ranking_text(ranking: Ranking, format: RankFormat) -> str:
    if format == "json":
        return ranking.to_json()
    if format == "csv":
        return ranking.to_csv()
    if format == "markdown":
        return ranking.to_markdown()
    page = io.StringIO()
    show_ranking(
        ranking, Console(file=page, width=200, highlight=False, emoji=False, color_system=None)
    )
    return page.getvalue()


def show_ranking(ranking: Ranking, console: Console) -> None:
    """Print a ranking as a table, what it must be read with, and the advice."""
    data = ranking.dataset
    size = f"{data.n_samples:,} samples"
    if data.n_classes:
        size += f", {data.n_classes} classes"
    if data.n_skipped:
        size += f", {data.n_skipped} unreadable ones left out"
    console.print(f"[bold]{literal(data.name)}[/] ({literal(data.split)}): {size}", soft_wrap=True)
    show_notes(data.notes, console)
    ranked = [row for row in ranking.encoders if row.error is None]
    if ranked:
        console.print(f"ranked by {ranking.ranked_by}; ± is a 95 % interval", soft_wrap=True)
        layouts = (_ranking_table(ranking, **layout) for layout in _LAYOUTS)
        unbounded = console.options.update(width=1000)
        fitting = (
            t for t in layouts if console.measure(t, options=unbounded).maximum <= console.width
        )
        console.print(next(fitting, None) or _ranking_table(ranking, **_LAYOUTS[-1]))
    for note, names in _notes(ranked).items():
        who = "all encoders" if len(names) == len(ranked) else ", ".join(names)
        console.print(f"[yellow]note[/] {literal(note)} [dim]({literal(who)})[/]", soft_wrap=True)
    for row in ranking.encoders:
        if row.error is not None:
            console.print(
                f"[red]failed[/] {literal(row.encoder)}: {literal(row.error)}", soft_wrap=True
            )
    console.print(f"[bold]{literal(ranking.advice)}[/]", soft_wrap=True)


def _notes(rows: Iterable[EncoderResult]) -> dict[str, list[str]]:
    """What the scores must be read with, and the encoders that each note is about."""
    notes = defaultdict(list)
    for row in rows:
        for warning in row.warnings:
            notes[warning].append(row.encoder)
        for metric, score in row.scores.items():
            for warning in score.warnings:
                notes[f"{metric}: {warning}"].append(row.encoder)
        for metric, reason in row.skipped.items():
            notes[f"no {metric}: {reason}"].append(row.encoder)
    return notes


def show_layers(ranking: Ranking, console: Console) -> None:
    """Print the scores of every layer that was measured, the chosen ones in colour."""
    for row in ranking.encoders:
        if not row.layers:
            continue
        metrics = [name for name in row.scores if any(name in one for one in row.layers.values())]
        digits = {m: score_digits([row.scores[m]]) for m in metrics}
        console.print(f"layers of {literal(row.encoder)}:", soft_wrap=True)
        table = Table(header_style="bold", pad_edge=False)
        table.add_column("layer", no_wrap=True)
        for name in metrics:
            table.add_column(name.replace("_", "_\n"), justify="right", no_wrap=True)
        for layer, scores in row.layers.items():
            cells = [format_score(scores.get(name), digits[name]) for name in metrics]
            table.add_row(
                literal(layer), *cells, style="bold green" if layer == row.layer else None
            )
        console.print(table)


#: With intervals and facts, without intervals, without both: the first that fits is shown.
_LAYOUTS = (
    {"with_intervals": True, "with_facts": True},
    {"with_intervals": False, "with_facts": True},
    {"with_intervals": False, "with_facts": False},
)


def _ranking_table(ranking: Ranking, *, with_intervals: bool, with_facts: bool) -> Table:
    metrics = ranking.metrics
    digits = {m: score_digits(r.scores.get(m) for r in ranking.encoders) for m in metrics}
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("encoder", overflow="fold")
    layered = any(row.layer for row in ranking.encoders)
    if layered:
        table.add_column("layer", no_wrap=True)
    facts = ["params", "dim", "input", "samples/s"] if with_facts else []
    for name in [*metrics, "p(best)", *facts]:
        table.add_column(name.replace("_", "_\n"), justify="right", no_wrap=True)
    for row in ranking.encoders:
        if row.error is not None:
            continue
        cells = [format_score(row.scores.get(m), digits[m]) for m in metrics]
        if not with_intervals:
            cells = [cell.partition(" ")[0] for cell in cells]
        p = row.p_best or 0.0
        cells.append("<0.01" if 0 <= p < 0.005 else f"{p:.2f}")
        if with_facts:
            size, speed = row.input_size, row.samples_per_second
            cells += [
                short_count(row.n_parameters),
                str(row.feature_dim),
                "" if size is None else f"{size[0]}x{size[1]}",
                "" if speed is None else f"{speed:,.0f}",
            ]
        table.add_row(
            f"{row.rank}",
            literal(row.encoder),
            *([literal(row.layer or "")] if layered else []),
            *cells,
            style="bold green" if row.rank == 1 else "green" if row.in_group else None,
        )
    return table
