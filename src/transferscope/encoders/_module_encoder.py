"""What encoders around a torch module share: name, fingerprint, parameters, layers, device.

This module imports torch at the top; it is imported only when such an encoder is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor, nn

from transferscope.encoders._encoder import POOLED, Preprocessing
from transferscope.encoders._image_preprocessing import ImagePreprocessing
from transferscope.errors import EncoderError, UnknownNameError

if TYPE_CHECKING:
    from transferscope.encoders._checkpoint_matching import MatchReport

# raise it when the same weights begin to give other features, so that stored ones are not reused
_FINGERPRINT_VERSION = 1

P = TypeVar("P", bound=Preprocessing)


class ModuleEncoder(Generic[P]):
    """Base of encoders around a torch module; without `embed` and `forward`.

    Parameters
    ----------
    module : torch.nn.Module
        Holds the weights.
    preprocessing : Preprocessing
        How samples are prepared for it.
    identifier : str
        Name under which it was requested.
    architecture : str
        What besides weights and preprocessing decides the features; goes into the fingerprint.
    named_layers : sequence of str
        Names of the layers in order of depth, without ``"pooled"``.
    n_parameters : int
        Number of parameters without the head.
    """

    #: How a weights file was matched to the module, where one was (``checkpoint:<path>``).
    report: MatchReport | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever reads its scores must know: which copy of the weights a file gave."""
        return () if self.report is None else self.report.notes

    def __init__(
        self,
        module: nn.Module,
        *,
        preprocessing: P,
        identifier: str,
        architecture: str,
        named_layers: Sequence[str],
        n_parameters: int,
    ) -> None:
        self._module = module
        self._preprocessing = preprocessing
        self._identifier = identifier
        self._architecture = architecture
        self._named_layers = tuple(named_layers)
        self._n_parameters = n_parameters
        self._feature_dim: int | None = None
        self._fingerprint: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._identifier!r})"

    @property
    def identifier(self) -> str:
        """Name under which it was requested."""
        return self._identifier

    @property
    def fingerprint(self) -> str:
        """Hex digest of architecture, preprocessing, parameters and buffers; equal = same features.

        Computed at the first use and kept: weights changed later do not change it.
        """
        if self._fingerprint is None:
            self._fingerprint = _digest(self._architecture, self._preprocessing, self._weights())
        return self._fingerprint

    @property
    def preprocessing(self) -> P:
        """How samples must be prepared for `embed`."""
        return self._preprocessing

    @property
    def n_parameters(self) -> int:
        """Number of parameters of the encoder without its head, and without a decoder."""
        return self._n_parameters

    @property
    def layers(self) -> tuple[str, ...]:
        """Names accepted by `embed`, in order of depth; the last one is ``"pooled"``."""
        return (*self._named_layers, POOLED)

    @property
    def module(self) -> nn.Module:
        """The module itself, for fine-tuning it."""
        return self._module

    def _weights(self) -> nn.Module:
        """Everything whose weights decide the features."""
        return self._module

    def _require_layers(self, layers: Sequence[str]) -> None:
        unknown = [layer for layer in layers if layer not in self.layers]
        if unknown:
            raise UnknownNameError(
                f"{self._identifier} has no layer {', '.join(map(repr, unknown))}. "
                f"Choose from: {', '.join(self.layers)}."
            )


def existing_device(name: str) -> torch.device:
    """Find the device of a name; `EncoderError` if there is none."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(
            f"device {name!r} does not exist on this machine ({str(error).splitlines()[0]}). "
            "Use 'cpu', or a device that torch lists."
        ) from error


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Compute in bfloat16 on CUDA devices that have it, in full precision elsewhere."""
    # without bfloat16 in hardware full precision: float16 overflows in some models
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every part is in the mode in which it was."""
    training = [part for part in module.modules() if part.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _digest(architecture: str, preprocessing: Preprocessing, module: nn.Module) -> str:
    """Hash what decides the features; the same on every device and in every memory layout."""
    seen = preprocessing if isinstance(preprocessing, ImagePreprocessing) else preprocessing.key
    digest = hashlib.sha256(f"{_FINGERPRINT_VERSION}|{architecture}|{seen!r}".encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"|{name}:{tensor.dtype}:{tuple(tensor.shape)}|".encode())
        if tensor.numel():
            on_host = _in_memory(module, name, tensor).detach().cpu().contiguous()
            digest.update(on_host.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _in_memory(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return the weight itself where accelerate has moved it off the device and left it empty."""
    if not tensor.is_meta:
        return tensor
    owner, _, leaf = name.rpartition(".")
    hook = getattr(module.get_submodule(owner), "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        weights = getattr(one, "weights_map", None)
        if weights:
            weight: Tensor = weights[leaf]
            return weight
    raise EncoderError(
        f"weight {name} is on the meta device and has no values. Load the weights first."
    )
