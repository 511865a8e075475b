"""How metrics compare: agreement with accuracy, and how far that holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transferscope.results._agreement import Agreement, Estimate
from transferscope.results._record import Record

if TYPE_CHECKING:
    import pandas as pd

#: What the name of a metric ends in that was measured after potential-energy decline.
PED = "+ped"
#: Cases of `Robustness` beside those that leave one encoder out.
ALL, SMALLER, ALIKE = "all", "without the largest", "of like size"
#: What the cases that leave one encoder out begin with.
WITHOUT = "without "


@dataclass(frozen=True)
class Robustness:
    """Agreement of one metric over a part of the encoders.

    Attributes
    ----------
    case : str
        ``"all"``; ``"without the largest"`` quarter of the encoders by parameters; ``"of like
        size"``, the mean within thirds of the encoders by parameters; or ``"without <encoder>"``.
    metric : str
    weighted_tau : float or None
        Mean over the data sets where it is defined; None where there is none.
    n_encoders : int
        Of the case.
    """

    case: str
    metric: str
    weighted_tau: float | None
    n_encoders: int


@dataclass(frozen=True)
class SamplePoint:
    """Agreement of one metric that was computed of a part of the samples.

    Attributes
    ----------
    metric : str
    n_samples : int or None
        Of each data set; None for all samples.
    weighted_tau, low, high : float or None
        Mean over the data sets, and its 95 % interval.
    """

    metric: str
    n_samples: int | None
    weighted_tau: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, repr=False)
class MetricStudy(Record):
    """Whether metrics foresee fine-tuned accuracy, and how far that holds.

    Attributes
    ----------
    agreement : Agreement
        Of all scores, with those of baselines beside them.
    robustness : tuple of Robustness
    correlation : dict of metric to metric to float or None
        Spearman's correlation of the scores of two metrics, mean over the data sets.
    curves : tuple of SamplePoint
        By the number of samples; empty where only one was tried.
    """

    agreement: Agreement
    robustness: tuple[Robustness, ...]
    correlation: dict[str, dict[str, float | None]]
    curves: tuple[SamplePoint, ...] = ()

    @property
    def headline(self) -> str:
        """The metric of the highest mean weighted tau."""
        return self.agreement.headline

    @property
    def metrics(self) -> list[str]:
        """Names of metrics and baselines, the highest mean weighted tau first."""
        taus = {m: found["weighted_tau"].value for m, found in self.agreement.average.items()}
        return sorted(taus, key=lambda name: -(-2.0 if (tau := taus[name]) is None else tau))

    def tau(self, case: str, metric: str) -> float | None:
        """Mean weighted tau of a metric in a case of `robustness`; None where it has none.

        Parameters
        ----------
        case, metric : str

        Returns
        -------
        float or None
        """
        found = (one for one in self.robustness if (one.case, one.metric) == (case, metric))
        return next((one.weighted_tau for one in found), None)

    def leaving_one_out(self, metric: str) -> tuple[float | None, float | None]:
        """Lowest and highest mean weighted tau of a metric when any one encoder is left out.

        Parameters
        ----------
        metric : str

        Returns
        -------
        low, high : float or None
        """
        taus = [
            one.weighted_tau
            for one in self.robustness
            if one.metric == metric
            and one.case not in (ALL, SMALLER, ALIKE)
            and one.weighted_tau is not None
        ]
        return min(taus, default=None), max(taus, default=None)

    def to_frame(self) -> pd.DataFrame:
        """One row per metric, best first: measures with the interval of tau, and robustness.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        rows = []
        for metric in self.metrics:
            measures = self.agreement.average[metric]
            tau = measures["weighted_tau"]
            low, high = self.leaving_one_out(metric)
            rows.append(
                {
                    "weighted_tau": tau.value,
                    "weighted_tau_low": tau.low,
                    "weighted_tau_high": tau.high,
                    **{name: measures[name].value for name in measures if name != "weighted_tau"},
                    "without_largest": self.tau(SMALLER, metric),
                    "of_like_size": self.tau(ALIKE, metric),
                    "leave_one_out_low": low,
                    "leave_one_out_high": high,
                }
            )
        frame = pd.DataFrame(rows, index=pd.Index(self.metrics, name="metric"))
        return frame.astype("float64")

    def ped_frame(self) -> pd.DataFrame:
        """What PED changes: weighted tau of metrics without and with it, and the difference.

        Returns
        -------
        pandas.DataFrame
            One row per data set and metric that was measured both ways, and of the average.
        """
        import pandas as pd

        per_dataset = {**self.agreement.per_dataset, "average": self.agreement.average}
        rows = [
            (dataset, metric, plain, moved, moved - plain)
            for dataset, found in per_dataset.items()
            for metric in self.metrics
            if (plain := _tau_in(found, metric)) is not None
            and (moved := _tau_in(found, f"{metric}{PED}")) is not None
        ]
        columns = ["dataset", "metric", "weighted_tau", "with_ped", "change"]
        kinds = dict.fromkeys(columns[:2], "string") | dict.fromkeys(columns[2:], "float64")
        return pd.DataFrame(rows, columns=columns).astype(kinds)

    def correlation_frame(self) -> pd.DataFrame:
        """Correlation of the scores of metrics, one row and one column per metric.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        frame = pd.DataFrame.from_dict(self.correlation, orient="index", columns=self.metrics)
        return frame.loc[self.metrics].astype("float64").rename_axis("metric")

    def robustness_frame(self) -> pd.DataFrame:
        """One row per case and a column per metric.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        rows: dict[str, dict[str, float | None]] = {}
        for one in self.robustness:
            rows.setdefault(one.case, {})[one.metric] = one.weighted_tau
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=self.metrics)
        return frame.astype("float64").rename_axis("case")

    def curves_frame(self) -> pd.DataFrame:
        """One row per metric and number of samples.

        Returns
        -------
        pandas.DataFrame
        """
        from transferscope.results._record import frame_of

        return frame_of(SamplePoint, self.curves)


def _tau_in(found: Mapping[str, Mapping[str, Estimate]], metric: str) -> float | None:
    return found[metric]["weighted_tau"].value if metric in found else None
