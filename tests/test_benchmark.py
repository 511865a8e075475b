"""The comparison of metrics: what it measures, and its command."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest

from pictures import shows_data
from transferscope import cli
from transferscope.errors import InputError
from transferscope.evaluation import evaluate, read_scores, study_metrics
from transferscope.results import ALIKE, ALL, SMALLER

ENCODERS = [f"e{i}" for i in range(8)]


def tables(seed: int = 0) -> tuple[dict, dict, dict]:
    """Accuracy that grows with size, a metric that sees all of it, one that sees size alone."""
    rng = np.random.default_rng(seed)
    sizes = {e: 10.0 * (i // 2 + 1) for i, e in enumerate(ENCODERS)}
    accuracy = {
        d: {e: sizes[e] / 100 + 0.04 * rng.random() for e in ENCODERS} for d in ("a", "b", "c")
    }
    scores = {
        d: {
            "sees": {e: 3 * row[e] for e in ENCODERS},
            "size": {e: sizes[e] + 1e-6 * i for i, e in enumerate(ENCODERS)},
            "sees+ped": {e: -row[e] for e in ENCODERS},
        }
        for d, row in accuracy.items()
    }
    return scores, accuracy, sizes


def test_agreement_is_that_of_evaluate_and_robustness_that_of_the_parts():
    scores, accuracy, sizes = tables()
    found = study_metrics(scores, accuracy, sizes=sizes, seed=3)
    alone = evaluate(scores, accuracy, seed=3)
    for metric in ("sees", "size"):
        tau = alone.average[metric]["weighted_tau"].value
        assert found.tau(ALL, metric) == pytest.approx(tau)
        assert found.agreement.average[metric]["weighted_tau"].value == pytest.approx(tau)
    # the largest quarter are two of the eight
    smaller = {d: {e: row[e] for e in ENCODERS[:6]} for d, row in accuracy.items()}
    expected = evaluate(scores, smaller).average["size"]["weighted_tau"].value
    assert found.tau(SMALLER, "size") == pytest.approx(expected)
    # within thirds by size: three, three and two, and the last have no tau
    parts = [ENCODERS[:3], ENCODERS[3:6]]
    taus = [
        evaluate({d: scores[d]}, {d: {e: accuracy[d][e] for e in part}})[d, "size"]["weighted_tau"]
        for d in accuracy
        for part in parts
    ]
    assert found.tau(ALIKE, "size") == pytest.approx(np.mean([tau.value for tau in taus]))
    rest = {d: {e: row[e] for e in ENCODERS if e != "e5"} for d, row in accuracy.items()}
    expected = evaluate(scores, rest).average["size"]["weighted_tau"].value
    assert found.tau("without e5", "size") == pytest.approx(expected)
    low, high = found.leaving_one_out("size")
    assert low <= expected <= high
    assert found.leaving_one_out("sees") == (pytest.approx(1.0), pytest.approx(1.0))


def test_the_fixed_list_has_seen_nothing_of_the_data_set():
    scores, accuracy, _ = tables()
    before = study_metrics(scores, accuracy).agreement.scores["a"]["other_datasets"]
    turned = dict(accuracy, a={e: 1 - value for e, value in accuracy["a"].items()})
    after = study_metrics(scores, turned).agreement
    assert after.scores["a"]["other_datasets"] == before
    assert after.scores["b"]["other_datasets"] != before
    assert (
        "other_datasets"
        not in study_metrics({"a": scores["a"]}, {"a": accuracy["a"]}).agreement.average
    )
    # by hand: shares of the others that an encoder beats, on b and c
    order = {d: sorted(ENCODERS, key=lambda e: accuracy[d][e]) for d in ("b", "c")}
    for e in ENCODERS:
        assert before[e] == pytest.approx(np.mean([order[d].index(e) / 7 for d in order]))


def test_correlation_curves_and_ped():
    scores, accuracy, _ = tables()
    few = {10: {d: {"sees": found["size"]} for d, found in scores.items()}}
    found = study_metrics(scores, accuracy, by_samples=few)
    frame = found.correlation_frame()
    assert frame.loc["sees", "sees+ped"] == pytest.approx(-1)
    assert np.allclose(frame.to_numpy(), frame.to_numpy().T)
    expected = np.mean([
        pd.Series(one["sees"]).corr(pd.Series(one["size"]), method="spearman")
        for one in scores.values()
    ])  # fmt: skip
    assert frame.loc["sees", "size"] == pytest.approx(expected)
    points = {(p.metric, p.n_samples): p.weighted_tau for p in found.curves}
    assert set(points) == {("sees", 10), ("sees", None)}
    assert points["sees", 10] == pytest.approx(found.tau(ALL, "size"))
    assert points["sees", None] == pytest.approx(1)
    ped = found.ped_frame()
    assert list(ped["dataset"]) == ["a", "b", "c", "average"]
    assert ped["change"].to_numpy() == pytest.approx(-2)
    assert found.metrics[0] == "sees"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for console in (cli.stdout, cli.stderr):
        monkeypatch.setattr(console, "width", 200)

    def call(*arguments, check=0):
        monkeypatch.setattr(sys, "argv", ["transferscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        assert (stopped.value.code or 0) == check, captured.err
        return captured.out if check == 0 else captured.err

    return call


NAMES = ("mini/vit-random", "mini/resnet-random", "mini/resnet-mnist-supervised")


@pytest.mark.needs("torch", "matplotlib")
def test_command_writes_tables_and_figures_that_are_read_again(run, tmp_path):
    truth = [f"{d},{e},{0.7 + 0.1 * i}" for d in ("x", "digits") for i, e in enumerate(NAMES)]
    (tmp_path / "acc.csv").write_text("\n".join(["dataset,encoder,accuracy", *truth]))
    common = ("-e", ",".join(NAMES), "--accuracy", "acc.csv", "--max-samples", 80)
    data = ("--datasets", "x=sklearn/digits,digits=sklearn/digits")
    metrics = ("-m", "knn,h_score,h_score+ped", "--samples", "40")
    out = run("benchmark", *data, *common, *metrics, "--out", "study")
    for text in ("h_score", "other_datasets", "n_parameters", "what PED changes", "not shown to"):
        assert text in out
    for name in ("agreement", "robustness", "correlation", "samples"):
        assert shows_data(tmp_path / "study" / f"{name}.png")
    scores = read_scores(tmp_path / "study" / "scores.csv")
    assert {"knn", "h_score", "h_score+ped", "expected"} <= set(scores["x"])
    assert scores["x"]["knn"] == scores["digits"]["knn"]
    again = json.loads(run("evaluate", "--scores", "study/scores.csv", "--accuracy", "acc.csv",
                           "--format", "json"))  # fmt: skip
    table = pd.read_csv(tmp_path / "study" / "metrics.csv", index_col="metric")
    assert again["average"]["knn"]["weighted_tau"] == pytest.approx(table.loc["knn"].iloc[0])
    ranked = json.loads(run("rank", "sklearn/digits", "--max-samples", 80, "--all", "-e",
                            ",".join(NAMES), "-m", "knn", "--format", "json"))  # fmt: skip
    by_rank = {row["encoder"]: row["scores"]["knn"]["value"] for row in ranked["encoders"]}
    assert scores["digits"]["knn"] == pytest.approx(by_rank)
    curves = pd.read_csv(tmp_path / "study" / "samples.csv")
    assert set(curves["n_samples"].dropna()) == {40}
    tex = (tmp_path / "study" / "datasets.tex").read_text()
    assert r"h\_score+ped" in tex
    assert r"\textbf" in tex
    # the same command writes its own files again, and leaves those of others alone
    run("benchmark", *data, *common, *metrics, "--out", "study")
    (tmp_path / "study" / "metrics.csv").write_text("mine")
    assert "is not what" in run("benchmark", *data, *common, "--out", "study", check=2)


@pytest.mark.needs("torch")
def test_what_is_wrong_is_said_before_the_work(run, tmp_path):
    rows = [f"digits,{e},0.{i}" for i, e in enumerate(NAMES[:2])]
    (tmp_path / "acc.csv").write_text("\n".join(["dataset,encoder,accuracy", *rows]))
    common = ("-e", ",".join(NAMES), "--accuracy", "acc.csv", "--out", "study")
    assert "at least 3 of the encoders" in run(
        "benchmark", "--datasets", "sklearn/digits", *common, check=2
    )
    twice = ("--datasets", "sklearn/digits", "--datasets", "sklearn/digits")
    assert "names of their own" in run("benchmark", *twice, *common, check=2)
    bad = ("--datasets", "sklearn/digits", "--samples", "ten")
    assert "whole numbers" in run("benchmark", *bad, *common, check=2)
    full = [*rows, f"digits,{NAMES[2]},0.9"]
    (tmp_path / "acc.csv").write_text("\n".join(["dataset,encoder,accuracy", *full]))
    few = ("--datasets", "digits=sklearn/digits", "--samples", "15")
    assert "at least 20, got 15" in run("benchmark", *few, *common, check=2)
    from transferscope.ranking import benchmark

    with pytest.raises(InputError, match="names of their own"):
        benchmark(["sklearn/digits", "sklearn/digits"], "mini/all", accuracy={})
