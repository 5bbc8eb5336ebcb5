"""One attention layer's scores: a query's embedding against keys that are read from a frozen buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MatchingLayerModel:
    """Weights of many seeds of one layer; the first axis counts seeds. Matrices act on columns.

    - `query`, `key`: W_q and W_k, trained, shape (seeds, head_width, width).
    - `buffer`: W_vo of the layer before, frozen and orthogonal, shape (seeds, width, width).
    - `embeddings`: frozen orthonormal columns, shape (seeds, width, n_tokens).
    """

    query: torch.Tensor
    key: torch.Tensor
    buffer: torch.Tensor
    embeddings: torch.Tensor

    @property
    def scores(self) -> torch.Tensor:
        """Score of every key (column) for every query token (row), scaled by 1/√head_width; shape (seeds, n, n)."""
        queries = self.query @ self.embeddings
        keys = self.key @ (self.buffer @ self.embeddings)
        return queries.mT @ keys / self.query.shape[1] ** 0.5

    def context_scores(self, keys: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Scores of a context's slots, shape (seeds, batch, slots).

        - `keys`: int64, (seeds, batch, slots). `queries`: int64, (seeds, batch).
        """
        places = queries[..., None] * self.embeddings.shape[-1] + keys
        return self.scores.flatten(1).gather(1, places.flatten(1)).view_as(places)


def build(
    n_tokens: int,
    width: int,
    head_width: int,
    init_exponent: float,
    generators: Sequence[torch.Generator],
    device: str = "cpu",
) -> MatchingLayerModel:
    """A layer whose W_q and W_k have entries N(0, width^(−2 init_exponent)), the same draws for every exponent.

    Raises ValueError when `width` has no room for orthonormal embeddings, or a size is below 1.
    """
    if not 1 <= n_tokens <= width:
        raise ValueError(f"width is {width}; it must be at least n_tokens = {n_tokens}, and that at least 1.")
    if head_width < 1:
        raise ValueError(f"head_width is {head_width}; it must be at least 1.")
    parts = []
    for one in generators:
        pair = torch.randn(2, head_width, width, generator=one, dtype=torch.float64, device=one.device)
        frozen = torch.randn(2, width, width, generator=one, dtype=torch.float64, device=one.device).cpu()
        orthogonal = torch.linalg.qr(frozen)[0]
        parts.append((*pair.cpu() * width**-init_exponent, orthogonal[0], orthogonal[1][:, :n_tokens]))
    query, key, buffer, embeddings = (
        torch.stack(part).float().to(device) for part in zip(*parts, strict=True)
    )
    return MatchingLayerModel(query.requires_grad_(), key.requires_grad_(), buffer, embeddings)
