"""Search of a weights file for the backbone of a network, by names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, TypeAlias

from transferscope.encoders._checkpoint_layouts import (
    NAMINGS,
    Naming,
    Normalisation,
    layout_of,
    preference,
    renamed,
)
from transferscope.encoders._timm import classifier_paths
from transferscope.errors import CheckpointError
from transferscope.storage.weights_files import nested_mappings, tensors_of

if TYPE_CHECKING:
    from torch import Tensor

    from transferscope.encoders._timm import TimmModel

Shape: TypeAlias = tuple[int, ...]


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
    n_classes: int | None
    normalisation: Normalisation | None

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
class _Network:
    """Names and shapes of what a network wants: its backbone and its classifier."""

    shapes: Mapping[str, Shape]
    heads: tuple[str, ...]  # what the names of the classifier begin with

    @classmethod
    def of(cls, model: TimmModel) -> _Network:
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        return cls(shapes, classifier_prefixes(model))

    @cached_property
    def backbone(self) -> list[str]:
        return [name for name in self.shapes if not name.startswith(self.heads)]

    @cached_property
    def classifier(self) -> list[str]:
        return [name for name in self.shapes if name.startswith(self.heads)]


@dataclass(frozen=True)
class _Candidate:
    """A place in the file where names of the network occur."""

    network: _Network
    container: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    prefix: str
    naming: Naming
    names: Mapping[str, str]  # name in the network -> key of the tensor

    @cached_property
    def place(self) -> str:
        return f"{'.'.join(self.container)}/{self.prefix}"

    @cached_property
    def found(self) -> list[str]:
        """Names of the backbone that occur."""
        return [name for name in self.network.backbone if name in self.names]

    @cached_property
    def fitting(self) -> list[str]:
        """Those of them whose tensors have the shape of the network's own."""
        shapes = self.network.shapes
        return [name for name in self.found if self.shape(name) == shapes[name]]

    @property
    def order(self) -> tuple[int, ...]:
        """What the best place has the most of."""
        return (
            len(self.fitting),
            len(self.found),
            preference(self.place),
            -len(self.place),
            len(self.tensors),
        )

    def shape(self, name: str) -> Shape:
        """Shape in the file of a tensor of the network."""
        return tuple(self.tensors[self.names[name]].shape)

    def n_classes(self) -> int | None:
        """Count the classes, if every tensor of the classifier fits but for that number."""
        sizes = set()
        for name in self.network.classifier:
            if name not in self.names:
                return None
            shape = self.shape(name)
            if not shape or shape[1:] != self.network.shapes[name][1:]:
                return None
            sizes.add(shape[0])
        return sizes.pop() if len(sizes) == 1 else None

    def surplus(self, unused: tuple[str, ...]) -> tuple[str, ...]:
        """Unused keys that lie inside the backbone's own parts."""
        parts = tuple({name.split(".")[0] + "." for name in self.network.backbone if "." in name})

        def is_inside(key: str) -> bool:
            if not key.startswith(self.prefix):
                return False
            name = renamed(key[len(self.prefix) :], self.naming) or ""
            return name.startswith(parts) and not name.startswith(self.network.heads)

        # counters that profilers leave in every part do no harm
        return tuple(key for key in unused if is_inside(key) and self.tensors[key].numel() > 1)


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
    candidates = list(_candidates(content, _Network.of(model)))
    if not candidates:
        raise CheckpointError(
            "weights file holds no tensors under names. Save model.state_dict() and give that file."
        )
    return _report(max(candidates, key=lambda candidate: candidate.order), candidates)


def classifier_prefixes(model: TimmModel) -> tuple[str, ...]:
    """What the names of a model's classifier begin with."""
    return tuple(f"{path}." for path in classifier_paths(model))


def _candidates(content: Mapping[str, object], network: _Network) -> Iterator[_Candidate]:
    for container, mapping in nested_mappings(content):
        if tensors := tensors_of(mapping):
            for prefix, naming, names in _readings(tensors, network.shapes):
                yield _Candidate(network, container, tensors, prefix, naming, names)


def _readings(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Shape]
) -> Iterator[tuple[str, Naming, dict[str, str]]]:
    """Every prefix and naming under which names of the network occur, and name -> key of each."""
    yield "", NAMINGS[0], {}
    for naming in NAMINGS:
        found: dict[str, dict[str, str]] = {}
        for key in tensors:
            for start in (0, *(dot.end() for dot in re.finditer(r"\.", key))):
                name = renamed(key[start:], naming)
                if name is not None and name in wanted:
                    found.setdefault(key[:start], {})[name] = key
        for prefix, names in found.items():
            yield prefix, naming, names


def _report(best: _Candidate, candidates: list[_Candidate]) -> MatchReport:
    network, names, tensors = best.network, best.names, best.tensors
    layout = layout_of(".".join(best.container), tensors)
    n_classes = None if layout.projects else best.n_classes()
    classifier = network.classifier if n_classes is not None else []
    used = {names[name] for name in (*best.found, *classifier)}
    unexpected = tuple(key for key in tensors if key not in used)
    absent = [name for name in network.backbone if name not in names]
    n_fitting = len(best.fitting)
    return MatchReport(
        layout=layout.name,
        container=best.container,
        prefix=best.prefix,
        sources={name: names[name] for name in (*best.fitting, *classifier)},
        # absent in files from before PyTorch 0.4.1, and of no use outside of training
        missing=tuple(name for name in absent if not name.endswith("num_batches_tracked")),
        mismatched=tuple(
            (name, best.shape(name), network.shapes[name])
            for name in best.found
            if name not in best.fitting
        ),
        unexpected=unexpected,
        surplus=best.surplus(unexpected),
        alternatives=tuple(
            other.place
            for other in candidates
            if len(other.fitting) == n_fitting > 0 and other.place != best.place
        ),
        n_classes=n_classes,
        normalisation=_stored_normalisation(tensors) or layout.normalisation,
    )


def _stored_normalisation(tensors: Mapping[str, Tensor]) -> Normalisation | None:
    for key, mean in tensors.items():
        std = tensors.get(key.replace("new_mean", "new_std"))
        if key.endswith("normalizer.new_mean") and std is not None and mean.numel() == 3:
            return tuple(mean.flatten().tolist()), tuple(std.flatten().tolist())
    return None
