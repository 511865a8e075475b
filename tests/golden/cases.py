"""Three seeded classification problems on which public code of the metrics was run.

One `numpy.random.default_rng(seed)` per case, whose draws are combined only by operations that
IEEE 754 rounds correctly (no BLAS, no exp or log, no sums of floats), so that the arrays are the
same to the last bit on every machine; `sha256.json` holds their checksums. Features and targets are
rounded to multiples of 2**-16 and logits to multiples of 2**-12: float32 holds the same numbers.

The arrays of a case, of n samples, d features, c classes and s source classes:

``X`` (n, d) features, ``y`` (n,) labels, ``Y`` (n, 3) regression targets;
``P`` (n, s) source probabilities, ``Pdead`` the same without mass on source class 0, ``L`` (n, s)
source logits;
``G`` (g, d) features of general images, the reference of PED;
``XS`` (m, d), ``yS`` (m,) features and labels of a source task;
``E`` (c, 32, 3) embeddings of the labels by three encoders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]

#: A target class c speaks for the source classes (factor * c + offset) modulo their number.
TIES = ((1, 0), (3, 1), (7, 2))


@dataclass(frozen=True)
class Recipe:
    """What makes one case. The order of the draws in `make` is part of the definition."""

    seed: int
    class_sizes: tuple[int, ...]
    spreads: tuple[float, ...]
    """Standard deviation of the class means, by class."""
    noise: np.ndarray
    """Standard deviation of the independent noise, by feature."""
    n_factors: int
    """Directions of noise that all samples share."""
    factor_scale: float
    n_source_classes: int
    n_source_samples: int
    n_source_task_classes: int
    n_general: int
    sparse: bool = False
    """Features behind a ReLU, some of them constant zero and some with one non-zero sample."""


def _falling_noise(base: float, scale: float, d: int, length: float) -> np.ndarray:
    return base + scale / np.sqrt(1.0 + np.arange(d) / length)


RECIPES = {
    # imbalanced classes of rising separation, noise with eight shared factors
    "A": Recipe(
        seed=101,
        class_sizes=(20, 40, 60, 80, 90, 100, 120, 140, 160, 190),
        spreads=tuple(0.30 + 1.2 * c / 9.0 for c in range(10)),
        noise=_falling_noise(0.0, 2.0, 64, 4.0),
        n_factors=8,
        factor_scale=0.35,
        n_source_classes=16,
        n_source_samples=400,
        n_source_task_classes=8,
        n_general=1500,
    ),
    # sparse features: 13 are constant zero, 8 are zero but for one sample
    "C": Recipe(
        seed=303,
        class_sizes=(100, 150, 200, 250, 300, 400, 600),
        spreads=tuple(0.4 + 0.1 * c for c in range(7)),
        noise=_falling_noise(0.5, 1.0, 256, 8.0),
        n_factors=6,
        factor_scale=0.3,
        n_source_classes=30,
        n_source_samples=500,
        n_source_task_classes=9,
        n_general=2000,
        sparse=True,
    ),
    # two classes that overlap
    "E": Recipe(
        seed=505,
        class_sizes=(130, 270),
        spreads=(0.3, 0.3),
        noise=_falling_noise(0.0, 1.0, 32, 8.0),
        n_factors=3,
        factor_scale=0.4,
        n_source_classes=6,
        n_source_samples=300,
        n_source_task_classes=4,
        n_general=800,
    ),
}


def make(name: str) -> Arrays:
    """The arrays of the case A, C or E."""
    recipe = RECIPES[name]
    rng = np.random.default_rng(recipe.seed)
    labels, features = _clusters(rng, recipe)
    probabilities, without_first, logits = _source_outputs(rng, labels, recipe.n_source_classes)
    d = len(recipe.noise)
    noise = rng.standard_normal((len(labels), 3))
    targets = [
        features[:, 0] * 0.5 - features[:, 1] * 0.25 + noise[:, 0] * 0.25,
        features[:, 2] + noise[:, 1],
        noise[:, 2],
    ]
    mean = rng.standard_normal((1, d)) * 0.5
    scale = 0.25 + rng.random((1, d))
    general = rng.standard_normal((recipe.n_general, d)) * scale + mean
    n, n_classes = recipe.n_source_samples, recipe.n_source_task_classes
    source_labels = rng.integers(0, n_classes, size=n).astype(np.int64)
    source_means = rng.standard_normal((n_classes, d)) * 0.75
    source = source_means[source_labels] + rng.standard_normal((n, d))
    label_embeddings = rng.standard_normal((len(recipe.class_sizes), 32, 3))
    if recipe.sparse:
        general, source = np.maximum(general, 0.0), np.maximum(source, 0.0)
        general[:, ::21] = 0.0
        source[:, ::21] = 0.0
    return {
        "X": features,
        "y": labels,
        "P": probabilities,
        "Pdead": without_first,
        "L": logits,
        "Y": _rounded(np.stack(targets, axis=1)),
        "G": _rounded(general),
        "XS": _rounded(source),
        "yS": source_labels,
        "E": _rounded(label_embeddings),
    }


def _rounded(values: np.ndarray, bits: int = 16) -> np.ndarray:
    """The nearest multiples of 2**-bits."""
    return np.rint(values * 2.0**bits) / 2.0**bits


def _clusters(rng: np.random.Generator, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and features (n, d): a Gaussian around the mean of each class."""
    n, d = sum(recipe.class_sizes), len(recipe.noise)
    labels = np.repeat(np.arange(len(recipe.class_sizes), dtype=np.int64), recipe.class_sizes)
    labels = labels[rng.permutation(n)]
    means = rng.standard_normal((len(recipe.class_sizes), d)) * np.array(recipe.spreads)[:, None]
    features = means[labels] + rng.standard_normal((n, d)) * recipe.noise
    for _ in range(recipe.n_factors):
        strength = rng.standard_normal((n, 1))
        direction = rng.standard_normal((1, d))
        features = features + (strength * direction) * recipe.factor_scale
    if not recipe.sparse:
        return labels, _rounded(features)
    features = _rounded(np.maximum(features - 0.75, 0.0))
    features[:, ::21] = 0.0
    rare = np.arange(5, d, 32)
    features[:, rare] = 0.0
    for k, column in enumerate(rare):
        features[17 * k + 3, column] = 1.0 + k / 4.0
    return labels, features


def _source_outputs(
    rng: np.random.Generator, labels: np.ndarray, n_source: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, the same with source class 0 dead, and logits, each (n, n_source)."""
    n = len(labels)
    counts = rng.integers(0, 24, size=(n, n_source))
    boosts = rng.integers(0, 40, size=(n, len(TIES)))
    logits = rng.standard_normal((n, n_source)) * 2.0
    rows = np.arange(n)
    # one tie after the other: two of them may lead to the same source class
    for (factor, offset), boost in zip(TIES, boosts.T, strict=True):
        tied = (factor * labels + offset) % n_source
        counts[rows, tied] += boost
        logits[rows, tied] += boost / 16.0
    weights = counts * counts
    weights[weights.sum(axis=1) == 0] = 1
    dead = weights.copy()
    dead[:, 0] = 0
    dead[dead.sum(axis=1) == 0, 1] = 1
    shares = [w / w.sum(axis=1, keepdims=True) for w in (weights, dead)]
    return shares[0], shares[1], _rounded(logits, 12)
