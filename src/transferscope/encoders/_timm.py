"""Encoders ``timm/<name>`` and ``timm/<folder>``: models of PyTorch Image Models.

**Input.** As timm itself evaluates by default: ``input_size``, ``crop_pct``, ``crop_mode``,
``interpolation``, ``mean`` and ``std`` of the model's own pre-trained configuration. Some
configurations also hold ``test_input_size``, a larger input that scores a little better on
ImageNet; it is not used, as timm's ``resolve_data_config`` does not use it unless asked.

**Features.** The input of the model's own classifier: ``forward_features``, then
``forward_head(pre_logits=True)``. Models are built with the head that their weights come with. The
popular ``num_classes=0`` is avoided: on the ResNets of CLIP it replaces a trained projection, and
on others it drops layers between pooling and classifier. A model with two heads on two tokens
(distilled DeiT) gives the mean of both tokens, and logits as the model itself makes them.

**Image-text towers** (CLIP and similar ones) end in a projection to the space shared with text. Its
input is the feature; its output is no score of classes, so there are no logits.

This module imports torch and timm when used, and is imported only then.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import Tensor, nn

from transferscope.encoders._encoder import Batch
from transferscope.encoders._image_preprocessing import ImagePreprocessing
from transferscope.encoders._pretrained import first_line
from transferscope.encoders._torch_encoder import Layer, TorchEncoder
from transferscope.errors import EncoderError, UnknownNameError, require

if TYPE_CHECKING:
    from collections.abc import Mapping

    class TimmModel(nn.Module):
        """What timm's models have in common by convention; timm has no class for it."""

        pretrained_cfg: Mapping[str, Any]
        num_classes: int

        def forward_features(self, images: Tensor) -> Tensor: ...

        def forward_head(self, trunk: Tensor, *, pre_logits: bool = False) -> Tensor: ...


PREFIX = "timm/"

# widths of the spaces shared with text; no set of classes that timm's weights know has such a size
_PROJECTION_WIDTHS = frozenset({384, 512, 640, 768, 1024, 1152, 1280})

# maps of several resolutions at once, or pixels next to patches
_STAGES_OF_SEVERAL_OUTPUTS = frozenset({"HighResolutionNet", "TNT"})


def load_timm(name: str) -> TorchEncoder:
    """Load a timm model with its pre-trained weights.

    Parameters
    ----------
    name : str
        A timm model, with or without the tag of its weights (``resnet18.a1_in1k``), or a local
        folder in the format of the hub (``config.json`` and ``model.safetensors``); with or
        without ``timm/``.

    Returns
    -------
    TorchEncoder
        On the CPU.

    Raises
    ------
    MissingExtraError
        If timm cannot be imported.
    UnknownNameError
        If timm has no such model with weights and there is no such folder.
    EncoderError
        If the weights cannot be loaded or downloaded.
    """
    timm = require("timm", extra="vision", purpose="load encoders named timm/…")
    bare = name.removeprefix(PREFIX)
    is_folder = Path(bare).is_dir()
    if not is_folder and not timm.models.is_model_pretrained(bare):
        raise _unknown(timm, bare)
    try:
        model = timm.create_model(f"local-dir:{bare}" if is_folder else bare, pretrained=True)
    except Exception as error:
        # a download or a damaged file may raise anything
        if is_folder:
            remedy = "The folder must hold config.json and model.safetensors as timm saves them."
        else:
            remedy = (
                "Weights are downloaded and then kept: run this once with a connection to "
                "huggingface.co, or copy the model's files there into a folder and give "
                f"{PREFIX}<folder>."
            )
        raise EncoderError(
            f"weights of {PREFIX}{bare} cannot be loaded "
            f"({type(error).__name__}: {first_line(error)}). {remedy}"
        ) from error
    return wrap_timm(model, PREFIX + bare)


def is_timm(model: nn.Module) -> TypeGuard[TimmModel]:
    """Whether a module is a model of timm that knows how to prepare its input."""
    return bool(getattr(model, "pretrained_cfg", None)) and hasattr(model, "forward_head")


def default_name(model: TimmModel) -> str:
    """Name of a model that comes as an object."""
    return f"{PREFIX}{model.pretrained_cfg['architecture']}"


def wrap_timm(
    model: TimmModel, identifier: str | None = None, *, has_head: bool = True
) -> TorchEncoder:
    """Make an encoder of a timm model with its weights.

    Parameters
    ----------
    model : torch.nn.Module
        Made by ``timm.create_model``; its ``pretrained_cfg`` decides the preprocessing.
    identifier : str, optional
        Name under which it was requested; by default ``timm/`` and its architecture.
    has_head : bool, default True
        Whether its classifier is trained. If not, there are no logits.

    Returns
    -------
    TorchEncoder
        With the stages or blocks that timm lists in ``feature_info`` as named layers.

    Raises
    ------
    EncoderError
        If it does not take RGB images.
    """
    identifier = identifier or default_name(model)
    has_logits = has_head and model.num_classes > 0 and not _projects_to_text(model)

    def run(images: Batch) -> tuple[Tensor, Tensor | None]:
        trunk = model.forward_features(images)
        pooled = model.forward_head(trunk, pre_logits=True)
        # from the trunk again and not from `pooled`: some heads look at more than that (VOLO, two
        # heads of DeiT); only the pooling is done twice
        return pooled, model.forward_head(trunk) if has_logits else None

    return TorchEncoder(
        model,
        run,
        preprocessing=_preprocessing(model, identifier),
        identifier=identifier,
        head_parameters=_head_parameters(model),
        layers=_layers(model),
    )


def _unknown(timm: ModuleType, name: str) -> UnknownNameError:
    architecture = name.split(".")[0]
    tagged = timm.list_pretrained()
    near = difflib.get_close_matches(name, tagged, n=3, cutoff=0.6)
    near += [known for known in tagged if known.split(".")[0] == architecture][:3]
    hint = f"Similar names: {', '.join(dict.fromkeys(near))}. " if near else ""
    return UnknownNameError(
        f"timm has no pre-trained model {name!r}, and there is no folder of this name. {hint}"
        "List all with: transferscope encoders 'timm/*'"
    )


def classifier_paths(model: TimmModel) -> tuple[str, ...]:
    """Names of the submodules that are the classifier, by the model's own configuration."""
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _preprocessing(model: nn.Module, identifier: str) -> ImagePreprocessing:
    from timm.data import resolve_data_config

    config = resolve_data_config(model=model)
    channels, height, width = config["input_size"]
    if channels != 3:
        raise EncoderError(
            f"encoder {identifier} takes images of {channels} channels, and must take RGB. "
            "Choose weights for three channels."
        )
    scaled = (
        math.floor(height / config["crop_pct"]),
        math.floor(width / config["crop_pct"]),
    )
    mean = tuple(map(float, config["mean"]))
    common: dict[str, Any] = {
        "size": (height, width),
        "interpolation": config["interpolation"],
        "mean": mean,
        "std": tuple(map(float, config["std"])),
    }
    if config["crop_mode"] == "squash":
        return ImagePreprocessing(resize=scaled, **common)
    if config["crop_mode"] == "border":
        common["fill"] = tuple(round(255 * value) for value in mean)
        return ImagePreprocessing(resize=scaled, keep_ratio="contain", **common)
    if height == width:
        return ImagePreprocessing(resize=scaled[0], **common)
    return ImagePreprocessing(resize=scaled, keep_ratio="cover", **common)


def _projects_to_text(model: TimmModel) -> bool:
    config = model.pretrained_cfg
    names = f"{config['architecture']} {config.get('tag')} {config.get('hf_hub_id')}".lower()
    with_texts = any(word in names for word in ("clip", "pe_core", "vitamin"))
    return with_texts and model.num_classes in _PROJECTION_WIDTHS


def _head_parameters(model: TimmModel) -> list[nn.Parameter]:
    parameters: list[nn.Parameter] = []
    for path in filter(None, classifier_paths(model)):  # TResNet names one of its stages ""
        try:
            parameters += model.get_submodule(path).parameters()
        except AttributeError:
            continue  # named in the configuration, but this model was built without
    return parameters


def _layers(model: TimmModel) -> dict[str, Layer]:
    is_volo = type(model).__name__ == "VOLO"  # which does not declare its format
    channels_last = is_volo or getattr(model, "output_fmt", "NCHW") == "NHWC"
    n_prefix_tokens = getattr(model, "num_prefix_tokens", 0)
    if type(model).__name__ in _STAGES_OF_SEVERAL_OUTPUTS:
        return {}
    paths = [stage["module"] for stage in getattr(model, "feature_info", None) or ()]
    layers = {}
    for path in filter(None, paths):  # TResNet names one of its stages ""
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue  # some models list a stage that is no submodule (the stem of HRNet)
        # a bare list is never called itself (CoaT), and a stage listed twice has several outputs
        # of different widths (CrossViT)
        if not isinstance(module, nn.ModuleList) and paths.count(path) == 1:
            layers[path] = Layer(path, channels_last, n_prefix_tokens)
    return layers
