"""Encoders ``hf/<id>`` and ``hf/<folder>`` for images: vision models of transformers.

The configuration decides which class is loaded. **Features** are, per kind of checkpoint:

===========================================  ======================================================
a classifier (``…ForImageClassification``)   the input of its head; the logits are its own
ViT, DeiT, MAE, MSN                          the class token after the last normalisation. (The
                                             ``pooler`` of ViT is not used: most checkpoints have
                                             none, and transformers then fills it at random.)
DINOv2, DINOv3, CLIP and SigLIP towers,      ``pooler_output``: the normalised class token; for
BEiT, Swin, ConvNeXt, ResNet and others      SigLIP its attention pooling; for BEiT the mean of the
                                             patches if it is configured so; for Swin and
                                             convolutions the mean over all positions
without any pooling (I-JEPA)                 the mean of the last hidden state
===========================================  ======================================================

Of image-text models (CLIP, SigLIP) the vision tower alone is loaded. The projection to the space
shared with text is left out, as for timm's towers.

**Named layers** ``layer1``, ``layer2``, … are the outputs of the blocks, or of the stages of a
hierarchical model, averaged over all positions without class and register tokens.

**Input** is prepared as the checkpoint's image processor does, see `_image_processor`.

This module imports torch at the top; transformers is passed in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transferscope.encoders._adapters import Adapter
from transferscope.encoders._encoder import Batch
from transferscope.encoders._image_processor import translate_processor
from transferscope.encoders._module_encoder import evaluating
from transferscope.encoders._pretrained import (
    Config,
    Pretrained,
    decisive,
    first_line,
    require_weights,
)
from transferscope.encoders._torch_encoder import Layer, Run, TorchEncoder, before_heads
from transferscope.errors import EncoderError

_CLASS_TOKEN = frozenset({"vit", "deit", "vit_mae", "vit_msn"})

# tokens before the first patch, without the registers that the configuration counts
_N_PREFIX_TOKENS = {
    "beit": 1,
    "clip_vision_model": 1,
    "data2vec-vision": 1,
    "deit": 2,
    "dinov2": 1,
    "dinov2_with_registers": 1,
    "dinov3_vit": 1,
    "metaclip_2_vision_model": 1,
    "vit": 1,
    "vit_mae": 1,
    "vit_msn": 1,
}


def load_vision(place: Pretrained, adapter: Adapter | None, config: Config) -> TorchEncoder:
    """Load a vision model of transformers with its weights.

    Parameters
    ----------
    place : Pretrained
        Where its weights lie.
    adapter : Adapter or None
        What was trained on top of them.
    config : configuration of transformers

    Returns
    -------
    TorchEncoder
        On the CPU, in float32.

    Raises
    ------
    EncoderError
        If it cannot be loaded, lacks weights, prepares its images in a way that cannot be
        translated, or to a size that it cannot take.
    """
    identifier = place.identifier
    files = place if adapter is None else adapter.with_file("preprocessor_config.json", place)
    processor = files.load(place.transformers.AutoImageProcessor.from_pretrained)
    preprocessing = translate_processor(processor, identifier)
    model = _model(place, config)
    if adapter is not None:
        adapter.merge_into(model)
    vision = getattr(config, "vision_config", config)
    heads = _heads(model)
    if heads:
        run: Run = before_heads(heads, lambda images: model(pixel_values=images).logits)
    else:
        run = _pooling(model, vision)
    _require_size(model, run, vision, preprocessing.size, identifier)
    return TorchEncoder(
        model,
        run,
        preprocessing=preprocessing,
        identifier=identifier,
        architecture=f"transformers/{type(model).__name__}/{decisive(config)}",
        head_parameters=[parameter for head in heads for parameter in head.parameters()],
        layers=_layers(model, vision),
    )


def _model(place: Pretrained, config: Config) -> nn.Module:
    """Load the model that gives the features, with its weights."""
    transformers = place.transformers
    options: dict[str, object] = {"config": config}
    auto = transformers.AutoModel
    classifiers = [name for name in config.architectures or () if "ForImageClassification" in name]
    if classifiers:
        # by its own name: for DeiT, "auto" would drop the head of the teacher
        auto = getattr(transformers, classifiers[0], None)
        if auto is None:
            raise EncoderError(
                f"encoder {place.identifier} is a {classifiers[0]}, which transformers "
                f"{transformers.__version__} does not have. Choose another version of "
                "transformers, or another checkpoint."
            )
    elif hasattr(config, "vision_config"):
        auto = transformers.MODEL_MAPPING[type(config.vision_config)]
        options = {}
    elif config.model_type in {"vit", "deit"}:
        options["add_pooling_layer"] = False
    elif config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    model, report = place.load_model(auto, **options)
    # mask tokens serve pre-training only, and a fresh layer norm changes nothing (pooler of BEiT)
    require_weights(
        place.identifier,
        model,
        report,
        needed=lambda key: not key.endswith("mask_token") and "pooler.layernorm" not in key,
    )
    module: nn.Module = model.float()  # from version 5 on, models come in the checkpoint's type
    return module


def _require_size(
    model: nn.Module, run: Run, config: Config, size: tuple[int, int], identifier: str
) -> None:
    """Refuse images of a size that the model was not made for and does not take."""
    made_for = getattr(config, "image_size", None)
    pair = (made_for, made_for) if isinstance(made_for, int) else tuple(made_for or size)
    channels = getattr(config, "num_channels", None) or 3
    if pair == size and channels == 3:
        return
    try:
        with evaluating(model), torch.inference_mode():
            run(torch.zeros(1, 3, *size))
    except Exception as error:
        # every model has its own way to refuse
        raise EncoderError(
            f"encoder {identifier} is made for images of {channels} channels and {pair} pixels, "
            f"its image processor gives 3 channels and {size} pixels, and the model does not take "
            f"them ({type(error).__name__}: {first_line(error)}). Correct size in "
            "preprocessor_config.json, or take the one that was saved with the model."
        ) from error


def _heads(model: nn.Module) -> list[nn.Module]:
    """Find the last linear layer of each top-level part that is named a classifier."""
    if "ForImageClassification" not in type(model).__name__:
        return []
    heads: list[nn.Module] = []
    for name, part in model.named_children():
        linear = [module for module in part.modules() if isinstance(module, nn.Linear)]
        if linear and ("classifier" in name or name == "head"):
            heads.append(linear[-1])
    return heads


def _pooling(model: nn.Module, config: Config) -> Run:
    def run(images: Batch) -> tuple[Tensor, None]:
        options = {}
        if config.model_type == "vit_mae":
            # by default patches are dropped and shuffled at random; this noise keeps their order
            n_patches = (config.image_size // config.patch_size) ** 2
            order = torch.arange(n_patches, device=images.device, dtype=torch.float32)
            options["noise"] = order.expand(len(images), -1)
        outputs = model(pixel_values=images, **options)
        hidden: Tensor = outputs.last_hidden_state
        if config.model_type in _CLASS_TOKEN:
            return hidden[:, 0], None
        pooled = outputs.get("pooler_output")
        if pooled is not None:
            return pooled.flatten(1), None
        return hidden.mean(dim=1 if hidden.ndim == 3 else (2, 3)), None

    return run


def _layers(model: nn.Module, config: Config) -> dict[str, Layer]:
    # the outermost list of several modules holds the blocks or stages
    lists = [
        (path.count("."), path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 1
    ]
    if not lists:
        return {}
    _, path, blocks = min(lists, key=lambda entry: entry[0])
    n_prefix_tokens = _N_PREFIX_TOKENS.get(config.model_type, 0)
    n_prefix_tokens += getattr(config, "num_register_tokens", 0)
    return {
        f"layer{number}": Layer(f"{path}.{number - 1}", n_prefix_tokens=n_prefix_tokens)
        for number in range(1, len(blocks) + 1)
    }
