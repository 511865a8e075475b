"""Moments of features, whatever their targets; two of them merge.

All sums are taken about a mean (of the batch, of the part), never about zero, and are kept in
float64 whatever the dtype of the features: at mean 1000 in float32 raw sums lose all digits, these
lose none that the data have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from transferscope.embedding._scatter import (
    Products,
    block_diagonal,
    identity,
    in_basis,
    require_size,
)
from transferscope.errors import FeatureError
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
    scatter : (d, d) or (k, k) float64
        ``sum (x - mean)(x - mean)^T``, not divided by n; in the coordinates of `basis`.
    cubic_sums : (d,) float64
        ``sum |x - mean|^2 (x - mean)``; with `quartic_sum` what Ledoit-Wolf shrinkage needs.
    quartic_sum : float
        ``sum |x - mean|^4``.
    basis : (d, k) float64 or None
        Orthonormal columns, whose span holds all samples about their mean, where these are fewer
        than many features; None: the features' own axes.
    """

    n_samples: float
    mean: Array
    scatter: Array
    cubic_sums: Array
    quartic_sum: float
    basis: Array | None = None

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

        Returns
        -------
        FeatureMoments

        Raises
        ------
        FeatureError
            If a feature is NaN or infinite, or too large for the dtype, or both features
            and samples are too many.
        """
        origin = products = cubic_sums = None
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
                _refuse_unusable(chunk, pivot, norms)
            if origin is None or products is None or cubic_sums is None:
                origin = arrays.as_float64(pivot)
                products = Products(origin)
                cubic_sums = xp.zeros_like(origin)
            step = arrays.as_float64(pivot) - origin
            along = centred @ xp.astype(step, centred.dtype)
            sums = arrays.as_float64(xp.stack([xp.ones_like(norms), norms, along]) @ centred)
            left, own, pull = sums[0, :] / n, sums[1, :], sums[2, :]  # left: from pivot to mean
            products.add(centred, pivot)
            corrections += [step + left, left]
            weights += [n, -n]
            # sums of |y + step|² (y + step) and of |y + step|⁴, y the chunk about its pivot
            norms = arrays.as_float64(norms)
            squares, length = float(xp.sum(norms)), float(step @ step)
            drift = n * float(left @ step)
            cubic_sums = cubic_sums + own + 2 * pull + (squares + 2 * drift + n * length) * step
            cubic_sums = cubic_sums + n * length * left
            quartic_sum += float(xp.sum(norms * norms)) + 4 * float(own @ step)
            quartic_sum += 4 * float(step @ pull) + length * (2 * squares + 4 * drift + n * length)
            if visit is not None:
                visit(rows, chunk, centred, pivot)
        if origin is None or products is None or cubic_sums is None:
            raise FeatureError("features must hold at least one sample; got none. Add samples.")
        return cls._about_mean(origin, products, cubic_sums, quartic_sum, corrections, weights)

    @classmethod
    def _about_mean(
        cls,
        origin: Array,
        products: Products,
        cubic_sums: Array,
        quartic_sum: float,
        corrections: list[Array],
        weights: list[float],
    ) -> Self:
        """Turn sums about an origin into sums about the mean.

        `products`, which are overwritten, are still without the rank-one terms
        ``weight * correction correctionᵀ`` of the scatter; those of positive weight are the chunks'
        sizes and means about the origin.
        """
        xp = arrays.namespace(origin)
        given = xp.stack(corrections)
        factors = xp.asarray(weights, dtype=xp.float64, device=arrays.device_of(origin))
        sizes = xp.where(factors > 0, factors, 0.0)
        n = float(xp.sum(sizes))
        offset = (sizes @ given) / n
        length = float(offset @ offset)
        basis: Array | None = None
        if products.matrix is None:
            rows = products.rows_about(origin + offset)
            scatter, basis = in_basis(rows.T, identity(int(rows.shape[0]), rows))
            trace = float(xp.linalg.trace(scatter)) + n * length
            pull = rows.T @ (rows @ offset) + n * length * offset
        else:
            scatter = products.matrix
            scatter += given.T @ (factors[:, None] * given)
            trace = float(xp.linalg.trace(scatter))
            pull = scatter @ offset
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
            basis=basis,
        )

    def merge(self, other: Self) -> Self:
        """Moments of both sets together (Chan, Golub & LeVeque, 1983).

        Parameters
        ----------
        other : FeatureMoments

        Returns
        -------
        FeatureMoments
        """
        n = self.n_samples + other.n_samples
        step = other.mean - self.mean
        mean = self.mean + step * (other.n_samples / n)
        here, there = self._about(mean), other._about(mean)
        weight = self.n_samples * other.n_samples / n
        basis: Array | None = None
        if self.basis is None or other.basis is None:
            gap = step[:, None] * step[None, :]
            scatter = self.in_own_axes() + other.in_own_axes() + gap * weight
        else:
            xp = arrays.namespace(mean)
            scatter, basis = in_basis(
                xp.concat([self.basis, other.basis, step[:, None]], axis=1),
                block_diagonal(self.scatter, other.scatter, weight * identity(1, mean)),
            )
        return replace(
            self,
            n_samples=n,
            mean=mean,
            scatter=scatter,
            basis=basis,
            cubic_sums=here[0] + there[0],
            quartic_sum=here[1] + there[1],
        )

    def inside(self, rows: Array) -> Array:
        """Vectors of features in the coordinates of the scatter.

        Parameters
        ----------
        rows : float64 array of shape (..., d)

        Returns
        -------
        float64 array of shape (..., k)
        """
        return rows if self.basis is None else rows @ self.basis

    def lifted(self, columns: Array) -> Array:
        """Columns in the coordinates of the scatter as vectors of features.

        Parameters
        ----------
        columns : float64 array of shape (k, ...)

        Returns
        -------
        float64 array of shape (d, ...)
        """
        return columns if self.basis is None else self.basis @ columns

    def in_own_axes(self) -> Array:
        """The scatter in the features' own axes.

        Returns
        -------
        float64 array of shape (d, d)

        Raises
        ------
        FeatureError
            If there are too many features for such a matrix.
        """
        if self.basis is None:
            return self.scatter
        require_size(int(self.mean.shape[0]), int(self.mean.shape[0]))
        return self.lifted(self.lifted(self.scatter).T)

    @property
    def squares(self) -> Array:
        """``sum (x - mean)^2`` of each feature, (d,)."""
        xp = arrays.namespace(self.scatter)
        squares: Array = (
            xp.linalg.diagonal(self.scatter)
            if self.basis is None
            else xp.sum(self.lifted(self.scatter) * self.basis, axis=1)
        )
        return squares

    def plus(self, left: Array, right: Array) -> Self:
        """The same with ``leftᵀ right + rightᵀ left`` added to the scatter.

        Parameters
        ----------
        left, right : float64 array of shape (m, d)

        Returns
        -------
        FeatureMoments
        """
        xp = arrays.namespace(left)
        basis: Array | None = None
        if self.basis is None:
            # a product with both halves is cheaper than adding a transpose
            scatter = xp.concat([left, right]).T @ xp.concat([right, left])
            scatter += self.scatter
        else:
            m = int(left.shape[0])
            swapped = xp.roll(identity(2 * m, left), m, axis=0)
            scatter, basis = in_basis(
                xp.concat([self.basis, left.T, right.T], axis=1),
                block_diagonal(self.scatter, swapped),
            )
        return replace(self, scatter=scatter, basis=basis)

    def _about(self, centre: Array) -> tuple[Array, float]:
        """`cubic_sums` and `quartic_sum` about another centre."""
        xp = arrays.namespace(centre)
        shift = self.mean - centre
        length = float(shift @ shift)
        trace = float(xp.linalg.trace(self.scatter))
        pull = self.lifted(self.scatter @ self.inside(shift))
        cubic_sums = self.cubic_sums + trace * shift + 2 * pull + self.n_samples * length * shift
        quartic_sum = (
            self.quartic_sum
            + 4 * float(self.cubic_sums @ shift)
            + 4 * float(shift @ pull)
            + 2 * trace * length
            + self.n_samples * length**2
        )
        return cubic_sums, quartic_sum


def cut(features: Array) -> Iterator[tuple[slice, Array]]:
    """Features in pieces of bounded size."""
    return ((rows, features[rows, :]) for rows in arrays.chunks(features))


def _refuse_unusable(chunk: Array, pivot: Array, norms: Array) -> None:
    """Refuse features that are not finite, or too large for the sums.

    `norms` are the squared lengths about the pivot: they are looked at, which is cheaper.
    """
    xp = arrays.namespace(chunk)
    limit = checks.largest_value(chunk.dtype)
    reach = xp.max(xp.abs(pivot)) + xp.sqrt(xp.max(norms))
    if not bool(reach <= limit) or not bool(xp.isfinite(xp.sum(norms * xp.sqrt(norms)))):
        checks.finite(chunk)
        raise FeatureError(
            f"features reach {float(xp.max(xp.abs(chunk))):.3g}, and their vectors more than "
            f"{limit:.0e}: the powers overflow {chunk.dtype}. Divide them by a power of ten, or "
            "pass float64."
        )
