"""What all commands share: consoles, options, progress, how numbers are shortened."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from transferscope.errors import StoreError

# into a file or a pipe, tables may be wider than the 80 columns that a missing terminal stands for
_PIPED = not sys.stdout.isatty() and "COLUMNS" not in os.environ
stdout = Console(highlight=False, width=160 if _PIPED else None)
stderr = Console(stderr=True, highlight=False)


class Task(StrEnum):
    """What labels mean, where they do not say it themselves."""

    classification = "classification"
    regression = "regression"
    multilabel = "multilabel"
    tags = "tags"
    entities = "entities"


class PlainFormat(StrEnum):
    """How the other commands show theirs."""

    table = "table"
    json = "json"


DatasetArgument = Annotated[
    str,
    typer.Argument(
        help="Image folder, .npz, .csv, .json, .parquet, hf/ID or sklearn/digits.",
        show_default=False,
    ),
]
EncodersOption = Annotated[
    str,
    typer.Option(
        "--encoders",
        "-e",
        help="Names with commas between: mini/all, timm/NAME, torchvision/NAME, hf/ID or folder, "
        "checkpoint:FILE?arch=NAME; or a list: text-base, text-large, vision-base, vision-large, "
        "vision-ssl.",
        show_default=False,
    ),
]
MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        "-m",
        help="Names with commas between, each perhaps with +ped; all; all+ped.",
        show_default=False,
    ),
]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder for features.  [default: the user's cache folder]"),
]
SplitOption = Annotated[str | None, typer.Option(help="Part of the data set, such as test.")]
LabelOption = Annotated[
    str | None,
    typer.Option(help="Column that holds the labels; several, with commas, are targets."),
]
TextOption = Annotated[
    str | None,
    typer.Option(
        "--text-column",
        help="Column that holds the texts (or image paths); two, with a comma, are pairs.",
    ),
]
TaskOption = Annotated[
    Task | None,
    typer.Option(help="What the labels mean.  [default: seen from the labels]", show_default=False),
]
MaxOption = Annotated[int | None, typer.Option(min=1, help="Use a stratified sample of this many.")]
PerClassOption = Annotated[
    int | None, typer.Option(min=2, help="Use at most this many samples of each class.")
]
SkipOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
]
BatchOption = Annotated[int, typer.Option(min=1, max=512, help="Samples per forward pass.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of sampling and resampling.")]


def short_count(count: int | None) -> str:
    if count is None:
        return ""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def short_bytes(count: int) -> str:
    return f"{short_count(count)}B" if count >= 1000 else f"{count} B"


def write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error}); choose another --out.") from error


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A progress bar on a terminal's standard error, and nothing anywhere else."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("opening the data set", total=None)

        def update(text: str, done: int, total: int) -> None:
            bar.update(task, description=text, completed=done, total=total or None)

        try:
            yield update
        except KeyboardInterrupt:
            bar.stop()
            stderr.print("interrupted; what was extracted is kept, the same command continues")
            raise typer.Exit(130) from None
