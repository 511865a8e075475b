"""Figures, from results only. The only file that imports matplotlib."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from transferscope.errors import InputError, StoreError, require
from transferscope.results import PedTrace, Ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Up to this many classes are named in a figure.
NAMED_CLASSES = 20


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
    require("matplotlib", extra="report", purpose="draw figures")
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(11, 5), layout="constrained")
    plane, energy = figure.subplots(1, 2, width_ratios=(3, 2))
    frame = trace.to_frame()
    names, (x, y) = list(frame.index), (frame["x_before"], frame["y_before"])
    moves = (frame["x_after"] - x, frame["y_after"] - y)
    longest = float((moves[0] ** 2 + moves[1] ** 2).max() ** 0.5)
    extent = float(max(x.max() - x.min(), y.max() - y.min(), frame["radius"].max()))
    # movements are small beside the distances of the means: magnified until they can be seen
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
    require("matplotlib", extra="report", purpose="draw figures")
    from matplotlib.figure import Figure

    rows = [row for row in ranking.encoders if row.layers]
    if not rows:
        raise InputError('This ranking has no scores of layers. Rank with layers="all".')
    metrics = list(
        dict.fromkeys(name for row in rows for one in row.layers.values() for name in one)
    )
    across = min(len(metrics), 3)
    down = -(-len(metrics) // across)
    figure = Figure(figsize=(4.5 * across, 3.4 * down + 0.25 * len(rows)), layout="constrained")
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


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; the ending says how (.png, .pdf, .svg).

    Raises
    ------
    StoreError
        If it cannot be written, or the ending is of no known kind.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be written ({error}); choose another place.") from error
