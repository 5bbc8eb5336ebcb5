"""Families of pretrained language models: where the matrix of each role lies among the parameters of the library's model.

One row a family. A part is a parameter, or some of its rows: GPT-NeoX and GPT-2 hold query, key and value in one parameter,
GPT-2 stores every matrix of a block transposed. The rows of a query, key or value are sorted by head: head h has rows
h·s to (h + 1)·s, with s the head's size; the columns of an attention output are sorted so too.

The feed-forward of Llama has three matrices, out = down · (activation(gate · x) ⊙ up · x). "feed_forward_in" is up and
"feed_forward_out" is down; gate has no role and cannot be reached. Its key and value have fewer heads than its query where
heads are grouped, and fewer rows then. Biases belong to no role: with a zero matrix they still act.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from sims.roles import Place, RoleTable


@dataclass(frozen=True)
class Part:
    """Where a matrix lies.

    - `parameter`: the name, with {layer} in place of the layer's number.
    - `transposed`: whether it is stored as (in, out).
    - `part`, `parts`: the parameter holds `parts` matrices of equal height, and this is number `part` of them.
    - `by_head`: whether these alternate head by head (all of head 0, then all of head 1) instead of one after another.
    - `skipped`: rows at the start that are not used.
    - `formerly`: the parameter's name in other versions of the library; empty when it has had but one.
    """

    parameter: str
    transposed: bool = False
    part: int = 0
    parts: int = 1
    by_head: bool = False
    skipped: int = 0
    formerly: str = ""

    def name(self, layer: int | None, available: Collection[str]) -> str:
        """The parameter's name among those of a model. Raises ValueError, one sentence, when it is not there."""
        names = [one.format(layer=layer) for one in (self.parameter, self.formerly) if one]
        for one in names:
            if one in available:
                return one
        raise ValueError(f"parameter is {names[0]!r}; the model must have it, and does not.")

    def view(self, parameter: torch.Tensor, n_heads: int) -> torch.Tensor:
        """The matrix in the parameter's own memory, shape (groups, out / groups, in): `flatten(0, 1)` is the matrix.

        There is one group, or one a head where matrices alternate head by head. No gradient flows through it.
        """
        whole = parameter.detach()
        whole = (whole.mT if self.transposed else whole)[self.skipped :]
        return whole.unflatten(0, (n_heads if self.by_head else 1, self.parts, -1))[:, self.part]


@dataclass(frozen=True)
class Family:
    """A family: its name in config.json (`model_type`), and the part of every role that it has.

    - `model`, `layer`: parts of the roles of the whole model and of each layer.
    - `absent`: roles that it lacks, each with the reason.
    """

    name: str
    model: Mapping[str, Part]
    layer: Mapping[str, Part]
    absent: Mapping[str, str]

    def part(self, place: Place) -> Part:
        """Where the matrix of a place lies. Raises KeyError for a role that the family lacks."""
        return self.model[place.role] if place.layer is None else self.layer[place.role]

    def roles(self, n_layers: int, available: Collection[str]) -> RoleTable:
        """The role table of a model of this family, which has these parameters. A fused one stands at several places.

        Raises ValueError, one sentence, when one of them is missing.
        """
        names = {Place(role): part.name(None, available) for role, part in self.model.items()}
        absent = {Place(role): reason for role, reason in self.absent.items() if role not in NO_SINGLE_MATRIX}
        for layer in range(n_layers):
            for role, part in self.layer.items():
                names[Place(role, layer)] = part.name(layer, available)
            for role, reason in NO_SINGLE_MATRIX.items():
                absent[Place(role, layer)] = reason
        return RoleTable(names, absent)


NO_SINGLE_MATRIX = {
    "value_output": "every head has an attention of its own, so value and attention_output are two matrices",
    "key_query": "key and query are two matrices",
}
"""Products that surgery on the toy models can treat as one matrix, and why they are none here."""
ROTARY = {"positions": "the model turns queries and keys by their position, and has no position embedding"}


def _plain(block: str, **names: str) -> dict[str, Part]:
    return {role: Part(f"{block}.{{layer}}.{name}.weight") for role, name in names.items()}


def _fused(parameter: str, *, transposed: bool = False, by_head: bool = False) -> dict[str, Part]:
    roles = ("query", "key", "value")
    return {role: Part(parameter, transposed, part, len(roles), by_head) for part, role in enumerate(roles)}


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "gpt_neox",
            {
                "embedding": Part("gpt_neox.embed_in.weight"),
                "unembedding": Part("lm_head.weight", formerly="embed_out.weight"),
            },
            _fused("gpt_neox.layers.{layer}.attention.query_key_value.weight", by_head=True)
            | _plain(
                "gpt_neox.layers",
                attention_output="attention.dense",
                feed_forward_in="mlp.dense_h_to_4h",
                feed_forward_out="mlp.dense_4h_to_h",
            ),
            ROTARY,
        ),
        Family(
            "gpt2",
            {
                "embedding": Part("transformer.wte.weight"),
                "positions": Part("transformer.wpe.weight"),
                "unembedding": Part("lm_head.weight"),
            },
            _fused("transformer.h.{layer}.attn.c_attn.weight", transposed=True)
            | {
                "attention_output": Part("transformer.h.{layer}.attn.c_proj.weight", transposed=True),
                "feed_forward_in": Part("transformer.h.{layer}.mlp.c_fc.weight", transposed=True),
                "feed_forward_out": Part("transformer.h.{layer}.mlp.c_proj.weight", transposed=True),
            },
            {},
        ),
        Family(
            "gptj",
            {"embedding": Part("transformer.wte.weight"), "unembedding": Part("lm_head.weight")},
            _plain(
                "transformer.h",
                query="attn.q_proj",
                key="attn.k_proj",
                value="attn.v_proj",
                attention_output="attn.out_proj",
                feed_forward_in="mlp.fc_in",
                feed_forward_out="mlp.fc_out",
            ),
            ROTARY,
        ),
        Family(
            "opt",
            {
                "embedding": Part("model.decoder.embed_tokens.weight"),
                "positions": Part("model.decoder.embed_positions.weight", skipped=2),
                "unembedding": Part("lm_head.weight"),
            },
            _plain(
                "model.decoder.layers",
                query="self_attn.q_proj",
                key="self_attn.k_proj",
                value="self_attn.v_proj",
                attention_output="self_attn.out_proj",
                feed_forward_in="fc1",
                feed_forward_out="fc2",
            ),
            {},
        ),
        Family(
            "llama",
            {"embedding": Part("model.embed_tokens.weight"), "unembedding": Part("lm_head.weight")},
            _plain(
                "model.layers",
                query="self_attn.q_proj",
                key="self_attn.k_proj",
                value="self_attn.v_proj",
                attention_output="self_attn.o_proj",
                feed_forward_in="mlp.up_proj",
                feed_forward_out="mlp.down_proj",
            ),
            ROTARY,
        ),
    )
}
"""Every family by its name."""


def family_of(model_type: object) -> Family:
    """The family of this name. Raises ValueError, one sentence, for an unknown one."""
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    raise ValueError(
        f"model_type of the model is {model_type!r}; it must be one of {', '.join(FAMILIES)} (another family is one row "
        "of sims/models/language_families.py)."
    )
