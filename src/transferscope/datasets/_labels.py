"""From whatever a source calls labels to class ids, quantities, or 0/1 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from transferscope.errors import DatasetError, first_few

Task = Literal["classification", "regression", "multilabel"]
#: What a caller may ask for: the tasks, and the two readings of one tag per word.
RequestedTask = Literal["classification", "regression", "multilabel", "tags", "entities"]


def encode_labels(
    values: Any, *, task: RequestedTask | None, class_names: Sequence[str] | None, where: str
) -> tuple[Task, npt.NDArray[Any], tuple[str, ...]]:
    """Recognise the task and turn labels into numbers.

    Parameters
    ----------
    values : array-like of shape (n,) or (n, k)
        Strings, booleans, integers or floats. Floats that are all whole numbers count as classes,
        other floats as quantities.
    task : {"classification", "regression", "multilabel"} or None
        None: recognise it.
    class_names : sequence of str or None
        If given, integers are ids into it. If None, the classes are the distinct values, sorted.
    where : str
        What to call the labels in messages.

    Returns
    -------
    (task, labels, class_names)
        int64 ids of shape (n,) for classification, float64 otherwise; read-only.

    Raises
    ------
    DatasetError
        If labels are missing, out of range, or do not suit the task.
    """
    if task in ("tags", "entities"):
        raise DatasetError(
            f'task="{task}" is for samples that are lists of words, with one tag for each word; '
            f"{where} are not tags. Give the columns of words and tags, or leave out the task."
        )
    if task not in (None, "classification", "regression", "multilabel"):
        raise DatasetError(
            f'task must be "classification", "regression" or "multilabel", got {task!r}. '
            "Leave it out to have it recognised from the labels."
        )
    array = _without_gaps(values, where)
    numeric = array.dtype.kind in "biuf"
    if task is None:
        task = _recognise_task(array, where)
    names = tuple(class_names or ())
    if task == "multilabel":
        if not (numeric and array.ndim == 2 and np.isin(array, (0, 1)).all()):
            raise DatasetError(
                f"Multi-label targets must be an (n, n_classes) array of 0 and 1; {where} have "
                f"dtype {array.dtype} and shape {array.shape}. Give one 0/1 column per class."
            )
        names = names or tuple(map(str, range(array.shape[1])))
        if len(names) != array.shape[1]:
            raise DatasetError(
                f"Multi-label targets need one column per class name: {where} have "
                f"{array.shape[1]} columns and {len(names)} names. Make them agree."
            )
        labels: npt.NDArray[Any] = array.astype(np.float64)
    elif task == "regression":
        if not numeric or array.ndim not in (1, 2):
            raise DatasetError(
                f"Regression targets must be numbers of shape (n,) or (n, k); {where} have dtype "
                f"{array.dtype} and shape {array.shape}. Convert them, or leave out the task."
            )
        names, labels = (), array.astype(np.float64)
    else:
        names, labels = _class_ids(array, names, where)
    labels.setflags(write=False)
    return task, labels, names


def check_classes(
    labels: npt.NDArray[Any], class_names: Sequence[str], *, what: str, hint: str = ""
) -> None:
    """Refuse class ids that no score can be computed from.

    Raises
    ------
    DatasetError
        If there is one class only, or a class has fewer than two samples.
    """
    if len(class_names) < 2:
        raise DatasetError(
            f"A data set needs at least two classes; {what} has {len(class_names)}: "
            f"{', '.join(class_names)}. Add samples of other classes."
        )
    counts = np.bincount(labels, minlength=len(class_names))
    short = [f"{name!r} has {n}" for name, n in zip(class_names, counts, strict=True) if n < 2]
    if short:
        raise DatasetError(
            f"Every class needs at least two samples; in {what} {first_few(short)}.{hint} "
            "Add samples or remove the class, or give "
            'task="regression" if the labels are quantities.'
        )


def _without_gaps(values: Any, where: str) -> npt.NDArray[Any]:
    """Make an array, and refuse missing labels (None, NaN, infinity)."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DatasetError(
            f"Labels must have the same shape for every sample; {where} do not ({error}). "
            "For several classes per sample give an (n, n_classes) array of 0 and 1."
        ) from error
    if array.dtype.kind == "f":
        missing = ~np.isfinite(array)
    elif array.dtype.kind == "O":
        missing = np.array([value is None or value != value for value in array.ravel()], dtype=bool)
        missing = missing.reshape(array.shape)
    else:
        missing = np.zeros(array.shape, dtype=bool)
    if missing.any():
        rows = np.flatnonzero(missing.reshape(len(array), -1).any(axis=1))
        raise DatasetError(
            f"Every sample needs a label; of {where} {len(rows)} are missing or not finite, the "
            f"first at row {rows[0]}. Fill them in or remove those rows."
        )
    return array.astype(str) if array.dtype.kind == "O" else array


def _recognise_task(array: npt.NDArray[Any], where: str) -> Task:
    if array.ndim == 1:
        whole = array.dtype.kind != "f" or bool((array == np.rint(array)).all())
        return "classification" if whole else "regression"
    if array.ndim == 2 and array.dtype.kind == "f" and not np.isin(array, (0, 1)).all():
        return "regression"
    raise DatasetError(
        f"Labels need one value per sample unless the task is named; {where} have shape "
        f'{array.shape}. Give task="multilabel" for 0/1 columns or task="regression".'
    )


def _class_ids(
    array: npt.NDArray[Any], names: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    if array.ndim != 1:
        raise DatasetError(
            f"Class labels must have shape (n,); {where} have shape {array.shape}. "
            'Give class ids, or task="multilabel" for 0/1 columns.'
        )
    if array.dtype.kind == "f":
        if (array != np.rint(array)).any():
            raise DatasetError(
                f"Class labels must be whole numbers or strings; {where} hold "
                f'{array[array != np.rint(array)][0]}. Give task="regression" for quantities.'
            )
        array = array.astype(np.int64)
    if names and array.dtype.kind in "biu":
        array = array.astype(np.int64)
        outside = (array < 0) | (array >= len(names))
        if outside.any():
            raise DatasetError(
                f"Class ids must lie in 0..{len(names) - 1}, one per class name; {where} hold "
                f"{array[outside][0]} at row {np.flatnonzero(outside)[0]}. Correct them; a test "
                "split whose labels are withheld (-1) cannot be used."
            )
        return names, array.copy()
    distinct, ids = np.unique(array, return_inverse=True)
    return tuple(map(str, distinct)), ids.astype(np.int64)
