"""`open_dataset`: from anything that names or is a data set to one `Dataset`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from transferscope.datasets._archives import packed_file, packed_folder
from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._delimited import read_delimited
from transferscope.datasets._files import naming
from transferscope.datasets._hugging_face import from_hugging_face, load_hugging_face
from transferscope.datasets._image_folder import read_image_folder
from transferscope.datasets._json import read_json
from transferscope.datasets._labels import check_classes
from transferscope.datasets._npz import read_npz_images
from transferscope.datasets._objects import from_arrays, from_pairs
from transferscope.datasets._parquet import read_parquet
from transferscope.datasets._published import PREFIX, load_published, recognise
from transferscope.datasets._request import Request, RequestedTask
from transferscope.datasets._samples import Items, Rows
from transferscope.datasets._splits import choose_split
from transferscope.datasets._tables import Table, read_table
from transferscope.errors import DatasetError

#: Readers of tables by the ending of the file, and what such a file must be.
_TABLES: dict[str, tuple[Callable[[Path], Table], str]] = {
    ".csv": (read_delimited, "a UTF-8 table with a header line"),
    ".tsv": (read_delimited, "a UTF-8 table with a header line"),
    ".json": (read_json, "a table in JSON"),
    ".jsonl": (read_json, "a table in JSON"),
    ".parquet": (read_parquet, "a Parquet file"),
}


def open_dataset(
    source: object,
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
          ``test`` or what else splits are called (``Training``, ``test_set``);
        - ``.npz`` with ``images`` and ``labels``, or ``train_images``, ``train_labels``, ...,
          ``x_train``, ``y_train``, ...;
        - ``.csv``, ``.tsv``, ``.json``, ``.jsonl`` or ``.parquet`` with a column of texts or image
          paths and one of labels; or two columns of texts that make a pair;
        - ``torchvision/<name>?root=DIR``: mnist, fashion_mnist, kmnist, emnist (with
          ``&subset=letters``), usps, cifar10, cifar100, svhn, dtd, fgvc_aircraft, oxford_iiit_pet,
          flowers102, food101, stanford_cars, caltech101, sun397, imagenet, in the files that
          torchvision keeps in DIR, read without it; ``&split=test``; ``&download=1`` lets
          torchvision fetch what is not there. Their folders and files are recognised as paths, too;
        - ``hf/<hub id or local folder>``, ``sklearn/digits``;
        - ``(samples, labels)``, a torch or Hugging Face data set, or a `Dataset`.
    split : str or None
        Which part; by default ``train`` where there are parts. Names that mean the same, such as
        ``val``, ``Validation`` and ``dev``, are the same. ``"all"`` reads folders as classes where
        it is not clear that they are not splits.
    label_column, input_column : str or None
        Columns of a table or Hugging Face data set; by default recognised by type and name. Two
        input columns with a comma between are pairs of texts; several label columns are targets of
        a regression, or classes of a multi-label task if they hold 0 and 1 only.
    task : {"classification", "regression", "multilabel", "tags", "entities"} or None
        By default recognised from the labels; multi-label arrays of 0 and 1 must be named. With
        one tag per word every word is a sample: ``"tags"`` takes the tags as they are,
        ``"entities"`` drops the prefixes of BIO and its like. Words and tags in lists are
        recognised; texts with spaces between need the task.
    max_samples : int or None
        Draw at most this many samples, as `Dataset.subsample` does.
    per_class : int or None
        Draw at most this many samples of each class.
    seed : int
        Of the drawing.
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
    dataset = _read(source, request).without_empty_classes()
    dataset.require_labels()
    _refuse_bad_classes(dataset)
    dataset = dataset.subsample(max_samples, per_class, seed)
    if skip_unreadable and dataset.modality == "image":
        dataset = dataset.without_unreadable()
        _refuse_bad_classes(dataset)
    dataset.look_at_depth()
    return dataset


def open_reference(
    source: object, *, label_column: str | None = None, input_column: str | None = None
) -> Dataset:
    """Open what encoders are compared with in addition to a data set: a task, or a mere corpus.

    Parameters
    ----------
    source : str, Path or object
        As `open_dataset` takes it. A table, a Hugging Face data set or ``(samples, None)`` needs
        no labels.
    label_column, input_column : str or None
        Names of columns, such as those of the data set. They apply where the reference has such
        columns; otherwise its columns are recognised.

    Returns
    -------
    Dataset
        Where there are no labels, its `labels` and `task` are None.

    Raises
    ------
    DatasetError
        As `open_dataset` raises it, except that labels may be missing altogether or all the same:
        what needs classes of a reference then refuses it.
    MissingExtraError
        If reading it needs a library that is not installed.

    Examples
    --------
    >>> from transferscope.datasets import open_reference
    >>> corpus = open_reference((["one text", "another text"], None))
    >>> len(corpus), corpus.labels
    (2, None)
    """
    request = Request(None, label_column, input_column, reference=True)
    dataset = _read(source, request).without_empty_classes()
    dataset.look_at_depth()
    return dataset


def _read(source: object, request: Request) -> Dataset:
    if isinstance(source, Dataset):
        request.refuse_columns(source.name)
        request.refuse_other_task(source.name, source.task)
        choose_split(request.split, [source.split], source=source.name)
        return source
    if isinstance(source, str) and source.startswith("hf/"):
        return load_hugging_face(source.removeprefix("hf/"), request)
    if isinstance(source, str) and source.startswith("sklearn/"):
        return _sklearn_digits(source, request)
    if isinstance(source, str) and source.startswith(PREFIX):
        return load_published(source, request)
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
    request.refuse_columns(f"the {type(source).__name__} that was passed")
    if isinstance(source, tuple) and len(source) == 2:
        return from_arrays(*source, request)
    if isinstance(source, Items) and not isinstance(source, dict):
        return from_pairs(source, request)
    raise DatasetError(
        "source must be a path, hf/<id>, sklearn/digits, (samples, labels), or an object with a "
        f"length and items (sample, label); got a {type(source).__name__}. Pass one of these."
    )


def _read_path(path: Path, request: Request) -> Dataset:
    suffix = path.suffix.lower()
    if path.is_dir() or path.is_file():
        published = recognise(path, request)
        if published is not None:
            return published
    if path.is_dir():
        request.refuse_columns(str(path))
        request.refuse_other_task(str(path), "classification")
        if error := packed_folder(path):
            raise error
        return read_image_folder(path, request)
    if not path.exists():
        raise DatasetError(
            f"source must be a path that exists; there is no {path}. Check the spelling, or write "
            "hf/<id> for a data set of the Hugging Face hub."
        )
    if not path.is_file():  # a pipe or a device could be read for ever
        raise DatasetError(
            f"source must be a folder or a regular file; {path} is neither. Copy it to a file."
        )
    if suffix in _TABLES:
        reader, form = _TABLES[suffix]
        with naming(path, form):
            return read_table(reader(path), request)
    if suffix == ".npz":
        request.refuse_columns(str(path))
        return read_npz_images(path, request)
    if error := packed_file(path):
        raise error
    raise DatasetError(
        f"{path} must be a .npz, .csv, .tsv, .json, .jsonl or .parquet file, a published file of "
        "MNIST, CIFAR, SVHN or USPS, or a folder. Convert it, unpack it, or give the folder that "
        "holds the images."
    )


def _sklearn_digits(source: str, request: Request) -> Dataset:
    request.refuse_columns(source)
    request.refuse_other_task(source, "classification")
    if source != "sklearn/digits":
        raise DatasetError(
            f"source must be sklearn/digits for a data set of scikit-learn, not {source}. Use that."
        )
    choose_split(request.split, (), source=source)
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    names = [str(name) for name in digits.target_names]
    return make_dataset(source, Rows(pixels, source, "image"), digits.target, class_names=names)


def _refuse_bad_classes(dataset: Dataset) -> None:
    what = dataset.name if dataset.split == "all" else f"{dataset.name} ({dataset.split})"
    if dataset.labels is not None and dataset.task == "classification":
        lost = len(dataset.skipped)
        hint = f" {lost} unreadable samples were left out." if lost else ""
        check_classes(dataset.labels, dataset.class_names, what=what, hint=hint)
    elif len(dataset) < 2:
        raise DatasetError(
            f"{what} must have at least two samples; it has {len(dataset)}. Add some."
        )
