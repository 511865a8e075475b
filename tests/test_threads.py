"""Linear algebra computes with one thread where products are small, and only there."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  brings a BLAS of its own, whose threads count as well
import threadpoolctl

from transferscope import task_relatedness
from transferscope.numerics.threads import WORTHWHILE, threads_for
from transferscope.relatedness import _head


def threads() -> set[int]:
    return {one["num_threads"] for one in threadpoolctl.threadpool_info()
            if one["user_api"] == "blas"}  # fmt: skip


@pytest.fixture
def two_threads():
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        if threads() != {2}:
            pytest.skip("this build of BLAS has one thread")
        yield


@pytest.mark.parametrize(("size", "inside"), [(WORTHWHILE / 2, {1}), (WORTHWHILE, {2})])
def test_threads_follow_the_largest_product(two_threads, size, inside):
    with threads_for(size):
        assert threads() == inside
    assert threads() == {2}


def test_an_error_gives_the_threads_back(two_threads):
    with pytest.raises(ValueError, match="inside"), threads_for(1):
        raise ValueError("inside")
    assert threads() == {2}


def test_small_relatedness_computes_with_one_thread(two_threads, monkeypatch):
    seen: list[set[int]] = []
    plain = _head.product

    def watched(*given: object) -> object:
        seen.append(threads())
        return plain(*given)

    monkeypatch.setattr(_head, "product", watched)
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = rng.normal(size=(60, 3)) + labels[:, None]
    task_relatedness(features, labels, reference_features=features, reference_labels=labels)
    assert seen
    assert all(one == {1} for one in seen)
    assert threads() == {2}


def test_a_blas_that_comes_later_is_limited_too():
    """SciPy's is there only once it is used, which may be inside."""
    code = """
import threadpoolctl, sys
from transferscope.numerics.threads import threads_for
assert "scipy.linalg" not in sys.modules
with threads_for(1):
    import scipy.linalg, scipy.optimize
    assert {one["num_threads"] for one in threadpoolctl.threadpool_info()
            if one["user_api"] == "blas"} == {1}
"""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
