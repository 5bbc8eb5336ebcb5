"""The proofs: arguments in words, and every equation of theirs in SymPy. Assumptions stand in `theory.small_initialisation`.

Proposition (prop-match-gradient). At zero scores ∂loss/∂score_j = 1/m − [j right]. A query token a is asked for with probability
1/n, and its context holds another token b with probability (m − 1)/(n − 1). So minus the gradient in entry (a, b) is
χ (1/n)(1 − 1/m) for a = b and −χ (1/n)(1/m)(m − 1)/(n − 1) otherwise: c (I − 11ᵀ/n).

Proposition (prop-copy-gradient). At zero scores and logits ∂loss/∂logit_y = 1/n − [y right], and the logit of y has slope 1/m in
every entry (y, v_j) of C. The entry (a, b) of minus the gradient is (1/m)(P(answer a, value b there) − (1/n)(m/n)).

Theorem (thm-early-growth). With G frozen, (Q u_i ± K v_i)' = ± r_i (Q u_i ± K v_i). A start with independent N(0, σ²) entries
has independent N(0, σ² I) vectors x_i = Q u_i, y_i = K v_i. Entry u_iᵀ A v_j = (C x_i + S y_i)·(C y_j + S x_j), C = cosh and
S = sinh of r t with their own index, has mean d_k σ² 2 C S δ_ij; for i ≠ j its mean square is d_k σ⁴ (C_i² + S_i²)(C_j² + S_j²);
for i = j it is (C² + S²) x·y + C S (|x|² + |y|²), of mean square d_k σ⁴ ((C² + S²)² + (d_k + 1)(2 C S)²).

Theorem (thm-unfactored), (thm-balanced). With centred kernel a (I − 11ᵀ/n) all wrong slots have one score, the right slot's
weight is w = e^z/(e^z + m − 1), and the counting of prop-match-gradient gives the direction χ (1 − w)/(n − 1) (I − 11ᵀ/n), so
that the form stays.

Proposition (prop-order). With C = κ (I − 11ᵀ/n) and small logits ∂loss/∂score_j = −(κ/m)([j right] − 1/m): prop-match-gradient
times κ/m. Nothing pulls at the scores while κ = 0, but at κ something does: W_vo moves first.

Theorem (thm-normalisation). LN(x) = √d x̃/|x̃|, x̃ = x − mean, has the Jacobian (√d/|x̃|)(I − 11ᵀ/d − x̃x̃ᵀ/|x̃|²).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import sympy
from sympy import Eq, Expr, Rational, cosh, exp, sinh, sqrt

from theory.symbols import symbol

n, d, T, t = (symbol(name) for name in ("n", "d", "T", "t"))
m, heads, gamma, std = (symbol(name) for name in ("m", "d_k", r"\gamma", r"\sigma"))
scale, rate, copying, margin = (symbol(name) for name in (r"\chi", "c", "c_V", "z"))
signal, square = symbol(r"\Sigma"), symbol(r"\mathcal{E}")
alignment, ceiling = symbol(r"\varrho"), symbol(r"\bar\varrho")
escape, start, values = (symbol(name) for name in ("t_z", "z_0", "d_v"))
vocabulary, stream, ratio = (symbol(name) for name in ("V", "x_0", "r_A"))


@cache
def derivation() -> Mapping[str, Eq]:
    """Every statement, in order, name → equation (chapter "Why a small start helps"); equally frequent tokens."""
    energy = sqrt(1 + signal**2)
    visible = heads * std**4 * (n - 1) * (n - 1 + energy + (n + heads) * signal**2)
    mean = scale * heads * std**2
    found = {
        "init_std": (std, d ** (-gamma)),
        "matching_rate": (rate, scale * (m - 1) / (m * (n - 1))),
        "copying_rate": (copying, (n - m) / (m * n * (n - 1))),
        "signal": (signal, sinh(2 * rate * t)),
        "margin": (margin, mean * signal),
        "square": (square, visible),
        "alignment": (alignment, sqrt(heads) * signal / sqrt(n - 1 + energy + (n + heads) * signal**2)),
        "ceiling": (ceiling, sqrt(heads / (heads + n))),
        "escape_time": (escape, sympy.asinh(margin * d ** (2 * gamma) / (scale * heads)) / (2 * rate)),
        "escape_time_small_start": (
            escape,
            (2 * gamma * sympy.log(d) + sympy.log(2 * margin / (scale * heads))) / (2 * rate),
        ),
        "unfactored": (exp(margin) + (m - 1) * margin, 1 + scale * rate * m * t),
        "balanced": (
            2 * rate * m * t,
            sympy.Ei(margin) - sympy.Ei(start) + (m - 1) * sympy.log(margin / start),
        ),
        "waiting": (
            signal,
            sinh(rate * values * std**2 * (cosh(2 * copying * t) - 1) / (m * copying)),
        ),
        "first_stream": (stream, sqrt(vocabulary ** (-2 * gamma) + T ** (-2 * gamma))),
        "residual_ratio_post": (ratio, (d * values) ** (Rational(1, 2) - gamma) / sqrt(T)),
        "residual_ratio_pre": (ratio, (d * values) ** (Rational(1, 2) - gamma) / (sqrt(T) * stream)),
    }
    return {name: Eq(*sides, evaluate=False) for name, sides in found.items()}


@cache
def residuals() -> Mapping[str, Expr]:
    """Left side minus right side of every step, simplified: each must be 0."""
    equations = derivation()
    right, wrong = scale / n * (1 - 1 / m), -scale / n * (m - 1) / (m * (n - 1))
    speed = equations["matching_rate"].rhs
    found: dict[str, Expr] = {
        "match_diagonal": right - speed * (1 - 1 / n),
        "match_off_diagonal": wrong + speed / n,
    }
    copies = equations["copying_rate"].rhs
    together = (m - 1) / (n * (n - 1))
    found["copy_diagonal"] = (1 / n - m / n**2) / m - copies * (1 - 1 / n)
    found["copy_off_diagonal"] = (together - m / n**2) / m + copies / n

    # thm-early-growth: the pair (x, y) solves x' = r y, y' = r x; its mean square by Gaussian moments
    grown, other = cosh(rate * t), sinh(rate * t)
    found["flow"] = sympy.diff(grown, t) - rate * other
    found["signal"] = (2 * grown * other).rewrite(exp) - equations["signal"].rhs.rewrite(exp)
    energy = grown**2 + other**2
    diagonal = heads * energy**2 + (grown * other) ** 2 * (4 * heads**2 + 4 * heads)
    found["diagonal_square"] = (
        diagonal - heads * (energy**2 + (heads + 1) * (2 * grown * other) ** 2)
    ).rewrite(exp)
    bright = sqrt(1 + signal**2)
    total = (n - 1) * (bright * (1 + (n - 1) * bright) + (heads + 1) * signal**2)
    found["square"] = heads * std**4 * total - equations["square"].rhs
    trace = heads * std**2 * (n - 1) * signal
    found["alignment"] = trace**2 / ((n - 1) * equations["square"].rhs) - equations["alignment"].rhs ** 2
    found["ceiling"] = sympy.limit(equations["alignment"].rhs, signal, sympy.oo) - equations["ceiling"].rhs

    # thm-unfactored and thm-balanced: implicit derivatives against the counting of prop-match-gradient
    weight = exp(margin) / (exp(margin) + m - 1)
    pull = scale * (1 - weight) / (n - 1)  # of the centred kernel, at any margin
    found["linear_limit"] = pull.subs(margin, 0) - speed
    unfactored = equations["unfactored"]
    pace = sympy.diff(unfactored.rhs, t) / sympy.diff(unfactored.lhs, margin)
    found["unfactored"] = pace.subs(rate, speed) - scale * pull
    balanced = equations["balanced"]
    pace = sympy.diff(balanced.lhs, t) / sympy.diff(balanced.rhs, margin)
    found["balanced"] = pace.subs(rate, speed) - 2 * pull * margin

    # prop-order: the kernel's clock has the slope c κ/m
    clock = equations["waiting"].rhs.args[0] / 2
    strength = values * std**2 * sinh(2 * copying * t)
    found["waiting"] = sympy.diff(clock, t) - rate * strength / m
    return {name: sympy.simplify(sympy.expand(residual)) for name, residual in found.items()}
