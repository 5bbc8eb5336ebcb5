"""The derivation of the first steps in SymPy: every equation that the book prints and the tests evaluate.

`derivation()` gives the statements in order, `residuals()` the difference of the two sides of every proved step. All of it is
for the theory version of noisy recall on the uniform chain; 𝗊 is the trigger, 𝖼 the noise token (the paper's τ), ȳ the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import sympy
from sympy import Eq, Expr, Function, Rational, log

from theory.symbols import symbol

N, T, s, alpha = symbol("N"), symbol("T"), symbol("s"), symbol(r"\alpha")
delta, beta = symbol(r"\delta"), symbol(r"\beta")
TRIGGER, NOISE = symbol(r"n_{\mathsf{q}}"), symbol(r"n_{\mathsf{c}}")
TARGET, GENERIC = symbol(r"n_{\bar y}"), symbol(r"n_{\mathsf{g}}")
LABEL = (1 - alpha) / (N - 1)
"""Probability of one given target as the label, when the context is not looked at."""


def trigger_probability() -> Expr:
    """p_s, which solves p_{s+1} = (1 − p_s)/N with p_1 = 1/N: a trigger is never followed by a trigger."""
    return (1 - (-1 / N) ** s) / (N + 1)


def expected_triggers() -> Expr:
    """Q_s = Σ_{r ≤ s} p_r, a geometric sum."""
    return (s + (1 - (-1 / N) ** s) / (N + 1)) / (N + 1)


def expected_counts() -> dict[Expr, Expr]:
    """Expected counts in a context of a given target, as functions of N, T and α."""
    full, shorter = expected_triggers().subs(s, T - 1), expected_triggers().subs(s, T - 2)
    return {
        TRIGGER: full + 1,
        NOISE: alpha * shorter,
        TARGET: full + (1 - alpha) * shorter,
        GENERIC: full,
    }


def value_margin() -> Expr:
    """T² D_V in terms of the counts: what the noise row of the gradient, less a generic row, makes of the mean context."""
    ordinary = GENERIC + (TARGET - GENERIC) / (N - 1)
    return (
        (alpha - LABEL) * (TRIGGER**2 + NOISE**2)
        + (alpha * ordinary - LABEL * GENERIC) * (TARGET + (N - 3) * GENERIC)
        + (alpha * ordinary - LABEL * TARGET) * GENERIC
    )


def value_gradient(size: int) -> tuple[sympy.Matrix, sympy.Matrix]:
    """T × (minus gradient) of the value matrix at zero for N = size, and expected counts when the target is token 1.

    Rows and columns: the ordinary tokens 0 (trigger) to N − 1, then the noise token. Built from its definition, a
    sum over targets of (P(label | target) − δ) × expected counts.
    """
    classes = size + 1

    def counts(target: int) -> sympy.Matrix:
        column = sympy.Matrix([TRIGGER] + [GENERIC] * (size - 1) + [NOISE])
        column[target] = TARGET
        return column

    gradient = sympy.zeros(classes, classes)
    for target in range(1, size):
        label = sympy.zeros(classes, 1)
        label[target], label[size] = 1 - alpha, alpha
        surprise = label - sympy.ones(classes, 1) / classes
        gradient += surprise * counts(target).T / (size - 1)
    return gradient, counts(1)


@cache
def derivation() -> Mapping[str, Eq]:
    """Every statement, in order, name → equation (chapters "Recall with noise" and "One gradient step")."""
    full, shorter = expected_triggers().subs(s, T - 1), expected_triggers().subs(s, T - 2)
    omega, entropy, unrevealed = symbol(r"\omega"), symbol("h"), symbol("P_0")
    probability, risk = Function("p"), symbol(r"\ell")
    few = sympy.exp(-omega)
    return {
        "trigger_recurrence": Eq(probability(s + 1), (1 - probability(s)) / N, evaluate=False),
        "trigger_probability": Eq(symbol("p_s"), trigger_probability(), evaluate=False),
        "expected_triggers": Eq(symbol("Q_s"), expected_triggers(), evaluate=False),
        "trigger_count": Eq(TRIGGER, full + 1, evaluate=False),
        "noise_count": Eq(NOISE, alpha * shorter, evaluate=False),
        "target_count": Eq(TARGET, full + (1 - alpha) * shorter, evaluate=False),
        "generic_count": Eq(GENERIC, full, evaluate=False),
        "entropy": Eq(entropy, -alpha * log(alpha) - (1 - alpha) * log(1 - alpha), evaluate=False),
        "bayes_risk": Eq(risk, entropy + (1 - alpha) * unrevealed * log(N - 1), evaluate=False),
        "uniform_probability": Eq(delta, 1 / (N + 1), evaluate=False),
        "feed_forward_margin": Eq(symbol("D_F"), alpha - LABEL, evaluate=False),
        "value_margin": Eq(symbol("D_V"), value_margin() / T**2, evaluate=False),
        "recall_margin": Eq(symbol("R_V"), LABEL * (TARGET - GENERIC) ** 2 / T**2, evaluate=False),
        "recall_margin_exact": Eq(
            symbol("R_V"), (1 - alpha) ** 3 * shorter**2 / ((N - 1) * T**2), evaluate=False
        ),
        "copy_strength": Eq(beta, (1 - alpha) ** 2 * shorter / ((N - 1) * T), evaluate=False),
        "construction_risk": Eq(
            risk - entropy - (1 - alpha) * unrevealed * log(N - 1),
            (1 - unrevealed) * log(1 + (1 - alpha) * few * (N - 2 + few))
            + unrevealed * log(1 + (1 - alpha) * few / (N - 1)),
            evaluate=False,
        ),
    }


def _limits() -> dict[str, Expr]:
    """Long contexts (T → ∞) first, then many tokens: N D_V → α, N³ R_V → (1 − α)³, N² β → (1 − α)²."""
    rate = 1 / (N + 1)  # each expected count over T, for long contexts
    stationary = {
        TRIGGER: rate,
        NOISE: alpha * rate,
        TARGET: (2 - alpha) * rate,
        GENERIC: rate,
    }
    exact = expected_counts()
    found = {}
    for count, value in exact.items():
        plain = value.replace(lambda e: e.is_Pow and e.base == -1 / N, lambda _: sympy.S.Zero)
        found[f"long_{count.name}"] = sympy.limit(plain / T, T, sympy.oo) - stationary[count]
    size = sympy.Dummy(positive=True)
    margin = value_margin().subs(stationary).subs(N, size)
    recall = (LABEL * (TARGET - GENERIC) ** 2).subs(stationary).subs(N, size)
    strength = (LABEL * (TARGET - GENERIC)).subs(stationary).subs(N, size)
    return {
        **found,
        "leading_value_margin": sympy.limit(sympy.cancel(size * margin), size, sympy.oo) - alpha,
        "leading_recall_margin": sympy.limit(sympy.cancel(size**3 * recall), size, sympy.oo)
        - sympy.expand((1 - alpha) ** 3),
        "leading_copy_strength": sympy.limit(sympy.cancel(size**2 * strength), size, sympy.oo)
        - sympy.expand((1 - alpha) ** 2),
    }


def _gradient_residuals() -> dict[str, Expr]:
    """Margins and the copy map against the gradient built from its definition, for N = 4 and 5."""
    found: dict[str, Expr] = {}
    for size in (4, 5):
        gradient, context = value_gradient(size)
        at = {N: size}
        logits = gradient * context
        found[f"value_margin_{size}"] = logits[size] - logits[2] - value_margin().subs(at)
        found[f"recall_margin_{size}"] = logits[1] - logits[2] - (LABEL * (TARGET - GENERIC) ** 2).subs(at)
        found[f"column_sums_{size}"] = sum(
            abs(one) for one in sympy.simplify(sympy.ones(1, size + 1) * gradient)
        )
        copy = gradient[1:size, 1:size]
        found[f"copy_strength_{size}"] = copy[0, 0] - copy[1, 0] - (LABEL * (TARGET - GENERIC)).subs(at)
        answer = sympy.Matrix([0] + [LABEL.subs(at)] * (size - 1) + [alpha])
        after = gradient + (sympy.ones(size + 1, 1) / (size + 1) - answer) * _mean_counts(size).T
        expected = sympy.zeros(size + 1, size + 1)
        for row in range(1, size):
            for column in range(1, size):
                expected[row, column] = (LABEL * (TARGET - GENERIC)).subs(at) * (
                    (1 if row == column else 0) - Rational(1, size - 1)
                )
        found[f"copy_map_{size}"] = sum(abs(one) for one in sympy.simplify(after - expected))
    return found


def _mean_counts(size: int) -> sympy.Matrix:
    """Expected counts averaged over targets, shape (size + 1, 1)."""
    ordinary = GENERIC + (TARGET - GENERIC) / (size - 1)
    return sympy.Matrix([TRIGGER] + [ordinary] * (size - 1) + [NOISE])


def _construction_residuals() -> dict[str, Expr]:
    """Excess cross-entropy of the construction's two kinds of contexts, from their logits."""
    omega = symbol(r"\omega")
    few = sympy.exp(-omega)

    def excess(noise: Expr, target: Expr, others: Expr) -> Expr:
        """−(1−α) ln p(target) − α ln p(noise), unnormalised weights given."""
        total = noise + target + others
        return -(1 - alpha) * log(target / total) - alpha * log(noise / total)

    odds = alpha / (1 - alpha)
    entropy = -alpha * log(alpha) - (1 - alpha) * log(1 - alpha)
    shown = excess(sympy.exp(omega) * odds, sympy.exp(omega), N - 2 + few)
    hidden = excess(odds * (N - 1), sympy.Integer(1), N - 2 + few)
    ignorance = (1 - alpha) * log(N - 1)
    return {
        "construction_shown": shown - entropy - log(1 + (1 - alpha) * few * (N - 2 + few)),
        "construction_hidden": hidden - entropy - ignorance - log(1 + (1 - alpha) * few / (N - 1)),
    }


@cache
def residuals() -> Mapping[str, Expr]:
    """Left side minus right side of every proved step, simplified: each must be 0. Cost: some seconds, once."""
    full, shorter = expected_triggers().subs(s, T - 1), expected_triggers().subs(s, T - 2)
    probability = trigger_probability()
    counts = expected_counts()
    kept = (1 - alpha) * probability.subs(s, s - 1) + (1 - probability.subs(s, s - 1)) / N
    proved = {
        "trigger_recurrence": probability.subs(s, s + 1) - (1 - probability) / N,
        "trigger_start": probability.subs(s, 1) - 1 / N,
        "expected_triggers_step": expected_triggers() - expected_triggers().subs(s, s - 1) - probability,
        "expected_triggers_start": expected_triggers().subs(s, 0),
        "target_step": kept - probability - (1 - alpha) * probability.subs(s, s - 1),
        "target_count": counts[TARGET] - full - (1 - alpha) * shorter,
        "recall_margin_exact": LABEL * (counts[TARGET] - counts[GENERIC]) ** 2
        - (1 - alpha) ** 3 * shorter**2 / (N - 1),
        "copy_strength": LABEL * (counts[TARGET] - counts[GENERIC]) - (1 - alpha) ** 2 * shorter / (N - 1),
        **_limits(),
        **_gradient_residuals(),
        **_construction_residuals(),
    }
    return {name: _vanishing(residual) for name, residual in proved.items()}


def _vanishing(residual: Expr) -> Expr:
    """The residual, simplified; logarithms are combined under positive arguments first (0 < α < 1, N > 2)."""
    first = sympy.simplify(sympy.powsimp(sympy.expand(residual)))
    if first == 0:
        return first
    share, more = sympy.Dummy(positive=True), sympy.Dummy(positive=True)
    positive = residual.subs(N, 2 + more).subs(alpha, share / (1 + share))
    return sympy.simplify(sympy.expand_log(sympy.simplify(positive), force=True))
