"""The ground truth that scores are judged by: probes, fine-tuning, selection and pre-training.

Importing this module imports no torch; training does.
"""

from __future__ import annotations

from transferscope.training._fine_tuning import (
    TEST,
    finetune,
    hold_out,
    pretrain,
    refuse_other_classes,
)
from transferscope.training._probe import STRENGTHS, fit_logistic, probe
from transferscope.training._select import select
from transferscope.training._winner import FineTuned, load_winner, read_candidates

__all__ = [
    "STRENGTHS",
    "TEST",
    "FineTuned",
    "finetune",
    "fit_logistic",
    "hold_out",
    "load_winner",
    "pretrain",
    "probe",
    "read_candidates",
    "refuse_other_classes",
    "select",
]
