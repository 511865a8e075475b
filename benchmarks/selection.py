"""Does `select` find the best encoder, and at what share of the cost of fine-tuning them all?

    python benchmarks/selection.py run --sets usps,mnist     # goes on after a kill
    python benchmarks/selection.py report                  # the table
    python benchmarks/selection.py schedules               # what a paused run foretells

The truth is that of benchmarks/agreement.py: the bundled zoo on real data sets of ../shared/data,
four pairs of hyper-parameters and two more seeds of 12 epochs each. `select` sees the same images,
the same learning rates and as many epochs, and of the test part only what it measures its winner
on. With `--expected` it begins with what `rank --all` expects of each encoder, learned without
anything published about the set (the folder is that of benchmarks/choice.py). `schedules` compares
runs that are paused on their way with runs that anneal before each pause, on other data sets; what
`select` assumes of gains is taken from it.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import agreement
import choice
from transferscope.results import Selection
from transferscope.training import select

HERE = Path(__file__).parent
EPOCHS, RUNS = 12, 6  # of the truth: four pairs, and two further seeds of the best one


def run(folder: Path, sets: list[str], seed: int, measured: Path | None) -> None:
    """Select on each set of which no result is there yet."""
    import torch

    torch.set_num_threads(1)
    for name in sets:
        place = folder / name / f"seed{seed}{'' if measured is None else '-expected'}"
        result = place / "result.json"
        if result.exists():
            continue
        train, test = agreement.target(name)
        found = select(
            train,
            agreement.encoders_for(name),
            out=place,
            test=test,
            expected=None if measured is None else expected_of(name, measured),
            learning_rates=(1e-3, 4e-3),
            weight_decay=1e-3,
            epochs=EPOCHS,
            seed=seed,
            report=lambda so_far: print(so_far.headline, flush=True),
        )
        result.write_text(found.to_json(), encoding="utf-8")
        print(f"{name}: {found.headline}", flush=True)


def expected_of(name: str, folder: Path) -> dict[str, tuple[float, float]]:
    """What `rank --all` expects of each encoder when nothing is published about the set."""
    case = choice.own_case(folder, name)
    foreseen = choice.draws(case, range(len(case.encoders)))
    pairs = zip(foreseen.mean(axis=0).tolist(), foreseen.std(axis=0).tolist(), strict=True)
    return dict(zip(case.encoders, pairs, strict=True))


#: Epochs of each cosine: one that is paused at 3 and 6, and three that end there.
SCHEDULES = {"paused": (12,), "annealed": (3, 3, 6)}
STUDIED = ("cifar10_32px", "flower_photos", "fashion_mnist", "sign_digits")


def schedules(folder: Path) -> None:
    """Fine-tune pairs of encoder and data set in random order on both schedules."""
    import torch

    from transferscope.training import _descent, finetune

    torch.set_num_threads(1)
    plain, place = _descent._schedule, folder / "schedules.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    lines = place.read_text(encoding="utf-8").splitlines() if place.exists() else []
    done = {tuple(json.loads(line)["key"]) for line in lines}
    pairs = [(name, encoder) for name in STUDIED for encoder in agreement.encoders_for(name)]
    random.Random(1).shuffle(pairs)
    for name, encoder in pairs:
        for title, cycles in SCHEDULES.items():
            if (name, encoder, title) in done:
                continue
            _descent._schedule = lambda p, c=cycles: in_cycles(plain, c, p)
            with tempfile.TemporaryDirectory() as out:
                found = finetune(
                    encoder,
                    *agreement.target(name),
                    learning_rates=(1e-3,),
                    weight_decays=(1e-3,),
                    n_seeds=1,
                    epochs=EPOCHS,
                    patience=None,
                    out=out,
                )
                with next(Path(out).glob("*/log.csv")).open(encoding="utf-8") as file:
                    validation = [float(row["validation"]) for row in csv.DictReader(file)]
            record = {"key": (name, encoder, title), "validation": validation, "test": found.value}
            with place.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    print(foretold([json.loads(line) for line in place.read_text("utf-8").splitlines()]))


def in_cycles(plain: Callable[[float], float], cycles: Sequence[int], progress: float) -> float:
    """The factor of the learning rate where one schedule follows the other."""
    at = progress * sum(cycles)
    for length in cycles:
        if at < length:
            return plain(at / length)
        at -= length
    return 0.0


def foretold(records: list[dict[str, Any]]) -> str:
    """How well accuracies at each pause go with the truth, and what is gained after it."""
    by_key = {tuple(record["key"]): record for record in records}
    pairs = [k[:2] for k in by_key if all((*k[:2], title) in by_key for title in SCHEDULES)]
    pairs = list(dict.fromkeys(pairs))
    known = np.array([truth()[name][encoder][0] for name, encoder in pairs])
    sets = np.array([name for name, _ in pairs])
    lines = [
        f"{len(pairs)} pairs of encoder and data set.\n",
        "| schedule | epochs | correlation with the truth | test accuracy at the end |",
        "| --- | --- | --- | --- |",
    ]
    gains = [
        "\n| schedule | from epoch | to | data set | encoders | share of the error lost | its sd |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title in SCHEDULES:
        runs = [by_key[*pair, title] for pair in pairs]
        best = {e: np.array([max(r["validation"][:e]) for r in runs]) for e in (1, 3, 6, EPOCHS)}
        test = np.mean([run["test"] for run in runs])
        for epochs, values in best.items():
            found = np.corrcoef(centred(values, sets), centred(known, sets))[0, 1]
            end = f"{100 * test:.2f}" if epochs == EPOCHS else ""
            lines.append(f"| {title} | {epochs} | {found:.3f} | {end} |")
        for first, last in ((3, 6), (6, EPOCHS)):
            for name in sorted(set(sets)):
                before, after = (best[e][sets == name] for e in (first, last))
                error = 1 - before
                share = ((after - before) @ error) / (error @ error)
                apart = after - before - share * error
                sd = np.sqrt(np.mean(apart**2) / np.mean(error**2))
                gains.append(
                    f"| {title} | {first} | {last} | {name} | {len(before)} | {share:.3f} "
                    f"| {sd:.3f} |"
                )
    return "\n".join([*lines, *gains])


def centred(values: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Values less the mean of their data set."""
    return values - np.array([values[sets == name].mean() for name in sets])


def truth() -> dict[str, dict[str, tuple[float, float]]]:
    """Accuracy and spread over three seeds per data set and encoder."""
    found: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    with (HERE / "results" / "agreement_accuracy.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["dataset"]][row["encoder"]] = float(row["accuracy"]), float(row["spread"])
    return found


def share_of_cost(found: Selection) -> tuple[float, float]:
    """Epochs and seconds as shares of those of the truth, each encoder at its own pace here."""
    epochs: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    reached: dict[tuple[str, float, int], int] = {}
    for trial in found.trials:
        run_of = trial.encoder, trial.learning_rate, trial.seed
        epochs[trial.encoder] += trial.epochs - reached.get(run_of, 0)
        reached[run_of] = trial.epochs
        seconds[trial.encoder] += trial.seconds
    whole = EPOCHS * RUNS
    pace = sum(seconds[name] / epochs[name] * whole for name in epochs)
    return sum(epochs.values()) / (whole * len(epochs)), sum(seconds.values()) / pace


def chance_regret(row: dict[str, tuple[float, float]], seed: int = 0) -> float:
    """Points that choosing by one seed of a finished truth loses, in the mean."""
    mean, spread = np.array(list(row.values())).T
    rng = np.random.default_rng(seed)
    draws = mean + spread * rng.standard_normal((10_000, len(mean)))
    return 100 * float((mean.max() - mean[draws.argmax(axis=1)]).mean())


def report(folder: Path) -> str:
    """The table."""
    lines = [
        "| set | expected | encoders | taken | its truth | best truth | regret, points "
        "| one seed of all | said | measured (95 %) | epochs | cost | seconds |",
        "|" + " --- |" * 13,
    ]
    known = truth()
    for title, run_name in (("nothing", "seed0"), ("by rank", "seed0-expected")):
        rows = []
        for name in agreement.TARGETS:
            result = folder / name / run_name / "result.json"
            if not result.exists():
                continue
            found = Selection.from_json(result.read_text(encoding="utf-8"))
            row = known[name]
            best = max(row, key=lambda encoder: row[encoder][0])
            assert found.winner is not None
            assert found.value is not None
            assert found.low is not None
            assert found.high is not None
            regret = 100 * (row[best][0] - row[found.winner][0])
            epochs, cost = share_of_cost(found)
            said = found.candidates[0].expected_regret or 0.0
            rows.append((regret, chance_regret(row), 100 * said, epochs, cost, found.seconds))
            lines.append(
                f"| {name} | {title} | {len(found.candidates)} "
                f"| {found.winner} | {100 * row[found.winner][0]:.1f} "
                f"| {best} {100 * row[best][0]:.1f} ± {100 * row[best][1]:.1f} | {regret:.2f} "
                f"| {rows[-1][1]:.2f} | {100 * said:.2f} | {100 * found.value:.1f} "
                f"({100 * found.low:.1f} to {100 * found.high:.1f}) | {epochs:.0%} | {cost:.0%} "
                f"| {found.seconds:.0f} |"
            )
        if rows:
            mean = np.mean(rows, axis=0)
            lines.append(
                f"| **mean of {len(rows)}** | {title} | | | | | **{mean[0]:.2f}** | {mean[1]:.2f} "
                f"| {mean[2]:.2f} | | {mean[3]:.0%} | {mean[4]:.0%} | {mean[5]:.0f} |"
            )
    lines.append("")
    lines.append(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, one thread of a busy machine of two "
        "cores."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["run", "report", "schedules"])
    parser.add_argument("--folder", type=Path, default=Path("select_runs"))
    parser.add_argument("--sets", default="hymenoptera,caltech101_c43,usps,mnist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--expected", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.stage == "run":
        sets = arguments.sets.split(",")
        run(arguments.folder, sets, arguments.seed, arguments.expected)
    elif arguments.stage == "schedules":
        schedules(arguments.folder)
    else:
        print(report(arguments.folder))


if __name__ == "__main__":
    main()
