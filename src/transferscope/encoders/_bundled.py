"""The bundled encoders ``mini/<name>``: their names and cards; imports no torch.

They make the whole path from a data set to a ranking run offline and within seconds, and they
differ enough (three architectures, several sources, several ways of training, two never trained)
that the choice among them matters. They are no match for encoders of a useful size.

Each encoder is a safetensors file with float16 weights in ``mini_weights``, with a card in
``cards.json`` of the same folder; ``tools/train_mini_zoo.py`` made both. They are small encoders
for 32 x 32 images, trained on known sources.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from transferscope.errors import UnknownNameError

PREFIX = "mini/"
SIDE = 32

# importlib.resources and not __file__: the package may lie in a zip archive
WEIGHTS = resources.files("transferscope.encoders") / "mini_weights"


@dataclass(frozen=True)
class BundledCard:
    """Where a bundled encoder comes from and how good it is at its own task.

    Parameters
    ----------
    name : str
        Name without ``mini/``.
    summary : str
        What it learnt, in one sentence.
    architecture : {"resnet", "separable", "vit"}
        Residual, depthwise-separable, or transformer.
    source : str or None
        The data set it was trained on; None if it was never trained.
    n_source_train, n_source_test : int
        Number of images it was trained and measured on.
    source_classes : tuple of str or None
        Names of the classes that its head tells apart, None without a head.
    method : {"supervised", "rotation", "simclr", "masked", "random"}
        How it was trained.
    epochs, seed : int
        For how many passes, and the seed of initialisation, order and augmentation.
    n_parameters : int
        Number of parameters without the head.
    feature_dim : int
        Width of the pooled features.
    accuracy : float or None
        Share of right answers on the test images of its own source; None if never trained.
    accuracy_measured_by : str or None
        Who gave those answers: its own head, or nearest neighbours where it has none.
    mean, std : tuple of float
        Of the source's pixels in [0, 1], per channel.
    date : str
        Day of training, ``YYYY-MM-DD``.
    """

    name: str
    summary: str
    architecture: str
    source: str | None
    n_source_train: int
    n_source_test: int
    source_classes: tuple[str, ...] | None
    method: str
    epochs: int
    seed: int
    n_parameters: int
    feature_dim: int
    accuracy: float | None
    accuracy_measured_by: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    date: str


@cache
def _cards() -> dict[str, BundledCard]:
    stored: dict[str, dict[str, Any]] = json.loads(
        (WEIGHTS / "cards.json").read_text(encoding="utf-8")
    )
    for fields in stored.values():
        for key, value in fields.items():
            # so that cards cannot change
            fields[key] = tuple(value) if isinstance(value, list) else value
    return {name: BundledCard(**stored[name]) for name in sorted(stored)}


def list_bundled() -> tuple[str, ...]:
    """List the bundled encoders; imports no torch.

    Returns
    -------
    tuple of str
        Their names, sorted, without ``mini/``.

    Examples
    --------
    >>> "resnet-random" in list_bundled()
    True
    """
    return tuple(_cards())


def bundled_card(name: str) -> BundledCard:
    """Read the card of a bundled encoder; imports no torch.

    Parameters
    ----------
    name : str
        With or without ``mini/``.

    Returns
    -------
    BundledCard

    Raises
    ------
    UnknownNameError
        If there is no such encoder; the message lists all.

    Examples
    --------
    >>> bundled_card("mini/resnet-random").architecture
    'resnet'
    """
    cards = _cards()
    bare = name.removeprefix(PREFIX)
    if bare not in cards:
        raise UnknownNameError(
            f"bundled encoder {name!r} does not exist. Choose one of: {', '.join(cards)}."
        )
    return cards[bare]
