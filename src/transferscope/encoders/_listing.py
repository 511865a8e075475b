"""Which encoders can be loaded by name; imports no torch."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from transferscope.encoders._bundled import bundled_card, list_bundled
from transferscope.encoders._candidates import CANDIDATES, CHECKED
from transferscope.errors import MissingExtraError, require


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
        timm = require("timm", extra="vision", purpose="list its models")
    except MissingExtraError:
        return []
    rows = []
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        size = tuple(config.input_size[1:])
        training = (config.tag or "no tag").replace("_", " ")
        rows.append(EncoderListing(f"timm/{name}", f"timm, weights: {training}", input_size=size))
    return rows
