"""The targets of a data set: classes, numbers, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, NumpyArray
from transferscope.numerics.targets import TaskType


@dataclass(frozen=True)
class Classes:
    """One class per sample.

    Attributes
    ----------
    ids : int64 array of shape (n_samples,)
        In 0..C-1, each of which occurs; in the library and on the device of the features.
    names : NumPy array of shape (C,)
        The label of each id, as it was given.
    """

    ids: Array
    names: NumpyArray

    @property
    def n_classes(self) -> int:
        """Number of classes, C."""
        return len(self.names)

    @property
    def task(self) -> TaskType:
        """``"classification"``."""
        return "classification"


@dataclass(frozen=True)
class Numbers:
    """One or several numbers per sample.

    Attributes
    ----------
    values : float64 array of shape (n_samples, n_targets)
        In the library and on the device of the features.
    """

    values: Array

    @property
    def task(self) -> TaskType:
        """``"multilabel"`` for several columns of 0 and 1, else ``"regression"``."""
        xp = arrays.namespace(self.values)
        binary = bool(xp.all((self.values == 0) | (self.values == 1)))
        return "multilabel" if binary and int(self.values.shape[1]) > 1 else "regression"


#: None: the samples have no targets.
Targets: TypeAlias = Classes | Numbers | None
