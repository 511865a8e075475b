"""What a model's own code raises, as errors that name the encoder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transferscope.errors import EncoderError, InputError, TransferscopeError


@contextlib.contextmanager
def named_failures(
    identifier: str, what: str, remedy: str, *, settings: bool = False
) -> Iterator[None]:
    """Whatever is raised inside becomes an `EncoderError`, but for errors raised on purpose.

    The code of other packages may raise anything on a user's weights and settings: this is the one
    border at which it is caught.

    Parameters
    ----------
    identifier : str
        Name of the encoder.
    what : str
        What failed, to complete "encoder <identifier> ...".
    remedy : str
        What to do next.
    settings : bool
        Whether what is given to functions of this package inside are settings of the encoder: then
        an `InputError` is a failure like others.

    Yields
    ------
    None

    Raises
    ------
    EncoderError
        With the cause; its ``__cause__`` is the error.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, TransferscopeError) and not (settings and type(error) is InputError):
            raise
        # not Exception: a panic of code in Rust (tokenizers) is no Exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise EncoderError(f"encoder {identifier} {what} ({reason:.500}). {remedy}") from error
