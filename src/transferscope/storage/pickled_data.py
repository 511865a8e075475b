"""Pickles of lists, dictionaries and arrays, read as data: nothing that they name is called."""

from __future__ import annotations

import io

from transferscope.errors import InputError
from transferscope.storage._pickles import HostilePickleError, read_pickle


def read_pickled(data: bytes, *, where: object) -> object:
    """What a pickle holds, of Python 2 or 3.

    Parameters
    ----------
    data : bytes
    where : object
        What to call it in messages.

    Returns
    -------
    object
        Lists, dictionaries, numbers, texts and arrays; texts of Python 2 are texts in latin-1.
        Anything else is an object that nothing can be done with.

    Raises
    ------
    InputError
        If it is damaged, no pickle, or names a function to execute code with.
    """
    try:
        return read_pickle(io.BytesIO(data))
    except HostilePickleError as error:
        raise InputError(
            f"{where} names {error} and would execute code; nothing of it was read. Do not open it "
            "with other programs."
        ) from error
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        raise InputError(
            f"{where} must be a pickle and cannot be read ({type(error).__name__}: {error}). "
            "Fetch it again."
        ) from error
