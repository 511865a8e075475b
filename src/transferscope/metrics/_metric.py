"""What a metric is, what measuring it gives, and what several metrics share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array
from transferscope.numerics.targets import TaskType

Need = Literal["source_probabilities", "reference_features", "reference_labels"]
#: Changes of the data under which a value may stay the same.
Change = Literal["row order", "class names", "duplicated rows", "rotation", "shift", "scale"]
#: Data that a value may come with a warning for.
EdgeCase = Literal["n < d", "constant column", "singleton class"]

#: What a metric can score, as most records need it.
CLASSES: tuple[TaskType, ...] = ("classification",)
NUMBERS: tuple[TaskType, ...] = ("regression", "multilabel")
EVERYTHING: tuple[TaskType, ...] = CLASSES + NUMBERS

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


@dataclass(frozen=True)
class Behaviour:
    """How a metric responds to its input; the contract tests hold every metric to its own.

    Attributes
    ----------
    uses_features : bool
        False: it looks at the outputs of the encoder's own head alone.
    prefers_separable : bool
        Whether a separable task has a higher value than the same with its labels shuffled.
    changes_with : tuple of str
        What the value changes with; under all other changes it stays the same.
    warns_of : tuple of str
        What the value comes with a warning for.
    float32_tolerance : float
        How far values in float32 may be from those in float64, relative or absolute.
    copied_to_host : str
        What is copied off the device besides labels, row numbers and the result, and why; empty
        where nothing is.
    """

    uses_features: bool = True
    prefers_separable: bool = True
    changes_with: tuple[Change, ...] = ()
    warns_of: tuple[EdgeCase, ...] = ()
    float32_tolerance: float = 1e-5
    copied_to_host: str = ""


class About(NamedTuple):
    """What the table of metrics says of a metric.

    Attributes
    ----------
    summary : str
        One line.
    range : str
        Smallest and largest value in words.
    publication : str
        Where it was published.
    """

    summary: str
    range: str
    publication: str


@dataclass(frozen=True)
class Metric:
    """What a metric is, in the file that computes it.

    Attributes
    ----------
    name : str
    measure : callable
        ``Embedding -> Measurement``.
    about : About
    tasks : tuple of str
        What it can score.
    needs : tuple of str
        Inputs beyond features and targets that it cannot do without.
    needs_targets : bool
        Whether it looks at labels or targets; the others score unlabelled features as well.
    from_moments : bool
        Whether the value is a function of the class moments alone (one pass, any n).
    behaviour : Behaviour
    parts : mapping of str to float
        The metrics that it is the weighted sum of, when it compares encoders; else empty.
    """

    name: str
    measure: Callable[[Embedding], Measurement]
    about: About
    tasks: tuple[TaskType, ...] = CLASSES
    needs: tuple[Need, ...] = ()
    needs_targets: bool = True
    from_moments: bool = False
    behaviour: Behaviour = Behaviour()
    parts: Mapping[str, float] = field(default_factory=dict)


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
    varying = variance > 0
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
