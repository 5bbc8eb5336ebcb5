"""What is read off a transformer trained on noisy recall: its answers, where it looks, and what its matrices store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from sims.interventions.low_rank import Spectrum
from sims.models.transformer import Transformer, embed
from sims.roles import matrix, with_matrix
from sims.tasks.noisy_recall import Sampler, ScoredPlaces, scored_places
from theory.problems import NoisyRecall

FIRST_POSITIONS = 100
"""Positions of the released code's second reading of the previous-token head."""


class Evaluation(NamedTuple):
    """Fresh sequences of every seed, and what is asked at their scored places; Q is the largest number of them.

    - `contexts`: int64, shape (seeds, batch, T). `labels`, `targets`: the token that follows and the trigger's target, int64,
      shape (seeds, batch, Q). `places`: which positions these are, and which entries count.
    """

    contexts: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    places: ScoredPlaces


def evaluation(problem: NoisyRecall, size: int, draws: Sequence[torch.Generator], device: str) -> Evaluation:
    """`size` sequences of each generator. Places whose target is the noise token do not count.

    Raises ValueError for a problem with several triggers.
    """
    _ = problem.trigger
    sampler = Sampler(problem, device)
    batches = [sampler.draw(size, draw) for draw in draws]
    places = scored_places(torch.stack([batch.scored for batch in batches]))
    targets = torch.stack([batch.targets for batch in batches]).expand_as(places.at)
    labels = places.of(torch.stack([batch.labels for batch in batches]))
    places = places._replace(valid=places.valid & (targets != problem.noise_token))
    return Evaluation(torch.stack([batch.contexts for batch in batches]), labels, targets, places)


def answers(logits: torch.Tensor, asked: Evaluation, problem: NoisyRecall) -> dict[str, np.ndarray]:
    """Means over scored places, shape (seeds,), of a model's `logits` there, (seeds, batch, Q, vocabulary).

    Probabilities of "target" and "noise", "accuracy" (the target has the largest logit), "accuracy_of_two" (its logit is above
    the noise token's), and "loss" on the labels in nats.
    """
    logits = logits.double().log_softmax(-1)
    target = logits.gather(-1, asked.targets[..., None])[..., 0]
    noise = logits[..., problem.noise_token]
    values = {
        "target": target.exp(),
        "noise": noise.exp(),
        "accuracy": (logits.argmax(-1) == asked.targets).double(),
        "accuracy_of_two": (target > noise).double(),
        "loss": -logits.gather(-1, asked.labels[..., None])[..., 0],
    }
    return {name: _mean(value, asked.places.valid).numpy(force=True) for name, value in values.items()}


def noise_table(logits: torch.Tensor, asked: Evaluation, problem: NoisyRecall) -> np.ndarray:
    """The 2 × 2 table of the paper, shape (seeds, 2, 2): share of scored places by what the logits predict (the largest one),
    then by label; entry 0 is the noise token, 1 any other. It sums to one. At noise level 1/2 its rows are a coin's."""
    predicted = logits.argmax(-1) == problem.noise_token
    label = asked.labels == problem.noise_token
    cells = [
        [_mean((p & q).double(), asked.places.valid) for q in (label, ~label)]
        for p in (predicted, ~predicted)
    ]
    return torch.stack([torch.stack(row, -1) for row in cells], -2).numpy(force=True)


def attention_shares(
    attention: Sequence[torch.Tensor], asked: Evaluation, problem: NoisyRecall
) -> dict[str, np.ndarray]:
    """Where the attention of a `Trace` rests, shape (seeds,).

    "previous_token": mean attention of block 0 on the position before, over all positions but the first; "previous_token_early":
    over the first FIRST_POSITIONS of them. For the last block, at scored places: "after_trigger", total attention on positions
    after a trigger, of it "on_noise" on noise tokens; the paper's "real correct" is their difference. At the scored places whose
    context shows the target after a trigger: "on_target" and "on_noise_shown", attention on these targets and on the noise tokens
    after a trigger, and "noise_shown", the share of noise tokens among the tokens after a trigger.
    """
    previous = attention[0].diagonal(offset=-1, dim1=-2, dim2=-1).double()
    after = torch.zeros_like(asked.contexts, dtype=torch.bool)
    after[..., 1:] = asked.contexts[..., :-1] == problem.trigger
    last, keys = attention[-1].double(), asked.contexts[:, :, None]
    visible = torch.arange(keys.shape[-1], device=keys.device) <= asked.places.at[..., None]
    here = after[:, :, None] & visible
    noise, target = here & (keys == problem.noise_token), here & (keys == asked.targets[..., None])
    valid = asked.places.valid
    shown = valid & target.any(-1)
    found = {
        "after_trigger": _mean((last * here).sum(-1), valid),
        "on_noise": _mean((last * noise).sum(-1), valid),
        "on_target": _mean((last * target).sum(-1), shown),
        "on_noise_shown": _mean((last * noise).sum(-1), shown),
        "noise_shown": _mean(noise.sum(-1).double() / here.sum(-1).clamp(min=1), shown),
        "previous_token": previous.mean((-1, -2)),
        "previous_token_early": previous[..., :FIRST_POSITIONS].mean((-1, -2)),
    }
    return {name: value.numpy(force=True) for name, value in found.items()}


def feed_forward_margins(model: Transformer, problem: NoisyRecall) -> dict[str, np.ndarray]:
    """Lead of the noise token over every other token that a feed-forward gives the trigger's embedding alone, shape (seeds,).

    No attention and no position: logits are W_U F(E(trigger)), the margin is the noise token's minus the largest other. "first"
    and "last" are the feed-forward of block 0 and of the last block, "both" the last one's reading of what the first one adds.
    """
    trigger = torch.full((model.n_seeds, 1), problem.trigger, device=model.weights["embedding"].device)
    token = embed(model.weights["embedding"], trigger)
    last = model.architecture.n_layers - 1
    added = {"first": model.feed_forward(0, token), "last": model.feed_forward(last, token)}
    added["both"] = model.feed_forward(last, added["first"])
    margins = {}
    for name, stream in added.items():
        logits = (stream @ model.weights["unembedding"].mT)[:, 0].double()
        others = logits.clone()
        others[:, problem.noise_token] = -torch.inf
        margins[name] = (logits[:, problem.noise_token] - others.amax(-1)).numpy(force=True)
    return margins


def memories(model: Transformer, problem: NoisyRecall) -> dict[str, np.ndarray]:
    """Which associations the matrices of a two-block model hold, shape (seeds,), after "Birth of a Transformer".

    - "previous_position": share of positions t ≥ 1 whose best key by W_k of block 0, among positions up to t, is t − 1.
    - "same_token": share of tokens v whose best key by W_k of block 1 is W_o W_v (block 0) of v's own embedding;
      "same_token_trigger": 1 where that holds for the trigger.
    - "copying": share of tokens v whose embedding W_o W_v of block 1 sends to logits with v on top.
    - "bigram_divergence": mean over tokens v but the trigger of KL(chain's row of v ‖ softmax of W_U F(E(v))), F of the last
      block, in nats. The loss here never asks for these bigrams.
    - "soft_rank": Frobenius norm over spectral norm of W_o W_v of block 1.
    """
    weights = model.weights
    tokens, out = weights["embedding"], weights["unembedding"]
    pe = weights["positions"]
    scores = _scores(model, 0, pe, pe)
    length = scores.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=pe.device).tril()
    best = scores.masked_fill(~causal, -torch.inf)[:, 1:].argmax(-1)
    wanted = torch.arange(length - 1, device=pe.device)
    first, second = (matrix(model, "value_output", layer) for layer in (0, 1))
    same = _scores(model, 1, tokens, tokens @ first.mT).argmax(-1)
    everyone = torch.arange(tokens.shape[1], device=pe.device)
    copied = (tokens @ second.mT @ out.mT).argmax(-1)
    told = (model.feed_forward(1, tokens) @ out.mT).double().log_softmax(-1)
    chain = torch.tensor(problem.chain.transition, device=pe.device)
    divergence = (torch.special.xlogy(chain, chain) - chain * told).sum(-1)
    norms = torch.linalg.matrix_norm(second) / torch.linalg.matrix_norm(second, ord=2)
    values = {
        "previous_position": (best == wanted).double().mean(-1),
        "same_token": (same == everyone).double().mean(-1),
        "same_token_trigger": (same[:, problem.trigger] == problem.trigger).double(),
        "copying": (copied == everyone).double().mean(-1),
        "bigram_divergence": divergence[:, everyone != problem.trigger].mean(-1),
        "soft_rank": norms.double(),
    }
    return {name: value.numpy(force=True) for name, value in values.items()}


def _scores(model: Transformer, layer: int, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    if model.architecture.query == "trained":
        queries = queries @ matrix(model, "query", layer).mT
    return queries @ matrix(model, "key", layer) @ keys.mT


def noise_margin(model: Transformer, asked: Evaluation, problem: NoisyRecall) -> torch.Tensor:
    """Lead of the noise token's logit over the mean of the other logits, mean over scored places, shape (seeds,)."""
    logits = model.logits(asked.contexts, asked.places.at)
    noise = logits[..., problem.noise_token]
    others = (logits.sum(-1) - noise) / (logits.shape[-1] - 1)
    return _mean(noise - others, asked.places.valid)


def component_shares(
    model: Transformer,
    asked: Evaluation,
    problem: NoisyRecall,
    role: str,
    layer: int,
    known: Spectrum | None = None,
) -> torch.Tensor:
    """What each singular component of a matrix or product adds to the noise margin, to first order; shape (seeds, rank).

    The largest component is first. It is σ_i u_iᵀ (∂ margin / ∂ matrix) v_i: exact for a matrix that the margin is linear in
    (what the last block adds to the stream), a slope for the others. Cost: one backward pass.
    """
    found = Spectrum(matrix(model, role, layer)) if known is None else known
    with torch.enable_grad():
        changed = found.matrix.detach().clone().requires_grad_()
        margin = noise_margin(with_matrix(model, role, layer, changed), asked, problem).sum()
        (slope,) = torch.autograd.grad(margin, changed)
    projected = found.left.mT @ slope.double() @ found.right.mT
    return projected.diagonal(dim1=-2, dim2=-1) * found.singular_values


def _mean(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean over the entries of each seed that count, shape (seeds,)."""
    return torch.where(valid, values, 0).sum((-1, -2)) / valid.sum((-1, -2))
