"""Stratified samples: rows drawn so that every class keeps its share."""

from __future__ import annotations

import numpy as np

from transferscope.numerics.arrays import NumpyArray


def stratified_rows(labels: NumpyArray | None, n_samples: int, limit: int, seed: int) -> NumpyArray:
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
    rows, place, size = by_class(labels, shuffled)
    return np.sort(rows[np.argsort((place + 0.5) / size, kind="stable")[:limit]])


def by_class(labels: NumpyArray, order: NumpyArray) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """Sort rows by class, within a class as they stand in `order`.

    Parameters
    ----------
    labels : int array of shape (n_samples,)
        Not negative.
    order : int array of shape (n,)
        Rows, usually in a random order.

    Returns
    -------
    rows, place, size : int64 arrays of shape (n,)
        The rows; the place of each within its class, from 0; the number of rows of its class.
        ``rows[place < share * size]`` is a stratified share.
    """
    rows = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels[order])
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, place, np.repeat(counts, counts)
