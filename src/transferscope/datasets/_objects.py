"""Python objects as data sets: arrays with labels, or anything whose items are pairs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np

from transferscope.datasets._cells import place_of_row, texts_of
from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._images import channels_last
from transferscope.datasets._request import Request
from transferscope.datasets._samples import (
    ImageFiles,
    Items,
    ObjectSamples,
    Rows,
    Samples,
    Texts,
    as_sample,
    image_rows,
    is_image,
    is_pair,
)
from transferscope.datasets._splits import choose_split
from transferscope.datasets._words import find_tagged, make_tagged
from transferscope.errors import DatasetError
from transferscope.numerics.arrays import NumpyArray


def from_arrays(samples: object, labels: Collection[object] | None, request: Request) -> Dataset:
    """Take samples and labels as they lie in memory; arrays are not copied.

    Parameters
    ----------
    samples : array-like
        uint8 images (n, height, width[, channels]) or (n, channels, height, width), vectors (n, d),
        or a sequence of texts, pairs (tuples) of texts, lists of words, PIL images, or
        `pathlib.Path` of image files.
    labels : array-like of shape (n,) or (n, k), or None
        For lists of words: a list of tags for each. None: a reference without labels.
    request : Request

    Raises
    ------
    DatasetError
        If the samples are none of these, or do not fit the labels.
    """
    choose_split(request.split, (), source="arrays")
    if not _holds_words(samples):
        return make_dataset("arrays", _samples_in_memory(samples), labels, task=request.task)
    if labels is not None and len(labels) == len(samples):
        tagged = find_tagged(request, samples, list(labels), (), place_of_row)
        if tagged is not None:
            return make_tagged("arrays", *tagged, request)
    texts = Texts(texts_of(samples, what="the texts"), "the texts")
    return make_dataset("arrays", texts, labels, task=request.task)


def from_pairs(source: Items, request: Request) -> Dataset:
    """Take an object with ``len`` whose items are (sample, label), such as a torch ``Dataset``.

    Labels come from its ``targets`` or ``labels`` where these agree with the items, otherwise every
    item is fetched once. Class names come from ``classes``.

    Raises
    ------
    DatasetError
        If items are no such pairs, or differ from one access to the next (random augmentation).
    """
    name = type(source).__name__
    choose_split(request.split, (), source=name)
    if len(source) == 0:
        raise DatasetError(f"{name} is empty, and a data set needs samples. Check how it is built.")
    pair = source[0]
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DatasetError(
            f"item 0 of {name} must be a pair (sample, label); it is a {type(pair).__name__}. "
            "Wrap it so that it returns pairs, or pass (samples, labels)."
        )
    modality, _ = as_sample(pair[0], where=f"sample 0 of {name}")
    samples = ObjectSamples(source, paired=True, name=name, modality=modality)
    if not np.array_equal(samples.content(0), samples.content(0)):
        raise DatasetError(
            f"sample 0 of {name} must be the same each time it is read; it changes. "
            "Remove the random augmentation from its transform."
        )
    labels = _listed_labels(source)
    if labels is None:
        labels = np.array([np.asarray(_label(source, index)) for index in range(len(source))])
    class_names = _class_names(source)
    return make_dataset(name, samples, labels, task=request.task, class_names=class_names)


def _label(source: Items, index: int) -> object:
    """The label of one item."""
    item = source[index]
    return item[1] if isinstance(item, tuple | list) else None


def _samples_in_memory(samples: object) -> Samples:
    if isinstance(samples, Sequence) and not isinstance(samples, str) and len(samples):
        first = samples[0]
        if isinstance(first, Path):
            return ImageFiles([Path(path) for path in samples])
        if isinstance(first, str):
            wrong = [row for row, text in enumerate(samples) if not isinstance(text, str)]
            if wrong:
                raise DatasetError(
                    f"samples must all be strings; sample {wrong[0]} is a "
                    f"{type(samples[wrong[0]]).__name__}. Fill it in or remove it."
                )
            return Texts(samples, "the texts")
        if is_pair(first):
            wrong = [row for row, pair in enumerate(samples) if not is_pair(pair)]
            if wrong:
                raise DatasetError(
                    f"samples must all be tuples of two strings; sample {wrong[0]} is "
                    f"{samples[wrong[0]]!r:.80}. Repair it or remove it."
                )
            return Texts(samples, "the pairs")
        if is_image(first) or getattr(first, "ndim", 1) > 1:  # also arrays of several sizes
            modality, _ = as_sample(first, where="sample 0")
            return ObjectSamples(samples, paired=False, name="the samples", modality=modality)
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
        "samples must be uint8 images (n, height, width[, channels]), vectors (n, d), texts or "
        f"paths; got dtype {array.dtype} of shape {array.shape}. Convert them."
    )


def _holds_words(samples: object) -> TypeGuard[Sequence[Sequence[str]]]:
    """Whether samples are lists of words; a tuple of two texts is a pair."""
    if not isinstance(samples, Sequence) or isinstance(samples, str) or not len(samples):
        return False
    first = samples[0]
    words = isinstance(first, list | tuple) and all(isinstance(word, str) for word in first)
    return words and not is_pair(first)


def _listed_labels(source: Items) -> NumpyArray | None:
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
            agrees = len(listed) == len(source) and all(
                listed[i] == _label(source, i) for i in ends
            )
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError):
            continue  # the attribute is the user's own and may be anything
        if agrees:
            return np.asarray(listed)
    return None


def _class_names(source: object) -> list[str] | None:
    if hasattr(source, "indices") and hasattr(source, "dataset"):
        return _class_names(source.dataset)
    classes = getattr(source, "classes", None)
    if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
        return list(classes)
    return None
