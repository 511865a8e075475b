"""Measures of agreement, literally: loops over encoders."""

from __future__ import annotations

import math


def kendall_tau_b(x, y):
    above = of_x = of_y = 0
    for i in range(len(x)):
        for j in range(i):
            a, b = (int(v[i] > v[j]) - int(v[i] < v[j]) for v in (x, y))
            above, of_x, of_y = above + a * b, of_x + abs(a), of_y + abs(b)
    return above / math.sqrt(of_x * of_y)


def weighted_pearson(scores, accuracy):
    """Weights 1/rank by accuracy; equal accuracies share their mean rank."""
    weights = []
    for a in accuracy:
        better, same = sum(b > a for b in accuracy), sum(b == a for b in accuracy)
        weights.append(1 / (better + (same + 1) / 2))
    total = sum(weights)

    def mean(values):
        return sum(w * v for w, v in zip(weights, values, strict=True)) / total

    ms, ma = mean(scores), mean(accuracy)

    def covariance(x, mx, y, my):
        return mean([(u - mx) * (v - my) for u, v in zip(x, y, strict=True)])

    return covariance(scores, ms, accuracy, ma) / math.sqrt(
        covariance(scores, ms, scores, ms) * covariance(accuracy, ma, accuracy, ma)
    )


def best_of_top(scores, accuracy, k):
    """Best accuracy of the k highest scores; of equal scores the less accurate come first."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], accuracy[i]))
    return max(accuracy[i] for i in order[:k])


def sign_flip_p(differences):
    """Two-sided, all flips."""
    n, observed, reached = len(differences), abs(sum(differences)), 0
    for code in range(2**n):
        total = sum(d if code >> i & 1 else -d for i, d in enumerate(differences))
        reached += abs(total) >= observed - 1e-12
    return reached / 2**n
