"""Figures, from results only. The only file that imports matplotlib."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transferscope.errors import InputError, StoreError, require
from transferscope.results import (
    ALIKE,
    ALL,
    COSTS,
    SMALLER,
    Agreement,
    LayerDistances,
    MetricStudy,
    PedTrace,
    Ranking,
    Relatedness,
    RelatednessPairs,
    frontier,
    priced,
)
from transferscope.storage.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Terms of the bound of task-relatedness, and the losses beside it.
RELATEDNESS_TERMS = (
    ("reference_loss", "re-weighted reference loss", "#4c72b0"),
    ("label_mismatch", "label mismatch", "#dd8452"),
    ("distribution_mismatch", "distribution mismatch", "#55a868"),
)
RELATEDNESS_MARKS = (
    ("transformed_loss", "loss of the transformed head", "D"),
    ("target_loss", "loss of the target's own head, as steep", "o"),
    ("free_loss", "loss of its own head, as steep as it likes", "v"),
)
#: Up to this many classes are named in a figure.
NAMED_CLASSES = 20


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; raises `MissingExtraError` if matplotlib is not installed."""
    require("matplotlib", extra="report", purpose="draw figures")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def require_matplotlib() -> None:
    """Refuse to draw, before the work for a figure begins, where it could not be drawn.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    require("matplotlib", extra="report", purpose="draw figures")


def plot_ped(trace: PedTrace) -> Figure:
    """Draw how PED moves the classes: the plane of their means, and the energy per step.

    Parameters
    ----------
    trace : PedTrace

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    figure = _figure(11, 5)
    from matplotlib import colormaps
    from matplotlib.patches import Circle

    plane, energy = figure.subplots(1, 2, width_ratios=(3, 2))
    frame = trace.to_frame()
    names, (x, y) = list(frame.index), (frame["x_before"], frame["y_before"])
    moves = (frame["x_after"] - x, frame["y_after"] - y)
    longest = float((moves[0] ** 2 + moves[1] ** 2).max() ** 0.5)
    extent = float(max(x.max() - x.min(), y.max() - y.min(), frame["radius"].max()))
    # movements are small compared with the distances of the means: magnified until they can be seen
    times = max(1, round(0.12 * extent / longest)) if longest > 0 else 1
    colours = [colormaps["tab20"](i % 20) for i in range(len(names))]
    for name, x_i, y_i, radius, colour in zip(names, x, y, frame["radius"], colours, strict=True):
        plane.add_patch(Circle((x_i, y_i), radius, facecolor=colour, alpha=0.08))
        if len(names) <= NAMED_CLASSES:
            plane.annotate(name, (x_i, y_i), (4, 4), textcoords="offset points", fontsize=8)
    plane.scatter(x, y, color=colours, s=25)
    plane.quiver(x, y, *moves, color=colours, angles="xy", scale_units="xy", scale=1 / times,
                 width=0.005)  # fmt: skip
    plane.autoscale_view()
    plane.set_aspect("equal", adjustable="datalim")
    plane.set_title(
        f"Class means and how they move (arrows: {times} times the movement; discs: the samples'\n"
        f"deviation; the plane shows {100 * trace.explained:.0f} % of the spread of the means)",
        fontsize=9,
    )
    plane.set_xlabel("first axis of the class means")
    plane.set_ylabel("second axis")
    energy.plot(range(len(trace.energies)), trace.energies, "o-", color="0.2")
    energy.set_ylim(bottom=0)
    energy.set_xticks(range(len(trace.energies)))
    energy.set_title("Potential energy", fontsize=9)
    energy.set_xlabel("step")
    return figure


def plot_agreement(agreement: Agreement, measure: str = "weighted_tau") -> Figure:
    """Draw a heat map of one measure: metric x data set, the averages to the right.

    Parameters
    ----------
    agreement : Agreement
    measure : str
        One of `transferscope.evaluation.MEASURES`. Undefined cells are grey and marked "-".

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    columns = {**agreement.per_dataset, "average": agreement.average}
    metrics = list(agreement.average)
    cells = [[found.get(m, {}).get(measure) for found in columns.values()] for m in metrics]
    values = [[float("nan") if c is None or c.value is None else c.value for c in r] for r in cells]
    figure = _figure(3 + 0.6 * len(columns), 1.8 + 0.4 * len(metrics))
    from matplotlib import colormaps

    axes = figure.subplots()
    known = [v for row in values for v in row if v == v]
    signed = not measure.startswith(("rel", "recall", "regret"))
    worst_high = measure.startswith("regret")
    colours = colormaps["RdYlGn_r" if worst_high else "RdYlGn"].with_extremes(bad="0.85")
    low, high = (-1.0, 1.0) if signed else (min(known, default=0.0), max(known, default=1.0))
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            text = f"{value:.2f}" if value == value else "-"
            axes.text(j, i, text, ha="center", va="center", fontsize=8)
    axes.axvline(len(columns) - 1.5, color="0.2", linewidth=2)
    axes.set_xticks(range(len(columns)), list(columns), rotation=45, ha="right")
    axes.set_yticks(range(len(metrics)), metrics)
    figure.colorbar(image, ax=axes, label=measure)
    axes.set_title("Agreement with fine-tuned accuracy", fontsize=10)
    return figure


def plot_scores(agreement: Agreement) -> Figure:
    """Draw every metric's scores against fine-tuned accuracy, a panel per metric and data set.

    Parameters
    ----------
    agreement : Agreement

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    datasets, metrics = list(agreement.per_dataset), list(agreement.average)
    figure = _figure(1 + 2.1 * len(datasets), 0.6 + 1.9 * len(metrics))
    grid = figure.subplots(len(metrics), len(datasets), squeeze=False)
    for i, metric in enumerate(metrics):
        for j, dataset in enumerate(datasets):
            axes, truth = grid[i][j], agreement.accuracy[dataset]
            scores = agreement.scores[dataset].get(metric, {})
            both = [encoder for encoder in scores if encoder in truth]
            axes.scatter([scores[e] for e in both], [truth[e] for e in both], s=12, color="C0")
            found = agreement.per_dataset[dataset].get(metric, {}).get("weighted_tau")
            tau = "-" if found is None or found.value is None else f"{found.value:.2f}"
            heading = f"{dataset}\n" if i == 0 else ""
            axes.set_title(f"{heading}weighted tau {tau}", fontsize=8)
            axes.tick_params(labelsize=6)
            if j == 0:
                axes.set_ylabel("accuracy", fontsize=7)
            axes.set_xlabel(metric, fontsize=7)
    return figure


def plot_robustness(study: MetricStudy) -> Figure:
    """Draw how far each metric's agreement holds when encoders are left out.

    Parameters
    ----------
    study : MetricStudy

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    metrics = study.metrics[::-1]
    figure = _figure(8, 1.8 + 0.28 * len(metrics))
    axes = figure.subplots()
    for row, metric in enumerate(metrics):
        low, high = study.leaving_one_out(metric)
        if low is not None and high is not None:
            label = "any one encoder left out" if row == 0 else None
            axes.plot([low, high], [row, row], color="0.7", linewidth=6, label=label, zorder=1)
    for case, marker, colour in ((ALL, "o", "C0"), (SMALLER, "v", "C1"), (ALIKE, "s", "C2")):
        taus = [study.tau(case, metric) for metric in metrics]
        known = [(tau, row) for row, tau in enumerate(taus) if tau is not None]
        if known:
            name = "all encoders" if case == ALL else case
            taus_known, rows = zip(*known, strict=True)
            axes.scatter(taus_known, rows, marker=marker, color=colour, s=28, label=name)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(range(len(metrics)), metrics)
    axes.set_xlabel("weighted tau, mean over data sets")
    axes.set_title("Does the order survive when encoders are left out?", fontsize=10)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure


def plot_metric_correlation(study: MetricStudy) -> Figure:
    """Draw how like each other the orders are in which two metrics put the encoders.

    Parameters
    ----------
    study : MetricStudy

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    frame = study.correlation_frame()
    n = len(frame)
    figure = _figure(3 + 0.36 * n, 2 + 0.36 * n)
    from matplotlib import colormaps

    axes = figure.subplots()
    colours = colormaps["RdBu_r"].with_extremes(bad="0.85")
    image = axes.imshow(frame.to_numpy(), cmap=colours, vmin=-1, vmax=1)
    if n <= NAMED_CLASSES:
        for (i, j), value in np.ndenumerate(frame.to_numpy()):
            text = f"{value:.2f}" if value == value else "-"
            shade = "white" if abs(value) > 0.6 else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=6, color=shade)
    axes.set_xticks(range(n), list(frame.columns), rotation=90, fontsize=8)
    axes.set_yticks(range(n), list(frame.index), fontsize=8)
    figure.colorbar(image, ax=axes, label="Spearman, mean over data sets")
    axes.set_title("Which metrics say the same?", fontsize=10)
    return figure


def plot_samples(study: MetricStudy) -> Figure:
    """Draw each metric's agreement against the number of samples that it was computed of.

    Parameters
    ----------
    study : MetricStudy
        With `curves`.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If it has none.
    MissingExtraError
        If matplotlib is not installed.
    """
    if not study.curves:
        raise InputError("there are no curves to draw; measure with several numbers of samples.")
    numbers = sorted({one.n_samples for one in study.curves if one.n_samples is not None})
    places: dict[int | None, int] = {n: i for i, n in enumerate(numbers)}
    places[None] = len(numbers)
    metrics = [m for m in study.metrics if any(one.metric == m for one in study.curves)]
    figure = _figure(8.5, 1.5 + max(3.5, 0.2 * len(metrics)))
    from matplotlib import colormaps

    axes = figure.subplots()
    for i, metric in enumerate(metrics):
        points = sorted(
            (places[one.n_samples], one.weighted_tau)
            for one in study.curves
            if one.metric == metric and one.weighted_tau is not None
        )
        axes.plot(
            [place for place, _ in points],
            [tau for _, tau in points],
            marker="o",
            markersize=3,
            linewidth=1.2,
            color=colormaps["tab20"](i % 20),
            linestyle=("-", "--", ":")[i // 20 % 3],
            label=metric,
        )
    axes.set_xticks(range(len(places)), [*(f"{n:,}" for n in numbers), "all"])
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xlabel("samples of each data set")
    axes.set_ylabel("weighted tau, mean over data sets")
    axes.set_title("How few samples are enough?", fontsize=10)
    figure.legend(loc="outside right upper", fontsize=7)
    return figure


def plot_choice(ranking: Ranking) -> Figure:
    """Draw what each candidate costs against the accuracy that is expected of it.

    Parameters
    ----------
    ranking : Ranking
        With a verdict.

    Returns
    -------
    matplotlib Figure
        Dots with 90 % intervals of the loss against the recommended encoder, hollow where it was
        not measured; the line joins those of which no cheaper one is expected to be as good.

    Raises
    ------
    InputError
        If the ranking has no verdict.
    MissingExtraError
        If matplotlib is not installed.
    """
    verdict = ranking.verdict
    if verdict is None:
        raise InputError(
            "This ranking has no verdict: of such data no accuracy is expected. Nothing to draw."
        )
    there = priced(ranking)
    figure = _figure(8, 5)
    from matplotlib.ticker import StrMethodFormatter

    axes = figure.subplots()
    best = frontier(there)
    line = [(one.cost, one.gain) for one in best]
    axes.plot(*zip(*line, strict=True), color="0.6", linewidth=1, zorder=1, drawstyle="steps-post")
    few = len(there) <= MOST_INTERVALS
    names = []
    for one in there:
        cost, gain, row = one
        found, chosen = row.expected, row.encoder == verdict.recommended
        assert found is not None
        colour = "tab:green" if chosen else "yellowgreen" if row.in_group else "tab:blue"
        if few or chosen or row.in_group:
            ends = [[100 * (found.loss_high - found.loss)], [100 * (found.loss - found.loss_low)]]
            axes.errorbar(cost, gain, ends, fmt="none", color=colour, alpha=0.4, zorder=2)
        axes.plot(
            cost,
            gain,
            "D" if chosen else "o",
            markerfacecolor="white" if found.probe is None else colour,
            color=colour,
            markersize=8 if chosen else 6,
            zorder=3,
        )
        if one in best or chosen or row.in_group:
            names.append((cost, gain, row.encoder.rpartition("/")[2]))
    for place, (x, y, name) in enumerate(sorted(names)):
        above = (6, 8 if place % 2 else -12)
        axes.annotate(name, (x, y), above, textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel(COSTS[verdict.prefer])
    axes.set_ylabel(f"expected accuracy against {verdict.recommended}, points")
    axes.set_title(
        f"{ranking.dataset.name}: accuracy after fine-tuning against cost\n"
        "diamond: recommended; light green: as good within the tolerance; hollow: not measured; "
        "bars: 90 % of the difference",
        fontsize=9,
    )
    axes.grid(alpha=0.3)
    return figure


#: Up to this many encoders have their intervals drawn.
MOST_INTERVALS = 25


def plot_layers(ranking: Ranking) -> Figure:
    """Draw the score of every layer that was measured: a panel per metric, a line per encoder.

    Parameters
    ----------
    ranking : Ranking
        Made with ``layers="all"``, ``"best"`` or numbers.

    Returns
    -------
    matplotlib Figure
        Depth is 0 at the first numbered layer and 1 at the last; the pooled one stands behind it.
        The chosen layer of each encoder is a filled dot.

    Raises
    ------
    InputError
        If it holds no scores of several layers.
    MissingExtraError
        If matplotlib is not installed.
    """
    rows = [row for row in ranking.encoders if row.layers]
    if not rows:
        raise InputError('This ranking has no scores of layers. Rank with layers="all".')
    metrics = list(
        dict.fromkeys(name for row in rows for one in row.layers.values() for name in one)
    )
    across = min(len(metrics), 3)
    down = -(-len(metrics) // across)
    figure = _figure(4.5 * across, 3.4 * down + 0.25 * len(rows))
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for panel, metric in zip(panels, metrics, strict=False):
        for row in rows:
            numbered = max(1, sum(layer != "pooled" for layer in row.layers) - 1)
            places = {
                layer: 1.2 if layer == "pooled" else place / numbered
                for place, layer in enumerate(row.layers)
            }
            shown = [layer for layer in row.layers if metric in row.layers[layer]]
            values = {layer: row.layers[layer][metric].value for layer in shown}
            (line,) = panel.plot(
                [places[layer] for layer in shown],
                list(values.values()),
                marker="o",
                markerfacecolor="white",
                label=row.encoder,
            )
            if row.layer in values:
                panel.plot(places[row.layer], values[row.layer], "o", color=line.get_color())
        panel.set_title(metric)
        pooled = any("pooled" in row.layers for row in rows)
        panel.set_xticks([0, 1, 1.2][: 2 + pooled], ["first", "last", "pooled"][: 2 + pooled])
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", fontsize=8)
    return figure


def plot_layer_distances(targets: Mapping[str, LayerDistances]) -> Figure:
    """Draw the transferability of every layer, one curve per target.

    Parameters
    ----------
    targets : dict of str to LayerDistances
        Name of the target -> its layers. A layer without a value leaves a gap.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If no target is given, or none has a value (no random initialisation was given).
    MissingExtraError
        If matplotlib is not installed.
    """
    if not any(layer.transferability for one in targets.values() for layer in one.layers):
        raise InputError(
            "there is no transferability to draw; give targets, with a random initialisation."
        )
    layers = [layer for one in targets.values() for layer in one.layers if layer.transferability]
    names = list(dict.fromkeys(layer.name for layer in layers))
    heads = {name for one in targets.values() for name in one.head}
    names.sort(key=lambda name: name in heads)
    figure = _figure(max(8, min(22, 4.5 + 0.42 * len(names))), 5)
    from matplotlib import colormaps
    from matplotlib.ticker import LogLocator

    axes = figure.subplots()
    for i, (target, one) in enumerate(targets.items()):
        values = {layer.name: layer.transferability for layer in one.layers}
        spreads = {layer.name: layer.spread for layer in one.layers if layer.spread}
        given = [values.get(name) or math.nan for name in names]
        overall = "" if one.overall is None else f" ({one.overall:.3g})"
        axes.errorbar(
            range(len(names)),
            given,
            yerr=[spreads.get(name, 0.0) for name in names] if spreads else None,
            marker="o",
            markersize=4,
            linewidth=1.2,
            color=colormaps["tab10"](i % 10),
            linestyle=("-", "--", ":")[i // 10 % 3],
            label=target + overall,
        )
    axes.axhline(1, color="0.4", linewidth=0.8, linestyle="--")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("transferability (times closer than random weights)")
    axes.set_title(
        "How much closer pre-training brought each layer to where fine-tuning ended\n"
        "(in brackets: mean without the head; dashed: no closer than random weights)",
        fontsize=9,
    )
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def plot_relatedness(results: Relatedness | Mapping[str, Relatedness]) -> Figure:
    """Draw the terms of the bound, stacked, next to the measured losses.

    Parameters
    ----------
    results : Relatedness, or mapping of name to Relatedness
        Of one, also how the target was transformed to the reference: held-out samples in the plane
        of the reference's first two principal axes.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If the one result came from JSON, which leaves out what is drawn.
    MissingExtraError
        If matplotlib is not installed.
    """
    alone = isinstance(results, Relatedness)
    named = {results.setting: results} if isinstance(results, Relatedness) else dict(results)
    width = 4.0 if alone else max(5.0, 1.0 + 0.75 * len(named))
    figure = _figure(11 if alone else width, 5)
    if alone:
        bars, plane = figure.subplots(1, 2, width_ratios=(2, 3))
    else:
        bars = figure.subplots()
    places = range(len(named))
    base = [0.0] * len(named)
    for term, label, colour in RELATEDNESS_TERMS:
        heights = [getattr(one, term) for one in named.values()]
        bars.bar(places, heights, 0.6, base, color=colour, label=label)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    floors = [
        (i, one.bound - one.distribution_mismatch + one.noise_floor)
        for i, one in zip(places, named.values(), strict=True)
        if one.noise_floor is not None
    ]
    for i, (place, height) in enumerate(floors):
        said = {"label": "of it by sampling alone"} if i == 0 else {}
        bars.plot([place - 0.3, place + 0.3], [height] * 2, "--", color="black", lw=1, **said)
    for field, label, marker in RELATEDNESS_MARKS:
        points = [
            (i, getattr(one, field), one.standard_errors.get(field, 0.0))
            for i, one in zip(places, named.values(), strict=True)
            if getattr(one, field) is not None
        ]
        if points:
            x, y, spread = zip(*points, strict=True)
            bars.errorbar(x, y, spread, fmt=marker, color="black", mfc="white", lw=1, label=label)
    slanted = {} if alone else {"rotation": 40, "ha": "right"}
    bars.set_xticks(list(places), list(named), **slanted)
    bars.set_xlim(-0.8, len(named) - 0.2)
    bars.set_ylim(0, 1.35 * max(base))
    bars.set_ylabel("nats")
    bars.set_title("The bound and its terms", fontsize=9)
    bars.legend(fontsize=8, loc="upper left", ncols=1 if alone else 2)
    for one in named.values() if alone else ():
        colours = {"reference": "#4c72b0", "target": "0.7", "transformed": "#c44e52"}
        labels = {"target": "target as it is", "transformed": "target transformed to the reference"}
        for kind, colour in colours.items():
            if one.view is None:
                raise InputError(
                    "results must hold the view, which JSON leaves out; got one from from_json. "
                    "Pass what task_relatedness returned."
                )
            x, y = zip(*one.view[kind], strict=True)
            plane.scatter(x, y, 9, colour, alpha=0.6, label=labels.get(kind, kind), linewidths=0)
        plane.set_aspect("equal", adjustable="datalim")
        plane.set_xlabel("first principal axis of the reference")
        plane.set_ylabel("second axis")
        plane.set_title("Held-out samples, in the reference's space", fontsize=9)
        plane.legend(fontsize=8)
    return figure


def plot_relatedness_pairs(found: RelatednessPairs) -> Figure:
    """Draw bounds against losses and accuracies, a point per pair, a colour per reference.

    Parameters
    ----------
    found : RelatednessPairs

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If no pair has a loss: the targets had no labels.
    MissingExtraError
        If matplotlib is not installed.
    """
    if all(pair.target_loss is None for pair in found.pairs):
        raise InputError("there is no loss to draw the bounds against; relate targets with labels.")
    figure = _figure(11, 4.8)
    from matplotlib import colormaps

    references = list(dict.fromkeys(pair.reference for pair in found.pairs))
    for axes, (field, label) in zip(
        figure.subplots(1, 2),
        (("target_loss", "held-out loss, nats"), ("target_accuracy", "held-out accuracy")),
        strict=True,
    ):
        for i, reference in enumerate(references):
            points = [
                (pair.bound, getattr(pair, field), pair.target)
                for pair in found.pairs
                if pair.reference == reference and getattr(pair, field) is not None
            ]
            x, y = [x for x, _, _ in points], [y for _, y, _ in points]
            axes.scatter(x, y, color=colormaps["tab10"](i % 10), s=24, label=reference)
            for bound, value, target in points:
                axes.annotate(
                    target, (bound, value), fontsize=6, xytext=(3, 3), textcoords="offset points"
                )
        known = found.correlation[field]
        said = (f"{name} {'-' if r is None else f'{r:.2f}'}" for name, r in known.items())
        axes.set_title(f"of a head as steep as the reference's: {', '.join(said)}", fontsize=9)
        axes.set_xlabel("bound by task-relatedness, nats")
        axes.set_ylabel(label)
        axes.margins(0.12)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def plot_steepness(results: Sequence[Relatedness]) -> Figure:
    """Draw the terms of the bound, stacked, and the measured losses against the steepness τ.

    Parameters
    ----------
    results : sequence of Relatedness
        Of one target, with several values of ``tau``.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InputError
        If there are fewer than two values of tau.
    MissingExtraError
        If matplotlib is not installed.
    """
    ordered = sorted(results, key=lambda one: one.tau)
    taus = [one.tau for one in ordered]
    if len(set(taus)) < 2:
        raise InputError(
            f"results must be of at least two values of tau, got {taus}. Call task_relatedness "
            "with several."
        )
    figure = _figure(7, 5)
    axes = figure.subplots()
    terms = [[getattr(one, term) for one in ordered] for term, _, _ in RELATEDNESS_TERMS]
    axes.stackplot(
        taus,
        *terms,
        labels=[label for _, label, _ in RELATEDNESS_TERMS],
        colors=[colour for _, _, colour in RELATEDNESS_TERMS],
        alpha=0.7,
    )
    for field, label, marker in RELATEDNESS_MARKS:
        known = [(one.tau, getattr(one, field)) for one in ordered]
        known = [point for point in known if point[1] is not None]
        if known:
            x, y = zip(*known, strict=True)
            axes.plot(x, y, f"{marker}-", color="black", mfc="white", lw=1, label=label)
    axes.set_xscale("log")
    axes.set_xticks(taus, [f"{tau:.2g}" for tau in taus])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steepness τ of the heads")
    axes.set_ylabel("nats")
    axes.set_title("The bound, its terms and the losses as heads grow steeper", fontsize=9)
    axes.legend(fontsize=8, loc="upper left")
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure whole or not at all; the ending says how (.png, .pdf, .svg).

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path

    Raises
    ------
    StoreError
        If it cannot be written, or the ending is of no known kind.
    """
    path = Path(path)
    try:
        content = figure_bytes(figure, path.suffix.lower().removeprefix("."))
    except ValueError as error:
        raise StoreError(f"{path} cannot be written ({error}); choose another path.") from error
    write_atomically(path, [content])


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """Draw a figure as the bytes of a file.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    kind : str
        Such as ``"png"``, ``"pdf"`` or ``"svg"``.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If matplotlib knows no such kind.
    """
    page = io.BytesIO()
    figure.savefig(page, dpi=150, format=kind)
    return page.getvalue()
