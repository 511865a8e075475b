"""From an image processor of transformers to `ImagePreprocessing`.

Processors follow many rules, so the translation is compared with the processor itself on one image
whenever a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from transferscope.encoders._image_preprocessing import ImagePreprocessing, Interpolation
from transferscope.errors import EncoderError

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
    try:
        mean, std = _normalisation(settings)
        translated = ImagePreprocessing(**_geometry(settings, kind), mean=mean, std=std)
    except (KeyError, TypeError, ValueError) as error:
        raise EncoderError(
            f"image processor {kind} of {identifier} cannot be translated: {error}. "
            "Use transferscope.from_module(module, preprocessing) with your own preprocessing."
        ) from error
    difference = _disagreement(processor, translated)
    if difference > 4:
        raise EncoderError(
            f"image processor {kind} of {identifier} does something that this version cannot "
            f"translate: on a test image, pixels differ by up to {difference:.0f} of 255. "
            "Use transferscope.from_module(module, preprocessing) with your own preprocessing."
        )
    return translated


def _geometry(settings: Settings, kind: str) -> dict[str, Any]:
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


def _normalisation(settings: Settings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for pixels in [0, 1] that do what the processor's steps do to bytes."""
    factor = settings["rescale_factor"] if settings.get("do_rescale") else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if settings.get("do_normalize"):
        mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
    return (
        tuple(value / (255 * factor) for value in mean),
        tuple(value / (255 * factor) for value in std),
    )


def _disagreement(processor: Processor, translated: ImagePreprocessing) -> float:
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
