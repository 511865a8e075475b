"""The bundled zoo ``mini/<name>``: small encoders for 32 x 32 images, trained on known sources.

They make the whole path from a data set to a ranking run offline and within seconds, and they
differ enough (three architectures, several sources, several ways of training, two never trained)
that the choice among them matters. They are no match for encoders of a useful size.

Each encoder is a safetensors file with float16 weights in ``mini_weights``, with a card in
``cards.json`` beside it; ``tools/train_mini_zoo.py`` made both.
Listing encoders and reading their cards needs no torch; loading one does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transferscope.encoders._encoder import POOLED, Embedded, ImagePreprocessing
from transferscope.errors import CheckpointError, EncoderError, UnknownNameError, require

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from transferscope.encoders._mini_networks import MiniNetwork

PREFIX = "mini/"
SIDE = 32

# importlib.resources and not __file__: the package may lie in a zip archive
_WEIGHTS = resources.files("transferscope.encoders") / "mini_weights"


@dataclass(frozen=True)
class MiniCard:
    """Where an encoder of the zoo comes from and how good it is at its own task.

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


def _card(stored: dict[str, Any]) -> MiniCard:
    """A card from JSON, whose lists become tuples so that cards cannot change."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
    }
    return MiniCard(**values)


@cache
def _cards() -> dict[str, MiniCard]:
    stored = json.loads((_WEIGHTS / "cards.json").read_text(encoding="utf-8"))
    return {name: _card(stored[name]) for name in sorted(stored)}


def list_mini() -> tuple[str, ...]:
    """Names of the bundled encoders, sorted, without ``mini/``; imports no torch.

    Examples
    --------
    >>> "resnet-random" in list_mini()
    True
    """
    return tuple(_cards())


def mini_card(name: str) -> MiniCard:
    """The card of a bundled encoder.

    Parameters
    ----------
    name : str
        With or without ``mini/``.

    Raises
    ------
    UnknownNameError
        If there is no such encoder; the message lists those there are.

    Examples
    --------
    >>> mini_card("mini/resnet-random").architecture
    'resnet'
    """
    cards = _cards()
    bare = name.removeprefix(PREFIX)
    if bare not in cards:
        raise UnknownNameError(
            f"There is no bundled encoder {name!r}. Choose one of: {', '.join(cards)}."
        )
    return cards[bare]


def load_mini(name: str) -> MiniEncoder:
    """Load a bundled encoder on the CPU.

    Parameters
    ----------
    name : str
        One of `list_mini`, with or without ``mini/``.

    Returns
    -------
    MiniEncoder
        In eval mode, with its head where it was trained with labels.

    Raises
    ------
    UnknownNameError
        If there is no such encoder; the message lists those there are.
    MissingExtraError
        If torch is not installed.
    CheckpointError
        If the installed weights file is damaged or belongs to another network.
    """
    card = mini_card(name)
    torch = require("torch", extra="vision", purpose="run the bundled encoders")
    from safetensors import SafetensorError
    from safetensors.torch import load

    from transferscope.encoders._mini_networks import build_network

    network = build_network(card.architecture)
    head = None
    if card.source_classes is not None:
        head = torch.nn.Linear(card.feature_dim, len(card.source_classes))
    try:
        stored = load((_WEIGHTS / f"{card.name}.safetensors").read_bytes())
        _fill(network, stored, "network.")
        if head is not None:
            _fill(head, stored, "head.")
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch's message runs over several lines
        cause = " ".join(str(error).split())
        raise CheckpointError(
            f"The weights of {PREFIX}{card.name} cannot be loaded ({cause}). They are part of the "
            "package and should match its code; reinstall transferscope."
        ) from error
    return MiniEncoder(card, network, head)


def load_mini_checkpoint(path: Path, name: str, identifier: str) -> MiniEncoder:
    """Load weights that began as a bundled encoder's, such as those that `pretrain` left.

    Parameters
    ----------
    path : Path
        Its tensors have the names of the bundled network; a new head beside them is passed over.
    name : str
        The encoder of the zoo whose architecture and preprocessing they go with.
    identifier : str
        The name under which it was asked for.

    Raises
    ------
    CheckpointError
        If the file cannot be read or belongs to another network.
    """
    from transferscope.encoders._mini_networks import build_network
    from transferscope.storage.weights_files import read_weights_file

    card = mini_card(name)
    network = build_network(card.architecture)
    stored = {
        key: value
        for key, value in read_weights_file(path).items()
        if hasattr(value, "float") and not key.startswith("target_head.")
    }
    try:
        _fill(network, stored, "")
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not hold the weights of a {PREFIX}{card.name} "
            f"({' '.join(str(error).split())}). Name the bundled encoder that it began as."
        ) from error
    return MiniEncoder(card, network, identifier=identifier)


def _fill(module: torch.nn.Module, stored: dict[str, torch.Tensor], prefix: str) -> None:
    """Load the tensors whose names begin with `prefix`; RuntimeError if they do not fit."""
    state = {
        name.removeprefix(prefix): tensor.float()
        for name, tensor in stored.items()
        if name.startswith(prefix)
    }
    missing, unexpected = module.load_state_dict(state, strict=False)
    # counters of batches seen are not stored: nothing reads them in eval mode
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise RuntimeError(f"missing tensors: {missing}, unexpected tensors: {unexpected}")


class MiniEncoder:
    """One bundled encoder; follows the `Encoder` protocol.

    Made by `load_mini`; always in eval mode and without gradients.

    Parameters
    ----------
    card : MiniCard
        Where it comes from.
    network : MiniNetwork
        The network without a head.
    head : torch.nn.Linear or None
        From pooled features to the logits of the source's classes.
    identifier : str, optional
        The name under which it was asked for; by default that of the card.
    """

    def __init__(
        self,
        card: MiniCard,
        network: MiniNetwork,
        head: torch.nn.Linear | None = None,
        identifier: str | None = None,
    ) -> None:
        import torch

        self.card = card
        self.identifier = identifier or PREFIX + card.name
        self._network = network.eval().requires_grad_(False)
        self._head = None if head is None else head.eval().requires_grad_(False)
        self._mean = torch.tensor(card.mean).reshape(1, -1, 1, 1)
        self._std = torch.tensor(card.std).reshape(1, -1, 1, 1)
        self._preprocessing = ImagePreprocessing(
            size=(SIDE, SIDE), resize=(SIDE, SIDE), mean=card.mean, std=card.std
        )
        self._fingerprint = self._digest()
        with torch.inference_mode():
            pooled = self._network(torch.zeros(1, 3, SIDE, SIDE))[POOLED]
        self._feature_dim = int(pooled.shape[1])

    def __repr__(self) -> str:
        return f"MiniEncoder({self.identifier!r})"

    @property
    def fingerprint(self) -> str:
        """Hex digest of architecture, preprocessing and weights; equal = same features."""
        return self._fingerprint

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """Resize to 32 x 32, normalise by the source's mean and standard deviation."""
        return self._preprocessing

    @property
    def feature_dim(self) -> int:
        """Dimension of the pooled features, measured on a blank image."""
        return self._feature_dim

    @property
    def n_parameters(self) -> int:
        """Number of parameters of the network without its head."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels: (32, 32)."""
        return (SIDE, SIDE)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names accepted by `embed`, in order of depth; the last one is ``"pooled"``."""
        return self._network.layers

    @property
    def head(self) -> torch.nn.Linear | None:
        """The classifier of its own task, on pooled features; None without one."""
        return self._head

    @property
    def module(self) -> MiniNetwork:
        """The network itself, for fine-tuning it."""
        return self._network

    @property
    def last_block(self) -> str:
        """Name of the deepest block of the network."""
        return self._network.last_block

    def forward(self, batch: npt.NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """Pooled features (n, dim) with gradients, in the mode in which the network is.

        Parameters
        ----------
        batch : as for `embed`
        """
        pooled: torch.Tensor = self._network(self._normalised(batch))[POOLED]
        return pooled

    def embed(
        self,
        batch: npt.NDArray[np.uint8] | torch.Tensor,
        layers: Sequence[str] = (POOLED,),
    ) -> Embedded:
        """Features of the named layers, and logits where there is a head, in one forward pass.

        Parameters
        ----------
        batch : array or Tensor of shape (n, 32, 32, 3), uint8
            RGB images as `preprocessing` prepares and collates them.
        layers : sequence of str, default ("pooled",)
            Some of `layers`.

        Returns
        -------
        Embedded
            Features per layer (n, dim), and logits (n, n_source_classes) or None; float32, on the
            encoder's device.

        Raises
        ------
        UnknownNameError
            If a layer has another name.
        EncoderError
            If the batch has another shape or type.
        """
        import torch

        unknown = [layer for layer in layers if layer not in self.layers]
        if unknown:
            raise UnknownNameError(
                f"{self.identifier} has no layer {', '.join(map(repr, unknown))}. "
                f"Choose from: {', '.join(self.layers)}."
            )
        with torch.inference_mode():
            features = self._network(self._normalised(batch))
            logits = None if self._head is None else self._head(features[POOLED])
        return Embedded({layer: features[layer] for layer in layers}, logits)

    def to(self, device: str) -> MiniEncoder:
        """The same encoder on another device (moved in place, returned for chaining).

        Raises
        ------
        EncoderError
            If there is no such device.
        """
        try:
            self._network.to(device)
        except (RuntimeError, AssertionError) as error:
            raise EncoderError(
                f"There is no device {device!r} here ({str(error).splitlines()[0]}). "
                "Use 'cpu', or a device that torch lists."
            ) from error
        if self._head is not None:
            self._head.to(device)
        self._mean = self._mean.to(device)
        self._std = self._std.to(device)
        return self

    def _normalised(self, batch: Any) -> torch.Tensor:
        """The batch, after checking shape and type, as the network takes it."""
        import torch

        # np.array copies: torch warns about read-only memory
        images = batch if isinstance(batch, torch.Tensor) else torch.from_numpy(np.array(batch))
        if tuple(images.shape[1:]) != (SIDE, SIDE, 3) or images.dtype != torch.uint8:
            raise EncoderError(
                f"{self.identifier} takes uint8 images of shape (n, {SIDE}, {SIDE}, 3); got "
                f"{images.dtype} of shape {tuple(images.shape)}. Prepare the images with its "
                "preprocessing (prepare, then collate)."
            )
        images = images.to(self._mean.device).permute(0, 3, 1, 2).float() / 255
        return (images - self._mean) / self._std

    def _digest(self) -> str:
        """Hash of architecture, preprocessing, and every tensor with its name and shape."""
        digest = hashlib.sha256()
        preprocessing = self._preprocessing
        digest.update(
            repr(
                (
                    "mini",
                    self.card.architecture,
                    preprocessing.key,
                    preprocessing.mean,
                    preprocessing.std,
                )
            ).encode()
        )
        modules = {"network": self._network, "head": self._head}
        for prefix, module in modules.items():
            if module is None:
                continue
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(f"{prefix}.{name}:{tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
