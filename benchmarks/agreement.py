"""Does a score tell the truth? Every metric against end-to-end fine-tuning of the bundled zoo.

    python benchmarks/agreement.py finetune --part 1/2     # CPU hours; goes on after a kill
    python benchmarks/agreement.py finetune --part 2/2     # in another process
    python benchmarks/agreement.py report                  # scores, agreement, the table and plots

Eight real data sets of ../shared/data; an encoder is left out on the data set it was trained on.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, weightedtau

from transferscope import open_dataset, rank
from transferscope.datasets import Dataset
from transferscope.encoders import bundled_card, list_bundled
from transferscope.evaluation import evaluate
from transferscope.metrics import DEFAULT_METRICS

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data" / "images"
#: File of each target, and the beginning of the title of the same source on the cards of the zoo.
TARGETS = {
    "usps": "-",
    "flower_photos": "flower_photos",
    "caltech101_c43": "Caltech-101",
    "sign_digits": "Sign Language",
    "hymenoptera": "-",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10_32px": "CIFAR-10",
    "mnist": "MNIST",
}
MAX_TRAIN, MAX_TEST = 750, 1000


def target(name: str) -> tuple[Dataset, Dataset]:
    path = str(DATA / f"{name}.npz")
    train = open_dataset(path, split="train", max_samples=MAX_TRAIN, seed=0)
    return train, open_dataset(path, split="test", max_samples=MAX_TEST, seed=0)


def encoders_for(name: str) -> list[str]:
    """The zoo without the encoders that have seen this data set."""
    cards = {encoder: bundled_card(encoder) for encoder in list_bundled()}
    return [
        f"mini/{encoder}"
        for encoder, card in cards.items()
        if not (card.source or "").startswith(TARGETS[name])
    ]


def fine_tune(folder: Path, part: int, every: int) -> None:
    """Fine-tune every pair of which no result is there yet."""
    import torch

    from transferscope.training import finetune

    torch.set_num_threads(1)
    pairs = [(name, encoder) for name in TARGETS for encoder in encoders_for(name)]
    for name, encoder in pairs[part - 1 :: every]:
        place = folder / "runs" / name / encoder.removeprefix("mini/")
        result = place / "result.json"
        if result.exists():
            continue
        train, test = target(name)
        found = finetune(
            encoder,
            train,
            test,
            learning_rates=(1e-3, 4e-3),
            weight_decays=(1e-3, 1e-1),
            n_seeds=3,
            epochs=12,
            patience=None,
            out=place,
        )
        result.write_text(found.to_json(), encoding="utf-8")
        spread = found.spread or 0.0
        print(
            f"{name} {encoder} {found.value:.4f} ± {spread:.4f} {found.seconds:.0f} s", flush=True
        )


ABOUT = f"""
Truth: the encoders of the bundled zoo, fine-tuned end to end on at most {MAX_TRAIN} images of eight
real data sets (a fifth of them held out to choose on) and measured on at most {MAX_TEST} others;
learning rates 1e-3 and 4e-3, weight decays 1e-3 and 0.1, 12 epochs; the best pair on the held-out
fifth with three seeds. An encoder is left out on the data set it was trained on. Scores: of the
same {MAX_TRAIN} images, CIFAR-10 as reference. Metrics that need a head (leep, nce,
pactran_dirichlet, pactran_gamma) are measured on the encoders that have one. ncti and etran depend
on the candidates.
`source accuracy` and `parameters` never look at the target.

Read it with its limits: small encoders at 32 x 32, small targets, and seeds alone move an accuracy
by one or two points. Intervals are over encoders and data sets; few metrics differ by more than
they are wide.
""".strip()

# -- what the scores are worth ------------------------------------------------------------------

Table = dict[str, dict[str, dict[str, float]]]
Truth = dict[str, dict[str, float]]

#: Shares of the target in the small-sample study, and draws of each.
SHARES, DRAWS = (0.01, 0.05, 0.2, 1.0), 5
LARGE = ("mnist", "fashion_mnist", "usps", "cifar10_32px")
#: Metrics that any data set allows: no head and no reference task needed.
NEEDS_MORE = ("leep", "nce", "pactran_dirichlet", "pactran_gamma", "frechet", "otce", "ot_nce")
#: Baselines that never look at the target.
BASELINES = ("source accuracy", "parameters")
#: What costs next to nothing beside the forward pass.
QUICK = ("logme", "regularized_h_score", "linear_probe", "knn")


def truth(folder: Path) -> tuple[Truth, Truth]:
    """Accuracy, and its spread over seeds, per data set and encoder."""
    accuracy: Truth = {}
    spread: Truth = {}
    for path in sorted(folder.glob("runs/*/*/result.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        accuracy.setdefault(path.parts[-3], {})[found["encoder"]] = found["value"]
        spread.setdefault(path.parts[-3], {})[found["encoder"]] = found["spread"]
    names = [name for name in TARGETS if name in accuracy]
    return {n: accuracy[n] for n in names}, {n: spread[n] for n in names}


def score_all(folder: Path, names: Iterable[str]) -> Table:
    """Every metric and its form after PED on every target; kept in the folder."""
    reference = open_dataset(str(DATA / "cifar10_32px.npz"), split="train", max_samples=500)
    table: Table = {}
    for name in names:
        place = folder / "scores" / f"{name}.json"
        if not place.exists():
            ranking = rank(
                target(name)[0],
                encoders_for(name),
                "all+ped",
                reference=reference,
                store=folder / "store",
            )
            scores: dict[str, dict[str, float]] = {}
            for row in ranking.encoders:
                for metric, score in row.scores.items():
                    scores.setdefault(metric, {})[row.encoder] = score.value
                card = bundled_card(row.encoder)
                scores.setdefault("source accuracy", {})[row.encoder] = card.accuracy or 0.0
                scores.setdefault("parameters", {})[row.encoder] = float(card.n_parameters)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(scores), encoding="utf-8")
            print(f"scored {name}", flush=True)
        table[name] = json.loads(place.read_text(encoding="utf-8"))
    return table


def consensus(scores: dict[str, dict[str, float]], members: Sequence[str]) -> dict[str, float]:
    """Minus the mean rank, as `rank` orders encoders by several metrics."""
    names = list(scores[members[0]])
    ranks = [rankdata([-scores[m][e] for e in names]) for m in members]
    return dict(zip(names, -np.mean(ranks, axis=0), strict=True))


def tau_and_regret(scores: dict[str, float], accuracy: dict[str, float]) -> tuple[float, float]:
    names = list(accuracy)
    values, known = [scores[e] for e in names], [accuracy[e] for e in names]
    # of tied first ones the worst: a ranking that cannot decide earns no luck
    top = min(a for v, a in zip(values, known, strict=True) if v == max(values))
    # undefined where all scores are the same: they foresee nothing
    tau = float(np.nan_to_num(weightedtau(values, known).statistic))
    return tau, 100 * (max(known) - top)


Members = tuple[str, ...]


def available(table: Table, accuracy: Truth) -> list[str]:
    """Metrics that any data set allows, and that every encoder has here."""
    return [
        m
        for m in next(iter(table.values()))
        if m.removesuffix("+ped") not in NEEDS_MORE
        and m not in BASELINES
        and all(set(accuracy[n]) <= set(table[n].get(m, {})) for n in table)
    ]


def measure_sets(table: Table, accuracy: Truth, sets: Sequence[Members]) -> np.ndarray:
    """Weighted tau and regret of each set's consensus on each data set, (sets, data sets, 2)."""
    return np.array(
        [
            [tau_and_regret(consensus(table[n], members), accuracy[n]) for n in table]
            for members in sets
        ]
    )


def choose(table: Table, accuracy: Truth, sets: Sequence[Members]) -> str:
    """Leave one data set out: choose among the sets on the others, measure on it."""
    found = measure_sets(table, accuracy, sets)
    lines = ["| left out | chosen on the others | weighted tau | regret@1, points |"]
    lines.append("|" + " --- |" * 4)
    held_out = []
    for d, name in enumerate(table):
        best = _best(np.delete(found, d, axis=1))
        held_out.append(found[best, d])
        tau, regret = held_out[-1]
        lines.append(f"| {name} | {' + '.join(sets[best])} | {tau:.3f} | {regret:.2f} |")
    tau, regret = np.mean(held_out, axis=0)
    lines.append(f"| **mean** | | **{tau:.3f}** | **{regret:.2f}** |")
    best = _best(found)
    tau, regret = found[best].mean(axis=0)
    lines.append(f"| chosen on all | {' + '.join(sets[best])} | {tau:.3f} | {regret:.2f} |")
    return "\n".join(lines)


def compare_sets(table: Table, accuracy: Truth, sets: dict[str, Members]) -> str:
    """Sets that were fixed beforehand, measured on all data sets."""
    lines = ["| set | members | weighted tau | regret@1, points |", "|" + " --- |" * 4]
    found = measure_sets(table, accuracy, list(sets.values())).mean(axis=1)
    for (title, members), (tau, regret) in zip(sets.items(), found, strict=True):
        lines.append(f"| {title} | {' + '.join(members)} | {tau:.3f} | {regret:.2f} |")
    return "\n".join(lines)


def _best(found: np.ndarray) -> int:
    """The set of highest mean weighted tau; equal ones by regret."""
    tau, regret = found.mean(axis=1).T
    return int(np.lexsort((regret, -np.round(tau, 6)))[0])


def small_samples(folder: Path, accuracy: Truth, metrics: Sequence[str]) -> list[str]:
    """Mean weighted tau when only a share of the target is looked at; kept in the folder."""
    place = folder / "small_samples.md"
    if place.exists():
        return place.read_text(encoding="utf-8").splitlines()
    lines = ["| share | " + " | ".join((*metrics, "consensus")) + " |"]
    lines.append("|" + " --- |" * (len(metrics) + 2))
    for share in SHARES:
        taus: dict[str, list[float]] = {m: [] for m in (*metrics, "consensus")}
        for name in (n for n in LARGE if n in accuracy):
            whole = open_dataset(str(DATA / f"{name}.npz"), split="train")
            n = round(share * min(len(whole), 2500))
            for seed in range(DRAWS if share < 1 else 1):
                ranking = rank(
                    whole.subsample(n, seed=seed),
                    encoders_for(name),
                    list(metrics),
                    seed=seed,
                    store=None,
                )
                scores: dict[str, dict[str, float]] = {}
                for row in ranking.encoders:
                    for metric, score in row.scores.items():
                        scores.setdefault(metric, {})[row.encoder] = score.value
                for metric in metrics:
                    taus[metric].append(tau_and_regret(scores[metric], accuracy[name])[0])
                together = consensus(scores, metrics)
                taus["consensus"].append(tau_and_regret(together, accuracy[name])[0])
        cells = (f"{np.mean(v):.2f} ± {np.std(v):.2f}" for v in taus.values())
        lines.append(f"| {share:.0%} of at most 2 500 | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    place.write_text("\n".join(lines), encoding="utf-8")
    return lines


def report(folder: Path, results: Path) -> None:
    from transferscope.plots import plot_agreement, save_figure

    accuracy, spread = truth(folder)
    table = score_all(folder, accuracy)
    found = evaluate(table, accuracy)
    results.mkdir(exist_ok=True)
    with (results / "agreement_accuracy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["dataset", "encoder", "accuracy", "spread"])
        for name, row in accuracy.items():
            for encoder, value in row.items():
                writer.writerow([name, encoder, f"{value:.4f}", f"{spread[name][encoder]:.4f}"])
    plain = {
        name: {m: values for m, values in metrics.items() if not m.endswith("+ped")}
        for name, metrics in table.items()
    }
    save_figure(plot_agreement(evaluate(plain, accuracy)), results / "agreement.png")
    order = sorted(found.average, key=lambda m: -(found.average[m]["weighted_tau"].value or -2))
    lines = ["| metric | weighted tau | 95 % | worst data set | regret@1, points | data sets |"]
    lines.append("|" + " --- |" * 6)
    for metric in order:
        tau, regret = found.average[metric]["weighted_tau"], found.average[metric]["regret@1"]
        single = {
            n: rows[metric]["weighted_tau"].value
            for n, rows in found.per_dataset.items()
            if metric in rows and rows[metric]["weighted_tau"].value is not None
        }
        if tau.value is None or not single:
            continue
        worst = min(single, key=lambda n: single[n] or 0.0)
        lines.append(
            f"| {metric} | {tau.value:.3f} | {tau.low:.2f} to {tau.high:.2f} "
            f"| {worst} ({single[worst]:.2f}) | {100 * (regret.value or 0):.2f} | {len(single)} |"
        )
    metrics = available(table, accuracy)
    singles = [(m,) for m in metrics]
    plain = [m for m in metrics if not m.endswith("+ped") and not m.startswith("ncti_")]
    triples = [c for k in (2, 3) for c in itertools.combinations(plain, k)]
    quick = [c for k in range(1, len(QUICK) + 1) for c in itertools.combinations(QUICK, k)]
    fixed = {
        "default": DEFAULT_METRICS,
        "default and knn (the default before this table)": QUICK,
        "default and logistic_probe": (*DEFAULT_METRICS, "logistic_probe"),
        "default and parc": (*DEFAULT_METRICS, "parc"),
        "default and logistic_probe, parc": (*DEFAULT_METRICS, "logistic_probe", "parc"),
    }
    parts = [
        f"Made by `benchmarks/agreement.py` on {datetime.now(UTC).date()}, 2 cores, no GPU.",
        ABOUT,
        "## Every metric",
        "\n".join(lines),
        "## The best single metric, chosen without the data set it is measured on",
        choose(table, accuracy, singles),
        "## The best consensus of two or three metrics, chosen in the same way",
        choose(table, accuracy, triples),
        f"## The same among the quick ones ({', '.join(QUICK)})",
        choose(table, accuracy, quick),
        "## Fixed sets, on all data sets",
        compare_sets(table, accuracy, fixed),
        "## Small samples",
        "\n".join(small_samples(folder, accuracy, DEFAULT_METRICS)),
        "## Accuracy after fine-tuning, percent (spread over three seeds)",
        _accuracy_table(accuracy, spread),
    ]
    (results / "agreement.md").write_text(
        "# Agreement with fine-tuning\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8"
    )


def _accuracy_table(accuracy: Truth, spread: Truth) -> str:
    lines = ["| encoder | " + " | ".join(accuracy) + " |", "|" + " --- |" * (len(accuracy) + 1)]
    for encoder in (f"mini/{name}" for name in list_bundled()):
        cells = [
            f"{100 * row[encoder]:.1f} ± {100 * spread[name][encoder]:.1f}"
            if encoder in row
            else "-"
            for name, row in accuracy.items()
        ]
        lines.append(f"| {encoder} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["finetune", "report"])
    parser.add_argument("--folder", type=Path, default=Path("agreement_runs"))
    parser.add_argument("--part", default="1/1", help="such as 2/4: every fourth pair")
    arguments = parser.parse_args()
    if arguments.stage == "finetune":
        fine_tune(arguments.folder, *map(int, arguments.part.split("/")))
    else:
        report(arguments.folder, HERE / "results")


if __name__ == "__main__":
    main()
