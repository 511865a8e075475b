"""Moments of features together with statistics of their targets; two of them merge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Self, TypeVar

from transferscope.embedding._feature_moments import FeatureMoments
from transferscope.errors import InputError
from transferscope.numerics.arrays import Array

Statistics = TypeVar("Statistics")


class MergeableMoments(ABC, Generic[Statistics]):
    """Moments of features and statistics of their targets, empty at first."""

    def __init__(self) -> None:
        self._statistics: Statistics | None = None
        self._total: FeatureMoments | None = None

    @classmethod
    def _of(cls, statistics: Statistics | None, total: FeatureMoments | None) -> Self:
        moments = cls()
        moments._statistics, moments._total = statistics, total
        return moments

    @abstractmethod
    def _merged(self, other: Self) -> Statistics:
        """Statistics of both sets of samples together; neither is empty."""

    def copy(self) -> Self:
        """A second one, independent of this.

        Returns
        -------
        Self
            Arrays are never changed in place, so they are shared.
        """
        return self._of(self._statistics, self._total)

    def merge(self, other: Self) -> Self:
        """Moments of both sets of samples together; neither is changed.

        The order of merging does not matter (to rounding), and an empty one is neutral.

        Parameters
        ----------
        other : Self

        Returns
        -------
        Self

        Raises
        ------
        InputError
            If the numbers of features differ.
        """
        if other._total is None or self._total is None:
            return (self if other._total is None else other).copy()
        if other.n_features != self.n_features:
            raise InputError(
                f"moments to be merged must have the same number of features; got "
                f"{self.n_features} and {other.n_features}. Merge those of one encoder."
            )
        return self._of(self._merged(other), self._total.merge(other._total))

    def _add(self, added: Self) -> Self:
        joined = self.merge(added)
        self._statistics, self._total = joined._statistics, joined._total
        return self

    @property
    def statistics(self) -> Statistics:
        """Statistics of the targets; an `InputError` where nothing has been added yet."""
        if self._statistics is None:
            raise _empty()
        return self._statistics

    @property
    def total(self) -> FeatureMoments:
        """Moments of all features; an `InputError` where nothing has been added yet."""
        if self._total is None:
            raise _empty()
        return self._total

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
        return self.total.in_own_axes()


def _empty() -> InputError:
    return InputError("moments must hold samples; these are empty. Call update first.")
