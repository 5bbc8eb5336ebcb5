"""A decoder of attention and feed-forward blocks without normalisation, as simple as the paper's two-layer model.

With two blocks, ReLU feed-forwards and frozen embeddings it is the model of Chen, Bruna and Bietti (arXiv 2406.03068); the same
weights give the same logits as their released module (tests/sims/test_transformer.py has the golden file).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch.nn import functional

from sims.roles import Place, RoleTable, exchanged
from sims.streams import torch_generator

FeedForward = Literal["none", "linear", "relu"]
Positions = Literal["random", "sinusoidal"]
Query = Literal["identity", "trained"]


@dataclass(frozen=True)
class Architecture:
    """The shape of a transformer, without its weights.

    - `vocabulary_size`, `context_length`, `width`: tokens, positions T, and the dimension d of the residual stream.
    - `feed_forward`: one of "none", "linear" (one d × d matrix), "relu" (two, `hidden_multiplier`·d between) for each block.
    - `residual`: for each block, whether its attention is added to the stream (True) or replaces it.
    - `query`: "identity" (the key matrix alone stands between query and key) or "trained".
    - `positions`: embeddings of positions, "random" (standard normal entries) or "sinusoidal" (then d must be even).

    Raises ValueError for values outside these ranges.
    """

    vocabulary_size: int
    context_length: int
    width: int
    feed_forward: tuple[str, ...] = ("relu", "relu")
    residual: tuple[bool, ...] = (True, True)
    query: str = "identity"
    positions: str = "random"
    hidden_multiplier: int = 4

    def __post_init__(self) -> None:
        for name, least in (
            ("vocabulary_size", 2),
            ("context_length", 1),
            ("width", 1),
            ("hidden_multiplier", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        for name, given, allowed in (
            ("query", (self.query,), get_args(Query)),
            ("positions", (self.positions,), get_args(Positions)),
            ("feed_forward", self.feed_forward, get_args(FeedForward)),
        ):
            for one in given:
                if one not in allowed:
                    raise ValueError(f"{name} is {one!r}; it must be one of {', '.join(allowed)}.")
        if not self.feed_forward:
            raise ValueError("feed_forward is empty; it must have an entry for each block, at least one.")
        if len(self.residual) != self.n_layers:
            raise ValueError(
                f"residual has {len(self.residual)} entries; it must have {self.n_layers}, one for each block."
            )
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"width is {self.width} with sinusoidal positions; it must be even.")

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.feed_forward)

    @cached_property
    def shapes(self) -> dict[Place, tuple[int, int]]:
        """Shape of every weight, by its place."""
        width, hidden = self.width, self.hidden_multiplier * self.width
        found = {
            Place("embedding"): (self.vocabulary_size, width),
            Place("positions"): (self.context_length, width),
            Place("unembedding"): (self.vocabulary_size, width),
        }
        for layer, kind in enumerate(self.feed_forward):
            roles = ["key", "value", "attention_output"]
            if self.query == "trained":
                roles.insert(0, "query")
            found |= {Place(role, layer): (width, width) for role in roles}
            if kind == "linear":
                found[Place("feed_forward_out", layer)] = (width, width)
            elif kind == "relu":
                found[Place("feed_forward_in", layer)] = (hidden, width)
                found[Place("feed_forward_out", layer)] = (width, hidden)
        return found

    @cached_property
    def roles(self) -> RoleTable:
        """The role table; a weight is named by its place, "key.1" for the key matrix of block 1."""
        absent = {}
        for layer, kind in enumerate(self.feed_forward):
            if self.query == "identity":
                absent[Place("query", layer)] = "the query of this model is the identity"
            if kind != "relu":
                missing = "one matrix, feed_forward_out" if kind == "linear" else "no matrix"
                absent[Place("feed_forward_in", layer)] = (
                    f"the {kind} feed-forward of block {layer} has {missing}"
                )
            if kind == "none":
                absent[Place("feed_forward_out", layer)] = f"block {layer} has no feed-forward"
        return RoleTable({place: str(place).replace(" ", ".") for place in self.shapes}, absent)


class Trace(NamedTuple):
    """What a pass through the model computed; Q is the number of positions asked for, T without a choice.

    - `logits`: shape (seeds, batch, Q, vocabulary_size). `attention`: one tensor a block, shape (seeds, batch, queries, T); the
      queries of the last block are the positions asked for, those of the others all T.
    """

    logits: torch.Tensor
    attention: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Transformer:
    """An architecture with weights, those of several seeds stacked along a first axis.

    - `weights`: name → tensor (seeds, out, in); embeddings are (seeds, tokens or positions, d).
    """

    architecture: Architecture
    weights: Mapping[str, torch.Tensor]

    @property
    def roles(self) -> RoleTable:
        """Which weight plays which role."""
        return self.architecture.roles

    @property
    def n_seeds(self) -> int:
        """Number of stacked models."""
        return len(self.weights["embedding"])

    def with_weights(self, changed: Mapping[str, torch.Tensor]) -> Transformer:
        """A new model with these weights in their places; the others are shared.

        Raises ValueError for an unknown name or a tensor of another shape (the seeds' axis apart, which must be one for all).
        """
        return replace(self, weights=exchanged(self.weights, changed))

    def without_residual(self, layer: int) -> Transformer:
        """The same weights, but the attention of this block replaces the stream. Raises ValueError for an unknown layer."""
        self.roles.check("key", layer)
        kept = tuple(here and place != layer for place, here in enumerate(self.architecture.residual))
        return replace(self, architecture=replace(self.architecture, residual=kept))

    def logits(self, tokens: torch.Tensor, at: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of the next token after the positions `at`, or after all; the first entry of `trace`."""
        return self.trace(tokens, at).logits

    def trace(self, tokens: torch.Tensor, at: torch.Tensor | None = None) -> Trace:
        """One pass, causal. The last block is computed at the positions asked for only, which saves most of its cost.

        - `tokens`: int64, shape (seeds, batch, T), T at most the context length.
        - `at`: positions counted from 0, int64, shape (seeds, batch, Q); all by default.

        Cost: about 22 d² + 4 T d multiplications a token with ReLU feed-forwards in both blocks, half of it if `at` is short.
        Raises ValueError for tokens of another number of seeds, or longer than the context length.
        """
        seeds, batch, length = tokens.shape
        if seeds != self.n_seeds or length > self.architecture.context_length:
            raise ValueError(
                f"tokens has shape {tuple(tokens.shape)}; it must have {self.n_seeds} seeds in front and at most "
                f"{self.architecture.context_length} positions at the end."
            )
        x = embed(self.weights["embedding"], tokens) + self.weights["positions"][:, None, :length]
        everywhere = torch.arange(length, device=tokens.device).expand(seeds, batch, length)
        attentions = []
        for layer in range(self.architecture.n_layers):
            last = layer == self.architecture.n_layers - 1
            queries, where = x, everywhere
            if last and at is not None:
                queries, where = x.gather(2, at[..., None].expand(-1, -1, -1, x.shape[-1])), at
            attention = self.attention(layer, queries, x, where)
            added = self._apply("attention_output", layer, self._apply("value", layer, attention @ x))
            x = queries + added if self.architecture.residual[layer] else added
            x = x + self.feed_forward(layer, x)
            attentions.append(attention)
        return Trace(apply_stacked(self.weights["unembedding"], x), tuple(attentions))

    def attention(
        self, layer: int, queries: torch.Tensor, stream: torch.Tensor, where: torch.Tensor
    ) -> torch.Tensor:
        """Attention of a block, shape (seeds, batch, Q, T): softmax over keys up to the query's place, scores divided by √d.

        - `queries`: stream at the positions `where`, (seeds, batch, Q, d). `stream`: (seeds, batch, T, d).
        """
        if self.architecture.query == "trained":
            queries = self._apply("query", layer, queries)
        keys = apply_stacked(self.weights[self.roles.name("key", layer)].mT, queries)
        scores = keys @ stream.mT / math.sqrt(self.architecture.width)
        later = torch.arange(stream.shape[-2], device=where.device) > where[..., None]
        return torch.softmax(scores.masked_fill(later, -math.inf), dim=-1)

    def feed_forward(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """What the feed-forward of a block adds to a stream, same shape as `x`, (seeds, …, d); zero when there is none."""
        kind = self.architecture.feed_forward[layer]
        if kind == "none":
            return torch.zeros_like(x)
        if kind == "relu":
            x = functional.relu(self._apply("feed_forward_in", layer, x))
        return self._apply("feed_forward_out", layer, x)

    def _apply(self, role: str, layer: int, x: torch.Tensor) -> torch.Tensor:
        return apply_stacked(self.weights[self.roles.name(role, layer)], x)


def embed(embedding: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Rows of each seed's embedding (seeds, vocabulary, d) for its tokens (seeds, …); shape (seeds, …, d)."""
    seeds, size, width = embedding.shape
    first = torch.arange(seeds, device=tokens.device).reshape(-1, *[1] * (tokens.ndim - 1)) * size
    return functional.embedding(tokens + first, embedding.reshape(seeds * size, width))


def apply_stacked(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Each seed's matrix (seeds, out, in) times its vectors x (seeds, …, in), as one batched product; shape (seeds, …, out)."""
    return (x.flatten(1, -2) @ matrix.mT).unflatten(1, x.shape[1:-1])


def initialise(
    architecture: Architecture,
    stream: str,
    seeds: Sequence[int],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Transformer:
    """A fresh model of every seed: standard normal embeddings, all else uniform in ±1/√fan_in, as in the released code.

    Every weight has a random stream of its own, (`stream`, its name, seed), drawn on the CPU: models that differ in one block or
    in device share all else. Raises ValueError when there is no seed.
    """
    if len(seeds) == 0:
        raise ValueError("seeds is empty; a model needs at least one.")
    weights = {}
    for place, shape in architecture.shapes.items():
        name = architecture.roles.names[place]
        if place.role == "positions" and architecture.positions == "sinusoidal":
            drawn = sinusoidal_positions(*shape).expand(len(seeds), *shape)
        else:
            drawn = torch.stack([_draw(place, shape, torch_generator(stream, name, seed)) for seed in seeds])
        weights[name] = drawn.to(device=device, dtype=dtype).clone()
    return Transformer(architecture, weights)


def _draw(place: Place, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    if place.role in ("embedding", "positions"):
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    return (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) / math.sqrt(shape[1])


def sinusoidal_positions(context_length: int, width: int) -> torch.Tensor:
    """Sines in even and cosines in odd columns, of position / 10000^(2i/d); shape (context_length, width), float64."""
    angles = torch.arange(context_length, dtype=torch.float64)[:, None] * torch.exp(
        torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width)
    )
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
