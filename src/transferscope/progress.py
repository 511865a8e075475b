"""How long work tells a caller how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from transferscope.errors import require

#: Called with what is going on, how many samples (or steps) are done, and of how many.
ProgressCallback: TypeAlias = Callable[[str, int, int], None]


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """Show a bar of tqdm, in the form that the place asks for: a notebook's or a terminal's.

    It gives what is passed as ``progress=`` to `rank`, `extract`, `select` and their like, which
    show nothing by themselves.

    Yields
    ------
    callable
        Called as ``progress(text, done, total)``.

    Raises
    ------
    MissingExtraError
        If tqdm is not installed.

    Examples
    --------
    >>> from transferscope.progress import progress_bar
    >>> with progress_bar() as progress:
    ...     progress("looking at samples", 5, 20)
    """
    tqdm: Any = require("tqdm.auto", extra="vision", purpose="show progress").tqdm
    with tqdm(leave=False) as bar:
        shown: tuple[str, int] | None = None

        def show(text: str, done: int, total: int) -> None:
            nonlocal shown
            if shown != (text, total):
                shown = text, total
                bar.reset(total=total or None)
                bar.set_description(text)
            bar.update(done - bar.n)

        yield show
