"""Sentences of pairs: the links of a chain in random order, then a token of the chain to start from; the label is some steps on.

The label is never the chain's end. That token is the only one that stands on the right of a pair and on the left of none, so
that sum(right tokens) − sum(left tokens) would give it away without any step being followed. At least `tail` pairs of the
chain lie beyond the label.

Pairs can be split, by the difference of their tokens, into those of the training and those never seen there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    - `vocabulary_size`: tokens to draw from, without replacement; the first one is `first_token`.
    - `n_noise_pairs`: pairs of tokens that stand nowhere else.
    - `mixed`: whether the number of steps is uniform on 1 … n_steps instead; the sentence then tells it by a token of that
      number, just before the start token, so that first_token must be above n_steps.
    - `modulus`, `residues`: pairs [a][b] have (b − a) mod `modulus` among the residues; 0 and none for all pairs.

    Raises ValueError when no start is left, the vocabulary is too small, or the residues leave no pair.
    """

    n_pairs: int
    n_steps: int
    tail: int = 2
    n_distractors: int = 0
    vocabulary_size: int = 64
    n_noise_pairs: int = 0
    mixed: bool = False
    first_token: int = 0
    modulus: int = 0
    residues: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        integer("n_steps", self.n_steps, 1)
        integer("tail", self.tail, 1)
        for name in ("n_distractors", "n_noise_pairs", "first_token", "modulus"):
            integer(name, getattr(self, name), 0)
        if integer("n_pairs", self.n_pairs, 1) < self.n_steps + self.tail:
            raise ValueError(
                f"n_pairs is {self.n_pairs}; it must be at least {self.n_steps + self.tail} (n_steps + tail)."
            )
        if integer("vocabulary_size", self.vocabulary_size, 1) < self.n_distinct:
            raise ValueError(
                f"vocabulary_size is {self.vocabulary_size}; it must be at least {self.n_distinct}, the tokens of a sentence."
            )
        if self.mixed and self.first_token <= self.n_steps:
            raise ValueError(
                f"first_token is {self.first_token} with mixed steps; it must be above n_steps = {self.n_steps}, whose numbers "
                "are tokens too."
            )
        if self.modulus and not self.residues:
            raise ValueError("residues is empty; a split needs at least one.")
        if len(set(self.residues)) < len(self.residues) or not all(
            one in range(self.modulus) for one in self.residues
        ):
            raise ValueError(
                f"residues is {self.residues}; it must hold different integers from 0 to below modulus = {self.modulus}."
            )

    @property
    def n_distinct(self) -> int:
        """Distinct tokens of a sentence, the number of steps apart."""
        return (
            self.n_pairs + 1 + (self.n_distractors + 1 if self.n_distractors else 0) + 2 * self.n_noise_pairs
        )

    @property
    def n_starts(self) -> int:
        """Number of tokens of the chain that may be the start of the longest task."""
        return self.n_pairs - self.n_steps - self.tail + 1

    @property
    def sentence_length(self) -> int:
        """Two positions a pair, one for the number of steps where it is mixed, and the start token's."""
        return 2 * (self.n_pairs + self.n_distractors + self.n_noise_pairs) + 1 + self.mixed

    @property
    def n_token_ids(self) -> int:
        """Token ids in use are below this."""
        return self.first_token + self.vocabulary_size

    @property
    def unseen_pairs(self) -> PairChains:
        """The same sentences of the pairs that this split leaves out. Raises ValueError when it leaves out none."""
        others = tuple(one for one in range(self.modulus) if one not in self.residues)
        if not others:
            raise ValueError(f"residues is {self.residues}; all pairs are seen, so that none is left over.")
        return replace(self, residues=others)


class Sentences(NamedTuple):
    """One draw, all int64. The pair at place p of a sentence stands at its positions 2p and 2p + 1.

    - `tokens`: (batch, sentence_length); the last one is the start token.
    - `labels`: (batch,), the token `n_steps` after the start. `n_steps`: (batch,).
    - `chain`: c_0 … c_m, (batch, n_pairs + 1). `start`: s, (batch,).
    - `places`: the place of each pair c_i → c_{i+1}, (batch, n_pairs).
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    chain: torch.Tensor
    start: torch.Tensor
    places: torch.Tensor
    n_steps: torch.Tensor

    def steps(self, vocabulary_size: int) -> torch.Tensor:
        """How many steps after the start token each token of the vocabulary is; −1 for tokens before it and of no chain.

        int64, shape (batch, vocabulary_size).
        """
        found = torch.full((len(self.tokens), vocabulary_size), -1, device=self.tokens.device)
        after = torch.arange(self.chain.shape[1], device=self.tokens.device) - self.start[:, None]
        return found.scatter_(1, self.chain, after.clamp(min=-1))


@torch.no_grad()
def draw(problem: PairChains, n_sentences: int, generator: torch.Generator) -> Sentences:
    """Draw independent sentences, on the generator's device. Raises ValueError when n_sentences is below 1.

    With a split, each token is uniform on those that may follow the one before it. A sentence in which none may is drawn again;
    ValueError when that happens a hundred times in a row.
    """
    integer("n_sentences", n_sentences, 1)
    device, pairs = generator.device, problem.n_pairs
    names = _distinct_tokens(problem, n_sentences, generator)
    left = torch.tensor(_left_tokens(problem), device=device)
    order = _shuffled(n_sentences, len(left), generator)
    steps = torch.full((n_sentences,), problem.n_steps, device=device)
    if problem.mixed:
        steps = torch.randint(1, problem.n_steps + 1, (n_sentences,), generator=generator, device=device)
        uniform = torch.rand((n_sentences,), generator=generator, device=device, dtype=torch.float64)
        start = (uniform * (pairs - steps - problem.tail + 1)).long()
    else:
        start = torch.randint(problem.n_starts, (n_sentences,), generator=generator, device=device)
    tokens = torch.empty((n_sentences, problem.sentence_length), dtype=torch.int64, device=device)
    tokens[:, 0 : 2 * len(left) : 2] = names.gather(1, left[order])
    tokens[:, 1 : 2 * len(left) : 2] = names.gather(1, left[order] + 1)
    if problem.mixed:
        tokens[:, -2] = steps
    tokens[:, -1] = names.gather(1, start[:, None])[:, 0]
    labels = names.gather(1, (start + steps)[:, None])[:, 0]
    return Sentences(tokens, labels, names[:, : pairs + 1], start, order.argsort(1)[:, :pairs], steps)


def _left_tokens(problem: PairChains) -> list[int]:
    """Which of a sentence's distinct tokens each pair has on its left; the next one stands on its right."""
    second = problem.n_pairs + 1
    alone = second + (problem.n_distractors + 1 if problem.n_distractors else 0)
    return [
        *range(problem.n_pairs),
        *range(second, second + problem.n_distractors),
        *range(alone, alone + 2 * problem.n_noise_pairs, 2),
    ]


def _shuffled(n_rows: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Random permutations of range(size), one a row."""
    numbers = torch.rand((n_rows, size), generator=generator, device=generator.device, dtype=torch.float64)
    return numbers.argsort(1)


def _distinct_tokens(problem: PairChains, n_rows: int, generator: torch.Generator) -> torch.Tensor:
    """Different tokens, int64 (n_rows, n_distinct), such that all pairs are of the split."""
    size = problem.vocabulary_size
    if not problem.modulus:
        return problem.first_token + _shuffled(n_rows, size, generator)[:, : problem.n_distinct]
    device, left = generator.device, _left_tokens(problem)
    numbers = torch.arange(size, device=device)
    follows = torch.isin(
        (numbers - numbers[:, None]) % problem.modulus, torch.tensor(problem.residues, device=device)
    )
    found = torch.empty((n_rows, problem.n_distinct), dtype=torch.int64, device=device)
    missing = torch.arange(n_rows, device=device)
    for _ in range(100):
        drawn = torch.empty((len(missing), problem.n_distinct), dtype=torch.int64, device=device)
        free = torch.ones((len(missing), size), dtype=torch.bool, device=device)
        possible = torch.ones(len(missing), dtype=torch.bool, device=device)
        for place in range(problem.n_distinct):
            allowed = free & follows[drawn[:, place - 1]] if place - 1 in left else free
            numbers_drawn = torch.rand(free.shape, generator=generator, device=device)
            best, drawn[:, place] = (numbers_drawn + 1).mul_(allowed).max(1)
            possible &= best > 0
            free = free.scatter(1, drawn[:, place, None], False)
        found[missing[possible]] = drawn[possible]
        missing = missing[~possible]
        if len(missing) == 0:
            return problem.first_token + found
    raise ValueError(
        f"vocabulary_size is {size}; with modulus {problem.modulus} and residues {problem.residues} it leaves no sentence."
    )
