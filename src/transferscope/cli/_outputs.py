"""The files that commands write: claimed before the work, written after the result was shown."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from transferscope.cli._terminal import literal, stderr
from transferscope.errors import InputError, StoreError
from transferscope.storage.atomic import refuse_unwritable, write_atomically
from transferscope.storage.feature_store import FeatureStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace files that this command did not write.")
]
Content: TypeAlias = Sequence[bytes | memoryview]

_FIGURES = (".png", ".pdf", ".svg")
_PAGES = (".html", ".htm")
_ELSEWHERE = "choose another file"


def claim(
    command: str,
    *paths: Path | None,
    figures: Sequence[Path | None] = (),
    force: bool,
    shown: bool = True,
) -> None:
    """Look at the files that a command will write, before its work begins.

    A file that is there already is replaced only if the command wrote it, byte for byte, or by
    `force`. One that cannot be written is told at once; where the result is `shown` anyway, the
    command goes on.

    Raises
    ------
    InputError
        If a file would be lost, two results would have one file, or a figure has a wrong ending.
    StoreError
        If a file cannot be written, and its content is not shown.
    """
    drawn = [path for path in figures if path is not None]
    named = [path for path in paths if path is not None] + drawn
    if drawn:
        from transferscope.plots import require_matplotlib

        require_matplotlib()
    places = [os.path.realpath(path) for path in named]
    for path, place in zip(named, places, strict=True):
        if places.count(place) > 1 and not _is_device(path):
            raise InputError(f"{path} is named for two outputs. Name a file for each.")
    for path in named:
        if path in drawn and path.suffix.lower() not in _FIGURES:
            raise InputError(f"figure {path} must end in {', '.join(_FIGURES)}. Rename it.")
        if _is_device(path):
            continue
        if stat.S_ISREG(_mode(path)) and not force and not _was_written(command, path):
            raise InputError(
                f"{path} exists, and is not what `{command}` wrote there, or was changed since. "
                "Name another file, or replace it with --force."
            )
        try:
            refuse_unwritable(_target(path), elsewhere=_ELSEWHERE)
        except StoreError as error:
            if not shown:
                raise
            stderr.print(
                f"[yellow]warning[/] {literal(error)} Else the result is only shown.",
                soft_wrap=True,
            )


def refuse_as_report(path: Path | None) -> None:
    """Look at the file that a report is to be written to, before its work begins.

    Raises
    ------
    InputError
        If it has a wrong ending.
    MissingExtraError
        If no report can be written.
    """
    if path is None:
        return
    from transferscope.report import require_jinja

    require_jinja()
    if path.suffix.lower() not in _PAGES and not _is_device(path):
        raise InputError(f"report {path} must end in {' or '.join(_PAGES)}. Rename it.")


def deliver(command: str, *outputs: tuple[Path | None, Callable[[Path], Content]]) -> None:
    """Write files of a result that has been shown; one that fails does not cost the others.

    Raises
    ------
    StoreError
        If one could not be written.
    """
    failures = []
    for path, content in outputs:
        if path is not None:
            try:
                _write(command, path, content(path))
                if path.suffix.lower() in _FIGURES:
                    stderr.print(f"drawn to {literal(path)}", soft_wrap=True)
                elif path.suffix.lower() in _PAGES:
                    stderr.print(f"report written to {literal(path)}", soft_wrap=True)
            except StoreError as error:
                failures.append(error)
    if failures:
        raise StoreError(" ".join(map(str, failures))) from failures[0]


def text_content(text: str) -> Content:
    """Text as the content of a file."""
    # a name that is no Unicode (a lone surrogate) stays readable, and valid in JSON
    return [(text.rstrip("\n") + "\n").encode(errors="backslashreplace")]


def figure_content(figure: Figure, path: Path) -> Content:
    """A figure as the content of the file `path`, whose ending says how."""
    from transferscope.plots import figure_bytes

    return [figure_bytes(figure, path.suffix.lower().removeprefix("."))]


def _write(command: str, path: Path, content: Content) -> None:
    if _is_device(path):  # such as /dev/stdout: no file to replace
        try:
            with path.open("wb") as file:
                file.writelines(content)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error.strerror}. Choose another file."
            ) from error
        return
    note = _note(command, content)
    with suppress(OSError):  # then the file is taken for somebody else's, which harms nothing
        note.parent.mkdir(parents=True, exist_ok=True)
        # before the file: a command that is killed in between may write it again
        note.touch()
    write_atomically(_target(path), content, elsewhere=_ELSEWHERE)


def _was_written(command: str, path: Path) -> bool:
    """Whether the bytes of a file are those that the command wrote to some file."""
    with suppress(OSError), path.open("rb") as file:
        return _note(command, iter(lambda: file.read(2**20), b"")).exists()
    return False


def _note(command: str, content: Iterable[bytes | memoryview]) -> Path:
    """The empty file in the user's cache folder whose name says that a command wrote this."""
    digest = hashlib.blake2b(command.encode() + b"\0", digest_size=20)
    for part in content:
        digest.update(part)
    return FeatureStore().root / "outputs" / digest.hexdigest()


def _is_device(path: Path) -> bool:
    mode = _mode(path)
    return mode != 0 and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _mode(path: Path) -> int:
    """What kind of file it is; 0 where there is none, or its name is too long for any."""
    with suppress(OSError):
        return path.stat().st_mode
    return 0


def _target(path: Path) -> Path:
    """The file behind a link: the link stays."""
    with suppress(OSError):
        return Path(os.path.realpath(path)) if path.is_symlink() else path
    return path
