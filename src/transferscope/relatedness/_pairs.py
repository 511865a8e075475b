"""Several targets under several references: does the bound go with what is reached?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from transferscope.errors import InputError
from transferscope.results import Relatedness, RelatednessPair, RelatednessPairs

#: Fewer pairs show no correlation.
FEWEST = 3


def compare_pairs(results: Mapping[str, Mapping[str, Relatedness]]) -> RelatednessPairs:
    """Hold bounds against what heads reach, over pairs of reference and target.

    Parameters
    ----------
    results : mapping of reference to target to Relatedness
        As `task_relatedness` gives them; the names of references may as well be those of encoders,
        such as one before and after fine-tuning.

    Returns
    -------
    RelatednessPairs

    Raises
    ------
    InputError
        If there is no pair.

    Notes
    -----
    Bounds of different steepness are compared as they are; give all the same `tau`, or none.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.relatedness import compare_pairs, task_relatedness
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(120) % 2
    >>> def features(apart):
    ...     return rng.standard_normal((120, 4)) + apart * np.eye(4)[labels]
    >>> known = {"reference_features": features(4), "reference_labels": labels}
    >>> found = compare_pairs({"near": {
    ...     f"{apart}": task_relatedness(features(apart), labels, **known) for apart in (4, 2, 1)}})
    >>> [pair.target for pair in found.pairs], found.correlation["target_loss"]["spearman"]
    (['4', '2', '1'], 1.0)
    """
    pairs = tuple(
        RelatednessPair(reference, target, one.bound, one.target_loss, one.target_accuracy)
        for reference, row in results.items()
        for target, one in row.items()
    )
    if not pairs:
        raise InputError("there must be at least one pair of reference and target; got none.")
    measures = ("target_loss", "target_accuracy")
    return RelatednessPairs(
        pairs,
        {name: _correlations([(p.bound, getattr(p, name)) for p in pairs]) for name in measures},
    )


def _correlations(points: list[tuple[float, float | None]]) -> dict[str, float | None]:
    import scipy.stats

    known = np.array([(x, y) for x, y in points if y is not None])
    if len(known) < FEWEST or any(np.ptp(column) == 0 for column in known.T):
        return {"spearman": None, "pearson": None}
    spearman = float(scipy.stats.spearmanr(known[:, 0], known[:, 1]).statistic)
    pearson = float(scipy.stats.pearsonr(known[:, 0], known[:, 1]).statistic)
    return {
        "spearman": spearman if math.isfinite(spearman) else None,
        "pearson": pearson if math.isfinite(pearson) else None,
    }
