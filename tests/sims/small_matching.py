"""A small matching recipe for tests, and what a training of it sees."""

import dataclasses
from typing import Any

import pytest
import torch

from sims.models.decoder import Decoder
from sims.recipes import matching
from sims.recipes.matching import MatchingRecipe
from sims.training import Started

BASE = MatchingRecipe(
    n_pairs=3,
    n_tokens=12,
    first_token=4,
    n_unseen_tokens=8,
    modulus=3,
    residues=(0, 1),
    width=4,
    n_layers=2,
    attention_width=4,
    feed_forward_width=8,
    learning_rate=0.05,
    weight_decay=0.02,
    schedule="linear",
    warmup_steps=3,
    batch_size=5,
    final_step=10,
)


def recipe(**fields: Any) -> MatchingRecipe:
    return dataclasses.replace(BASE, **fields)


def begun(one: MatchingRecipe, *seeds: int) -> Started:
    return one.begin(seeds or (0,), "cpu")


def trained(one: MatchingRecipe, step: int, *seeds: int) -> Decoder:
    started = begun(one, *seeds)
    started.training.advance(step)
    return started.model


def batches(one: MatchingRecipe, steps: int, *seeds: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tokens (seeds, batch, T) and labels (seeds, batch) that the training sees, by way of the model and the loss themselves."""
    tokens: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    logits, loss = Decoder.logits, matching.functional.cross_entropy

    def read(self: Decoder, given: torch.Tensor, last: bool = False) -> torch.Tensor:
        assert last
        tokens.append(given)
        return logits(self, given, last)

    def scored(found: torch.Tensor, given: torch.Tensor, **options: Any) -> torch.Tensor:
        labels.append(given.reshape(tokens[-1].shape[:2]))
        return loss(found, given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "logits", read)
        patch.setattr(matching.functional, "cross_entropy", scored)
        trained(one, steps, *seeds)
    return list(zip(tokens, labels, strict=True))
