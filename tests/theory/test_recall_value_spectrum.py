"""The value matrix's spectrum and surgery on it: against numpy's decomposition of the whole matrix."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from theory.noisy_recall import (
    CLASSES,
    State,
    focused_late_ratio,
    truncated,
    value_spectrum,
    without_noise_component,
)

ROUNDING = 1e-11
"""Two decompositions of matrices of norm up to 30: 1e-15 × 30, over gaps of 0.01 where vectors are compared."""
entries = st.lists(st.floats(-3, 3).map(lambda x: round(x, 6)), min_size=10, max_size=10)


def state(value: list[float] | np.ndarray) -> State:
    """A state with these value classes, and marks elsewhere that must survive surgery."""
    return State(np.arange(3.0), np.asarray(value, float), np.arange(10.0), np.arange(6.0))


def matrix(value: np.ndarray, n_tokens: int) -> np.ndarray:
    """The (N + 1)² block by the names of its classes: token 0 the noise token, 1 the trigger."""
    names = ["noise", "trigger"] + ["generic"] * (n_tokens - 1)
    found = np.empty((n_tokens + 1, n_tokens + 1))
    for row, one in enumerate(names):
        for column, other in enumerate(names):
            name = f"{one}_{other}"
            if name == "generic_generic":
                name = "same" if row == column else "different"
            found[row, column] = value[CLASSES.index(name)]
    return found


@settings(deadline=None, max_examples=60)
@given(value=entries, n_tokens=st.integers(3, 9))
def test_singular_values_against_numpy(value: list[float], n_tokens: int) -> None:
    found = value_spectrum(state(value), n_tokens)
    exact = np.linalg.svd(matrix(np.array(value), n_tokens), compute_uv=False)
    values = np.sort([*found.block, *[found.signal] * (n_tokens - 2)])[::-1]
    np.testing.assert_allclose(values, exact, rtol=0, atol=ROUNDING)
    assert np.all(np.diff(found.block) <= 0)
    assert found.noise == found.block[found.noise_index]
    assert abs(found.left[0, found.noise_index]) == np.abs(found.left[0]).max()
    if np.min(np.abs(np.delete(values, found.noise_place) - found.noise)) > 1e-9:
        assert found.noise_place == int(np.argmin(np.abs(exact - found.noise)))
    for vectors in (found.left, found.right):
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-13)


STATES = {
    "noise on top": ([2.0, 1.5, 1.0, -0.5, -0.2, -0.3, 0.1, 0.05, 0.9, -0.2], 6),
    "signal on top": ([0.3, 0.1, 0.2, -0.5, -0.2, -0.1, 0.1, 0.05, 2.9, -0.4], 6),
    "negative copying": ([0.3, 0.7, 0.2, -0.5, -0.2, -0.1, 0.1, 0.3, -1.9, 0.3], 5),
    "one signal value": ([0.3, 0.7, 0.2, -0.5, -0.2, -0.1, 0.1, 0.3, 1.9, 0.3], 3),
    "in between": ([3.0, 1.5, 1.0, -0.5, -2.2, -0.3, 0.1, 0.05, 0.7, -0.2], 4),
}


def rest_is_kept(found: State, before: State) -> bool:
    names = ["feed_forward", "value_previous", "key_query"]
    return all(np.array_equal(getattr(found, one), getattr(before, one)) for one in names)


@pytest.mark.parametrize("name", STATES)
def test_truncation_against_numpy(name: str) -> None:
    """Every cut: the truncated decomposition of the whole matrix where there is a gap, None where there is none."""
    value, n_tokens = STATES[name]
    before = state(value)
    whole = matrix(before.value, n_tokens)
    left, values, right = np.linalg.svd(whole)
    undefined = 0
    for keep in range(n_tokens + 2):
        found = truncated(before, n_tokens, keep)
        inside = 0 < keep < len(values) and values[keep - 1] - values[keep] < 1e-9
        assert (found is None) == inside, keep
        if found is None:
            undefined += 1
            continue
        exact = (left[:, :keep] * values[:keep]) @ right[:keep]
        np.testing.assert_allclose(matrix(found.value, n_tokens), exact, rtol=0, atol=ROUNDING)
        assert rest_is_kept(found, before)
    assert undefined == n_tokens - 3, "there is no cut between N − 2 equal values"


@pytest.mark.parametrize("name", STATES)
def test_removal_of_the_noise_component_against_numpy(name: str) -> None:
    """The component whose left vector weighs most on the noise token, out of all of the whole matrix."""
    value, n_tokens = STATES[name]
    before = state(value)
    whole = matrix(before.value, n_tokens)
    left, values, right = np.linalg.svd(whole)
    index = int(np.argmax(np.abs(left[0])))
    exact = whole - values[index] * np.outer(left[:, index], right[index])
    found = without_noise_component(before, n_tokens)
    np.testing.assert_allclose(matrix(found.value, n_tokens), exact, rtol=0, atol=ROUNDING)
    assert rest_is_kept(found, before)
    assert value_spectrum(before, n_tokens).noise == pytest.approx(values[index], rel=1e-12)
    assert value_spectrum(before, n_tokens).noise_place == index
    # What is removed is of rank one, and the copying of generic tokens is untouched.
    assert found.value[8] - found.value[9] == pytest.approx(value[8] - value[9], rel=1e-12)


def test_the_first_component_alone_is_one_state_and_its_rest_another() -> None:
    value, n_tokens = STATES["noise on top"]
    before = state(value)
    spectrum = value_spectrum(before, n_tokens)
    assert spectrum.noise_place == 0
    kept = truncated(before, n_tokens, 1)
    assert kept is not None
    without = without_noise_component(before, n_tokens)
    np.testing.assert_allclose(kept.value + without.value, before.value, rtol=0, atol=1e-13)


@pytest.mark.parametrize("wrong", [-1, 8])
def test_cuts_outside_are_told(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"keep_top is {wrong}; it must be from 0 to 7\."):
        truncated(state(STATES["noise on top"][0]), 6, wrong)


def late_increments(n: int, level: float, *, unused: bool) -> float:
    """Noise over signal singular value of what a memory with n keys gains from t = e^20 to e^28, by its own gradient flow.

    Each key is shown as often; its logits are the right answer's, the n − 1 wrong ones', the noise token's and, if so wanted, a
    class's that is never a label. The vector (1, …, 1)/√n of keys is carried to `column`, in orthonormal coordinates.
    """

    def rates(log_time: float, logits: np.ndarray) -> np.ndarray:
        counts = np.array([1, n - 1, 1, 1 if unused else 0])
        p = np.exp(logits - logits.max())
        p /= p @ counts
        return math.exp(log_time) * (np.array([1 - level, 0, level, 0]) - p) / n

    solved = integrate.solve_ivp(
        rates, (-5, 28), np.zeros(4), "LSODA", t_eval=[20, 28], rtol=1e-9, atol=1e-10
    )
    same, different, noise, never = np.diff(solved.y, axis=1)[:, 0]
    copying = same - different
    column = [same + (n - 1) * different, noise * math.sqrt(n), never * math.sqrt(n) if unused else 0.0]
    return float(np.linalg.norm(column) / abs(copying))


@pytest.mark.parametrize("n_tokens", [3, 5, 9, 30])
@pytest.mark.parametrize("level", [0.2, 0.6])
def test_the_late_ratio_with_a_class_that_is_never_used(n_tokens: int, level: float) -> None:
    """Logits grow like ln t plus constants, which differences between two late times remove; the rest is of order n²/t < 1e-5."""
    n = n_tokens - 1
    assert late_increments(n, level, unused=True) == pytest.approx(focused_late_ratio(n_tokens), rel=2e-5)


@pytest.mark.parametrize("n_tokens", [3, 9])
def test_the_late_ratio_knows_of_the_unused_class(n_tokens: int) -> None:
    """The same integration without it gives the memory's law, √(n + 1) (n − 1)/(n + 1), which is another number."""
    n = n_tokens - 1
    found = late_increments(n, 0.3, unused=False)
    assert found == pytest.approx((n - 1) / math.sqrt(n + 1), rel=2e-5)
    assert found != pytest.approx(focused_late_ratio(n_tokens), rel=0.02)
