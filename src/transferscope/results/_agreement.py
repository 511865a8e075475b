"""How well scores foresaw fine-tuned accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transferscope.results._record import Record, from_plain, to_plain

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Estimate:
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


@dataclass(frozen=True, repr=False)
class Agreement(Record):
    """How well scores foresee fine-tuned accuracy.

    Attributes
    ----------
    per_dataset : dict of data set to metric to measure to Estimate
    average : dict of metric to measure to Estimate
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

    per_dataset: dict[str, dict[str, dict[str, Estimate]]]
    average: dict[str, dict[str, Estimate]]
    comparisons: tuple[Comparison, ...]
    scores: dict[str, dict[str, dict[str, float]]]
    accuracy: dict[str, dict[str, float]]
    warnings: tuple[str, ...] = ()
    seed: int = 0

    def __getitem__(self, key: tuple[str, str]) -> dict[str, Estimate]:
        dataset, metric = key
        return self.per_dataset[dataset][metric]

    @property
    def headline(self) -> str:
        """The metric of the highest mean weighted tau."""
        taus = {
            metric: measures["weighted_tau"].value
            for metric, measures in self.average.items()
            if "weighted_tau" in measures
        }
        known = {metric: tau for metric, tau in taus.items() if tau is not None}
        data_sets = f"{len(self.per_dataset)} data set{'s' if len(self.per_dataset) > 1 else ''}"
        if not known:
            return f"No metric has a weighted tau over {data_sets}."
        best = max(known, key=lambda metric: known[metric])
        return f"{best} agrees best: mean weighted tau {known[best]:.3f} over {data_sets}."

    def _to_plain(self) -> object:
        """As all records, but with plain numbers by measure.

        Next to each are ``<measure>_low`` and ``<measure>_high``; a number that is null has its
        ``<measure>_reason``.
        """
        plain = to_plain(self)
        assert isinstance(plain, dict)
        return plain | {
            "per_dataset": {
                dataset: {metric: _flat(found) for metric, found in rows.items()}
                for dataset, rows in self.per_dataset.items()
            },
            "average": {metric: _flat(found) for metric, found in self.average.items()},
        }

    @classmethod
    def _from_plain(cls, plain: object) -> Agreement:
        if isinstance(plain, dict) and {"per_dataset", "average"} <= plain.keys():
            plain = plain | {
                "per_dataset": {
                    dataset: {metric: _nested(found) for metric, found in rows.items()}
                    for dataset, rows in plain["per_dataset"].items()
                },
                "average": {metric: _nested(found) for metric, found in plain["average"].items()},
            }
        record = from_plain(cls, plain, cls.__name__)
        assert isinstance(record, cls)
        return record

    def to_frame(self) -> pd.DataFrame:
        """One row per data set, metric and measure: value, low, high, reason.

        The rows of the averages come last, their data set is called ``average``.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        rows = [
            (dataset, metric, measure, *(m.value, m.low, m.high, m.reason))
            for dataset, found in [*self.per_dataset.items(), ("average", self.average)]
            for metric, measures in found.items()
            for measure, m in measures.items()
        ]
        columns = ["dataset", "metric", "measure", "value", "low", "high", "reason"]
        kinds = dict.fromkeys(columns, "string") | dict.fromkeys(columns[3:6], "float64")
        return pd.DataFrame(rows, columns=columns).astype(kinds)


def _flat(measures: Mapping[str, Estimate]) -> dict[str, float | str | None]:
    flat: dict[str, float | str | None] = {}
    for name, measured in measures.items():
        flat |= {name: measured.value}
        flat |= {f"{name}_low": measured.low, f"{name}_high": measured.high}
        if measured.reason:
            flat[f"{name}_reason"] = measured.reason
    return flat


def _nested(flat: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Estimates as `to_plain` gives them, from what `_flat` gave."""
    ends = ("_low", "_high", "_reason")
    names = [name for name in flat if not name.endswith(ends)]
    return {
        name: {
            "value": flat[name],
            "low": flat.get(f"{name}_low"),
            "high": flat.get(f"{name}_high"),
            "reason": flat.get(f"{name}_reason", ""),
        }
        for name in names
    }
