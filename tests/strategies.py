"""Hypothesis strategies: one for each problem, and for the times at which its solution is asked for.

Extremes are drawn on purpose and often: one token, a thousand million tokens, noise levels at 0, next to 0 and 1, and at the two
thresholds 1/(n+1) (the noise logit starts to rise) and 1/√(n+1) (the noise component starts on top). Problems of noisy recall are
small by default, so that all their sequences can be enumerated.
"""

import math

import numpy as np
from hypothesis import strategies as st

from theory.problems import AssociativeMemory, MarkovChain, NoisyRecall

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


@st.composite
def markov_chains(draw: st.DrawFn, min_tokens: int = 1, max_tokens: int = 4) -> MarkovChain:
    """A uniform chain, a Zipf-Dirichlet one, or one of small counts with zeros among them."""
    size = draw(st.integers(min_tokens, max_tokens))
    kind = draw(st.sampled_from(["uniform", "zipf_dirichlet", "counts"]))
    if kind == "uniform":
        return MarkovChain.uniform(size)
    if kind == "zipf_dirichlet":
        return MarkovChain.zipf_dirichlet(
            size,
            draw(st.sampled_from([0.0, 1.0, 1.5])),
            draw(st.sampled_from([0.1, 0.3, 3.0])),
            draw(st.integers(0, 99)),
        )
    row = st.lists(st.integers(0, 5), min_size=size, max_size=size).filter(any)
    rows = [draw(row) for _ in range(size + 1)]
    return MarkovChain.from_counts(np.array(rows[0]), np.array(rows[1:]))


@st.composite
def noisy_recalls(
    draw: st.DrawFn,
    max_vocabulary: int = 4,
    max_context_length: int = 5,
    versions: tuple[str, ...] = ("theory", "experiment"),
) -> NoisyRecall:
    """A noisy recall of one of `versions`, with a vocabulary ≤ `max_vocabulary` (at least 4) and T ≤ `max_context_length`."""
    length = draw(st.integers(3, max_context_length))
    level = draw(st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.999]), st.floats(0, 0.999)))
    if draw(st.sampled_from(versions)) == "theory":
        chain = draw(markov_chains(3, max_vocabulary - 1))
        size = chain.n_tokens
        return NoisyRecall.theory_version(size, length, level, chain, draw(st.integers(0, size - 1)))
    chain = draw(markov_chains(2, max_vocabulary))
    order = draw(st.permutations(range(chain.n_tokens)))
    count = draw(st.integers(1, chain.n_tokens - 1))
    return NoisyRecall.experiment_version(chain, length, level, order[0], order[1 : 1 + count])
