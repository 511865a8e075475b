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
    tied_with_best: bool = False
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
            row["layers"] = {
                layer: {name: _score(s) for name, s in scores.items()}
                for layer, scores in row.get("layers", {}).items()
            }
            row["warnings"] = tuple(row.get("warnings", ()))
            rows.append(EncoderResult(**row))
        return cls(encoders=tuple(rows), **record)

    def to_frame(self) -> pd.DataFrame:
        """One row per encoder; per metric its value, low and high; then the facts."""
        import pandas as pd

        rows = []
        for row in self.encoders:
            flat: dict[str, Any] = {"encoder": row.encoder, "rank": row.rank}
            if any(one.layer for one in self.encoders):
                flat["layer"] = row.layer
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
                    [
                        *row.warnings,
                        *(f"{m}: {w}" for m, s in row.scores.items() for w in s.warnings),
                    ]
                ),
                "error": row.error,
            }
            rows.append(flat)
        frame = pd.DataFrame(rows).set_index("encoder")
        for column in ("rank", "n_parameters", "feature_dim"):
            frame[column] = frame[column].astype("Int64")
        return frame

    def layers_to_frame(self) -> pd.DataFrame:
        """One row per encoder and layer that was measured, by depth; a column per metric."""
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
        """CSV text of `to_frame`."""
        return str(self.to_frame().to_csv())

    def to_markdown(self) -> str:
        """A Markdown table, the advice below it."""
        metrics = self.metrics
        layered = any(row.layer for row in self.encoders)
        head = [
            "rank",
            "encoder",
            *(["layer"] if layered else []),
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
class TrainingRun:
    """One run of gradient descent.

    Attributes
    ----------
    learning_rate, weight_decay : float
    seed : int
    folder : str
        Name of its folder.
    epoch, n_epochs : int
        The best epoch, from 1, and how many there were.
    validation, test : float or None
        The measure at the best epoch; None if the run diverged.
    validation_loss : float or None
    gradient_norm : float or None
        Largest gradient of a test sample's loss in its features.
    seconds : float
    """

    learning_rate: float
    weight_decay: float
    seed: int
    folder: str
    epoch: int
    n_epochs: int
    validation: float | None
    validation_loss: float | None
    test: float | None
    gradient_norm: float | None
    seconds: float


@dataclass(frozen=True)
class FineTuned:
    """What fine-tuning one encoder on one data set came to.

    Attributes
    ----------
    encoder, dataset : str
    measure : {"accuracy", "r2", "mean_average_precision"}
    mode : {"full", "last-block", "head"}
    value : float
        Mean of the measure over the seeds of the chosen hyper-parameters, on the test part. A seed
        that diverged does not count; it stands in `runs` without a test value.
    spread : float or None
        Standard deviation over the seeds; None for a single one.
    learning_rate, weight_decay : float
        The pair that was best on the held-out part of the training data.
    runs : tuple of TrainingRun
        All of them: first the sweep, then the further seeds.
    n_train, n_validation, n_test : int
    seconds : float
    """

    encoder: str
    dataset: str
    measure: str
    mode: str
    value: float
    spread: float | None
    learning_rate: float
    weight_decay: float
    runs: tuple[TrainingRun, ...]
    n_train: int
    n_validation: int
    n_test: int
    seconds: float

    def to_json(self) -> str:
        """JSON text."""
        return _dump(asdict(self))

    def to_frame(self) -> pd.DataFrame:
        """One row per run."""
        import pandas as pd

        return pd.DataFrame([asdict(run) for run in self.runs])


@dataclass(frozen=True)
class Probed:
    """What a linear head on frozen features came to.

    Attributes
    ----------
    value : float
        Accuracy on the test samples.
    strength : float
        The inverse penalty of lowest loss on the held-out part (scikit-learn's C).
    strengths, validation, validation_loss : tuple of float
        All that were tried, and the accuracy and cross-entropy of each on the held-out part.
    n_train, n_validation, n_test : int
    seconds : float
    """

    value: float
    strength: float
    strengths: tuple[float, ...]
    validation: tuple[float, ...]
    validation_loss: tuple[float, ...]
    n_train: int
    n_validation: int
    n_test: int
    seconds: float

    def to_json(self) -> str:
        """JSON text."""
        return _dump(asdict(self))


@dataclass(frozen=True)
class Measured:
    """One measure of agreement.

    Attributes
    ----------
    value : float or None
        None where it is undefined.
    low, high : float or None
        95 % interval over resampled encoders (for averages: and data sets).
    reason : str
        Why there is no value, or no interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two metrics on the same encoders and data sets.

    Attributes
    ----------
    first, second : str
    difference : float
        Mean weighted tau of the first minus that of the second.
    low, high : float or None
        95 % interval over resampled encoders and data sets.
    p_value : float
        Of a two-sided sign-flip test over data sets.
    n_datasets : int
        On which both are defined.
    """

    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    p_value: float
    n_datasets: int


@dataclass(frozen=True)
class Agreement:
    """How well scores foresee fine-tuned accuracy.

    Attributes
    ----------
    per_dataset : dict of data set to metric to measure to Measured
    average : dict of metric to measure to Measured
        Over the data sets where the measure is defined.
    comparisons : tuple of Comparison
        Every pair of metrics.
    scores : dict of data set to metric to encoder to float
    accuracy : dict of data set to encoder to float
    warnings : tuple of str
        What is missing, tied, constant or too few.
    seed : int
        Of the resampling.
    """

    per_dataset: dict[str, dict[str, dict[str, Measured]]]
    average: dict[str, dict[str, Measured]]
    comparisons: tuple[Comparison, ...]
    scores: dict[str, dict[str, dict[str, float]]]
    accuracy: dict[str, dict[str, float]]
    warnings: tuple[str, ...] = ()
    seed: int = 0

    def __getitem__(self, key: tuple[str, str]) -> dict[str, Measured]:
        dataset, metric = key
        return self.per_dataset[dataset][metric]

    def to_json(self) -> str:
        """JSON text: ``per_dataset`` and ``average`` hold plain numbers by measure.

        Beside each stand ``<measure>_low`` and ``<measure>_high``; a number that is null has its
        ``<measure>_reason``. ``comparisons``, ``warnings`` and ``seed`` follow.
        """
        record = {
            "per_dataset": {
                dataset: {metric: _flat(found) for metric, found in rows.items()}
                for dataset, rows in self.per_dataset.items()
            },
            "average": {metric: _flat(found) for metric, found in self.average.items()},
            "comparisons": [asdict(row) for row in self.comparisons],
            "warnings": list(self.warnings),
            "seed": self.seed,
        }
        return _dump(record)

    def to_frame(self) -> pd.DataFrame:
        """One row per data set, metric and measure: value, low, high, reason.

        The rows of the averages come last, their data set is called ``average``.
        """
        import pandas as pd

        rows = [
            (dataset, metric, measure, *(m.value, m.low, m.high, m.reason))
            for dataset, found in [*self.per_dataset.items(), ("average", self.average)]
            for metric, measures in found.items()
            for measure, m in measures.items()
        ]
        columns = ["dataset", "metric", "measure", "value", "low", "high", "reason"]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:6], float))


def _flat(measures: Mapping[str, Measured]) -> dict[str, float | str | None]:
    flat: dict[str, float | str | None] = {}
    for name, measured in measures.items():
        flat |= {name: measured.value}
        flat |= {f"{name}_low": measured.low, f"{name}_high": measured.high}
        if measured.reason:
            flat[f"{name}_reason"] = measured.reason
    return flat


@dataclass(frozen=True)
class LayerDistance:
    """One layer of a comparison of checkpoints; what could not be computed is None.

    Attributes
    ----------
    name : str
        Path of the block in the module tree, ``"stem"``, ``"head"``, or a tensor.
    transferability : float or None
        How many times closer pre-training brought it to where fine-tuning ended; above 1 is closer.
    spread : float or None
        Standard deviation of that over drawn initialisations.
    distance_random, distance_pretrained : float or None
        From the random and from the pre-trained to the fine-tuned weights.
    n_parameters : int
        That were compared.
    drift : float or None
        Norm of the change in fine-tuning, as a share of the norm of the pre-trained weights.
    cosine : float or None
        Between pre-trained and fine-tuned weights.
    spectral_norm : float or None
        Largest singular value of the change, over its tensors.
    effective_rank : float or None
        Exponential of the entropy of the singular values of the change, mean over its tensors.
    suggestion : {"freeze", "reset"} or None
        Freeze: it moved so little that freezing it would have cost nothing. Reset: random weights
        lie as close to the fine-tuned ones as the pre-trained do.
    reason : str or None
        Why there is no transferability.
    """

    name: str
    transferability: float | None = None
    spread: float | None = None
    distance_random: float | None = None
    distance_pretrained: float | None = None
    n_parameters: int = 0
    drift: float | None = None
    cosine: float | None = None
    spectral_norm: float | None = None
    effective_rank: float | None = None
    suggestion: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class LayerDistances:
    """How far pre-training carried each layer to where fine-tuning ended.

    Attributes
    ----------
    overall : float or None
        Mean transferability over the layers that have one, without the head.
    overall_spread : float or None
        Standard deviation of that over drawn initialisations.
    layers : tuple of LayerDistance
        From the stem to the head.
    head : tuple of str
        Names of the layers that are the head.
    unmatched : dict of str to tuple of str
        ``missing``, ``extra``, ``other_shape`` (all left out), ``reshaped`` (compared) and
        ``tied`` (counted once) tensors.
    measure, parameters : str
        The distance, and which parameters count.
    random : str
        Where the initialisation came from: ``"checkpoint"``, ``"3 seeds"``, ``"closed form"`` or
        ``"none"``.
    freeze_threshold : float
        Drift below which freezing is suggested.
    notes : tuple of str
        What the numbers must be read with.
    """

    overall: float | None
    layers: tuple[LayerDistance, ...]
    measure: str
    parameters: str
    random: str
    freeze_threshold: float
    overall_spread: float | None = None
    head: tuple[str, ...] = ()
    unmatched: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """JSON text; `from_json` takes it back."""
        return _dump(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LayerDistances:
        """Rebuild from what `to_json` gave."""
        record = json.loads(text)
        record["layers"] = tuple(LayerDistance(**layer) for layer in record["layers"])
        record["unmatched"] = {kind: tuple(names) for kind, names in record["unmatched"].items()}
        return cls(**record | {key: tuple(record[key]) for key in ("head", "notes")})

    def to_frame(self) -> pd.DataFrame:
        """One row per layer."""
        import pandas as pd

        return pd.DataFrame([asdict(layer) for layer in self.layers]).set_index("name")


@dataclass(frozen=True)
class DatasetFactors:
    """What of a data set goes with how far pre-training carries the weights.

    Attributes
    ----------
    domain_gap : float or None
        Distance of the features to those of a reference task; None without one.
    intraclass_variance : float
        Mean variance within the classes: of the total, or in squared units of the features.
    n_samples, n_classes : int
    gap, variance : str
        How they were measured.
    warnings : tuple of str
    """

    domain_gap: float | None
    intraclass_variance: float
    n_samples: int
    n_classes: int
    gap: str
    variance: str
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """JSON text."""
        return _dump(asdict(self))

    def to_frame(self) -> pd.DataFrame:
        """One row."""
        import pandas as pd

        return pd.DataFrame([{**asdict(self), "warnings": "; ".join(self.warnings)}])


@dataclass(frozen=True)
class TransferabilityForecast:
    """Transferability of the weights that a regression on earlier runs predicts.

    Attributes
    ----------
    transferability, low, high : float or None
        Prediction and 95 % interval for a new data set; None where none was asked for.
    coefficients : dict of str to dict
        Term -> ``value, low, high, p_value`` of ``ln T``, with 95 % intervals.
    r_squared : float
    n_records : int
    published : dict of str to dict
        Network -> the coefficients that the authors print.
    remark : str
        How to read those.
    warnings : tuple of str
    """

    transferability: float | None
    low: float | None
    high: float | None
    coefficients: dict[str, dict[str, float]]
    r_squared: float
    n_records: int
    published: dict[str, dict[str, float]]
    remark: str
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """JSON text."""
        return _dump(asdict(self))

    def to_frame(self) -> pd.DataFrame:
        """One row per term: ours with its interval, then the published ones."""
        import pandas as pd

        frame = pd.DataFrame(self.coefficients).T
        for network, coefficients in self.published.items():
            frame[f"published {network}"] = pd.Series(coefficients)
        return frame.rename_axis("term")


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
        Largest norm that the gradient of the reference head's loss by the standardised features
        has anywhere.
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
