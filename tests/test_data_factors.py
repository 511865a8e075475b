"""Factors of data sets, the regression on them, and the commands of parameter distance."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from pictures import shows_data
from reference import parameter_distance as literal
from transferscope import cli
from transferscope.errors import FeatureError, InputError
from transferscope.metrics import frechet
from transferscope.parameter_distance import (
    dataset_factors,
    domain_gap,
    intraclass_variance,
    predict_transferability,
    published_runs,
)

RNG = np.random.default_rng(0)
FEATURES, REFERENCE = RNG.standard_normal((80, 5)), 1 + 2 * RNG.standard_normal((90, 5))
LABELS = np.arange(80) % 3
NEW = {"domain_gap": 1.0, "intraclass_variance": 0.2, "n_samples": 3000}


def test_domain_gap_is_the_metric_frechet_negated():
    assert domain_gap(FEATURES, reference_features=REFERENCE) == pytest.approx(
        -frechet(FEATURES, reference_features=REFERENCE)
    )
    assert domain_gap(FEATURES, reference_features=FEATURES) == pytest.approx(0, abs=1e-12)
    step = FEATURES.mean(axis=0) - REFERENCE.mean(axis=0)
    assert domain_gap(FEATURES, reference_features=REFERENCE, kind="means") == pytest.approx(
        float(step @ step)
    )


def test_variance_within_classes_written_out():
    within = 0.0
    for c in range(3):
        rows = FEATURES[c == LABELS]
        for row in rows:
            within += float(np.sum((row - rows.mean(axis=0)) ** 2))
    total = float(np.sum((FEATURES - FEATURES.mean(axis=0)) ** 2))
    assert intraclass_variance(FEATURES, LABELS) == pytest.approx(within / total)
    assert intraclass_variance(FEATURES, LABELS, kind="absolute") == pytest.approx(within / 80)
    assert intraclass_variance(np.eye(3)[LABELS], LABELS) == pytest.approx(0, abs=1e-12)


def test_factors_accept_every_array_library(backend):
    factors = dataset_factors(backend(FEATURES), LABELS, reference_features=backend(REFERENCE))
    plain = dataset_factors(FEATURES, LABELS, reference_features=REFERENCE)
    assert factors.domain_gap == pytest.approx(plain.domain_gap)
    assert factors.intraclass_variance == pytest.approx(plain.intraclass_variance)
    assert (factors.n_samples, factors.n_classes) == (80, 3)


def test_few_samples_are_said():
    factors = dataset_factors(FEATURES[:4], [0, 0, 1, 1], reference_features=REFERENCE)
    assert factors.warnings == ("4 samples for 5 features: the domain gap is too large",)
    assert dataset_factors(FEATURES, LABELS).domain_gap is None
    assert json.loads(factors.to_json())["n_samples"] == 4
    assert len(factors.to_frame()) == 1


def test_bad_features_are_refused():
    broken = FEATURES.copy()
    broken[3, 3] = math.nan
    for call in (
        lambda: domain_gap(broken, reference_features=REFERENCE),
        lambda: domain_gap(FEATURES, reference_features=broken),
    ):
        with pytest.raises(FeatureError):
            call()
    with pytest.raises(InputError, match="columns of features"):
        domain_gap(FEATURES, reference_features=REFERENCE[:, :4])
    with pytest.raises(InputError, match="at least 2 samples"):
        domain_gap(FEATURES[:1], reference_features=REFERENCE)
    with pytest.raises(InputError, match="frechet or means"):
        domain_gap(FEATURES, reference_features=REFERENCE, kind="mmd")
    with pytest.raises(InputError, match="relative or absolute"):
        intraclass_variance(FEATURES, LABELS, kind="some")
    with pytest.raises(InputError, match="two classes"):
        intraclass_variance(FEATURES, np.zeros(80, int))


def test_published_table():
    """Chen et al., arXiv 2212.00399, as copied in design/ANALYSES.md."""
    table = published_runs()
    assert len(table) == 12
    assert table.loc["Flowers"].tolist() == [1.64, 0.449, 1088, 106.30]
    assert np.log(table["transferability"]).mean() == pytest.approx(2.84, abs=0.005)
    target, size = np.log(table["transferability"]), np.log(table["n_samples"])
    _, r_squared = literal.ordinary_least_squares([size, np.ones(12)], target)
    assert 0.8 < r_squared < 0.92  # size alone explains most


def test_regression_is_ordinary_least_squares():
    table = published_runs()
    columns = [table["domain_gap"], table["intraclass_variance"], np.log(table["n_samples"])]
    wanted, r_squared = literal.ordinary_least_squares(
        [*columns, np.ones(12)], np.log(table["transferability"])
    )
    forecast = predict_transferability(NEW)
    found = [c["value"] for c in forecast.coefficients.values()]
    assert found == pytest.approx(list(wanted), rel=1e-6)
    assert forecast.r_squared == pytest.approx(r_squared)
    point = np.array([1.0, 0.2, math.log(3000), 1.0])
    assert forecast.transferability == pytest.approx(math.exp(point @ wanted), rel=1e-6)
    # the interval: Student's t with 12 - 4 degrees of freedom, 2.306
    design = np.array([*columns, np.ones(12)]).T
    residual = np.log(table["transferability"]) - design @ wanted
    variance = float(residual @ residual) / 8
    width = 2.306004 * math.sqrt(variance * (1 + point @ np.linalg.inv(design.T @ design) @ point))
    assert math.log(forecast.high / forecast.transferability) == pytest.approx(width, rel=1e-5)
    assert forecast.published["ResNet-50"] == {
        "domain_gap": -0.26,
        "intraclass_variance": 0.32,
        "log_n_samples": -0.61,
        "constant": 2.86,
    }
    assert "Compare signs, not sizes" in forecast.remark
    assert forecast.warnings == ()
    assert len(forecast.to_frame()) == 4
    json.loads(forecast.to_json())


def test_known_coefficients_come_back():
    rng = np.random.default_rng(3)
    records = [
        {"domain_gap": g, "intraclass_variance": v, "n_samples": n,
         "transferability": math.exp(-0.3 * g + 2 * v - 0.5 * math.log(n) + 5)}
        for g, v, n in zip(rng.uniform(0, 3, 9), rng.uniform(0, 1, 9),
                           rng.integers(100, 9000, 9), strict=True)
    ]  # fmt: skip
    forecast = predict_transferability(records=records)
    found = [c["value"] for c in forecast.coefficients.values()]
    assert found == pytest.approx([-0.3, 2, -0.5, 5])
    assert forecast.transferability is None
    far = predict_transferability({**NEW, "domain_gap": 50.0}, records)
    assert "domain_gap 50 lies outside of the records" in far.warnings[0]
    beyond = predict_transferability({**NEW, "intraclass_variance": 1e6}, records)
    assert beyond.transferability is None
    assert "beyond all numbers" in beyond.warnings[-1]
    json.loads(beyond.to_json())


def test_bad_records_are_refused():
    table = published_runs()
    cases = [
        (table.drop(columns="n_samples"), "n_samples is missing"),
        (table.head(4), "at least 5 for a regression .*; got 4"),
        (table.assign(transferability=0.0), "must be positive"),
        (table.assign(domain_gap=math.nan), "must be finite"),
        (table.assign(domain_gap="far"), "must be numbers"),
        (table.assign(domain_gap=1.0), "vary independently"),
    ]
    for records, message in cases:
        with pytest.raises(InputError, match=message):
            predict_transferability(NEW, records)
    for factors, message in (
        ({**NEW, "domain_gap": None}, "Give a reference data set"),
        ({**NEW, "n_samples": 0}, "must be positive"),
        ({**NEW, "intraclass_variance": math.inf}, "must be a finite number"),
    ):
        with pytest.raises(InputError, match=message):
            predict_transferability(factors)


# ---------------------------------------------------------------- commands


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("warnings.showwarning", None)
    for console in (cli.stdout, cli.stderr):
        monkeypatch.setattr(console, "width", 200)

    def call(*arguments, check=0):
        monkeypatch.setattr(sys, "argv", ["transferscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        assert (stopped.value.code or 0) == check, captured.err
        return captured.out if check == 0 else captured.err

    for seed, name in enumerate("rab"):
        rng = np.random.default_rng(seed)
        names = ("layers.0.weight", "layers.1.weight", "fc.weight")
        save_file({n: rng.standard_normal((4, 4)) for n in names}, tmp_path / f"{name}.safetensors")
    return call


FILES = ("--pretrained", "a.safetensors", "--finetuned", "b.safetensors")


@pytest.mark.needs("matplotlib")
def test_distance_prints_layers(run, tmp_path):
    out = run(
        "layer-transferability", "--random", "r.safetensors", *FILES, "--spectra", "--plot", "p.png"
    )
    assert [line[1:9] for line in out.splitlines() if line.startswith("│")] == [
        "layers.0",
        "layers.1",
        "head    ",
    ]
    assert "overall (mean without the head): " in out
    assert "effective rank" in out
    assert shows_data(tmp_path / "p.png")
    record = json.loads(
        run("layer-transferability", "--random", "r.safetensors", *FILES, "--format", "json")
    )
    assert [layer["name"] for layer in record["layers"]] == ["layers.0", "layers.1", "head"]
    assert record["measure"] == "mean_abs"
    assert "no random initialisation" in run("layer-transferability", *FILES)


@pytest.mark.needs("matplotlib")
def test_distance_of_several_fine_tunings(run, tmp_path):
    first, second = tmp_path / "mnist" / "w.safetensors", tmp_path / "usps" / "w.safetensors"
    for path in (first, second):
        path.parent.mkdir()
        path.write_bytes((tmp_path / ("b" if path is first else "r")).with_suffix(
            ".safetensors").read_bytes())  # fmt: skip
    sources = ("--random", "r.safetensors", "--pretrained", "a.safetensors")
    both = (*sources, "--finetuned", "mnist/w.safetensors", "--finetuned", "usps/w.safetensors")
    out = run("layer-transferability", *both, "--plot", "p.png")
    assert out.index("mnist/w.safetensors") < out.index("usps/w.safetensors")
    assert out.count("overall (mean without the head)") == 2
    assert shows_data(tmp_path / "p.png")
    found = json.loads(run("layer-transferability", *both, "--format", "json"))
    assert list(found) == ["mnist/w.safetensors", "usps/w.safetensors"]
    alone = run("layer-transferability", *sources, *FILES[2:], "--format", "json")
    assert found["mnist/w.safetensors"] == json.loads(alone)
    twice = (*both, "--finetuned", "usps/w.safetensors")
    assert "a checkpoint twice" in run("layer-transferability", *twice, check=2)


def test_the_published_runs_and_regressions_are_one_command(run):
    out = run("predict-transferability")
    for name in ("CIFAR-10", "DomainNet-c", "ResNet-50", "ResNet-34", "DenseNet-121", "ViT-S"):
        assert name in out
    assert "regression on 12 runs" in out
    assert "expected transferability" not in out
    new = ("--domain-gap", 1, "--intraclass-variance", 0.2, "--n-samples", 3000)
    assert "expected transferability" in run("predict-transferability", *new)
    record = json.loads(run("predict-transferability", *new, "--format", "json"))
    assert record["low"] < record["transferability"] < record["high"]
    assert "Give all three" in run("predict-transferability", *new[:2], check=2)


def test_adapters_are_compared(run, tmp_path):
    rng = np.random.default_rng(7)
    for name, scale in {"one": 0.1, "two": 0.2, "three": 0.3}.items():
        (tmp_path / name).mkdir()
        module = "base_model.model.layers.1.lora_"
        pair = {f"{module}A.weight": (2, 4), f"{module}B.weight": (4, 2)}
        files = {n: scale * rng.standard_normal(shape) for n, shape in pair.items()}
        files["base_model.model.score.weight"] = np.ones((3, 4))
        save_file(files, tmp_path / name / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(settings))
    base = ("compare-adapters", "--pretrained", "a.safetensors")
    both = (*base, "--adapter", "one", "--adapter", "two")
    out = run(*both)
    assert [line.split("│")[1].strip() for line in out.splitlines() if line[0] == "│"] == [
        "layers.1",
        "all",
    ]
    for text in ("cosine", "first: one", "second: two", "drift of the first"):
        assert text in out
    record = json.loads(run(*both, "--format", "json"))
    assert record["adapters"] == ["one", "two"]
    (layer,) = record["layers"]
    assert f"{layer['cosine']:.4f}" in out
    assert f"{100 * layer['distance']:.3g} %" in out
    alone = run(*base, "--adapter", "one", "--group", "parameter")
    assert "layers.1.weight" in alone
    assert "cosine" not in alone
    assert f"{100 * layer['drift']:.3g} %" in alone
    assert "twice" in run(*base, "--adapter", "one", "--adapter", "one", check=2)
    assert "one adapter or two; got 3" in run(*both, "--adapter", "three", check=2)
    assert "is no adapter" in run(*base, "--adapter", "b.safetensors", check=2)


@pytest.mark.needs("torch")
def test_distance_refuses(run):
    assert "cannot be opened" in run("layer-transferability", "--random", "x.pth", *FILES, check=2)
    both = ("--random", "r.safetensors", "--arch", "resnet18")
    assert "--random and --arch" in run("layer-transferability", *both, *FILES, check=2)
    assert "different architectures" in run(
        "layer-transferability", "--arch", "resnet18", *FILES, check=2
    )


def test_dataset_factors_prints_and_predicts(run, tmp_path):
    pytest.importorskip("torch")
    data = ("sklearn/digits", "-e", "mini/resnet-mnist-supervised", "--per-class", 12)
    out = run("dataset-factors", *data)
    assert "domain gap (frechet): - (give --reference)" in out
    assert "samples: 120 in 10 classes" in out
    with_reference = (*data, "--reference", "sklearn/digits")
    record = json.loads(run("dataset-factors", *with_reference, "--format", "json"))
    assert record["domain_gap"] > 0
    assert 0 < record["intraclass_variance"] < 1
    rows = [[i % 3 + 0.1 * i, (i % 4) / 4, 100 + 50 * (i % 5), 5 + i] for i in range(9)]
    columns = ["domain_gap", "intraclass_variance", "n_samples", "transferability"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "runs.csv")
    out = run("dataset-factors", *with_reference, "--records", "runs.csv")
    assert "expected transferability of the weights: " in out
    assert "ResNet-50" in out
    out = run("dataset-factors", *with_reference, "--records", "runs.csv", "--format", "json")
    assert set(json.loads(out)) == {"factors", "forecast"}
    assert "cannot be read as .csv" in run(
        "dataset-factors", *with_reference, "--records", "no.csv", check=2
    )
