"""`relate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from transferscope.cli._terminal import (
    BatchOption,
    DeviceOption,
    MaxOption,
    PlainFormat,
    SeedOption,
    SplitOption,
    StoreOption,
    progress_bar,
    stderr,
    stdout,
)
from transferscope.errors import EncoderError, InputError

#: What `relate` reads from a feature file.
ARRAYS = ("features", "labels", "test_features", "test_labels")


def relate(
    reference: Annotated[
        str,
        typer.Option(
            help="Task that the encoder knows: .npz or .safetensors with features, labels and "
            "perhaps test_features, test_labels; or with --encoder a data set.",
            show_default=False,
        ),
    ],
    target: Annotated[str, typer.Option(help="Task of yours, the same way.", show_default=False)],
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", "-e", help="Encoder that sees both data sets.", show_default=False
        ),
    ] = None,
    setting: Annotated[
        str, typer.Option(help="sparse, fixed_all, learned_a or learned_all.")
    ] = "sparse",
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Do not look at the target's labels.")
    ] = False,
    match: Annotated[
        str, typer.Option(help="How classes are matched: transport, name or random.")
    ] = "transport",
    tau: Annotated[
        float | None,
        typer.Option(
            help="Largest gradient that the reference head may have.",
            show_default="2 / root of the number of features",
        ),
    ] = None,
    format: Annotated[PlainFormat, typer.Option(help="What to write.")] = PlainFormat.table,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it to this .png, .pdf or .svg file.")
    ] = None,
    store: StoreOption = None,
    reference_split: SplitOption = None,
    target_split: SplitOption = None,
    max_samples: MaxOption = None,
    batch_size: BatchOption = 64,
    device: DeviceOption = None,
    seed: SeedOption = 0,
) -> None:
    """Bound the loss on a target by its relatedness to a reference task, term by term."""
    from transferscope.relatedness import task_relatedness

    def read(name: str, split: str | None) -> dict[str, Any]:
        if encoder is not None:
            return _seen_by(encoder, name, split, store, max_samples, batch_size, device, seed)
        from transferscope.storage.feature_files import read_feature_file

        return read_feature_file(name, ARRAYS)

    if encoder is None and (reference_split or target_split):
        raise InputError("feature files have no splits; name the --encoder of the data sets.")
    known, wanted = read(reference, reference_split), read(target, target_split)
    if "labels" not in known:
        raise InputError(f"{reference} holds no labels; a reference task has them.")
    with stderr.status("relating the tasks"):
        result = task_relatedness(
            wanted["features"],
            wanted.get("labels"),
            reference_features=known["features"],
            reference_labels=known["labels"],
            setting=setting,  # type: ignore[arg-type]  # checked there
            unlabelled=unlabelled,
            reference_test_features=known.get("test_features"),
            reference_test_labels=known.get("test_labels"),
            test_features=wanted.get("test_features"),
            test_labels=wanted.get("test_labels"),
            tau=tau,
            match=match,  # type: ignore[arg-type]
            seed=seed,
        )
    if plot is not None:
        from transferscope.plots import plot_relatedness, save_figure

        save_figure(plot_relatedness(result), plot)
    if format is PlainFormat.json:
        sys.stdout.write(result.to_json() + "\n")
        return
    shown = Table(header_style="bold", pad_edge=False)
    shown.add_column(result.setting, no_wrap=True)
    shown.add_column("value", justify="right", no_wrap=True)
    for name, value in result.to_frame()["value"].dropna().items():
        shown.add_row(str(name).replace("_", " "), f"{value:.4g}")
    stdout.print(shown)
    for warning in result.warnings:
        stdout.print(f"[yellow]note[/] {escape(warning)}", soft_wrap=True)
    if plot is not None:
        stdout.print(f"drawn to {escape(str(plot))}", soft_wrap=True)


def _seen_by(
    encoder: str,
    name: str,
    split: str | None,
    store: Path | None,
    max_samples: int | None,
    batch_size: int,
    device: str | None,
    seed: int,
) -> dict[str, Any]:
    """Features and labels of a data set under one encoder."""
    from transferscope.datasets import open_dataset
    from transferscope.encoders import expand_encoders
    from transferscope.extraction import extract
    from transferscope.storage.feature_store import FeatureStore

    specs = expand_encoders(encoder)
    if len(specs) != 1:
        raise InputError(f"--encoder names one encoder, {encoder!r} stands for {len(specs)}.")
    data = open_dataset(name, split=split, max_samples=max_samples, seed=seed)
    with progress_bar() as progress:
        (item,) = extract(
            data, specs, store=FeatureStore(store), batch_size=batch_size, device=device,
            seed=seed, progress=progress,
        )  # fmt: skip
    if item.error is not None:
        raise EncoderError(f"{item.identifier} failed on {data.name}: {item.error}")
    found = {"features": item.embedding(seed).features}
    return found | ({"labels": data.labels} if data.task == "classification" else {})
