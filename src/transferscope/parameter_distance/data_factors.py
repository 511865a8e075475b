"""What of a data set goes with parameter distance: domain gap, variance in classes, size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from transferscope.embedding import ClassMoments
from transferscope.errors import InputError
from transferscope.numerics import arrays, checks
from transferscope.results import DatasetFactors, TransferabilityForecast

if TYPE_CHECKING:
    import pandas as pd

Gap = Literal["frechet", "means"]
Variance = Literal["relative", "absolute"]

#: What the authors print, of ``ln T = domain_gap · G + intraclass_variance · V + log N + const``.
PUBLISHED = {
    "ResNet-50": (-0.26, 0.32, -0.61, 2.86),
    "ResNet-34": (-0.15, 0.25, -0.64, 2.31),
    "DenseNet-121": (-0.14, 0.28, -0.71, 2.76),
    "ViT-S": (-0.01, 0.08, -0.85, 2.76),
}
TERMS = ("domain_gap", "intraclass_variance", "log_n_samples", "constant")
_COLUMNS = ("domain_gap", "intraclass_variance", "n_samples", "transferability")
REMARK = (
    "The authors do not say how they scaled the predictors of the published coefficients. None of "
    "thirty-two scalings gives them on the published table; their constant suggests standardised "
    "predictors (the mean of ln T in the table is 2.84). Compare signs, not sizes."
)


def domain_gap(features: Any, reference_features: Any, kind: Gap = "frechet") -> float:
    r"""Distance between the features of a data set and those of a reference task.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
    reference_features : array of shape (n_reference, n_features)
        The same encoder's features of what it was pre-trained on, or the like.
    kind : {"frechet", "means"}
        Squared Fréchet distance of the Gaussians with their means μ, ν and covariances Σ, Ω,
        ``‖μ − ν‖² + tr Σ + tr Ω − 2 tr (Σ^½ Ω Σ^½)^½``; or its first term alone.

    Returns
    -------
    float
        Not negative, in squared units of the features; higher = further apart.

    Raises
    ------
    InputError
        If the numbers of features differ, a set has fewer than two rows, or the kind is unknown.
    FeatureError
        If an entry is not finite.

    Notes
    -----
    Cost: O(n d²) and O(d³). Covariances are divided by n. With fewer samples than features the
    Fréchet distance is too large; compare data sets of like size, or take ``"means"``. How the
    gaps of the published table were measured is not said: they are not comparable with these.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.parameter_distance import domain_gap
    >>> reference = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    >>> round(domain_gap(2 * reference, reference), 9)
    4.0
    >>> domain_gap(reference + 3, reference, "means")
    18.0

    References
    ----------
    Dowson & Landau, 1982; Heusel et al., NeurIPS 2017 (arXiv 1706.08500).
    """
    if kind not in ("frechet", "means"):
        raise InputError(f"a domain gap is frechet or means, got {kind!r}.")
    here = checks.features_matrix(features)
    there = checks.reference_matrix(reference_features, here)
    checks.finite(here, "features")
    sides = [arrays.to_numpy(arrays.as_float64(a)) for a in (here, there)]
    step = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    if kind == "means":
        return float(step @ step)
    roots, spread = [], 0.0
    for side in sides:
        centred = side - side.mean(axis=0)
        values, vectors = np.linalg.eigh(centred.T @ centred / len(side))
        values = np.maximum(values, 0.0)
        spread += float(values.sum())
        roots.append(np.sqrt(values)[:, None] * vectors.T)
    # tr (Σ^½ Ω Σ^½)^½ is the sum of the singular values of Ω^½ Σ^½: no root of a matrix that is
    # not symmetric
    shared = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return max(float(step @ step) + spread - 2 * shared, 0.0)


def intraclass_variance(features: Any, labels: Any, kind: Variance = "relative") -> float:
    """Mean variance of the features within the classes.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
    labels : array-like of shape (n_samples,)
    kind : {"relative", "absolute"}
        Share of the total variance; or the sum over the features, in their squared units.

    Returns
    -------
    float
        From 0 (every class is a point) to 1 (class means coincide) if relative; lower = the data
        set's classes are tighter. Classes weigh by their samples.

    Raises
    ------
    InputError
        If shapes disagree, fewer than two classes occur, or the kind is unknown.
    FeatureError
        If features are not finite or all the same.

    Notes
    -----
    Cost: one pass, O(n d²). The values of the published table (0.04 to 823) are not a share of
    anything; these are not comparable with them.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.parameter_distance import intraclass_variance
    >>> features = np.array([[0.0], [2.0], [4.0], [6.0]])
    >>> intraclass_variance(features, [0, 0, 1, 1]), intraclass_variance(
    ...     features, [0, 0, 1, 1], "absolute"
    ... )
    (0.2, 1.0)
    """
    if kind not in ("relative", "absolute"):
        raise InputError(f"an intra-class variance is relative or absolute, got {kind!r}.")
    matrix = checks.features_matrix(features)
    ids, _ = checks.class_labels(labels, int(matrix.shape[0]), matrix)
    moments = ClassMoments.from_arrays(matrix, ids)
    xp = arrays.namespace(moments.within_squares)
    within = float(xp.sum(moments.within_squares))
    if kind == "absolute":
        return within / moments.n_samples
    squares = xp.sum((moments.means - moments.mean) ** 2, axis=1)
    return within / (within + float(moments.counts @ squares))


def dataset_factors(
    features: Any,
    labels: Any,
    reference_features: Any = None,
    *,
    gap: Gap = "frechet",
    variance: Variance = "relative",
) -> DatasetFactors:
    """Domain gap, variance within the classes, and size of a data set.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
    labels : array-like of shape (n_samples,)
    reference_features : array of shape (n_reference, n_features), optional
        Without them there is no domain gap.
    gap : {"frechet", "means"}
        See `domain_gap`.
    variance : {"relative", "absolute"}
        See `intraclass_variance`.

    Returns
    -------
    DatasetFactors

    Raises
    ------
    InputError, FeatureError
        As `domain_gap` and `intraclass_variance`.

    Notes
    -----
    Cost: that of the two.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.parameter_distance import dataset_factors
    >>> found = dataset_factors(np.array([[0.0], [2.0], [4.0], [6.0]]), [0, 0, 1, 1])
    >>> found.n_samples, found.n_classes, found.intraclass_variance, found.domain_gap
    (4, 2, 0.2, None)
    """
    matrix = checks.features_matrix(features)
    n, d = map(int, matrix.shape)
    warnings = []
    distance = None
    if reference_features is not None:
        distance = domain_gap(matrix, reference_features, gap)
        m = int(checks.features_matrix(reference_features, "reference_features").shape[0])
        for side, size in (("samples", n), ("reference samples", m)):
            if gap == "frechet" and size <= d:
                warnings.append(f"{size} {side} for {d} features: the domain gap is too large")
    within = intraclass_variance(matrix, labels, variance)
    _, names = checks.class_labels(labels, n, matrix)
    return DatasetFactors(distance, within, n, len(names), gap, variance, tuple(warnings))


def published_runs() -> pd.DataFrame:
    """The twelve runs of a ResNet-50 that the authors print.

    Returns
    -------
    DataFrame
        One row per data set: ``domain_gap``, ``intraclass_variance``, ``n_samples`` and
        ``transferability``.

    Notes
    -----
    How gap and variance were measured and scaled is not published.

    Examples
    --------
    >>> from transferscope.parameter_distance import published_runs
    >>> published_runs().loc["CIFAR-10", "transferability"].item()
    7.79

    References
    ----------
    Chen et al., AAAI 2024 (arXiv 2212.00399).
    """
    import pandas as pd

    table = resources.files("transferscope.parameter_distance") / "published_runs.csv"
    with table.open(encoding="utf-8") as file:
        return pd.read_csv(file, index_col="dataset")


def predict_transferability(
    factors: DatasetFactors | Mapping[str, Any] | None = None,
    records: pd.DataFrame | Iterable[Mapping[str, Any]] | None = None,
) -> TransferabilityForecast:
    """Predict the transferability of a network's weights from factors of the data set.

    Fits ``ln T = a G + b V + c ln N + d`` to records by ordinary least squares.

    Parameters
    ----------
    factors : DatasetFactors or mapping, optional
        Domain gap G, intra-class variance V and number of samples N of the new data set, measured
        as those of the records were. None for the regression alone.
    records : DataFrame or mappings, optional
        Earlier runs of one network: ``domain_gap``, ``intraclass_variance``, ``n_samples``,
        ``transferability``. By default the twelve that the authors print.

    Returns
    -------
    TransferabilityForecast
        With 95 % intervals: of the coefficients, and for a new data set.

    Raises
    ------
    InputError
        If a column is missing, a number is not finite or (N, T) not positive, or fewer than five
        records are given, or the predictors do not vary independently.

    Notes
    -----
    A regression on a dozen rows: outside of the range of the records it knows nothing, and a
    warning names the factor.

    Examples
    --------
    >>> from transferscope.parameter_distance import predict_transferability
    >>> new = {"domain_gap": 1.0, "intraclass_variance": 0.2, "n_samples": 3000}
    >>> forecast = predict_transferability(new)
    >>> round(forecast.coefficients["log_n_samples"]["value"], 2), forecast.n_records
    (-0.54, 12)
    >>> forecast.low < forecast.transferability < forecast.high
    True

    References
    ----------
    Chen et al., AAAI 2024 (arXiv 2212.00399).
    """
    import pandas as pd
    import statsmodels.api

    if records is None:
        table = published_runs()
    elif isinstance(records, pd.DataFrame):
        table = records
    else:
        table = pd.DataFrame([dict(record) for record in records])
    columns = {name: _column(table, name) for name in _COLUMNS}
    n = len(table)
    if n <= len(TERMS):
        raise InputError(
            f"a regression with {len(TERMS)} coefficients needs at least {len(TERMS) + 1} "
            f"records, got {n}."
        )
    design = _design(columns)
    if np.linalg.matrix_rank(design / np.abs(design).max(axis=0)) < len(TERMS):
        raise InputError(
            "gap, variance and size do not vary independently in the records (one is constant or "
            "follows from the others); add runs on other data sets."
        )
    fit = statsmodels.api.OLS(np.log(columns["transferability"]), design).fit()
    intervals = fit.conf_int(0.05)
    coefficients = {
        term: {
            "value": float(fit.params[i]),
            "low": float(intervals[i, 0]),
            "high": float(intervals[i, 1]),
            "p_value": float(fit.pvalues[i]),
        }
        for i, term in enumerate(TERMS)
    }
    predicted: list[float | None] = [None, None, None]
    warnings: list[str] = []
    if factors is not None:
        new, warnings = _new_point(factors, columns)
        found = fit.get_prediction(_design(new)).summary_frame(alpha=0.05)
        # far from the records the exponential of a bound may leave what a number can hold
        exponents = found[["mean", "obs_ci_lower", "obs_ci_upper"]].iloc[0]
        predicted = [math.exp(x) if x < 700 else None for x in exponents]
        if None in predicted:
            warnings.append("a bound is beyond all numbers: the new data set is too far out")
    return TransferabilityForecast(
        transferability=predicted[0],
        low=predicted[1],
        high=predicted[2],
        coefficients=coefficients,
        r_squared=float(fit.rsquared),
        n_records=n,
        published={
            network: dict(zip(TERMS, values, strict=True)) for network, values in PUBLISHED.items()
        },
        remark=REMARK,
        warnings=tuple(warnings),
    )


def _column(table: pd.DataFrame, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    if name not in table.columns:
        raise InputError(f"records must have the columns {', '.join(_COLUMNS)}; {name} is missing.")
    try:
        values = np.asarray(table[name], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} of the records must be numbers ({error}).") from error
    if not np.all(np.isfinite(values)):
        raise InputError(f"{name} of the records must be finite; drop incomplete runs.")
    if name in ("n_samples", "transferability") and not np.all(values > 0):
        raise InputError(f"{name} of the records must be positive, got {values.min():g}.")
    return values


def _design(columns: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    gap, variance = columns["domain_gap"], columns["intraclass_variance"]
    return np.column_stack([gap, variance, np.log(columns["n_samples"]), np.ones(len(gap))])


def _new_point(
    factors: DatasetFactors | Mapping[str, Any], columns: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The factors as columns of one row, and which lie outside of the records."""
    new: dict[str, Any] = {}
    warnings = []
    for name in _COLUMNS[:3]:
        given = factors.get(name) if isinstance(factors, Mapping) else getattr(factors, name)
        if not isinstance(given, int | float) or not math.isfinite(given):
            raise InputError(
                f"{name} must be a finite number, got {given!r}"
                + ("; give a reference data set." if name == "domain_gap" else ".")
            )
        if name == "n_samples" and given <= 0:
            raise InputError(f"n_samples must be positive, got {given}.")
        low, high = float(columns[name].min()), float(columns[name].max())
        if not low <= given <= high:
            warnings.append(
                f"{name} {given:g} lies outside of the records ({low:g} to {high:g}): the "
                "prediction is an extrapolation"
            )
        new[name] = np.array([float(given)])
    return new, warnings
