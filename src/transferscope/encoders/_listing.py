"""Which encoders there are, and which of them a user meant; imports no torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, Union

from transferscope.encoders._bundled import bundled_card, list_bundled
from transferscope.encoders._candidates import CANDIDATES, CHECKED
from transferscope.encoders._encoder import Encoder
from transferscope.errors import InputError

if TYPE_CHECKING:
    from torch import nn

#: What stands for one encoder: its name, the encoder itself, or a module.
EncoderSpec: TypeAlias = Union[str, Encoder, "nn.Module"]


@dataclass(frozen=True)
class EncoderListing:
    """One row of the list of encoders.

    Parameters
    ----------
    name : str
        What `load_encoder` takes.
    summary : str
        Description in one sentence.
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

    Examples
    --------
    >>> expand_encoders("timm/resnet18, timm/resnet50")
    ['timm/resnet18', 'timm/resnet50']
    """
    given = [specs] if isinstance(specs, str) or not isinstance(specs, Sequence) else specs
    single: list[EncoderSpec] = []
    for spec in given:
        if not isinstance(spec, str):
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


def list_encoders(pattern: str | None = None) -> list[EncoderListing]:
    """List encoders that can be loaded by name.

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
    for name in list_bundled():
        card = bundled_card(name)
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
        rows += _timm_listings()
    return [row for row in rows if pattern is None or fnmatch.fnmatchcase(row.name, pattern)]


def _timm_listings() -> list[EncoderListing]:
    try:
        import timm
    except Exception:
        return []
    rows = []
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        size = tuple(config.input_size[1:])
        training = (config.tag or "no tag").replace("_", " ")
        rows.append(EncoderListing(f"timm/{name}", f"timm, weights: {training}", input_size=size))
    return rows
