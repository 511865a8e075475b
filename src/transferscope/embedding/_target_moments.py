"""Joint moments of features and numbers: what one-pass scores of regressions need, mergeable."""

from __future__ import annotations

from typing import NamedTuple

from transferscope.embedding._feature_moments import FeatureMoments, cut
from transferscope.embedding._mergeable import MergeableMoments
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


class TargetMoments(MergeableMoments[TargetStatistics]):
    """Joint moments of features and real-valued targets, for regression and multi-label.

    Start empty, feed it with `update`, join several with `merge`; or use `from_arrays`.
    """

    @classmethod
    def from_arrays(cls, features: Array, targets: Array) -> TargetMoments:
        """Moments of a whole data set at once.

        Parameters
        ----------
        features, targets : array
            As `update` takes them.

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
        return self._add(TargetMoments._of(TargetStatistics(mean, scatter, crosses[0]), total))

    def _merged(self, other: TargetMoments) -> TargetStatistics:
        own, theirs = self.statistics, other.statistics
        have, new = self.total.n_samples, other.total.n_samples
        weight = have * new / (have + new)
        step = other.total.mean - self.total.mean
        target_step = theirs.mean - own.mean
        return TargetStatistics(
            mean=own.mean + target_step * (new / (have + new)),
            scatter=own.scatter + theirs.scatter + weight * target_step**2,
            cross=own.cross + theirs.cross + weight * step[:, None] * target_step[None, :],
        )
