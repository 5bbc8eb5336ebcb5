"""Finite steps, momentum and minibatches: against torch's own optimiser, against step halving, against a Lyapunov equation."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from tests.strategies import associative_memories
from theory.associative_memory import (
    GradientFlow,
    corrected_flow,
    first_order_correction,
    gradient_descent,
    gradient_flow,
    largest_stable_learning_rate,
    relaxation_time,
    stationary_variance,
)
from theory.problems import AssociativeMemory


def labels(n: int, alpha: float) -> torch.Tensor:
    noise = torch.full((1, n), alpha, dtype=torch.float64)
    return torch.cat([(1 - alpha) * torch.eye(n, dtype=torch.float64), noise])


def sgd(problem: AssociativeMemory, rate: float, steps: int, momentum: float) -> list[np.ndarray]:
    """Logits after every step: torch.optim.SGD on the full matrix, autograd of the cross-entropy, float64."""
    n = problem.n_tokens
    logits = torch.zeros(n + 1, n, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=rate, momentum=momentum)
    target, path = labels(n, problem.noise_level), [np.zeros((n + 1, n))]
    for _ in range(steps):
        optimiser.zero_grad()
        (-(target * torch.log_softmax(logits, 0)).sum(0).mean()).backward()
        optimiser.step()
        path.append(logits.detach().numpy().copy())
    return path


@settings(deadline=None, max_examples=12)
@given(
    problem=associative_memories(max_tokens=6),
    rate=st.floats(0.01, 8.0),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
)
def test_exact_recursion_is_full_matrix_descent(
    problem: AssociativeMemory, rate: float, momentum: float
) -> None:
    """Every step, every entry of the matrix. Rates up to 8 include unstable ones, where 1e-16 grows: hence 25 steps."""
    n, steps = problem.n_tokens, 25
    path = sgd(problem, rate, steps, momentum)
    found = gradient_descent(problem, rate, np.arange(steps + 1), momentum)
    np.testing.assert_allclose(found.times, np.arange(steps + 1) * rate / (1 - momentum), rtol=1e-14)
    for i, matrix in enumerate(path):
        expected = np.full((n + 1, n), found.off_diagonal[i])
        np.fill_diagonal(expected[:n], found.diagonal[i])
        expected[n] = found.noise[i]
        # Rounding, times at most 2^(few) of an unstable direction, in units of the largest logit.
        np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-11 * max(1, np.abs(matrix).max()))


def difference(first: GradientFlow, second: GradientFlow) -> float:
    return float(
        max(
            np.max(np.abs(getattr(first, name) - getattr(second, name)))
            for name in ("diagonal", "off_diagonal", "noise")
        )
    )


@pytest.mark.parametrize(("n", "alpha"), [(1, 0.3), (2, 0.3), (3, 0.7), (5, 0.0), (8, 0.1)])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_what_the_correction_leaves_is_of_second_order(n: int, alpha: float, momentum: float) -> None:
    """Halving η halves the uncorrected error and quarters the corrected one, over the trajectory from t = n to 40 n.

    The next order makes the factors 2 and 4 inexact by O(η): [1.8, 2.2] and [3.4, 4.6] hold it at these steps, which with
    momentum are so small that the start's transient, μ^(step), is over at the first time compared.
    """
    problem = AssociativeMemory(n, alpha)
    effective = (
        0.1 * n * (1 - momentum)
    )  # η/(1−μ) as a share of the time scale n; momentum remembers 1/(1−μ) steps
    plain, corrected = [], []
    times = np.array([1, 2, 5, 10, 40]) * n
    for halving in (1, 2, 4):
        step = effective / halving
        rate = step * (1 - momentum)
        descent = gradient_descent(problem, rate, np.round(times / step), momentum)
        plain.append(difference(descent, gradient_flow(problem, descent.times)))
        corrected.append(difference(descent, corrected_flow(problem, rate, descent.times, momentum)))
    for first, second in itertools.pairwise(plain):
        assert 1.8 < first / second < 2.2
    for first, second in itertools.pairwise(corrected):
        assert 3.4 < first / second < 4.6
    assert corrected[-1] < plain[-1] / 10


def test_correction_at_any_times() -> None:
    """Time 0 (the delay of momentum), repeated times, no times, a single one."""
    problem = AssociativeMemory(3, 0.2)
    start = first_order_correction(problem, 0.1, [0.0, 0.0], 0.5)
    # δ(0) = −η μ/(1−μ)² f(0), f(0) = (1 − α − 1/(n+1), −1/(n+1), α − 1/(n+1))/n.
    assert start.diagonal == pytest.approx([-0.2 * 0.55 / 3] * 2, rel=1e-14)
    assert start.noise == pytest.approx([0.2 * 0.05 / 3] * 2, rel=1e-13)
    assert start.off_diagonal == pytest.approx([0.2 * 0.25 / 3] * 2, rel=1e-13)
    repeated = first_order_correction(problem, 0.1, [0.0, 2.0, 2.0, 5.0])
    assert repeated.diagonal[1] == repeated.diagonal[2]
    assert repeated.diagonal[0] == 0
    alone = first_order_correction(problem, 0.1, 5.0)
    assert np.shape(alone.diagonal) == ()
    assert float(alone.diagonal) == pytest.approx(repeated.diagonal[3], rel=1e-6)  # LSODA at rtol 1e-9
    assert first_order_correction(problem, 0.1, []).noise.shape == (0,)
    assert corrected_flow(problem, 0.1, 5.0).problem is problem


def test_shapes_and_start_of_the_recursion() -> None:
    problem = AssociativeMemory(3, 0.2)
    assert np.shape(gradient_descent(problem, 0.1, 7).diagonal) == ()
    found = gradient_descent(problem, 0.1, [0, 0, 3, 3])
    assert found.diagonal[0] == found.noise[0] == 0
    assert found.diagonal[2] == found.diagonal[3] > 0
    one = gradient_descent(AssociativeMemory(1, 0.2), 0.1, [0, 5])
    assert np.all(one.off_diagonal == 0)
    assert one.diagonal[1] == pytest.approx(-one.noise[1], rel=1e-14)


@pytest.mark.parametrize(("n", "alpha"), [(1, 0.45), (2, 0.45), (4, 0.6)])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_largest_stable_learning_rate_parts_rest_from_oscillation(
    n: int, alpha: float, momentum: float
) -> None:
    """u = a − g after 30 000 steps: at rest at ln((1−α)/α) 3 % below the bound, swinging from step to step 3 % above it.

    p_b, which the bound takes to be 0, is then n/t ~ 1e-5: below the 3 %.
    """
    problem = AssociativeMemory(n, alpha)
    quiet, off = swing(problem, momentum, 0.97)
    assert quiet < 1e-6  # |eigenvalue|^30 000 ≤ 0.98^30 000 is nothing; what is left drifts by p_b/t a step
    assert off < 1e-3  # of order p_b, as for the full flow
    loud, _ = swing(problem, momentum, 1.03)
    assert loud > 0.1


def swing(problem: AssociativeMemory, momentum: float, share: float) -> tuple[float, float]:
    """Range of u over four late steps at a share of the bound, and its distance from ln((1−α)/α)."""
    rate = share * largest_stable_learning_rate(problem, momentum)
    found = gradient_descent(problem, rate, np.arange(30_000, 30_004), momentum)
    u = found.diagonal - found.noise
    level = math.log((1 - problem.noise_level) / problem.noise_level)
    return float(np.ptp(u)), float(abs(u[-1] - level))


def test_the_bound_is_local() -> None:
    """The docstring says that above it the late state repels, and no more: 5 % below it, with momentum, descent from zero

    can end on a cycle that exists beside the stable state of rest.
    """
    problem = AssociativeMemory(2, 0.3)
    assert swing(problem, 0.6, 0.95)[0] > 1
    assert swing(problem, 0.6, 0.8)[0] < 1e-6
    assert swing(problem, 0.0, 0.95)[0] < 1e-6


def test_curvature_behind_the_bound() -> None:
    """Autograd's Hessian at p = (1 − α, α): 2α(1 − α)/n once a key, else 0; heavy ball is stable below 2(1 + μ)/curvature."""
    n, alpha = 3, 0.3
    target = labels(n, alpha)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        logits = flat.reshape(n + 1, n)
        return -(target * torch.log_softmax(logits, 0)).sum(0).mean()

    state = torch.full((n + 1, n), -60.0, dtype=torch.float64)
    state.fill_diagonal_(math.log(1 - alpha))
    state[n] = math.log(alpha)
    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, state.reshape(-1))).numpy()
    curvature = 2 * alpha * (1 - alpha) / n
    np.testing.assert_allclose(values[-n:], curvature, rtol=1e-12)
    assert np.abs(values[:-n]).max() < 1e-15  # rounding of numbers of size 0.1
    for momentum in (0.0, 0.5, 0.9):
        bound = largest_stable_learning_rate(AssociativeMemory(n, alpha), momentum)
        for share, stable in ((0.999, True), (1.001, False)):
            chain = np.array(
                [[1 - share * bound * curvature, share * bound * momentum], [-curvature, momentum]]
            )
            assert (np.abs(np.linalg.eigvals(chain)).max() < 1) == stable
    assert largest_stable_learning_rate(AssociativeMemory(n, 0.0)) == math.inf
    assert relaxation_time(AssociativeMemory(n, alpha)) == pytest.approx(1 / curvature, rel=1e-15)
    assert relaxation_time(AssociativeMemory(n, 0.0)) == math.inf


def drift_and_noise(problem: AssociativeMemory) -> tuple[float, float]:
    """Of u = L(x,x) − L(noise,x) at p = (1 − α, α), key 0: restoring force per unit u, and variance of one sample's pull.

    By enumeration of every (key, label) with its probability, and autograd of its loss; no formula.
    """
    n, alpha = problem.n_tokens, problem.noise_level
    mean_at, square = {}, 0.0
    for shift in (-1e-5, 0.0, 1e-5):
        state = torch.full((n + 1, n), -60.0, dtype=torch.float64)
        state.fill_diagonal_(math.log(1 - alpha))
        state[n] = math.log(alpha)
        state[0, 0] += shift / 2
        state[n, 0] -= shift / 2
        mean = 0.0
        for key in range(n):
            for label, chance in ((key, (1 - alpha) / n), (n, alpha / n)):
                leaf = state.clone().requires_grad_(True)
                torch.nn.functional.cross_entropy(leaf[:, key], torch.tensor(label)).backward()
                pull = float(leaf.grad[n, 0] - leaf.grad[0, 0])
                mean += chance * pull
                square += chance * pull**2 if shift == 0 else 0.0
        mean_at[shift] = mean
    return (mean_at[-1e-5] - mean_at[1e-5]) / 2e-5, square - mean_at[0.0] ** 2


@pytest.mark.parametrize(("n", "alpha"), [(1, 0.5), (2, 0.3), (5, 0.8)])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("share", [1e-4, 0.3, 0.9])
def test_stationary_variance_solves_the_lyapunov_equation(
    n: int, alpha: float, momentum: float, share: float
) -> None:
    """The linearised chain (u, velocity) ↦ M (u, velocity) + noise, solved by scipy for its stationary covariance."""
    problem, batch = AssociativeMemory(n, alpha), 4
    force, noise = drift_and_noise(problem)
    rate = share * largest_stable_learning_rate(problem, momentum)
    chain = np.array([[1 - rate * force, rate * momentum], [-force, momentum]])
    kick = np.array([rate, 1.0])
    covariance = linalg.solve_discrete_lyapunov(chain, np.outer(kick, kick) * noise / batch)
    exact = stationary_variance(problem, rate, batch, momentum, exact=True)
    # The force is a difference over 1e-5: 1e-10 of curvature, 1e-16/1e-5 of rounding, and ×10 at 0.9 of the bound.
    assert exact == pytest.approx(covariance[0, 0], rel=1e-8)
    leading = stationary_variance(problem, rate, batch, momentum)
    assert leading == pytest.approx(rate / (batch * (1 - momentum)), rel=1e-15)
    # The exact one divides by 1 − rate/bound, no more and no less.
    assert exact / leading == pytest.approx(1 / (1 - share), rel=1e-10)


def test_stationary_variance_of_a_real_minibatch_chain() -> None:
    """n = 1, α = 1/2, samples of one label: 20 000 nonlinear chains, run to rest; n = 1 has no drifting logits.

    Variance of a sample variance: 2/20 000 of its square, standard error 1 %; z = 5 for a false-alarm rate of 6e-7. The force's
    curvature biases by O(variance): sinh-like, −p‴ var/2 ~ var/4 = 1 %. Threshold 5 % + 1 %.
    """
    rate, chains = 0.04, 20_000
    rng = np.random.default_rng(20240611)
    u = np.zeros(chains)
    for _ in range(400):  # the relaxation time is 2 = 50 steps
        p = 1 / (1 + np.exp(-u))
        u += 2 * rate * ((rng.random(chains) < 0.5) - p)
    expected = stationary_variance(AssociativeMemory(1, 0.5), rate, 1, exact=True)
    assert np.var(u) == pytest.approx(expected, rel=0.06), "seed 20240611"


BAD_RATES = [0, -0.1, math.nan, math.inf, "0.1", None, [0.1]]
BAD_MOMENTA = [-0.1, 1, 1.5, math.nan, "0.5", None]


@pytest.mark.parametrize("rate", BAD_RATES)
def test_bad_learning_rates_are_refused(rate: object) -> None:
    problem = AssociativeMemory(2, 0.3)
    for call in (
        lambda: gradient_descent(problem, rate, 3),  # type: ignore[arg-type]
        lambda: first_order_correction(problem, rate, 3.0),  # type: ignore[arg-type]
        lambda: stationary_variance(problem, rate, 1),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r"learning_rate is .*finite number above 0"):
            call()


@pytest.mark.parametrize("momentum", BAD_MOMENTA)
def test_bad_momenta_are_refused(momentum: object) -> None:
    problem = AssociativeMemory(2, 0.3)
    for call in (
        lambda: gradient_descent(problem, 0.1, 3, momentum),  # type: ignore[arg-type]
        lambda: corrected_flow(problem, 0.1, 3.0, momentum),  # type: ignore[arg-type]
        lambda: largest_stable_learning_rate(problem, momentum),  # type: ignore[arg-type]
        lambda: stationary_variance(problem, 0.1, 1, momentum),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r"momentum is .*in \[0, 1\)"):
            call()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (-1, r"steps contains -1\.0"),
        ([3, 1], r"steps is not sorted: 1\.0 comes after 3\.0"),
        ([1, 2.5], r"steps contains 2\.5; .*whole"),
        ("3", "steps is '3'"),
        (math.nan, "steps contains nan"),
    ],
)
def test_bad_steps_are_refused(steps: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradient_descent(AssociativeMemory(2, 0.3), 0.1, steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [0, -1, 2.5, 2.0, True, "2", math.nan, math.inf, None])
def test_bad_batch_sizes_are_refused(batch: object) -> None:
    with pytest.raises(ValueError, match=r"batch_size is .*integer, at least 1"):
        stationary_variance(AssociativeMemory(2, 0.3), 0.1, batch)  # type: ignore[arg-type]


def test_no_stationary_state_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise_level is 0; .*noise_level > 0"):
        stationary_variance(AssociativeMemory(2, 0.0), 0.1, 1)
    problem = AssociativeMemory(2, 0.5)
    with pytest.raises(ValueError, match=r"learning_rate is 8\.0; it must be below 8"):
        stationary_variance(problem, 8.0, 1, exact=True)
    assert stationary_variance(problem, 8.0, 1) == 8.0  # the leading law does not know
