"""Small decoders for tests: a Hypothesis strategy of their architectures, and the same mathematics as plain loops."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from sims.models.decoder import Decoder, DecoderArchitecture, initialise_decoder
from sims.streams import torch_generator

NORMALISATIONS = ("pre", "post", "none")
OUTPUTS = ("trained", "tied")
PRODUCTS = ("key_query", "value_output")
NORM_FLOOR = 1e-5
"""What PyTorch's layer normalisation adds to the variance."""
ROUNDING = 1e-10
"""float64, relative to the largest number where that is above 1. Norms enlarge roundings where a deviation is small: among 800
models of the strategy the largest deviation was 2e-14."""


@st.composite
def architectures(draw: st.DrawFn, **fixed: Any) -> DecoderArchitecture:
    """An architecture of up to three layers with sizes of a few units, some of its fields `fixed`."""
    heads = draw(st.integers(1, 3)) if "n_heads" not in fixed else fixed["n_heads"]
    fields: dict[str, Any] = {
        "vocabulary_size": draw(st.integers(2, 6)),
        "context_length": draw(st.integers(1, 5)),
        "width": draw(st.integers(2, 6)),
        "n_layers": draw(st.integers(1, 3)),
        "n_heads": heads,
        "attention_width": heads * draw(st.integers(1, 3)),
        "feed_forward_width": draw(st.sampled_from([0, 1, 5])),
        "normalisation": draw(st.sampled_from(NORMALISATIONS)),
        "causal": draw(st.booleans()),
        "output": draw(st.sampled_from(OUTPUTS)),
        "init_exponent": draw(st.sampled_from([0.4, 0.6])),
    }
    return DecoderArchitecture(**{**fields, **fixed})


def drawn(architecture: DecoderArchitecture, seeds: Sequence[int] = (0,), added: bool = False) -> Decoder:
    """A model in float64 whose gains and biases are random too, each seed's own; with matrices added to every layer or none.

    The added matrices are small, so that a stream without norms stays so.
    """
    model = initialise_decoder(architecture, "test", seeds, dtype=torch.float64)

    def moved(name: str, one: torch.Tensor) -> torch.Tensor:
        rows = [torch_generator("test", name, seed) for seed in seeds]
        return one + torch.stack(
            [torch.randn(one.shape[1:], generator=row, dtype=torch.float64) / 3 for row in rows]
        )

    if added:
        for layer, product in itertools.product(range(architecture.n_layers), PRODUCTS):
            zero = torch.zeros(len(seeds), architecture.width, architecture.width, dtype=torch.float64)
            matrix = moved(f"{product} {layer}", zero) / architecture.width**0.5
            model = model.with_added(product, layer, matrix)
    plain = {str(place).replace(" ", ".") for place in architecture.shapes}
    return model.with_weights(
        {name: moved(name, one) for name, one in model.weights.items() if name not in plain}
    )


def with_architecture(model: Decoder, **fields: Any) -> Decoder:
    """The same weights in another architecture."""
    return replace(model, architecture=replace(model.architecture, **fields))


def normalised(x: np.ndarray, gain: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """One vector's layer normalisation."""
    mean = sum(x) / len(x)
    variance = sum((x - mean) ** 2) / len(x)
    return (x - mean) / (variance + NORM_FLOOR) ** 0.5 * gain + bias


def by_loop(
    model: Decoder, seed: int, tokens: Sequence[int], forbidden: Mapping[int, np.ndarray] | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits (T, vocabulary) and each layer's attention (heads, T, T) of one sequence: position by position, head by head.

    - `forbidden`: by layer, which query (row) must not read which key (column).
    """
    shape = model.architecture
    weights = {name: one[seed].detach().double().numpy() for name, one in model.weights.items()}
    size = shape.attention_width // shape.n_heads

    def norm(name: str, x: np.ndarray, when: str) -> np.ndarray:
        if shape.normalisation != when:
            return x
        return normalised(x, weights[f"{name}.gain"], weights[f"{name}.bias"])

    x = [weights["embedding"][token] + weights["positions"][place] for place, token in enumerate(tokens)]
    attentions = []
    for layer in range(shape.n_layers):
        read = [norm(f"attention_norm.{layer}", one, "pre") for one in x]
        attention = np.zeros((shape.n_heads, len(x), len(x)))
        plus = {product: np.zeros((shape.width, shape.width)) for product in PRODUCTS}
        if shape.has_added:
            for product in PRODUCTS:
                plus[product] = weights[f"{product}_factor"][layer] * weights[f"{product}_added.{layer}"]
        moved = [one.copy() for one in x]
        for head in range(shape.n_heads):
            rows = range(head * size, (head + 1) * size)
            queries, keys, values = (
                [weights[f"{role}.{layer}"][rows] @ one for one in read] for role in ("query", "key", "value")
            )
            for place in range(len(x)):
                seen = [
                    other
                    for other in range(len(x))
                    if (other <= place or not shape.causal)
                    and not (forbidden and layer in forbidden and forbidden[layer][place, other])
                ]
                scores = [
                    float(queries[place] @ keys[other] + read[place] @ plus["key_query"] @ read[other])
                    for other in seen
                ]
                shares = np.exp([(score - max(scores)) / size**0.5 for score in scores])
                for other, share in zip(seen, shares / shares.sum(), strict=True):
                    attention[head, place, other] = share
                    moved[place] += share * (
                        weights[f"attention_output.{layer}"][:, rows] @ values[other]
                        + plus["value_output"] @ read[other] / shape.n_heads
                    )
        after = []
        for new in moved:
            new = norm(f"attention_norm.{layer}", new, "post")
            if shape.feed_forward_width:
                inner = norm(f"feed_forward_norm.{layer}", new, "pre")
                hidden = np.maximum(weights[f"feed_forward_in.{layer}"] @ inner, 0)
                new = new + weights[f"feed_forward_out.{layer}"] @ hidden
                new = norm(f"feed_forward_norm.{layer}", new, "post")
            after.append(new)
        x = after
        attentions.append(attention)
    unembedding = weights["embedding" if shape.output == "tied" else "unembedding"]
    return np.array([unembedding @ norm("final_norm", one, "pre") for one in x]), attentions


def tokens_of(architecture: DecoderArchitecture, *shape: int, key: int = 0) -> torch.Tensor:
    """Tokens of any kind, of this shape."""
    generator = torch.Generator().manual_seed(key)
    return torch.randint(architecture.vocabulary_size, shape, generator=generator)


def close(found: torch.Tensor, expected: Any, tolerance: float = ROUNDING) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(expected), rtol=0, atol=tolerance)


def check_against_loops(model: Decoder, tokens: torch.Tensor) -> None:
    architecture = model.architecture
    logits, attentions = model.trace(tokens)
    assert torch.equal(model.logits(tokens), logits)
    assert logits.shape == (*tokens.shape, architecture.vocabulary_size)
    assert len(attentions) == architecture.n_layers
    for seed, place in itertools.product(range(tokens.shape[0]), range(tokens.shape[1])):
        expected, looks = by_loop(model, seed, tokens[seed, place].tolist())
        close(logits[seed, place], expected, ROUNDING * max(1.0, np.abs(expected).max()))
        for attention, look in zip(attentions, looks, strict=True):
            assert attention.shape[2:] == (architecture.n_heads, tokens.shape[2], tokens.shape[2])
            close(attention[seed, place], look)
