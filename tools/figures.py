"""The figures of the documentation, drawn by what they explain.

`documentation.write_pages` draws those of the site when it is built. ``python tools/figures.py``
draws the two pictures of README, which are kept: the terminal, and with Chromium the report.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import transferscope
from transferscope import plots
from transferscope.metrics import trace_ped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
KNOWING, RANDOM = "mini/resnet-mnist-supervised", "mini/vit-random"


def draw_all(folder: Path) -> None:
    """Draw the figures of the site; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = transferscope.open_dataset("sklearn/digits", max_samples=500)
    for name, draw in (
        ("features", draw_features),
        ("intervals", draw_intervals),
        ("ped", draw_ped),
        ("choice", draw_choice),
    ):
        path = folder / f"{name}.svg"
        if not path.exists():
            plots.save_figure(draw(digits), path)
    path = folder / "knowledge.svg"
    if not path.exists():
        plots.save_figure(draw_knowledge(), path)


def _features(dataset: object, encoder: str) -> np.ndarray:
    (item,) = transferscope.extract(dataset, encoder, store=None, device="cpu")
    return np.asarray(item.features)


def draw_features(digits: transferscope.Dataset) -> Figure:
    """The same samples under two encoders, in the plane of the two best discriminants."""
    from matplotlib.figure import Figure
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), (KNOWING, RANDOM), strict=True):
        features = _features(digits, name)
        scores = transferscope.score(features, digits.labels, "linear_probe,logme")
        plane = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1, n_components=2)
        x, y = plane.fit_transform(features, digits.labels).T
        axes.scatter(x, y, c=digits.labels, cmap="tab10", s=8)
        values = ", ".join(f"{metric} {scores[metric]:.2f}" for metric in scores.scores)
        axes.set_title(f"{name}\n{values}", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def draw_intervals(_: object) -> Figure:
    """A score and its interval, over the number of samples."""
    from matplotlib.figure import Figure

    sizes, rows = (5, 10, 20, 40, 80, 160), []
    for size in sizes:
        digits = transferscope.open_dataset("sklearn/digits", per_class=size)
        ranking = transferscope.rank(digits, KNOWING, "knn", store=None, device="cpu")
        rows.append(ranking.encoders[0].scores["knn"])
    numbers = [10 * size for size in sizes]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    values = np.array([[row.low, row.value, row.high] for row in rows])
    axes.fill_between(numbers, values[:, 0], values[:, 2], alpha=0.2, label="95 % interval")
    axes.plot(numbers, values[:, 1], "o-", label="knn")
    axes.set_xscale("log")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.set_xlabel("samples of handwritten digits")
    axes.legend()
    return figure


def draw_ped(digits: transferscope.Dataset) -> Figure:
    """How PED moves the classes of the digits under an encoder that was never trained."""
    return plots.plot_ped(trace_ped(_features(digits, RANDOM), digits.labels))


def draw_choice(digits: transferscope.Dataset) -> Figure:
    """Accuracy against cost of the bundled encoders."""
    return plots.plot_choice(transferscope.rank(digits, "mini/all", store=None, device="cpu"))


def draw_knowledge() -> Figure:
    """What is expected of encoders of images before and after one of them was measured."""
    from matplotlib.figure import Figure

    names = [
        *("timm/resnet18.a1_in1k", "timm/resnet50.a1_in1k", "timm/convnext_tiny.fb_in1k"),
        *("timm/vit_base_patch16_224.augreg_in21k_ft_in1k", "hf/facebook/dinov2-small"),
    ]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    for shift, measured, label in (
        (-0.15, {}, "nothing measured"),
        (0.15, {names[0]: 0.8}, f"{names[0]} measured: 80 %"),
    ):
        found = transferscope.expect(measured, modality="image", encoders=names)
        rows = {row.encoder: row for row in found.encoders}
        low, mean, high = (
            100 * np.array([getattr(rows[name], one) for name in names])
            for one in ("low", "mean", "high")
        )
        axes.errorbar(
            mean, places + shift, xerr=[mean - low, high - mean], fmt="o", capsize=3, label=label
        )
    axes.set_yticks(places, names)
    axes.set_xlabel("expected accuracy in percent, with 90 % intervals")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure


def draw_terminal(ranking: transferscope.Ranking, command: str) -> str:
    """What the command shows in a terminal, as SVG that loads no font."""
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    from transferscope.cli import show_ranking

    shown = io.StringIO()
    show_ranking(ranking, Console(width=116, file=shown, force_terminal=True, highlight=False))
    console = Console(record=True, width=116, file=io.StringIO(), force_terminal=True)
    console.print(f"[bold green]$[/] {command}", highlight=False)
    # once more, because a terminal breaks long lines and a record does not
    console.print(Text.from_ansi(shown.getvalue()), highlight=False)
    plain = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    drawn = console.export_svg(title="transferscope", theme=MONOKAI, code_format=plain)
    return drawn.replace("Fira Code", "DejaVu Sans Mono")


def photograph(page: Path, picture: Path) -> None:
    """Take the top of an HTML page as PNG with Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("the report is photographed by Chromium: apt-get install chromium")
    subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--window-size=1100,1000", f"--screenshot={picture}", page.as_uri()],
        check=True, capture_output=True,
    )  # fmt: skip


def main() -> None:
    """Draw README's pictures anew."""
    from transferscope.report import report_html

    PICTURES.mkdir(exist_ok=True)
    digits = transferscope.open_dataset("sklearn/digits")
    ranking = transferscope.rank(digits, "mini/all", store=None, device="cpu")
    command = "transferscope rank sklearn/digits --encoders mini/all"
    (PICTURES / "terminal.svg").write_text(draw_terminal(ranking, command), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        page.write_text(report_html(ranking), encoding="utf-8")
        photograph(page, PICTURES / "report.png")


if __name__ == "__main__":
    main()
