"""From an image processor of transformers to `ImagePreprocessing`.

Processors follow many rules, so the translation is compared with the processor itself on a few
images whenever a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from transferscope.encoders._image_preprocessing import ImagePreprocessing, Interpolation
from transferscope.encoders._pretrained import first_line, refuse_own_code
from transferscope.errors import EncoderError, first_few

# sides of the images on which a processor is compared: wide, high, and smaller than any input
_SIZES = ((301, 403), (347, 211), (23, 19))
# what to_dict() lists besides settings
_NO_SETTINGS = frozenset(
    {"image_processor_type", "feature_extractor_type", "processor_class", "use_fast"}
)

#: An image processor of transformers.
Processor: TypeAlias = Any
#: The settings of one, which are of many types.
Settings: TypeAlias = Mapping[str, Any]

# PIL's numbers for its filters, by which processors name them
_INTERPOLATIONS: tuple[Interpolation, ...] = (
    "nearest",
    "lanczos",
    "bilinear",
    "bicubic",
    "box",
    "hamming",
)


def translate_processor(processor: Processor, identifier: str) -> ImagePreprocessing:
    """Translate an image processor of transformers.

    Parameters
    ----------
    processor : image processor of transformers
    identifier : str
        Name of the encoder, for messages.

    Returns
    -------
    ImagePreprocessing
        Gives the pixels that the processor gives, on a test image within 4 of 255.

    Raises
    ------
    EncoderError
        If it does something that cannot be translated.
    """
    settings: Settings = processor.to_dict()
    kind = str(settings.get("image_processor_type", type(processor).__name__))
    refuse_own_code(identifier, settings.get("auto_map"), "preprocessor_config.json")
    remedy = "Use transferscope.from_module(module, preprocessing) with your own preprocessing."
    try:
        mean, std = _normalisation(settings)
        translated = ImagePreprocessing(**_geometry(settings, kind), mean=mean, std=std)
        difference = max(_disagreement(processor, translated, *size) for size in _SIZES)
    except Exception as error:
        # settings may be of any type, and the processor itself may refuse them by anything
        raise EncoderError(
            f"image processor {kind} of {identifier} cannot be translated: {first_line(error)} "
            f"({type(error).__name__}). {remedy}"
        ) from error
    if difference > 4:
        raise EncoderError(
            f"image processor {kind} of {identifier} does something that this version cannot "
            f"translate: on a test image, pixels differ by up to {difference:.0f} of 255. {remedy}"
        )
    if ignored := _ignored(processor, settings):
        raise EncoderError(
            f"image processor {kind} of {identifier} has settings that it does not know itself: "
            f"{first_few(ignored)}. Remove them from a copy of preprocessor_config.json, or "
            "correct its image_processor_type."
        )
    return translated


def _ignored(processor: Processor, settings: Settings) -> list[str]:
    """Settings that are switched on and that the processor's class does not have."""
    valid = getattr(processor, "valid_kwargs", None)  # None: before version 5
    known = {*_NO_SETTINGS, *getattr(valid, "__annotations__", settings)}
    return [f"{name}={value!r}" for name, value in settings.items() if value and name not in known]


def _geometry(settings: Settings, kind: str) -> dict[str, Any]:
    size = {key: value for key, value in (settings.get("size") or {}).items() if value}
    crop = {key: value for key, value in (settings.get("crop_size") or {}).items() if value}
    resample = settings.get("resample")
    number = 2 if resample is None else int(resample)
    if not 0 <= number < len(_INTERPOLATIONS):
        raise ValueError(f"resample {resample} is no filter of PIL")
    interpolation = _INTERPOLATIONS[number]
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


def _normalisation(settings: Settings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for pixels in [0, 1] that do what the processor's steps do to bytes."""
    factor = settings["rescale_factor"] if settings.get("do_rescale") else 1.0
    mean, std = _channels(0.0), _channels(1.0)
    if settings.get("do_normalize"):
        mean, std = _channels(settings["image_mean"]), _channels(settings["image_std"])
    return (
        tuple(value / (255 * factor) for value in mean),
        tuple(value / (255 * factor) for value in std),
    )


def _channels(values: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(values) if isinstance(values, Sequence) else (values,) * 3


def _disagreement(
    processor: Processor, translated: ImagePreprocessing, height: int, width: int
) -> float:
    """Largest difference of a pixel, of 255, on a smooth image."""
    from PIL import Image

    rows, columns = np.mgrid[0:height, 0:width] / 301
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
