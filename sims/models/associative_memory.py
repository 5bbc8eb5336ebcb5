"""A linear associative memory: logits Uᵀ W E, with W trained and the embeddings frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from sims.roles import Place, RoleTable, exchanged

EMBEDDINGS = ("orthonormal", "gaussian", "identity")
ROLES = RoleTable(
    {
        Place("embedding"): "embedding",
        Place("unembedding"): "unembedding",
        Place("feed_forward_out", 0): "memory",
    },
    {
        Place("positions"): "this model has no positions",
        Place("feed_forward_in", 0): "the memory is one matrix, feed_forward_out",
        **{
            Place(role, 0): "this model has no attention"
            for role in ("query", "key", "value", "attention_output", "value_output", "key_query")
        },
    },
)
"""Which weight of the model plays which role."""


@dataclass(frozen=True)
class AssociativeMemoryModel:
    """Weights of many seeds of one memory; the first axis counts seeds.

    - `memory`: W, trained, shape (seeds, width, width); starts at zero.
    - `unembeddings`: U, frozen, shape (seeds, width, n_tokens + 1).
    - `embeddings`: E, frozen, shape (seeds, width, n_tokens).
    """

    memory: torch.Tensor
    unembeddings: torch.Tensor
    embeddings: torch.Tensor

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """All weights by name; embeddings have a row a token, as views of the columns."""
        return {
            "embedding": self.embeddings.mT,
            "unembedding": self.unembeddings.mT,
            "memory": self.memory,
        }

    @property
    def roles(self) -> RoleTable:
        """Which weight plays which role; the memory is a linear feed-forward that replaces the stream."""
        return ROLES

    def with_weights(self, changed: Mapping[str, torch.Tensor]) -> AssociativeMemoryModel:
        """A new model with these weights in their places; the others are shared. Raises ValueError as `exchanged` does."""
        exchanged(self.weights, changed)
        return replace(
            self,
            memory=changed.get("memory", self.memory),
            embeddings=changed["embedding"].mT if "embedding" in changed else self.embeddings,
            unembeddings=changed["unembedding"].mT if "unembedding" in changed else self.unembeddings,
        )

    def logits(self, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of every label for every key, shape (seeds, n_tokens + 1, n_tokens), with another W if given."""
        chosen = self.memory if weights is None else weights
        return self.unembeddings.mT @ chosen @ self.embeddings


def check_width(n_tokens: int, width: int, embedding: str) -> None:
    """ValueError unless `embedding` is known and `width` has room for it."""
    if embedding not in EMBEDDINGS:
        raise ValueError(f"embedding is {embedding!r}; it must be one of {', '.join(EMBEDDINGS)}.")
    if width < 1:
        raise ValueError(f"width is {width}; it must be at least 1.")
    if embedding != "gaussian" and width < n_tokens + 1:
        raise ValueError(
            f"width is {width}; {embedding} embeddings of n_tokens = {n_tokens} and the noise token need at least "
            f"{n_tokens + 1}."
        )


def build(
    n_tokens: int, width: int, embedding: str, generators: Sequence[torch.Generator], device: str = "cpu"
) -> AssociativeMemoryModel:
    """A memory with zero weights and the embeddings of `generators`, one for each seed.

    - `embedding`: "orthonormal" (random orthonormal columns), "gaussian" (entries N(0, 1/width)), or "identity" (columns
      of the identity, so that the upper left corner of W is the logits themselves).

    Raises ValueError for an unknown embedding, or a width that is too small for it.
    """
    check_width(n_tokens, width, embedding)
    sides = [
        torch.stack([_columns(width, count, embedding, one) for one in generators]).to(device)
        for count in (n_tokens + 1, n_tokens)
    ]
    weights = torch.zeros(len(generators), width, width, device=device, requires_grad=True)
    return AssociativeMemoryModel(weights, *sides)


def _columns(width: int, count: int, embedding: str, generator: torch.Generator) -> torch.Tensor:
    """A width × count matrix of embeddings, drawn in float64 so that orthonormal columns are so to float32 rounding."""
    if embedding == "identity":
        return torch.eye(width, count)
    gaussian = torch.randn(
        width, count, generator=generator, dtype=torch.float64, device=generator.device
    ).cpu()
    if embedding == "gaussian":
        return (gaussian / width**0.5).float()
    orthonormal, triangle = torch.linalg.qr(gaussian)
    return (orthonormal * triangle.diagonal().sign()).float()
