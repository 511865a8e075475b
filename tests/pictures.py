"""What is in a figure's file: looked at as a picture, not as a number of bytes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np


def shows_data(path: Path) -> bool:
    """Whether a PNG or SVG has more in it than empty axes have: coloured marks."""
    if path.suffix == ".svg":
        drawing = path.read_text(encoding="utf-8")
        colours = set(re.findall(r"(?:fill|stroke): #(\w{6})", drawing))
        return "</svg>" in drawing and any(len({c[:2], c[2:4], c[4:]}) > 1 for c in colours)
    from matplotlib.image import imread

    pixels = imread(path)[..., :3]
    coloured = np.ptp(pixels, axis=2) > 0.1
    return bool(min(pixels.shape[:2]) > 100 and coloured.sum() > 100)
