"""Joint moments of features and numbers: what one-pass scores of regressions need, mergeable."""

from __future__ import annotations

from typing import NamedTuple

from transferscope.embedding._feature_moments import FeatureMoments, cut
from transferscope.errors import InputError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array


class TargetStatistics(NamedTuple):
    """Moments of the targets, and of them with the features.

    Attributes
    ----------
    mean : (k,) float64
    scatter : (k,) float64
        ``sum (y - mean)^2`` per target.
    cross : (d, k) float64
        ``sum (x - mean)(y - mean)^T``.
    """

    mean: Array
    scatter: Array
    cross: Array


class TargetMoments:
    """Joint moments of features and real-valued targets, for regression and multi-label.

    Start empty, feed it with `update`, join several with `merge`; or use `from_arrays`.
    """

    def __init__(self) -> None:
        self._targets: TargetStatistics | None = None
        self._total: FeatureMoments | None = None

    @classmethod
    def _of(cls, targets: TargetStatistics, total: FeatureMoments) -> TargetMoments:
        moments = cls()
        moments._targets, moments._total = targets, total
        return moments

    @classmethod
    def from_arrays(cls, features: Array, targets: Array) -> TargetMoments:
        """Moments of a whole data set at once.

        Parameters
        ----------
        features : float array of shape (n, d)
        targets : float64 array of shape (n, k)

        Returns
        -------
        TargetMoments
        """
        return cls().update(features, targets)

    def update(self, features: Array, targets: Array) -> TargetMoments:
        """Add samples, in place.

        Parameters
        ----------
        features : float array of shape (n, d)
        targets : float64 array of shape (n, k)

        Returns
        -------
        TargetMoments
            Itself.

        Raises
        ------
        FeatureError
            If a feature is NaN or infinite; nothing has been added then.
        """
        xp = arrays.namespace(features)
        mean = xp.mean(targets, axis=0)
        deviation = targets - mean
        crosses: list[Array] = []
        pivots: list[Array] = []

        def add(rows: slice, _: Array, centred: Array, pivot: Array) -> None:
            own = deviation[rows, :]
            pivots.append(arrays.as_float64(pivot))
            # about the first pivot: the deviations of all chunks together sum to zero
            step = (pivots[-1] - pivots[0])[:, None] * xp.sum(own, axis=0)[None, :]
            cross = arrays.as_float64(centred.T @ xp.astype(own, centred.dtype)) + step
            crosses[:] = [sum(crosses, cross)]

        total = FeatureMoments.of(cut(features), add)
        scatter = xp.sum(deviation * deviation, axis=0)
        joined = self.merge(TargetMoments._of(TargetStatistics(mean, scatter, crosses[0]), total))
        self._targets, self._total = joined._targets, joined._total
        return self

    def merge(self, other: TargetMoments) -> TargetMoments:
        """Moments of both sets of samples together; neither is changed.

        The order of merging does not matter (to rounding), and an empty one is neutral.

        Parameters
        ----------
        other : TargetMoments

        Returns
        -------
        TargetMoments
        """
        if other._targets is None or self._targets is None:
            only = self if other._targets is None else other
            twin = TargetMoments()
            twin._targets, twin._total = only._targets, only._total
            return twin
        have, new = self.total.n_samples, other.total.n_samples
        weight = have * new / (have + new)
        step = other.total.mean - self.total.mean
        target_step = other.target_mean - self.target_mean
        targets = TargetStatistics(
            mean=self.target_mean + target_step * (new / (have + new)),
            scatter=self.target_scatter + other.target_scatter + weight * target_step**2,
            cross=self.cross + other.cross + weight * step[:, None] * target_step[None, :],
        )
        return TargetMoments._of(targets, self.total.merge(other.total))

    @property
    def total(self) -> FeatureMoments:
        """Moments of the features."""
        if self._total is None:
            raise _empty()
        return self._total

    @property
    def targets(self) -> TargetStatistics:
        """Moments of the targets, and of them with the features."""
        if self._targets is None:
            raise _empty()
        return self._targets

    @property
    def target_mean(self) -> Array:
        """Mean of each target, (k,) float64."""
        return self.targets.mean

    @property
    def target_scatter(self) -> Array:
        """``sum (y - mean)^2`` per target, (k,) float64."""
        return self.targets.scatter

    @property
    def cross(self) -> Array:
        """``sum (x - mean)(y - mean)^T``, (d, k) float64."""
        return self.targets.cross


def _empty() -> InputError:
    return InputError("moments must hold samples; these are empty. Call update first.")
