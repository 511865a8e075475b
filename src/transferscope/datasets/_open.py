"""`open_dataset`: from anything that names or is a data set to one `Dataset`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from transferscope.datasets._dataset import Dataset, Request, choose_split, make_dataset
from transferscope.datasets._hugging_face import from_hugging_face, load_hugging_face, read_parquet
from transferscope.datasets._image_folder import read_image_folder
from transferscope.datasets._labels import RequestedTask, Task, check_classes
from transferscope.datasets._npz import read_npz
from transferscope.datasets._objects import from_arrays, from_pairs
from transferscope.datasets._samples import Rows
from transferscope.datasets._tables import read_csv, read_json
from transferscope.errors import DatasetError


def open_dataset(
    source: Any,
    *,
    split: str | None = None,
    label_column: str | None = None,
    input_column: str | None = None,
    task: RequestedTask | None = None,
    max_samples: int | None = None,
    per_class: int | None = None,
    seed: int = 0,
    skip_unreadable: bool = False,
) -> Dataset:
    """Open a data set, whatever form it has.

    Images are not decoded before they are asked for, so that this is quick for large folders.

    Parameters
    ----------
    source : str, Path or object
        - a folder with a sub-folder of images per class, perhaps inside ``train``, ``val``,
          ``test``;
        - ``.npz`` with ``images`` and ``labels``, or ``train_images``, ``train_labels``, ...;
        - ``.csv``, ``.json``, ``.jsonl`` or ``.parquet`` with a column of texts or image paths and
          one of labels; or two columns of texts that make a pair;
        - ``hf/<hub id or local folder>``, ``sklearn/digits``;
        - ``(samples, labels)``, a torch or Hugging Face data set, or a `Dataset`.
    split : str or None
        Which part; by default ``train`` where there are parts.
    label_column, input_column : str or None
        Columns of a table or Hugging Face data set; by default recognised by type and name. Two
        input columns with a comma between are pairs of texts; several label columns are targets of
        a regression, or classes of a multi-label task if they hold 0 and 1 only.
    task : {"classification", "regression", "multilabel", "tags", "entities"} or None
        By default recognised from the labels; multi-label arrays of 0 and 1 must be named. With
        one tag per word every word is a sample: ``"tags"`` takes the tags as they are,
        ``"entities"`` drops the prefixes of BIO and its like.
    max_samples, per_class, seed
        Draw a part, as `Dataset.subsample` does.
    skip_unreadable : bool
        Leave out images that cannot be decoded and list them in `Dataset.skipped`, instead of
        failing when one is met. It decodes every selected image one more time.

    Returns
    -------
    Dataset

    Raises
    ------
    DatasetError
        If there is no such data set, it cannot be read, labels are missing, there is only one
        class, or a class has fewer than two samples.
    MissingExtraError
        If reading it needs a library that is not installed.

    Examples
    --------
    >>> from transferscope.datasets import open_dataset
    >>> digits = open_dataset("sklearn/digits", per_class=20)
    >>> len(digits), digits.n_classes, digits.class_names[:3]
    (200, 10, ('0', '1', '2'))
    """
    request = Request(split, label_column, input_column, task, skip_unreadable)
    dataset = _read(source, request)
    _refuse_bad_classes(dataset)
    dataset = dataset.subsample(max_samples, per_class, seed)
    if skip_unreadable and dataset.modality == "image":
        dataset = dataset.without_unreadable()
        _refuse_bad_classes(dataset)
    return dataset


def open_reference(
    source: Any, *, label_column: str | None = None, input_column: str | None = None
) -> Dataset:
    """Open what encoders are compared with beside a data set: a reference task, or a bare corpus.

    Parameters
    ----------
    source : str, Path or object
        As `open_dataset` takes it. A table or Hugging Face data set needs no labels; where there
        are none, the numbers of its rows stand for them, at which nothing looks.
    label_column, input_column : str or None
        Names of columns, taken where the reference has such; else they are recognised.

    Returns
    -------
    Dataset

    Raises
    ------
    DatasetError
        As `open_dataset` says.
    """
    dataset = _read(source, Request(None, label_column, input_column, reference=True))
    _refuse_bad_classes(dataset)
    return dataset


def _read(source: Any, request: Request) -> Dataset:
    if isinstance(source, Dataset):
        _refuse_columns(source.name, request)
        _refuse_task(source.name, request, source.task)
        if request.split is not None:
            choose_split(request.split, [source.split], source=source.name)
        return source
    if isinstance(source, str) and source.startswith("hf/"):
        return load_hugging_face(source.removeprefix("hf/"), request)
    if isinstance(source, str) and source.startswith("sklearn/"):
        return _sklearn_digits(source, request)
    if isinstance(source, str | Path):
        return _read_path(Path(source).expanduser(), request)
    library = sys.modules.get("datasets")  # whoever holds such an object has imported it
    if library is not None and isinstance(
        source,
        library.Dataset
        | library.DatasetDict
        | library.IterableDataset
        | library.IterableDatasetDict,
    ):
        return from_hugging_face(source, request)
    _refuse_columns(f"the {type(source).__name__} handed in", request)
    if isinstance(source, tuple) and len(source) == 2:
        return from_arrays(*source, request)
    if (
        hasattr(source, "__len__")
        and hasattr(source, "__getitem__")
        and not isinstance(source, dict)
    ):
        return from_pairs(source, request)
    raise DatasetError(
        "A data set is a path, hf/<id>, sklearn/digits, (samples, labels), or an object with a "
        f"length and items (sample, label); got a {type(source).__name__}. Hand in one of these."
    )


def _read_path(path: Path, request: Request) -> Dataset:
    suffix = path.suffix.lower()
    if path.is_dir():
        _refuse_columns(str(path), request)
        _refuse_task(str(path), request, "classification")
        return read_image_folder(path, request)
    if not path.exists():
        raise DatasetError(
            f"The data set's path must exist; there is no {path}. Check the spelling; data sets of "
            "the Hugging Face hub are written hf/<id>."
        )
    if suffix == ".csv":
        return read_csv(path, request)
    if suffix in (".json", ".jsonl"):
        return read_json(path, request)
    if suffix == ".parquet":
        return read_parquet(path, request)
    if suffix == ".npz":
        _refuse_columns(str(path), request)
        return read_npz(path, request)
    raise DatasetError(
        f"A data set file must be .npz, .csv, .json, .jsonl or .parquet; {path} is not. "
        "Convert it, or give the folder that holds the images."
    )


def _sklearn_digits(source: str, request: Request) -> Dataset:
    _refuse_columns(source, request)
    _refuse_task(source, request, "classification")
    if source != "sklearn/digits":
        raise DatasetError(
            f"Of scikit-learn's data sets there is sklearn/digits, not {source}. Use that."
        )
    if request.split is not None:
        choose_split(request.split, [], source=source)
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    names = [str(name) for name in digits.target_names]
    return make_dataset(source, Rows(pixels, source, "image"), digits.target, class_names=names)


def _refuse_bad_classes(dataset: Dataset) -> None:
    what = dataset.name if dataset.split == "all" else f"{dataset.name} ({dataset.split})"
    if dataset.task == "classification":
        lost = len(dataset.skipped)
        hint = f" {lost} unreadable samples were left out." if lost else ""
        check_classes(dataset.labels, dataset.class_names, what=what, hint=hint)
    elif len(dataset) < 2:
        raise DatasetError(
            f"A data set needs at least two samples; {what} has {len(dataset)}. Add some."
        )


def _refuse_columns(what: str, request: Request) -> None:
    request = request.of_columns(())
    if request.label_column is not None or request.input_column is not None:
        raise DatasetError(
            "Columns can be chosen of tables and Hugging Face data sets only; "
            f"{what} has none. Leave out label_column and input_column."
        )


def _refuse_task(what: str, request: Request, task: Task) -> None:
    if request.task not in (None, task):
        raise DatasetError(
            f"The task of {what} is {task}; got task={request.task!r}. Leave it out."
        )
