"""`probe`, `finetune`, `pretrain`: the ground truth that scores are judged by."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from transferscope.cli._terminal import (
    DatasetArgument,
    DeviceOption,
    EncodersOption,
    LabelOption,
    MaxOption,
    PlainFormat,
    SeedOption,
    SplitOption,
    StoreOption,
    Task,
    TaskOption,
    TextOption,
    progress_bar,
    stderr,
    stdout,
    write_text,
)
from transferscope.errors import EncoderError, InputError, UnknownNameError
from transferscope.storage.file_names import clean_file_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transferscope.datasets import Dataset

TestSplitOption = Annotated[
    str | None,
    typer.Option(help="Part to be tested on.  [default: 30 % of each class, held out]"),
]
AccuracyOption = Annotated[
    Path | None,
    typer.Option("--csv", help="Write dataset, encoder, accuracy to this file, for `evaluate`."),
]
EpochsOption = Annotated[int, typer.Option(min=1)]
BatchOption = Annotated[int, typer.Option(min=1, help="Samples per step.")]
GradientOption = Annotated[
    float | None,
    typer.Option(help="Bound on the gradient of each sample's loss in its features."),
]


def probe(
    dataset: DatasetArgument,
    encoders: EncodersOption,
    test_split: TestSplitOption = None,
    strengths: Annotated[
        str | None, typer.Option(help="Inverse penalties to try, with commas between.")
    ] = None,
    csv: AccuracyOption = None,
    format: Annotated[PlainFormat, typer.Option(help="What to write.")] = PlainFormat.table,
    store: StoreOption = None,
    split: SplitOption = None,
    text_column: TextOption = None,
    label_column: LabelOption = None,
    task: TaskOption = None,
    max_samples: MaxOption = None,
    device: DeviceOption = None,
    seed: SeedOption = 0,
) -> None:
    """Train a linear head on each encoder's frozen features, and measure it."""
    from transferscope.encoders import expand_encoders
    from transferscope.extraction import extract
    from transferscope.storage.feature_store import FeatureStore
    from transferscope.training import STRENGTHS, TEST, hold_out, refuse_other_classes
    from transferscope.training import probe as train_probe

    data, test = _parts(
        dataset, split, test_split, text_column, label_column, task, max_samples, seed
    )
    if data.task != "classification":
        raise InputError(
            f"a probe is a classifier, and the labels of {data.name} are for {data.task}. "
            "Use `score --metrics linear_probe`, or `finetune --mode head`."
        )
    if test is None:
        data, test = hold_out(data, TEST, 0)
    else:
        refuse_other_classes(data, test)
    tried = STRENGTHS if strengths is None else _numbers(strengths, "--strengths")
    names, kept = expand_encoders(encoders), FeatureStore(store)
    records, failed = [], {}
    with progress_bar() as progress:
        options = {"store": kept, "device": device, "progress": progress}
        for one, other in zip(
            list(extract(data, names, **options)),
            list(extract(test, names, **options)),
            strict=True,
        ):
            if error := one.error or other.error:
                failed[one.identifier] = error
                continue
            features, asked = one.embedding(seed), other.embedding(seed)
            found = train_probe(
                features.features,
                data.labels,
                asked.features,
                test.labels,
                strengths=tried,
                seed=seed,
            )
            record = {"encoder": one.identifier, "dataset": data.name, "measure": "accuracy"}
            records.append(record | asdict(found))
    _show(records, ("strength", "C"), failed, csv, format)


def finetune(
    dataset: DatasetArgument,
    encoders: EncodersOption,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for logs and weights; the same command then goes on."),
    ] = None,
    test_split: TestSplitOption = None,
    learning_rates: Annotated[str, typer.Option(help="With commas between.")] = "3e-4,1e-3,3e-3",
    weight_decays: Annotated[str, typer.Option(help="With commas between.")] = "1e-4,1e-2",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of the best pair.")] = 3,
    epochs: EpochsOption = 20,
    batch_size: BatchOption = 64,
    mode: Annotated[str, typer.Option(help="full, last-block or head.")] = "full",
    augment: Annotated[str, typer.Option(help="none, shift, or flip (and shift).")] = "none",
    patience: Annotated[
        int, typer.Option(min=0, help="Stop after this many epochs without gain; 0: never.")
    ] = 5,
    max_gradient_norm: GradientOption = None,
    part: Annotated[
        str, typer.Option(help="2/4: only every fourth run of the sweep, from the second on.")
    ] = "1/1",
    csv: AccuracyOption = None,
    format: Annotated[PlainFormat, typer.Option(help="What to write.")] = PlainFormat.table,
    split: SplitOption = None,
    text_column: TextOption = None,
    label_column: LabelOption = None,
    task: TaskOption = None,
    max_samples: MaxOption = None,
    device: DeviceOption = None,
    seed: SeedOption = 0,
) -> None:
    """Fine-tune encoders, with a sweep over hyper-parameters, and measure them."""
    from transferscope.encoders import expand_encoders
    from transferscope.training import finetune as fine_tune

    data, test = _parts(
        dataset, split, test_split, text_column, label_column, task, max_samples, seed
    )
    first, _, every = part.partition("/")
    if not (first.isdigit() and every.isdigit()):
        raise InputError(f"--part is written as 2/4, the second of four; got {part!r}.")
    if every != "1" and out is None:
        raise InputError("--part needs --out: a folder in which the parts of the sweep meet.")
    records: list[dict[str, object]] = []
    failed: dict[str, str] = {}
    with progress_bar() as progress:
        for encoder in expand_encoders(encoders):
            assert isinstance(encoder, str)
            try:
                found = fine_tune(
                    encoder,
                    data,
                    test,
                    learning_rates=_numbers(learning_rates, "--learning-rates"),
                    weight_decays=_numbers(weight_decays, "--weight-decays"),
                    n_seeds=seeds,
                    epochs=epochs,
                    batch_size=batch_size,
                    mode=mode,  # type: ignore[arg-type]
                    augment=augment,  # type: ignore[arg-type]
                    patience=patience or None,
                    max_gradient_norm=max_gradient_norm,
                    out=None if out is None else out / _folder_name(encoder),
                    part=(int(first), int(every)),
                    device=device,
                    seed=seed,
                    progress=progress,
                )
            except (EncoderError, UnknownNameError) as error:
                failed[encoder] = str(error)
                continue
            records.append(asdict(found))
    _show(records, ("learning_rate", "learning rate"), failed, csv, format)


def pretrain(
    dataset: DatasetArgument,
    encoder: Annotated[str, typer.Option("--encoder", "-e", help="Where it starts from.")],
    out: Annotated[Path, typer.Option(help="Folder for initial.safetensors, final.safetensors.")],
    test_split: TestSplitOption = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    epochs: EpochsOption = 30,
    batch_size: BatchOption = 64,
    augment: Annotated[str, typer.Option(help="none, shift, or flip (and shift).")] = "none",
    max_gradient_norm: GradientOption = None,
    format: Annotated[PlainFormat, typer.Option(help="What to write.")] = PlainFormat.table,
    split: SplitOption = None,
    text_column: TextOption = None,
    label_column: LabelOption = None,
    task: TaskOption = None,
    max_samples: MaxOption = None,
    device: DeviceOption = None,
    seed: SeedOption = 0,
) -> None:
    """Train an encoder with labels from the weights it has, and keep both ends."""
    from transferscope.training import pretrain as train

    data, test = _parts(
        dataset, split, test_split, text_column, label_column, task, max_samples, seed
    )
    with progress_bar() as progress:
        found = train(
            encoder,
            data,
            test,
            out=out,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            epochs=epochs,
            batch_size=batch_size,
            augment=augment,  # type: ignore[arg-type]
            max_gradient_norm=max_gradient_norm,
            device=device,
            seed=seed,
            progress=progress,
        )
    _show([asdict(found)], ("learning_rate", "learning rate"), {}, None, format)
    if format is PlainFormat.table:
        stdout.print(f"weights: {escape(str(out / 'final.safetensors'))}", soft_wrap=True)


def _parts(
    dataset: str,
    split: str | None,
    test_split: str | None,
    text_column: str | None,
    label_column: str | None,
    task: Task | None,
    max_samples: int | None,
    seed: int,
) -> tuple[Dataset, Dataset | None]:
    from transferscope.datasets import open_dataset

    read = partial(
        open_dataset,
        dataset,
        input_column=text_column,
        label_column=label_column,
        task=None if task is None else task.value,
    )
    train = read(split=split, max_samples=max_samples, seed=seed)
    return train, None if test_split is None else read(split=test_split)


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} takes numbers with commas between, got {text!r}.") from error


def _folder_name(encoder: str) -> str:
    return clean_file_name(encoder)


def _show(
    records: list[dict[str, object]],
    chosen: tuple[str, str],
    failed: dict[str, str],
    csv: Path | None,
    format: PlainFormat,
) -> None:
    """Show what was measured, best first; exit status 1 where there is nothing to show."""
    records = sorted(records, key=lambda record: -float(str(record["value"])))
    if csv is not None and records:
        write_text(csv, _csv_text(records))
    if format is PlainFormat.json:
        sys.stdout.write(json.dumps(records, indent=2) + "\n")
    elif records:
        key, title = chosen
        table = Table(header_style="bold", pad_edge=False)
        table.add_column("encoder", overflow="fold")
        for name in (str(records[0]["measure"]), title, "seconds"):
            table.add_column(name, justify="right", no_wrap=True)
        for record in records:
            spread = record.get("spread")
            value = f"{record['value']:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")
            seconds = f"{record['seconds']:.1f}"
            table.add_row(escape(str(record["encoder"])), value, f"{record[key]:g}", seconds)
        stdout.print(table)
        first = records[0]
        stdout.print(
            f"{first['n_train']} samples to train on, {first['n_validation']} to choose on, "
            f"{first['n_test']} to test on"
        )
    for name, error in failed.items():
        stderr.print(f"[red]failed[/] {escape(name)}: {escape(error)}", soft_wrap=True)
    if not records:
        raise typer.Exit(1)


def _csv_text(records: Iterable[dict[str, object]]) -> str:
    paper = io.StringIO()
    writer = csv.writer(paper, lineterminator="\n")
    writer.writerow(["dataset", "encoder", "accuracy"])
    writer.writerows([r["dataset"], r["encoder"], r["value"]] for r in records)
    return paper.getvalue()
