"""Weights with which the one-layer model answers as well as can be, in the limit of large scales (thm-construction).

They need all features: the query must know whether the token before the last one was a trigger too, or else the last position
would pass for an answer. Three groups of positions compete for attention: the ones after a trigger (score λ), the
triggers (λ/2, where attention rests when the target was never shown) and all others (0); noise tokens are pushed
below everything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from theory.noisy_recall.bayes import bayes_risk, unrevealed_probability
from theory.noisy_recall.counts import require_uniform
from theory.problems import NoisyRecall


@dataclass(frozen=True)
class Weights:
    """Matrices of the one-layer model: `feed_forward` and `value` (V, 2 V), `key_query` (2 V, 2 V; rows are key features)."""

    feed_forward: np.ndarray
    value: np.ndarray
    key_query: np.ndarray


def construction(problem: NoisyRecall, value_scale: float, attention_scale: float) -> Weights:
    """The weights for ω = `value_scale` and λ = `attention_scale`, both > 0; 0 < noise_level < 1.

    Raises ValueError for other scales or noise levels, or a problem that is not uniform.
    """
    require_uniform(problem)
    for name, scale in (("value_scale", value_scale), ("attention_scale", attention_scale)):
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"{name} is {scale}; it must be finite and above 0.")
    if problem.noise_level == 0:
        raise ValueError("noise_level is 0.0; the construction needs noise, as its logits hold ln α.")
    size, level = problem.vocabulary_size, problem.noise_level
    trigger, noise = problem.trigger, problem.noise_token
    feed_forward, value = np.zeros((size, 2 * size)), np.zeros((size, 2 * size))
    key_query = np.zeros((2 * size, 2 * size))
    odds = math.log(level / (1 - level))
    feed_forward[noise, trigger] = value_scale + odds
    feed_forward[trigger, trigger] = -value_scale
    for target in problem.targets:
        value[target, target] = value_scale
    value[noise, trigger] = math.log(len(problem.targets)) - value_scale
    key_query[size + trigger, trigger] = attention_scale
    key_query[noise, trigger] = -2 * attention_scale
    key_query[trigger, trigger] = attention_scale / 2
    key_query[trigger, size + trigger] = -attention_scale
    return Weights(feed_forward, value, key_query)


def construction_risk(problem: NoisyRecall, value_scale: float) -> float:
    """Cross-entropy of the construction for λ → ∞ (thm-construction), in nats.

    For large ω it is the Bayes risk and about (1 − P₀)(N − 2)(1 − α)e^−ω.
    """
    require_uniform(problem)
    size, level = problem.vocabulary_size - 1, problem.noise_level
    unrevealed, few = unrevealed_probability(problem), math.exp(-value_scale)
    return bayes_risk(problem).risk + (
        (1 - unrevealed) * math.log1p((1 - level) * few * (size - 2 + few))
        + unrevealed * math.log1p((1 - level) * few / (size - 1))
    )
