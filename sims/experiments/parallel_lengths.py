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
    more_than_allowed,
    right_on_rings,
    share_of,
    where_asked,
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
        if self.n_distractors:
            raise ValueError(
                f"n_distractors is {self.n_distractors}; it must be 0, as a single chain alone can be closed to a ring."
            )
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
    `missing` and `steps`: on the same sentences as `accuracy`, their chains closed.
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
            "on_rings": np.stack([right_on_rings(model, config, *one) for one in questions], 1),
        }

    readings = train_by_stages(config.stages, seeds, config.probe_steps, read, device)
    return [
        xr.Dataset(
            {
                "accuracy": (("missing", "steps", "step"), readings["accuracy"][place]),
                "longest": (("room", "step"), readings["longest"][place]),
                "on_rings": (("missing", "steps", "step"), readings["on_rings"][place]),
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


def pairs_beyond(config: parallel_curriculum.Config, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many pairs of its chain lie beyond each label, int64 (batch,).

    - `ids`: (batch, slots), of `sims.tasks.pair_slots`. `labels`: (batch,).
    """
    pairs, size = ids[:, :-1], config.n_tokens
    # the last column: after a chain's end
    follows = torch.full((len(ids), size + 1), size, device=ids.device)
    follows.scatter_(1, pairs // size, pairs % size)
    found, token = torch.zeros_like(labels), labels
    for _ in range(pairs.shape[1]):
        token = follows.gather(1, token[:, None])[:, 0]
        found += token < size
    return found


def predict(config: Config) -> xr.Dataset:
    """Nothing (NaN): the theorem says what rules allow, not what training finds beside them."""
    axes = {
        "missing": np.arange(config.most_missing + 1),
        "steps": np.arange(1, config.n_steps + 1),
        "step": config.probe_steps,
    }
    return xr.Dataset({"accuracy": (tuple(axes), np.full([len(one) for one in axes.values()], np.nan))}, axes)


@long_enough
@where_asked(lambda depth: theory.bounds(depth).upper)
def _follows(outcome: Outcome) -> Finding:
    upper = theory.bounds(outcome.configs[0].depth).upper
    short = outcome.measured["accuracy"].isel(step=-1).sel(missing=1)
    value, interval = mean_interval(short.sel(steps=upper).values)
    verdict: Verdict = "holds" if interval[0] >= 0.9 else "fails"
    return Finding(
        value, interval, 1.0, verdict, f"accuracy on {upper} steps, chains of one pair less than in training"
    )


@long_enough
@where_asked(more_than_allowed)
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
@where_asked(more_than_allowed)
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
@where_asked(more_than_allowed)
def _lost_on_rings(outcome: Outcome) -> Finding:
    """On rings of one pair less, where `theory.parallel_reasoning.rings.ring_accuracy` of the theorem's reach is 0."""
    over = more_than_allowed(outcome.configs[0].depth)
    last = outcome.measured.isel(step=-1).sel(missing=1)
    value, interval = mean_interval((last["accuracy"] - last["on_rings"]).sel(steps=over).values)
    kept, (low, _) = mean_interval(last["on_rings"].sel(steps=over - 1).values)
    verdict: Verdict = "holds" if interval[0] >= 0.3 and low >= 0.9 else "fails"
    note = (
        f"accuracy on {over} steps lost on rings of one pair less, where {over - 1} steps have {kept:.3f}; by number of steps on "
        f"these rings {by_number(last['on_rings'])}"
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
        "What is answered beyond the theorem is not followed: on rings, which have no end, it is lost, and four steps are not.",
        "Three layers, no mask, one pair less: on rings accuracy on five steps falls by 0.3 or more, on four it is at least 0.9.",
        _lost_on_rings,
    ),
)
