"""The protocols that every encoder follows; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

#: The layer that every encoder has: its pooled output, the input of its head.
POOLED = "pooled"

#: One sample of a data set: an image, a text, a word of a sentence, a row of numbers, ...
Sample: TypeAlias = Any
#: A sample as `Preprocessing.prepare` returns it.
Prepared: TypeAlias = Any
#: Prepared samples as `Preprocessing.collate` joins them; the input of `Encoder.embed`.
Batch: TypeAlias = Any


@runtime_checkable
class Preprocessing(Protocol):
    """How an encoder wants its samples: `prepare` each sample, `collate` each batch."""

    @property
    def key(self) -> str:
        """Text that is equal for preprocessing that does the same."""

    def prepare(self, sample: Sample) -> Prepared:
        """Turn one sample of the data set into the input of the encoder; runs on worker threads.

        Parameters
        ----------
        sample : object
            As the data set gives it.

        Returns
        -------
        object
            What `collate` takes.
        """

    def collate(self, prepared: Sequence[Prepared]) -> Batch:
        """Join prepared samples to a batch.

        Parameters
        ----------
        prepared : sequence of n objects
            As `prepare` returns them.

        Returns
        -------
        object
            What `Encoder.embed` takes.
        """


@dataclass(frozen=True)
class Embedded:
    """The result of one forward pass.

    Parameters
    ----------
    features : dict of str to Tensor
        Layer name -> (n, dim) float32 tensor on the encoder's device.
    logits : Tensor or None
        (n, n_source_classes) float32 output of the encoder's own head, None without a head.
    truncated : array or None
        (n,) int32: how many tokens of each text were not read, None where nothing can be cut off.
    """

    features: dict[str, torch.Tensor]
    logits: torch.Tensor | None = None
    truncated: npt.NDArray[np.int32] | None = None


@runtime_checkable
class Encoder(Protocol):
    """A pre-trained model seen as a function from samples to features.

    Implementations always compute in eval mode and without gradients.
    """

    @property
    def identifier(self) -> str:
        """Name under which it was requested, such as ``"timm/resnet18"``."""

    @property
    def fingerprint(self) -> str | None:
        """Hex digest of architecture, preprocessing and weights; equal = same features.

        The store finds features by it, from run to run. Of an encoder of your own it must change
        whenever its features do; None keeps them for one run only.
        """

    @property
    def preprocessing(self) -> Preprocessing:
        """How samples must be prepared for `embed`."""

    @property
    def feature_dim(self) -> int:
        """Dimension of the pooled features (measured, not read from an attribute)."""

    @property
    def n_parameters(self) -> int:
        """Number of parameters of the encoder without its head."""

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width in pixels, None when the input is no image."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names accepted by `embed`; the last one is ``"pooled"``."""

    def embed(self, batch: Batch, layers: Sequence[str] = (POOLED,)) -> Embedded:
        """Compute features of the named layers, and logits of a head, in ONE forward pass.

        Parameters
        ----------
        batch : object
            n samples as `preprocessing` prepares and collates them.
        layers : sequence of str, default ("pooled",)
            Some of `layers`.

        Returns
        -------
        Embedded
            Features per layer (n, dim), and logits (n, n_source_classes) or None; float32, on the
            encoder's device.
        """

    def to(self, device: str) -> Encoder:
        """Move the encoder to another device, in place.

        Parameters
        ----------
        device : str
            Such as ``"cpu"`` or ``"cuda"``.

        Returns
        -------
        Encoder
            The same object, for chaining.
        """


@runtime_checkable
class TrainableEncoder(Encoder, Protocol):
    """An encoder whose weights can be changed: what fine-tuning also needs."""

    @property
    def module(self) -> torch.nn.Module:
        """Module that holds all weights; a head of its own may be among them."""

    @property
    def last_block(self) -> str | None:
        """Name of the deepest block among the submodules, None where none is known."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """Compute pooled features with gradients, in the mode in which the module is.

        Parameters
        ----------
        batch : object
            As for `embed`.

        Returns
        -------
        Tensor, shape (n, dim)
            Float32, on the encoder's device.
        """
