"""Sentences of pairs with one position a pair: what a first layer that looks at the previous token would leave of them.

Such a sentence has a slot for each pair, in the order of the sentence, and a last one for the question: the start token, and how
many steps to follow from it. Every slot has one id, of n² for the pairs and n for the start tokens of each number of steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from sims.tasks.pair_chains import PairChains, draw


class Slots(NamedTuple):
    """One draw; int64 but the last.

    - `ids`: (batch, slots), one a pair, the question last. `labels`: (batch,), tokens counted from 0. `n_steps`: (batch,).
    - `last_pair_first`: bool (batch,), whether the last pair to follow stands before the one before it; False for one step.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    n_steps: torch.Tensor
    last_pair_first: torch.Tensor


def n_ids(problem: PairChains) -> int:
    """Number of ids of slots: of all pairs of tokens, and of all questions."""
    return problem.vocabulary_size * (problem.vocabulary_size + problem.n_steps)


def draw_slots(problem: PairChains, n_sentences: int, generator: torch.Generator) -> Slots:
    """Draw sentences of `sims.tasks.pair_chains`, of mixed numbers of steps, and put each pair into one slot.

    Raises ValueError for a problem whose steps are not mixed, and as `draw` does.
    """
    if not problem.mixed:
        raise ValueError("mixed is False; sentences of slots ask for mixed numbers of steps.")
    drawn = draw(problem, n_sentences, generator)
    tokens, size = drawn.tokens - problem.first_token, problem.vocabulary_size
    pairs = tokens[:, 0:-2:2] * size + tokens[:, 1:-2:2]
    question = size * size + (drawn.n_steps - 1) * size + tokens[:, -1]
    ids = torch.cat([pairs, question[:, None]], 1)
    last = drawn.start + drawn.n_steps - 1
    before = drawn.places.gather(1, (last - 1).clamp(min=0)[:, None]), drawn.places.gather(1, last[:, None])
    return Slots(
        ids,
        drawn.labels - problem.first_token,
        drawn.n_steps,
        (before[1] < before[0])[:, 0] & (drawn.n_steps > 1),
    )


def slot_features(problem: PairChains) -> torch.Tensor:
    """Which features each id has, zeros and ones, float64 (n_ids, 2n + n_steps).

    A pair has its left token and its right one, n features each; a question has its start token, among the right ones, and its
    number of steps. So a question and a pair that ends at its start token share a feature, as two chained pairs do not.
    """
    size = problem.vocabulary_size
    found = torch.zeros(n_ids(problem), 2 * size + problem.n_steps, dtype=torch.float64)
    ids = torch.arange(size * size)
    found[ids, ids // size] = 1
    found[ids, size + ids % size] = 1
    for steps in range(problem.n_steps):
        rows = size * size + steps * size + torch.arange(size)
        found[rows, size + torch.arange(size)] = 1
        found[rows, 2 * size + steps] = 1
    return found


def close_chains(problem: PairChains, ids: torch.Tensor) -> torch.Tensor:
    """The same sentences with their chains closed to rings: the last pair leads back to the first token.

    The token at the chain's end is gone, so that no token stands on one side alone. Start, label and all pairs to follow are as
    before, since a label is never the chain's end.

    - `ids`: int64 (batch, slots), of `draw_slots`. Returns the same shape.

    Raises ValueError for sentences with pairs of other chains, whose ends would be left.
    """
    if problem.n_distractors or problem.n_noise_pairs:
        raise ValueError("sentences have pairs of other chains; only a single chain can be closed.")
    size = problem.vocabulary_size
    left, right = ids[:, :-1] // size, ids[:, :-1] % size
    starts_pair, ends_pair = (functional.one_hot(one, size).sum(1) for one in (left, right))
    first, last = (starts_pair - ends_pair).argmax(1), (ends_pair - starts_pair).argmax(1)
    closed = torch.where(right == last[:, None], first[:, None], right)
    return torch.cat([left * size + closed, ids[:, -1:]], 1)


def sentence_of(problem: PairChains, ids: torch.Tensor) -> torch.Tensor:
    """The sentences of slots with two positions a pair and one for the start token, as `sims.propagation` reads them.

    - `ids`: (batch, slots). Returns int64 (batch, 2 slots − 1), tokens counted from 0.
    """
    size = problem.vocabulary_size
    found = torch.empty((len(ids), 2 * ids.shape[1] - 1), dtype=torch.int64, device=ids.device)
    found[:, 0:-1:2], found[:, 1:-1:2] = ids[:, :-1] // size, ids[:, :-1] % size
    found[:, -1] = ids[:, -1] % size
    return found
