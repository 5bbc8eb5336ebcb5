"""The phase diagram: its definition by brute force over the matrix, its corners, and where removal raises the noise."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.strategies import associative_memories, flow_times
from theory.associative_memory import (
    ANSWER,
    DEFAULT_THRESHOLD,
    Phase,
    component_order,
    gradient_flow,
    phases,
    probabilities,
    probabilities_without_noise,
)
from theory.problems import AssociativeMemory


def noise_probability(matrix: np.ndarray, row: int = -1) -> float:
    """Probability of the label of that row (the last by default: the noise) in the first column."""
    weights = np.exp(matrix[:, 0] - matrix[:, 0].max())
    return float(weights[row] / weights.sum())


def by_brute_force(problem: AssociativeMemory, time: float, threshold: float) -> Phase | None:
    """The definition, with numpy's SVD of the matrix; None where one of its conditions is too close to call."""
    n, alpha = problem.n_tokens, problem.noise_level
    flow = gradient_flow(problem, time)
    matrix = np.full((n + 1, n), float(flow.off_diagonal))
    np.fill_diagonal(matrix[:n], float(flow.diagonal))
    matrix[n] = float(flow.noise)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    if values[0] < 1e-9 or (np.min(np.abs(np.diff(values)), initial=1) < 1e-9 * values[0] and n == 2):
        return None
    noise_place = int(np.argmax(np.abs(right.sum(axis=1))))
    others = np.delete(values, noise_place)
    if n > 1 and abs(values[noise_place] - others[0]) < 1e-6 * values[0]:
        return None
    keep = [i for i in range(n) if i != noise_place]
    cut = (left[:, keep] * values[keep]) @ right[keep]
    before, after = noise_probability(matrix), noise_probability(cut)
    limit = threshold * alpha
    if abs(matrix[n, 0]) < 1e-9 or min(abs(before - limit), abs(after - limit)) < 1e-9:
        return None
    if matrix[n, 0] < 0:
        assert after > before  # the name says so
        return Phase.RAISES
    answer = noise_probability(cut, 0)
    if abs(answer - ANSWER) < 1e-9:
        return None
    if not (before > limit >= after and answer >= ANSWER):
        return Phase.NEITHER
    return Phase.DROP_TOP if noise_place == 0 else Phase.KEEP_TOP


@settings(deadline=None, max_examples=120)
@given(
    problem=associative_memories(max_tokens=9, min_noise=1e-3, max_noise=0.999),
    time=st.floats(-2, 9).map(lambda x: 10**x),
    threshold=st.one_of(st.just(DEFAULT_THRESHOLD), st.floats(0.01, 0.99)),
)
def test_definition_by_brute_force(problem: AssociativeMemory, time: float, threshold: float) -> None:
    expected = by_brute_force(problem, time, threshold)
    assume(expected is not None)
    assert phases(gradient_flow(problem, time), threshold) == expected


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.5, 0.57])
def test_two_tokens_below_the_threshold_keep_the_top(alpha: float) -> None:
    """The paper's result is this corner: n = 2, late, α < 1/√3. Above it the same holds once the crossing is past."""
    assert phases(gradient_flow(AssociativeMemory(2, alpha), 1e8)) == Phase.KEEP_TOP
    assert phases(gradient_flow(AssociativeMemory(2, 0.9), [2000.0, 1e8])).tolist() == [
        Phase.DROP_TOP,
        Phase.KEEP_TOP,
    ]


@pytest.mark.parametrize("n", [4, 5, 8, 64, 1000])
@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_from_four_tokens_on_removal_of_the_top_does_it(n: int, alpha: float) -> None:
    assert phases(gradient_flow(AssociativeMemory(n, alpha), 1e12)) == Phase.DROP_TOP


def test_three_tokens_are_decided_by_half_noise() -> None:
    times = [1e4, 1e8]
    assert np.all(phases(gradient_flow(AssociativeMemory(3, 0.4), times)) == Phase.KEEP_TOP)
    assert np.all(phases(gradient_flow(AssociativeMemory(3, 0.6), times)) == Phase.DROP_TOP)
    assert np.all(
        phases(gradient_flow(AssociativeMemory(3, 0.5), times)) == Phase.NEITHER
    )  # a tie at all times


@settings(deadline=None, max_examples=60)
@given(problem=associative_memories(max_tokens=1000, max_noise=0.999), times=flow_times(min_time=1e-2))
def test_where_the_noise_logit_is_negative_removal_raises_the_noise(
    problem: AssociativeMemory, times: np.ndarray
) -> None:
    flow = gradient_flow(problem, times)
    found = phases(flow)
    below = flow.noise < 0
    np.testing.assert_array_equal(found == Phase.RAISES, below)
    clearly = flow.noise < -1e-9
    assert np.all(probabilities_without_noise(flow).noise[clearly] > probabilities(flow).noise[clearly])
    removed = (found == Phase.KEEP_TOP) | (found == Phase.DROP_TOP)
    limit = DEFAULT_THRESHOLD * problem.noise_level
    assert np.all(probabilities(flow).noise[removed] > limit)
    assert np.all(probabilities_without_noise(flow).noise[removed] <= limit)
    assert np.all(component_order(flow)[found == Phase.KEEP_TOP] == -1)
    assert np.all(component_order(flow)[found == Phase.DROP_TOP] == 1)


def test_known_dip_where_removal_raises() -> None:
    """corrections.md A13: n = 2, α = 0.3 has g < 0 until t = 3.9 n, n = 8, α = 0.05 until 12 n."""
    for n, alpha, until in ((2, 0.3, 3.9), (8, 0.05, 12.0)):
        around = phases(gradient_flow(AssociativeMemory(n, alpha), np.array([0.1, 0.95, 1.05]) * until * n))
        assert around[:2].tolist() == [Phase.RAISES, Phase.RAISES]
        assert around[2] != Phase.RAISES


def test_start_and_no_noise() -> None:
    assert phases(gradient_flow(AssociativeMemory(5, 0.4), 0.0)) == Phase.NEITHER
    without = phases(gradient_flow(AssociativeMemory(5, 0.0), [0.0, 1.0, 1e9]))
    assert without.tolist() == [Phase.NEITHER, Phase.RAISES, Phase.RAISES]


def test_threshold_matters_and_is_monotone() -> None:
    """A higher threshold makes "after ≤ ε α" easier: at a late time it can only help."""
    flow = gradient_flow(AssociativeMemory(2, 0.4), 100.0)
    after = float(probabilities_without_noise(flow).noise) / 0.4
    assert phases(flow, after * 0.9) == Phase.NEITHER
    assert phases(flow, after * 1.1) == Phase.KEEP_TOP


def test_shapes_and_kind() -> None:
    for times, shape in ((3.0, ()), ([1.0, 2.0], (2,))):
        found = phases(gradient_flow(AssociativeMemory(3, 0.2), times))
        assert found.shape == shape
        assert found.dtype.kind == "i"


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 2, math.nan, "0.5", None, [0.5]])
def test_bad_thresholds_are_refused_by_name_and_value(threshold: object) -> None:
    with pytest.raises(ValueError, match=r"threshold is .*between 0 and 1") as caught:
        phases(gradient_flow(AssociativeMemory(2, 0.3), 1.0), threshold)  # type: ignore[arg-type]
    assert repr(threshold) in str(caught.value)
