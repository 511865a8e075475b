"""What a page shows of classes, of single samples, and of other results that were given too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from markupsafe import Markup

from transferscope.report._figures import SampleStyle, sample_figure, sample_styles, sample_swatch
from transferscope.report._text import percent
from transferscope.results import (
    ConfusedPair,
    Confusion,
    LayerDistance,
    LayerDistances,
    Relatedness,
    SampleViews,
    ShownSample,
)

#: How the images begin that are shown.
PIXELS = ("data:image/png;base64,", "data:image/jpeg;base64,")

#: What may be given beside a ranking.
Beside = Relatedness | LayerDistances

#: Classes of lowest accuracy that are listed.
HARDEST_CLASSES = 10
#: From these shares of a class on, mistakes are drawn in the next deeper shade.
SHADES = (0.0, 0.05, 0.15, 0.3)
#: The matrix of so many classes is seen at once; a larger one is opened.
OPEN_MATRIX = 12


@dataclass(frozen=True)
class HardClasses:
    """Which classes the best encoders confuse.

    `pairs` and `classes` have a text per encoder; the first encoder is the recommended.
    """

    encoders: Sequence[str]
    classes: Sequence[tuple[str, int, Sequence[str]]]
    pairs: Sequence[tuple[ConfusedPair, Sequence[str]]]
    matrix: Sequence[tuple[str, int, Sequence[tuple[str, str]]]]
    is_open: bool
    n_samples: int
    n_classes: int


def hard_classes(found: Confusion | None) -> HardClasses | None:
    """The view of a confusion."""
    if found is None or not found.counts:
        return None
    encoders = list(found.counts)
    first, *others = encoders
    recognised = {name: {row[0]: row for row in found.recognised(name)} for name in encoders}
    mistaken = {
        name: {(p.one, p.other): p.n_mistaken for p in found.hardest_pairs(name, most=10**6)}
        for name in others
    }
    classes = [
        (
            name,
            n,
            [f"{percent(recognised[e][name][1] / n) if n else '-'}" for e in encoders],
        )
        for name, _, n in found.recognised(first)[:HARDEST_CLASSES]
    ]
    pairs = [
        (pair, [str(mistaken[e].get((pair.one, pair.other), 0)) for e in others])
        for pair in found.hardest_pairs(first)
    ]
    whole = len(found.classes) == found.n_classes
    return HardClasses(
        encoders,
        classes,
        pairs,
        _matrix(found, first) if whole else [],
        len(found.classes) <= OPEN_MATRIX,
        sum(found.totals),
        found.n_classes,
    )


def _matrix(found: Confusion, encoder: str) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """Rows of the matrix: a class, how many samples, and per class a count with its shade."""
    rows = []
    for i, (name, total) in enumerate(zip(found.classes, found.totals, strict=True)):
        cells = []
        for j, n in enumerate(found.counts[encoder][i]):
            share = n / max(total, 1)
            deep = sum(share > least for least in SHADES)
            right = f"t{round(4 * share)}" if n else ""
            cells.append((str(n) if n else "", right if i == j else f"t-{deep}" if n else ""))
        rows.append((name, total, cells))
    return rows


class MisjudgedRow(NamedTuple):
    """A sample that is misjudged, and how many of the other encoders predict the same of it."""

    sample: ShownSample
    predicted: str
    margin: str
    others: str


@dataclass(frozen=True)
class SamplesView:
    """Some samples, and how the best encoders see them."""

    modality: str
    samples: Sequence[ShownSample]
    figures: Sequence[tuple[str, str, Markup]]
    legend: Sequence[tuple[Markup, str]]
    repeats: bool
    encoder: str
    misjudged: Sequence[MisjudgedRow]


def samples_view(found: SampleViews | None, prefix: str) -> SamplesView | None:
    """The view of samples; ids on the page begin with the prefix."""
    if found is None or not found.maps:
        return None
    samples = found.samples
    if found.modality == "image":
        # nothing but pixels, whoever wrote the JSON
        samples = tuple(
            one if one.content.startswith(PIXELS) else replace(one, content="") for one in samples
        )
    classes = sorted({one.label for one in samples})
    styles: dict[str, SampleStyle] = sample_styles(classes)
    first, *others = found.maps
    figures = []
    for i, one in enumerate(found.maps):
        words = f"{percent(one.explained)} % of the variance" + (
            f"; ringed: the {len(one.misjudged)} it misjudges most" if one.misjudged else ""
        )
        drawn = sample_figure(one, samples, styles, f"{prefix}map{i}", words)
        figures.append((one.encoder, words, drawn))
    taken = [
        {place[0]: predicted for place, predicted in zip(one.places, one.predicted, strict=True)}
        for one in others
    ]
    rows = [
        MisjudgedRow(
            samples[m.sample],
            m.predicted,
            f"{m.margin:.2f}",
            f"{sum(those.get(m.sample) == m.predicted for those in taken)} of {len(taken)}"
            if taken
            else "",
        )
        for m in first.misjudged
    ]
    return SamplesView(
        found.modality,
        samples,
        figures,
        [(sample_swatch(styles[name]), name) for name in classes[: len(styles)]],
        len(set(styles.values())) < len(classes),
        first.encoder,
        rows,
    )


class BesideView(NamedTuple):
    """Another result: what it is, what it says, and its table."""

    title: str
    says: str
    first: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    notes: Sequence[str]


def beside_views(beside: Mapping[str, Beside]) -> list[BesideView]:
    """The views of other results, by what they are called."""
    return [_beside(name, one) for name, one in beside.items()]


def _beside(name: str, one: Beside) -> BesideView:
    if isinstance(one, LayerDistances):
        columns = [field.name for field in fields(LayerDistance)[1:]]
        rows = [
            (layer.name, [getattr(layer, column) for column in columns]) for layer in one.layers
        ]
        what, first, notes = "layer transferability", "layer", one.notes
    else:
        frame = one.to_frame()
        columns = list(frame.columns)
        rows = [
            (str(index), list(values))
            for index, values in zip(frame.index, frame.itertuples(index=False), strict=True)
            if not all(map(_is_absent, values))
        ]
        what, first, notes = "task-relatedness", "quantity", one.warnings
    kept = [i for i in range(len(columns)) if not all(_is_absent(row[i]) for _, row in rows)]
    return BesideView(
        f"{name}: {what}",
        one.headline,
        first,
        [columns[i].replace("_", " ") for i in kept],
        [(row_name, [_cell(row[i]) for i in kept]) for row_name, row in rows],
        notes,
    )


def _is_absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _cell(value: object) -> str:
    if _is_absent(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
