"""Moments of features per class: everything that one-pass scores need, mergeable.

A pass over the samples fills `ClassMoments`, batch by batch; two of them merge, so that many
machines can share the samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np

from transferscope.embedding._feature_moments import FeatureMoments, cut
from transferscope.embedding._mergeable import MergeableMoments
from transferscope.errors import InputError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike


class ClassStatistics(NamedTuple):
    """Counts, means and squares of each class.

    Attributes
    ----------
    counts : (C,) float64
        Samples of each class; a class never seen has 0.
    means : (C, d) float64
        Class means; zero for a class never seen.
    within_squares : (C, d) float64
        Per class and feature ``sum (x - mean_c)^2``.
    """

    counts: Array
    means: Array
    within_squares: Array

    def padded(self, n_classes: int) -> ClassStatistics:
        """The same with room for `n_classes` classes, the new ones without samples.

        Parameters
        ----------
        n_classes : int

        Returns
        -------
        ClassStatistics
        """
        missing = n_classes - int(self.counts.shape[0])
        if missing <= 0:
            return self
        xp = arrays.namespace(self.means)
        more = xp.concat([xp.zeros_like(self.means[:1, :])] * missing)
        return ClassStatistics(
            xp.concat([self.counts, more[:, 0]]),
            xp.concat([self.means, more]),
            xp.concat([self.within_squares, more]),
        )

    def merge(self, other: ClassStatistics) -> ClassStatistics:
        """Statistics of both sets of samples together; both have the same classes.

        Parameters
        ----------
        other : ClassStatistics

        Returns
        -------
        ClassStatistics
        """
        xp = arrays.namespace(self.means)
        both = self.counts + other.counts
        share = (other.counts / xp.where(both > 0, both, 1.0))[:, None]
        step = other.means - self.means
        return ClassStatistics(
            both,
            self.means + step * share,
            self.within_squares + other.within_squares + step * step * share * self.counts[:, None],
        )


class ClassMoments(MergeableMoments[ClassStatistics]):
    """Class-conditional moments of features: counts, means, within-class squares, total scatter.

    Start empty, feed it with `update`, join several with `merge`; or use `from_arrays`. Memory is
    O(C d + d²) and does not grow with the number of samples; for more than 2 048 features it is
    O(C d + n d) as long as samples are fewer than features.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope import ClassMoments
    >>> features, labels = np.array([[1.0], [3.0], [8.0]]), np.array([0, 0, 1])
    >>> moments = ClassMoments()
    >>> _ = moments.update(features[:2], labels[:2])
    >>> joined = moments.merge(ClassMoments.from_arrays(features[2:], labels[2:]))
    >>> joined.counts.tolist(), joined.means.ravel().tolist(), joined.mean.tolist()
    ([2.0, 1.0], [2.0, 8.0], [4.0])
    """

    @classmethod
    def from_arrays(cls, features: ArrayLike, labels: ArrayLike) -> ClassMoments:
        """Moments of a whole data set at once.

        Parameters
        ----------
        features : array of shape (n, d)
        labels : integer array of shape (n,)
            Both as `update` takes them.

        Returns
        -------
        ClassMoments
        """
        return cls().update(features, labels)

    def update(self, features: ArrayLike, labels: ArrayLike) -> ClassMoments:
        """Add samples, in place.

        Parameters
        ----------
        features : array of shape (n, d)
            float32 or float64, NumPy or torch; n may be 1. Not modified.
        labels : integer array of shape (n,)
            Class ids from 0. Ids are taken as they are (batches need not hold all classes); an id
            beyond those seen so far adds classes.

        Returns
        -------
        ClassMoments
            Itself.

        Raises
        ------
        InputError
            If shapes disagree, a label is negative or no integer, or d differs from before.
        FeatureError
            If a feature is NaN or infinite; nothing has been added then.
        """
        rows = arrays.working_float(arrays.as_array(features))
        ids = arrays.as_array(labels)
        self._check(rows, ids)
        xp = arrays.namespace(ids)
        ids = arrays.convert_like(xp.astype(ids, xp.int64, copy=False), rows)
        return self._add(ClassMoments.from_chunks(cut(rows), ids, rows))

    @classmethod
    def from_chunks(
        cls, chunks: Iterable[tuple[slice, Array]], labels: Array, like: Array
    ) -> ClassMoments:
        """Moments of features that are made chunk by chunk, without holding them all.

        Parameters
        ----------
        chunks : iterable of (slice, array)
            Rows, and the features of these rows.
        labels : int64 array of shape (n,)
            Class ids of all rows, from 0.
        like : array of shape (any, d)
            Of the dtype, library, device and dimension of the chunks.

        Returns
        -------
        ClassMoments
        """
        sums = _ClassSums(labels, int(arrays.namespace(labels).max(labels)) + 1, like)
        total = FeatureMoments.of(chunks, sums.add)
        return cls._of(sums.finished(), total)

    def _check(self, features: Array, labels: Array) -> None:
        if features.ndim != 2 or labels.ndim != 1 or features.shape[0] != labels.shape[0]:
            raise InputError(
                "features must be (n, d) and labels (n,), got shapes "
                f"{tuple(features.shape)} and {tuple(labels.shape)}."
            )
        if features.shape[0] == 0:
            raise InputError("a batch must hold at least one sample, got none.")
        if "int" not in str(labels.dtype) or int(arrays.namespace(labels).min(labels)) < 0:
            raise InputError(
                "labels must be integer class ids from 0, got dtype "
                f"{labels.dtype} with smallest value {labels.min()}."
            )
        if self._total is not None and features.shape[1] != self.n_features:
            raise InputError(
                f"every batch must have {self.n_features} features like those before, "
                f"got {features.shape[1]}."
            )

    def _merged(self, other: ClassMoments) -> ClassStatistics:
        n_classes = max(self.n_classes, other.n_classes)
        return self.statistics.padded(n_classes).merge(other.statistics.padded(n_classes))

    def only_present(self) -> ClassMoments:
        """The same without the classes that have no sample.

        Returns
        -------
        ClassMoments
        """
        counts, means, within = self.statistics
        xp, present = arrays.namespace(means), counts > 0
        if bool(xp.all(present)):
            return self
        keep = xp.nonzero(present)[0]
        classes = ClassStatistics(
            xp.take(counts, keep), xp.take(means, keep, axis=0), xp.take(within, keep, axis=0)
        )
        return ClassMoments._of(classes, self.total)

    def displaced(self, displacement: Array) -> ClassMoments:
        """Moments after every sample has moved by its class's row of `displacement` (C, d).

        Exact, in closed form: within a class nothing changes, between the classes the new means
        say all. Only `cubic_sums` and `quartic_sum` of the total become NaN, unknown: they depend
        on how each class scatters along its displacement (`Embedding.quartic_sum` looks at the
        samples).

        Parameters
        ----------
        displacement : float64 array of shape (C, d)

        Returns
        -------
        ClassMoments
        """
        xp = arrays.namespace(self.means)
        total = self.total
        weights = self.counts / total.n_samples
        shift = weights @ displacement
        moved = xp.where(self.counts[:, None] > 0, displacement, 0.0)
        # sum over classes of n (b + e)(b + e)' - n b b', b the old mean and e its move
        between = self.means - total.mean + (moved - shift) / 2
        gained = self.counts[:, None] * (moved - shift)
        displaced = replace(
            total.plus(gained, between),
            mean=total.mean + shift,
            cubic_sums=xp.full_like(total.cubic_sums, xp.nan),
            quartic_sum=float("nan"),
        )
        return ClassMoments._of(self.statistics._replace(means=self.means + moved), displaced)

    @property
    def counts(self) -> Array:
        """Samples of each class, (C,) float64; a class never seen has 0."""
        return np.zeros(0) if self._statistics is None else self._statistics.counts

    @property
    def means(self) -> Array:
        """Class means, (C, d) float64; zero for a class never seen."""
        return self.statistics.means

    @property
    def within_squares(self) -> Array:
        """Per class and feature ``sum (x - mean_c)^2``, (C, d) float64."""
        return self.statistics.within_squares

    @property
    def n_classes(self) -> int:
        """Number of class ids, those without samples included."""
        return int(self.counts.shape[0])

    def to_arrays(self) -> dict[str, Array]:
        """All moments by name, to be saved.

        Returns
        -------
        dict of str to array
            `from_saved` takes them back.
        """
        total = {f.name: getattr(self.total, f.name) for f in fields(FeatureMoments)}
        return self.statistics._asdict() | {
            name: np.asarray(v) if isinstance(v, float) else v
            for name, v in total.items()
            if v is not None
        }

    @classmethod
    def from_saved(cls, saved: dict[str, Array]) -> ClassMoments:
        """Rebuild moments from what `to_arrays` gave.

        Parameters
        ----------
        saved : dict of str to array

        Returns
        -------
        ClassMoments
        """
        total = FeatureMoments(
            n_samples=float(saved["n_samples"]),
            mean=saved["mean"],
            scatter=saved["scatter"],
            cubic_sums=saved["cubic_sums"],
            quartic_sum=float(saved["quartic_sum"]),
            basis=saved.get("basis"),
        )
        return cls._of(ClassStatistics(*(saved[name] for name in ClassStatistics._fields)), total)


class _ClassSums:
    """Sums per class of one data set, about a pivot near each class's mean.

    The pivot is the class's mean in the first chunk in which it occurs, rounded to the dtype of the
    features: no digits are lost however far the classes lie apart.
    """

    def __init__(self, labels: Array, n_classes: int, like: Array) -> None:
        self.labels, self.n_classes = labels, n_classes
        xp, device = arrays.namespace(like), arrays.device_of(like)
        shape = (n_classes, int(like.shape[1]))
        self.counts = xp.zeros(n_classes, dtype=xp.float64, device=device)
        self.pivots = xp.zeros(shape, dtype=like.dtype, device=device)
        self.sums = xp.zeros(shape, dtype=xp.float64, device=device)
        self.squares = xp.zeros(shape, dtype=xp.float64, device=device)

    def add(self, rows: slice, chunk: Array, centred: Array, pivot: Array) -> None:
        """Add a chunk, given as it is and about a pivot of its own."""
        xp, C = arrays.namespace(centred), self.n_classes
        labels = self.labels[rows]
        counts = arrays.class_counts(labels, C)
        new = (counts > 0) & (self.counts == 0)
        if bool(xp.any(new)):
            many = xp.astype(xp.where(counts > 0, counts, 1.0), centred.dtype)
            means = arrays.class_sums(centred, labels, C) / many[:, None] + pivot
            self.pivots = xp.where(new[:, None], means, self.pivots)
        apart = xp.take(self.pivots, labels, axis=0)
        apart -= chunk
        self.sums -= arrays.as_float64(arrays.class_sums(apart, labels, C))
        apart *= apart
        self.squares += arrays.as_float64(arrays.class_sums(apart, labels, C))
        self.counts += counts

    def finished(self) -> ClassStatistics:
        """Counts, means and squares of each class."""
        xp = arrays.namespace(self.sums)
        offset = self.sums / xp.where(self.counts > 0, self.counts, 1.0)[:, None]
        squares = self.squares - self.sums * offset
        means = xp.where(self.counts[:, None] > 0, arrays.as_float64(self.pivots) + offset, 0.0)
        return ClassStatistics(self.counts, means, xp.where(squares > 0, squares, 0.0))
