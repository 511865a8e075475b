"""The papers' small-scale study: do bounds order target tasks, and encoders, as losses do?

    python benchmarks/relatedness_study.py [--data FOLDER] [--out FOLDER]

Digits and clothes: a small convolutional encoder is trained on the training part of each
reference; what it sees there is held against the test parts of the others and its own, and against
photographed hand signs. docs/relatedness.md has the same as commands; this script calls the
functions behind them, to draw all pairs in one figure.

Zoo: the bundled encoders with CIFAR-10 as reference and seven targets; the bound is held against
the accuracies after fine-tuning in benchmarks/results/agreement_accuracy.csv.

Writes benchmarks/results/relatedness_study.md and .png.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import scipy.stats

from transferscope.datasets import open_dataset
from transferscope.encoders import expand_encoders
from transferscope.extraction import extract
from transferscope.plots import plot_relatedness, save_figure
from transferscope.relatedness import task_relatedness
from transferscope.training import pretrain

RESULTS = Path(__file__).parent / "results"
REFERENCES = ("mnist", "fashion_mnist", "usps")
TARGETS = (*REFERENCES, "sign_digits")
#: Samples of either side: all of the smallest set.
SAMPLES = 900
TRAINED_ON, EPOCHS = 6000, 5
ZOO_REFERENCE = "cifar10_32px"
ZOO_TARGETS = (
    "caltech101_c43",
    "flower_photos",
    "hymenoptera",
    "usps",
    "sign_digits",
    "fashion_mnist",
    "mnist",
)
KINDS = ("labels", "no labels")
HEAD = (
    "| reference | target | target | bound | reference loss | distribution mismatch | "
    "transformed head | target head | its accuracy | agreement |\n|" + " --- |" * 10
)


def seen(encoders, data, name, split=None):
    """Features under each encoder, and labels."""
    dataset = open_dataset(data / f"{name}.npz", split=split, max_samples=SAMPLES)
    found = {}
    for one in extract(dataset, encoders, store=None):
        if one.error:
            raise SystemExit(one.error)
        found[one.identifier] = one.embedding(0).features
    return found, dataset.labels


def row(reference, target, kind, found):
    measured = (
        found.bound,
        found.reference_loss,
        found.distribution_mismatch,
        found.transformed_loss,
        found.target_loss,
        found.target_accuracy,
        found.pseudo_label_agreement,
    )
    cells = ["" if value is None else f"{value:.3f}" for value in measured]
    return f"| {' | '.join([reference, target, kind, *cells])} |"


def spearman(values, others):
    return scipy.stats.spearmanr(values, others).statistic


def study(data, out):
    lines, drawn, orders = [HEAD], {}, {kind: [] for kind in KINDS}
    for reference in REFERENCES:
        source = open_dataset(data / f"{reference}.npz", max_samples=TRAINED_ON)
        trained = pretrain("mini/resnet-random", source, out=out / reference, epochs=EPOCHS)
        print(f"{reference}: {100 * trained.value:.1f} % right", flush=True)
        encoder = [f"checkpoint:{out / reference}/final.safetensors?arch=mini/resnet-random"]
        features, labels = seen(encoder, data, reference)
        known = next(iter(features.values()))
        bounds, losses = {kind: [] for kind in KINDS}, []
        for target in TARGETS:
            # no reference, so nothing of it has been seen; its test part is small
            split = "test" if target in REFERENCES else "train"
            features, classes = seen(encoder, data, target, split)
            for kind in KINDS:
                found = task_relatedness(
                    next(iter(features.values())),
                    classes,
                    reference_features=known,
                    reference_labels=labels,
                    unlabelled=kind == "no labels",
                )
                lines.append(row(reference, target, kind, found))
                print(lines[-1], flush=True)
                bounds[kind].append(found.bound)
                if kind == "labels":
                    drawn[f"{reference} → {target}"] = found
            losses.append(found.target_loss)
        others = [i for i, target in enumerate(TARGETS) if target != reference]
        for kind, values in bounds.items():
            rest = spearman([values[i] for i in others], [losses[i] for i in others])
            orders[kind].append(f"{reference} {rest:.2f} ({spearman(values, losses):.2f})")
    save_figure(plot_relatedness(drawn), RESULTS / "relatedness_study.png")
    for kind, values in orders.items():
        lines.append(
            f"\nSpearman of bound and target head's loss over the other data sets (in brackets: "
            f"with the reference's own test part), {kind}: {', '.join(values)}."
        )
    return lines


def zoo(data):
    """Over the bundled encoders: minus the bound against accuracy after fine-tuning."""
    with (RESULTS / "agreement_accuracy.csv").open(encoding="utf-8") as file:
        accuracy = {
            (r["dataset"], r["encoder"]): float(r["accuracy"]) for r in csv.DictReader(file)
        }
    encoders = expand_encoders("mini/all")
    known, labels = seen(encoders, data, ZOO_REFERENCE)
    lines = [
        "| target | encoders | Spearman, labels | no labels | weighted tau, labels | no labels |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for target in ZOO_TARGETS:
        features, classes = seen(encoders, data, target)
        candidates = [name for name in features if (target, name) in accuracy]
        truth = [accuracy[target, name] for name in candidates]
        cells = []
        for kind in KINDS:
            values = [
                -task_relatedness(
                    features[name],
                    classes,
                    reference_features=known[name],
                    reference_labels=labels,
                    unlabelled=kind == "no labels",
                    measure_target=False,
                ).bound
                for name in candidates
            ]
            cells.append(
                (spearman(values, truth), scipy.stats.weightedtau(truth, values).statistic)
            )
        shown = [f"{pair[i]:.2f}" for i in (0, 1) for pair in cells]
        lines.append(f"| {target} | {len(candidates)} | {' | '.join(shown)} |")
        print(lines[-1], flush=True)
    return lines


def main():
    parser = argparse.ArgumentParser()
    beside = Path(__file__).parents[2] / "shared" / "data" / "images"
    parser.add_argument("--data", type=Path, default=beside)
    parser.add_argument("--out", type=Path, help="Keep the weights here. [default: nowhere]")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        text = [
            "# Task-relatedness: the small-scale study",
            "",
            f"{time.strftime('%Y-%m-%d')}, 2 cores, no GPU. "
            "`python benchmarks/relatedness_study.py`.",
            "",
            f"Encoder: `mini/resnet-random`, trained on {TRAINED_ON:,} images of the reference's "
            f"training part (2,500 of USPS) for {EPOCHS} epochs. {SAMPLES} samples of the "
            "reference's training part against as many of the target's test part (all 900 training "
            "images of sign_digits); a fifth of both is held out, and the bound taken there.",
            "",
            *study(given.data, given.out or Path(temporary)),
            "",
            "## The bundled encoders",
            "",
            "Reference: CIFAR-10. Minus the bound against accuracy after fine-tuning "
            "(agreement_accuracy.csv).",
            "",
            *zoo(given.data),
        ]
    (RESULTS / "relatedness_study.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
