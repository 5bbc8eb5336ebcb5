"""Singular values and vectors against numpy, and the crossing against scans, 50 digits and its asymptote."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mpmath import mpf

from tests.strategies import associative_memories, flow_times
from theory.associative_memory import (
    GradientFlow,
    asymptotic_crossing_time,
    certified_crossing_time,
    component_order,
    crossing_time,
    exact_state,
    gradient_flow,
    has_crossing,
    initial_ratio,
    late_ratio,
    noise_on_top_at_start,
    noise_singular_value,
    noise_singular_vectors,
    signal_singular_value,
)
from theory.associative_memory.spectrum import ratio
from theory.problems import AssociativeMemory


def structured(flow: GradientFlow, place: int) -> np.ndarray:
    """The (n+1) × n matrix of logits at one time."""
    n = flow.problem.n_tokens
    matrix = np.full((n + 1, n), flow.off_diagonal[place])
    np.fill_diagonal(matrix[:n], flow.diagonal[place])
    matrix[n] = flow.noise[place]
    return matrix


@settings(deadline=None, max_examples=40)
@given(problem=associative_memories(max_tokens=12), times=flow_times(max_size=4))
def test_closed_forms_are_those_of_numpy(problem: AssociativeMemory, times: np.ndarray) -> None:
    """Multiplicities and vectors included. numpy's SVD errs by some 1e-15 × the largest value; 1e-13 leaves room for n = 12."""
    flow, n = gradient_flow(problem, times), problem.n_tokens
    signal, noise = signal_singular_value(flow), noise_singular_value(flow)
    left, right = noise_singular_vectors(problem)
    assert np.linalg.norm(left) == pytest.approx(1, abs=1e-14)
    assert np.linalg.norm(right) == pytest.approx(1, abs=1e-14)
    for i in range(times.size):
        matrix = structured(flow, i)
        values = np.linalg.svd(matrix, compute_uv=False)
        expected = np.sort(np.append(np.full(n - 1, signal[i]), noise[i]))[::-1]
        size = max(values[0], np.abs(matrix).max())
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-13 * size)
        np.testing.assert_allclose(
            matrix @ right, np.sign(flow.noise[i]) * noise[i] * left, rtol=0, atol=1e-13 * size
        )
        rest = matrix - (left * np.sign(flow.noise[i]) * noise[i])[:, None] * right
        # What is left is the signal: (a − b) times the projector off the ones, on the token rows alone.
        projector = np.vstack([np.eye(n) - 1 / n, np.zeros(n)]) if n > 1 else np.zeros((2, 1))
        np.testing.assert_allclose(
            rest, (flow.diagonal[i] - flow.off_diagonal[i]) * projector, rtol=0, atol=1e-13 * size
        )


@settings(deadline=None, max_examples=60)
@given(problem=associative_memories(min_tokens=2))
def test_initial_ratio_and_threshold_at_a_tiny_time(problem: AssociativeMemory) -> None:
    """At t/n = 1e-9 the ratio is off its limit by O(1e-9) of the numerator's scale, √(n+1)(|excess| + 1e-9)."""
    time = 1e-9 * problem.n_tokens
    m = math.sqrt(problem.n_tokens + 1)
    found = float(ratio(problem, np.array([time]))[0])
    assert found == pytest.approx(initial_ratio(problem), rel=1e-7, abs=1e-7 * m)
    if abs(problem.noise_level * m - 1) > 1e-5:
        assert noise_on_top_at_start(problem) == (found > 1)
        assert noise_on_top_at_start(problem) == (problem.noise_level > 1 / m)


def test_ratio_at_time_zero_is_the_limit() -> None:
    problem = AssociativeMemory(4, 0.3)
    found = ratio(problem, np.array([0.0, 1e-7]))
    assert found[0] == initial_ratio(problem)
    assert found[1] == pytest.approx(found[0], rel=1e-6)  # the next term is of order t/n = 2.5e-8


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.4), (3, 0.2), (4, 0.7), (8, 0.05), (64, 0.3)])
def test_late_ratio_of_increments(n: int, alpha: float) -> None:
    """Constants in the logits cancel in increments; what is left is O(ln t/t) ~ 1e-7 at t = 1e8 n/min(α, 1 − α)."""
    flow = gradient_flow(AssociativeMemory(n, alpha), np.array([1e8, 1e11]) * n)
    increments = np.diff(noise_singular_value(flow)) / np.diff(signal_singular_value(flow))
    assert increments[0] == pytest.approx(late_ratio(flow.problem), rel=1e-5)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 10**9), times=flow_times(min_time=1e-3))
def test_without_noise_the_ratio_is_constant(n: int, times: np.ndarray) -> None:
    problem = AssociativeMemory(n, 0.0)
    assert late_ratio(problem) == pytest.approx(1 / math.sqrt(n + 1), rel=1e-15)
    # Ten times below the flow's promise of 1e-8 for each logit.
    np.testing.assert_allclose(ratio(problem, times), 1 / math.sqrt(n + 1), rtol=1e-9)


def test_one_token_has_no_signal() -> None:
    problem = AssociativeMemory(1, 0.2)
    flow = gradient_flow(problem, [0.0, 1.0, 100.0])
    assert signal_singular_value(flow).tolist() == [0, 0, 0]
    assert np.all(component_order(flow) == 1)
    assert initial_ratio(problem) == late_ratio(problem) == math.inf
    assert noise_on_top_at_start(problem)
    assert not has_crossing(problem)
    assert math.isnan(crossing_time(problem))


@pytest.mark.parametrize(
    ("n", "alpha", "known"),
    [
        # shared/science/corrections.md A12, where they were integrated without the closed form
        (2, 0.6, 9.0026366),
        (2, 0.7, 50.288749),
        (2, 0.8, 306.38012),
        (2, 0.9, 5428.2759),
        (64, 0.05, 18.60 * 64),
        (64, 0.1, 6.55 * 64),
        (16, 0.1, 18.39 * 16),
        (16, 0.2, 5.67 * 16),
        (8, 0.2, 13.33 * 8),
        (8, 0.3, 4.65 * 8),
        (4, 0.3, 58.3 * 4),
    ],
)
def test_known_crossings(n: int, alpha: float, known: float) -> None:
    # As many digits as are given: 8 for n = 2, three or four for the windows.
    assert crossing_time(AssociativeMemory(n, alpha)) == pytest.approx(known, rel=1e-7 if n == 2 else 1e-3)


@st.composite
def crossing_memories(draw: st.DrawFn) -> AssociativeMemory:
    """n = 2 above its threshold, n ≥ 4 below it, at least 1e-3 away: nearer, the docstring says, crossing_time loses digits."""
    if draw(st.booleans()):
        return AssociativeMemory(2, draw(st.floats(1.001 / math.sqrt(3), 1 - 1e-9)))
    n = draw(st.one_of(st.integers(4, 12), st.floats(1.4, 20.7).map(lambda x: round(math.exp(x)))))
    share = draw(st.one_of(st.floats(0.05, 0.999), st.floats(-4, 0).map(lambda x: 0.999 * 10**x)))
    return AssociativeMemory(n, share / math.sqrt(n + 1))


@settings(deadline=None, max_examples=60)
@given(problem=crossing_memories())
def test_order_changes_at_the_crossing(problem: AssociativeMemory) -> None:
    assert has_crossing(problem)
    time = crossing_time(problem)
    assert time > 0
    if time > 1e12:  # beyond the range for which the flow promises anything
        return
    # The slope of the ratio in ln t is small at large n, but 1 % of the time still moves it by more than the tie's 1e-9.
    early, late = component_order(gradient_flow(problem, np.array([0.99, 1.01]) * time))
    assert (early, late) == ((1, -1) if problem.n_tokens == 2 else (-1, 1))
    assert noise_on_top_at_start(problem) == (early == 1)


@settings(deadline=None, max_examples=40)
@given(problem=associative_memories(min_tokens=2, max_tokens=10**6, min_noise=1e-6, max_noise=0.999))
def test_the_order_changes_once_or_never(problem: AssociativeMemory) -> None:
    """A scan of 400 times a problem. Ties and the immediate neighbourhood of the thresholds are left out."""
    n = problem.n_tokens
    assume(abs(problem.noise_level * math.sqrt(n + 1) - 1) > 1e-3)
    assume(n != 3 or problem.noise_level != 0.5)
    order = component_order(gradient_flow(problem, np.geomspace(1e-4 * n, 1e14, 400)))
    changes = np.flatnonzero(np.diff(order[order != 0]))
    crossing = crossing_time(problem) if has_crossing(problem) else math.inf
    assert len(changes) == int(crossing < 1e14)


@settings(deadline=None, max_examples=30)
@given(
    problem=associative_memories(min_tokens=3, max_tokens=3, min_noise=1e-6), times=flow_times(min_time=1.0)
)
def test_three_tokens_never_cross(problem: AssociativeMemory, times: np.ndarray) -> None:
    assert not has_crossing(problem)
    assert math.isnan(crossing_time(problem))
    assert math.isnan(asymptotic_crossing_time(problem))
    order = component_order(gradient_flow(problem, times))
    assume(abs(problem.noise_level - 0.5) > 1e-6)
    assert np.all(order == (1 if problem.noise_level > 0.5 else -1))


@settings(deadline=None, max_examples=30)
@given(times=flow_times())
def test_three_tokens_with_half_noise_tie_at_all_times(times: np.ndarray) -> None:
    flow = gradient_flow(AssociativeMemory(3, 0.5), times)
    assert np.all(component_order(flow) == 0)
    # Ten times below TIE_TOLERANCE.
    np.testing.assert_allclose(noise_singular_value(flow), signal_singular_value(flow), rtol=1e-10)


def exact_lead(problem: AssociativeMemory, time: mpf) -> mpf:
    """√(n+1) g − (a − b) to 60 digits, from the state, not from the clock."""
    state = exact_state(problem, time, 60)
    return mpmath.sqrt(problem.n_tokens + 1) * state.noise - (state.diagonal - state.off_diagonal)


@pytest.mark.parametrize(
    ("n", "alpha"),
    [(2, 0.6), (2, 0.9), (2, 0.57736), (4, 0.2), (8, 0.05), (64, 0.1), (10**6, 1e-4), (15, 0.2499)],
)
@pytest.mark.parametrize("digits", [10, 30])
def test_certified_interval_encloses_the_crossing(n: int, alpha: float, digits: int) -> None:
    problem = AssociativeMemory(n, alpha)
    root = certified_crossing_time(problem, digits)
    with mpmath.workdps(80):
        lower, upper = mpf(root.lower), mpf(root.upper)
        assert root.digits == digits
        assert 0 < upper - lower <= upper * mpf(10) ** -digits
        assert exact_lead(problem, lower) * exact_lead(problem, upper) < 0
        # The docstring's 1e-9 away from the threshold, and 1e-15/|α√(n+1) − 1| near it; 10 times that is allowed.
        near = 1e-14 / abs(alpha * math.sqrt(n + 1) - 1)
        assert abs(mpf(crossing_time(problem)) / lower - 1) < max(1e-9, near)


def test_crossings_that_start_far_from_the_first_guess() -> None:
    """Large n and small α: q overshoots its limit, and the root lies past the first upper end of the search."""
    for n, alpha in ((10**9, 1e-5), (10**9, 3e-5), (10**6, 1e-12)):
        problem = AssociativeMemory(n, alpha)
        with mpmath.workdps(40):
            assert crossing_time(problem) == pytest.approx(
                float(certified_crossing_time(problem).lower), rel=1e-9
            )


def test_crossing_beyond_float64_is_infinite() -> None:
    problem = AssociativeMemory(4, 1e-70)  # α^−5.2 = 1e366
    assert crossing_time(problem) == asymptotic_crossing_time(problem) == math.inf


@pytest.mark.parametrize(
    ("n", "alpha"), [(1, 0.9), (2, 0.5), (3, 0.2), (3, 0.9), (4, 0.6), (4, 0.0), (15, 0.25), (3, 0.5)]
)
def test_no_crossing_is_refused_with_the_condition(n: int, alpha: float) -> None:
    problem = AssociativeMemory(n, alpha)
    assert not has_crossing(problem)
    assert math.isnan(crossing_time(problem))
    assert math.isnan(asymptotic_crossing_time(problem))
    with pytest.raises(ValueError, match=rf"n_tokens {n} with noise_level {alpha} has no crossing; it needs"):
        certified_crossing_time(problem)


def law_over_exact(n: int, alpha: float) -> float:
    problem = AssociativeMemory(n, alpha)
    return asymptotic_crossing_time(problem) / crossing_time(problem)


def test_asymptotic_law_of_two_tokens_holds_towards_full_noise() -> None:
    # corrections.md A12, to the digits given there
    known = {0.58: 3.09, 0.6: 1.12, 0.65: 0.872, 0.7: 0.895, 0.8: 0.961, 0.9: 0.994, 0.99: 0.99999}
    for alpha, expected in known.items():
        assert law_over_exact(2, alpha) == pytest.approx(expected, abs=6e-3 if alpha < 0.65 else 6e-4)
    errors = [abs(law_over_exact(2, alpha) - 1) for alpha in (0.8, 0.9, 0.97, 0.99, 0.999)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.04  # the docstring's 4 %


def test_asymptotic_law_of_more_tokens_holds_towards_no_noise_only() -> None:
    assert law_over_exact(4, 0.2) == pytest.approx(2842 / 2925, rel=1e-3)
    assert law_over_exact(8, 1e-3) == pytest.approx(1.776e6 / 1.807e6, rel=1e-3)
    errors = [abs(law_over_exact(4, alpha) - 1) for alpha in (0.1, 0.03, 0.01, 1e-3)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6
    assert 1 / law_over_exact(64, 0.05) == pytest.approx(
        18.6, abs=0.05
    )  # where it fails: "18 times too small"


@settings(deadline=None, max_examples=30)
@given(times=flow_times())
def test_a_tie_is_a_relative_difference_below_the_tolerance(times: np.ndarray) -> None:
    flow = gradient_flow(AssociativeMemory(3, 0.5), times)
    nudged = GradientFlow(flow.problem, flow.times, flow.diagonal, flow.off_diagonal, flow.noise * (1 + 1e-8))
    expected = np.where(times > 0, 1, 0)
    assert component_order(nudged).tolist() == expected.tolist()
