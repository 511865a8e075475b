"""Targets of `benchmarks/choice.py` and the truth about them: the bundled zoo fine-tuned on each.

    OMP_NUM_THREADS=1 python benchmarks/choice_targets.py --folder choice_runs     # CPU hours

Beside the eight data sets of `agreement.py`, whose truth is results/agreement_accuracy.csv: the
same at 150 samples, and three that look unlike photographs: outlines drawn here, and the contours
of photographs and of clothes. Goes on after a kill; results/choice_accuracy.csv holds the targets
that are complete.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, sobel

from agreement import DATA, MAX_TEST, TARGETS, encoders_for
from transferscope import open_dataset
from transferscope.datasets import Dataset
from transferscope.encoders import list_bundled

HERE = Path(__file__).parent
SMALL = 150
#: Targets that look unlike photographs, and how many samples they have.
DRAWN = {"outlines": 300, "caltech101_contours": 430, "fashion_contours": 300}


def names() -> list[str]:
    """All targets that this file adds: the small ones as ``name@150``."""
    return ["outlines", *(f"{name}@{SMALL}" for name in TARGETS), *list(DRAWN)[1:]]


def zoo_for(name: str) -> list[str]:
    """The zoo without the encoders that have seen these data; contours have been seen by none."""
    known = name.partition("@")[0]
    return encoders_for(known) if known in TARGETS else [f"mini/{one}" for one in list_bundled()]


def target(name: str) -> tuple[Dataset, Dataset]:
    """The training part and the test part of a target."""
    if name == "outlines":
        rng = np.random.default_rng(20261127)
        return tuple(outlines(rng, n) for n in (DRAWN[name], MAX_TEST))  # type: ignore[return-value]
    base, _, size = name.partition("@")
    source = {"caltech101_contours": "caltech101_c43", "fashion_contours": "fashion_mnist"}
    path = str(DATA / f"{source.get(base, base)}.npz")
    n = DRAWN.get(name, int(size or SMALL))
    train = open_dataset(path, split="train", max_samples=n, seed=0)
    test = open_dataset(path, split="test", max_samples=MAX_TEST, seed=0)
    return (contours(train), contours(test)) if name in DRAWN else (train, test)


def contours(data: Dataset) -> Dataset:
    """Edges of the images of a data set, dark on white."""
    grey = np.stack([np.asarray(data[i].convert("L"), np.float64) for i in range(len(data))])
    smooth = gaussian_filter(grey, (0, 0.7, 0.7))
    edges = np.hypot(sobel(smooth, axis=1), sobel(smooth, axis=2))
    edges /= np.quantile(edges, 0.97, axis=(1, 2), keepdims=True) + 1e-9
    images = (255 * (1 - np.clip(edges, 0, 1))).astype(np.uint8)
    return open_dataset((images, np.array(data.class_names)[np.asarray(data.labels)]))


def outlines(rng: np.random.Generator, n: int) -> Dataset:
    """Closed curves of two to nine lobes, turned, shifted, disturbed and drawn by a shaky pen."""
    labels = np.arange(n) % 8
    images = np.full((n, 48, 48), 255.0)
    angle = np.linspace(0, 2 * np.pi, 1500)
    for image, label in zip(images, labels, strict=True):
        lobes = 2 + label
        radius = 1 + rng.uniform(0.08, 0.2) * np.cos(lobes * angle + rng.uniform(0, 2 * np.pi))
        for k in (1, 2, 3):
            radius += rng.normal(0, 0.06 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
        size = rng.uniform(10, 17)
        x, y = (
            24 + rng.uniform(-3, 3) + size * stretch * radius * wave
            for stretch, wave in ((rng.uniform(0.75, 1.3), np.cos(angle)), (1.0, np.sin(angle)))
        )
        seen = rng.random(len(angle)) > rng.uniform(0, 0.5)
        at = np.clip(np.round([y[seen], x[seen]]).astype(int), 0, 47)
        image[at[0], at[1]] = 0
        image[:] = gaussian_filter(image, rng.uniform(0.4, 0.9))
        image -= image.min()
        image *= 255 / image.max()
        image[:] = np.clip(image + rng.normal(0, 12, image.shape), 0, 255)
    return open_dataset((images.astype(np.uint8), [f"{2 + label} lobes" for label in labels]))


def fine_tune(folder: Path) -> None:
    """Fine-tune every pair of which no result is there yet."""
    import torch

    from transferscope.training import finetune

    torch.set_num_threads(1)
    for name in names():
        train, test = target(name)
        for encoder in zoo_for(name):
            result = folder / name / f"{encoder.removeprefix('mini/')}.json"
            if result.exists():
                continue
            found = finetune(
                encoder,
                train,
                test,
                learning_rates=(1e-3, 4e-3),
                weight_decays=(1e-2,),
                n_seeds=3,
                epochs=20,
                batch_size=32,
                patience=None,
            )
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(found.to_json(), encoding="utf-8")
            print(f"{name} {encoder} {found.value:.4f} {found.seconds:.0f} s", flush=True)


def write_table(folder: Path) -> None:
    """Accuracy of the chosen learning rate by seed, of every pair."""
    with (HERE / "results" / "choice_accuracy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["dataset", "encoder", "accuracy", "seed_0", "seed_1", "seed_2"])
        for name in names():
            places = [folder / name / f"{e.removeprefix('mini/')}.json" for e in zoo_for(name)]
            if not all(place.exists() for place in places):
                continue
            for place in places:
                found = json.loads(place.read_text(encoding="utf-8"))
                chosen = [r for r in found["runs"] if r["learning_rate"] == found["learning_rate"]]
                seeds = [f"{run['test']:.4f}" for run in sorted(chosen, key=lambda r: r["seed"])]
                writer.writerow([name, found["encoder"], f"{found['value']:.4f}", *seeds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("choice_runs"))
    folder = parser.parse_args().folder
    fine_tune(folder)
    write_table(folder)


if __name__ == "__main__":
    main()
