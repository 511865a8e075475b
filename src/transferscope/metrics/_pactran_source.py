"""PACTran-Dirichlet and -Gamma: evidence of the labels given the source model's classes.

Ding, Chen, Levinboim, Changpinyo & Soricut, "PACTran: PAC-Bayesian Metrics for Estimating the
Transferability of Pretrained Models to Classification Tasks", ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._documentation import documented
from transferscope.metrics._measurement import Measurement, grouped_jackknife
from transferscope.metrics._metric import SOURCE, About, Behaviour, Metric
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike

Counts = np.ndarray[Any, np.dtype[np.float64]]

#: The authors' addition to every source probability.
TINY = 1e-10


@documented
def pactran_dirichlet(
    source_probabilities: ArrayLike, labels: ArrayLike, *, iterations: int = 10
) -> float:
    r"""PACTran with Dirichlet prior: evidence of the labels through the source classes.

    Each source class z draws labels from an unknown distribution with prior
    ``Dirichlet(a_c = n_c/n)``; a variational bound on the log evidence, divided by n C.
    With ``N_cz`` the expected number of samples of class c explained by z, ``A = a + N``, ψ the
    digamma function, ``q_iz ∝ s_iz exp(ψ(A_{y_i z}) − ψ(Σ_c A_cz))`` and ``N_cz = Σ_{y_i=c} q_iz``,
    iterated from ``q = s``:

        {Σ_z [ln B(A_z) − ln B(a)] − Σ_iz q_iz ln(q_iz/s_iz)} / (n C)

    Parameters
    ----------
    iterations : int
        The authors' ten leave it up to 2 % short of the limit on our cases.

    Returns
    -------
    float
        At most 0; higher is better.

    Notes
    -----
    Cost: O(n C_s) per iteration, in chunks. Ids without samples are no classes here, where the
    authors' code counts all up to the largest. Influences come from a jackknife of 16 groups: ten
    iterations end before the limit, where an influence function would hold.

    Examples
    --------
    >>> from transferscope.metrics import pactran_dirichlet
    >>> source = np.repeat(np.array([[0.9, 0.1], [0.1, 0.9]]), 20, axis=0)
    >>> round(pactran_dirichlet(source, [0] * 20 + [1] * 20), 6)
    -0.104186

    References
    ----------
    Ding et al., ECCV 2022 (arXiv 2203.05126).
    """
    embedding = Embedding(source_probabilities, labels, source_probabilities=source_probabilities)
    return measure_dirichlet(embedding, iterations).value


@documented
def pactran_gamma(
    source_probabilities: ArrayLike, labels: ArrayLike, *, iterations: int = 10
) -> float:
    r"""PACTran with Gamma prior: as the Dirichlet form, with unnormalised weights.

    With ``a``, ``N``, ``A`` as in `pactran_dirichlet`, but ``q_iz ∝ s_iz exp(ψ(A_{y_i z}))`` and
    ``l_i = Σ_z s_iz Σ_c A_cz``:

        −1 − {Σ_cz [ln Γ(a_c) − ln Γ(A_cz)] + Σ_iz q_iz ln(q_iz/s_iz) + Σ_i (ln l_i − 1)} / (n C)

    Parameters
    ----------
    iterations : int
        The authors' ten leave it within 0.1 % of the limit on our cases.

    Returns
    -------
    float
        Unbounded, typically a little below -1; higher is better.

    Notes
    -----
    Cost: O(n C_s) per iteration, in chunks. The two ones are the authors': together they are
    a constant, ``1/C − 1``, for all encoders. Influences as in `pactran_dirichlet`.

    Examples
    --------
    >>> from transferscope.metrics import pactran_gamma
    >>> source = np.repeat(np.array([[0.9, 0.1], [0.1, 0.9]]), 20, axis=0)
    >>> round(pactran_gamma(source, [0] * 20 + [1] * 20), 6)
    -1.068057

    References
    ----------
    Ding et al., ECCV 2022 (arXiv 2203.05126).
    """
    embedding = Embedding(source_probabilities, labels, source_probabilities=source_probabilities)
    return measure_gamma(embedding, iterations).value


def _explain(
    embedding: Embedding, share: Array, iterations: int, *, normalised: bool
) -> tuple[Counts, float]:
    """Iterate q and A, each sample weighted by its share of 1, for all `n_samples`.

    Returns ``A`` (C, C_s) and ``Σ q ln(q/s)``.
    """
    weights = share * embedding.n_samples
    prior = _prior(embedding)[:, None]
    explained, _ = _share_out(embedding, weights, None)
    for _ in range(iterations):
        posterior = prior + explained
        log_weights = scipy.special.digamma(posterior)
        if normalised:
            log_weights = log_weights - scipy.special.digamma(posterior.sum(axis=0))
        explained, evidence = _share_out(embedding, weights, log_weights)
    return posterior, float(np.sum(explained * log_weights)) - evidence


def _share_out(
    embedding: Embedding, weights: Array, log_weights: Counts | None
) -> tuple[Counts, float]:
    """Samples of each class explained by each source class, N (C, C_s), by ``q ∝ s exp(log w)``.

    Also ``Σ_i ln Σ_z s_iz exp(log w)``. Without `log_weights`, q = s.
    """
    theta, labels = embedding.source.probabilities, embedding.labels
    xp = arrays.namespace(theta)
    if log_weights is not None:
        # exp of a class's own differences only: TINY then keeps every mass above zero
        top = np.max(log_weights, axis=1)
        powers = arrays.from_numpy(np.exp(log_weights - top[:, None]), labels)
        tops = arrays.from_numpy(top, labels)
    sums: Any = 0.0
    evidence = 0.0
    for part in arrays.chunks(theta):
        q, own = arrays.as_float64(theta[part, :]), labels[part]
        if log_weights is not None:
            q = (q + TINY) * xp.take(powers, own, axis=0)
            mass = xp.sum(q, axis=1)
            evidence += float(weights[part] @ (xp.log(mass) + xp.take(tops, own)))
            q = q / mass[:, None]
        sums = sums + arrays.class_sums(q * weights[part][:, None], own, embedding.n_classes)
    return arrays.to_numpy(sums), evidence


def _prior(embedding: Embedding) -> Counts:
    """Prior counts a_c = n_c/n."""
    counts = arrays.class_counts(embedding.labels, embedding.n_classes)
    return arrays.to_numpy(counts) / embedding.n_kept


def _measured(
    embedding: Embedding, iterations: int, bound: Callable[[Array], float]
) -> Measurement:
    """The bound with all samples alike, and its jackknife."""
    if iterations < 1:
        raise InputError(f"iterations must be at least 1, got {iterations}.")
    xp = arrays.namespace(embedding.labels)
    share = xp.ones_like(xp.astype(embedding.labels, xp.float64)) / embedding.n_kept
    return Measurement(
        bound(share),
        lambda: grouped_jackknife(embedding, bound),
        tuple(embedding.shared_warnings(of_features=False)),
    )


def measure_dirichlet(embedding: Embedding, iterations: int = 10) -> Measurement:
    """PACTran-Dirichlet of an embedding; see `pactran_dirichlet`."""

    def bound(share: Array) -> float:
        posterior, divergence = _explain(embedding, share, iterations, normalised=True)
        change = _log_beta(posterior) - _log_beta(_prior(embedding))
        size = embedding.n_samples * embedding.n_classes
        return (float(np.sum(change)) - divergence) / size

    return _measured(embedding, iterations, bound)


def _log_beta(counts: Counts) -> Any:
    """Logarithm of the multivariate beta function down the first axis."""
    log_gamma = scipy.special.gammaln
    return np.sum(log_gamma(counts), axis=0) - log_gamma(np.sum(counts, axis=0))


def measure_gamma(embedding: Embedding, iterations: int = 10) -> Measurement:
    """PACTran-Gamma of an embedding; see `pactran_gamma`."""

    def bound(share: Array) -> float:
        posterior, divergence = _explain(embedding, share, iterations, normalised=False)
        theta, n = embedding.source.probabilities, embedding.n_samples
        mass = arrays.from_numpy(np.sum(posterior, axis=0), share)
        rates = 0.0
        for part in arrays.chunks(theta):
            rate = arrays.namespace(theta).log(arrays.as_float64(theta[part, :]) @ mass)
            rates += n * float(share[part] @ (rate - 1))
        log_gamma = scipy.special.gammaln
        change = np.sum(log_gamma(_prior(embedding))[:, None] - log_gamma(posterior))
        return -1.0 - (float(change) + divergence + rates) / (n * embedding.n_classes)

    return _measured(embedding, iterations, bound)


PACTRAN_DIRICHLET_ABOUT = About(
    "evidence of the labels through the source classes, Dirichlet prior",
    "at most 0",
    "Ding et al., ECCV 2022",
)
PACTRAN_DIRICHLET_BEHAVIOUR = Behaviour(
    uses_features=False,
    changes_with=("duplicated rows",),
    copied_to_host="sums over samples (C, C_s) in each step",
)
PACTRAN_DIRICHLET = Metric(
    "pactran_dirichlet",
    measure_dirichlet,
    PACTRAN_DIRICHLET_ABOUT,
    needs=SOURCE,
    behaviour=PACTRAN_DIRICHLET_BEHAVIOUR,
)


PACTRAN_GAMMA_ABOUT = About(
    "evidence of the labels through the source classes, Gamma prior",
    "unbounded",
    "Ding et al., ECCV 2022",
)
PACTRAN_GAMMA_BEHAVIOUR = Behaviour(
    uses_features=False,
    changes_with=("duplicated rows",),
    copied_to_host="sums over samples (C, C_s) in each step",
)
PACTRAN_GAMMA = Metric(
    "pactran_gamma",
    measure_gamma,
    PACTRAN_GAMMA_ABOUT,
    needs=SOURCE,
    behaviour=PACTRAN_GAMMA_BEHAVIOUR,
)
