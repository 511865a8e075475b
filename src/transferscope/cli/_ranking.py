"""`rank`."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from transferscope.cli._options import (
    DatasetOptions,
    ExtractionOptions,
    MetricsOption,
    OptionalEncodersOption,
    ReferenceOption,
    count,
    duration,
    with_option_records,
)
from transferscope.cli._outputs import (
    Content,
    ForceOption,
    claim,
    deliver,
    figure_content,
    refuse_as_report,
    text_content,
)
from transferscope.cli._streams import StoppedError
from transferscope.cli._terminal import (
    WHAT_IS_KEPT,
    literal,
    progress_below_table,
    short_count,
    show_notes,
    stderr,
    stdout,
    write_line,
)
from transferscope.errors import InputError
from transferscope.results import (
    EncoderResult,
    Ranking,
    Verdict,
    format_expected,
    format_score,
    notes_of,
    score_digits,
)

#: Rows of the table at the end, and of the one that is shown while it works.
ROWS, LIVE_ROWS = 20, 12
#: Columns that the names of encoders have at least, whatever has to give way.
NAME_WIDTH = 12

RankFormat: TypeAlias = Literal["table", "json", "csv", "markdown"]

_SUFFIXES: dict[str, RankFormat] = {
    ".json": "json",
    ".csv": "csv",
    ".md": "markdown",
    ".txt": "table",
}


@dataclass(frozen=True)
class ChoiceOptions:
    """How an encoder is chosen, and of which."""

    tolerance: Annotated[
        float,
        typer.Option(
            min=0, max=99, help="Encoders expected to lose no more points than this are as good."
        ),
    ] = 0.5
    prefer: Annotated[
        Literal["speed", "size", "dimension", "licence"],
        typer.Option(help="What is recommended among those that are as good."),
    ] = "speed"
    stop_regret: Annotated[
        float,
        typer.Option(
            min=0, max=99, help="Stop when measuring more is expected to add fewer points."
        ),
    ] = 0.3
    all: Annotated[bool, typer.Option("--all", help="Measure every encoder, on all samples.")] = (
        False
    )
    budget: Annotated[str | None, typer.Option(help="Time after which to stop, such as 10m.")] = (
        None
    )
    max_params: Annotated[
        str | None,
        typer.Option(help="Without --encoders: the largest size, such as 100M or 1.5B."),
    ] = None
    license: Annotated[
        str | None,
        typer.Option(help="Without --encoders: permissive, or the name of a licence such as mit."),
    ] = None
    max_download: Annotated[
        str | None, typer.Option(help="Without --encoders: the largest download, such as 500M.")
    ] = None
    device_memory: Annotated[
        str | None,
        typer.Option(help="Without --encoders: memory that the weights must fit in, such as 8G."),
    ] = None

    def candidates(self, encoders: list[str] | None, modality: str) -> list[str] | None:
        """The encoders that were named, or those that meet the conditions; None for all."""
        conditions = {
            "--max-params": self.max_params,
            "--license": self.license,
            "--max-download": self.max_download,
            "--device-memory": self.device_memory,
        }
        given = [name for name, value in conditions.items() if value is not None]
        if encoders is not None and given:
            raise InputError(
                f"{', '.join(given)} chooses among the known encoders, and --encoders names them. "
                "Leave one of the two out."
            )
        if not given:
            return encoders
        from transferscope.knowledge import select_encoders
        from transferscope.ranking import available_encoders

        sizes = []
        if self.max_params is not None:
            sizes.append(count(self.max_params, "--max-params"))
        if self.device_memory is not None:
            # four bytes a parameter, and as much again for what layers give
            sizes.append(count(self.device_memory, "--device-memory") / 8)
        download = self.max_download
        names, notes = available_encoders(
            modality,
            select_encoders(
                modality,
                max_parameters=min(sizes, default=None),
                license=self.license,
                max_download=None if download is None else count(download, "--max-download") / 1e6,
                loadable=True,
                bundled=True,
            ),
        )
        show_notes(notes, stderr)
        return names


@with_option_records
def rank(
    *,
    encoders: OptionalEncodersOption = None,
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
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each row owes to results and to data.")
    ] = False,
    layers: Annotated[
        str, typer.Option(help="last, mean, best, all, or numbers from 1 with commas between.")
    ] = "last",
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="Draw accuracy against cost, or with --layers the layers, to this .png, .pdf or "
            ".svg file.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Write it all as a page to this .html file."),
    ] = None,
    samples: Annotated[
        bool,
        typer.Option(
            "--samples",
            help="Show samples in the report and in JSON, and those that may be labelled wrongly.",
        ),
    ] = False,
    reference: ReferenceOption = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Store no features, for very large data.")
    ] = False,
    data: DatasetOptions,
    choice: ChoiceOptions,
    extraction: ExtractionOptions,
) -> None:
    """Rank encoders for a data set: which one to fine-tune, and how sure that is."""
    from transferscope.metrics import DEFAULT_METRICS
    from transferscope.ranking import rank as rank_encoders

    budget = None if choice.budget is None else duration(choice.budget, "--budget")
    refuse_as_report(report)
    json_out = out is not None and (format or _SUFFIXES.get(out.suffix)) == "json"
    if samples and report is None and not json_out and format != "json":
        raise InputError(
            "--samples shows samples in the report and in JSON, and neither is asked for. Add "
            "--report PAGE.html, or --format json."
        )
    claim("rank", out, report, figures=(plot,), force=force)
    dataset = data.open()
    if plot is not None and layers in ("last", "mean") and dataset.task != "classification":
        raise InputError(
            f"--plot draws expected accuracies, which {dataset.task} data have none of, or the "
            f"scores of several layers, and --layers is {layers}. Give --layers all, or leave "
            "--plot out."
        )
    names = choice.candidates(encoders, dataset.modality)
    known: list[Ranking] = []
    machine = format if out is None and format != "table" else None
    try:
        if_stopped = "nothing was kept" if no_store else WHAT_IS_KEPT
        with (
            progress_below_table(if_stopped) as (progress, show),
            extraction.executor() as executor,
        ):

            def follow(so_far: Ranking) -> None:
                known[:] = [so_far]
                show(_choice_table(so_far, LIVE_ROWS))

            ranking = rank_encoders(
                dataset,
                names,
                metrics or DEFAULT_METRICS,
                tolerance=choice.tolerance / 100,
                prefer=choice.prefer,
                stop_regret=None if choice.all else choice.stop_regret / 100,
                budget=budget,
                layers=layers,
                reference=data.open_reference(reference),
                store=None if no_store else extraction.store or "cache",
                batch_size=extraction.batch_size,
                device=extraction.device,
                seed=data.seed,
                exact=extraction.exact,
                samples=samples,
                executor=executor,
                progress=progress,
                report=follow,
            )
    except StoppedError:
        if known and known[0].verdict is not None and machine is None:
            stopped = replace(known[0].verdict, stopped="interrupted")
            show_ranking(replace(known[0], verdict=stopped), stdout, explain=explain)
        raise
    if machine is not None:
        write_line(_ranking_text(ranking, machine))
    else:
        show_ranking(ranking, stdout, scores=metrics is not None, explain=explain)
        if layers != "best":
            show_layers(ranking, stdout)
    deliver(
        "rank",
        (out, lambda path: _ranking_content(ranking, format, path)),
        (plot if ranking.ranked else None, lambda path: _figure(ranking, path)),
        (report, lambda _: _page(ranking)),
    )
    if all(row.error is not None for row in ranking.encoders):
        raise typer.Exit(1)


def _ranking_content(ranking: Ranking, format: RankFormat | None, path: Path) -> Content:
    return text_content(_ranking_text(ranking, format or _SUFFIXES.get(path.suffix, "table")))


def _figure(ranking: Ranking, path: Path) -> Content:
    from transferscope.plots import plot_choice, plot_layers

    layered = any(row.layers for row in ranking.encoders)
    return figure_content(plot_layers(ranking) if layered else plot_choice(ranking), path)


def _page(ranking: Ranking) -> Content:
    from transferscope.report import report_html

    return text_content(report_html(ranking))


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


def show_ranking(
    ranking: Ranking, console: Console, *, scores: bool = False, explain: bool = False
) -> None:
    """Print the verdict, the candidates as a table, and what they must be read with.

    With `scores` their scores too; without a verdict these are all there is.
    """
    data, verdict = ranking.dataset, ranking.verdict
    size = f"{data.n_samples:,} samples"
    if data.n_classes:
        size += f", {data.n_classes} classes"
    if data.n_skipped:
        size += f", {data.n_skipped} unreadable ones left out"
    console.print(f"[bold]{literal(data.name)}[/] ({literal(data.split)}): {size}", soft_wrap=True)
    show_notes(data.notes, console)
    ranked = [row for row in ranking.encoders if row.error is None]
    if verdict is not None:
        layouts = itertools.product((True, False), (True, False))
        console.print(
            _fitting(
                console,
                (
                    _choice_table(ranking, ROWS, facts=facts, intervals=intervals)
                    for intervals, facts in layouts
                ),
            )
        )
        if explain:
            console.print("probe: leave-one-out accuracy of a ridge classifier, in percent")
            console.print(_explanation(ranking))
        console.print(f"[dim]{literal(_how_measured(verdict, len(ranked)))}[/]", soft_wrap=True)
        show_notes(verdict.notes, console)
    if ranked and (scores or verdict is None):
        by = "scores" if verdict is not None else f"ranked by {ranking.ranked_by}"
        console.print(f"{by}; ± is a 95 % interval", soft_wrap=True)
        tables = (_score_table(ranking, **layout) for layout in _LAYOUTS)
        console.print(_fitting(console, tables))
    for (about, text), names in notes_of(ranked).items():
        if about != "features" and not (scores or verdict is None):
            continue
        note = text if about == "features" else f"{about}: {text}"
        who = "all encoders" if len(names) == len(ranked) else ", ".join(names)
        console.print(f"[yellow]note[/] {literal(note)} [dim]({literal(who)})[/]", soft_wrap=True)
    for row in ranking.encoders:
        if row.error is not None:
            console.print(
                f"[red]failed[/] {literal(row.encoder)}: {literal(row.error)}", soft_wrap=True
            )
    console.print(f"[bold]{literal(ranking.advice)}[/]", soft_wrap=True)
    if verdict is not None and verdict.loading:
        console.print(f"load it: {literal(verdict.loading)}", soft_wrap=True)


def _fitting(console: Console, tables: Iterable[Table]) -> Table:
    """The first of these tables that is no wider than the console, or the last."""
    unbounded = console.options.update(width=1000)
    for table in tables:
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    return table


def _how_measured(verdict: Verdict, n_there: int) -> str:
    """How many were measured, why no more, and what the columns mean."""
    why = {
        "all": "",
        "settled": "; more would hardly change the choice",
        "budget": "; the budget is spent",
        "interrupted": "; interrupted",
        "not yet": "; going on",
    }[verdict.stopped]
    return (
        f"{verdict.n_measured} of {n_there} candidates measured{why}. expected: accuracy after "
        f"fine-tuning, in percent; loss: points less than {verdict.recommended}; both with 90 % "
        "intervals. p(best): that no other candidate is better."
    )


def _choice_table(
    ranking: Ranking,
    most: int,
    *,
    facts: bool = False,
    intervals: bool = False,
) -> Table:
    """What is expected of each candidate: the measured ones, the first others, what they cost."""
    rows = _first_rows(ranking, most)
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("encoder", overflow="fold", min_width=NAME_WIDTH)
    names = ["expected", "loss", "p(best)", "samples/s", *(["params", "dim"] if facts else [])]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        found = row.expected
        if found is None:
            continue
        seconds, is_measured = found.seconds_per_sample, found.probe is not None
        speed = "" if not seconds else f"{'' if is_measured else '~'}{1 / seconds:,.0f}"
        accuracy, loss = format_expected(found)
        cells = [
            accuracy if intervals else accuracy.partition(" ")[0],
            loss,
            _probability(row.p_best or 0.0),
            speed,
        ]
        if facts:
            dim = "" if row.feature_dim is None else str(row.feature_dim)
            cells += [short_count(row.n_parameters), dim]
        is_chosen = ranking.verdict is not None and row.encoder == ranking.verdict.recommended
        style = "bold green" if is_chosen else "green" if row.in_group else None
        table.add_row(
            f"{row.rank}", literal(row.encoder), *cells, style=style if is_measured else "dim"
        )
    more = sum(row.expected is not None for row in ranking.encoders) - len(rows)
    if more:
        table.caption = f"and {more:,} more candidates; --format json has all"
    return table


def _first_rows(ranking: Ranking, most: int) -> list[EncoderResult]:
    """The measured candidates and the first others, in order."""
    rows = [row for row in ranking.encoders if row.expected is not None]
    measured = [row for row in rows if row.expected and row.expected.probe is not None]
    shown = {row.encoder for row in (*measured[:most], *rows[: max(0, most - len(measured))])}
    return [row for row in rows if row.encoder in shown]


def _explanation(ranking: Ranking) -> Table:
    """What each row owes to the data, and what to published results."""
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("encoder", overflow="fold", min_width=NAME_WIDTH)
    for name in ("probe", "of samples", "loss by published", "published results"):
        table.add_column(name, justify="right")
    for row in _first_rows(ranking, ROWS):
        if (found := row.expected) is not None:
            table.add_row(
                literal(row.encoder),
                "" if found.probe is None else f"{100 * found.probe:.1f}",
                f"{found.n_probed:,}" if found.probe is not None else "",
                f"{100 * found.loss_before:z.1f}",
                f"{found.n_results:,}",
            )
    return table


def _probability(p: float) -> str:
    return "<0.01" if 0 <= p < 0.005 else f"{p:.2f}"


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


def _score_table(ranking: Ranking, *, with_intervals: bool, with_facts: bool) -> Table:
    metrics = ranking.metrics
    digits = {m: score_digits(r.scores.get(m) for r in ranking.encoders) for m in metrics}
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("encoder", overflow="fold", min_width=NAME_WIDTH)
    layered = any(row.layer for row in ranking.encoders)
    if layered:
        table.add_column("layer", no_wrap=True)
    facts = ["params", "dim", "input", "samples/s"] if with_facts else []
    for name in [*metrics, "p(best)", *facts]:
        table.add_column(name.replace("_", "_\n"), justify="right", no_wrap=True)
    for row in ranking.encoders:
        if row.error is not None or not row.scores:
            continue
        cells = [format_score(row.scores.get(m), digits[m]) for m in metrics]
        if not with_intervals:
            cells = [cell.partition(" ")[0] for cell in cells]
        cells.append(_probability(row.p_best or 0.0))
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
