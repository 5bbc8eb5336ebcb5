"""Data of the noisy associative memory: keys, their labels, and the label probabilities of a full batch."""

from __future__ import annotations

import torch

from theory.problems import AssociativeMemory


def sample(
    problem: AssociativeMemory, batch_size: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw `batch_size` keys and labels, two int64 tensors of that length on the generator's device.

    Labels run from 0 to n_tokens; the last is the noise token. Two draws a sample.
    """
    device = generator.device
    keys = torch.randint(problem.n_tokens, (batch_size,), generator=generator, device=device)
    noisy = torch.rand(batch_size, generator=generator, device=device) < problem.noise_level
    return keys, torch.where(noisy, problem.n_tokens, keys)


def label_probabilities(problem: AssociativeMemory, device: str = "cpu") -> torch.Tensor:
    """Probability of each label given each key, float32 of shape (n_tokens + 1, n_tokens); columns sum to one."""
    table = torch.zeros(problem.n_tokens + 1, problem.n_tokens, device=device)
    table.fill_diagonal_(1 - problem.noise_level)
    table[-1] = problem.noise_level
    return table


def full_batch_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Expected cross-entropy over keys and labels, summed over seeds, in nats.

    - `logits`: shape (seeds, n_tokens + 1, n_tokens). `labels`: `label_probabilities`, shape (n_tokens + 1, n_tokens).
    """
    return -(labels * torch.log_softmax(logits, dim=-2)).sum() / logits.shape[-1]


def minibatch_loss(logits: torch.Tensor, keys: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each seed's own samples, summed over seeds, in nats.

    - `keys`, `labels`: int64, shape (seeds, batch size).
    """
    chosen = torch.log_softmax(logits, dim=-2)
    seed = torch.arange(len(logits), device=logits.device)[:, None]
    return -chosen[seed, labels, keys].mean(-1).sum()
