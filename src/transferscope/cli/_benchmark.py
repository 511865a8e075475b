"""`benchmark`: which metrics foresee accuracy, and how far that holds."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from transferscope.cli._options import (
    EncodersOption,
    ExtractionOptions,
    FormatOption,
    MetricsOption,
    ReferenceOption,
    SeedOption,
    with_option_records,
)
from transferscope.cli._outputs import ForceOption, claim, deliver, figure_content, text_content
from transferscope.cli._terminal import (
    WHAT_IS_KEPT,
    literal,
    progress_bar,
    show_notes,
    stderr,
    stdout,
    write_line,
)
from transferscope.errors import InputError, MissingExtraError
from transferscope.results import MetricStudy, Ranking

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from transferscope.datasets import Dataset

#: Files of a benchmark; what each answers is in its name.
_TABLES = (
    *("scores.csv", "metrics.csv", "metrics.tex", "datasets.csv", "datasets.tex", "pairs.csv"),
    *("robustness.csv", "correlation.csv", "ped.csv", "samples.csv", "study.json"),
)
_FIGURES = ("agreement.png", "robustness.png", "correlation.png", "samples.png")


@with_option_records
def benchmark(
    *,
    datasets: Annotated[
        list[str],
        typer.Option(
            help="Data sets, named as in `rank`, with commas between or the option again; "
            "NAME=DATASET where --accuracy has another name.",
            show_default=False,
        ),
    ],
    encoders: EncodersOption,
    accuracy: Annotated[
        list[Path],
        typer.Option(
            help="Fine-tuned accuracies, as `evaluate` reads them. Several: the option again.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.", show_default=False)],
    metrics: MetricsOption = None,
    samples: Annotated[
        str | None,
        typer.Option(help="Numbers of samples to measure on as well, such as 50,100,200."),
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="Use at most this many samples of each data set.")
    ] = None,
    reference: ReferenceOption = None,
    force: ForceOption = False,
    format: FormatOption = "table",
    seed: SeedOption = 0,
    extraction: ExtractionOptions,
) -> None:
    """Compare metrics: measure them on data sets, and evaluate what they foresee."""
    from transferscope.datasets import open_reference
    from transferscope.evaluation import read_accuracy
    from transferscope.ranking import benchmark as compare

    numbers = _numbers(samples)
    drawn = _can_draw()
    files = {name: out / name for name in _TABLES if numbers or name != "samples.csv"}
    figures = {
        name: out / name for name in _FIGURES if drawn and (numbers or name != "samples.png")
    }
    claim("benchmark", *files.values(), figures=list(figures.values()), force=force)
    truth = read_accuracy(*accuracy)
    opened = _opened(datasets, max_samples, seed)
    with progress_bar(WHAT_IS_KEPT) as progress:
        found = compare(
            opened,
            encoders,
            metrics or "all",
            accuracy=truth,
            samples=numbers,
            reference=None if reference is None else open_reference(reference),
            store=extraction.store or "cache",
            batch_size=extraction.batch_size,
            device=extraction.device,
            seed=seed,
            exact=extraction.exact,
            progress=progress,
            report=_say,
        )
    study = found.study
    if format == "json":
        write_line(study.to_json())
    else:
        _show(study)
    contents = {
        "scores.csv": _scores_csv(study),
        "metrics.csv": str(study.to_frame().to_csv()),
        "metrics.tex": _latex(study.to_frame()[list(_PRINTED)]),
        "datasets.csv": str(_per_dataset(study).to_csv()),
        "datasets.tex": _latex(_per_dataset(study)),
        "ped.csv": str(study.ped_frame().to_csv(index=False)),
        "pairs.csv": _pairs_csv(study),
        "robustness.csv": str(study.robustness_frame().to_csv()),
        "correlation.csv": str(study.correlation_frame().to_csv()),
        "samples.csv": str(study.curves_frame().to_csv(index=False)),
        "study.json": study.to_json(),
    }
    deliver(
        "benchmark",
        *((path, lambda path: text_content(contents[path.name])) for path in files.values()),
        *(
            (path, lambda path: figure_content(_draw(study, path.name), path))
            for path in figures.values()
        ),
    )
    stdout.print(f"tables and figures: {literal(str(out))}", soft_wrap=True)
    _say_failures(found.rankings.values())


def _say(name: str, n_samples: int | None, ranking: Ranking) -> None:
    what = "all samples" if n_samples is None else f"{n_samples:,} samples"
    stderr.print(
        f"measured {literal(name)}, {what}: {len(ranking.ranked)} encoders", soft_wrap=True
    )


def _say_failures(rankings: Iterable[Ranking]) -> None:
    show_notes(
        dict.fromkeys(
            f"{row.encoder} on {one.dataset.name}: {row.error}"
            for one in rankings
            for row in one
            if row.error is not None
        )
    )


def _numbers(text: str | None) -> tuple[int, ...]:
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(
            f"--samples takes whole numbers with commas between; got {text!r}. Write 50,100,200."
        )
    return tuple(map(int, parts))


def _can_draw() -> bool:
    from transferscope.plots import require_matplotlib

    try:
        require_matplotlib()
    except MissingExtraError as error:
        show_notes([f"figures are left out: {error}"], stderr)
        return False
    return True


def _opened(specs: list[str], max_samples: int | None, seed: int) -> dict[str, Dataset]:
    from transferscope.datasets import open_dataset

    found: dict[str, Dataset] = {}
    for spec in (one.strip() for part in specs for one in part.split(",") if one.strip()):
        named = re.fullmatch(r"([\w.+-]+)=(.+)", spec)
        data = open_dataset(named[2] if named else spec, max_samples=max_samples, seed=seed)
        show_notes(data.notes, stderr)
        name = named[1] if named else data.name
        if name in found:
            raise InputError(
                f"--datasets must have names of their own; two are called {name}. Write "
                f"NAME={spec} for one of them."
            )
        found[name] = replace(data, name=name)
    return found


def _draw(study: MetricStudy, name: str) -> Figure:
    from transferscope import plots

    if name == "agreement.png":
        return plots.plot_agreement(study.agreement)
    if name == "robustness.png":
        return plots.plot_robustness(study)
    if name == "correlation.png":
        return plots.plot_metric_correlation(study)
    return plots.plot_samples(study)


#: What the table on the terminal shows; the files have all.
_SHOWN = {
    "weighted_tau": "weighted tau",
    "kendall": "kendall",
    "pearson": "pearson",
    "rel@1": "rel@1",
    "regret@1": "regret@1",
    "without_largest": "without\nlargest",
    "of_like_size": "of like\nsize",
}


#: Columns of the table for print.
_PRINTED = (
    *("weighted_tau", "weighted_tau_low", "weighted_tau_high", "kendall", "pearson", "rel@1"),
    *("regret@1", "without_largest", "of_like_size"),
)


def _show(study: MetricStudy) -> None:
    frame = study.to_frame()
    table = Table(header_style="bold", pad_edge=False, title="average over data sets")
    table.add_column("metric", overflow="fold")
    for title in (*_SHOWN.values(), "one encoder\nleft out"):
        table.add_column(title, justify="right", no_wrap=True)
    for metric, row in frame.iterrows():
        cells = [_cell(row[name]) for name in _SHOWN]
        if row["weighted_tau_low"] == row["weighted_tau_low"]:
            cells[0] += f" ({row['weighted_tau_low']:.2f} to {row['weighted_tau_high']:.2f})"
        spread = f"{_cell(row['leave_one_out_low'])} to {_cell(row['leave_one_out_high'])}"
        table.add_row(literal(str(metric)), *cells, spread)
    stdout.print(table)
    _show_ped(study)
    unbeaten: dict[str, list[str]] = {}
    notes = []
    for warning in study.agreement.warnings:
        metric, between, rest = warning.partition(" is not shown to beat ")
        if between:
            unbeaten.setdefault(rest.partition(",")[0], []).append(metric)
        else:
            notes.append(warning)
    show_notes(notes)
    show_notes(
        f"not shown to beat {baseline}, which knows nothing of the data set (pairs.csv): "
        f"{', '.join(metrics)}"
        for baseline, metrics in unbeaten.items()
    )


def _show_ped(study: MetricStudy) -> None:
    frame = study.ped_frame()
    if frame.empty:
        return
    table = Table(header_style="bold", pad_edge=False, title="what PED changes, weighted tau")
    datasets = list(dict.fromkeys(frame["dataset"]))
    table.add_column("metric", overflow="fold")
    for name in datasets:
        table.add_column(literal(name), justify="right")
    for metric, rows in frame.groupby("metric", sort=False):
        cells = {
            row.dataset: f"{row.weighted_tau:.2f} → {row.with_ped:.2f} ({row.change:+.2f})"
            for row in rows.itertuples()
        }
        table.add_row(literal(str(metric)), *(cells.get(name, "-") for name in datasets))
    stdout.print(table)


def _cell(value: float) -> str:
    return f"{value:.2f}" if value == value else "-"


def _per_dataset(study: MetricStudy) -> pd.DataFrame:
    import pandas as pd

    found = study.agreement
    rows = {
        metric: {
            **{
                dataset: cells[metric]["weighted_tau"].value if metric in cells else None
                for dataset, cells in found.per_dataset.items()
            },
            "average": found.average[metric]["weighted_tau"].value,
        }
        for metric in study.metrics
    }
    return pd.DataFrame.from_dict(rows, orient="index").astype("float64").rename_axis("metric")


def _scores_csv(study: MetricStudy) -> str:
    rows = [
        (dataset, encoder, metric, value)
        for dataset, metrics in study.agreement.scores.items()
        for metric, row in metrics.items()
        for encoder, value in row.items()
    ]
    return _csv(("dataset", "encoder", "metric", "value"), rows)


def _pairs_csv(study: MetricStudy) -> str:
    names = ("first", "second", "difference", "low", "high", "p_value", "n_datasets")
    rows = [[getattr(pair, name) for name in names] for pair in study.agreement.comparisons]
    return _csv(names, rows)


def _csv(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return page.getvalue()


def _latex(frame: pd.DataFrame) -> str:
    """A frame of numbers as a table of LaTeX (booktabs), the best of each column in bold."""

    def escaped(text: object) -> str:
        return re.sub(r"([&%$#_{}])", r"\\\1", str(text))

    head = " & ".join([escaped(frame.index.name), *map(escaped, frame.columns)])
    lines = [f"\\begin{{tabular}}{{l{'r' * frame.shape[1]}}}", "\\toprule", f"{head} \\\\"]
    lines.append("\\midrule")
    best: dict[object, float] = {
        name: frame[name].min() if str(name).startswith("regret") else frame[name].max()
        for name in frame.columns
    }
    for name, row in frame.iterrows():
        cells = [
            "" if value != value
            else f"\\textbf{{{value:.3f}}}" if value == best[column]
            else f"{value:.3f}"
            for column, value in row.items()
        ]  # fmt: skip
        lines.append(f"{' & '.join([escaped(name), *cells])} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])
