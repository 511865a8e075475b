"""Encoders ``torchvision/<name>``: the classification models of torchvision.

``torchvision/resnet50`` takes the weights that torchvision calls its default;
``torchvision/resnet50?weights=IMAGENET1K_V1`` those of that name. The input is prepared as the
weights' own ``transforms`` do.

**Features** are the input of the model's last linear layer, which gives the logits (of
SqueezeNet, which has none, the averaged input of its last convolution). On VGG and AlexNet this is
the second hidden layer of their classifier, with 4096 dimensions.

This module imports torch at the top, and torchvision when used.
"""

from __future__ import annotations

import difflib
import re
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from transferscope.encoders._encoder import Batch
from transferscope.encoders._image_preprocessing import ImagePreprocessing
from transferscope.encoders._pretrained import first_line
from transferscope.encoders._torch_encoder import Layer, TorchEncoder, before_heads
from transferscope.errors import EncoderError, UnknownNameError, require

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "torchvision/"


def load_torchvision(name: str) -> TorchEncoder:
    """Load a classification model of torchvision with its pre-trained weights.

    Parameters
    ----------
    name : str
        A model, and ``?weights=`` with the name of its weights if not the default; with or without
        ``torchvision/``.

    Returns
    -------
    TorchEncoder
        On the CPU.

    Raises
    ------
    MissingExtraError
        If torchvision cannot be imported.
    UnknownNameError
        If there is no such model or no such weights.
    EncoderError
        If the model is no image classifier, or its weights cannot be loaded or downloaded.
    """
    architecture, _, weights_name = name.removeprefix(PREFIX).partition("?weights=")
    identifier = PREFIX + name.removeprefix(PREFIX)
    weights = _weights(architecture, weights_name)
    preprocessing = _preprocessing(weights, identifier)
    try:
        model = _models().get_model(architecture, weights=weights)
    except Exception as error:
        # a download or a damaged file may raise anything
        raise EncoderError(
            f"weights of {identifier} cannot be loaded "
            f"({type(error).__name__}: {first_line(error)}). They "
            "are downloaded and then kept: run this once with a connection, or put "
            f"{weights.url} into the folder checkpoints of torch.hub.get_dir()."
        ) from error
    return wrap_torchvision(model, architecture, preprocessing, identifier)


def wrap_torchvision(
    model: nn.Module,
    architecture: str,
    preprocessing: ImagePreprocessing,
    identifier: str,
    *,
    has_head: bool = True,
) -> TorchEncoder:
    """Make an encoder of a classification model of torchvision with its weights.

    Parameters
    ----------
    model : torch.nn.Module
    architecture : str
        Its name in torchvision.
    preprocessing : ImagePreprocessing
    identifier : str
        Name under which it was requested.
    has_head : bool, default True
        Whether its last layer is trained. If not, there are no logits.

    Returns
    -------
    TorchEncoder
    """
    head = model.get_submodule(head_path(model))
    with_logits = before_heads([head], model)

    def without_logits(images: Batch) -> tuple[Tensor, None]:
        return with_logits(images)[0], None

    return TorchEncoder(
        model,
        with_logits if has_head else without_logits,
        preprocessing=preprocessing,
        identifier=identifier,
        architecture=f"torchvision/{architecture}" + ("" if has_head else "/no head"),
        head_parameters=head.parameters(),
        layers=_layers(model),
    )


def untrained_torchvision(architecture: str, n_classes: int | None = None) -> nn.Module:
    """Build a classification model of torchvision with weights at random.

    Parameters
    ----------
    architecture : str
    n_classes : int, optional
        By default as many as its own weights have.

    Returns
    -------
    torch.nn.Module
    """
    options: dict[str, object] = {} if n_classes is None else {"num_classes": n_classes}
    if architecture in {"googlenet", "inception_v3"}:
        # as with their pre-trained weights, without the classifiers that only training has
        options |= {"aux_logits": False, "transform_input": True, "init_weights": False}
    model: nn.Module = _models().get_model(architecture, weights=None, **options)
    return model


def torchvision_preprocessing(architecture: str, identifier: str) -> ImagePreprocessing:
    """Prepare images as for the default weights of a model of torchvision.

    Parameters
    ----------
    architecture : str
    identifier : str
        For messages.

    Returns
    -------
    ImagePreprocessing

    Raises
    ------
    MissingExtraError
        If torchvision cannot be imported.
    UnknownNameError
        If there is no such model.
    EncoderError
        If it is no image classifier.
    """
    return _preprocessing(_weights(architecture, ""), identifier)


def _models() -> ModuleType:
    return require(
        "torchvision.models", extra="vision", purpose="load encoders named torchvision/…"
    )


def _weights(architecture: str, weights_name: str) -> Any:
    models = _models()
    if architecture not in models.list_models():
        near = difflib.get_close_matches(architecture, models.list_models(module=models), n=3)
        hint = f"Similar names: {', '.join(near)}. " if near else ""
        raise UnknownNameError(
            f"torchvision has no model {architecture!r}. {hint}"
            "List them with: python -c 'import torchvision; "
            'print(*torchvision.models.list_models(), sep="\\n")\''
        )
    available = models.get_model_weights(architecture)
    if (weights_name or "DEFAULT") not in available.__members__:
        raise UnknownNameError(
            f"model {architecture} of torchvision has no weights {weights_name!r}. "
            f"Choose from: {', '.join(available.__members__) or 'none'}."
        )
    return available[weights_name or "DEFAULT"]


def _preprocessing(weights: Any, identifier: str) -> ImagePreprocessing:
    transforms = weights.transforms()
    if type(transforms).__name__ != "ImageClassification":
        raise EncoderError(
            f"model {identifier} is no image classifier: its weights prepare input for "
            f"{type(transforms).__name__}. Choose a classification model."
        )
    return ImagePreprocessing(
        size=(transforms.crop_size[0], transforms.crop_size[0]),
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def head_path(model: nn.Module) -> str:
    """Name of the last layer of a classification model of torchvision."""

    def last(kind: type[nn.Module]) -> str | None:
        named = reversed(list(model.named_modules()))
        return next((name for name, module in named if isinstance(module, kind)), None)

    path = last(nn.Linear) or last(nn.Conv2d)
    assert path is not None, "every classifier of torchvision ends in one of the two"
    return path


def _layers(model: nn.Module) -> dict[str, Layer]:
    """Stages by the names that torchvision gives them; none where it has no such structure."""
    channels_last = type(model).__name__ == "SwinTransformer"
    n_prefix_tokens = 1 if type(model).__name__ == "VisionTransformer" else 0
    children = dict(model.named_children())
    paths: Iterable[str] = [name for name in children if re.fullmatch(r"(layer|stage)\d", name)]
    if not paths:
        holders = {
            "features": "features",
            "encoder": "encoder.layers",
            "trunk_output": "trunk_output",
            "blocks": "blocks",
        }
        holder = next((path for child, path in holders.items() if child in children), None)
        parts = model.get_submodule(holder).named_children() if holder else ()
        # parts without parameters are activations and poolings between the stages
        paths = [f"{holder}.{name}" for name, part in parts if any(True for _ in part.parameters())]
    return {path: Layer(path, channels_last, n_prefix_tokens) for path in paths}
