"""Prediction of the transferability of weights from properties of the data set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from transferscope.errors import InputError
from transferscope.results import DatasetFactors, TransferabilityForecast

if TYPE_CHECKING:
    import pandas as pd

Column: TypeAlias = npt.NDArray[np.float64]

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
    "The authors do not write how they scaled the predictors of the published coefficients. None "
    "of thirty-two scalings gives them on the published table; their constant suggests "
    "standardised predictors (the mean of ln T in the table is 2.84). Compare signs, not sizes."
)


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
    factors: DatasetFactors | Mapping[str, object] | None = None,
    records: pd.DataFrame | Iterable[Mapping[str, object]] | None = None,
) -> TransferabilityForecast:
    """Predict the transferability of a network's weights from factors of the data set.

    Fits ``ln T = a G + b V + c ln N + d`` to records by ordinary least squares.

    Parameters
    ----------
    factors : DatasetFactors or mapping, optional
        Domain gap G, intra-class variance V and number of samples N of the new data set, measured
        like those of the records. None for the regression alone.
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
            f"records must be at least {len(TERMS) + 1} for a regression with {len(TERMS)} "
            f"coefficients; got {n}. Add runs on other data sets."
        )
    design = _design(columns)
    if np.linalg.matrix_rank(design / np.abs(design).max(axis=0)) < len(TERMS):
        raise InputError(
            "records must have gap, variance and size that vary independently; one is constant or "
            "follows from the others. Add runs on other data sets."
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


def _column(table: pd.DataFrame, name: str) -> Column:
    if name not in table.columns:
        raise InputError(
            f"records must have the columns {', '.join(_COLUMNS)}; {name} is missing. Add it."
        )
    try:
        values = np.asarray(table[name], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} of the records must be numbers ({error}). Correct them."
        ) from error
    if not np.all(np.isfinite(values)):
        raise InputError(f"{name} of the records must be finite. Drop incomplete runs.")
    if name in ("n_samples", "transferability") and not np.all(values > 0):
        raise InputError(
            f"{name} of the records must be positive; got {values.min():g}. Correct it."
        )
    return values


def _design(columns: Mapping[str, Column]) -> Column:
    gap, variance = columns["domain_gap"], columns["intraclass_variance"]
    return np.column_stack([gap, variance, np.log(columns["n_samples"]), np.ones(len(gap))])


def _new_point(
    factors: DatasetFactors | Mapping[str, object], columns: Mapping[str, Column]
) -> tuple[dict[str, Column], list[str]]:
    """The factors as columns of one row, and which lie outside of the records."""
    new: dict[str, Column] = {}
    warnings = []
    for name in _COLUMNS[:3]:
        given = factors.get(name) if isinstance(factors, Mapping) else getattr(factors, name)
        if not isinstance(given, int | float) or not math.isfinite(given):
            raise InputError(
                f"{name} must be a finite number; got {given!r}. "
                + ("Give a reference data set." if name == "domain_gap" else "Correct it.")
            )
        if name == "n_samples" and given <= 0:
            raise InputError(f"n_samples must be positive; got {given}. Correct it.")
        low, high = float(columns[name].min()), float(columns[name].max())
        if not low <= given <= high:
            warnings.append(
                f"{name} {given:g} lies outside of the records ({low:g} to {high:g}): the "
                "prediction is an extrapolation"
            )
        new[name] = np.array([float(given)])
    return new, warnings
