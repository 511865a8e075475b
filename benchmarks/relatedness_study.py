"""The papers' small-scale study: do bounds order target tasks, and encoders, as losses do?

    PYTHONPATH=src python benchmarks/relatedness_study.py [--data FOLDER] [--epochs 4]

Digits and clothes: a small convolutional encoder is trained on each reference; its features of all
three data sets, and of photographed hand signs, go to feature files, which `transferscope relate`
reads; references and targets of each other. Reference and target never share a sample, also where
they are the same data set: one has the even rows, the other the odd ones.

Zoo: the bundled encoders with CIFAR-10 as reference, Caltech as target.
Writes benchmarks/results/relatedness_study.md and .png.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from torch import nn

from transferscope.datasets import open_dataset
from transferscope.encoders import expand_encoders
from transferscope.extraction import extract
from transferscope.feature_files import read_feature_file, write_feature_file
from transferscope.plots import plot_relatedness, save_figure
from transferscope.relatedness import task_relatedness

RESULTS = Path(__file__).parent / "results"
NAMES = ("mnist", "fashion_mnist", "usps")
ARRAYS = ("features", "labels", "test_features", "test_labels")


def encoder_of(images, labels, epochs):
    """Two convolutions and 64 features, trained to tell the reference's classes."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
    )
    head = nn.Linear(64, 10)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128):
            loss = nn.functional.cross_entropy(head(body(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return body.eval()


def tensors(images):
    return torch.from_numpy(images.astype(np.float32) / 255)[:, None]


@torch.no_grad()
def features_of(body, images):
    return torch.cat([body(part) for part in tensors(images).split(1000)]).numpy()


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


def load(data, name):
    """Images (n, 28, 28) and labels, for training and test."""
    with np.load(data / f"{name}.npz") as found:
        one = {key: found[key] for key in found.files}
    for key in ("train_images", "test_images"):
        if one[key].ndim == 4:  # photographs: grey, dark on light turned round, made small
            grey = tensors(255 - one[key].mean(axis=3))
            small = nn.functional.interpolate(grey, (28, 28), mode="area")
            one[key] = (255 * small[:, 0].numpy()).astype(np.uint8)
    return one


def study(data, epochs, folder):
    lines, drawn, orders = [], {}, {}
    sets = {name: load(data, name) for name in (*NAMES, "sign_digits")}
    for reference in NAMES:
        mine = sets[reference]
        images, labels = tensors(mine["train_images"]), torch.from_numpy(mine["train_labels"])
        body = encoder_of(images, labels, epochs)
        seen = {}
        for name, one in sets.items():
            for side, rows in (("reference", slice(0, 4000, 2)), ("target", slice(1, 4000, 2))):
                path = folder / f"{reference}-{name}-{side}.safetensors"
                kept = {
                    "features": features_of(body, one["train_images"][rows]),
                    "labels": one["train_labels"][rows],
                    "test_features": features_of(body, one["test_images"][rows]),
                    "test_labels": one["test_labels"][rows],
                }
                write_feature_file(path, kept, {})
                seen[name, side] = read_feature_file(path, ARRAYS)
        known = seen[reference, "reference"]
        for kind in ("labels", "no labels"):
            bounds, losses = [], []
            for name in sets:
                one = seen[name, "target"]
                found = task_relatedness(
                    known["features"],
                    known["labels"],
                    one["features"],
                    one["labels"],
                    unlabelled=kind == "no labels",
                    reference_test_features=known["test_features"],
                    reference_test_labels=known["test_labels"],
                    target_test_features=one["test_features"],
                    target_test_labels=one["test_labels"],
                )
                lines.append(row(reference, name, kind, found))
                print(lines[-1], flush=True)
                if kind == "labels":
                    drawn[f"{reference} → {name}"] = found
                bounds.append(found.bound)
                losses.append(found.target_loss)
            others = [i for i, name in enumerate(sets) if name != reference]
            every = scipy.stats.spearmanr(bounds, losses).statistic
            rest = scipy.stats.spearmanr(
                [bounds[i] for i in others], [losses[i] for i in others]
            ).statistic
            orders.setdefault(kind, []).append(f"{reference} {rest:.2f} ({every:.2f})")
    save_figure(plot_relatedness(drawn), RESULTS / "relatedness_study.png")
    return lines, orders


def zoo(data):
    """Bundled encoders: the bound for a photo task against a head's loss."""
    lines, bounds, losses = [], {"labels": [], "no labels": []}, []
    specs = expand_encoders("mini/all")
    both = [
        list(extract(open_dataset(data / name, max_samples=800), specs, store=None))
        for name in ("cifar10_32px.npz", "caltech101_c43.npz")
    ]
    labels = [
        open_dataset(data / name, max_samples=800).labels
        for name in ("cifar10_32px.npz", "caltech101_c43.npz")
    ]
    for one, other in zip(*both, strict=True):
        if one.error or other.error:
            continue
        z, x = one.embedding(0).features, other.embedding(0).features
        for kind in bounds:
            found = task_relatedness(z, labels[0], x, labels[1], unlabelled=kind == "no labels")
            lines.append(row("cifar10", f"caltech, {one.identifier}", kind, found))
            bounds[kind].append(found.bound)
        losses.append(found.target_loss)
    return lines, {k: scipy.stats.spearmanr(v, losses).statistic for k, v in bounds.items()}


def main():
    parser = argparse.ArgumentParser()
    beside = Path(__file__).parents[2] / "shared" / "data" / "images"
    parser.add_argument("--data", type=Path, default=beside)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    head = (
        "| reference | target | target | bound | reference loss | distribution mismatch | "
        "transformed head | target head | its accuracy | agreement |\n|" + " --- |" * 10
    )
    with tempfile.TemporaryDirectory() as folder:
        lines, orders = study(given.data, given.epochs, Path(folder))
    text = [
        "# Task-relatedness: the small-scale study",
        "",
        f"{time.strftime('%Y-%m-%d')}, 2 cores, no GPU, one thread, other work on the machine. "
        "`benchmarks/relatedness_study.py`.",
        "",
        head,
        *lines,
        "",
    ]
    for kind, values in orders.items():
        text.append(
            f"Spearman of bound and target head's loss over the other data sets "
            f"(with the reference's own "
            f"among them), {kind}: "
            f"{', '.join(values)}."
        )
    (RESULTS / "relatedness_study.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    lines, agreement = zoo(given.data)
    text += [
        "",
        head,
        *lines,
        "",
        "Spearman of bound and target head's loss over the zoo: "
        + ", ".join(f"{kind} {value:.2f}" for kind, value in agreement.items())
        + ".",
    ]
    (RESULTS / "relatedness_study.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
