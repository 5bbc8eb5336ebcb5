"""Propagation of knowledge between positions, by rule: what each position of a sentence of pairs knows after each layer.

No weights and no training: every position holds a set of tokens, as zeros and ones over the vocabulary. In layer 0 each
position knows its own token, and the right one of a pair the left one too, as a layer that looks at the previous token would
give it. In every later layer a position reads other positions that know a token which it knows, and adds what they knew
before this layer. Which ones it reads is the `Reading`:

- "all": every one of them.
- "greedy": one, which knows most tokens that are new to it; the earliest of several.
- "planned": one, which knows most tokens that it *wants*. The last position has the number 0, and the pair that leads from step
  i − 1 after the start to step i has the number i. Numbers fall into blocks of two in layer 1, of four in layer 2, and so on:
  those with one quotient by 2, 4, …. A position wants the tokens of its number's block. Positions without a number read nothing.

Under the causal mask a position reads earlier ones only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch

from theory.problems.checks import integer

Reading = Literal["all", "greedy", "planned"]
"""Which positions a position reads, of those that know a token which it knows (see the module)."""
READINGS: tuple[str, ...] = get_args(Reading)
"""All readings by name."""


def first_knowledge(tokens: torch.Tensor, vocabulary_size: int) -> torch.Tensor:
    """What positions know after layer 0: zeros and ones, float32 (batch, positions, vocabulary).

    - `tokens`: sentences of pairs and a start token, int64 (batch, positions). Raises ValueError for an even number of positions.
    """
    if tokens.shape[1] % 2 == 0:
        raise ValueError(
            f"tokens has {tokens.shape[1]} positions; it must have an odd number, two a pair and one."
        )
    knows = torch.nn.functional.one_hot(tokens, vocabulary_size).float()
    knows[:, 1:-1:2] += knows[:, 0:-1:2]
    return knows.clamp_(max=1)


def knowledge(
    tokens: torch.Tensor,
    n_layers: int,
    vocabulary_size: int,
    causal: bool = True,
    reading: Reading = "all",
    steps: torch.Tensor | None = None,
) -> Iterator[torch.Tensor]:
    """What positions know after each of n_layers layers, layer 0 included, as in `first_knowledge`.

    - `steps`: how many steps after the start each token is, −1 for tokens that do not come after it, int64 (batch, vocabulary);
      needed for the planned reading alone.

    Cost: n_layers · positions² · vocabulary multiplications a sentence. Raises ValueError for an unknown reading, a planned one
    without steps, or fewer than one layer.
    """
    integer("n_layers", n_layers, 1)
    if reading not in READINGS:
        raise ValueError(f"reading is {reading!r}; it must be one of {', '.join(READINGS)}.")
    if reading == "planned" and steps is None:
        raise ValueError("steps is None; the planned reading needs the number of steps of each token.")
    knows = first_knowledge(tokens, vocabulary_size)
    size = tokens.shape[1]
    readable = 1 - torch.eye(size, device=tokens.device)
    if causal:
        readable = readable.tril()
    for layer in range(n_layers):
        if layer:
            common = knows @ knows.mT
            may = common.clamp(max=1).mul_(readable)
            if reading == "all":
                knows = torch.baddbmm(knows, may, knows).clamp_(max=1)
            else:
                if reading == "greedy":
                    gain = knows.sum(-1)[:, None, :] - common
                else:
                    assert steps is not None
                    gain = (wanted(tokens, steps, layer) * (1 - knows)) @ knows.mT
                most, source = gain.mul_(may).max(-1)
                added = knows.gather(1, source[..., None].expand(-1, -1, vocabulary_size))
                knows = torch.where((most > 0)[..., None], torch.maximum(knows, added), knows)
        yield knows


def wanted(tokens: torch.Tensor, steps: torch.Tensor, layer: int) -> torch.Tensor:
    """The tokens that each position wants in a layer of the planned reading, float32 (batch, positions, vocabulary)."""
    number = torch.full_like(tokens, -1)
    number[:, -1] = 0
    left, right = steps.gather(1, tokens[:, 0:-1:2]), steps.gather(1, tokens[:, 1:-1:2])
    number[:, 1:-1:2] = torch.where(left >= 0, right, -1)
    block, width = number >> layer, 1 << layer
    first, last = (block * width - 1)[..., None], ((block + 1) * width - 1)[..., None]
    inside = (steps[:, None] >= first) & (steps[:, None] <= last) & (steps[:, None] >= 0)
    return (inside & (number >= 0)[..., None]).float()


def steps_known(known: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """How many steps after the start are known without a gap, −1 where the start is not, int64 (batch,).

    - `known`: what one position knows, (batch, vocabulary). `steps`: as for `knowledge`.
    """
    longest = int(steps.max())
    by_step = torch.zeros((len(known), longest + 2), dtype=torch.int64, device=known.device)
    by_step.scatter_add_(1, steps + 1, (known > 0).long())
    return by_step[:, 1:].cumprod(1).sum(1) - 1
