"""Rank pre-trained encoders for a data set: extract, score, and say how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

from transferscope.datasets import open_dataset, open_reference
from transferscope.encoders import expand_encoders
from transferscope.extraction import (
    Encoders,
    ExtractionSettings,
    Layers,
    Store,
    extract_together,
)
from transferscope.metrics import DEFAULT_METRICS, plan_metrics
from transferscope.progress import ProgressCallback
from transferscope.ranking._candidates import Candidate, combine_scores, measure_candidate
from transferscope.ranking._order import order_candidates
from transferscope.results import Ranking


def rank(  # noqa: PLR0913  what to rank, by what, and how it is computed
    dataset: object,
    encoders: Encoders,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    *,
    layers: Layers = "last",
    reference: object = None,
    store: Store = "cache",
    batch_size: int = 64,
    device: str | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Ranking:
    """Rank pre-trained encoders by how well they are expected to transfer to a data set.

    Each encoder sees the data once. Its features are kept in the store, so that a run that was
    interrupted continues, and one with more encoders or metrics computes only what is new.

    Parameters
    ----------
    dataset : Dataset, or what `open_dataset` takes
        An image folder, ``.npz``, ``.csv``, ``.parquet``, ``hf/<id>``, ``sklearn/digits``, or a
        Python object. Its part, columns, task and sample are chosen by `open_dataset`.
    encoders : str, Encoder, torch.nn.Module, or sequence of these
        Such as ``"mini/all"`` or ``["timm/resnet18", "hf/facebook/dinov2-base"]``; several names
        may be joined by commas. See ``transferscope.encoders``.
    metrics : str or sequence of str
        Names from ``transferscope.list_metrics()``, or ``"all"``. Those that compare encoders
        (`ncti`, `etran`) are put together from their parts, which are scaled over the candidates.
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
        Of subsampling and resampling; the same seed gives the same ranking.
    progress : callable, optional
        Called as ``progress(text, done, total)`` while it works.

    Returns
    -------
    Ranking
        Best first: ranked by the mean of the metrics' ranks (``consensus``), with a 95 % interval
        for every score, and for every encoder the probability of being best and whether the data
        can tell it from the first. An encoder that failed stands last, with its error.

    Raises
    ------
    MissingExtraError
        If torch is not installed.
    InputError
        If `layers` or `store` is none of the above, or two encoders have one name.
    UnknownNameError
        If there is no encoder or metric of a name.
    StoreError
        If the store cannot be written.
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
    specs = expand_encoders(encoders)
    if progress is not None:
        progress("reading the data set", 0, 0)
    data = open_dataset(dataset)
    datasets = [data] if reference is None else [data, open_reference(reference)]
    candidates: list[Candidate] = []
    settings = ExtractionSettings(store, layers, batch_size, device, seed, progress)
    for item, *references in extract_together(datasets, specs, settings):
        if progress is not None:
            progress(f"scoring {item.identifier}", len(candidates), len(specs))
        reference_item = references[0] if references else None
        candidates.append(measure_candidate(item, reference_item, plan.measured, seed))
        for one in (item, *references):
            one.release()
    combine_scores([c for c in candidates if not c.failed], plan)
    return order_candidates(item.source, candidates, plan.asked, seed)
