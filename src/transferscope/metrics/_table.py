"""The table of metrics. Every score is oriented: higher = expected to transfer better."""

from __future__ import annotations

import difflib

from transferscope.errors import UnknownNameError
from transferscope.metrics import (
    _energy,
    _frechet,
    _gbc,
    _h_score,
    _knn,
    _lda,
    _leep,
    _lfc,
    _linear_mse,
    _linear_probe,
    _logistic_probe,
    _logme,
    _nce,
    _ncti,
    _nleep,
    _otce,
    _pactran,
    _pactran_source,
    _parc,
    _relatedness,
    _sfda,
    _transrate,
    _within_between,
)
from transferscope.metrics._metric import Metric, Need, Task, zoo_metric

_CLASSES: tuple[Task, ...] = ("classification",)
_NUMBERS: tuple[Task, ...] = ("regression", "multilabel")
_ANY: tuple[Task, ...] = ("classification", "regression", "multilabel")
_SOURCE: tuple[Need, ...] = ("source_probabilities",)
_REFERENCE: tuple[Need, ...] = ("reference_features", "reference_labels")

#: name -> Metric. To add one: a module beside this file, a row here, and its golden values.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # from features and labels, by moments alone
        Metric("logme", _logme.measure, _ANY, needs=(), from_moments=True,
               range="unbounded", summary="log evidence of Bayesian linear regression",
               reference="You et al., ICML 2021"),
        Metric("h_score", _h_score.measure_h_score, _CLASSES, needs=(), from_moments=True,
               range="0 to C - 1", summary="between-class share of variance",
               reference="Bao et al., ICIP 2019"),
        Metric("regularized_h_score", _h_score.measure_regularized_h_score, _CLASSES, needs=(),
               from_moments=True, range="0 to C - 1", summary="H-score with shrunk covariance",
               reference="Ibrahim et al., 2021"),
        Metric("lfc", _lfc.measure, _CLASSES, needs=(), from_moments=True,
               range="-1 to 1", summary="correlation of feature likeness and label sameness",
               reference="Deshpande et al., 2021"),
        Metric("within_between", _within_between.measure, _CLASSES, needs=(), from_moments=True,
               range="at most 0", summary="within- to between-class variance, negated",
               reference="Papyan, Han & Donoho, PNAS 2020"),
        Metric("linear_mse", _linear_mse.measure, _NUMBERS, needs=(), from_moments=True,
               range="at most 0", summary="negated regularised error of linear regression",
               reference="Nguyen et al., UAI 2023"),
        # from features and labels, looking at samples
        Metric("knn", _knn.measure, _ANY, needs=(), from_moments=False,
               range="0 to 1 (R² to 1)", summary="leave-one-out accuracy of 5 nearest neighbours",
               reference="Cover & Hart, 1967"),
        Metric("linear_probe", _linear_probe.measure, _ANY, needs=(), from_moments=False,
               range="0 to 1 (R² to 1)", summary="leave-one-out accuracy of a ridge classifier",
               reference="Allen, 1974"),
        Metric("logistic_probe", _logistic_probe.measure, _CLASSES, needs=(), from_moments=False,
               range="0 to 1", summary="held-out accuracy of logistic regression",
               reference="Alain & Bengio, 2016"),
        Metric("sfda", _sfda.measure, _CLASSES, needs=(), from_moments=False,
               range="0 to 1",
               summary="true-class probability of a self-challenged Fisher discriminant",
               reference="Shao et al., ECCV 2022"),
        Metric("lda", _lda.measure, _CLASSES, needs=(), from_moments=False,
               range="0 to 1", summary="mean probability of the true class under shrunk LDA",
               reference="Gholami et al., ICCV 2023"),
        Metric("transrate", _transrate.measure, _CLASSES, needs=(), from_moments=False,
               range="0 or more", summary="coding rate that knowing the classes saves",
               reference="Huang et al., ICML 2022"),
        Metric("gbc", _gbc.measure, _CLASSES, needs=(), from_moments=False,
               range="-C (C - 1) to 0", summary="minus the overlap of one Gaussian per class",
               reference="Pándy et al., CVPR 2022"),
        Metric("parc", _parc.measure, _CLASSES, needs=(), from_moments=False,
               range="-100 to 100", summary="rank correlation of feature with label distances",
               reference="Bolya et al., NeurIPS 2021"),
        Metric("nleep", _nleep.measure, _CLASSES, needs=(), from_moments=False,
               range="at most 0", summary="likelihood of labels through clusters of the features",
               reference="Li et al., CVPR 2021"),
        Metric("pactran_gaussian", _pactran.measure_gaussian, _CLASSES, needs=(),
               from_moments=False, range="at most 0",
               summary="loss and flatness of the best linear classifier",
               reference="Ding et al., ECCV 2022"),
        Metric("ncti_variability", _ncti.measure_variability, _CLASSES, needs=(),
               from_moments=False, range="at least -ln C",
               summary="collapse of the classes' variability (part of ncti)",
               reference="Wang et al., ICCV 2023"),
        Metric("ncti_geometry", _ncti.measure_geometry, _CLASSES, needs=(), from_moments=True,
               range="positive", summary="closeness to the geometry of collapse (part of ncti)",
               reference="Wang et al., ICCV 2023"),
        Metric("ncti_nearest_center", _ncti.measure_nearest_center, _CLASSES, needs=(),
               from_moments=False, range="0 to 1",
               summary="optimality of the nearest class centre (part of ncti)",
               reference="Wang et al., ICCV 2023"),
        # through the encoder's own head
        Metric("energy", _energy.measure, _ANY, needs=(), from_moments=False,
               range="unbounded", summary="mean log-sum-exp of the head's logits; label-free",
               reference="Gholami et al., ICCV 2023"),
        Metric("leep", _leep.measure, _CLASSES, needs=_SOURCE, from_moments=False,
               range="at most 0", summary="likelihood of labels through the source classes",
               reference="Nguyen et al., ICML 2020"),
        Metric("nce", _nce.measure, _CLASSES, needs=_SOURCE, from_moments=False,
               range="-ln C to 0", summary="minus entropy of labels given the source class",
               reference="Tran et al., ICCV 2019"),
        Metric("pactran_dirichlet", _pactran_source.measure_dirichlet, _CLASSES, needs=_SOURCE,
               from_moments=False, range="at most 0",
               summary="evidence of the labels through the source classes, Dirichlet prior",
               reference="Ding et al., ECCV 2022"),
        Metric("pactran_gamma", _pactran_source.measure_gamma, _CLASSES, needs=_SOURCE,
               from_moments=False, range="unbounded",
               summary="evidence of the labels through the source classes, Gamma prior",
               reference="Ding et al., ECCV 2022"),
        # beside a reference task
        Metric("frechet", _frechet.measure, _ANY, needs=("reference_features",), from_moments=True,
               range="at most 0", summary="minus Fréchet distance to the reference task",
               reference="Dowson & Landau, 1982"),
        Metric("otce", _otce.measure_otce, _CLASSES, needs=_REFERENCE, from_moments=False,
               range="at most 0", summary="transport cost and label entropy to the reference task",
               reference="Tan et al., CVPR 2021"),
        Metric("ot_nce", _otce.measure_ot_nce, _CLASSES, needs=_REFERENCE, from_moments=False,
               range="-ln C to 0", summary="minus entropy of labels given the transported ones",
               reference="Tan et al., CVPR 2021"),
        Metric("relatedness", _relatedness.measure_relatedness, _CLASSES, needs=_REFERENCE,
               from_moments=False, range="at most 0",
               summary="minus the bound on a head's loss by relatedness to the reference task",
               reference="Mehra et al., NeurIPS 2024"),
        Metric("relatedness_unlabelled", _relatedness.measure_relatedness_unlabelled, _ANY,
               needs=_REFERENCE, from_moments=False, range="at most 0",
               summary="the same bound by pseudo-labels; label-free",
               reference="Mehra et al., NeurIPS 2024"),
        # over the encoders of a ranking
        zoo_metric("ncti",
                   {"ncti_variability": 1.0, "ncti_geometry": 1.0, "ncti_nearest_center": 1.0},
                   summary="nearness to neural collapse, scaled over the encoders",
                   reference="Wang et al., ICCV 2023"),
        zoo_metric("etran", {"energy": 0.15, "lda": 0.85},
                   summary="energy and linear discriminant, scaled over the encoders",
                   reference="Gholami et al., ICCV 2023"),
    )
}  # fmt: skip


def list_metrics() -> list[Metric]:
    """All metrics, in the order of the table."""
    return list(METRICS.values())


def get_metric(name: str) -> Metric:
    """The metric of this name.

    Raises
    ------
    UnknownNameError
        If there is none; the message lists those that exist and the nearest.
    """
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(name, METRICS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownNameError(f"there is no metric {name!r}.{hint} Metrics: {', '.join(METRICS)}.")
