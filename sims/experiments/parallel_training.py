"""Do trained transformers answer the steps that the theorem on reach allows, order by order?

Decoders whose first layer's work is done (a position a pair) are trained on chains of mixed numbers of steps. Accuracy on the
longest task is read apart for the orders of pairs that the rules of propagation let three layers answer, and for all others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from sims.contract import Claim, Finding, Scale, Verdict
from sims.experiments._parallel_training_figures import FIGURES as FIGURES
from sims.experiments._readings import long_enough
from sims.models.decoder import Decoder
from sims.outcome import Outcome
from sims.propagation import knowledge
from sims.recipes.pair_reader import PairReaderRecipe, token_logits
from sims.statistics import highest_cell, lowest_cell, mean_interval
from sims.streams import torch_generator
from sims.tasks.pair_slots import Slots, draw_slots, sentence_of
from sims.trainings import train_and_keep
from theory import parallel_reasoning as theory

NAME = "parallel_training"
WANG = "Wang et al., arXiv 2405.15302"
Arm = Literal["two layers", "three layers", "three layers, no mask", "four layers"]
"""How many layers, the one whose work is done included, and whether there is a causal mask."""
ARMS: dict[str, dict[str, Any]] = {
    "two layers": {"n_layers": 1},
    "three layers": {"n_layers": 2},
    "three layers, no mask": {"n_layers": 2, "causal": False},
    "four layers": {"n_layers": 3},
}
SORTED_BY = 3
"""Layers of the rules that sort orders into two classes, the same ones in every arm."""
ORDERS = ("within reach", "beyond reach")
"""Orders of the longest task that three causal layers answer by the rules of propagation, and the others."""


@dataclass(frozen=True)
class Config(PairReaderRecipe):
    """One training, with the fields of `sims.recipes.pair_reader` and these.

    - `arm`: depth and mask, one of `ARMS`, in place of `n_layers` and `causal`, which stay as they are.
    - `n_probes`: readings, at equal distances, the last one at the last step. `n_evaluation`: sentences a reading, of all numbers
      of steps.
    """

    arm: Arm = "three layers"
    n_probes: int = 10
    n_evaluation: int = 4000

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
    def arm_recipe(self) -> PairReaderRecipe:
        """The training of this arm."""
        return replace(self.recipe, **ARMS[self.arm])

    @property
    def depth(self) -> int:
        """L of the theorem, the layer whose work is done included."""
        return self.arm_recipe.n_layers + 1

    def task(self, n_steps: int) -> theory.ChainTask:
        """The task of one number of steps."""
        return theory.ChainTask(self.n_pairs, n_steps, self.tail, self.n_distractors)


SCALES = {
    "smoke": Scale(
        Config(
            width=32, attention_width=32, feed_forward_width=64, warmup_steps=10, final_step=20, n_probes=2, n_evaluation=2000,
        ),
        {"arm": ("three layers", "three layers, no mask")},
        n_seeds=8,
    ),
    "laptop": Scale(Config(), {"arm": tuple(ARMS)}, n_seeds=5),
    "paper": Scale(
        Config(
            n_distractors=8, n_pairs=8, n_tokens=24, width=256, n_heads=8, attention_width=256, feed_forward_width=512,
            learning_rate=5e-4, warmup_steps=1000, batch_size=1024, final_step=60_000, n_probes=30,
        ),
        {"arm": tuple(ARMS)},
        n_seeds=5,
    ),
}  # fmt: skip
LAST_PAIRS = ("last pair first", "last pair later")
"""Orders in which the last pair to follow stands before the one before it, and the others."""
COMPARED = {"share": 0.0}
"""Orders are sorted by rules run on tokens; theory counts them."""


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs); variables over `step`.

    `accuracy` over `steps`, the number of steps asked for; `by_last_pair` over `length`, the same from two on, and `last_pair`;
    `longest` over `order`: of the longest task, in the classes of the rules. `share`: how many of its sentences are within reach.
    """
    config, seeds = runs[0][0], [seed for _, seed in runs]
    draws = [torch_generator(NAME, "questions", seed, device) for seed in seeds]
    asked = [draw_slots(config.problem, config.n_evaluation, one) for one in draws]
    within = torch.stack([within_reach(config, one) for one in asked])
    ids, labels, steps, first = (torch.stack([one[place] for one in asked]) for place in range(4))

    def read(model: Decoder) -> dict[str, np.ndarray]:
        right = token_logits(model, ids, config.n_tokens).argmax(-1) == labels
        groups = [steps == number for number in range(1, config.n_steps + 1)]
        classes = [groups[-1] & within, groups[-1] & ~within]
        pairs = [
            torch.stack([_share(right, one & first), _share(right, one & ~first)], 1) for one in groups[1:]
        ]
        found = {
            "accuracy": torch.stack([_share(right, one) for one in groups], 1),
            "by_last_pair": torch.stack(pairs, 1),
            "longest": torch.stack([_share(right, one) for one in classes], 1),
        }
        return {name: value.numpy(force=True) for name, value in found.items()}

    readings = train_and_keep(config.arm_recipe, seeds, config.probe_steps, read, device=device)
    share = _share(within, steps == config.n_steps).numpy(force=True)
    return [
        xr.Dataset(
            {
                "accuracy": (("steps", "step"), readings["accuracy"][place]),
                "by_last_pair": (("length", "last_pair", "step"), readings["by_last_pair"][place]),
                "longest": (("order", "step"), readings["longest"][place]),
                "share": ((), float(share[place])),
            },
            {
                "steps": np.arange(1, config.n_steps + 1),
                "length": np.arange(2, config.n_steps + 1),
                "last_pair": list(LAST_PAIRS),
                "order": list(ORDERS),
                "step": config.probe_steps,
            },
        )
        for place in range(len(runs))
    ]


def _share(right: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Share of the chosen sentences that are right, by seed, float64; 0 where none is chosen."""
    return (right & chosen).double().sum(-1) / chosen.double().sum(-1).clamp(min=1)


def within_reach(config: Config, asked: Slots) -> torch.Tensor:
    """Whether three causal layers answer each sentence by the rules of `sims.propagation`, bool (batch,)."""
    tokens = sentence_of(config.problem, asked.ids)
    *_, knows = knowledge(tokens, SORTED_BY, config.n_tokens)
    label = knows[:, -1].gather(1, asked.labels[:, None])[:, 0]
    return label > 0


def predict(config: Config) -> xr.Dataset:
    """No theory here says how far training comes. The theorem says how far it can, for a reader that obeys the rules.

    `reach_share` over `steps`: share of sentences within reach of the rules in this arm. `share`: of the longest task, within
    reach of three causal layers, whose rules sort the orders.
    """
    numbers = list(range(1, config.n_steps + 1))
    sorting = theory.reach_distribution(SORTED_BY, config.n_pairs)
    law = theory.reach_distribution(config.depth, config.n_pairs)
    if not config.arm_recipe.causal:
        law = {min(theory.bounds(config.depth).upper, config.n_pairs): Fraction(1)}
    return xr.Dataset(
        {
            "accuracy": (("steps", "step"), np.full((len(numbers), config.n_probes), np.nan)),
            "share": ((), float(sum(chance for reach, chance in sorting.items() if reach >= config.n_steps))),
            "reach_share": (
                "steps",
                [float(sum(chance for reach, chance in law.items() if reach >= one)) for one in numbers],
            ),
        },
        {"steps": numbers, "step": config.probe_steps},
    )


def _last(outcome: Outcome, name: str, arm: str) -> xr.DataArray:
    """A variable at the last step in one arm."""
    return outcome.measured[name].isel(step=-1).sel(arm=arm, drop=True)


def _verdict(holds: bool) -> Verdict:
    return "holds" if holds else "fails"


def _told(accuracy: xr.DataArray) -> str:
    return ", ".join(
        f"{int(one)}: {float(accuracy.sel(steps=one).mean()):.2f}" for one in accuracy["steps"].values
    )


@long_enough
def _serial(outcome: Outcome) -> Finding:
    gaps, notes = [], []
    for layers, arm in enumerate(("two layers", "three layers", "four layers"), 1):
        accuracy = _last(outcome, "accuracy", arm)
        notes.append(f"{arm} {_told(accuracy)}")
        gaps.append((mean_interval(accuracy.sel(steps=layers).values), arm))
    (value, interval), _ = min(gaps)
    note = f"accuracy on L − 1 steps, worst depth; by number of steps: {'; '.join(notes)}"
    return Finding(value, interval, 1.0, _verdict(interval[0] >= 0.9), note)


@long_enough
def _parallel(outcome: Outcome) -> Finding:
    accuracy = _last(outcome, "by_last_pair", "three layers").sel(length=3)
    value, interval = lowest_cell(accuracy)
    best, (low, _) = highest_cell(accuracy)
    config = outcome.configs[0]
    guess = float(theory.guessing_accuracy(config.task(3), 2))
    verdict: Verdict = "holds" if interval[0] >= 0.9 else "regime" if low >= 0.9 else "fails"
    note = (
        f"accuracy on three steps with three layers, worse class of orders; better one {best:.3f}; one that follows two steps "
        f"and guesses has {guess:.2f}"
    )
    return Finding(value, interval, 1.0, verdict, note)


@long_enough
def _last_pair(outcome: Outcome) -> Finding:
    accuracy = _last(outcome, "by_last_pair", "three layers").sel(length=2)
    value, interval = mean_interval(
        (accuracy.sel(last_pair=LAST_PAIRS[0]) - accuracy.sel(last_pair=LAST_PAIRS[1])).values
    )
    means = ", ".join(f"{one} {float(accuracy.sel(last_pair=one).mean()):.3f}" for one in LAST_PAIRS)
    return Finding(value, interval, None, _verdict(interval[0] >= 0.5), f"accuracy on two steps, {means}")


@long_enough
def _orders_differ(outcome: Outcome) -> Finding:
    longest = _last(outcome, "longest", "three layers")
    value, interval = mean_interval((longest.sel(order=ORDERS[0]) - longest.sel(order=ORDERS[1])).values)
    means = ", ".join(f"{one} {float(longest.sel(order=one).mean()):.3f}" for one in ORDERS)
    return Finding(value, interval, None, _verdict(interval[0] >= 0.2), f"within minus beyond reach; {means}")


@long_enough
def _without_mask(outcome: Outcome) -> Finding:
    free, masked = (_last(outcome, "by_last_pair", arm) for arm in ("three layers, no mask", "three layers"))
    gap = (free.sel(last_pair=LAST_PAIRS[0]) - free.sel(last_pair=LAST_PAIRS[1])).sel(length=2)
    value, interval = mean_interval(gap.values)
    gain, (low, high) = mean_interval((free - masked).sel(length=2).mean("last_pair").values)
    holds = max(abs(interval[0]), abs(interval[1])) <= 0.05 and low >= 0.1
    note = (
        f"gap between the two orders, two steps, no mask; they are answered more often by {gain:+.2f} [{low:+.2f}, {high:+.2f}]; "
        f"by number of steps {_told(_last(outcome, 'accuracy', 'three layers, no mask'))}"
    )
    return Finding(value, interval, 0.0, _verdict(holds), note)


CLAIMS = (
    Claim(
        "W6.4",
        WANG,
        "Trained transformers answer one step more with every layer.",
        "Two, three and four layers: accuracy at least 0.9 on tasks of one, two and three steps.",
        _serial,
    ),
    Claim(
        "W6.5",
        WANG,
        "Trained transformers reason in parallel: three layers answer more than two steps.",
        "Three layers, causal: accuracy at least 0.9 on three steps, for either order of the last two pairs, as the rules allow.",
        _parallel,
    ),
    Claim(
        "W6.6",
        "ours",
        "Training stops first at a half of the rules: pairs read the pair that follows them, if it stands earlier.",
        "Three layers, causal: accuracy on two steps higher by 0.5 where the second pair stands before the first.",
        _last_pair,
    ),
    Claim(
        "W6.7",
        "ours",
        "Whether a trained transformer of three layers answers four steps is decided by the order of pairs.",
        "Three layers, causal: accuracy on orders within reach of the rules higher by 0.2 than on all others.",
        _orders_differ,
    ),
    Claim(
        "W6.8",
        "ours",
        "Without the causal mask a trained transformer answers more often, and the order does not matter.",
        "Two steps: gap between the two orders within 0.05 of 0, and accuracy higher by 0.1 than with the mask.",
        _without_mask,
    ),
)
