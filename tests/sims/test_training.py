"""The training loop: its steps against recursions written by hand, its readings, and how it fails."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.training import DivergedError, check_schedule, log_spaced_steps, make_optimiser, train

CURVATURE = (0.5, 1.0, 2.0)


def quadratic(start: list[float]) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
    """A float64 parameter and the loss Σ h x²/2."""
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    h = torch.tensor(CURVATURE, dtype=torch.float64)
    return x, lambda: (h * x**2).sum() / 2


def path(
    optimiser: str, learning_rate: float, momentum: float, steps: list[int], start: list[float]
) -> np.ndarray:
    x, loss = quadratic(start)
    made = make_optimiser([x], optimiser, learning_rate, momentum)
    return train(made, loss, steps, lambda: {"x": x.numpy(force=True).copy()})["x"]


@given(
    learning_rate=st.floats(0.001, 0.4),
    momentum=st.sampled_from([0.0, 0.3, 0.9]),
    start=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
)
def test_sgd_is_the_heavy_ball(learning_rate: float, momentum: float, start: list[float]) -> None:
    x, velocity = np.array(start), np.zeros(3)
    expected = [x]
    for _ in range(20):
        velocity = momentum * velocity + np.array(CURVATURE) * x
        x = x - learning_rate * velocity
        expected.append(x)
    found = path("sgd", learning_rate, momentum, list(range(21)), start)
    # Twenty stable steps of float64: a few hundred roundings of 1.1e-16 on values of order 3.
    np.testing.assert_allclose(found.T, expected, rtol=0, atol=1e-12)


def test_adam_is_the_textbook_recursion() -> None:
    x, first, second = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    expected = [x]
    for step in range(1, 31):
        gradient = np.array(CURVATURE) * x
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        x = x - 0.05 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        expected.append(x)
    found = path("adam", 0.05, 0.0, list(range(31)), [1.0, -2.0, 0.5])
    np.testing.assert_allclose(found.T, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_the_loop_is_torchs_own_steps_bit_for_bit(optimiser: str) -> None:
    x, loss = quadratic([1.0, -2.0, 0.5])
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    reference = kinds[optimiser]([x], lr=0.1)
    for _ in range(25):
        reference.zero_grad()
        torch.autograd.backward(loss())
        reference.step()
    found = path(optimiser, 0.1, 0.0, [25], [1.0, -2.0, 0.5])
    np.testing.assert_array_equal(found[:, 0], x.numpy(force=True))


def test_twice_the_gradient_is_twice_the_learning_rate_for_sgd_alone() -> None:
    def end(optimiser: str, learning_rate: float, factor: float) -> np.ndarray:
        x, loss = quadratic([1.0, -2.0, 0.5])
        made = make_optimiser([x], optimiser, learning_rate)
        return train(made, lambda: factor * loss(), [10], lambda: {"x": x.numpy(force=True).copy()})["x"]

    np.testing.assert_array_equal(
        end("sgd", 0.1, 2.0), end("sgd", 0.2, 1.0)
    )  # a factor of two does not round
    np.testing.assert_allclose(
        end("adam", 0.1, 2.0), end("adam", 0.1, 1.0), rtol=1e-6
    )  # but for its ε of 1e-8
    assert np.abs(end("adam", 0.1, 1.0) - end("adam", 0.2, 1.0)).max() > 0.1


@given(st.lists(st.integers(0, 15), min_size=1, max_size=8).map(sorted))
def test_probes_are_read_after_their_steps(steps: list[int]) -> None:
    """Step 0 is the start, a repeated step is read twice without a step between, and none is taken beyond the last."""
    x, loss = quadratic([1.0, -2.0, 0.5])
    made = make_optimiser([x], "sgd", 0.1)
    taken = 0

    def counted() -> torch.Tensor:
        nonlocal taken
        taken += 1
        return loss()

    read = train(made, counted, steps, lambda: {"x": x.numpy(force=True).copy(), "taken": np.array(taken)})
    assert read["taken"].tolist() == steps
    assert taken == steps[-1]
    whole = path("sgd", 0.1, 0.0, list(range(16)), [1.0, -2.0, 0.5])
    np.testing.assert_array_equal(read["x"], whole[:, steps])


def test_probes_run_without_gradients() -> None:
    x, loss = quadratic([1.0, 1.0, 1.0])
    seen = train(
        make_optimiser([x], "sgd", 0.1), loss, [0, 1], lambda: {"grad": np.array(torch.is_grad_enabled())}
    )
    assert seen["grad"].tolist() == [False, False]


def test_divergence_names_the_step_at_which_it_was_seen() -> None:
    x, loss = quadratic([1.0, 1.0, 1.0])
    with pytest.raises(DivergedError, match=r"^the loss is not finite at step 400\.$"):
        train(make_optimiser([x], "sgd", 1e3), loss, [1, 400, 500], lambda: {"x": x.numpy(force=True)})


@pytest.mark.parametrize(
    ("optimiser", "learning_rate", "momentum", "answer"),
    [
        ("rmsprop", 0.1, 0.0, "optimiser is 'rmsprop'; it must be one of sgd, adam"),
        ("sgd", 0.0, 0.0, "learning_rate is 0.0; it must be finite and above 0"),
        ("sgd", float("nan"), 0.0, "learning_rate is nan"),
        ("sgd", float("inf"), 0.0, "learning_rate is inf"),
        ("sgd", 0.1, 1.0, r"momentum is 1.0; it must be in \[0, 1\)"),
        ("sgd", 0.1, -0.1, "momentum is -0.1"),
        ("adam", 0.1, 0.5, "momentum is 0.5 with optimiser 'adam'; it must be 0"),
    ],
)
def test_bad_settings_are_told(optimiser: str, learning_rate: float, momentum: float, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        make_optimiser([torch.zeros(1, requires_grad=True)], optimiser, learning_rate, momentum)


def test_log_spaced_steps_keep_their_number_and_ends() -> None:
    steps = log_spaced_steps(0.5, 0.5, 100.0, 40)
    assert steps.shape == (40,)
    assert (steps[0], steps[-1]) == (1, 200)
    assert np.all(np.diff(steps) >= 0)
    assert log_spaced_steps(0.5, 0.01, 100.0, 3)[0] == 1, "no reading before the first step"


@pytest.mark.parametrize(
    ("final_time", "n_probes", "message"),
    [
        (0.1, 5, "final_time is 0.1; it must be finite and at least flow_step = 0.5."),
        (float("nan"), 5, "final_time is nan; it must be finite"),
        (float("inf"), 5, "final_time is inf; it must be finite"),
        (10.0, 1, "n_probes is 1; it must be at least 2."),
    ],
)
def test_impossible_schedules_are_refused(final_time: float, n_probes: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_schedule(0.5, final_time, n_probes)
