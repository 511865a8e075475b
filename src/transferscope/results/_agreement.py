"""How well scores foresaw fine-tuned accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from transferscope.results._record import dump

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


@dataclass(frozen=True)
class Agreement:
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

    def to_json(self) -> str:
        """JSON text: ``per_dataset`` and ``average`` hold plain numbers by measure.

        Beside each stand ``<measure>_low`` and ``<measure>_high``; a number that is null has its
        ``<measure>_reason``. ``comparisons``, ``warnings`` and ``seed`` follow.
        """
        record = {
            "per_dataset": {
                dataset: {metric: _flat(found) for metric, found in rows.items()}
                for dataset, rows in self.per_dataset.items()
            },
            "average": {metric: _flat(found) for metric, found in self.average.items()},
            "comparisons": [asdict(row) for row in self.comparisons],
            "warnings": list(self.warnings),
            "seed": self.seed,
        }
        return dump(record)

    def to_frame(self) -> pd.DataFrame:
        """One row per data set, metric and measure: value, low, high, reason.

        The rows of the averages come last, their data set is called ``average``.
        """
        import pandas as pd

        rows = [
            (dataset, metric, measure, *(m.value, m.low, m.high, m.reason))
            for dataset, found in [*self.per_dataset.items(), ("average", self.average)]
            for metric, measures in found.items()
            for measure, m in measures.items()
        ]
        columns = ["dataset", "metric", "measure", "value", "low", "high", "reason"]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:6], float))


def _flat(measures: Mapping[str, Estimate]) -> dict[str, float | str | None]:
    flat: dict[str, float | str | None] = {}
    for name, measured in measures.items():
        flat |= {name: measured.value}
        flat |= {f"{name}_low": measured.low, f"{name}_high": measured.high}
        if measured.reason:
            flat[f"{name}_reason"] = measured.reason
    return flat
