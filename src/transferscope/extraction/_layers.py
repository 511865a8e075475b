"""Which layers of an encoder are asked for, and what an encoder has of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from transferscope.encoders import POOLED, Encoder
from transferscope.errors import EncoderError, InputError

#: The mean of an encoder's numbered layers, taken as a layer of its own.
MEAN = "mean"

#: Which layers' features: of the last one as the encoder pools it, the mean of all numbered ones,
#: all, or these numbers, from 1 or from the end with -1; as text they have commas between.
Layers: TypeAlias = str | Sequence[int]
#: The same after `parse_layers`.
ParsedLayers: TypeAlias = Literal["last", "mean", "all"] | list[int]


def parse_layers(layers: Layers) -> ParsedLayers:
    """Read what a caller asked for.

    Parameters
    ----------
    layers : "last", "mean", "all", "best", or numbers
        Numbers as a sequence of int, or as text such as ``"3,6,-1"``. ``"best"`` takes all layers:
        `rank` chooses between them.

    Returns
    -------
    "last", "mean", "all", or list of int

    Raises
    ------
    InputError
        If it is none of these.
    """
    words: dict[str, ParsedLayers] = {"last": "last", "mean": "mean", "all": "all", "best": "all"}
    if isinstance(layers, str) and layers in words:
        return words[layers]
    try:
        parts = layers.split(",") if isinstance(layers, str) else layers
        numbers = [int(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or 0 in numbers:
        raise InputError(
            "layers must be last, mean, best, all, or numbers from 1 (-1 is the last) with commas "
            f"between; got {layers!r}. Choose one of these."
        )
    return numbers


def numbered_layers(encoder: Encoder) -> list[str]:
    """An encoder's layers in order of depth, without the pooled one.

    Parameters
    ----------
    encoder : Encoder

    Returns
    -------
    list of str
    """
    return [layer for layer in encoder.layers if layer != POOLED]


def choose_layers(encoder: Encoder, layers: ParsedLayers) -> list[str]:
    """Names of the layers asked for.

    Parameters
    ----------
    encoder : Encoder
    layers : "last", "mean", "all", or list of int
        As `parse_layers` gives them.

    Returns
    -------
    list of str
        Each once.

    Raises
    ------
    EncoderError
        If this encoder has no such layer.
    """
    if layers == "last":
        return [POOLED]
    if layers == "all":
        return list(encoder.layers)
    numbered = numbered_layers(encoder)
    if layers == "mean":
        if numbered:
            return [MEAN]
        raise EncoderError(
            f"{encoder.identifier} has no numbered layers whose mean could be taken. Use the last."
        )
    absent = [number for number in layers if not 1 <= abs(number) <= len(numbered)]
    if absent:
        raise EncoderError(
            f"{encoder.identifier} has {len(numbered)} numbered layers, and no layer "
            f"{', '.join(map(str, absent))}. Count from 1, or from the end with -1."
        )
    return list(dict.fromkeys(numbered[n - 1 if n > 0 else n] for n in layers))
