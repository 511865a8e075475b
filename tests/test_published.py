"""The published tables: complete, as in their source, and measured as their authors measured."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from transferscope.errors import InputError, UnknownNameError
from transferscope.evaluation import evaluate_on, get_benchmark, list_benchmarks

ROOT = Path(__file__).parents[1]
SIZES = {
    "ped-ssl": (11, 12, 132),
    "sfda-supervised": (11, 11, 121),
    "mms-vit": (11, 13, 143),
    "parc-controlled": (7, 32, 196),
    "parc-all": (7, 70, 459),
    "transfergraph-images": (19, 120, 2280),
}
#: sha256 over the lines "data set,encoder,accuracy" of the source's own file, sorted
SOURCE_FIGURES = {
    "ped-ssl": "ccfd31b22f106faa0840dc287ebd9f6c932291fcefae11d0ea6bd2eacca758fd",
    "sfda-supervised": "1f0cf166b48dcb33a628693f89335eb909c715e11648964b53f39af35a54fb69",
    "mms-vit": "9322fe203cc4288072062fad137aa25f92497358d314605942867f99a2f67565",
    "parc-controlled": "c11c4c8a153d9735090a5e7c562d1feb4fbca714ba1bf51bc8cf9121dd18edae",
    "parc-all": "d07079404c99b83e436e52505f7fa15713fe09d435e60d9736207198e14c25ef",
    "transfergraph-images": "f4d4d20c17c282cacf62abdc29573c71cdb463b172b9469f3ce6cc39496c2a43",
}


@pytest.mark.parametrize("name", list_benchmarks())
def test_table_is_whole_and_sourced(name):
    benchmark = get_benchmark(name)
    accuracy = benchmark.accuracy()
    encoders = {e for row in accuracy.values() for e in row}
    assert (len(accuracy), len(encoders), sum(map(len, accuracy.values()))) == SIZES[name]
    assert all(0 < v <= 100 for row in accuracy.values() for v in row.values())
    assert "@" in benchmark.source
    assert benchmark.licence
    for row in benchmark.baselines().values():
        assert set(row) <= encoders
    assert set(benchmark.weighted_tau()) <= set(accuracy)


@pytest.mark.parametrize("name", list_benchmarks())
def test_weighted_tau_is_scipys_on_every_table(name):
    benchmark, rng = get_benchmark(name), np.random.default_rng(0)
    accuracy = benchmark.accuracy()
    scores = {
        d: {m: {e: v + 4 * rng.standard_normal() for e, v in row.items()} for m in ("a", "b")}
        for d, row in accuracy.items()
    }
    found = evaluate_on(name, scores)
    taus = {m: [] for m in found.average}
    for d, row in accuracy.items():
        for m in taus:
            own = scores[d].get(m) or benchmark.baselines()[m]
            names = [e for e in row if e in own]
            expected = scipy.stats.weightedtau([own[e] for e in names], [row[e] for e in names])[0]
            assert found[d, m]["weighted_tau"].value == pytest.approx(expected, abs=1e-12)
            taus[m].append(expected)
    for m, values in taus.items():
        assert found.average[m]["weighted_tau"].value == pytest.approx(np.mean(values))


@pytest.mark.parametrize("name", list_benchmarks())
def test_figures_are_those_of_the_source(name):
    """Every single one, rounded to four places: the checksum was taken from the source's file."""
    lines = sorted(
        f"{dataset},{encoder},{value:.4f}"
        for dataset, row in get_benchmark(name).accuracy().items()
        for encoder, value in row.items()
    )
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == SOURCE_FIGURES[name]


def test_transfergraph_is_curated_as_said(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("carry", ROOT / "tools" / "carry_published.py")
    carry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(carry)
    runs = [
        # model, data set, training loss, validation and test accuracy
        ("a", "pets", 1.0, 0.7, 0.6),
        ("a", "pets", 1.0, 0.8, 0.5),  # validation prefers it
        ("a", "pets", 21.0, 0.9, 0.9),  # diverged
        ("b", "pets", 1.0, 0.4, 0.3),
        ("b", "pets", float("nan"), 0.9, 0.9),  # diverged
        ("a", "rare", 1.0, 0.9, 0.9),  # too few models
    ]
    columns = ["model_identifier", "train_dataset_name", "train_loss", "val_accuracy"]
    table = pd.DataFrame(runs, columns=[*columns, "test_accuracy"]).assign(configs="{}")
    table.to_csv(tmp_path / "zlizy_ftrecords_img.csv")
    monkeypatch.setattr(carry, "FEWEST_MODELS", 2)
    curated = carry.curate_transfergraph(tmp_path)
    assert curated.to_dict() == {"pets": {"a": 50.0, "b": pytest.approx(30.0)}}
    assert (carry.PUBLISHED / "ped-ssl.csv").is_file()


def test_supervised_baselines_are_torchvisions():
    models = pytest.importorskip("torchvision").models
    for fact, where in {
        "imagenet_accuracy": lambda m: m["_metrics"]["ImageNet-1K"]["acc@1"],
        "n_parameters": lambda m: m["num_params"],
    }.items():
        for name, value in get_benchmark("sfda-supervised").baselines()[fact].items():
            assert value == where(models.get_model_weights(name)["IMAGENET1K_V1"].meta), name


def test_published_gain_of_sfda():
    # the one figure over the table that its paper prints and the table gives: 152.1 % on Flowers
    told = get_benchmark("sfda-supervised").weighted_tau()
    gain = told["flowers"]["sfda"] / told["flowers"]["nleep"] - 1
    assert 100 * gain == pytest.approx(152.1, abs=0.05)
    means = {m: np.mean([row[m] for row in told.values()]) for m in told["pets"]}
    assert max(means, key=means.get) == "sfda"


def test_scores_stand_beside_baselines_and_take_their_place():
    accuracy = get_benchmark("sfda-supervised").accuracy()
    mine = {d: {"n_parameters": {e: -v for e, v in r.items()}} for d, r in accuracy.items()}
    found = evaluate_on("sfda-supervised", mine)
    assert set(found.average) == {"n_parameters", "imagenet_accuracy"}
    assert found.average["n_parameters"]["kendall"].value == pytest.approx(-1.0)
    assert set(evaluate_on("sfda-supervised", {"pets": mine["pets"]}).per_dataset) == {"pets"}


def test_unknown_benchmark_and_unknown_data_sets():
    with pytest.raises(UnknownNameError, match="ped-ssl"):
        evaluate_on("ped")
    with pytest.raises(InputError, match="share a data set"):
        evaluate_on("ped-ssl", {"nothing": {"m": {"byol": 1.0}}})
