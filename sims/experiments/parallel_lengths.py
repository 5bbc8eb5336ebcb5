"""How do trained transformers answer more steps than the theorem on reach allows?

The training by stages of `parallel_curriculum`, without the mask. Each model is asked about chains shorter than those of its
training, where one who counts from an end is led astray, and about rings, chains whose last pair leads back to the first token,
where no end tells anything. Accuracy on the longest task is read by how much lies beyond the label.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import xarray as xr

from sims.contract import Claim, Finding, Scale, Verdict
from sims.experiments import parallel_curriculum
from sims.experiments._parallel_lengths_figures import FIGURES as FIGURES
from sims.experiments._readings import long_enough
from sims.experiments.parallel_curriculum import (
    LAPTOP,
    PAPER,
    SMOKE,
    by_number,
    pairs_beyond,
    right_on_rings,
    share_of,
)
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

    @property
    def rooms(self) -> range:
        """Numbers of pairs that may lie beyond the label of the longest task."""
        return range(self.tail, self.n_pairs - self.n_steps + 1)

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
        Config(**asdict(PAPER) | {"n_pairs": 14, "n_steps": 5, "n_tokens": 15, "causal": False}), n_seeds=5
    ),
}


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs); variables over `step`.

    `accuracy` over `missing`, how many pairs a chain has less than in training, and `steps`, the number of steps asked for;
    `longest` over `room`: on the longest task and chains as in training, by the number of pairs beyond the label; `on_rings` over
    `steps`: on the same sentences as with nothing missing, their chains closed.
    """
    config, seeds = runs[0][0], [seed for _, seed in runs]
    questions = []
    for missing in range(config.most_missing + 1):
        problem = replace(config.problem, n_pairs=config.n_pairs - missing)
        draws = [torch_generator(NAME, f"questions, {missing} missing", seed, device) for seed in seeds]
        drawn = [draw_slots(problem, config.n_evaluation, one) for one in draws]
        questions.append([torch.stack([one[place] for one in drawn]) for place in range(3)])

    ids, labels, steps = questions[0]
    beyond = torch.stack([pairs_beyond(config, *one) for one in zip(ids, labels, strict=True)])
    groups = [(beyond == room) & (steps == config.n_steps) for room in config.rooms]

    def read(model: Decoder) -> dict[str, np.ndarray]:
        right = [
            token_logits(model, ids, config.n_tokens).argmax(-1) == labels for ids, labels, _ in questions
        ]
        accuracy = [
            torch.stack([share_of(one, steps == number) for number in range(1, config.n_steps + 1)], 1)
            for one, (_, _, steps) in zip(right, questions, strict=True)
        ]
        longest = torch.stack([share_of(right[0], one) for one in groups], 1)
        return {
            "accuracy": torch.stack(accuracy, 1).numpy(force=True),
            "longest": longest.numpy(force=True),
            "on_rings": right_on_rings(model, config, *questions[0]),
        }

    readings = train_by_stages(config.stages, seeds, config.probe_steps, read, device)
    return [
        xr.Dataset(
            {
                "accuracy": (("missing", "steps", "step"), readings["accuracy"][place]),
                "longest": (("room", "step"), readings["longest"][place]),
                "on_rings": (("steps", "step"), readings["on_rings"][place]),
            },
            {
                "missing": np.arange(config.most_missing + 1),
                "steps": np.arange(1, config.n_steps + 1),
                "room": np.array(config.rooms),
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


@long_enough
def _both_sides(outcome: Outcome) -> Finding:
    longest = outcome.measured["longest"].isel(step=-1)
    near, far = longest.isel(room=slice(None, -1)).mean("room").values, longest.isel(room=-1).values
    value, interval = mean_interval(near - far)
    told = ", ".join(
        f"{int(one)}: {float(longest.sel(room=one).mean()):.2f}" for one in longest["room"].values
    )
    note = f"accuracy on the longest task, most room beyond the label against all less; by pairs beyond it {told}"
    return Finding(value, interval, None, "holds" if interval[0] >= 0.2 else "fails", note)


@long_enough
def _lost_on_rings(outcome: Outcome) -> Finding:
    upper = theory.bounds(outcome.configs[0].depth).upper
    last = outcome.measured.isel(step=-1)
    chains, rings = last["accuracy"].sel(missing=0), last["on_rings"]
    value, interval = mean_interval((chains - rings).sel(steps=upper + 1).values)
    kept, (low, _) = mean_interval(rings.sel(steps=upper).values)
    verdict: Verdict = "holds" if interval[0] >= 0.3 and low >= 0.9 else "fails"
    note = f"accuracy on {upper + 1} steps lost on rings, where {upper} steps have {kept:.3f}; on rings {by_number(rings)}"
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
    Claim(
        "W6.16",
        "ours",
        "What is answered beyond the theorem is found from two sides: from the start, and backwards from the chain's end.",
        "Three layers, no mask, five steps: accuracy lower by 0.2 where most pairs lie beyond the label than where fewer do.",
        _both_sides,
    ),
    Claim(
        "W6.22",
        "ours",
        "What is answered beyond the theorem needs the chain's end: on rings, which have none, it is lost, and nothing else is.",
        "Three layers, no mask: accuracy on five steps falls by at least 0.3 on rings, and on four it is at least 0.9 there.",
        _lost_on_rings,
    ),
)
