"""The command line, run as a person runs it: whole output, exit status, what is on which stream."""

from __future__ import annotations

import functools
import json
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from pictures import shows_data
from transferscope import cli
from transferscope.errors import StoreWarning

PAIR = "mini/resnet-mnist-supervised,mini/vit-random"


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run ``transferscope ARGUMENTS`` in an empty folder with an empty cache, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    for console in (cli.stdout, cli.stderr):
        monkeypatch.setattr(console, "width", 160)

    def call(*arguments, check=None):
        monkeypatch.setattr(sys, "argv", ["transferscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        done = Done(stopped.value.code or 0, captured.out, captured.err)
        if check is not None:
            assert done.returncode == check, done.stderr + done.stdout
        return done

    return call


@pytest.fixture
def feature_file(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    arrays = {
        "features": (np.eye(3, 8)[labels] + 0.3 * rng.standard_normal((60, 8))).astype(np.float32),
        "labels": labels,
        "source_logits": rng.standard_normal((60, 5)).astype(np.float32),
    }
    np.savez(tmp_path / "features.npz", **arrays)
    save_file(arrays, tmp_path / "features.safetensors")
    return tmp_path / "features.npz"


@pytest.mark.needs("torch")
def test_repeated_names_add_up(run):
    first, second = PAIR.split(",")
    arguments = ("--per-class", 5, "--no-store", "--format", "json")
    again = ("-e", first, "-e", second, "-e", first, "-m", "knn", "-m", "logme")
    done = run("rank", "sklearn/digits", *again, *arguments, check=0)
    rows = json.loads(done.stdout)["encoders"]
    assert sorted(row["encoder"] for row in rows) == sorted([first, second])
    assert all(set(row["scores"]) == {"knn", "logme"} for row in rows)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("rank", "x", "-e", "y", "--split", "a", "--split", "b"), "--split takes one value"),
        (("rank", "x", "-e", "y", "--seed", 1, "--seed", 1), "--seed takes one value"),
        (("score", "x", "--format", "json", "--format", "table"), "--format takes one value"),
        (("probe", "x", "-e", "y", "--strengths", 1, "--strengths", 2), "--strengths takes one"),
        (
            ("pretrain", "sklearn/digits", "-e", "mini/a", "-e", "mini/b", "--out", "o"),
            "--encoder takes one encoder; mini/a, mini/b stands for 2",
        ),
    ],
)
def test_what_would_be_dropped_is_refused(run, given, said):
    assert said in run(*given, check=2).stderr


@pytest.mark.needs("torch")
def test_rank_prints_table_and_advice(run):
    done = run("rank", "sklearn/digits", "-e", PAIR, "--per-class", 20, check=0)
    assert done.stderr == ""
    assert done.stdout.startswith("sklearn/digits (all): 200 samples, 10 classes\n")
    lines = done.stdout.splitlines()
    first = next(line for line in lines if "│1 " in line)
    assert "mini/resnet-mnist-supervised" in first
    assert "222 k" in first
    assert "2 of 2 candidates measured" in done.stdout
    assert lines[-2].startswith("Fine-tune mini/resnet-mnist-supervised")
    assert lines[-1] == (
        "load it: import transferscope; encoder = "
        'transferscope.load_encoder("mini/resnet-mnist-supervised")'
    )


@pytest.mark.needs("torch")
@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_names_of_encoders_are_shown_in_any_width(run, monkeypatch, width):
    """Beside eleven columns of numbers, the one with the names once had no width at all."""
    monkeypatch.setattr(cli.stdout, "width", width)
    done = run("rank", "sklearn/digits", "-e", PAIR, "-m", "logme,knn", "--per-class", 5,
               "--no-store", "--explain", check=0)  # fmt: skip
    heads = [line for line in done.stdout.splitlines() if line.startswith("┃") and "enc" in line]
    assert len(heads) == 3, done.stdout
    assert all("encoder" in line for line in heads)


@pytest.mark.needs("torch")
def test_rank_json_is_as_promised(run):
    done = run("rank", "sklearn/digits", "-e", PAIR, "--per-class", 20, "--format", "json",
               "--metrics", "logme,leep,knn", "--seed", 1, check=0)  # fmt: skip
    record = json.loads(done.stdout, parse_constant=pytest.fail)
    assert record["dataset"]["n_samples"] == 200
    assert record["ranked_by"] == "expected accuracy after fine-tuning"
    assert record["verdict"]["recommended"] == record["encoders"][0]["encoder"]
    best, other = record["encoders"]
    assert best["encoder"] == "mini/resnet-mnist-supervised"
    assert (best["rank"], best["error"]) == (1, None)
    for name in ("p_best", "n_parameters", "feature_dim", "input_size", "samples_per_second"):
        assert best[name] is not None, name
    for score in best["scores"].values():
        assert {"value", "low", "high", "warnings"} <= score.keys()
        assert score["low"] <= score["value"] <= score["high"]
    assert list(other["scores"]) == ["logme", "knn"]
    assert "leep" in other["skipped"]


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("r.json", "{"),
        ("r.csv", "encoder,dataset,rank,"),
        ("r.md", "| rank |"),
        ("r.txt", "sklearn/digits"),
    ],
)
def test_rank_writes_a_file_by_its_ending(run, tmp_path, name, beginning):
    out = tmp_path / "new" / name
    done = run("rank", "sklearn/digits", "-e", PAIR, "-m", "knn", "--per-class", 5,
               "--out", out, check=0)  # fmt: skip
    assert out.read_text().startswith(beginning)
    assert "Fine-tune" in done.stdout


@pytest.mark.needs("torch")
def test_second_run_reads_the_store(run, tmp_path):
    arguments = ("rank", "sklearn/digits", "-e", PAIR, "--per-class", 10, "--store", "kept",
                 "--format", "json")  # fmt: skip
    first, second = run(*arguments, check=0), run(*arguments, check=0)
    without = [
        {k: v for k, v in row.items() if k != "scores"}
        for row in json.loads(second.stdout)["encoders"]
    ]
    assert without == [
        {k: v for k, v in row.items() if k != "scores"}
        for row in json.loads(first.stdout)["encoders"]
    ]
    listed = run("cache", "list", "--store", "kept", check=0).stdout
    assert "2 entries" in listed
    assert "mini/vit-random" in listed
    assert "0 damaged" in run("cache", "verify", "--store", "kept", check=0).stdout
    shard = next((tmp_path / "kept").rglob("shard-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
    assert "1 damaged" in run("cache", "verify", "--store", "kept", check=1).stdout
    with warnings.catch_warnings():
        warnings.simplefilter("always", StoreWarning)
        assert "will be computed again" in run(*arguments, check=0).stderr
    assert "freed" in run("cache", "clear", "--store", "kept", check=0).stdout
    assert "0 entries" in run("cache", "list", "--store", "kept", check=0).stdout


@pytest.mark.needs("torch")
def test_no_store_leaves_nothing_behind(run, tmp_path):
    run(
        "rank", "sklearn/digits", "-e", PAIR, "-m", "logme", "--per-class", 5, "--no-store", check=0
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_score_json_is_as_promised(run, feature_file, suffix):
    done = run("score", feature_file.with_suffix(f".{suffix}"), "--metrics", "all",
               "--format", "json", check=0)  # fmt: skip
    record = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (record["n_samples"], record["n_features"], record["n_classes"]) == (60, 8, 3)
    assert {"logme", "h_score", "leep", "nce"} <= record["scores"].keys()
    for score in record["scores"].values():
        assert {"value", "warnings", "seconds"} <= score.keys()


def test_metric_without_its_inputs_is_listed_as_skipped(run, tmp_path):
    np.savez(tmp_path / "f.npz", features=np.eye(6), labels=[0, 0, 0, 1, 1, 1])
    done = run("score", "f.npz", "--metrics", "logme,leep", "--format", "json", check=0)
    record = json.loads(done.stdout)
    assert list(record["scores"]) == ["logme"]
    assert "source_probabilities" in record["skipped"]["leep"]
    run("score", "f.npz", "--metrics", "leep", check=1)


def test_score_takes_targets(run, tmp_path):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((50, 4))
    np.savez(tmp_path / "f.npz", features=features, targets=features @ [1.0, 2.0, 0.0, 0.0])
    done = run("score", "f.npz", "--format", "json", check=0)
    record = json.loads(done.stdout)
    assert record["n_classes"] == 0
    assert record["scores"]["linear_probe"]["value"] > 0.9


@pytest.mark.needs("torch")
def test_extract_writes_files_that_score_reads(run, tmp_path):
    done = run("extract", "sklearn/digits", "-e", PAIR, "--per-class", 5, "--out", "out", check=0)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["mini_resnet-mnist-supervised.safetensors", "mini_vit-random.safetensors"]
    assert files[0] in done.stdout
    scored = run("score", f"out/{files[0]}", "-m", "logme,leep", "--format", "json", check=0)
    assert json.loads(scored.stdout)["skipped"] == {}


@pytest.mark.needs("matplotlib")
def test_trace_ped_draws_and_shows_how_classes_move(run, feature_file, tmp_path):
    done = run("trace-ped", feature_file, "--plot", "ped.png", check=0)
    assert "3 classes; potential energy per step:" in done.stdout
    assert shows_data(tmp_path / "ped.png")
    record = json.loads(run("trace-ped", feature_file, "--format", "json", check=0).stdout)
    assert len(record["before"]) == 3


@pytest.mark.needs("torch")
def test_rank_with_a_reference(run):
    done = run("rank", "sklearn/digits", "-e", PAIR, "-m", "logme+ped,frechet,otce,etran",
               "--per-class", 10, "--reference", "sklearn/digits", "--format", "json",
               check=0)  # fmt: skip
    rows = json.loads(done.stdout)["encoders"]
    for row in rows:
        assert list(row["scores"]) == ["logme+ped", "frechet", "otce", "etran"]
        assert not any("without a reference" in w for w in row["scores"]["logme+ped"]["warnings"])
        assert "depends on the candidates" in row["scores"]["etran"]["warnings"][0]
    without = run("rank", "sklearn/digits", "-e", PAIR, "-m", "logme,frechet", "--per-class", 10,
                  "--format", "json", check=0)  # fmt: skip
    assert "reference" in json.loads(without.stdout)["encoders"][0]["skipped"]["frechet"]


def test_columns_are_named_for_the_data_set_and_its_reference(run, tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    lines = ["file,twin,kind,other"]
    for i in range(12):
        image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(f"{i}.png")
        lines.append(f"{i}.png,{i}.png,{'ab'[i % 2]},{'cd'[i // 6]}")
    Path("t.csv").write_text("\n".join(lines))
    named = ("--input-column", "file", "--label-column", "kind")
    arguments = ("rank", "t.csv", "-e", PAIR, "-m", "frechet", "--no-store", "--format", "json")
    done = run(*arguments, *named, "--reference", "t.csv", check=0)
    assert json.loads(done.stdout)["dataset"]["n_classes"] == 2
    assert "column" in run(*arguments, "--reference", "t.csv", check=2).stderr


def test_options_of_a_data_set_are_the_same_in_every_command(run):
    def options(command):
        text = run(command, "--help", check=0).stdout
        return set(re.findall(r"--[a-z][a-z-]+", text)), " ".join(
            re.sub(r"[│╭╰─]", " ", text).split()
        )

    common = {"--split", "--input-column", "--label-column", "--task", "--max-samples",
              "--per-class", "--skip-unreadable", "--seed"}  # fmt: skip
    for command in ("rank", "extract", "probe", "finetune", "select", "pretrain",
                    "task-relatedness", "dataset-factors"):  # fmt: skip
        names, text = options(command)
        assert common <= names, command
        assert "Use a stratified sample of this many." in text


@pytest.mark.needs("torch")
def test_a_result_is_shown_before_a_file_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("no folder")
    done = run("rank", "sklearn/digits", "-e", PAIR, "-m", "logme", "--per-class", 5, "--no-store",
               "--out", "file/r.json", check=1)  # fmt: skip
    assert "Fine-tune" in done.stdout
    assert "cannot be written" in done.stderr


def test_lists(run):
    assert "mini/vit-random" in run("encoders", "mini/", check=0).stdout
    assert json.loads(run("encoders", "vit-random", "--format", "json", check=0).stdout)
    assert run("encoders", "no-such-thing").returncode == 1
    assert "logme" in run("metrics", check=0).stdout
    names = [row["name"] for row in json.loads(run("metrics", "--format", "json").stdout)]
    assert "h_score" in names


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rank", "nowhere", "-e", PAIR), "nowhere"),
        (("rank", "sklearn/digits", "-e", "mini/nothing"), "mini/nothing"),
        (("rank", "sklearn/digits", "-e", "what/ever"), "what/ever"),
        (("rank", "sklearn/digits", "-e", PAIR, "-m", "logm"), "Did you mean 'logme'"),
        (("rank", "sklearn/digits", "--max-params", "1"), "Loosen one"),
        (("rank", "sklearn/digits", "-e", PAIR, "--license", "mit"), "Leave one of the two out"),
        (("rank", "sklearn/digits", "-e", PAIR, "--format", "xml"), "xml"),
        (("rank", "numbers.csv", "-e", PAIR, "--plot", "f.png"), "which regression data have none"),
        (("score", "nowhere.npz"), "nowhere.npz"),
        (("score", "empty.npz"), "damaged"),
        (("score", "broken.safetensors"), "damaged"),
        (("score", "other.npz"), "'features'"),
        (("score", "nan.npz"), "row 3"),
        (("score", "text.txt"), ".npz or .safetensors"),
        (("score", "constant.npz"), "the same for all"),
        (("score", "oneclass.npz"), "at least two classes"),
        (("cache", "clear", "ffff", "--store", "nostore"), "ffff"),
    ],
)
def test_wrong_input_names_what_is_wrong_and_exits_with_2(run, tmp_path, arguments, words):
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 30)
    (tmp_path / "text.txt").write_text("hello")
    rows = "".join(f"text {i},{i / 7:.3f}\n" for i in range(12))
    (tmp_path / "numbers.csv").write_text(f"text,label\n{rows}")
    features = np.random.default_rng(0).standard_normal((6, 3))
    labels = [0, 1, 0, 1, 0, 1]
    np.savez(tmp_path / "other.npz", x=features)
    np.savez(tmp_path / "constant.npz", features=np.ones((6, 3)), labels=labels)
    np.savez(tmp_path / "oneclass.npz", features=features, labels=[1] * 6)
    features[3, 1] = np.nan
    np.savez(tmp_path / "nan.npz", features=features, labels=labels)
    done = run(*arguments, check=2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.needs("torch")
def test_nothing_ranked_exits_with_1_and_says_why(run):
    missing = "checkpoint:missing.pth?arch=resnet18"
    done = run("rank", "sklearn/digits", "-e", missing, "--per-class", 5, check=1)
    assert "failed checkpoint:missing.pth" in done.stdout
    again = run("rank", "sklearn/digits", "-e", missing, "--per-class", 5, "--format", "json",
                check=1)  # fmt: skip
    record = json.loads(again.stdout)
    assert record["encoders"][0]["error"]
    assert record["encoders"][0]["rank"] is None


@pytest.mark.needs("torch")
@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent differently there")
def test_interrupted_run_says_how_to_continue(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "transferscope", "rank", "sklearn/digits", "-e", "mini/all",
         "--store", str(tmp_path / "kept")],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # in the background of a shell it is ignored, and that is inherited
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(Path(tmp_path).rglob("shard-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command continues" in errors


@pytest.mark.needs("torch")
def test_probe_and_finetune_write_what_evaluate_reads(run, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(60) % 2)
    names = "mini/vit-random,mini/resnet-random"
    done = run("probe", "noise.npz", "-e", names, "--csv", "probe.csv", check=0)
    assert "34 samples to train on, 8 to choose on, 18 to test on" in done.stdout
    lines = (tmp_path / "probe.csv").read_text().splitlines()
    assert lines[0] == "dataset,encoder,accuracy"
    assert {line.split(",")[1] for line in lines[1:]} == set(names.split(","))
    quick = ("--epochs", 1, "--seeds", 1, "--learning-rates", "1e-3", "--weight-decays", "0.01")
    asked = (f"{names},timm/nothing", "--out", "runs", *quick)
    done = run("finetune", "noise.npz", "-e", *asked, "--format", "json", check=0)
    assert {record["encoder"] for record in json.loads(done.stdout)} == set(names.split(","))
    assert "failed timm/nothing" in done.stderr
    done = run("pretrain", "noise.npz", "-e", "mini/vit-random", "--epochs", 1, "--out", "pre")
    assert done.returncode == 0
    assert (tmp_path / "pre" / "final.safetensors").exists()
    for wrong in (("--mode", "tail"), ("--part", "2"), ("--learning-rates", "fast")):
        done = run("finetune", "noise.npz", "-e", names, *wrong, check=2)
        assert "error" in done.stderr
    done = run("finetune", "noise.npz", "-e", "timm/nothing", *quick, check=1)


@pytest.mark.needs("torch")
def test_evaluate_reads_what_rank_and_probe_write(run, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(60) % 2)
    names = "mini/vit-random,mini/resnet-random,mini/resnet-mnist-supervised"
    ranked = ("rank", "noise.npz", "-e", names, "--all", "-m", "logme,knn")
    run(*ranked, "--out", "ranking.csv", check=0)
    run(*ranked, "--out", "ranking.json", check=0)
    run("probe", "noise.npz", "-e", names, "--csv", "probe.csv", check=0)
    asked = ("--accuracy", "probe.csv", "--format", "json")
    found = {}
    for ending in ("csv", "json"):
        done = run("evaluate", "--scores", f"ranking.{ending}", *asked, check=0)
        found[ending] = json.loads(done.stdout)["scores"]["noise"]
    assert {"logme", "knn", "expected"} <= set(found["csv"])
    assert found["csv"] == found["json"]
    both = ("--scores", "ranking.csv", "--scores", "probe.csv")
    done = run("evaluate", *both, *asked, check=0)
    scores = json.loads(done.stdout)["scores"]["noise"]
    assert scores["logme"] == found["csv"]["logme"]
    assert set(scores["probe"]) == set(names.split(","))


def test_evaluate_own_tables(run, tmp_path):
    Path("scores.csv").write_text("dataset,encoder,logme\np,a,1\np,b,2\np,c,3\n")
    Path("accuracy.csv").write_text("encoder,p\na,70\nb,90\nc,80\n")
    tables = ("--scores", "scores.csv", "--accuracy", "accuracy.csv")
    done = run("evaluate", *tables, "--format", "json", check=0)
    record = json.loads(done.stdout)
    assert record["per_dataset"]["p"]["logme"]["kendall"] == pytest.approx(1 / 3)
    assert record["average"]["logme"]["regret@1"] == 10
    done = run("evaluate", *tables, check=0)
    assert "logme" in done.stdout
    assert done.stderr == ""


def test_evaluate_on_benchmark_draws_and_shows_what_was_published(run, tmp_path):
    pytest.importorskip("matplotlib")
    done = run(
        *("evaluate", "--benchmark", "sfda-supervised"),
        *("--plot", "heat.png", "--scatter", "scatter.png"),
        check=0,
    )
    assert "sfda, as published" in done.stdout
    assert "imagenet_accuracy" in done.stdout
    assert shows_data(tmp_path / "heat.png")
    assert shows_data(tmp_path / "scatter.png")


def test_evaluate_says_what_is_wrong(run):
    assert "give one of" in run("evaluate", check=2).stderr
    assert "ped-ssl" in run("evaluate", "--benchmark", "list", check=2).stderr
    both = ("--benchmark", "ped-ssl", "--accuracy", "x.csv", "--scores", "y.csv")
    assert "give one of" in run("evaluate", *both, check=2).stderr


def test_benchmarks_are_listed_and_written(run):
    listed = run("benchmarks", check=0).stdout
    assert "TencentARC/SFDA @ 3b7edf76bd68" in listed
    assert json.loads(run("benchmarks", "--format", "json", check=0).stdout)[0]["name"] == "ped-ssl"
    lines = run("benchmarks", "ped-ssl", check=0).stdout.splitlines()
    assert lines[:2] == ["dataset,encoder,accuracy", "aircraft,byol,82.1"]
    assert len(lines) == 133
    assert run("benchmarks", "sfda-selfsupervised", check=0).stdout.splitlines() == lines
    assert "also: sfda-selfsupervised" in listed
    assert run("benchmarks", "sfda-nothing", check=2).stdout == ""


def test_probe_refuses_parts_of_other_classes(run, tmp_path):
    images = np.zeros((12, 8, 8, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "parts.npz",
        train_images=images,
        train_labels=np.arange(12) % 3,
        test_images=images,
        test_labels=np.arange(12) % 2,
    )
    done = run("probe", "parts.npz", "--test-split", "test", "-e", "mini/vit-random", check=2)
    assert "same classes" in done.stderr


@pytest.mark.needs("torch")
def test_how_a_data_set_was_read_is_said_at_once_and_kept(run, tmp_path):
    labels = np.arange(24) % 3
    images = (labels[:, None, None] * 900 + np.arange(64).reshape(8, 8)).astype(np.uint16)
    arrays = {"x_train": images, "y_train": labels[:, None], "x_val": images, "y_val": labels}
    np.savez(tmp_path / "camera.npz", **arrays, class_names=list("abcd"))
    notes = [
        "split train was read, the others were not (val)",
        "classes without samples, left out: 1 (d)",
        "pixels are not of 8 bits: 4095 was taken for white, the brightest integer pixel is 1863",
    ]
    told = "".join(f"note {note}\n" for note in notes)
    options = ("camera.npz", "-e", "mini/resnet-random")
    done = run("rank", *options, "--metrics", "knn", "--format", "json", check=0)
    assert json.loads(done.stdout)["dataset"]["notes"] == notes
    assert told in run("rank", *options, "--metrics", "knn", check=0).stdout
    assert run("extract", *options, "--out", "features", check=0).stderr == told
