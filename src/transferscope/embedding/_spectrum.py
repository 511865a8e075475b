"""How features spread: their scatter, its eigendecomposition, and a root of it."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from transferscope.embedding._feature_moments import FeatureMoments
from transferscope.errors import FeatureError
from transferscope.numerics import arrays, checks
from transferscope.numerics.arrays import Array


class Spectrum(NamedTuple):
    """Eigendecomposition of the centred scatter, cut at its numerical rank.

    Attributes
    ----------
    values : (r,) float64
        Non-zero eigenvalues of ``sum (x - mean)(x - mean)^T``, descending.
    vectors : (d, r) float64
        Their eigenvectors.
    """

    values: Array
    vectors: Array


class Spread:
    """Moments of features that vary, and the spectrum of their scatter.

    Parameters
    ----------
    moments : FeatureMoments
    n_samples : int
    dtype : dtype
        Of the features, whose rounding decides what counts as zero.
    name : str
        What messages call the features.
    """

    def __init__(
        self, moments: FeatureMoments, n_samples: int, dtype: Any, name: str = "features"
    ) -> None:
        self._moments, self._n_samples, self._dtype = moments, n_samples, dtype
        self._name = name

    @cached_property
    def total(self) -> FeatureMoments:
        """Moments of the features of all samples."""
        total = self._moments
        xp = arrays.namespace(total.scatter)
        trace = float(xp.linalg.trace(total.scatter))
        level = float(xp.sum(total.mean * total.mean)) * self._n_samples
        least = 1 / checks.largest_value(self._dtype)
        # below this the spread is what rounding makes of equal rows, or underflow of any
        if trace <= max(level * float(xp.finfo(self._dtype).eps) ** 2, self._n_samples * least**2):
            raise FeatureError(
                f"{self._name} are the same for all {self._n_samples} samples (up to rounding, or "
                f"to {least:.0e}); nothing can be scored. Check the encoder's weights and "
                "preprocessing; features as small as that are to be multiplied by a power of ten."
            )
        return total

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigendecomposition of the total scatter."""
        total = self.total
        xp = arrays.namespace(total.scatter)
        # of its negative: from the largest down, without a copy of the vectors
        values, vectors = xp.linalg.eigh(-total.scatter)
        values = -values
        rank = int(xp.sum(xp.astype(values > float(values[0]) * self._rounding, xp.int64)))
        rank = min(rank, self._n_samples - 1)
        return Spectrum(values[:rank], total.lifted(vectors[:, :rank]))

    @cached_property
    def root(self) -> Array:
        """A matrix of full rank, (d, r), whose product with its transpose is the total scatter.

        Its Cholesky factor, for a tenth of the price of the spectrum, where no pivot comes near
        rounding.
        """
        scatter = self.total.scatter
        xp = arrays.namespace(scatter)
        if self._n_samples > int(self.total.mean.shape[0]):
            factor = arrays.cholesky(scatter)
            largest = float(xp.sqrt(xp.sum(scatter * scatter)))  # no eigenvalue lies above
            if factor is not None and (
                float(xp.min(xp.linalg.diagonal(factor))) ** 2 > self._rounding * largest
            ):
                return factor
        values, vectors = self.spectrum
        return vectors * xp.sqrt(values)[None, :]

    @property
    def _rounding(self) -> float:
        """What rounding makes of a true zero, relative to the largest eigenvalue of the scatter.

        Of the products in the dtype of the features, of a decomposition in float64.
        """
        xp = arrays.namespace(self._moments.scatter)
        products, own = float(xp.finfo(self._dtype).eps), float(xp.finfo(xp.float64).eps)
        return max(10 * products, int(self._moments.mean.shape[0]) * own)
