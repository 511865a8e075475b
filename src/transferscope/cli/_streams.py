"""Standard output and signals: a reader who went away, a full disk, a terminal without UTF-8."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import threading
from codecs import register_error
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO, cast


class StoppedError(SystemExit):
    """Raised by SIGINT (Ctrl-C) and SIGTERM; the exit status is 128 and the number of the signal.

    A `SystemExit`, so that nobody on the way takes it for a failure.
    """

    remark = ""

    def __init__(self, number: int, _frame: FrameType | None = None) -> None:
        super().__init__(128 + number)


#: Signals that asked to stop.
_asked: list[int] = []


def raise_if_stopped() -> None:
    """Raise `StoppedError` once more where somebody on the way swallowed it.

    A signal may come while code of others runs that lets no exception out: a destructor, a
    callback, an import that is tried.
    """
    if _asked:
        raise StoppedError(_asked[-1])


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `StoppedError`, unless who started this had them ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        _asked.append(number)
        raise StoppedError(number, frame)

    _asked.clear()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


class ShelteredStream:
    """A stream that fails silently, and remembers why: its command goes on and writes its files.

    Attributes
    ----------
    error : OSError or None
        Why it failed.
    """

    def __init__(self, stream: TextIO | None) -> None:
        # closed before the command began: None
        self._stream = stream or io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        self.error: OSError | None = None
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors="transferscope")

    def write(self, text: str) -> int:
        """Write, unless writing has failed before."""
        try:
            if self.error is None:
                self._stream.write(text)
        except OSError as error:
            self.error = error
        return len(text)

    def flush(self) -> None:
        """Flush, unless writing has failed before."""
        try:
            if self.error is None:
                self._stream.flush()
        except OSError as error:
            self.error = error
            # or Python would try again at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    @property
    def is_abandoned(self) -> bool:
        """Whether its reader has gone away."""
        return self.error is not None and self.error.errno == errno.EPIPE

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def sheltered() -> Iterator[ShelteredStream]:
    """Inside, standard output and standard error are sheltered; gives the former."""
    before = sys.stdout, sys.stderr
    output = ShelteredStream(sys.stdout)
    sys.stdout, sys.stderr = cast("TextIO", output), cast("TextIO", ShelteredStream(sys.stderr))
    try:
        yield output
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """What a stream cannot write: lines of tables as ASCII, the rest as JSON escapes it."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(character: str) -> str:
    if "\u2500" <= character <= "\u257f":
        return _LINES.get(character, "+")
    return json.dumps(character)[1:-1]


_LINES = {"─": "-", "━": "-", "│": "|", "┃": "|"}
register_error("transferscope", _replaced)
