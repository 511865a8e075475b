"""``make demo``: rank the bundled zoo for handwritten digits, then check the ranking.

Needs no data, no GPU and no network. The check trains a linear head on each encoder's features of
half of the digits and tests it on the other half: that accuracy is the truth which the scores
claimed to foresee.
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
    console.print("[bold]1. Rank the bundled encoders for scikit-learn's handwritten digits[/]")
    console.print("   transferscope rank sklearn/digits --encoders mini/all\n")
    digits = transferscope.open_dataset("sklearn/digits")
    with tempfile.TemporaryDirectory() as folder:
        store = transferscope.FeatureStore(folder)
        with progress_bar() as progress:
            ranking = transferscope.rank(digits, "mini/all", store=store, progress=progress)
        show_ranking(ranking, console)
        features = {
            item.identifier: item.features
            for item in transferscope.extract(digits, "mini/all", store=store)
        }

    console.print("\n[bold]2. The truth: a linear probe trained on each encoder's features[/]")
    truth = {}
    order = np.random.default_rng(0).permutation(len(digits))
    train, test = order[::2], order[1::2]
    for name, x in track(
        features.items(), "training probes", console=Console(stderr=True), transient=True
    ):
        y = digits.labels
        truth[name] = probe(x[train], y[train], x[test], y[test]).value
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("encoder")
    table.add_column("probe accuracy", justify="right")
    for row in ranking.encoders:
        table.add_row(f"{row.rank}", row.encoder, f"{truth[row.encoder]:.3f}")
    console.print(table)

    console.print("[bold]3. Does the ranking agree with the truth?[/]")
    accuracies = [truth[row.encoder] for row in ranking.encoders]
    agreement = Table(header_style="bold", pad_edge=False)
    agreement.add_column("ranked by")
    agreement.add_column("weighted Kendall tau", justify="right")
    agreement.add_column("accuracy of its choice", justify="right")
    orders = {"consensus": [-float(row.rank or 0) for row in ranking.encoders]}
    orders |= {m: [row.scores[m].value for row in ranking.encoders] for m in ranking.metrics}
    for name, scores in orders.items():
        tau = scipy.stats.weightedtau(scores, accuracies).statistic
        choice = accuracies[scores.index(max(scores))]
        agreement.add_row(name, f"{tau:+.2f}", f"{choice:.3f}")
    console.print(agreement)
    regret = max(accuracies) - accuracies[0]
    console.print(
        f"The encoder ranked first reaches {accuracies[0]:.3f}; the best of all reaches "
        f"{max(accuracies):.3f}, a choice by guess {sum(accuracies) / len(accuracies):.3f} on "
        f"average. Regret: {100 * regret:.1f} points. ({time.perf_counter() - start:.0f} s)"
    )


if __name__ == "__main__":
    main()
