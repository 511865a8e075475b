"""Scores that know nothing of the data set, to measure other scores against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from transferscope.evaluation import Accuracies, Scores
from transferscope.knowledge._fit import N_FACTORS, result_matrix
from transferscope.knowledge._model import KINDS
from transferscope.knowledge._names import find_known
from transferscope.knowledge._tables import encoders_of, published_results, read_model

#: Fewer encoders with a fact make no baseline.
_FEWEST = 3


def with_baselines(scores: Scores, accuracy: Accuracies, *, benchmark: str = "") -> Scores:
    """Scores with the baselines of their encoders beside them.

    Parameters
    ----------
    scores : mapping of data set to metric to encoder to float
    accuracy : mapping of data set to encoder to float
        Whose encoders the baselines are of.
    benchmark : str
        Published table whose names of encoders these are; empty for names of this package.

    Returns
    -------
    mapping of data set to metric to encoder to float
        With ``expectation``, ``imagenet_accuracy`` and ``n_parameters`` where at least three
        encoders have them; a metric of the same name keeps its place. The expectation has seen no
        result on these data sets: where there are published ones, it is learned anew without.
    """
    names = list(dict.fromkeys(name for row in accuracy.values() for name in row))
    found = _baselines(names, set(accuracy), f"{benchmark}/" if benchmark else "")
    together: dict[str, dict[str, Mapping[str, float]]] = {}
    for dataset, metrics in scores.items():
        together[dataset] = dict(metrics)
        for baseline, values in found.items():
            known = {e: values[e] for e in accuracy.get(dataset, {}) if e in values}
            if known:
                together[dataset].setdefault(baseline, known)
    return together


def _baselines(names: list[str], datasets: set[str], prefix: str) -> dict[str, dict[str, float]]:
    """Baseline -> encoder, as the caller names it -> value."""
    known = {name: one for name in names if (one := find_known(prefix + name)) is not None}
    if len(known) < _FEWEST:
        return {}
    modality = Counter(m for one in known.values() for m in one.modalities).most_common(1)[0][0]
    if any(one.task in datasets for one in published_results()):
        rest = result_matrix(modality).keep(lambda _, task, __: task not in datasets)
        model = rest.fit(n_factors=N_FACTORS[modality], at_large=False)
    else:
        model = read_model(modality)
    standing, _ = model.standing(KINDS.index("fine-tuned"))
    row = {one.name: i for i, one in enumerate(encoders_of(modality))}
    found = {
        "expectation": {n: float(standing[row[e.name]]) for n, e in known.items() if e.name in row},
        "imagenet_accuracy": {
            n: e.accuracies["imagenet"] for n, e in known.items() if "imagenet" in e.accuracies
        },
        "n_parameters": {
            n: float(e.n_parameters) for n, e in known.items() if e.n_parameters is not None
        },
    }
    return {
        baseline: values
        for baseline, values in found.items()
        if len(values) >= _FEWEST and len(set(values.values())) > 1
    }
