"""The lines of code that load an encoder, from its name."""

from __future__ import annotations

import json
from typing import NamedTuple

_OURS = ("mini/", "timm/", "torchvision/", "hf/", "checkpoint:")


class Loading(NamedTuple):
    """Lines of Python, and what they give.

    Attributes
    ----------
    what : str
        Such as ``"the model, to fine-tune it with timm"``.
    code : str
    """

    what: str
    code: str


def loading(name: str, *, of_images: bool) -> list[Loading]:
    """How to load an encoder: in its own library, and as it was measured.

    Parameters
    ----------
    name : str
    of_images : bool
        Whether it looks at images; else at texts.

    Returns
    -------
    list of Loading
        Empty for an encoder that was not given by name.
    """
    if not name.startswith(_OURS):
        return []
    measured = Loading(
        "the features that were measured",
        f"import transferscope\n\nencoder = transferscope.load_encoder({_literal(name)})",
    )
    library, _, rest = name.partition("/")
    if library == "timm":
        # timm's names hold no slash, but for those that name a place themselves
        is_folder = ("/" in rest or "\\" in rest) and ":" not in rest
        source = f"local-dir:{rest}" if is_folder else rest
        lines = f"import timm\n\nmodel = timm.create_model({_literal(source)}, pretrained=True)"
        return [Loading("the model, to fine-tune it with timm", lines), measured]
    if library == "torchvision":
        architecture, _, weights = rest.partition("?weights=")
        lines = (
            "from torchvision.models import get_model\n\n"
            f"model = get_model({_literal(architecture)}, weights={_literal(weights or 'DEFAULT')})"
        )
        return [Loading("the model, to fine-tune it with torchvision", lines), measured]
    if library == "hf":
        source = _literal(rest.partition("?")[0])
        kind, tool = (
            ("AutoTokenizer", "tokenizer") if not of_images else ("AutoImageProcessor", "processor")
        )
        lines = (
            f"from transformers import {', '.join(sorted((kind, 'AutoModel')))}\n\n"
            f"{tool} = {kind}.from_pretrained({source})\n"
            f"model = AutoModel.from_pretrained({source})"
        )
        return [Loading("the model, to fine-tune it with transformers", lines), measured]
    return [measured]


def loading_line(name: str, *, of_images: bool) -> str:
    """The model alone, in its own library, on one line of Python.

    Parameters
    ----------
    name : str
    of_images : bool

    Returns
    -------
    str
        Empty for an encoder that was not given by name.
    """
    ways = loading(name, of_images=of_images)
    return "; ".join(line for line in ways[0].code.splitlines() if line) if ways else ""


def _literal(text: str) -> str:
    """Text in double quotes, as Python reads it; what is unseen becomes an escape on the page."""
    return json.dumps(text, ensure_ascii=False)
