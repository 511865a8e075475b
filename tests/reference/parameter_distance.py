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


def delta(scale: float, a: Any, b: Any) -> np.ndarray:
    """What a LoRA adapter adds to the weight of a linear layer, element by element."""
    rows, columns = len(b), len(a[0])
    return np.array(
        [
            [scale * sum(b[i][k] * a[k][j] for k in range(len(a))) for j in range(columns)]
            for i in range(rows)
        ]
    )


def deltas(weights: list[Any], ones: list[Any], twos: list[Any]) -> dict[str, float]:
    """Drifts, distance and cosine of two adapters over the weights of a layer."""
    base = one = two = apart = inner = 0.0
    for weight, first, second in zip(weights, ones, twos, strict=True):
        for w, x, y in zip(np.ravel(weight), np.ravel(first), np.ravel(second), strict=True):
            base += float(w) ** 2
            one += float(x) ** 2
            two += float(y) ** 2
            apart += float(x - y) ** 2
            inner += float(x * y)
    return {
        "base_norm": math.sqrt(base),
        "drift": math.sqrt(one / base),
        "other_drift": math.sqrt(two / base),
        "distance": math.sqrt(apart / base),
        "cosine": inner / math.sqrt(one * two),
    }


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
