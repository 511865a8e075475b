"""Search of a weights file for the backbone of a network, by names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, TypeAlias

from transferscope.encoders._checkpoint_layouts import (
    CLIP,
    FLAT_EFFICIENTNET,
    NAMINGS,
    OPENAI_CLIP,
    PLAIN_NAMES,
    WRAPPERS,
    Naming,
    Normalisation,
    layout_of,
    preference,
)
from transferscope.encoders._timm import classifier_paths
from transferscope.errors import CheckpointError, first_few
from transferscope.storage.weights_files import nested_mappings, tensors_of

if TYPE_CHECKING:
    from torch import Tensor

    from transferscope.encoders._timm import TimmModel

Shape: TypeAlias = tuple[int, ...]

# no network gives its tensors names this long, and every part of a name is looked at
_LONGEST_NAME = 300
# parameters of a network beside its parts; without its mask token pre-training alone is impossible
_TOKENS = re.compile(r"(?!mask)(\w+_)?(token|tokens|pos_embed|pos_embedding|positional_embedding)")


@dataclass(frozen=True)
class MatchReport:
    """Which tensors of a weights file belong to a network, and where in the file they lie.

    Parameters
    ----------
    layout : str
        The published layout it looks like, or ``"plain"``.
    container : tuple of str
        Keys that lead to the mapping of tensors; empty when it is the file itself.
    prefix : str
        Text before every name of the backbone.
    sources : dict of str to str
        For every tensor to load: its name in the network -> its key in the container.
    missing : tuple of str
        Names of backbone tensors that the file lacks.
    mismatched : tuple of (str, tuple, tuple)
        Names found with another shape: name, shape in the file, shape in the network.
    unexpected : tuple of str
        Keys of the container that are not used: projection heads, queues, second copies.
    surplus : tuple of str
        Those of them that lie inside the backbone's own parts. They make it another, usually a
        deeper, network: every tensor of a ResNet-18 has its name and shape in a ResNet-34 too.
    alternatives : tuple of str
        Other places, as ``container/prefix``, where a complete backbone lies too.
    left_out : tuple of str
        Places of averaged weights that are not a complete backbone.
    n_classes : int or None
        Number of classes of the file's classifier; None when it has none that fits.
    normalisation : (tuple of float, tuple of float) or None
        Mean and standard deviation that the layout calls for; None for those of the architecture.
    """

    layout: str
    container: tuple[str, ...]
    prefix: str
    sources: Mapping[str, str]
    missing: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    unexpected: tuple[str, ...]
    surplus: tuple[str, ...]
    alternatives: tuple[str, ...]
    left_out: tuple[str, ...]
    n_classes: int | None
    normalisation: Normalisation | None

    def moved(
        self,
        network: Network,
        container: tuple[str, ...],
        prefix: str,
        *,
        original: Mapping[str, Tensor],
        alternatives: Iterable[str],
    ) -> MatchReport:
        """Make the same report of tensors that were taken from another place and renamed.

        Parameters
        ----------
        network : Network
        container : tuple of str
        prefix : str
        original : mapping of str to Tensor
            What the container holds.
        alternatives : iterable of str
            Other places.

        Returns
        -------
        MatchReport
        """
        layout = layout_of(".".join(container), original)
        heads = network.heads if layout.projects else ()
        return replace(
            self,
            layout=layout.name,
            container=container,
            prefix=prefix,
            sources={n: key for n, key in self.sources.items() if not n.startswith(heads)},
            n_classes=None if layout.projects else self.n_classes,
            normalisation=layout.normalisation,
            alternatives=tuple(dict.fromkeys(alternatives)),
        )

    @property
    def matched(self) -> tuple[str, ...]:
        """Names in the network of all tensors that the file gives, with the classifier's."""
        return tuple(self.sources)

    @property
    def complete(self) -> bool:
        """Whether every tensor of the backbone is there, in its shape, and none too many."""
        return bool(self.sources) and not (self.missing or self.mismatched or self.surplus)

    def __str__(self) -> str:
        where = ".".join(self.container) or "the file itself"
        classes = "no classifier" if self.n_classes is None else f"{self.n_classes} classes"
        return (
            f"layout {self.layout}, container {where}, prefix {self.prefix!r}: "
            f"{len(self.sources)} matched, {len(self.missing)} missing, "
            f"{len(self.mismatched)} of another shape, {len(self.unexpected)} unexpected; {classes}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever reads a ranking must know: which of several copies of the network it is."""
        notes: tuple[str, ...] = ()
        if self.layout == CLIP:
            notes = (
                "OpenAI trained its vision transformers with QuickGELU, OpenCLIP most without: the "
                "weights are right in an architecture with the same, see its name",
            )
        elif self.layout == FLAT_EFFICIENTNET:
            notes = (
                "EfficientNet-PyTorch pads images as TensorFlow does: its weights are right in "
                "architectures whose names begin with tf_",
            )
        elif self.layout == OPENAI_CLIP:
            notes = ("the archive is OpenAI's, so its features are computed with QuickGELU",)
        if not (self.complete and (self.alternatives or self.left_out)):
            return notes
        place = f"{'.'.join(self.container)}/{self.prefix}"
        kind = "averaged weights, " if preference(place) > 0 else ""
        note = f"of several copies of the network in the file it is {kind}{_shown(place)}"
        if self.alternatives:
            note += f"; not taken: {first_few(map(_shown, self.alternatives))}"
        if self.left_out:
            lacking = first_few(map(_shown, self.left_out))
            note += f"; averaged weights {lacking} lack tensors that the network needs"
        return (*notes, note)

    def differences(self) -> Iterator[str]:
        """Describe what does not fit: shapes first, then missing and unexpected in alternation.

        Yields
        ------
        str
            One difference.
        """
        for name, given, wanted in self.mismatched:
            yield f"shape mismatch: {name} is {given} in the file, {wanted} in the network"
        missing = (f"missing: {name}" for name in self.missing)
        rest = (key for key in self.unexpected if key not in self.surplus)
        unexpected = (f"unexpected: {key}" for key in (*self.surplus, *rest))
        yield from filter(None, chain.from_iterable(zip_longest(missing, unexpected)))


@dataclass(frozen=True)
class Network:
    """Names and shapes of what a network wants: its backbone and its classifier.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of everything in its state dict.
    heads : tuple of str
        What the names of the classifier begin with.
    """

    shapes: Mapping[str, Shape]
    heads: tuple[str, ...]

    @cached_property
    def backbone(self) -> list[str]:
        """Names that are not the classifier's."""
        return [name for name in self.shapes if not name.startswith(self.heads)]

    @cached_property
    def classifier(self) -> list[str]:
        """Names of the classifier's tensors."""
        return [name for name in self.shapes if name.startswith(self.heads)]

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """What the names of the backbone's parts begin with."""
        return tuple({name.split(".")[0] + "." for name in self.backbone if "." in name})


@dataclass(frozen=True)
class _Container:
    """The tensors of one mapping in the file."""

    path: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        return ".".join(self.path)


class FileIndex:
    """All tensors of a weights file by every name that they could have in a network.

    A name is looked up without its prefix, without the segments that wrappers of training put into
    it, and in each of the known namings. One index serves the search for any number of networks.

    Parameters
    ----------
    content : mapping
        Name -> tensor, or any nesting of such mappings among other things.

    Raises
    ------
    CheckpointError
        If there is no tensor at all.
    """

    def __init__(self, content: Mapping[str, object]) -> None:
        self.containers = [
            _Container(path, tensors)
            for path, mapping in nested_mappings(content)
            if (tensors := tensors_of(mapping))
        ]
        if not self.containers:
            raise CheckpointError(
                "weights file holds no tensors under names. Save model.state_dict() and give that "
                "file."
            )
        #: name in a network -> where it occurs: container, naming, prefix and key in the file
        self.places: dict[str, list[tuple[_Container, Naming, str, str]]] = {}
        for container in self.containers:
            names = "\n".join(container.tensors)
            known = [one for one in NAMINGS if re.search(one.sign, names, re.MULTILINE)]
            for key in container.tensors:
                if len(key) <= _LONGEST_NAME:
                    self._add(container, key, known)

    def _add(self, container: _Container, key: str, namings: list[Naming]) -> None:
        for prefix, name in splits(key):
            self.places.setdefault(name, []).append((container, PLAIN_NAMES, prefix, key))
            for naming in namings:
                if (renamed := naming.renamed(name)) is not None:
                    self.places.setdefault(renamed, []).append((container, naming, prefix, key))

    def has(self, name: str, shape: Shape) -> bool:
        """Whether a tensor of this name and shape occurs.

        Parameters
        ----------
        name : str
            As in a network.
        shape : tuple of int

        Returns
        -------
        bool
        """
        return any(
            tuple(container.tensors[key].shape) == shape
            for container, _, _, key in self.places.get(name, ())
        )

    def search(self, network: Network) -> tuple[MatchReport, Mapping[str, Tensor]]:
        """Find the place where the most of a network is.

        Parameters
        ----------
        network : Network

        Returns
        -------
        report : MatchReport
            Of the best place found, complete or not.
        tensors : mapping of str to Tensor
            The container that it is in.
        """
        found: dict[tuple[int, Naming, str], _Candidate] = {}
        for container in self.containers:
            plain = _Candidate(network, container, "", PLAIN_NAMES, {})
            found[id(container), PLAIN_NAMES, ""] = plain
        for name in network.shapes:
            for container, naming, prefix, key in self.places.get(name, ()):
                place = (id(container), naming, prefix)
                if place not in found:
                    found[place] = _Candidate(network, container, prefix, naming, {})
                found[place].names[name] = key
        # a file of thousands of parts has thousands of places where a name or two occur
        most = max(len(one.names) for one in found.values())
        candidates = [one for one in found.values() if 3 * len(one.names) >= most]
        best = max(candidates, key=lambda candidate: candidate.order)
        return _report(best, candidates), best.container.tensors


def splits(key: str) -> Iterator[tuple[str, str]]:
    """Take a name in a file apart in every way.

    Parameters
    ----------
    key : str

    Yields
    ------
    prefix : str
    name : str
        What follows, without the segments of wrappers.
    """
    parts = key.split(".")
    is_wrapped = not WRAPPERS.isdisjoint(parts)
    start = 0
    for number, part in enumerate(parts):
        if part not in WRAPPERS:
            yield key[:start], unwrapped(parts[number:]) if is_wrapped else key[start:]
        start += len(part) + 1


def unwrapped(parts: Iterable[str]) -> str:
    """Join the parts of a name without those of wrappers."""
    return ".".join(part for part in parts if part not in WRAPPERS)


@dataclass(frozen=True)
class _Candidate:
    """A place in the file where names of the network occur."""

    network: Network
    container: _Container
    prefix: str
    naming: Naming
    names: dict[str, str]  # name in the network -> key of the tensor

    @cached_property
    def place(self) -> str:
        return f"{self.container.name}/{self.prefix}"

    @cached_property
    def found(self) -> list[str]:
        """Names of the backbone that occur."""
        return [name for name in self.names if not name.startswith(self.network.heads)]

    @cached_property
    def fitting(self) -> list[str]:
        """Those of them whose tensors have the shape of the network's own."""
        shapes = self.network.shapes
        return [name for name in self.found if self.shape(name) == shapes[name]]

    @cached_property
    def missing(self) -> list[str]:
        """Names of the backbone that do not occur."""
        if len(self.found) == len(self.network.backbone):
            return []
        absent = (name for name in self.network.backbone if name not in self.names)
        # absent in files from before PyTorch 0.4.1, and of no use outside of training
        return [name for name in absent if not name.endswith("num_batches_tracked")]

    @cached_property
    def is_whole(self) -> bool:
        """Whether every tensor of the backbone is there, in its shape, and none too many."""
        # the cheap questions first: a file may have thousands of such places
        n_counters = len(self.network.backbone) - len(self.found)
        if len(self.found) > len(self.fitting) or 2 * n_counters > len(self.network.backbone):
            return False
        return bool(self.fitting) and not self.missing and not self.surplus

    @cached_property
    def order(self) -> tuple[int, ...]:
        """What the best place has the most of."""
        preferred = preference(self.place)
        return (
            self.is_whole,
            preferred if self.is_whole else 0,
            len(self.fitting),
            len(self.found),
            preferred,
            -len(self.place),
            len(self.container.tensors),
        )

    def shape(self, name: str) -> Shape:
        """Shape in the file of a tensor of the network."""
        return tuple(self.container.tensors[self.names[name]].shape)

    @cached_property
    def classifier(self) -> dict[str, str]:
        """Name in the network -> key of each tensor of the classifier; empty where one lacks.

        ``fc`` may have been replaced by a sequence, of which one part has weights: ``fc.1``.
        """
        keys = {name: self.names.get(name) for name in self.network.classifier}
        if None in keys.values():
            keys = {
                name: next(self._within(*name.rpartition(".")[::2]), None)
                if len(self.network.heads) == 1
                else None
                for name in keys
            }
        whole = {name: key for name, key in keys.items() if key is not None}
        return whole if len(whole) == len(keys) else {}

    def _within(self, head: str, kind: str) -> Iterator[str]:
        tensors = self.container.tensors
        found = [key for n in range(10) if (key := f"{self.prefix}{head}.{n}.{kind}") in tensors]
        if len(found) == 1:
            yield found[0]

    @cached_property
    def n_classes(self) -> int | None:
        """The number of classes, if every tensor of the classifier fits but for that number."""
        sizes = set()
        for name, key in self.classifier.items():
            shape = tuple(self.container.tensors[key].shape)
            if not shape or shape[1:] != self.network.shapes[name][1:]:
                return None
            sizes.add(shape[0])
        return sizes.pop() if len(sizes) == 1 else None

    @cached_property
    def used(self) -> set[str]:
        """Keys of the file that the network takes."""
        classifier = self.classifier.values() if self.n_classes is not None else ()
        return {*(self.names[name] for name in self.found), *classifier}

    @cached_property
    def unexpected(self) -> tuple[str, ...]:
        """Keys of the container that are not used."""
        return tuple(key for key in self.container.tensors if key not in self.used)

    @cached_property
    def surplus(self) -> tuple[str, ...]:
        """Unused keys that lie inside the backbone's own parts, and its own tokens."""

        def is_own(key: str) -> bool:
            if not key.startswith(self.prefix):
                return False
            bare = unwrapped(key[len(self.prefix) :].split("."))
            name = self.naming.renamed(bare) or ""
            inside = name.startswith(self.network.parts) or _TOKENS.fullmatch(name) is not None
            return inside and not name.startswith(self.network.heads)

        # counters that profilers leave in every part do no harm
        tensors = self.container.tensors
        return tuple(key for key in self.unexpected if is_own(key) and tensors[key].numel() > 1)


def match_state_dict(content: Mapping[str, object], model: TimmModel) -> MatchReport:
    """Search the content of a weights file for the backbone of a network.

    Only names and shapes are compared; the model may be on the meta device.

    Parameters
    ----------
    content : mapping
        Name -> tensor, or any nesting of such mappings among other things.
    model : torch.nn.Module
        A timm model.

    Returns
    -------
    MatchReport
        Of the best place found, complete or not.

    Raises
    ------
    CheckpointError
        If there is no tensor at all.
    """
    return FileIndex(content).search(network_of_timm(model))[0]


def network_of_timm(model: TimmModel) -> Network:
    """Names and shapes of a timm model, which may be on the meta device."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return Network(shapes, tuple(f"{path}." for path in classifier_paths(model)))


def _report(best: _Candidate, candidates: list[_Candidate]) -> MatchReport:
    container = best.container
    layout = layout_of(container.name, container.tensors)
    n_classes = None if layout.projects else best.n_classes
    classifier = best.classifier if n_classes is not None else {}
    backbone = {name: best.names[name] for name in best.network.backbone if name in best.names}
    fitting = set(best.fitting)
    used = {*backbone.values(), *classifier.values()}
    rivals = [one for one in candidates if one is not best and one.place != best.place]
    return MatchReport(
        layout=layout.name,
        container=container.path,
        prefix=best.prefix,
        sources={name: key for name, key in backbone.items() if name in fitting} | classifier,
        missing=tuple(best.missing),
        mismatched=tuple(
            (name, best.shape(name), best.network.shapes[name])
            for name in backbone
            if name not in fitting
        ),
        unexpected=tuple(key for key in container.tensors if key not in used),
        surplus=best.surplus,
        alternatives=tuple(
            dict.fromkeys(
                one.place
                for one in rivals
                if fitting and (one.is_whole or len(one.fitting) == len(fitting))
            )
        ),
        left_out=tuple(
            dict.fromkeys(
                one.place
                for one in rivals
                if preference(one.place) > preference(best.place)
                and not one.is_whole
                and 3 * len(one.found) > len(best.found)
            )
        ),
        n_classes=n_classes,
        normalisation=_stored_normalisation(container.tensors) or layout.normalisation,
    )


def _shown(place: str) -> str:
    """A place as the names in it begin, such as ``model_ema.module.``."""
    container, _, prefix = place.rpartition("/")
    return f"{container}.{prefix}*" if container else f"{prefix}*"


def _stored_normalisation(tensors: Mapping[str, Tensor]) -> Normalisation | None:
    for key, mean in tensors.items():
        std = tensors.get(key.replace("new_mean", "new_std"))
        if key.endswith("normalizer.new_mean") and std is not None and mean.numel() == 3:
            return tuple(mean.flatten().tolist()), tuple(std.flatten().tolist())
    return None
