"""After the feed-forward matrix has learnt the noise: the value matrix copies, then attention finds what is to be copied.

Here the feed-forward matrix reads the trigger's embedding alone and stands at its optimum p(noise) = α, p(k) = (1 − α)/(N − 1)
for every target k, p(trigger) = 0. All statements are for the uniform chain and exact at every size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from theory.noisy_recall.counts import Counts, counts, require_uniform
from theory.noisy_recall.first_step import Features, check_features, copy_strength
from theory.problems import NoisyRecall


def optimal_feed_forward(problem: NoisyRecall) -> np.ndarray:
    """Logits of the best answer without context, shape (V,): ln of its probabilities, −inf for the trigger."""
    require_uniform(problem)
    size = problem.vocabulary_size - 1
    answer = np.full(size + 1, (1 - problem.noise_level) / (size - 1))
    answer[problem.noise_token] = problem.noise_level
    answer[problem.trigger] = 0.0
    with np.errstate(divide="ignore"):
        return np.log(answer)


def copy_map(problem: NoisyRecall, features: Features = "current") -> np.ndarray:
    """Minus the value matrix's population gradient at that point, shape (V, 2 V): β (I − 11ᵀ/(N − 1)) on the targets, else 0.

    With `features` "both" the previous-token block is the same (thm-copy-map).
    """
    check_features(features)
    strength, size = copy_strength(problem), problem.vocabulary_size
    targets = np.asarray(problem.targets)
    block = np.zeros((size, size))
    block[np.ix_(targets, targets)] = strength * (np.eye(size - 2) - 1 / (size - 2))
    other = block if features == "both" else np.zeros_like(block)
    return np.concatenate([block, other], axis=1)


@dataclass(frozen=True)
class KeyQueryStep:
    """Minus the population gradient of the key-query matrix on (key feature) × E(trigger), one number a class of features.

    In units of the value matrix's copying strength: multiply by η_V β/T to get the gradient after a value step of rate η_V.
    Positive: positions with this feature gain attention. Fields: the token at the position (`current_…`), or the one before it
    (`previous_…`), is the trigger, the noise token, or a given ordinary token (`generic`, the mean over them).
    """

    current_trigger: float
    current_noise: float
    current_generic: float
    previous_trigger: float
    previous_noise: float
    previous_generic: float

    def as_dict(self) -> dict[str, float]:
        """Field → value."""
        return dict(vars(self))


def key_query_step(problem: NoisyRecall, features: Features = "current") -> KeyQueryStep:
    """Exact step of the key-query matrix (thm-key-query); `features`: what the value matrix reads. Cost: T V³.

    With w the copy weights (1 on the target, −1/(N − 1) on all targets) position t has value w(z_t), plus w(z_{t−1}) with
    both features, and a feature gains E Σ_t 1{feature at t}(value_t − mean value), times the probability 1 − α that the label
    is the target; labels that are noise pull nowhere.
    """
    require_uniform(problem)
    check_features(features)
    target = problem.targets[0]
    moments = counts(problem, target)
    weights = np.zeros(problem.vocabulary_size)
    weights[list(problem.targets)] = -1 / len(problem.targets)
    weights[target] += 1
    length = problem.context_length
    current = moments.current * weights
    previous = moments.pairs @ weights
    mean_current, mean_previous = _weighted(moments, weights, current_value=True)
    if features == "both":
        current = current + moments.pairs.T @ weights
        previous = previous + moments.previous * weights
        more = _weighted(moments, weights, current_value=False)
        mean_current, mean_previous = mean_current + more[0], mean_previous + more[1]
    current = (1 - problem.noise_level) * (current - mean_current / length)
    previous = (1 - problem.noise_level) * (previous - mean_previous / length)
    trigger, noise, generic = problem.trigger, problem.noise_token, list(problem.targets)
    return KeyQueryStep(
        *(float(current[place].mean()) for place in (trigger, noise, generic)),
        *(float(previous[place].mean()) for place in (trigger, noise, generic)),
    )


def _weighted(moments: Counts, weights: np.ndarray, *, current_value: bool) -> tuple[np.ndarray, np.ndarray]:
    """E n_v Σ_s w(value at s) and E m_v Σ_s w(value at s), the value being the current or the previous token."""
    if current_value:
        return moments.current_second @ weights, moments.cross @ weights
    return moments.cross.T @ weights, moments.previous_second @ weights


def leading_key_query_step(problem: NoisyRecall, features: Features = "current") -> KeyQueryStep:
    """Leading order for large N and T of `key_query_step`, at fixed α and N/T.

    The current ordinary token's terms cancel at this order (0 here). With both features the two noise entries double.
    """
    require_uniform(problem)
    check_features(features)
    size, length, level = problem.vocabulary_size - 1, problem.context_length, problem.noise_level
    unit = (1 - level) ** 2 * length / size
    noise = -level * unit / size * (2 if features == "both" else 1)
    return KeyQueryStep(
        current_trigger=-unit / size * (1 + (3 if features == "both" else 2) * size / length),
        current_noise=noise,
        current_generic=0.0,
        previous_trigger=unit,
        previous_noise=noise,
        previous_generic=-unit / size,
    )


def attention_time(problem: NoisyRecall, features: Features = "current") -> float:
    """Learning rate × steps after which the score of positions behind a trigger reaches one (cor-attention-time).

    For equal learning rates and a feed-forward matrix at its optimum: √(2 T/(β κ)), κ the pull of `key_query_step` on the
    previous trigger; about √2 N^(3/2)/(1 − α)² with the current token alone. Cost: T V³.
    """
    pull = key_query_step(problem, features).previous_trigger
    return math.sqrt(2 * problem.context_length / (copy_strength(problem) * pull))
