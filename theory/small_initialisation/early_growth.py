"""Growth while the softmax is linear: every mode of the gradient by itself, exactly, for every size and start.

With a frozen direction G = U diag(r) Vᵀ the flow Q' = K Gᵀ, K' = Q G splits into pairs (Q u_i, K v_i), whose sums grow as
exp(r_i t) while their differences shrink. Gradient descent with or without momentum has other growth factors, and nothing else
changes. Expectations are over Gaussian starts (A2) and exact too; quotients are of expectations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from theory.problems import checks
from theory.small_initialisation.gradients import (
    MatchingLayer,
    check_equal_frequencies,
    check_positive,
    check_times,
)


class Growth(NamedTuple):
    """Factors of the sum Q u + K v and of the difference Q u − K v of a mode, arrays of one shape.

    With gradient flow they are exp(r t) and exp(−r t).
    """

    sums: np.ndarray
    differences: np.ndarray

    @property
    def signal(self) -> np.ndarray:
        """(sums² − differences²)/2, sinh(2 r t) for gradient flow: what the mean kernel grows by."""
        return (self.sums**2 - self.differences**2) / 2

    @property
    def energy(self) -> np.ndarray:
        """(sums² + differences²)/2, cosh(2 r t) for gradient flow: what random entries grow by."""
        return (self.sums**2 + self.differences**2) / 2


def flow_growth(rates: np.ndarray | float, flow_time: np.ndarray | float) -> Growth:
    """Growth under gradient flow after `flow_time`, which broadcasts against `rates`."""
    distance = np.asarray(rates) * check_times(flow_time)
    return Growth(np.exp(distance), np.exp(-distance))


def descent_growth(
    rates: np.ndarray | float, steps: np.ndarray | int, learning_rate: float, momentum: float = 0.0
) -> Growth:
    """Growth after `steps` of gradient descent, exact: (1 ± η r)^steps, or with momentum two geometric sequences.

    With a heavy ball a factor x obeys x' = x + η v', v' = μ v ± r x, so x is a sum of powers of the roots of
    z² − (1 + μ ± η r) z + μ. Flow time is η · steps/(1 − μ). Raises ValueError for a bad step or momentum.
    """
    check_positive("learning_rate", learning_rate)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}; it must be in [0, 1).")
    up, down = (
        _factor(1 + sign * learning_rate * np.asarray(rates, float), steps, momentum) for sign in (1, -1)
    )
    return Growth(up, down)


def _factor(first: np.ndarray, steps: np.ndarray | int, momentum: float) -> np.ndarray:
    """x after some steps, x_0 = 1, x_1 = `first`."""
    if momentum == 0:
        return first ** np.asarray(steps)
    total = (first + momentum).astype(complex)
    root = np.sqrt(total**2 - 4 * momentum)
    root = np.where(root == 0, 1e-9, root)  # a double root; powers of two close ones are as good
    high, low = (total + root) / 2, (total - root) / 2
    return (
        ((first - low) * high ** np.asarray(steps) - (first - high) * low ** np.asarray(steps)) / root
    ).real


def grown_factors(
    layer: MatchingLayer, query: np.ndarray, key: np.ndarray, growth: Growth
) -> tuple[np.ndarray, np.ndarray]:
    """W_q and the rotated W_k in token space after some growth, from their own start; exact while the softmax is linear.

    - `query`, `key`: shape (…, d_k, n) at the start. `growth`: of `layer.modes.rates`, shape (n,).
    """
    left, _, right = layer.modes
    before, other = query @ left, key @ right
    total, gap = (before + other) * growth.sums / 2, (before - other) * growth.differences / 2
    return (total + gap) @ left.T, (total - gap) @ right.T


class Moments(NamedTuple):
    """Expectations over starts of the kernel that the softmax sees: A (I − 11ᵀ/n), as it is blind to shifts of a row.

    - `margin`: exact mean of `margins`. `square`: exact mean of the squared Frobenius norm.
    - `alignment`: cosine of the kernel with I − 11ᵀ/n, the mean inner product over the root of the mean squares.
    - `leading_share`: squared entry of the fastest mode over the squared norm, a quotient of means: about as large as the
      share of the top singular value where that mode leads.
    """

    margin: np.ndarray
    square: np.ndarray
    alignment: np.ndarray
    leading_share: np.ndarray


def moments(layer: MatchingLayer, growth: Growth) -> Moments:
    """Moments after some growth of `layer.modes.rates`, shape (…, n) → (…), thm-early-growth. Cost: O(n) a time.

    Entry u_iᵀ A v_j has mean d_k σ² δ_ij sinh(2 r_i t) and mean square d_k σ⁴ (cosh(2 r_i t) cosh(2 r_j t) + (d_k + 1) δ_ij
    sinh²(2 r_i t)). "Linear softmax" leaves out relative parts of the rates of order of the scores (`linear_error`).
    """
    left, rates, right = layer.modes
    heads, variance = layer.head_width, layer.init_std**2
    signal, energy = growth.signal, growth.energy
    overlap = (left * right).sum(0)
    pull = (rates * signal).sum(-1) / (layer.rate * (layer.n_tokens - 1))
    visible = energy[..., :-1].sum(-1)  # the last right mode is a shift of rows
    square = heads * (energy.sum(-1) * visible + (heads + 1) * (signal**2).sum(-1))
    trace = heads * (overlap * signal).sum(-1)
    first = heads * (energy[..., 0] ** 2 + (heads + 1) * signal[..., 0] ** 2)
    return Moments(
        layer.score_scale * heads * variance * pull,
        variance**2 * square,
        trace / np.sqrt((layer.n_tokens - 1) * square),
        first / square,
    )


def off_diagonal(layer: MatchingLayer, growth: Growth) -> np.ndarray:
    """Root mean square score off the diagonal of A (I − 11ᵀ/n), for equally frequent tokens; exact mean square.

    - `growth`: of the one rate c, any shape. Raises ValueError for tokens of unequal frequency.
    """
    check_equal_frequencies(layer)
    size, heads, signal, energy = layer.n_tokens, layer.head_width, growth.signal, growth.energy
    square = heads * (size - 1) * (energy + (size - 1) * energy**2 + (heads + 1) * signal**2)
    share = (size - 1) / size
    own = heads * (share**2 * (energy**2 + (heads + 1) * signal**2) + share / size * energy)
    return layer.score_scale * layer.init_std**2 * np.sqrt((square - size * own) / (size * (size - 1)))


def wishart_ceiling(n_dimensions: int, head_width: int) -> float:
    """√(d_k/(d_k + D + 1)): cosine of a Wishart matrix SᵀS, S of shape d_k × D, with the identity.

    Early growth drives the kernel's centred part there, D = n − 1, and no farther, however small the start: random rows of W_q
    and W_k overlap, and the overlaps grow as fast as the diagonal. Root of a quotient of exact means. ValueError for bad sizes.
    """
    checks.integer("n_dimensions", n_dimensions, 1)
    checks.integer("head_width", head_width, 1)
    return math.sqrt(head_width / (head_width + n_dimensions + 1))


def escape_time(layer: MatchingLayer, margin: float) -> float:
    """Flow time at which the mean margin reaches `margin`, for equally frequent tokens: asinh(z/(χ d_k σ²))/(2 c).

    Far above the start it is (2 γ ln d + ln(2 z/(χ d_k)))/(2 c): linear in γ ln d with slope 1/c. The softmax, still linear here,
    adds about z/(2 c m), the same for every start. Raises ValueError for a margin that is not above 0, or unequal tokens.
    """
    check_positive("margin", margin)
    check_equal_frequencies(layer)
    return math.asinh(margin / layer.start_scale) / (2 * layer.rate)


def escape_alignment(layer: MatchingLayer, margin: float) -> float:
    """Alignment when the mean margin reaches `margin`, equally frequent tokens, linear softmax (prop-escape).

    With s = z d^2γ/(χ d_k), which is all that the start enters by: √(d_k s²/((d_k + n) s² + n − 1 + √(1 + s²))). It is within a
    relative (n − 1)/(2 (d_k + n) s²) of the ceiling: a start of s ≈ 3 is small enough, and a smaller one buys no more.
    """
    check_positive("margin", margin)
    check_equal_frequencies(layer)
    size, heads, ratio = layer.n_tokens, layer.head_width, margin / layer.start_scale
    square = (heads + size) * ratio**2 + size - 1 + math.sqrt(1 + ratio**2)
    return ratio * math.sqrt(heads / square)


def linear_error(largest_score: float) -> float:
    """e^(2x) − 1: bound on the relative error of every entry of the direction while all scores stay within ±x.

    Softmax weights are then within a factor e^(±2x) of 1/m. First order in the scores: a margin z costs about z/m of the rate.
    Raises ValueError for a score that is negative or not finite.
    """
    if not (math.isfinite(largest_score) and largest_score >= 0):
        raise ValueError(f"largest_score is {largest_score}; it must be finite and at least 0.")
    return math.expm1(2 * largest_score)
