"""Validation of what comes in at the public border; done once, nowhere deeper."""

from __future__ import annotations

import re

import numpy as np

from transferscope.errors import FeatureError, InputError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike
from transferscope.numerics.targets import ROUNDING

#: From here on a float64 stands for several whole numbers.
INEXACT = 2**53


def features_matrix(features: ArrayLike, name: str = "features") -> Array:
    """Check an (n_samples, n_features) real matrix with at least two rows.

    Raises
    ------
    InputError
        If it is not a two-dimensional real array with at least two rows and one column.
    """
    array = arrays.as_array(features)
    if array.ndim != 2:
        raise InputError(
            f"{name} must be a matrix (n_samples, n_features), got shape {tuple(array.shape)}; "
            "pool or flatten each sample to one vector first."
        )
    n_samples, n_features = map(int, array.shape)
    if n_samples < 2 or n_features < 1:
        raise InputError(
            f"{name} must have at least 2 samples and 1 dimension, got shape "
            f"{(n_samples, n_features)}."
        )
    # of NumPy's dtypes the name, as their text may hold a byte order
    if not re.search(r"\b(bfloat|float|u?int)\d+", getattr(array.dtype, "name", str(array.dtype))):
        raise InputError(f"{name} must hold real numbers, got dtype {array.dtype}.")
    return arrays.working_float(array)


def largest_value(dtype: object) -> float:
    """The largest feature whose powers and their sums a dtype holds: 1e12 or 1e50."""
    return 2.0**40 if "32" in str(dtype) else 2.0**166


def finite(features: Array, name: str = "features") -> None:
    """Refuse NaN, infinity, and numbers whose powers would become infinite.

    Raises
    ------
    FeatureError
        If any entry is not finite, naming the first bad row, or larger than `largest_value`.
    """
    xp, limit = arrays.namespace(features), largest_value(features.dtype)
    for rows in arrays.chunks(features):
        size = xp.abs(features[rows, :])
        if bool(xp.all(size <= limit)):
            continue
        good = xp.isfinite(size)
        if bool(xp.all(good)):
            raise FeatureError(
                f"{name} reach {float(xp.max(size)):.3g}, whose powers overflow "
                f"{features.dtype} (at most {limit:.0e} is taken). Divide them by a power of ten"
                f"{', or pass float64' if '32' in str(features.dtype) else ''}."
            )
        bad = np.flatnonzero(~arrays.to_numpy(xp.all(good, axis=1)))
        first = rows.start + int(bad[0])
        raise FeatureError(
            f"{name} must be finite, but row {first} holds NaN or infinity "
            f"({bad.size} such rows among {rows.start} to {rows.stop - 1}). "
            "Check the encoder in float32, or drop these rows."
        )


def class_labels(
    labels: ArrayLike, n_samples: int, like: Array, name: str = "labels"
) -> tuple[Array, Array]:
    """Check class labels and number the classes that occur from 0.

    Absent ids do not count as classes: labels 0, 2, 7 are three classes.

    Parameters
    ----------
    labels : array-like of int or str, shape (n_samples,) or (n_samples, 1)
    n_samples : int
        Length that the labels must have.
    like : array
        The features: the ids returned are in their library and on their device.
    name : str
        What messages call them.

    Returns
    -------
    ids : int64 array, shape (n_samples,)
        In 0..C-1.
    names : numpy array, shape (C,)
        The original label of each id.

    Raises
    ------
    InputError
        If the labels are not one-dimensional, of another length, not ids, or of one class only.
    """
    values = arrays.to_numpy(arrays.as_array(labels))
    if values.shape[1:] == (1,):  # one column of a table
        values = values[:, 0]
    if values.ndim != 1:
        raise InputError(
            f"{name} must be one id per sample, shape (n_samples,), got shape {values.shape}; "
            "for one-hot or multi-label columns use targets=."
        )
    if values.shape[0] != n_samples:
        raise InputError(
            f"{name} and features must have the same length, got {values.shape[0]} labels "
            f"for {n_samples} feature rows."
        )
    if values.dtype.kind == "f":
        if not np.all(np.isfinite(values)) or np.any(values != np.rint(values)):
            raise InputError(
                f"{name} must be class ids, got fractional or non-finite numbers; "
                "for regression use targets=."
            )
        if np.any(np.abs(values) >= INEXACT):
            raise InputError(
                f"labels must be below 2**53 where they are class ids in floating point, which "
                f"holds no larger ones exactly; got {values[np.abs(values).argmax()]}. Give whole "
                "numbers or texts."
            )
        values = values.astype(np.int64)
    if values.dtype.kind == "i" and values.size and values.min() < 0:
        raise InputError(
            f"{name} must not be negative, got {values.min()}; drop unlabelled samples first."
        )
    kinds = {type(value).__name__ for value in values} if values.dtype.kind == "O" else set()
    if len(kinds) > 1 or "NoneType" in kinds:
        raise InputError(
            f"{name} must be all text or all whole numbers, got {' and '.join(sorted(kinds))}; "
            "drop unlabelled samples and write the ids in one way."
        )
    names, ids = np.unique(values, return_inverse=True)
    if names.size < 2:
        raise InputError(
            f"{name} must hold at least two classes, got only {names.tolist()}; a score compares "
            "classes."
        )
    return arrays.from_numpy(ids.astype(np.int64), like), names


def target_columns(targets: ArrayLike, n_samples: int, like: Array) -> Array:
    """Check real-valued targets (regression, or 0/1 columns for multi-label).

    Raises
    ------
    InputError
        If they are of another length, not finite, or constant in every column.
    """
    values = arrays.to_numpy(arrays.as_array(targets))
    if values.dtype.kind not in "fiub":
        raise InputError(f"targets must be numbers, got dtype {values.dtype}.")
    values = values.astype(np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[0] != n_samples or values.shape[1] == 0:
        raise InputError(
            f"targets must have shape (n_samples,) or (n_samples, n_targets) with at least one "
            f"target and n_samples = {n_samples}, got {values.shape}."
        )
    if not np.all(np.isfinite(values)):
        raise InputError("targets must be finite; drop the rows with NaN or infinity.")
    largest = float(np.max(np.abs(values)))
    limit = largest_value(values.dtype)
    if largest > limit:
        raise InputError(
            f"targets reach {largest:.3g}, whose powers become infinite (at most {limit:.0e} is "
            "taken). Divide them by a power of ten."
        )
    spread = np.ptp(values, axis=0)
    if not np.any(spread > ROUNDING * np.max(np.abs(values), axis=0)):
        by = " more than by rounding" if np.any(spread) else ""
        raise InputError(f"targets must vary{by}, every row is {values[0].tolist()}.")
    least = float(np.min(spread[spread > 0]))
    if least < 1 / limit:
        raise InputError(
            f"targets vary by {least:.3g}, whose powers become zero (at least {1 / limit:.0e} is "
            "taken). Multiply them by a power of ten."
        )
    return arrays.from_numpy(values, like)


def probabilities(values: ArrayLike, n_samples: int, like: Array) -> Array:
    """Check source probabilities: non-negative rows that sum to one.

    Raises
    ------
    InputError
        If the shape is wrong, an entry is negative or not finite, or a row does not sum to one.
    """
    array = source_outputs(values, "source_probabilities", n_samples, like)
    xp = arrays.namespace(array)
    total = xp.sum(array, axis=1)
    if not bool(xp.all(xp.isfinite(total))) or float(xp.min(array)) < 0:
        raise InputError("source_probabilities must be finite and not negative.")
    worst = float(xp.max(xp.abs(total - 1)))
    if worst > 1e-2:
        raise InputError(
            f"each row of source_probabilities must sum to 1, one is off by {worst:.3g}; "
            "for logits use source_logits=."
        )
    return array


def source_outputs(values: ArrayLike, name: str, n_samples: int, like: Array) -> Array:
    """Check what the encoder's own head gave: one row per sample, on the device of the features.

    Raises
    ------
    InputError
        If it is no matrix or of another length.
    """
    array = features_matrix(values, name)
    if int(array.shape[0]) != n_samples:
        raise InputError(
            f"{name} and features must have the same length, got {int(array.shape[0])} and "
            f"{n_samples} rows."
        )
    return arrays.convert_like(array, like)


def reference_matrix(values: ArrayLike, like: Array) -> Array:
    """Check features of the reference task: as many columns as the features, finite.

    Raises
    ------
    InputError
        If the numbers of columns differ.
    FeatureError
        If an entry is not finite.
    """
    array = features_matrix(values, "reference_features")
    if int(array.shape[1]) != int(like.shape[1]):
        raise InputError(
            f"reference_features must have the {int(like.shape[1])} columns of features, got "
            f"{int(array.shape[1])}; both must come from the same encoder."
        )
    finite(array, "reference_features")
    return arrays.convert_like(array, like)
