"""An encoder around a torch module: what timm, torchvision, transformers and user modules share.

This module imports torch at the top; it is imported only when such an encoder is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from transferscope.encoders._encoder import POOLED, Embedded, ImagePreprocessing, Preprocessing
from transferscope.errors import EncoderError, UnknownNameError

# raise it when the same weights begin to give other features, so that stored ones are not reused
_FINGERPRINT_VERSION = 1


@dataclass(frozen=True)
class Layer:
    """Where a named layer's activations come from and how they become one vector per sample.

    Activations are averaged over everything but the sample and the channel. Of a sequence of
    tokens only the patches are averaged: class, distillation and register tokens at its front are
    left out, because registers (and, without registers, the class token) hold outliers that would
    drown the patches.

    Parameters
    ----------
    path : str
        Name of the submodule whose output it is.
    channels_last : bool
        Whether maps come as (n, height, width, channels) and not as (n, channels, height, width).
    n_prefix_tokens : int
        Number of tokens before the first patch.
    """

    path: str
    channels_last: bool = False
    n_prefix_tokens: int = 0

    def average(self, output: Any) -> Tensor:
        """Activations of the submodule, of 2, 3 or 4 dimensions, as (n, channels) float32."""
        activations: Tensor = output[0] if isinstance(output, (tuple, list)) else output
        if activations.ndim == 3:
            activations = activations[:, self.n_prefix_tokens :]
            return activations.mean(dim=1, dtype=torch.float32)
        if activations.ndim == 4:
            over = (1, 2) if self.channels_last else (2, 3)
            return activations.mean(dim=over, dtype=torch.float32)
        return activations.float()


@final
class TorchEncoder:
    """A torch module as an encoder; follows the `Encoder` protocol.

    The module is borrowed. `to` moves it as `torch.nn.Module.to` does, and during `embed` it is in
    eval mode; afterwards every part is in the mode in which it was. One thread at a time.

    Parameters
    ----------
    module : torch.nn.Module
        Holds all weights that `run` uses.
    run : callable
        From normalised images (n, 3, height, width) to pooled features (n, feature_dim) and logits
        (n, n_source_classes) or None, in one pass through the module's trunk. With another
        `preprocessing` than `ImagePreprocessing` it gets the collated batch, arrays as tensors.
    preprocessing : Preprocessing
        How samples are prepared for it.
    identifier : str
        The name under which it was asked for.
    architecture : str
        What besides weights and preprocessing decides the features; goes into the fingerprint.
    head_parameters : iterable of torch.nn.Parameter
        Parameters of the head, which are not counted.
    layers : mapping of str to Layer
        Named layers in order of depth, without ``"pooled"``.
    feature_dim : int, optional
        Dimension of the pooled features; measured on a blank image when not given.
    """

    def __init__(
        self,
        module: nn.Module,
        run: Callable[[Any], tuple[Tensor, Tensor | None]],
        *,
        preprocessing: Preprocessing,
        identifier: str,
        architecture: str,
        head_parameters: Iterable[nn.Parameter] = (),
        layers: Mapping[str, Layer] | None = None,
        feature_dim: int | None = None,
    ) -> None:
        self._module = module
        self._run = run
        self._preprocessing = preprocessing
        self._identifier = identifier
        self._architecture = architecture
        self._layers = dict(layers or {})
        self._feature_dim = feature_dim
        self._fingerprint: str | None = None
        in_head = {id(parameter) for parameter in head_parameters}
        self._n_parameters = sum(
            parameter.numel() for parameter in module.parameters() if id(parameter) not in in_head
        )
        first = next((p for p in module.parameters() if p.is_floating_point()), None)
        self._device = torch.device("cpu") if first is None else first.device
        self._dtype = torch.float32 if first is None else first.dtype
        if isinstance(preprocessing, ImagePreprocessing):
            # (pixel / 255 - mean) / std as one product and one sum
            std = torch.tensor(preprocessing.std, dtype=torch.float64)
            mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
            self._scale = (1 / (255 * std)).to(self._device, self._dtype).reshape(3, 1, 1)
            self._shift = (-mean / std).to(self._device, self._dtype).reshape(3, 1, 1)

    def __repr__(self) -> str:
        return f"TorchEncoder({self._identifier!r})"

    @property
    def identifier(self) -> str:
        """The name under which it was asked for."""
        return self._identifier

    @property
    def fingerprint(self) -> str:
        """Hex digest of architecture, preprocessing, parameters and buffers; equal = same features.

        Computed when first asked for and kept: weights changed later do not change it.
        """
        if self._fingerprint is None:
            self._fingerprint = digest(self._architecture, self._preprocessing, self._module)
        return self._fingerprint

    @property
    def preprocessing(self) -> Preprocessing:
        """How samples must be prepared for `embed`."""
        return self._preprocessing

    @property
    def feature_dim(self) -> int:
        """Dimension of the pooled features, measured.

        Attributes that models carry for it are wrong on some (timm's ``num_features`` is 960 on
        mobilenetv3_large_100, whose pooled features have 1280 dimensions).

        Raises
        ------
        EncoderError
            If it is not known yet, and with preprocessing of one's own there is no blank image to
            measure it on.
        """
        if self._feature_dim is None:
            if not isinstance(self._preprocessing, ImagePreprocessing):
                raise EncoderError(
                    f"The feature dimension of {self._identifier} is not known before the first "
                    "batch. Give feature_dim when building it, or embed a batch first."
                )
            self.embed(np.zeros((1, *self._preprocessing.size, 3), dtype=np.uint8))
        assert self._feature_dim is not None
        return self._feature_dim

    @property
    def n_parameters(self) -> int:
        """Number of parameters of the encoder without its head."""
        return self._n_parameters

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width in pixels, None when the input is no image."""
        if isinstance(self._preprocessing, ImagePreprocessing):
            return self._preprocessing.size
        return None

    @property
    def layers(self) -> tuple[str, ...]:
        """Names accepted by `embed`, in order of depth; the last one is ``"pooled"``."""
        return (*self._layers, POOLED)

    @property
    def module(self) -> nn.Module:
        """The module itself, for fine-tuning it."""
        return self._module

    @property
    def last_block(self) -> str | None:
        """Name of the submodule behind the deepest named layer, None without named layers."""
        return next((layer.path for layer in reversed(self._layers.values())), None)

    def forward(self, batch: Any) -> Tensor:
        """Pooled features (n, dim) with gradients, in the mode in which the module is.

        Parameters
        ----------
        batch : as for `embed`
        """
        inputs = self._on_device(batch)
        with autocast(self._device):
            pooled, _ = self._run(inputs)
        return self._checked(pooled)

    def embed(self, batch: Any, layers: Sequence[str] = (POOLED,)) -> Embedded:
        """Features of the named layers, and logits where there is a head, in one forward pass.

        Parameters
        ----------
        batch : array or Tensor of shape (n, height, width, 3), uint8
            Images as `preprocessing` prepares and collates them; read-only arrays are welcome.
            On CUDA a tensor in pinned memory is still being copied when this returns.
            With preprocessing of one's own: what it collates.
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
            If the batch has another shape or type, or the module gives no vector per sample.
        """
        unknown = [layer for layer in layers if layer not in self.layers]
        if unknown:
            raise UnknownNameError(
                f"{self._identifier} has no layer {', '.join(map(repr, unknown))}. "
                f"Choose from: {', '.join(self.layers)}."
            )
        inputs = self._on_device(batch)
        wanted = {name: self._layers[name] for name in layers if name != POOLED}
        with (
            evaluating(self._module),
            torch.inference_mode(),
            autocast(self._device),
            _recording(self._module, wanted) as features,
        ):
            pooled, logits = self._run(inputs)
        features[POOLED] = self._checked(pooled)
        # clones made outside of inference mode are ordinary tensors, which a head can be trained on
        return Embedded(
            {name: features[name].clone() for name in layers},
            None if logits is None else logits.float().clone(),
        )

    def to(self, device: str) -> TorchEncoder:
        """The same encoder on another device (moved in place, returned for chaining).

        Raises
        ------
        EncoderError
            If there is no such device.
        """
        self._device = existing_device(device)
        self._module.to(self._device)
        if isinstance(self._preprocessing, ImagePreprocessing):
            if self._device.type == "cuda":
                # not on the CPU: channels_last images help there, channels_last weights do not
                self._module.to(memory_format=torch.channels_last)
            self._scale = self._scale.to(self._device)
            self._shift = self._shift.to(self._device)
        return self

    def _on_device(self, batch: Any) -> Any:
        if isinstance(batch, np.ndarray):
            # torch cannot mark a tensor read-only and warns about it; copying bytes is cheap
            batch = torch.from_numpy(batch if batch.flags.writeable else batch.copy())
        if not isinstance(self._preprocessing, ImagePreprocessing):
            return batch.to(self._device) if isinstance(batch, Tensor) else batch
        height, width = self._preprocessing.size
        if (
            not isinstance(batch, Tensor)
            or batch.dtype != torch.uint8
            or batch.shape[1:] != (height, width, 3)
        ):
            given = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else batch
            raise EncoderError(
                f"{self._identifier} takes uint8 images of shape (n, {height}, {width}, 3); "
                f"given: {given}. Prepare and collate them with its preprocessing."
            )
        # the bytes travel, and become four times as many on the device only;
        # NHWC seen as NCHW is channels_last, and stays so
        images = batch.to(self._device, non_blocking=True).permute(0, 3, 1, 2).to(self._dtype)
        return images.mul_(self._scale).add_(self._shift)

    def _checked(self, pooled: Any) -> Tensor:
        if not isinstance(pooled, Tensor) or pooled.ndim != 2:
            given = tuple(pooled.shape) if isinstance(pooled, Tensor) else type(pooled).__name__
            raise EncoderError(
                f"{self._identifier} must give one vector per sample, as a tensor (n, dim); "
                f"it gave {given}. Wrap it in a module that pools."
            )
        if self._feature_dim is None:
            self._feature_dim = pooled.shape[1]
        if pooled.shape[1] != self._feature_dim:
            raise EncoderError(
                f"{self._identifier} gave features of dimension {pooled.shape[1]} where "
                f"{self._feature_dim} was declared or seen before. Correct feature_dim."
            )
        return pooled.float()


def before_heads(
    heads: Sequence[nn.Module], call: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Make a `run` of a classifier: pooled features are what its last layer is given.

    Parameters
    ----------
    heads : sequence of torch.nn.Module
        The last layer; several (of a distilled model) must take inputs of the same width, and the
        feature is their mean. Maps are averaged over height and width.
    call : callable
        From images to logits; calls each head once.

    Returns
    -------
    callable
        From images to pooled features and logits.
    """

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        given: list[Tensor] = []

        def note(_head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            given.append(inputs[0].mean(dim=(2, 3)) if inputs[0].ndim == 4 else inputs[0].clone())

        hooks = [head.register_forward_pre_hook(note) for head in heads]
        try:
            logits = call(images)
        finally:
            for hook in hooks:
                hook.remove()
        return (given[0] if len(given) == 1 else torch.stack(given).mean(dim=0)), logits

    return run


def existing_device(name: str) -> torch.device:
    """The device of this name.

    Raises
    ------
    EncoderError
        If there is none.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(
            f"There is no device {name!r} here ({str(error).splitlines()[0]}). "
            "Use 'cpu', or a device that torch lists."
        ) from error


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Bfloat16 on CUDA devices that have it, full precision elsewhere."""
    # without bfloat16 in hardware full precision: float16 overflows in some models
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every part in the mode in which it was."""
    training = [part for part in module.modules() if part.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def _recording(module: nn.Module, layers: Mapping[str, Layer]) -> Iterator[dict[str, Tensor]]:
    """Averages of the layers' outputs, filled in during the forward pass made inside."""
    averages: dict[str, Tensor] = {}

    def recorder(name: str, layer: Layer) -> Callable[[nn.Module, Any, Any], None]:
        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # averaged at once: an in-place activation may overwrite the output later
            averages[name] = layer.average(output)

        return record

    hooks = [
        module.get_submodule(layer.path).register_forward_hook(recorder(name, layer))
        for name, layer in layers.items()
    ]
    try:
        yield averages
    finally:
        for hook in hooks:
            hook.remove()


def digest(architecture: str, preprocessing: Preprocessing, module: nn.Module) -> str:
    """Hash what decides the features; the same on every device and in every memory layout."""
    seen = preprocessing if isinstance(preprocessing, ImagePreprocessing) else preprocessing.key
    digest = hashlib.sha256(f"{_FINGERPRINT_VERSION}|{architecture}|{seen!r}".encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"|{name}:{tensor.dtype}:{tuple(tensor.shape)}|".encode())
        if tensor.numel():
            raw = (
                _in_memory(module, name, tensor)
                .detach()
                .cpu()
                .contiguous()
                .reshape(-1)
                .view(torch.uint8)
            )
            digest.update(raw.numpy().data)
    return digest.hexdigest()


def _in_memory(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """The weight itself, where accelerate has moved it off the device and left an empty one."""
    if not tensor.is_meta:
        return tensor
    owner, _, leaf = name.rpartition(".")
    hook: Any = module.get_submodule(owner)._hf_hook
    hooks = getattr(hook, "hooks", (hook,))
    weights = next(one.weights_map for one in hooks if getattr(one, "weights_map", None))
    weight: Tensor = weights[leaf]
    return weight
