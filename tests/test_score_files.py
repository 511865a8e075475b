"""Tables of scores and accuracies, read from files."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from transferscope.errors import InputError
from transferscope.evaluation import (
    evaluate,
    evaluate_on,
    get_benchmark,
    read_accuracy,
    read_scores,
)


def test_long_and_wide_tables_are_the_same(tmp_path):
    write = lambda name, text: (tmp_path / name).write_text(text, "utf-8") and tmp_path / name  # noqa: E731
    long = write("a.csv", "encoder,dataset,metric,value\nv,p,x,1\nv,p,y,2\nr,p,x,3\n")
    wide = write("b.csv", "\ufeffdataset,encoder,x,y\np,v,1,2\n\np,r,3,\n")
    assert read_scores(long) == read_scores(wide) == {"p": {"x": {"v": 1.0, "r": 3.0},
                                                            "y": {"v": 2.0}}}  # fmt: skip
    long = write("c.csv", "dataset,encoder,accuracy\np,v,90\nq,v,80\np,r,70\n")
    wide = write("d.csv", "encoder,p,q\nv,90,80\nr,70,\n")
    assert read_accuracy(long) == read_accuracy(wide)


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_scores, "dataset,encoder,metric,value\np,v,x,1\np,v,x,1\n", "only once"),
        (read_scores, "dataset,encoder,x\np,v,1\np,v,2\n", "only once"),
        (read_scores, "dataset,encoder,x\np,v,1\np,v,\n", "only once"),
        (read_scores, "dataset,encoder,x\np,v,nan\n", "finite numbers; x of v is 'nan' at line 2"),
        (read_scores, "dataset,encoder,x\np,v,high\n", "finite numbers"),
        (read_scores, "dataset,encoder,metric,value,seed\np,v,x,1,0\n", "has also seed"),
        (read_scores, "dataset,encoder,metric\np,v,x\n", "has no value"),
        (read_scores, "data,encoder,x\np,v,1\n", "has no dataset"),
        (read_scores, "dataset,encoder\np,v\n", "a column per metric"),
        (read_scores, "dataset,encoder,x\np,,1\n", "needs a value under encoder"),
        (read_scores, "dataset,encoder,x\np,v\n", "as many cells"),
        (read_scores, "dataset,encoder,x,x\np,v,1,2\n", "names of their own"),
        (read_scores, "dataset,encoder,x\n", "at least one row"),
        (read_accuracy, "dataset,encoder,accuracy\np,v,1\np,v,1\n", "only once"),
        (read_accuracy, "dataset,encoder,accuracy,split\np,v,1,test\n", "has also split"),
        (read_accuracy, "dataset,encoder\np,v\n", "has no accuracy"),
        (read_accuracy, "encoder,p\nv,inf\n", "finite numbers"),
        (read_accuracy, "encoder\nv\n", "a column per data set"),
    ],
)
def test_bad_table_is_named(tmp_path, reader, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        reader(path)


def test_no_table_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_scores(tmp_path / "absent.csv")


def test_files_are_joined_and_must_agree(tmp_path):
    write = lambda name, text: (tmp_path / name).write_text(text, "utf-8") and tmp_path / name  # noqa: E731
    first = write("a.csv", "dataset,encoder,x\np,v,1\np,r,2\n")
    second = write("b.csv", "encoder,x,y\nv,1,5\ns,3,6\n")
    found = read_scores(first, second, dataset="p")
    assert found == {"p": {"x": {"v": 1.0, "r": 2.0, "s": 3.0}, "y": {"v": 5.0, "s": 6.0}}}
    with pytest.raises(InputError, match=r"x on p of v is 4.0 in .*c.csv, and 1.0 in"):
        read_scores(first, write("c.csv", "dataset,encoder,x\np,v,4\n"))
    rates = write("d.csv", "encoder,accuracy\nv,90\n"), write("e.csv", "encoder,p\nr,80\n")
    assert read_accuracy(*rates, dataset="p") == {"p": {"v": 90.0, "r": 80.0}}
    with pytest.raises(InputError, match="accuracy on p of v is 91"):
        read_accuracy(*rates, write("f.csv", "encoder,p\nv,91\n"), dataset="p")


def test_accuracies_are_a_score_named_after_their_file(tmp_path):
    (tmp_path / "short.csv").write_text("dataset,encoder,accuracy\np,v,0.9\n")
    records = [{"dataset": "p", "encoder": "v", "value": 0.8, "strength": 1.0}]
    (tmp_path / "long.json").write_text(json.dumps(records))
    found = read_scores(tmp_path / "short.csv", tmp_path / "long.json")
    assert found == {"p": {"short": {"v": 0.9}, "long": {"v": 0.8}}}
    assert read_accuracy(tmp_path / "long.json") == {"p": {"v": 0.8}}


@pytest.mark.parametrize(
    "text", ["{}", "[1]", '[{"encoder": "v"}]', '[{"dataset": "p", "encoder": 3, "value": 1}]']
)
def test_other_json_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match="must be the JSON of rank, probe or finetune"):
        read_scores(path)
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        read_accuracy(path)


ACCURACY = {"p": {"v": 90.0, "r": 70.0, "s": 60.0}, "q": {"v": 80.0, "r": 81.0, "s": 85.0}}
SCORES = {
    "p": {"x": {"v": 1.0, "r": 3.0, "s": 0.0}, "y": {"v": 2.0, "r": 5.0, "s": 9.0}},
    "q": {"x": {"v": 1.0, "r": 2.0, "s": 3.0}},
}


def score_frames() -> dict[str, pd.DataFrame]:
    long = pd.DataFrame(
        [
            (dataset, encoder, metric, value)
            for dataset, metrics in SCORES.items()
            for metric, row in metrics.items()
            for encoder, value in row.items()
        ],
        columns=["dataset", "encoder", "metric", "value"],
    )
    wide = long.pivot(index=["dataset", "encoder"], columns="metric", values="value")
    return {
        "long": long,
        "long, indexed": long.set_index(["dataset", "encoder", "metric"]),
        "wide": wide.reset_index(),
        "wide, indexed": wide,
    }


def accuracy_frames() -> dict[str, pd.DataFrame]:
    wide = pd.DataFrame(ACCURACY)
    long = wide.rename_axis("encoder").reset_index().melt("encoder", var_name="dataset")
    return {
        "wide, indexed": wide,
        "wide": wide.rename_axis("encoder").reset_index(),
        "long": long.rename(columns={"value": "accuracy"}),
    }


@pytest.mark.parametrize("scores", score_frames())
@pytest.mark.parametrize("accuracy", accuracy_frames())
def test_frames_are_evaluated_like_mappings(scores, accuracy):
    found = evaluate(score_frames()[scores], accuracy_frames()[accuracy])
    assert found.per_dataset == evaluate(SCORES, ACCURACY).per_dataset
    assert found.accuracy == ACCURACY
    assert "y" not in found.per_dataset["q"]


def test_benchmarks_take_frames():
    rows = [
        ("pets", encoder, i)
        for i, encoder in enumerate(get_benchmark("mms-vit").accuracy()["pets"])
    ]
    frame = pd.DataFrame(rows, columns=["dataset", "encoder", "mine"])
    found = evaluate_on("mms-vit", frame)
    expected = evaluate_on("mms-vit", {"pets": {"mine": {e: float(i) for _, e, i in rows}}})
    assert found == expected


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"encoder": ["v"], "x": [1.0]}), "columns of scores .* has no dataset"),
        (
            pd.DataFrame({"dataset": ["p"], "encoder": ["v"], "x": [np.inf]}),
            "x of v is inf at row 0",
        ),
        (pd.DataFrame({"dataset": ["p"], "encoder": ["v"], "x": ["a"]}), "x of v is 'a' at row 0"),
        (pd.DataFrame({"dataset": ["p"], "encoder": [None], "x": [1.0]}), "value under encoder"),
        (pd.DataFrame({"dataset": ["p"] * 2, "encoder": ["v"] * 2, "x": [1, 2]}), "only once"),
        (pd.DataFrame({"dataset": [], "encoder": [], "x": []}), "at least one row"),
        ([1, 2], "scores must be a nested mapping or a DataFrame; got list"),
    ],
)
def test_bad_frame_is_named(frame, message):
    with pytest.raises(InputError, match=message):
        evaluate(frame, ACCURACY)


def test_evaluation_imports_neither_torch_nor_pandas():
    code = (
        "import sys, transferscope.evaluation; "
        "sys.exit(', '.join({'torch', 'pandas'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
