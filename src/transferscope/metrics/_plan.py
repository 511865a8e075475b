"""From the names that were asked for to what has to be measured, and to the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transferscope.errors import InputError
from transferscope.metrics._combined import EncoderScores, combine
from transferscope.metrics._metric import Metric
from transferscope.metrics._ped import SUFFIX, applies_to, with_ped
from transferscope.metrics._table import METRICS, get_metric

#: What `rank` and `score` compute when nothing else is asked for: the quick metrics that agreed
#: best with fine-tuning, see benchmarks/results/agreement.md.
DEFAULT_METRICS = ("logme", "regularized_h_score", "linear_probe")


@dataclass(frozen=True)
class MetricPlan:
    """What was asked for, and what has to be measured of each encoder for it.

    Attributes
    ----------
    asked : tuple of Metric
        Each once, in the order asked for.
    measured : tuple of Metric
        The same with metrics that compare encoders replaced by their parts, each once.
    """

    asked: tuple[Metric, ...]
    measured: tuple[Metric, ...]

    def combine(self, encoders: Sequence[EncoderScores]) -> None:
        """Add the metrics that compare encoders, and drop parts that were not asked for.

        Parameters
        ----------
        encoders : sequence of EncoderScores
            With the scores of the metrics that were measured; changed in place.
        """
        for metric in self.asked:
            if metric.parts:
                combine(metric, encoders)
        for one in encoders:
            one.scores = {m.name: one.scores[m.name] for m in self.asked if m.name in one.scores}
            one.skipped = {m.name: one.skipped[m.name] for m in self.asked if m.name in one.skipped}


def plan_metrics(metrics: str | Sequence[str] = DEFAULT_METRICS) -> MetricPlan:
    """Find the metrics named, and what has to be measured for them.

    Parameters
    ----------
    metrics : str or sequence of str
        A name, several with commas between, or a sequence of these. Each may end in ``+ped``.
        ``"all"`` stands for the whole table, ``"all+ped"`` for that and every form after PED.

    Returns
    -------
    MetricPlan

    Raises
    ------
    UnknownNameError
        If there is no metric of a name.
    InputError
        If none is named, or one with ``+ped`` that PED does not apply to.
    """
    if not isinstance(metrics, str) and not (
        isinstance(metrics, Sequence) and all(isinstance(name, str) for name in metrics)
    ):
        raise InputError(f"metrics must be a name or several, got {metrics!r}. Pass 'logme,knn'.")
    listed = ",".join([metrics] if isinstance(metrics, str) else metrics)
    asked_for = [part.strip() for part in listed.split(",") if part.strip()]
    after_ped = [name + SUFFIX for name, metric in METRICS.items() if applies_to(metric)]
    groups = {"all": list(METRICS), "all" + SUFFIX: [*METRICS, *after_ped]}
    names = dict.fromkeys(single for name in asked_for for single in groups.get(name, [name]))
    if not names:
        raise InputError(f"no metric was named; choose from {', '.join(METRICS)}, or 'all'.")
    asked = tuple(resolve_metric(name) for name in names)
    measured = {
        one.name: one
        for metric in asked
        for one in (map(resolve_metric, metric.parts) if metric.parts else (metric,))
    }
    return MetricPlan(asked, tuple(measured.values()))


def resolve_metric(name: str) -> Metric:
    """The metric of this name.

    Parameters
    ----------
    name : str
        ``"logme"``, or ``"logme+ped"`` for its form after PED.

    Returns
    -------
    Metric

    Raises
    ------
    UnknownNameError
        If there is no metric of this name.
    InputError
        If PED does not apply to it.
    """
    if name.endswith(SUFFIX):
        return with_ped(get_metric(name.removesuffix(SUFFIX)))
    return get_metric(name)
