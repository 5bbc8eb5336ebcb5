"""The derivation of the exact solution in SymPy, from the loss: every equation that the book prints and the tests evaluate.

`derivation()` gives the statements in order; `residuals()` gives, for each step that is a proof, the difference of its two
sides after substitution, which must be zero. Nothing here is typed in as an answer: rates are derivatives of the loss, the
singular values come from the structured matrix, the Bessel solution is put into the equation that it should solve.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import sympy
from sympy import Derivative, Eq, Expr, Function, exp, log, sqrt

from theory.symbols import symbol

n, alpha, t = symbol("n"), symbol(r"\alpha"), symbol("t")
a, b, g = symbol("a"), symbol("b"), symbol("g")
A, B, C = symbol("A"), symbol("B"), symbol("C")
nu, k, tau, q, y = symbol(r"\nu"), symbol("k"), symbol(r"\tau"), symbol("q"), symbol("y")

PARTITION = exp(a) + (n - 1) * exp(b) + exp(g)
PROBABILITIES = {"a": exp(a) / PARTITION, "b": exp(b) / PARTITION, "c": exp(g) / PARTITION}


def loss_of_a_key(correct: Expr, one_wrong: Expr, other_wrong: Expr, noise: Expr) -> Expr:
    """Cross-entropy of one key, averaged over its two labels, with one wrong token set apart from the n − 2 others."""
    partition = exp(correct) + exp(one_wrong) + (n - 2) * exp(other_wrong) + exp(noise)
    return log(partition) - (1 - alpha) * correct - alpha * noise


@cache
def flow_rates() -> tuple[Expr, Expr, Expr]:
    """da/dt, db/dt and dg/dt as minus the derivatives of the loss (1/n) Σ_x ℓ_x by one entry each, at a symmetric state."""
    one_wrong = sympy.Dummy(real=True)
    loss = loss_of_a_key(a, one_wrong, b, g) / n
    return tuple(sympy.simplify((-sympy.diff(loss, entry)).subs(one_wrong, b)) for entry in (a, one_wrong, g))


def _gradient() -> Eq:
    """∂loss/∂L_kx for any number of labels: softmax minus label, over n."""
    labels = symbol("N_c")
    row, entry = symbol("j"), symbol("i")
    logits, target = sympy.IndexedBase(symbol("L")), sympy.IndexedBase(symbol(r"\pi"))
    partition = sympy.Sum(exp(logits[row]), (row, 1, labels))
    loss = (log(partition) - sympy.Sum(target[row] * logits[row], (row, 1, labels))) / n
    inside = {sympy.KroneckerDelta(row, entry): sympy.KroneckerDelta(row, entry)}
    slope = sympy.diff(loss, logits[entry]).subs(inside).doit()
    slope = slope.replace(
        lambda e: isinstance(e, sympy.Piecewise), lambda e: e.args[0][0]
    )  # the branch 1 ≤ i ≤ N_c
    return Eq(Derivative(symbol(r"\ell"), logits[entry]), sympy.simplify(slope), evaluate=False)


def structured_logits(size: int) -> sympy.Matrix:
    """The (size + 1) × size matrix with a on the diagonal, b off it and g in the last row."""
    return sympy.Matrix(size + 1, size, lambda i, j: g if i == size else (a if i == j else b))


@cache
def _singular_values() -> tuple[Expr, Expr]:
    """Squared singular values from LᵀL = (a − b)² I + c 11ᵀ, with the column sum a + (n − 1) b + g = 0 put in.

    The diagonal entry of LᵀL is a² + (n−1)b² + g², the other one 2ab + (n−2)b² + g²: I and 11ᵀ span such matrices.
    """
    diagonal = a**2 + (n - 1) * b**2 + g**2
    other = 2 * a * b + (n - 2) * b**2 + g**2
    signal = sympy.factor(diagonal - other)
    noise = sympy.factor((diagonal + (n - 1) * other).subs(a, -(n - 1) * b - g))
    return signal, noise


def _reduced_orders(expression: Expr, argument: Expr) -> Expr:
    """Rewrite I and K of order ν + j by the recurrences, until orders ν and ν − 1 are left (DLMF 10.29.1)."""
    for bessel, sign in ((sympy.besseli, 1), (sympy.besselk, -1)):
        for shift in (3, 2, 1):
            higher, middle, lower = (bessel(nu + shift - offset, argument) for offset in range(3))
            expression = expression.subs(higher, lower - sign * 2 * (nu + shift - 1) / argument * middle)
        for shift in (-3, -2):
            lower, middle, higher = (bessel(nu + shift + offset, argument) for offset in range(3))
            expression = expression.subs(lower, higher + sign * 2 * (nu + shift + 1) / argument * middle)
    return expression


def bessel_solution() -> Expr:
    """y(τ) with the weights that make q(1) = 1: c₁ = k K_{ν−1}(k) + C K_ν(k), c₂ = k I_{ν−1}(k) − C I_ν(k)."""
    first = k * sympy.besselk(nu - 1, k) + C * sympy.besselk(nu, k)
    second = k * sympy.besseli(nu - 1, k) - C * sympy.besseli(nu, k)
    return tau**nu * (first * sympy.besseli(nu, k * tau) + second * sympy.besselk(nu, k * tau))


def time_of_clock(log_y: Expr, log_q: Expr) -> Expr:
    """Flow time as a function of the clock, given ln y and ln q there."""
    return 2 * n / (n + 1) * (log_y / C + (log_q - A * log(tau) + log_y) / B + (n - 1) * log(tau))


@cache
def derivation() -> Mapping[str, Eq]:
    """Every statement of the derivation, in order, name → equation (chapter "A memory that learns its own noise")."""
    signal, noise = _singular_values()
    m = sqrt(n + 1)
    state = Function("q")(tau)
    solution = Function("y")(tau)
    time = Function("t")(tau)
    return {
        "gradient": _gradient(),
        "diagonal_rate": Eq(Derivative(a, t), (1 - alpha - PROBABILITIES["a"]) / n, evaluate=False),
        "off_diagonal_rate": Eq(Derivative(b, t), -PROBABILITIES["b"] / n, evaluate=False),
        "noise_rate": Eq(Derivative(g, t), (alpha - PROBABILITIES["c"]) / n, evaluate=False),
        "conservation": Eq(a + (n - 1) * b + g, 0, evaluate=False),
        "signal_singular_value": Eq(symbol(r"s_\perp"), sqrt(signal), evaluate=False),
        "noise_singular_value": Eq(symbol("s_1"), sqrt(noise), evaluate=False),
        "drift": Eq(A, (1 - 2 * alpha) * (n - 1) / (n + 1), evaluate=False),
        "growth": Eq(B, 2 * (1 - alpha) / (n + 1), evaluate=False),
        "decay": Eq(C, 2 * alpha / (n + 1), evaluate=False),
        "clock": Eq(tau, exp(-(n + 1) * b / 2), evaluate=False),
        "riccati_variable": Eq(q, exp((a - g) / 2), evaluate=False),
        "riccati": Eq(Derivative(state, tau), A * state / tau + B - C * state**2, evaluate=False),
        "clock_rate": Eq(
            Derivative(time, tau), 2 * n / (n + 1) * (state + 1 / state + (n - 1) / tau), evaluate=False
        ),
        "linear_equation": Eq(
            Derivative(solution, (tau, 2)),
            A / tau * Derivative(solution, tau) + B * C * solution,
            evaluate=False,
        ),
        "order": Eq(nu, (1 + A) / 2, evaluate=False),
        "wave_number": Eq(k, sqrt(B * C), evaluate=False),
        "bessel_solution": Eq(y, bessel_solution(), evaluate=False),
        "time": Eq(t, time_of_clock(log(y), log(q)), evaluate=False),
        "diagonal": Eq(a, log(tau) * (n - 1) / (n + 1) + log(q), evaluate=False),
        "off_diagonal": Eq(b, -2 * log(tau) / (n + 1), evaluate=False),
        "noise": Eq(g, log(tau) * (n - 1) / (n + 1) - log(q), evaluate=False),
        "initial_ratio": Eq(
            symbol("s_1") / symbol(r"s_\perp"),
            m * sympy.Abs(alpha - 1 / (n + 1)) / (1 - alpha),
            evaluate=False,
        ),
        "late_ratio": Eq(symbol("s_1") / symbol(r"s_\perp"), (n - 1) / m, evaluate=False),
        "crossing": Eq(q, tau ** (1 - 2 / m), evaluate=False),
    }


def _riccati_residuals() -> dict[str, Expr]:
    """The change of variables (a, g, t) → (q, τ): its two equations follow from the three rates."""
    rate_a, rate_b, rate_g = flow_rates()
    coefficients = {
        A: (1 - 2 * alpha) * (n - 1) / (n + 1),
        B: 2 * (1 - alpha) / (n + 1),
        C: 2 * alpha / (n + 1),
    }
    on_clock = {
        a: b + log(tau) + log(q),
        g: b + log(tau) - log(q),
    }
    clock_rate = -(n + 1) / 2 * tau * rate_b
    q_rate = q * (rate_a - rate_g) / 2
    riccati = (A * q / tau + B - C * q**2).subs(coefficients)
    clock = 2 * n / (n + 1) * (q + 1 / q + (n - 1) / tau)
    return {
        "riccati": (q_rate / clock_rate).subs(on_clock) - riccati,
        "clock_rate": 1 / clock_rate.subs(on_clock) - clock,
    }


def _bessel_residuals() -> dict[str, Expr]:
    """y solves the linear equation, starts with q = 1 and y = 1, and its q = y′/(C y) and time solve theirs."""
    solution = bessel_solution()
    argument = k * tau
    equation = sympy.diff(solution, tau, 2) - (2 * nu - 1) / tau * sympy.diff(solution, tau) - k**2 * solution
    start = (sympy.diff(solution, tau) / C - solution).subs(tau, 1)
    value, slope = Function("y", positive=True)(tau), Function("q", positive=True)(tau)
    riccati = A * slope / tau + B - C * slope**2
    time = sympy.diff(time_of_clock(log(value), log(slope)), tau)
    time = time.subs({Derivative(value, tau): C * slope * value, Derivative(slope, tau): riccati})
    second = C * riccati * value + C**2 * slope**2 * value
    return {
        "linear_equation": second - (A / tau * C * slope * value + B * C * value),
        "bessel_solution": _reduced_orders(sympy.expand(equation), argument),
        "start": _reduced_orders(sympy.expand(start), k),
        "time": time - 2 * n / (n + 1) * (slope + 1 / slope + (n - 1) / tau),
    }


@cache
def residuals() -> Mapping[str, Expr]:
    """Left side minus right side of every proved step, simplified: each must be 0. Cost: a few seconds, once."""
    rate_a, rate_b, rate_g = flow_rates()
    signal, noise = _singular_values()
    m = sqrt(n + 1)
    free = {a: -(n - 1) * b - g}
    on_top = {a: (m - 1 / (m - 1)) * g}
    proved = {
        "diagonal_rate": rate_a - (1 - alpha - PROBABILITIES["a"]) / n,
        "off_diagonal_rate": rate_b + PROBABILITIES["b"] / n,
        "noise_rate": rate_g - (alpha - PROBABILITIES["c"]) / n,
        "conservation": rate_a + (n - 1) * rate_b + rate_g,
        "signal_singular_value": signal - (a - b) ** 2,
        "noise_singular_value": noise - (n + 1) * g**2,
        "initial_ratio": (m * rate_g / (rate_a - rate_b)).subs({a: 0, b: 0, g: 0})
        - m * (alpha - 1 / (n + 1)) / (1 - alpha),
        "crossing": ((a - b) - m * g).subs(b, -(a + g) / (n - 1)).subs(on_top),
    }
    for size in (2, 3, 4):
        gram = structured_logits(size).T * structured_logits(size)
        ones, other = sympy.ones(size, 1), sympy.Matrix([1, -1] + [0] * (size - 2))
        proved[f"noise_vector_{size}"] = ((gram * ones)[0] - noise.subs(n, size)).subs(
            {key: value.subs(n, size) for key, value in free.items()}
        )
        proved[f"signal_vector_{size}"] = (gram * other)[0] - signal.subs(n, size)
    return {
        name: sympy.simplify(residual)
        for name, residual in {**proved, **_riccati_residuals(), **_bessel_residuals()}.items()
    }
