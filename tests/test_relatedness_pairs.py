"""Bounds of several references and targets against what heads reach."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from pictures import shows_data
from transferscope import cli
from transferscope.errors import InputError
from transferscope.relatedness import compare_pairs, task_relatedness


def tasks() -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Classes that lie ever closer to each other."""
    rng = np.random.default_rng(0)
    labels = np.arange(150) % 3
    return {
        apart: (rng.standard_normal((150, 5)) + apart * np.eye(5)[labels], labels)
        for apart in (4.0, 2.0, 1.0, 0.5)
    }


@pytest.fixture(scope="module")
def results():
    known = dict(zip(("reference_features", "reference_labels"), tasks()[4.0], strict=True))
    one = {f"{apart}": task_relatedness(*arrays, **known) for apart, arrays in tasks().items()}
    return {"near": one, "far": {k: replace(v, bound=v.bound + 1) for k, v in one.items()}}


def test_correlations_are_those_of_scipy(results):
    found = compare_pairs(results)
    assert len(found.pairs) == 8
    bounds = [pair.bound for pair in found.pairs]
    for field in ("target_loss", "target_accuracy"):
        values = [getattr(pair, field) for pair in found.pairs]
        known = found.correlation[field]
        assert known["spearman"] == pytest.approx(spearmanr(bounds, values).statistic)
        assert known["pearson"] == pytest.approx(pearsonr(bounds, values).statistic)
    assert found.correlation["target_loss"]["spearman"] > 0
    assert found.correlation["target_accuracy"]["spearman"] < 0
    # what is true of the bounds of one reference is not hidden by those of another
    near = compare_pairs({"near": results["near"]})
    assert near.correlation["target_loss"]["spearman"] > 0.7


def test_few_pairs_and_pairs_without_labels_have_no_correlation(results):
    two = {"near": dict(list(results["near"].items())[:2])}
    assert compare_pairs(two).correlation["target_loss"] == {"spearman": None, "pearson": None}
    none = {"near": {k: replace(v, target_loss=None) for k, v in results["near"].items()}}
    assert compare_pairs(none).correlation["target_loss"]["pearson"] is None
    with pytest.raises(InputError, match="at least one pair"):
        compare_pairs({"near": {}})


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*arguments, check=0):
        monkeypatch.setattr(sys, "argv", ["transferscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        assert (stopped.value.code or 0) == check, captured.err
        return captured.out if check == 0 else captured.err

    return call


@pytest.mark.needs("matplotlib")
def test_command_reads_what_task_relatedness_writes(run, tmp_path):
    for apart, (features, labels) in tasks().items():
        np.savez(tmp_path / f"t{apart:g}.npz", features=features, labels=labels)
    also = ("--also", "t1.npz", "--also", "t0.5.npz", "--reference", "t4.npz", "--tau", "width")
    (tmp_path / "t4.json").write_text(run("task-relatedness", "t2.npz", *also, "--format", "json"))
    (tmp_path / "alone.json").write_text(
        run("task-relatedness", "t1.npz", "--reference", "t2.npz", "--tau", "width",
            "--format", "json")
    )  # fmt: skip
    files = ("t4.json", "t2=alone.json")
    out = run("compare-pairs", *files, "--plot", "pairs.png")
    assert "bound with target loss: spearman" in out
    assert shows_data(tmp_path / "pairs.png")
    record = json.loads(run("compare-pairs", *files, "--format", "json"))
    assert [(p["reference"], p["target"]) for p in record["pairs"]] == [
        *(("t4", name) for name in ("t2", "t1", "t0.5")),
        ("t2", "alone"),
    ]
    assert "two are called t4" in run("compare-pairs", "t4.json", "t4=alone.json", check=2)
    assert "cannot be read" in run("compare-pairs", "absent.json", check=2)
    (tmp_path / "list.json").write_text("[]")
    assert "it is not" in run("compare-pairs", "list.json", check=2)
