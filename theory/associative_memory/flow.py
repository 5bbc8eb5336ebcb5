"""Gradient flow of the noisy memory, solved exactly, for every size and time, in float64.

The logits of the flow from zero hold three numbers only (book label `thm-three-scalars`): a on the diagonal, b off it, g
in the noise row. `Riccati` gives q = exp((a − g)/2) as a function of the clock τ. What is left is time. The closed form

    t = (2n/(n+1)) [ ln y / C + (ln q − A ln τ + ln y)/B + (n − 1) ln τ ]

divides rounding errors by α and by 1 − α, so it is kept for the reference (`high_precision`). In float64 time and the two
logits are integrated over ln τ, from integrands that do not cancel:

    dt/d ln τ = (2n/(n+1)) [τ q + τ/q + n − 1],
    dg/d ln τ = (2/(n+1)) [α(n+1) − 1 + α (e^u − 1) − (1 − α)(e^v − 1)],   u = a − b, v = g − b,

and a likewise with α → 1 − α, u ↔ v. All are smooth on the scale 1 of ln τ, so Gauss-Legendre panels give them to
rounding; from kτ > 1 on, the logits follow from q directly. The first quarter unit of t/n uses the Taylor series of the flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import ArrayLike

from theory.associative_memory.riccati import Riccati
from theory.problems import AssociativeMemory

_TAYLOR_LIMIT = 0.25
"""Largest t/n of the Taylor series; its nearest singularity is farther than 1.5 away for every n and α."""
_TAYLOR_ORDER = 26
_PANEL_WIDTH = 0.6
_PANEL_NODES = 20
_PICARD_SWEEPS = 3


@dataclass(frozen=True)
class GradientFlow:
    """State of the flow at `times`: each array has the shape of `times`; logits are in nats, times in units of flow time.

    - `diagonal`: a, logit of the correct token.
    - `off_diagonal`: b, logit of each of the n − 1 wrong tokens (0 by convention for n = 1, which has none).
    - `noise`: g, logit of the noise token.

    a + (n − 1) b + g = 0 at all times (book label `lem-conservation`).
    """

    problem: AssociativeMemory
    times: np.ndarray
    diagonal: np.ndarray
    off_diagonal: np.ndarray
    noise: np.ndarray


def check_times(times: ArrayLike, name: str = "times") -> np.ndarray:
    """`times` as a float64 array; ValueError unless it has at most one axis and is finite, non-negative and sorted."""
    try:
        array = np.array(times, dtype=float)
        kind = np.asarray(times).dtype.kind
    except (TypeError, ValueError):
        kind = "U"
    if kind not in "iufO" or times is None:
        raise ValueError(f"{name} is {times!r}; it must be an array of numbers.")
    if array.ndim > 1:
        raise ValueError(f"{name} has {array.ndim} axes; it must be a number or have one axis.")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} contains {array[~np.isfinite(array)].flat[0]}; all must be finite.")
    if np.any(array < 0):
        raise ValueError(f"{name} contains {array[array < 0].flat[0]}; all must be at least 0.")
    if array.ndim and np.any(np.diff(array) < 0):
        where = int(np.argmax(np.diff(array) < 0))
        raise ValueError(
            f"{name} is not sorted: {array[where + 1]} comes after {array[where]}; {name} must not decrease."
        )
    return array


def gradient_flow(problem: AssociativeMemory, times: ArrayLike) -> GradientFlow:
    """Exact gradient flow of `problem` from zero logits (book label `thm-exact-flow`; derived for this project).

    - `times`: flow times t ≥ 0, a number or a sorted array of one axis.

    Relative error at most 1e-8 (in practice a few 1e-13) for n up to 10⁹ and t up to 10¹². A logit that passes through
    zero has this accuracy relative to max(|g|, t |α − 1/(n+1)| / n), likewise a with 1 − α for α.
    Cost: one millisecond or two plus some microseconds a time, whatever n and t. α = 0 and n = 1 are handled.
    Raises ValueError for times that are negative, unsorted, not finite or not numbers.
    """
    if not isinstance(problem, AssociativeMemory):
        raise ValueError(f"problem is {problem!r}; it must be an AssociativeMemory.")
    array = check_times(times)
    flat = np.atleast_1d(array)
    scaled = flat / problem.n_tokens
    diagonal, noise = np.zeros_like(flat), np.zeros_like(flat)
    early = scaled <= _TAYLOR_LIMIT
    diagonal[early], noise[early] = _taylor(problem, scaled[early])
    if not early.all():
        # Noise moves a logit by at most α t/n: too little to see, where the Bessel functions would underflow.
        solve = _noiseless if problem.noise_level * flat[-1] * problem.n_classes < 1e-30 else _panels
        diagonal[~early], noise[~early] = solve(problem, flat[~early])
    others = problem.n_tokens - 1
    off_diagonal = -(diagonal + noise) / others if others else np.zeros_like(flat)
    return GradientFlow(
        problem,
        array,
        diagonal.reshape(array.shape),
        off_diagonal.reshape(array.shape),
        noise.reshape(array.shape),
    )


def excess_noise(problem: AssociativeMemory) -> float:
    """α − 1/(n+1), rounded once: the rate n dg/dt at the start."""
    return float(Fraction(problem.noise_level) - Fraction(1, problem.n_tokens + 1))


def _taylor(problem: AssociativeMemory, scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a and g from the Taylor series of the flow in t/n, by the recurrences of exponential and quotient."""
    n = problem.n_tokens
    start = {
        "a": float(Fraction(n, n + 1) - Fraction(problem.noise_level)),
        "b": -1.0 / (n + 1),
        "g": excess_noise(problem),
    }
    logits = {name: np.zeros(_TAYLOR_ORDER + 1) for name in start}
    exponentials = {name: np.zeros(_TAYLOR_ORDER + 1) for name in start}
    probabilities = {name: np.zeros(_TAYLOR_ORDER + 1) for name in start}
    partition = np.zeros(_TAYLOR_ORDER + 1)
    for order in range(_TAYLOR_ORDER):
        for name, series in exponentials.items():
            series[order] = 1.0 if order == 0 else _exponential_term(logits[name], series, order)
        partition[order] = (
            exponentials["a"][order] + (n - 1) * exponentials["b"][order] + exponentials["g"][order]
        )
        if order == 1:
            partition[1] = 0.0  # by conservation; its rounding would be all there is of g at α = 1/(n+1)
        for name, series in probabilities.items():
            carried = float(np.dot(series[:order], partition[order:0:-1]))
            series[order] = (exponentials[name][order] - carried) / partition[0]
            rate = start[name] if order == 0 else -series[order]
            logits[name][order + 1] = rate / (order + 1)
    return np.polyval(logits["a"][::-1], scaled), np.polyval(logits["g"][::-1], scaled)


def _exponential_term(logit: np.ndarray, exponential: np.ndarray, order: int) -> float:
    index = np.arange(1, order + 1)
    return float(np.dot(index * logit[1 : order + 1], exponential[order - 1 :: -1][:order])) / order


def _noiseless(problem: AssociativeMemory, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """α = 0: wrong tokens and the noise token are alike, b = g, and r = a − b solves e^r − 1 + n r = (n+1) t/n."""
    n = problem.n_tokens
    target = (n + 1) * times / n
    margin = np.minimum(target / n, np.log1p(target))
    for _ in range(60):
        step = (np.expm1(margin) + n * margin - target) / (np.exp(margin) + n)
        margin = margin - step
        if np.all(np.abs(step) <= 1e-15 * margin):
            break
    return n * margin / (n + 1), -margin / (n + 1)


def _panels(problem: AssociativeMemory, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a and g at times past the Taylor range: panels in ln τ, then Newton for the clock of each time."""
    n, alpha = problem.n_tokens, problem.noise_level
    riccati = Riccati(problem)
    panels = _ClockPanels.up_to(float(np.log1p(times[-1] * (n + 1) / (4 * n))))
    log_clock = panels.points
    log_q = riccati.log_q(log_clock)
    u, v = log_clock + log_q, log_clock - log_q
    time = 2 * n / (n + 1) * panels.integrate(np.exp(u) + np.exp(v) + (n - 1))
    excess = {"g": excess_noise(problem) * (n + 1), "a": float(n - Fraction(alpha) * (n + 1))}
    reliable = riccati.wave_number * np.exp(log_clock) < 1
    b = -2 * log_clock / (n + 1)
    shared = log_clock * (n - 1) / (n + 1)
    a, g = shared + log_q, shared - log_q
    for _ in range(_PICARD_SWEEPS):
        signal, noise = (1 - alpha) * np.expm1(g - b), alpha * np.expm1(a - b)
        a_next = 2 / (n + 1) * panels.integrate(np.where(reliable, excess["a"] - noise + signal, 0))
        g_next = 2 / (n + 1) * panels.integrate(np.where(reliable, excess["g"] + noise - signal, 0))
        a, g = np.where(reliable, a_next, a), np.where(reliable, g_next, g)
    clock = panels.invert(time, times)
    direct_q = riccati.log_q(clock)
    direct = clock * (n - 1) / (n + 1)
    integrated = panels.trusted(reliable, clock)
    return (
        np.where(integrated, panels.evaluate(a, clock), direct + direct_q),
        np.where(integrated, panels.evaluate(g, clock), direct - direct_q),
    )


@dataclass(frozen=True)
class _ClockPanels:
    """Gauss-Legendre panels of ln τ from 0 on; functions are arrays (panels, nodes) of their values at `points`."""

    width: float
    count: int
    points: np.ndarray

    @classmethod
    def up_to(cls, end: float) -> _ClockPanels:
        count = max(1, int(np.ceil(end / _PANEL_WIDTH)) + 1)
        points = _PANEL_WIDTH * (np.arange(count)[:, None] + 0.5 * (_NODES[None, :] + 1))
        return cls(_PANEL_WIDTH, count, points)

    def integrate(self, values: np.ndarray) -> np.ndarray:
        """Integral from ln τ = 0 to each point, exact for polynomials of degree `_PANEL_NODES` − 1 on each panel."""
        whole = 0.5 * self.width * (values @ _GAUSS_WEIGHTS)
        before = np.concatenate([[0.0], np.cumsum(whole)[:-1]])
        return before[:, None] + 0.5 * self.width * (values @ _RUNNING_INTEGRAL.T)

    def evaluate(self, values: np.ndarray, log_clock: np.ndarray, derivative: bool = False) -> np.ndarray:
        """Value (or derivative) of the panel polynomials at `log_clock` (one axis)."""
        panel = np.clip((log_clock / self.width).astype(int), 0, self.count - 1)
        local = 2 * (log_clock / self.width - panel) - 1
        coefficients = (values @ _TO_LEGENDRE.T)[panel].T
        if derivative:
            return legendre.legval(local, legendre.legder(coefficients), tensor=False) * 2 / self.width
        return legendre.legval(local, coefficients, tensor=False)

    def invert(self, rising: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """ln τ at which the rising function takes each of `targets`: bisection to a panel's node, then Newton."""
        flat = rising.ravel()
        place = np.clip(np.searchsorted(flat, targets), 1, flat.size - 1)
        low, high = self.points.ravel()[place - 1], self.points.ravel()[place]
        fraction = (targets - flat[place - 1]) / (flat[place] - flat[place - 1])
        guess = low + fraction * (high - low)
        for _ in range(6):
            miss = self.evaluate(rising, guess) - targets
            guess = guess - miss / self.evaluate(rising, guess, derivative=True)
        return guess

    def trusted(self, reliable: np.ndarray, log_clock: np.ndarray) -> np.ndarray:
        """Whether every node of the panel of each `log_clock` is reliable."""
        panel = np.clip((log_clock / self.width).astype(int), 0, self.count - 1)
        return np.asarray(reliable.all(axis=1))[panel]


def _legendre_tables(
    nodes: Sequence[float] | np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Matrices from node values to Legendre coefficients, and to running integrals from −1 to each node."""
    degree = len(nodes)
    values = legendre.legvander(np.asarray(nodes), degree)
    to_legendre = (values[:, :degree] * weights[:, None] * (np.arange(degree) + 0.5)).T
    integrals = np.empty((degree, degree))
    integrals[:, 0] = np.asarray(nodes) + 1
    for order in range(1, degree):
        integrals[:, order] = (values[:, order + 1] - values[:, order - 1]) / (2 * order + 1)
    return to_legendre, integrals @ to_legendre


_NODES, _GAUSS_WEIGHTS = legendre.leggauss(_PANEL_NODES)
_TO_LEGENDRE, _RUNNING_INTEGRAL = _legendre_tables(_NODES, _GAUSS_WEIGHTS)
