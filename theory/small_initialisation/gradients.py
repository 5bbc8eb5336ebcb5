"""What the loss asks of a matching layer before training: the gradient at zero scores, and the rates that it gives.

Assumptions A1 to A4 stand in `theory.small_initialisation`. A direction is minus the gradient of the expected loss in the kernel
of token space, rows for the query's token, columns for the key's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from theory.problems import checks


class Modes(NamedTuple):
    """Singular value decomposition U diag(rates) Vᵀ of a direction G (n × n), rates falling.

    A rate is in units of one over flow time: a mode's kernel grows like exp(2 · rate · t).
    """

    left: np.ndarray
    rates: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class MatchingLayer:
    """One attention layer that must find the slot whose key is the query's token.

    - `n_tokens`: n ≥ 2. `n_slots`: m, keys in a context, 2 to n.
    - `width`: d ≥ n, dimension of the residual stream. `head_width`: d_k, rows of W_q and W_k.
    - `init_exponent`: γ; entries of W_q and of the rotated W_k start as N(0, d^−2γ).
    - `score_scale`: what multiplies query · key, 1/√d_k in most attention layers.
    - `query_probabilities`: how often each token is asked for, n positive numbers of sum 1; empty for equal ones.

    Raises ValueError for values outside these ranges, or an `init_exponent` that is not finite.
    """

    n_tokens: int
    n_slots: int
    width: int
    head_width: int
    init_exponent: float
    score_scale: float = 1.0
    query_probabilities: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        size = checks.integer("n_tokens", self.n_tokens, 2)
        check_slots(size, self.n_slots)
        checks.integer("width", self.width, size)
        checks.integer("head_width", self.head_width, 1)
        check_exponent(self.init_exponent)
        check_positive("score_scale", self.score_scale)
        asked = np.asarray(self.query_probabilities, float)
        if asked.size and (
            asked.shape != (size,) or not np.all(asked > 0) or not math.isclose(asked.sum(), 1)
        ):
            raise ValueError(
                f"query_probabilities has {asked.size} entries of sum {asked.sum():g}; it must be empty, or have "
                f"n_tokens = {size} positive ones of sum 1."
            )

    @property
    def init_std(self) -> float:
        """σ = d^−γ, standard deviation of the entries of W_q and W_k; their fan-in is d."""
        return float(self.width**-self.init_exponent)

    @property
    def start_scale(self) -> float:
        """χ d_k σ²: the scores' size at the start times √d_k; what the margin grows from."""
        return self.score_scale * self.head_width * self.init_std**2

    @property
    def asked(self) -> np.ndarray:
        """Probability of each query token, shape (n,)."""
        if self.query_probabilities:
            return np.asarray(self.query_probabilities, float)
        return np.full(self.n_tokens, 1 / self.n_tokens)

    @property
    def rate(self) -> float:
        """c, the rate of every centred mode when all tokens are asked for equally often."""
        return matching_rate(self.n_tokens, self.n_slots, self.score_scale)

    @property
    def direction(self) -> np.ndarray:
        """G = c n diag(p) (I − 11ᵀ/n), minus the gradient in the kernel at zero scores, shape (n, n); exact."""
        return self.rate * self.n_tokens * self.asked[:, None] * centring(self.n_tokens)

    @cached_property
    def modes(self) -> Modes:
        """Singular vectors of `direction`; the last mode has rate 0, and its right vector is uniform."""
        left, rates, right = np.linalg.svd(self.direction)
        return Modes(left, np.where(np.arange(self.n_tokens) < self.n_tokens - 1, rates, 0.0), right.T)


def check_slots(n_tokens: int, n_slots: int) -> None:
    """ValueError unless a context can hold `n_slots` distinct keys, two at least."""
    if checks.integer("n_slots", n_slots, 2) > n_tokens:
        raise ValueError(
            f"n_slots is {n_slots}; it must be at most n_tokens = {n_tokens}, as keys are distinct."
        )


def check_exponent(init_exponent: float) -> None:
    """ValueError unless γ is a finite number."""
    if not math.isfinite(init_exponent):
        raise ValueError(f"init_exponent is {init_exponent}; it must be finite.")


def check_positive(name: str, value: float) -> None:
    """ValueError unless the value is finite and above zero."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; it must be finite and above 0.")


def centring(size: int) -> np.ndarray:
    """I − 11ᵀ/n, which takes means away."""
    return np.eye(size) - 1 / size


def matching_rate(n_tokens: int, n_slots: int, score_scale: float = 1.0) -> float:
    """c = χ (m − 1)/(m (n − 1)) (prop-match-gradient), per unit of flow time.

    At zero scores minus the gradient of −ln(weight of the right slot), in the kernel, is c (I − 11ᵀ/n): the diagonal moves up,
    every other entry down, 1/(n − 1) times as fast, and row and column sums not at all. Raises ValueError for bad sizes.
    """
    check_slots(n_tokens, n_slots)
    check_positive("score_scale", score_scale)
    return score_scale * (n_slots - 1) / (n_slots * (n_tokens - 1))


def copying_rate(n_tokens: int, n_slots: int) -> float:
    """c_V = (n − m)/(m n (n − 1)) (prop-copy-gradient), per unit of flow time.

    The layer's output Σ_j w_j C e_(v_j) is read as logits of n tokens, the label is the right slot's value, values are distinct
    and independent of keys. At zero scores and C = 0 minus the gradient in C is c_V (I − 11ᵀ/n). Uniform attention over
    m < n slots already says which tokens may be the answer, so that W_vo moves without any matching; with m = n it does not.
    """
    check_slots(n_tokens, n_slots)
    return (n_tokens - n_slots) / (n_slots * n_tokens * (n_tokens - 1))


def zipf_probabilities(n_tokens: int, exponent: float = 1.0) -> tuple[float, ...]:
    """Probabilities ∝ rank^−exponent, most frequent first. Raises ValueError for less than two tokens or an infinite exponent."""
    checks.integer("n_tokens", n_tokens, 2)
    if not math.isfinite(exponent):
        raise ValueError(f"exponent is {exponent}; it must be finite.")
    weights = np.arange(1, n_tokens + 1, dtype=float) ** -exponent
    return tuple((weights / weights.sum()).tolist())


def slopes(layer: MatchingLayer, kernels: np.ndarray) -> np.ndarray:
    """Minus the gradient of the expected loss in the kernel, at any kernel, shape (…, n, n) as `kernels`; exact.

    Known for contexts of two slots and of all n tokens. Raises ValueError for other numbers of slots.
    """
    size, scale = layer.n_tokens, layer.score_scale
    own = np.einsum("...aa->...a", kernels)[..., None]
    if layer.n_slots == 2:
        wrong = 1 / (1 + np.exp(np.clip(scale * (own - kernels), -700, 700))) / (size - 1)
    elif layer.n_slots == size:
        wrong = np.exp(scale * (kernels - kernels.max(-1, keepdims=True)))
        wrong /= wrong.sum(-1, keepdims=True)
    else:
        raise ValueError(
            f"n_slots is {layer.n_slots}; it must be 2 or n_tokens = {size}, where the average over contexts is known."
        )
    wrong = wrong * (1 - np.eye(size))
    return scale * layer.asked[:, None] * (wrong.sum(-1, keepdims=True) * np.eye(size) - wrong)


def margins(layer: MatchingLayer, kernels: np.ndarray) -> np.ndarray:
    """Score margin, shape (…): mean over queries of (score of the right key − mean score of the others).

    The expected loss is ln m − (1 − 1/m) · margin to first order in the scores.
    """
    own = np.einsum("...aa->...a", kernels)
    others = (kernels.sum(-1) - own) / (layer.n_tokens - 1)
    return layer.score_scale * ((own - others) * layer.asked).sum(-1)


def check_times(flow_time: Sequence[float] | np.ndarray | float) -> np.ndarray:
    """Flow times as an array of floats; ValueError when one is not finite or below 0."""
    times = np.asarray(flow_time, dtype=float)
    if not (np.isfinite(times).all() and np.all(times >= 0)):
        raise ValueError(f"flow_time is {flow_time!r}; it must be finite and at least 0.")
    return times


def check_equal_frequencies(layer: MatchingLayer) -> None:
    """ValueError when tokens are asked for unequally often."""
    if layer.query_probabilities:
        raise ValueError("query_probabilities is set; it must be empty here, for equally frequent tokens.")
