"""Beyond the linear softmax: closed forms on the symmetric path, a reduced system of two numbers, and the population's descent.

Equally frequent tokens: while the kernel's centred part is a (I − 11ᵀ/n), the weight of the right slot is e^z/(e^z + m − 1) for
every context, z = χ a, and every rate of the linear theory is multiplied by m/(e^z + m − 1), exactly. `population_descent` needs
no symmetry: it has the exact average over contexts of two slots, or of all n tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import integrate, special

from theory.problems import checks
from theory.small_initialisation.early_growth import Growth
from theory.small_initialisation.gradients import (
    MatchingLayer,
    check_equal_frequencies,
    check_positive,
    check_times,
    copying_rate,
    slopes,
)


def unfactored_margin(layer: MatchingLayer, flow_time: np.ndarray | float) -> np.ndarray:
    """Margin of a layer whose kernel is one trained matrix that starts at zero; exact at all times (thm-unfactored).

    e^z + (m − 1) z = 1 + χ c m t, so z = b − W(e^b/(m − 1)), b = (1 + χ c m t)/(m − 1), W Lambert's function. It grows at once:
    an unfactored kernel has no plateau, and no start to remember. Raises ValueError for unequal tokens or infinite times.
    """
    check_equal_frequencies(layer)
    wrong = layer.n_slots - 1
    level = (1 + layer.score_scale * layer.rate * layer.n_slots * check_times(flow_time)) / wrong
    return np.asarray(level - special.wrightomega(level - np.log(wrong)).real)


def balanced_time(layer: MatchingLayer, start: float, margin: np.ndarray | float) -> np.ndarray:
    """Flow time from margin `start` to `margin` of a factored layer with W_q = rotated W_k and centred kernel ∝ I − 11ᵀ/n.

    z' = 2 c m z/(e^z + m − 1), so that t = [Ei(z) + (m − 1) ln z]/(2 c m) between the two; exact (thm-balanced). To lowest order
    ln(z/start)/(2 c): the plateau. Raises ValueError for margins that are not above 0, or unequal tokens.
    """
    check_equal_frequencies(layer)
    check_positive("start", start)
    if not np.all(np.isfinite(margin)) or np.any(np.asarray(margin) <= 0):
        raise ValueError(f"margin is {margin!r}; it must be finite and above 0.")

    def clock(z: np.ndarray | float) -> np.ndarray:
        return np.asarray(special.expi(z) + (layer.n_slots - 1) * np.log(z))

    return (clock(margin) - clock(start)) / (2 * layer.rate * layer.n_slots)


def reduced_growth(
    layer: MatchingLayer, final_step: int, learning_rate: float, momentum: float = 0.0
) -> Growth:
    """Growth of the one rate c after 0, 1, … `final_step` steps, with the rate that the mean margin leaves; shape (steps + 1,).

    The whole layer in two numbers, the factors of sums and differences. Exact on the symmetric path, with the linear theory as
    its small-score limit; for a random start it neglects that tokens and contexts have scores of their own, which are spread by
    about margin/√d_k (n ≤ d_k). Raises ValueError for a bad step, momentum or unequal tokens.
    """
    check_equal_frequencies(layer)
    check_positive("learning_rate", learning_rate)
    checks.integer("final_step", final_step, 0)
    factors, velocity = np.ones(2), np.zeros(2)
    signs, found = np.array([1.0, -1.0]), [np.ones(2)]
    for _ in range(final_step):
        margin = layer.start_scale * (factors[0] ** 2 - factors[1] ** 2) / 2
        rate = layer.rate * layer.n_slots / (np.exp(min(margin, 700.0)) + layer.n_slots - 1)
        velocity = momentum * velocity + signs * rate * factors
        factors = factors + learning_rate * velocity
        found.append(factors)
    sums, differences = np.array(found).T
    return Growth(sums, differences)


def draw_starts(layer: MatchingLayer, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """W_q and rotated W_k in token space, `count` starts of A2, two arrays (count, d_k, n)."""
    checks.integer("count", count, 1)
    shape = (2, count, layer.head_width, layer.n_tokens)
    query, key = rng.normal(0, layer.init_std, shape)
    return query, key


def population_descent(
    layer: MatchingLayer,
    query: np.ndarray,
    key: np.ndarray,
    steps: Sequence[int] | np.ndarray,
    learning_rate: float,
    momentum: float = 0.0,
) -> np.ndarray:
    """Kernels QᵀK after each of the rising `steps` of descent on the expected loss, shape (steps, …, n, n); no approximation.

    - `query`, `key`: starts, shape (…, d_k, n). `momentum`: of a heavy ball.

    Cost: 6 n² d_k operations a step and start. Raises ValueError where `slopes` does, or for steps that fall.
    """
    check_positive("learning_rate", learning_rate)
    if np.any(np.diff(steps, prepend=0) < 0):
        raise ValueError(f"steps is {steps!r}; it must not fall, and start at 0 or later.")
    pushes, found, done = [np.zeros_like(query), np.zeros_like(key)], [], 0
    for wanted in steps:
        for _ in range(int(wanted) - done):
            slope = slopes(layer, query.swapaxes(-1, -2) @ key)
            pushes[0] = momentum * pushes[0] + key @ slope.swapaxes(-1, -2)
            pushes[1] = momentum * pushes[1] + query @ slope
            query, key = query + learning_rate * pushes[0], key + learning_rate * pushes[1]
        done = int(wanted)
        found.append(query.swapaxes(-1, -2) @ key)
    return np.array(found)


def population_flow(
    layer: MatchingLayer, query: np.ndarray, key: np.ndarray, flow_times: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Kernels along gradient flow on the expected loss at rising `flow_times`, shape (times, n, n), from one start (d_k, n).

    Integrated in float64 to relative 1e-9. Raises ValueError where `slopes` does, or for times that are not finite.
    """
    times = check_times(flow_times)
    shape = query.shape

    def pace(_: float, state: np.ndarray) -> np.ndarray:
        one, other = state.reshape(2, *shape)
        slope = slopes(layer, one.T @ other)
        return np.concatenate([(other @ slope.T).ravel(), (one @ slope).ravel()])

    start = np.concatenate([query.ravel(), key.ravel()])
    done = integrate.solve_ivp(
        pace, (0.0, float(times[-1])), start, t_eval=times, rtol=1e-9, atol=1e-12 * np.abs(start).max()
    )
    factors = done.y.T.reshape(len(times), 2, *shape)
    return factors[:, 0].swapaxes(-1, -2) @ factors[:, 1]


def copying_strength(
    layer: MatchingLayer, value_width: int, value_std: float, flow_time: np.ndarray | float
) -> np.ndarray:
    """κ = d_v σ_v² sinh(2 c_V t): how much more the logit of a value in the context grows than that of another token.

    Mean of W_o W_v between tokens, both with Gaussian entries of `value_std` and inner dimension `value_width`, at zero scores
    and small logits (`copying_rate`). Raises ValueError for bad sizes.
    """
    checks.integer("value_width", value_width, 1)
    check_positive("value_std", value_std)
    rate = copying_rate(layer.n_tokens, layer.n_slots)
    return value_width * value_std**2 * np.sinh(2 * rate * check_times(flow_time))


def waiting_growth(
    layer: MatchingLayer, value_width: int, value_std: float, flow_time: np.ndarray | float
) -> Growth:
    """Growth of the kernel when its gradient has to come through a copying W_o W_v that itself starts small (prop-order).

    The kernel's rate is c κ/m: W_vo moves first, exponentially, and W_qk waits for it and then grows as the exponential of an
    exponential: exp of ∫ c κ/m dt = c d_v σ_v² (cosh(2 c_V t) − 1)/(2 m c_V). Linear softmax and small κ. Raises ValueError for
    bad sizes, and for m = n, where W_vo does not move by itself.
    """
    if layer.n_slots == layer.n_tokens:
        raise ValueError(
            f"n_slots is {layer.n_slots}; it must be below n_tokens, else copying does not start by itself."
        )
    checks.integer("value_width", value_width, 1)
    check_positive("value_std", value_std)
    rate = copying_rate(layer.n_tokens, layer.n_slots)
    rise = np.cosh(2 * rate * check_times(flow_time)) - 1
    distance = layer.rate / layer.n_slots * value_width * value_std**2 * rise / (2 * rate)
    return Growth(np.exp(distance), np.exp(-distance))
