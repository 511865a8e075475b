"""A tensor of a checkpoint, read piece by piece; those that are in memory already."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from transferscope.errors import CheckpointError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import NumpyArray
from transferscope.parameter_distance._mapped_memory import release_pages

if TYPE_CHECKING:
    import torch

#: Elements read at a time: two pieces and their difference fit into a core's own cache.
PIECE = 2**18


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint, not yet read.

    Attributes
    ----------
    shape : tuple of int
    read : function
        From the first element and the one after the last to a flat float array, which is valid
        until the next call in this thread.
    is_float : bool
    storage : hashable or None
        Equal for two names of one tensor; None where that cannot be known.
    is_buffer : bool or None
        Whether training does not change it; None where that cannot be known.
    done : function
        Called when it will not be read again.
    """

    shape: tuple[int, ...]
    read: Callable[[int, int], NumpyArray]
    is_float: bool = True
    storage: Hashable = None
    is_buffer: bool | None = None
    done: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Walk over the elements in pieces."""
        for start in range(0, self.size, PIECE):
            yield start, min(start + PIECE, self.size)

    def whole(self) -> NumpyArray:
        """The tensor in one piece, in its shape; float64."""
        values = np.empty(self.size)
        for start, stop in self.pieces():
            values[start:stop] = self.read(start, stop)
        return values.reshape(self.shape)


def tensor_in_memory(
    value: object, *, is_buffer: bool | None = None, is_mapped: bool = False
) -> Tensor:
    """A NumPy array or a torch tensor as a `Tensor`, without a copy.

    Raises
    ------
    CheckpointError
        If it is on torch's meta device, and so has no values.
    """
    if _is_torch(value):
        return _of_torch(value.detach(), is_buffer=is_buffer, is_mapped=is_mapped)
    values = np.asarray(value)
    is_float = values.dtype.kind == "f"
    return Tensor(values.shape, lambda i, j: at_least_float32(values.reshape(-1)[i:j]), is_float)


def _is_torch(value: object) -> TypeGuard[torch.Tensor]:
    return arrays.is_torch(value)


def _of_torch(value: torch.Tensor, *, is_buffer: bool | None, is_mapped: bool) -> Tensor:
    import torch

    shape = tuple(value.shape)
    if value.device.type == "meta":
        raise CheckpointError(
            "tensors of a checkpoint must have values; one is on the meta device. Load the weights "
            "first."
        )

    def read(start: int, stop: int) -> NumpyArray:
        piece = value.reshape(-1)[start:stop].cpu()
        if piece.dtype == torch.bfloat16:
            return from_bfloat16(piece.view(torch.int16).numpy().view(np.uint16))
        if piece.element_size() < 2:  # float8: few tensors, no NumPy type
            return np.asarray(piece.float().numpy())
        return at_least_float32(piece.numpy())

    return Tensor(
        shape,
        read,
        value.dtype.is_floating_point,
        (value.data_ptr(), shape, value.stride()) if value.numel() else None,
        is_buffer,
        (lambda: release_pages(value)) if is_mapped else lambda: None,
    )


def from_bfloat16(bits: NumpyArray) -> NumpyArray:
    """Bits of bfloat16 numbers, (n,) uint16, as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def at_least_float32(values: NumpyArray) -> NumpyArray:
    """Floating-point numbers in single or double precision."""
    return values.astype(np.float32) if values.dtype.itemsize < 4 else values
