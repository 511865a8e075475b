"""``make demo``: choose among the bundled encoders for handwritten digits, then check the choice.

Needs no data, no GPU and no network. The check trains a linear head on each encoder's features of
half of the digits and tests it on the other half.
"""

from __future__ import annotations

import tempfile
import time

import numpy as np
import scipy.stats
from rich.console import Console
from rich.progress import track
from rich.table import Table

import transferscope
from transferscope.cli import progress_bar, show_ranking
from transferscope.training import probe


def main() -> None:
    start = time.perf_counter()
    console = Console(highlight=False)
    console.print("[bold]1. What is already known, before anything is run[/]")
    console.print("   transferscope shortlist --modality image --max-params 30M\n")
    names = transferscope.knowledge.select_encoders("image", max_parameters=30e6)
    known = transferscope.expect(modality="image", encoders=names)
    for one in known.encoders[:3]:
        console.print(f"   {one.encoder}: {one.reason}")

    console.print("\n[bold]2. Rank the bundled encoders for scikit-learn's handwritten digits[/]")
    console.print("   transferscope rank sklearn/digits --encoders mini/all --explain\n")
    digits = transferscope.open_dataset("sklearn/digits")
    with tempfile.TemporaryDirectory() as folder:
        store = transferscope.FeatureStore(folder)
        with progress_bar() as progress:
            ranking = transferscope.rank(digits, "mini/all", store=store, progress=progress)
        show_ranking(ranking, console, explain=True)
        console.print("\n[bold]3. The truth: a head trained on each encoder's features[/]")
        features = {
            item.identifier: item.features
            for item in transferscope.extract(digits, "mini/all", store=store)
        }
    truth = {}
    order = np.random.default_rng(0).permutation(len(digits))
    train, test = order[::2], order[1::2]
    for name, x in track(
        features.items(), "training heads", console=Console(stderr=True), transient=True
    ):
        y = digits.labels
        truth[name] = probe(x[train], y[train], x[test], y[test]).value
    table = Table(header_style="bold", pad_edge=False)
    for name in ("rank", "encoder", "expected", "accuracy of its head"):
        table.add_column(name, justify="left" if name == "encoder" else "right")
    for row in ranking.encoders:
        found = 100 * truth[row.encoder]
        table.add_row(f"{row.rank}", row.encoder, f"{100 * row.expected.mean:.1f}", f"{found:.1f}")
    console.print(table)
    accuracies = [truth[row.encoder] for row in ranking.encoders]
    expected = [row.expected.mean for row in ranking.encoders]
    tau = scipy.stats.weightedtau(expected, accuracies).statistic
    chosen, best = truth[ranking.verdict.recommended], max(accuracies)
    console.print(
        f"The recommended encoder reaches {100 * chosen:.1f} %, the best {100 * best:.1f} %, "
        f"a choice by guess {100 * sum(accuracies) / len(accuracies):.1f} % on average. Weighted "
        f"Kendall tau of expected accuracy and truth: {tau:.2f}. A head on frozen features is no "
        f"fine-tuning: benchmarks/results/choice.md has that. ({time.perf_counter() - start:.0f} s)"
    )


if __name__ == "__main__":
    main()
