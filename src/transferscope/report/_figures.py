"""The figures of a report, as inline SVG; colours are the style sheet's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from markupsafe import Markup

from transferscope.report._svg import (
    drawing,
    element,
    log_ticks,
    mark,
    padded,
    path_points,
    scale,
    ticks,
)
from transferscope.report._text import count, interval, number, shortened
from transferscope.results import (
    COSTS,
    EncoderResult,
    Priced,
    Ranking,
    SampleMap,
    ShownSample,
    frontier,
)

#: Up to this many encoders have their intervals drawn in the figure of costs.
MOST_INTERVALS = 25
#: Names in a figure have no more characters than these.
LABEL, ROW_LABEL = 30, 40
#: So many rows of intervals are one drawing, which prints on one page.
ROWS_PER_DRAWING = 40
#: The lines of so many encoders are drawn in the figures of layers.
MOST_LINES = 8
#: A class is drawn as a shape in a colour: one of so many colours.
SHAPES, COLOURS = ("dot", "diamond", "square"), 8


def standing(row: EncoderResult, recommended: str | None) -> str:
    """How an encoder is coloured: the recommended one, one of the group, any other."""
    if row.encoder == recommended:
        return "chosen"
    return "group" if row.in_group else "other"


def _class(row: EncoderResult, recommended: str | None) -> str:
    hollow = row.expected is not None and row.expected.probe is None
    return f"mark {standing(row, recommended)}{' hollow' if hollow else ''}"


def cost_figure(ranking: Ranking, there: Sequence[Priced], name: str) -> Markup:
    """Accuracy against cost, with the efficient frontier."""
    verdict = ranking.verdict
    assert verdict is not None
    best = frontier(there)
    few = len(there) <= MOST_INTERVALS
    width, height, left, right, top, bottom = 720, 420, 62, 700, 14, 366
    barred = [one for one in there if few or one.row.in_group]
    ends = [
        -100 * end
        for one in barred
        if one.row.expected is not None
        for end in (one.row.expected.loss_low, one.row.expected.loss_high)
    ]
    low, high = padded([*(one.gain for one in there), *ends])
    y = scale(low, high, bottom, top)
    cheapest, dearest = there[0].cost, there[-1].cost
    cheapest, dearest = cheapest / 1.25, dearest * 1.25
    x = scale(cheapest, dearest, left, right, log=True)
    parts: list[Markup] = []
    for tick in ticks(low, high):
        at = y(tick)
        parts.append(element("line", class_="grid", x1=left, x2=right, y1=at, y2=at))
        parts.append(
            element("text", f"{tick:g}", class_="tick", x=left - 8, y=at + 4, text_anchor="end")
        )
    for tick in log_ticks(cheapest, dearest):
        at = x(tick)
        parts.append(element("line", class_="grid", x1=at, x2=at, y1=top, y2=bottom))
        parts.append(
            element("text", count(tick), class_="tick", x=at, y=bottom + 18, text_anchor="middle")
        )
    axis = COSTS[verdict.prefer]
    middle = (top + bottom) / 2
    parts += [
        element("text", axis, class_="axis", x=(left + right) / 2, y=height - 12.0,
                text_anchor="middle"),
        element("text", "points of accuracy against the recommended", class_="axis", x=16.0,
                y=middle, text_anchor="middle", transform=f"rotate(-90 16 {middle:g})"),
    ]  # fmt: skip
    steps = [(x(best[0].cost), y(best[0].gain))]
    for before, after in itertools.pairwise(best):
        steps += [(x(after.cost), y(before.gain)), (x(after.cost), y(after.gain))]
    steps.append((float(right), y(best[-1].gain)))
    parts.append(element("polyline", points=path_points(steps), class_="frontier"))
    for one in barred:
        found = one.row.expected
        if found is not None:
            style = f"bar {standing(one.row, verdict.recommended)}"
            at = x(one.cost)
            parts.append(
                element("line", class_=style, x1=at, x2=at, y1=y(-100 * found.loss_low),
                        y2=y(-100 * found.loss_high))
            )  # fmt: skip
    for one in reversed(there):
        chosen = one.row.encoder == verdict.recommended
        parts.append(
            element(
                "g",
                element("title", f"{one.row.encoder}: {_said(one, axis)}"),
                mark(
                    x(one.cost),
                    y(one.gain),
                    "diamond" if chosen else "dot",
                    _class(one.row, verdict.recommended),
                ),
            )
        )
    named = sorted(
        (one for one in there if one in best or one.row.in_group),
        key=lambda one: (one.row.encoder != verdict.recommended, one not in best, -one.gain),
    )
    points = [(x(one.cost), y(one.gain)) for one in there]
    labels = [(x(one.cost), y(one.gain), _label(one.row.encoder)) for one in named]
    parts += _labels(labels, points, (left, top, right, bottom))
    described = "; ".join(f"{_label(one.row.encoder)} {_said(one, axis)}" for one in best[:12])
    return drawing(
        (width, height),
        name,
        "Expected accuracy against cost",
        f"{len(there)} encoders, {axis} on a logarithmic axis. On the efficient frontier: "
        f"{described}.",
        parts,
    )


def _label(name: str) -> str:
    return shortened(name.rpartition("/")[2] or name, LABEL)


def _said(one: Priced, axis: str) -> str:
    return f"{count(float(f'{one.cost:.3g}'))} {axis}, {number(one.gain)} points"


def _labels(
    wanted: Sequence[tuple[float, float, str]],
    points: Sequence[tuple[float, float]],
    frame: tuple[float, float, float, float],
) -> Iterator[Markup]:
    """Names beside their points, those that find a free place; the first have the first choice."""
    left, top, right, bottom = frame
    taken: list[tuple[float, float, float, float]] = [
        (x - 5, y - 5, x + 5, y + 5) for x, y in points
    ]
    for x, y, text in wanted:
        long = 6.4 * len(text)
        for at_x, at_y in (
            *((x + 9, y - 6), (x + 9, y + 15), (x - 9 - long, y - 6), (x - 9 - long, y + 15)),
            *((x - long / 2, y - 14), (x - long / 2, y + 24), (x + 9, y - 20), (x + 9, y + 29)),
        ):
            box = (at_x, at_y - 10, at_x + long, at_y + 3)
            inside = box[0] >= left and box[2] <= right and box[1] >= top and box[3] <= bottom
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                yield element("text", text, class_="label", x=at_x, y=at_y)
                break


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class Bar(NamedTuple):
    """An interval, what is expected in it, and how it is drawn."""

    low: float
    middle: float
    high: float
    class_: str
    shape: str = "dot"


@dataclass(frozen=True)
class Strip:
    """A row of a figure of intervals.

    Attributes
    ----------
    name : str
    words : str
        What the row shows, for who points at it.
    bars : sequence of Bar
    is_marked : bool
        Whether it is of the group.
    """

    name: str
    words: str
    bars: Sequence[Bar]
    is_marked: bool = False


def strip_figures(
    strips: Sequence[Strip], axis: str, title: str, name: str, *, zero: bool = False
) -> list[Markup]:
    """Intervals of many encoders, one below the other, on one axis; as many drawings as it takes.

    With `zero` there is a line at zero.
    """
    ends = [end for strip in strips for bar in strip.bars for end in (bar.low, bar.high)]
    low, high = padded(ends, 0.03)
    groups = [
        strips[start : start + ROWS_PER_DRAWING]
        for start in range(0, len(strips), ROWS_PER_DRAWING)
    ]
    figures = []
    for place, some in enumerate(groups):
        part = f" ({place + 1} of {len(groups)})" if len(groups) > 1 else ""
        described = f"Intervals of {len(some)} encoders along the axis: {axis}. " + "; ".join(
            f"{shortened(strip.name, ROW_LABEL)} {strip.words}" for strip in some[:3]
        )
        figures.append(
            drawing(
                (760, 46 + _row_height(some) * len(some)),
                f"{name}-{place}",
                title + part,
                f"{described}{' ...' if len(some) > 3 else '.'} All numbers are in the table.",
                _strip_parts(some, axis, (low, high), zero=zero),
            )
        )
    return figures


def _row_height(strips: Sequence[Strip]) -> float:
    return 20 + 9 * (max((len(strip.bars) for strip in strips), default=1) - 1)


def _strip_parts(
    strips: Sequence[Strip], axis: str, span: tuple[float, float], *, zero: bool
) -> Iterator[Markup]:
    left, right, top = 290, 745, 40
    tall = _row_height(strips)
    bottom = top + tall * len(strips)
    x = scale(*span, left, right)
    for place, strip in enumerate(strips):
        if strip.is_marked:
            yield element(
                "rect", class_="band", x=0, y=top + tall * place, width=760, height=float(tall)
            )
    for tick in ticks(*span):
        at = x(tick)
        yield element("line", class_="grid", x1=at, x2=at, y1=top - 4, y2=float(bottom))
        yield element("text", f"{tick:g}", class_="tick", x=at, y=top - 9, text_anchor="middle")
    yield element(
        "text", axis, class_="axis", x=(left + right) / 2, y=13.0, text_anchor="middle"
    )  # fmt: skip
    if zero:
        yield element("line", class_="zero", x1=x(0.0), x2=x(0.0), y1=top - 4, y2=float(bottom))
    for place, strip in enumerate(strips):
        middle = top + tall * (place + 0.5)
        parts: list[Markup] = []
        for i, bar in enumerate(strip.bars):
            at = middle + 9 * (i - (len(strip.bars) - 1) / 2)
            style = "bar " + " ".join(
                word for word in bar.class_.split() if word not in ("mark", "hollow")
            )
            if bar.low < bar.high:
                parts.append(
                    element("line", class_=style, x1=x(bar.low), x2=x(bar.high), y1=at, y2=at)
                )
            parts.append(mark(x(bar.middle), at, bar.shape, bar.class_, 4))
        yield element(
            "g",
            element("title", f"{strip.name}: {strip.words}"),
            element(
                "text", shortened(strip.name, ROW_LABEL), class_="label", x=left - 14,
                y=middle + 4, text_anchor="end",
            ),
            *parts,
        )  # fmt: skip


def loss_strips(ranking: Ranking) -> list[Strip]:
    """A row per encoder: its loss against the recommended one."""
    recommended = None if ranking.verdict is None else ranking.verdict.recommended
    strips = []
    for row in ranking.ranked:
        found = row.expected
        if found is None:
            continue
        shape = "diamond" if row.encoder == recommended else "dot"
        bar = Bar(
            100 * found.loss_low,
            100 * found.loss,
            100 * found.loss_high,
            _class(row, recommended),
            shape,
        )
        words = f"loses {interval(found.loss, found.loss_low, found.loss_high)} points"
        strips.append(Strip(row.encoder, words, [bar], row.in_group))
    return strips


def score_strips(ranking: Ranking, metric: str) -> list[Strip]:
    """A row per encoder: its score by a metric."""
    strips = []
    for row in ranking.ranked:
        score = row.scores.get(metric)
        if score is None:
            continue
        low = score.value if score.low is None else score.low
        high = score.value if score.high is None else score.high
        bar = Bar(low, score.value, high, f"mark {standing(row, None)}")
        words = f"{score.value:.4g} ({low:.4g} to {high:.4g})"
        strips.append(Strip(row.encoder, words, [bar], row.in_group))
    return strips


def layered(ranking: Ranking) -> list[EncoderResult]:
    """The encoders whose layers are drawn."""
    return [row for row in ranking.ranked if row.layers][:MOST_LINES]


def layer_figures(rows: Sequence[EncoderResult], name: str) -> list[Markup]:
    """The score of every layer: a drawing per metric, a line per encoder."""
    metrics = list(
        dict.fromkeys(metric for row in rows for one in row.layers.values() for metric in one)
    )
    return [_layer_figure(rows, metric, f"{name}-{i}") for i, metric in enumerate(metrics)]


def _layer_figure(rows: Sequence[EncoderResult], metric: str, name: str) -> Markup:
    width, height, left, right, top, bottom = 360, 250, 58, 346, 26, 206
    values = [one[metric].value for row in rows for one in row.layers.values() if metric in one]
    low, high = padded(values)
    y = scale(low, high, bottom, top)
    pooled = any("pooled" in row.layers for row in rows)
    x = scale(0.0, 1.2 if pooled else 1.0, left + 8, right - 14)
    parts = [element("text", metric, class_="axis", x=(left + right) / 2, y=14.0,
                     text_anchor="middle")]  # fmt: skip
    for tick in ticks(low, high, 5):
        at = y(tick)
        parts.append(element("line", class_="grid", x1=left, x2=right, y1=at, y2=at))
        parts.append(
            element("text", f"{tick:g}", class_="tick", x=left - 6, y=at + 4, text_anchor="end")
        )
    words = [(0.0, "first"), (1.0, "last"), *([(1.2, "pooled")] if pooled else [])]
    for place, (at, word) in enumerate(words):
        # last and pooled stand close together
        lower = 14 * (place == 2)
        parts.append(
            element("text", word, class_="tick", x=x(at), y=bottom + 16.0 + lower,
                    text_anchor="middle")
        )  # fmt: skip
    best = []
    for i, row in enumerate(rows):
        numbered = max(1, sum(layer != "pooled" for layer in row.layers) - 1)
        points = []
        for place, (layer, scores) in enumerate(row.layers.items()):
            if metric not in scores:
                continue
            at = 1.2 if layer == "pooled" else place / numbered
            points.append((layer, x(at), y(scores[metric].value), scores[metric].value))
        if not points:
            continue
        line = path_points([(one[1], one[2]) for one in points])
        parts.append(element("polyline", points=line, class_=f"line s{i}"))
        for layer, at_x, at_y, value in points:
            chosen = "" if layer == row.layer else " hollow"
            words_of = f"{row.encoder}, {layer}: {value:.4g}"
            parts.append(
                element("g", element("title", words_of),
                        mark(at_x, at_y, "dot", f"mark s{i}{chosen}", 3.5))
            )  # fmt: skip
        top_one = max(points, key=lambda one: one[3])
        best.append(f"{shortened(row.encoder, ROW_LABEL)}: {top_one[0]} ({top_one[3]:.4g})")
    return drawing(
        (width, height),
        name,
        f"{metric} of every layer",
        f"From the first numbered layer to the last, and pooled. The highest are, "
        f"{'; '.join(best)}.",
        parts,
    )


def swatch(place: int) -> Markup:
    """The sign of one line of the figures of layers, for their legend."""
    return element(
        "svg",
        element("line", class_=f"line s{place}", x1=1, x2=27, y1=6, y2=6),
        mark(14, 6, "dot", f"mark s{place}", 3.5),
        viewBox="0 0 28 12",
        width="28",
        height="12",
        aria_hidden="true",
    )


def curved(ranking: Ranking) -> list[EncoderResult]:
    """The encoders whose learning curves are drawn."""
    return [row for row in ranking.ranked if row.curve][:MOST_LINES]


def curve_figure(rows: Sequence[EncoderResult], name: str) -> Markup:
    """Accuracy of the probe against the number of samples, a line per encoder."""
    width, height, left, right, top, bottom = 560, 300, 58, 546, 14, 240
    low, high = padded(100 * value for row in rows for _, value in row.curve)
    counts = sorted({n for row in rows for n, _ in row.curve})
    y = scale(low, high, bottom, top)
    x = scale(counts[0] / 1.15, counts[-1] * 1.15, left, right, log=True)
    parts = [
        element("text", "samples", class_="axis", x=(left + right) / 2, y=height - 12.0,
                text_anchor="middle"),
        element("text", "accuracy of the probe, %", class_="axis", x=14.0,
                y=(top + bottom) / 2, text_anchor="middle",
                transform=f"rotate(-90 14 {(top + bottom) / 2:g})"),
    ]  # fmt: skip
    for tick in ticks(low, high, 5):
        at = y(tick)
        parts.append(element("line", class_="grid", x1=left, x2=right, y1=at, y2=at))
        parts.append(
            element("text", f"{tick:g}", class_="tick", x=left - 6, y=at + 4, text_anchor="end")
        )
    for n in counts:
        at = x(n)
        parts.append(element("line", class_="grid", x1=at, x2=at, y1=top, y2=bottom))
        parts.append(
            element("text", f"{n:,}", class_="tick", x=at, y=bottom + 18, text_anchor="middle")
        )
    said = []
    for i, row in enumerate(rows):
        points = [(x(n), y(100 * value)) for n, value in row.curve]
        parts.append(element("polyline", points=path_points(points), class_=f"line s{i}"))
        words = ", ".join(f"{number(100 * value)} of {n:,}" for n, value in row.curve)
        parts += [
            element("g", element("title", f"{row.encoder}: {number(100 * value)} % of {n:,}"),
                    mark(*at, "dot", f"mark s{i}", 4))
            for at, (n, value) in zip(points, row.curve, strict=True)
        ]  # fmt: skip
        said.append(f"{shortened(row.encoder, ROW_LABEL)} {words}")
    return drawing(
        (width, height),
        name,
        "Accuracy of the probe by the number of samples",
        f"Percent: {'; '.join(said)}.",
        parts,
    )


#: The shape and the class of the style sheet of one class of the data.
SampleStyle: TypeAlias = tuple[str, str]


def sample_styles(classes: Sequence[str]) -> dict[str, SampleStyle]:
    """How each class is drawn; of more than 24 classes some look alike."""
    return {
        name: (SHAPES[i // COLOURS % len(SHAPES)], f"mark s{i % COLOURS}")
        for i, name in enumerate(classes)
    }


def sample_swatch(style: SampleStyle) -> Markup:
    """The sign of a class, for a legend."""
    return element(
        "svg", mark(6, 6, style[0], style[1], 4), viewBox="0 0 12 12", width="12", height="12",
        aria_hidden="true",
    )  # fmt: skip


def sample_figure(
    found: SampleMap,
    samples: Sequence[ShownSample],
    styles: dict[str, SampleStyle],
    name: str,
    words: str,
) -> Markup:
    """Samples in the plane of the first two principal components of one encoder's features."""
    size, margin = 420, 16
    spans = [padded((place[axis] for place in found.places), 0.02) for axis in (1, 2)]
    x = scale(*spans[0], margin, size - margin)
    y = scale(*spans[1], size - margin, margin)
    ringed = {one.sample for one in found.misjudged}
    parts = [
        element("rect", class_="frame", x=1, y=1, width=size - 2, height=size - 2),
    ]
    for (i, across, up), predicted in zip(found.places, found.predicted, strict=True):
        one = samples[i]
        shape, class_ = styles[one.label]
        at = x(across), y(up)
        ring = [element("circle", class_="ring", cx=at[0], cy=at[1], r=8.0)] if i in ringed else []
        said = one.label if predicted == one.label else f"{one.label}, taken for {predicted}"
        parts.append(
            element("g", element("title", said), *ring, mark(*at, shape, class_, 4), data_s=i,
                    data_said=said)
        )  # fmt: skip
    return drawing(
        (size, size),
        name,
        f"Samples as {shortened(found.encoder, ROW_LABEL)} sees them",
        f"The first two principal components of its features: {words}.",
        parts,
    )


def comparison_strips(first: Ranking, second: Ranking) -> list[Strip]:
    """A row per encoder of both: the accuracy that each expects of it."""
    there = {row.encoder: row for row in second.ranked}
    strips = []
    for row in first.ranked:
        other = there.get(row.encoder)
        if other is None or row.expected is None or other.expected is None:
            continue
        pair = (row.expected, other.expected)
        bars = [
            Bar(100 * found.low, 100 * found.mean, 100 * found.high, f"mark {style}")
            for found, style in zip(pair, ("s0 hollow", "s1"), strict=True)
        ]
        words = " and ".join(interval(found.mean, found.low, found.high) for found in pair)
        strips.append(Strip(row.encoder, words, bars))
    return strips
