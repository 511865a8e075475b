"""Loading of pre-trained models, tokenizers and processors of transformers, and its failures.

Nothing here imports transformers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from torch import nn

from transferscope.errors import EncoderError, first_few

PREFIX = "hf/"

#: A configuration of transformers; every kind of model has other fields.
Config: TypeAlias = Any
#: A tokenizer of transformers, fast or slow.
Tokenizer: TypeAlias = Any


def from_pretrained(
    identifier: str, load: Callable[..., Any], source: str, **options: object
) -> Any:
    """Call a ``from_pretrained``; whatever it raises becomes an `EncoderError`."""
    try:
        # no code from a repository is run; left open, transformers would ask on the terminal
        return load(source, trust_remote_code=False, **options)
    except Exception as error:
        # a download or a damaged file may raise anything
        remedy = (
            "The folder must hold what save_pretrained of the model and of its image processor "
            "or tokenizer write: config.json, model.safetensors, preprocessor_config.json or "
            "tokenizer.json."
            if Path(source).is_dir()
            else "Models are downloaded and then kept: run this once with a connection to "
            f"huggingface.co, or give {PREFIX}<folder> with a local copy."
        )
        raise EncoderError(
            f"encoder {identifier} cannot be loaded "
            f"({type(error).__name__}: {first_line(error)}). {remedy}"
        ) from error


def first_line(error: Exception) -> str:
    """First line of an error's message that is not empty."""
    return next((line for line in str(error).splitlines() if line.strip()), "no message")


@contextlib.contextmanager
def quiet(transformers: ModuleType) -> Iterator[None]:
    """No progress bars and no reports of unused weights inside: a library does not print."""
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def require_weights(identifier: str, model: nn.Module, missing: Iterable[str]) -> None:
    """Refuse a checkpoint that lacks the weights of these names, if any."""
    names = sorted(missing)
    if names:
        raise EncoderError(
            f"encoder {identifier} lacks weights that {type(model).__name__} needs, and "
            f"transformers would fill them at random: {first_few(names)}. "
            "Save the whole model, or choose another checkpoint."
        )
