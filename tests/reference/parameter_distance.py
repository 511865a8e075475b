"""Parameter distance, written out: loops over blocks, tensors and elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

#: A ResNet-50 as the authors' script knows it: stem, 16 bottlenecks without shortcuts, head.
RESNET50 = {
    "stem": ["conv1.weight"],
    **{
        f"layer{stage}.{block}": [f"layer{stage}.{block}.conv{k}.weight" for k in (1, 2, 3)]
        for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3))
        for block in range(blocks)
    },
    "head": ["fc.weight"],
}


def distance(one: Any, two: Any, measure: str) -> float:
    """D of two tensors."""
    a, b = np.asarray(one, dtype=np.float64).ravel(), np.asarray(two, dtype=np.float64).ravel()
    if measure == "mean_abs":
        return float(np.mean(np.abs(a - b)))
    if measure == "l2":
        return math.sqrt(float(np.sum((a - b) ** 2)))
    if measure == "relative_l2":
        return math.sqrt(float(np.sum((a - b) ** 2)) / float(np.sum(b**2)))
    return 1 - float(np.sum(a * b)) / math.sqrt(float(np.sum(a**2)) * float(np.sum(b**2)))


def transferability(
    random: Any, pretrained: Any, finetuned: Any, blocks: dict[str, list[str]], measure: str
) -> dict[str, float]:
    """Distances averaged over a block's tensors first, then the ratio; overall without the head."""
    values = {}
    for block, names in blocks.items():
        far = near = 0.0
        for name in names:
            far += distance(random[name], finetuned[name], measure) / len(names)
            near += distance(pretrained[name], finetuned[name], measure) / len(names)
        values[block] = far / near
    body = [value for block, value in values.items() if block != "head"]
    values["overall"] = sum(body) / len(body)
    return values


def ordinary_least_squares(columns: list[Any], target: Any) -> tuple[np.ndarray, float]:
    """Coefficients by the normal equations, and R²."""
    design = np.array(columns, dtype=np.float64).T
    solution = np.linalg.inv(design.T @ design) @ design.T @ np.asarray(target)
    residual = np.asarray(target) - design @ solution
    total = np.asarray(target) - np.mean(target)
    return solution, 1 - float(residual @ residual) / float(total @ total)
