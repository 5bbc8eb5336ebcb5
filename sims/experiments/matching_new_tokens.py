"""Does what a transformer has learnt of matching carry over to tokens that its training never had?

Decoders of three layers follow one link or two of a chain. Token embeddings are the output matrix as well, and are drawn once or,
in large presets, trained too; the training has fewer tokens than the stream has dimensions, or more. All are asked about seen
pairs, unseen pairs and new tokens. As training only ever lowers the logits of new tokens, answers are also taken among tokens of
the sentence's own kind.
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
from sims.experiments._matching_new_tokens_figures import by_arm
from sims.experiments._readings import long_enough
from sims.experiments.matching_mechanism import QUESTIONS
from sims.models.decoder import Decoder
from sims.outcome import Outcome
from sims.probes import matching as probes
from sims.recipes.frozen_matching import FrozenMatchingRecipe
from sims.statistics import mean_interval
from sims.streams import torch_generator
from sims.tasks.pair_chains import PairChains
from sims.trainings import train_and_keep

NAME = "matching_new_tokens"
NEW = QUESTIONS[-1]
AMONG = ("all tokens", "own kind")
"""What an answer is the likeliest of: all ids, or those that the sentence's tokens are drawn from."""


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
    final_step=2000,
    n_probes=10,
    n_evaluation=1000,
)
SMALL: dict[str, Any] = asdict(LAPTOP) | {
    "n_pairs": 4, "n_steps": 1, "n_layers": 2, "first_token": 2, "n_unseen_tokens": 10, "width": 32, "attention_width": 32,
    "feed_forward_width": 32, "batch_size": 64, "final_step": 20, "n_probes": 2, "n_evaluation": 200,
}  # fmt: skip
ARMS = {"train_embedding": (False, True)}
SCALES = {
    "smoke": Scale(Config(**SMALL), ARMS | {"n_tokens": (20, 60)}, n_seeds=2),
    "laptop": Scale(LAPTOP, {"n_tokens": (50, 200)}, n_seeds=5),
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

    `accuracy` over `among` and `steps`, the number of steps asked for; `edge` over `layer`: attention on the edges of matching.
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
        accuracy = [answered(model, *one) for one in zip(asked, problems, strict=True)]
        edge = [probes.edges(model.trace(one.tokens, last=True), one) for one in asked]
        found = {"accuracy": torch.stack(accuracy, 1), "edge": torch.stack(edge, 1)}
        return {name: value.double().numpy(force=True) for name, value in found.items()}

    found = train_and_keep(config.recipe, seeds, config.probe_steps, read, device=device)
    dims = {"accuracy": ("pairs", "among", "steps", "step"), "edge": ("pairs", "layer", "step")}
    coordinates = {
        "pairs": list(QUESTIONS),
        "among": list(AMONG),
        "steps": np.arange(1, config.n_steps + 1),
        "layer": np.arange(config.n_layers),
        "step": config.probe_steps,
    }
    return [
        xr.Dataset({name: (dims[name], values[place]) for name, values in found.items()}, coordinates)
        for place in range(len(runs))
    ]


def answered(model: Decoder, asked: probes.Sentences, problem: PairChains) -> torch.Tensor:
    """Share of sentences that are answered, of those that ask for 1 … `problem.n_steps` steps.

    Returns (seeds, `AMONG`, n_steps), float64; NaN for a number of steps that no sentence asks for.
    """
    logits = model.logits(asked.tokens, last=True)[:, :, 0]
    kind = slice(problem.first_token, problem.n_token_ids)
    told = (logits.argmax(-1), problem.first_token + logits[..., kind].argmax(-1))
    groups = [asked.n_steps == number for number in range(1, problem.n_steps + 1)]
    return torch.stack(
        [
            torch.stack(
                [
                    ((one == asked.labels) & group).double().sum(-1) / group.double().sum(-1)
                    for group in groups
                ],
                -1,
            )
            for one in told
        ],
        1,
    )


def predict(config: Config) -> xr.Dataset:
    """Nothing (NaN): no theory here says what a whole decoder learns."""
    axes = {
        "pairs": list(QUESTIONS),
        "among": list(AMONG),
        "steps": np.arange(1, config.n_steps + 1),
        "step": config.probe_steps,
    }
    sizes = (len(QUESTIONS), len(AMONG), config.n_steps, config.n_probes)
    return xr.Dataset({"accuracy": (tuple(axes), np.full(sizes, np.nan))}, axes)


def one_step(outcome: Outcome, pairs: str, among: str, *, trained: bool, many: bool) -> xr.DataArray:
    """Accuracy at the end on one step: embeddings trained or not, most tokens or fewest."""
    last = by_arm(outcome).isel(step=-1).sel(pairs=pairs, among=among, steps=1)
    tokens = last["n_tokens"].values
    return last.sel(train_embedding=trained, n_tokens=tokens.max() if many else tokens.min())


@long_enough
def _carries_over(outcome: Outcome) -> Finding:
    value, interval = mean_interval(one_step(outcome, NEW, "all tokens", trained=False, many=True).values)
    return Finding(
        value, interval, None, "holds" if interval[0] >= 0.8 else "fails",
        "accuracy on one step with tokens that the training never had; embeddings frozen, most training tokens",
    )  # fmt: skip


def _lost(trained: bool, many: bool, among: str, what: str) -> Callable[[Outcome], Finding]:
    """A check that one arm loses at least 0.2 against frozen embeddings and most tokens, if it has learnt its own tokens."""

    @long_enough
    def check(outcome: Outcome) -> Finding:
        if trained not in by_arm(outcome)["train_embedding"].values:
            note = "this scale trains no embeddings"
            return Finding(np.nan, (np.nan, np.nan), None, "not_measured", note)
        learnt = float(one_step(outcome, "seen", "all tokens", trained=trained, many=many).mean())
        if learnt < 0.9:
            note = f"{what} one step is not learnt: {learnt:.3f} on seen pairs"
            return Finding(np.nan, (np.nan, np.nan), None, "not_measured", note)
        whole = one_step(outcome, NEW, among, trained=False, many=True)
        less = one_step(outcome, NEW, among, trained=trained, many=many)
        value, interval = mean_interval(whole.values - less.values)
        note = f"accuracy on one step with new tokens lost {what}; {float(whole.mean()):.3f} and {float(less.mean()):.3f}"
        return Finding(value, interval, None, "holds" if interval[0] >= 0.2 else "fails", note)

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
        "It takes many training tokens: with fewer than the stream has dimensions, new ones point where nothing was learnt.",
        "Answers among new tokens alone, one step: accuracy lower by at least 0.2 than with three times as many as dimensions.",
        _lost(False, False, "own kind", "with few training tokens"),
    ),
    Claim(
        "W1.9",
        "ours",
        "To be tied is not enough: where embeddings are trained, less carries over to tokens that the training never had.",
        "Accuracy on one step with new tokens lower by at least 0.2 than where embeddings are frozen.",
        _lost(True, True, "all tokens", "where embeddings are trained"),
    ),
)
