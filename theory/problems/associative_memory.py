"""The noisy linear associative memory: the task, and nothing about its solution."""

from __future__ import annotations

from dataclasses import dataclass

from theory.problems import checks


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
        object.__setattr__(self, "n_tokens", checks.integer("n_tokens", self.n_tokens, 1))
        object.__setattr__(self, "noise_level", checks.probability_below_one("noise_level", self.noise_level))

    @property
    def n_classes(self) -> int:
        """Number of labels, n_tokens + 1: every key and the noise token."""
        return self.n_tokens + 1
