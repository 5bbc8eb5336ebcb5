"""Training a decoder to follow chains of pairs with token embeddings that are drawn once and are the output matrix as well.

So a token that the training never has is embedded like the rest, in a direction of the same law and at the same length, and its
logit is read with the same vector. It differs in one thing: it is never an answer of the training, whose loss lowers its logit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import ClassVar, Literal

import torch

from sims.recipes.matching import MatchingRecipe
from sims.training import Started


@dataclass(frozen=True)
class FrozenMatchingRecipe(MatchingRecipe):
    """All settings of one training, those of `sims.recipes.matching` and this; by default embeddings are tied and frozen.

    - `embedding_norm`: length of every token's embedding at the start, above 0. Its direction is uniform.
    """

    NAME: ClassVar[str] = "frozen_matching"

    output: Literal["trained", "tied"] = "tied"
    train_embedding: bool = False
    embedding_norm: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.embedding_norm < math.inf:
            raise ValueError(f"embedding_norm is {self.embedding_norm}; it must be finite and above 0.")

    @property
    def recipe(self) -> FrozenMatchingRecipe:
        """These settings without what a subclass adds to them, as `sims.trained` takes them."""
        names = [one.name for one in dataclass_fields(FrozenMatchingRecipe)]
        return FrozenMatchingRecipe(**{name: getattr(self, name) for name in names})

    def begin(self, seeds: Sequence[int], device: str) -> Started:
        """Fresh models of these seeds and their training, before the first step."""
        started = super().begin(seeds, device)
        embedding = started.model.weights["embedding"]
        with torch.no_grad():
            embedding.mul_(self.embedding_norm / embedding.norm(dim=-1, keepdim=True))
        return started
