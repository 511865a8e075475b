"""Figures, from results only. The only file that imports matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transferscope.errors import StoreError, require
from transferscope.results import PedTrace, Relatedness

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


def plot_relatedness(results: Relatedness | Mapping[str, Relatedness]) -> Figure:
    """Draw the terms of the bound, stacked, beside the measured losses.

    Parameters
    ----------
    results : Relatedness, or mapping of name to Relatedness
        Of one, also how the target was carried to the reference: held-out samples in the plane of
        the reference's first two principal axes.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    require("matplotlib", extra="report", purpose="draw figures")
    from matplotlib.figure import Figure

    alone = isinstance(results, Relatedness)
    named = {results.setting: results} if isinstance(results, Relatedness) else dict(results)
    width = 4.0 if alone else max(5.0, 1.0 + 0.75 * len(named))
    figure = Figure(figsize=(11 if alone else width, 5), layout="constrained")
    if alone:
        bars, plane = figure.subplots(1, 2, width_ratios=(2, 3))
    else:
        bars = figure.subplots()
    places = range(len(named))
    base = [0.0] * len(named)
    terms = (
        ("reference_loss", "re-weighted reference loss", "#4c72b0"),
        ("label_mismatch", "label mismatch", "#dd8452"),
        ("distribution_mismatch", "distribution mismatch", "#55a868"),
    )
    for term, label, colour in terms:
        heights = [getattr(one, term) for one in named.values()]
        bars.bar(places, heights, 0.6, base, color=colour, label=label)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    for field, label, marker in (
        ("transformed_loss", "loss of the transformed head", "D"),
        ("target_loss", "loss of a head trained on the target", "o"),
    ):
        points = [(i, getattr(one, field)) for i, one in zip(places, named.values(), strict=True)]
        known = [point for point in points if point[1] is not None]
        if known:
            bars.plot(*zip(*known, strict=True), marker, color="black", mfc="white", label=label)
    slanted = {} if alone else {"rotation": 40, "ha": "right"}
    bars.set_xticks(list(places), list(named), **slanted)
    bars.set_xlim(-0.8, len(named) - 0.2)
    bars.set_ylim(0, 1.35 * max(base))
    bars.set_ylabel("nats")
    bars.set_title("The bound and its terms", fontsize=9)
    bars.legend(fontsize=8, loc="upper left", ncols=1 if alone else 2)
    for one in named.values() if alone else ():
        colours = {"reference": "#4c72b0", "target": "0.7", "carried": "#c44e52"}
        labels = {"target": "target as it is", "carried": "target carried to the reference"}
        for kind, colour in colours.items():
            x, y = zip(*one.view[kind], strict=True)
            plane.scatter(x, y, 9, colour, alpha=0.6, label=labels.get(kind, kind), linewidths=0)
        plane.set_aspect("equal", adjustable="datalim")
        plane.set_xlabel("first principal axis of the reference")
        plane.set_ylabel("second axis")
        plane.set_title("Held-out samples, in the reference's space", fontsize=9)
        plane.legend(fontsize=8)
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
