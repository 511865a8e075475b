"""Frozen records of results: they convert to frames, JSON and back, and know nothing else.

No number in JSON is ever NaN or infinite: what could not be computed is null, with its reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def _dump(record: Any) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)


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


@dataclass(frozen=True)
class ScoreTable:
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
        return self.scores[metric].value

    def to_json(self) -> str:
        """JSON text; `from_json` takes it back."""
        record = asdict(self)
        record["scores"] = {
            name: {"value": s.value, "warnings": list(s.warnings), "seconds": s.seconds}
            for name, s in self.scores.items()
        }
        return _dump(record)

    @classmethod
    def from_json(cls, text: str) -> ScoreTable:
        """Rebuild from what `to_json` gave."""
        record = json.loads(text)
        record["scores"] = {name: _score(s) for name, s in record["scores"].items()}
        return cls(**record)

    def to_frame(self) -> pd.DataFrame:
        """One row per metric: value, warnings, seconds."""
        import pandas as pd

        return pd.DataFrame(
            {
                name: {"value": s.value, "warnings": "; ".join(s.warnings), "seconds": s.seconds}
                for name, s in self.scores.items()
            }
        ).T.rename_axis("metric")


def _score(record: Mapping[str, Any]) -> Score:
    return Score(**{**record, "warnings": tuple(record["warnings"])})


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
        Probability of being first, over resampled data sets.
    tied_with_best : bool
        Whether the data cannot tell it from the first (95 %).
    n_parameters, feature_dim : int or None
    input_size : (int, int) or None
        Height and width in pixels.
    samples_per_second : float or None
        Of the forward pass, as measured when its features were extracted.
    skipped : dict of str to str
        Metrics that do not apply to it, with the reason.
    error : str or None
        Why it could not be ranked.
    """

    encoder: str
    rank: int | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    p_best: float | None = None
    tied_with_best: bool = False
    n_parameters: int | None = None
    feature_dim: int | None = None
    input_size: tuple[int, int] | None = None
    samples_per_second: float | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Ranking:
    """Encoders in the order in which they are expected to transfer to a data set.

    Attributes
    ----------
    dataset : dict
        ``name, split, n_samples, n_classes, fingerprint, task, n_skipped``.
    ranked_by : str
        ``"consensus of logme, knn"`` (mean of the metrics' ranks), or the one metric.
    encoders : tuple of EncoderResult
        Best first, the failed ones last.
    advice : str
        One sentence: what to do.
    seed : int
        Of the resampling.
    """

    dataset: dict[str, Any]
    ranked_by: str
    encoders: tuple[EncoderResult, ...]
    advice: str
    seed: int = 0

    @property
    def best(self) -> EncoderResult:
        """The first encoder."""
        return self.encoders[0]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order asked for."""
        names: dict[str, None] = {}
        for row in self.encoders:
            names.update(dict.fromkeys(row.scores))
        return list(names)

    def to_json(self) -> str:
        """JSON text; `from_json` takes it back."""
        return _dump(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Ranking:
        """Rebuild from what `to_json` gave."""
        record = json.loads(text)
        rows = []
        for row in record.pop("encoders"):
            row["scores"] = {name: _score(s) for name, s in row["scores"].items()}
            row["input_size"] = row["input_size"] and tuple(row["input_size"])
            rows.append(EncoderResult(**row))
        return cls(encoders=tuple(rows), **record)

    def to_frame(self) -> pd.DataFrame:
        """One row per encoder; per metric its value, low and high; then the facts."""
        import pandas as pd

        rows = []
        for row in self.encoders:
            flat: dict[str, Any] = {"encoder": row.encoder, "rank": row.rank}
            for metric in self.metrics:
                score = row.scores.get(metric)
                flat[metric] = score and score.value
                flat[f"{metric}_low"] = score and score.low
                flat[f"{metric}_high"] = score and score.high
            size = row.input_size
            flat |= {
                "p_best": row.p_best,
                "tied_with_best": row.tied_with_best,
                "n_parameters": row.n_parameters,
                "feature_dim": row.feature_dim,
                "input_size": size and f"{size[0]}x{size[1]}",
                "samples_per_second": row.samples_per_second,
                "warnings": "; ".join(
                    f"{m}: {w}" for m, s in row.scores.items() for w in s.warnings
                ),
                "error": row.error,
            }
            rows.append(flat)
        frame = pd.DataFrame(rows).set_index("encoder")
        for column in ("rank", "n_parameters", "feature_dim"):
            frame[column] = frame[column].astype("Int64")
        return frame

    def to_csv(self) -> str:
        """CSV text of `to_frame`."""
        return str(self.to_frame().to_csv())

    def to_markdown(self) -> str:
        """A Markdown table, the advice below it."""
        metrics = self.metrics
        head = ["rank", "encoder", *metrics, "p(best)", "parameters", "dim", "input", "samples/s"]
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
                    *(format_score(row.scores.get(m), digits[m]) for m in metrics),
                    "" if row.p_best is None else f"{row.p_best:.2f}",
                    f"{row.n_parameters:,}",
                    f"{row.feature_dim}",
                    "" if size is None else f"{size[0]}x{size[1]}",
                    "" if row.samples_per_second is None else f"{row.samples_per_second:,.0f}",
                ]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", self.advice, ""])


@dataclass(frozen=True)
class PedTrace:
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

    def to_json(self) -> str:
        """JSON text."""
        return _dump(asdict(self))

    def to_frame(self) -> pd.DataFrame:
        """One row per class: where it was, where it went."""
        import pandas as pd

        rows = [(*b, *a, r) for b, a, r in zip(self.before, self.after, self.radii, strict=True)]
        columns = ["x_before", "y_before", "x_after", "y_after", "radius"]
        return pd.DataFrame(rows, index=pd.Index(self.class_names, name="class"), columns=columns)


@dataclass(frozen=True)
class Relatedness:
    """How related a target task is to a reference task, and what keeps them apart.

    Losses are means of ``-ln p`` over held-out samples, in nats.

    Attributes
    ----------
    setting, method : str
    bound : float
        ``reference_loss + label_mismatch + distribution_mismatch``; never below
        ``transformed_loss``.
    reference_loss : float
        Of the reference head, its classes weighted by D.
    label_mismatch : float
        Conditional entropy of the target class given the reference class.
    distribution_mismatch : float
        ``tau * wasserstein``.
    tau : float
        Largest norm of the gradient of the loss, as measured where the bound needs it.
    wasserstein : float
        Mean distance, in standard deviations of the reference features, between target samples
        that were carried back and the reference samples they are coupled with, class by class.
    transformed_loss, transformed_accuracy : float
        Of the transformed head on the target: by its labels, or by pseudo-labels where
        `unlabelled`.
    target_loss, target_accuracy : float or None
        Of a head trained on the target's labels: the transferability. None without labels.
    unlabelled : bool
        Whether pseudo-labels took the labels' place.
    pseudo_label_agreement : float or None
        Share of held-out samples whose pseudo-label is the label, when pseudo-classes are named
        after classes as well as may be.
    condition_number : float or None
        Of A; None where A⁻¹ has no inverse.
    matrix, offset : float64 numpy arrays of shapes (d, d) and (d,)
        A⁻¹ and −A⁻¹b: ``matrix @ x + offset`` carries standardised target features to standardised
        reference features.
    label_matrix : float64 numpy array of shape (n_target_classes, n_reference_classes)
        B.
    reference_prior : float64 numpy array of shape (n_reference_classes,)
        D.
    reference_classes, target_classes : tuple of str
    trace : tuple of float
        Objective on the samples it was learned from, by round.
    view : dict of str to tuple of (float, float)
        Held-out ``reference``, ``target`` and ``carried`` (the target carried back), in the plane
        of the first two principal axes of the reference.
    target_terms : float64 numpy array
        How much each held-out target sample contributes to the bound; their mean is the bound.
    held_out_rows : int64 numpy array or None
        Which of the target samples these are; None where they were given apart.
    seconds : float
    warnings : tuple of str
    """

    setting: str
    method: str
    bound: float
    reference_loss: float
    label_mismatch: float
    distribution_mismatch: float
    tau: float
    wasserstein: float
    transformed_loss: float
    transformed_accuracy: float
    target_loss: float | None
    target_accuracy: float | None
    unlabelled: bool
    pseudo_label_agreement: float | None
    condition_number: float | None
    matrix: Any = field(repr=False, compare=False)
    offset: Any = field(repr=False, compare=False)
    label_matrix: Any = field(repr=False, compare=False)
    reference_prior: Any = field(repr=False, compare=False)
    reference_classes: tuple[str, ...] = field(repr=False)
    target_classes: tuple[str, ...] = field(repr=False)
    trace: tuple[float, ...] = field(repr=False)
    view: dict[str, tuple[tuple[float, float], ...]] = field(repr=False)
    target_terms: Any = field(repr=False, compare=False)
    held_out_rows: Any = field(repr=False, compare=False)
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def gap(self) -> float | None:
        """Bound minus the loss of a head trained on the target; None without labels."""
        return None if self.target_loss is None else self.bound - self.target_loss

    def to_json(self) -> str:
        """JSON text of everything but the large arrays (A, b, the view, the samples' terms)."""
        loss, accuracy = self.target_loss, self.target_accuracy
        record = {
            "setting": self.setting,
            "method": self.method,
            "bound": self.bound,
            "reference_loss": self.reference_loss,
            "label_mismatch": self.label_mismatch,
            "distribution_mismatch": self.distribution_mismatch,
            "tau": self.tau,
            "wasserstein": self.wasserstein,
            "transformed_head": {
                "loss": self.transformed_loss,
                "accuracy": self.transformed_accuracy,
            },
            "target_head": None if loss is None else {"loss": loss, "accuracy": accuracy},
            "gap": self.gap,
            "unlabelled": self.unlabelled,
            "pseudo_label_agreement": self.pseudo_label_agreement,
            "condition_number": self.condition_number,
            "label_matrix": self.label_matrix.tolist(),
            "reference_prior": self.reference_prior.tolist(),
            "reference_classes": list(self.reference_classes),
            "target_classes": list(self.target_classes),
            "trace": list(self.trace),
            "seconds": self.seconds,
            "warnings": list(self.warnings),
        }
        return _dump(record)

    def to_frame(self) -> pd.DataFrame:
        """One row per quantity: the terms, the bound, what was measured."""
        import pandas as pd

        names = (
            "reference_loss", "label_mismatch", "distribution_mismatch", "bound",
            "transformed_loss", "target_loss", "gap", "transformed_accuracy", "target_accuracy",
            "pseudo_label_agreement", "tau", "wasserstein", "condition_number", "seconds",
        )  # fmt: skip
        values = [getattr(self, name) for name in names]
        index = pd.Index(names, name="quantity")
        return pd.DataFrame({"value": values}, index=index, dtype="float64")


def score_digits(scores: Iterable[Score | None]) -> int:
    """Decimals at which one metric's scores are shown: two digits of the typical interval."""
    halves = sorted(
        (s.high - s.low) / 2
        for s in scores
        if s is not None and s.low is not None and s.high is not None and s.high > s.low
    )
    if not halves:
        return 3
    return min(6, max(0, 1 - math.floor(math.log10(halves[len(halves) // 2]))))


def format_score(score: Score | None, digits: int) -> str:
    """A score for people: its value and half the width of its interval."""
    if score is None:
        return "-"
    if score.low is None or score.high is None:
        return f"{score.value:.{digits}f}"
    return f"{score.value:.{digits}f} ± {(score.high - score.low) / 2:.{digits}f}"
