"""Metrics of transferability: functions on features, and the table that `rank` chooses from.

Every score is oriented: higher = expected to transfer better.
"""

from transferscope.metrics._combined import EncoderScores
from transferscope.metrics._energy import energy
from transferscope.metrics._frechet import frechet
from transferscope.metrics._gbc import gbc
from transferscope.metrics._h_score import h_score, regularized_h_score
from transferscope.metrics._knn import knn
from transferscope.metrics._lda import lda
from transferscope.metrics._leep import leep
from transferscope.metrics._lfc import lfc
from transferscope.metrics._linear_mse import linear_mse
from transferscope.metrics._linear_probe import leave_one_out, linear_probe
from transferscope.metrics._logistic_probe import logistic_probe
from transferscope.metrics._logme import logme
from transferscope.metrics._measurement import Measurement
from transferscope.metrics._metric import About, Behaviour, Metric
from transferscope.metrics._nce import nce
from transferscope.metrics._ncti import ncti_geometry, ncti_nearest_center, ncti_variability
from transferscope.metrics._nleep import nleep
from transferscope.metrics._otce import ot_nce, otce
from transferscope.metrics._pactran import pactran_gaussian
from transferscope.metrics._pactran_source import pactran_dirichlet, pactran_gamma
from transferscope.metrics._parc import parc
from transferscope.metrics._ped import trace_ped
from transferscope.metrics._plan import (
    DEFAULT_METRICS,
    MetricPlan,
    plan_metrics,
    resolve_metric,
)
from transferscope.metrics._potential_energy import potential_energy_decline
from transferscope.metrics._relatedness import relatedness, relatedness_unlabelled
from transferscope.metrics._score import measure_all, score
from transferscope.metrics._sfda import sfda
from transferscope.metrics._table import METRICS, get_metric, list_metrics
from transferscope.metrics._transrate import transrate
from transferscope.metrics._within_between import within_between

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "About",
    "Behaviour",
    "EncoderScores",
    "Measurement",
    "Metric",
    "MetricPlan",
    "energy",
    "frechet",
    "gbc",
    "get_metric",
    "h_score",
    "knn",
    "lda",
    "leave_one_out",
    "leep",
    "lfc",
    "linear_mse",
    "linear_probe",
    "list_metrics",
    "logistic_probe",
    "logme",
    "measure_all",
    "nce",
    "ncti_geometry",
    "ncti_nearest_center",
    "ncti_variability",
    "nleep",
    "ot_nce",
    "otce",
    "pactran_dirichlet",
    "pactran_gamma",
    "pactran_gaussian",
    "parc",
    "plan_metrics",
    "potential_energy_decline",
    "regularized_h_score",
    "relatedness",
    "relatedness_unlabelled",
    "resolve_metric",
    "score",
    "sfda",
    "trace_ped",
    "transrate",
    "within_between",
]
