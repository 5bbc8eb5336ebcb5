"""The Bayes-optimal answer to a noisy context, and its risk.

What a context says of the target is in the tokens after the trigger: one that is not the noise token is the target; only noise
tokens so far leave all targets possible (and, where the noise token may itself be the target, make that one likelier).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

from theory.noisy_recall import counts, sampling
from theory.problems import NoisyRecall


def entropy(noise_level: float) -> float:
    """h(α) = −α ln α − (1 − α) ln(1 − α) in nats: what is left to pay when the target is known."""
    return float(-xlogy(noise_level, noise_level) - xlogy(1 - noise_level, 1 - noise_level))


def unrevealed_answer(problem: NoisyRecall, n_noise: int) -> np.ndarray:
    """P(next token | the trigger was followed by `n_noise` noise tokens and by nothing else), shape (V,).

    Only the noise token itself can have been the target without ever being hidden, so its weight is 1 and that of
    any other target α^n_noise.
    """
    weights = np.zeros(problem.vocabulary_size)
    weights[list(problem.targets)] = problem.noise_level**n_noise
    if problem.noise_token in problem.targets:
        weights[problem.noise_token] = 1.0
    if not weights.sum():  # α = 0 and a noise token was seen: impossible
        weights[list(problem.targets)] = 1.0
    weights /= weights.sum()
    answer = (1 - problem.noise_level) * weights
    answer[problem.noise_token] += problem.noise_level
    return answer


def bayes_answers(problem: NoisyRecall, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bayes-optimal probabilities at every scored position of contexts (n, T), for any number of triggers.

    Returns the positions, int of shape (scored, 2) (row, column from 0), and the probabilities, shape (scored, V).
    The targets of several triggers are independent given the context, so that each has its own count.
    """
    contexts = np.asarray(contexts)
    places, answers = [], []
    scored = sampling.scored_positions(problem, contexts)
    free = contexts.shape[1] - (1 if problem.scored == "last" else 0)
    for trigger in problem.triggers:
        follows = np.zeros(contexts.shape, bool)
        follows[:, 1:free] = contexts[:, : free - 1] == trigger
        is_noise = follows & (contexts == problem.noise_token)
        reveals = follows & (contexts != problem.noise_token)
        n_noise = is_noise.cumsum(1)
        first = np.where(reveals.any(1), reveals.argmax(1), contexts.shape[1])
        rows, columns = np.nonzero(scored & (contexts == trigger))
        table = np.stack(
            [unrevealed_answer(problem, count) for count in range(int(n_noise.max(initial=0)) + 1)]
        )
        found = table[n_noise[rows, columns]]
        known = columns >= first[rows]
        revealed = contexts[rows[known], first[rows[known]]]
        found[known] = 0.0
        place = np.nonzero(known)[0]
        found[place, revealed] = 1 - problem.noise_level
        found[place, problem.noise_token] += problem.noise_level
        places.append(np.column_stack([rows, columns]))
        answers.append(found)
    order = np.lexsort(np.concatenate(places).T[::-1])
    return np.concatenate(places)[order], np.concatenate(answers)[order]


def unrevealed_probability(problem: NoisyRecall) -> float:
    """P₀: the probability that a context of the theory version holds no (trigger, target) pair (prop-bayes-risk).

    For any chain, by the chain that dies when a target is shown. Cost: T V². On the uniform chain it is
    [1/N, 1 − 1/N] A^(T−2) 1 with A = [[0, α], [1/N, 1 − 1/N]].
    """
    if problem.scored != "last":
        raise ValueError(
            f"scored is {problem.scored!r}; this probability is for problems that score the last token."
        )
    if problem.noise_token in problem.targets:
        raise ValueError(f"noise_token is {problem.noise_token}, which is among the targets; it must not be.")
    if problem.is_uniform:
        size = problem.vocabulary_size - 1
        step = np.array([[0, problem.noise_level], [1 / size, 1 - 1 / size]])
        alive = np.array([1 / size, 1 - 1 / size]) @ np.linalg.matrix_power(step, problem.context_length - 2)
        return float(alive.sum())
    rows = _noise_only_kernel(problem)
    state = problem.chain.initial
    for _ in range(problem.context_length - 2):
        state = state @ rows
    return float(state.sum())


def _noise_only_kernel(problem: NoisyRecall) -> np.ndarray:
    """The chain of sequences whose triggers have been followed by label noise only; its rows sum to at most one."""
    rows = problem.chain.transition.copy()
    rows[problem.trigger] = 0.0
    rows[problem.trigger, problem.noise_token] = problem.noise_level
    return rows


class Risk(NamedTuple):
    """Cross-entropy of the Bayes-optimal answer, in nats, per scored position.

    - `risk`: Σ expected losses over Σ expected scored positions, the large-batch limit of a mean over positions.
    - `scored`: expected scored positions a sequence. `unrevealed`: share of them at which the target is not known.
    """

    risk: float
    scored: float
    unrevealed: float


def bayes_risk(problem: NoisyRecall) -> Risk:
    """Exact Bayes risk of a problem with one trigger, for any chain (prop-bayes-risk).

    Cost: T V² when the last token is scored, T² V² when repeated triggers are. Raises ValueError for several triggers
    (see `monte_carlo_risk`).
    """
    level, hidden = problem.noise_level, set(problem.targets) - {problem.noise_token}
    if problem.scored == "last" and problem.noise_token not in problem.targets:
        unrevealed = unrevealed_probability(problem)
        ignorance = (1 - level) * math.log(len(problem.targets))
        return Risk(entropy(level) + unrevealed * ignorance, 1.0, unrevealed)
    share = 1 / len(problem.targets)
    hidden_count, noise_is_target = len(hidden), problem.noise_token in problem.targets
    known_loss = entropy(level)
    total = scored = open_positions = 0.0
    unknown = _open_visits(problem, level)
    answers = [unrevealed_answer(problem, count) for count in range(len(unknown))]
    some = next(iter(hidden), problem.noise_token)
    for visits, answer in zip(unknown, answers, strict=True):
        if visits:
            loss = -xlogy(1 - level, answer[some]) - xlogy(level, answer[problem.noise_token])
            total += share * hidden_count * visits * (loss - known_loss)
            open_positions += share * hidden_count * visits
    for target in sorted(hidden):
        visits = _scored_visits(problem, target)
        total += share * visits * known_loss
        scored += share * visits
    if noise_is_target:
        certain = _open_visits(problem, 1.0)
        for count, visits in enumerate(certain):
            answer = unrevealed_answer(problem, count)
            total -= share * visits * math.log(answer[problem.noise_token])
            scored += share * visits
            open_positions += share * visits
    if scored == 0:
        return Risk(math.nan, 0.0, math.nan)
    return Risk(float(total / scored), float(scored), float(open_positions / scored))


def _scored_visits(problem: NoisyRecall, target: int) -> float:
    """Expected scored positions of a sequence with this target."""
    if problem.scored == "last":
        return 1.0
    visits = counts.marginals(problem, target)[:, problem.trigger].sum()
    without = problem.chain.transition.copy()
    without[problem.trigger] = 0.0
    state, never = problem.chain.initial.copy(), 1.0
    for _ in range(problem.context_length):
        never -= state[problem.trigger]
        state[problem.trigger] = 0.0
        state = state @ without
    return float(visits - (1 - never))


def _open_visits(problem: NoisyRecall, noise_probability: float) -> np.ndarray:
    """Expected scored positions at which the trigger has been followed by c noise tokens and nothing else, c = 0, 1, ….

    `noise_probability`: of the noise token after a trigger: α for a hidden target, 1 when the noise token is the target.
    """
    trigger, length = problem.trigger, problem.context_length
    rows = problem.chain.transition
    state = np.zeros((length + 1, problem.vocabulary_size))
    state[0] = problem.chain.initial
    visits = np.zeros(length + 1)
    for position in range(1, length + 1):
        if problem.scored == "last" and position == length:
            visits[:] = state.sum(1)
        elif problem.scored == "repeated":
            visits[1:] += state[1:, trigger]
        if problem.scored == "last" and position >= length - 1:
            continue  # position T is the trigger whatever came before, and tells nothing
        at_trigger = state[:, trigger].copy()
        state[:, trigger] = 0.0
        state = state @ rows
        state[1:, problem.noise_token] += noise_probability * at_trigger[:-1]
    return visits


class Estimate(NamedTuple):
    """A Monte Carlo mean and its standard error."""

    value: float
    standard_error: float


def monte_carlo_risk(problem: NoisyRecall, n_sequences: int, rng: np.random.Generator) -> Estimate:
    """Bayes risk per scored position from drawn sequences, for any number of triggers; standard error of the ratio."""
    drawn = sampling.draw_sequences(problem, n_sequences, rng)
    places, answers = bayes_answers(problem, drawn.tokens[:, :-1])
    labels = drawn.tokens[places[:, 0], places[:, 1] + 1]
    losses = -np.log(answers[np.arange(len(labels)), labels])
    total = np.bincount(places[:, 0], losses, n_sequences)
    count = np.bincount(places[:, 0], minlength=n_sequences)
    if not count.sum():
        return Estimate(math.nan, math.nan)
    risk = total.sum() / count.sum()
    spread = np.std(total - risk * count, ddof=1) * math.sqrt(n_sequences) / count.sum()
    return Estimate(float(risk), float(spread))
