"""Hypothesis strategies: one for each problem, and for the times at which its solution is asked for.

Extremes are drawn on purpose and often: one token, a thousand million tokens, noise levels at 0, next to 0 and 1, and at the two
thresholds 1/(n+1) (the noise logit starts to rise) and 1/√(n+1) (the noise component starts on top).
"""

import math

import numpy as np
from hypothesis import strategies as st

from theory.problems import AssociativeMemory

LARGEST_N_TOKENS = 10**9
LARGEST_TIME = 1e12


@st.composite
def associative_memories(
    draw: st.DrawFn,
    min_tokens: int = 1,
    max_tokens: int = LARGEST_N_TOKENS,
    min_noise: float = 0.0,
    max_noise: float = 1 - 1e-9,
) -> AssociativeMemory:
    """A noisy memory with n_tokens, about uniform in its logarithm, and noise_level between the bounds."""
    powers = st.floats(math.log(min_tokens), math.log(max_tokens)).map(lambda x: round(math.exp(x)))
    small = st.integers(min_tokens, min(max_tokens, min_tokens + 8))
    n = draw(st.one_of(small, powers, st.just(max_tokens)))
    n = min(max(n, min_tokens), max_tokens)
    special = [0.0, 1e-9, 1e-3, 1 / (n + 1), 1 / math.sqrt(n + 1), 0.5, 1 - 1e-3, 1 - 1e-9]
    allowed = [level for level in special if min_noise <= level <= max_noise]
    anything = st.floats(min_noise, max_noise)
    tiny = st.floats(-9, -1).map(lambda x: 10**x).filter(lambda level: min_noise <= level <= max_noise)
    return AssociativeMemory(n, draw(st.one_of(anything, st.sampled_from(allowed or [min_noise]), tiny)))


@st.composite
def flow_times(
    draw: st.DrawFn,
    min_size: int = 1,
    max_size: int = 12,
    min_time: float = 0.0,
    max_time: float = LARGEST_TIME,
) -> np.ndarray:
    """Sorted flow times, about uniform in their logarithm from 1e-6 on, with 0 and the largest among them at times."""
    start = max(min_time, 1e-6)
    spread = st.floats(math.log(start), math.log(max_time)).map(
        lambda x: min(max(math.exp(x), start), max_time)
    )
    ends = st.sampled_from([min_time, max_time])
    drawn = draw(st.lists(st.one_of(spread, ends), min_size=min_size, max_size=max_size))
    return np.array(sorted(drawn))
