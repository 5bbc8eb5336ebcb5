"""A toy recipe for the tests of stored trainings: least squares on random data, each seed with its own.

`STEPS_TAKEN` counts losses, so that a test sees whether anything was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sims.streams import torch_generator
from sims.training import Started, Training, make_learning_rate_schedule, make_optimiser

STEPS_TAKEN = [0]


@dataclass(frozen=True)
class ToyModel:
    """`weights`: "slope" (seeds, 3, 4), trained, and "frozen" (seeds, 4)."""

    weights: dict[str, torch.Tensor]

    def with_weights(self, changed: Mapping[str, torch.Tensor]) -> ToyModel:
        """Another model with these weights."""
        for name, tensor in changed.items():
            if name not in self.weights or tensor.shape != self.weights[name].shape:
                raise ValueError(f"weight {name} does not fit.")
        return replace(self, weights={**self.weights, **changed})


@dataclass(frozen=True)
class ToyRecipe:
    """Settings of one training; `breaks_at`: the step whose loss is infinite, 0 for none."""

    NAME: ClassVar[str] = "toy_recipe"

    optimiser: str = "adamw"
    learning_rate: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.01
    schedule: str = "cosine"
    breaks_at: int = 0
    final_step: int = 40

    def begin(self, seeds: Sequence[int], device: str) -> Started:
        """A model of these seeds and its training."""
        starts = [torch_generator(self.NAME, "initialisation", seed, device) for seed in seeds]
        draws = [torch_generator(self.NAME, "sequences", seed, device) for seed in seeds]
        frozen = torch.stack([torch.randn(4, generator=one, device=device) for one in starts])
        slope = torch.stack([torch.randn(3, 4, generator=one, device=device) for one in starts])
        slope.requires_grad_()
        broken = [0]

        def loss() -> torch.Tensor:
            STEPS_TAKEN[0] += 1
            broken[0] += 1
            if broken[0] == self.breaks_at:
                return slope.sum() * float("inf")
            inputs = torch.stack([torch.randn(5, 4, generator=one, device=device) for one in draws])
            return ((inputs * frozen[:, None]) @ slope.mT - inputs[..., :3]).square().sum()

        optimiser = make_optimiser(
            [slope], self.optimiser, self.learning_rate, self.momentum, self.weight_decay
        )
        schedule = make_learning_rate_schedule(self.schedule, self.final_step)
        training = Training(optimiser, loss, schedule=schedule, generators=draws)
        return Started(ToyModel({"slope": slope, "frozen": frozen}), training)
