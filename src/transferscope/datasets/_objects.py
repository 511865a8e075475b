"""Python objects as data sets: arrays with labels, or anything whose items are pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transferscope.datasets._dataset import Dataset, Request, choose_split, make_dataset
from transferscope.datasets._samples import (
    ForeignSamples,
    ImageFiles,
    Rows,
    Samples,
    Texts,
    as_sample,
    channels_last,
    image_rows,
    is_pair,
)
from transferscope.datasets._words import make_tagged
from transferscope.errors import DatasetError


def from_arrays(samples: Any, labels: Any, request: Request) -> Dataset:
    """Take samples and labels as they lie in memory; arrays are not copied.

    Parameters
    ----------
    samples : array-like
        uint8 images (n, height, width[, channels]) or (n, channels, height, width), vectors (n, d),
        or a sequence of texts, pairs (tuples) of texts, lists of words, PIL images, or
        `pathlib.Path` of image files.
    labels : array-like of shape (n,) or (n, k)
        For lists of words: a list of tags for each.
    request : Request

    Raises
    ------
    DatasetError
        If the samples are none of these, or do not fit the labels.
    """
    _refuse_split(request, "arrays")
    if _holds_words(samples):
        return make_tagged("arrays", samples, labels, request)
    return make_dataset("arrays", _samples_in_memory(samples), labels, task=request.task)


def from_pairs(source: Any, request: Request) -> Dataset:
    """Take an object with ``len`` whose items are (sample, label), such as a torch ``Dataset``.

    Labels come from its ``targets`` or ``labels`` where these agree with the items, otherwise every
    item is fetched once. Class names come from ``classes``.

    Raises
    ------
    DatasetError
        If items are no such pairs, or differ from one access to the next (random augmentation).
    """
    name = type(source).__name__
    _refuse_split(request, name)
    if len(source) == 0:
        raise DatasetError(
            f"A data set needs samples; this {name} is empty. Check how it is built."
        )
    pair = source[0]
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DatasetError(
            f"Items must be pairs (sample, label); item 0 of {name} is a {type(pair).__name__}. "
            "Wrap it so that it returns pairs, or hand in (samples, labels)."
        )
    modality, _ = as_sample(pair[0], where=f"sample 0 of {name}")
    samples = ForeignSamples(source, paired=True, name=name, modality=modality)
    if not np.array_equal(samples.content(0), samples.content(0)):
        raise DatasetError(
            f"A sample must be the same each time it is read; sample 0 of {name} changes. "
            "Remove the random augmentation from its transform."
        )
    labels = _listed_labels(source)
    if labels is None:
        labels = np.array([np.asarray(source[index][1]) for index in range(len(source))])
    class_names = _class_names(source)
    return make_dataset(name, samples, labels, task=request.task, class_names=class_names)


def _refuse_split(request: Request, source: str) -> None:
    if request.split is not None:
        choose_split(request.split, [], source=source)


def _samples_in_memory(samples: Any) -> Samples:
    if isinstance(samples, Sequence) and not isinstance(samples, str) and len(samples):
        first = samples[0]
        if isinstance(first, Path):
            return ImageFiles([Path(path) for path in samples])
        if isinstance(first, str):
            wrong = [row for row, text in enumerate(samples) if not isinstance(text, str)]
            if wrong:
                raise DatasetError(
                    f"Texts must all be strings; sample {wrong[0]} is a "
                    f"{type(samples[wrong[0]]).__name__}. Fill it in or remove it."
                )
            return Texts(samples, "the texts")
        if is_pair(first):
            wrong = [row for row, pair in enumerate(samples) if not is_pair(pair)]
            if wrong:
                raise DatasetError(
                    f"Pairs must all be tuples of two strings; sample {wrong[0]} is "
                    f"{samples[wrong[0]]!r:.80}. Repair it or remove it."
                )
            return Texts(samples, "the pairs")
        if hasattr(first, "convert") or getattr(first, "ndim", 1) > 1:  # PIL images, ragged arrays
            modality, _ = as_sample(first, where="sample 0")
            return ForeignSamples(samples, paired=False, name="the samples", modality=modality)
    array = np.asarray(samples)
    if array.dtype.kind in "UT" and array.ndim == 1:
        return Texts(array.tolist(), "the texts")
    if array.ndim == 1 and array.dtype == object and array.size and isinstance(array[0], str):
        return _samples_in_memory(array.tolist())  # a pandas column of texts
    if array.ndim in (3, 4):
        return image_rows(channels_last(array) if array.ndim == 4 else array, "the array of images")
    if array.ndim == 2 and array.dtype.kind in "fiu":
        return Rows(array, "the array", "array")
    raise DatasetError(
        "Samples must be uint8 images (n, height, width[, channels]), vectors (n, d), texts or "
        f"paths; got dtype {array.dtype} of shape {array.shape}. Convert them."
    )


def _holds_words(samples: Any) -> bool:
    """Whether samples are lists of words; a tuple of two texts is a pair."""
    if not isinstance(samples, Sequence) or isinstance(samples, str) or not len(samples):
        return False
    first = samples[0]
    words = isinstance(first, list | tuple) and all(isinstance(word, str) for word in first)
    return words and not is_pair(first)


def _listed_labels(source: Any) -> Any:
    """Labels that the object lists, so that not every sample must be decoded; else None."""
    if hasattr(source, "indices") and hasattr(source, "dataset"):  # torch.utils.data.Subset
        listed = _listed_labels(source.dataset)
        return None if listed is None else listed[np.asarray(source.indices)]
    for attribute in ("targets", "labels"):
        listed = getattr(source, attribute, None)
        # a transform of labels is not applied to the list
        if listed is None or getattr(source, "target_transform", None) is not None:
            continue
        try:
            ends = (0, len(source) - 1)
            agrees = len(listed) == len(source) and all(listed[i] == source[i][1] for i in ends)
        except Exception:  # the attribute is the stranger's own and may be anything
            continue
        if agrees:
            return np.asarray(listed)
    return None


def _class_names(source: Any) -> list[str] | None:
    if hasattr(source, "indices") and hasattr(source, "dataset"):
        return _class_names(source.dataset)
    classes = getattr(source, "classes", None)
    if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
        return list(classes)
    return None
