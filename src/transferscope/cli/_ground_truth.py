"""`probe`, `finetune`, `pretrain`: the accuracies that scores are compared with."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from transferscope.cli._options import (
    DatasetOptions,
    DeviceOption,
    EncoderOption,
    EncodersOption,
    ExtractionOptions,
    Format,
    FormatOption,
    RayOptions,
    one_encoder,
    with_option_records,
)
from transferscope.cli._outputs import ForceOption, claim, deliver, text_content
from transferscope.cli._terminal import (
    literal,
    progress_bar,
    show_failures,
    stdout,
    write_line,
)
from transferscope.errors import EncoderError, InputError, TransferscopeError, UnknownNameError
from transferscope.storage.file_names import clean_file_name

#: What is said to who stops a training that writes to a folder.
ENDED_EPOCHS = "epochs that ended are kept, the same command continues"
TestSplitOption = Annotated[
    str | None,
    typer.Option(
        help="Part of the data set to test on.  [default: 30 % of each class, held out]",
    ),
]
AccuracyOption = Annotated[
    Path | None,
    typer.Option("--csv", help="Write dataset, encoder, accuracy to this file, for `evaluate`."),
]
EpochsOption = Annotated[int, typer.Option(min=1, help="Passes over the training data.")]
StepOption = Annotated[int, typer.Option("--batch-size", min=1, help="Samples per batch.")]
AugmentOption = Annotated[
    Literal["none", "shift", "flip"],
    typer.Option(help="How images are varied: not, shifted, or flipped and shifted."),
]
GradientOption = Annotated[
    float | None,
    typer.Option(help="Bound on the gradient of each sample's loss in its features."),
]
OptimiserOption = Annotated[
    Literal["adamw", "sgd"], typer.Option(help="AdamW, or gradient descent with momentum.")
]
KeepOption = Annotated[
    Literal["best", "last"],
    typer.Option(help="Epoch that is kept: the best on what is held out, or the last."),
]


@with_option_records
def probe(
    *,
    encoders: EncodersOption,
    test_split: TestSplitOption = None,
    strengths: Annotated[
        str | None, typer.Option(help="Inverse penalties to try, with commas between.")
    ] = None,
    csv: AccuracyOption = None,
    force: ForceOption = False,
    format: FormatOption = "table",
    data: DatasetOptions,
    extraction: ExtractionOptions,
) -> None:
    """Train a linear head on each encoder's frozen features, and measure it."""
    from transferscope.training import STRENGTHS, TEST, hold_out, refuse_other_classes
    from transferscope.training import probe as train_probe

    claim("probe", csv, force=force)
    train, test = data.open(), data.open_split(test_split)
    if train.task != "classification":
        raise InputError(
            f"a probe is a classifier, and the labels of {train.name} are for {train.task}. "
            "Use `score --metrics linear_probe`, or `finetune --mode head`."
        )
    if test is None:
        train, test = hold_out(train, TEST, 0)
    else:
        refuse_other_classes(train, test)
    values = STRENGTHS if strengths is None else numbers(strengths, "--strengths")
    records: list[dict[str, object]] = []
    failed: dict[str, str] = {}
    for seen, unseen in extraction.extract([train, test], encoders, data.seed):
        if error := seen.error or unseen.error:
            failed[seen.identifier] = error
            continue
        found = train_probe(
            seen.features,
            train.require_labels()[1],
            unseen.features,
            test.require_labels()[1],
            strengths=values,
            seed=data.seed,
        )
        record = {"encoder": seen.identifier, "dataset": train.name, "measure": "accuracy"}
        records.append(record | asdict(found))
        seen.release()
        unseen.release()
    _show("probe", records, ("strength", "C"), failed, csv, format)


@with_option_records
def finetune(
    *,
    encoders: EncodersOption,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for logs and weights; the same command then continues."),
    ] = None,
    test_split: TestSplitOption = None,
    learning_rates: Annotated[str, typer.Option(help="With commas between.")] = "3e-4,1e-3,3e-3",
    weight_decays: Annotated[str, typer.Option(help="With commas between.")] = "1e-4,1e-2",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of the best pair.")] = 3,
    epochs: EpochsOption = 20,
    batch_size: StepOption = 64,
    mode: Annotated[
        Literal["full", "last-block", "head"], typer.Option(help="Which weights are trained.")
    ] = "full",
    augment: AugmentOption = "none",
    patience: Annotated[
        int, typer.Option(min=0, help="Stop after this many epochs without gain; 0: never.")
    ] = 5,
    max_gradient_norm: GradientOption = None,
    optimiser: OptimiserOption = "adamw",
    keep: KeepOption = "best",
    part: Annotated[
        str, typer.Option(help="2/4: only every fourth run of the sweep, from the second on.")
    ] = "1/1",
    csv: AccuracyOption = None,
    force: ForceOption = False,
    format: FormatOption = "table",
    device: DeviceOption = None,
    data: DatasetOptions,
    workers: RayOptions,
) -> None:
    """Fine-tune encoders, with a sweep over hyper-parameters, and measure them."""
    from transferscope.encoders import expand_encoders
    from transferscope.training import finetune as fine_tune

    first, _, every = part.partition("/")
    if not (first.isdigit() and every.isdigit()):
        raise InputError(
            f"--part is written as 2/4, the second of four; got {part!r}. Write it so."
        )
    if every != "1" and out is None:
        raise InputError(
            "--part needs --out: a folder that all parts of the sweep share. Name one."
        )
    rates = numbers(learning_rates, "--learning-rates")
    decays = numbers(weight_decays, "--weight-decays")
    claim("finetune", csv, force=force)
    train, test = data.open(), data.open_split(test_split)
    records: list[dict[str, object]] = []
    failed: dict[str, str] = {}
    ended: TransferscopeError | None = None
    if_stopped = ENDED_EPOCHS if out else "nothing was kept, for want of --out"
    with progress_bar(if_stopped) as progress, workers.executor() as executor:
        for encoder in map(str, expand_encoders(encoders)):
            try:
                found = fine_tune(
                    encoder,
                    train,
                    test,
                    learning_rates=rates,
                    weight_decays=decays,
                    n_seeds=seeds,
                    epochs=epochs,
                    batch_size=batch_size,
                    mode=mode,
                    augment=augment,
                    patience=patience or None,
                    max_gradient_norm=max_gradient_norm,
                    optimiser=optimiser,
                    keep=keep,
                    out=None if out is None else out / clean_file_name(encoder),
                    part=(int(first), int(every)),
                    device=device,
                    seed=data.seed,
                    executor=executor,
                    progress=progress,
                )
            except (EncoderError, UnknownNameError) as error:
                failed[encoder] = str(error)
                continue
            except TransferscopeError as error:  # of the data or of --out: others would fail, too
                ended = error
                break
            records.append(asdict(found))
    if records or ended is None:
        _show("finetune", records, ("learning_rate", "learning rate"), failed, csv, format)
    if ended is not None:
        raise ended


@with_option_records
def pretrain(
    *,
    encoder: EncoderOption,
    out: Annotated[
        Path,
        typer.Option(help="Folder for initial.safetensors, final.safetensors.", show_default=False),
    ],
    test_split: TestSplitOption = None,
    learning_rate: Annotated[float, typer.Option(help="Of the largest step.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Of the optimiser.")] = 1e-2,
    epochs: EpochsOption = 30,
    batch_size: StepOption = 64,
    augment: AugmentOption = "none",
    max_gradient_norm: GradientOption = None,
    optimiser: OptimiserOption = "adamw",
    keep: KeepOption = "best",
    format: FormatOption = "table",
    device: DeviceOption = None,
    data: DatasetOptions,
) -> None:
    """Train an encoder with labels from the weights it has, and keep both ends."""
    from transferscope.training import pretrain as train_encoder

    train, test = data.open(), data.open_split(test_split)
    with progress_bar(ENDED_EPOCHS) as progress:
        found = train_encoder(
            one_encoder(encoder),
            train,
            test,
            out=out,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            epochs=epochs,
            batch_size=batch_size,
            augment=augment,
            max_gradient_norm=max_gradient_norm,
            optimiser=optimiser,
            keep=keep,
            device=device,
            seed=data.seed,
            progress=progress,
        )
    _show("pretrain", [asdict(found)], ("learning_rate", "learning rate"), {}, None, format)
    if format == "table":
        stdout.print(f"weights: {literal(str(out / 'final.safetensors'))}", soft_wrap=True)


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between.

    Raises
    ------
    InputError
        If something else is among them.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"{option} takes numbers with commas between; got {text!r}. Write 1e-3,1e-2."
        ) from error


def _show(
    command: str,
    records: list[dict[str, object]],
    chosen: tuple[str, str],
    failed: Mapping[str, str],
    csv: Path | None,
    format: Format,
) -> None:
    """Show what was measured, best first; exit status 1 where there is nothing to show."""
    records = sorted(records, key=lambda record: -float(str(record["value"])))
    if format == "json":
        write_line(json.dumps(records, indent=2))
    elif records:
        _show_table(records, chosen)
    show_failures(failed)
    if not records:
        raise typer.Exit(1)
    deliver(command, (csv, lambda _: text_content(_csv_text(records))))


def _show_table(records: list[dict[str, object]], chosen: tuple[str, str]) -> None:
    key, title = chosen
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("encoder", overflow="fold")
    with_loss = "loss" in records[0]
    for name in (str(records[0]["measure"]), *(["loss"] if with_loss else []), title, "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        spread = record.get("spread")
        value = f"{record['value']:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")
        seconds = f"{record['seconds']:.1f}"
        loss = [f"{record['loss']:.4f}"] if with_loss else []
        table.add_row(literal(str(record["encoder"])), value, *loss, f"{record[key]:g}", seconds)
    stdout.print(table)
    first = records[0]
    stdout.print(
        f"{first['n_train']} samples to train on, {first['n_validation']} to choose on, "
        f"{first['n_test']} to test on"
    )


def _csv_text(records: Iterable[Mapping[str, object]]) -> str:
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(["dataset", "encoder", "accuracy"])
    writer.writerows([r["dataset"], r["encoder"], r["value"]] for r in records)
    return page.getvalue()
