"""Stratified samples: rows drawn so that every class keeps its share."""

from __future__ import annotations

from typing import Any

import numpy as np


def stratified_rows(
    labels: np.ndarray[Any, Any] | None, n_samples: int, limit: int, seed: int
) -> np.ndarray[Any, Any]:
    """Pick at most `limit` of `n_samples` rows, in ascending order, each class by its share.

    Parameters
    ----------
    labels : int array of shape (n_samples,) or None
        None: drawn without strata.
    n_samples, limit, seed : int

    Returns
    -------
    int64 array
        All rows when there are no more than `limit`.
    """
    if n_samples <= limit:
        return np.arange(n_samples)
    shuffled = np.random.default_rng(seed).permutation(n_samples)
    if labels is None:
        return np.sort(shuffled[:limit])
    # the j-th of n_c shuffled members of a class sits at (j + 1/2)/n_c: taking the first `limit`
    # of all by that position gives every class its share
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(n_samples) - np.repeat(np.cumsum(counts) - counts, counts)
    position = (place + 0.5) / np.repeat(counts, counts)
    return np.sort(order[np.argsort(position, kind="stable")[:limit]])
