"""What is read off the logits of a memory, shape (seeds, n_tokens + 1, n_tokens): means, spreads, predictions, components."""

from __future__ import annotations

import numpy as np
import torch

from sims.interventions.low_rank import Spectrum


def _off_diagonal(logits: torch.Tensor) -> torch.Tensor:
    """Logits of wrong tokens, shape (seeds, n_tokens (n_tokens − 1))."""
    n = logits.shape[-1]
    wrong = ~torch.eye(n, dtype=torch.bool, device=logits.device)
    return logits[:, :n, :][:, wrong]


def entry_classes(logits: torch.Tensor) -> dict[str, np.ndarray]:
    """Mean over entries of the diagonal, off-diagonal and noise logits, and the largest deviation from them; shape (seeds,).

    `column_sum` is the mean over keys of the sum of a key's logits. For one token `off_diagonal` is 0.
    """
    diagonal = logits.diagonal(dim1=-2, dim2=-1)
    wrong, noise = _off_diagonal(logits), logits[:, -1, :]
    spread = torch.zeros(logits.shape[0], device=logits.device)
    for entries in (diagonal, wrong, noise):
        if entries.shape[-1]:
            gap = (entries - entries.mean(-1, keepdim=True)).abs().amax(-1)
            spread = torch.maximum(spread, gap)
    off_diagonal = wrong.mean(-1) if wrong.shape[-1] else torch.zeros_like(spread)
    values = {
        "diagonal": diagonal.mean(-1),
        "off_diagonal": off_diagonal,
        "noise": noise.mean(-1),
        "spread": spread,
        "column_sum": logits.sum(-2).mean(-1),
    }
    return {name: value.double().cpu().numpy() for name, value in values.items()}


def predictions(logits: torch.Tensor) -> dict[str, np.ndarray]:
    """Mean over keys of the probability of the correct token, the noise token and all others, and the accuracy; (seeds,)."""
    weights = torch.softmax(logits.double(), dim=-2)
    correct = weights.diagonal(dim1=-2, dim2=-1)
    noise = weights[:, -1, :]
    n = logits.shape[-1]
    right = (logits.argmax(-2) == torch.arange(n, device=logits.device)).double()
    values = {"correct": correct, "noise": noise, "other": 1 - correct - noise, "accuracy": right}
    return {name: value.mean(-1).cpu().numpy() for name, value in values.items()}


def components(logits: torch.Tensor) -> dict[str, np.ndarray]:
    """Singular value of the noise component, mean one of all others, and the noise component's rank (0: largest); (seeds,).

    The noise component is the one whose left vector weighs most on the noise token's row.
    """
    spectrum = Spectrum(logits)
    values, left = spectrum.singular_values, spectrum.left
    place = left[:, -1, :].abs().argmax(-1)
    chosen = values.gather(-1, place[:, None])[:, 0]
    count = values.shape[-1] - 1
    others = (values.sum(-1) - chosen) / count if count else torch.zeros_like(chosen)
    return {
        "noise_singular_value": chosen.cpu().numpy(),
        "signal_singular_value": others.cpu().numpy(),
        "noise_place": place.double().cpu().numpy(),
    }
