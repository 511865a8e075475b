"""Encoders: pre-trained models seen as functions from samples to features.

``load_encoder`` turns a name into an encoder:

======================================  ===========================================================
``mini/<name>``                         a small encoder bundled with this package (no download)
``timm/<name>`` or ``timm/<folder>``    PyTorch Image Models, by name or from a folder
``torchvision/<name>``                  torchvision; ``?weights=IMAGENET1K_V1`` picks its weights
``hf/<id>`` or ``hf/<folder>``          vision and text models of transformers, from hub or folder
``checkpoint:<path>?arch=<timm name>``  weights from research code, in a timm architecture; with
                                        ``torchvision/<name>`` in one of torchvision, with
                                        ``hf/<folder>`` in that of a configuration of transformers,
                                        with ``mini/<name>`` those of a bundled encoder that was
                                        trained further
======================================  ===========================================================

``text-base``, ``text-large``, ``vision-base``, ``vision-large`` and ``vision-ssl`` are lists of
such names, see `CANDIDATES`.

Of anything else `from_module` makes an encoder: ``from_module(module, ImagePreprocessing(...))``
takes a torch module or a function. Any object that follows `Encoder` is used as it is.

Importing this module imports no torch; loading an encoder does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transferscope.encoders._bundled import BundledCard, bundled_card, list_bundled
from transferscope.encoders._candidates import CANDIDATES, CHECKED, Candidate
from transferscope.encoders._encoder import (
    POOLED,
    Embedded,
    Encoder,
    Preprocessing,
    TrainableEncoder,
)
from transferscope.encoders._failures import named_failures
from transferscope.encoders._identity import Identity, identity, preparation_key
from transferscope.encoders._image_preprocessing import ImagePreprocessing
from transferscope.encoders._listing import EncoderListing, list_encoders
from transferscope.encoders._load import (
    EncoderSpec,
    encoder_name,
    expand_encoders,
    load_encoder,
    refuse_other_modality,
)

if TYPE_CHECKING:
    from transferscope.encoders._from_module import from_module

__all__ = [
    "CANDIDATES",
    "CHECKED",
    "POOLED",
    "BundledCard",
    "Candidate",
    "Embedded",
    "Encoder",
    "EncoderListing",
    "EncoderSpec",
    "Identity",
    "ImagePreprocessing",
    "Preprocessing",
    "TrainableEncoder",
    "bundled_card",
    "encoder_name",
    "expand_encoders",
    "from_module",
    "identity",
    "list_bundled",
    "list_encoders",
    "load_encoder",
    "named_failures",
    "preparation_key",
    "refuse_other_modality",
]


def __getattr__(name: str) -> object:
    # the one exported name whose module imports torch
    if name == "from_module":
        from transferscope.encoders._from_module import from_module

        return from_module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
