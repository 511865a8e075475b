"""The table of metrics; what a row says stands in the file that computes it."""

from __future__ import annotations

import difflib

from transferscope.errors import UnknownNameError
from transferscope.metrics._combined import ETRAN, NCTI
from transferscope.metrics._energy import ENERGY
from transferscope.metrics._frechet import FRECHET
from transferscope.metrics._gbc import GBC
from transferscope.metrics._h_score import H_SCORE, REGULARIZED_H_SCORE
from transferscope.metrics._knn import KNN
from transferscope.metrics._lda import LDA
from transferscope.metrics._leep import LEEP
from transferscope.metrics._lfc import LFC
from transferscope.metrics._linear_mse import LINEAR_MSE
from transferscope.metrics._linear_probe import LINEAR_PROBE
from transferscope.metrics._logistic_probe import LOGISTIC_PROBE
from transferscope.metrics._logme import LOGME
from transferscope.metrics._metric import Metric
from transferscope.metrics._nce import NCE
from transferscope.metrics._ncti import NCTI_GEOMETRY, NCTI_NEAREST_CENTER, NCTI_VARIABILITY
from transferscope.metrics._nleep import NLEEP
from transferscope.metrics._otce import OT_NCE, OTCE
from transferscope.metrics._pactran import PACTRAN_GAUSSIAN
from transferscope.metrics._pactran_source import PACTRAN_DIRICHLET, PACTRAN_GAMMA
from transferscope.metrics._parc import PARC
from transferscope.metrics._relatedness import RELATEDNESS, RELATEDNESS_UNLABELLED
from transferscope.metrics._sfda import SFDA
from transferscope.metrics._transrate import TRANSRATE
from transferscope.metrics._within_between import WITHIN_BETWEEN

#: name -> Metric. To add one: a file beside this one with its record, and the record here.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        LOGME,
        H_SCORE,
        REGULARIZED_H_SCORE,
        LFC,
        WITHIN_BETWEEN,
        LINEAR_MSE,
        KNN,
        LINEAR_PROBE,
        LOGISTIC_PROBE,
        SFDA,
        LDA,
        TRANSRATE,
        GBC,
        PARC,
        NLEEP,
        PACTRAN_GAUSSIAN,
        NCTI_VARIABILITY,
        NCTI_GEOMETRY,
        NCTI_NEAREST_CENTER,
        ENERGY,
        LEEP,
        NCE,
        PACTRAN_DIRICHLET,
        PACTRAN_GAMMA,
        FRECHET,
        OTCE,
        OT_NCE,
        RELATEDNESS,
        RELATEDNESS_UNLABELLED,
        NCTI,
        ETRAN,
    )
}


def list_metrics() -> list[str]:
    """Names of all metrics.

    Returns
    -------
    list of str
        In the order of the table; `get_metric` gives what a name stands for.
    """
    return list(METRICS)


def get_metric(name: str) -> Metric:
    """What is known of a metric: what it can score, what it needs, its range and publication.

    Parameters
    ----------
    name : str

    Returns
    -------
    Metric

    Raises
    ------
    UnknownNameError
        If there is none of this name; the message lists those that exist and the nearest.
    """
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(name, METRICS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownNameError(f"there is no metric {name!r}.{hint} Metrics: {', '.join(METRICS)}.")
