"""The one-layer model of noisy recall after surgery on its value matrix: what it answers, and the matrix's spectrum."""

from __future__ import annotations

import numpy as np
import torch

from sims.interventions.low_rank import Spectrum
from sims.models.one_layer_recall import PARTS, OneLayerRecall
from sims.probes.noisy_recall import answer_probabilities
from theory.problems import NoisyRecall

CUTS = ("full", "no feed-forward", "drop noise", "drop top", "keep best")
"""Models that are read: whole; attention alone; the value matrix without the component of the noise token, without its
largest one, and truncated to that number of components (1 to N − 1) which answers best."""


def target_shown(contexts: torch.Tensor, targets: torch.Tensor, problem: NoisyRecall) -> torch.Tensor:
    """Whether a trigger is followed by its target somewhere in the context, bool (seeds, batch)."""
    after = contexts[..., :-1] == problem.trigger
    return (after & (contexts[..., 1:] == targets[..., None])).any(-1)


def cut_answers(
    model: OneLayerRecall,
    problem: NoisyRecall,
    contexts: torch.Tensor,
    targets: torch.Tensor,
    shown: torch.Tensor,
) -> dict[str, np.ndarray]:
    """Mean probabilities of target and noise, and accuracy, of every cut on contexts that show the target; (seeds, cuts).

    - `contexts`: int64, shape (seeds, batch, T). `targets`, `shown`: shape (seeds, batch).

    Surgery is on the value matrix's columns of the current token. Cost: one SVD, and a pass for every truncation.
    """
    size = problem.vocabulary_size
    block, rest = Spectrum(model.value[..., :size]), model.value[..., size:]
    changed = {
        "drop noise": [block.drop(noise_place(block, problem)[:, None])],
        "drop top": [block.drop_top(1)],
        "keep best": [block.keep_top(count) for count in range(1, size - 1)],
    }
    found: dict[str, list[np.ndarray]] = {"cut_target": [], "cut_noise": [], "cut_accuracy": []}
    for cut in CUTS:
        parts = ("attention",) if cut == "no feed-forward" else PARTS
        options = [torch.cat([one, rest], -1) for one in changed[cut]] if cut in changed else [model.value]
        answers = []
        for value in options:
            logits = model.logits(contexts, parts, value=value)
            shares = answer_probabilities(logits, targets, problem, shown)
            right = logits.argmax(-1) == targets
            accuracy = [float(one[here].double().mean()) for one, here in zip(right, shown, strict=True)]
            answers.append([shares["target"], shares["noise"], np.array(accuracy)])
        table = np.array(answers)
        best = table[:, 0].argmax(0)
        for row, name in enumerate(found):
            found[name].append(table[best, row, np.arange(len(best))])
    return {name: np.stack(values, axis=1) for name, values in found.items()}


def noise_place(block: Spectrum, problem: NoisyRecall) -> torch.Tensor:
    """Place of the component whose left vector has the largest entry for the noise token, int64 (seeds,); 0 is the largest."""
    return block.left[:, problem.noise_token, :].abs().argmax(-1)


def value_spectrum(model: OneLayerRecall, problem: NoisyRecall) -> dict[str, np.ndarray]:
    """Singular value and place of the noise component of the value matrix, and the mean one of its copying part, (seeds,)."""
    value = model.value[..., : problem.vocabulary_size].detach().double()
    block = Spectrum(value)
    place = noise_place(block, problem)
    generic = list(problem.targets)
    centred = value[:, generic][:, :, generic]
    centred = centred - centred.mean(1, keepdim=True)
    centred = centred - centred.mean(2, keepdim=True)
    copying = torch.linalg.svdvals(centred)[:, :-1].mean(-1)
    return {
        "noise_singular_value": block.singular_values.gather(-1, place[:, None])[:, 0].numpy(force=True),
        "signal_singular_value": copying.numpy(force=True),
        "noise_place": place.double().numpy(force=True),
    }
