"""Corollaries of the exact solution: how the memory grows late, and how the noise decays once its component is gone.

Late means t ≫ 2n / min(α, 1 − α). All laws hold for 0 < α < 1 and n ≥ 2 unless a docstring says otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from theory.associative_memory.flow import GradientFlow, check_times
from theory.problems import AssociativeMemory


def late_flow(problem: AssociativeMemory, times: ArrayLike) -> GradientFlow:
    """Leading late-time logits, constants included (book label `cor-late`).

    For 0 < α < 1: e^(a−b) ≈ (n+1)(1−α) t/(2n) and a − g = ln((1−α)/α), so a and g grow like (n−1)/(n+1) ln t and b falls like
    −2/(n+1) ln t. For α = 0: e^(a−b) ≈ (n+1) t/n and b = g. The error is O(ln t / t) relative to t ≫ 2n/min(α, 1 − α).
    Raises ValueError for n = 1 (a and g then tend to constants) and for times that are not positive.
    """
    n, alpha = problem.n_tokens, problem.noise_level
    array = check_times(times)
    if n == 1:
        raise ValueError("n_tokens is 1; the late laws need n_tokens >= 2.")
    if np.any(array <= 0):
        raise ValueError("times contains 0; the late laws need positive times.")
    if alpha == 0:
        margin = np.log((n + 1) * array / n)
        diagonal, noise = n * margin / (n + 1), -margin / (n + 1)
    else:
        margin, lead = np.log((n + 1) * (1 - alpha) * array / (2 * n)), np.log((1 - alpha) / alpha)
        diagonal = ((n - 1) * margin + lead) / (n + 1)
        noise = diagonal - lead
    return GradientFlow(problem, array, diagonal, diagonal - margin, noise)


def late_time(problem: AssociativeMemory) -> float:
    """2n / min(α, 1 − α): the flow time that late times are large against; 2n for α = 0."""
    alpha = problem.noise_level
    return 2 * problem.n_tokens / (min(alpha, 1 - alpha) if alpha > 0 else 1)


def late_noise_without_component(problem: AssociativeMemory, times: ArrayLike) -> np.ndarray:
    """Late probability of the noise token once the noise component is removed: ((n+1)(1−α) t/(2n))^(−(n−1)/n).

    Shape of `times`; needs n ≥ 2 and positive times (ValueError). The exponent for n = 2 is the paper's −1/2; it tends to −1.
    """
    flow = late_flow(problem, times)
    n = problem.n_tokens
    return np.exp(-(flow.diagonal - flow.off_diagonal) * (n - 1) / n)
