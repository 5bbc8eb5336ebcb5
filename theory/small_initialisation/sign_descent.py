"""Updates of the gradient's sign, which Adam's first steps are: a start that is soon forgotten.

Every entry moves by the learning rate a step, however small its gradient. So a small start costs at most init_std/learning_rate
steps, not ln(1/init_std): under Adam the plateau of gradient descent is gone.
"""

from __future__ import annotations

import math

import numpy as np

from theory.problems import checks
from theory.small_initialisation.gradients import MatchingLayer, check_positive


def adam_first_step(gradient: np.ndarray, learning_rate: float, epsilon: float = 1e-8) -> np.ndarray:
    """Change of the weights in Adam's first step, exact: −η g/(|g| + ε), whatever β_1 and β_2 (prop-sign).

    Both bias-corrected averages are then g and g². The same holds as long as g keeps its value; where g grows in proportion to
    the number of steps, as here, a step is at most √3 η, the root mean square of a ramp being its end over √3.
    """
    check_positive("learning_rate", learning_rate)
    return np.asarray(-learning_rate * gradient / (np.abs(gradient) + epsilon))


def sign_flow(query: np.ndarray, key: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """W_q and rotated W_k, entry by entry, after each entry travelled `distance` = η · steps with the sign of −gradient.

    For a direction c I, W_q moves with the sign of K and K with that of W_q. Entries of equal signs grow together; of opposite
    signs they approach zero until the smaller one passes it, and then grow with the sign of the larger. Exact for the flow;
    steps of η add a few η, and decide otherwise where opposite entries are within a few η of equal size. The true direction
    c (I − 11ᵀ/n) takes row means away first, which flips a share 1/(π√n) of the signs.
    Raises ValueError for a distance that is negative or not finite.
    """
    if not (math.isfinite(distance) and distance >= 0):
        raise ValueError(f"distance is {distance}; it must be finite and at least 0.")
    total, gap = query + key, query - key
    pause = np.where(query * key < 0, np.minimum(np.abs(query), np.abs(key)), 0.0)
    total = total + 2 * np.sign(total) * np.maximum(distance - pause, 0)
    gap = gap - 2 * np.sign(gap) * np.minimum(distance, pause)
    return (total + gap) / 2, (total - gap) / 2


def sign_margin(layer: MatchingLayer, distance: np.ndarray | float) -> np.ndarray:
    """χ d_k distance²: the score margin once `distance` = η · steps is far above the start's σ; γ is gone.

    Then W_q and W_k are distance × one random sign matrix R, the kernel distance² RᵀR: its diagonal is exactly d_k distance².
    """
    return np.asarray(layer.score_scale * layer.head_width * np.square(distance))


def sign_ceiling(n_tokens: int, head_width: int) -> float:
    """√(d_k/(d_k + n − 1)): cosine of RᵀR with the identity, R random signs of shape d_k × n; root of exact means.

    Hardly above the Wishart ceiling of gradient descent. Raises ValueError for bad sizes.
    """
    checks.integer("n_tokens", n_tokens, 1)
    checks.integer("head_width", head_width, 1)
    return math.sqrt(head_width / (head_width + n_tokens - 1))


def forgotten_exponent(layer: MatchingLayer, margin: float) -> float:
    """The init exponent above which sign updates reach `margin` in a time that hardly depends on it.

    There d^−γ equals the distance √(z/(χ d_k)) that entries must travel anyway: γ = ln(χ d_k/z)/(2 ln d).
    """
    check_positive("margin", margin)
    return math.log(layer.score_scale * layer.head_width / margin) / (2 * math.log(layer.width))


def flipped_share(n_tokens: int) -> float:
    """arccos(√(1 − 1/n))/π: share of Gaussian entries whose sign changes when the mean of their row is taken away."""
    checks.integer("n_tokens", n_tokens, 1)
    return math.acos(math.sqrt(1 - 1 / n_tokens)) / math.pi
