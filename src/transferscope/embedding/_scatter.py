"""Scatter matrices, in the features' own axes or in a basis where features outnumber samples."""

from __future__ import annotations

from transferscope.errors import FeatureError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array

#: Of more features than this and fewer samples than features a scatter is held in a basis.
WIDE = 2_048
#: Rows of a scatter: 3.2 GB, and hours for its eigenvectors.
LARGEST = 20_000


class Products:
    """The sum of ``xᵀx`` over chunks of features, each about a pivot of its own.

    Many features are kept as they are as long as they are of fewer samples than features.

    Parameters
    ----------
    like : float64 array of shape (d,)
        A vector of features.

    Attributes
    ----------
    matrix : float64 array of shape (d, d) or None
        None: the chunks are kept.
    """

    def __init__(self, like: Array) -> None:
        self._like, self._n_rows = like, 0
        self._kept: list[tuple[Array, Array]] = []
        self.matrix = self._zeros() if int(like.shape[0]) <= WIDE else None

    def add(self, centred: Array, pivot: Array) -> None:
        """Add a chunk, given about its pivot, both in the dtype of the features."""
        d = int(self._like.shape[0])
        self._n_rows += int(centred.shape[0])
        require_size(min(self._n_rows, d), d)
        if self.matrix is None:
            self._kept.append((centred, pivot))
            if self._n_rows < d:
                return
            self.matrix = self._zeros()
            for earlier, _ in self._kept:
                self.matrix += earlier.T @ earlier
            self._kept = []
            return
        # added to in place, as fresh memory of d x d costs more than the sums; by NumPy's own BLAS:
        # scipy's has other threads, and the two wait for each other
        self.matrix += centred.T @ centred

    def rows_about(self, mean: Array) -> Array:
        """The rows that were kept, about another centre: (n, d) float64."""
        xp = arrays.namespace(mean)
        return xp.concat(
            [
                arrays.as_float64(centred) + (arrays.as_float64(pivot) - mean)
                for centred, pivot in self._kept
            ]
        )

    def _zeros(self) -> Array:
        xp, d = arrays.namespace(self._like), int(self._like.shape[0])
        return xp.zeros((d, d), dtype=xp.float64, device=arrays.device_of(self._like))


def require_size(n_rows: int, n_features: int) -> None:
    """Refuse a scatter matrix of too many rows."""
    if n_rows > LARGEST:
        raise FeatureError(
            f"features of {n_features:,} dimensions and no fewer samples than {n_rows:,} need a "
            f"matrix of {n_rows:,} x {n_rows:,}; at most {LARGEST:,} are taken. Pool the features "
            "or project them (PCA) first, or draw fewer samples."
        )


def in_basis(vectors: Array, core: Array) -> tuple[Array, Array | None]:
    """``vectors @ core @ vectorsᵀ``, a symmetric matrix (d, d), in a basis of the vectors.

    Parameters
    ----------
    vectors : float64 array of shape (d, m)
    core : float64 array of shape (m, m)

    Returns
    -------
    matrix : float64 array of shape (k, k)
    basis : float64 array of shape (d, k) or None
        Orthonormal columns; None if there are as many vectors as features, and k = d.
    """
    d, m = map(int, vectors.shape)
    require_size(min(d, m), d)
    if m >= d:
        return vectors @ core @ vectors.T, None
    basis, upper = arrays.namespace(vectors).linalg.qr(vectors)
    return upper @ core @ upper.T, basis


def block_diagonal(*blocks: Array) -> Array:
    """Square matrices along the diagonal of one, with zeros elsewhere."""
    xp = arrays.namespace(*blocks)
    size = sum(int(block.shape[0]) for block in blocks)
    whole = xp.zeros((size, size), dtype=xp.float64, device=arrays.device_of(blocks[0]))
    start = 0
    for block in blocks:
        end = start + int(block.shape[0])
        whole[start:end, start:end] = block
        start = end
    return whole


def identity(size: int, like: Array) -> Array:
    """The identity (size, size), float64, in the library and on the device of `like`."""
    xp = arrays.namespace(like)
    return xp.eye(size, dtype=xp.float64, device=arrays.device_of(like))
