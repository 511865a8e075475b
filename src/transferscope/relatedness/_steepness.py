"""How steep the reference head may be, from the reference alone; and what sampling alone costs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from transferscope.numerics import arrays
from transferscope.numerics.sampling import stratified_rows
from transferscope.relatedness._head import LinearHead, Numbers, mean_loss, train_head
from transferscope.relatedness._sides import PreparedTask
from transferscope.relatedness._transform import Side
from transferscope.relatedness._transport import Ids, couple, make_blocks
from transferscope.results import SteepnessPoint

#: Steepness times the root of the number of features: the authors' 0.2 for about a hundred features
#: and 0.04 for 2048, where they take 0.02.
BY_WIDTH = 2.0
#: The path: multiples of that value.
MULTIPLES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
#: The bound of the reference for a second sample of itself exceeds its loss by this share at most.
MOST_EXCESS = 0.5
#: Classes and samples that the path is walked with.
PATH_CLASSES, PATH_SAMPLES = 50, 2_000


class Path(NamedTuple):
    """The values that were tried, and the one that was chosen."""

    tau: float
    points: tuple[SteepnessPoint, ...]


def steepness_by_width(d: int) -> float:
    """2/√d: distances of standardised features grow with √d."""
    return float(BY_WIDTH / d**0.5)


def choose_steepness(reference: PreparedTask, seed: int) -> Path:
    """The steepest head under which the reference's own bound stays near its own loss.

    For a second sample of the reference the bound is its loss plus τ times the mean distance of two
    samples of it, coupled class by class. Both terms are taken on samples that learn or judge:
    those held out are not looked at. The excess over the loss grows with τ from zero; the value at
    which it is `MOST_EXCESS` of the loss is interpolated, and is one of the path's ends where all
    values are below or above.
    """
    rng = np.random.default_rng(seed)
    learn, judge = _reduced(reference.learn, reference.judge, len(reference.names), rng)
    n_classes = int(judge.labels.max()) + 1
    second = _second_sample(learn, judge.labels, np.eye(n_classes), rng)
    blocks = make_blocks(second.labels, judge.labels, np.eye(n_classes), None)
    distance, _ = couple(second.features, judge.features, blocks)
    unit = steepness_by_width(len(reference.mean))
    points: list[SteepnessPoint] = []
    head: LinearHead | None = None
    for multiple in MULTIPLES:
        tau = multiple * unit
        head = train_head(*learn, n_classes, tau, judge, start=head)
        points.append(SteepnessPoint(tau, mean_loss(head, *judge), tau * distance))
        if len(points) > 2 and points[-2].excess > MOST_EXCESS:
            break
    excess = [point.excess for point in points]
    above = np.flatnonzero(np.array(excess) > MOST_EXCESS)
    if not above.size:
        return Path(points[-1].tau, tuple(points))
    i = int(above[0])
    if i == 0:
        return Path(points[0].tau, tuple(points))
    part = (MOST_EXCESS - excess[i - 1]) / (excess[i] - excess[i - 1])
    low, high = points[i - 1].tau, points[i].tau
    # three digits, so that rounding of features makes no other steepness of it
    return Path(float(f"{low * (high / low) ** part:.3g}"), tuple(points))


def noise_floor(
    reference: PreparedTask, shares: Numbers, target_labels: Ids, seed: int
) -> float | None:
    """Mean distance between two samples of the reference that are as large as those held out.

    The first is what is held out of the reference; the second is drawn from the rest of it, with as
    many samples of each class as the target's held-out samples have of the class that it stands for
    (all where there are fewer).

    Returns
    -------
    float or None
        In standard deviations of the reference; None where the rest lacks a class.
    """
    xp = arrays.namespace(reference.learn.features)
    rest = Side(
        xp.concat([reference.learn.features, reference.judge.features], axis=0),
        np.concatenate([reference.learn.labels, reference.judge.labels]),
    )
    second = _second_sample(rest, target_labels, shares, np.random.default_rng(seed))
    if not len(second.labels):
        return None
    held_out = reference.held_out
    blocks = make_blocks(second.labels, held_out.labels, shares, None)
    return couple(second.features, held_out.features, blocks)[0]


def _second_sample(side: Side, labels: Ids, shares: Numbers, rng: np.random.Generator) -> Side:
    """Samples in the place of `labels`, each of a class of the mixture that stands for its own."""
    rows, ids = [], []
    for k, size in enumerate(np.bincount(labels, minlength=len(shares))):
        members = np.flatnonzero(shares[k, side.labels] > 0)
        if not size or not len(members):
            continue
        counts = np.bincount(side.labels[members], minlength=shares.shape[1])
        weights = (shares[k] / np.maximum(counts, 1))[side.labels[members]]
        drawn = rng.choice(
            members, min(int(size), len(members)), replace=False, p=weights / weights.sum()
        )
        rows.append(drawn)
        ids.append(np.full(len(drawn), k, np.int64))
    if not rows:
        return Side(side.features[:0, :], np.zeros(0, np.int64))
    xp, chosen = arrays.namespace(side.features), np.concatenate(rows)
    place = arrays.from_numpy(chosen, side.features)
    return Side(xp.take(side.features, place, axis=0), np.concatenate(ids))


def _reduced(
    learn: Side, judge: Side, n_classes: int, rng: np.random.Generator
) -> tuple[Side, Side]:
    """At most so many classes and samples, numbered anew."""
    if n_classes > PATH_CLASSES:
        chosen = np.sort(rng.permutation(n_classes)[:PATH_CLASSES])
    else:
        chosen = np.arange(n_classes)

    def some(side: Side, limit: int) -> Side:
        inside = np.flatnonzero(np.isin(side.labels, chosen))
        ids = np.searchsorted(chosen, side.labels[inside])
        rows = stratified_rows(ids, len(inside), limit, 0)
        xp = arrays.namespace(side.features)
        place = arrays.from_numpy(inside[rows], side.features)
        return Side(xp.take(side.features, place, axis=0), ids[rows])

    return some(learn, PATH_SAMPLES), some(judge, PATH_SAMPLES)
