"""The role table of every family: each slice is checked by computing by hand what it should compute."""

import re
from typing import Any, NamedTuple

import pytest
import torch

from sims.models.language_families import FAMILIES, Part, family_of
from sims.models.language_model import LanguageModel, matrix, view
from sims.roles import LAYER_ROLES, Place
from tests.sims import tiny_language_models as tiny_models
from tests.sims.tiny_language_models import FAMILY_NAMES, N_LAYERS, tiny

pytest.importorskip("transformers", reason="pretrained models need the extra 'pretrained'")

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
ROUNDING = 1e-5
"""The library turns queries and keys by sines and cosines in float32 (6e-8 each); values are of order 10, the rest is float64."""


class Blocks(NamedTuple):
    """Where a block's modules are, and how its heads read; written from the papers, not from the role table.

    - `attention`, `joined`: the attention module, and the one that takes the joined outputs of all heads.
    - `first`, `second`: modules of the feed-forward; `gate` with a third. `pairs`: which entries a rotation turns together.
    """

    attention: str
    joined: str
    first: str
    second: str
    activation: Any
    pairs: str = ""
    rotated: int = 0
    gate: str = ""


def gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def exact_gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


BLOCKS = {
    "gpt_neox": Blocks(
        "gpt_neox.layers.{}.attention", "gpt_neox.layers.{}.attention.dense", "gpt_neox.layers.{}.mlp.dense_h_to_4h",
        "gpt_neox.layers.{}.mlp.dense_4h_to_h", exact_gelu, "halves", 2,
    ),
    "gpt2": Blocks(
        "transformer.h.{}.attn", "transformer.h.{}.attn.c_proj", "transformer.h.{}.mlp.c_fc",
        "transformer.h.{}.mlp.c_proj", gelu,
    ),
    "gptj": Blocks(
        "transformer.h.{}.attn", "transformer.h.{}.attn.out_proj", "transformer.h.{}.mlp.fc_in",
        "transformer.h.{}.mlp.fc_out", gelu, "neighbours", 2,
    ),
    "opt": Blocks(
        "model.decoder.layers.{}.self_attn", "model.decoder.layers.{}.self_attn.out_proj",
        "model.decoder.layers.{}.fc1", "model.decoder.layers.{}.fc2", torch.relu,
    ),
    "llama": Blocks(
        "model.layers.{}.self_attn", "model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.up_proj",
        "model.layers.{}.mlp.down_proj", lambda x: x * torch.sigmoid(x), "halves", 6, "model.layers.{}.mlp.gate_proj",
    ),
}  # fmt: skip


def captured(model: LanguageModel, *modules: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(input, output) of each module in one pass over `TOKENS`, without the axis of the batch."""
    found, handles = {}, []
    for name in modules:

        def keep(_: Any, given: Any, kept: Any, made: Any, name: str = name) -> None:
            hidden = given[0] if given else kept["hidden_states"]
            output = made[0] if isinstance(made, tuple) else made
            found[name] = tuple(one.detach().reshape(-1, one.shape[-1]) for one in (hidden, output))

        handles.append(model.network.get_submodule(name).register_forward_hook(keep, with_kwargs=True))
    with torch.no_grad():
        model.network(TOKENS)
    for one in handles:
        one.remove()
    return found


def turned(x: torch.Tensor, blocks: Blocks) -> torch.Tensor:
    """Rotary positions by complex numbers: pair k of position t is turned by t·10000^(−2k/r); x is (T, head size)."""
    if not blocks.pairs:
        return x
    size = blocks.rotated
    first, second = (
        (x[:, : size // 2], x[:, size // 2 : size])
        if blocks.pairs == "halves"
        else (x[:, 0:size:2], x[:, 1:size:2])
    )
    angles = torch.arange(len(x))[:, None] * 10000.0 ** (-2 * torch.arange(size // 2) / size)
    both = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    new = x.clone()
    if blocks.pairs == "halves":
        new[:, : size // 2], new[:, size // 2 : size] = both.real, both.imag
    else:
        new[:, 0:size:2], new[:, 1:size:2] = both.real, both.imag
    return new


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_a_head_computed_by_hand_from_its_rows_is_the_library_s(family: str, layer: int) -> None:
    """Softmax of query against key over the past, applied to value: head by head, with nothing but rows of three matrices."""
    model, blocks = tiny(family), BLOCKS[family]
    attention, joined = blocks.attention.format(layer), blocks.joined.format(layer)
    with torch.no_grad():  # biases belong to no role; without them rows alone must give the head
        for name, one in model.network.get_submodule(attention).named_parameters():
            if name.endswith("bias"):
                one.zero_()
    found = captured(model, attention, joined)
    x = found[attention][0]
    query, key, value, output = (
        matrix(model, Place(role, layer)) for role in ("query", "key", "value", "attention_output")
    )
    llama = family == "llama"
    n_heads = tiny_models.LLAMA_HEADS if llama else tiny_models.N_HEADS
    size = tiny_models.LLAMA_HEAD_SIZE if llama else tiny_models.HEAD_SIZE
    shared = n_heads // (tiny_models.LLAMA_GROUPS if llama else n_heads)
    assert query.shape == output.mT.shape == (n_heads * size, tiny_models.WIDTH)
    assert key.shape == value.shape == (n_heads * size // shared, tiny_models.WIDTH)
    added = torch.zeros_like(found[joined][1])
    for head in range(n_heads):
        rows = slice(head * size, (head + 1) * size)
        group = slice(head // shared * size, (head // shared + 1) * size)
        queries, keys = turned(x @ query[rows].mT, blocks), turned(x @ key[group].mT, blocks)
        scores = (queries @ keys.mT / size**0.5).masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
        head_output = torch.softmax(scores, dim=-1) @ (x @ value[group].mT)
        torch.testing.assert_close(found[joined][0][:, rows], head_output, rtol=0, atol=ROUNDING)
        assert head_output.std() > 0.1  # so that the tolerance tells heads apart
        added += head_output @ output[:, rows].mT
    torch.testing.assert_close(found[joined][1], added, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_the_feed_forward_computed_by_hand_is_the_library_s(family: str, layer: int) -> None:
    model, blocks = tiny(family), BLOCKS[family]
    first, second = blocks.first.format(layer), blocks.second.format(layer)
    found = captured(model, first, second)

    def bias(name: str) -> torch.Tensor | float:
        one = getattr(model.network.get_submodule(name), "bias", None)
        return 0.0 if one is None else one

    x = found[first][0]
    hidden = x @ matrix(model, Place("feed_forward_in", layer)).mT + bias(first)
    if blocks.gate:
        hidden = hidden * blocks.activation(
            x @ model.network.get_submodule(blocks.gate.format(layer)).weight.mT
        )
    else:
        hidden = blocks.activation(hidden)
    output = hidden @ matrix(model, Place("feed_forward_out", layer)).mT + bias(second)
    torch.testing.assert_close(found[second][1], output, rtol=0, atol=1e-11)  # float64, values below 100


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_embeddings_have_a_row_a_token_and_a_row_a_position(family: str) -> None:
    model = tiny(family)
    with torch.no_grad():
        found = model.network(TOKENS, output_hidden_states=True)
        stream = matrix(model, Place("embedding"))[TOKENS[0]]
        if model.roles.has("positions"):
            stream = stream + matrix(model, Place("positions"))[: TOKENS.shape[1]]
        assert torch.equal(found.hidden_states[0][0], stream)
        logits = found.hidden_states[-1][0] @ matrix(model, Place("unembedding")).mT
        logits = logits + (model.network.lm_head.bias if family == "gptj" else 0)
    tolerance = (
        1e-5 if family == "gptj" else 1e-12
    )  # float64, one product; some versions give float32 for GPT-J
    torch.testing.assert_close(found.logits[0].double(), logits, rtol=0, atol=tolerance)
    assert model.roles.has("positions") == (family in ("gpt2", "opt"))
    assert matrix(model, Place("unembedding")).shape == (tiny_models.ROWS, tiny_models.WIDTH)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_places_share_out_the_matrices_of_the_blocks(family: str) -> None:
    """Every entry of every matrix of a block is at one place exactly, but the gate of Llama, which has no role."""
    model = tiny(family)
    seen = {name: torch.zeros_like(one) for name, one in model.network.named_parameters()}
    for place in model.roles.places():
        if place.layer is not None:
            name = model.roles.names[place]
            model.family.part(place).view(seen[name], model.n_heads).add_(1)
    matrices = {
        name
        for name, one in model.network.named_parameters()
        if one.ndim == 2 and re.search(r"\.\d+\.", name)
    }
    assert len(matrices) == {"gpt_neox": 4, "gpt2": 4, "gptj": 6, "opt": 6, "llama": 7}[family] * N_LAYERS
    for name, times in seen.items():
        expected = name in matrices and "gate_proj" not in name
        assert bool((times == float(expected)).all()), name
    assert set(model.roles.places(layers=[1])) == {Place(role, 1) for role in LAYER_ROLES}


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_view_is_the_model_s_own_memory(family: str) -> None:
    model = tiny(family)
    for place in model.roles.places():
        own = model.network.get_parameter(model.roles.names[place])
        here = view(model, place)
        assert here.untyped_storage().data_ptr() == own.untyped_storage().data_ptr()
        assert not here.requires_grad
        assert torch.equal(here.flatten(0, 1), matrix(model, place))
        gathered = family == "gpt_neox" and place.role in ("query", "key", "value")
        assert here.shape[0] == (model.n_heads if gathered else 1)
        assert (matrix(model, place).data_ptr() == here.data_ptr()) == (not gathered)


def test_what_a_family_lacks_is_told() -> None:
    model = tiny("llama")
    for place, answer in (
        (Place("positions"), "place is 'positions'; the model turns queries and keys by their position, and has no "
         "position embedding."),
        (Place("value_output", 1), "place is 'value_output 1'; every head has an attention of its own, so value and "
         "attention_output are two matrices."),
        (Place("key_query", 0), "place is 'key_query 0'; key and query are two matrices."),
        (Place("query", 2), "layer is 2; it must be an integer from 0 to 1."),
        (Place("query"), "layer is None; it must be an integer from 0 to 1."),
        (Place("embedding", 0), "layer is 0 with role 'embedding'; it must be None, as it has no layer."),
        (Place("gate", 0), "role is 'gate'; it must be one of "),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{re.escape(answer)}"):
            matrix(model, place)


def test_an_unknown_family_is_told() -> None:
    for given in ("bert", None, 3, ["gpt2"]):
        with pytest.raises(
            ValueError,
            match=f"^{re.escape(f'model_type of the model is {given!r}; it must be one of gpt_neox, ')}",
        ):
            family_of(given)
    for name in FAMILIES:
        assert family_of(name).name == name


def test_a_missing_parameter_is_told_and_an_older_name_is_found() -> None:
    part = Part("new.{layer}.weight", formerly="old.{layer}.weight")
    assert part.name(3, ["old.3.weight"]) == "old.3.weight"
    assert part.name(3, ["old.3.weight", "new.3.weight"]) == "new.3.weight"
    with pytest.raises(
        ValueError, match=r"^parameter is 'new\.3\.weight'; the model must have it, and does not\.$"
    ):
        part.name(3, ["new.2.weight"])
