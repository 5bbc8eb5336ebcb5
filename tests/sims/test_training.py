"""The training loop: its steps against recursions written by hand, its readings, and how it fails."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.training import (
    SCHEDULES,
    DivergedError,
    Training,
    check_schedule,
    clip_gradients,
    log_spaced_steps,
    make_learning_rate_schedule,
    make_optimiser,
    train,
)

CURVATURE = (0.5, 1.0, 2.0)


def quadratic(start: list[float]) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
    """A float64 parameter and the loss Σ h x²/2."""
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    h = torch.tensor(CURVATURE, dtype=torch.float64)
    return x, lambda: (h * x**2).sum() / 2


def path(
    optimiser: str,
    learning_rate: float,
    momentum: float,
    steps: list[int],
    start: list[float],
    weight_decay: float = 0.0,
    schedule: Callable[[int], float] | None = None,
) -> np.ndarray:
    x, loss = quadratic(start)
    made = make_optimiser([x], optimiser, learning_rate, momentum, weight_decay)
    training = Training(made, loss, schedule=schedule)
    return train(training, steps, lambda: {"x": x.numpy(force=True).copy()})["x"]


@given(
    learning_rate=st.floats(0.001, 0.4),
    momentum=st.sampled_from([0.0, 0.3, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.5]),
    schedule=st.sampled_from([None, *SCHEDULES]),
    start=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
)
def test_sgd_is_the_heavy_ball_with_coupled_decay(
    learning_rate: float, momentum: float, weight_decay: float, schedule: str | None, start: list[float]
) -> None:
    factor = make_learning_rate_schedule(schedule, 25, 4) if schedule else None
    x, velocity = np.array(start), np.zeros(3)
    expected = [x]
    for step in range(20):
        velocity = momentum * velocity + np.array(CURVATURE) * x + weight_decay * x
        x = x - learning_rate * (factor(step) if factor else 1.0) * velocity
        expected.append(x)
    found = path("sgd", learning_rate, momentum, list(range(21)), start, weight_decay, factor)
    # Twenty stable steps of float64: a few hundred roundings of 1.1e-16 on values of order 3.
    np.testing.assert_allclose(found.T, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("optimiser", "weight_decay"), [("adam", 0.0), ("adamw", 0.0), ("adamw", 0.3)])
@pytest.mark.parametrize("schedule", [None, "cosine"])
def test_adam_is_the_textbook_recursion(optimiser: str, weight_decay: float, schedule: str | None) -> None:
    """AdamW's decay is of the weights themselves, by the scheduled learning rate, and no part of the moments."""
    factor = make_learning_rate_schedule(schedule, 40, 5) if schedule else None
    x, first, second = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    expected = [x]
    for step in range(1, 31):
        gradient = np.array(CURVATURE) * x
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = 0.05 * (factor(step - 1) if factor else 1.0)
        x = x - rate * weight_decay * x
        x = x - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        expected.append(x)
    found = path(optimiser, 0.05, 0.0, list(range(31)), [1.0, -2.0, 0.5], weight_decay, factor)
    # Thirty steps of at most 0.05 whose quotients are good to some 1e-15; gradients that pass zero amplify this a little.
    np.testing.assert_allclose(found.T, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_the_loop_is_torchs_own_steps_bit_for_bit(optimiser: str) -> None:
    x, loss = quadratic([1.0, -2.0, 0.5])
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    reference = kinds[optimiser]([x], lr=0.1, weight_decay=0.0)
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
        training = Training(made, lambda: factor * loss())
        return train(training, [10], lambda: {"x": x.numpy(force=True).copy()})["x"]

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

    training = Training(made, counted)
    read = train(training, steps, lambda: {"x": x.numpy(force=True).copy(), "taken": np.array(taken)})
    assert read["taken"].tolist() == steps
    assert taken == training.step == steps[-1]
    whole = path("sgd", 0.1, 0.0, list(range(16)), [1.0, -2.0, 0.5])
    np.testing.assert_array_equal(read["x"], whole[:, steps])


def test_probes_run_without_gradients() -> None:
    x, loss = quadratic([1.0, 1.0, 1.0])
    training = Training(make_optimiser([x], "sgd", 0.1), loss)
    seen = train(training, [0, 1], lambda: {"grad": np.array(torch.is_grad_enabled())})
    assert seen["grad"].tolist() == [False, False]


def test_steps_are_taken_inside_no_grad_too() -> None:
    x, loss = quadratic([1.0, 1.0, 1.0])
    with torch.no_grad():
        Training(make_optimiser([x], "sgd", 0.1), loss).advance(1)
    np.testing.assert_array_equal(x.numpy(force=True), 1 - 0.1 * np.array(CURVATURE))


def test_no_probe_steps_are_no_readings() -> None:
    x, loss = quadratic([1.0, 1.0, 1.0])
    assert train(Training(make_optimiser([x], "sgd", 0.1), loss), [], dict) == {}


def test_divergence_names_its_step_and_stops_before_it() -> None:
    x, loss = quadratic([1.0, 1.0, 1.0])
    y, h = np.ones(3), np.array(CURVATURE)
    losses, paths = [], []
    with np.errstate(over="ignore"):
        while not losses or np.isfinite(losses[-1]):
            losses.append((h * y**2).sum() / 2)
            paths.append(y)
            y = y - 1e3 * h * y
    training = Training(make_optimiser([x], "sgd", 1e3), loss)
    with pytest.raises(DivergedError, match=rf"^the loss is not finite at step {len(losses)}\.$"):
        train(training, [1, 400, 500], lambda: {"x": x.numpy(force=True)})
    assert training.step == len(losses) - 1 > 10
    # Fifty products of float64, each with a rounding or two.
    np.testing.assert_allclose(x.numpy(force=True), paths[-1], rtol=1e-13)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_once_is_seen(bad: float) -> None:
    """At step 17, between probes, though the losses after it would be finite again."""
    x, loss = quadratic([1.0, 1.0, 1.0])
    calls = [0]

    def once() -> torch.Tensor:
        calls[0] += 1
        return loss() * 0 + bad if calls[0] == 17 else loss()

    with pytest.raises(DivergedError, match=r"^the loss is not finite at step 17\.$"):
        Training(make_optimiser([x], "sgd", 0.1), once).advance(30)
    assert calls[0] == 17


def test_a_clipped_gradient_has_the_bound_as_its_norm_for_each_seed_alone() -> None:
    first, second = torch.zeros(3, 2, 2), torch.zeros(3)  # a matrix and a number for each of three seeds
    first.grad = torch.arange(12.0).reshape(3, 2, 2)
    second.grad = torch.tensor([0.0, 3.0, -1.0])
    before = first.grad.clone(), second.grad.clone()
    clip_gradients([first, second, torch.zeros(3, 1)], 5.0)
    for seed in range(3):
        whole = torch.cat([before[0][seed].flatten(), before[1][seed : seed + 1]])
        factor = min(1.0, 5.0 / float(whole.norm()))
        assert factor < 1 or seed == 0
        torch.testing.assert_close(first.grad[seed], factor * before[0][seed])
        torch.testing.assert_close(second.grad[seed], factor * before[1][seed])


def test_a_gradient_of_zero_stays_zero_under_a_bound() -> None:
    weight = torch.ones(2, 3)
    weight.grad = torch.zeros(2, 3)
    clip_gradients([weight], 1.0)
    assert torch.equal(weight.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_a_bound_on_gradients_is_above_zero(bound: float) -> None:
    weight = torch.ones(1, 1, requires_grad=True)
    with pytest.raises(ValueError, match=f"^gradient_clip is {bound}; it must be above 0, or None.$"):
        Training(make_optimiser([weight], "sgd", 0.1), lambda: weight.sum(), gradient_clip=bound)


def test_a_clipped_step_of_sgd_has_the_length_of_rate_times_bound() -> None:
    weight = torch.full((2, 3), 4.0, requires_grad=True)
    training = Training(
        make_optimiser([weight], "sgd", 0.5), lambda: (weight[0] ** 2 / 2).sum() + weight[1].sum() / 100,
        gradient_clip=2.0,
    )  # fmt: skip
    training.advance(1)
    moved = (4.0 - weight.detach()).norm(dim=1)
    torch.testing.assert_close(moved, torch.tensor([0.5 * 2.0, 0.5 * 3**0.5 / 100]))


def test_steps_are_not_taken_back() -> None:
    x, loss = quadratic([1.0, 1.0, 1.0])
    training = Training(make_optimiser([x], "sgd", 0.1), loss)
    training.advance(5)
    training.advance(5)
    with pytest.raises(ValueError, match=r"^step is 4; it must be at least 5, the steps taken already\.$"):
        training.advance(4)
    assert training.step == 5


@pytest.mark.parametrize(
    ("optimiser", "learning_rate", "momentum", "answer"),
    [
        ("rmsprop", 0.1, 0.0, "optimiser is 'rmsprop'; it must be one of sgd, adam, adamw\\."),
        ("sgd", 0.0, 0.0, "learning_rate is 0.0; it must be finite and above 0"),
        ("sgd", float("nan"), 0.0, "learning_rate is nan"),
        ("sgd", float("inf"), 0.0, "learning_rate is inf"),
        ("sgd", 0.1, 1.0, r"momentum is 1.0; it must be in \[0, 1\)"),
        ("sgd", 0.1, -0.1, "momentum is -0.1"),
        ("adam", 0.1, 0.5, "momentum is 0.5 with optimiser 'adam'; it must be 0"),
        ("adamw", 0.1, 0.5, "momentum is 0.5 with optimiser 'adamw'; it must be 0"),
    ],
)
def test_bad_settings_are_told(optimiser: str, learning_rate: float, momentum: float, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        make_optimiser([torch.zeros(1, requires_grad=True)], optimiser, learning_rate, momentum)


@pytest.mark.parametrize(
    ("optimiser", "weight_decay", "answer"),
    [
        ("sgd", -0.1, "weight_decay is -0.1; it must be finite and at least 0."),
        ("adamw", float("nan"), "weight_decay is nan; it must be finite"),
        ("adamw", float("inf"), "weight_decay is inf; it must be finite"),
        ("adam", 0.1, "weight_decay is 0.1 with optimiser 'adam'; it must be 0, or use adamw."),
    ],
)
def test_bad_weight_decay_is_told(optimiser: str, weight_decay: float, answer: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(answer)):
        make_optimiser([torch.zeros(1, requires_grad=True)], optimiser, 0.1, 0.0, weight_decay)


@given(final_step=st.integers(1, 200), data=st.data())
def test_schedules_are_their_closed_forms(final_step: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, final_step - 1))
    constant, linear, cosine = (make_learning_rate_schedule(one, final_step, warmup) for one in SCHEDULES)
    steps = np.arange(final_step + 3)
    rising = steps < warmup
    gone = np.clip((steps - warmup) / (final_step - warmup), 0, 1)
    rise = (steps + 1) / max(warmup, 1)
    for found, fallen in (
        (constant, np.ones(len(steps))),
        (linear, 1 - gone),
        (cosine, (1 + np.cos(np.pi * gone)) / 2),
    ):
        values = [found(int(step)) for step in steps]
        # Numbers in [0, 1] after a handful of roundings of 1.1e-16.
        np.testing.assert_allclose(values, np.where(rising, rise, fallen), rtol=0, atol=2e-15)
        assert found(warmup) == 1.0
        assert 0 < found(0) <= 1
    assert linear(final_step) == cosine(final_step) == linear(final_step + 5) == 0.0


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("exponential", 10), "schedule is 'exponential'; it must be one of constant, linear, cosine."),
        (("linear", 0), "final_step is 0; it must be an integer, at least 1."),
        (("linear", 2.5), "final_step is 2.5; it must be an integer"),
        (("linear", True), "final_step is True; it must be an integer"),
        (("linear", 10, -1), "warmup_steps is -1; it must be an integer, from 0 to below final_step = 10."),
        (("cosine", 10, 10), "warmup_steps is 10; it must be an integer, from 0 to below final_step = 10."),
        (("constant", 10, 0.5), "warmup_steps is 0.5; it must be an integer"),
    ],
)
def test_impossible_learning_rate_schedules_are_refused(arguments: tuple, answer: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(answer)):
        make_learning_rate_schedule(*arguments)


def test_a_schedule_multiplies_the_rate_of_each_group() -> None:
    x, y = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    made = make_optimiser([{"params": [x], "lr": 1.0}, {"params": [y], "lr": 0.25}], "sgd", 3.0)
    training = Training(made, lambda: (x + y).sum(), schedule=lambda step: 2.0**-step)
    for step, total in enumerate((1.0, 1.5, 1.75), start=1):  # powers of two do not round
        training.advance(step)
        assert (x.item(), y.item()) == (-total, -total / 4)


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
