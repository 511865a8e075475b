"""What measuring a metric gives, and what several metrics share of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array
from transferscope.numerics.targets import varies

#: Groups of the jackknife: its standard error is itself uncertain by 18 %.
GROUPS = 16


@dataclass(frozen=True)
class Measurement:
    """One metric of one embedding.

    Attributes
    ----------
    value : float
        Higher = expected to transfer better.
    influence : callable
        Gives, when called, the influence of each sample in ``embedding.influence_rows`` on the
        value: a float64 array with mean about 0, so that ``std / sqrt(n_samples)`` is the standard
        error. A function because it costs a second look at the samples and not everyone asks.
    warnings : tuple of str
        What the value must be read with.
    """

    value: float
    influence: Callable[[], Array]
    warnings: tuple[str, ...] = ()


def hit_rate(hits: Array, rows: Array, n_samples: int, warnings: list[str]) -> Measurement:
    """Accuracy as a measurement, from 1.0 (right) or 0.0 (wrong) per sample.

    `rows` says which of the samples have influences; they may be fewer than the `n_samples` of the
    data set, and the standard error is then that of a mean over so many.
    """
    xp = arrays.namespace(hits)
    scale = math.sqrt(n_samples / int(hits.shape[0]))

    def influence() -> Array:
        chosen = xp.take(hits, rows)
        return scale * (chosen - xp.mean(chosen))

    return Measurement(float(xp.mean(hits)), influence, tuple(warnings))


def r_squared(
    true: Array, predicted: Array, rows: Array, n_samples: int, warnings: list[str]
) -> Measurement:
    """R², mean over the targets that vary, from (n, k) values and their predictions.

    `rows` and `n_samples` are as in `hit_rate`.
    """
    xp = arrays.namespace(true)
    scale = math.sqrt(n_samples / int(true.shape[0]))
    deviation = (true - xp.mean(true, axis=0)) ** 2
    error = (true - predicted) ** 2
    variance = xp.mean(deviation, axis=0)
    varying = varies(variance, xp.mean(true, axis=0))
    n_varying = float(xp.sum(xp.astype(varying, xp.float64)))
    variance = xp.where(varying, variance, 1.0)
    ratio = xp.mean(error, axis=0) / variance

    def influence() -> Array:
        terms = (ratio[None, :] * deviation - error) / variance[None, :]
        terms = xp.sum(xp.where(varying[None, :], terms, 0.0), axis=1) / n_varying
        chosen = xp.take(terms, rows)
        return scale * (chosen - xp.mean(chosen))

    value = float(xp.sum(xp.where(varying, 1 - ratio, 0.0))) / n_varying
    return Measurement(value, influence, tuple(warnings))


def grouped_jackknife(embedding: Embedding, evaluate: Callable[[Array], float]) -> Array:
    """Influences by leaving out one of `GROUPS` groups of the kept samples at a time.

    For metrics whose influence function is long, or too small where parameters are many.

    Parameters
    ----------
    embedding : Embedding
    evaluate : callable
        The value given the weights of the kept samples, float64 (n_kept,): zero for those left
        out, the others equal and of sum 1.

    Returns
    -------
    float64 array
        For the embedding's `influence_rows`, scaled so that ``std / sqrt(n_samples)`` is the
        jackknife's standard error; the same for all samples of a group.

    Raises
    ------
    InputError
        If there are fewer than three samples: without one of two nothing is left to compare.
    """
    n = embedding.n_kept
    if n < 3:
        raise InputError(
            f"a standard error needs at least three samples, got {n}; add samples, or use the "
            "value alone."
        )
    n_groups = min(GROUPS, n)
    group = np.random.default_rng(embedding.seed).permutation(n) % n_groups
    values = np.empty(n_groups)
    for left_out in range(n_groups):
        kept = (group != left_out).astype(np.float64)
        values[left_out] = evaluate(arrays.from_numpy(kept / kept.sum(), embedding.influence_rows))
    # groups have equal sizes, give or take one sample
    spread = math.sqrt(embedding.n_samples * (n_groups - 1)) * (np.mean(values) - values)
    terms = spread[group[arrays.to_numpy(embedding.influence_rows)]]
    return arrays.from_numpy(terms - np.mean(terms), embedding.influence_rows)
