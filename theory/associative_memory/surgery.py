"""What the memory predicts before and after its spectrum is cut, at every time.

A cut is well defined when it does not fall inside the signal space, whose n − 1 singular values are equal: 0 and n components
always, 1 when the noise is on top, n − 1 when the signal is. Elsewhere the kept matrix depends on the basis that a routine
happens to return, so that no number is "the" prediction: the entry is NaN and `defined` is False (book label `prop-surgery`).
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from scipy import special

from theory.associative_memory.flow import GradientFlow
from theory.associative_memory.spectrum import component_order


@dataclass(frozen=True)
class Probabilities:
    """Predicted probabilities, each an array of the shape of the flow's times; they sum to one where `defined`.

    - `correct`: of the key's own token.
    - `noise`: of the noise token.
    - `other`: of the n − 1 wrong tokens together.
    - `defined`: False where the cut falls inside the degenerate signal space (there the three are NaN).
    """

    correct: np.ndarray
    noise: np.ndarray
    other: np.ndarray
    defined: np.ndarray


def softmax_probabilities(
    n_tokens: int, correct: np.ndarray, other: np.ndarray, noise: np.ndarray
) -> Probabilities:
    """Softmax over one correct logit, n_tokens − 1 equal wrong ones and the noise logit, arrays of one shape; stable."""
    crowd = other + np.log(n_tokens - 1) if n_tokens > 1 else np.full_like(other, -np.inf)
    stacked = np.stack([correct, crowd, noise])
    weights = np.exp(stacked - special.logsumexp(stacked, axis=0))
    return Probabilities(weights[0], weights[2], weights[1], np.all(np.isfinite(weights), axis=0))


def probabilities(flow: GradientFlow) -> Probabilities:
    """Probabilities of the full model along `flow`."""
    return softmax_probabilities(flow.problem.n_tokens, flow.diagonal, flow.off_diagonal, flow.noise)


def component_logits(
    flow: GradientFlow, *, signal: bool, noise: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct, wrong and noise logits of the sum of the chosen components: (a−b)(I − 11ᵀ/n), and the rank-one rest."""
    n = flow.problem.n_tokens
    margin = (flow.diagonal - flow.off_diagonal) * float(signal) if n > 1 else np.zeros_like(flow.noise)
    level = flow.noise * float(noise)
    return margin * (1 - 1 / n) - level / n, -margin / n - level / n, level


def probabilities_without_noise(flow: GradientFlow) -> Probabilities:
    """Probabilities once the noise component alone is removed, at every time and whatever its rank in the spectrum."""
    return softmax_probabilities(flow.problem.n_tokens, *component_logits(flow, signal=True, noise=False))


def truncated_probabilities(
    flow: GradientFlow, *, keep_top: int | None = None, drop_top: int | None = None
) -> Probabilities:
    """Probabilities after truncation to the largest `keep_top` components, or after removal of the largest `drop_top`.

    Exactly one of the two is given, an integer from 0 to n (ValueError otherwise). Entries at times where the cut falls inside
    the signal space are NaN with `defined` False; so are cuts between components that tie. Cost: that of the flow's arrays.
    """
    n = flow.problem.n_tokens
    if (keep_top is None) == (drop_top is None):
        raise ValueError(
            f"keep_top is {keep_top} and drop_top is {drop_top}; exactly one of them must be given."
        )
    name, count = ("keep_top", keep_top) if drop_top is None else ("drop_top", drop_top)
    if isinstance(count, bool) or not isinstance(count, Integral) or not 0 <= count <= n:
        raise ValueError(f"{name} is {count!r}; it must be an integer from 0 to n_tokens = {n}.")
    order = component_order(flow)
    first = int(count)
    noise_above = (order > 0) & (first >= 1) | (first == n)
    signal_above = (order < 0) & (first >= n - 1) | (first == n)
    silent = (flow.diagonal == 0) & (flow.noise == 0) & (flow.off_diagonal == 0)
    defined = silent | (first in (0, n)) | (order > 0) & (first == 1) | (order < 0) & (first == n - 1)
    kept = drop_top is None
    use_noise, use_signal = noise_above == kept, signal_above == kept
    signal_part = component_logits(flow, signal=True, noise=False)
    noise_part = component_logits(flow, signal=False, noise=True)
    logits = [
        np.where(defined, use_signal * s + use_noise * c, np.nan)
        for s, c in zip(signal_part, noise_part, strict=True)
    ]
    return softmax_probabilities(n, *logits)
