"""`select`: the best of several encoders, found by fine-tuning them and left ready to load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from transferscope.cli._ground_truth import (
    ENDED_EPOCHS,
    AugmentOption,
    EpochsOption,
    StepOption,
    TestSplitOption,
    numbers,
)
from transferscope.cli._options import (
    DatasetOptions,
    DeviceOption,
    FormatOption,
    OptionalEncodersOption,
    RayOptions,
    duration,
    with_option_records,
)
from transferscope.cli._streams import StoppedError
from transferscope.cli._terminal import literal, progress_bar, stderr, stdout, write_line
from transferscope.errors import EncoderError, InputError
from transferscope.results import Selection


@with_option_records
def select(
    *,
    encoders: OptionalEncodersOption = None,
    ranking: Annotated[
        Path | None,
        typer.Option(
            help="JSON of `rank --format json`: its undecided group and what it expects of each.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for logs and weights; the same command then continues.",
            show_default=False,
        ),
    ],
    budget: Annotated[
        str | None,
        typer.Option(help="Stop after this time, such as 90s, 10m or 1h30m.", show_default=False),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Points of accuracy that do not matter.")] = 0.5,
    test_split: TestSplitOption = None,
    learning_rates: Annotated[str, typer.Option(help="With commas between.")] = "3e-4,1e-3,3e-3",
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-2,
    seeds: Annotated[int, typer.Option(min=1, help="Most runs of one encoder to the end.")] = 3,
    epochs: EpochsOption = 20,
    batch_size: StepOption = 64,
    mode: Annotated[
        Literal["full", "last-block", "head"], typer.Option(help="Which weights are trained.")
    ] = "full",
    augment: AugmentOption = "none",
    format: FormatOption = "table",
    device: DeviceOption = None,
    data: DatasetOptions,
    workers: RayOptions,
) -> None:
    """Fine-tune encoders until one is known to be good enough, and keep it ready to load."""
    from transferscope.training import read_candidates
    from transferscope.training import select as select_encoder

    if (encoders is None) == (ranking is None):
        raise InputError(
            "the candidates are named by --encoders, or read from a --ranking: one of the two. "
            "Give --encoders mini/all, say."
        )
    names, expected = (encoders or [], {}) if ranking is None else read_candidates(ranking)
    seconds = None if budget is None else duration(budget, "--budget")
    rates = numbers(learning_rates, "--learning-rates")
    train, test = data.open(), data.open_split(test_split)
    known: list[Selection] = []
    try:
        with progress_bar(ENDED_EPOCHS) as progress, workers.executor() as executor:
            found = select_encoder(
                train,
                names,
                out=out,
                test=test,
                expected=expected,
                budget=seconds,
                tolerance=tolerance / 100,
                learning_rates=rates,
                weight_decay=weight_decay,
                epochs=epochs,
                n_seeds=seeds,
                batch_size=batch_size,
                mode=mode,
                augment=augment,
                device=device,
                seed=data.seed,
                report=lambda so_far: known.__setitem__(slice(None), [so_far]),
                progress=progress,
                executor=executor,
            )
    except EncoderError as error:
        stderr.print(f"[red]failed[/] {literal(error)}", soft_wrap=True)
        raise typer.Exit(1) from error
    except StoppedError:
        if known and format == "table":
            _show(known[0])
        elif known:
            stderr.print(literal(known[0].headline), soft_wrap=True)
        raise
    if format == "json":
        write_line(found.to_json())
    else:
        _show(found)
        _show_how_to_load(found, out)


def _show(found: Selection) -> None:
    stdout.print(literal(found.headline), soft_wrap=True)
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("encoder", overflow="fold")
    for name in ("expected", "p(best)", "held out", "epochs", "learning rate", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("outcome")
    for one in found.candidates:
        belief = "" if one.mean is None else f"{one.mean:.3f} ± {one.sd:.3f}"
        table.add_row(
            literal(one.encoder),
            belief,
            "" if one.mean is None else f"{one.p_best:.2f}",
            "" if one.validation is None else f"{one.validation:.3f}",
            f"{one.epochs}" if one.epochs else "",
            "" if one.learning_rate is None else f"{one.learning_rate:g}",
            f"{one.seconds:.1f}",
            literal(one.outcome),
            style="bold green" if one.encoder == found.winner else None,
        )
    stdout.print(table)
    stdout.print(
        f"{len(found.trials)} trials in {found.seconds:.0f} s; {found.n_train} samples to train "
        f"on, {found.n_validation} to choose on, {found.n_test} to test on"
    )


def _show_how_to_load(found: Selection, out: Path) -> None:
    line = f"model = transferscope.training.load_winner({str(out)!r})"
    stdout.print(f"load it: {literal(line)}", soft_wrap=True)
    if found.checkpoint is not None:
        stdout.print(f"its encoder: {literal(found.checkpoint)}", soft_wrap=True)
