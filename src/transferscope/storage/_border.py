"""The border of the readers: whatever goes wrong at damaged bytes becomes one named error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transferscope.errors import InputError


@contextmanager
def refuse_damage(path: Path, *, writer: str) -> Iterator[None]:
    """Turn every failure of reading a file into an `InputError` that names the file.

    Only reading belongs inside. What parses archives, headers and types raises anything at bytes
    that nobody foresaw, so that a list of exceptions would never be complete.

    Parameters
    ----------
    path : Path
    writer : str
        What writes such files, for the next step.

    Raises
    ------
    InputError
        With the reason; one that was raised on purpose inside passes as it is.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"file {path} is damaged or of another format than its name ({reason}). Write it "
            f"again, with {writer} from plain arrays."
        ) from error
