"""The public surface: one flat, sorted list, of which every name loads and explains itself."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import inspect

import pytest

import transferscope
from transferscope import errors, metrics

PUBLIC = [
    "Agreement",
    "ClassMoments",
    "Dataset",
    "Embedding",
    "Encoder",
    "EncoderFeatures",
    "Expectation",
    "FeatureStore",
    "ImagePreprocessing",
    "Ranking",
    "RayExecutor",
    "Score",
    "ScoreTable",
    "Selection",
    "TransferscopeError",
    "TransferscopeWarning",
    "evaluate",
    "expect",
    "extract",
    "from_module",
    "get_metric",
    "layer_transferability",
    "list_encoders",
    "list_metrics",
    "load_encoder",
    "open_dataset",
    "rank",
    "score",
    "select",
    "task_relatedness",
]


def test_the_list_is_this_one():
    assert transferscope.__all__ == PUBLIC
    assert sorted(PUBLIC) == PUBLIC
    assert set(PUBLIC) <= set(dir(transferscope))


#: Names of files that import torch.
WITH_TORCH = {"from_module"}


@pytest.mark.parametrize("name", PUBLIC)
def test_name_loads(name):
    if name in WITH_TORCH:
        pytest.importorskip("torch")
    assert getattr(transferscope, name).__name__ == name


def test_rooms_load_as_attributes():
    assert transferscope.errors is errors
    assert transferscope.metrics is metrics


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'logmee'"):
        _ = transferscope.logmee
    assert not hasattr(transferscope, "__wrapped__")


def test_version_is_that_of_the_installed_package():
    assert importlib.metadata.version("transferscope") == transferscope.__version__


def test_type_information_is_declared():
    assert (importlib.resources.files("transferscope") / "py.typed").is_file()


def test_every_exception_is_drawn_in_the_tree():
    drawn = inspect.getdoc(errors) or ""
    for name, found in vars(errors).items():
        if inspect.isclass(found) and issubclass(found, Exception | UserWarning):
            assert f"{name}(" in drawn or f"─ {name}" in drawn, f"{name} is not in the tree"
            assert inspect.getdoc(found)
            assert issubclass(found, errors.TransferscopeError | errors.TransferscopeWarning)
