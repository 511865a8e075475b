"""From draws of the accuracies after fine-tuning to a recommendation, and what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from transferscope.numerics.arrays import NumpyArray
from transferscope.results import CHEAPER, EncoderResult, ExpectedAccuracy

#: What cheap may mean: the fewest seconds, parameters or features, or a permissive licence.
PREFERENCES = ("speed", "size", "dimension", "licence")
#: Tails of a 90 % interval, in percent.
TAILS = (5, 95)


@dataclass(frozen=True)
class Candidate:
    """One encoder to choose from: what it costs, and what is known of it beside the draws.

    Attributes
    ----------
    result : EncoderResult
        With scores where it was measured.
    probe : float or None
        Accuracy of its probe.
    n_probed, n_results : int
        Samples of the probe; published results.
    seconds_per_sample : float or None
    permissive : bool
        Whether its licence allows any use, as far as it is known.
    before : float
        Accuracy that was expected before anything was measured.
    """

    result: EncoderResult
    probe: float | None
    n_probed: int
    n_results: int
    seconds_per_sample: float | None
    permissive: bool
    before: float

    def cost(self, prefer: str) -> tuple[float, float]:
        """What it costs, to be compared: less is better; unknown is most."""
        seconds = self.seconds_per_sample or np.inf
        of = {
            "speed": (seconds, 0.0),
            "size": (float(self.result.n_parameters or np.inf), seconds),
            "dimension": (float(self.result.feature_dim or np.inf), seconds),
            "licence": (2.0 - self.permissive, seconds),
        }
        return of[prefer]


def judge(
    candidates: Sequence[Candidate], accuracies: NumpyArray, *, tolerance: float, prefer: str
) -> tuple[list[EncoderResult], EncoderResult, str]:
    """Order candidates by expected accuracy; recommend the cheapest of those that are as good.

    Parameters
    ----------
    candidates : sequence of Candidate
        n of them, one or more measured.
    accuracies : (draws, n) array
        Joint draws of their accuracies after fine-tuning.
    tolerance : float
        By how much less an encoder is expected to reach than the best expected one, to be as good.
    prefer : str
        One of `PREFERENCES`.

    Returns
    -------
    rows : list of EncoderResult
        The highest expected accuracy first.
    recommended : EncoderResult
        One of these, and measured.
    reason : str
        Why, with numbers.
    """
    mean, top = accuracies.mean(axis=0), accuracies.max(axis=1)
    first = accuracies == top[:, None]
    p_best = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    group = mean >= mean.max() - tolerance
    chosen = _choose(candidates, mean, group, prefer)
    behind = accuracies[:, [chosen]] - accuracies
    low, high = np.percentile(accuracies, TAILS, axis=0)
    apart = (accuracies - accuracies.mean(axis=1, keepdims=True)).std(axis=0)
    loss_low, loss_high = np.percentile(behind, TAILS, axis=0)
    order = sorted(
        range(len(mean)), key=lambda i: (-mean[i], -p_best[i], candidates[i].result.encoder)
    )
    rows: list[EncoderResult] = []
    for place, i in enumerate(order):
        one = candidates[i]
        expected = ExpectedAccuracy(
            mean=float(mean[i]),
            low=float(low[i]),
            high=float(high[i]),
            sd=float(apart[i]),
            loss=float(behind[:, i].mean()),
            loss_low=float(loss_low[i]),
            loss_high=float(loss_high[i]),
            regret=float((top - accuracies[:, i]).mean()),
            probe=one.probe,
            n_probed=one.n_probed,
            loss_before=candidates[chosen].before - one.before,
            n_results=one.n_results,
            seconds_per_sample=one.seconds_per_sample,
        )
        equal = place > 0 and mean[i] == mean[order[place - 1]]
        rows.append(
            replace(
                one.result,
                rank=rows[-1].rank if equal else place + 1,
                p_best=float(p_best[i]),
                in_group=bool(group[i]),
                expected=expected,
            )
        )
    recommended = rows[order.index(chosen)]
    reason = _reason([candidates[i] for i in order], rows, order.index(chosen), prefer)
    return rows, recommended, reason


def _choose(
    candidates: Sequence[Candidate], mean: NumpyArray, group: NumpyArray, prefer: str
) -> int:
    """Of the measured ones of the group the cheapest; where none is, the best of the measured."""
    measured = np.array([one.probe is not None for one in candidates])
    best = int(np.where(measured, mean, -1.0).argmax())
    few = [int(i) for i in np.flatnonzero(group & measured)]
    if best not in few:
        return best
    cheapest = min(few, key=lambda i: (*candidates[i].cost(prefer), -mean[i]))
    return cheapest if _is_cheaper(candidates[cheapest], candidates[best], prefer) else best


def _is_cheaper(one: Candidate, other: Candidate, prefer: str) -> bool:
    """Whether it costs so much less that this is worth a mention."""
    return one.cost(prefer)[0] * CHEAPER <= other.cost(prefer)[0] < np.inf


def _reason(
    candidates: Sequence[Candidate], rows: Sequence[EncoderResult], chosen: int, prefer: str
) -> str:
    """The recommendation in a sentence or two, with numbers; rows are in order."""
    row = rows[chosen]
    assert row.expected is not None
    found = row.expected
    text = (
        f"Fine-tune {row.encoder}: {100 * found.mean:.1f} % expected "
        f"({100 * found.low:.1f} to {100 * found.high:.1f})"
    )
    others = [i for i, one in enumerate(candidates) if i != chosen and one.probe is not None]
    if not others:
        return f"{text}. No other candidate was measured."
    better = [i for i in others if i < chosen and _mean(rows[i]) > found.mean]
    if better:
        best = better[0]
        text += f". It is expected to lose {_points(rows, chosen, best)} to {rows[best].encoder}"
        text += f", and {_compared(candidates[chosen], candidates[best], prefer)}."
    else:
        second = others[0]
        text += f". The next, {rows[second].encoder}, is expected to lose {_points(rows, second)}"
        if _is_cheaper(candidates[second], candidates[chosen], prefer):
            return f"{text}, and {_compared(candidates[second], candidates[chosen], prefer)}."
        text += "."
    cheaper = [i for i in others if _is_cheaper(candidates[i], candidates[chosen], prefer)]
    if cheaper:
        next_one = cheaper[0]
        text += (
            f" The next cheaper, {rows[next_one].encoder}, is expected to lose "
            f"{_points(rows, next_one)}, and "
            f"{_compared(candidates[next_one], candidates[chosen], prefer)}."
        )
    return text


def _mean(row: EncoderResult) -> float:
    return row.expected.mean if row.expected is not None else 0.0


def _points(rows: Sequence[EncoderResult], i: int, against: int | None = None) -> str:
    """By how many points one encoder is expected to fall behind another, or the recommended."""
    one, other = rows[i].expected, None if against is None else rows[against].expected
    assert one is not None
    if other is None:
        return f"{_number(one.loss)} points ({_number(one.loss_low)} to {_number(one.loss_high)})"
    # losses are against the recommended one: turned round
    return (
        f"{_number(-other.loss)} points ({_number(-other.loss_high)} to {_number(-other.loss_low)})"
    )


def _number(share: float) -> str:
    return f"{100 * share:z.1f}"


def _compared(one: Candidate, other: Candidate, prefer: str) -> str:
    """By how much it is cheaper, in words."""
    if prefer == "licence":
        return "its licence allows any use"
    times = other.cost(prefer)[0] / one.cost(prefer)[0]
    if prefer == "speed":
        return f"runs {times:.1f} x as fast"
    return f"has {1 / times:.2f} of its {'parameters' if prefer == 'size' else 'features'}"
