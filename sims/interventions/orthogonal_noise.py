"""Fixed random matrices added to attention's products with trainable factors, so that layers match from the start.

With matrices Z_l of width d, one a layer: value_output of layer l gains β_l Z_l, which makes buffer l; and key_query of layers
l ≥ 1 gains α_l times

- "remembered": Z_{l−1}ᵀ, as we recall the paper's form (Wang et al., arXiv 2405.15302; not checked against its text).
- "corrected": Z_0ᵀ in layer 1 and Z_{l−1} Z_0ᵀ beyond, with which buffer l − 1 of the query meets buffer 0 of the key.
- "identity": the identity, and all Z_l are the identity too: the control.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from sims.models.decoder import Decoder
from sims.streams import torch_generator

NoiseForm = Literal["remembered", "corrected", "identity"]
"""What key_query gains; see the module."""
NoiseKind = Literal["gaussian", "orthogonal"]
"""Entries N(0, 1/d), which are orthogonal entry by entry only, or exactly orthogonal matrices, uniformly distributed."""


def with_noise(
    model: Decoder, form: NoiseForm, kind: NoiseKind, start: float, stream: str, seeds: Sequence[int]
) -> Decoder:
    """The model with noise matrices added, all factors at `start`; factors and matrices are weights of the new model.

    - `seeds`: of the stacked models; each draws from its own (`stream`, "noise.l", seed).

    Raises ValueError, one sentence, for an unknown form or kind, a start that is not finite, or not one seed a model.
    """
    for name, given, allowed in (("noise form", form, NoiseForm), ("noise kind", kind, NoiseKind)):
        if given not in get_args(allowed):
            raise ValueError(f"{name} is {given!r}; it must be one of {', '.join(get_args(allowed))}.")
    if not math.isfinite(start):
        raise ValueError(f"start is {start}; it must be finite.")
    if len(seeds) != model.n_seeds:
        raise ValueError(f"seeds has {len(seeds)} entries; it must have {model.n_seeds}, one a model.")
    like = model.weights["embedding"]
    matrices = [
        torch.stack([_drawn(form, kind, like.shape[-1], stream, layer, seed) for seed in seeds])
        for layer in range(model.architecture.n_layers)
    ]
    for layer, fixed in enumerate(matrices):
        model = model.with_added("value_output", layer, fixed.to(like))
        if layer:
            before, first = matrices[layer - 1], matrices[0]
            crossed = form == "corrected" and layer > 1
            model = model.with_added(
                "key_query", layer, (before @ first.mT if crossed else before.mT).to(like)
            )
    factors = torch.full((len(seeds), len(matrices)), start, dtype=like.dtype, device=like.device)
    return model.with_weights({"key_query_factor": factors, "value_output_factor": factors.clone()})


def _drawn(form: str, kind: str, width: int, stream: str, layer: int, seed: int) -> torch.Tensor:
    if form == "identity":
        return torch.eye(width, dtype=torch.float64)
    generator = torch_generator(stream, f"noise.{layer}", seed)
    drawn = torch.randn(width, width, generator=generator, dtype=torch.float64)
    if kind == "gaussian":
        return drawn / math.sqrt(width)
    orthogonal, upper = torch.linalg.qr(drawn)
    return orthogonal * upper.diagonal().sign()
