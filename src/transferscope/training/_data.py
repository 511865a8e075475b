"""Samples of a data set, prepared for one encoder and augmented."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transferscope.datasets import Dataset
from transferscope.encoders import Preprocessing
from transferscope.errors import InputError

#: Bytes of prepared samples that are kept in memory; those beyond are decoded in every epoch.
KEPT_BYTES = 2 * 2**30


@dataclass
class Data:
    """A data set as one encoder wants it: prepared once, and kept while memory allows."""

    dataset: Dataset
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        self._kept: dict[int, Any] = {}
        self._room = KEPT_BYTES

    def batch(self, rows: Sequence[int], pool: ThreadPoolExecutor) -> Any:
        """Collated samples of these rows."""
        absent = [row for row in rows if row not in self._kept]
        fresh = dict(zip(absent, pool.map(self._prepare, absent), strict=True))
        for row, sample in fresh.items():
            size = getattr(sample, "nbytes", None) or 4096
            if self._room >= size:
                self._room -= size
                # a copy: the prepared image may be a view of a larger one
                self._kept[row] = sample.copy() if isinstance(sample, np.ndarray) else sample
        return self.preprocessing.collate([fresh.get(r, self._kept.get(r)) for r in rows])

    def _prepare(self, row: int) -> Any:
        return self.preprocessing.prepare(self.dataset[row])


def augmented(
    images: npt.NDArray[np.uint8], rng: np.random.Generator, *, mirror: bool
) -> npt.NDArray[np.uint8]:
    """Shift each image by up to an eighth of its side, edges reflected; mirror every second one."""
    if not (isinstance(images, np.ndarray) and images.ndim == 4 and images.dtype == np.uint8):
        raise InputError("only images can be augmented; use augment='none'.")
    n, height, width, _ = images.shape
    reach = max(1, min(height, width) // 8)
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    tops, lefts = rng.integers(0, 2 * reach + 1, size=(2, n))
    shifted = np.stack(
        [
            image[top : top + height, left : left + width]
            for image, top, left in zip(padded, tops, lefts, strict=True)
        ]
    )
    if mirror:
        mirrored = rng.random(n) < 0.5
        shifted[mirrored] = shifted[mirrored, :, ::-1]
    return shifted
