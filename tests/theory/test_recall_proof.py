"""Every equation of noisy recall's derivation, made into numbers and compared with roads that do not use it; and the proofs.

`DISCREPANCIES` holds for each statement a function that evaluates its two sides numerically and returns their distance, over
several (N, T, α). The same functions are run on statements with one side changed by 1 %, and must object.
"""

import itertools
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import sympy
from sympy import Eq, Function

from tests.enumeration import derivative, enumeration, inputs, log_softmax, model_logits
from theory.noisy_recall import (
    bayes_risk,
    construction,
    copy_map,
    counts,
    derivation,
    entropy,
    marginals,
    margins,
    proof,
    residuals,
    unrevealed_probability,
)
from theory.problems import NoisyRecall
from theory.symbols import SYMBOLS, symbol

PROBLEMS = [
    NoisyRecall.theory_version(3, 4, 0.3),
    NoisyRecall.theory_version(7, 20, 0.55, trigger=2),
    NoisyRecall.theory_version(16, 33, 0.05),
]
NAMES = {
    "alpha": r"\alpha",
    "omega": r"\omega",
    "trigger": r"n_{\mathsf{q}}",
    "noise": r"n_{\mathsf{c}}",
    "target": r"n_{\bar y}",
    "generic": r"n_{\mathsf{g}}",
    "entropy": "h",
    "unrevealed": "P_0",
}


def evaluate(expression: sympy.Expr, **values: float) -> float:
    """An expression in project symbols, by their names or the short names above, at numbers."""
    symbols = [symbol(NAMES.get(name, name)) for name in values]
    assert expression.free_symbols <= set(symbols), expression.free_symbols - set(symbols)
    return float(sympy.lambdify(symbols, expression, modules=["numpy"])(*values.values()))


def setting(problem: NoisyRecall) -> dict[str, float]:
    return {
        "N": problem.vocabulary_size - 1,
        "T": problem.context_length,
        "alpha": problem.noise_level,
    }


def relative(left: float, right: float) -> float:
    return abs(left - right) / max(abs(left), 1e-300)


@cache
def exact_counts(problem: NoisyRecall) -> dict[str, float]:
    """Expected counts by linear algebra: trigger, noise, target, generic."""
    target = problem.targets[0]
    current = counts(problem, target).current
    return {
        "trigger": float(current[problem.trigger]),
        "noise": float(current[problem.noise_token]),
        "target": float(current[target]),
        "generic": float(current[problem.targets[1]]),
    }


def worst(discrepancy: Callable[[Eq, NoisyRecall], float]) -> Callable[[Eq], float]:
    return lambda equation: max(discrepancy(equation, problem) for problem in PROBLEMS)


def trigger_shares(problem: NoisyRecall) -> np.ndarray:
    """p_s for s = 1 … T − 1."""
    return marginals(problem, problem.targets[0])[:-1, problem.trigger]


def recurrence(equation: Eq, problem: NoisyRecall) -> float:
    """p_2 from p_1, p_3 from p_2 and so on, by linear algebra; the left side is p at s + 1."""
    p, found = Function("p"), 0.0
    assert equation.lhs == p(symbol("s") + 1)
    shares = trigger_shares(problem)
    for before, after in itertools.pairwise(shares):
        right = equation.rhs.subs(p(symbol("s")), float(before))
        found = max(found, relative(float(after), evaluate(right, N=setting(problem)["N"])))
    return found


def share(equation: Eq, problem: NoisyRecall) -> float:
    return max(
        relative(float(exact), evaluate(equation.rhs, s=place, N=setting(problem)["N"]))
        for place, exact in enumerate(trigger_shares(problem), 1)
    )


def number(equation: Eq, problem: NoisyRecall) -> float:
    return max(
        relative(float(exact), evaluate(equation.rhs, s=place, N=setting(problem)["N"]))
        for place, exact in enumerate(trigger_shares(problem).cumsum(), 1)
    )


def count(name: str) -> Callable[[Eq], float]:
    def discrepancy(equation: Eq, problem: NoisyRecall) -> float:
        assert equation.lhs == symbol(NAMES[name])
        return relative(exact_counts(problem)[name], evaluate(equation.rhs, **setting(problem)))

    return worst(discrepancy)


def label_entropy(equation: Eq, problem: NoisyRecall) -> float:
    return relative(entropy(problem.noise_level), evaluate(equation.rhs, alpha=problem.noise_level))


def risk(equation: Eq, problem: NoisyRecall) -> float:
    """Against the package's risk, which has no entropy or P₀ written into its left side."""
    values = {"entropy": entropy(problem.noise_level), "unrevealed": unrevealed_probability(problem)}
    right = evaluate(equation.rhs, **values, N=setting(problem)["N"], alpha=problem.noise_level)
    return relative(bayes_risk(problem).risk, right)


def enumerated_risk(equation: Eq) -> float:
    """The same against −Σ p ln p(label | context) over all sequences of the tiny problem."""
    problem = PROBLEMS[0]
    every = enumeration(problem)
    joint: dict[tuple[int, ...], np.ndarray] = {}
    for tokens, probability in zip(every.tokens.tolist(), every.probability, strict=True):
        joint.setdefault(tuple(tokens[:-1]), np.zeros(4))[tokens[-1]] += probability
    seen = [one[one > 0] for one in joint.values()]
    exact = -sum(float(one @ np.log(one / one.sum())) for one in seen)
    values = {"entropy": entropy(problem.noise_level), "unrevealed": unrevealed_probability(problem)}
    return relative(exact, evaluate(equation.rhs, **values, N=3, alpha=problem.noise_level))


def uniform(equation: Eq, problem: NoisyRecall) -> float:
    """The probability of each token in the model at zero."""
    size = problem.vocabulary_size
    zero, vectors = np.zeros((size, 2 * size)), np.zeros((1, 3, 2 * size))
    exact = np.exp(log_softmax(model_logits(vectors, zero, zero, np.zeros((2 * size, 2 * size)))))[0, 0]
    return relative(float(exact), evaluate(equation.rhs, N=size - 1))


def margin(name: str, *, by_counts: bool) -> Callable[[Eq], float]:
    def discrepancy(equation: Eq, problem: NoisyRecall) -> float:
        values = setting(problem) | (exact_counts(problem) if by_counts else {})
        return relative(getattr(margins(problem), name), evaluate(equation.rhs, **values))

    return worst(discrepancy)


def copying(equation: Eq, problem: NoisyRecall) -> float:
    """The gap within a row of the copy map; and, at tiny size, of the loss's own derivative."""
    one, other = problem.targets[:2]
    block = copy_map(problem)
    right = evaluate(equation.rhs, **setting(problem))
    found = relative(float(block[one, one] - block[one, other]), right)
    if problem is PROBLEMS[0]:
        gradient = enumerated_copying(problem)
        found = max(found, relative(float(gradient[one, one] - gradient[one, other]), right))
    return found


@cache
def enumerated_copying(problem: NoisyRecall) -> np.ndarray:
    """Minus the derivative by the value matrix when W_F answers with the labels' frequencies, by enumeration, shape (V, V)."""
    size, every = problem.vocabulary_size, enumeration(problem)
    vectors, labels = inputs(every.tokens[:, :-1], size), every.tokens[:, -1]
    frequency = np.bincount(labels, every.probability, size)
    forward, flat = np.zeros((size, 2 * size)), np.zeros((2 * size, 2 * size))
    forward[:, problem.trigger] = np.log(np.maximum(frequency, 1e-40))

    def loss(block: np.ndarray) -> complex:
        value = np.concatenate([block, np.zeros((size, size))], axis=1)
        logs = log_softmax(model_logits(vectors, forward, value, flat))
        return -complex(every.probability @ logs[np.arange(len(labels)), labels])

    return -derivative(loss, np.zeros((size, size)))


def constructed(equation: Eq) -> float:
    """The model with the construction's weights on all contexts of the tiny problem, λ = 120; ω = 0.5 to 3."""
    problem, found = PROBLEMS[0], 0.0
    every, level = enumeration(problem), problem.noise_level
    values = {"entropy": entropy(level), "unrevealed": unrevealed_probability(problem)}
    vectors = inputs(every.tokens[:, :-1], problem.vocabulary_size)
    for omega in (0.5, 1.0, 3.0):
        weights = construction(problem, omega, 120.0)
        logs = log_softmax(model_logits(vectors, weights.feed_forward, weights.value, weights.key_query))
        exact = float(-every.probability @ logs[np.arange(len(logs)), every.tokens[:, -1]])
        left = evaluate(equation.lhs.subs(symbol(r"\ell"), exact), **values, N=3, alpha=level)
        right = evaluate(equation.rhs, unrevealed=values["unrevealed"], N=3, alpha=level, omega=omega)
        found = max(found, relative(left, right))
    return found


ROUNDING = 1e-11
"""All by linear algebra or enumeration, hence some hundred roundings; differences of counts or of risks lose a digit or two."""
DISCREPANCIES: dict[str, Callable[[Eq], float]] = {
    "trigger_recurrence": worst(recurrence),
    "trigger_probability": worst(share),
    "expected_triggers": worst(number),
    "trigger_count": count("trigger"),
    "noise_count": count("noise"),
    "target_count": count("target"),
    "generic_count": count("generic"),
    "entropy": worst(label_entropy),
    "bayes_risk": lambda equation: max(worst(risk)(equation), enumerated_risk(equation)),
    "uniform_probability": worst(uniform),
    "feed_forward_margin": margin("feed_forward_noise", by_counts=False),
    "value_margin": margin("value_noise", by_counts=True),
    "recall_margin": margin("value_recall", by_counts=True),
    "recall_margin_exact": margin("value_recall", by_counts=False),
    "copy_strength": worst(copying),
    "construction_risk": constructed,
}


def test_every_equation_is_compared() -> None:
    assert set(DISCREPANCIES) == set(derivation())


@pytest.mark.parametrize("name", DISCREPANCIES)
def test_equation_agrees_with_numbers(name: str) -> None:
    assert DISCREPANCIES[name](derivation()[name]) < ROUNDING


@pytest.mark.parametrize("name", DISCREPANCIES)
def test_a_wrong_equation_is_noticed(name: str) -> None:
    right = derivation()[name]
    wrong = Eq(right.lhs, right.rhs * sympy.Rational(101, 100) + sympy.Rational(1, 10**6), evaluate=False)
    assert DISCREPANCIES[name](wrong) > 10 * ROUNDING


def test_every_residual_is_zero() -> None:
    found = residuals()
    assert {name for name, residual in found.items() if residual != 0} == set()
    assert {
        "trigger_recurrence",
        "trigger_start",
        "expected_triggers_step",
        "target_step",
        "target_count",
        "recall_margin_exact",
        "copy_strength",
        "leading_value_margin",
        "leading_recall_margin",
        "leading_copy_strength",
        "value_margin_4",
        "recall_margin_5",
        "column_sums_4",
        "copy_map_5",
        "construction_shown",
        "construction_hidden",
    } <= set(found)


@pytest.mark.parametrize(
    "wrong", ["nothing", "trigger_probability", "expected_triggers", "value_margin", "LABEL"]
)
def test_a_wrong_formula_leaves_a_residual(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof can fail: each formula is changed by a factor, and the steps that use it object.

    Residuals are evaluated at numbers here, in 30 digits: simplifying what does not vanish takes SymPy half a minute.
    """
    point = {"N": "17/3", "T": 11, "s": 4, r"\alpha": "2/7", r"\omega": "3/5"}
    point |= {NAMES["trigger"]: 5, NAMES["noise"]: "3/2", NAMES["target"]: "9/2", NAMES["generic"]: 2}
    numbers = {symbol(name): sympy.Rational(value) for name, value in point.items()}

    def at_numbers(residual: sympy.Expr) -> sympy.Expr:
        # (−1/N)^s is complex at N = 17/3 only if s is no integer. 30 digits; what vanishes does to 25.
        value = sympy.sympify(residual).subs(numbers).evalf(30)
        assert not value.free_symbols, value
        return sympy.S.Zero if abs(value) < 1e-25 else value

    monkeypatch.setattr(proof, "_vanishing", at_numbers)
    if wrong != "nothing":
        whole = getattr(proof, wrong)
        monkeypatch.setattr(proof, wrong, 2 * whole if wrong == "LABEL" else lambda: 2 * whole())
    expected: set[str] = {
        "nothing": set(),
        "trigger_probability": {"trigger_recurrence", "trigger_start", "expected_triggers_step"},
        "expected_triggers": {"expected_triggers_step"},
        "value_margin": {"value_margin_4", "value_margin_5", "leading_value_margin"},
        "LABEL": {"recall_margin_4", "copy_strength_5", "recall_margin_exact", "leading_copy_strength"},
    }[wrong]
    left = {name for name, residual in residuals.__wrapped__().items() if residual != 0}
    assert expected <= left
    assert bool(left) == (wrong != "nothing")


def test_every_symbol_is_in_the_notation_table() -> None:
    known = {entry.symbol for entry in SYMBOLS.values()}
    assert "p_s" in SYMBOLS
    for name, equation in derivation().items():
        functions = {str(one.func) for one in equation.atoms(sympy.core.function.AppliedUndef)}
        assert functions <= {"p"}, name  # p(s) is the table's p_s, with another index
        assert equation.free_symbols <= known, (name, equation.free_symbols - known)
