"""Contexts for Monte Carlo averages: the one place of `theory` where data are drawn, independent of the sampler of `sims`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from theory.problems import NoisyRecall


class Sequences(NamedTuple):
    """Drawn sequences.

    - `tokens`: int, shape (n_sequences, T + 1), a context and the token after it.
    - `targets`: int, shape (n_sequences, n_triggers).
    - `scored`: bool, shape (n_sequences, T): positions whose next token is to be predicted.
    """

    tokens: np.ndarray
    targets: np.ndarray
    scored: np.ndarray


def draw_sequences(problem: NoisyRecall, n_sequences: int, rng: np.random.Generator) -> Sequences:
    """Draw sequences by inverting cumulative probabilities. Cost: n_sequences · T · log2(vocabulary)."""
    chain, length = problem.chain, problem.context_length
    rows = chain.transition.cumsum(1)
    rows /= rows[:, -1:]
    levels = (rows + np.arange(len(rows))[:, None]).ravel()
    targets = rng.choice(np.asarray(problem.targets), (n_sequences, len(problem.triggers)))
    slot = np.full(problem.vocabulary_size, -1)
    slot[list(problem.triggers)] = np.arange(len(problem.triggers))
    tokens = np.empty((n_sequences, length + 1), int)
    tokens[:, 0] = rng.choice(problem.vocabulary_size, n_sequences, p=chain.initial)
    for position in range(length):
        if problem.scored == "last" and position == length - 1:
            tokens[:, position] = problem.trigger
        now = tokens[:, position]
        place = np.searchsorted(levels, now + rng.random(n_sequences), side="right")
        following = np.minimum(place - now * len(rows), len(rows) - 1)
        noisy = rng.random(n_sequences) < problem.noise_level
        answer = np.where(noisy, problem.noise_token, targets[np.arange(n_sequences), slot[now]])
        tokens[:, position + 1] = np.where(slot[now] >= 0, answer, following)
    return Sequences(tokens, targets, scored_positions(problem, tokens[:, :-1]))


def scored_positions(problem: NoisyRecall, contexts: np.ndarray) -> np.ndarray:
    """Which positions of contexts (n, T) are scored, bool of the same shape."""
    if problem.scored == "last":
        scored = np.zeros(contexts.shape, bool)
        scored[:, -1] = True
        return scored
    scored = np.zeros(contexts.shape, bool)
    for trigger in problem.triggers:
        here = contexts == trigger
        scored |= here & (here.cumsum(1) >= 2)
    return scored
