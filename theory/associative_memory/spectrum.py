"""Singular values and vectors of the memory's logits, and when the two kinds of component change places.

The logits split into a signal, (a − b)(I − 11ᵀ/n) on the n tokens, and one noise component that shifts the noise token's row
against all others (book label `prop-spectrum`). With m = √(n + 1) the noise is on top at the start iff α m > 1, and its
lead tends to (n − 1)/m. The two sizes are equal exactly where q = τ^(1 − 2/m) (book label `prop-crossing`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mpmath
import numpy as np
from scipy import optimize

from theory.associative_memory.flow import GradientFlow, excess_noise, gradient_flow
from theory.associative_memory.high_precision import clock_state
from theory.associative_memory.riccati import Riccati
from theory.problems import AssociativeMemory

TIE_TOLERANCE = 1e-9
"""Relative difference below which two singular values count as equal: ten times the accuracy promised for the flow."""


def signal_singular_value(flow: GradientFlow) -> np.ndarray:
    """s⊥ = |a − b|, multiplicity n − 1, shape of `flow.times`, in nats; 0 for n = 1, which has no signal space."""
    if flow.problem.n_tokens == 1:
        return np.zeros_like(flow.diagonal)
    return np.abs(flow.diagonal - flow.off_diagonal)


def noise_singular_value(flow: GradientFlow) -> np.ndarray:
    """s₁ = √(n + 1) |g|, multiplicity 1, shape of `flow.times`, in nats."""
    return np.sqrt(flow.problem.n_tokens + 1) * np.abs(flow.noise)


def noise_singular_vectors(problem: AssociativeMemory) -> tuple[np.ndarray, np.ndarray]:
    """Left vector (−1, …, −1, n)/√(n(n+1)), shape (n + 1,), and right vector 1/√n, shape (n,), of the noise component."""
    n = problem.n_tokens
    left = np.append(-np.ones(n), n) / math.sqrt(n * (n + 1))
    return left, np.full(n, 1 / math.sqrt(n))


def initial_ratio(problem: AssociativeMemory) -> float:
    """Limit of s₁/s⊥ as t → 0: √(n+1) |α − 1/(n+1)| / (1 − α); infinite for n = 1."""
    if problem.n_tokens == 1:
        return math.inf
    return math.sqrt(problem.n_tokens + 1) * abs(excess_noise(problem)) / (1 - problem.noise_level)


def noise_on_top_at_start(problem: AssociativeMemory) -> bool:
    """Whether the noise is the largest component just after the start: α > 1/√(n+1), for n ≥ 2; always for n = 1."""
    return problem.n_tokens == 1 or problem.noise_level**2 * (problem.n_tokens + 1) > 1


def late_ratio(problem: AssociativeMemory) -> float:
    """Limit of s₁/s⊥ as t → ∞: (n − 1)/√(n+1) for 0 < α < 1 and n ≥ 2, 1/√(n+1) for α = 0, infinite for n = 1."""
    n = problem.n_tokens
    if n == 1:
        return math.inf
    return (n - 1 if problem.noise_level > 0 else 1) / math.sqrt(n + 1)


def has_crossing(problem: AssociativeMemory) -> bool:
    """Whether signal and noise change places at some t > 0: n = 2 with α > 1/√3, or n ≥ 4 with 0 < α < 1/√(n+1).

    At n = 3 the order never changes: it is the sign of 1 − 2α, and at α = 1/2 both are equal for all times.
    """
    n, alpha = problem.n_tokens, problem.noise_level
    if n < 2 or n == 3 or alpha == 0 or alpha**2 * (n + 1) == 1:
        return False
    return noise_on_top_at_start(problem) == (n == 2)


def _crossing_log_clock(problem: AssociativeMemory) -> float:
    """Root ln τ > 0 of ln q = (1 − 2/m) ln τ in float64."""
    m = math.sqrt(problem.n_tokens + 1)
    riccati = Riccati(problem)
    level = 0.5 * (math.log1p(-problem.noise_level) - math.log(problem.noise_level))

    def lead(log_clock: float) -> float:
        return float(riccati.log_q(np.array(log_clock))) / log_clock - (1 - 2 / m)

    late = math.copysign(1.0, 2 / m - 1)
    high = max(1.0, 2 * abs(level) * m / abs(m - 2))
    while lead(high) * late <= 0:
        high *= 2
    low = high
    while lead(low) * late > 0 and low > 1e-12:
        low /= 2
    return float(optimize.brentq(lead, low, high, xtol=1e-15 * high, rtol=1e-14))


def crossing_time(problem: AssociativeMemory) -> float:
    """Flow time at which s₁ = s⊥, NaN where the order never changes. Relative error at most 1e-9 away from α = 1/√(n+1).

    Close to that threshold the crossing time goes to 0 and its relative error grows like 1e-15/|α√(n+1) − 1|; use
    `certified_crossing_time` there. Cost: about a millisecond.
    """
    if not has_crossing(problem):
        return math.nan
    return float(time_at_clock(problem, _crossing_log_clock(problem)))


def time_at_clock(problem: AssociativeMemory, log_clock: float) -> float:
    """Flow time at ln τ = `log_clock`, rounded from 30 digits. Needs 0 < α < 1."""
    with mpmath.workdps(60):
        return float(clock_state(problem, mpmath.mpf(log_clock)).time)


@dataclass(frozen=True)
class CertifiedRoot:
    """An interval (decimal strings) that contains the root: the crossing condition has opposite signs at its two ends."""

    lower: str
    upper: str
    digits: int


def certified_crossing_time(problem: AssociativeMemory, digits: int = 30) -> CertifiedRoot:
    """Interval of relative width 10^(−digits) around the crossing time (book label `prop-crossing`).

    The sign of ln q − (1 − 2/m) ln τ is evaluated at both ends of a clock interval with twice the digits; time rises with the
    clock, so that the times of the two ends enclose the root. Raises ValueError where there is no crossing, ArithmeticError
    if the signs do not differ. Cost: about 0.1 s.
    """
    if not has_crossing(problem):
        raise ValueError(
            f"n_tokens {problem.n_tokens} with noise_level {problem.noise_level} has no crossing; it needs n_tokens 2 and "
            "noise_level > 1/sqrt(3), or n_tokens >= 4 and 0 < noise_level < 1/sqrt(n_tokens + 1)."
        )
    with mpmath.workdps(2 * digits + 40):
        slope = 1 - 2 / mpmath.sqrt(problem.n_tokens + 1)

        def lead(log_clock: mpmath.mpf) -> mpmath.mpf:
            state = clock_state(problem, log_clock)
            return (state.diagonal - state.noise) / (2 * log_clock) - slope

        start = mpmath.mpf(_crossing_log_clock(problem))
        try:
            root = mpmath.findroot(lead, (start, start * (1 + mpmath.mpf("1e-9"))), solver="secant")
        except ValueError:
            raise ArithmeticError(f"the crossing of {problem} was not found to {digits} digits.") from None
        margin = root / (1 + root) * mpmath.mpf(10) ** (-digits) / 8
        low, high = root - margin, root + margin
        if lead(low) * lead(high) >= 0:
            raise ArithmeticError(f"the crossing of {problem} could not be certified to {digits} digits.")
        lower, upper = clock_state(problem, low).time, clock_state(problem, high).time
        if (upper - lower) > upper * mpmath.mpf(10) ** (-digits):
            raise ArithmeticError(f"the crossing of {problem} is known to fewer than {digits} digits.")
        shown = digits + 5
        return CertifiedRoot(mpmath.nstr(lower, shown), mpmath.nstr(upper, shown), digits)


def asymptotic_crossing_time(problem: AssociativeMemory) -> float:
    """The law t ≈ 2n/((n+1)(1−α)) · (α/(1−α))^((m−1)/(2−m)), m = √(n+1), NaN where there is no crossing.

    Valid for n = 2 as α → 1 (within 4 % from α = 0.8 on), and for n ≥ 4 only when α ≪ n^−(m−2): at n = 64 and α = 0.05 it
    is 18 times too small. The book draws it against the exact root.
    """
    if not has_crossing(problem):
        return math.nan
    n, alpha = problem.n_tokens, problem.noise_level
    m = math.sqrt(n + 1)
    log_time = math.log(2 * n / ((n + 1) * (1 - alpha))) + (m - 1) / (2 - m) * math.log(alpha / (1 - alpha))
    return math.exp(log_time) if log_time < 700 else math.inf


def component_order(flow: GradientFlow) -> np.ndarray:
    """+1 where the noise is the largest component, −1 where the signal is, 0 where they tie (relative 1e-9)."""
    signal, noise = signal_singular_value(flow), noise_singular_value(flow)
    if flow.problem.n_tokens == 1:
        return np.ones(flow.noise.shape, dtype=int)
    tie = np.abs(noise - signal) <= TIE_TOLERANCE * np.maximum(noise, signal)
    return np.where(tie, 0, np.sign(noise - signal)).astype(int)


def ratio(problem: AssociativeMemory, times: np.ndarray) -> np.ndarray:
    """s₁/s⊥ at `times` > 0 (sorted), its limit at t = 0."""
    flow = gradient_flow(problem, times)
    signal, noise = signal_singular_value(flow), noise_singular_value(flow)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(flow.times > 0, noise / signal, initial_ratio(problem))
