"""Do trained transformers follow the steps, or count from the ends of a chain whose length never changes?

The training by stages of `parallel_curriculum`, without the mask. In the end each model is asked about chains that are shorter
than all those of its training: there one who counts from an end is led astray, and one who follows the steps is not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import xarray as xr

from sims.contract import Claim, Finding, Scale, Verdict
from sims.experiments import parallel_curriculum
from sims.experiments._parallel_lengths_figures import FIGURES as FIGURES
from sims.experiments.parallel_curriculum import LAPTOP, PAPER, SMOKE, long_enough, share_of
from sims.models.decoder import Decoder
from sims.outcome import Outcome
from sims.recipes.pair_curriculum import train_by_stages
from sims.recipes.pair_reader import token_logits
from sims.statistics import mean_interval
from sims.streams import torch_generator
from sims.tasks.pair_slots import draw_slots
from theory import parallel_reasoning as theory

NAME = "parallel_lengths"


@dataclass(frozen=True)
class Config(parallel_curriculum.Config):
    """One training, with the fields of `sims.experiments.parallel_curriculum` and this.

    - `most_missing`: pairs that the shortest chains have less than those of the training.
    """

    most_missing: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        room = self.n_pairs - self.n_steps - self.tail
        if not 1 <= self.most_missing <= room:
            raise ValueError(
                f"most_missing is {self.most_missing}; it must be from 1 to {room}, so that the longest task has a start."
            )


SCALES = {
    "smoke": Scale(Config(**asdict(SMOKE) | {"n_pairs": 9, "n_tokens": 10, "causal": False}), n_seeds=4),
    "laptop": Scale(Config(**asdict(LAPTOP) | {"causal": False}), n_seeds=5),
    "paper": Scale(
        Config(**asdict(PAPER) | {"n_pairs": 18, "n_tokens": 19, "n_layers": 3, "causal": False}), n_seeds=5
    ),
}


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs); variables over `step`.

    `accuracy` over `missing`, how many pairs a chain has less than in training, and `steps`, the number of steps asked for.
    """
    config, seeds = runs[0][0], [seed for _, seed in runs]
    questions = []
    for missing in range(config.most_missing + 1):
        problem = replace(config.problem, n_pairs=config.n_pairs - missing)
        draws = [torch_generator(NAME, f"questions, {missing} missing", seed, device) for seed in seeds]
        drawn = [draw_slots(problem, config.n_evaluation, one) for one in draws]
        questions.append([torch.stack([one[place] for one in drawn]) for place in range(3)])

    def read(model: Decoder) -> dict[str, np.ndarray]:
        found = []
        for ids, labels, steps in questions:
            right = token_logits(model, ids, config.n_tokens).argmax(-1) == labels
            found.append(
                torch.stack([share_of(right, steps == number) for number in range(1, config.n_steps + 1)], 1)
            )
        return {"accuracy": torch.stack(found, 1).numpy(force=True)}

    readings = train_by_stages(config.stages, seeds, config.probe_steps, read, device)
    return [
        xr.Dataset(
            {"accuracy": (("missing", "steps", "step"), readings["accuracy"][place])},
            {
                "missing": np.arange(config.most_missing + 1),
                "steps": np.arange(1, config.n_steps + 1),
                "step": config.probe_steps,
            },
        )
        for place in range(len(runs))
    ]


def predict(config: Config) -> xr.Dataset:
    """Nothing (NaN): the theorem says what rules allow, not what training finds beside them."""
    axes = {
        "missing": np.arange(config.most_missing + 1),
        "steps": np.arange(1, config.n_steps + 1),
        "step": config.probe_steps,
    }
    return xr.Dataset({"accuracy": (tuple(axes), np.full([len(one) for one in axes.values()], np.nan))}, axes)


@long_enough
def _follows(outcome: Outcome) -> Finding:
    upper = theory.bounds(outcome.configs[0].depth).upper
    short = outcome.measured["accuracy"].isel(step=-1).sel(missing=1)
    value, interval = mean_interval(short.sel(steps=upper).values)
    verdict: Verdict = "holds" if interval[0] >= 0.9 else "fails"
    return Finding(
        value, interval, 1.0, verdict, f"accuracy on {upper} steps, chains of one pair less than in training"
    )


@long_enough
def _counts(outcome: Outcome) -> Finding:
    over = theory.bounds(outcome.configs[0].depth).upper + 1
    accuracy = outcome.measured["accuracy"].isel(step=-1).sel(steps=over)
    whole, short = (accuracy.sel(missing=one).values for one in (0, 1))
    value, interval = mean_interval(whole - short)
    verdict: Verdict = "holds" if interval[0] >= 0.3 else "fails"
    note = (
        f"accuracy on {over} steps lost on chains of one pair less; {whole.mean():.3f} and {short.mean():.3f}"
    )
    return Finding(value, interval, None, verdict, note)


CLAIMS = (
    Claim(
        "W6.14",
        "ours",
        "The steps that the theorem allows are followed: they are answered on shorter chains than those of the training too.",
        "Three layers, no mask, chains of one pair less: accuracy at least 0.9 on four steps.",
        _follows,
    ),
    Claim(
        "W6.15",
        "ours",
        "What is answered beyond the theorem is not followed but counted from the chain's ends, and lost on shorter chains.",
        "Three layers, no mask: accuracy on five steps falls by at least 0.3 on chains of one pair less.",
        _counts,
    ),
)
