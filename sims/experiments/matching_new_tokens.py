"""Does what a transformer has learnt of matching carry over to tokens that its training never had?

Decoders of three layers follow one link or two of a chain. Token embeddings are the output matrix as well, and are drawn once or
trained; the training has fewer tokens than the stream has dimensions, or more. All are asked about seen pairs, unseen pairs and
new tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from sims.contract import Claim, Finding, Scale
from sims.experiments import matching_map
from sims.experiments._matching_new_tokens_figures import FIGURES as FIGURES
from sims.experiments._readings import long_enough
from sims.experiments.matching_mechanism import QUESTIONS
from sims.models.decoder import Decoder
from sims.outcome import Outcome
from sims.probes import matching as probes
from sims.recipes.frozen_matching import FrozenMatchingRecipe
from sims.statistics import mean_interval
from sims.streams import torch_generator
from sims.trainings import train_and_keep

NAME = "matching_new_tokens"
NEW = QUESTIONS[-1]


@dataclass(frozen=True)
class Config(FrozenMatchingRecipe, matching_map.Config):
    """One training, with the fields of `sims.recipes.frozen_matching` and the readings of `sims.experiments.matching_map`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mixed:
            raise ValueError("mixed is False; each number of steps is asked for and read apart.")


LAPTOP = Config(
    n_pairs=5,
    mixed=True,
    n_tokens=200,
    normalisation="pre",
    final_step=3000,
    n_probes=12,
    n_evaluation=1000,
)
SMALL: dict[str, Any] = asdict(LAPTOP) | {
    "n_pairs": 4, "n_steps": 1, "n_layers": 2, "first_token": 2, "n_unseen_tokens": 10, "width": 32, "attention_width": 32,
    "feed_forward_width": 32, "batch_size": 64, "final_step": 20, "n_probes": 2, "n_evaluation": 200,
}  # fmt: skip
ARMS = {"train_embedding": (False, True)}
SCALES = {
    "smoke": Scale(Config(**SMALL), ARMS | {"n_tokens": (20, 60)}, n_seeds=2),
    "laptop": Scale(LAPTOP, ARMS | {"n_tokens": (50, 200)}, n_seeds=5),
    "paper": Scale(
        Config(
            n_pairs=6, mixed=True, n_steps=3, n_layers=4, n_tokens=1200, n_unseen_tokens=100, width=400, feed_forward_width=1200,
            normalisation="pre", batch_size=1000, learning_rate=5e-4, schedule="cosine", warmup_steps=1000, final_step=30_000,
            n_probes=30, n_evaluation=1000,
        ),
        ARMS | {"n_tokens": (300, 1200)},
        n_seeds=5,
    ),
}  # fmt: skip


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs); variables over `pairs` (seen pairs, unseen ones, new tokens) and `step`.

    `accuracy` over `steps`, the number of steps asked for; `edge` over `layer`: attention on the edges of matching.
    """
    config, seeds = runs[0][0], [seed for _, seed in runs]
    problems = (config.problem, config.problem.unseen_pairs, config.unseen_tokens)
    asked = [
        probes.ask(
            problem, config.n_evaluation, [torch_generator(NAME, name, seed, device) for seed in seeds]
        )
        for name, problem in zip(QUESTIONS, problems, strict=True)
    ]

    def read(model: Decoder) -> dict[str, np.ndarray]:
        accuracy = [by_number(probes.correct(model, one), one.n_steps, config.n_steps) for one in asked]
        edge = [probes.edges(model.trace(one.tokens, last=True), one) for one in asked]
        found = {"accuracy": torch.stack(accuracy, 1), "edge": torch.stack(edge, 1)}
        return {name: value.double().numpy(force=True) for name, value in found.items()}

    found = train_and_keep(config.recipe, seeds, config.probe_steps, read, device=device)
    dims = {"accuracy": ("pairs", "steps", "step"), "edge": ("pairs", "layer", "step")}
    coordinates = {
        "pairs": list(QUESTIONS),
        "steps": np.arange(1, config.n_steps + 1),
        "layer": np.arange(config.n_layers),
        "step": config.probe_steps,
    }
    return [
        xr.Dataset({name: (dims[name], values[place]) for name, values in found.items()}, coordinates)
        for place in range(len(runs))
    ]


def by_number(right: torch.Tensor, steps: torch.Tensor, most: int) -> torch.Tensor:
    """Share of right answers among sentences that ask for 1 … `most` steps, (seeds, most).

    - `right`: bool (seeds, batch). `steps`: int64 (seeds, batch).
    """
    groups = [steps == number for number in range(1, most + 1)]
    return torch.stack([(right & one).double().sum(-1) / one.double().sum(-1) for one in groups], -1)


def predict(config: Config) -> xr.Dataset:
    """Nothing (NaN): no theory here says what a whole decoder learns."""
    axes = {"pairs": list(QUESTIONS), "steps": np.arange(1, config.n_steps + 1), "step": config.probe_steps}
    sizes = (len(QUESTIONS), config.n_steps, config.n_probes)
    return xr.Dataset({"accuracy": (tuple(axes), np.full(sizes, np.nan))}, axes)


def one_step(outcome: Outcome, trained: bool, many: bool) -> xr.DataArray:
    """Accuracy on new tokens at the end, one step: embeddings trained or not, most tokens or fewest."""
    last = outcome.measured["accuracy"].isel(step=-1).sel(pairs=NEW, steps=1)
    tokens = last["n_tokens"].values
    return last.sel(train_embedding=trained, n_tokens=tokens.max() if many else tokens.min())


@long_enough
def _carries_over(outcome: Outcome) -> Finding:
    value, interval = mean_interval(one_step(outcome, trained=False, many=True).values)
    return Finding(
        value, interval, None, "holds" if interval[0] >= 0.8 else "fails",
        "accuracy on one step with tokens that the training never had; embeddings frozen, most training tokens",
    )  # fmt: skip


def _lost(trained: bool, many: bool, least: float, what: str) -> Callable[[Outcome], Finding]:
    @long_enough
    def check(outcome: Outcome) -> Finding:
        whole, less = one_step(outcome, trained=False, many=True), one_step(outcome, trained, many)
        value, interval = mean_interval(whole.values - less.values)
        note = f"accuracy on one step with new tokens lost {what}; {float(whole.mean()):.3f} and {float(less.mean()):.3f}"
        return Finding(value, interval, None, "holds" if interval[0] >= least else "fails", note)

    return check


CLAIMS = (
    Claim(
        "W1.7",
        "ours",
        "Where token embeddings are drawn once and are the output too, what is learnt carries over to tokens never seen.",
        "Three layers, three times as many training tokens as dimensions: accuracy on one step with new tokens at least 0.8.",
        _carries_over,
    ),
    Claim(
        "W1.8",
        "ours",
        "It takes more training tokens than the stream has dimensions: else new embeddings point where nothing was learnt.",
        "With fewer training tokens than dimensions, accuracy on one step with new tokens lower by at least 0.3.",
        _lost(False, False, 0.3, "with few training tokens"),
    ),
    Claim(
        "W1.9",
        "ours",
        "To be tied is not enough: where embeddings are trained, less carries over to tokens whose embeddings are not.",
        "Accuracy on one step with new tokens lower by at least 0.2 than where embeddings are frozen.",
        _lost(True, True, 0.2, "where embeddings are trained"),
    ),
)
