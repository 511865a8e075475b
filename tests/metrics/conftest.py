"""The golden cases, and a jackknife to hold influences against."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from golden import cases as golden
from transferscope.embedding import Embedding
from transferscope.metrics import Measurement
from transferscope.numerics import arrays


@pytest.fixture(scope="session")
def cases() -> dict[str, dict[str, np.ndarray]]:
    """The arrays of the golden cases A, C and E; reference values stand in the tests."""
    made = {name: golden.make(name) for name in golden.RECIPES}
    for case in made.values():
        for array in case.values():
            array.flags.writeable = False
    return made


@pytest.fixture(params=["A", "C", "E"])
def case(request: pytest.FixtureRequest, cases: dict[str, Any]) -> dict[str, np.ndarray]:
    """Each golden case in turn, its letter under "name"."""
    return {**cases[request.param], "name": request.param}


@pytest.fixture(scope="session")
def error_ratio() -> Callable[..., float]:
    """Standard error by influence over that of a delete-a-group jackknife.

    Called with ``measure`` and the arguments of `Embedding`, one row per sample each (but for
    ``reference_*``, which are held fixed).
    """

    def ratio(
        measure: Callable[[Embedding], Measurement], *, groups: int = 50, **inputs: Any
    ) -> float:
        n = len(inputs["features"])
        embedding = Embedding(**inputs)
        influence = arrays.to_numpy(measure(embedding).influence())
        by_influence = influence.std() / math.sqrt(embedding.n_samples)
        group = np.random.default_rng(0).permutation(n) % groups
        without = []
        for g in range(groups):
            kept = {
                name: values if name.startswith("reference_") else values[group != g]
                for name, values in inputs.items()
            }
            without.append(measure(Embedding(**kept)).value)
        by_jackknife = math.sqrt(
            (groups - 1) / groups * float(np.sum((np.array(without) - np.mean(without)) ** 2))
        )
        return float(by_influence / by_jackknife)

    return ratio


@pytest.fixture(scope="session")
def fresh_ratio() -> Callable[..., float]:
    """Standard error by influence over the standard deviation over fresh data sets.

    150 draws of 400 samples from a population like that of case E.
    """
    rng = np.random.default_rng(1)
    centres, factors = 0.3 * rng.standard_normal((2, 32)), 0.4 * rng.standard_normal((3, 32))
    noise = 1 / np.sqrt(1 + np.arange(32) / 8)

    def ratio(measure: Callable[[Embedding], Measurement], *, draws: int = 150) -> float:
        values, errors = [], []
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            labels = rng.choice(2, size=400, p=[0.325, 0.675])
            features = centres[labels] + noise * rng.standard_normal((400, 32))
            features += rng.standard_normal((400, 3)) @ factors
            measured = measure(Embedding(features, labels))
            values.append(measured.value)
            errors.append(float(arrays.to_numpy(measured.influence()).std()) / math.sqrt(400))
        return float(np.mean(errors) / np.std(values, ddof=1))

    return ratio
