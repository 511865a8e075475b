"""`score`, `extract`, `ped`: features at hand, or to be put at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from transferscope.cli._terminal import (
    BatchOption,
    DatasetArgument,
    DeviceOption,
    EncodersOption,
    LabelOption,
    MaxOption,
    MetricsOption,
    PerClassOption,
    PlainFormat,
    SeedOption,
    SkipOption,
    SplitOption,
    StoreOption,
    TaskOption,
    TextOption,
    progress_bar,
    stderr,
    stdout,
)
from transferscope.results import ScoreTable
from transferscope.storage.file_names import clean_file_name


def score(
    file: Annotated[
        Path,
        typer.Argument(
            help=".npz or .safetensors with features, labels (or targets), and optionally "
            "source_probabilities, source_logits, reference_features, reference_labels.",
            show_default=False,
        ),
    ],
    metrics: MetricsOption = None,
    format: Annotated[PlainFormat, typer.Option(help="What to write.")] = PlainFormat.table,
    seed: SeedOption = 0,
) -> None:
    """Score features that are at hand."""
    from transferscope.metrics import DEFAULT_METRICS
    from transferscope.metrics import score as score_features
    from transferscope.storage.feature_files import read_feature_file

    with stderr.status(f"scoring {escape(str(file))}"):
        table = score_features(
            **read_feature_file(file), metrics=metrics or DEFAULT_METRICS, seed=seed
        )
    if format is PlainFormat.json:
        sys.stdout.write(table.to_json() + "\n")
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


def extract(
    dataset: DatasetArgument,
    encoders: EncodersOption,
    out: Annotated[Path, typer.Option(help="Folder for the feature files.", show_default=False)],
    store: StoreOption = None,
    split: SplitOption = None,
    label_column: LabelOption = None,
    text_column: TextOption = None,
    task: TaskOption = None,
    max_samples: MaxOption = None,
    per_class: PerClassOption = None,
    skip_unreadable: SkipOption = False,
    batch_size: BatchOption = 64,
    device: DeviceOption = None,
    seed: SeedOption = 0,
) -> None:
    """Write each encoder's features to a file that `score` reads."""
    from transferscope.datasets import open_dataset
    from transferscope.encoders import expand_encoders
    from transferscope.extraction import extract as extract_features
    from transferscope.storage.feature_files import write_feature_file
    from transferscope.storage.feature_store import FeatureStore

    data = open_dataset(
        dataset,
        split=split,
        label_column=label_column,
        input_column=text_column,
        task=task and task.value,  # type: ignore[arg-type]  # Task names them all
        max_samples=max_samples,
        per_class=per_class,
        seed=seed,
        skip_unreadable=skip_unreadable,
    )
    written: dict[Path, str] = {}
    noted: dict[str, tuple[str, ...]] = {}
    failed: dict[str, str] = {}
    with progress_bar() as progress:
        for item in extract_features(
            data,
            expand_encoders(encoders),
            store=FeatureStore(store),
            batch_size=batch_size,
            device=device,
            seed=seed,
            progress=progress,
        ):
            if item.error is not None:
                failed[item.identifier] = item.error
                continue
            embedding = item.embedding(seed)
            kept = {"features": embedding.features}
            key = "labels" if data.task == "classification" else "targets"
            kept[key] = data.labels
            if "source_logits" in embedding.inputs and embedding.source.logits is not None:
                kept["source_logits"] = embedding.source.logits
            path = _free_name(out, item.identifier, written)
            about = {"encoder": item.identifier, "dataset": data.name, "split": data.split}
            write_feature_file(path, kept, about)
            written[path] = item.identifier
            noted[item.identifier] = item.warnings
    for path, identifier in written.items():
        stdout.print(f"{escape(identifier)}: {escape(str(path))}", soft_wrap=True)
    for identifier, notes in noted.items():
        for note in notes:
            stderr.print(f"[yellow]note[/] {escape(identifier)}: {escape(note)}", soft_wrap=True)
    for identifier, error in failed.items():
        stderr.print(f"[red]failed[/] {escape(identifier)}: {escape(error)}", soft_wrap=True)
    if not written:
        raise typer.Exit(1)


def _free_name(folder: Path, identifier: str, taken: dict[Path, str]) -> Path:
    """A file name for an encoder: its identifier without what file systems dislike."""
    stem = clean_file_name(identifier)
    path, number = folder / f"{stem}.safetensors", 2
    while path in taken:
        path, number = folder / f"{stem}_{number}.safetensors", number + 1
    return path


def ped(
    file: Annotated[
        Path,
        typer.Argument(
            help=".npz or .safetensors with features, labels and perhaps reference_features.",
            show_default=False,
        ),
    ],
    plot: Annotated[
        Path | None, typer.Option(help="Draw it to this .png, .pdf or .svg file.")
    ] = None,
    format: Annotated[PlainFormat, typer.Option(help="What to write.")] = PlainFormat.table,
) -> None:
    """Show how potential-energy decline (PED) moves the classes."""
    from transferscope.metrics import trace_ped
    from transferscope.storage.feature_files import read_feature_file

    arrays = read_feature_file(file)
    trace = trace_ped(
        arrays["features"],
        arrays["labels"],
        reference_features=arrays.get("reference_features"),
    )
    if plot is not None:
        from transferscope.plots import plot_ped, save_figure

        save_figure(plot_ped(trace), plot)
    if format is PlainFormat.json:
        sys.stdout.write(trace.to_json() + "\n")
        return
    steps = ", ".join(f"{energy:.4g}" for energy in trace.energies)
    stdout.print(f"{len(trace.class_names)} classes; potential energy per step: {steps}")
    stdout.print(f"displacement of the features (Frobenius norm): {trace.displacement:.6g}")
    for warning in trace.warnings:
        stdout.print(f"[yellow]note[/] {escape(warning)}", soft_wrap=True)
    if plot is not None:
        stdout.print(f"drawn to {escape(str(plot))}", soft_wrap=True)
