"""The features of the samples that are kept, walked over in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array


class FeatureMatrix:
    """Features in the dtype, library and place in which they were given.

    Parameters
    ----------
    given : array of shape (n_rows, n_features)
    """

    def __init__(self, given: Array) -> None:
        self.given = given
        self.n_rows, self.n_features = map(int, given.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of the features."""
        return self.given.dtype

    @property
    def array(self) -> Array:
        """All features, (n_rows, n_features)."""
        return self.given

    def chunks(self, finer: int = 1) -> Iterator[tuple[slice, Array]]:
        """Walk over the features: pairs of a slice of rows and their features.

        Parameters
        ----------
        finer : int
            How many times smaller than usual a chunk is.

        Yields
        ------
        (slice, array)
        """
        for rows in arrays.chunks(self.given, finer):
            yield rows, self.given[rows, :]

    def take(self, rows: Array) -> Array:
        """Features of these rows.

        Parameters
        ----------
        rows : int64 array of shape (m,)

        Returns
        -------
        array of shape (m, n_features)
        """
        return arrays.namespace(self.given).take(self.given, rows, axis=0)


class DisplacedMatrix(FeatureMatrix):
    """Features of which every class has moved by a vector of its own.

    They are displaced piece by piece where a metric looks at them; `array` is a second matrix, made
    when first asked for.

    Parameters
    ----------
    given : array of shape (n_rows, n_features)
        Before they moved.
    labels : int64 array of shape (n_rows,)
    displacement : float64 array of shape (C, n_features)
    """

    def __init__(self, given: Array, labels: Array, displacement: Array) -> None:
        super().__init__(given)
        self.labels, self.displacement = labels, displacement

    @cached_property
    def array(self) -> Array:
        """All features, (n_rows, n_features)."""
        return arrays.namespace(self.given).concat([part for _, part in self.chunks()])

    def chunks(self, finer: int = 1) -> Iterator[tuple[slice, Array]]:
        """Walk over the features: pairs of a slice of rows and their features.

        Yields
        ------
        (slice, array)
        """
        for rows, features in super().chunks(finer):
            yield rows, self._moved(features, self.labels[rows])

    def take(self, rows: Array) -> Array:
        """Features of these rows, (m, n_features)."""
        return self._moved(super().take(rows), arrays.namespace(rows).take(self.labels, rows))

    def _moved(self, features: Array, labels: Array) -> Array:
        xp = arrays.namespace(features)
        return features + xp.take(xp.astype(self.displacement, self.dtype), labels, axis=0)
