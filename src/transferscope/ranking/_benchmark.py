"""Compare metrics: measure encoders on several data sets, and evaluate what the scores foresee."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from transferscope.datasets import Dataset, open_dataset
from transferscope.encoders import encoder_name, expand_encoders
from transferscope.errors import InputError, first_few
from transferscope.evaluation import Accuracies, study_metrics
from transferscope.extraction import Encoders, Store
from transferscope.knowledge import with_baselines
from transferscope.progress import ProgressCallback
from transferscope.ranking._rank import rank
from transferscope.results import MetricStudy, Ranking

#: Fewer encoders with an accuracy cannot show agreement.
FEWEST = 3


class Benchmarked(NamedTuple):
    """What a benchmark of metrics gives.

    Attributes
    ----------
    study : MetricStudy
    rankings : dict of (str, int or None) to Ranking
        By data set and number of samples; None for all.
    """

    study: MetricStudy
    rankings: dict[tuple[str, int | None], Ranking]


def benchmark(  # noqa: PLR0913  what to measure, against what, and how it is computed
    datasets: Mapping[str, object] | Sequence[object],
    encoders: Encoders,
    metrics: str | Sequence[str] = "all",
    *,
    accuracy: Accuracies,
    samples: Sequence[int] = (),
    reference: object = None,
    store: Store = "cache",
    batch_size: int = 64,
    device: str | None = None,
    seed: int = 0,
    exact: bool = False,
    progress: ProgressCallback | None = None,
    report: Callable[[str, int | None, Ranking], None] | None = None,
) -> Benchmarked:
    """Measure metrics of encoders on data sets, and how well they foresee fine-tuned accuracy.

    Every encoder is measured on every data set as `rank` measures it, on all samples and then on
    parts of them; beside the metrics stands ``expected``, the accuracy that `rank` expects.
    Features are kept in the store, so that a run that was interrupted continues.

    Parameters
    ----------
    datasets : mapping of str to data set, or sequence of data sets
        As `open_dataset` takes them, by the names that `accuracy` uses; in a sequence each has its
        own name.
    encoders : str, Encoder, torch.nn.Module, or sequence of these
        As in `rank`.
    metrics : str or sequence of str
        As in `rank`.
    accuracy : mapping of data set to encoder to float
        Accuracy after fine-tuning; `read_accuracy` reads it from files.
    samples : sequence of int
        Numbers of samples to measure on as well, the same stratified ones for all encoders. A data
        set with fewer samples is left out of that number.
    reference : data set, optional
        As in `rank`: for PED, and for the metrics that compare with it.
    store : "cache", path, FeatureStore or None
        Where features are kept, as in `rank`.
    batch_size : int
        Samples per forward pass.
    device : str, optional
        As in `rank`.
    seed : int
        Of everything random.
    exact : bool
        Run encoders as they were built.
    progress : callable, optional
        Called as ``progress(text, done, total)`` while it works.
    report : callable, optional
        Called with the data set, the number of samples (None: all) and the ranking, one by one.

    Returns
    -------
    Benchmarked
        The study, and the rankings that it is made of.

    Raises
    ------
    InputError
        If data sets share a name, `accuracy` lacks a data set or has fewer than three of the
        encoders there, or a number of samples is not positive. All of this is looked at first,
        and whether each number is enough for the classes.
    EncoderError, DatasetError, MissingExtraError, StoreError, UnknownNameError
        As in `rank`.

    Notes
    -----
    Cost: that of `rank` on every data set with all encoders and all samples, then of the metrics
    alone for each number of samples, and of `evaluate`.

    Examples
    --------
    >>> import transferscope
    >>> from transferscope.ranking import benchmark
    >>> digits = transferscope.open_dataset("sklearn/digits", per_class=12)
    >>> names = ["mini/resnet-random", "mini/vit-random", "mini/resnet-mnist-supervised"]
    >>> truth = {"digits": dict(zip(names, (0.90, 0.88, 0.97)))}
    >>> found = benchmark({"digits": digits}, names, "knn", accuracy=truth, store=None)
    >>> found.study.agreement["digits", "knn"]["regret@1"].value
    0.0
    """
    opened = _opened(datasets)
    names = [encoder_name(spec) for spec in expand_encoders(encoders)]
    for name in opened:
        known = [one for one in names if one in accuracy.get(name, {})]
        if len(known) < FEWEST:
            raise InputError(
                f"accuracy must have at least {FEWEST} of the encoders on {name}; it has "
                f"{first_few(known) or 'none'} (its data sets: {first_few(accuracy)}). Add them, "
                f"or name the data set as it is named there."
            )
    if any(n < 1 for n in samples):
        raise InputError(f"samples must be positive numbers; got {first_few(samples)}.")
    # drawn before the work, as too few samples for the classes are refused
    to_measure: dict[tuple[str, int | None], Dataset] = {
        (name, None): opened[name] for name in opened
    }
    for n in sorted(set(samples), reverse=True):
        for name, data in opened.items():
            if n < len(data):
                to_measure[name, n] = data.subsample(max_samples=n, seed=seed)
    rankings: dict[tuple[str, int | None], Ranking] = {}
    for (name, number), data in to_measure.items():
        found = rank(
            data,
            encoders,
            metrics,
            stop_regret=None,
            reference=reference,
            store=store,
            batch_size=batch_size,
            device=device,
            seed=seed,
            exact=exact,
            progress=progress,
        )
        rankings[name, number] = found
        if report is not None:
            report(name, number, found)
    sizes = {
        row.encoder: float(row.n_parameters)
        for found in rankings.values()
        for row in found
        if row.n_parameters is not None
    }
    scores = {name: _scores(rankings[name, None]) for name in opened}
    truth = {name: {e: accuracy[name][e] for e in names if e in accuracy[name]} for name in opened}
    together = {
        name: {**found, **_size_baseline(sizes, truth[name])}
        for name, found in with_baselines(scores, truth).items()
    }
    parts: dict[int, dict[str, dict[str, dict[str, float]]]] = {}
    for (name, number), found in rankings.items():
        if number is not None:
            parts.setdefault(number, {})[name] = _scores(found)
    study = study_metrics(together, truth, sizes=sizes, by_samples=parts, seed=seed)
    return Benchmarked(study, rankings)


def _opened(datasets: Mapping[str, object] | Sequence[object]) -> dict[str, Dataset]:
    if isinstance(datasets, Mapping):
        return {name: open_dataset(source) for name, source in datasets.items()}
    found: dict[str, Dataset] = {}
    for source in datasets:
        data = open_dataset(source)
        if data.name in found:
            raise InputError(
                f"data sets must have names of their own; two are called {data.name}. Give a "
                "mapping of names to data sets."
            )
        found[data.name] = data
    return found


def _scores(ranking: Ranking) -> dict[str, dict[str, float]]:
    """Metric -> encoder -> score; and what is expected of each encoder."""
    found: dict[str, dict[str, float]] = {}
    for row in ranking.ranked:
        for metric, score in row.scores.items():
            found.setdefault(metric, {})[row.encoder] = score.value
        if row.expected is not None:
            found.setdefault("expected", {})[row.encoder] = row.expected.mean
    return found


def _size_baseline(
    sizes: Mapping[str, float], truth: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    known = {encoder: sizes[encoder] for encoder in truth if encoder in sizes}
    return {"n_parameters": known} if len(known) >= FEWEST else {}
