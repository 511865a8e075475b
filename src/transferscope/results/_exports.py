"""Measured accuracies in the forms in which others exchange them."""

from __future__ import annotations

import json
import re

from transferscope.errors import InputError

#: The id of a data set or a task on the hub: words of these characters.
_NAME = r"[\w.-]+"


def eval_results_yaml(dataset_id: str, task_id: str, value: float, notes: str) -> str:
    """One entry of a model's ``.eval_results`` on the Hugging Face hub.

    Parameters
    ----------
    dataset_id : str
        Of the hub, ``owner/name``.
    task_id : str
    value : float
    notes : str
        How it was measured.

    Returns
    -------
    str
        YAML.

    Raises
    ------
    InputError
        If one of the ids is none.
    """
    if not re.fullmatch(f"{_NAME}/{_NAME}", dataset_id, re.ASCII):
        raise InputError(
            f"dataset_id must be owner/name as on the hub, got {dataset_id!r}. Evaluations are "
            "published for data sets that others can find."
        )
    if not re.fullmatch(_NAME, task_id, re.ASCII):
        raise InputError(
            f"task_id must be of letters, digits, dots, hyphens and underscores, got {task_id!r}. "
            'The data set names its tasks; "default" is the usual one.'
        )
    return (
        f"- dataset:\n    id: {json.dumps(dataset_id)}\n    task_id: {json.dumps(task_id)}\n"
        f"  value: {value!r}\n  notes: {json.dumps(notes)}\n"
    )
