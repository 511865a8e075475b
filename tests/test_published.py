"""The published tables: complete, as in their source, and measured as their authors measured."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from transferscope.errors import InputError, UnknownNameError
from transferscope.evaluation import evaluate_on, get_benchmark, list_benchmarks

ROOT = Path(__file__).parents[1]
TABLES = ROOT.parent / "shared" / "data" / "results"
SIZES = {
    "ped-ssl": (11, 12, 132),
    "sfda-supervised": (11, 11, 121),
    "mms-vit": (11, 13, 143),
    "parc-controlled": (7, 32, 196),
    "parc-all": (7, 70, 459),
    "transfergraph-images": (19, 120, 2280),
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


@pytest.mark.skipif(not TABLES.is_dir(), reason="shared/data/results is not beside this checkout")
@pytest.mark.parametrize(
    ("name", "file", "columns"),
    [
        ("ped-ssl", "sfda_group2_selfsupervised_finetune_acc.csv", (1, 0, 2)),
        ("sfda-supervised", "sfda_group1_supervised_finetune_acc.csv", (1, 0, 2)),
        ("mms-vit", "mms_vit_finetune_acc.csv", (1, 0, 2)),
        ("parc-controlled", "parc_oracles_controlled.csv", None),
        ("parc-all", "parc_oracles_all.csv", None),
    ],
)
def test_figures_are_those_of_the_source(name, file, columns):
    accuracy = get_benchmark(name).accuracy()
    with (TABLES / file).open(newline="") as opened:
        rows = [row for row in csv.reader(opened) if row][1:]
    left_out = 0
    for row in rows:
        if columns is None:
            encoder, dataset, value = f"{row[0]}/{row[1]}", row[2], row[3]
        else:
            encoder, dataset, value = (row[i] for i in columns)
        if float(value) < 0:
            left_out += 1
            assert encoder not in accuracy[dataset]
        else:
            assert accuracy[dataset][encoder] == pytest.approx(float(value), abs=1e-4)
    assert len(rows) - left_out == sum(map(len, accuracy.values()))
    assert left_out == (10 if name == "parc-all" else 0)


@pytest.mark.skipif(not TABLES.is_dir(), reason="shared/data/results is not beside this checkout")
def test_transfergraph_is_curated_as_said():
    spec = importlib.util.spec_from_file_location("carry", ROOT / "tools" / "carry_published.py")
    carry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(carry)
    table = carry.curate_transfergraph(TABLES)
    accuracy = get_benchmark("transfergraph-images").accuracy()
    assert set(table.columns) == set(accuracy)
    for task in table:
        assert accuracy[task] == pytest.approx(table[task].to_dict(), abs=1e-4)


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
