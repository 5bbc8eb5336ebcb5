"""How far do trained transformers reason in parallel, when one step more is asked for only once all before it are answered?

Decoders whose first layer's work is done (a position a pair), as in `parallel_training`, but trained by stages. Accuracy on every
number of steps is read apart for orders of pairs within reach of the rules of propagation and beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from sims.contract import Claim, Finding, Scale, Verdict
from sims.experiments._parallel_curriculum_figures import FIGURES as FIGURES
from sims.experiments._readings import long_enough
from sims.experiments.parallel_training import ORDERS, WANG
from sims.models.decoder import Decoder
from sims.outcome import Outcome
from sims.propagation import knowledge
from sims.recipes.pair_curriculum import PairCurriculumRecipe, train_by_stages
from sims.recipes.pair_reader import token_logits
from sims.statistics import mean_interval
from sims.streams import torch_generator
from sims.tasks.pair_slots import Slots, close_chains, draw_slots, sentence_of
from theory import parallel_reasoning as theory

NAME = "parallel_curriculum"


@dataclass(frozen=True)
class Config(PairCurriculumRecipe):
    """One training, with the fields of `sims.recipes.pair_curriculum` and these.

    - `n_probes`: readings, at equal distances, the last one at the last step. `n_evaluation`: sentences a reading, of all numbers
      of steps.
    """

    final_step: int = 8000
    n_probes: int = 32
    n_evaluation: int = 6000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_probes", "n_evaluation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.final_step % self.n_probes:
            raise ValueError(f"n_probes is {self.n_probes}; it must divide final_step = {self.final_step}.")

    @property
    def probe_steps(self) -> np.ndarray:
        """Steps after which the model is read, int."""
        return np.arange(1, self.n_probes + 1) * (self.final_step // self.n_probes)

    @property
    def stages(self) -> PairCurriculumRecipe:
        """The training alone."""
        return PairCurriculumRecipe(
            **{one.name: getattr(self, one.name) for one in fields(PairCurriculumRecipe)}
        )

    @property
    def depth(self) -> int:
        """L of the theorem, the layer whose work is done included."""
        return self.n_layers + 1

    def task(self, n_steps: int) -> theory.ChainTask:
        """The task of one number of steps."""
        return theory.ChainTask(self.n_pairs, n_steps, self.tail, self.n_distractors)


LAPTOP = Config(
    n_pairs=10, n_steps=5, n_distractors=0, n_tokens=11, n_heads=4, learning_rate=1e-3, schedule="constant"
)
SMOKE = replace(
    LAPTOP, n_pairs=7, n_tokens=8, width=32, attention_width=32, feed_forward_width=32, warmup_steps=5, final_step=20,
    check_steps=10, n_checked=200, n_probes=2, n_evaluation=1500,
)  # fmt: skip
PAPER = replace(
    LAPTOP, n_pairs=16, n_steps=13, n_tokens=17, width=256, n_heads=8, attention_width=256, feed_forward_width=512,
    learning_rate=5e-4, batch_size=512, final_step=64_000,
)  # fmt: skip
MASKS = {"causal": (True, False)}
SCALES = {
    "smoke": Scale(SMOKE, MASKS, n_seeds=8),
    "laptop": Scale(LAPTOP, MASKS, n_seeds=5),
    "paper": Scale(PAPER, MASKS, n_seeds=5),
}
COMPARED = {"share": 0.0}
"""Orders are sorted by rules run on tokens; theory counts them."""


class Questions(NamedTuple):
    """The sentences of an evaluation, seeds first.

    - `ids`: int64 (seeds, batch, slots), of `sims.tasks.pair_slots`. `labels`, `steps`: int64 (seeds, batch).
    - `within`: bool (seeds, batch), whether the rules of propagation answer it.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    steps: torch.Tensor
    within: torch.Tensor

    def by_number(self, most: int) -> list[torch.Tensor]:
        """Which sentences ask for 1, 2 … `most` steps, bool (seeds, batch) each."""
        return [self.steps == number for number in range(1, most + 1)]


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs); variables over `step`.

    `accuracy` over `steps`, the number of steps asked for; `by_reach` over `steps` and `order`: apart for orders within reach of
    the rules at this depth and mask and all others, 0 where there is none; `asked`: the most steps that training asked for.
    `share` over `steps`: how many sentences are within reach.
    """
    config, seeds = runs[0][0], [seed for _, seed in runs]
    asked = ask(config, seeds, device)
    readings = train_by_stages(
        config.stages, seeds, config.probe_steps, lambda model: by_steps(model, config, asked), device
    )
    return datasets(config, asked, readings)


def ask(config: Config, seeds: Sequence[int], device: str) -> Questions:
    """Draw the evaluation of each seed."""
    draws = [torch_generator(NAME, "questions", seed, device) for seed in seeds]
    drawn = [draw_slots(config.problem, config.n_evaluation, one) for one in draws]
    within = torch.stack([within_reach(config, one) for one in drawn])
    ids, labels, steps = (torch.stack([one[place] for one in drawn]) for place in range(3))
    return Questions(ids, labels, steps, within)


def by_steps(model: Decoder, config: Config, asked: Questions) -> dict[str, np.ndarray]:
    """`accuracy` and `by_reach` of `simulate` at one step, seeds first."""
    right = token_logits(model, asked.ids, config.n_tokens).argmax(-1) == asked.labels
    groups = asked.by_number(config.n_steps)
    classes = [
        torch.stack([share_of(right, one & kind) for kind in (asked.within, ~asked.within)], 1)
        for one in groups
    ]
    found = {
        "accuracy": torch.stack([share_of(right, one) for one in groups], 1),
        "by_reach": torch.stack(classes, 1),
    }
    return {name: value.numpy(force=True) for name, value in found.items()}


def right_on_rings(
    model: Decoder, config: Config, ids: torch.Tensor, labels: torch.Tensor, steps: torch.Tensor
) -> np.ndarray:
    """Accuracy by the number of steps on these sentences with their chains closed to rings, (seeds, steps)."""
    closed = torch.stack([close_chains(config.problem, one) for one in ids])
    right = token_logits(model, closed, config.n_tokens).argmax(-1) == labels
    groups = [steps == number for number in range(1, config.n_steps + 1)]
    return torch.stack([share_of(right, one) for one in groups], 1).numpy(force=True)


def datasets(config: Config, asked: Questions, readings: dict[str, np.ndarray]) -> list[xr.Dataset]:
    """One dataset a seed, of what was read by `by_steps` over training, and `share`."""
    shares = torch.stack([share_of(asked.within, one) for one in asked.by_number(config.n_steps)], 1)
    return [
        xr.Dataset(
            {
                "accuracy": (("steps", "step"), readings["accuracy"][place]),
                "by_reach": (("steps", "order", "step"), readings["by_reach"][place]),
                "asked": ("step", readings["asked"][place].astype(float)),
                "share": ("steps", shares[place].numpy(force=True)),
            },
            {"steps": np.arange(1, config.n_steps + 1), "order": list(ORDERS), "step": config.probe_steps},
        )
        for place in range(len(asked.ids))
    ]


def share_of(right: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Share of the chosen sentences that are right, by seed, float64; 0 where none is chosen."""
    return (right & chosen).double().sum(-1) / chosen.double().sum(-1).clamp(min=1)


def within_reach(config: Config, asked: Slots) -> torch.Tensor:
    """Whether the rules of `sims.propagation` answer each sentence at this arm's depth and mask, bool (batch,)."""
    tokens = sentence_of(config.problem, asked.ids)
    *_, knows = knowledge(tokens, config.depth, config.n_tokens, config.causal)
    return knows[:, -1].gather(1, asked.labels[:, None])[:, 0] > 0


def predict(config: Config) -> xr.Dataset:
    """What a reader that obeys the rules can do. No theory here says whether training comes that far.

    `share` over `steps`: of all orders, those within reach of this depth and mask.
    """
    law = theory.reach_distribution(config.depth, config.n_pairs)
    if not config.causal:
        law = {min(theory.bounds(config.depth).upper, config.n_pairs): Fraction(1)}
    numbers = list(range(1, config.n_steps + 1))
    shares = [float(sum(chance for reach, chance in law.items() if reach >= one)) for one in numbers]
    return xr.Dataset(
        {
            "accuracy": (("steps", "step"), np.full((len(numbers), config.n_probes), np.nan)),
            "share": ("steps", shares),
        },
        {"steps": numbers, "step": config.probe_steps},
    )


def at_the_end(outcome: Outcome, causal: bool) -> xr.Dataset:
    """Measurements at the last step, with the mask or without. Raises KeyError where the runs have no axis of masks."""
    return outcome.measured.isel(step=-1).sel(causal=causal, drop=True)


def by_number(accuracy: xr.DataArray) -> str:
    """Mean accuracies by the number of steps, for a note."""
    means = accuracy.mean("seed")
    return ", ".join(f"{int(one)}: {float(means.sel(steps=one)):.2f}" for one in means["steps"].values)


def where_asked(
    number: Callable[[int], int],
) -> Callable[[Callable[[Outcome], Finding]], Callable[[Outcome], Finding]]:
    """Of a check that reads so many steps, a function of depth: not measured where there are no questions about them."""

    def decorate(check: Callable[[Outcome], Finding]) -> Callable[[Outcome], Finding]:
        def checked(outcome: Outcome) -> Finding:
            config = outcome.configs[0]
            steps = number(config.depth)
            if steps <= config.n_steps:
                return check(outcome)
            note = f"there are no questions about {steps} steps"
            return Finding(np.nan, (np.nan, np.nan), None, "not_measured", note)

        return checked

    return decorate


def more_than_allowed(depth: int) -> int:
    """One step more than the theorem allows in any order."""
    return theory.bounds(depth).upper + 1


@long_enough
@where_asked(more_than_allowed)
def _whole_without_mask(outcome: Outcome) -> Finding:
    accuracy = at_the_end(outcome, causal=False)["accuracy"]
    upper = theory.bounds(outcome.configs[0].depth).upper
    value, interval = mean_interval(accuracy.sel(steps=upper).values)
    over, (_, most) = mean_interval(accuracy.sel(steps=upper + 1).values)
    verdict: Verdict = "holds" if interval[0] >= 0.9 and most <= 0.6 else "fails"
    guess = float(theory.guessing_accuracy(outcome.configs[0].task(upper + 1), upper, upper))
    note = (
        f"accuracy on {upper} steps; on {upper + 1} it is {over:.3f}, where one who knows {upper} steps in both directions and "
        f"guesses has {guess:.3f}; by number of steps {by_number(accuracy)}"
    )
    return Finding(value, interval, 1.0, verdict, note)


def answers(
    causal: bool, number: Callable[[int], int], least: float = 0.9, reading: str = "accuracy"
) -> Callable[[Outcome], Finding]:
    """A check of an accuracy of at least `least` on so many steps, a function of depth; with the mask or without.

    - `reading`: "accuracy", or "on_rings" where that was measured.
    """

    @long_enough
    @where_asked(number)
    def check(outcome: Outcome) -> Finding:
        last = at_the_end(outcome, causal)
        steps = number(outcome.configs[0].depth)
        value, interval = mean_interval(last[reading].sel(steps=steps).values)
        verdict: Verdict = "holds" if interval[0] >= least else "fails"
        note = f"accuracy on {steps} steps; by number of steps {by_number(last['accuracy'])}"
        if reading == "on_rings":
            note += f"; on rings {by_number(last['on_rings'])}"
        return Finding(value, interval, 1.0, verdict, note)

    return check


@long_enough
@where_asked(lambda _: 4)
def _order_decides(outcome: Outcome) -> Finding:
    four = at_the_end(outcome, causal=True)["by_reach"].sel(steps=4)
    inside, outside = (four.sel(order=one).values for one in ORDERS)
    value, interval = mean_interval(inside - outside)
    reached, (low, _) = mean_interval(inside)
    verdict: Verdict = "holds" if interval[0] >= 0.3 and low >= 0.9 else "fails"
    note = f"within minus beyond reach, four steps; {reached:.3f} and {float(outside.mean()):.3f}"
    return Finding(value, interval, None, verdict, note)


CLAIMS = (
    Claim(
        "W6.9",
        "ours",
        "Trained by stages, three layers without the mask answer what the theorem allows, four steps, and no more.",
        "Accuracy at least 0.9 on four steps, at most 0.6 on five, where one who knows four and guesses can have 0.52.",
        _whole_without_mask,
    ),
    Claim(
        "W6.10",
        WANG,
        "Trained by stages, three layers with the causal mask reason in parallel: they answer three steps.",
        "Accuracy at least 0.9 on three steps, mean over all orders of pairs.",
        answers(True, lambda depth: theory.bounds(depth).lower),
    ),
    Claim(
        "W6.11",
        "ours",
        "They answer four steps in those orders in which the theorem allows it, and far less often in others.",
        "Accuracy on four steps at least 0.9 within reach of the rules, and higher by 0.3 than beyond it.",
        _order_decides,
    ),
)
