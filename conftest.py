"""Examples in docstrings of metrics take ``import numpy as np`` for granted."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def numpy_in_examples(doctest_namespace: dict[str, object]) -> None:
    """Give every example the name that its reader has imported."""
    doctest_namespace["np"] = np
