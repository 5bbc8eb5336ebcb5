"""q(τ) in float64: against many digits, against the Riccati equation itself, and across its own seams."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf
from scipy import integrate

from tests.strategies import associative_memories
from theory.associative_memory import Riccati
from theory.associative_memory.high_precision import clock_state
from theory.problems import AssociativeMemory

noisy = associative_memories(min_noise=1e-9)

PROMISE = 1e-13
"""Absolute error of ln q in its docstring; relative beyond |ln q| = 1, by rounding. The worst of 1500 was 7e-14."""


@settings(deadline=None, max_examples=60)
@given(problem=noisy, log_clock=st.one_of(st.floats(0, 30), st.floats(0, 1e-3)))
def test_log_q_has_its_digits(problem: AssociativeMemory, log_clock: float) -> None:
    with mpmath.workdps(60):
        state = clock_state(problem, mpf(log_clock))
        exact = (state.diagonal - state.noise) / 2
    assert abs(float(Riccati(problem).log_q(np.array(log_clock)) - exact)) < PROMISE * max(1, abs(exact))


@settings(deadline=None, max_examples=60)
@given(problem=noisy)
def test_coefficients_agree_with_each_other(problem: AssociativeMemory) -> None:
    riccati = Riccati(problem)
    # A handful of float64 roundings of numbers of size 1 each.
    assert riccati.order == pytest.approx((1 + riccati.drift) / 2, abs=1e-15)
    assert riccati.order + riccati.conjugate_order == pytest.approx(1, abs=1e-15)
    assert 0 < riccati.order < 1
    assert riccati.wave_number**2 == pytest.approx(riccati.growth * riccati.decay, rel=1e-15)
    assert riccati.growth + riccati.decay == pytest.approx(2 / (problem.n_tokens + 1), rel=1e-15)


@pytest.mark.parametrize(("n", "alpha"), [(1, 0.2), (2, 0.7), (3, 0.5), (8, 0.05), (64, 0.9)])
def test_q_solves_the_riccati_equation(n: int, alpha: float) -> None:
    """The equation integrated over ln τ by DOP853 at rtol 1e-12, whose global error over a span of 6 stays below 1e-10."""
    drift, growth, decay = (
        (1 - 2 * alpha) * (n - 1) / (n + 1),
        2 * (1 - alpha) / (n + 1),
        2 * alpha / (n + 1),
    )
    log_clocks = np.linspace(0, 6, 61)
    solved = integrate.solve_ivp(
        lambda s, q: drift * q + (growth - decay * q**2) * np.exp(s),
        (0, 6),
        [1.0],
        t_eval=log_clocks,
        method="DOP853",
        rtol=1e-12,
        atol=1e-14,
    )
    np.testing.assert_allclose(
        Riccati(AssociativeMemory(n, alpha)).log_q(log_clocks), np.log(solved.y[0]), atol=1e-10
    )


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.3), (8, 0.6), (1000, 0.01)])
def test_no_step_where_the_large_argument_series_takes_over(n: int, alpha: float) -> None:
    riccati = Riccati(AssociativeMemory(n, alpha))
    seam = np.log(60 / riccati.wave_number)
    left, right = riccati.log_q(np.array([seam - 1e-12, seam + 1e-12]))
    # The slope of ln q is below 1 there, so that 2e-12 of clock moves it by less than 2e-12; rounding adds 1e-14.
    assert abs(right - left) < 2e-12
    with mpmath.workdps(60):
        state = clock_state(riccati.problem, mpf(seam))
        assert abs(float(riccati.log_q(seam)) - float((state.diagonal - state.noise) / 2)) < PROMISE


@settings(deadline=None, max_examples=30)
@given(problem=noisy)
def test_ends_of_the_clock(problem: AssociativeMemory) -> None:
    log_q = Riccati(problem).log_q(np.array([0.0, 60.0, 1e4]))
    level = 0.5 * (np.log1p(-problem.noise_level) - np.log(problem.noise_level))
    assert abs(log_q[0]) < PROMISE
    # ln q − level is A/(2kτ): kτ ≥ e^60 × 2e-14/n² > 1e3 even at the largest n; at 1e4 nothing is left but rounding.
    assert log_q[2] == pytest.approx(level, abs=1e-13)
    assert log_q[1] == pytest.approx(level, abs=1e-2)


@settings(deadline=None, max_examples=30)
@given(problem=associative_memories(min_noise=1e-3, max_noise=1 - 1e-3))
def test_exchange_of_key_and_noise_inverts_q(problem: AssociativeMemory) -> None:
    swapped = AssociativeMemory(problem.n_tokens, 1 - problem.noise_level)
    log_clocks = np.linspace(0, 25, 26)
    # 1 − α is rounded, to 1e-16/α ≤ 1e-13 relative in odds.
    np.testing.assert_allclose(
        Riccati(problem).log_q(log_clocks), -Riccati(swapped).log_q(log_clocks), atol=3e-13
    )


def test_no_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise_level is 0; .*noise_level > 0"):
        Riccati(AssociativeMemory(3, 0.0))
