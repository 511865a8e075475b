"""Arrays of any library: namespace, device, dtype. The only file that branches on torch.

The numeric floor is written against the array API standard (through array-api-compat) and takes
NumPy arrays and torch tensors on any device alike. What the standard lacks is gathered here.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard, cast

import array_api_compat
import numpy as np
import numpy.typing as npt
import scipy

from transferscope.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

#: An array of any library that array-api-compat knows. It is typed as NumPy's, whose operations are
#: those of the array API standard; what arrives may as well be a torch tensor on a GPU.
Array: TypeAlias = npt.NDArray[Any]
#: A NumPy array, on the host, of any dtype.
NumpyArray: TypeAlias = npt.NDArray[Any]
#: What a caller may pass for an array: an array of any library, or nested sequences of numbers.
ArrayLike: TypeAlias = npt.ArrayLike


class Namespace(Protocol):
    """The functions of one array library, by the names of the array API standard."""

    linalg: Any
    float32: Any
    float64: Any
    int64: Any
    bool: Any
    finfo: Any
    inf: float
    nan: float

    def __getattr__(self, name: str, /) -> Callable[..., Array]: ...


#: Bytes of features that one chunk of a pass over the samples may hold.
CHUNK_BYTES = 30 * 2**20
#: How many times finer passes without matrix products cut: temporaries then stay in the cache.
FINE = 16


def namespace(*arrays: Array | None) -> Namespace:
    """The array namespace that all the arrays share (``None`` is passed over)."""
    found = array_api_compat.array_namespace(*(a for a in arrays if a is not None))
    return cast("Namespace", found)


def device_of(array: Array) -> Any:
    """Where the array lives."""
    return array_api_compat.device(array)


def is_torch(array: object) -> TypeGuard[Tensor]:
    """Whether the array is a torch tensor; imports nothing."""
    return bool(array_api_compat.is_torch_array(array))


def is_numpy(array: object) -> bool:
    """Whether the array is one of NumPy's."""
    return isinstance(array, np.ndarray)


def as_array(values: object) -> Array:
    """Arrays pass as they are, detached from any graph; everything else becomes a NumPy array.

    Raises
    ------
    InputError
        If entries are masked: a plain array has no room for what is missing.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputError(
            f"arrays must hold a value in every place; {int(np.sum(values.mask))} of one "
            "are masked. Leave these rows out, or fill them."
        )
    if isinstance(values, np.ndarray) and type(values) is not np.ndarray:
        return np.asarray(values)  # matrices and masked arrays compute by rules of their own
    if is_torch(values):
        return _of_torch(values.detach() if values.requires_grad else values)
    if array_api_compat.is_array_api_obj(values):
        return cast("Array", values)
    return np.asarray(values)


def _of_torch(tensor: Tensor) -> Array:
    """A tensor, typed as an array of any library."""
    return cast("Array", tensor)


def working_float(array: Array) -> Array:
    """The array in a dtype to compute in: float32 and float64 stay, half becomes single."""
    xp = namespace(array)
    if array.dtype in (xp.float32, xp.float64):
        return array
    if is_torch(array):
        return _of_torch(array.float() if array.dtype.is_floating_point else array.double())
    small = getattr(array.dtype, "kind", "") == "f" and array.dtype.itemsize < 4
    return xp.astype(array, xp.float32 if small else xp.float64)


def to_numpy(array: Array | Tensor) -> NumpyArray:
    """A NumPy array of the same values (a copy only where it has to be one)."""
    if is_torch(array):
        return np.asarray(array.detach().cpu().numpy())
    return np.asarray(array)


def from_numpy(values: NumpyArray, like: Array) -> Array:
    """NumPy values as an array of the library and on the device of `like`."""
    return namespace(like).asarray(values, device=device_of(like))


def convert_like(array: Array, like: Array) -> Array:
    """The array in the library and on the device of `like`, in its own dtype."""
    if namespace(array) is namespace(like) and device_of(array) == device_of(like):
        return array
    return from_numpy(to_numpy(array), like)


def softmax(logits: Array) -> Array:
    """Probabilities from logits (n, k), row by row."""
    xp = namespace(logits)
    powers = xp.exp(logits - xp.max(logits, axis=1, keepdims=True))
    return powers / xp.sum(powers, axis=1, keepdims=True)


def log_softmax(logits: Array) -> Array:
    """Log-probabilities from logits (n, k), row by row."""
    xp = namespace(logits)
    logits = logits - xp.max(logits, axis=1, keepdims=True)
    return logits - xp.log(xp.sum(xp.exp(logits), axis=1, keepdims=True))


def one_hot(labels: Array, n_classes: int) -> Array:
    """Rows (n, n_classes) float64 of zeros, with a one where the label says."""
    xp = namespace(labels)
    classes = xp.arange(n_classes, device=device_of(labels))
    return xp.astype(labels[:, None] == classes[None, :], xp.float64)


def as_float64(array: Array) -> Array:
    """The array as float64."""
    xp = namespace(array)
    return xp.astype(array, xp.float64, copy=False)


def class_sums(values: Array, labels: Array, n_classes: int) -> Array:
    """Sum the rows of `values` (n, d) per class: (n_classes, d), in the dtype of `values`."""
    xp = namespace(values)
    if is_torch(values):
        zeros = values.new_zeros((n_classes, values.shape[1]))
        return _of_torch(zeros.index_add_(0, cast("Tensor", labels), values))
    if is_numpy(values):
        n = values.shape[0]
        member = scipy.sparse.csr_array(
            (np.ones(n, dtype=values.dtype), labels, np.arange(n + 1)), shape=(n, n_classes)
        )
        return np.asarray(member.T.tocsr() @ values)
    return xp.astype(one_hot(labels, n_classes).T, values.dtype) @ values


def class_counts(labels: Array, n_classes: int) -> Array:
    """Number of samples of each class as float64 (n_classes,)."""
    if is_torch(labels):
        return as_float64(_of_torch(labels.bincount(minlength=n_classes)))
    counts = np.bincount(to_numpy(labels), minlength=n_classes)
    return from_numpy(counts.astype(np.float64), labels)


def cholesky(matrix: Array) -> Array | None:
    """The lower Cholesky factor of a symmetric matrix; None where it is not positive definite."""
    try:
        factor: Array = namespace(matrix).linalg.cholesky(matrix)
    except (np.linalg.LinAlgError, RuntimeError):  # the latter is torch's
        return None
    return factor


def solve_positive(matrix: Array, right: Array) -> Array:
    """Solve ``matrix @ x = right`` for a symmetric positive definite matrix, by Cholesky."""
    xp = namespace(matrix)
    if is_torch(matrix):
        return _of_torch(cast("Tensor", right).cholesky_solve(xp.linalg.cholesky(matrix)))
    if is_numpy(matrix):
        factor = scipy.linalg.cho_factor(matrix, check_finite=False)
        return np.asarray(scipy.linalg.cho_solve(factor, right, check_finite=False))
    solved: Array = xp.linalg.solve(matrix, right)
    return solved


def smallest(values: Array, k: int) -> Array:
    """Column indices of the k smallest entries of each row, in ascending order of value."""
    xp = namespace(values)
    if is_torch(values):
        return _of_torch(values.topk(k, dim=1, largest=False, sorted=True).indices)
    if is_numpy(values):
        near = np.argpartition(values, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(values, near, axis=1), axis=1, kind="stable")
        return np.take_along_axis(near, order, axis=1)
    return xp.argsort(values, axis=1)[:, :k]


def chunk_rows(array: Array) -> int:
    """How many rows of a (n, d) array make one chunk of `CHUNK_BYTES` (at least 64)."""
    size = 8 if "64" in str(array.dtype) else 4
    return max(64, CHUNK_BYTES // (size * max(1, int(array.shape[1]))))


def chunks(array: Array, finer: int = 1) -> Iterator[slice]:
    """Walk over the rows of `array` in slices of bounded size, a `finer`-th of a chunk each.

    Behind a memory-mapped file the pages already read are handed back to the system, so that a
    pass over a file larger than memory stays small.
    """
    rows, n = -(-chunk_rows(array) // finer), int(array.shape[0])
    mapped = _mapping(array)
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))
        if mapped is not None:
            with contextlib.suppress(AttributeError, OSError, ValueError):
                mapped.madvise(mmap.MADV_DONTNEED)


def _mapping(array: object) -> mmap.mmap | None:
    """The memory map under a NumPy array, if there is one."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None
