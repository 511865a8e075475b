"""Why does PED help little on the bundled zoo? Its constants, chosen without the data set judged.

    python benchmarks/ped.py [DIR]     # features of the zoo are kept there

Planned before it was run: every constant of PED is varied by itself, and all together; a setting
counts as better only if it was chosen on seven data sets and is measured on the eighth. The truth
is that of benchmarks/agreement.py, the reference CIFAR-10, as there.
"""

from __future__ import annotations

import csv
import itertools
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from scipy.stats import weightedtau

from agreement import DATA, HERE, TARGETS, encoders_for, target
from transferscope import extract, open_dataset
from transferscope.embedding import Embedding
from transferscope.metrics import potential_energy_decline, resolve_metric

#: Measured of moments, so that a displaced embedding costs little.
METRICS = ("logme", "h_score", "regularized_h_score", "gbc", "lda", "within_between")
#: The authors' constants come first.
NU, STEPS, EXITS, SCALES = (0.6, 0.3, 1.0), (0.1, 0.4, 1.4), (0.5, 0.0), ("reference", "own")
SETTINGS = list(itertools.product(NU, STEPS, EXITS, SCALES))
FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "ped"


def features() -> None:
    reference = open_dataset(str(DATA / "cifar10_32px.npz"), split="train", max_samples=500)
    for name in TARGETS:
        place = FOLDER / f"{name}.npz"
        if place.exists():
            continue
        arrays = {}
        encoders = encoders_for(name)
        for what, data in (("target", target(name)[0]), ("reference", reference)):
            for item in extract(data, encoders, store=None):
                arrays[f"{what}|{item.identifier}"] = np.asarray(item.features)
            if what == "target":
                arrays["labels"] = data.labels
        FOLDER.mkdir(parents=True, exist_ok=True)
        np.savez(place, **arrays)
        print(f"extracted {name}", flush=True)


def embeddings(name: str) -> Iterator[tuple[str, Embedding]]:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        for key in arrays.files:
            what, _, encoder = key.partition("|")
            if what == "target":
                reference = arrays[f"reference|{encoder}"]
                yield (
                    encoder,
                    Embedding(arrays[key], arrays["labels"], reference_features=reference),
                )


def truth() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    with (HERE / "results" / "agreement_accuracy.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["dataset"], {})[row["encoder"]] = float(row["accuracy"])
    return found


def tau(scores: list[float], accuracy: list[float]) -> float:
    return float(np.nan_to_num(weightedtau(scores, accuracy).statistic))


def measure() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted tau (metrics, 1 + settings, data sets); energies and shares of classes that stop."""
    accuracy = truth()
    taus = np.zeros((len(METRICS), 1 + len(SETTINGS), len(TARGETS)))
    energies, stopped = [], []
    for d, name in enumerate(TARGETS):
        scores: dict[tuple[int, int], list[float]] = {}
        known = []
        for encoder, embedding in embeddings(name):
            if encoder not in accuracy[name]:
                continue
            known.append(accuracy[name][encoder])
            deviation = embedding.reference.deviation
            for m, metric in enumerate(METRICS):
                value = resolve_metric(metric).measure(embedding).value
                scores.setdefault((m, 0), []).append(value)
            for s, (nu, step, leave, scale) in enumerate(SETTINGS):
                decline = potential_energy_decline(
                    embedding.moments,
                    deviation if scale == "reference" else None,
                    nu=nu,
                    step=step,
                    exit_ratio=leave,
                )
                moved = embedding.displaced(decline.displacement)
                for m, metric in enumerate(METRICS):
                    value = resolve_metric(metric).measure(moved).value
                    scores.setdefault((m, s + 1), []).append(value)
            whole = potential_energy_decline(embedding.moments, deviation, exit_ratio=0.0)
            trace = np.array([*whole.energies, *[whole.energies[-1]] * 6][:7])
            energies.append(trace / trace[0] if trace[0] > 0 else np.zeros(7))
            first, second = (
                potential_energy_decline(
                    embedding.moments, deviation, exit_ratio=0.0, max_steps=n
                ).displacement
                for n in (1, 2)
            )
            lengths = [np.abs(np.asarray(x)).sum(axis=1) for x in (first, second - first)]
            moves = lengths[0] > 0
            ends = (lengths[1] <= 0.5 * lengths[0]) | ~moves
            stopped.append((ends.mean(), (~moves).mean(), len(whole.movements) == 0))
        for (m, s), values in scores.items():
            taus[m, s, d] = tau(values, known)
        print(f"measured {name}", flush=True)
    return taus, np.array(energies), np.array(stopped, dtype=float)


def shown(setting: tuple[float, float, float, str]) -> str:
    nu, step, leave, scale = setting
    return f"nu {nu:g}, Δt {step:g}, exit {leave:g}, {scale}"


def interval(changes: np.ndarray) -> str:
    """Mean over data sets, and its 95 % interval by resampling these."""
    rng = np.random.default_rng(0)
    drawn = changes[rng.integers(0, len(changes), (2000, len(changes)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{changes.mean():+.3f} ({low:+.2f} to {high:+.2f})"


def held_out(gain: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Gain (settings, data sets) of the setting that is best on the other data sets."""
    chosen = [int(np.delete(gain, d, axis=1).mean(axis=1).argmax()) for d in range(gain.shape[1])]
    return np.array([gain[s, d] for d, s in enumerate(chosen)]), chosen


def report() -> None:
    taus, energies, stopped = measure()
    gain = taus[:, 1:] - taus[:, :1]
    lines = [
        "| metric | weighted tau | change by the authors' constants | change by constants chosen "
        "on the other data sets | chosen most often |",
        "|" + " --- |" * 5,
    ]
    for m, metric in enumerate(METRICS):
        found, chosen = held_out(gain[m])
        often = max(set(chosen), key=chosen.count)
        lines.append(
            f"| {metric} | {taus[m, 0].mean():.3f} | {interval(gain[m, 0])} | {interval(found)} | "
            f"{shown(SETTINGS[often])} ({chosen.count(often)} of {len(chosen)}) |"
        )
    found, chosen = held_out(gain.mean(axis=0))
    often = max(set(chosen), key=chosen.count)
    lines.append(
        f"| **mean of all, one setting** | {taus[:, 0].mean():.3f} | "
        f"{interval(gain.mean(axis=0)[0])} | {interval(found)} | {shown(SETTINGS[often])} "
        f"({chosen.count(often)} of {len(chosen)}) |"
    )
    single = ["| constants | mean change over metrics | data sets better |", "|" + " --- |" * 3]
    standard = SETTINGS[0]
    for s, setting in enumerate(SETTINGS):
        if sum(a != b for a, b in zip(setting, standard, strict=True)) <= 1:
            change = gain.mean(axis=0)[s]
            single.append(f"| {shown(setting)} | {interval(change)} | {(change > 0).sum()} of 8 |")
    per_set = ["| data set | " + " | ".join(METRICS) + " |", "|" + " --- |" * (len(METRICS) + 1)]
    for d, name in enumerate(TARGETS):
        cells = (f"{taus[m, 0, d]:.2f} → {taus[m, 1, d]:.2f}" for m in range(len(METRICS)))
        per_set.append(f"| {name} | " + " | ".join(cells) + " |")
    left = energies.mean(axis=0)
    page = [
        "# PED over its constants",
        f"Made by `benchmarks/ped.py` on {datetime.now(UTC).date()}, 2 cores, no GPU.",
        (__doc__ or "").split("\n\n")[2].strip(),
        "## With and without the data set judged",
        "\n".join(lines),
        "## One constant at a time",
        "\n".join(single),
        "## Per data set, the authors' constants",
        "\n".join(per_set),
        "## How the motion goes",
        f"Of {len(energies)} embeddings, {100 * stopped[:, 2].mean():.0f} % have no classes that "
        f"overlap. Where they do, potential energy after each of six steps is "
        f"{', '.join(f'{x:.3f}' for x in left[1:])} of that at the start, on average. "
        f"{100 * stopped[:, 0].mean():.0f} % of the classes meet the exit at once: their second "
        f"step is no longer than half of the first; {100 * stopped[:, 1].mean():.0f} % never move.",
    ]
    (HERE / "results" / "ped.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print("\n".join(page))


if __name__ == "__main__":
    features()
    report()
