"""Which matrix of a two-block transformer starts to store the noise token, and how fast: the rates at initialisation.

At the start of gradient flow the noise margin M, the mean over scored positions of logit(noise token) − mean of the other logits,
grows at dM/ds = Σ_W ⟨∂M/∂W, −∂L/∂W⟩, one term for each matrix: a neural tangent kernel averaged over pairs of scored positions.
The model is that of Chen, Bruna and Bietti (arXiv 2406.03068): two blocks h = x + W_O W_V Σ_s A_s x_s, then h + F(h); the query
is the identity, embeddings and positions are N(0, 1), the unembedding is frozen, and every matrix is uniform on ±1/√(its inputs).
`initial_growth` gives all rates, `diffuse_growth` and `attention_overlap` closed forms, `derivation` their SymPy equations. The
rates are ours; the parts are known: tangent kernels (Jacot, Gabriel and Hongler 2018), rectifiers (Cho and Saul 2009), attention
(Hron, Bahri, Sohl-Dickstein and Novak 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import sympy
from sympy import Eq, Rational

from theory.noisy_recall.bayes import Estimate
from theory.noisy_recall.sampling import Sequences, draw_sequences
from theory.problems import NoisyRecall, checks
from theory.symbols import symbol

FeedForward = Literal["none", "linear", "relu"]
"""Kinds of feed-forwards: none, one matrix, or two with a rectifier between."""
Embeddings = Literal["drawn", "orthogonal"]
"""Embeddings of tokens and positions: drawn at the width, or orthogonal, as at infinite width."""
Place = tuple[int, str]
"""Block (from 0) and role: key, value, attention_output, feed_forward_in, feed_forward_out (the one matrix of a linear one)."""
VARIANCE = 1 / 3
"""Of a matrix's entries, times its number of inputs: they are uniform on ±1/√inputs."""
JITTER = 1e-9
"""Added to the diagonal of a positive semidefinite matrix of order one, so that it has a Cholesky factor."""


def arc_cosine_kernel(order: int, cosine: float | np.ndarray) -> float | np.ndarray:
    """E[r(a) r(b)] of standard Gaussians a, b with this correlation; r is the step function (order 0) or the rectifier (order 1).

    Half of the kernel of Cho and Saul (2009): (π − θ)/2π, and (sin θ + (π − θ) cos θ)/2π. Raises ValueError for another order.
    """
    if order not in (0, 1):
        raise ValueError(f"order is {order!r}; it must be 0 or 1.")
    bounded = np.clip(cosine, -1.0, 1.0)
    angle = np.arccos(bounded)
    if order == 0:
        return (math.pi - angle) / (2 * math.pi)
    return (np.sin(angle) + (math.pi - angle) * bounded) / (2 * math.pi)


class _Layer(NamedTuple):
    """What a feed-forward does to kernels, all of them per d.

    `output` is of h + F(h), `backward` tr(J Jᵀ)/d of its Jacobians, `roles` the tangent kernels of its own matrices.
    """

    output: np.ndarray
    backward: np.ndarray
    roles: dict[str, np.ndarray]


def _feed_forward(kind: str, kernel: np.ndarray, norms: np.ndarray, multiplier: int) -> _Layer:
    """For inputs with inner products `kernel` and products of lengths `norms` (of the same shape, per d)."""
    if kind == "none":
        return _Layer(kernel, np.ones_like(kernel), {})
    if kind == "linear":
        return _Layer(
            kernel * (1 + VARIANCE), np.full_like(kernel, 1 + VARIANCE), {"feed_forward_out": kernel}
        )
    both = np.asarray(arc_cosine_kernel(0, kernel / norms))
    features = VARIANCE * norms * arc_cosine_kernel(1, kernel / norms)  # of one hidden unit
    return _Layer(
        kernel + VARIANCE * features,
        1 + VARIANCE**2 * both,
        {"feed_forward_in": VARIANCE * both * kernel, "feed_forward_out": multiplier * features},
    )


def _centred(first: np.ndarray, second: np.ndarray, kernel: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Σ_ss' A_is A'_js' n_ss' (x_s − v_i)·(x_s' − v_j), v the attention average, x_s·x_s' = `kernel` and n = `other`."""
    across = second.swapaxes(-1, -2)
    left, right = first @ kernel, kernel @ across
    return (
        first @ (other * kernel) @ across
        - first @ (right * (other @ across))
        - (left * (first @ other)) @ across
        + (left @ across) * (first @ other @ across)
    )


def _attention(scores: np.ndarray) -> np.ndarray:
    """Causal softmax of scores (…, T, T)."""
    later = np.triu(np.ones(scores.shape[-2:], bool), 1)
    weights = np.where(later, -np.inf, scores)
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _drawn_attention(kernel: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Of both sequences: scores x_tᵀ W_K x_s/√d are jointly Gaussian, with covariances VARIANCE · `kernel` ⊗ `kernel`."""
    factor = np.linalg.cholesky(kernel + JITTER * np.eye(kernel.shape[1]))
    draw = rng.normal(0, math.sqrt(VARIANCE), kernel.shape)
    first, second = np.split(factor, 2, axis=1)
    return _attention(first @ draw @ first.swapaxes(1, 2)), _attention(second @ draw @ second.swapaxes(1, 2))


def _rate_kernels(
    kernel: np.ndarray, feed_forward: Sequence[str], multiplier: int, rng: np.random.Generator
) -> dict[Place, np.ndarray]:
    """tr K_W(i, j)/d² of pairs of sequences, shape (pairs, T, T), for one draw of the attention scores each.

    K_W = J_i J_jᵀ, J the Jacobian of the last residual stream in W.
    - `kernel`: x_t·x_t'/d of both sequences, one after the other, shape (pairs, 2 T, 2 T).
    """
    length = kernel.shape[1] // 2
    own, other = slice(0, length), slice(length, None)
    first, second = _drawn_attention(kernel, rng)
    joint = np.zeros_like(kernel)
    joint[:, own, own], joint[:, other, other] = first, second
    mean = joint @ kernel @ joint.swapaxes(1, 2)
    hidden = kernel + VARIANCE**2 * mean
    length_of = np.sqrt(np.einsum("ptt->pt", hidden))
    block = _feed_forward(feed_forward[0], hidden, length_of[:, :, None] * length_of[:, None, :], multiplier)
    cross = kernel[:, own, other]
    backward = block.backward[:, own, other]
    before = {name: value[:, own, other] for name, value in block.roles.items()}
    before["value"] = before["attention_output"] = VARIANCE * backward * mean[:, own, other]
    before["key"] = VARIANCE**2 * backward * cross * _centred(first, second, cross, cross)

    kernel = block.output
    first, second = _drawn_attention(kernel, rng)
    cross, across = kernel[:, own, other], second.swapaxes(1, 2)
    mean = first @ cross @ across
    hidden = cross + VARIANCE**2 * mean
    squares = [
        np.einsum("ptt->pt", kernel[:, part, part])
        + VARIANCE**2 * np.einsum("pts,pts->pt", attended @ kernel[:, part, part], attended)
        for part, attended in ((own, first), (other, second))
    ]
    norms = np.sqrt(squares[0][:, :, None] * squares[1][:, None, :])
    block = _feed_forward(feed_forward[1], hidden, norms, multiplier)
    keys = _centred(first, second, cross, cross)
    found = {(1, name): value for name, value in block.roles.items()}
    found[1, "value"] = found[1, "attention_output"] = VARIANCE * block.backward * mean
    found[1, "key"] = VARIANCE**2 * block.backward * cross * keys
    for name, value in before.items():  # by the skip, as values, as the query, as keys
        paths = value + VARIANCE**2 * (first @ value @ across)
        paths += VARIANCE**3 * (keys * value + cross * _centred(first, second, cross, value))
        found[0, name] = block.backward * paths
    return found


@dataclass(frozen=True)
class InitialGrowth:
    """Rates of the noise margin: `rates` by (block, role), for the matrices that the model has, biggest first."""

    rates: Mapping[Place, Estimate]

    @property
    def total(self) -> float:
        """dM/ds; a margin of one would take 1/(learning rate × total) steps at this speed (times 1 − momentum)."""
        return sum(rate.value for rate in self.rates.values())

    def share(self, layer: int, role: str) -> float:
        """Part of the growth that is this matrix's. Raises ValueError for a matrix that the model does not have."""
        if (layer, role) not in self.rates:
            known = ", ".join(f"{name} {block}" for block, name in self.rates)
            raise ValueError(f"matrix is {role} {layer}; it must be one of {known}.")
        return self.rates[layer, role].value / self.total


def initial_growth(
    problem: NoisyRecall,
    width: int,
    n_pairs: int,
    rng: np.random.Generator,
    feed_forward: Sequence[str] = ("relu", "relu"),
    hidden_multiplier: int = 4,
    embeddings: Embeddings = "drawn",
) -> InitialGrowth:
    """Expected rates ⅓ E[c(y_j) tr K_W(i, j)]/d over fresh scored positions i and j (thm-initial-growth).

    c is 1 for the noise token and −1/(V−1) for others. Exact in the unembedding: its rows are exchangeable, so that the softmax
    drops out. K_W is taken to leading order in the width, with attention scores Gaussian given what they compare: attention is
    random, not uniform. For each of `n_pairs` pairs of sequences, contexts, scores and embeddings are drawn: hence the errors.

    - `embeddings`: "drawn" at this width, or "orthogonal", their limit, in which all rates are exactly ∝ d.

    Neglected: O(1/d) of the trained matrices' products (within 4 % of feed-forward rates, some 5 % of others and 15 % of keys' at
    d = 64 to 256), and pairs within one sequence, a part 1/batch of all. "orthogonal" also neglects O(1/d) of embeddings: with
    d = 64 and T = 64 that is 40 % of the keys' rates, a tenth of the values' and outputs', less than 3 % of feed-forwards'.
    Cost: about n_pairs · (130 T³ + 8 T² d). Raises ValueError for unknown kinds, bad sizes, or contexts without scored positions.
    """
    checks.integer("width", width, 1)
    checks.integer("n_pairs", n_pairs, 2)
    _check_model(feed_forward, hidden_multiplier)
    if embeddings not in get_args(Embeddings):
        raise ValueError(
            f"embeddings is {embeddings!r}; it must be one of {', '.join(get_args(Embeddings))}."
        )
    length, size = problem.context_length, problem.vocabulary_size
    drawn = _scored_sequences(problem, 2 * n_pairs, rng)
    slot = np.zeros(size, int)
    slot[list(problem.triggers)] = np.arange(len(problem.triggers))
    tokens = drawn.tokens[:, :-1]
    target = np.take_along_axis(drawn.targets, slot[tokens], 1)
    noise = problem.noise_level + (1 - problem.noise_level) * (target == problem.noise_token)
    surprise = drawn.scored * (noise - (1 - noise) / (size - 1))  # E c(label), given the target
    sums: dict[Place, list[np.ndarray]] = {}
    table_size = (size + length) * width if embeddings == "drawn" else 0
    per_chunk = max(1, 500_000 // (4 * length**2 + table_size))
    for start in range(0, n_pairs, per_chunk):
        pairs = slice(2 * start, 2 * min(start + per_chunk, n_pairs))
        here = tokens[pairs].reshape(-1, 2 * length)
        if embeddings == "drawn":
            table = rng.normal(0, 1 / math.sqrt(width), (len(here), size + length, width))
            stream = table[np.arange(len(here))[:, None], here] + np.tile(table[:, size:], (1, 2, 1))
            inputs = stream @ stream.swapaxes(1, 2)
        else:
            same_place = np.tile(np.eye(length), (2, 2))
            inputs = (here[:, :, None] == here[:, None, :]) + same_place
        left, right = drawn.scored[pairs].reshape(-1, 2, length).swapaxes(0, 1).astype(float)
        pull, push = surprise[pairs].reshape(-1, 2, length).swapaxes(0, 1)
        for place, kernel in _rate_kernels(inputs, feed_forward, hidden_multiplier, rng).items():
            one = np.einsum("pi,pij,pj->p", left, kernel, push) + np.einsum(
                "pi,pij,pj->p", pull, kernel, right
            )
            sums.setdefault(place, []).append(width * VARIANCE * one / 2)
    n_scored = drawn.scored.sum(1).reshape(-1, 2).prod(1)
    found = {place: _ratio(np.concatenate(parts), n_scored) for place, parts in sums.items()}
    return InitialGrowth(dict(sorted(found.items(), key=lambda item: -item[1].value)))


def _ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """E above / E below, with its standard error to first order."""
    value = above.sum() / below.sum()
    spread = np.std(above - value * below, ddof=1) * math.sqrt(len(below)) / below.sum()
    return Estimate(float(value), float(spread))


def _scored_sequences(problem: NoisyRecall, count: int, rng: np.random.Generator) -> Sequences:
    """Sequences with a scored position, the first `count` of those drawn."""
    kept: list[Sequences] = []
    for _ in range(1000):
        drawn = draw_sequences(problem, count, rng)
        useful = drawn.scored.any(1)
        kept.append(Sequences(*(part[useful] for part in drawn)))
        if sum(len(part.tokens) for part in kept) >= count:
            return Sequences(*(np.concatenate(parts)[:count] for parts in zip(*kept, strict=True)))
    raise ValueError(
        f"triggers is {problem.triggers}; less than one sequence in a thousand has a scored position."
    )


def _check_model(feed_forward: Sequence[str], hidden_multiplier: int) -> None:
    kinds = get_args(FeedForward)
    if len(feed_forward) != 2 or any(kind not in kinds for kind in feed_forward):
        raise ValueError(
            f"feed_forward is {feed_forward!r}; it must have two entries, each one of {', '.join(kinds)}."
        )
    checks.integer("hidden_multiplier", hidden_multiplier, 1)


def diffuse_growth(
    noise_level: float, width: int, feed_forward: Sequence[str] = ("relu", "relu"), hidden_multiplier: int = 4
) -> dict[Place, float]:
    """The limit of long contexts of many equally frequent tokens and large width: feed-forwards alone grow (prop-diffuse-growth).

    Attention then averages to nothing, and two scored positions share the trigger's embedding, of squared length d, half of
    x's. Neglects relative parts of order Σπ² and 1/T. Cost: none. Raises ValueError for unknown kinds or bad sizes.
    """
    level = checks.probability_below_one("noise_level", noise_level)
    checks.integer("width", width, 1)
    _check_model(feed_forward, hidden_multiplier)
    norm, overlap = np.array(2.0), np.array(1.0)
    forward: list[_Layer] = []
    for kind in feed_forward:
        forward.append(_feed_forward(kind, overlap, norm, hidden_multiplier))
        norm, overlap = _feed_forward(kind, norm, norm, hidden_multiplier).output, forward[-1].output
    scale = {0: float(forward[1].backward), 1: 1.0}
    return {
        (place, role): level * VARIANCE * width * scale[place] * float(value)
        for place, layer in enumerate(forward)
        for role, value in layer.roles.items()
    }


def attention_overlap(n_tokens: int, position: int) -> float:
    """v_i·v_j/d in block 0 on the uniform chain, i at `position` and j at an earlier one, both triggers, averages annealed.

    Numerator and denominator of the softmax are averaged apart: too large by O(1/N + 1/position), 3–8 % for 10 to 65 tokens.
    Cost: none. Raises ValueError for sizes below 1.
    """
    size, place = checks.integer("n_tokens", n_tokens, 1), checks.integer("position", position, 1)
    one, both = 1 / size + 1 / place - 2 / (size * place), 1 / (size * place)
    once, twice = one * math.exp(VARIANCE), both * math.exp(2 * VARIANCE)
    return (once + 2 * twice) / (1 - one - both + once + twice)


@cache
def derivation() -> Mapping[str, Eq]:
    """Closed forms, name → equation: rectifiers from their integral over angles, and the one-block limits, ("none", "relu")."""
    theta, phi, width, level = symbol(r"\theta"), symbol(r"\phi"), symbol("d"), symbol(r"\alpha")
    size, place, hidden, overlap = symbol("N"), symbol("s"), symbol("m_h"), symbol(r"\varpi")
    wedge = (
        phi,
        theta - sympy.pi / 2,
        sympy.pi / 2,
    )  # both Gaussians are positive; radii integrate to 1 and 2
    step = sympy.integrate(1, wedge) / (2 * sympy.pi)
    rectifier = 2 * sympy.integrate(sympy.cos(phi) * sympy.cos(phi - theta), wedge) / (2 * sympy.pi)
    third, right = Rational(1, 3), sympy.pi / 3  # cos(π/3) = ½: the trigger is half of x
    out = level * width * hidden * 2 * sympy.simplify(rectifier.subs(theta, right)) / 9
    into = level * width * step.subs(theta, right) / 9
    output = level * width * overlap * (1 + step.subs(theta, right) / 9) / 9
    one, both = 1 / size + 1 / place - 2 / (size * place), 1 / (size * place)
    once, twice = one * sympy.exp(third), both * sympy.exp(2 * third)
    return {
        "step_kernel": Eq(symbol(r"\kappa_0"), sympy.simplify(step), evaluate=False),
        "rectifier_kernel": Eq(symbol(r"\kappa_1"), sympy.simplify(rectifier), evaluate=False),
        "feed_forward_out": Eq(symbol("G_2"), out, evaluate=False),
        "feed_forward_in": Eq(symbol("G_1"), into, evaluate=False),
        "linear": Eq(symbol("G_L"), level * width / 3, evaluate=False),
        "attention_overlap": Eq(
            overlap, (once + 2 * twice) / (1 - one - both + once + twice), evaluate=False
        ),
        "attention_output": Eq(symbol("G_O"), output, evaluate=False),
        "attention_ratio": Eq(symbol("G_O") / symbol("G_2"), sympy.simplify(output / out), evaluate=False),
    }
