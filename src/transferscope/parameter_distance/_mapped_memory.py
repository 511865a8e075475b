"""Memory of files that `torch.load` mapped, given back to the system tensor by tensor."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def release_pages(value: torch.Tensor) -> None:
    """Tell the system that the pages of a tensor in a mapped file are not needed any more.

    Only whole pages inside the tensor: a page that another tensor shares is read again anyway.
    """
    if not sys.platform.startswith("linux"):
        return
    first = value.data_ptr()
    last = first + value.numel() * value.element_size()
    page = mmap.PAGESIZE
    first, last = -(-first // page) * page, last // page * page
    if last > first and _is_file_mapping(first):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).madvise(
                ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED
            )


def _is_file_mapping(address: int) -> bool:
    """Whether the memory at an address mirrors a file; other memory would lose its content."""
    with Path("/proc/self/maps").open(encoding="utf-8") as maps:
        for line in maps:
            span, _, _, _, inode, *_ = line.split()
            low, high = (int(part, 16) for part in span.split("-"))
            if low <= address < high:
                return inode != "0"
    return False
