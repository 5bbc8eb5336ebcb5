"""One gradient step from zero: what the feed-forward matrix and the value matrix learn first, exactly at every size.

The model (a simplified one-layer transformer after Chen, Bruna and Bietti, embeddings orthonormal) answers at the last
position T with logits W_F x_T + Σ_t a_t W_V x_t, where x_t = E(z_t) + Ẽ(z_{t−1}) and a = softmax_t(x_tᵀ W_KQ x_T). At zero
attention is uniform and every token has probability δ = 1/V. Matrices are given in coordinates of embeddings: row k is the
unembedding U(k), column v < V the current-token embedding E(v), column V + v the previous-token one Ẽ(v).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from theory.noisy_recall.counts import (
    label_probabilities,
    marginals,
    require_uniform,
    trigger_probability,
    uniform_counts,
)
from theory.problems import NoisyRecall

Features = Literal["current", "both"]
"""What a matrix reads: the current token's embedding alone, or the previous token's as well."""


def check_features(features: str) -> None:
    """ValueError unless `features` is "current" or "both"."""
    if features not in get_args(Features):
        raise ValueError(f"features is {features!r}; it must be one of {', '.join(get_args(Features))}.")


@dataclass(frozen=True)
class FirstStep:
    """Minus the population gradient at zero, per unit learning rate; shapes (V, 2 V), columns of features not read are 0.

    - `feed_forward`: −∂ℓ/∂W_F. `value`: −∂ℓ/∂W_V.
    """

    feed_forward: np.ndarray
    value: np.ndarray


def _target_share(problem: NoisyRecall) -> float:
    return 1 / len(problem.targets)


def first_step(problem: NoisyRecall, features: Features = "current") -> FirstStep:
    """Exact step for any chain (thm-first-step). Cost: (number of targets) · T V².

    Raises ValueError for unknown features, or a problem that does not score the last token.
    """
    check_features(features)
    if problem.scored != "last":
        raise ValueError(f"scored is {problem.scored!r}; the step is for problems that score the last token.")
    size, length, trigger = problem.vocabulary_size, problem.context_length, problem.trigger
    feed_forward, value = np.zeros((size, 2 * size)), np.zeros((size, 2 * size))
    for target in problem.targets:
        surprise = (label_probabilities(problem, target) - 1 / size) * _target_share(problem)
        where = marginals(problem, target)
        feed_forward[:, trigger] += surprise
        value[:, :size] += np.outer(surprise, where.sum(0) / length)
        if features == "both":
            feed_forward[:, size:] += np.outer(surprise, where[-2])
            value[:, size:] += np.outer(surprise, where[:-1].sum(0) / length)
    return FirstStep(feed_forward, value)


@dataclass(frozen=True)
class Margins:
    """Expected logits after the step over contexts of one target, per unit learning rate, one field for each matrix.

    A margin is the mean logit of the first token minus that of a generic token (ordinary, not the trigger, not the target).

    - `feed_forward_noise`, `value_noise`: the noise token. `feed_forward_recall`, `value_recall`: the target.
    """

    feed_forward_noise: float
    feed_forward_recall: float
    value_noise: float
    value_recall: float


def margins(problem: NoisyRecall, features: Features = "current") -> Margins:
    """Margins after the first step, averaged over targets, for any chain. Cost: as `first_step`.

    With more than one generic token they are averaged. Raises ValueError as `first_step`, or when there is no generic token.
    """
    step = first_step(problem, features)
    size, length = problem.vocabulary_size, problem.context_length
    found = np.zeros(4)
    for target in problem.targets:
        where = marginals(problem, target)
        last = np.zeros(2 * size)
        last[problem.trigger] = 1.0
        attended = np.zeros(2 * size)
        attended[:size] = where.sum(0) / length
        if features == "both":
            last[size:] = where[-2]
            attended[size:] = where[:-1].sum(0) / length
        generic = np.ones(size, bool)
        generic[[problem.trigger, problem.noise_token, target]] = False
        if not generic.any():
            raise ValueError(
                f"problem has {size} tokens; margins need one that is not trigger, noise token or target."
            )
        for place, logits in ((0, step.feed_forward @ last), (2, step.value @ attended)):
            other = logits[generic].mean()
            found[place : place + 2] += (logits[problem.noise_token] - other, logits[target] - other)
    return Margins(*(float(one) for one in found / len(problem.targets)))


def uniform_margins(problem: NoisyRecall, features: Features = "current") -> Margins:
    """`margins` on the uniform chain in closed form (thm-first-step).

    Raises ValueError for unknown features, or a problem that is not uniform.
    """
    require_uniform(problem)
    check_features(features)
    size, length, level = problem.vocabulary_size - 1, problem.context_length, problem.noise_level
    count = uniform_counts(problem)
    tokens = np.array([count.trigger, count.noise, count.target, count.generic]) / length
    noise, recall = _overlap(size, level, tokens)
    forward_noise, forward_recall = level - (1 - level) / (size - 1), 0.0
    if features == "both":
        before = float(trigger_probability(size, length - 2))
        last = float(trigger_probability(size, length - 1))
        place = np.array([last, level * before, last + (1 - level) * before, last])
        tokens[0] = count.trigger_previous / length
        more_noise, more_recall = _overlap(size, level, tokens)
        noise, recall = noise + more_noise, recall + more_recall
        more_noise, more_recall = _overlap(size, level, place)
        forward_noise, forward_recall = forward_noise + more_noise, forward_recall + more_recall
    return Margins(forward_noise, forward_recall, noise, recall)


def _overlap(size: int, level: float, share: np.ndarray) -> tuple[float, float]:
    """Noise and recall margin of a matrix that learnt from, and is shown, tokens with these probabilities given the target.

    `share`: of the trigger, the noise token, the target and every generic token; size = N.
    """
    trigger, noise, target, generic = (float(one) for one in share)
    ordinary = generic + (target - generic) / (size - 1)
    label = (1 - level) / (size - 1)
    margin = (
        (level - label) * (trigger**2 + noise**2)
        + (level * ordinary - label * generic) * (target + (size - 3) * generic)
        + (level * ordinary - label * target) * generic
    )
    return margin, label * (target - generic) ** 2


def leading_margins(problem: NoisyRecall, features: Features = "current") -> Margins:
    """Leading order for N, T → ∞ at fixed α: noise α and α/N (2α/N with both features), recall 0 and (1 − α)³/N³ (doubled).

    For a test context with a share of noise tokens q̂ it is (η/N)(α² q̂ + α(1 − q̂)); q̂ → 0 here.
    """
    require_uniform(problem)
    check_features(features)
    size, level = problem.vocabulary_size - 1, problem.noise_level
    times = 1 if features == "current" else 2
    return Margins(level, 0.0, times * level / size, times * (1 - level) ** 3 / size**3)


def copy_strength(problem: NoisyRecall) -> float:
    """β = (1 − α)² Q_{T−2}/((N − 1) T), the strength of copying in the value matrix's first step (thm-copy-map)."""
    count = uniform_counts(problem)
    size, level = problem.vocabulary_size - 1, problem.noise_level
    return (1 - level) * (count.target - count.generic) / ((size - 1) * problem.context_length)
