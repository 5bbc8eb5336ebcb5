"""Makes golden_transformer.json, the official module's logits with weights of ours; run by hand, no test runs it.

    git clone https://github.com/leichen2018/ATTN_vs_MLP
    python -m tests.sims.golden_transformer ATTN_vs_MLP

The module casts its attention, ReLU and logits to float32. Here `Tensor.float` is made to do nothing while it runs, so that all
is float64 and the comparison is sharp; nothing else is altered, and none of its code is kept. It ignores `no_residual` in a block
that has a feed-forward, so that such combinations are left out. It has no trained query.

The weights are no torch draws, which may change with torch's version, but raw bits of numpy's PCG64, whose stream numpy keeps.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sims.models.transformer import Architecture, Transformer, sinusoidal_positions

GOLDEN = Path(__file__).with_suffix(".json")
SOURCE = "ihead_basic_model.py"
SIZES = {"vocabulary_size": 9, "context_length": 10, "width": 8}
SEED = 20240605
POSITIONS = (0, 4, 9)
OFFICIAL = {"key": "attention.wk", "value": "attention.wv", "attention_output": "attention.wo"}


def uniform(shape: tuple[int, ...], bits: np.random.PCG64) -> torch.Tensor:
    """Numbers in [−1, 1), float64: the upper 53 of 64 random bits."""
    raw = np.asarray(bits.random_raw(math.prod(shape)), dtype=np.uint64)
    return torch.from_numpy((raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1).reshape(shape)


def golden_model(architecture: Architecture, seed: int) -> Transformer:
    """A model of one seed: all embeddings of variance 1, all else uniform in ±1/√fan_in, drawn in the order of the weights."""
    bits = np.random.PCG64(seed)
    weights = {}
    for place, shape in architecture.shapes.items():
        scale = math.sqrt(3) if place.role in ("embedding", "positions") else 1 / math.sqrt(shape[1])
        drawn = scale * uniform(shape, bits)
        sines = place.role == "positions" and architecture.positions == "sinusoidal"
        weights[architecture.roles.names[place]] = (sinusoidal_positions(*shape) if sines else drawn)[None]
    return Transformer(architecture, weights)


def golden_tokens(seed: int, batch: int = 2) -> torch.Tensor:
    """Sequences of tokens (batch, T) that fill the context, as the official module needs."""
    shape = (batch, SIZES["context_length"])
    return ((uniform(shape, np.random.PCG64(seed + 1)) + 1) / 2 * SIZES["vocabulary_size"]).long()


def combinations() -> Iterator[Architecture]:
    """All that the official module honours."""
    for *kinds, positions, last in itertools.product(
        *[("none", "linear", "relu")] * 2, ("random", "sinusoidal"), (True, False)
    ):
        if last or kinds[1] == "none":
            yield Architecture(**SIZES, feed_forward=tuple(kinds), residual=(True, last), positions=positions)


@contextmanager
def in_double() -> Iterator[None]:
    """Make float64 the default type and `Tensor.float` the identity."""
    cast, kind = torch.Tensor.float, torch.get_default_dtype()
    torch.Tensor.float = lambda self: self  # type: ignore[method-assign]
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.Tensor.float = cast  # type: ignore[method-assign]
        torch.set_default_dtype(kind)


def official_logits(official: Any, model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """Logits (batch, T, vocabulary) of the official module with the weights of `model`; sinusoids are its own."""
    shape, weights = model.architecture, model.weights
    first, final = shape.feed_forward
    arguments = official.ModelArgs(
        vocab_size=shape.vocabulary_size,
        dim=shape.width,
        max_length=shape.context_length,
        mlp_multiplier=shape.hidden_multiplier,
        first_ffn=first != "none",
        final_ffn=final != "none",
        linear_first_ffn=first == "linear",
        linear_final_ffn=final == "linear",
        sin_cos=shape.positions == "sinusoidal",
    )
    module = official.Transformer(arguments).double()
    state = module.state_dict()
    ours = {"tok_embeddings.weight": "embedding", "output.weight": "unembedding"}
    if shape.positions == "random":
        ours["pe"] = "positions"
    for layer, kind in enumerate(shape.feed_forward):
        ours |= {f"layers.{layer}.{name}.weight": f"{role}.{layer}" for role, name in OFFICIAL.items()}
        if kind == "linear":
            ours[f"layers.{layer}.ff.weight"] = f"feed_forward_out.{layer}"
        elif kind == "relu":
            ours[f"layers.{layer}.ff.w1.weight"] = f"feed_forward_in.{layer}"
            ours[f"layers.{layer}.ff.w2.weight"] = f"feed_forward_out.{layer}"
    not_weights = {"pe", "freqs_cis"}
    if ours.keys() - not_weights != state.keys() - not_weights or {*ours.values(), "positions"} != {*weights}:
        raise ValueError(f"weights are {sorted(weights)}; the official module has {sorted(state)}.")
    module.load_state_dict({**state, **{name: weights[one][0] for name, one in ours.items()}})
    with torch.no_grad():
        return module(tokens, no_residual=not shape.residual[1])


def make(folder: Path) -> dict[str, Any]:
    """The content of the golden file from a checkout of the official code."""
    path = folder / SOURCE
    spec = importlib.util.spec_from_file_location("official", path)
    assert spec is not None
    assert spec.loader is not None
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)
    tokens = golden_tokens(SEED)
    cases = []
    for place, architecture in enumerate(combinations()):
        with in_double():
            found = official_logits(official, golden_model(architecture, SEED + 100 * place), tokens)
        assert found.dtype == torch.float64
        cases.append(
            {
                "feed_forward": architecture.feed_forward,
                "residual": architecture.residual,
                "positions": architecture.positions,
                "seed": SEED + 100 * place,
                "logits": found[:, POSITIONS].tolist(),  # JSON holds a float64 to its last bit
            }
        )
    return {
        "source": f"github.com/leichen2018/ATTN_vs_MLP, {SOURCE}, run in float64",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "sizes": SIZES,
        "tokens": tokens.tolist(),
        "at": POSITIONS,
        "cases": cases,
    }


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / SOURCE).is_file():
        sys.exit(f"usage: python -m tests.sims.golden_transformer FOLDER, where FOLDER has {SOURCE}")
    content = make(Path(sys.argv[1]))
    text = json.dumps(content, separators=(",", ":"))
    for start in ('"cases":', '{"feed_forward":', '"logits":'):
        text = text.replace(start, "\n" + start)
    GOLDEN.write_text(text + "\n", encoding="utf-8")
    print(f"{GOLDEN}: {len(content['cases'])} cases, {GOLDEN.stat().st_size} bytes")
