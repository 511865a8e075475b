"""An encoder around a torch module: what timm, torchvision, transformers and user modules share.

This module imports torch at the top; it is imported only when such an encoder is loaded.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from transferscope.encoders._encoder import POOLED, Batch, Embedded, Preprocessing
from transferscope.encoders._fast_pass import PassPlan
from transferscope.encoders._image_preprocessing import ImagePreprocessing
from transferscope.encoders._module_encoder import (
    ModuleEncoder,
    autocast,
    evaluating,
    existing_device,
)
from transferscope.encoders._pretrained import first_line
from transferscope.errors import EncoderError

if TYPE_CHECKING:
    from typing import Self

_logger = logging.getLogger("transferscope")

#: Stands for the logits beside names of layers; none is called so.
_LOGITS = "logits of the head"

#: From the input of a module to pooled features (n, feature_dim) and logits or None.
Run: TypeAlias = Callable[[Batch], tuple[Tensor, Tensor | None]]


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

    def average(self, output: Tensor | Sequence[Tensor]) -> Tensor:
        """Average activations of 2, 3 or 4 dimensions to (n, channels) float32."""
        activations = output if isinstance(output, Tensor) else output[0]
        if activations.ndim == 3:
            activations = activations[:, self.n_prefix_tokens :]
            return activations.mean(dim=1, dtype=torch.float32)
        if activations.ndim == 4:
            over = (1, 2) if self.channels_last else (2, 3)
            return activations.mean(dim=over, dtype=torch.float32)
        return activations.float()


class TorchEncoder(ModuleEncoder[Preprocessing]):
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
        Name under which it was requested.
    head_parameters : iterable of torch.nn.Parameter
        Parameters of the head, which are not counted.
    layers : mapping of str to Layer
        Named layers in order of depth, without ``"pooled"``.
    feature_dim : int, optional
        Dimension of the pooled features; measured on a blank image when not given.
    version : str, optional
        Of code that cannot be looked into, see `from_module`.
    """

    def __init__(
        self,
        module: nn.Module,
        run: Run,
        *,
        preprocessing: Preprocessing,
        identifier: str,
        head_parameters: Iterable[nn.Parameter] = (),
        layers: Mapping[str, Layer] | None = None,
        feature_dim: int | None = None,
        version: str | None = None,
    ) -> None:
        self._layers = dict(layers or {})
        in_head = {id(parameter) for parameter in head_parameters}
        super().__init__(
            module,
            preprocessing=preprocessing,
            identifier=identifier,
            named_layers=tuple(self._layers),
            n_parameters=sum(p.numel() for p in module.parameters() if id(p) not in in_head),
            version=version,
        )
        self._run = run
        self._feature_dim = feature_dim
        first = next((p for p in module.parameters() if p.is_floating_point()), None)
        self._device = torch.device("cpu") if first is None else first.device
        self._dtype = torch.float32 if first is None else first.dtype
        if isinstance(preprocessing, ImagePreprocessing):
            # (pixel / 255 - mean) / std as one product and one sum
            std = torch.tensor(preprocessing.std, dtype=torch.float64)
            mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
            self._scale = (1 / (255 * std)).to(self._device, self._dtype).reshape(3, 1, 1)
            self._shift = (-mean / std).to(self._device, self._dtype).reshape(3, 1, 1)

    @property
    def feature_dim(self) -> int:
        """Dimension of the pooled features, measured.

        Attributes of models are wrong on some (timm's ``num_features`` is 960 on
        mobilenetv3_large_100, whose pooled features have 1280 dimensions).

        Raises
        ------
        EncoderError
            If it is not known yet, and with preprocessing of your own there is no blank image to
            measure it on.
        """
        if self._feature_dim is None:
            if not isinstance(self._preprocessing, ImagePreprocessing):
                raise EncoderError(
                    f"feature_dim of {self._identifier} is not known before the first batch. "
                    "Give feature_dim when you build it, or embed a batch first."
                )
            self.embed(np.zeros((1, *self._preprocessing.size, 3), dtype=np.uint8))
        assert self._feature_dim is not None
        return self._feature_dim

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width in pixels, None when the input is no image."""
        if isinstance(self._preprocessing, ImagePreprocessing):
            return self._preprocessing.size
        return None

    @property
    def last_block(self) -> str | None:
        """Name of the submodule behind the deepest named layer, None without named layers."""
        return next((layer.path for layer in reversed(self._layers.values())), None)

    def forward(self, batch: Batch) -> Tensor:
        """Compute pooled features with gradients, in the mode in which the module is."""
        inputs = self._input(batch)
        with self._precision():
            pooled, _ = self._run(inputs)
        return self._checked(pooled)

    def embed(self, batch: Batch, layers: Sequence[str] = (POOLED,)) -> Embedded:
        """Compute features of the named layers, and logits of a head, in one forward pass."""
        self._require_layers(layers)
        with evaluating(self._module):
            return _embedded(self._outputs(batch, layers), layers)

    def fast_embed(self, layers: Sequence[str] = (POOLED,)) -> Callable[[Batch], Embedded]:
        """Make a quicker `embed` of the network as it is now, for many batches.

        It gives the features of `embed` up to rounding (1e-4 of the largest), and the same bits
        every time. It holds packed copies of weights: changes of the encoder do not reach it.

        Parameters
        ----------
        layers : sequence of str, default ("pooled",)

        Returns
        -------
        callable
            From a batch to `Embedded`; `embed` itself where nothing is known to be quicker.
        """
        self._require_layers(layers)
        is_function = next(self._module.parameters(), None) is None
        if is_function or not isinstance(self._preprocessing, ImagePreprocessing):
            return partial(self.embed, layers=layers)
        # images of noise, never the user's: a run that goes on elsewhere must choose the same
        noise = np.random.default_rng(0).integers(
            0, 256, (1, *self._preprocessing.size, 3), dtype=np.uint8
        )
        run = partial(self._outputs, layers=layers)
        try:
            with evaluating(self._module):
                plan = PassPlan(run, noise, self._device)
        except Exception as error:  # noqa: BLE001  what is wrong will be said of the first batch
            _logger.info("%s has no quicker pass: %s", self._identifier, first_line(error))
            return partial(self.embed, layers=layers)

        def embed(batch: Batch) -> Embedded:
            with evaluating(self._module):  # once for all parts: it looks at every submodule
                return _embedded(plan(batch), layers)

        return embed

    def _outputs(self, batch: Batch, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of the named layers by name, and logits, in the mode in which the module is."""
        inputs = self._input(batch)
        wanted = {name: self._layers[name] for name in layers if name != POOLED}
        with (
            torch.inference_mode(),
            self._precision(),
            _recording(self._module, wanted) as features,
        ):
            pooled, logits = self._run(inputs)
            features[POOLED] = self._checked(pooled)
            outputs = {name: features[name] for name in layers}
            if logits is not None:
                outputs[_LOGITS] = logits.float()
        return outputs

    def to(self, device: str) -> Self:
        """Move the encoder to another device, in place."""
        self._device = existing_device(device)
        self._module.to(self._device)
        if isinstance(self._preprocessing, ImagePreprocessing):
            if self._device.type == "cuda":
                # not on the CPU: channels_last images help there, channels_last weights do not
                self._module.to(memory_format=torch.channels_last)
            self._scale = self._scale.to(self._device)
            self._shift = self._shift.to(self._device)
        return self

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        return autocast(self._device)

    def _input(self, batch: Batch) -> Batch:
        """Move a batch to the device, as `run` takes it."""
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
                f"batch for {self._identifier} must hold uint8 images of shape "
                f"(n, {height}, {width}, 3); got {given}. Prepare and collate the images with "
                "encoder.preprocessing."
            )
        # the bytes travel, and become four times as many on the device only;
        # NHWC seen as NCHW is channels_last, and stays so
        pixels = batch.to(self._device, non_blocking=True).contiguous().to(self._dtype)
        return self._normalised(pixels).permute(0, 3, 1, 2)

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Normalise float pixels (n, height, width, 3) from 0 to 255 in place."""
        # a row of the image at once: a loop over three channels would not be vectorised
        scale, shift = (one.flatten().repeat(pixels.shape[2]) for one in (self._scale, self._shift))
        pixels.flatten(2).mul_(scale).add_(shift)
        return pixels

    def _checked(self, pooled: object) -> Tensor:
        if not isinstance(pooled, Tensor) or pooled.ndim != 2:
            given = tuple(pooled.shape) if isinstance(pooled, Tensor) else type(pooled).__name__
            raise EncoderError(
                f"features of {self._identifier} must be one vector per sample, a tensor (n, dim); "
                f"got {given}. Wrap it in a module that pools."
            )
        if self._feature_dim is None:
            self._feature_dim = pooled.shape[1]
        if pooled.shape[1] != self._feature_dim:
            raise EncoderError(
                f"features of {self._identifier} have dimension {pooled.shape[1]} where "
                f"{self._feature_dim} was declared or seen before. Correct feature_dim."
            )
        return pooled.float()


def _embedded(outputs: Mapping[str, Tensor], layers: Sequence[str]) -> Embedded:
    # clones made outside of inference mode are ordinary tensors, which a head can be trained on
    logits = outputs.get(_LOGITS)
    return Embedded(
        {name: outputs[name].clone() for name in layers},
        None if logits is None else logits.clone(),
    )


def before_heads(
    heads: Sequence[nn.Module], call: Callable[[Batch], Tensor]
) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Make a `run` of a classifier: pooled features are the input of its last layer.

    Parameters
    ----------
    heads : sequence of torch.nn.Module
        The last layer; several (of a distilled model) must take inputs of the same width, and the
        feature is their mean. Maps are averaged over height and width.
    call : callable
        From inputs to logits; calls each head one time.

    Returns
    -------
    callable
        From inputs to pooled features and logits.
    """

    def run(inputs: Batch) -> tuple[Tensor, Tensor]:
        given: list[Tensor] = []

        def note(_head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            given.append(inputs[0].mean(dim=(2, 3)) if inputs[0].ndim == 4 else inputs[0].clone())

        hooks = [head.register_forward_pre_hook(note) for head in heads]
        try:
            logits = call(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return (given[0] if len(given) == 1 else torch.stack(given).mean(dim=0)), logits

    return run


@contextlib.contextmanager
def _recording(module: nn.Module, layers: Mapping[str, Layer]) -> Iterator[dict[str, Tensor]]:
    """Averages of the layers' outputs, filled in during the forward pass made inside."""
    averages: dict[str, Tensor] = {}

    def recorder(name: str, layer: Layer) -> Callable[[nn.Module, object, Tensor], None]:
        def record(_module: nn.Module, _inputs: object, output: Tensor | Sequence[Tensor]) -> None:
            # averaged immediately: an in-place activation may overwrite the output later
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
