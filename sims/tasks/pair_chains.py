"""Sentences of pairs: the links of a chain in random order, then a token of the chain to start from; the label is some steps on.

The label is never the chain's end. That token is the only one that stands on the right of a pair and on the left of none, so
that sum(right tokens) − sum(left tokens) would give it away without any step being followed. At least `tail` pairs of the
chain lie beyond the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from theory.problems.checks import integer


@dataclass(frozen=True)
class PairChains:
    """Which sentences are drawn.

    - `n_pairs`: pairs of the chain c_0 → c_1 → …, whose tokens are distinct.
    - `n_steps`: steps from the start token c_s to the label c_{s+n_steps}. `tail`: pairs of the chain beyond the label, at
      least 1. s is uniform on what these two leave.
    - `n_distractors`: pairs of a second chain, none of whose tokens is one of the first; 0 for none.
    - `vocabulary_size`: tokens to draw from, without replacement.

    Raises ValueError when no start is left, or the vocabulary is too small.
    """

    n_pairs: int
    n_steps: int
    tail: int = 2
    n_distractors: int = 0
    vocabulary_size: int = 64

    def __post_init__(self) -> None:
        integer("n_steps", self.n_steps, 1)
        integer("tail", self.tail, 1)
        integer("n_distractors", self.n_distractors, 0)
        if integer("n_pairs", self.n_pairs, 1) < self.n_steps + self.tail:
            raise ValueError(
                f"n_pairs is {self.n_pairs}; it must be at least {self.n_steps + self.tail} (n_steps + tail)."
            )
        if integer("vocabulary_size", self.vocabulary_size, 1) < self.n_distinct:
            raise ValueError(
                f"vocabulary_size is {self.vocabulary_size}; it must be at least {self.n_distinct}, the tokens of a sentence."
            )

    @property
    def n_distinct(self) -> int:
        """Distinct tokens of a sentence."""
        return self.n_pairs + 1 + (self.n_distractors + 1 if self.n_distractors else 0)

    @property
    def n_starts(self) -> int:
        """Number of tokens of the chain that may be the start."""
        return self.n_pairs - self.n_steps - self.tail + 1

    @property
    def sentence_length(self) -> int:
        """Two positions a pair, and the start token's."""
        return 2 * (self.n_pairs + self.n_distractors) + 1


class Sentences(NamedTuple):
    """One draw, all int64. The pair at place p of a sentence stands at its positions 2p and 2p + 1.

    - `tokens`: (batch, sentence_length); the last one is the start token.
    - `labels`: (batch,), the token n_steps after the start.
    - `chain`: c_0 … c_m, (batch, n_pairs + 1). `start`: s, (batch,).
    - `places`: the place of each pair c_i → c_{i+1}, (batch, n_pairs).
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    chain: torch.Tensor
    start: torch.Tensor
    places: torch.Tensor

    def steps(self, vocabulary_size: int) -> torch.Tensor:
        """How many steps after the start token each token of the vocabulary is; −1 for tokens before it and of no chain.

        int64, shape (batch, vocabulary_size).
        """
        found = torch.full((len(self.tokens), vocabulary_size), -1, device=self.tokens.device)
        after = torch.arange(self.chain.shape[1], device=self.tokens.device) - self.start[:, None]
        return found.scatter_(1, self.chain, after.clamp(min=-1))


@torch.no_grad()
def draw(problem: PairChains, n_sentences: int, generator: torch.Generator) -> Sentences:
    """Draw independent sentences, on the generator's device. Raises ValueError when n_sentences is below 1."""
    integer("n_sentences", n_sentences, 1)
    device, pairs = generator.device, problem.n_pairs

    def shuffled(size: int) -> torch.Tensor:
        """Random permutations of range(size), one a sentence."""
        numbers = torch.rand((n_sentences, size), generator=generator, device=device, dtype=torch.float64)
        return numbers.argsort(1)

    names = shuffled(problem.vocabulary_size)[:, : problem.n_distinct]
    left = torch.arange(pairs + problem.n_distractors, device=device)
    left[pairs:] += 1  # the second chain begins after the first one's last token
    order = shuffled(len(left))
    start = torch.randint(problem.n_starts, (n_sentences,), generator=generator, device=device)
    tokens = torch.empty((n_sentences, problem.sentence_length), dtype=torch.int64, device=device)
    tokens[:, 0:-1:2] = names.gather(1, left[order])
    tokens[:, 1:-1:2] = names.gather(1, left[order] + 1)
    tokens[:, -1] = names.gather(1, start[:, None])[:, 0]
    labels = names.gather(1, start[:, None] + problem.n_steps)[:, 0]
    return Sentences(tokens, labels, names[:, : pairs + 1], start, order.argsort(1)[:, :pairs])
