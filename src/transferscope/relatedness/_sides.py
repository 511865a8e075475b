"""What comes in, made ready: checked, standardised, divided, and classes matched."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy

from transferscope.errors import FeatureError, InputError, first_few
from transferscope.numerics import arrays, checks
from transferscope.numerics.arrays import Array, ArrayLike, NumpyArray
from transferscope.numerics.sampling import by_class
from transferscope.relatedness._head import Numbers, convert
from transferscope.relatedness._transform import Side, class_means
from transferscope.relatedness._transport import Ids

#: Share of each class that the bound is evaluated on, and of the rest that judges the learning.
HELD_OUT, JUDGING = 0.2, 0.25
#: Samples that a class needs, where some must be held out and where those are given apart.
LEAST_HELD_OUT, LEAST_GIVEN = 3, 2
#: A target feature varies at least this share of what it varies in the reference, as the others do
#: (the median of them), or is taken to: else one sample that differs is all that is seen of it.
LEAST_DEVIATION = 0.1


class PreparedTask(NamedTuple):
    """One task: samples to learn from, to judge the learning, and to evaluate on."""

    learn: Side
    judge: Side
    held_out: Side
    names: NumpyArray
    mean: Numbers
    deviation: Numbers
    varying: npt.NDArray[np.bool_]  # features that are not constant
    held_out_rows: Ids | None  # None where they were given apart


def prepare(
    features: ArrayLike,
    labels: ArrayLike | None,
    test_features: ArrayLike | None,
    test_labels: ArrayLike | None,
    prefix: str,
    reference: PreparedTask | None,
    seed: int,
    warnings: list[str],
) -> PreparedTask:
    """Check a task, leave out what cannot be used, standardise and divide it.

    A target has a `reference`, whose deviations tell which of its own are too small to divide by.

    Without `labels` all samples are of one class, "unlabelled". Classes with fewer than three
    samples cannot be learned, judged and held out: they are left out, and `warnings` says so.
    """
    like = None if reference is None else reference.learn.features
    matrix = _features(features, f"{prefix}features", like)
    n = int(matrix.shape[0])
    ids, names = _labels(labels, n, matrix, prefix)
    counts = np.bincount(ids)
    least = LEAST_HELD_OUT if test_features is None else LEAST_GIVEN
    small = np.flatnonzero(counts < least)
    if small.size:
        if len(counts) - small.size < 2:
            raise InputError(
                f"{prefix}labels need at least {least} samples of each class, to learn from "
                f"and to hold out; only {len(counts) - small.size} of {len(counts)} have them."
            )
        warnings.append(
            f"classes of {prefix}labels with fewer than {least} samples are left out: "
            + first_few(names[small])
        )
    rows = np.flatnonzero(counts[ids] >= least)
    kept = np.flatnonzero(counts >= least)
    names, ids = names[kept], np.searchsorted(kept, ids)
    rng, out = np.random.default_rng(seed), None
    if test_features is None:
        rows, out = _divided(rows, ids, HELD_OUT, rng)
        held, held_ids = _rows(matrix, out), ids[out]
    else:
        held = _features(test_features, f"{prefix}test_features", matrix)
        held_ids = _known_labels(
            test_labels, int(held.shape[0]), held, names, prefix, unlabelled=labels is None
        )
    learn, judge = _divided(rows, ids, JUDGING, rng)
    mean, deviation = _scale(_rows(matrix, rows))
    if not np.any(deviation > 0):
        raise FeatureError(
            f"{prefix}features are the same for all samples; nothing can be compared. "
            "Check the encoder's weights and preprocessing."
        )
    varying = deviation > 0
    if reference is not None:
        deviation = _not_too_small(deviation, reference, warnings)
    deviation = np.where(deviation > 0, deviation, 1.0)

    def side(features: Array, ids: Ids) -> Side:
        return Side((features - convert(mean, features)) / convert(deviation, features), ids)

    return PreparedTask(
        side(_rows(matrix, learn), ids[learn]),
        side(_rows(matrix, judge), ids[judge]),
        side(held, held_ids),
        names,
        mean,
        deviation,
        varying,
        out,
    )


def _features(features: ArrayLike, name: str, like: Array | None) -> Array:
    matrix = checks.features_matrix(features, name)
    checks.finite(matrix, name)
    if like is None:
        return matrix
    if int(matrix.shape[1]) != int(like.shape[1]):
        raise InputError(
            f"{name} must have {int(like.shape[1])} columns as the others have, got "
            f"{int(matrix.shape[1])}; all must come from the same encoder."
        )
    return arrays.convert_like(matrix, like)


def _labels(labels: ArrayLike | None, n: int, like: Array, prefix: str) -> tuple[Ids, NumpyArray]:
    if labels is None:
        return np.zeros(n, np.int64), np.array(["unlabelled"])
    ids, names = checks.class_labels(labels, n, like, f"{prefix}labels")
    return arrays.to_numpy(ids), names


def _known_labels(
    labels: ArrayLike | None,
    n: int,
    like: Array,
    names: NumpyArray,
    prefix: str,
    *,
    unlabelled: bool,
) -> Ids:
    """Ids of test labels among the names of the training classes."""
    if unlabelled:
        return np.zeros(n, np.int64)
    if labels is None:
        raise InputError(f"{prefix}test_features need {prefix}test_labels. Give both or neither.")
    ids, test_names = _labels(labels, n, like, f"{prefix}test_")
    strange = sorted(set(test_names.tolist()) - set(names.tolist()))
    if strange:
        raise InputError(
            f"{prefix}test_labels hold {strange[:5]}, which no usable class of {prefix}labels is; "
            "give at least two training samples of each class or drop these rows."
        )
    return np.searchsorted(names, test_names)[ids]


def _rows(matrix: Array, rows: Ids) -> Array:
    return arrays.namespace(matrix).take(matrix, arrays.from_numpy(rows, matrix), axis=0)


def _divided(rows: Ids, ids: Ids, share: float, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Rows in two parts, the second with about `share` of each class and at least one of it."""
    order, place, size = by_class(ids, rng.permutation(rows))
    out = place < np.maximum(1, np.rint(share * size))
    return np.sort(order[~out]), np.sort(order[out])


def _scale(matrix: Array) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of each feature, 0 where it is rounding."""
    xp = arrays.namespace(matrix)
    n, d = map(int, matrix.shape)
    mean, squares = np.zeros(d), np.zeros(d)
    for rows in arrays.chunks(matrix):
        mean += arrays.to_numpy(xp.sum(arrays.as_float64(matrix[rows, :]), axis=0)) / n
    centre = arrays.from_numpy(mean, matrix)
    for rows in arrays.chunks(matrix):
        squares += arrays.to_numpy(
            xp.sum((arrays.as_float64(matrix[rows, :]) - centre) ** 2, axis=0)
        )
    deviation = np.sqrt(squares / n)
    return mean, np.where(
        deviation > 10 * float(xp.finfo(matrix.dtype).eps) * np.abs(mean), deviation, 0.0
    )


def _not_too_small(deviation: Numbers, reference: PreparedTask, warnings: list[str]) -> Numbers:
    """Deviations of a target, none far below the reference's where the others are not."""
    ratios = np.where(reference.varying, deviation / reference.deviation, 0.0)
    least = LEAST_DEVIATION * float(np.median(ratios[ratios > 0])) if np.any(ratios > 0) else 0.0
    small = np.flatnonzero(reference.varying & (ratios < least))
    if not small.size:
        return deviation
    warnings.append(
        f"{small.size} of {len(deviation)} features vary in the target less than "
        f"{LEAST_DEVIATION:g} times as much as the others do, both by what they vary in the "
        f"reference; they are taken to vary that much: {first_few(small)}"
    )
    floored = deviation.copy()
    floored[small] = least * reference.deviation[small]
    return floored


def match_classes(
    reference: PreparedTask, target: PreparedTask, match: str, n_wanted: int | None, seed: int
) -> tuple[Ids, Numbers]:
    """Choose reference classes for the target's: one for each, or `n_wanted` in all.

    Those beyond one for each target class are the nearest that are left, each joined to the target
    class that it is nearest to.

    Returns
    -------
    chosen : int64 numpy array
        The reference classes that take part.
    shares : float64 numpy array of shape (n_target_classes, len(chosen))
        One for the class that stands for each target class. Where there are fewer reference
        classes than target classes, some stand for several.
    """
    n_reference, n_target = len(reference.names), len(target.names)
    if match == "name":
        place = {str(name): j for j, name in enumerate(reference.names)}
        strange = [str(name) for name in target.names if str(name) not in place]
        if strange:
            raise InputError(
                f"match='name' needs a reference class of each target class's name, there is none "
                f"for {strange[:5]}; use match='transport'."
            )
        choice = np.array([place[str(name)] for name in target.names])
    elif match == "random":
        rng = np.random.default_rng(seed)
        rounds = -(-n_target // n_reference)
        order = np.concatenate([rng.permutation(n_reference) for _ in range(rounds)])
        choice = order[:n_target]
    elif match == "transport":
        means, _ = class_means(target.learn.features, target.learn.labels, n_target)
        centres, _ = class_means(reference.learn.features, reference.learn.labels, n_reference)
        # class by class: all differences at once would be n_target x n_reference x d numbers
        gaps = np.sqrt([np.sum((mean - centres) ** 2, axis=1) for mean in means])
        choice = np.argmin(gaps, axis=1)
        rows, columns = scipy.optimize.linear_sum_assignment(gaps)
        choice[rows] = columns
        if n_wanted is not None:
            return _with_more(choice, gaps, n_wanted)
    else:
        raise InputError(f"match is 'transport', 'name' or 'random', got {match!r}.")
    chosen = np.unique(choice)
    return chosen, np.eye(len(chosen))[np.searchsorted(chosen, choice)]


def _with_more(choice: Ids, gaps: Numbers, n_wanted: int) -> tuple[Ids, Numbers]:
    used = np.unique(choice)
    if not len(used) <= n_wanted <= gaps.shape[1]:
        raise InputError(
            f"n_reference_classes lies between {len(used)}, one for each target class, and the "
            f"{gaps.shape[1]} that there are; got {n_wanted}."
        )
    nearest = gaps.min(axis=0)
    nearest[used] = -1.0
    chosen = np.sort(np.argsort(nearest, kind="stable")[:n_wanted])
    shares = np.zeros(gaps.shape)
    shares[np.arange(len(choice)), choice] = 1.0
    more = np.setdiff1d(chosen, used)
    shares[np.argmin(gaps[:, more], axis=0), more] = 1.0
    return chosen, (shares / shares.sum(axis=1, keepdims=True))[:, chosen]


def restricted(task: PreparedTask, chosen: Ids) -> PreparedTask:
    """The task with these classes only, numbered anew."""

    def side(side: Side) -> Side:
        rows = np.flatnonzero(np.isin(side.labels, chosen))
        return Side(_rows(side.features, rows), np.searchsorted(chosen, side.labels[rows]))

    if len(chosen) == len(task.names):
        return task
    return task._replace(
        learn=side(task.learn),
        judge=side(task.judge),
        held_out=side(task.held_out),
        names=task.names[chosen],
    )
