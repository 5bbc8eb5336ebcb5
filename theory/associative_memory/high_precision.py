"""The exact solution at any number of digits: the reference for float64, and the tool that certifies roots.

Everything follows the closed form of book label `thm-exact-flow` to the letter, Bessel functions and logarithms included, in
mpmath at twice the digits asked for; time is inverted by bisection on the monotone clock, polished by the secant method.
"""

from __future__ import annotations

from dataclasses import dataclass

import mpmath
from mpmath import mpf

from theory.problems import AssociativeMemory


@dataclass(frozen=True)
class ExactState:
    """Logits a, b, g (mpmath numbers) at one flow time."""

    time: mpf
    diagonal: mpf
    off_diagonal: mpf
    noise: mpf


def clock_state(problem: AssociativeMemory, log_clock: mpf) -> ExactState:
    """State and time at ln τ = `log_clock`, at mpmath's working precision, for 0 < α < 1."""
    n, alpha = mpf(problem.n_tokens), mpf(problem.noise_level)
    drift, growth, decay = (1 - 2 * alpha) * (n - 1) / (n + 1), 2 * (1 - alpha) / (n + 1), 2 * alpha / (n + 1)
    order, k = (1 + drift) / 2, mpmath.sqrt(growth * decay)
    c1 = k * mpmath.besselk(order - 1, k) + decay * mpmath.besselk(order, k)
    c2 = k * mpmath.besseli(order - 1, k) - decay * mpmath.besseli(order, k)
    clock = mpmath.exp(log_clock)
    x = k * clock
    bracket = c1 * mpmath.besseli(order, x) + c2 * mpmath.besselk(order, x)
    slope = c1 * mpmath.besseli(order - 1, x) - c2 * mpmath.besselk(order - 1, x)
    log_y = order * log_clock + mpmath.log(bracket)
    log_q = mpmath.log(k / decay) + mpmath.log(slope) - mpmath.log(bracket)
    time = (
        2 * n / (n + 1) * (log_y / decay + (log_q - drift * log_clock + log_y) / growth + (n - 1) * log_clock)
    )
    b = -2 * log_clock / (n + 1)
    return ExactState(time, log_clock + log_q + b, b, log_clock - log_q + b)


def exact_state(problem: AssociativeMemory, time: float | str | mpf, digits: int = 50) -> ExactState:
    """Logits of the gradient flow at one `time`, correct to about `digits` digits (absolute, relative to ln τ).

    - `time`: flow time ≥ 0; a string keeps all its digits.

    Needs 0 < α < 1 (ValueError otherwise). For n = 1, `off_diagonal` is the clock's −ln τ, not an entry of a matrix.
    Cost: about 0.05 s at 50 digits; more when the clock is late, as the working precision grows with kτ.
    """
    if not 0 < problem.noise_level < 1:
        raise ValueError(f"noise_level is {problem.noise_level}; the closed form needs it in (0, 1).")
    try:
        target = mpf(time)
    except (TypeError, ValueError):
        raise ValueError(f"time is {time!r}; it must be a number, or a string that holds one.") from None
    if not (mpmath.isfinite(target) and target >= 0):
        raise ValueError(f"time is {time}; it must be finite and at least 0.")
    if target == 0:
        return ExactState(mpf(0), mpf(0), mpf(0), mpf(0))
    # The closed form divides by B and C and, early, subtracts numbers near 1 that differ by about t/n.
    smallest = min(problem.noise_level, 1 - problem.noise_level) * min(target, 1) / problem.n_tokens
    with mpmath.workdps(2 * digits + 30 - int(mpmath.log10(smallest))):
        target = mpf(time)
        n = mpf(problem.n_tokens)
        low, high = mpf(0), mpmath.log1p(target * (n + 1) / (4 * n))
        if n > 1:
            high = min(high, target * (n + 1) / (2 * n * (n - 1)))

        guess = high
        for _ in range(400):
            state = clock_state(problem, guess)
            error = state.time - target
            low, high = (guess, high) if error < 0 else (low, guess)
            q = mpmath.exp((state.diagonal - state.noise) / 2)
            tau = mpmath.exp(guess)
            slope = 2 * n / (n + 1) * (tau * q + tau / q + n - 1)
            step = error / slope
            if abs(step) <= mpf(10) ** (-digits - 10) * abs(guess):
                return state
            newton = guess - step
            guess = newton if low < newton < high else (low + high) / 2
        raise ArithmeticError(f"the clock of time {time} did not converge for {problem}.")
