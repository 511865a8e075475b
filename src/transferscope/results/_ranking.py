"""Rankings of encoders: the verdict, what is expected of each, and what it costs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from transferscope.errors import EncoderError, InputError, UnknownNameError, first_few
from transferscope.results._evidence import Confusion, SampleViews
from transferscope.results._exports import eval_results_yaml
from transferscope.results._record import ADDED_LATER, Part, Record
from transferscope.results._scores import Score, format_score, score_digits

if TYPE_CHECKING:
    import pandas as pd

#: What lies along an axis of costs, by what is preferred.
COSTS: Mapping[str, str] = {
    "speed": "milliseconds per sample",
    "size": "parameters",
    "dimension": "feature dimension",
    "licence": "milliseconds per sample",
}


#: Less of a difference in cost than this factor is no reason to give up accuracy; speeds are as
#: measured, and repeat themselves no better.
CHEAPER = 1.5


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
class Verdict(Part):
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
    loading : str
        A line of Python that loads the recommended encoder in its own library; empty for one that
        was not given by name.
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
    loading: str = field(default="", metadata=ADDED_LATER)


@dataclass(frozen=True)
class EncoderResult(Part):
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
    license, family : str
        As published; empty where unknown.
    curve : tuple of (int, float)
        Numbers of samples, and the accuracy of its probe on so many, where there are several.
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
    license: str = field(default="", metadata=ADDED_LATER)
    family: str = field(default="", metadata=ADDED_LATER)
    curve: tuple[tuple[int, float], ...] = field(default=(), metadata=ADDED_LATER)


@dataclass(frozen=True)
class DatasetSummary(Part):
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
    confusion : Confusion or None
        Which classes the probes of the best encoders take for which; None without probes.
    samples : SampleViews or None
        How the best encoders see single samples, if that was asked for.
    steps : dict of str to float
        What was done, and the seconds that it took, all rounds together.
    versions : dict of str to str
        Of this package, of Python, and of what computed the features.
    """

    dataset: DatasetSummary
    ranked_by: str
    encoders: tuple[EncoderResult, ...]
    advice: str
    seed: int = 0
    verdict: Verdict | None = None
    confusion: Confusion | None = field(default=None, metadata=ADDED_LATER)
    samples: SampleViews | None = field(default=None, metadata=ADDED_LATER)
    steps: dict[str, float] = field(default_factory=dict, metadata=ADDED_LATER)
    versions: dict[str, str] = field(default_factory=dict, metadata=ADDED_LATER)

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
        """One row per encoder: data set, rank; per metric its value, low and high; then the facts.

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
        words = ["dataset", "input_size", "license", "warnings", "skipped", "error"]
        kinds |= dict.fromkeys(words, "string")
        kinds |= {"layer": "string"} if layered else {}
        kinds["in_group"] = "boolean"
        return frame.astype({name: kinds.get(name, "float64") for name in frame.columns})

    def _short(self, frame: pd.DataFrame) -> pd.DataFrame:
        expected = ["expected", "expected_low", "expected_high", "loss"]
        names = ["rank", "layer", *expected, *self.metrics, "p_best", "samples_per_second", "error"]
        failed = any(row.error is not None for row in self.encoders)
        return frame[[n for n in names if n in frame and (n != "error" or failed)]]

    def _frame_row(self, row: EncoderResult, *, layered: bool) -> dict[str, object]:
        cells: dict[str, object] = {"encoder": row.encoder, "dataset": self.dataset.name}
        cells["rank"] = row.rank
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
            "license": row.license,
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

    def to_html(self) -> str:
        """The whole ranking as one page; `report_html` sets two side by side.

        Returns
        -------
        str

        Raises
        ------
        MissingExtraError
            If Jinja2 is not installed.
        """
        from transferscope.report import report_html

        return report_html(self)

    def to_eval_results(
        self, dataset_id: str, *, task_id: str = "default", encoder: str | None = None
    ) -> str:
        """The measured accuracy of an encoder's probe as Hugging Face's ``.eval_results`` YAML.

        What is expected of an encoder is no measurement, and is not in it.

        Parameters
        ----------
        dataset_id : str
            The data set on the hub, ``owner/name``.
        task_id : str
            The task within it.
        encoder : str, optional
            By default the recommended one.

        Returns
        -------
        str
            The content of a file in the folder ``.eval_results`` of the model's repository.

        Raises
        ------
        UnknownNameError
            If there is no measured encoder of that name.
        InputError
            If an id is none, or nothing was measured.
        """
        row, accuracy = self._probed(encoder)
        assert row.expected is not None
        notes = (
            "leave-one-out accuracy of a linear (ridge) probe on frozen features, "
            f"{row.expected.n_probed} samples, by transferscope "
            f"{self.versions.get('transferscope', '')}".rstrip()
        )
        return eval_results_yaml(dataset_id, task_id, accuracy, notes)

    def to_mteb(self, *, encoder: str | None = None) -> str:
        """The measured accuracy of an encoder's probe as JSON in the form of MTEB's results.

        It is a result on data of your own, measured our way: like MTEB's in form, not in protocol.

        Parameters
        ----------
        encoder : str, optional
            By default the recommended one.

        Returns
        -------
        str
            Of one task, with the split as it was ranked.

        Raises
        ------
        UnknownNameError
            If there is no measured encoder of that name.
        InputError
            If nothing was measured.
        """
        row, accuracy = self._probed(encoder)
        subset = {"hf_subset": "default", "languages": [], "accuracy": accuracy}
        scores = {name: score.value for name, score in row.scores.items()}
        result = {
            "task_name": self.dataset.name,
            "dataset_revision": self.dataset.fingerprint,
            "mteb_version": None,
            "evaluation_time": sum(score.seconds for score in row.scores.values()),
            "kg_co2_emissions": None,
            "scores": {self.dataset.split: [{**scores, **subset, "main_score": accuracy}]},
        }
        return json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)

    def _probed(self, encoder: str | None) -> tuple[EncoderResult, float]:
        """An encoder whose probe was measured, and its accuracy."""
        there = {
            row.encoder: (row, row.expected.probe)
            for row in self.ranked
            if row.expected is not None and row.expected.probe is not None
        }
        if self.verdict is None or not there:
            raise InputError(
                "a measured accuracy needs classes, and a ranking with a verdict; this one is by "
                f"{self.ranked_by}. to_frame has its scores."
            )
        name = self.verdict.recommended if encoder is None else encoder
        if name not in there:
            raise UnknownNameError(f"{name} was not measured. Those that were: {first_few(there)}.")
        return there[name][0], there[name][1]

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
        return f"{100 * middle:z.1f} ({100 * low:z.1f} to {100 * high:z.1f})"

    return (
        shown(found.mean, found.low, found.high),
        shown(found.loss, found.loss_low, found.loss_high),
    )


class Priced(NamedTuple):
    """One encoder in the plane of cost and accuracy.

    Attributes
    ----------
    cost : float
        In the unit of `COSTS`.
    gain : float
        Points of accuracy more than the recommended encoder.
    row : EncoderResult
    """

    cost: float
    gain: float
    row: EncoderResult


def priced(ranking: Ranking) -> list[Priced]:
    """The encoders whose cost and expected accuracy are known.

    Parameters
    ----------
    ranking : Ranking

    Returns
    -------
    list of Priced
        The cheapest first; none without a verdict.
    """
    if ranking.verdict is None:
        return []
    found = []
    for row in ranking.ranked:
        cost = _cost(row, ranking.verdict.prefer)
        if cost and row.expected is not None:
            found.append(Priced(cost, -100 * row.expected.loss, row))
    return sorted(found, key=lambda one: (one.cost, -one.gain))


def _cost(row: EncoderResult, prefer: str) -> float | None:
    """What an encoder costs, by what is preferred; None where it is not known."""
    if prefer == "size":
        return row.n_parameters
    if prefer == "dimension":
        return row.feature_dim
    if row.expected is None or row.expected.seconds_per_sample is None:
        return None
    return 1000 * row.expected.seconds_per_sample


def frontier(there: Sequence[Priced]) -> list[Priced]:
    """Those of which no cheaper one is expected to be as good.

    Parameters
    ----------
    there : sequence of Priced
        The cheapest first.

    Returns
    -------
    list of Priced
        The cheapest first.
    """
    best: list[Priced] = []
    for one in there:
        if not best or one.gain > best[-1].gain:
            best.append(one)
    return best


def notes_of(rows: Iterable[EncoderResult]) -> dict[tuple[str, str], list[str]]:
    """What encoders must be read with, each note once.

    Parameters
    ----------
    rows : iterable of EncoderResult

    Returns
    -------
    dict of (str, str) to list of str
        Metric, or ``"features"``, and note; and the encoders that it is about.
    """
    notes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        for warning in row.warnings:
            notes["features", warning].append(row.encoder)
        for metric, score in row.scores.items():
            for warning in score.warnings:
                notes[metric, warning].append(row.encoder)
        for metric, reason in row.skipped.items():
            notes[metric, f"no score: {reason}"].append(row.encoder)
    return notes
