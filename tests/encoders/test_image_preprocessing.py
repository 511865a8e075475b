"""Images much longer than wide: what the encoder does not see is not computed."""

from __future__ import annotations

import numpy as np
import pytest

from transferscope.encoders import ImagePreprocessing, _image_preprocessing

Image = pytest.importorskip("PIL.Image", reason="images are PIL's")

#: Width and height.
SHAPES = [(2000, 3), (3, 2000), (5000, 7), (900, 40)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    "geometry",
    [
        {"size": (64, 64), "resize": 80},
        {"size": (64, 64), "resize": 50},
        {"size": (40, 64), "resize": (44, 70), "keep_ratio": "cover", "crop_rounding": "down"},
    ],
)
def test_a_long_image_has_the_pixels_of_one_resized_whole(
    shape, interpolation, geometry, monkeypatch
):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (shape[1], shape[0], 3), dtype=np.uint8))
    preprocessing = ImagePreprocessing(interpolation=interpolation, fill=(9, 8, 7), **geometry)
    cropped = preprocessing.prepare(image).astype(int)
    monkeypatch.setattr(_image_preprocessing, "RESIZED_AT_MOST", 10**9)
    whole = preprocessing.prepare(image).astype(int)
    assert cropped.shape == whole.shape
    difference = np.abs(cropped - whole)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.1  # of noise: ties that are rounded to the other side


def test_of_a_long_image_little_is_resized(monkeypatch):
    lengths = []
    resize = Image.Image.resize

    def watched(image, size, *args, **kwargs):
        lengths.append(max(size))
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    image = Image.fromarray(np.zeros((3, 20_000, 3), np.uint8))
    assert ImagePreprocessing((224, 224), 256).prepare(image).shape == (224, 224, 3)
    assert lengths == [224]
