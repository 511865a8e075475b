"""What all commands share of the terminal: consoles, progress, notes, how numbers are shortened."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from transferscope.storage.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from transferscope.progress import ProgressCallback

# into a file or a pipe, tables may be wider than the 80 columns that a missing terminal stands for
_PIPED = not sys.stdout.isatty() and "COLUMNS" not in os.environ
stdout = Console(highlight=False, width=160 if _PIPED else None)
stderr = Console(stderr=True, highlight=False)


def show_notes(notes: Iterable[str]) -> None:
    """Print what a result must be read with."""
    for note in notes:
        stdout.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)


def show_failures(failures: Mapping[str, str]) -> None:
    """Print which encoders failed, and why, on standard error."""
    for name, reason in failures.items():
        stderr.print(f"[red]failed[/] {escape(name)}: {escape(reason)}", soft_wrap=True)


def write_line(text: str) -> None:
    """Write text for other programs to standard output: nothing is wrapped or coloured."""
    sys.stdout.write(text.rstrip("\n") + "\n")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a file, and say on standard error where it is."""
    from transferscope.plots import save_figure

    save_figure(figure, path)
    stderr.print(f"drawn to {escape(str(path))}", soft_wrap=True)


def short_count(count: int | None) -> str:
    """A number with three digits and k, M or G; empty for None."""
    if count is None:
        return ""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def short_bytes(count: int) -> str:
    """A number of bytes with three digits and its unit."""
    return f"{short_count(count)}B" if count >= 1000 else f"{count} B"


def write_text(path: Path, text: str) -> None:
    """Write text to a file whole or not at all, and make its folder where there is none.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    text = text.rstrip("\n") + "\n"
    if path.exists() and not path.is_file():  # a device such as /dev/stdout is no file to replace
        path.write_text(text, encoding="utf-8")
        return
    write_atomically(path, text, elsewhere="choose another file")


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
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
