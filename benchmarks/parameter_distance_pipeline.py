"""The pipeline of the parameter-distance paper end to end, small and offline.

Two bundled networks with random weights are pre-trained on CIFAR-10 (both ends are kept), then
fine-tuned on seven targets at several sizes, all with one recipe. For each run: how many times
closer pre-training brought each layer, and domain gap, variance within classes and size of the
data set; at the end the regression of the one on the others. docs/parameter_distance.md has the
same as commands. A quarter of an hour on two cores; with --out, a killed run goes on where it
stopped.

    python benchmarks/parameter_distance_pipeline.py [--data FOLDER] [--out FOLDER]

Writes benchmarks/results/parameter_distance_pipeline.md and .png.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import scipy.stats

from transferscope.datasets import open_dataset
from transferscope.extraction import extract
from transferscope.parameter_distance import (
    dataset_factors,
    layer_transferability,
    predict_transferability,
)
from transferscope.plots import plot_layer_distances, save_figure
from transferscope.training import finetune, pretrain

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("mini/resnet-random", "mini/vit-random")
TARGETS = (
    "mnist",
    "fashion_mnist",
    "usps",
    "sign_digits",
    "flower_photos",
    "caltech101_c43",
    "hymenoptera",
)
SIZES = (200, 600, 1800)
SOURCE, SOURCE_SIZE, SOURCE_EPOCHS = "cifar10_jpeg.npz", 10_000, 20
EPOCHS = 10
FACTORS = {
    "domain_gap": "domain gap",
    "intraclass_variance": "variance within classes",
    "n_samples": "samples",
}


def features_of(encoder, dataset):
    found = next(iter(extract(dataset, [encoder], store=None)))
    if found.error:
        raise SystemExit(found.error)
    return found.embedding(0).features


def runs(network, data, out, curves):
    """Pre-train, fine-tune on every target and size, and measure: one record a run."""
    folder = out / network.split("/")[1]
    source = open_dataset(data / SOURCE, max_samples=SOURCE_SIZE)
    trained = pretrain(network, source, out=folder, epochs=SOURCE_EPOCHS, augment="flip")
    initial, final = folder / "initial.safetensors", folder / "final.safetensors"
    encoder = f"checkpoint:{final}?arch={network}"
    reference = features_of(encoder, source)
    assert len(source) == SOURCE_SIZE
    print(f"{network}: {100 * trained.value:.0f} % of CIFAR-10's held-out images", flush=True)
    records = []
    for name in TARGETS:
        whole = len(open_dataset(data / f"{name}.npz"))
        for size in sorted({min(size, whole) for size in SIZES}):
            target = open_dataset(data / f"{name}.npz", max_samples=size)
            factors = dataset_factors(
                features_of(encoder, target), target.labels, reference_features=reference
            )
            place = folder / f"{name}-{size}"
            tuned = finetune(
                encoder,
                target,
                open_dataset(data / f"{name}.npz", split="test", max_samples=1000),
                learning_rates=(1e-3,),
                weight_decays=(1e-4,),
                n_seeds=1,
                epochs=EPOCHS,
                patience=None,
                out=place,
            )
            found = layer_transferability(
                initial, final, place / tuned.runs[0].folder / "best.safetensors"
            )
            records.append(
                {
                    "target": name,
                    "n_samples": size,
                    "domain_gap": factors.domain_gap,
                    "intraclass_variance": factors.intraclass_variance,
                    "transferability": found.overall,
                    "epoch": tuned.runs[0].epoch,
                    "accuracy": tuned.value,
                }
            )
            print(records[-1], flush=True)
        curves[f"{name}, {size}"] = found
    return 100 * trained.value, records


def table(records):
    lines = [
        "| target | samples | domain gap G | variance V | T | best epoch | accuracy |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in records:
        lines.append(
            f"| {r['target']} | {r['n_samples']} | {r['domain_gap']:.2f} | "
            f"{r['intraclass_variance']:.3f} | {r['transferability']:.2f} | "
            f"{r['epoch']} | {100 * r['accuracy']:.1f} % |"
        )
    return lines


def regression(records):
    forecast = predict_transferability(records=records)
    lines = [
        f"{forecast.n_records} runs, R² {forecast.r_squared:.2f}; ln T =",
        "",
        "| term | coefficient | 95 % interval | p | published, ResNet-50 | published, ViT-S |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for term, c in forecast.coefficients.items():
        lines.append(
            f"| {term} | {c['value']:.3f} | {c['low']:.3f} to {c['high']:.3f} | "
            f"{c['p_value']:.2g} | {forecast.published['ResNet-50'][term]:.2f} | "
            f"{forecast.published['ViT-S'][term]:.2f} |"
        )
    t = [r["transferability"] for r in records]
    ranks = ", ".join(
        f"{words} {scipy.stats.spearmanr([r[key] for r in records], t).statistic:.2f}"
        for key, words in FACTORS.items()
    )
    return [*lines, "", f"Spearman of T with each factor alone: {ranks}."]


def main():
    parser = argparse.ArgumentParser()
    beside = Path(__file__).parents[2] / "shared" / "data" / "images"
    parser.add_argument("--data", type=Path, default=beside)
    parser.add_argument("--out", type=Path, help="Keep the weights here. [default: nowhere]")
    given = parser.parse_args()
    text = [
        "# Parameter distance end to end",
        "",
        f"{time.strftime('%Y-%m-%d')}, 2 cores, no GPU. "
        "`python benchmarks/parameter_distance_pipeline.py`: pre-trained on "
        f"{SOURCE_SIZE:,} images of CIFAR-10 for {SOURCE_EPOCHS} epochs, fine-tuned for {EPOCHS} "
        "epochs at learning rate 1e-3, one seed; the weights of the best epoch on the held-out "
        "fifth are kept. T: overall transferability, the mean over the blocks without the head.",
    ]
    curves = {}
    with tempfile.TemporaryDirectory() as temporary:
        for network in NETWORKS:
            curves = {}
            accuracy, records = runs(network, given.data, given.out or Path(temporary), curves)
            text += [
                "",
                f"## {network}",
                "",
                f"{accuracy:.0f} % of the held-out images of CIFAR-10 right.",
                "",
                *table(records),
                "",
                *regression(records),
            ]
            name = network.split("/")[1].split("-")[0]
            figure = plot_layer_distances(curves)
            save_figure(figure, RESULTS / f"parameter_distance_{name}.png")
    (RESULTS / "parameter_distance_pipeline.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
