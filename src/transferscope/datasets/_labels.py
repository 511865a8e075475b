"""From whatever a source calls labels to class ids, quantities, or 0/1 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

import numpy as np
import numpy.typing as npt

from transferscope.datasets._request import RequestedTask
from transferscope.errors import DatasetError, first_few
from transferscope.numerics.arrays import NumpyArray
from transferscope.numerics.checks import INEXACT
from transferscope.numerics.targets import TaskType


def encode_labels(
    values: object, *, task: RequestedTask | None, class_names: Sequence[str] | None, where: str
) -> tuple[TaskType, NumpyArray, tuple[str, ...]]:
    """Recognise the task and turn labels into numbers.

    Parameters
    ----------
    values : array-like of shape (n,) or (n, k)
        Strings, booleans, integers or floats. Floats that are all whole numbers count as classes,
        other floats as quantities. A single column is the same as one value per sample.
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
    if task is not None and task not in get_args(TaskType):
        raise DatasetError(
            f'task must be "classification", "regression" or "multilabel"; got {task!r}. '
            "Leave it out to have it recognised from the labels."
        )
    array = _without_gaps(values, where)
    meaning = _recognise_task(array, where) if task is None else cast("TaskType", task)
    names = tuple(class_names or ())
    labels: NumpyArray
    if meaning == "multilabel":
        labels, names = _zero_one_columns(array, names, where)
    elif meaning == "regression":
        labels, names = _quantities(array, where), ()
    else:
        labels, names = _class_ids(array, names, where)
    labels.setflags(write=False)
    return meaning, labels, names


def check_classes(
    labels: NumpyArray, class_names: Sequence[str], *, what: str, hint: str = ""
) -> None:
    """Refuse class ids that no score can be computed from.

    Raises
    ------
    DatasetError
        If there is one class only, or a class has fewer than two samples.
    """
    if len(class_names) < 2:
        raise DatasetError(
            f"{what} must have at least two classes; it has {len(class_names)}: "
            f"{', '.join(class_names)}. Add samples of other classes."
        )
    counts = np.bincount(labels, minlength=len(class_names))
    short = [f"{name!r} has {n}" for name, n in zip(class_names, counts, strict=True) if n < 2]
    if short:
        raise DatasetError(
            f"{what} must have at least two samples of every class; {first_few(short)}.{hint} "
            "Add samples or remove the class, or give "
            'task="regression" if the labels are quantities.'
        )


def exact_array(values: object) -> NumpyArray:
    """Make an array in which labels keep their identity.

    NumPy turns whole numbers of which some fit signed and others unsigned 64 bits only into floats;
    here they become texts.

    Parameters
    ----------
    values : array-like

    Returns
    -------
    array
    """
    array = np.asarray(values)
    if array.dtype.kind == "f" and array.ndim == 1 and isinstance(values, Sequence):
        whole = [isinstance(value, int | np.integer) for value in values]
        if all(whole) and any(abs(int(value)) > INEXACT for value in values):
            return np.array([str(value) for value in values])
    return array


def _without_gaps(values: object, where: str) -> NumpyArray:
    """Make an array, and refuse missing labels (None, NaN, infinity)."""
    try:
        array = exact_array(values)
    except ValueError as error:
        raise DatasetError(
            f"{where} must have the same shape for every sample and do not ({error}). "
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
            f"{where} must be complete and finite; {len(rows)} are missing or not finite, the "
            f"first at row {rows[0]}. Fill them in or remove those rows."
        )
    if array.dtype.kind not in "OUS":
        return array
    texts = array.astype(str)
    given = np.asarray(values, dtype=object).ravel()
    if len(set(texts.ravel().tolist())) < len({(isinstance(v, str), str(v)) for v in given}):
        raise DatasetError(
            f"{where} must differ when they are written as texts; numbers and texts among them are "
            "written alike. Give all as numbers or all as texts."
        )
    return texts


def _recognise_task(array: NumpyArray, where: str) -> TaskType:
    if array.ndim == 1 or array.shape[1:] == (1,):
        whole = array.dtype.kind != "f" or bool((array == np.rint(array)).all())
        return "classification" if whole else "regression"
    if array.ndim == 2 and array.dtype.kind == "f" and not np.isin(array, (0, 1)).all():
        return "regression"
    raise DatasetError(
        f"{where} must be one value per sample unless the task is named; they have shape "
        f'{array.shape}. Give task="multilabel" for 0/1 columns or task="regression".'
    )


def _zero_one_columns(
    array: NumpyArray, names: tuple[str, ...], where: str
) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    numeric = array.dtype.kind in "biuf"
    if not (numeric and array.ndim == 2 and np.isin(array, (0, 1)).all()):
        raise DatasetError(
            f"{where} must be an (n, n_classes) array of 0 and 1 for a multi-label task; they have "
            f"dtype {array.dtype} and shape {array.shape}. Give one 0/1 column per class."
        )
    names = names or tuple(map(str, range(array.shape[1])))
    if len(names) != array.shape[1]:
        raise DatasetError(
            f"{where} must have one column per class name; they have {array.shape[1]} columns and "
            f"{len(names)} names. Make them agree."
        )
    return array.astype(np.float64), names


def _quantities(array: NumpyArray, where: str) -> npt.NDArray[np.float64]:
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2):
        raise DatasetError(
            f"{where} must be numbers of shape (n,) or (n, k) for a regression; they have dtype "
            f"{array.dtype} and shape {array.shape}. Convert them, or leave out the task."
        )
    return array.astype(np.float64)


def _class_ids(
    array: NumpyArray, names: tuple[str, ...], where: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    if array.shape[1:] == (1,):
        array = array[:, 0]
    if array.ndim != 1:
        raise DatasetError(
            f"{where} must have shape (n,) for a classification; they have shape {array.shape}. "
            'Give class ids, or task="multilabel" for 0/1 columns.'
        )
    if array.dtype.kind == "f":
        if (array != np.rint(array)).any():
            raise DatasetError(
                f"{where} must be whole numbers or strings for a classification; they hold "
                f'{array[array != np.rint(array)][0]}. Give task="regression" for quantities.'
            )
        if (np.abs(array) >= INEXACT).any():
            raise DatasetError(
                f"{where} must be below 2**53 where they are class ids in floating point, which "
                f"holds no larger ones exactly; they hold {array[np.abs(array).argmax()]}. Give "
                'whole numbers or texts, or task="regression" for quantities.'
            )
        array = array.astype(np.int64)
    if names and array.dtype.kind in "biu":
        outside = (array < 0) | (array >= len(names))
        if outside.any():
            raise DatasetError(
                f"{where} must be ids in 0..{len(names) - 1}, one per class name; they hold "
                f"{array[outside][0]} at row {np.flatnonzero(outside)[0]}. Correct them; a test "
                "split whose labels are withheld (-1) cannot be used."
            )
        return array.astype(np.int64), names
    distinct, ids = np.unique(array, return_inverse=True)
    return ids.astype(np.int64), tuple(map(str, distinct))
