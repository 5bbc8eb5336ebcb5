"""Whole trajectories by independent roads: the exact flow, integrated autograd gradients of the full matrix, descent written
out by hand, and the experiment's own simulation."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sims.experiments import memory_flow
from sims.statistics import mean_interval, z_threshold
from sims.tasks.associative_memory import minibatch_loss, sample
from theory import associative_memory as theory
from theory.problems import AssociativeMemory

FEW = settings(max_examples=12)
PROBLEMS = st.builds(AssociativeMemory, st.integers(1, 5), st.sampled_from([0.0, 0.1, 0.25, 0.45, 0.7, 0.95]))
KEYS = st.integers(0, 1000)


def embeddings(problem: AssociativeMemory, extra: int, key: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal U (width × (n + 1)) and E (width × n), float64."""
    width = problem.n_classes + extra
    generator = torch.Generator().manual_seed(key)
    gaussian = [torch.randn(width, width, generator=generator, dtype=torch.float64) for _ in range(2)]
    u, e = (torch.linalg.qr(one)[0] for one in gaussian)
    return u[:, : problem.n_classes], e[:, : problem.n_tokens]


def descent_direction(
    problem: AssociativeMemory, u: torch.Tensor, e: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """−gradient of the expected cross-entropy of UᵀWE by autograd, written with nothing of sims."""
    n, alpha = problem.n_tokens, problem.noise_level

    def direction(weights: torch.Tensor) -> torch.Tensor:
        w = weights.detach().requires_grad_()
        surprise = -torch.log_softmax(u.T @ w @ e, dim=0)
        loss = (1 - alpha) * surprise[:n].diagonal().mean() + alpha * surprise[n].mean()
        return -torch.autograd.grad(loss, w)[0]

    return direction


def runge_kutta(
    problem: AssociativeMemory, u: torch.Tensor, e: torch.Tensor, step: float, steps: int, every: int
) -> np.ndarray:
    """Logits of the flow dW/dt = −gradient from zero, at every `every`-th step, by the classical fourth-order rule."""
    direction = descent_direction(problem, u, e)
    w = torch.zeros(len(u), len(e), dtype=torch.float64)
    kept = []
    for done in range(1, steps + 1):
        k1 = direction(w)
        k2 = direction(w + step / 2 * k1)
        k3 = direction(w + step / 2 * k2)
        k4 = direction(w + step * k3)
        w = w + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if done % every == 0:
            kept.append((u.T @ w @ e).numpy())
    return np.array(kept)


def descend(
    problem: AssociativeMemory,
    u: torch.Tensor,
    e: torch.Tensor,
    learning_rate: float,
    steps: int,
    momentum: float = 0.0,
) -> np.ndarray:
    """Logits after each step of heavy-ball descent, shape (steps, n + 1, n)."""
    direction = descent_direction(problem, u, e)
    w = torch.zeros(len(u), len(e), dtype=torch.float64)
    velocity, kept = torch.zeros_like(w), []
    for _ in range(steps):
        velocity = momentum * velocity + direction(w)
        w = w + learning_rate * velocity
        kept.append((u.T @ w @ e).numpy())
    return np.array(kept)


def as_matrices(flow: theory.GradientFlow) -> np.ndarray:
    """The theory's three numbers as logits, shape (times, n + 1, n)."""
    n = flow.problem.n_tokens
    logits = np.repeat(flow.off_diagonal[:, None], (n + 1) * n, axis=1).reshape(-1, n + 1, n)
    logits[:, np.arange(n), np.arange(n)] = flow.diagonal[:, None]
    logits[:, n] = flow.noise[:, None]
    return logits


@FEW
@given(problem=PROBLEMS, extra=st.integers(0, 3), key=KEYS)
def test_the_exact_flow_is_the_integrated_gradient(problem: AssociativeMemory, extra: int, key: int) -> None:
    """Forty times up to t = 16 n. Halving the step bounds the error of the coarser integration; the finer has a 16th of it."""
    u, e = embeddings(problem, extra, key)
    step, steps = 0.4 * problem.n_tokens, 40
    coarse = runge_kutta(problem, u, e, step, steps, 1)
    fine = runge_kutta(problem, u, e, step / 2, 2 * steps, 2)
    tolerance = np.abs(coarse - fine).max() + 1e-11
    assert tolerance < 1e-3  # else the integration would say nothing
    exact = as_matrices(theory.gradient_flow(problem, step * np.arange(1, steps + 1)))
    np.testing.assert_allclose(fine, exact, rtol=0, atol=tolerance)


@FEW
@given(
    problem=PROBLEMS,
    extra=st.integers(0, 3),
    key=KEYS,
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    scaled_step=st.floats(0.01, 1.5),
)
def test_the_exact_recursion_is_full_matrix_descent(
    problem: AssociativeMemory, extra: int, key: int, momentum: float, scaled_step: float
) -> None:
    u, e = embeddings(problem, extra, key)
    rate = scaled_step * problem.n_tokens * (1 - momentum)
    found = descend(problem, u, e, rate, 60, momentum)
    exact = theory.gradient_descent(problem, rate, np.arange(1, 61), momentum)
    # Sixty stable float64 steps of order 1: some thousand roundings of 1e-16.
    np.testing.assert_allclose(found, as_matrices(exact), rtol=0, atol=1e-11)


@FEW
@given(
    problem=PROBLEMS,
    extra=st.integers(0, 3),
    seed=st.integers(0, 100),
    momentum=st.sampled_from([0.0, 0.5]),
)
def test_the_simulation_is_full_matrix_descent(
    problem: AssociativeMemory, extra: int, seed: int, momentum: float
) -> None:
    """float32 and torch.optim against float64 and hand-written steps, between other embeddings: these must not matter."""
    config = memory_flow.Config(
        n_tokens=problem.n_tokens,
        noise_level=problem.noise_level,
        width=problem.n_classes + extra,
        momentum=momentum,
        flow_step=0.2,
        final_time=16.0,
        n_probes=12,
    )
    (measured,) = memory_flow.simulate([(config, seed)], "cpu")
    u, e = embeddings(problem, 0, key=12345)
    steps = config.probe_steps
    logits = descend(problem, u, e, config.learning_rate, steps[-1], momentum)[steps - 1]
    n = problem.n_tokens
    # 80 steps, each with a few roundings (6e-8) of numbers up to 3, in directions that descent does not amplify; momentum
    # repeats a rounding 1/(1 − momentum) times.
    tolerance = 80 * 3 * 6e-8 / (1 - momentum)
    np.testing.assert_allclose(measured["diagonal"], logits[:, 0, 0], rtol=0, atol=tolerance)
    np.testing.assert_allclose(measured["noise"], logits[:, n, 0], rtol=0, atol=tolerance)
    if n > 1:
        np.testing.assert_allclose(measured["off_diagonal"], logits[:, 0, 1], rtol=0, atol=tolerance)
    assert float(abs(measured["spread"]).max()) <= tolerance
    assert float(abs(measured["column_sum"]).max()) <= (n + 1) * tolerance


@FEW
@given(problem=PROBLEMS, key=KEYS)
def test_logits_do_not_depend_on_the_basis_of_the_embeddings(problem: AssociativeMemory, key: int) -> None:
    """U → QU and E → RE with rotations Q, R: also between embeddings that are not orthonormal."""
    generator = torch.Generator().manual_seed(key)
    width, n = 6, problem.n_tokens
    u = torch.randn(width, n + 1, generator=generator, dtype=torch.float64) / width**0.5
    e = torch.randn(width, n, generator=generator, dtype=torch.float64) / width**0.5
    q, r = (
        torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
        for _ in range(2)
    )
    plain = descend(problem, u, e, 0.3 * n, 30)
    turned = descend(problem, q @ u, r @ e, 0.3 * n, 30)
    np.testing.assert_allclose(turned, plain, rtol=0, atol=1e-11)


@FEW
@given(problem=PROBLEMS, key=KEYS)
def test_renaming_the_tokens_renames_the_logits(problem: AssociativeMemory, key: int) -> None:
    """Exact for any embeddings; between orthonormal ones the logits are then equal within their classes at all times."""
    n = problem.n_tokens
    generator = torch.Generator().manual_seed(key)
    u = torch.randn(6, n + 1, generator=generator, dtype=torch.float64) / 6**0.5
    e = torch.randn(6, n, generator=generator, dtype=torch.float64) / 6**0.5
    order = torch.randperm(n, generator=generator)
    labels = torch.cat([order, torch.tensor([n])])
    plain = descend(problem, u, e, 0.3 * n, 30)
    renamed = descend(problem, u[:, labels], e[:, order], 0.3 * n, 30)
    expected = plain[:, labels.numpy()][:, :, order.numpy()]
    np.testing.assert_allclose(renamed, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.7), (4, 0.3), (3, 0.0)])
def test_momentum_follows_the_same_flow(n: int, alpha: float) -> None:
    """At equal flow time the distance between momentum 0 and 0.8 halves with the step, towards none."""
    problem = AssociativeMemory(n, alpha)
    u, e = embeddings(problem, 1, 3)

    def distance(step: float) -> float:
        steps = round(8 / step)
        plain = descend(problem, u, e, step * n, steps)
        heavy = descend(problem, u, e, step * n * (1 - 0.8), steps, 0.8)
        return float(np.abs(plain - heavy)[steps // 4 :: steps // 4].max())

    first, second, third = (distance(step) for step in (0.08, 0.04, 0.02))
    assert first < 0.3
    # First order in the step: ratios tend to 2, and the next order changes them by a share that halves too.
    assert abs(second / third - 2) <= abs(first / second - 2) + 0.02
    assert second / third == pytest.approx(2, abs=0.2)


def test_minibatches_tend_to_the_full_batch_like_one_over_the_root_of_their_size() -> None:
    """Mean squared distance from full-batch descent after 30 steps, over 200 seeds each: a batch 16 times as large has a 16th.

    The two means are independent; the threshold is for a false alarm of 1e-6.
    """
    problem, rate, steps, seeds = AssociativeMemory(3, 0.4), 0.3, 30, 200
    u, e = torch.eye(4, dtype=torch.float64), torch.eye(4, 3, dtype=torch.float64)
    full = descend(problem, u, e, rate, steps)[-1]

    def squares(batch_size: int, key: int) -> np.ndarray:
        logits = torch.zeros(seeds, 4, 3, dtype=torch.float64, requires_grad=True)
        generator = torch.Generator().manual_seed(key)
        for _ in range(steps):
            keys, labels = (one.view(seeds, -1) for one in sample(problem, seeds * batch_size, generator))
            (gradient,) = torch.autograd.grad(minibatch_loss(logits, keys, labels), logits)
            logits = (logits - rate * gradient).detach().requires_grad_()
        return ((logits.detach().numpy() - full) ** 2).mean(axis=(1, 2))

    small, large = squares(64, 1), squares(1024, 2)
    logs, errors = [], []
    for one in (small, large):
        mean, _ = mean_interval(one)
        logs.append(np.log(mean))
        errors.append(one.std(ddof=1) / np.sqrt(seeds) / mean)
    z = (logs[0] - logs[1] - np.log(16)) / np.hypot(*errors)
    # The next order in 1/batch size changes the ratio by the variance of a logit at 64 samples, below 0.02.
    bias = 0.02 / np.hypot(*errors)
    assert abs(z) <= z_threshold(1) + bias, f"z {z:.2f}, ratio {np.exp(logs[0] - logs[1]):.2f}, seeds 1 and 2"
    assert small.mean() < 0.02
