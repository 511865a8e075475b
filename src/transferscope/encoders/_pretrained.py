"""Loading of pre-trained models, tokenizers and processors of transformers, and its failures.

Nothing here imports transformers.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from torch import nn

from transferscope.errors import EncoderError, first_few
from transferscope.storage.checkpoint_folders import read_json_file, read_shard_index

PREFIX = "hf/"

#: A configuration of transformers; every kind of model has other fields.
Config: TypeAlias = Any
#: A tokenizer of transformers, fast or slow.
Tokenizer: TypeAlias = Any
#: What transformers says of the weights that it loaded, such as ``"missing_keys"``.
LoadingReport: TypeAlias = Mapping[str, Any]

#: Where transformers looks for weights, in this order.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"
# what stands beside a weight that must be decoded or added to, under the name of that weight
_DECODED = re.compile(r"\.(lora_\w+|base_layer|SCB|absmax|quant_map|qweight|weight_scale\w*)(\.|$)")


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint of transformers: an id on the hub, or a folder.

    Parameters
    ----------
    transformers : module
    identifier : str
        Name under which it was requested, for messages.
    source : str
        Id or folder.
    subfolder : str
        Where the model lies in it.
    revision : str or None
        Which version of it, on the hub.
    advice : str
        What to do if it cannot be loaded; by default what to do with a model.
    """

    transformers: ModuleType
    identifier: str
    source: str
    subfolder: str = ""
    revision: str | None = None
    advice: str = ""

    def load(self, load: Callable[..., Any], **options: object) -> Any:
        """Call a ``from_pretrained``; whatever it raises becomes an `EncoderError`."""
        place = {"subfolder": self.subfolder} if self.subfolder else {}
        place |= {"revision": self.revision} if self.revision else {}
        try:
            # no code from a repository is run; left open, transformers would ask on the terminal
            return load(self.source, trust_remote_code=False, **place, **options)
        except Exception as error:
            # a download or a damaged file may raise anything
            raise self._failure(error) from error

    def load_model(self, auto: Any, **options: object) -> tuple[Any, LoadingReport]:
        """Load a model with its weights, none of which lie outside; and what is said of them.

        What is said must be given to `require_weights`: sizes that differ are not refused before.
        """
        for name in _WEIGHTS:
            if (index := self.beside(name + _INDEX)) is not None:
                read_shard_index(index)
        report = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, said = self.load(auto.from_pretrained, **report, **options)
        model.config.return_dict = True  # the form of outputs only; parts ask for it as well
        return model, said

    def find(self, path: str) -> Path | None:
        """Find a file by its path in the folder or repository; None where there is none."""
        try:
            found = self.transformers.utils.cached_file(
                self.source,
                path.lstrip("/"),
                revision=self.revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except Exception as error:
            # what is no id of the hub, or is not open to everyone
            raise self._failure(error) from error
        return None if found is None else Path(found)

    def beside(self, name: str) -> Path | None:
        """Find a file beside the model; None where there is none."""
        return self.find(f"{self.subfolder}/{name}")

    def settings(self, path: str) -> dict[str, object]:
        """Read a JSON file by its path; empty where there is none."""
        file = self.find(path)
        return {} if file is None else read_json_file(file)

    @property
    def has_weights(self) -> bool:
        """Whether a whole model lies there."""
        names = [name + end for name in _WEIGHTS for end in ("", _INDEX)]
        return any(self.beside(name) is not None for name in names)

    def _failure(self, error: Exception) -> EncoderError:
        remedy = self.advice or (
            "The folder must hold what save_pretrained of the model and of its image processor "
            "or tokenizer write: config.json, model.safetensors, preprocessor_config.json or "
            "tokenizer.json."
            if Path(self.source).is_dir()
            else "Models are downloaded and then kept: run this once with a connection to "
            f"huggingface.co, or give {PREFIX}<folder> with a local copy."
        )
        return EncoderError(
            f"encoder {self.identifier} cannot be loaded "
            f"({type(error).__name__}: {first_line(error)}). {remedy}"
        )


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


def refuse_own_code(identifier: str, auto_map: object, what: str) -> None:
    """Refuse what names classes of its own, which are not run: others would give other features."""
    named = list(auto_map.values()) if isinstance(auto_map, Mapping) else auto_map
    if named:
        listed = named if isinstance(named, list | tuple) else [named]
        raise EncoderError(
            f"encoder {identifier} asks for code of its own in the auto_map of its {what} "
            f"({first_few(listed)}), and code from a repository is not run here. If the classes of "
            f"transformers do the same, remove auto_map from a copy and give {PREFIX}<folder>; if "
            "not, use transferscope.from_module(module, preprocessing)."
        )


def require_weights(
    identifier: str,
    model: nn.Module,
    report: LoadingReport,
    *,
    needed: Callable[[str], bool] = lambda _: True,
) -> None:
    """Refuse a checkpoint whose weights are not those that the configuration describes.

    Parameters
    ----------
    identifier : str
    model : torch.nn.Module
        As it was loaded.
    report : mapping
    needed : callable
        Whether the features depend on the weight of a name that is absent.

    Raises
    ------
    EncoderError
        If weights would be filled at random, or weights of a part that is used are left over.
    """
    if other := sorted(report["mismatched_keys"]):
        listed = first_few(
            f"{key} of {tuple(has)}, not {tuple(wants)}" for key, has, wants in other
        )
        raise EncoderError(
            f"encoder {identifier} has weights of another size than its config.json describes: "
            f"{listed}. Take the config.json that was saved with the weights."
        )
    absent = sorted(filter(needed, report["missing_keys"]))
    if absent:
        raise EncoderError(
            f"encoder {identifier} lacks weights that {type(model).__name__} needs, and "
            f"transformers would fill them at random: {first_few(absent)}. "
            "Save the whole model, or choose another checkpoint."
        )
    left = sorted(key for key in report["unexpected_keys"] if _is_left_out(key, model))
    if left:
        raise EncoderError(
            f"encoder {identifier} holds weights that {type(model).__name__} would leave out as "
            f"its config.json describes it: {first_few(left)}. Take the config.json that was saved "
            "with the weights."
        )


def _is_left_out(name: str, model: nn.Module) -> bool:
    """Whether a weight belongs to a part that the model has, and not to a head or a decoder."""
    base = getattr(model, "base_model", model)
    bare = name.removeprefix(f"{getattr(model, 'base_model_prefix', '')}.")
    return any(_is_within(path.split("."), start) for path, start in ((name, model), (bare, base)))


def _is_within(parts: list[str], start: nn.Module) -> bool:
    owner = start
    for part in parts[:-1]:
        inner = getattr(owner, part, None)
        if not isinstance(inner, nn.Module):
            one_more_block = isinstance(owner, nn.ModuleList) and part.isdecimal()
            return one_more_block or (owner is not start and bool(_DECODED.search(".".join(parts))))
        owner = inner
    # there is a weight without a value where the configuration switches off a bias
    switched_off = owner._parameters.get(parts[-1], owner) is None
    return switched_off or bool(_DECODED.search(".".join(parts)))


def decisive(config: Config) -> str:
    """Write out a configuration without what differs between copies of the same model."""
    settings = config.to_dict()
    for name in ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"):
        settings.pop(name, None)
    return repr(sorted(settings.items(), key=lambda item: str(item[0])))
