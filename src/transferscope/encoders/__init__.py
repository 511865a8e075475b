"""Encoders: pre-trained models seen as functions from samples to features.

``load_encoder`` turns a name into an encoder:

=====================================  ============================================================
``mini/<name>``                        a small encoder bundled with this package (works offline)
``timm/<name>`` or ``timm/<folder>``   PyTorch Image Models, by name or from a folder
``torchvision/<name>``                 torchvision; ``?weights=IMAGENET1K_V1`` picks its weights
``hf/<id>`` or ``hf/<folder>``         vision and text models of transformers, from hub or folder
``checkpoint:<path>?arch=<timm name>`` weights from research code, in a timm architecture, or with
                                       ``mini/<name>`` those of a bundled encoder trained on
=====================================  ============================================================

``text-base``, ``text-large``, ``vision-base``, ``vision-large`` and ``vision-ssl`` are lists of
such names, see `candidates`.

Anything else is made an encoder in Python: ``from_module`` takes a torch module or a function, and
any object that follows `Encoder` is used as it is.

Importing this module imports no torch; loading an encoder does.
"""

from __future__ import annotations

import difflib
import fnmatch
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transferscope.encoders._encoder import (
    POOLED,
    Embedded,
    Encoder,
    ImagePreprocessing,
    Preprocessing,
    TrainableEncoder,
)
from transferscope.encoders.candidates import CANDIDATES, CHECKED
from transferscope.encoders.mini_zoo import (
    list_mini,
    load_mini,
    load_mini_checkpoint,
    mini_card,
)
from transferscope.errors import EncoderError, InputError, UnknownNameError, require

if TYPE_CHECKING:
    from torch import nn

    from transferscope.datasets import Dataset
    from transferscope.encoders.module_encoders import from_module

__all__ = [
    "CANDIDATES",
    "CHECKED",
    "POOLED",
    "Embedded",
    "Encoder",
    "EncoderListing",
    "ImagePreprocessing",
    "Preprocessing",
    "TrainableEncoder",
    "expand_encoders",
    "from_module",
    "list_encoders",
    "load_encoder",
    "refuse_other_modality",
]

_PREFIXES = ("mini/", "timm/", "torchvision/", "hf/", "checkpoint:")


@dataclass(frozen=True)
class EncoderListing:
    """One line of the list of encoders.

    Parameters
    ----------
    name : str
        What `load_encoder` takes.
    summary : str
        What is known about it, in one sentence.
    n_parameters, feature_dim : int or None
        Size and feature dimension where they are known without loading it.
    input_size : (int, int) or None
        Height and width in pixels where known without loading it.
    """

    name: str
    summary: str
    n_parameters: int | None = None
    feature_dim: int | None = None
    input_size: tuple[int, int] | None = None


def load_encoder(spec: str | Encoder | nn.Module, *, device: str | None = None) -> Encoder:
    """Load an encoder by name.

    Parameters
    ----------
    spec : str, Encoder or torch.nn.Module
        A name as the module's docstring lists them; an encoder, which is returned as it is; or a
        timm model, whose own configuration says how to prepare its input.
    device : str, optional
        Where it runs. By default where it is: on the CPU for everything loaded by name.

    Returns
    -------
    Encoder

    Raises
    ------
    UnknownNameError
        If no encoder has this name; the message says what is near.
    EncoderError
        If it cannot be loaded, or a module comes without preprocessing.
    MissingExtraError
        If it needs a package that is not installed.

    Examples
    --------
    >>> load_encoder("mini/resnet-random").input_size
    (32, 32)
    """
    encoder = _load(spec) if isinstance(spec, str) else _adopt(spec)
    return encoder if device is None else encoder.to(device)


def refuse_other_modality(encoder: Encoder, dataset: Dataset) -> None:
    """Refuse texts and vectors for an encoder that takes images.

    Raises
    ------
    EncoderError
        With what the encoder takes and what the samples are.
    """
    if encoder.input_size is not None and dataset.modality != "image":
        raise EncoderError(
            f"{encoder.identifier} takes images, and the samples of {dataset.name} are "
            f"{dataset.modality}s. Choose encoders for {dataset.modality}s."
        )


def _load(spec: str) -> Encoder:
    # imported one by one and late: each brings a large library, which may be absent or broken
    if spec.startswith("mini/"):
        return load_mini(spec)
    if spec.startswith("timm/"):
        require("torch", extra="vision", purpose=f"load {spec}")
        from transferscope.encoders.timm_encoders import load_timm

        return load_timm(spec)
    if spec.startswith("torchvision/"):
        require("torch", extra="vision", purpose=f"load {spec}")
        from transferscope.encoders.torchvision_encoders import load_torchvision

        return load_torchvision(spec)
    if spec.startswith("hf/"):
        require("torch", extra="vision", purpose=f"load {spec}")
        from transferscope.encoders.transformers_encoders import load_transformers

        return load_transformers(spec)
    if spec.startswith("checkpoint:"):
        path, separator, architecture = spec.removeprefix("checkpoint:").rpartition("?arch=")
        if not separator or not path or not architecture:
            raise EncoderError(
                f"A checkpoint needs the architecture whose weights it holds; given: {spec!r}. "
                "Write checkpoint:<path>?arch=<timm name>, such as checkpoint:w.pth?arch=resnet50."
            )
        require("torch", extra="vision", purpose=f"load {spec}")
        if architecture.startswith("mini/"):
            return load_mini_checkpoint(Path(path), architecture, spec)
        from transferscope.encoders.checkpoint_encoders import load_checkpoint_encoder

        return load_checkpoint_encoder(Path(path), architecture, spec)
    raise _unknown(spec)


def _adopt(spec: object) -> Encoder:
    # not isinstance(spec, Encoder): on Python 3.11 that evaluates every property, which hashes all
    # weights and runs a forward pass
    if callable(getattr(spec, "embed", None)) and hasattr(spec, "preprocessing"):
        return cast("Encoder", spec)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(spec, torch.nn.Module):
        if getattr(spec, "pretrained_cfg", None) and hasattr(spec, "forward_head"):
            from transferscope.encoders.timm_encoders import wrap_timm

            return wrap_timm(spec, f"timm/{spec.pretrained_cfg['architecture']}")
        raise EncoderError(
            f"A module alone does not say how to prepare its input; given: {type(spec).__name__}. "
            "Use transferscope.encoders.from_module(module, preprocessing)."
        )
    raise InputError(
        "An encoder is a name, an object that follows transferscope.encoders.Encoder, or a torch "
        f"module; given: {type(spec).__name__}. For a function, use from_module."
    )


def _unknown(spec: str) -> UnknownNameError:
    known = [row.name for row in list_encoders()]
    named = {name.partition("/")[2]: name for name in known}
    near = difflib.get_close_matches(spec.rpartition("/")[2], named, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(named[name] for name in near)}? " if near else ""
    if Path(spec).is_dir():
        hint = f"For the Hugging Face folder of that path write hf/{spec}. "
    return UnknownNameError(
        f"There is no encoder {spec!r}: a name begins with one of {', '.join(_PREFIXES)}, or is "
        f"one of the lists mini/all, {', '.join(CANDIDATES)}. {hint}"
        "List them with: transferscope encoders"
    )


def expand_encoders(
    specs: str | Encoder | nn.Module | Sequence[str | Encoder | nn.Module],
) -> list[str | Encoder | nn.Module]:
    """Turn what a user wrote into a list of single encoders, in order and without repetitions.

    Parameters
    ----------
    specs : str, Encoder, or sequence of these
        Each string may list several names with commas between them; ``mini/all`` stands for the
        whole bundled zoo, ``text-base`` and the other names of `CANDIDATES` for their encoders. A
        name that itself contains a comma, such as a path, would be split: give the encoder that
        `load_encoder` makes of it, or rename the file.

    Returns
    -------
    list of str or Encoder

    Raises
    ------
    InputError
        If nothing is left.

    Examples
    --------
    >>> expand_encoders("timm/resnet18, timm/resnet50")
    ['timm/resnet18', 'timm/resnet50']
    """
    given: list[Any] = [specs] if not isinstance(specs, Sequence) else list(specs)
    if isinstance(specs, str):
        given = [specs]
    single: list[Any] = []
    for spec in given:
        if not isinstance(spec, str):
            single.append(spec)
            continue
        for part in filter(None, map(str.strip, spec.split(","))):
            if part == "mini/all":
                single += [f"mini/{name}" for name in list_mini()]
            elif part in CANDIDATES:
                single += [candidate.name for candidate in CANDIDATES[part]]
            else:
                single.append(part)
    if not single:
        raise InputError("No encoder was given. Name at least one, such as mini/all.")
    # by identity for objects: they need not be hashable
    unique = {spec if isinstance(spec, str) else id(spec): spec for spec in single}
    return list(unique.values())


def list_encoders(pattern: str | None = None) -> list[EncoderListing]:
    """Encoders that can be asked for by name.

    The bundled ones are always listed; pre-trained timm models where timm is installed. Models of
    torchvision and of the Hugging Face hub are not listed, but for those of the lists of
    candidates, and load all the same.

    Parameters
    ----------
    pattern : str, optional
        Shell pattern for the whole name, such as ``timm/*dinov2*``. A pattern without a wildcard
        matches anywhere in the name.

    Returns
    -------
    list of EncoderListing
        Bundled ones first, then the lists of candidates, then timm's in alphabetical order.

    Examples
    --------
    >>> [row.input_size for row in list_encoders("mini/resnet-random")]
    [(32, 32)]
    """
    rows = []
    if pattern is not None and not any(character in pattern for character in "*?["):
        pattern = f"*{pattern}*"
    for name in list_mini():
        card = mini_card(name)
        rows.append(
            EncoderListing(
                f"mini/{name}", card.summary, card.n_parameters, card.feature_dim, (32, 32)
            )
        )
    for group, candidates in CANDIDATES.items():
        rows += [
            EncoderListing(
                one.name, f"of {group}; licence {one.licence} (as of {CHECKED})", one.n_parameters
            )
            for one in candidates
            if one.name.startswith("hf/")
        ]
    # importing timm takes seconds: not for a question that it cannot answer
    if not (pattern or "").startswith("mini/"):
        rows += _timm_rows()
    return [row for row in rows if pattern is None or fnmatch.fnmatchcase(row.name, pattern)]


def _timm_rows() -> list[EncoderListing]:
    try:
        import timm
    except Exception:  # not installed, or broken by a torchvision for another torch
        return []
    rows = []
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        size = tuple(config.input_size[1:])
        training = (config.tag or "no tag").replace("_", " ")
        rows.append(EncoderListing(f"timm/{name}", f"timm, weights: {training}", input_size=size))
    return rows


def __getattr__(name: str) -> Any:
    # the one exported name whose module imports torch
    if name == "from_module":
        from transferscope.encoders.module_encoders import from_module

        return from_module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
