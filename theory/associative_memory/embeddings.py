"""Gaussian embeddings of finite width: the leading correction to the memory with orthonormal ones.

With embeddings E (d × n) and unembeddings U (d × (n+1)), entries N(0, 1/d), the weight matrix W (d × d) flows by
dW/dt = U F Eᵀ, with F the n-fold averaged errors (labels minus probabilities), so that the logits L = UᵀWE obey

    dL/dt = K_U F(L) K_E,   K_U = UᵀU = I + Δ_U,   K_E = EᵀE = I + Δ_E.

The Δ have mean zero, variance 1/d off the diagonal and 2/d on it. To leading order in 1/d a logit therefore keeps its mean and
gains a Gaussian error whose variance is (1/d) × the squared response of the linearised flow to each source, summed. The sources
that reach one key's (correct, mean wrong, noise) logits are eight sums of entries of Δ; each is followed by a 3-vector equation
along the exact flow (book label `prop-embeddings`). The expansion parameter is n/d: it fails when d is not ≫ n.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from theory.associative_memory.descent import integrate_to, symmetric_shares
from theory.associative_memory.flow import check_times
from theory.problems import AssociativeMemory


@dataclass(frozen=True)
class LogitSpread:
    """Standard deviation over embeddings (nats), to leading order in 1/d; arrays of the shape of the times.

    - `diagonal`: of the logit of the correct token of one key.
    - `noise`: of the noise token's logit for one key.
    - `margin`: of the correct logit minus the noise logit of one key.
    """

    diagonal: np.ndarray
    noise: np.ndarray
    margin: np.ndarray


def logit_spread(problem: AssociativeMemory, width: int, times: ArrayLike) -> LogitSpread:
    """Spread of the logits of one key over Gaussian embeddings of dimension `width`, at flow `times` (sorted, ≥ 0).

    Leading order in 1/width: meant for width ≫ n. Raises ValueError for n < 2, a width below 1, or bad times.
    Cost: one integration of 26 numbers, some 0.1 s.
    """
    n = problem.n_tokens
    if n < 2:
        raise ValueError(f"n_tokens is {n}; the spread is derived for n_tokens >= 2.")
    if isinstance(width, bool) or not isinstance(width, Integral) or width < 1:
        raise ValueError(f"width is {width!r}; it must be an integer, at least 1.")
    array = check_times(times)
    flat = np.atleast_1d(array)
    alpha = problem.noise_level

    def rhs(_: float, packed: np.ndarray) -> np.ndarray:
        a, g = packed[:2]
        response = packed[2:].reshape(3, -1)
        correct, wrong, noisy = symmetric_shares(n, a, g)
        f_a, f_b, f_c = (1 - alpha - correct) / n, -wrong / (n - 1) / n, (alpha - noisy) / n
        weights = np.array([correct, wrong, noisy])
        relax = weights @ response
        per_token = np.array([correct, wrong / (n - 1), noisy])
        change = -(per_token[:, None] * (response - relax)) / n
        return np.concatenate([[f_a, f_c], (change + _sources(n, f_a, f_b, f_c)).ravel()])

    start = np.zeros(2 + 3 * _SOURCES)
    solution = integrate_to(rhs, start, flat, rtol=1e-8, atol=1e-12)
    response = solution[2:].reshape(3, _SOURCES, flat.size)
    variances = _source_variances(n)[:, None] / width
    readouts = response[0], response[2], response[0] - response[2]
    spreads = [np.sqrt(np.sum(variances * readout**2, axis=0)).reshape(array.shape) for readout in readouts]
    return LogitSpread(*spreads)


_SOURCES = 8


def _source_variances(n: int) -> np.ndarray:
    """d × variance of the sources. Of Δ_U, with x the key, c the noise, j, k other tokens: Δ_xx, Σ_j Δ_xj, Δ_xc, Δ_cc,
    Σ_j Δ_cj, Σ_jk Δ_jk. Of Δ_E: Δ_xx, Σ_j Δ_xj. All are uncorrelated."""
    return np.array([2, n - 1, 1, 2, n - 1, 2 * (n - 1) ** 2, 2, n - 1], dtype=float)


def _sources(n: int, f_a: float, f_b: float, f_c: float) -> np.ndarray:
    """Forcing of (correct, mean wrong, noise) by each source of `_source_variances`, shape (3, 8)."""
    share = 1 / (n - 1)
    forcing = np.zeros((3, _SOURCES))
    forcing[0, :3] = f_a, f_b, f_c
    forcing[1, 1], forcing[1, 4], forcing[1, 5] = share * f_a, share * f_c, share * f_b
    forcing[2, 2], forcing[2, 3], forcing[2, 4] = f_a, f_c, f_b
    forcing[0, 6:8] = f_a, f_b
    forcing[1, 6:8] = f_b, share * (f_a + (n - 2) * f_b)
    forcing[2, 6:8] = f_c, f_c
    return forcing
