"""Gradient descent instead of gradient flow: finite steps, momentum, and minibatches.

Permutation symmetry closes full-batch gradient descent on the same three scalars, step by step and exactly. Against the flow
it is off by a term linear in the learning rate, which solves a linear equation along the flow (book label `prop-finite-step`).
Minibatches add noise: of all logits only u_x = L(x,x) − L(noise,x) becomes stationary, with the variance given below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike
from scipy import integrate

from theory.associative_memory.flow import GradientFlow, check_times, gradient_flow
from theory.problems import AssociativeMemory


def check_descent(learning_rate: float, momentum: float = 0.0) -> None:
    """ValueError unless learning_rate > 0 and 0 ≤ momentum < 1."""
    if not (isinstance(learning_rate, Real) and np.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate is {learning_rate!r}; it must be a finite number above 0.")
    if not (isinstance(momentum, Real) and 0 <= momentum < 1):
        raise ValueError(f"momentum is {momentum!r}; it must be a number in [0, 1).")


def integrate_to(
    rhs: Callable[[float, np.ndarray], np.ndarray],
    start: np.ndarray,
    times: np.ndarray,
    rtol: float,
    atol: float,
) -> np.ndarray:
    """Solution of state′ = rhs(t, state) from `start` at t = 0, at sorted `times`, shape (state, times)."""
    distinct, place = np.unique(times, return_inverse=True)
    if distinct.size == 0 or distinct[-1] == 0:
        return np.repeat(start[:, None], times.size, axis=1)
    solved = integrate.solve_ivp(
        rhs, (0, distinct[-1]), start, t_eval=distinct, method="LSODA", rtol=rtol, atol=atol
    )
    return np.asarray(solved.y)[:, place]


def symmetric_shares(n_tokens: int, diagonal: float, noise: float) -> tuple[float, float, float]:
    """Probabilities of the correct token, of all wrong ones together and of the noise, at one state with conserved column sum."""
    others = n_tokens - 1
    off = -(diagonal + noise) / others if others else 0.0
    top = max(diagonal, off, noise)
    correct, wrong, noisy = math.exp(diagonal - top), others * math.exp(off - top), math.exp(noise - top)
    total = correct + wrong + noisy
    return correct / total, wrong / total, noisy / total


def _rates(problem: AssociativeMemory, diagonal: float, noise: float) -> np.ndarray:
    """(da/dt, dg/dt) at one symmetric state."""
    n, alpha = problem.n_tokens, problem.noise_level
    correct, _, noisy = symmetric_shares(n, diagonal, noise)
    return np.array([(1 - alpha - correct) / n, (alpha - noisy) / n])


def gradient_descent(
    problem: AssociativeMemory, learning_rate: float, steps: ArrayLike, momentum: float = 0.0
) -> GradientFlow:
    """Exact full-batch gradient descent (heavy-ball momentum) from zero, read off after `steps` steps.

    - `steps`: non-negative integers, sorted. The result's `times` are steps × learning_rate/(1 − momentum).

    Raises ValueError on bad arguments. Cost: some 5 µs a step, whatever n. Book label `prop-finite-step`.
    """
    check_descent(learning_rate, momentum)
    wanted = check_times(steps, "steps")
    flat = np.atleast_1d(wanted).astype(int)
    if np.any(flat != np.atleast_1d(wanted)):
        fraction = np.atleast_1d(wanted)[flat != np.atleast_1d(wanted)][0]
        raise ValueError(f"steps contains {fraction}; all must be whole numbers.")
    n = problem.n_tokens
    state, velocity = np.zeros(2), np.zeros(2)
    kept = np.zeros((flat.size, 2))
    done = 0
    for place, target in enumerate(flat):
        while done < target:
            velocity = momentum * velocity + _rates(problem, state[0], state[1])
            state = state + learning_rate * velocity
            done += 1
        kept[place] = state
    diagonal, noise = (kept[:, i].reshape(wanted.shape) for i in (0, 1))
    off = -(diagonal + noise) / (n - 1) if n > 1 else np.zeros_like(noise)
    return GradientFlow(problem, wanted * learning_rate / (1 - momentum), diagonal, off, noise)


def first_order_correction(
    problem: AssociativeMemory, learning_rate: float, times: ArrayLike, momentum: float = 0.0
) -> GradientFlow:
    """Leading difference, linear in the learning rate, of gradient descent from the flow at equal flow time.

    With f the rates and J their Jacobian, the difference δ solves δ′ = J δ − c J f, c = η (1 + μ)/(2 (1 − μ)²), and starts at
    δ(0) = −η μ/(1 − μ)² f(0), which is the delay of a velocity that starts from rest. The result's arrays are differences of
    a, b and g; what is left is O(η²). Raises ValueError on bad arguments. Cost: one small integration, some 20 ms.
    """
    check_descent(learning_rate, momentum)
    array = check_times(times)
    flat = np.atleast_1d(array)
    n = problem.n_tokens
    factor = learning_rate * (1 + momentum) / (2 * (1 - momentum) ** 2)
    delay = learning_rate * momentum / (1 - momentum) ** 2

    def jacobian(diagonal: float, noise: float) -> np.ndarray:
        correct, wrong, noisy = symmetric_shares(n, diagonal, noise)
        fall = wrong / (n - 1) if n > 1 else 0.0
        of_correct, of_noise = correct - fall, noisy - fall
        return (
            np.array(
                [
                    [correct * (of_correct - 1), correct * of_noise],
                    [noisy * of_correct, noisy * (of_noise - 1)],
                ]
            )
            / n
        )

    def rhs(_: float, state: np.ndarray) -> np.ndarray:
        rate = _rates(problem, state[0], state[1])
        matrix = jacobian(state[0], state[1])
        return np.concatenate([rate, matrix @ (state[2:] - factor * rate)])

    start = np.concatenate([np.zeros(2), -delay * _rates(problem, 0.0, 0.0)])
    solution = integrate_to(rhs, start, flat, rtol=1e-9, atol=1e-13)
    diagonal, noise = (solution[i].reshape(array.shape) for i in (2, 3))
    off = -(diagonal + noise) / (n - 1) if n > 1 else np.zeros_like(noise)
    return GradientFlow(problem, array, diagonal, off, noise)


def corrected_flow(
    problem: AssociativeMemory, learning_rate: float, times: ArrayLike, momentum: float = 0.0
) -> GradientFlow:
    """The flow plus its `first_order_correction`: gradient descent up to O(learning_rate²)."""
    flow = gradient_flow(problem, times)
    shift = first_order_correction(problem, learning_rate, times, momentum)
    return GradientFlow(
        problem,
        flow.times,
        flow.diagonal + shift.diagonal,
        flow.off_diagonal + shift.off_diagonal,
        flow.noise + shift.noise,
    )


def largest_stable_learning_rate(problem: AssociativeMemory, momentum: float = 0.0) -> float:
    """(1 + momentum) n/(α(1 − α)): above it the late state, p = (1 − α, α), repels gradient descent; infinite at α = 0.

    The curvature of the loss there has one non-zero eigenvalue for each key, 2α(1 − α)/n, along L(x,x) − L(noise,x).
    """
    check_descent(1.0, momentum)
    n, alpha = problem.n_tokens, problem.noise_level
    return (1 + momentum) * n / (alpha * (1 - alpha)) if alpha > 0 else float("inf")


def stationary_variance(
    problem: AssociativeMemory,
    learning_rate: float,
    batch_size: int,
    momentum: float = 0.0,
    exact: bool = False,
) -> float:
    """Stationary variance (nats²) of u_x = L(x,x) − L(noise,x) under minibatch descent: η/(B(1 − μ)).

    It does not depend on n or α: both the noise of the gradient and the force that pulls back are proportional to α(1 − α)/n.
    With `exact` the linearised recursion is solved for every step size, which divides by 1 − η α(1 − α)/(n(1 + μ)). Both need
    a variance ≪ 1, as the force is linearised, and 0 < α < 1 (ValueError). All other logits drift like ln t for ever.
    """
    check_descent(learning_rate, momentum)
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be an integer, at least 1.")
    if problem.noise_level == 0:
        raise ValueError("noise_level is 0; a stationary variance needs noise_level > 0.")
    leading = learning_rate / (batch_size * (1 - momentum))
    if not exact:
        return leading
    shrink = 1 - learning_rate / largest_stable_learning_rate(problem, momentum)
    if shrink <= 0:
        raise ValueError(
            f"learning_rate is {learning_rate}; it must be below {largest_stable_learning_rate(problem, momentum):.6g}, "
            "where the stationary state loses its stability."
        )
    return leading / shrink


def relaxation_time(problem: AssociativeMemory) -> float:
    """n/(2α(1 − α)): flow time in which u_x forgets, at late times; infinite for α = 0."""
    n, alpha = problem.n_tokens, problem.noise_level
    return n / (2 * alpha * (1 - alpha)) if alpha > 0 else float("inf")
