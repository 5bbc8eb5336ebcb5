"""How often each token occurs in a context, given the target: exact first and second moments by linear algebra.

Given its target a sequence is a Markov chain: `kernel` is the problem's chain with the trigger's row replaced. All functions
need a problem with one trigger. In the version whose last token is scored, position T holds the trigger whatever
came before, so that only positions 1 to T − 1 are random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from theory.problems import NoisyRecall


def kernel(problem: NoisyRecall, target: int) -> np.ndarray:
    """Transition probabilities given the target, shape (V, V), V the size of the vocabulary."""
    rows = problem.chain.transition.copy()
    rows[problem.trigger] = 0.0
    rows[problem.trigger, target] += 1 - problem.noise_level
    rows[problem.trigger, problem.noise_token] += problem.noise_level
    return rows


def marginals(problem: NoisyRecall, target: int) -> np.ndarray:
    """P(z_t = v | target), shape (T, V): positions 1 to T. Cost: T V²."""
    rows = kernel(problem, target)
    found = np.empty((problem.context_length, problem.vocabulary_size))
    found[0] = problem.chain.initial
    for position in range(1, len(found)):
        found[position] = found[position - 1] @ rows
    if problem.scored == "last":
        found[-1] = 0.0
        found[-1, problem.trigger] = 1.0
    return found


def label_probabilities(problem: NoisyRecall, target: int) -> np.ndarray:
    """Probability of each token after the trigger, given its target, shape (V,)."""
    return kernel(problem, target)[problem.trigger]


@dataclass(frozen=True)
class Counts:
    """Moments of the token counts of a context, given its target; V tokens, all expectations exact.

    With m_v the number of positions 1 to T − 1 that hold v (so also of positions 2 to T whose previous token is v) and
    n_v the number of positions 1 to T that hold v:

    - `previous`: E m_v, shape (V,). `previous_second`: E m_v m_w, shape (V, V).
    - `current`: E n_v, shape (V,). `current_second`: E n_v n_w. `cross`: E m_v n_w.
    - `pairs`: expected number of positions t = 2 … T with z_{t−1} = v (row) and z_t = w (column), shape (V, V).
    """

    previous: np.ndarray
    previous_second: np.ndarray
    current: np.ndarray
    current_second: np.ndarray
    cross: np.ndarray
    pairs: np.ndarray


def counts(problem: NoisyRecall, target: int) -> Counts:
    """The moments for one target, of a problem whose last token is scored. Cost: T V³.

    Raises ValueError for the version that scores repeated triggers.
    """
    if problem.scored != "last":
        raise ValueError(
            f"scored is {problem.scored!r}; these counts are for problems that score the last token."
        )
    rows = kernel(problem, target)
    trigger = problem.trigger
    state = problem.chain.initial
    first = state.copy()
    earlier = np.zeros_like(rows)  # E (number of earlier positions at v) 1{z_t = w}
    second = np.diag(state)
    pairs = np.zeros_like(rows)
    for _ in range(problem.context_length - 2):
        pairs += state[:, None] * rows
        earlier = (earlier + np.diag(state)) @ rows
        state = state @ rows
        first += state
        second = second + earlier + earlier.T + np.diag(state)
    pairs[:, trigger] += state
    one = np.zeros(len(rows))
    one[trigger] = 1.0
    return Counts(
        previous=first,
        previous_second=second,
        current=first + one,
        current_second=second + np.outer(first, one) + np.outer(one, first) + np.outer(one, one),
        cross=second + np.outer(first, one),
        pairs=pairs,
    )


def swap_target(problem: NoisyRecall, values: np.ndarray, old: int, new: int) -> np.ndarray:
    """Moments (V,) or (V, V) for another target of a uniform problem: the two tokens change places."""
    order = np.arange(problem.vocabulary_size)
    order[[old, new]] = order[[new, old]]
    return values[order] if values.ndim == 1 else values[np.ix_(order, order)]


def trigger_probability(n_tokens: int, position: np.ndarray | int) -> np.ndarray:
    """P(z_t = q) = (1 − (−1/N)^t)/(N + 1) on the uniform chain, for positions 1 to T − 1, whatever the noise level."""
    return (1 - (-1 / n_tokens) ** np.asarray(position)) / (n_tokens + 1)


def expected_triggers(n_tokens: int, positions: np.ndarray | int) -> np.ndarray:
    """Q_m, the expected number of triggers among the first m ≤ T − 1 positions of the uniform chain."""
    m = np.asarray(positions)
    return (m + (1 - (-1 / n_tokens) ** m) / (n_tokens + 1)) / (n_tokens + 1)


@dataclass(frozen=True)
class UniformCounts:
    """Expected counts of the uniform chain in closed form: E n_v (positions 1 to T) and E m_v (positions 1 to T − 1).

    - `trigger`, `trigger_previous`: n and m of the trigger; for all other tokens the two coincide.
    - `noise`, `target`, `generic`: the noise token, the target, and every other ordinary token.
    - `mean_ordinary`: average of target and generic tokens, the count of a token when the target is not known.
    """

    trigger: float
    trigger_previous: float
    noise: float
    target: float
    generic: float
    mean_ordinary: float


def uniform_counts(problem: NoisyRecall) -> UniformCounts:
    """Closed form of `counts` on the uniform chain (thm-first-step). Raises ValueError for any other problem."""
    require_uniform(problem)
    size, length, level = problem.vocabulary_size - 1, problem.context_length, problem.noise_level
    full, shorter = (float(expected_triggers(size, length - back)) for back in (1, 2))
    target = full + (1 - level) * shorter
    return UniformCounts(
        full + 1, full, level * shorter, target, full, full + (1 - level) * shorter / (size - 1)
    )


def require_uniform(problem: NoisyRecall) -> None:
    """ValueError unless the problem is the theory version on the uniform chain."""
    if not problem.is_uniform:
        raise ValueError(
            "problem is not the theory version on the uniform chain; this closed form holds for that one only."
        )
