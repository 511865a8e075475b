"""Data sets from folders, files, hubs and Python objects, all seen as one `Dataset` record."""

from transferscope.datasets._dataset import Dataset
from transferscope.datasets._open import open_dataset, open_reference
from transferscope.datasets._request import RequestedTask
from transferscope.datasets._samples import Word

__all__ = [
    "Dataset",
    "RequestedTask",
    "Word",
    "open_dataset",
    "open_reference",
]
