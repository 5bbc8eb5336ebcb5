"""Every sequence of a tiny noisy recall with its probability, and the one-layer model on explicit vectors.

Nothing here uses what `theory` derives: sequences are grown token by token from the definition, the model is written with one-hot
features, and derivatives are taken entry by entry.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from theory.problems import NoisyRecall


def sequences(problem: NoisyRecall) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], float]]:
    """All (targets, sequence of T + 1 tokens, probability), token by token from the definition."""
    size, length = problem.vocabulary_size, problem.context_length
    chain, level = problem.chain, problem.noise_level
    for targets in itertools.product(problem.targets, repeat=len(problem.triggers)):
        answer = dict(zip(problem.triggers, targets, strict=True))

        def following(before: int, token: int, answer: dict[int, int] = answer) -> float:
            if before not in answer:
                return float(chain.transition[before, token])
            return (1 - level) * (token == answer[before]) + level * (token == problem.noise_token)

        grown: list[tuple[tuple[int, ...], float]] = [
            ((token,), float(chain.initial[token])) for token in range(size)
        ]
        for position in range(2, length + 2):
            if problem.scored == "last" and position == length:
                grown = [((*start, problem.triggers[0]), p) for start, p in grown]
                continue
            grown = [
                ((*start, token), p * following(start[-1], token))
                for start, p in grown
                for token in range(size)
                if p and following(start[-1], token)
            ]
        for sequence, p in grown:
            yield targets, sequence, p / len(problem.targets) ** len(problem.triggers)


class Enumeration(NamedTuple):
    """All sequences of a problem: `targets` (M, triggers), `tokens` (M, T + 1), `probability` (M,)."""

    targets: np.ndarray
    tokens: np.ndarray
    probability: np.ndarray


@cache
def enumeration(problem: NoisyRecall) -> Enumeration:
    """`sequences` as arrays, impossible ones left out; each sequence of a target stands there once."""
    found = [one for one in sequences(problem) if one[2] > 0]
    targets, tokens, probability = zip(*found, strict=True)
    return Enumeration(np.array(targets), np.array(tokens), np.array(probability))


def given_target(problem: NoisyRecall, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (M, T + 1) of one target, and their probabilities given it; for problems with one trigger."""
    every = enumeration(problem)
    here = every.targets[:, 0] == target
    return every.tokens[here], every.probability[here] * len(problem.targets)


def inputs(contexts: np.ndarray, size: int) -> np.ndarray:
    """x_t of contexts (M, T), shape (M, T, 2 V): one-hot of the current token, then of the previous one (if any)."""
    found = np.zeros((*contexts.shape, 2 * size))
    found[..., :size] = np.eye(size)[contexts]
    found[:, 1:, size:] = np.eye(size)[contexts[:, :-1]]
    return found


def model_logits(
    vectors: np.ndarray, feed_forward: np.ndarray, value: np.ndarray, key_query: np.ndarray
) -> np.ndarray:
    """W_F x_T + Σ_t a_t W_V x_t with a = softmax_t(x_tᵀ W_KQ x_T), for x (M, T, 2 V); real or complex matrices."""
    last = vectors[:, -1]
    scores = np.einsum("mtf,fg,mg->mt", vectors, key_query, last, optimize=True)
    weights = np.exp(scores - scores.real.max(1, keepdims=True))
    attention = weights / weights.sum(1, keepdims=True)
    return last @ feed_forward.T + np.einsum("mt,mtf->mf", attention, vectors) @ value.T


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, real or complex."""
    shifted = logits - logits.real.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def derivative(function: Callable[[np.ndarray], complex], place: np.ndarray) -> np.ndarray:
    """Derivative of an analytic function by every entry of a real array: steps of 10⁻³⁰ i, hence no cancellation."""
    found = np.empty(place.shape)
    for index in np.ndindex(place.shape):
        moved = place.astype(complex)
        moved[index] += 1e-30j
        found[index] = np.imag(function(moved)) / 1e-30
    return found
