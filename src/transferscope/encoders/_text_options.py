"""What may follow the question mark in the name of a text model."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from transferscope.errors import EncoderError

POOLINGS = ("mean", "first", "last", "weighted-mean", "own")
SUBWORDS = ("mean", "first", "last")
_CHOICES = {"pooling": POOLINGS, "subwords": SUBWORDS, "device_map": ("auto",)}


@dataclass(frozen=True)
class TextOptions:
    """Options of a text model; None: by default.

    Parameters
    ----------
    pooling : str or None
        One of `POOLINGS`.
    subwords : str
        One of `SUBWORDS`.
    max_length : int or None
        Number of tokens to read.
    device_map : {"auto"} or None
        Whether the model is spread over devices.
    """

    pooling: str | None = None
    subwords: str = "mean"
    max_length: int | None = None
    device_map: str | None = None

    @property
    def own_pooling(self) -> bool:
        """Whether the checkpoint's own pooling is used, where it has one."""
        return self.pooling in (None, "own")

    @classmethod
    def parse(cls, query: str, identifier: str) -> TextOptions:
        """Read the options of a name; `EncoderError` if there is no such option or value."""
        given = dict(parse_qsl(query, keep_blank_values=True))
        for name, value in given.items():
            is_length = name == "max_length" and value.isdecimal() and int(value) > 0
            if not is_length and value not in _CHOICES.get(name, ()):
                choices = "; ".join(f"{key}={', '.join(known)}" for key, known in _CHOICES.items())
                raise EncoderError(
                    f"option {name}={value} of {identifier} does not exist. Text models have: "
                    f"{choices}; max_length=<number of tokens>."
                )
        length = given.get("max_length")
        return cls(
            given.get("pooling"),
            given.get("subwords", "mean"),
            None if length is None else int(length),
            given.get("device_map"),
        )
