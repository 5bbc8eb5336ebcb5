"""The noisy linear associative memory: the task, and nothing about its solution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real


@dataclass(frozen=True)
class AssociativeMemory:
    """A key x, uniform on `n_tokens` tokens, is labelled x, or the common noise token.

    With probability 1 − `noise_level` the label is the key itself; with probability `noise_level` it is
    the noise token, which has index `n_tokens` among the `n_tokens` + 1 classes and is never a key.
    The loss is the softmax cross-entropy, averaged over keys and labels.

    Parameters
    - `n_tokens`: number of keys n, an integer ≥ 1.
    - `noise_level`: probability α of the noise label, in [0, 1).

    Raises ValueError when either is outside its range or not a number of the right kind.
    Source: the toy memory of Chen, Bruna and Bietti (arXiv 2406.03068).
    """

    n_tokens: int
    noise_level: float

    def __post_init__(self) -> None:
        if isinstance(self.n_tokens, bool) or not isinstance(self.n_tokens, Integral):
            raise ValueError(f"n_tokens is {self.n_tokens!r}; it must be an integer, at least 1.")
        if self.n_tokens < 1:
            raise ValueError(f"n_tokens is {self.n_tokens}; it must be at least 1.")
        if isinstance(self.noise_level, bool) or not isinstance(self.noise_level, Real):
            raise ValueError(f"noise_level is {self.noise_level!r}; it must be a number in [0, 1).")
        if not (math.isfinite(self.noise_level) and self.noise_level >= 0 and float(self.noise_level) < 1):
            raise ValueError(f"noise_level is {self.noise_level}; it must be in [0, 1).")
        object.__setattr__(self, "n_tokens", int(self.n_tokens))
        object.__setattr__(self, "noise_level", float(self.noise_level))

    @property
    def n_classes(self) -> int:
        """Number of labels, n_tokens + 1: every key and the noise token."""
        return self.n_tokens + 1
