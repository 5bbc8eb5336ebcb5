"""The simplified one-layer transformer of noisy recall, in the coordinates of orthonormal embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from sims.roles import Place, RoleTable, exchanged
from theory.problems import NoisyRecall

FEATURES = ("current", "both")
PARTS = ("feed_forward", "attention")
_EMBEDDINGS = "the embeddings of this model are the coordinates themselves"
ROLES = RoleTable(
    {
        Place("feed_forward_out", 0): "feed_forward",
        Place("value_output", 0): "value",
        Place("key_query", 0): "key_query",
    },
    {
        Place("embedding"): _EMBEDDINGS,
        Place("positions"): "this model has no position embeddings",
        Place("unembedding"): _EMBEDDINGS,
        Place("query", 0): "query and key are one matrix, key_query",
        Place("key", 0): "query and key are one matrix, key_query",
        Place("value", 0): "value and attention output are one matrix, value_output",
        Place("attention_output", 0): "value and attention output are one matrix, value_output",
        Place("feed_forward_in", 0): "the feed-forward has one matrix, feed_forward_out",
    },
)
"""Which weight of the model plays which role."""


@dataclass(frozen=True)
class OneLayerRecall:
    """Weights of many seeds of one model; the first axis counts seeds.

    Position t has the embedding x_t = E(z_t) + Ẽ(z_{t−1}) of its own and the previous token; the first has no previous one. With
    orthonormal embeddings, E and Ẽ too, these are the features: v is E(v), vocabulary_size + v is Ẽ(v); F = 2 vocabulary_size.
    The last position alone predicts, with logits W_F x_T + Σ_t a_t W_V x_t and a the softmax over t of x_tᵀ W_KQ x_T.

    - `feed_forward`: W_F, `value`: W_V, both of shape (seeds, vocabulary_size, F).
    - `key_query`: W_KQ, shape (seeds, F, F); rows are features of the key, columns of the query.
    - `feed_forward_features`, `value_features`, `query_features`: what a matrix reads, "current" or "both"; with "current" its
      columns of Ẽ are taken to be zero. Keys read both.
    """

    feed_forward: torch.Tensor
    value: torch.Tensor
    key_query: torch.Tensor
    feed_forward_features: str = "current"
    value_features: str = "current"
    query_features: str = "current"

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return self.value.shape[1]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """All weights by name."""
        return {name: getattr(self, name) for name in ROLES.names.values()}

    @property
    def roles(self) -> RoleTable:
        """Which weight plays which role."""
        return ROLES

    def with_weights(self, changed: Mapping[str, torch.Tensor]) -> OneLayerRecall:
        """A new model with these weights in their places; the others are shared. Raises ValueError as `exchanged` does."""
        found = exchanged(self.weights, changed)
        return replace(
            self, feed_forward=found["feed_forward"], value=found["value"], key_query=found["key_query"]
        )

    def attention(self, contexts: torch.Tensor, key_query: torch.Tensor | None = None) -> torch.Tensor:
        """Attention of the last position, shape (seeds, batch, T), with another `key_query` if given.

        - `contexts`: int64, shape (seeds, batch, T).
        """
        chosen = self.key_query if key_query is None else key_query
        of_current, of_previous = self._read(chosen, contexts, self.query_features).split(
            self.vocabulary_size, dim=-1
        )
        scores = of_current.gather(-1, contexts)
        before = of_previous.gather(-1, contexts[..., :-1])
        return torch.softmax(scores + functional.pad(before, (1, 0)), dim=-1)

    def logits(
        self,
        contexts: torch.Tensor,
        parts: Sequence[str] = PARTS,
        *,
        feed_forward: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        key_query: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits of the token after the last position, shape (seeds, batch, vocabulary_size), with other weights if given.

        - `contexts`: int64, shape (seeds, batch, T).
        - `parts`: those of "feed_forward" and "attention" that add to the logits.

        Raises ValueError for an unknown part.
        """
        for part in parts:
            if part not in PARTS:
                raise ValueError(f"parts has {part!r}; it must have none but {', '.join(PARTS)}.")
        total = self.value.new_zeros(*contexts.shape[:2], self.vocabulary_size)
        if "feed_forward" in parts:
            chosen = self.feed_forward if feed_forward is None else feed_forward
            total = total + self._read(chosen, contexts, self.feed_forward_features)
        if "attention" in parts:
            chosen = self.value if value is None else value
            attention = self.attention(contexts, key_query)
            masses = torch.zeros_like(total).scatter_add(-1, contexts, attention)
            if self.value_features == "both":
                previous = torch.zeros_like(total).scatter_add(-1, contexts[..., :-1], attention[..., 1:])
                masses = torch.cat([masses, previous], dim=-1)
            total = total + masses @ chosen[..., : masses.shape[-1]].mT
        return total

    def _read(self, weights: torch.Tensor, contexts: torch.Tensor, features: str) -> torch.Tensor:
        """`weights` (seeds, rows, F) times x_T, or its part E(z_T) for "current"; shape (seeds, batch, rows)."""
        seeds, _, width = weights.shape
        columns = weights.mT.reshape(seeds * width, -1)
        first = torch.arange(0, seeds * width, width, device=contexts.device)[:, None]
        read = functional.embedding(first + contexts[..., -1], columns)
        if features == "both":
            previous = first + self.vocabulary_size + contexts[..., -2]
            read = read + functional.embedding(previous, columns)
        return read

    def parameter_groups(
        self, *, feed_forward: float, value: float, key_query: float
    ) -> list[dict[str, Any]]:
        """Groups for `sims.training.make_optimiser`, with a learning rate for each matrix; 0 leaves the matrix out (frozen).

        Raises ValueError when a learning rate is negative or not finite, or all are 0.
        """
        rates = {"feed_forward": feed_forward, "value": value, "key_query": key_query}
        for name, rate in rates.items():
            if not (math.isfinite(rate) and rate >= 0):
                raise ValueError(f"learning rate of {name} is {rate}; it must be finite and at least 0.")
        if not any(rates.values()):
            raise ValueError(f"learning rates of {', '.join(rates)} are 0; one must be above 0.")
        return [{"params": [getattr(self, name)], "lr": rate} for name, rate in rates.items() if rate]


def build(
    problem: NoisyRecall,
    n_seeds: int,
    feed_forward_features: str = "current",
    value_features: str = "current",
    query_features: str = "current",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> OneLayerRecall:
    """A model with zero weights, all trainable.

    Raises ValueError for unknown features, a problem that does not score the last token, or `n_seeds` below 1.
    """
    for name, features in (
        ("feed_forward_features", feed_forward_features),
        ("value_features", value_features),
        ("query_features", query_features),
    ):
        if features not in FEATURES:
            raise ValueError(f"{name} is {features!r}; it must be one of {', '.join(FEATURES)}.")
    if problem.scored != "last":
        raise ValueError(f"scored is {problem.scored!r}; this model predicts at the last position alone.")
    if n_seeds < 1:
        raise ValueError(f"n_seeds is {n_seeds}; it must be at least 1.")
    size = problem.vocabulary_size
    feed_forward, value, key_query = (
        torch.zeros(n_seeds, rows, 2 * size, device=device, dtype=dtype, requires_grad=True)
        for rows in (size, size, 2 * size)
    )
    return OneLayerRecall(
        feed_forward, value, key_query, feed_forward_features, value_features, query_features
    )
