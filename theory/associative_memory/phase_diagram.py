"""The phase diagram: which cut of the spectrum removes the noise, over tokens, noise level and time.

Removal is defined by probabilities. With a `threshold` ε (a quarter unless said otherwise) a cut *removes* the noise when the
noise token had more than ε α before, has at most ε α after, and the memory then answers: the correct token has at least one half.
(Without the last condition a fresh memory of many tokens would count as cured, since chance alone, 1/(n+1), is below ε α.)
Truncation (keep the top n − 1) removes the noise component when the signal is on top, component removal (drop the top one) when
the noise is. Where g < 0 removal of the component *raises* the noise (book label `def-phases`).
"""

from __future__ import annotations

from enum import IntEnum
from numbers import Real

import numpy as np

from theory.associative_memory.flow import GradientFlow
from theory.associative_memory.spectrum import component_order
from theory.associative_memory.surgery import probabilities, probabilities_without_noise

DEFAULT_THRESHOLD = 0.25
ANSWER = 0.5
"""Probability of the correct token from which a memory counts as answering."""


class Phase(IntEnum):
    """What a cut of the spectrum does to the noise token's probability at one time."""

    NEITHER = 0
    """No cut removes the noise: it is not learnt yet, the signal is not, or the components tie."""
    KEEP_TOP = 1
    """Truncation to the top n − 1 components removes it: the signal is on top."""
    DROP_TOP = 2
    """Removal of the top component removes it: the noise is on top."""
    RAISES = 3
    """Removal of the noise component raises its probability: the noise logit is below zero."""


def phases(flow: GradientFlow, threshold: float = DEFAULT_THRESHOLD) -> np.ndarray:
    """`Phase` of each time, an integer array of the shape of `flow.times`.

    - `threshold`: ε in (0, 1), as a fraction of the noise level (ValueError outside).

    For α = 0 there is nothing to remove: the noise logit is negative and every t > 0 is `RAISES`.
    """
    if not (isinstance(threshold, Real) and 0 < threshold < 1):
        raise ValueError(f"threshold is {threshold!r}; it must be a number between 0 and 1.")
    limit = threshold * flow.problem.noise_level
    before, after = probabilities(flow).noise, probabilities_without_noise(flow)
    order = component_order(flow)
    removed = (before > limit) & (after.noise <= limit) & (after.correct >= ANSWER)
    result = np.full(flow.noise.shape, Phase.NEITHER, dtype=int)
    result[removed & (order < 0)] = Phase.KEEP_TOP
    result[removed & (order > 0)] = Phase.DROP_TOP
    result[flow.noise < 0] = Phase.RAISES
    return result
