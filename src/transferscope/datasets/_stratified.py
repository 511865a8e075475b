"""Drawing a part of the samples that keeps the proportions of the classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transferscope.numerics.sampling import by_class

#: Samples that every class keeps.
MINIMUM_PER_CLASS = 2


def draw_part(
    classes: npt.NDArray[np.int64],
    *,
    max_samples: int | None,
    per_class: int | None,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Draw rows at random, each class by its share.

    Parameters
    ----------
    classes : int array of shape (n,)
        Class ids.
    max_samples : int or None
        Rows in all; at least `MINIMUM_PER_CLASS` for each class.
    per_class : int or None
        At most this many rows of a class, before `max_samples` applies.
    seed : int
        The same seed draws the same rows, and of a larger number mostly the same and more.

    Returns
    -------
    int64 array
        Positions in ascending order; all of them if nothing has to go.
    """
    counts = np.bincount(classes)
    keep = counts if per_class is None else np.minimum(counts, per_class)
    if max_samples is not None and max_samples < keep.sum():
        minimum = np.minimum(keep, MINIMUM_PER_CLASS)
        # largest remainders, in integers, so that the sum is exact
        spare, rest = keep - minimum, int(max_samples - minimum.sum())
        extra, remainder = np.divmod(spare * rest, int(spare.sum()))
        last = np.argsort(-remainder, kind="stable")[: rest - int(extra.sum())]
        extra[last] += 1
        keep = minimum + extra
    n_samples = len(classes)
    if keep.sum() == n_samples:
        return np.arange(n_samples)
    order = np.random.default_rng(seed).permutation(n_samples)
    rows, place, _ = by_class(classes, order)
    return np.sort(rows[place < keep[classes[rows]]])
