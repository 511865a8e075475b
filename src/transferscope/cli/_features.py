"""`score`, `extract`, `trace-ped`: features in files."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
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
from transferscope.cli._outputs import Content, ForceOption, claim, deliver, figure_content
from transferscope.cli._terminal import (
    literal,
    show_failures,
    show_notes,
    stderr,
    stdout,
    write_line,
)
from transferscope.errors import InputError
from transferscope.results import ScoreTable
from transferscope.storage.file_names import clean_file_name

if TYPE_CHECKING:
    from transferscope.extraction import Extracted

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

    with stderr.status(f"scoring {literal(str(file))}"):
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
        notes = literal("; ".join(one.warnings))
        shown.add_row(name, f"{one.value:.6g}", f"{one.seconds:.3f}", notes)
    for name, reason in table.skipped.items():
        shown.add_row(name, "-", "", literal(reason))
    stdout.print(shown)


@with_option_records
def extract(
    *,
    encoders: EncodersOption,
    out: Annotated[Path, typer.Option(help="Folder for the feature files.", show_default=False)],
    force: ForceOption = False,
    data: DatasetOptions,
    extraction: ExtractionOptions,
) -> None:
    """Write each encoder's features to a file that `score` reads."""
    from transferscope.encoders import expand_encoders

    paths = _file_names(out, map(str, expand_encoders(encoders)))
    claim("extract", *paths, force=force, shown=False)
    dataset = data.open()
    failed: dict[str, str] = {}
    extracted = extraction.extract([dataset], encoders, data.seed)
    for path, (item,) in zip(paths, extracted, strict=True):
        if item.error is not None:
            failed[item.identifier] = item.error
            continue
        deliver("extract", (path, functools.partial(_feature_content, item)))
        stdout.print(f"{literal(item.identifier)}: {literal(str(path))}", soft_wrap=True)
        for note in item.warnings:
            stderr.print(
                f"[yellow]note[/] {literal(item.identifier)}: {literal(note)}", soft_wrap=True
            )
        item.release()
    show_failures(failed)
    if len(failed) == len(paths):
        raise typer.Exit(1)


def _feature_content(item: Extracted, _path: Path) -> Content:
    from transferscope.storage.safetensors_files import serialise

    found = {"features": item.features}
    if item.labels is not None:
        found["labels" if item.dataset.task == "classification" else "targets"] = item.labels
    if item.logits is not None:
        found["source_logits"] = item.logits
    names = {"dataset": item.dataset.name, "split": item.dataset.split}
    return serialise(found, {"encoder": item.identifier, **names})


def _file_names(folder: Path, encoders: Iterable[str]) -> list[Path]:
    """A file for each encoder: its name without what file systems dislike, numbered where equal."""
    paths: list[Path] = []
    for encoder in encoders:
        stem = clean_file_name(encoder)
        path, number = folder / f"{stem}.safetensors", 2
        while path in paths:
            path, number = folder / f"{stem}_{number}.safetensors", number + 1
        paths.append(path)
    return paths


def trace_ped(
    *,
    file: FeatureFileArgument,
    plot: PlotOption = None,
    force: ForceOption = False,
    format: FormatOption = "table",
) -> None:
    """Show how potential-energy decline (PED) moves the classes."""
    from transferscope.metrics import trace_ped as trace
    from transferscope.storage.feature_files import read_feature_file

    claim("trace-ped", figures=(plot,), force=force)
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

        deliver("trace-ped", (plot, lambda path: figure_content(plot_ped(found), path)))
