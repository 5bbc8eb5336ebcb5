"""Data of noisy in-context recall: sequences, the targets they were drawn with, and the positions that are scored."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from theory.problems import NoisyRecall

BITS = 32
"""Bits of a random number's fraction. Limits are rounded to them, which moves a probability by 2⁻³³ = 1.2e-10 at most."""


class Batch(NamedTuple):
    """Sequences of one draw. Positions run from 1 to T; column t of an array below, counted from 0, is position t + 1.

    - `sequences`: the context and the token after it, int64 (batch, T + 1).
    - `targets`: the target of each trigger of the problem, int64 (batch, n_triggers).
    - `scored`: True where the token after this position is to be predicted, bool (batch, T).
    """

    sequences: torch.Tensor
    targets: torch.Tensor
    scored: torch.Tensor

    @property
    def contexts(self) -> torch.Tensor:
        """What a model sees, int64 (batch, T)."""
        return self.sequences[:, :-1]

    @property
    def labels(self) -> torch.Tensor:
        """The token after each position, int64 (batch, T)."""
        return self.sequences[:, 1:]


class Sampler:
    """Draws sequences of one problem by Walker's alias method, one random number a token, a step at a time for the whole batch.

    What follows a token is an outcome: a token, or "the target of trigger k", which stands for another token in each sequence.
    So the trigger's rule is a row of the table as any other. A random number is uniform below outcomes · 2³²: column · 2³² +
    fraction. The column's own outcome is drawn when the fraction is below the column's limit, and the column's other outcome
    otherwise. This is done in integers, as torch.where takes several times as long on a random mask.
    """

    def __init__(self, problem: NoisyRecall, device: str = "cpu") -> None:
        self.problem = problem
        self.device = torch.device(device)
        size = problem.vocabulary_size
        rows = np.zeros((size, size + len(problem.triggers)))
        rows[:, :size] = problem.chain.transition
        for place, trigger in enumerate(problem.triggers):
            rows[trigger] = 0
            rows[trigger, problem.noise_token] = problem.noise_level
            rows[trigger, size + place] = 1 - problem.noise_level
        self._next = self._packed(rows)
        self._first = self._packed(np.append(problem.chain.initial, np.zeros(len(problem.triggers)))[None])
        self._targets = self._tensor(np.array(problem.targets))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(self.device)

    def _packed(self, probabilities: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Minuends for each place = column · rows + row, and outcomes at 2 · place and 2 · place + 1.

        A minuend minus the random number, shifted right by 32 bits, is 2 · place + 1 when the fraction is below the limit, and
        2 · place otherwise.
        """
        limits, others = (table.T for table in alias_tables(probabilities))
        own = np.broadcast_to(np.arange(len(limits))[:, None], limits.shape)
        place = np.arange(limits.size).reshape(limits.shape)
        scaled = np.rint(limits * 2.0**BITS).astype(np.int64)
        minuends = ((2 * place + 1 + own) << BITS) + scaled - 1
        return self._tensor(minuends.ravel()), self._tensor(np.stack([others, own], axis=-1).ravel())

    @torch.no_grad()
    def draw(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw `batch_size` independent sequences, on the sampler's device.

        Raises ValueError when `batch_size` is below 1, or `generator` lives on another kind of device.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        if generator.device.type != self.device.type:
            raise ValueError(
                f"generator is on {generator.device}; it must be on the sampler's device, {self.device}."
            )
        chosen = torch.randint(
            len(self._targets),
            (batch_size, len(self.problem.triggers)),
            generator=generator,
            device=self.device,
        )
        targets = self._targets[chosen]
        sequences = self._tokens(targets, generator).T.contiguous()
        return Batch(sequences, targets, self._scored(sequences[:, :-1]))

    def _tokens(self, targets: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Sequences with the positions first, int64 (T + 1, batch): every step then works on one piece of memory."""
        length, size = self.problem.context_length, self.problem.vocabulary_size
        batch_size, n_triggers = targets.shape
        numbers = torch.randint(
            (size + n_triggers) << BITS, (length + 1, batch_size), generator=generator, device=self.device
        )
        columns = numbers >> BITS
        # The token that an outcome stands for in a sequence, at outcome · batch size + sequence.
        ordinary = torch.arange(size, device=self.device)[:, None].expand(size, batch_size)
        meanings = torch.cat([ordinary, targets.T]).ravel()
        sequence = torch.arange(batch_size, device=self.device)
        shift = torch.full_like(sequence, BITS)  # a number instead costs twice as much in each step

        tokens = torch.empty_like(numbers)
        minuends, outcomes = self._first
        tokens[0] = outcomes[(minuends[columns[0]] - numbers[0]) >> BITS]
        minuends, outcomes = self._next[0], self._next[1] * batch_size
        place, found = torch.empty_like(sequence), torch.empty_like(sequence)
        steps = zip(tokens.unbind(), columns.mul_(size).unbind(), numbers.unbind(), strict=True)
        before, *_ = next(steps)
        for step, (now, offset, number) in enumerate(steps, 1):
            if step == length - 1 and self.problem.scored == "last":
                now.fill_(self.problem.trigger)
            else:
                torch.add(before, offset, out=place)
                torch.index_select(minuends, 0, place, out=found)
                torch.sub(found, number, out=place)
                torch.bitwise_right_shift(place, shift, out=place)
                torch.index_select(outcomes, 0, place, out=found)
                torch.add(found, sequence, out=place)
                torch.index_select(meanings, 0, place, out=now)
            before = now
        return tokens

    def _scored(self, contexts: torch.Tensor) -> torch.Tensor:
        """Positions to be scored, bool (batch, T)."""
        scored = torch.zeros_like(contexts, dtype=torch.bool)
        if self.problem.scored == "last":
            scored[:, -1] = True
            return scored
        for trigger in self.problem.triggers:
            here = contexts == trigger
            scored |= here & (here.cumsum(1) > 1)
        return scored


def alias_tables(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vose's tables for each row of probabilities, shape (rows, tokens).

    Returns limits, float64 in [0, 1], and other tokens, int64, both of the same shape. A column is chosen uniformly; its token is
    drawn with probability limit, and its other token otherwise.
    """
    rows, size = probabilities.shape
    limits, others = np.ones((rows, size)), np.tile(np.arange(size), (rows, 1))
    for row in range(rows):
        left = [float(one) * size for one in probabilities[row]]
        small = [token for token in range(size) if left[token] < 1]
        large = [token for token in range(size) if left[token] >= 1]
        while small and large:
            poor, rich = small.pop(), large[-1]
            limits[row, poor], others[row, poor] = left[poor], rich
            left[rich] -= 1 - left[poor]
            if left[rich] < 1:
                small.append(large.pop())
    return limits, others


class ScoredPlaces(NamedTuple):
    """Scored positions in a rectangle; rows with fewer than the most are filled up with position 0.

    - `at`: positions counted from 0, int64 (…, batch, most). `valid`: False where filled up, bool, of the same shape.
    """

    at: torch.Tensor
    valid: torch.Tensor

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Entries of `values` (…, batch, T) at the places, shape (…, batch, most)."""
        return values.gather(-1, self.at)


def scored_places(scored: torch.Tensor) -> ScoredPlaces:
    """The scored positions of each sequence, in their order; `scored` is bool, shape (…, batch, T)."""
    most = int(scored.sum(-1).max())
    valid, at = scored.to(torch.uint8).sort(dim=-1, descending=True, stable=True)
    valid = valid[..., :most].bool()
    return ScoredPlaces(torch.where(valid, at[..., :most], 0), valid)


def scored_loss(logits: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the scored places of each seed, summed over seeds, in nats; a seed without any counts 0.

    - `logits`: shape (seeds, batch, places, vocabulary). `labels`, `valid`: shape (seeds, batch, places).
    """
    chosen = torch.log_softmax(logits, dim=-1).gather(-1, labels[..., None])[..., 0]
    total = torch.where(valid, chosen, 0).sum((-1, -2))
    return -(total / valid.sum((-1, -2)).clamp(min=1)).sum()


def last_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each seed, summed over seeds, in nats.

    - `logits`: shape (seeds, batch, vocabulary). `labels`: int64, shape (seeds, batch).
    """
    chosen = torch.log_softmax(logits, dim=-1).gather(-1, labels[..., None])
    return -chosen[..., 0].mean(-1).sum()
