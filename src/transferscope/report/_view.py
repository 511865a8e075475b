"""What a page shows of one ranking, ready for the template."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from markupsafe import Markup

from transferscope.errors import UnknownNameError
from transferscope.metrics import get_metric
from transferscope.report._evidence import (
    HardClasses,
    SamplesView,
    hard_classes,
    samples_view,
)
from transferscope.report._figures import (
    ROWS_PER_DRAWING,
    Strip,
    comparison_strips,
    cost_figure,
    curve_figure,
    curved,
    layer_figures,
    layered,
    loss_strips,
    score_strips,
    strip_figures,
    swatch,
)
from transferscope.report._text import (
    count,
    interval,
    number,
    percent,
    probability,
    seconds,
)
from transferscope.results import (
    CHEAPER,
    COSTS,
    EncoderResult,
    Loading,
    Ranking,
    Score,
    format_expected,
    format_score,
    frontier,
    loading,
    notes_of,
    priced,
    score_digits,
)

#: Rows of a table that are seen at once.
ROWS_PER_PAGE = 25
#: Fewest encoders that two metrics are compared on.
FEWEST = 3

WHY_STOPPED = {
    "all": "all candidates were measured",
    "settled": "more would hardly have changed the choice",
    "budget": "the budget was spent",
    "interrupted": "it was interrupted",
    "not yet": "it was still going on",
}
#: What p(best) is the probability of: with a verdict, and without one.
_P_BEST = ("no other is better", "its scores come first over other samples")
CHEAPEST = {
    "speed": "the fastest",
    "size": "the one with the fewest parameters",
    "dimension": "the one with the fewest features",
    "licence": "one whose licence allows any use",
}


Order: TypeAlias = Literal["rises", "falls"]
RISES: Order = "rises"
FALLS: Order = "falls"


class Cell(NamedTuple):
    """A cell: its text, and the number that it is sorted by where the text is none."""

    text: str
    value: float | None = None


class Column(NamedTuple):
    """A column: its name, what it means, and which way it is sorted first."""

    name: str
    meaning: str
    order: Order = RISES


@dataclass(frozen=True)
class Row:
    """A row of a table that can be sorted and filtered."""

    name: str
    cells: Sequence[Cell]
    style: str = ""
    n_parameters: int | None = None
    is_measured: bool = True
    in_group: bool = False
    license: str = ""
    family: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted, filtered and turned over.

    The first column is the place, the second the encoder; `columns` are the others.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    @property
    def licenses(self) -> list[str]:
        """Those of the rows, to choose from."""
        return sorted({row.license for row in self.rows} - {""})

    @property
    def families(self) -> list[str]:
        """Those of the rows, to choose from."""
        return sorted({row.family for row in self.rows} - {""})


class Fact(NamedTuple):
    """A name and its value."""

    name: str
    value: str


class Note(NamedTuple):
    """What some encoders must be read with."""

    about: str
    text: str
    who: str


class Agreement(NamedTuple):
    """A row of the matrix of rank correlations: its name, and per column a text and a shade."""

    name: str
    cells: list[tuple[str, int | None]]


class Citation(NamedTuple):
    """A metric, what it is, and where it was published."""

    name: str
    summary: str
    publication: str


@dataclass(frozen=True)
class View:
    """What a page shows of one ranking."""

    prefix: str
    heading: str
    ranking: Ranking
    recommended: EncoderResult | None
    answer: Sequence[Fact]
    notes: Sequence[str]
    loading: Sequence[Loading]
    table: Table
    cost_figure: Markup | None
    cost_axis: str
    frontier: Sequence[tuple[str, Sequence[Cell]]]
    strip_title: str
    strips: Sequence[Markup]
    strips_left_out: int
    layer_figures: Sequence[Markup]
    layer_legend: Sequence[tuple[Markup, str]]
    layers_left_out: int
    layer_metrics: Sequence[str]
    layer_rows: Sequence[tuple[str, str, bool, Sequence[str]]]
    curve_figure: Markup | None
    curve_legend: Sequence[tuple[Markup, str]]
    hard: HardClasses | None
    samples: SamplesView | None
    agreement: Sequence[Agreement]
    warnings: Sequence[Note]
    failures: Sequence[EncoderResult]
    facts: Sequence[Fact]
    steps: Sequence[Fact]
    versions: Sequence[Fact]
    citations: Sequence[Citation]


def view_of(ranking: Ranking, prefix: str, heading: str) -> View:
    """What a page shows of one ranking; ids on the page begin with the prefix."""
    verdict, ranked = ranking.verdict, ranking.ranked
    recommended = _recommended(ranking)
    there = priced(ranking)
    title, strips, left_out = _strips(ranking, prefix)
    lines = layered(ranking)
    n_layered = sum(bool(row.layers) for row in ranked)
    metrics = list(dict.fromkeys(m for row in lines for one in row.layers.values() for m in one))
    digits = {m: score_digits(row.scores.get(m) for row in ranked) for m in metrics}
    curves = curved(ranking)
    return View(
        prefix=prefix,
        heading=heading,
        ranking=ranking,
        recommended=recommended,
        answer=_answer(ranking, recommended),
        notes=(*ranking.dataset.notes, *(verdict.notes if verdict is not None else ())),
        loading=[]
        if recommended is None
        else loading(recommended.encoder, of_images=recommended.input_size is not None),
        table=_table(ranking, prefix),
        cost_figure=cost_figure(ranking, there, f"{prefix}cost-figure") if there else None,
        cost_axis=COSTS[verdict.prefer] if verdict is not None else "",
        frontier=[
            (
                one.row.encoder,
                (
                    Cell(count(float(f"{one.cost:.3g}"))),
                    Cell("" if one.row.expected is None else format_expected(one.row.expected)[0]),
                    Cell("" if one.row.expected is None else format_expected(one.row.expected)[1]),
                ),
            )
            for one in frontier(there)
        ],
        strip_title=title,
        strips=strips,
        strips_left_out=left_out,
        layer_figures=layer_figures(lines, f"{prefix}layer"),
        layer_legend=[(swatch(i), row.encoder) for i, row in enumerate(lines)],
        layers_left_out=n_layered - len(lines),
        layer_metrics=metrics,
        layer_rows=[
            (
                row.encoder,
                layer,
                layer == row.layer,
                [format_score(scores.get(m), digits[m]) for m in metrics],
            )
            for row in lines
            for layer, scores in row.layers.items()
        ],
        curve_figure=curve_figure(curves, f"{prefix}curve-figure") if curves else None,
        curve_legend=[(swatch(i), row.encoder) for i, row in enumerate(curves)],
        hard=hard_classes(ranking.confusion),
        samples=samples_view(ranking.samples, prefix),
        agreement=_agreement(ranking),
        warnings=_warnings(ranked),
        failures=[row for row in ranking.encoders if row.error is not None],
        facts=_facts(ranking),
        steps=[Fact(name, seconds(spent)) for name, spent in ranking.steps.items()],
        versions=[Fact(name, version) for name, version in ranking.versions.items()],
        citations=_citations(ranking.metrics),
    )


def _answer(ranking: Ranking, row: EncoderResult | None) -> list[Fact]:
    """How sure the recommendation is, and what it costs."""
    verdict = ranking.verdict
    if row is None:
        return []
    facts = []
    if row.expected is not None and verdict is not None:
        found = row.expected
        facts += [
            Fact(
                "expected accuracy after fine-tuning",
                f"{percent(found.mean)} % ({percent(found.low)} to {percent(found.high)})",
            ),
            Fact("expected regret", f"{percent(verdict.regret)} points behind the best candidate"),
        ]
        if not found.n_results:
            facts.append(Fact("published results of it", "none"))
    if row.p_best is not None:
        facts.append(Fact(f"probability that {_P_BEST[verdict is None]}", probability(row.p_best)))
    group = [one for one in ranking.ranked if one.in_group]
    if verdict is not None:
        said = (
            f"{len(group)} of {len(ranking.ranked)} candidates, within "
            f"{percent(verdict.tolerance)} points"
        )
        if len(group) > 1:
            said += (
                f"; of these {CHEAPEST[verdict.prefer]} is recommended if it costs {CHEAPER:g} "
                "times less than the best"
            )
        facts.append(Fact("as good as the best", said))
    elif group:
        facts.append(Fact("as good as the first", f"{len(group)} of {len(ranking.ranked)}"))
    facts += _cheaper_fact(ranking, row)
    facts += _hard_facts(ranking, row)
    speed = _speed(row)
    if speed.text:
        facts.append(Fact("speed", f"{speed.text} samples per second"))
    if row.n_parameters is not None:
        facts.append(Fact("parameters", count(row.n_parameters)))
    if row.feature_dim is not None:
        facts.append(Fact("feature dimension", str(row.feature_dim)))
    if row.layer is not None:
        facts.append(Fact("layer", row.layer))
    return facts


def _cheaper_fact(ranking: Ranking, row: EncoderResult) -> list[Fact]:
    """What the next cheaper encoder of the efficient frontier would cost in accuracy."""
    there = priced(ranking)
    cost = next((one.cost for one in there if one.row.encoder == row.encoder), None)
    if ranking.verdict is None or cost is None:
        return []
    measured = [
        one for one in there if one.row.expected is not None and one.row.expected.probe is not None
    ]
    cheaper = frontier([one for one in measured if one.cost * CHEAPER <= cost])
    if not cheaper:
        return [Fact("next cheaper", f"none that was measured costs {CHEAPER:g} times less")]
    found = cheaper[-1]
    assert found.row.expected is not None
    loss = found.row.expected
    said = (
        f"{found.row.encoder}: {interval(loss.loss, loss.loss_low, loss.loss_high)} points less, "
        f"for {number(found.cost / cost, 2)} of the {COSTS[ranking.verdict.prefer]}"
    )
    return [Fact("next cheaper", said)]


def _hard_facts(ranking: Ranking, row: EncoderResult) -> list[Fact]:
    """Which classes are hard, in a line each."""
    found = ranking.confusion
    if found is None or row.encoder not in found.counts:
        return []
    facts = []
    worst = [one for one in found.recognised(row.encoder)[:3] if one[1] < one[2]]
    if worst:
        said = "; ".join(f"{name} ({right} of {n:,} recognised)" for name, right, n in worst)
        facts.append(Fact("hardest classes", said))
    for pair in found.hardest_pairs(row.encoder, 1):
        n = pair.n_one + pair.n_other
        said = f"{pair.one} and {pair.other} ({pair.n_mistaken} of {n:,} samples)"
        facts.append(Fact("most often confused", said))
    return facts


def _speed(row: EncoderResult) -> Cell:
    """Samples per second; judged ones have a tilde."""
    found = row.expected
    if found is not None and found.seconds_per_sample:
        speed, tilde = 1 / found.seconds_per_sample, "~" if found.probe is None else ""
    elif row.samples_per_second is not None:
        speed, tilde = row.samples_per_second, ""
    else:
        return Cell("")
    return Cell(f"{tilde}{speed:,.0f}", round(speed, 3))


def _table(ranking: Ranking, prefix: str) -> Table:
    """All candidates that did not fail."""
    verdict, metrics = ranking.verdict, ranking.metrics
    there = ranking.ranked
    digits = {m: score_digits(row.scores.get(m) for row in there) for m in metrics}
    has_layer = any(row.layer for row in there)
    columns = [Column("layer", "the layer that the scores are of")] if has_layer else []
    if verdict is not None:
        columns += [
            Column("expected, %", "accuracy after fine-tuning, with a 90 % interval", FALLS),
            Column("loss, points", f"less accuracy than {verdict.recommended}, 90 % interval"),
        ]
    columns += [
        Column("p(best)", f"probability that {_P_BEST[verdict is None]}", FALLS),
        Column("samples/s", "of the forward pass; ~: judged by published speeds", FALLS),
        Column("parameters", "number of parameters"),
        Column("dim", "feature dimension"),
        Column("input", "height and width in pixels"),
        *([Column("licence", "as published")] if any(row.license for row in there) else []),
        *(Column(metric, _meaning(metric), FALLS) for metric in metrics),
    ]
    rows = []
    for row in there:
        cells = [Cell(row.layer or "")] if has_layer else []
        if verdict is not None:
            found = row.expected
            shown = ("", "") if found is None else format_expected(found)
            cells += [
                Cell(shown[0], None if found is None else found.mean),
                Cell(shown[1], None if found is None else found.loss),
            ]
        size = row.input_size
        cells += [
            Cell(probability(row.p_best), row.p_best),
            _speed(row),
            Cell("" if row.n_parameters is None else count(row.n_parameters), row.n_parameters),
            Cell("" if row.feature_dim is None else str(row.feature_dim), row.feature_dim),
            Cell("" if size is None else f"{size[0]}x{size[1]}", size and size[0] * size[1]),
            *([Cell(row.license)] if any(one.license for one in there) else []),
            *(_score(row.scores.get(m), digits[m]) for m in metrics),
        ]
        chosen = verdict is not None and row.encoder == verdict.recommended
        measured = row.expected is None or row.expected.probe is not None
        style = "chosen" if chosen else "group" if row.in_group else ""
        rows.append(
            Row(
                row.encoder,
                [Cell("" if row.rank is None else str(row.rank), row.rank), *cells],
                style if measured else f"{style} unmeasured".strip(),
                row.n_parameters,
                measured,
                row.in_group,
                row.license,
                row.family,
            )
        )
    caption = f"{len(rows)} candidates, ranked by {ranking.ranked_by}."
    if verdict is not None:
        caption += " In parentheses 90 % intervals."
    if metrics:
        caption += " After the sign ± half a 95 % interval of a score over other samples."
    return Table(f"{prefix}table", caption, columns, rows)


def _score(score: Score | None, digits: int) -> Cell:
    if score is None:
        return Cell("")
    return Cell(format_score(score, digits), float(f"{score.value:.8g}"))


def _meaning(metric: str) -> str:
    try:
        return get_metric(metric).about.summary
    except UnknownNameError:
        return "a metric that this version does not know"


def _strips(ranking: Ranking, prefix: str) -> tuple[str, list[Markup], int]:
    """Drawings of intervals, their title, and how many encoders they leave out."""
    verdict = ranking.verdict
    if verdict is not None:
        strips = loss_strips(ranking)
        axis = "points of accuracy less than the recommended, with 90 % intervals"
        name = f"{prefix}loss"
        title = "Loss of every candidate"
        return title, strip_figures(strips, axis, title, name, zero=True) if strips else [], 0
    figures: list[Markup] = []
    left_out = 0
    for i, metric in enumerate(ranking.metrics):
        strips = score_strips(ranking, metric)
        left_out = max(left_out, len(strips) - ROWS_PER_DRAWING)
        some: list[Strip] = strips[:ROWS_PER_DRAWING]
        figures += strip_figures(
            some, f"{metric}, with 95 % intervals", f"Scores by {metric}", f"{prefix}score{i}"
        )
    return "Scores of the candidates", figures, left_out


def _agreement(ranking: Ranking) -> list[Agreement]:
    """Rank correlation (Kendall's tau-b) of what orders the encoders, one with another."""
    there = ranking.ranked
    orders: dict[str, list[float]] = {}
    if ranking.verdict is not None:
        orders["expected accuracy"] = [
            row.expected.mean
            if row.expected is not None and row.expected.probe is not None
            else math.nan
            for row in there
        ]
    for metric in ranking.metrics:
        found = [row.scores.get(metric) for row in there]
        orders[metric] = [math.nan if one is None else one.value for one in found]
    if len(orders) < 2 or len(there) < FEWEST:
        return []
    rows = []
    for name, one in orders.items():
        values = [kendall(np.asarray(one), np.asarray(other)) for other in orders.values()]
        rows.append(
            Agreement(
                name,
                [
                    ("-", None) if tau is None else (number(tau, 2), round(4 * tau))
                    for tau in values
                ],
            )
        )
    return rows


def kendall(one: np.ndarray, other: np.ndarray) -> float | None:
    """Kendall's tau-b over the encoders that both have a value of; None where there is none."""
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < FEWEST:
        return None
    signs = [np.sign(v[both][:, None] - v[both][None, :]) for v in (one, other)]
    norm = math.sqrt(float((signs[0] ** 2).sum()) * float((signs[1] ** 2).sum()))
    return float((signs[0] * signs[1]).sum()) / norm if norm else None


def _warnings(rows: Sequence[EncoderResult]) -> list[Note]:
    """What the encoders must be read with, each note once."""
    return [
        Note(about, text, "all encoders" if len(who) == len(rows) > 1 else _listed(who))
        for (about, text), who in notes_of(rows).items()
    ]


def _listed(names: Sequence[str], most: int = 12) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _facts(ranking: Ranking) -> list[Fact]:
    """What was run."""
    data, verdict = ranking.dataset, ranking.verdict
    facts = [
        Fact("data set", data.name),
        Fact("split", data.split),
        Fact("task type", data.task),
        Fact("samples", f"{data.n_samples:,}"),
    ]
    if data.n_classes:
        facts.append(Fact("classes", f"{data.n_classes:,}"))
    if data.n_skipped:
        facts.append(Fact("unreadable samples left out", f"{data.n_skipped:,}"))
    facts.append(Fact("fingerprint of the data", data.fingerprint))
    failed = sum(row.error is not None for row in ranking.encoders)
    if verdict is not None:
        facts += [
            Fact("measured", f"{verdict.n_measured} of {verdict.n_candidates} candidates"),
            Fact("why no more", WHY_STOPPED.get(verdict.stopped, verdict.stopped)),
            Fact("seconds that measuring took", seconds(verdict.seconds)),
            Fact("preferred", verdict.prefer),
            Fact("tolerance", f"{percent(verdict.tolerance)} points"),
            Fact(
                "published results say nothing about these data",
                f"with probability {probability(verdict.foreign)}",
            ),
        ]
    else:
        facts.append(Fact("measured", f"{len(ranking.ranked)} of {len(ranking.encoders)} encoders"))
    if failed:
        facts.append(Fact("failed", f"{failed}"))
    scoring = sum(score.seconds for row in ranking.ranked for score in row.scores.values())
    facts += [
        Fact("seconds that the scores took", seconds(scoring)),
        Fact("ranked by", ranking.ranked_by),
        Fact("metrics", ", ".join(ranking.metrics) or "none"),
        Fact("seed", str(ranking.seed)),
    ]
    return facts


def _citations(metrics: Iterable[str]) -> list[Citation]:
    found = []
    for name in metrics:
        try:
            about = get_metric(name).about
        except UnknownNameError:
            found.append(Citation(name, "a metric that this version does not know", ""))
        else:
            found.append(Citation(name, about.summary, about.publication))
    return found


@dataclass(frozen=True)
class ComparisonView:
    """Two rankings side by side."""

    names: tuple[str, str]
    facts: Sequence[tuple[str, str, str]]
    table: Table
    strips: Sequence[Markup]
    alone: Sequence[tuple[str, str]]


def comparison_of(rankings: Sequence[Ranking], names: tuple[str, str]) -> ComparisonView:
    """What a page shows of two rankings side by side."""
    first, second = rankings
    both = [
        {
            "recommended": "" if one.verdict is None else one.verdict.recommended,
            **({} if not one.ranked else {"first": one.best.encoder}),
            **{f.name: f.value for f in _answer(one, _recommended(one))[:2]},
            **{f.name: f.value for f in _facts(one)},
        }
        for one in rankings
    ]
    keys = dict.fromkeys([*both[0], *both[1]])
    strips = comparison_strips(first, second)
    figures = (
        strip_figures(
            strips,
            f"expected accuracy, %: hollow {names[0]}, filled {names[1]}",
            f"Expected accuracy in {names[0]} and {names[1]}",
            "compare",
        )
        if strips
        else []
    )
    known = [{row.encoder for row in one.ranked} for one in rankings]
    alone = [
        (name, _listed([row.encoder for row in one.ranked if row.encoder not in other]))
        for name, one, other in zip(names, rankings, reversed(known), strict=True)
    ]
    return ComparisonView(
        names,
        [(key, both[0].get(key, ""), both[1].get(key, "")) for key in keys],
        _comparison_table(first, second, names),
        figures,
        [(name, who) for name, who in alone if who],
    )


def _recommended(ranking: Ranking) -> EncoderResult | None:
    wanted = None if ranking.verdict is None else ranking.verdict.recommended
    found = [row for row in ranking.ranked if row.encoder == wanted]
    return next(iter((*found, *ranking.ranked)), None)


def _comparison_table(first: Ranking, second: Ranking, names: tuple[str, str]) -> Table:
    """The encoders of both, and how their standing changes."""
    verdicts = first.verdict is not None and second.verdict is not None
    metrics = [] if verdicts else [m for m in first.metrics if m in second.metrics]
    columns = [
        Column(f"rank in {names[1]}", "its place in the second ranking"),
        Column("places gained", f"from {names[0]} to {names[1]}", FALLS),
    ]
    if verdicts:
        columns += [
            *(Column(f"expected in {n}, %", "accuracy after fine-tuning", FALLS) for n in names),
            Column("change, points", f"from {names[0]} to {names[1]}", FALLS),
            *(Column(f"loss in {n}, points", "against the recommended one") for n in names),
            *(Column(f"p(best) in {n}", "that no other candidate is better", FALLS) for n in names),
        ]
    columns += [Column(f"{m} in {n}", _meaning(m), FALLS) for m in metrics for n in names]
    digits = {
        m: score_digits(r.scores.get(m) for one in (first, second) for r in one.ranked)
        for m in metrics
    }
    there = {row.encoder: row for row in second.ranked}
    rows = []
    for row in first.ranked:
        other = there.get(row.encoder)
        if other is None:
            continue
        pair = (row, other)
        cells = [Cell("" if one.rank is None else str(one.rank), one.rank) for one in pair]
        gained = None if row.rank is None or other.rank is None else row.rank - other.rank
        cells.append(Cell("" if gained is None else f"{gained:+d}" if gained else "0", gained))
        if verdicts:
            cells += _expected_cells(row, other)
        cells += [_score(one.scores.get(m), digits[m]) for m in metrics for one in pair]
        measured = all(one.expected is None or one.expected.probe is not None for one in pair)
        in_group = row.in_group or other.in_group
        rows.append(
            Row(row.encoder, cells, "group" if in_group else "", row.n_parameters, measured,
                in_group, row.license, row.family)
        )  # fmt: skip
    caption = f"{len(rows)} encoders of both, in the order of {names[0]}."
    return Table("compare-table", caption, columns, rows)


def _expected_cells(row: EncoderResult, other: EncoderResult) -> list[Cell]:
    found = [row.expected, other.expected]
    shown = [("", "") if one is None else format_expected(one) for one in found]
    means = [None if one is None else one.mean for one in found]
    losses = [None if one is None else one.loss for one in found]
    change = None if means[0] is None or means[1] is None else means[1] - means[0]
    return [
        Cell(shown[0][0], means[0]),
        Cell(shown[1][0], means[1]),
        Cell("" if change is None else percent(change), change),
        Cell(shown[0][1], losses[0]),
        Cell(shown[1][1], losses[1]),
        Cell(probability(row.p_best), row.p_best),
        Cell(probability(other.p_best), other.p_best),
    ]


def title_of(rankings: Sequence[Ranking], names: tuple[str, str]) -> str:
    """What the page is called."""
    if len(rankings) == 2:
        return f"{names[0]} and {names[1]}, side by side"
    (ranking,) = rankings
    if not ranking.ranked:
        return f"{ranking.dataset.name}: no encoder could be ranked"
    row = _recommended(ranking)
    assert row is not None
    return f"{ranking.dataset.name}: {row.encoder}"
