"""The 50-digit reference is itself held to solutions that need no Bessel function, and to the differential equation."""

import mpmath
import pytest
from hypothesis import given, settings
from mpmath import mpf

from tests.strategies import associative_memories
from theory.associative_memory import exact_state
from theory.associative_memory.high_precision import clock_state
from theory.problems import AssociativeMemory

DIGITS = 50
TOLERANCE = mpf(10) ** (-DIGITS + 2)
"""Two digits are given away to the conversion between the clock and time, whose condition number is below 100 here."""


@pytest.mark.parametrize("n", [2, 3, 17, 10**6])
@pytest.mark.parametrize("time", ["1e-12", "0.3", "40", "1e9"])
def test_half_noise_solves_its_own_equation(n: int, time: str) -> None:
    """α = 1/2 makes key and noise alike: 2(e^r − 1) + (n − 1) r = (n+1) t/(2n), r = a − b, a = g = (n−1) r/(n+1)."""
    state = exact_state(AssociativeMemory(n, 0.5), time, DIGITS)
    with mpmath.workdps(2 * DIGITS):
        r = state.diagonal - state.off_diagonal
        left, right = 2 * mpmath.expm1(r) + (n - 1) * r, (n + 1) * mpf(time) / (2 * n)
        assert abs(left - right) < TOLERANCE * right
        assert abs(state.noise - state.diagonal) < TOLERANCE * abs(state.noise)
        assert abs(state.noise - (n - 1) * r / (n + 1)) < TOLERANCE * abs(state.noise)


@pytest.mark.parametrize(("alpha", "time"), [(0.25, "1e-3"), (0.25, "3"), (0.75, "0.5"), (0.9375, "2")])
def test_one_token_solves_its_own_equation(alpha: float, time: str) -> None:
    """n = 1, w = a − g: w' = 2(1 − α − 1/(1+e^−w)) separates: t = [w − ln((1−α−α e^w)/(1−2α))/α]/(2(1−α))."""
    state = exact_state(AssociativeMemory(1, alpha), time, DIGITS)
    with mpmath.workdps(2 * DIGITS):
        x, w = mpf(alpha), state.diagonal - state.noise
        solved = (w - mpmath.log((1 - x - x * mpmath.exp(w)) / (1 - 2 * x)) / x) / (2 * (1 - x))
        assert abs(solved - mpf(time)) < TOLERANCE * mpf(time)


@settings(deadline=None, max_examples=8)
@given(problem=associative_memories(min_tokens=2, min_noise=1e-6, max_noise=1 - 1e-6))
def test_rates_of_the_closed_form_are_those_of_the_flow(problem: AssociativeMemory) -> None:
    """Central differences in the clock; their error is (1e-15)² relative, rounding is at 1e-50 or below."""
    n, alpha = mpf(problem.n_tokens), mpf(problem.noise_level)
    with mpmath.workdps(110):
        for log_clock in (mpf("0.01"), mpf(1), mpf(7)):
            step = mpf(10) ** -15
            before, here, after = (clock_state(problem, log_clock + shift) for shift in (-step, mpf(0), step))
            elapsed = after.time - before.time
            weights = [mpmath.exp(x) for x in (here.diagonal, here.off_diagonal, here.noise)]
            partition = weights[0] + (n - 1) * weights[1] + weights[2]
            rates = (
                (1 - alpha - weights[0] / partition) / n,
                -weights[1] / partition / n,
                (alpha - weights[2] / partition) / n,
            )
            for name, rate in zip(("diagonal", "off_diagonal", "noise"), rates, strict=True):
                measured = (getattr(after, name) - getattr(before, name)) / elapsed
                # Relative to the whole flow, whose rates are differences of numbers of size 1/n at most.
                assert abs(measured - rate) < mpf(10) ** -25 / n


def test_more_digits_refine_and_do_not_change() -> None:
    problem = AssociativeMemory(7, 0.3)
    few, many = exact_state(problem, 12.5, 20), exact_state(problem, 12.5, 80)
    assert abs(few.noise - many.noise) < mpf(10) ** -20
    assert few.noise != many.noise


@pytest.mark.parametrize(("n", "alpha"), [(2, 1 - 1e-12), (10**9, 1e-12), (2, 0.3), (3, 1e-200)])
def test_very_early_and_very_quiet_states_keep_their_digits(n: int, alpha: float) -> None:
    """At t → 0 the logits are their rates × t, with relative error t/n = 1e-100: the closed form cancels 100 digits there."""
    time = mpf(10) ** -100
    state = exact_state(AssociativeMemory(n, alpha), time, 30)
    with mpmath.workdps(60):
        share = mpf(1) / (n + 1)
        assert abs(state.diagonal * n / time / (1 - mpf(alpha) - share) - 1) < mpf(10) ** -30
        assert abs(state.noise * n / time / (mpf(alpha) - share) - 1) < mpf(10) ** -30
        assert abs(state.off_diagonal * n / time / -share - 1) < mpf(10) ** -30


def test_time_zero_is_zero() -> None:
    state = exact_state(AssociativeMemory(4, 0.2), 0)
    assert (state.time, state.diagonal, state.off_diagonal, state.noise) == (0, 0, 0, 0)


@pytest.mark.parametrize("time", [-1, "-1e-30", float("nan"), float("inf")])
def test_bad_times_are_refused(time: float | str) -> None:
    with pytest.raises(ValueError, match=r"time is .*finite and at least 0"):
        exact_state(AssociativeMemory(2, 0.3), time)


def test_no_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise_level is 0\.0; .*\(0, 1\)"):
        exact_state(AssociativeMemory(2, 0.0), 1.0)


@pytest.mark.parametrize("time", ["abc", None, [1.0]])
def test_a_time_that_is_no_number_is_refused(time: object) -> None:
    with pytest.raises(ValueError, match="it must be a number, or a string that holds one"):
        exact_state(AssociativeMemory(3, 0.3), time)  # type: ignore[arg-type]
