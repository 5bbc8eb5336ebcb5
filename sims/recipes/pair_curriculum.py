"""Training the decoder of `sims.recipes.pair_reader` on one number of steps more at a time.

At first one step is asked for. As soon as every number of steps so far is answered, one more is asked beside them, seed by seed.
Chains can be of mixed lengths, so that what is new can be learnt on short ones. How far a model has come is known to no file, so
that such a training is not kept and cannot be gone on with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from sims import engine
from sims.models.decoder import Decoder
from sims.recipes.pair_reader import PairReaderRecipe, token_logits
from sims.streams import torch_generator
from sims.tasks.pair_chains import PairChains
from sims.tasks.pair_slots import draw_slots
from sims.training import stack_readings


@dataclass(frozen=True)
class PairCurriculumRecipe(PairReaderRecipe):
    """All settings of one training, those of `sims.recipes.pair_reader` and these; `n_steps` is the most that is ever asked.

    - `promotion`: accuracy, on every number of steps asked so far, at which one more is asked.
    - `check_steps`: training steps from one look at the accuracy to the next; `n_checked`: sentences of each such look.
    - `mixed_lengths`: whether a batch has chains of a length of its own, uniform from the shortest that leaves a start for all
      steps asked so far up to `n_pairs`. Looks are at chains of `n_pairs` in any case.
    """

    NAME: ClassVar[str] = "pair_curriculum"

    promotion: float = 0.9
    check_steps: int = 125
    n_checked: int = 1000
    mixed_lengths: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.promotion < 1:
            raise ValueError(f"promotion is {self.promotion}; it must be above 0 and below 1.")
        for name in ("check_steps", "n_checked"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")


def train_by_stages(
    recipe: PairCurriculumRecipe,
    seeds: Sequence[int],
    probe_steps: Sequence[int] | np.ndarray,
    probe: Callable[[Decoder], dict[str, np.ndarray]],
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """Train stacked seeds from step 0 and read `probe(model)` at each of `probe_steps` (sorted, after the first step).

    Returns each probe's arrays stacked along a new last axis, and `asked`, int (seeds, probe steps): the most steps asked for.
    A seed's numbers do not depend on the seeds beside it, up to rounding. Raises `sims.training.DivergedError`.
    """
    model, training = recipe.begin(seeds, device)
    checks = [torch_generator(recipe.NAME, "checks", seed, device) for seed in seeds]
    lengths = [torch_generator(recipe.NAME, "lengths", seed) for seed in seeds]
    asked = [1] * len(seeds)

    def problems() -> list[PairChains]:
        return [replace(recipe.problem, n_steps=most) for most in asked]

    def loss() -> torch.Tensor:
        drawn = problems()
        if recipe.mixed_lengths:
            drawn = [_of_some_length(one, draw) for one, draw in zip(drawn, lengths, strict=True)]
        total = torch.zeros((), device=device)
        for size in sorted({one.n_pairs for one in drawn}):
            places = [place for place, one in enumerate(drawn) if one.n_pairs == size]
            generators = [training.generators[place] for place in places]
            ids, labels, _ = _sentences([drawn[place] for place in places], recipe.batch_size, generators)
            logits = token_logits(_models(model, places), ids, recipe.n_tokens)
            total = total + functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / recipe.batch_size

    def promote() -> None:
        ids, labels, steps = _sentences(problems(), recipe.n_checked, checks)
        right = token_logits(model, ids, recipe.n_tokens).argmax(-1) == labels
        for place, most in enumerate(asked):
            shares = [right[place, steps[place] == number].double().mean() for number in range(1, most + 1)]
            # nan, of a number that was not drawn, is below every bound
            if most < recipe.n_steps and all(share >= recipe.promotion for share in shares):
                asked[place] = most + 1

    training.loss = loss
    probed, readings = {int(step) for step in probe_steps}, []
    looked = range(recipe.check_steps, max(probed, default=0) + 1, recipe.check_steps)
    with engine.one_thread():
        for step in sorted({*probed, *looked}):
            training.advance(step)
            with torch.no_grad():
                if step in probed:
                    readings.append({"asked": np.array(asked), **probe(model)})
                if step in looked:
                    promote()
    return stack_readings(readings)


def _of_some_length(problem: PairChains, generator: torch.Generator) -> PairChains:
    """The same sentences of a shorter chain or one as long, each length that leaves a start being as likely."""
    shortest = problem.n_steps + problem.tail
    drawn = torch.randint(shortest, problem.n_pairs + 1, (), generator=generator)
    return replace(problem, n_pairs=int(drawn))


def _sentences(
    problems: Sequence[PairChains], size: int, generators: Sequence[torch.Generator]
) -> tuple[torch.Tensor, ...]:
    """One draw of each problem, all of one length, stacked: ids, labels, numbers of steps."""
    drawn = [draw_slots(one, size, generator) for one, generator in zip(problems, generators, strict=True)]
    return tuple(torch.stack([one[place] for one in drawn]) for place in range(3))


def _models(model: Decoder, places: Sequence[int]) -> Decoder:
    """The stacked models at these places alone."""
    if len(places) == model.n_seeds:
        return model
    return model.with_weights({name: value[list(places)] for name, value in model.weights.items()})
