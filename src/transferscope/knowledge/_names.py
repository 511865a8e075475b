"""Which known encoder a name means, and what to make of a name that none has."""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from transferscope.errors import UnknownNameError
from transferscope.knowledge._model import Model
from transferscope.knowledge._tables import (
    KnownEncoder,
    encoders_of,
    known_encoders,
    read_model,
)

#: What may stand before the name of a model.
_PREFIXES = ("hf/timm/", "hf/", "timm/", "torchvision/", "mini/", "timm/hf_hub:", "")


@cache
def _index() -> dict[str, str]:
    """Every name and alias -> encoder; the names of encoders go before those of others."""
    known = known_encoders()
    found = {alias: one.name for one in known.values() for alias in one.aliases}
    found |= {name: name for name in known}
    return found | {alias.lower(): name for alias, name in found.items() if alias not in found}


@cache
def _folded() -> dict[str, str]:
    return {name.lower(): encoder for name, encoder in reversed(_index().items())}


def find_known(name: str) -> KnownEncoder | None:
    """The known encoder of this name.

    Parameters
    ----------
    name : str
        Its name, another name of the same weights, or either without what stands before the name
        of the model on its hub; capitals do not matter.

    Returns
    -------
    KnownEncoder or None
        None where no encoder has this name.
    """
    known = known_encoders()
    if name in _index():
        return known[_index()[name]]
    for prefix in ("", *_PREFIXES):
        if (found := _folded().get(f"{prefix}{name}".lower())) is not None:
            return known[found]
    return None


def nearest_names(name: str, modality: str) -> list[str]:
    """Names of known encoders that look most like this one.

    Parameters
    ----------
    name, modality : str

    Returns
    -------
    list of str
        At most three.
    """
    known = {one.name.rpartition("/")[2].lower(): one.name for one in encoders_of(modality)}
    near = difflib.get_close_matches(name.rpartition("/")[2].lower(), known, n=3, cutoff=0.5)
    return [known[one] for one in near]


@dataclass(frozen=True)
class Family:
    """An encoder that is known by its family alone.

    Attributes
    ----------
    encoder : KnownEncoder
        With what its name says of it.
    members : tuple of int
        Rows of the known encoders of its family.
    """

    encoder: KnownEncoder
    members: tuple[int, ...]


def find_family(name: str, modality: str) -> Family | None:
    """The family that a name belongs to: its first word is that of known encoders.

    Parameters
    ----------
    name, modality : str

    Returns
    -------
    Family or None
    """
    if not name.startswith(("timm/", "hf/", "torchvision/")):
        return None
    words = re.split(r"[-_./?]", name.rpartition("/")[2].lower())
    family = re.sub(r"\d+[a-z]*$", "", words[0]) or words[0]
    encoders = encoders_of(modality)
    rows = tuple(i for i, one in enumerate(encoders) if one.family == family)
    if len(rows) < 2:
        return None
    return Family(_blank(name, modality, family), rows)


def _blank(name: str, modality: str, family: str) -> KnownEncoder:
    """An encoder of which nothing is known but its family."""
    return KnownEncoder(
        *(name, (), (modality,), family, None, None, None, None, None, None, None, "", "", ""),
        open_weights=None,
        instructions=False,
        loadable=True,
        accuracies={},
        n_results=0,
        sources=(),
    )


def with_family(model: Model, family: Family) -> Model:
    """A model with one more row: weights as those of the family scatter; of no publisher."""
    rows = list(family.members)
    kin = np.array([[model.kin[rows[0], 0], model.kin[:, 1].max() + 1]])
    weights, spread = model.weights[rows], model.covariance[rows].mean(axis=0)
    about = np.cov(weights.T) * (1 + 1 / len(rows))
    return replace(
        model,
        weights=np.concatenate([model.weights, weights.mean(axis=0)[None]]),
        covariance=np.concatenate([model.covariance, (spread + about)[None]]),
        noise=np.append(model.noise, model.noise[rows].mean()),
        kin=np.concatenate([model.kin, kin]),
    )


class Candidates:
    """Encoders of one modality and their model, with those that are added by their family.

    Attributes
    ----------
    encoders : list of KnownEncoder
        Of the rows of the model.
    model : Model
    remarks : list of str
        What was assumed of names.
    """

    def __init__(self, modality: str) -> None:
        self.modality = modality
        self.encoders = encoders_of(modality)
        self.model = read_model(modality)
        self.remarks: list[str] = []
        self._rows = {one.name: i for i, one in enumerate(self.encoders)}

    def row(self, name: str, argument: str) -> int:
        """Row of the encoder of this name; a row is added where its family alone is known.

        Raises
        ------
        UnknownNameError
            If it is unknown, or of the other modality.
        """
        one = find_known(name)
        if one is not None and self.modality not in one.modalities:
            raise UnknownNameError(
                f"{argument} must be encoders of {self.modality}s; {name} is known for "
                f"{'s and '.join(one.modalities)}s alone. Leave it out, or choose the modality "
                f"{one.modalities[0]!r}."
            )
        wanted = name if one is None else one.name
        if wanted in self._rows:
            return self._rows[wanted]
        near = nearest_names(name, self.modality)
        close = f"The nearest known names are {', '.join(near)}." if near else ""
        family = find_family(name, self.modality)
        if family is None:
            raise UnknownNameError(
                f"{argument} must name known encoders, or ones of a known family; {name!r} is "
                f"neither. {close or 'No known name is like it.'} Correct it, or leave it out."
            )
        self.remarks.append(
            f"{name} is not known: what is expected of it is what its family, "
            f"{family.encoder.family}, shows ({len(family.members)} encoders). {close}".rstrip()
        )
        return self._add(name, family)

    def row_of_any(self, name: str) -> int:
        """Row of an encoder, whatever it is.

        A checkpoint is expected to do as the family of its architecture does, and what nobody has
        heard of as any encoder.
        """
        folder = name.partition("/")[2].partition("?")[0]
        # what a user calls a folder is no family
        if find_known(name) is not None or not folder or not Path(folder).exists():
            with suppress(UnknownNameError):
                return self.row(name, "encoders")
        architecture = name.partition("?arch=")[2].partition("&")[0]
        if architecture and not architecture.startswith(_PREFIXES[:-1]):
            architecture = f"timm/{architecture}"  # a bare architecture is one of timm's
        family = find_family(architecture, self.modality)
        usual = tuple(i for i, one in enumerate(self.encoders) if one.usual)
        blank = _blank(name, self.modality, "" if family is None else family.encoder.family)
        return self._add(name, Family(blank, usual if family is None else family.members))

    def _add(self, name: str, family: Family) -> int:
        self.model = with_family(self.model, family)
        self._rows[name] = len(self.encoders)
        self.encoders.append(family.encoder)
        return self._rows[name]
