"""What the probes of the best encoders say of classes, and of single samples if asked."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transferscope.datasets import Dataset, Word
from transferscope.embedding import Embedding
from transferscope.errors import DatasetError
from transferscope.metrics import leave_one_out
from transferscope.numerics import arrays
from transferscope.numerics.arrays import NumpyArray
from transferscope.numerics.sampling import stratified_rows
from transferscope.results import (
    HARDEST_PAIRS,
    Confusion,
    Misjudged,
    SampleMap,
    SampleViews,
    ShownSample,
)

#: So many encoders are looked at closely: the recommended one, and the best others.
BEST = 3
#: Up to so many classes all are kept; of more, those of the hardest pairs of the recommended
#: encoder, and so many that it recognises least.
ALL_CLASSES, HARDEST_CLASSES = 30, 10
#: Samples that are shown, and of these the most misjudged of each encoder.
SHOWN, MOST_MISJUDGED = 200, 20
#: Pixels of the longer side of a small image, and characters of a text.
THUMBNAIL, EXCERPT = 64, 400


@dataclass(frozen=True)
class Evidence:
    """What one encoder's features show of the samples that are looked at one by one.

    Attributes
    ----------
    rows : (m,) int64 array
        Which samples of the data set.
    predicted : (m,) int32 array
        The class that its probe predicts of each, as the data set numbers them.
    margin : (m,) float32 array
        See `leave_one_out`.
    plane : (m, 2) float32 array
        The first two principal components.
    explained : float
        The share of variance that these hold.
    """

    rows: NumpyArray
    predicted: NumpyArray
    margin: NumpyArray
    plane: NumpyArray
    explained: float


def evidence_of(embedding: Embedding, rows: NumpyArray, labels: NumpyArray) -> Evidence:
    """What an embedding shows of its samples.

    Parameters
    ----------
    embedding : Embedding
        With classes.
    rows : (n_kept,) int64 array
        Which samples of the data set were kept.
    labels : (n,) int64 array
        Of the data set.

    Returns
    -------
    Evidence
    """
    chosen = arrays.to_numpy(embedding.influence_rows)
    left_out = leave_one_out(embedding)
    values, vectors = embedding.spread.spectrum
    plane = arrays.to_numpy(embedding.project_influence(vectors[:, :2]))
    if plane.shape[1] < 2:
        plane = np.pad(plane, ((0, 0), (0, 1)))
    variances = arrays.to_numpy(values)
    # the embedding numbers classes without gaps
    classes = np.unique(labels[rows])
    return Evidence(
        rows[chosen],
        classes[arrays.to_numpy(left_out.predicted)[chosen]].astype(np.int32),
        arrays.to_numpy(left_out.margin)[chosen].astype(np.float32),
        plane.astype(np.float32),
        float(variances[:2].sum() / variances.sum()),
    )


def best_few(found: Sequence[tuple[str, Evidence]]) -> list[tuple[str, Evidence]]:
    """Of encoders in order, the first, and the next that were looked at on the same samples."""
    return [
        one for one in found if np.array_equal(one[1].rows, found[0][1].rows)
    ][:BEST]  # fmt: skip


def confusion_of(found: Sequence[tuple[str, Evidence]], data: Dataset) -> Confusion:
    """Which classes some encoders take for which.

    Parameters
    ----------
    found : sequence of (str, Evidence)
        Names of encoders, the recommended first, and what they show of the same samples.
    data : Dataset

    Returns
    -------
    Confusion
    """
    _, labels = data.require_labels()
    n = data.n_classes
    true = labels[found[0][1].rows]
    totals = np.bincount(true, minlength=n)
    tables = {name: np.unique(true * n + one.predicted, return_counts=True) for name, one in found}
    kept = np.arange(n)
    if n > ALL_CLASSES:
        kept = np.unique(_hardest(*tables[found[0][0]], totals))
    at = np.full(n, -1)
    at[kept] = np.arange(len(kept))
    small = {}
    for name, (cells, counts) in tables.items():
        matrix = np.zeros((len(kept), len(kept)), int)
        row, column = at[cells // n], at[cells % n]
        inside = (row >= 0) & (column >= 0)
        matrix[row[inside], column[inside]] = counts[inside]
        small[name] = tuple(map(tuple, matrix.tolist()))
    names = tuple(data.class_names[i] for i in kept)
    return Confusion(names, tuple(totals[kept].tolist()), small, n)


def _hardest(cells: NumpyArray, counts: NumpyArray, totals: NumpyArray) -> list[int]:
    """Classes of the pairs that one encoder confuses most, and those that it recognises least."""
    n = len(totals)
    row, column = cells // n, cells % n
    wrong = row != column
    low, high = np.minimum(row, column)[wrong], np.maximum(row, column)[wrong]
    pairs, at = np.unique(low * n + high, return_inverse=True)
    mistaken = np.bincount(at, weights=counts[wrong])
    worst = pairs[np.argsort(-mistaken, kind="stable")[:HARDEST_PAIRS]]
    right = np.zeros(n)
    right[row[~wrong]] = counts[~wrong]
    share = np.where(totals > 0, right / np.maximum(totals, 1), np.inf)
    least = np.argsort(share, kind="stable")[:HARDEST_CLASSES]
    return [*(worst // n).tolist(), *(worst % n).tolist(), *least.tolist()]


def views_of(found: Sequence[tuple[str, Evidence]], data: Dataset, seed: int) -> SampleViews:
    """Some samples, and how some encoders see them.

    Parameters
    ----------
    found : sequence of (str, Evidence)
        As `confusion_of` takes it.
    data : Dataset
    seed : int
        Of the draw of samples.

    Returns
    -------
    SampleViews
    """
    _, labels = data.require_labels()
    rows = found[0][1].rows
    true = labels[rows]
    drawn = stratified_rows(np.unique(true, return_inverse=True)[1], len(rows), SHOWN, seed)
    worst = {}
    for name, one in found:
        order = np.argsort(-one.margin, kind="stable")[:MOST_MISJUDGED]
        worst[name] = order[one.predicted[order] != true[order]]
    shown = np.unique(np.concatenate([drawn, *worst.values()]))
    place = {int(row): i for i, row in enumerate(shown)}
    maps = tuple(
        SampleMap(
            name,
            tuple(
                (place[int(i)], round(float(x), 6), round(float(y), 6))
                for i, (x, y) in zip(shown, one.plane[shown], strict=True)
            ),
            tuple(data.class_names[i] for i in one.predicted[shown]),
            one.explained,
            tuple(
                Misjudged(place[int(i)], data.class_names[one.predicted[i]], float(one.margin[i]))
                for i in worst[name]
            ),
        )
        for name, one in found
    )
    samples = tuple(
        ShownSample(data.where(int(rows[i])), data.class_names[true[i]], _content(data, rows[i]))
        for i in shown
    )
    return SampleViews(data.modality, samples, maps)


def _content(data: Dataset, row: int) -> str:
    """A sample as a page can show it."""
    if data.modality == "array":
        return ""
    try:
        sample = data[int(row)]
    except DatasetError:  # it was deleted meanwhile
        return ""
    if isinstance(sample, Word):
        text = " ".join(
            f"[{word}]" if i == sample.position else word for i, word in enumerate(sample.words)
        )
    elif isinstance(sample, tuple):
        text = "\n".join(sample)
    elif isinstance(sample, str):
        text = sample
    else:
        return _thumbnail(sample)
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 1]}…"


def _thumbnail(sample: Any) -> str:
    """A small copy of an image, as a ``data:`` URI."""
    image = sample.copy()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "png" if max(image.size) <= THUMBNAIL // 2 else "jpeg"
    file = io.BytesIO()
    image.save(file, kind, quality=70)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
