"""Energy: how large the logits are, a label-free sign of how familiar the data are to a model.

Liu, Wang, Owens & Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020; as a score of
transferability in Gholami, Akbari, Wang, Kamranian & Zhang, "ETran", ICCV 2023.
"""

from __future__ import annotations

import math

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import EVERYTHING, About, Behaviour, Metric
from transferscope.numerics import arrays, checks
from transferscope.numerics.arrays import Array, ArrayLike


def energy(logits: ArrayLike, *, lowest: float = 1.0) -> float:
    """Mean negative energy ``ln Σ_z exp(logit_z)`` of the samples. Labels play no part.

    Parameters
    ----------
    logits : array of shape (n_samples, n_source_classes)
        Output of the encoder's own head before softmax; features where there is no head.
    lowest : float
        Average only this share of the samples, those of the smallest value: in (0, 1].

    Returns
    -------
    float
        Unbounded, natural logarithm; higher is better. Comparable between encoders only as far as
        their logits are on one scale.

    Raises
    ------
    InputError
        If the logits are no matrix or the share is not in (0, 1].
    FeatureError
        If a logit is not finite.

    Notes
    -----
    Cost: one pass, O(n C_s). On features it is a weak score: it grows with their scale and their
    number. The share is rounded down to whole samples, but to one at least.

    The public code of ETran takes a percentage: its default of 0.5 keeps half a percent of the
    samples, ``lowest=0.005`` here, and gives NaN for fewer than 200 samples.

    Examples
    --------
    >>> from transferscope.metrics import energy
    >>> logits = [[0.0, 0.0], [3.0, 3.0]]
    >>> round(energy(logits), 6), round(energy(logits, lowest=0.5), 6)
    (2.193147, 0.693147)

    References
    ----------
    Liu et al., NeurIPS 2020 (arXiv 2010.03759); Gholami et al., ICCV 2023 (arXiv 2308.02027).
    """
    matrix = checks.features_matrix(logits, "logits")
    checks.finite(matrix, "logits")
    return _lowest_mean(_log_sum_exp(matrix), lowest)[0]


def measure(embedding: Embedding, lowest: float = 1.0) -> Measurement:
    """Energy of an embedding: of its source logits, or of its features where there are none."""
    logits = embedding.source.logits if "source_logits" in embedding.inputs else None
    warnings = embedding.shared_warnings(of_features=logits is None)
    if logits is not None:
        checks.finite(logits, "source_logits")
        values = _log_sum_exp(logits)
    else:
        embedding.check_features()
        values = _log_sum_exp(embedding.features)
        warnings.append("no source logits: energy of the features, which does not compare encoders")
    xp = arrays.namespace(values)
    value, largest = _lowest_mean(values, lowest)

    def influence() -> Array:
        kept = xp.take(values, embedding.influence_rows)
        kept = xp.where(kept < largest, kept, largest)
        scale = math.sqrt(embedding.n_samples / embedding.n_kept) / lowest
        return (kept - xp.mean(kept)) * scale

    return Measurement(value, influence, tuple(warnings))


def _log_sum_exp(logits: Array) -> Array:
    """``ln Σ_z exp(logit_z)`` of each row, (n,) float64."""
    xp = arrays.namespace(logits)
    parts = []
    for part in arrays.chunks(logits):
        rows = arrays.as_float64(logits[part, :])
        top = xp.max(rows, axis=1)
        parts.append(top + xp.log(xp.sum(xp.exp(rows - top[:, None]), axis=1)))
    return xp.concat(parts)


def _lowest_mean(values: Array, lowest: float) -> tuple[float, float]:
    """Mean of the given share of smallest values, and the largest of those."""
    if not 0 < lowest <= 1:
        raise InputError(f"lowest must be a share in (0, 1], got {lowest}.")
    xp = arrays.namespace(values)
    count = max(1, int(lowest * values.shape[0] + 1e-9))
    kept = xp.sort(values)[:count]
    return float(xp.mean(kept)), float(kept[-1])


ABOUT = About(
    "mean log-sum-exp of the head's logits; label-free", "unbounded", "Gholami et al., ICCV 2023"
)
BEHAVIOUR = Behaviour(
    prefers_separable=False,
    changes_with=("rotation", "shift", "scale"),
    warns_of=("n < d", "constant column", "singleton class"),
)
ENERGY = Metric(
    "energy", measure, ABOUT, tasks=EVERYTHING, needs_targets=False, behaviour=BEHAVIOUR
)
