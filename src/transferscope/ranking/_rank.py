"""Rank pre-trained encoders for a data set: which to fine-tune, and how sure that is."""

from __future__ import annotations

import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from transferscope.datasets import Dataset, open_dataset, open_reference
from transferscope.encoders import encoder_name, expand_encoders
from transferscope.errors import InputError
from transferscope.executor import Executor
from transferscope.extraction import (
    Encoders,
    ExtractionSettings,
    Layers,
    Source,
    Store,
    best_device,
    extract_together,
    shard_rows,
)
from transferscope.knowledge import PERMISSIVE, Foresight
from transferscope.metrics import DEFAULT_METRICS, MetricPlan, plan_metrics, resolve_metric
from transferscope.numerics.sampling import stratified_rows
from transferscope.progress import ProgressCallback
from transferscope.ranking._available import available_encoders
from transferscope.ranking._evidence import best_few, confusion_of, views_of
from transferscope.ranking._measured import combine_scores, measure_candidate
from transferscope.ranking._order import order_by_scores, with_intervals
from transferscope.ranking._search import FIRST_LOOK, PROBE, Contender, Outlook, Search
from transferscope.ranking._verdict import PREFERENCES, Candidate, judge
from transferscope.results import DatasetSummary, EncoderResult, Ranking, Verdict, loading_line

#: A first look at a part of the samples is taken where there are so many times as many.
WORTH_A_LOOK = 4
#: From this probability on it is said that published results say little about the data.
FOREIGN = 0.5
#: Packages whose versions a ranking keeps, where they were used.
PACKAGES = ("transferscope", "numpy", "sklearn", "torch", "torchvision", "timm", "transformers")


def rank(  # noqa: PLR0913  what to rank, by what, and how it is computed
    dataset: object,
    encoders: Encoders | None = None,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    *,
    tolerance: float = 0.005,
    prefer: Literal["speed", "size", "dimension", "licence"] = "speed",
    stop_regret: float | None = 0.003,
    budget: float | None = None,
    layers: Layers = "last",
    reference: object = None,
    store: Store = "cache",
    batch_size: int = 64,
    device: str | None = None,
    seed: int = 0,
    exact: bool = False,
    samples: bool = False,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
    report: Callable[[Ranking], None] | None = None,
) -> Ranking:
    """Rank pre-trained encoders by the accuracy that fine-tuning them is expected to reach.

    What published results say of each encoder, and a probe of its features of these data, give its
    expected accuracy after fine-tuning. Encoders are measured in the order of what they promise
    per second, and no more of them than the choice needs. Features are kept in the store, so that
    a run that was interrupted continues, and one with more encoders or metrics computes only what
    is new.

    Parameters
    ----------
    dataset : Dataset, or what `open_dataset` takes
        An image folder, ``.npz``, ``.csv``, ``.parquet``, ``hf/<id>``, ``sklearn/digits``, or a
        Python object. Its part, columns, task and sample are chosen by `open_dataset`.
    encoders : str, Encoder, torch.nn.Module, or sequence of these, optional
        Such as ``"mini/all"`` or ``["timm/resnet18", "hf/facebook/dinov2-base"]``; several names
        may be joined by commas. See ``transferscope.encoders``. By default all known ones that can
        be had, see `available_encoders`.
    metrics : str or sequence of str
        Names from ``transferscope.list_metrics()``, or ``"all"``: columns beside the verdict. Those
        that compare encoders (`ncti`, `etran`) are put together from their parts, which are scaled
        over the encoders that were measured.
    tolerance : float
        Encoders that are expected to lose no more accuracy than this against the best expected one
        are as good; of these the cheapest is recommended.
    prefer : {"speed", "size", "dimension", "licence"}
        What cheap means: the fewest seconds, parameters or features, or a licence for any use.
    stop_regret : float or None
        Measure no more encoders when all that are left are not expected to raise the accuracy by
        this much; of data sets of 4 096 samples and more they see 1 024 first, and only those that
        may be the best see the rest. None: measure all, on all samples.
    budget : float, optional
        Seconds after which nothing more is begun, and computing ends.
    layers : str or sequence of int
        Which layer's features are scored: ``"last"``, as the encoder pools it; ``"mean"`` of all
        numbered layers; or each of several, all in one pass: ``"all"``, ``"best"``, or numbers such
        as ``"3,6,-1"``. An encoder with several is ranked by the one of the best mean rank over the
        metrics, and ``EncoderResult.layers`` holds the scores of each. The choice is made on the
        same data: it flatters encoders with many layers a little.
    reference : Dataset, or what `open_dataset` takes, optional
        A data set close to what the encoders were pre-trained on, or a corpus: a table without
        labels. Each encoder's features of it set the scale of PED, and are what `frechet`, and with
        labels `otce` and `ot_nce`, compare with. Its columns are recognised; to name them, open it
        with ``transferscope.datasets.open_reference``.
    store : "cache", path, FeatureStore or None
        Where features are kept; ``"cache"`` is the user's cache folder. None: nothing is stored,
        features stream through, for data larger than disk or memory. What looks at single samples
        then uses a stratified sample of 5 000. Features that code of your own computes are deleted
        when they are scored, unless it has a version: see `from_module`.
    batch_size : int
        Samples per forward pass, at most 512; of texts fewer, see `extract`.
    device : str, optional
        ``"cpu"``, ``"cuda"``, ...; by default a GPU where there is one. Encoders that are given as
        objects are moved there.
    seed : int
        Of everything random; the same seed gives the same ranking, but for what a budget cuts off.
    exact : bool
        Run encoders as they were built: slower, and equal but for rounding; see `extract`.
    samples : bool
        Keep in the ranking how the best encoders see some 200 samples, with small copies of the
        images or the beginnings of the texts, and the twenty samples that each misjudges most:
        where labels are wrong, they are among these. All this gets into JSON and into the report.
    executor : Executor, optional
        Workers that run the encoders, such as `transferscope.RayExecutor`; scores are computed
        here.
    progress : callable, optional
        Called as ``progress(text, done, total)`` while it works.
    report : callable, optional
        Called with the ranking as it is known after each round of measuring.

    Returns
    -------
    Ranking
        The highest expected accuracy first, with its `verdict`. For regression and multi-label
        data, where no accuracy is expected: ranked by the mean of the metrics' ranks. An encoder
        that failed stands last, with its error. Interrupted by Ctrl-C after the first encoder was
        measured, it returns what is known by then.

    Raises
    ------
    MissingExtraError
        If torch is not installed.
    InputError
        If `layers` or `store` is none of the above, two encoders have one name, `tolerance`,
        `stop_regret`, `budget` or `seed` is out of range, or `samples` are asked for without
        classes.
    UnknownNameError
        If there is no encoder or metric of a name.
    StoreError
        If the store cannot be written.
    WorkerError
        If `executor` has no workers.
    DatasetError
        If the data set cannot be read; what was extracted before stays in the store.

    Examples
    --------
    >>> import transferscope
    >>> digits = transferscope.open_dataset("sklearn/digits", per_class=20)
    >>> ranking = transferscope.rank(
    ...     digits, "mini/resnet-mnist-supervised,mini/resnet-random",
    ...     metrics="logme,knn", store=None)
    >>> ranking.best.encoder
    'mini/resnet-mnist-supervised'
    """
    plan = plan_metrics(metrics)
    _check(tolerance, prefer, stop_regret, budget, seed)
    started = time.perf_counter()
    specs = None if encoders is None else expand_encoders(encoders)
    if progress is not None:
        progress("reading the data set", 0, 0)
    data = open_dataset(dataset)
    task, labels = data.require_labels()
    if samples and task != "classification":
        raise InputError(
            f"samples shows samples by their classes, and {data.name} has {task} labels. Leave it "
            "out."
        )
    source = Source(data)
    references = [] if reference is None else [Source(open_reference(reference))]
    settings = ExtractionSettings(
        store,
        layers,
        batch_size,
        device or (best_device() if executor is None else executor.device),
        seed,
        named=encoders is not None,
        exact=exact,
        executor=executor,
    )
    notes: tuple[str, ...] = ()
    if specs is None:
        names, notes = available_encoders(data.modality)
        specs = list(names)
    if task != "classification":
        run = _Run([source, *references], source.fingerprint, plan, settings, started)
        contenders = [Contender(spec, encoder_name(spec)) for spec in specs]
        run.measure(contenders, None, progress)
        return run.by_scores(contenders)
    fingerprint = source.fingerprint
    n_first = shard_rows(FIRST_LOOK - 1, len(data)).stop
    if store is None or n_first * WORTH_A_LOOK > len(data):
        n_first = len(data)
    else:
        # what is looked at first stands first, so that a full look continues it
        first = stratified_rows(data.labels, len(data), n_first, seed)
        data = data.subset(np.r_[first, np.setdiff1d(np.arange(len(data)), first)])
        source = Source(data)
    if stop_regret is None:
        n_first = len(data)
    names = [encoder_name(spec) for spec in specs]
    foresight = Foresight(names, data.modality)
    contenders = [
        Contender(spec, name, known)
        for spec, name, known in zip(specs, names, foresight.known, strict=True)
    ]
    run = _Run([source, *references], fingerprint, plan, settings, started)
    search = Search(
        contenders,
        foresight,
        run.measure,
        n_first,
        len(data),
        float(np.unique(labels, return_counts=True)[1].max() / len(data)),
        stop_regret,
        budget,
        settings.device or "cpu",
        seed,
        progress,
        started,
    )
    before = search.outlook().accuracies.mean(axis=0)
    expected = dict(zip(names, before.tolist(), strict=True))

    def conclude(outlook: Outlook, stopped: str) -> Ranking:
        return run.conclude(search, outlook, expected, stopped, tolerance, prefer, notes)

    def tell(outlook: Outlook) -> None:
        if report is not None:
            report(conclude(outlook, "not yet"))

    stopped = search.run(tell)
    outlook = search.outlook()
    if not any(one.probed for one in outlook.contenders):
        return run.by_scores(contenders)
    return run.with_evidence(conclude(outlook, stopped), outlook, samples=samples)


def _check(
    tolerance: float, prefer: str, stop_regret: float | None, budget: float | None, seed: int
) -> None:
    """Refuse what is out of range."""
    if seed < 0:
        raise InputError(f"seed must not be negative, got {seed}; 0 is the default.")
    if not 0 <= tolerance < 1:
        raise InputError(
            f"tolerance must be a share from 0 to 1; got {tolerance}. 0.005 is half a point."
        )
    if prefer not in PREFERENCES:
        raise InputError(f"prefer must be one of {', '.join(PREFERENCES)}; got {prefer!r}.")
    if stop_regret is not None and not 0 <= stop_regret < 1:
        raise InputError(
            f"stop_regret must be a share from 0 to 1, or None to measure all; got {stop_regret}. "
            "0.003 is three tenths of a point."
        )
    if budget is not None and not budget > 0:
        raise InputError(f"budget must be seconds above 0, or None; got {budget}.")


@dataclass
class _Run:
    """What is ranked, with what it is compared, by what, and how features are computed."""

    sources: list[Source]
    fingerprint: str
    plan: MetricPlan
    settings: ExtractionSettings
    started: float
    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        self.spent["data set"] = time.perf_counter() - self.started

    @property
    def data(self) -> Dataset:
        return self.sources[0].dataset

    def measure(
        self,
        contenders: Sequence[Contender],
        n_shards: int | None,
        progress: ProgressCallback | None,
    ) -> None:
        """Add a look to each contender; with `n_shards` at the beginning of the data alone."""
        settings = replace(self.settings, n_shards=n_shards, progress=progress)
        # scores of regression and multi-label data are ordered without one
        probe = resolve_metric(PROBE) if self.data.task == "classification" else None
        specs = [one.spec for one in contenders]
        found = extract_together(self.sources, specs, settings)
        since = time.perf_counter()
        for done, (contender, (item, *others)) in enumerate(zip(contenders, found, strict=True)):
            since = self._note_time("features", since)
            if progress is not None:
                progress(f"scoring {item.identifier}", done, len(specs))
            reference = others[0] if others else None
            contender.looks.append(
                measure_candidate(item, reference, self.plan.measured, self.settings.seed, probe)
            )
            for one in (item, *others):
                one.release()
            since = self._note_time("scores", since)

    def _note_time(self, step: str, since: float) -> float:
        """Add what a step took; returns the time now."""
        now = time.perf_counter()
        self.spent[step] += now - since
        return now

    def _steps(self) -> dict[str, float]:
        """Seconds of each step; what is left of the whole is the choice itself."""
        choice = time.perf_counter() - self.started - sum(self.spent.values())
        return {**self.spent, "choice": choice}

    def by_scores(self, contenders: Sequence[Contender]) -> Ranking:
        """The ranking by the scores alone."""
        failed = [one.looks[-1].result for one in contenders if one.failed]
        late = "it was not measured: the budget was spent before. Allow more seconds."
        failed += [EncoderResult(one.name, error=late) for one in contenders if not one.looks]
        last = combine_scores(
            [one.looks[-1] for one in contenders if one.looks and not one.failed], self.plan
        )
        rows, ranked_by = order_by_scores(last, self.plan.asked, len(self.data), self.settings.seed)
        ranked = [row for row in rows if row.error is None]
        advice = _advice(ranked)
        return Ranking(
            self._about(),
            ranked_by,
            (*rows, *failed),
            advice,
            self.settings.seed,
            steps=self._steps(),
            versions=_versions(),
        )

    def conclude(
        self,
        search: Search,
        outlook: Outlook,
        before: Mapping[str, float],
        stopped: str,
        tolerance: float,
        prefer: str,
        notes: tuple[str, ...],
    ) -> Ranking:
        """The ranking by expected accuracy, with the verdict."""
        there, seed = outlook.contenders, self.settings.seed
        measured = combine_scores([one.looks[-1] for one in there if one.looks], self.plan)
        results = with_intervals(measured, self.plan.asked, seed)
        slowness = search.slowness
        candidates = [
            _candidate(one, results, before[one.name], search, slowness, len(self.data))
            for one in there
        ]
        rows, chosen, reason = judge(
            candidates, outlook.accuracies, tolerance=tolerance, prefer=prefer
        )
        assert chosen.expected is not None
        verdict = Verdict(
            chosen.encoder,
            reason,
            prefer,
            tolerance,
            chosen.expected.regret,
            outlook.foreign,
            len(search.contenders),
            sum(bool(one.probed) for one in there),
            stopped,
            time.perf_counter() - search.started,
            (*notes, *_notes(self.data, search, outlook)),
            loading_line(chosen.encoder, of_images=self.data.modality == "image"),
        )
        failed = [one.looks[-1].result for one in search.contenders if one.failed]
        return Ranking(
            self._about(),
            "expected accuracy after fine-tuning",
            (*rows, *failed),
            reason,
            seed,
            verdict,
            steps=self._steps(),
            versions=_versions(),
        )

    def with_evidence(self, ranking: Ranking, outlook: Outlook, *, samples: bool) -> Ranking:
        """The ranking with what the best encoders say of classes, and of samples if asked."""
        assert ranking.verdict is not None
        chosen = ranking.verdict.recommended
        found = {
            one.name: evidence
            for one in outlook.contenders
            if one.probed and (evidence := one.probed[-1].evidence) is not None
        }
        names = [chosen, *(row.encoder for row in ranking.ranked if row.encoder != chosen)]
        best = best_few([(name, found[name]) for name in names if name in found])
        return replace(
            ranking,
            confusion=confusion_of(best, self.data),
            samples=views_of(best, self.data, self.settings.seed) if samples else None,
        )

    def _about(self) -> DatasetSummary:
        data = self.data
        return DatasetSummary(
            name=data.name,
            split=data.split,
            task=data.require_labels()[0],
            n_samples=len(data),
            n_classes=data.n_classes,
            n_skipped=len(data.skipped),
            fingerprint=self.fingerprint,
            notes=data.notes,
        )


def _notes(data: Dataset, search: Search, outlook: Outlook) -> Iterator[str]:
    """What the verdict must be read with."""
    yield from search.foresight.remarks
    looks = [one.probed[-1] for one in outlook.contenders if one.probed]
    best = max(looks, key=lambda look: look.result.scores[PROBE].value)
    sure = 2 * np.sqrt(search.chance * (1 - search.chance) / best.n_kept)
    if best.result.scores[PROBE].value < search.chance + sure:
        yield (
            "no probe is surely better than naming the most frequent class always "
            f"({100 * search.chance:.1f} %): these samples hardly tell encoders apart. Add "
            "samples, or check the labels."
        )
    if data.modality == "text":
        yield (
            "how text encoders do after fine-tuning is not published: what a probe foretells of "
            "them is judged by images."
        )
    if outlook.foreign > FOREIGN:
        yield (
            "published results seem to say little about these data (probability "
            f"{outlook.foreign:.2f}): the probe decides nearly alone."
        )


def _candidate(
    contender: Contender,
    results: Mapping[str, EncoderResult],
    before: float,
    search: Search,
    slowness: float,
    n_samples: int,
) -> Candidate:
    """A contender with what its last look showed, or with its facts alone."""
    known, looks = contender.known, contender.probed
    assert known is not None
    result = EncoderResult(
        contender.name, n_parameters=known.n_parameters, feature_dim=known.feature_dim
    )
    if contender.looks:
        result = results[contender.looks[-1].result.encoder]
    points = tuple((look.n_kept, look.result.scores[PROBE].value) for look in looks)
    result = replace(
        result,
        license=known.license,
        family=known.family,
        curve=points if len({n for n, _ in points}) > 1 else (),
    )
    if looks and looks[-1].n_samples < n_samples:
        note = f"a first look: its scores are of {looks[-1].n_samples:,} of {n_samples:,} samples"
        result = replace(result, warnings=(*result.warnings, note))
    speed = result.samples_per_second
    return Candidate(
        result,
        probe=looks[-1].result.scores[PROBE].value if looks else None,
        n_probed=looks[-1].n_kept if looks else 0,
        n_results=known.n_results,
        seconds_per_sample=1 / speed if speed else slowness * search.seconds_per_sample(contender),
        permissive=known.license in PERMISSIVE,
        before=before,
    )


def _versions() -> dict[str, str]:
    """Versions of what was used."""
    loaded = [(name, sys.modules.get(name)) for name in PACKAGES]
    found = {name: getattr(module, "__version__", None) for name, module in loaded if module}
    return {"python": platform.python_version()} | {
        name: str(version) for name, version in found.items() if version is not None
    }


def _advice(rows: Sequence[EncoderResult]) -> str:
    """What to do when only scores are known, in one or two sentences."""
    if not rows:
        return "Nothing could be ranked: see the error of each encoder."
    best = rows[0]
    if len(rows) == 1:
        return f"{best.encoder} was the only encoder that could be scored: nothing to choose from."
    tied = ", ".join(row.encoder for row in rows[1:] if row.in_group)
    ahead = f"{best.encoder} comes first by its scores"
    if not tied:
        return f"{ahead}, and other samples of these data would not change that."
    return f"{ahead}. These data cannot tell it from: {tied}."
