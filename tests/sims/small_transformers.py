"""Small transformers for tests: a Hypothesis strategy of their architectures, and the same mathematics as plain loops."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from sims.models.transformer import Architecture, Transformer, initialise
from sims.roles import Model

FEED_FORWARDS = ("none", "linear", "relu")


@st.composite
def architectures(draw: st.DrawFn, max_layers: int = 3, **fixed: Any) -> Architecture:
    """An architecture of up to `max_layers` blocks with sizes of a few units, some of its fields `fixed`."""
    positions = draw(st.sampled_from(["random", "sinusoidal"]))
    kinds = draw(st.lists(st.sampled_from(FEED_FORWARDS), min_size=1, max_size=max_layers))
    width = draw(st.sampled_from([2, 4, 6]) if positions == "sinusoidal" else st.integers(1, 6))
    fields: dict[str, Any] = {
        "vocabulary_size": draw(st.integers(2, 6)),
        "context_length": draw(st.integers(1, 5)),
        "width": width,
        "feed_forward": tuple(kinds),
        "residual": tuple(draw(st.booleans()) for _ in kinds),
        "query": draw(st.sampled_from(["identity", "trained"])),
        "positions": positions,
        "hidden_multiplier": draw(st.integers(1, 3)),
    }
    return Architecture(**{**fields, **fixed})


def drawn(architecture: Architecture, seeds: Sequence[int] = (0,)) -> Transformer:
    """A fresh model in float64."""
    return initialise(architecture, "test", seeds, dtype=torch.float64)


def tokens_of(architecture: Architecture, *shape: int, key: int = 0) -> torch.Tensor:
    """Tokens of any kind, of this shape."""
    generator = torch.Generator().manual_seed(key)
    return torch.randint(architecture.vocabulary_size, shape, generator=generator)


def by_loop(
    model: Transformer, seed: int, tokens: list[int], value_output: Mapping[int, np.ndarray] | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits (T, vocabulary) and each block's attention (T, T) of one sequence, a position at a time.

    - `value_output`: by block, a matrix that takes the place of attention output times value.
    """
    architecture = model.architecture
    weights = {name: one[seed].detach().numpy() for name, one in model.weights.items()}
    products = dict(value_output or {})
    x = [weights["embedding"][token] + weights["positions"][place] for place, token in enumerate(tokens)]
    attentions = []
    for layer, kind in enumerate(architecture.feed_forward):
        after, attention = [], np.zeros((len(x), len(x)))
        for place, own in enumerate(x):
            query = weights[f"query.{layer}"] @ own if architecture.query == "trained" else own
            keys = [weights[f"key.{layer}"] @ one for one in x[: place + 1]]
            shares = np.exp([float(key @ query) / architecture.width**0.5 for key in keys])
            attention[place, : place + 1] = shares / shares.sum()
            new = own.copy() if architecture.residual[layer] else np.zeros_like(own)
            for share, one in zip(attention[place], x, strict=True):
                if layer in products:
                    new += share * (products[layer] @ one)
                else:
                    new += share * (weights[f"attention_output.{layer}"] @ (weights[f"value.{layer}"] @ one))
            if kind == "linear":
                new = new + weights[f"feed_forward_out.{layer}"] @ new
            elif kind == "relu":
                hidden = np.maximum(weights[f"feed_forward_in.{layer}"] @ new, 0)
                new = new + weights[f"feed_forward_out.{layer}"] @ hidden
            after.append(new)
        x = after
        attentions.append(attention)
    return np.array([weights["unembedding"] @ one for one in x]), attentions


def fingerprint(model: Model) -> dict[str, str]:
    """A digest of every weight's bytes, shape and type, to tell that none has changed."""
    return {
        name: hashlib.sha256(
            repr((one.shape, one.dtype, one.requires_grad)).encode() + one.detach().numpy().tobytes()
        ).hexdigest()
        for name, one in model.weights.items()
    }
