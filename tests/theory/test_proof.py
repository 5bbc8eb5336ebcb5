"""Every equation of the derivation, made into numbers and compared with a road that does not use it; and the proofs.

`DISCREPANCIES` holds for each statement a function that evaluates its two sides numerically and returns their distance. The same
functions are run on statements with one side changed by 1 %, and must object: none of these tests passes by construction.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import sympy
import torch
from mpmath import mp
from scipy import integrate
from sympy import Eq, Function

from theory.associative_memory import (
    Riccati,
    crossing_time,
    derivation,
    gradient_flow,
    proof,
    residuals,
)
from theory.associative_memory.high_precision import clock_state
from theory.problems import AssociativeMemory
from theory.symbols import SYMBOLS, symbol

PROBLEM = AssociativeMemory(5, 0.3)
TIMES = np.array([0.7, 6.0, 90.0])


def evaluate(expression: sympy.Expr, **values: float | np.ndarray) -> np.ndarray:
    """An expression in project symbols, by the names below, at numbers or arrays."""
    short = {"alpha": r"\alpha", "tau": r"\tau", "nu": r"\nu"}
    symbols = [symbol(short.get(name, name)) for name in values]
    assert expression.free_symbols <= set(symbols), expression.free_symbols
    return np.asarray(sympy.lambdify(symbols, expression, modules=["numpy"])(*values.values()), dtype=float)


def relative(left: np.ndarray | float, right: np.ndarray | float) -> float:
    left, right = np.broadcast_arrays(np.asarray(left, dtype=float), np.asarray(right, dtype=float))
    return float(np.max(np.abs(left - right) / np.maximum(np.abs(left), 1e-300)))


@cache
def integrated(problem: AssociativeMemory = PROBLEM) -> np.ndarray:
    """(a, b, g) at TIMES: three separate rates by DOP853 at rtol 1e-12. No theory but the gradient of softmax."""
    n, alpha = problem.n_tokens, problem.noise_level

    def rates(_: float, logits: np.ndarray) -> np.ndarray:
        p = np.exp(logits) / (np.exp(logits) @ np.array([1, n - 1, 1]))
        return (np.array([1 - alpha, 0, alpha]) - p) / n

    return integrate.solve_ivp(
        rates, (0, TIMES[-1]), np.zeros(3), t_eval=TIMES, method="DOP853", rtol=1e-12, atol=1e-14
    ).y


@cache
def on_the_clock(problem: AssociativeMemory = PROBLEM) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """τ, q and y at TIMES: τ and q from their definitions by the integrated flow, y by quadrature of y′/y = C q."""
    n = problem.n_tokens
    a, b, g = integrated(problem)
    tau, q = np.exp(-(n + 1) * b / 2), np.exp((a - g) / 2)
    return tau, q, np.exp([log_y(problem, float(clock)) for clock in tau])


def log_y(problem: AssociativeMemory, clock: float) -> float:
    """∫ C q dτ from 1 to `clock`."""
    riccati = Riccati(problem)
    value, _ = integrate.quad(
        lambda x: riccati.decay * float(np.exp(riccati.log_q(np.log(x)))),
        1,
        clock,
        epsabs=1e-14,
        epsrel=1e-13,
    )
    return value


def autograd_rates(a: float, b: float, g: float, n: int, alpha: float) -> np.ndarray:
    """Minus the gradient of the loss by a diagonal, an off-diagonal and a noise entry of the full matrix of logits."""
    logits = torch.full((n + 1, n), b, dtype=torch.float64)
    logits[:n].fill_diagonal_(a)
    logits[n] = g
    logits.requires_grad_(True)
    scores = torch.log_softmax(logits, dim=0)
    keys = torch.arange(n)
    loss = -((1 - alpha) * scores[keys, keys] + alpha * scores[n]).mean()
    loss.backward()
    return -np.array([logits.grad[0, 0], logits.grad[1, 0], logits.grad[n, 0]])


STATES = [(0.0, 0.0, 0.0), (2.0, -1.0, 0.5), (-0.3, 0.1, 4.0)]


def gradient(equation: Eq) -> float:
    """Five labels, any logits and any label distribution: autograd of the cross-entropy of one key, a share 1/n of the loss."""
    rng = np.random.default_rng(0)
    logits, target, n = rng.standard_normal(5), rng.dirichlet(np.ones(5)), 7
    leaf = torch.tensor(logits, requires_grad=True)
    (-(torch.tensor(target) * torch.log_softmax(leaf, 0)).sum() / n).backward()
    base = {str(found.base): found.base for found in equation.rhs.atoms(sympy.Indexed)}
    worst = 0.0
    for i in range(1, 6):
        right = equation.rhs.subs({sympy.Symbol("i", integer=True): i})
        right = right.subs({symbol("N_c"): 5}).doit()
        numbers = {base["L"][k]: logits[k - 1] for k in range(1, 6)}
        numbers |= {base[r"\pi"][k]: target[k - 1] for k in range(1, 6)}
        worst = max(worst, relative(float(leaf.grad[i - 1]), float(right.subs(numbers).subs(symbol("n"), n))))
    return worst


def rate(which: int) -> Callable[[Eq], float]:
    def discrepancy(equation: Eq) -> float:
        return max(
            relative(
                autograd_rates(*state, n=n, alpha=alpha)[which],
                evaluate(equation.rhs, a=state[0], b=state[1], g=state[2], n=n, alpha=alpha),
            )
            for state in STATES
            for n, alpha in ((2, 0.7), (5, 0.3))
        )

    return discrepancy


def conservation(equation: Eq) -> float:
    a, b, g = integrated()
    left = evaluate(equation.lhs, a=a, b=b, g=g, n=PROBLEM.n_tokens)
    return float(np.max(np.abs(left - evaluate(equation.rhs)) / np.abs(a)))


def singular_value(which: str) -> Callable[[Eq], float]:
    def discrepancy(equation: Eq) -> float:
        worst, n = 0.0, 6
        for a, g in ((2.0, 0.3), (1.0, 3.0), (-0.5, 2.0), (1.0, -2.0)):
            b = -(a + g) / (n - 1)
            matrix = np.full((n + 1, n), b)
            np.fill_diagonal(matrix[:n], a)
            matrix[n] = g
            values = np.linalg.svd(matrix, compute_uv=False)
            # The signal is the value that occurs n − 1 times, hence the median; the noise is the odd one out.
            signal = np.median(values)
            odd = values[np.argmax(np.abs(values - signal))]
            right = evaluate(equation.rhs, a=a, b=b, g=g, n=n)
            worst = max(worst, relative(signal if which == "signal" else odd, right))
        return worst

    return discrepancy


def coefficient(name: str) -> Callable[[Eq], float]:
    """Against the attributes of Riccati, for several problems."""

    def discrepancy(equation: Eq) -> float:
        worst = 0.0
        for n, alpha in ((2, 0.7), (5, 0.3), (1000, 0.01)):
            riccati = Riccati(AssociativeMemory(n, alpha))
            values = {"n": n, "alpha": alpha, "A": riccati.drift, "B": riccati.growth, "C": riccati.decay}
            worst = max(worst, relative(getattr(riccati, name), evaluate(equation.rhs, **values)))
        return worst

    return discrepancy


def clock(equation: Eq) -> float:
    """The reference's clock at given ln τ."""
    states = [clock_state(PROBLEM, mp.mpf(s)) for s in (0.1, 1.0, 3.0)]
    b = np.array([float(state.off_diagonal) for state in states])
    return relative(np.exp([0.1, 1.0, 3.0]), evaluate(equation.rhs, b=b, n=PROBLEM.n_tokens))


def riccati_variable(equation: Eq) -> float:
    a, _, g = integrated()
    tau, _, _ = on_the_clock()
    return relative(np.exp(Riccati(PROBLEM).log_q(np.log(tau))), evaluate(equation.rhs, a=a, g=g))


def along_the_flow(middle: float, step: float) -> tuple[float, float, float, float]:
    """τ, q, dq/dτ and dt/dτ by central differences of gradient_flow at one time."""
    flow = gradient_flow(PROBLEM, [middle - step, middle, middle + step])
    taus = np.exp(-(PROBLEM.n_tokens + 1) * flow.off_diagonal / 2)
    qs = np.exp((flow.diagonal - flow.noise) / 2)
    span = taus[2] - taus[0]
    return taus[1], qs[1], (qs[2] - qs[0]) / span, 2 * step / span


def coefficients() -> dict[str, float]:
    riccati = Riccati(PROBLEM)
    return {"A": riccati.drift, "B": riccati.growth, "C": riccati.decay, "n": PROBLEM.n_tokens}


def differential(which: int) -> Callable[[Eq], float]:
    """q′ (2) or t′ (3) along the flow; differences over 1e-4 of the time err by 1e-8 and by rounding 1e-12/1e-4."""

    def discrepancy(equation: Eq) -> float:
        right = equation.rhs.subs(Function("q")(symbol(r"\tau")), symbol("q"))
        worst = 0.0
        for time in TIMES:
            found = along_the_flow(time, 1e-4 * time)
            worst = max(
                worst, relative(found[which], evaluate(right, tau=found[0], q=found[1], **coefficients()))
            )
        return worst

    return discrepancy


def linear_equation(equation: Eq) -> float:
    """y by quadrature, y″ and y′ by differences over h = 1e-3: error h²/12 ~ 1e-7, rounding 1e-13/h² = 1e-7."""
    tau, place, step = symbol(r"\tau"), 2.5, 1e-3
    before, here, after = (np.exp(log_y(PROBLEM, place + shift)) for shift in (-step, 0, step))
    solution = Function("y")(tau)
    assert equation.lhs == sympy.Derivative(solution, (tau, 2))
    slope = (after - before) / (2 * step)
    right = equation.rhs.subs(sympy.Derivative(solution, tau), slope).subs(solution, here)
    return relative((after - 2 * here + before) / step**2, evaluate(right, tau=place, **coefficients()))


def bessel_solution(equation: Eq) -> float:
    tau, _, y = on_the_clock()
    riccati = Riccati(PROBLEM)
    names = [symbol(name) for name in (r"\tau", r"\nu", "k", "C")]
    assert equation.rhs.free_symbols == set(names)
    function = sympy.lambdify(names, equation.rhs, modules="mpmath")
    right = [float(function(x, riccati.order, riccati.wave_number, riccati.decay)) for x in tau]
    return relative(y, right)


def time(equation: Eq) -> float:
    tau, q, y = on_the_clock()
    return relative(TIMES, evaluate(equation.rhs, tau=tau, q=q, y=y, **coefficients()))


def logit(which: int) -> Callable[[Eq], float]:
    """The integrated logit, from the clock and the Bessel form of q there."""

    def discrepancy(equation: Eq) -> float:
        tau, _, _ = on_the_clock()
        q = np.exp(Riccati(PROBLEM).log_q(np.log(tau)))
        return relative(integrated()[which], evaluate(equation.rhs, tau=tau, q=q, n=PROBLEM.n_tokens))

    return discrepancy


def initial_ratio(equation: Eq) -> float:
    """Singular values of the first gradient, by autograd and numpy."""
    worst = 0.0
    for n, alpha in ((2, 0.7), (5, 0.3), (5, 0.05), (9, 0.6)):
        a, b, g = autograd_rates(0.0, 0.0, 0.0, n, alpha)
        matrix = np.full((n + 1, n), b)
        np.fill_diagonal(matrix[:n], a)
        matrix[n] = g
        _, values, right = np.linalg.svd(matrix)
        noise = int(np.argmax(np.abs(right.sum(axis=1))))  # the component whose right vector is along 1
        others = np.delete(values, noise)
        worst = max(worst, relative(values[noise] / others[0], evaluate(equation.rhs, n=n, alpha=alpha)))
    return worst


def late_ratio(equation: Eq) -> float:
    """Increments of both singular values of the flow from t = 1e10 to 1e12: constants cancel, the rest is O(ln t/t)."""
    worst = 0.0
    for n, alpha in ((2, 0.7), (5, 0.3), (9, 0.6)):
        flow = gradient_flow(AssociativeMemory(n, alpha), [1e10, 1e12])
        noise = np.sqrt(n + 1) * np.diff(flow.noise)[0]
        signal = np.diff(flow.diagonal - flow.off_diagonal)[0]
        worst = max(worst, relative(noise / signal, evaluate(equation.rhs, n=n)))
    return worst


def crossing(equation: Eq) -> float:
    worst = 0.0
    for n, alpha in ((2, 0.8), (5, 0.3), (8, 0.2)):
        problem = AssociativeMemory(n, alpha)
        flow = gradient_flow(problem, crossing_time(problem))
        tau, q = np.exp(-(n + 1) * flow.off_diagonal / 2), np.exp((flow.diagonal - flow.noise) / 2)
        worst = max(worst, relative(q, evaluate(equation.rhs, tau=tau, n=n)))
    return worst


# name → (distance of the two sides, tolerance with its reason: float64 rounding 1e-12; DOP853 and quadrature 1e-9;
# differences as their docstrings say, 1e-6; the late laws' rest O(ln t/t) 1e-7).
DISCREPANCIES: dict[str, tuple[Callable[[Eq], float], float]] = {
    "gradient": (gradient, 1e-12),
    "diagonal_rate": (rate(0), 1e-12),
    "off_diagonal_rate": (rate(1), 1e-12),
    "noise_rate": (rate(2), 1e-12),
    "conservation": (conservation, 1e-9),
    "signal_singular_value": (singular_value("signal"), 1e-12),
    "noise_singular_value": (singular_value("noise"), 1e-12),
    "drift": (coefficient("drift"), 1e-12),
    "growth": (coefficient("growth"), 1e-12),
    "decay": (coefficient("decay"), 1e-12),
    "clock": (clock, 1e-12),
    "riccati_variable": (riccati_variable, 1e-9),
    "riccati": (differential(2), 1e-6),
    "clock_rate": (differential(3), 1e-6),
    "linear_equation": (linear_equation, 1e-5),
    "order": (coefficient("order"), 1e-12),
    "wave_number": (coefficient("wave_number"), 1e-12),
    "bessel_solution": (bessel_solution, 1e-9),
    "time": (time, 1e-9),
    "diagonal": (logit(0), 1e-9),
    "off_diagonal": (logit(1), 1e-9),
    "noise": (logit(2), 1e-9),
    "initial_ratio": (initial_ratio, 1e-12),
    "late_ratio": (late_ratio, 1e-7),
    "crossing": (crossing, 1e-9),
}


def test_every_equation_is_compared() -> None:
    assert set(DISCREPANCIES) == set(derivation())


@pytest.mark.parametrize("name", list(DISCREPANCIES))
def test_equation_agrees_with_numbers(name: str) -> None:
    discrepancy, tolerance = DISCREPANCIES[name]
    assert discrepancy(derivation()[name]) < tolerance


@pytest.mark.parametrize("name", list(DISCREPANCIES))
def test_a_wrong_equation_is_noticed(name: str) -> None:
    discrepancy, tolerance = DISCREPANCIES[name]
    right = derivation()[name]
    wrong = Eq(right.lhs, right.rhs * sympy.Rational(101, 100) + sympy.Rational(1, 10**6), evaluate=False)
    assert discrepancy(wrong) > 10 * tolerance


def test_every_residual_is_zero() -> None:
    found = residuals()
    assert {name for name, residual in found.items() if residual != 0} == set()
    proved = {"diagonal_rate", "off_diagonal_rate", "noise_rate", "conservation", "signal_singular_value"}
    proved |= {
        "noise_singular_value",
        "riccati",
        "clock_rate",
        "linear_equation",
        "bessel_solution",
        "start",
        "time",
    }
    assert proved <= set(found)


@pytest.mark.parametrize("wrong", ["order", "weight", "time"])
def test_a_wrong_solution_leaves_a_residual(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof can fail: a shifted order, weights with a wrong sign, a wrong factor of ln τ."""
    whole, at = proof.bessel_solution(), proof.time_of_clock
    if wrong == "order":
        monkeypatch.setattr(proof, "bessel_solution", lambda: whole * proof.tau)
    elif wrong == "weight":
        monkeypatch.setattr(proof, "bessel_solution", lambda: whole.subs(proof.C, -proof.C))
    else:
        monkeypatch.setattr(proof, "time_of_clock", lambda y, q: at(y, q) + sympy.log(proof.tau))
    left = {name: sympy.simplify(residual) for name, residual in proof._bessel_residuals().items()}
    expected = {"order": {"bessel_solution", "start"}, "weight": {"start"}, "time": {"time"}}[wrong]
    assert {name for name, residual in left.items() if residual != 0} == expected


def test_every_symbol_is_in_the_notation_table() -> None:
    known = {entry.symbol for entry in SYMBOLS.values()}
    for name, equation in derivation().items():
        found = equation.free_symbols | {
            sympy.Symbol(str(call.func)) for call in equation.atoms(sympy.core.function.AppliedUndef)
        }
        for one in found:
            if isinstance(one, sympy.Indexed):  # SymPy counts entries such as L[i] as free symbols too
                continue
            is_function = one.name in {str(f.func) for f in equation.atoms(sympy.core.function.AppliedUndef)}
            if is_function:
                assert one.name in SYMBOLS
            else:
                assert one in known, (name, one)


def test_the_rates_are_derivatives_of_a_loss_with_any_number_of_tokens() -> None:
    """`flow_rates` sets one wrong token apart from n − 2 others: the symmetric matrix written out for n = 2, 3, 4."""
    for size in (2, 3, 4):
        logits = sympy.Matrix(size + 1, size, lambda i, j: sympy.Symbol(f"L_{i}{j}"))
        loss = sum(
            sympy.log(sum(sympy.exp(logits[i, key]) for i in range(size + 1)))
            - (1 - proof.alpha) * logits[key, key]
            - proof.alpha * logits[size, key]
            for key in range(size)
        )
        state = {
            logits[i, j]: proof.structured_logits(size)[i, j] for i in range(size + 1) for j in range(size)
        }
        entries = (logits[0, 0], logits[1, 0], logits[size, 0])
        for entry, found in zip(entries, proof.flow_rates(), strict=True):
            written_out = -sympy.diff(loss, entry).subs(state) / size
            assert sympy.simplify(written_out - found.subs(proof.n, size)) == 0
