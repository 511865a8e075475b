"""Scores of features, and how PED moved the classes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transferscope.errors import SkippedMetricError, UnknownNameError
from transferscope.results._record import Part, Record

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Score(Part):
    """One metric of one set of features.

    Attributes
    ----------
    value : float
        Higher = expected to transfer better.
    warnings : tuple of str
        What the value must be read with.
    seconds : float
        Wall time, including what was computed for it first and then shared.
    low, high : float or None
        95 % interval over resampled data sets; None where it was not asked for.
    """

    value: float
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a score must be finite, got {self.value}.")


@dataclass(frozen=True, repr=False)
class ScoreTable(Record):
    """Scores of one set of features by several metrics.

    Attributes
    ----------
    n_samples, n_features, n_classes : int
        `n_classes` is 0 for regression and multi-label targets.
    scores : dict of str to Score
    skipped : dict of str to str
        Metrics that could not be computed, with the reason.
    """

    n_samples: int
    n_features: int
    n_classes: int
    scores: dict[str, Score]
    skipped: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, metric: str) -> float:
        """The value of a metric.

        Raises
        ------
        SkippedMetricError
            If it was asked for and could not be computed, with the reason.
        UnknownNameError
            If it was not asked for.
        """
        if metric in self.scores:
            return self.scores[metric].value
        if metric in self.skipped:
            raise SkippedMetricError(f"{metric} has no score: {self.skipped[metric]}")
        names = [*self.scores, *self.skipped]
        near = difflib.get_close_matches(metric, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(
            f"the table has no metric {metric!r}, only {', '.join(names)}.{hint}"
        )

    def __contains__(self, metric: object) -> bool:
        """Whether there is a score by this metric."""
        return metric in self.scores

    def __iter__(self) -> Iterator[str]:
        """Names of the metrics that have a score."""
        return iter(self.scores)

    def __len__(self) -> int:
        """Number of scores."""
        return len(self.scores)

    @property
    def headline(self) -> str:
        """What was scored."""
        classes = f", {self.n_classes} classes" if self.n_classes else ""
        return f"{self.n_samples:,} samples, {self.n_features:,} features{classes}."

    def to_frame(self) -> pd.DataFrame:
        """One row per metric asked for: value, seconds, warnings, and why it was skipped.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        names = [*self.scores, *self.skipped]
        rows: list[tuple[float, float, str | None, str | None]] = [
            (s.value, s.seconds, "; ".join(s.warnings), None) for s in self.scores.values()
        ]
        rows += [(math.nan, math.nan, None, reason) for reason in self.skipped.values()]
        kinds = {"value": "float64", "seconds": "float64"}
        kinds |= {"warnings": "string", "skipped": "string"}
        frame = pd.DataFrame(rows, columns=list(kinds), index=pd.Index(names, name="metric"))
        return frame.astype(kinds)


@dataclass(frozen=True, repr=False)
class PedTrace(Record):
    """How potential-energy decline moved the classes of one set of features.

    Attributes
    ----------
    class_names : tuple of str
    before, after : tuple of (float, float)
        Class means in the plane in which they lie furthest apart before they move, in the units of
        the features.
    radii : tuple of float
        Root mean square distance of each class's samples from their mean, within that plane.
    explained : float
        Share of the spread of the class means that the plane shows.
    energies : tuple of float
        Potential energy before the first step and after each.
    displacement : float
        Frobenius norm of the displacement of all samples.
    warnings : tuple of str
    """

    class_names: tuple[str, ...]
    before: tuple[tuple[float, float], ...]
    after: tuple[tuple[float, float], ...]
    radii: tuple[float, ...]
    explained: float
    energies: tuple[float, ...]
    displacement: float
    warnings: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """How the potential energy declined."""
        first, last = self.energies[0], self.energies[-1]
        return f"{len(self.class_names)} classes; potential energy {first:.4g} to {last:.4g}."

    def to_frame(self) -> pd.DataFrame:
        """One row per class: where it was, where it went.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        rows = [(*b, *a, r) for b, a, r in zip(self.before, self.after, self.radii, strict=True)]
        columns = ["x_before", "y_before", "x_after", "y_after", "radius"]
        return pd.DataFrame(rows, index=pd.Index(self.class_names, name="class"), columns=columns)


def score_digits(scores: Iterable[Score | None]) -> int:
    """Decimals at which one metric's scores are shown: two digits of the typical interval.

    Parameters
    ----------
    scores : iterable of Score or None

    Returns
    -------
    int
    """
    halves = sorted(
        (s.high - s.low) / 2
        for s in scores
        if s is not None and s.low is not None and s.high is not None and s.high > s.low
    )
    if not halves:
        return 3
    return min(6, max(0, 1 - math.floor(math.log10(halves[len(halves) // 2]))))


def format_score(score: Score | None, digits: int) -> str:
    """A score for people: its value and half the width of its interval.

    Parameters
    ----------
    score : Score or None
    digits : int
        Decimals.

    Returns
    -------
    str
    """
    if score is None:
        return "-"
    if score.low is None or score.high is None:
        return f"{score.value:z.{digits}f}"
    return f"{score.value:z.{digits}f} ± {(score.high - score.low) / 2:.{digits}f}"
