"""From what a user wrote to an encoder; each library is imported only when it is needed."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from transferscope.encoders._candidates import CANDIDATES
from transferscope.encoders._encoder import Encoder
from transferscope.encoders._listing import EncoderSpec, list_encoders
from transferscope.errors import EncoderError, InputError, UnknownNameError, require

if TYPE_CHECKING:
    from torch import nn

    from transferscope.datasets import Dataset

_PREFIXES = ("mini/", "timm/", "torchvision/", "hf/", "checkpoint:")


def load_encoder(spec: EncoderSpec, *, device: str | None = None) -> Encoder:
    """Load an encoder by name.

    Parameters
    ----------
    spec : str, Encoder or torch.nn.Module
        A name, as the docstring of `transferscope.encoders` lists them; an encoder, which is
        returned as it is; or a timm model, whose own configuration tells how to prepare its input.
    device : str, optional
        Where it runs. By default where it is: on the CPU for everything loaded by name.

    Returns
    -------
    Encoder

    Raises
    ------
    UnknownNameError
        If no encoder has this name; the message names similar ones.
    EncoderError
        If it cannot be loaded, or is a module without preprocessing: for these there is
        `transferscope.from_module`.
    InputError
        If `spec` is neither a name nor an encoder nor a module.
    MissingExtraError
        If it needs a package that is not installed.

    Examples
    --------
    >>> load_encoder("mini/resnet-random").input_size
    (32, 32)
    """
    encoder = _by_name(spec) if isinstance(spec, str) else _given(spec)
    return encoder if device is None else encoder.to(device)


def refuse_other_modality(encoder: Encoder, dataset: Dataset) -> None:
    """Refuse texts and vectors for an encoder that takes images.

    Parameters
    ----------
    encoder : Encoder
    dataset : Dataset

    Raises
    ------
    EncoderError
        If the encoder takes images, and the samples of the data set are none.
    """
    if encoder.input_size is not None and dataset.modality != "image":
        raise EncoderError(
            f"encoder {encoder.identifier} takes images, and the samples of {dataset.name} are "
            f"{dataset.modality}s. Choose encoders for {dataset.modality}s."
        )


def _by_name(spec: str) -> Encoder:
    # imported one by one and late: each brings a large library, which may be absent or broken
    if not spec.startswith(_PREFIXES):
        raise _unknown(spec)
    if spec.startswith("checkpoint:"):
        return _of_checkpoint(spec)
    if spec.startswith("mini/"):
        require("torch", extra="vision", purpose="run the bundled encoders")
        from transferscope.encoders._bundled_encoder import load_bundled

        return load_bundled(spec)
    require("torch", extra="vision", purpose=f"load {spec}")
    if spec.startswith("timm/"):
        from transferscope.encoders._timm import load_timm

        return load_timm(spec)
    if spec.startswith("torchvision/"):
        from transferscope.encoders._torchvision import load_torchvision

        return load_torchvision(spec)
    from transferscope.encoders._transformers import load_transformers

    return load_transformers(spec)


def _of_checkpoint(spec: str) -> Encoder:
    path, separator, architecture = spec.removeprefix("checkpoint:").rpartition("?arch=")
    if not separator or not path or not architecture:
        raise EncoderError(
            f"checkpoint name {spec!r} must hold a path and the architecture of its weights. "
            "Write checkpoint:<path>?arch=<timm name>, such as checkpoint:w.pth?arch=resnet50."
        )
    require("torch", extra="vision", purpose=f"load {spec}")
    if architecture.startswith("mini/"):
        from transferscope.encoders._bundled_encoder import load_bundled_checkpoint

        return load_bundled_checkpoint(Path(path), architecture, spec)
    from transferscope.encoders._checkpoints import load_checkpoint

    return load_checkpoint(Path(path), architecture, spec)


def _given(spec: Encoder | nn.Module) -> Encoder:
    # not isinstance(spec, Encoder): on Python 3.11 that evaluates every property, which hashes all
    # weights and runs a forward pass
    if callable(getattr(spec, "embed", None)) and hasattr(spec, "preprocessing"):
        return cast("Encoder", spec)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(spec, torch.nn.Module):
        from transferscope.encoders._timm import is_timm, wrap_timm

        if is_timm(spec):
            return wrap_timm(spec)
        raise EncoderError(
            f"module {type(spec).__name__} needs preprocessing, which prepares its input. "
            "Give transferscope.from_module(module, transferscope.ImagePreprocessing("
            "size=(224, 224), resize=256)) instead, with the sizes, mean and std it was trained "
            "with."
        )
    raise InputError(
        "encoder must be a name, an object that follows transferscope.encoders.Encoder, or a torch "
        f"module; got {type(spec).__name__}. Of a function make one with "
        "transferscope.from_module(function, preprocessing, identifier='name')."
    )


def _unknown(spec: str) -> UnknownNameError:
    known = [row.name for row in list_encoders()]
    named = {name.partition("/")[2]: name for name in known}
    near = difflib.get_close_matches(spec.rpartition("/")[2], named, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(named[name] for name in near)}? " if near else ""
    if Path(spec).is_dir():
        hint = f"For the Hugging Face folder of that path write hf/{spec}. "
    return UnknownNameError(
        f"encoder {spec!r} does not exist: a name begins with one of {', '.join(_PREFIXES)}, or is "
        f"one of the lists mini/all, {', '.join(CANDIDATES)}. {hint}"
        "List them with: transferscope encoders"
    )
