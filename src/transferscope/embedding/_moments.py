"""Moments of features per class: everything that one-pass scores need, mergeable.

A pass over the samples fills `ClassMoments` (or `TargetMoments` for real-valued targets), batch by
batch; two of them merge, so a cluster is a reduce. All sums are taken about a mean (of the batch,
of the part), never about zero, and are held in float64 whatever the dtype of the features:
at mean 1000 in float32 raw sums lose all digits, these lose none that the data have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from transferscope.errors import FeatureError, InputError
from transferscope.numerics import arrays, checks
from transferscope.numerics.arrays import Array

#: A chunk is taken about the mean of this many of its rows.
PIVOT_ROWS = 64


@dataclass
class FeatureMoments:
    """Count, mean, scatter and two fourth-order sums of a set of feature vectors.

    Attributes
    ----------
    n_samples : float
    mean : (d,) float64
    scatter : (d, d) float64
        ``sum (x - mean)(x - mean)^T``, not divided by n.
    cubic_sums : (d,) float64
        ``sum |x - mean|^2 (x - mean)``; with `quartic_sum` what Ledoit-Wolf shrinkage needs.
    quartic_sum : float
        ``sum |x - mean|^4``.
    """

    n_samples: float
    mean: Array
    scatter: Array
    cubic_sums: Array
    quartic_sum: float

    @classmethod
    def of(
        cls,
        chunks: Iterable[tuple[slice, Array]],
        visit: Callable[[slice, Array, Array, Array], None] | None = None,
    ) -> Self:
        """Moments of features (n, d) that come chunk by chunk.

        Parameters
        ----------
        chunks : iterable of (slice, array)
            Rows, and the features of these rows.
        visit : callable, optional
            Called as ``visit(rows, chunk, centred, pivot)`` with each chunk, and the same about a
            pivot near its mean, both in the dtype of the features.

        Raises
        ------
        FeatureError
            If a feature is NaN or infinite, or so large that its cube overflows.
        """
        scatter: Array = None
        origin: Array = None
        cubic_sums: Array = 0.0
        quartic_sum = 0.0
        corrections: list[Array] = []
        weights: list[float] = []
        for rows, chunk in chunks:
            xp = arrays.namespace(chunk)
            n = int(chunk.shape[0])
            with np.errstate(over="ignore", invalid="ignore"):  # an error says it better
                pivot = xp.mean(chunk[: min(n, PIVOT_ROWS), :], axis=0)
                centred = chunk - pivot
                norms = xp.vecdot(centred, centred)
                _refuse_unusable(chunk, norms * xp.sqrt(norms))
            if origin is None:
                # added to in place: fresh memory of d x d costs more than the sums
                origin, d = arrays.as_float64(pivot), int(chunk.shape[1])
                device = arrays.device_of(chunk)
                scatter = xp.zeros((d, d), dtype=xp.float64, device=device)
            step = arrays.as_float64(pivot) - origin
            along = centred @ xp.astype(step, centred.dtype)
            sums = arrays.as_float64(xp.stack([xp.ones_like(norms), norms, along]) @ centred)
            left, own, pull = sums[0, :] / n, sums[1, :], sums[2, :]  # left: from pivot to mean
            # by NumPy's own BLAS: scipy's has other threads, and the two wait for each other
            scatter += centred.T @ centred
            corrections += [step + left, left]
            weights += [n, -n]
            # sums of |y + step|² (y + step) and of |y + step|⁴, y the chunk about its pivot
            norms = arrays.as_float64(norms)
            squares, length = float(xp.sum(norms)), float(step @ step)
            lean = n * float(left @ step)
            cubic_sums = cubic_sums + own + 2 * pull + (squares + 2 * lean + n * length) * step
            cubic_sums = cubic_sums + n * length * left
            quartic_sum += float(xp.sum(norms * norms)) + 4 * float(own @ step)
            quartic_sum += 4 * float(step @ pull) + length * (2 * squares + 4 * lean + n * length)
            if visit is not None:
                visit(rows, chunk, centred, pivot)
        return cls._about_mean(origin, scatter, cubic_sums, quartic_sum, corrections, weights)

    @classmethod
    def _about_mean(
        cls,
        origin: Array,
        scatter: Array,
        cubic_sums: Array,
        quartic_sum: float,
        corrections: list[Array],
        weights: list[float],
    ) -> Self:
        """Turn sums about an origin into sums about the mean.

        `scatter`, which is overwritten, is still without its rank-one terms
        ``weight * correction correctionᵀ``; those of positive weight are the chunks' sizes and
        means about the origin.
        """
        xp = arrays.namespace(origin)
        given = xp.stack(corrections)
        factors = xp.asarray(weights, dtype=xp.float64, device=arrays.device_of(origin))
        sizes = xp.where(factors > 0, factors, 0.0)
        n = float(xp.sum(sizes))
        offset = (sizes @ given) / n
        scatter += given.T @ (factors[:, None] * given)
        trace = float(xp.linalg.trace(scatter))
        pull = scatter @ offset
        length = float(offset @ offset)
        scatter -= n * offset[:, None] * offset[None, :]
        return cls(
            n_samples=n,
            mean=origin + offset,
            scatter=scatter,
            cubic_sums=cubic_sums - trace * offset - 2 * pull + 2 * n * length * offset,
            quartic_sum=quartic_sum
            - 4 * float(cubic_sums @ offset)
            + 4 * float(offset @ pull)
            + 2 * trace * length
            - 3 * n * length**2,
        )

    def merge(self, other: Self) -> Self:
        """Moments of both sets together (Chan, Golub & LeVeque, 1983)."""
        n = self.n_samples + other.n_samples
        step = other.mean - self.mean
        mean = self.mean + step * (other.n_samples / n)
        here, there = self._about(mean), other._about(mean)
        gap = step[:, None] * step[None, :]
        return replace(
            self,
            n_samples=n,
            mean=mean,
            scatter=self.scatter + other.scatter + gap * (self.n_samples * other.n_samples / n),
            cubic_sums=here[0] + there[0],
            quartic_sum=here[1] + there[1],
        )

    def _about(self, centre: Array) -> tuple[Array, float]:
        """`cubic_sums` and `quartic_sum` about another centre."""
        xp = arrays.namespace(centre)
        shift = self.mean - centre
        length = float(shift @ shift)
        trace = float(xp.linalg.trace(self.scatter))
        pull = self.scatter @ shift
        cubic_sums = self.cubic_sums + trace * shift + 2 * pull + self.n_samples * length * shift
        quartic_sum = (
            self.quartic_sum
            + 4 * float(self.cubic_sums @ shift)
            + 4 * float(shift @ pull)
            + 2 * trace * length
            + self.n_samples * length**2
        )
        return cubic_sums, quartic_sum


def _cut(features: Array) -> Iterator[tuple[slice, Array]]:
    """Features in pieces of bounded size."""
    return ((rows, features[rows, :]) for rows in arrays.chunks(features))


def _refuse_unusable(chunk: Array, cubic_sums: Array) -> None:
    """Refuse features that are not finite, or the cubic_sums of whose lengths are not."""
    xp = arrays.namespace(chunk)
    if not bool(xp.isfinite(xp.sum(cubic_sums))):
        checks.finite(chunk)
        raise FeatureError(
            f"features reach {float(xp.max(xp.abs(chunk))):.3g}, whose cubic_sums overflow "
            f"{chunk.dtype}; scale them down or pass float64."
        )


class ClassMoments:
    """Class-conditional moments of features: counts, means, within-class squares, total scatter.

    Start empty, feed it with `update`, join several with `merge`; or use `from_arrays`. Memory is
    O(C d + d²) and does not grow with the number of samples.

    Attributes
    ----------
    counts : (C,) float64
        Samples of each class; a class never seen has 0.
    means : (C, d) float64
        Class means; zero for a class never seen.
    within_squares : (C, d) float64
        Per class and dimension ``sum (x - mean_c)^2``.
    total : FeatureMoments
        Of all samples, whatever their class.

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

    def __init__(self) -> None:
        self.counts: Array = np.zeros(0)
        self.means: Array = None
        self.within_squares: Array = None
        self._total: FeatureMoments | None = None

    @classmethod
    def from_arrays(cls, features: Any, labels: Any) -> ClassMoments:
        """Moments of a whole data set at once; see `update`."""
        return cls().update(features, labels)

    def update(self, features: Any, labels: Any) -> ClassMoments:
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
        features = arrays.working_float(arrays.as_array(features))
        labels = arrays.as_array(labels)
        self._check(features, labels)
        xp = arrays.namespace(labels)
        labels = arrays.convert_like(xp.astype(labels, xp.int64, copy=False), features)
        added = ClassMoments.from_chunks(_cut(features), labels, features)
        self.__dict__.update(self.merge(added).__dict__)
        return self

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
        """
        moments, C = cls(), int(arrays.namespace(labels).max(labels)) + 1
        sums = _ClassSums(labels, C, like)
        total = FeatureMoments.of(chunks, sums.add)
        moments._grow(C, like)
        moments._join(*sums.finished(), total)
        return moments

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
        if self._total is not None and features.shape[1] != self.mean.shape[0]:
            raise InputError(
                f"every batch must have {self.mean.shape[0]} features like those before, "
                f"got {features.shape[1]}."
            )

    def _grow(self, n_classes: int, like: Array) -> None:
        xp, device, d = arrays.namespace(like), arrays.device_of(like), int(like.shape[1])
        have = self.n_classes
        if self.means is None:
            self.counts = xp.zeros(0, dtype=xp.float64, device=device)
            self.means = xp.zeros((0, d), dtype=xp.float64, device=device)
            self.within_squares = self.means
        if n_classes > have:
            more = xp.zeros((n_classes - have, d), dtype=xp.float64, device=device)
            self.counts = xp.concat([self.counts, more[:, 0]])
            self.means = xp.concat([self.means, more])
            self.within_squares = xp.concat([self.within_squares, more])

    def _join(self, counts: Array, means: Array, squares: Array, total: FeatureMoments) -> None:
        xp = arrays.namespace(means)
        both = self.counts + counts
        share = (counts / xp.where(both > 0, both, 1.0))[:, None]
        step = means - self.means
        self.within_squares = (
            self.within_squares + squares + step * step * share * self.counts[:, None]
        )
        self.means = self.means + step * share
        self.counts = both
        self._total = total if self._total is None else self._total.merge(total)

    def merge(self, other: ClassMoments) -> ClassMoments:
        """Moments of both sets of samples together; neither is changed.

        The order of merging does not matter (to rounding), and an empty one is neutral.

        Raises
        ------
        InputError
            If the numbers of features differ.
        """
        if other._total is None or self._total is None:
            return (self if other._total is None else other).copy()
        if other.mean.shape[0] != self.mean.shape[0]:
            raise InputError(
                "moments of different encoders cannot be merged: "
                f"{self.mean.shape[0]} and {other.mean.shape[0]} features."
            )
        joined, guest = self.copy(), other.copy()
        C = max(self.n_classes, other.n_classes)
        joined._grow(C, self.means)
        guest._grow(C, other.means)
        joined._join(guest.counts, guest.means, guest.within_squares, other.total)
        return joined

    def copy(self) -> ClassMoments:
        """A second one, independent of this (arrays are never changed in place, so shared)."""
        twin = ClassMoments()
        twin.__dict__.update(self.__dict__)
        return twin

    def only_present(self) -> ClassMoments:
        """The same without the classes that have no sample."""
        xp, present = arrays.namespace(self.means), self.counts > 0
        if bool(xp.all(present)):
            return self
        keep = xp.nonzero(present)[0]
        twin = self.copy()
        twin.counts = xp.take(self.counts, keep)
        twin.means = xp.take(self.means, keep, axis=0)
        twin.within_squares = xp.take(self.within_squares, keep, axis=0)
        return twin

    def displaced(self, displacement: Array) -> ClassMoments:
        """Moments after every sample has moved by its class's row of `displacement` (C, d).

        Exact, in closed form: within a class nothing changes, between the classes the new means
        say all. Only `cubic_sums` and `quartic_sum` of the total become NaN, unknown: they depend
        on how each class scatters along its displacement (`Embedding.quartic_sum` looks at the
        samples).
        """
        xp = arrays.namespace(self.means)
        total = self.total
        weights = self.counts / total.n_samples
        shift = weights @ displacement
        moved = xp.where(self.counts[:, None] > 0, displacement, 0.0)
        # sum over classes of n (b + e)(b + e)' - n b b', b the old mean and e its move
        between = self.means - total.mean + (moved - shift) / 2
        gained = self.counts[:, None] * (moved - shift)
        # a product with both halves is cheaper than adding a transpose
        scatter = xp.concat([gained, between]).T @ xp.concat([between, gained])
        scatter += total.scatter
        twin = self.copy()
        twin.means = self.means + moved
        twin._total = replace(
            total,
            mean=total.mean + shift,
            scatter=scatter,
            cubic_sums=xp.full_like(total.cubic_sums, xp.nan),
            quartic_sum=float("nan"),
        )
        return twin

    @property
    def total(self) -> FeatureMoments:
        """Moments of all samples together.

        Raises
        ------
        InputError
            If nothing has been added yet.
        """
        if self._total is None:
            raise InputError("these moments are empty; call update with features and labels first.")
        return self._total

    @property
    def n_classes(self) -> int:
        """Number of class ids, those without samples included."""
        return int(self.counts.shape[0])

    @property
    def n_samples(self) -> int:
        """Number of samples added."""
        return 0 if self._total is None else int(self._total.n_samples)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.mean.shape[0])

    @property
    def mean(self) -> Array:
        """Mean of all samples, (d,) float64."""
        return self.total.mean

    @property
    def scatter(self) -> Array:
        """Total scatter about the mean, (d, d) float64, not divided by n."""
        return self.total.scatter

    def to_arrays(self) -> dict[str, Array]:
        """All moments by name, to be saved; `from_saved` takes them back."""
        flat = {f.name: getattr(self.total, f.name) for f in fields(FeatureMoments)}
        named = {"counts": self.counts, "means": self.means, "within_squares": self.within_squares}
        return named | {
            name: np.asarray(v) if isinstance(v, float) else v for name, v in flat.items()
        }

    @classmethod
    def from_saved(cls, saved: dict[str, Array]) -> ClassMoments:
        """Rebuild moments from what `to_arrays` gave."""
        twin = cls()
        twin.counts, twin.means = saved["counts"], saved["means"]
        twin.within_squares = saved["within_squares"]
        twin._total = FeatureMoments(
            n_samples=float(saved["n_samples"]),
            mean=saved["mean"],
            scatter=saved["scatter"],
            cubic_sums=saved["cubic_sums"],
            quartic_sum=float(saved["quartic_sum"]),
        )
        return twin


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

    def finished(self) -> tuple[Array, Array, Array]:
        """Counts (C,), means (C, d) and within-class squares (C, d)."""
        xp = arrays.namespace(self.sums)
        offset = self.sums / xp.where(self.counts > 0, self.counts, 1.0)[:, None]
        squares = self.squares - self.sums * offset
        means = xp.where(self.counts[:, None] > 0, arrays.as_float64(self.pivots) + offset, 0.0)
        return self.counts, means, xp.where(squares > 0, squares, 0.0)


class TargetMoments:
    """Joint moments of features and real-valued targets, for regression and multi-label.

    Attributes
    ----------
    total : FeatureMoments
        Of the features.
    target_mean : (k,) float64
    target_scatter : (k,) float64
        ``sum (y - mean)^2`` per target.
    cross : (d, k) float64
        ``sum (x - mean)(y - mean)^T``.
    """

    def __init__(self) -> None:
        self._total: FeatureMoments | None = None
        self.target_mean: Array = None
        self.target_scatter: Array = None
        self.cross: Array = None

    @classmethod
    def from_arrays(cls, features: Array, targets: Array) -> TargetMoments:
        """Moments of a whole data set at once."""
        return cls().update(features, targets)

    def update(self, features: Array, targets: Array) -> TargetMoments:
        """Add samples, in place: features (n, d) float, targets (n, k) float64.

        Raises
        ------
        FeatureError
            If a feature is NaN or infinite; nothing has been added then.
        """
        xp = arrays.namespace(features)
        part = TargetMoments()
        part.target_mean = xp.mean(targets, axis=0)
        deviation = targets - part.target_mean
        part.target_scatter = xp.sum(deviation * deviation, axis=0)
        crosses: list[Array] = []
        pivots: list[Array] = []

        def add(rows: slice, _: Array, centred: Array, pivot: Array) -> None:
            own = deviation[rows, :]
            pivots.append(arrays.as_float64(pivot))
            # about the first pivot: the deviations of all chunks together sum to zero
            step = (pivots[-1] - pivots[0])[:, None] * xp.sum(own, axis=0)[None, :]
            cross = arrays.as_float64(centred.T @ xp.astype(own, centred.dtype)) + step
            crosses[:] = [sum(crosses, cross)]

        part._total = FeatureMoments.of(_cut(features), add)
        part.cross = crosses[0]
        self.__dict__.update(self.merge(part).__dict__)
        return self

    def merge(self, other: TargetMoments) -> TargetMoments:
        """Moments of both sets of samples together; neither is changed.

        The order of merging does not matter (to rounding), and an empty one is neutral.
        """
        if other._total is None or self._total is None:
            only = self if other._total is None else other
            twin = TargetMoments()
            twin.__dict__.update(only.__dict__)
            return twin
        have, new = self._total.n_samples, other._total.n_samples
        weight = have * new / (have + new)
        step = other._total.mean - self._total.mean
        target_step = other.target_mean - self.target_mean
        joined = TargetMoments()
        joined._total = self._total.merge(other._total)
        joined.cross = self.cross + other.cross + weight * step[:, None] * target_step[None, :]
        joined.target_scatter = self.target_scatter + other.target_scatter + weight * target_step**2
        joined.target_mean = self.target_mean + target_step * (new / (have + new))
        return joined

    @property
    def total(self) -> FeatureMoments:
        """Moments of the features.

        Raises
        ------
        InputError
            If nothing has been added yet.
        """
        if self._total is None:
            raise InputError("these moments are empty; call update first.")
        return self._total
