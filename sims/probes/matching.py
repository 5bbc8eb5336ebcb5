"""What is read off a decoder that follows chains of pairs: accuracy, where its attention rests, and how its buffers match."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from sims.models.decoder import Decoder, DecoderTrace
from sims.tasks.pair_chains import PairChains, draw


class Sentences(NamedTuple):
    """Sentences to ask stacked models, seeds first.

    - `tokens`: int64 (seeds, batch, T). `labels`, `n_steps`: (seeds, batch).
    - `slots`: position of the right token of the pair that leads from step i to step i + 1, (seeds, batch, n_steps); of those
      beyond a sentence's own number of steps too, where the chain goes that far, else of its last pair.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    n_steps: torch.Tensor
    slots: torch.Tensor


def ask(problem: PairChains, n_sentences: int, draws: Sequence[torch.Generator]) -> Sentences:
    """Sentences for each of stacked seeds, from its own generator."""
    drawn = [draw(problem, n_sentences, one) for one in draws]
    steps = torch.arange(problem.n_steps, device=draws[0].device)
    pairs = [(one.start[:, None] + steps).clamp(max=problem.n_pairs - 1) for one in drawn]
    slots = [2 * one.places.gather(1, pair) + 1 for one, pair in zip(drawn, pairs, strict=True)]
    return Sentences(
        torch.stack([one.tokens for one in drawn]),
        torch.stack([one.labels for one in drawn]),
        torch.stack([one.n_steps for one in drawn]),
        torch.stack(slots),
    )


@torch.no_grad()
def correct(model: Decoder, asked: Sentences) -> torch.Tensor:
    """Whether the most likely token after each sentence is its label, bool (seeds, batch)."""
    return model.logits(asked.tokens, last=True)[:, :, 0].argmax(-1) == asked.labels


def edges(trace: DecoderTrace, asked: Sentences) -> torch.Tensor:
    """Mean attention on the edges that matching needs, of the head that has most of it, shape (seeds, n_layers).

    Layer 0: from the right token of each pair to its left one. Layer l ≥ 1: from the last position to the slot of step l; NaN in
    layers beyond the number of steps asked for.
    """
    first = trace.attention[0]
    n_pairs = (asked.tokens.shape[-1] - 1) // 2
    right = torch.arange(1, 2 * n_pairs, 2, device=first.device)
    found = [first[:, :, :, right, right - 1].mean((1, 3)).amax(-1)]
    for layer, attention in enumerate(trace.attention[1:], 1):
        if layer > asked.slots.shape[-1]:
            found.append(torch.full_like(found[0], math.nan))
            continue
        slot = asked.slots[:, :, None, layer - 1, None].expand(-1, -1, attention.shape[2], -1)
        mass = attention[:, :, :, -1].gather(-1, slot)[..., 0]
        mass = torch.where((asked.n_steps >= layer)[..., None], mass, math.nan)
        found.append(mass.nanmean(1).amax(-1))
    return torch.stack(found, -1)


def kernel(model: Decoder, layer: int, query: int | None, key: int | None) -> torch.Tensor:
    """Kernel between the query's buffer and the key's in a layer, (seeds, d, d): Bᵀ W_qk B′, with B = W_vo of a layer or I.

    - `query`, `key`: the layer that made the buffer, or None for the raw token. One head (the first) is read.
    """
    found = model.key_query(layer)
    if query is not None:
        found = model.value_output(query).mT @ found
    return found if key is None else found @ model.value_output(key)


def matching_kernel(model: Decoder, layer: int) -> torch.Tensor:
    """The kernel by which layer l ≥ 1 matches: the raw token (l = 1) or buffer l − 1 against buffer 0, (seeds, d, d)."""
    return kernel(model, layer, None if layer == 1 else layer - 1, 0)


def matching_score(kernels: torch.Tensor, rows: torch.Tensor, scale: float) -> torch.Tensor:
    """Mean weight that each row gives itself: trace of softmax(scale · X Ker Xᵀ) over rows, divided by n; shape (seeds,).

    - `kernels`: (seeds, d, d). `rows`: X, (seeds, n, d).
    """
    scores = scale * rows @ kernels @ rows.mT
    return scores.softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1)


def diagonal_ratio(kernels: torch.Tensor) -> torch.Tensor:
    """Mean diagonal entry over the root mean square of the others, (seeds,)."""
    size = kernels.shape[-1]
    diagonal = kernels.diagonal(dim1=-2, dim2=-1)
    rest = (kernels - torch.diag_embed(diagonal)).square().sum((-1, -2))
    return diagonal.mean(-1) / (rest / (size * (size - 1))).sqrt()


def alignment(kernels: torch.Tensor) -> torch.Tensor:
    """Cosine between a kernel and the identity, trace / (√d · Frobenius norm), (seeds,)."""
    trace = kernels.diagonal(dim1=-2, dim2=-1).sum(-1)
    return trace / (math.sqrt(kernels.shape[-1]) * torch.linalg.matrix_norm(kernels))


def token_rows(model: Decoder, problem: PairChains) -> torch.Tensor:
    """Embeddings of a problem's tokens, (seeds, tokens, d), as a layer normalisation of gain 1 gives them.

    Mean 0 and, for entries well above √1e-5 = 0.003 (the constant in the norm), mean square 1.
    """
    rows = model.weights["embedding"][:, problem.first_token : problem.n_token_ids]
    return functional.layer_norm(rows, rows.shape[-1:])


def scale_in_use(model: Decoder) -> float:
    """The factor on scores inside the model's softmax, 1/√(width of a head)."""
    return 1 / math.sqrt(model.architecture.attention_width // model.architecture.n_heads)
