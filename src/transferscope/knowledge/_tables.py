"""The tables in the package: encoders with their facts, and what was measured of them.

``data/`` is written by tools/carry_knowledge.py.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from transferscope.knowledge._model import Model
from transferscope.numerics.arrays import NumpyArray

Modality: TypeAlias = Literal["image", "text"]
MODALITIES: tuple[Modality, ...] = ("image", "text")
#: Words of the pre-training that mean pairs of images and texts.
TEXTS = (
    *("openai", "clip", "laion", "datacomp", "dfn", "metaclip", "webli", "merged2b", "yfcc"),
    "cc12m",
)
#: Words of the pre-training that mean images without labels.
IMAGES = (
    *("dino", "lvd", "sat493m", "mae", "fcmae", "mim", "masked", "moco", "ijepa", "seer", "simclr"),
    *("byol", "swav", "deepcluster", "infomin", "insdis", "pcl", "sela", "rotation"),
)


@dataclass(frozen=True)
class KnownEncoder:
    """An encoder and what is known of it.

    Attributes
    ----------
    name : str
        What `load_encoder` takes, where it can be loaded by name.
    aliases : tuple of str
        Other names of the same weights.
    modalities : tuple of str
        ``"image"``, ``"text"``.
    family : str
    n_parameters, feature_dim, input_size, download_mb, n_languages : int or None
    gpu_speed, cpu_speed : float or None
        Images per second on an RTX 4090 and on a desktop CPU.
    license, released, pretraining : str
        Empty where unknown.
    open_weights : bool or None
    instructions : bool
        Whether a text encoder expects instructions.
    loadable : bool
        Whether this package can load it by its name.
    accuracies : dict of str to float
        On ImageNet and its relatives, with the encoder's own head; ``imagenet_tuned`` is that of
        the same weights after fine-tuning on ImageNet.
    n_results : int
        Published results on other tasks.
    sources : tuple of str
        Where these are from, see `SOURCES`.
    """

    name: str
    aliases: tuple[str, ...]
    modalities: tuple[str, ...]
    family: str
    n_parameters: int | None
    feature_dim: int | None
    input_size: int | None
    download_mb: int | None
    n_languages: int | None
    gpu_speed: float | None
    cpu_speed: float | None
    license: str
    released: str
    pretraining: str
    open_weights: bool | None
    instructions: bool
    loadable: bool
    accuracies: dict[str, float]
    n_results: int
    sources: tuple[str, ...]

    @property
    def usual(self) -> bool:
        """Whether it is a candidate for real data: it loads by its name, or is a service."""
        listed = self.name.startswith(("hf/", "timm/", "torchvision/"))
        return listed if self.loadable else self.open_weights is not True


@dataclass(frozen=True)
class Result:
    """One published figure.

    Attributes
    ----------
    encoder, task : str
    kind : str
        ``"probe"`` or ``"fine-tuned"``.
    value : float
        Accuracy, as a share.
    source : str
        One of `SOURCES`.
    """

    encoder: str
    task: str
    kind: str
    value: float
    source: str


_TESTS = (
    *("imagenet", "imagenet_real", "imagenet_v2", "sketch", "imagenet_a", "imagenet_r"),
    "imagenet_tuned",
)
_DATA = Path(str(files("transferscope.knowledge"))) / "data"


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(io.StringIO(file.read())))


@cache
def known_encoders(folder: Path = _DATA) -> dict[str, KnownEncoder]:
    """All encoders of the knowledge, by name.

    Parameters
    ----------
    folder : path
        The package's own if not given.

    Returns
    -------
    dict of str to KnownEncoder
    """

    def whole(cell: str) -> int | None:
        return int(cell) if cell else None

    def number(cell: str) -> float | None:
        return float(cell) if cell else None

    return {
        row["encoder"]: KnownEncoder(
            row["encoder"],
            tuple(filter(None, row["aliases"].split("|"))),
            tuple(row["modality"].split("|")),
            row["family"],
            whole(row["n_parameters"]),
            whole(row["feature_dim"]),
            whole(row["input_size"]),
            whole(row["download_mb"]),
            whole(row["n_languages"]),
            number(row["gpu_speed"]),
            number(row["cpu_speed"]),
            row["license"],
            row["released"],
            row["pretraining"],
            row["open_weights"] == "1" if row["open_weights"] else None,
            row["instructions"] == "1",
            row["loadable"] == "1",
            {test: float(row[test]) for test in _TESTS if row[test]},
            int(row["n_results"] or 0),
            tuple(filter(None, row["sources"].split("|"))),
        )
        for row in _rows(folder / "encoders.csv.gz")
    }


@cache
def published_results(folder: Path = _DATA) -> tuple[Result, ...]:
    """Every published figure of the knowledge.

    Parameters
    ----------
    folder : path
        The package's own if not given.

    Returns
    -------
    tuple of Result
    """
    return tuple(
        Result(row["encoder"], row["task"], row["kind"], float(row["value"]), row["source"])
        for row in _rows(folder / "results.csv.gz")
    )


def encoders_of(modality: str, folder: Path = _DATA) -> list[KnownEncoder]:
    """Encoders of a modality, in the order of the rows of its model."""
    return [one for one in known_encoders(folder).values() if modality in one.modalities]


@cache
def read_model(modality: str, folder: Path = _DATA) -> Model:
    """The model of a modality."""
    from safetensors.numpy import load_file

    arrays = load_file(folder / f"{modality}.safetensors")
    return Model(**{name: value.astype(float) for name, value in arrays.items()})


def write_model(path: Path, model: Model) -> None:
    """Write a model to a file; equal models give equal bytes.

    Parameters
    ----------
    path : path
    model : Model
    """
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(v, np.float32) for name, v in vars(model).items()}
    path.write_bytes(save(arrays))


def facts_matrix(encoders: Sequence[KnownEncoder]) -> tuple[NumpyArray, NumpyArray]:
    """Facts of encoders as numbers, to predict weights from.

    Parameters
    ----------
    encoders : sequence of KnownEncoder

    Returns
    -------
    matrix : (n, p) array
        First a column of ones; then numbers of mean 0 and deviation 1, with a column that says
        where they are missing; then a column per family, publisher, and word of the pre-training.
    penalty : (p,) array
        Ridge penalty of each.
    """

    def log(value: float | None) -> float:
        return math.log(value) if value else math.nan

    def odds(share: float | None) -> float:
        return math.nan if share is None else math.log((share + 0.01) / (1.01 - share))

    def year(date: str) -> float:
        return int(date[:4]) + (int(date[5:7]) - 0.5) / 12 if date else math.nan

    numbers = [
        [odds(e.accuracies.get("imagenet", e.accuracies.get("imagenet_tuned"))) for e in encoders],
        [odds(e.accuracies.get("sketch")) for e in encoders],
        [log(e.n_parameters) for e in encoders],
        [log(e.feature_dim) for e in encoders],
        [log(e.input_size) for e in encoders],
        [log(e.n_languages) for e in encoders],
        [year(e.released) for e in encoders],
    ]
    columns = [np.ones(len(encoders))]
    for values in np.array(numbers):
        missing = np.isnan(values)
        if missing.all():
            continue
        centred = values - np.nanmean(values)
        columns.append(np.where(missing, 0, centred / (np.nanstd(centred) or 1)))
        if missing.any():
            columns.append(missing.astype(float))
    columns.append(np.array([float(e.instructions) for e in encoders]))
    n_numbers = len(columns)
    words = [
        {f"family {e.family}", f"of {publisher(e)}", way_of(e), *e.pretraining.split()}
        for e in encoders
    ]
    for word in sorted(set().union(*words) - {""}):
        column = np.array([float(word in some) for some in words])
        if column.sum() > 1:
            columns.append(column)
    penalty = np.full(len(columns), 3.0)
    penalty[:n_numbers], penalty[0] = 1.0, 1e-6
    return np.stack(columns, axis=1), penalty


def way_of(encoder: KnownEncoder) -> str:
    """What an encoder of images was taught with besides labels; empty if nothing is known.

    Tables name the data, of which each publisher has its own; this is what they have in common.
    """
    words = encoder.pretraining.split()
    name = encoder.name.lower()
    if any(word.startswith(TEXTS) for word in words) or "clip" in name or "align-" in name:
        return "taught with texts"
    if any(word.startswith(IMAGES) for word in words) or re.search("dino|moco|mae|ijepa", name):
        return "taught with images alone"
    return ""


def publisher(encoder: KnownEncoder) -> str:
    """Who published an encoder, by its name; for those of a collection, the collection."""
    return encoder.name.removeprefix("hf/").rpartition("/")[0]


def kin_of(encoders: Sequence[KnownEncoder]) -> NumpyArray:
    """Numbers (n, 2) of the family and of the publisher of each encoder.

    A collection such as timm is no publisher: each of its encoders has a number of its own.
    """
    own = {"timm", "torchvision", "mini", ""}
    pairs = [
        (one.family or one.name, one.name if publisher(one) in own else publisher(one))
        for one in encoders
    ]
    numbers: list[dict[str, int]] = [{}, {}]
    return np.array(
        [
            [known.setdefault(name, len(known)) for known, name in zip(numbers, pair, strict=True)]
            for pair in pairs
        ]
    ).reshape(-1, 2)
