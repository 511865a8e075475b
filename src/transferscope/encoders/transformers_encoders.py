"""Encoders ``hf/<id>`` and ``hf/<folder>``: vision models of Hugging Face transformers.

Text models go on to `text_encoders`, by the kind of their configuration.

The configuration decides which class is loaded. **Features** are, per kind of checkpoint:

===========================================  ======================================================
a classifier (``…ForImageClassification``)   the input of its head; the logits are its own
ViT, DeiT, MAE, MSN                          the class token after the last normalisation. (The
                                             ``pooler`` of ViT is not used: most checkpoints have
                                             none, and transformers then fills it at random.)
DINOv2, DINOv3, CLIP and SigLIP towers,      ``pooler_output``: the normalised class token; for
BEiT, Swin, ConvNeXt, ResNet and others      SigLIP its attention pooling; for BEiT the mean of the
                                             patches if its configuration says so; for Swin and
                                             convolutions the mean over all positions
without any pooling (I-JEPA)                 the mean of the last hidden state
===========================================  ======================================================

Of image-text models (CLIP, SigLIP) the vision tower alone is loaded. The projection to the space
shared with text is left out, as for timm's towers.

**Named layers** ``layer1``, ``layer2``, … are the outputs of the blocks, or of the stages of a
hierarchical model, averaged over all positions without class and register tokens.

**Input** is prepared as the checkpoint's image processor says. Processors follow many rules, so
the translation is compared with the processor itself on one image whenever a model is loaded.

This module imports torch at the top, and transformers when used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from transferscope.encoders._encoder import ImagePreprocessing, Interpolation
from transferscope.encoders._torch_encoder import Layer, TorchEncoder, before_heads
from transferscope.errors import EncoderError, require

if TYPE_CHECKING:
    from transferscope.encoders._text_encoder import TextEncoder

PREFIX = "hf/"

# PIL's numbers for its filters, by which processors name them
_INTERPOLATIONS: tuple[Interpolation, ...] = (
    "nearest",
    "lanczos",
    "bilinear",
    "bicubic",
    "box",
    "hamming",
)

_CLASS_TOKEN = frozenset({"vit", "deit", "vit_mae", "vit_msn"})

# tokens before the first patch, besides the registers that the configuration counts
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


def load_transformers(name: str) -> TorchEncoder | TextEncoder:
    """Load a vision or text model of transformers with its weights.

    Parameters
    ----------
    name : str
        An id on the Hugging Face hub, or a local folder as ``save_pretrained`` of the model and of
        its image processor or tokenizer write it; with or without ``hf/``. For text models options
        may follow a question mark, see `text_encoders`.

    Returns
    -------
    TorchEncoder or TextEncoder
        On the CPU, in float32.

    Raises
    ------
    MissingExtraError
        If transformers cannot be imported.
    EncoderError
        If it cannot be loaded or downloaded, lacks weights, or prepares its images in a way that
        cannot be translated.
    """
    transformers = require("transformers", extra="vision", purpose="load encoders named hf/…")
    source, _, query = name.removeprefix(PREFIX).partition("?")
    identifier = PREFIX + name.removeprefix(PREFIX)
    with _quiet(transformers):
        from transferscope.encoders import text_encoders

        folder = text_encoders.transformer_folder(source)
        config = loaded(identifier, transformers.AutoConfig.from_pretrained, source, **folder)
        if _is_text(config):
            return text_encoders.load_text(transformers, identifier, source, query, config, folder)
        if query:
            raise EncoderError(
                f"Options after a question mark are for text models; {PREFIX}{source} is a vision "
                f"model ({config.model_type}). Leave out ?{query}."
            )
        if config.model_type == "timm_wrapper":
            hint = source if Path(source).is_dir() else source.rpartition("/")[2]
            raise EncoderError(f"{identifier} is a model of timm. Load it as timm/{hint}.")
        processor = loaded(identifier, transformers.AutoImageProcessor.from_pretrained, source)
        preprocessing = _preprocessing(processor, identifier)
        model = _model(transformers, config, identifier, source)
    vision = getattr(config, "vision_config", config)
    heads = _heads(model)
    run: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    if heads:
        run = before_heads(heads, lambda images: model(pixel_values=images).logits)
    else:
        run = _pooling(model, vision)
    return TorchEncoder(
        model,
        run,
        preprocessing=preprocessing,
        identifier=identifier,
        architecture=f"transformers/{type(model).__name__}/{decisive(config)}",
        head_parameters=[parameter for head in heads for parameter in head.parameters()],
        layers=_layers(model, vision),
    )


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and no reports of unused weights: a library does not print."""
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def loaded(identifier: str, load: Callable[..., Any], source: str, **options: Any) -> Any:
    """What a ``from_pretrained`` gives; whatever it raises becomes an `EncoderError`."""
    try:
        # no code from a repository is run; left open, transformers would ask on the terminal
        return load(source, trust_remote_code=False, **options)
    except Exception as error:
        # what comes out of downloads and damaged files has no common class
        reason = next((line for line in str(error).splitlines() if line.strip()), "no message")
        remedy = (
            "The folder must hold what save_pretrained of the model and of its image processor "
            "or tokenizer write: config.json, model.safetensors, preprocessor_config.json or "
            "tokenizer.json."
            if Path(source).is_dir()
            else "Models are downloaded once and then kept: run this once with a connection to "
            f"huggingface.co, or give {PREFIX}<folder> with a local copy."
        )
        raise EncoderError(
            f"{identifier} cannot be loaded ({type(error).__name__}: {reason}). {remedy}"
        ) from error


def _is_text(config: Any) -> bool:
    """Whether a configuration is of a model that reads tokens and no images."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    reads_tokens = (
        TOKENIZER_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )
    kind = config.model_type
    return any(kind in names for names in reads_tokens) and (
        kind not in IMAGE_PROCESSOR_MAPPING_NAMES
    )


def _model(transformers: Any, config: Any, identifier: str, source: str) -> nn.Module:
    options: dict[str, Any] = {"config": config}
    auto = transformers.AutoModel
    if any("ForImageClassification" in name for name in config.architectures or ()):
        # by its own name: for DeiT, "auto" would drop the head of the teacher
        auto = getattr(transformers, config.architectures[0])
    elif hasattr(config, "vision_config"):
        auto = transformers.MODEL_MAPPING[type(config.vision_config)]
        options = {}
    elif config.model_type in {"vit", "deit"}:
        options["add_pooling_layer"] = False
    elif config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    model, report = loaded(
        identifier, auto.from_pretrained, source, output_loading_info=True, **options
    )
    # mask tokens serve pre-training only, and a fresh layer norm changes nothing (pooler of BEiT)
    refuse_missing(
        identifier,
        model,
        [
            key
            for key in report["missing_keys"]
            if not key.endswith("mask_token") and "pooler.layernorm" not in key
        ],
    )
    module: nn.Module = model.float()  # from version 5 on, models come in the checkpoint's type
    return module


def refuse_missing(identifier: str, model: nn.Module, missing: Iterable[str]) -> None:
    """Refuse a checkpoint that lacks weights.

    Raises
    ------
    EncoderError
        If `missing` names any.
    """
    names = sorted(missing)
    if names:
        raise EncoderError(
            f"{identifier} lacks weights that {type(model).__name__} needs, and transformers would "
            f"fill them at random: {', '.join(names[:10])}"
            f"{f' and {len(names) - 10} more' if len(names) > 10 else ''}. "
            "Save the whole model, or choose another checkpoint."
        )


def _heads(model: nn.Module) -> list[nn.Module]:
    """The last linear layer of each top-level part that is called a classifier."""
    if "ForImageClassification" not in type(model).__name__:
        return []
    heads = []
    for name, part in model.named_children():
        linear = [module for module in part.modules() if isinstance(module, nn.Linear)]
        if linear and ("classifier" in name or name == "head"):
            heads.append(linear[-1])
    return list(heads)


def _pooling(model: nn.Module, config: Any) -> Callable[[Tensor], tuple[Tensor, None]]:
    def run(images: Tensor) -> tuple[Tensor, None]:
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


def _layers(model: nn.Module, config: Any) -> dict[str, Layer]:
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


def decisive(config: Any) -> str:
    """The configuration without what differs between copies of the same model."""
    settings = config.to_dict()
    for name in ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"):
        settings.pop(name, None)
    return repr(sorted(settings.items(), key=lambda item: str(item[0])))


def _preprocessing(processor: Any, identifier: str) -> ImagePreprocessing:
    settings: Mapping[str, Any] = processor.to_dict()
    kind = str(settings.get("image_processor_type", type(processor).__name__))
    try:
        geometry = _geometry(settings, kind)
        translated = ImagePreprocessing(**geometry, **_normalisation(settings))
    except (KeyError, TypeError, ValueError) as error:
        raise EncoderError(
            f"The image processor {kind} of {identifier} cannot be translated: {error}. "
            "Use transferscope.encoders.from_module with preprocessing of your own."
        ) from error
    difference = _disagreement(processor, translated)
    if difference > 4:
        raise EncoderError(
            f"The image processor {kind} of {identifier} does something that this version cannot "
            f"translate: on a test image, pixels differ by up to {difference:.0f} of 255. "
            "Use transferscope.encoders.from_module with preprocessing of your own."
        )
    return translated


def _geometry(settings: Mapping[str, Any], kind: str) -> dict[str, Any]:
    size = {key: value for key, value in (settings.get("size") or {}).items() if value}
    crop = {key: value for key, value in (settings.get("crop_size") or {}).items() if value}
    interpolation = _INTERPOLATIONS[int(settings.get("resample") or 2)]
    resize: tuple[int, int] | int | None = None
    seen: tuple[int, int] | None = None
    if settings.get("do_resize"):
        if set(size) == {"height", "width"}:
            resize = seen = (size["height"], size["width"])
        elif set(size) == {"shortest_edge"}:
            resize = size["shortest_edge"]
        else:
            raise ValueError(f"it resizes to {size}, not to a height and width or a shortest edge")
    if "ConvNext" in kind and isinstance(resize, int):
        # its own rule: below 384 enlarge and crop, from there on squash
        seen = (resize, resize)
        resize = int(resize / settings["crop_pct"]) if resize < 384 else seen
    if settings.get("do_center_crop"):
        seen = (crop["height"], crop["width"])
    if seen is None:
        raise ValueError("its images keep different sizes")
    return {
        "size": seen,
        "resize": resize,
        "interpolation": interpolation,
        # where nothing is cropped, the same images as for other libraries' encoders
        "crop_rounding": "nearest" if resize == seen else "down",
    }


def _normalisation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and std for pixels in [0, 1] that do what the processor's steps do to bytes."""
    factor = settings["rescale_factor"] if settings.get("do_rescale") else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if settings.get("do_normalize"):
        mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
    return {
        "mean": tuple(value / (255 * factor) for value in mean),
        "std": tuple(value / (255 * factor) for value in std),
    }


def _disagreement(processor: Any, translated: ImagePreprocessing) -> float:
    """Largest difference of a pixel, of 255, on a smooth image whose sides suit no rule."""
    from PIL import Image

    height, width = 301, 403
    rows, columns = np.mgrid[0:height, 0:width] / height
    waves = [np.sin(7 * rows + 3 * columns), np.cos(5 * columns), np.sin(4 * rows - 6 * columns)]
    pixels = (127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)
    image = Image.fromarray(pixels)
    theirs = np.asarray(processor(image, return_tensors="pt")["pixel_values"][0])
    if theirs.shape != (3, *translated.size):
        return 255.0
    std = np.array(translated.std).reshape(3, 1, 1)
    mean = np.array(translated.mean).reshape(3, 1, 1)
    ours = translated.prepare(image).transpose(2, 0, 1)
    return float(np.abs(255 * (theirs * std + mean) - ours).max())
