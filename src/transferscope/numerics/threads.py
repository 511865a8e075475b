"""How many threads linear algebra computes with."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import scipy
import threadpoolctl

#: Multiplications of one product, 10 ms of one processor, below which threads are not worth it:
#: they wait for each other at each one, and for other work that wants the processors as well.
WORTHWHILE = 1e9


def threads_for(multiplications: float) -> AbstractContextManager[object]:
    """Let many products, one after another, be computed by as many threads as are worth it.

    Setting them takes some milliseconds: for loops, not for single products.

    Parameters
    ----------
    multiplications : float
        Of the largest product.

    Returns
    -------
    context manager
        Inside, NumPy and SciPy compute with one thread if that is few; else with as many as before.
    """
    if multiplications >= WORTHWHILE:
        return nullcontext()
    _ = scipy.linalg.lapack  # SciPy's BLAS is limited only once it is there
    limits: AbstractContextManager[object] = threadpoolctl.threadpool_limits(1, user_api="blas")
    return limits
