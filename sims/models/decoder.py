"""A decoder with layer normalisation before or after its sublayers, an initialisation of any scale, and room for fixed matrices.

The model of the matching experiments (Wang et al., arXiv 2405.15302): learned positions, no biases in attention and feed-forward.
Without normalisation and feed-forward it is the attention-only model of `theory.matching`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch.nn import functional

from sims.models.transformer import apply_stacked, embed
from sims.roles import Place, RoleTable, exchanged, matrix
from sims.streams import torch_generator
from theory.problems.checks import integer

Normalisation = Literal["pre", "post", "none"]
"""Where a sublayer f has its layer normalisation N: x + f(N(x)), N(x + f(x)), or nowhere."""
Output = Literal["trained", "tied"]
"""Whether the matrix from the stream to logits is of its own, or the token embedding itself."""


@dataclass(frozen=True)
class DecoderArchitecture:
    """The shape of a decoder, without its weights.

    - `vocabulary_size`, `context_length`, `width`: tokens, positions, the dimension d of the residual stream.
    - `n_layers`, `n_heads`: the heads share `attention_width`, the rows of the query, key and value matrices.
    - `feed_forward_width`: hidden units of the ReLU feed-forward of each layer; 0 for none.
    - `normalisation`: see `Normalisation`. Before sublayers, the stream is normalised once more before the logits.
    - `causal`: whether a position attends to itself and earlier ones only. `output`: see `Output`.
    - `init_exponent`: γ. Entries of a matrix start as N(0, fan_in^(−2γ)); fan_in is the number of columns, and of an embedding
      the number of its rows.
    - `has_added`: whether fixed matrices are added to attention's products, each with a factor of its own; see `Decoder`.

    Raises ValueError for values outside these ranges, and for heads that do not divide the attention width.
    """

    vocabulary_size: int
    context_length: int
    width: int = 64
    n_layers: int = 3
    n_heads: int = 1
    attention_width: int = 64
    feed_forward_width: int = 128
    normalisation: str = "post"
    causal: bool = True
    output: str = "trained"
    init_exponent: float = 0.5
    has_added: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("vocabulary_size", 2), ("context_length", 1), ("width", 1), ("n_layers", 1), ("n_heads", 1),
            ("attention_width", 1), ("feed_forward_width", 0),
        ):  # fmt: skip
            integer(name, getattr(self, name), least)
        if self.attention_width % self.n_heads:
            raise ValueError(
                f"n_heads is {self.n_heads}; it must divide attention_width = {self.attention_width}."
            )
        for name, allowed in (("normalisation", Normalisation), ("output", Output)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(get_args(allowed))}."
                )
        if not math.isfinite(self.init_exponent):
            raise ValueError(f"init_exponent is {self.init_exponent}; it must be finite.")

    @cached_property
    def shapes(self) -> dict[Place, tuple[int, int]]:
        """Shape (out, in) of the matrix at every place; an embedding has a row a token or position."""
        d, inner, hidden = self.width, self.attention_width, self.feed_forward_width
        found = {
            Place("embedding"): (self.vocabulary_size, d),
            Place("positions"): (self.context_length, d),
        }
        if self.output == "trained":
            found[Place("unembedding")] = (self.vocabulary_size, d)
        for layer in range(self.n_layers):
            found |= {Place(role, layer): (inner, d) for role in ("query", "key", "value")}
            found[Place("attention_output", layer)] = (d, inner)
            if hidden:
                found[Place("feed_forward_in", layer)] = (hidden, d)
                found[Place("feed_forward_out", layer)] = (d, hidden)
        return found

    @cached_property
    def norms(self) -> tuple[str, ...]:
        """Names of the layer normalisations; each has a weight ".gain" and one ".bias", of shape (seeds, d)."""
        if self.normalisation == "none":
            return ()
        kinds = ("attention_norm", "feed_forward_norm") if self.feed_forward_width else ("attention_norm",)
        names = [f"{kind}.{layer}" for layer in range(self.n_layers) for kind in kinds]
        return (*names, "final_norm") if self.normalisation == "pre" else tuple(names)

    @cached_property
    def roles(self) -> RoleTable:
        """The role table; a weight is named by its place, "key.1" for the key matrix of layer 1."""
        absent = {}
        if self.output == "tied":
            absent[Place("unembedding")] = "the unembedding of this model is its embedding"
        if not self.feed_forward_width:
            for layer in range(self.n_layers):
                for role in ("feed_forward_in", "feed_forward_out"):
                    absent[Place(role, layer)] = f"layer {layer} has no feed-forward"
        return RoleTable({place: str(place).replace(" ", ".") for place in self.shapes}, absent)


class DecoderTrace(NamedTuple):
    """What a pass computed; Q is 1 where only the last position was asked for, else T.

    - `logits`: (seeds, batch, Q, vocabulary_size). `attention`: one tensor a layer, (seeds, batch, heads, queries, T); the last
      layer has Q queries, the others T.
    """

    logits: torch.Tensor
    attention: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Decoder:
    """An architecture with weights, those of several seeds stacked along a first axis.

    - `weights`: name → tensor. Matrices are (seeds, out, in), embeddings (seeds, tokens or positions, d), gains and biases of
      norms (seeds, d). With added matrices, "key_query_added.0" and "value_output_added.0" … are these, (seeds, d, d), and
      "key_query_factor" and "value_output_factor" their factors, (seeds, n_layers).
    """

    architecture: DecoderArchitecture
    weights: Mapping[str, torch.Tensor]

    @property
    def roles(self) -> RoleTable:
        """Which weight plays which role."""
        return self.architecture.roles

    @property
    def n_seeds(self) -> int:
        """Number of stacked models."""
        return len(self.weights["embedding"])

    @property
    def unembedding(self) -> torch.Tensor:
        """From the stream to logits, (seeds, vocabulary_size, d)."""
        return self.weights["embedding" if self.architecture.output == "tied" else "unembedding"]

    def with_weights(self, changed: Mapping[str, torch.Tensor]) -> Decoder:
        """A new model with these weights in their places; the others are shared.

        Raises ValueError for an unknown name or a tensor of another shape (the seeds' axis apart, which must be one for all).
        """
        return replace(self, weights=exchanged(self.weights, changed))

    def added(self, product: str, layer: int) -> torch.Tensor | None:
        """The fixed matrix of "key_query" or "value_output" times its factor, (seeds, d, d), one for all heads, or None."""
        if not self.architecture.has_added:
            return None
        return (
            self.weights[f"{product}_factor"][:, layer, None, None] * self.weights[f"{product}_added.{layer}"]
        )

    def with_added(self, product: str, layer: int, added: torch.Tensor) -> Decoder:
        """The model with another matrix added to "key_query" or "value_output" of a layer, (seeds, d, d), at a factor of 1.

        Where no matrices were added before, those of the other layers are zero. Raises ValueError for an unknown product or
        layer, or a matrix of another shape.
        """
        if product not in ("key_query", "value_output"):
            raise ValueError(f"product is {product!r}; it must be one of key_query, value_output.")
        self.roles.check("key", layer)
        model = self if self.architecture.has_added else self._with_room()
        factors = model.weights[f"{product}_factor"].clone()
        factors[:, layer] = 1
        return model.with_weights({f"{product}_added.{layer}": added, f"{product}_factor": factors})

    def _with_room(self) -> Decoder:
        like, (seeds, _, d) = self.weights["embedding"], self.weights["embedding"].shape
        weights = {**self.weights}
        for product in ("key_query", "value_output"):
            weights[f"{product}_factor"] = like.new_zeros(seeds, self.architecture.n_layers)
            for layer in range(self.architecture.n_layers):
                weights[f"{product}_added.{layer}"] = like.new_zeros(seeds, d, d)
        return Decoder(replace(self.architecture, has_added=True), weights)

    def key_query(self, layer: int, head: int = 0) -> torch.Tensor:
        """The whole matrix between query and key, W_qᵀ W_k and what is added, (seeds, d, d).

        Raises ValueError for an unknown head.
        """
        rows = self._rows(head)
        found = matrix(self, "query", layer)[:, rows].mT @ matrix(self, "key", layer)[:, rows]
        added = self.added("key_query", layer)
        return found if added is None else found + added

    def value_output(self, layer: int, head: int = 0) -> torch.Tensor:
        """The whole matrix from a read position to the reader, W_o W_v and what is added, (seeds, d, d); see `key_query`."""
        rows = self._rows(head)
        found = matrix(self, "attention_output", layer)[:, :, rows] @ matrix(self, "value", layer)[:, rows]
        added = self.added("value_output", layer)
        return found if added is None else found + added / self.architecture.n_heads

    def _rows(self, head: int) -> slice:
        size = self.architecture.attention_width // self.architecture.n_heads
        if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < self.architecture.n_heads:
            raise ValueError(
                f"head is {head!r}; it must be an integer from 0 to {self.architecture.n_heads - 1}."
            )
        return slice(head * size, (head + 1) * size)

    def logits(self, tokens: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Logits after every position, or after the last alone; the first entry of `trace`."""
        return self.trace(tokens, last).logits

    def trace(
        self, tokens: torch.Tensor, last: bool = False, forbidden: Mapping[int, torch.Tensor] | None = None
    ) -> DecoderTrace:
        """One pass. With `last`, the last layer is computed at the last position alone.

        - `tokens`: int64, (seeds, batch, T), T at most the context length.
        - `forbidden`: layer → edges to cut, bool (seeds, batch, T, T), True where a query (row) must not read a key (column).

        Cost: about 4 d (attention_width + feed_forward_width / 2) + 2 T attention_width multiplications a token and layer.
        Raises ValueError for tokens of another number of seeds, or longer than the context length.
        """
        seeds, _, length = tokens.shape
        limit = self.architecture.context_length
        if seeds != self.n_seeds or length > limit:
            raise ValueError(
                f"tokens has shape {tuple(tokens.shape)}; it must have {self.n_seeds} seeds in front and at most "
                f"{limit} positions at the end."
            )
        x = embed(self.weights["embedding"], tokens) + self.weights["positions"][:, None, :length]
        cut = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        cut = cut if self.architecture.causal else torch.zeros_like(cut)
        before, attentions = self.architecture.normalisation == "pre", []
        for layer in range(self.architecture.n_layers):
            first = length - 1 if last and layer == self.architecture.n_layers - 1 else 0
            here = cut if forbidden is None or layer not in forbidden else cut | forbidden[layer][:, :, None]
            read = self._normalised(f"attention_norm.{layer}", x) if before else x
            attention = self._attention(layer, read[:, :, first:], read, here[..., first:, :])
            x = self._after(f"attention_norm.{layer}", x[:, :, first:], self._moved(layer, attention, read))
            if self.architecture.feed_forward_width:
                read = self._normalised(f"feed_forward_norm.{layer}", x) if before else x
                hidden = functional.relu(apply_stacked(matrix(self, "feed_forward_in", layer), read))
                added = apply_stacked(matrix(self, "feed_forward_out", layer), hidden)
                x = self._after(f"feed_forward_norm.{layer}", x, added)
            attentions.append(attention)
        x = self._normalised("final_norm", x) if before else x
        return DecoderTrace(apply_stacked(self.unembedding, x), tuple(attentions))

    def _attention(
        self, layer: int, queries: torch.Tensor, stream: torch.Tensor, cut: torch.Tensor
    ) -> torch.Tensor:
        """Attention (seeds, batch, heads, Q, T) of queries (seeds, batch, Q, d) over a stream, where it is not cut."""
        asked = self._heads(apply_stacked(matrix(self, "query", layer), queries))
        keys = self._heads(apply_stacked(matrix(self, "key", layer), stream))
        scores = asked @ keys.mT
        added = self.added("key_query", layer)
        if added is not None:
            scores = scores + (apply_stacked(added.mT, queries) @ stream.mT)[:, :, None]
        scores = scores / math.sqrt(self.architecture.attention_width // self.architecture.n_heads)
        return torch.softmax(scores.masked_fill(cut, -math.inf), dim=-1)

    def _moved(self, layer: int, attention: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        """What attention adds to its queries, (seeds, batch, Q, d)."""
        values = self._heads(apply_stacked(matrix(self, "value", layer), stream))
        read = (attention @ values).transpose(2, 3).flatten(3)
        found = apply_stacked(matrix(self, "attention_output", layer), read)
        added = self.added("value_output", layer)
        return found if added is None else found + apply_stacked(added, attention.mean(2) @ stream)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(seeds, batch, T, attention_width) → (seeds, batch, heads, T, width of a head)."""
        return x.unflatten(-1, (self.architecture.n_heads, -1)).transpose(2, 3)

    def _after(self, name: str, x: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        """The stream after a sublayer; normalised where the norm comes after."""
        return self._normalised(name, x + added) if self.architecture.normalisation == "post" else x + added

    def _normalised(self, name: str, x: torch.Tensor) -> torch.Tensor:
        gain, bias = (self.weights[f"{name}.{part}"][:, None, None] for part in ("gain", "bias"))
        return functional.layer_norm(x, x.shape[-1:]) * gain + bias


def initialise_decoder(
    architecture: DecoderArchitecture,
    stream: str,
    seeds: Sequence[int],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """A fresh model of every seed: Gaussian matrices of deviation fan_in^(−γ), gains 1, biases 0.

    Every weight has a random stream of its own, (`stream`, its name, seed), drawn on the CPU: models of other exponents have the
    same draws at another scale. Raises ValueError when there is no seed, or
    the architecture asks for added matrices.
    """
    if len(seeds) == 0:
        raise ValueError("seeds is empty; a model needs at least one.")
    weights: dict[str, torch.Tensor] = {}

    def drawn(name: str, *shape: int) -> torch.Tensor:
        generators = [torch_generator(stream, name, seed) for seed in seeds]
        return torch.stack([torch.randn(shape, generator=one, dtype=torch.float64) for one in generators])

    for place, shape in architecture.shapes.items():
        fan_in = shape[0] if place.role in ("embedding", "positions") else shape[1]
        name = architecture.roles.names[place]
        weights[name] = drawn(name, *shape) * fan_in**-architecture.init_exponent
    for name in architecture.norms:
        weights[f"{name}.gain"] = torch.ones(len(seeds), architecture.width)
        weights[f"{name}.bias"] = torch.zeros(len(seeds), architecture.width)
    if architecture.has_added:
        raise ValueError(
            "has_added is True; a fresh decoder has no added matrices, with_added gives it some."
        )
    return Decoder(
        architecture, {name: one.to(device=device, dtype=dtype).clone() for name, one in weights.items()}
    )
