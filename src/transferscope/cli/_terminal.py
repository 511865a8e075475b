"""What all commands share of the terminal: consoles, progress, notes, how numbers are shortened."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from transferscope.cli._streams import StoppedError, raise_if_stopped

if TYPE_CHECKING:
    from rich.table import Table

    from transferscope.progress import ProgressCallback

# into a file or a pipe, tables may be wider than the 80 columns that a missing terminal stands for
_PIPED = not (sys.stdout and sys.stdout.isatty()) and "COLUMNS" not in os.environ
stdout = Console(highlight=False, emoji=False, width=160 if _PIPED else None)
stderr = Console(stderr=True, highlight=False, emoji=False)


def literal(text: object) -> str:
    """Text that a console shows as it is: what it holds of markup or control characters, too."""
    return escape("".join(map(_visible, str(text))))


def _visible(character: str) -> str:
    if character == "\n" or unicodedata.category(character) not in _UNSEEN:
        return character
    return character.encode("unicode_escape").decode()


#: What is said where features are stored.
WHAT_IS_KEPT = "what was extracted is kept, the same command continues"
#: Control characters, which move the cursor or colour what follows, and lone surrogates.
_UNSEEN = ("Cc", "Cs")


def show_notes(notes: Iterable[str], console: Console = stdout) -> None:
    """Print what a result must be read with."""
    for note in notes:
        console.print(f"[yellow]note[/] {literal(note)}", soft_wrap=True)


def show_failures(failures: Mapping[str, str]) -> None:
    """Print which encoders failed, and why, on standard error."""
    for name, reason in failures.items():
        stderr.print(f"[red]failed[/] {literal(name)}: {literal(reason)}", soft_wrap=True)


def write_line(text: str) -> None:
    """Write text for other programs to standard output: nothing is wrapped or coloured."""
    sys.stdout.write(text.rstrip("\n") + "\n")


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


class _Bar(Progress):
    """A progress bar that a table may stand above."""

    above: Table | None = None

    def get_renderables(self) -> Iterator[RenderableType]:
        """The table, then the bar."""
        if self.above is not None:
            yield self.above
        yield from super().get_renderables()


@contextmanager
def progress_bar(if_stopped: str = WHAT_IS_KEPT) -> Iterator[ProgressCallback]:
    """A progress bar on a terminal's standard error, and nothing anywhere else.

    Who stops the command (Ctrl-C, SIGTERM) is told `if_stopped`.
    """
    with progress_below_table(if_stopped) as (update, _):
        yield update


@contextmanager
def progress_below_table(
    if_stopped: str = WHAT_IS_KEPT,
) -> Iterator[tuple[ProgressCallback, Callable[[Table], None]]]:
    """A progress bar as `progress_bar`, and what puts a table above it or replaces that."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _Bar(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("opening the data set", total=None)

        def update(text: str, done: int, total: int) -> None:
            raise_if_stopped()
            bar.update(task, description=text, completed=done, total=total or None)

        def show(table: Table) -> None:
            bar.above = table
            bar.refresh()

        try:
            yield update, show
        except StoppedError as stopped:
            stopped.remark = if_stopped
            raise
