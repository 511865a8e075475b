"""The networks that a checkpoint can be asked for: of timm and of torchvision.

This module imports torch at the top, and both libraries when used.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from transferscope.encoders._checkpoint_layouts import (
    MOCO_V3,
    OPENAI_CLIP,
    names_of_flat_efficientnet,
    preference,
)
from transferscope.encoders._checkpoint_matching import (
    FileIndex,
    MatchReport,
    Network,
    network_of_timm,
    unwrapped,
)
from transferscope.encoders._timm import wrap_timm
from transferscope.encoders._torch_encoder import TorchEncoder
from transferscope.encoders._torchvision import (
    PREFIX,
    head_path,
    torchvision_preprocessing,
    untrained_torchvision,
    wrap_torchvision,
)
from transferscope.errors import UnknownNameError, require

if TYPE_CHECKING:
    from transferscope.encoders._timm import TimmModel


Tensors: TypeAlias = Mapping[str, Tensor]
#: What timm calls a filter: from the names of a network's authors to its own.
Converter: TypeAlias = Callable[..., object]

# names by which timm's converters know the files of a network's authors
_OF_AUTHORS = re.compile(
    r"(?<![^.])(visual\.(class_embedding|attnpool\.|trunk\.)|register_tokens$|mask_token$"
    r"|downsample_layers\.0\.0\.|_conv_stem\.weight$)"
)
# tensors that a converter fits to another size of images or patches by interpolation
_OF_ANOTHER_SIZE = re.compile(r".*(pos_embed|position|patch_embed).*")


@dataclass(frozen=True)
class Architecture:
    """A network without weights, and how an encoder is made of it.

    Parameters
    ----------
    name : str
        As it was asked for.
    network : Network
        Its names and shapes.
    image_size : int
        Height of the images that it takes.
    finish : callable
        From a report, the tensors that it names and the name of the encoder to the encoder.
    convert : callable or None
        From tensors under the names of a network's authors to those under its own.
    """

    name: str
    network: Network
    image_size: int
    finish: Callable[[MatchReport, Mapping[str, Tensor], str], TorchEncoder]
    convert: Callable[[dict[str, Tensor]], object] | None = None

    def find_in(self, index: FileIndex) -> tuple[MatchReport, Tensors]:
        """Find the network in a weights file, under its own names or those of its authors.

        Parameters
        ----------
        index : FileIndex

        Returns
        -------
        report : MatchReport
            Of the best place found, complete or not.
        tensors : mapping of str to Tensor
            What the report's ``sources`` name.
        """
        report, tensors = index.search(self.network)
        if report.complete or self.convert is None:
            return report, tensors
        found = [
            (preference(f"{'.'.join(path)}/{prefix}"), -number, path, prefix, converted)
            for number, (path, prefix, named) in enumerate(_excerpts(index, report))
            if (converted := _converted(self.convert, named))
        ]
        found.sort(key=lambda one: one[:2], reverse=True)
        whole = [
            (own, path, prefix, converted)
            for _, _, path, prefix, converted in found
            if (own := FileIndex(converted).search(self.network)[0]).complete
        ]
        if not whole:
            return report, tensors
        own, path, prefix, converted = whole[0]
        own = own.moved(
            self.network,
            path,
            prefix,
            original=next(one.tensors for one in index.containers if one.path == path),
            alternatives=[f"{'.'.join(other)}/" for _, other, _, _ in whole if other != path],
        )
        return own, converted


def _excerpts(
    index: FileIndex, report: MatchReport
) -> Iterator[tuple[tuple[str, ...], str, dict[str, Tensor]]]:
    """Parts of the file that may be one network: container, prefix, and tensors without it."""
    most = max(len(container.tensors) for container in index.containers)
    for container in [one for one in index.containers if 3 * len(one.tensors) >= most][:8]:
        prefixes = {""}
        if container.path == report.container:
            prefixes.add(report.prefix)
        first, *others = container.tensors
        common = first.split(".")[:-1]
        for key in others:
            parts = key.split(".")
            while common and parts[: len(common)] != common:
                common.pop()
        prefixes.add("".join(f"{part}." for part in common))
        for key in container.tensors:
            if sign := _OF_AUTHORS.search(key):
                prefixes.add(key[: sign.start()])
        for prefix in sorted(prefixes)[:8]:
            yield (
                container.path,
                prefix,
                {
                    _plain(key[len(prefix) :]): tensor
                    for key, tensor in container.tensors.items()
                    if key.startswith(prefix)
                },
            )


def _plain(name: str) -> str:
    return re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", unwrapped(name.split(".")))


def _converted(
    convert: Callable[[dict[str, Tensor]], object], named: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What a converter of timm makes of these tensors; empty where it is not for them."""
    try:
        converted = convert(dict(named))
    except Exception:  # noqa: BLE001 - it expects the file of its network, and got any
        return {}
    if not isinstance(converted, dict):
        return {}
    held = {tensor.untyped_storage().data_ptr() for tensor in named.values()}
    result = {name: value for name, value in converted.items() if isinstance(value, Tensor)}
    for name, tensor in result.items():
        if _OF_ANOTHER_SIZE.fullmatch(name) and tensor.untyped_storage().data_ptr() not in held:
            return {}
    return result


def find_architecture(arch: str) -> Architecture:
    """Build an architecture without memory for its weights.

    Parameters
    ----------
    arch : str
        A name of timm, or ``torchvision/`` and a name of torchvision.

    Returns
    -------
    Architecture

    Raises
    ------
    UnknownNameError
        If there is none of this name.
    EncoderError
        If it is no image classifier.
    MissingExtraError
        If its library is not installed.
    """
    return _of_torchvision(arch) if arch.startswith(PREFIX) else _of_timm(arch)


def _of_timm(arch: str) -> Architecture:
    blank = blank_timm(arch)
    function: Converter | None = getattr(
        sys.modules[type(blank).__module__], "checkpoint_filter_fn", None
    )

    def build(report: MatchReport) -> TimmModel:
        options: dict[str, object] = {}
        if report.n_classes is not None:
            options["num_classes"] = report.n_classes
        if report.normalisation is not None:
            mean, std = report.normalisation
            options["pretrained_cfg_overlay"] = {"mean": mean, "std": std}
        if report.layout == MOCO_V3 and arch.startswith("vit_small"):
            options["num_heads"] = 12  # shapes are the same for 6 and 12, features are not
        if report.layout == OPENAI_CLIP:
            options["act_layer"] = "quick_gelu"  # with which it was trained, whatever the name says
        timm = require("timm", extra="vision", purpose="load a checkpoint")
        model: TimmModel = timm.create_model(arch, **options)
        return model

    def finish(report: MatchReport, tensors: Tensors, identifier: str) -> TorchEncoder:
        model = build(report)
        _fill(model, report, tensors, network.heads)
        return wrap_timm(model, identifier, has_head=report.n_classes is not None)

    network = network_of_timm(blank)
    return Architecture(
        arch,
        network,
        blank.pretrained_cfg["input_size"][-1],
        finish,
        _converter(blank, function),
    )


def _converter(blank: TimmModel, function: Converter | None) -> Converter | None:
    """From the names of a network's authors to timm's."""
    blocks = getattr(blank, "blocks", None)
    if not (hasattr(blank, "conv_stem") and isinstance(blocks, nn.Sequential)):
        return partial(function, model=blank) if function else None
    depths = [len(stage) for stage in blocks if isinstance(stage, nn.Sequential)]

    def of_efficientnet(named: dict[str, Tensor]) -> object:
        if "_conv_stem.weight" in named:
            names = names_of_flat_efficientnet(named, depths)
            return {new: named[old] for old, new in names.items()}
        return function(named, model=blank) if function else named

    return of_efficientnet


def _of_torchvision(arch: str) -> Architecture:
    name = arch.removeprefix(PREFIX)
    preprocessing = torchvision_preprocessing(name, arch)
    with torch.device("meta"):
        blank = untrained_torchvision(name)
    shapes = {key: tuple(tensor.shape) for key, tensor in blank.state_dict().items()}
    network = Network(shapes, (f"{head_path(blank)}.",))

    def finish(report: MatchReport, tensors: Tensors, identifier: str) -> TorchEncoder:
        model = untrained_torchvision(name, report.n_classes)
        _fill(model, report, tensors, network.heads)
        has_head = report.n_classes is not None
        return wrap_torchvision(model, preprocessing, identifier, has_head=has_head)

    return Architecture(arch, network, preprocessing.size[0], finish)


def _fill(model: nn.Module, report: MatchReport, tensors: Tensors, heads: tuple[str, ...]) -> None:
    """Load the tensors of a report; a classifier that the file does not have becomes zero."""
    model.load_state_dict({n: tensors[key] for n, key in report.sources.items()}, strict=False)
    if report.n_classes is None:
        # left at random it would give the same file another fingerprint every time
        for name, parameter in model.named_parameters():
            if name.startswith(heads):
                parameter.data.zero_()


def blank_timm(arch: str) -> TimmModel:
    """Build a network of timm without memory for its weights.

    Parameters
    ----------
    arch : str

    Returns
    -------
    torch.nn.Module
        On the meta device.

    Raises
    ------
    UnknownNameError
        If timm has none of this name.
    MissingExtraError
        If timm is not installed.
    """
    timm = require("timm", extra="vision", purpose="load a checkpoint")
    # is_model, because create_model would go to the network for names such as hf-hub:...
    if not timm.is_model(arch):
        raise UnknownNameError(
            f"architecture {arch!r} of ?arch= does not exist in timm. "
            "List them with: transferscope encoders timm/*"
        )
    try:
        with torch.device("meta"):
            model: TimmModel = timm.create_model(arch)
            if model.num_classes == 0:  # so that a classifier in the file finds its place
                model = timm.create_model(arch, num_classes=1)
    except RuntimeError as error:  # an unknown tag behind a known name
        raise UnknownNameError(
            f"architecture {arch!r} of ?arch= cannot be built by timm: {error}. "
            "List them with: transferscope encoders timm/*"
        ) from error
    return model
