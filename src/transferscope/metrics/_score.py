"""Score the features of one encoder: several metrics over one shared embedding."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np

from transferscope.embedding import Embedding
from transferscope.errors import MissingInputError, TransferscopeError
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import Metric, Need
from transferscope.metrics._plan import DEFAULT_METRICS, plan_metrics
from transferscope.numerics.arrays import ArrayLike
from transferscope.results import Score, ScoreTable

_GIVEN_BY: dict[Need, str] = {
    "source_probabilities": "an encoder with a head gives (source_logits serve as well)",
    "reference_features": "a reference data set gives",
    "reference_labels": "a labelled reference data set gives",
}


def score(
    features: ArrayLike,
    labels: ArrayLike | None = None,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    *,
    targets: ArrayLike | None = None,
    source_probabilities: ArrayLike | None = None,
    source_logits: ArrayLike | None = None,
    reference_features: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    seed: int = 0,
) -> ScoreTable:
    """Score one encoder's features of a data set by several metrics.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
        NumPy, torch on any device, or another library of the array API standard; a memory-mapped
        array is read in pieces. Not modified.
    labels : array-like of shape (n_samples,), optional
        Class of each sample. Without labels and targets only metrics that need none are computed,
        such as `energy`, `frechet` and `relatedness_unlabelled`.
    metrics : str or sequence of str
        Names from ``transferscope.list_metrics()``, such a name with ``+ped`` (measured after
        potential-energy decline), ``"all"``, or ``"all+ped"``.
    targets : array-like of shape (n_samples,) or (n_samples, n_targets), optional
        Real numbers (regression) or 0/1 columns (multi-label) in place of labels.
    source_probabilities : array of shape (n_samples, n_source_classes), optional
        What the encoder's own head predicts, for `leep` and `nce`.
    source_logits : array of shape (n_samples, n_source_classes), optional
        The same before softmax.
    reference_features : array of shape (n_reference, n_features), optional
        The same encoder's features of a reference task, for metrics that compare with it.
    reference_labels : array-like of shape (n_reference,), optional
        Their classes.
    seed : int
        Of the subsampling that some metrics need on large data sets.

    Returns
    -------
    ScoreTable
        All scores are oriented: higher = expected to transfer better. Metrics whose inputs are
        absent, or which failed, stand in ``skipped`` with the reason.

    Raises
    ------
    InputError
        If an input breaks a rule, which the message names.
    FeatureError
        If features are NaN, infinite, or all the same.

    Examples
    --------
    >>> import transferscope
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(90) % 3
    >>> features = np.eye(3)[labels] + 0.5 * rng.standard_normal((90, 3))
    >>> table = transferscope.score(features, labels, metrics="logme,knn,leep")
    >>> round(table["knn"], 3), list(table.skipped)
    (0.811, ['leep'])
    """
    plan = plan_metrics(metrics)
    embedding = Embedding(
        features,
        labels,
        targets=targets,
        source_probabilities=source_probabilities,
        source_logits=source_logits,
        reference_features=reference_features,
        reference_labels=reference_labels,
        seed=seed,
    )
    measured, skipped = measure_all(embedding, plan.asked)
    scores = {
        name: Score(measurement.value, measurement.warnings, seconds)
        for name, (measurement, seconds) in measured.items()
    }
    return ScoreTable(
        embedding.n_samples, embedding.n_features, embedding.n_classes, scores, skipped
    )


def measure_all(
    embedding: Embedding, metrics: Iterable[Metric]
) -> tuple[dict[str, tuple[Measurement, float]], dict[str, str]]:
    """Measure each metric that applies; the others come back with the reason.

    Returns
    -------
    measured : dict of str to (Measurement, float)
        With the seconds it took, shared parts being paid by the first that needs them.
    skipped : dict of str to str

    Parameters
    ----------
    embedding : Embedding
    metrics : iterable of Metric

    Raises
    ------
    FeatureError
        If the features themselves cannot be scored.
    """
    start = time.perf_counter()
    embedding.check_features()
    measured: dict[str, tuple[Measurement, float]] = {}
    skipped: dict[str, str] = {}
    for metric in metrics:
        try:
            require_inputs(embedding, metric)
            measurement = metric.measure(embedding)
        except (TransferscopeError, np.linalg.LinAlgError) as error:
            skipped[metric.name] = str(error)
            continue
        if not np.isfinite(measurement.value):
            skipped[metric.name] = f"came out as {measurement.value}"
            continue
        now = time.perf_counter()
        measured[metric.name] = (measurement, now - start)
        start = now
    return measured, skipped


def require_inputs(embedding: Embedding, metric: Metric) -> None:
    """Refuse a metric whose inputs are absent.

    Raises
    ------
    MissingInputError
        With what is absent, and how to give it.
    """
    if embedding.task is None and metric.needs_targets:
        raise MissingInputError(f"{metric.name} needs labels or targets, and none were given")
    if embedding.task is not None and embedding.task not in metric.tasks:
        raise MissingInputError(
            f"{metric.name} is for {' and '.join(metric.tasks)}, these are {embedding.task} targets"
        )
    absent = [need for need in metric.needs if need not in embedding.inputs]
    if absent:
        raise MissingInputError(
            f"{metric.name} needs {' and '.join(absent)}, which {_GIVEN_BY[absent[0]]}"
        )
