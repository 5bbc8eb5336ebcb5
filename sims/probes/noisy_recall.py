"""What is read off a model of noisy recall: where it looks, what it answers, and the means of its symmetry classes."""

from __future__ import annotations

import numpy as np
import torch

from sims.models.one_layer_recall import OneLayerRecall
from theory.problems import NoisyRecall

KINDS = ("noise", "trigger", "generic")
"""Kinds of tokens; generic ones are all but the noise token and the trigger."""
CLASSES = (
    "noise_noise",
    "noise_trigger",
    "noise_generic",
    "trigger_noise",
    "trigger_trigger",
    "trigger_generic",
    "generic_noise",
    "generic_trigger",
    "same",
    "different",
)
"""Classes of the entries of a matrix over tokens, kind of the row before kind of the column; the last two are generic in both."""


def attention_shares(
    attention: torch.Tensor, contexts: torch.Tensor, problem: NoisyRecall, targets: torch.Tensor
) -> dict[str, np.ndarray]:
    """Mean attention on kinds of positions, and how often a target is there to be found; shape (seeds,).

    A position whose token is the trigger is "trigger". Of the others, one after a trigger is "target" when its token is the
    target, else "noise" when it is the noise token; all else is "rest". The four sum to the attention's sum. "target_present" is
    the share of contexts with a "target" position; "target_given_present" and "noise_given_present" are means over those
    contexts, NaN when there are none.

    - `attention`, `contexts`: shape (seeds, batch, T). `targets`: shape (seeds, batch).

    Raises ValueError for a problem with several triggers.
    """
    is_trigger = contexts == problem.trigger
    after = torch.zeros_like(is_trigger)
    after[..., 1:] = is_trigger[..., :-1]
    after &= ~is_trigger
    is_target = after & (contexts == targets[..., None])
    is_noise = after & (contexts == problem.noise_token) & ~is_target
    places = {
        "target": is_target,
        "noise": is_noise,
        "trigger": is_trigger,
        "rest": ~(is_target | is_noise | is_trigger),
    }
    shares = {name: (attention * place).sum(-1).double() for name, place in places.items()}
    present = is_target.any(-1)
    values = {name: share.mean(-1) for name, share in shares.items()}
    values["target_present"] = present.double().mean(-1)
    for name in ("target", "noise"):
        values[f"{name}_given_present"] = _mean_where(shares[name], present)
    return {name: value.numpy(force=True) for name, value in values.items()}


def answer_probabilities(
    logits: torch.Tensor, targets: torch.Tensor, problem: NoisyRecall, chosen: torch.Tensor | None = None
) -> dict[str, np.ndarray]:
    """Mean probability of the target, of the noise token when it is not the target, and of all other tokens; shape (seeds,).

    - `logits`: shape (seeds, batch, vocabulary_size). `targets`: shape (seeds, batch).
    - `chosen`: the contexts to average over, bool, shape (seeds, batch); all by default. NaN for a seed without any.
    """
    weights = torch.softmax(logits.double(), dim=-1)
    target = weights.gather(-1, targets[..., None])[..., 0]
    noise = weights[..., problem.noise_token] * (targets != problem.noise_token)
    where = torch.ones_like(targets, dtype=torch.bool) if chosen is None else chosen
    values = {"target": target, "noise": noise, "other": 1 - target - noise}
    return {name: _mean_where(value, where).numpy(force=True) for name, value in values.items()}


def _mean_where(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Mean along the last axis over the places that are True, NaN where there are none."""
    return torch.where(where, values, 0).sum(-1) / where.sum(-1)


def order_parameters(model: OneLayerRecall, problem: NoisyRecall) -> dict[str, np.ndarray]:
    """Means of the weights over classes that a permutation of the generic tokens leaves as they are; NaN for an empty class.

    - "value", "value_previous": columns of E and of Ẽ, by `CLASSES`, shape (seeds, 10).
    - "feed_forward": the column of the trigger, E(q), by `KINDS` of the row, shape (seeds, 3).
    - "key_query": the column of the query E(q), by `KINDS` of the keys' E, then of their Ẽ, shape (seeds, 6).
    - "spread": largest deviation of an entry read here from its class's mean, shape (seeds,).

    Raises ValueError for a problem with several triggers.
    """
    size, trigger = problem.vocabulary_size, problem.trigger
    kind = torch.full((size,), 2)
    kind[problem.noise_token], kind[trigger] = 0, 1
    pairs = 3 * kind[:, None] + kind
    pairs[(pairs == 8) & ~torch.eye(size, dtype=torch.bool)] = 9
    value = model.value.detach().double().cpu()
    column = model.key_query.detach()[..., trigger].double().cpu()
    read = {
        "value": (value[..., :size].flatten(1), pairs.flatten(), 10),
        "value_previous": (value[..., size:].flatten(1), pairs.flatten(), 10),
        "feed_forward": (model.feed_forward.detach()[..., trigger].double().cpu(), kind, 3),
        "key_query": (column, torch.cat([kind, 3 + kind]), 6),
    }
    result, spread = {}, torch.zeros(len(value), dtype=torch.float64)
    for name, (entries, classes, count) in read.items():
        member = torch.nn.functional.one_hot(classes, count).double()
        means = entries @ member / member.sum(0)
        spread = torch.maximum(spread, (entries - means[:, classes]).abs().amax(-1))
        result[name] = means.numpy()
    result["spread"] = spread.numpy()
    return result
