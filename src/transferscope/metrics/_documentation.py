"""What the docstrings of metrics have in common, written once and added to each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Mapping
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., float])

#: Parameter -> its type, and what it is.
PARAMETERS = {
    "features": ("array of shape (n_samples, n_features)", ""),
    "labels": ("array-like of shape (n_samples,)", "Class ids or names."),
    "targets": (
        "array-like of shape (n_samples,) or (n_samples, n_targets)",
        "Real numbers (regression) or 0/1 columns (multi-label).",
    ),
    "source_probabilities": (
        "array of shape (n_samples, n_source_classes)",
        "Output of the encoder's own head after softmax; rows sum to 1.",
    ),
    "reference_features": (
        "array of shape (n_reference, n_features)",
        "The same encoder's features of a task close to what it was pre-trained on.",
    ),
    "reference_labels": ("array-like of shape (n_reference,)", "Their class ids or names."),
}
#: Parameter -> when its metrics raise `InputError`, if they have no rule of their own.
INPUT_ERRORS = {
    "reference_labels": "If shapes disagree or fewer than two classes occur on either side.",
    "features": "If shapes disagree or fewer than two classes occur.",
    "source_probabilities": "If shapes disagree, rows do not sum to 1, or fewer than two classes "
    "occur.",
}
#: Parameter -> when its metrics raise `FeatureError`.
FEATURE_ERRORS = {
    "reference_features": "If features or reference features are not finite or all the same.",
    "features": "If features are not finite or all the same.",
}


def documented(function: Function) -> Function:
    """Add to the docstring of a metric the parameters and errors that it shares with others.

    Parameters
    ----------
    function : callable
        Its own docstring has the parameters that no other metric has, and when it raises
        `InputError` where that is no entry of `INPUT_ERRORS`.

    Returns
    -------
    callable
        The same function.
    """
    text = inspect.cleandoc(function.__doc__ or "")
    parameters = inspect.signature(function).parameters
    own = re.search(r"^Parameters\n-+\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    if own is not None:
        text = text.replace(own.group(0), "")
    shared = [_entry(p) for p in parameters.values() if p.name in PARAMETERS]
    entries = "\n".join([*shared, *([] if own is None else [own.group(1)])])
    text = text.replace("Returns\n-", f"Parameters\n----------\n{entries}\n\nReturns\n-", 1)
    raised = re.search(r"^Raises\n-+\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    if raised is not None:
        text = text.replace(raised.group(0), "")
    rules = [f"InputError\n    {_first(INPUT_ERRORS, parameters)}" if raised is None else raised[1]]
    if "features" in parameters:
        rules.append(f"FeatureError\n    {_first(FEATURE_ERRORS, parameters)}")
    errors = "\n".join(rules)
    text = text.replace("\nNotes\n-", f"\nRaises\n------\n{errors}\n\nNotes\n-", 1)
    function.__doc__ = text
    return function


def _first(errors: Mapping[str, str], parameters: Container[str]) -> str:
    return next(text for name, text in errors.items() if name in parameters)


def _entry(parameter: inspect.Parameter) -> str:
    """One entry of the section of parameters."""
    kind, meaning = PARAMETERS[parameter.name]
    optional = "" if parameter.default is parameter.empty else ", optional"
    entry = f"{parameter.name} : {kind}{optional}"
    return f"{entry}\n    {meaning}" if meaning else entry
