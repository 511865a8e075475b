"""Loading of the bundled encoders ``mini/<name>``; imports torch at the top."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from transferscope.encoders._bundled import PREFIX, SIDE, WEIGHTS, BundledCard, bundled_card
from transferscope.encoders._bundled_networks import BundledNetwork, build_network
from transferscope.encoders._encoder import Batch
from transferscope.encoders._identity import Identity, bytes_of, identity
from transferscope.encoders._image_preprocessing import ImagePreprocessing
from transferscope.encoders._torch_encoder import Layer, TorchEncoder
from transferscope.errors import CheckpointError
from transferscope.storage.weights_files import read_weights_file, tensors_of

#: Raise it when the same weights begin to give other features, so that stored ones are not reused.
_FINGERPRINT_VERSION = 1
#: Attributes that say nothing about how the network is built.
_HASHED = frozenset({"_built", "_device", "_feature_dim", "_identifier"})


class BundledEncoder(TorchEncoder):
    """A bundled encoder: a `TorchEncoder` with a card, in full precision on every device.

    Parameters
    ----------
    card : BundledCard
        Where it comes from.
    network : BundledNetwork
        The network, with its head where it has one.
    identifier : str, optional
        Name under which it was requested; by default that of the card.
    """

    def __init__(
        self, card: BundledCard, network: BundledNetwork, identifier: str | None = None
    ) -> None:
        self.card = card

        def run(images: Batch) -> tuple[Tensor, Tensor | None]:
            pooled = network(images)
            return pooled, None if network.head is None else network.head(pooled)

        super().__init__(
            network.eval().requires_grad_(requires_grad=False),
            run,
            preprocessing=ImagePreprocessing(
                size=(SIDE, SIDE), resize=(SIDE, SIDE), mean=card.mean, std=card.std
            ),
            identifier=identifier or PREFIX + card.name,
            head_parameters=() if network.head is None else network.head.parameters(),
            layers={name: Layer(path) for name, path in network.layers.items()},
        )
        self._built = self._structure()

    @property
    def fingerprint(self) -> str | None:
        """As of every `TorchEncoder`; unless it is changed, it only follows the weights.

        So features that were stored by earlier versions of the package are found again.
        """
        if self._built.unknown or self._structure() != self._built:
            return super().fingerprint
        what = f"{_FINGERPRINT_VERSION}|{PREFIX}{self.card.architecture}|{self._preprocessing!r}"
        digest = hashlib.sha256(what.encode())
        for name, tensor in (*self._module.named_parameters(), *self._module.named_buffers()):
            digest.update(f"|{name}:{tensor.dtype}:{tuple(tensor.shape)}|".encode())
            digest.update(bytes_of(tensor))
        return digest.hexdigest()

    def _structure(self) -> Identity:
        """What it is besides its weights."""
        own = {name: value for name, value in vars(self).items() if name not in _HASHED}
        return identity(own, without=(*self._module.parameters(), *self._module.buffers()))

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def _normalised(self, pixels: Tensor) -> Tensor:
        # step by step, as in their training: one product and one sum would round differently
        mean, std = (
            torch.tensor(values, device=pixels.device) for values in (self.card.mean, self.card.std)
        )
        return pixels.div_(255).sub_(mean).div_(std)


def load_bundled(name: str) -> BundledEncoder:
    """Load a bundled encoder.

    Parameters
    ----------
    name : str
        One of `list_bundled`, with or without ``mini/``.

    Returns
    -------
    BundledEncoder
        On the CPU, with its head where it was trained with labels.

    Raises
    ------
    UnknownNameError
        If there is no such encoder; the message lists all.
    CheckpointError
        If the installed weights file is damaged or belongs to another network.
    """
    card = bundled_card(name)
    network = build_network(card.architecture)
    try:
        stored = load((WEIGHTS / f"{card.name}.safetensors").read_bytes())
        _fill(network, _under("network.", stored))
        if card.source_classes is not None:
            network.head = nn.Linear(card.feature_dim, len(card.source_classes))
            _fill(network.head, _under("head.", stored))
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch's message runs over several lines
        raise CheckpointError(
            f"weights of {PREFIX}{card.name} cannot be loaded ({' '.join(str(error).split())}). "
            "They are part of the package and must match its code: reinstall transferscope."
        ) from error
    return BundledEncoder(card, network)


def load_bundled_checkpoint(path: Path, name: str, identifier: str) -> BundledEncoder:
    """Load weights that were trained from a bundled encoder's, such as those of `pretrain`.

    Parameters
    ----------
    path : Path
        Its tensors have the names of the bundled network; heads are left out.
    name : str
        The bundled encoder whose architecture and preprocessing they need.
    identifier : str
        Name under which it was requested.

    Returns
    -------
    BundledEncoder
        On the CPU, without a head.

    Raises
    ------
    UnknownNameError
        If there is no such bundled encoder.
    CheckpointError
        If the file cannot be read or belongs to another network.
    """
    card = bundled_card(name)
    network = build_network(card.architecture)
    stored = {
        key: value
        for key, value in tensors_of(read_weights_file(path)).items()
        if not key.startswith(("target_head.", "head."))
    }
    try:
        _fill(network, stored)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not hold the weights of {PREFIX}{card.name} "
            f"({' '.join(str(error).split())}). Name the bundled encoder that they were trained "
            "from."
        ) from error
    return BundledEncoder(card, network, identifier)


def _under(prefix: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in stored.items()
        if name.startswith(prefix)
    }


def _fill(module: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Load tensors into a module in float32; RuntimeError if they do not fit."""
    state = {name: tensor.float() for name, tensor in stored.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    # counters of batches seen are not stored: nothing reads them in eval mode
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise RuntimeError(f"missing tensors: {missing}, unexpected tensors: {unexpected}")
