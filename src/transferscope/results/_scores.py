"""Scores of features, rankings of encoders, and how PED moved the classes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transferscope.errors import EncoderError, SkippedMetricError, UnknownNameError, first_few
from transferscope.results._record import Record

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Score:
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


@dataclass(frozen=True)
class ExpectedAccuracy:
    """What is expected of one encoder after fine-tuning on the data, and from where.

    Attributes
    ----------
    mean, low, high : float
        Expected accuracy after fine-tuning, a share, with a 90 % interval.
    sd : float
        Its standard deviation without what all candidates have in common.
    loss, loss_low, loss_high : float
        By how much less accuracy than the recommended encoder it is expected to reach, with a 90 %
        interval; negative where it is expected to reach more. What all encoders share, such as how
        hard the data are, does not count here.
    regret : float
        By how much it is expected to fall behind the best of the candidates, whichever that is.
    probe : float or None
        Leave-one-out accuracy of a ridge classifier on its features; None: it was not measured.
    n_probed : int
        Samples that the probe looked at.
    loss_before : float
        Its expected loss by published results alone, before anything was measured.
    n_results : int
        Published results of it.
    seconds_per_sample : float or None
        Of the forward pass: measured, or judged by published speeds and what was measured.
    """

    mean: float
    low: float
    high: float
    sd: float
    loss: float
    loss_low: float
    loss_high: float
    regret: float
    probe: float | None
    n_probed: int
    loss_before: float
    n_results: int
    seconds_per_sample: float | None


@dataclass(frozen=True)
class Verdict:
    """Which encoder to fine-tune, and how sure that is.

    Attributes
    ----------
    recommended : str
        The cheapest encoder of the group of the best.
    reason : str
        One sentence, with numbers.
    prefer : {"speed", "size", "dimension", "licence"}
        What cheap means.
    tolerance : float
        Encoders that are expected to lose no more accuracy than this against the best are one
        group.
    regret : float
        By how much the recommended encoder is expected to fall behind the best of the candidates.
    foreign : float
        Probability that published results say nothing about these data.
    n_candidates, n_measured : int
    stopped : {"all", "settled", "budget", "interrupted", "not yet"}
        Why no more were measured: all were, more would not have changed the choice, there was no
        time left, or somebody stopped it; or they still are.
    seconds : float
        What measuring took.
    notes : tuple of str
        What it must be read with.
    """

    recommended: str
    reason: str
    prefer: str
    tolerance: float
    regret: float
    foreign: float
    n_candidates: int
    n_measured: int
    stopped: str
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncoderResult:
    """One row of a ranking.

    Attributes
    ----------
    encoder : str
        Identifier.
    rank : int or None
        From 1; encoders that tie exactly share it. None when it failed.
    scores : dict of str to Score
    p_best : float or None
        Probability that no other candidate is better after fine-tuning; without a verdict, that it
        comes first by its scores, over resampled data sets.
    in_group : bool
        Whether it is one of the group of the best: expected to lose no more than the tolerance;
        without a verdict, whether its scores cannot be told from those of the first (95 %).
    expected : ExpectedAccuracy or None
        None without a verdict.
    n_parameters, feature_dim : int or None
    input_size : (int, int) or None
        Height and width in pixels.
    samples_per_second : float or None
        Of the forward pass, as measured when its features were extracted.
    skipped : dict of str to str
        Metrics that do not apply to it, with the reason.
    error : str or None
        Why it could not be ranked.
    layer : str or None
        The layer that the scores are of; None: the last, as the encoder pools it.
    layers : dict of str to dict of str to Score
        Scores of every layer that was measured, in order of depth, without intervals; empty where
        only one was.
    warnings : tuple of str
        What its features must be read with.
    """

    encoder: str
    rank: int | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    p_best: float | None = None
    in_group: bool = False
    expected: ExpectedAccuracy | None = None
    n_parameters: int | None = None
    feature_dim: int | None = None
    input_size: tuple[int, int] | None = None
    samples_per_second: float | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    layer: str | None = None
    layers: dict[str, dict[str, Score]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetSummary:
    """The facts of a data set that a ranking is about.

    Attributes
    ----------
    name : str
    split : str
        Which part of the source; ``"all"`` where the source has no parts.
    task : str
        ``"classification"``, ``"regression"`` or ``"multilabel"``.
    n_samples, n_classes : int
        `n_classes` is 0 for regression.
    n_skipped : int
        Unreadable samples that were left out.
    fingerprint : str
        Hex digest of samples, labels and class names.
    notes : tuple of str
        What was assumed or left out when the data set was read.
    """

    name: str
    split: str
    task: str
    n_samples: int
    n_classes: int
    n_skipped: int
    fingerprint: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Ranking(Record):
    """Encoders in the order in which they are expected to transfer to a data set.

    Attributes
    ----------
    dataset : DatasetSummary
    ranked_by : str
        ``"expected accuracy after fine-tuning"``; of regression and multi-label data, for which
        there is none, ``"consensus of logme, knn"`` (mean of the metrics' ranks) or the one metric.
    encoders : tuple of EncoderResult
        Best first, the failed ones last. Candidates that were not measured have no scores.
    advice : str
        What to do, in one or two sentences.
    seed : int
        Of the resampling and of the draws behind the verdict.
    verdict : Verdict or None
        None where no accuracy is expected.
    """

    dataset: DatasetSummary
    ranked_by: str
    encoders: tuple[EncoderResult, ...]
    advice: str
    seed: int = 0
    verdict: Verdict | None = None

    def __iter__(self) -> Iterator[EncoderResult]:
        """The encoders, best first, the failed ones last."""
        return iter(self.encoders)

    def __len__(self) -> int:
        """Number of encoders."""
        return len(self.encoders)

    @property
    def best(self) -> EncoderResult:
        """The first encoder that could be ranked.

        Raises
        ------
        EncoderError
            If every encoder failed, with the reasons.
        """
        if not self.ranked:
            reasons = first_few(f"{row.encoder}: {row.error}" for row in self.encoders)
            raise EncoderError(f"no encoder could be ranked. {reasons}")
        return self.ranked[0]

    @property
    def ranked(self) -> tuple[EncoderResult, ...]:
        """The encoders that did not fail, best first."""
        return tuple(row for row in self.encoders if row.error is None)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that any encoder has a score by, in the order asked for."""
        names: dict[str, None] = {}
        for row in self.encoders:
            names.update(dict.fromkeys(row.scores))
        return list(names)

    @property
    def headline(self) -> str:
        """What to do."""
        return self.advice

    def to_frame(self) -> pd.DataFrame:
        """One row per encoder; per metric its value, low and high; then the facts.

        Columns of numbers are float64 or Int64, all others string or boolean; a cell without a
        value is missing. ``skipped`` says which metrics an encoder has no score by, and why.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        layered = any(row.layer for row in self.encoders)
        rows = [self._frame_row(row, layered=layered) for row in self.encoders]
        empty = self._frame_row(EncoderResult(""), layered=layered)
        frame = pd.DataFrame(rows, columns=list(empty)).set_index("encoder")
        kinds = dict.fromkeys(["rank", "n_parameters", "feature_dim"], "Int64")
        kinds |= dict.fromkeys(["input_size", "warnings", "skipped", "error"], "string")
        kinds |= {"layer": "string"} if layered else {}
        kinds["in_group"] = "boolean"
        return frame.astype({name: kinds.get(name, "float64") for name in frame.columns})

    def _short(self, frame: pd.DataFrame) -> pd.DataFrame:
        expected = ["expected", "expected_low", "expected_high", "loss"]
        names = ["rank", "layer", *expected, *self.metrics, "p_best", "samples_per_second", "error"]
        failed = any(row.error is not None for row in self.encoders)
        return frame[[n for n in names if n in frame and (n != "error" or failed)]]

    def _frame_row(self, row: EncoderResult, *, layered: bool) -> dict[str, object]:
        cells: dict[str, object] = {"encoder": row.encoder, "rank": row.rank}
        if layered:
            cells["layer"] = row.layer
        for metric in self.metrics:
            score = row.scores.get(metric)
            cells[metric] = score and score.value
            cells[f"{metric}_low"] = score and score.low
            cells[f"{metric}_high"] = score and score.high
        size = row.input_size
        of_scores = [f"{m}: {w}" for m, s in row.scores.items() for w in s.warnings]
        return cells | {
            **({} if self.verdict is None else _expected_cells(row.expected)),
            "p_best": row.p_best,
            "in_group": row.in_group,
            "n_parameters": row.n_parameters,
            "feature_dim": row.feature_dim,
            "input_size": size and f"{size[0]}x{size[1]}",
            "samples_per_second": row.samples_per_second,
            "warnings": "; ".join([*row.warnings, *of_scores]),
            "skipped": "; ".join(f"{m}: {reason}" for m, reason in row.skipped.items()),
            "error": row.error,
        }

    def layers_to_frame(self) -> pd.DataFrame:
        """One row per encoder and layer that was measured, by depth; a column per metric.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        rows = [
            {"encoder": row.encoder, "layer": layer}
            | {metric: one.value for metric, one in scores.items()}
            for row in self.encoders
            for layer, scores in row.layers.items()
        ]
        return pd.DataFrame(rows, columns=None if rows else ["encoder", "layer"]).set_index(
            ["encoder", "layer"]
        )

    def to_csv(self) -> str:
        """CSV text of `to_frame`.

        Returns
        -------
        str
        """
        return str(self.to_frame().to_csv())

    def to_markdown(self) -> str:
        """A Markdown table, the advice below it.

        Returns
        -------
        str
        """
        metrics = self.metrics
        layered = any(row.layer for row in self.encoders)
        head = [
            "rank",
            "encoder",
            *(["layer"] if layered else []),
            *([] if self.verdict is None else ["expected, %", "loss, points"]),
            *metrics,
            "p(best)",
            "parameters",
            "dim",
            "input",
            "samples/s",
        ]
        digits = {m: score_digits(r.scores.get(m) for r in self.encoders) for m in metrics}
        lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        for row in self.encoders:
            if row.error is not None:
                error = " ".join(row.error.split()).replace("|", "\\|")
                cells = ["-", row.encoder, error] + [""] * (len(head) - 3)
            else:
                size = row.input_size
                cells = [
                    f"{row.rank}",
                    row.encoder,
                    *([row.layer or ""] if layered else []),
                    *([] if row.expected is None else format_expected(row.expected)),
                    *(format_score(row.scores.get(m), digits[m]) for m in metrics),
                    "" if row.p_best is None else f"{row.p_best:.2f}",
                    "" if row.n_parameters is None else f"{row.n_parameters:,}",
                    "" if row.feature_dim is None else f"{row.feature_dim}",
                    "" if size is None else f"{size[0]}x{size[1]}",
                    "" if row.samples_per_second is None else f"{row.samples_per_second:,.0f}",
                ]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", self.advice, ""])


def _expected_cells(found: ExpectedAccuracy | None) -> dict[str, object]:
    """Columns of what is expected of one encoder."""
    names = {"mean": "expected", "low": "expected_low", "high": "expected_high"}
    names |= {name: name for name in ("loss", "loss_low", "loss_high")}
    names |= {"regret": "expected_regret", "probe": "probe"}
    return {column: found and getattr(found, name) for name, column in names.items()}


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


def format_expected(found: ExpectedAccuracy) -> tuple[str, str]:
    """Expected accuracy in percent and loss in points, each with its 90 % interval.

    Parameters
    ----------
    found : ExpectedAccuracy

    Returns
    -------
    accuracy, loss : str
    """

    def shown(middle: float, low: float, high: float) -> str:
        return f"{100 * middle:.1f} ({100 * low:.1f} to {100 * high:.1f})".replace("-0.0", "0.0")

    return (
        shown(found.mean, found.low, found.high),
        shown(found.loss, found.loss_low, found.loss_high),
    )


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
        return f"{score.value:.{digits}f}"
    return f"{score.value:.{digits}f} ± {(score.high - score.low) / 2:.{digits}f}"
