"""The Riccati equation behind the noisy memory, and its solution by modified Bessel functions.

In the clock τ = exp(−(n+1) b / 2) the variable q = exp((a − g) / 2) obeys

    dq/dτ = A q / τ + B − C q²,   q(1) = 1,
    A = (1 − 2α)(n − 1)/(n + 1),   B = 2(1 − α)/(n + 1),   C = 2α/(n + 1),

and q = y′/(C y) with y = τ^ν [c₁ I_ν(kτ) + c₂ K_ν(kτ)], ν = (1 + A)/2, k = √(BC). Written with the textbook's
coefficients both q and c₂ are differences of nearly equal numbers. The recurrences of I turn each of them into a sum of
positive terms, and those are the forms used here (book label `thm-exact-flow`; recurrences: NIST DLMF 10.29.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from theory.problems import AssociativeMemory

_LARGE_ARGUMENT = 60.0
"""From here on the asymptotic series of I_ν is at rounding level with `_SERIES_TERMS` terms (DLMF 10.40.1)."""
_SERIES_TERMS = 14


def _large_argument_series(order: float, x: np.ndarray) -> np.ndarray:
    """√(2πx) e^(−x) I_order(x) for x ≥ `_LARGE_ARGUMENT`; scipy's own ive is NaN from about 2·10⁹ on."""
    total = np.ones_like(x)
    term = np.ones_like(x)
    for j in range(1, _SERIES_TERMS):
        term = -term * (4 * order**2 - (2 * j - 1) ** 2) / (8 * j * x)
        total = total + term
    return total


@dataclass(frozen=True)
class Riccati:
    """Coefficients of the Riccati equation of one problem with 0 < α < 1, and its solution q in float64."""

    problem: AssociativeMemory

    def __post_init__(self) -> None:
        if self.problem.noise_level == 0:
            raise ValueError(
                "noise_level is 0; the Riccati equation is then linear and needs noise_level > 0."
            )

    @property
    def drift(self) -> float:
        """A = (1 − 2α)(n − 1)/(n + 1)."""
        n, alpha = self.problem.n_tokens, self.problem.noise_level
        return (1 - 2 * alpha) * (n - 1) / (n + 1)

    @property
    def growth(self) -> float:
        """B = 2(1 − α)/(n + 1)."""
        return 2 * (1 - self.problem.noise_level) / (self.problem.n_tokens + 1)

    @property
    def decay(self) -> float:
        """C = 2α/(n + 1)."""
        return 2 * self.problem.noise_level / (self.problem.n_tokens + 1)

    @property
    def wave_number(self) -> float:
        """k = √(BC)."""
        return float(np.sqrt(self.growth) * np.sqrt(self.decay))

    @property
    def order(self) -> float:
        """ν = (1 + A)/2, computed without cancellation: (n(1 − α) + α)/(n + 1)."""
        n, alpha = self.problem.n_tokens, self.problem.noise_level
        return (n * (1 - alpha) + alpha) / (n + 1)

    @property
    def conjugate_order(self) -> float:
        """1 − ν = (nα + 1 − α)/(n + 1)."""
        n, alpha = self.problem.n_tokens, self.problem.noise_level
        return (n * alpha + 1 - alpha) / (n + 1)

    @cached_property
    def _weights(self) -> tuple[float, float, float]:
        """c₁, c₂ and the conjugate weight of K, each a sum of positive terms."""
        n, alpha = self.problem.n_tokens, self.problem.noise_level
        k, nu, mu = self.wave_number, self.order, self.conjugate_order
        c1 = k * special.kv(mu, k) + self.decay * special.kv(nu, k)
        c2 = k * special.iv(nu + 1, k) + 2 * n * (1 - alpha) / (n + 1) * special.iv(nu, k)
        conjugate = (self.decay / k) * (
            2 * n * alpha / (n + 1) * special.iv(mu, k) + k * special.iv(mu + 1, k)
        )
        return float(c1), float(c2), float(conjugate)

    def log_q(self, log_clock: np.ndarray) -> np.ndarray:
        """ln q = (a − g)/2 at ln τ = `log_clock` ≥ 0 (any shape). Cost: four Bessel calls.

        Absolute error 1e-15 as a rule and 1e-13 at worst, which is that of scipy's ive around kτ = 10.
        """
        x = self.wave_number * np.exp(np.minimum(log_clock, 690.0))  # ln q has long reached its limit there
        nu, mu = self.order, self.conjugate_order
        c1, c2, conjugate = self._weights
        level = 0.5 * (np.log1p(-self.problem.noise_level) - np.log(self.problem.noise_level))
        large = x > _LARGE_ARGUMENT
        near = np.where(large, 1.0, x)
        decaying = np.exp(-2 * near)
        numerator = c1 * special.ive(mu, near) + conjugate * special.kve(mu, near) * decaying
        denominator = c1 * special.ive(nu, near) + c2 * special.kve(nu, near) * decaying
        far = np.where(large, x, _LARGE_ARGUMENT)
        ratio = np.where(
            large,
            _large_argument_series(mu, far) / _large_argument_series(nu, far),
            numerator / denominator,
        )
        return level + np.log(ratio)
