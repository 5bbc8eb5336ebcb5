"""Contexts of distinct keys, and a query that asks for one of them: the task of a matching layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from theory.problems.checks import integer


@dataclass(frozen=True)
class MatchingContexts:
    """Which contexts are drawn.

    - `n_tokens`: n, at least 2. `n_slots`: m, distinct keys in a context, 2 to n.
    - `frequency_exponent`: the token of rank r is asked for with probability ∝ r^−exponent; 0 for equal frequencies. The other
      keys are uniform without replacement, whatever the exponent.

    Raises ValueError for values outside these ranges.
    """

    n_tokens: int
    n_slots: int
    frequency_exponent: float = 0.0

    def __post_init__(self) -> None:
        integer("n_tokens", self.n_tokens, 2)
        if integer("n_slots", self.n_slots, 2) > self.n_tokens:
            raise ValueError(
                f"n_slots is {self.n_slots}; it must be at most n_tokens = {self.n_tokens}, as keys are distinct."
            )
        if not 0 <= self.frequency_exponent < np.inf:
            raise ValueError(
                f"frequency_exponent is {self.frequency_exponent}; it must be finite and at least 0."
            )

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Probability that each token is asked for, most frequent first."""
        weights = np.arange(1, self.n_tokens + 1, dtype=float) ** -self.frequency_exponent
        return weights / weights.sum()


class Contexts(NamedTuple):
    """A batch. `keys`: int64, (batch, m); `queries`: int64, (batch,); the first slot is the right one.

    The layer has no positions, so that the order of slots is nothing it could learn.
    """

    keys: torch.Tensor
    queries: torch.Tensor


def draw(task: MatchingContexts, batch_size: int, generator: torch.Generator) -> Contexts:
    """Draw contexts, on the generator's device."""
    device, size = generator.device, task.n_tokens
    if task.frequency_exponent:
        edges = torch.as_tensor(task.frequencies.cumsum()[:-1], dtype=torch.float32, device=device)
        where = torch.rand(batch_size, generator=generator, device=device)
        queries = torch.searchsorted(edges, where, right=True)
    else:
        queries = torch.randint(size, (batch_size,), generator=generator, device=device)
    if task.n_slots == 2:
        shift = torch.randint(1, size, (batch_size, 1), generator=generator, device=device)
        others = (queries[:, None] + shift) % size
    else:
        order = torch.rand(batch_size, size, generator=generator, device=device)
        order.scatter_(1, queries[:, None], -1.0)
        others = order.topk(task.n_slots - 1, dim=1).indices
    return Contexts(torch.cat([queries[:, None], others], 1), queries)


def matching_loss(scores: torch.Tensor) -> torch.Tensor:
    """−ln(softmax weight of the first slot), mean over contexts, summed over seeds, in nats.

    - `scores`: shape (seeds, batch, slots).
    """
    return -torch.log_softmax(scores, -1)[..., 0].mean(-1).sum()
