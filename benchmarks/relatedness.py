"""The blockwise bound beside the authors' stochastic procedure, and a large case.

    python benchmarks/relatedness.py [--seeds 3] [--iterations 1001]
    python benchmarks/relatedness.py --seeds 0     # the large case, by itself for its memory

Both methods get the same features and the same trained head; its training, that of the target's
head and the evaluation are left out of the times. Two figures are given for the authors' procedure:
its own (distances in the target's space; the same tau) and ours, evaluated for the transformation
it found. The smaller of them is what ours is held against.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from relatedness_adam import learn_by_adam
from transferscope.relatedness import _bound, task_relatedness
from transferscope.relatedness._head import train_head
from transferscope.relatedness._sides import match_classes, prepare
from transferscope.relatedness._transform import label_map, learn_transform
from transferscope.relatedness._transport import couple, make_blocks


def task(seed, n, d, n_classes, mix=None, dtype=np.float64):
    """Gaussian classes of overlapping means; the same means for every seed."""
    rng = np.random.default_rng(seed)
    means = 3 * np.random.default_rng(1).standard_normal((n_classes, d)) / np.sqrt(d)
    labels = np.arange(n) % n_classes
    features = (means[labels] + rng.standard_normal((n, d))).astype(dtype)
    return features if mix is None else features @ mix.astype(dtype), labels


def authors_figure(head, learned, reference, target):
    """Reference loss + label mismatch + τ E‖Az + b − x‖, class by class, on held-out samples."""
    prior = np.bincount(target.labels, minlength=len(learned.shares)) / len(target.labels)
    label_matrix, mass = label_map(learned.shares, prior)
    log_p = head.log_probabilities(reference.features)
    rows = np.arange(len(reference.labels))
    n = np.bincount(reference.labels)
    loss = mass @ (np.bincount(reference.labels, -log_p[rows, reference.labels]) / n)
    joint = prior[:, None] * learned.shares
    mismatch = -np.sum(joint * np.log(np.where(joint > 0, label_matrix, 1)))
    a = np.linalg.inv(learned.matrix)
    moved = (reference.features - learned.offset) @ a.T
    blocks = make_blocks(target.labels, reference.labels, learned.shares, None)
    cost, _ = couple(target.features, moved, blocks)
    return loss + mismatch + head.steepness * cost


def side_by_side(seeds, iterations):
    print(
        "| setting | seed | authors' own figure | their map, our evaluation | ours | ratio | "
        "their seconds | ours | times as fast |"
    )
    print("|" + " --- |" * 9)
    d = 200
    for seed in range(seeds):
        rng = np.random.default_rng(100 + seed)
        mix = np.eye(d) + 0.3 * rng.standard_normal((d, d)) / np.sqrt(d)
        z, y = task(2 * seed + 10, 6000, d, 10)
        x, t = task(2 * seed + 11, 5000, d, 10, mix)
        reference = prepare(z, y, None, None, "reference_", None, seed, [])
        target = prepare(x, t, None, None, "", reference, seed + 1, [])
        _, shares = match_classes(reference, target, "transport", None, seed)
        head = train_head(*reference.learn, 10, 0.2, reference.judge)
        for setting in ("learned_a", "learned_all"):
            everything = setting == "learned_all"
            start = time.perf_counter()
            theirs = learn_by_adam(
                reference.learn,
                target.learn,
                head,
                shares,
                learn_labels=everything,
                seed=seed,
                iterations=iterations,
            )
            middle = time.perf_counter()
            ours = learn_transform(
                reference.learn,
                target.learn,
                reference.judge,
                target.judge,
                head,
                shares,
                learn_shares=everything,
                learn_assignment=everything,
                relabel=None,
                seed=seed,
            )
            slow, fast = middle - start, time.perf_counter() - middle
            held = reference.held_out, target.held_out
            own = authors_figure(head, theirs, *held)
            values = [
                _bound.evaluate(head, one, *held, target.learn.labels).values()["bound"]
                for one in (theirs, ours)
            ]
            print(
                f"| {setting} | {seed} | {own:.3f} | {values[0]:.3f} | {values[1]:.3f} | "
                f"{values[1] / min(own, values[0]):.3f} | {slow:.1f} | {fast:.2f} | "
                f"{slow / fast:.0f} |",
                flush=True,
            )


def large():
    d, n, n_classes = 2048, 20_000, 100
    rng = np.random.default_rng(0)
    mix = np.eye(d) + 0.3 * rng.standard_normal((d, d)) / np.sqrt(d)
    z, y = task(0, n, d, n_classes, dtype=np.float32)
    x, t = task(1, n, d, n_classes, mix, dtype=np.float32)
    start = time.perf_counter()
    result = task_relatedness(x, t, reference_features=z, reference_labels=y)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"\nd = {d}, {n_classes} + {n_classes} classes, {n} + {n} samples, float32: "
        f"{seconds:.1f} s, peak {peak:.2f} GB with the features; bound {result.bound:.3f}, "
        f"transformed head {result.transformed_loss:.3f}, target head "
        f"{result.target_loss:.3f}, {len(result.trace)} rounds"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1001)
    given = parser.parse_args()
    if not given.seeds:
        large()
    else:
        side_by_side(given.seeds, given.iterations)
