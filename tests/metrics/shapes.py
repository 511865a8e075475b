"""Tasks of revealing shapes, for what is tested of several metrics."""

from __future__ import annotations

import numpy as np


def task(
    n: int, d: int, n_classes: int = 4, *, spread: float = 1.0, seed: int = 0, at_least: int = 3
):
    """Features (n, d) and labels (n,): Gaussian classes of `at_least` so many samples each."""
    rng = np.random.default_rng(seed)
    every = np.tile(np.arange(n_classes), at_least)
    labels = np.concatenate([every, rng.integers(0, n_classes, n - len(every))])
    features = spread * rng.standard_normal((n_classes, d))[labels] + rng.standard_normal((n, d))
    return features, labels


def dead_dimensions():
    features, labels = task(80, 10)
    return np.column_stack([features, np.zeros((80, 3)), features[:, 0] + features[:, 1]]), labels


SHAPES = {
    "n > d": task(80, 10),
    "n < d": task(30, 70),
    "n = d + 1": task(41, 40),
    "one feature": task(50, 1),
    "many classes": task(150, 20, 40),
    "two classes": task(60, 6, 2),
    "overlap": task(90, 8, spread=0.1),
    "imbalance": (task(120, 9)[0], np.repeat(np.arange(4), [3, 7, 20, 90])),
    "dead dimensions": dead_dimensions(),
    "offset 1000": (task(80, 10)[0] + 1000, task(80, 10)[1]),
    "absent ids": (task(80, 10)[0], task(80, 10)[1] * 5 + 3),
}
