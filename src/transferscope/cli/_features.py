"""`score`, `extract`, `trace-ped`: features in files."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from transferscope.cli._options import (
    DatasetOptions,
    EncodersOption,
    ExtractionOptions,
    FormatOption,
    MetricsOption,
    PlotOption,
    SeedOption,
    with_option_records,
)
from transferscope.cli._terminal import (
    show_failures,
    show_notes,
    stderr,
    stdout,
    write_figure,
    write_line,
)
from transferscope.errors import InputError
from transferscope.results import ScoreTable
from transferscope.storage.file_names import clean_file_name

FeatureFileArgument = Annotated[
    Path,
    typer.Argument(
        help=".npz or .safetensors with features, labels (or targets), and optionally "
        "source_probabilities, source_logits, reference_features, reference_labels.",
        show_default=False,
    ),
]


def score(
    *,
    file: FeatureFileArgument,
    metrics: MetricsOption = None,
    format: FormatOption = "table",
    seed: SeedOption = 0,
) -> None:
    """Score features that are in a file."""
    from transferscope.metrics import DEFAULT_METRICS
    from transferscope.metrics import score as score_features
    from transferscope.storage.feature_files import read_feature_file

    with stderr.status(f"scoring {escape(str(file))}"):
        table = score_features(
            **read_feature_file(file), metrics=metrics or DEFAULT_METRICS, seed=seed
        )
    if format == "json":
        write_line(table.to_json())
    else:
        _show_scores(table)
    if not table.scores:
        raise typer.Exit(1)


def _show_scores(table: ScoreTable) -> None:
    classes = f", {table.n_classes} classes" if table.n_classes else ""
    stdout.print(f"{table.n_samples:,} samples, {table.n_features} features{classes}")
    shown = Table(header_style="bold", pad_edge=False)
    shown.add_column("metric", no_wrap=True)
    shown.add_column("value", justify="right", no_wrap=True)
    shown.add_column("seconds", justify="right", no_wrap=True)
    shown.add_column("notes")
    for name, one in table.scores.items():
        notes = escape("; ".join(one.warnings))
        shown.add_row(name, f"{one.value:.6g}", f"{one.seconds:.3f}", notes)
    for name, reason in table.skipped.items():
        shown.add_row(name, "-", "", escape(reason))
    stdout.print(shown)


@with_option_records
def extract(
    *,
    encoders: EncodersOption,
    out: Annotated[Path, typer.Option(help="Folder for the feature files.", show_default=False)],
    data: DatasetOptions,
    extraction: ExtractionOptions,
) -> None:
    """Write each encoder's features to a file that `score` reads."""
    from transferscope.storage.feature_files import write_feature_file

    dataset = data.open()
    written: dict[Path, str] = {}
    failed: dict[str, str] = {}
    for (item,) in extraction.extract([dataset], encoders, data.seed):
        if item.error is not None:
            failed[item.identifier] = item.error
            continue
        found = {"features": item.features}
        if item.labels is not None:
            found["labels" if dataset.task == "classification" else "targets"] = item.labels
        if item.logits is not None:
            found["source_logits"] = item.logits
        path = _free_name(out, item.identifier, written)
        facts = {"encoder": item.identifier, "dataset": dataset.name, "split": dataset.split}
        write_feature_file(path, found, facts)
        written[path] = item.identifier
        stdout.print(f"{escape(item.identifier)}: {escape(str(path))}", soft_wrap=True)
        for note in item.warnings:
            stderr.print(
                f"[yellow]note[/] {escape(item.identifier)}: {escape(note)}", soft_wrap=True
            )
        item.release()
    show_failures(failed)
    if not written:
        raise typer.Exit(1)


def _free_name(folder: Path, identifier: str, taken: Container[Path]) -> Path:
    """A file name for an encoder: its identifier without what file systems dislike."""
    stem = clean_file_name(identifier)
    path, number = folder / f"{stem}.safetensors", 2
    while path in taken:
        path, number = folder / f"{stem}_{number}.safetensors", number + 1
    return path


def trace_ped(
    *, file: FeatureFileArgument, plot: PlotOption = None, format: FormatOption = "table"
) -> None:
    """Show how potential-energy decline (PED) moves the classes."""
    from transferscope.metrics import trace_ped as trace
    from transferscope.storage.feature_files import read_feature_file

    arrays = read_feature_file(file)
    if "labels" not in arrays:
        raise InputError(f"{file} must hold labels; it has {', '.join(arrays)}. Add them.")
    found = trace(
        arrays["features"],
        arrays["labels"],
        reference_features=arrays.get("reference_features"),
    )
    if format == "json":
        write_line(found.to_json())
    else:
        steps = ", ".join(f"{energy:.4g}" for energy in found.energies)
        stdout.print(f"{len(found.class_names)} classes; potential energy per step: {steps}")
        stdout.print(f"displacement of the features (Frobenius norm): {found.displacement:.6g}")
        show_notes(found.warnings)
    if plot is not None:
        from transferscope.plots import plot_ped

        write_figure(plot_ped(found), plot)
