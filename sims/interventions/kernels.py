"""Surgery on matching: the part of a key-query matrix by which a layer matches, taken out or kept alone; edges to cut."""

from __future__ import annotations

import torch

from sims.models.decoder import Decoder
from sims.probes.matching import Sentences


def matching_product(model: Decoder, layer: int) -> torch.Tensor:
    """B Bᵀ_0 of layer l ≥ 1, (seeds, d, d): B_0 = W_vo of layer 0, and B = W_vo of layer l − 1, or the identity in layer 1.

    It is the direction of W_qk in which the trace of the matching kernel Bᵀ W_qk B_0 grows fastest.
    """
    first = model.value_output(0)
    return first.mT if layer == 1 else model.value_output(layer - 1) @ first.mT


def matching_part(model: Decoder, layer: int) -> torch.Tensor:
    """The projection of W_qk on `matching_product`, (seeds, d, d). Without it the trace of the matching kernel is zero."""
    direction = matching_product(model, layer)
    weight = (model.key_query(layer) * direction).sum((-1, -2)) / direction.square().sum((-1, -2))
    return weight[:, None, None] * direction


def without_matching_part(model: Decoder, layer: int) -> Decoder:
    """The model without it: every other direction of W_qk stays. For models of one head."""
    return model.with_added("key_query", layer, -matching_part(model, layer) + _added(model, layer))


def matching_part_alone(model: Decoder, layer: int) -> Decoder:
    """The model whose W_qk of a layer is its matching part and nothing else."""
    rest = model.key_query(layer) - matching_part(model, layer)
    return model.with_added("key_query", layer, -rest + _added(model, layer))


def without_random_part(model: Decoder, layer: int, generator: torch.Generator) -> Decoder:
    """The control: a matrix of the same norm is taken out, B R Bᵀ_0 with a random orthogonal R in the middle.

    So it lies between the same buffers, and pairs each token with a random direction instead of with itself.
    """
    first, part = model.value_output(0), matching_part(model, layer)
    size = first.shape[-1]
    drawn = torch.randn(size, size, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(drawn)[0].to(first)
    other = rotation @ first.mT if layer == 1 else model.value_output(layer - 1) @ rotation @ first.mT
    ratio = torch.linalg.matrix_norm(part) / torch.linalg.matrix_norm(other)
    return model.with_added("key_query", layer, -ratio[:, None, None] * other + _added(model, layer))


def _added(model: Decoder, layer: int) -> torch.Tensor:
    """What is added to W_qk already."""
    found = model.added("key_query", layer)
    return torch.zeros_like(model.value_output(0)) if found is None else found


def matched_edge(asked: Sentences, layer: int) -> torch.Tensor:
    """The edge from the last position to the slot of step l, bool (seeds, batch, T, T)."""
    return _edge(asked, asked.slots[..., layer - 1])


def other_edge(asked: Sentences, layer: int) -> torch.Tensor:
    """The control: the edge from the last position to the right token of another pair, the first or second of the sentence."""
    slot = asked.slots[..., layer - 1]
    return _edge(asked, torch.where(slot == 1, 3, 1))


def _edge(asked: Sentences, slot: torch.Tensor) -> torch.Tensor:
    length = asked.tokens.shape[-1]
    found = torch.zeros(*slot.shape, length, length, dtype=torch.bool, device=slot.device)
    found[:, :, -1] = torch.arange(length, device=slot.device) == slot[..., None]
    return found
