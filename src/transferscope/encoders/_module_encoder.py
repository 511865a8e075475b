"""What encoders around a torch module share: name, fingerprint, parameters, layers, device.

This module imports torch at the top; it is imported only when such an encoder is loaded.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import nn

from transferscope.encoders._encoder import POOLED, Preprocessing
from transferscope.encoders._identity import identity
from transferscope.errors import EncoderError, UnknownNameError, first_few

if TYPE_CHECKING:
    from transferscope.encoders._checkpoint_matching import MatchReport

_logger = logging.getLogger("transferscope")

#: Attributes of an encoder that decide nothing: its name, and what follows from the rest.
_INDIFFERENT = frozenset({"_identifier", "_device", "_feature_dim", "_n_parameters", "report"})

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
    named_layers : sequence of str
        Names of the layers in order of depth, without ``"pooled"``.
    n_parameters : int
        Number of parameters without the head.
    version : str, optional
        Stands in the fingerprint for code that cannot be looked into.
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
        named_layers: Sequence[str],
        n_parameters: int,
        version: str | None = None,
    ) -> None:
        self._module = module
        self._preprocessing = preprocessing
        self._identifier = identifier
        self._named_layers = tuple(named_layers)
        self._n_parameters = n_parameters
        self._version = version
        self._feature_dim: int | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._identifier!r})"

    @property
    def identifier(self) -> str:
        """Name under which it was requested."""
        return self._identifier

    @property
    def fingerprint(self) -> str | None:
        """Hex digest of all that decides the features; equal = same features.

        That is the network with its weights, plain attributes and hooks, the preprocessing and the
        versions of the libraries whose code computes. None where code of your own takes part and no
        `version` was given: what it computes cannot be known. Computed anew each time.
        """
        seen = {name: value for name, value in vars(self).items() if name not in _INDIFFERENT}
        if self._version is not None:
            seen["_identifier"] = self._identifier
        found = identity(type(self), self._preprocessing.key, seen)
        if found.unknown and self._version is None:
            _logger.info(
                "%s is not known to another run, and its features are not kept for it: of %s "
                "only you know what it computes. Give from_module a version.",
                self._identifier,
                first_few(found.unknown),
            )
            return None
        return found.digest

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
