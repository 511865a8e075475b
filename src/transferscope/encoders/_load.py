"""From what a user wrote to an encoder; each library is imported only when it is needed."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union, cast

from transferscope.encoders._bundled import list_bundled
from transferscope.encoders._candidates import CANDIDATES
from transferscope.encoders._encoder import Encoder
from transferscope.encoders._failures import named_failures
from transferscope.encoders._listing import list_encoders
from transferscope.errors import EncoderError, InputError, UnknownNameError, require

if TYPE_CHECKING:
    from torch import nn

    from transferscope.datasets import Dataset
    from transferscope.encoders._timm import TimmModel

#: What stands for one encoder: its name, the encoder itself, or a module.
EncoderSpec: TypeAlias = Union[str, Encoder, "nn.Module"]

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
    name = spec if isinstance(spec, str) else type(spec).__name__
    remedy = "Check its files, or choose another encoder."
    with named_failures(name, "cannot be loaded", remedy, settings=isinstance(spec, str)):
        encoder = _by_name(spec) if isinstance(spec, str) else _given(spec)
        return encoder if device is None else encoder.to(device)


def expand_encoders(specs: EncoderSpec | Sequence[EncoderSpec]) -> list[EncoderSpec]:
    """Turn what a user wrote into a list of single encoders, in order and without repetitions.

    Parameters
    ----------
    specs : str, Encoder, torch.nn.Module, or sequence of these
        Each string may list several names with commas between them; ``mini/all`` stands for all
        bundled encoders, ``text-base`` and the other names of `CANDIDATES` for their encoders. A
        name that itself contains a comma, such as a path, would be split: give the encoder that
        `load_encoder` makes of it, or rename the file.

    Returns
    -------
    list of str, Encoder or torch.nn.Module

    Raises
    ------
    InputError
        If nothing is left.
    EncoderError
        If one is a module without preprocessing: for these there is `transferscope.from_module`.

    Examples
    --------
    >>> expand_encoders("timm/resnet18, timm/resnet50")
    ['timm/resnet18', 'timm/resnet50']
    """
    given = [specs] if isinstance(specs, str) or not isinstance(specs, Sequence) else specs
    single: list[EncoderSpec] = []
    for spec in given:
        if not isinstance(spec, str):
            _refuse_bare_module(spec)
            single.append(spec)
            continue
        for part in filter(None, map(str.strip, spec.split(","))):
            if part == "mini/all":
                single += [f"mini/{name}" for name in list_bundled()]
            elif part in CANDIDATES:
                single += [candidate.name for candidate in CANDIDATES[part]]
            else:
                single.append(part)
    if not single:
        raise InputError("encoders must name at least one encoder. Try mini/all.")
    # by identity for objects: they need not be hashable
    unique = {spec if isinstance(spec, str) else id(spec): spec for spec in single}
    return list(unique.values())


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
            "Write checkpoint:<path>?arch=<timm name>, such as checkpoint:w.pth?arch=resnet50, or "
            "for the name torchvision/<name> or hf/<folder with config.json>."
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
    _refuse_bare_module(spec)
    if _is_module(spec):
        from transferscope.encoders._timm import wrap_timm

        return wrap_timm(cast("TimmModel", spec))
    raise InputError(
        "encoder must be a name, an object that follows transferscope.encoders.Encoder, or a torch "
        f"module; got {type(spec).__name__}. Of a function make one with "
        "transferscope.from_module(function, preprocessing, identifier='name')."
    )


def _is_module(spec: object) -> bool:
    torch = sys.modules.get("torch")  # what is no module of torch need not wait for its import
    return torch is not None and isinstance(spec, torch.nn.Module)


def _refuse_bare_module(spec: object) -> None:
    if not _is_module(spec) or callable(getattr(spec, "embed", None)):
        return
    from transferscope.encoders._timm import is_timm

    if not is_timm(cast("nn.Module", spec)):
        raise EncoderError(
            f"module {type(spec).__name__} must come with preprocessing, which prepares its input. "
            "Give transferscope.from_module(module, transferscope.ImagePreprocessing(...)) with "
            "the sizes, mean and std that it was trained with."
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
