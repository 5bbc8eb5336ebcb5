"""The equations of matching, in SymPy: contents of a chain of two steps, kernels, what they score, and the growth of noise.

The sentence is …[a][b]…[b][c]… a, with three layers. Layer 0: each value slot reads its key slot, the last position BOS, which is
zero. Layers 1 and 2: the last position reads the slot of a → b, then that of b → c, which for simplicity read nothing
themselves. Vectors and matrices are MatrixSymbols named by `theory.symbols`, d × 1 and d × d. Proofs in words stand with the
modules: lem-words (`buffers`), prop-rank (`scores`), prop-noise, prop-collision, prop-fresh (`orthogonal_noise`), thm-width
(`width_law`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import sympy
from sympy import Eq, Expr, MatrixExpr, MatrixSymbol, Rational, gamma, pi, sqrt

from theory.matching.orthogonal_noise import expected_trace, gained_word, word_expression
from theory.symbols import symbol

width, rank = symbol("d"), symbol("d_k")
layer, exponent_of_start = symbol("l"), symbol(r"\gamma")


def matrix(latex: str) -> MatrixSymbol:
    """A d × d matrix."""
    return MatrixSymbol(symbol(latex), width, width)


def vector(latex: str) -> MatrixSymbol:
    """A d × 1 column."""
    return MatrixSymbol(symbol(latex), width, 1)


def number(latex: str) -> MatrixSymbol:
    """A 1 × 1 matrix, what a product of a row and a column is."""
    return MatrixSymbol(symbol(latex), 1, 1)


def product(*factors: MatrixExpr) -> MatrixExpr:
    """A product multiplied out."""
    return sympy.MatMul(*factors).expand().doit()


def gaussian_score(terms: Expr) -> Expr:
    """Kernel score of a kernel with diagonal 1 and off-diagonal entries N(0, terms/d), for large d."""
    return width / (1 + sqrt(2 * terms * width / pi))


def projector_square(diagonal: bool) -> Expr:
    """E P_ii² or E P_ij² of a random projector."""
    if diagonal:
        return rank * (rank + 2) / (width * (width + 2))
    return rank * (width - rank) / (width * (width + 2) * (width - 1))


def _beta(first: Expr, second: Expr) -> Expr:
    return gamma(first) * gamma(second) / gamma(first + second)


@cache
def derivation() -> Mapping[str, Eq]:
    """Every statement, in order, name → equation (chapters "Buffers and matching" and "Orthogonal noise")."""
    value = [matrix(rf"W_{{\mathsf{{vo}},{index}}}") for index in range(3)]
    query_1, query_2 = matrix(r"W_{\mathsf{qk},1}"), matrix(r"W_{\mathsf{qk},2}")
    a, b, c = (vector(f"e_{token}") for token in "abc")
    slot_ab, slot_bc = b + value[0] * a, c + value[0] * b
    last_1 = a + product(value[1], slot_ab)
    last_2 = last_1 + product(value[2], slot_bc)
    lefts: dict[str, tuple[MatrixExpr, MatrixExpr]] = {
        "slot_ab": (vector("x_{ab}"), slot_ab),
        "slot_bc": (vector("x_{bc}"), slot_bc),
        "last_0": (vector(r"x_{\ast,0}"), a),
        "last_1": (vector(r"x_{\ast,1}"), last_1),
        "last_2": (vector(r"x_{\ast,2}"), last_2),
        "score_1": (number("S_1"), product(a.T, query_1, slot_ab)),
        "score_2": (number("S_2"), product(last_1.T, query_2, slot_bc)),
        "kernel_1": (matrix(r"\mathrm{Ker}_1"), query_1 * value[0]),
        "kernel_2": (matrix(r"\mathrm{Ker}_2"), value[1].T * query_2 * value[0]),
        "perfect_1": (query_1, value[0].T),
        "perfect_2": (query_2, value[1] * value[0].T),
        "logit": (number("o_c"), product(c.T, value[2].T, last_2)),
        "remembered_1": (
            matrix(r"\Delta\mathrm{Ker}_1"),
            word_expression(gained_word("remembered", 1, (), (0,))),
        ),
        "remembered_2": (
            matrix(r"\Delta\mathrm{Ker}_2"),
            word_expression(gained_word("remembered", 2, (1,), (0,))),
        ),
        "remembered_raw": (
            matrix(r"\Delta\mathrm{Ker}_{\mathsf{raw}}"),
            word_expression(gained_word("remembered", 2, (), (1,))),
        ),
        "corrected_2": (
            matrix(r"\Delta\mathrm{Ker}_2"),
            word_expression(gained_word("corrected", 2, (1,), (0,))),
        ),
    }
    found = {name: Eq(left, right, evaluate=False) for name, (left, right) in lefts.items()}
    score, ratio, cosine = symbol(r"\mathrm{KS}"), symbol(r"\rho_K"), symbol("c_K")
    square = symbol("F_K")
    scale, count, noise = symbol(r"\chi"), symbol("n_X"), symbol(r"\sigma_K")
    absolute = (
        _beta((rank + 1) / 2, (width - rank + 1) / 2)
        / _beta(rank / 2, (width - rank) / 2)
        * gamma((width - 1) / 2)
        / (sqrt(pi) * gamma(width / 2))
    )
    scalars: dict[str, tuple[Expr, Expr]] = {
        "kernel_score_1": (score, gaussian_score(sympy.Integer(1))),
        "kernel_score_2": (score, gaussian_score(sympy.Integer(3))),
        "square_1": (square, 2 * width + 1),
        "square_2": (square, 4 * width + 4 + 1 / width),
        "alignment_1": (cosine, 1 / sqrt(2)),
        "alignment_2": (cosine, Rational(1, 2)),
        "fresh_1": (cosine, 1 / (1 + width ** (2 - 4 * exponent_of_start))),
        "fresh_2": (cosine, (1 + width ** (2 - 4 * exponent_of_start)) ** Rational(-3, 2)),
        "alignment_ceiling": (cosine, sqrt(rank / width)),
        "projector_diagonal": (symbol(r"\langle P_{ii}^2\rangle"), projector_square(True)),
        "projector_off_diagonal": (symbol(r"\langle P_{ij}^2\rangle"), projector_square(False)),
        "projector_absolute": (symbol(r"\langle |P_{ij}|\rangle"), absolute),
        "projector_ratio": (ratio, sqrt(rank * (width + 2) * (width - 1) / (width * (width - rank)))),
        "units": (symbol("N_l"), 2 ** (layer + 1)),
        "variance": (symbol("v_l"), symbol("N_l") ** 2 / width),
        "variance_growth": (symbol("v_l"), 4 ** (layer + 1) / width),
    }
    # Jensen's inequality for 1/(1 + Σ exp of independent normal differences): kernel 1 + noise, unit embeddings.
    exponent = -scale + scale**2 * (1 / width + 2 * noise**2) / 2
    scalars["matching_score_bound"] = (
        symbol(r"\underline{\mathrm{MS}}"),
        1 / (1 + (count - 1) * sympy.exp(exponent)),
    )
    return found | {name: Eq(left, right, evaluate=False) for name, (left, right) in scalars.items()}


@cache
def residuals() -> Mapping[str, Expr]:
    """Left side minus right side of what follows by algebra, simplified: each must be 0.

    Norms and traces of Gaussian words by Wick's theorem, sum rules of projectors (P_ii + …, P² = P), limits for large d, growth.
    """
    equations = derivation()
    right = {name: equation.rhs for name, equation in equations.items()}
    single, double = ((0, True), (0, False)), ((1, True), (1, False), (0, True), (0, False))
    mirrored = tuple((index, not flipped) for index, flipped in reversed(double))
    diagonal, off = right["projector_diagonal"], right["projector_off_diagonal"]
    found = {
        "trace_1": expected_trace(single, "gaussian") - width,
        "trace_2": expected_trace(double, "gaussian") - width,
        "square_1": expected_trace(single + single, "gaussian") - right["square_1"],
        "square_2": expected_trace(mirrored + double, "gaussian") - right["square_2"],
        # ‖K‖² = Σ diagonal² + Σ off-diagonal², with E K_ii² and E K_ij² of the two kernels
        "entries_1": width * (1 + 2 / width) + width * (width - 1) / width - right["square_1"],
        "entries_2": width * ((1 + 2 / width) ** 2 + (width - 1) / width**2)
        + width * (width - 1) * (3 * width + 2) / width**2
        - right["square_2"],
        "alignment_1": sympy.limit(width / right["square_1"], width, sympy.oo) - right["alignment_1"] ** 2,
        "alignment_2": sympy.limit(width / right["square_2"], width, sympy.oo) - right["alignment_2"] ** 2,
        "projector_norm": width * diagonal + width * (width - 1) * off - rank,
        "projector_ratio": (rank / width) ** 2 / off - right["projector_ratio"] ** 2,
        "units": right["units"].subs(layer, layer + 1) - 2 * right["units"],
        "variance": right["variance"].subs(symbol("N_l"), right["units"]) - right["variance_growth"],
        "growth": right["variance_growth"].subs(layer, layer + 1) - 4 * right["variance_growth"],
    }
    return {name: sympy.simplify(sympy.expand(residual)) for name, residual in found.items()}
