"""The linear probe against scikit-learn: equal accuracy at equal penalty, and how much faster.

    python benchmarks/probe.py [--samples 10000] [--features 2048] [--classes 100]

Both fit the whole grid on the same features, in float32, one after the other in one process.
scikit-learn starts each penalty from the solution of the one before (`warm_start`), too; its
tolerance is set so that it converges: at its default it stops near its start for weak penalties.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from transferscope.training import STRENGTHS, fit_logistic


def features(n: int, d: int, n_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative features with a decaying spectrum, as pooled ReLU layers give them."""
    fixed = np.random.default_rng(0)
    mixing = fixed.standard_normal((256, d)).astype(np.float32) / 16
    scales = (np.arange(1, 257) ** -0.5).astype(np.float32)
    centres = fixed.standard_normal((n_classes, 256)).astype(np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    latent = 0.35 * centres[labels] + 1.5 * rng.standard_normal((n, 256), dtype=np.float32)
    noise = 0.1 * rng.standard_normal((n, d), dtype=np.float32)
    return np.maximum(latent * scales @ mixing + noise, 0), labels


def objective(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, c: float
) -> float:
    """What both minimise, per sample."""
    logits = x @ weight.T + bias
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    return float(np.mean(losses, dtype=np.float64) + np.sum(weight**2) / (2 * c * len(y)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=100)
    sizes = parser.parse_args()
    train, labels = features(sizes.samples, sizes.features, sizes.classes, 1)
    test, truth = features(4000, sizes.features, sizes.classes, 2)
    fit_logistic(train[:200], labels[:200], [1.0])  # loads torch

    start = time.perf_counter()
    fits = fit_logistic(train, labels, STRENGTHS)
    ours = time.perf_counter() - start
    accuracies = [np.mean((test @ f.weight.T + f.bias).argmax(axis=1) == truth) for f in fits]

    mean = train.mean(axis=0)
    size = np.sqrt(np.mean((train - mean) ** 2))
    scaled, asked = (train - mean) / size, (test - mean) / size
    print(f"n = {sizes.samples}, d = {sizes.features}, {sizes.classes} classes, float32")
    print(
        "| C | scikit-learn, accuracy | seconds | ours, accuracy | difference, points "
        "| loss, scikit-learn | ours |"
    )
    print("|" + " --- |" * 7)
    theirs, worst = 0.0, 0.0
    model = LogisticRegression(max_iter=5000, warm_start=True, tol=1e-6)
    for strength, accuracy, fit in zip(STRENGTHS, accuracies, fits, strict=True):
        model.set_params(C=strength)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            model.fit(scaled, labels)
        seconds = time.perf_counter() - start
        theirs += seconds
        reference = float(np.mean(model.predict(asked) == truth))
        difference = 100 * (accuracy - reference)
        worst = max(worst, abs(difference))
        losses = [
            objective(scaled, labels, model.coef_, model.intercept_, strength),
            objective(scaled, labels, fit.weight * size, fit.bias + fit.weight @ mean, strength),
        ]
        print(
            f"| {strength:g} | {reference:.4f} | {seconds:.1f} | {accuracy:.4f} "
            f"| {difference:+.2f} | {losses[0]:.5f} | {losses[1]:.5f} |"
        )
    print(f"\nthe grid: scikit-learn {theirs:.1f} s, ours {ours:.1f} s, ratio {theirs / ours:.1f}")
    print(f"largest difference in accuracy: {worst:.2f} points (bar 0.2; ratio bar 5)")


if __name__ == "__main__":
    main()
