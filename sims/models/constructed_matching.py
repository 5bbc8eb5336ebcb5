"""A decoder whose weights are written down, not trained: it follows chains by matching one layer's buffer with another's.

Sentences start with a token of their own (`START`), whose embedding is zero. Tokens and positions have independent random unit
vectors. Layer 0 lets the right token of each pair read its left one, by positions. Layer l ≥ 1 compares what the last layer
read (layer 1: the raw token) with buffer 0, the image of layer 0's value-output matrix. Only these matrices are random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from sims.models.decoder import Decoder, DecoderArchitecture
from sims.streams import torch_generator

Kind = Literal["orthogonal", "gaussian"]
"""Value-output matrices: uniformly distributed orthogonal ones, or entries N(0, 1/d)."""
START = 0
"""Token at position 0 of every sentence. The others are counted from 1."""


def sources(length: int) -> torch.Tensor:
    """Position that each of `length` positions reads in layer 0, int64: position 0, and for right tokens the one before."""
    found = torch.zeros(length, dtype=torch.int64)
    found[2 : length - 1 : 2] = torch.arange(1, length - 2, 2)
    return found


def other_edges(length: int) -> torch.Tensor:
    """The edges that layer 0 must not use, bool (length, length): without them it reads `sources`, whatever its weights."""
    edges = torch.ones(length, length, dtype=torch.bool)
    edges[torch.arange(length), sources(length)] = False
    return edges


def constructed_matching(
    n_layers: int,
    width: int,
    n_tokens: int,
    length: int,
    strength: float,
    positions: bool,
    kind: Kind,
    stream: str,
    seeds: Sequence[int],
) -> Decoder:
    """The construction, one draw a seed, float32: attention alone, without normalisation.

    - `n_tokens`: tokens besides `START`. `length`: positions of a sentence, even.
    - `strength`: a right match adds so much to a score, softmax's division by √d undone. `positions`: whether there are position
      vectors; without them forbid `other_edges` in layer 0.
    - `kind`: see `Kind`. `stream`, `seeds`: each seed draws from its own streams (`stream`, purpose, seed).

    Cost: n_layers decompositions of d × d a seed. Raises ValueError for an unknown kind.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(get_args(Kind))}.")
    architecture = DecoderArchitecture(
        n_tokens + 1,
        length,
        width,
        n_layers,
        attention_width=width,
        feed_forward_width=0,
        normalisation="none",
    )

    def drawn(purpose: str, rows: int) -> torch.Tensor:
        generators = [torch_generator(stream, purpose, seed) for seed in seeds]
        return torch.stack([torch.randn(rows, width, generator=one) for one in generators])

    def unit(purpose: str, rows: int) -> torch.Tensor:
        return torch.nn.functional.normalize(drawn(purpose, rows), dim=-1)

    values = []
    for layer in range(n_layers):
        matrices = drawn(f"value_output.{layer}", width)
        if kind == "gaussian":
            values.append(matrices / math.sqrt(width))
        else:
            orthogonal, upper = torch.linalg.qr(matrices)
            values.append(orthogonal * upper.diagonal(dim1=-2, dim2=-1).sign()[:, None])
    embedding = unit("embedding", n_tokens + 1)
    embedding[:, START] = 0
    places = unit("positions", length) * float(positions)
    own = torch.eye(width).expand(len(seeds), -1, -1)
    reads = sources(length)[1:]  # position 0 reads itself anyway
    kernels = [places[:, 1:].mT @ places[:, reads], values[0].mT]
    kernels += [values[layer - 1] @ values[0].mT for layer in range(2, n_layers)]
    weights = {
        "embedding": embedding,
        "positions": places,
        # The logit of token t is e_tᵀ W_vo(L − 1)ᵀ x.
        "unembedding": embedding @ values[-1].mT,
    }
    for layer in range(n_layers):
        weights |= {
            f"query.{layer}": own,
            f"key.{layer}": strength * math.sqrt(width) * kernels[layer],
            f"value.{layer}": values[layer],
            f"attention_output.{layer}": own,
        }
    return Decoder(architecture, weights)
