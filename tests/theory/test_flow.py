"""The exact flow: against 50 digits, against solutions without Bessel functions, against integration, and its symmetries."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mpmath import mpf
from scipy import integrate

from tests.strategies import associative_memories, flow_times
from theory.associative_memory import GradientFlow, exact_state, excess_noise, gradient_flow
from theory.associative_memory.spectrum import time_at_clock
from theory.problems import AssociativeMemory

PROMISE = 1e-8
"""What the docstring of gradient_flow promises, relative to `scale`."""
IN_PRACTICE = 1e-12
"""What the same docstring says of practice, "a few 1e-13", doubled: a regression shows long before the promise is broken."""


def scale(problem: AssociativeMemory, time: float, exact: mpf, share: mpf) -> mpf:
    """max(|logit|, t |share − 1/(n+1)| / n), where share is the label's probability."""
    return max(abs(exact), mpf(time) * abs(share - mpf(1) / (problem.n_tokens + 1)) / problem.n_tokens)


def error(problem: AssociativeMemory, time: float, found: GradientFlow, exact_a: mpf, exact_g: mpf) -> float:
    """Worst scaled error of the two logits of a flow at one time."""
    alpha = mpf(problem.noise_level)
    pairs = ((float(found.diagonal), exact_a, 1 - alpha), (float(found.noise), exact_g, alpha))
    errors = [
        abs(mpf(value) - exact) / size if (size := scale(problem, time, exact, share)) else abs(mpf(value))
        for value, exact, share in pairs
    ]
    return float(max(errors))


def error_to_fifty_digits(problem: AssociativeMemory, time: float) -> float:
    exact = exact_state(problem, time, 50)
    with mpmath.workdps(60):
        return error(problem, time, gradient_flow(problem, time), exact.diagonal, exact.noise)


def grid() -> list[tuple[int, float, float]]:
    """Every (n, α) with a third of the times, turn and turn about."""
    points = []
    for i, n in enumerate((1, 2, 3, 8, 100, 10**4, 10**6, 10**9)):
        for j, alpha in enumerate((1e-9, 1e-3, 1 / (n + 1), 0.1, 0.3, 0.5, 0.7, 0.99, 1 - 1e-9)):
            # Both sides of the seam of the Taylor series, and on the way to late times.
            times = (1e-6, 1e-2 * n, 0.2499 * n, 0.25 * n, 0.2501 * n, 3.0 * n, 300.0 * n, 1e6, 1e12)
            points += [(n, alpha, time) for k, time in enumerate(times) if (i + j + k) % 3 == 0]
    return points


@pytest.mark.parametrize("n", sorted({point[0] for point in grid()}))
def test_fifty_digits_on_a_grid(n: int) -> None:
    for _, alpha, time in (point for point in grid() if point[0] == n):
        assert error_to_fifty_digits(AssociativeMemory(n, alpha), time) < IN_PRACTICE, (n, alpha, time)


@settings(deadline=None, max_examples=25)
@given(problem=associative_memories(min_noise=1e-12), times=flow_times(max_size=1))
def test_fifty_digits_anywhere(problem: AssociativeMemory, times: np.ndarray) -> None:
    assert error_to_fifty_digits(problem, float(times[0])) < PROMISE


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9, 48, 10**6])
@pytest.mark.parametrize("time", [1e-12, 1e-8, 1e-7, 1e-6, 1e-4])
def test_noise_logit_that_starts_with_next_to_nothing(n: int, time: float) -> None:
    """α = 1/(n+1) up to rounding: the first two orders of g are nearly 0, and no rounding may stand in for them."""
    assert error_to_fifty_digits(AssociativeMemory(n, 1 / (n + 1)), time * n) < IN_PRACTICE


@pytest.mark.parametrize("alpha", [1e-300, 5e-324, 1e-100, 1e-30, math.nextafter(1, 0)])
@pytest.mark.parametrize("n", [1, 2, 10**5, 10**9])
def test_noise_levels_next_to_zero_and_one(n: int, alpha: float) -> None:
    """Below 1e-30 the flow is that of α = 0 to 1e-18 at these times; next to 1 it has no other reference than the digits."""
    problem = AssociativeMemory(n, alpha)
    for time in (0.3 * n, 1e12):
        if alpha < 0.5:
            with mpmath.workdps(40):
                found = gradient_flow(problem, time)
                r = noiseless_margin(n, time)
                assert error(problem, time, found, n * r / (n + 1), -r / (n + 1)) < PROMISE
        else:
            assert error_to_fifty_digits(problem, time) < PROMISE


def noiseless_margin(n: int, time: float) -> mpf:
    """α = 0: the root of e^r − 1 + n r = (n+1) t/n, by bisection at 40 digits."""
    target = (n + 1) * mpf(time) / n
    return mpmath.findroot(
        lambda r: mpmath.expm1(r) + n * r - target, (0, mpmath.log1p(target)), solver="anderson", tol=1e-60
    )


# Three families whose solution needs no Bessel function. Each runs the other way round: from the state to the time, which
# a formula gives, and back through gradient_flow. Rounding t costs no digits, as every logit grows more slowly than t.


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 10**9), r=st.floats(-6, 1.45).map(lambda x: 10**x))
def test_half_noise_without_bessel(n: int, r: float) -> None:
    """α = 1/2: a = g = (n−1) r/(n+1) and 2(e^r − 1) + (n − 1) r = (n+1) t/(2n)."""
    assume(n > 1)
    problem = AssociativeMemory(n, 0.5)
    with mpmath.workdps(40):
        time = float((2 * mpmath.expm1(r) + (n - 1) * mpf(r)) * 2 * n / (n + 1))
        assume(time <= 1e12)
        exact = (n - 1) * mpf(r) / (n + 1)
        assert error(problem, time, gradient_flow(problem, time), exact, exact) < IN_PRACTICE


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 10**9), r=st.floats(-6, 1.45).map(lambda x: 10**x))
def test_no_noise_without_bessel(n: int, r: float) -> None:
    """α = 0: b = g = −r/(n+1), a = n r/(n+1) and e^r − 1 + n r = (n+1) t/n."""
    problem = AssociativeMemory(n, 0.0)
    with mpmath.workdps(40):
        time = float((mpmath.expm1(r) + n * mpf(r)) * n / (n + 1))
        assume(time <= 1e12)
        found = gradient_flow(problem, time)
        assert error(problem, time, found, n * mpf(r) / (n + 1), -mpf(r) / (n + 1)) < IN_PRACTICE
    if n > 1:
        assert float(found.off_diagonal) == pytest.approx(float(found.noise), rel=IN_PRACTICE)


@settings(deadline=None, max_examples=60)
@given(alpha=st.floats(0.01, 0.99), share=st.floats(1e-6, 0.99))
def test_one_token_without_bessel(alpha: float, share: float) -> None:
    """n = 1: w = a − g = 2a obeys w' = 2(1 − α − 1/(1+e^−w)), whose variables separate:

    t = [w − ln((1 − α − α e^w)/(1 − 2α))/α] / (2(1 − α)), for w between 0 and ln((1−α)/α).
    """
    assume(abs(alpha - 0.5) > 1e-3)
    problem = AssociativeMemory(1, alpha)
    with mpmath.workdps(40):
        x = mpf(alpha)
        w = share * mpmath.log((1 - x) / x)
        inside = (1 - x - x * mpmath.exp(w)) / (1 - 2 * x)
        time = float((w - mpmath.log(inside) / x) / (2 * (1 - x)))
        found = gradient_flow(problem, time)
        assert error(problem, time, found, w / 2, -w / 2) < IN_PRACTICE
    assert float(found.off_diagonal) == 0


def test_one_token_with_half_noise_never_moves() -> None:
    flow = gradient_flow(AssociativeMemory(1, 0.5), [0.0, 1.0, 1e6, 1e12])
    np.testing.assert_array_equal(flow.diagonal, 0)
    np.testing.assert_array_equal(flow.noise, 0)


def integrated(problem: AssociativeMemory, times: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(a, b, g) at `times` from `start` at times[0]: the three rates by DOP853, knowing nothing of conservation."""
    n, alpha = problem.n_tokens, problem.noise_level

    def rates(_: float, logits: np.ndarray) -> np.ndarray:
        weights = np.exp(logits - logits.max()) * np.array([1, n - 1, 1])
        p = weights / weights.sum()
        per_wrong_token = p[1] / (n - 1) if n > 1 else 0.0
        return np.array([1 - alpha - p[0], -per_wrong_token, alpha - p[2]]) / n

    solved = integrate.solve_ivp(
        rates, (times[0], times[-1]), start, t_eval=times, method="DOP853", rtol=1e-12, atol=1e-15
    )
    assert solved.success
    return solved.y


@pytest.mark.parametrize(
    ("n", "alpha"),
    [(1, 0.2), (2, 0.0), (2, 0.3), (2, 0.8), (3, 0.5), (5, 1 / 6), (8, 0.05), (64, 0.9), (10**4, 0.3)],
)
def test_whole_trajectories_against_integration(n: int, alpha: float) -> None:
    """From the start to t = 300 n. DOP853 at rtol 1e-12 errs by some 1e-11 here: the flow contracts, so errors do not grow."""
    problem = AssociativeMemory(n, alpha)
    times = np.concatenate([[0], np.geomspace(1e-3, 300, 80)]) * n
    solved = integrated(problem, times, np.zeros(3))
    flow = gradient_flow(problem, times)
    for found, expected in zip((flow.diagonal, flow.off_diagonal, flow.noise), solved, strict=True):
        if n > 1 or expected is not solved[1]:
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10 * np.max(np.abs(expected)))


@settings(deadline=None, max_examples=15)
@given(problem=associative_memories(min_tokens=2, max_tokens=1000), fraction=st.floats(0.01, 0.99))
def test_going_on_from_a_state_reaches_the_later_one(problem: AssociativeMemory, fraction: float) -> None:
    """Semigroup: integration from the exact state at one time to a later one."""
    end = 50.0 * problem.n_tokens
    times = np.array([fraction * end, end])
    flow = gradient_flow(problem, times)
    states = np.array([flow.diagonal, flow.off_diagonal, flow.noise])
    solved = integrated(problem, times, states[:, 0])
    # As above: the integrator's 1e-11, relative to the largest logit.
    np.testing.assert_allclose(solved[:, 1], states[:, 1], rtol=0, atol=1e-9 * np.abs(states).max())


@pytest.mark.parametrize(
    ("n", "alpha", "seed"), [(1, 0.3, 0), (2, 0.7, 1), (3, 0.2, 2), (4, 0.0, 3), (6, 0.5, 4)]
)
def test_full_matrix_autograd_with_random_orthonormal_embeddings(n: int, alpha: float, seed: int) -> None:
    """W (d × d) flows down the autograd gradient of the loss by RK4; the logits Uᵀ W E must hold the three scalars.

    Steps of n/20 in t: the local error of RK4, some (1/20)⁵/120 a step, adds up to 4e-10 as measured; 5 times that is allowed.
    """
    problem, d = AssociativeMemory(n, alpha), 2 * n + 3
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    unembed = basis[:, : n + 1]
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    embed = rotation[:, :n]
    keys, noise = torch.eye(n, dtype=torch.float64), torch.full((1, n), alpha, dtype=torch.float64)
    labels = torch.cat([(1 - alpha) * keys, noise])

    def down(weights: torch.Tensor) -> torch.Tensor:
        leaf = weights.detach().requires_grad_(True)
        scores = torch.log_softmax(unembed.T @ leaf @ embed, dim=0)
        loss = -(labels * scores).sum(0).mean()
        return -torch.autograd.grad(loss, leaf)[0]

    weights, step, every = torch.zeros(d, d, dtype=torch.float64), n / 20, 20
    times, states = [0.0], [torch.zeros(n + 1, n, dtype=torch.float64)]
    for i in range(1, 161):
        k1 = down(weights)
        k2 = down(weights + step / 2 * k1)
        k3 = down(weights + step / 2 * k2)
        k4 = down(weights + step * k3)
        weights = weights + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if i % every == 0:
            times.append(i * step)
            states.append(unembed.T @ weights @ embed)
    flow = gradient_flow(problem, times)
    for place, state in enumerate(states):
        expected = np.full((n + 1, n), flow.off_diagonal[place])
        np.fill_diagonal(expected[:n], flow.diagonal[place])
        expected[n] = flow.noise[place]
        np.testing.assert_allclose(state.numpy(), expected, rtol=0, atol=2e-9)


def clock_seams(problem: AssociativeMemory) -> list[float]:
    """Times at which the evaluation changes: the Taylor seam, ends of panels in ln τ, and the last reliable panel's."""
    k = 2 * math.sqrt(problem.noise_level * (1 - problem.noise_level)) / (problem.n_tokens + 1)
    last_reliable = max(0, math.floor(-math.log(k) / 0.6))
    panels = {1, 2, 3, last_reliable, last_reliable + 1, last_reliable + 2} - {0}
    return [0.25 * problem.n_tokens] + [time_at_clock(problem, 0.6 * panel) for panel in sorted(panels)]


@pytest.mark.parametrize(
    ("n", "alpha"), [(1, 0.3), (2, 0.3), (2, 1e-6), (3, 0.5), (8, 0.97), (1000, 0.001), (10**6, 0.4)]
)
def test_no_step_where_the_evaluation_changes(n: int, alpha: float) -> None:
    problem = AssociativeMemory(n, alpha)
    for seam in clock_seams(problem):
        around = gradient_flow(problem, [seam * (1 - 1e-13), seam * (1 + 1e-13)])
        for logit in (around.diagonal, around.noise):
            # A logit moves by at most t/n × 2e-13 by itself, and no more than ln t does: the rest is rounding.
            largest = max(abs(around.diagonal[0]), abs(around.noise[0]))
            assert abs(logit[1] - logit[0]) < IN_PRACTICE * max(largest, min(1, seam / n)), seam


@settings(deadline=None, max_examples=40)
@given(problem=associative_memories(min_noise=1e-9), times=flow_times())
def test_swap_of_key_and_noise(problem: AssociativeMemory, times: np.ndarray) -> None:
    """(a, g, α) → (g, a, 1 − α). α is brought to a multiple of 2^−53 first, so that 1 − α is exact."""
    alpha = round(problem.noise_level * 2.0**53) / 2.0**53
    flow = gradient_flow(AssociativeMemory(problem.n_tokens, alpha), times)
    swapped = gradient_flow(AssociativeMemory(problem.n_tokens, 1 - alpha), times)
    for i, time in enumerate(times):
        with mpmath.workdps(30):
            size_a = scale(problem, time, mpf(float(flow.diagonal[i])), 1 - mpf(alpha))
            size_g = scale(problem, time, mpf(float(flow.noise[i])), mpf(alpha))
        # Twice the promise, once for each evaluation.
        assert abs(flow.diagonal[i] - swapped.noise[i]) <= 2 * PROMISE * size_a
        assert abs(flow.noise[i] - swapped.diagonal[i]) <= 2 * PROMISE * size_g


@settings(deadline=None, max_examples=40)
@given(problem=associative_memories(), times=flow_times())
def test_conservation_and_the_two_monotone_quantities(problem: AssociativeMemory, times: np.ndarray) -> None:
    flow = gradient_flow(problem, times)
    n = problem.n_tokens
    if n > 1:
        total = flow.diagonal + (n - 1) * flow.off_diagonal + flow.noise
        # Three roundings of numbers as large as the larger of |a| and |g|.
        size = np.maximum(np.abs(flow.diagonal), np.abs(flow.noise))
        assert np.all(np.abs(total) <= 4 * np.finfo(float).eps * size)
        margin = flow.diagonal - flow.off_diagonal
        # Monotone up to the accuracy of the evaluation of each logit.
        assert np.all(np.diff(flow.off_diagonal) <= IN_PRACTICE * size[1:])
        assert np.all(np.diff(margin) >= -IN_PRACTICE * size[1:])
        assert np.all(margin >= -IN_PRACTICE * size)
        assert np.all(flow.off_diagonal <= IN_PRACTICE * size)


@settings(deadline=None, max_examples=30)
@given(problem=associative_memories(min_tokens=2, max_tokens=10**6, max_noise=0.999))
def test_wrong_logit_falls_and_margin_rises_strictly(problem: AssociativeMemory) -> None:
    times = np.geomspace(1e-3, 1e4, 30) * problem.n_tokens
    flow = gradient_flow(problem, times)
    assert np.all(np.diff(flow.off_diagonal) < 0)
    assert np.all(np.diff(flow.diagonal - flow.off_diagonal) > 0)


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.9), (3, 0.8), (8, 0.99)])
def test_neither_other_logit_is_monotone(n: int, alpha: float) -> None:
    """The correct logit dips below 0 and comes back if 1 − α < 1/(n+1); with the roles changed, so does the noise logit."""
    assert 1 - alpha < 1 / (n + 1)
    times = np.geomspace(0.1, 1e8, 200)
    correct = gradient_flow(AssociativeMemory(n, alpha), times).diagonal
    noise = gradient_flow(AssociativeMemory(n, 1 - alpha), times).noise
    for logit in (correct, noise):
        assert logit.min() < -0.01
        assert logit[-1] > 1
    at_threshold = gradient_flow(AssociativeMemory(n, 1.01 / (n + 1)), times).noise
    assert np.all(np.diff(at_threshold) > 0)


@settings(deadline=None, max_examples=40)
@given(problem=associative_memories(), times=flow_times(min_size=2))
def test_one_at_a_time_is_the_same_as_all_at_once(problem: AssociativeMemory, times: np.ndarray) -> None:
    together = gradient_flow(problem, times)
    for i, time in enumerate(times):
        alone = gradient_flow(problem, float(time))
        for name in ("diagonal", "off_diagonal", "noise"):
            one, all_ = getattr(alone, name), getattr(together, name)[i]
            # The panels are the same; how many there are may change the order of a matrix product, hence rounding, which
            # near α → 0 and α → 1 is that of the larger logit.
            size = max(abs(alone.diagonal), abs(alone.noise))
            assert abs(one - all_) <= IN_PRACTICE * size


def test_shapes_and_time_zero() -> None:
    problem = AssociativeMemory(3, 0.2)
    for time in (0.0, 0.1, 5, 1e6):
        flow = gradient_flow(problem, time)
        assert flow.times.shape == flow.diagonal.shape == flow.off_diagonal.shape == flow.noise.shape == ()
        assert isinstance(flow.diagonal, np.ndarray)
    for n, alpha in ((1, 0.3), (2, 0.0), (5, 0.7)):
        start = gradient_flow(AssociativeMemory(n, alpha), [0, 0, 1])
        for logit in (start.diagonal, start.off_diagonal, start.noise):
            assert logit.shape == (3,)
            assert list(logit[:2]) == [0, 0]
    empty = gradient_flow(problem, [])
    assert empty.diagonal.shape == empty.noise.shape == (0,)
    assert flow.problem is problem


def test_the_caller_s_times_are_copied() -> None:
    times = np.array([1.0, 2.0])
    flow = gradient_flow(AssociativeMemory(2, 0.3), times)
    times[0] = 7.0
    assert flow.times[0] == 1.0


@settings(deadline=None, max_examples=60)
@given(problem=associative_memories())
def test_excess_noise_is_rounded_once(problem: AssociativeMemory) -> None:
    with mpmath.workdps(60):
        exact = mpf(problem.noise_level) - mpf(1) / (problem.n_tokens + 1)
        assert abs(mpf(excess_noise(problem)) - exact) <= abs(exact) * mpf(2) ** -53


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (-1, r"times contains -1\.0; .*at least 0"),
        ([0, -1e-300], r"times contains -1e-300; .*at least 0"),
        ([1, 3, 2], r"times is not sorted: 2\.0 comes after 3\.0"),
        ([0, float("nan")], "times contains nan; .*finite"),
        (float("inf"), "times contains inf; .*finite"),
        ([[1.0]], "times has 2 axes"),
        ("3", "times is '3'; .*array of numbers"),
        (["1", "2"], "times is .*array of numbers"),
        ([1, [2]], "times is .*array of numbers"),
        (1j, "times is 1j; .*array of numbers"),
        (None, "times is None; .*array of numbers"),
        (True, "times is True; .*array of numbers"),
        (object(), "times is <object.*array of numbers"),
    ],
)
def test_bad_times_are_refused_by_name_and_value(times: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradient_flow(AssociativeMemory(2, 0.3), times)  # type: ignore[arg-type]


@pytest.mark.parametrize("problem", [(2, 0.3), None, "memory", {"n_tokens": 2, "noise_level": 0.3}])
def test_a_problem_of_the_wrong_type_is_refused(problem: object) -> None:
    with pytest.raises(ValueError, match=r"problem is .*must be an AssociativeMemory"):
        gradient_flow(problem, 1.0)  # type: ignore[arg-type]
