"""`evaluate`, `benchmarks`: how well scores agree with fine-tuned accuracy."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from transferscope.cli._options import FormatOption, PlotOption, SeedOption
from transferscope.cli._outputs import ForceOption, claim, deliver, figure_content
from transferscope.cli._terminal import literal, show_notes, stdout, write_line
from transferscope.errors import InputError
from transferscope.results import Agreement, Estimate


def evaluate(
    *,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            help=".csv of dataset, encoder, metric, value, or with a column per metric; or what "
            "rank, probe, finetune or benchmark wrote. Several: the option again.",
            show_default=False,
        ),
    ] = None,
    accuracy: Annotated[
        list[Path] | None,
        typer.Option(
            help=".csv of dataset, encoder, accuracy, or encoder and a column per set; or what "
            "finetune or probe wrote. Several: the option again.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="The data set of files that do not name theirs.")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(help="Published accuracies instead; `transferscope benchmarks` lists them."),
    ] = None,
    format: FormatOption = "table",
    plot: PlotOption = None,
    scatter: Annotated[
        Path | None, typer.Option(help="Draw scores against accuracies to this file.")
    ] = None,
    force: ForceOption = False,
    seed: SeedOption = 0,
) -> None:
    """Measure how well scores foresee fine-tuned accuracy."""
    from transferscope import evaluation
    from transferscope.knowledge import with_baselines

    if bool(accuracy) == (benchmark is not None) or (accuracy and not scores):
        raise InputError(
            "evaluate compares --scores with --accuracy FILE or with --benchmark NAME; give one of "
            "the two (a benchmark alone shows its baselines)."
        )
    claim("evaluate", figures=(plot, scatter), force=force)
    values = evaluation.read_scores(*scores, dataset=dataset) if scores else None
    published_tau: dict[str, dict[str, float]] = {}
    if benchmark is not None:
        published = evaluation.get_benchmark(benchmark)
        truth = published.accuracy()
        own = {name: {} for name in truth} if values is None else values
        together = with_baselines(own, truth, benchmark=published.name)
        found = evaluation.evaluate_on(published.name, together, seed=seed)
        published_tau = published.weighted_tau()
    else:
        assert accuracy is not None
        assert values is not None
        truth = evaluation.read_accuracy(*accuracy, dataset=dataset)
        found = evaluation.evaluate(with_baselines(values, truth), truth, seed=seed)
    if format == "json":
        write_line(found.to_json())
    else:
        _show(found, published_tau)
    if plot is not None or scatter is not None:
        from transferscope.plots import plot_agreement, plot_scores

        deliver(
            "evaluate",
            (plot, lambda path: figure_content(plot_agreement(found), path)),
            (scatter, lambda path: figure_content(plot_scores(found), path)),
        )


#: What the table of averages shows of the measures; JSON has all.
_SHOWN = ("weighted_tau", "kendall", "spearman", "pearson", "rel@1", "recall@1", "regret@1")


def _show(found: Agreement, published_tau: dict[str, dict[str, float]]) -> None:
    averages = Table(header_style="bold", pad_edge=False, title="average over data sets")
    for name in ("metric", *_SHOWN):
        averages.add_column(name, justify="left" if name == "metric" else "right")
    ordered = sorted(found.average, key=lambda m: -(found.average[m]["weighted_tau"].value or -2))
    for metric in ordered:
        row = found.average[metric]
        averages.add_row(literal(metric), _interval(row["weighted_tau"]), *map(_plain, (
            row[name] for name in _SHOWN[1:]
        )))  # fmt: skip
    stdout.print(averages)
    each = Table(header_style="bold", pad_edge=False, title="weighted tau per data set")
    each.add_column("metric")
    for dataset in found.per_dataset:
        each.add_column(literal(dataset), justify="right")
    for metric in ordered:
        rows = (found.per_dataset[d].get(metric, {}).get("weighted_tau") for d in found.per_dataset)
        each.add_row(literal(metric), *(_plain(cell) for cell in rows))
    for metric in dict.fromkeys(m for row in published_tau.values() for m in row):
        cells = (published_tau.get(d, {}).get(metric) for d in found.per_dataset)
        each.add_row(
            f"{literal(metric)}, as published", *("" if c is None else f"{c:.3f}" for c in cells)
        )
    stdout.print(each)
    show_notes(found.warnings)
    for pair in found.comparisons:
        if ordered[0] in (pair.first, pair.second):
            stdout.print(
                f"{literal(pair.first)} - {literal(pair.second)}: mean weighted tau differs by "
                f"{pair.difference:+.3f} ({_range(pair.low, pair.high)}), "
                f"p = {pair.p_value:.3g} on {pair.n_datasets} data sets",
                soft_wrap=True,
            )


def _plain(estimate: Estimate | None) -> str:
    return "-" if estimate is None or estimate.value is None else f"{estimate.value:.3f}"


def _interval(estimate: Estimate) -> str:
    return f"{_plain(estimate)} ({_range(estimate.low, estimate.high)})"


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def benchmarks(
    *,
    name: Annotated[
        str | None, typer.Argument(help="Write this benchmark's accuracies as .csv.")
    ] = None,
    format: FormatOption = "table",
) -> None:
    """List published accuracies that scores can be evaluated on, with their sources."""
    from transferscope.evaluation import get_benchmark, list_benchmarks

    if name is not None:
        accuracies = get_benchmark(name).accuracy()
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["dataset", "encoder", "accuracy"])
        for dataset, rows in accuracies.items():
            writer.writerows([dataset, encoder, value] for encoder, value in rows.items())
        return
    if format == "json":
        from dataclasses import asdict

        records = [asdict(get_benchmark(known)) for known in list_benchmarks()]
        write_line(json.dumps(records, indent=2, ensure_ascii=False))
        return
    for row in map(get_benchmark, list_benchmarks()):
        also = f" (also: {', '.join(row.aliases)})" if row.aliases else ""
        stdout.print(f"[bold]{row.name}[/]{also}  {literal(row.summary)}", soft_wrap=True)
        stdout.print(
            f"  {literal(row.reference)}; {literal(row.source)}; {row.licence}", soft_wrap=True
        )
        stdout.print(f"  {literal(row.note)}", soft_wrap=True)
