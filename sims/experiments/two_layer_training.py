"""Which part of the two-layer transformer learns the noise, which learns to recall, and in which order?

The model of the paper (two blocks, frozen random embeddings, no normalisation) is trained on noisy recall. It is read on clean
sequences, whole and without one of its feed-forwards, and on noisy ones for where its attention rests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from sims.contract import Claim, Finding, Scale
from sims.experiments._readings import crossing, last_reading, noise_levels
from sims.experiments._two_layer_training_figures import (
    answers_over_time,
    attention_over_time,
    margins_over_time,
    noise_tables,
)
from sims.interventions.surgery import without_feed_forward
from sims.models.transformer import Transformer
from sims.outcome import Outcome
from sims.probes import recall_transformer as probes
from sims.recipes.recall_transformer import RecallTransformerRecipe
from sims.statistics import highest_cell, lowest_cell, worst_cell
from sims.streams import torch_generator
from sims.training import log_spaced_steps
from sims.trainings import train_and_keep

NAME = "two_layer_training"
CUTS = ("full", "no last feed-forward", "no first feed-forward")
MARGINS = ("first", "last", "both")


@dataclass(frozen=True)
class Config(RecallTransformerRecipe):
    """One training of the two-layer transformer, with the fields of `sims.recipes.recall_transformer` and these.

    - `n_probes`: readings, spaced evenly in ln(1 + step) from step 1 to the last. `n_evaluation`: fresh sequences a reading.
    - `keep`: steps whose weights are stored, for experiments on trained models.
    """

    n_probes: int = 24
    n_evaluation: int = 128
    keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("n_probes", 2), ("n_evaluation", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        for step in self.keep:
            if not 0 <= step <= self.final_step:
                raise ValueError(
                    f"keep has {step}; it must be a step from 0 to final_step = {self.final_step}."
                )

    @property
    def probe_steps(self) -> np.ndarray:
        """Steps after which the model is read, int."""
        return log_spaced_steps(1.0, 1.0, float(self.final_step), self.n_probes)


SMALL = RecallTransformerRecipe(
    context_length=32,
    optimiser="adamw",
    learning_rate=4e-3,
    momentum=0.0,
    weight_decay=0.01,
    schedule="cosine",
    final_step=300,
)
"""A training of a few seconds that shows the effects."""
PAPER = RecallTransformerRecipe(
    width=256, context_length=256, batch_size=512, learning_rate=0.03, final_step=5000
)
"""The setting of the released script."""
EARLY, LATE = 100, 1200
"""Steps whose weights the laptop scale stores: before attention has formed, and at the end."""


def settings(recipe: RecallTransformerRecipe) -> dict[str, Any]:
    """The fields of a recipe that differ from their defaults, for a Config."""
    return {
        name: value for name, value in vars(recipe).items() if value != getattr(RecallTransformerRecipe, name)
    }


SCALES = {
    "smoke": Scale(
        Config(**settings(SMALL), n_probes=8, keep=(30, 300)),
        {"noise_level": (0.5,)},
        n_seeds=4,
    ),
    "laptop": Scale(
        Config(final_step=LATE, keep=(EARLY, LATE)),
        {"noise_level": (0.3, 0.5, 0.7), "feed_forward_1": ("relu", "linear")},
        n_seeds=5,
    ),
    "paper": Scale(
        Config(**settings(PAPER), n_probes=40, n_evaluation=512, keep=(EARLY, 5000)),
        {"noise_level": (0.1, 0.3, 0.5, 0.7), "feed_forward_1": ("relu", "linear")},
        n_seeds=3,
    ),
}


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs), each on its own sequences; variables over `step`, some over more."""
    config, seeds = runs[0][0], [seed for _, seed in runs]
    clean, noisy = (
        probes.evaluation(
            config.problem(level),
            config.n_evaluation,
            [torch_generator(NAME, purpose, seed, device) for seed in seeds],
            device,
        )
        for purpose, level in (("clean", 0.0), ("noisy", config.noise_level))
    )
    read = train_and_keep(
        config.recipe,
        seeds,
        config.probe_steps,
        lambda model: readings(model, config, clean, noisy),
        config.keep,
        device,
    )
    dims = {"cut": ("cut",), "margin": ("feed_forward",), "table": ("predicted", "label")}
    coordinates = {
        "step": config.probe_steps,
        "cut": list(CUTS),
        "feed_forward": list(MARGINS),
        "predicted": ["noise", "other"],
        "label": ["noise", "other"],
    }
    return [
        xr.Dataset(
            {
                name: ((*dims.get(name.partition("_")[0], ()), "step"), values[place])
                for name, values in read.items()
            },
            coordinates,
        )
        for place in range(len(runs))
    ]


def readings(
    model: Transformer, config: Config, clean: probes.Evaluation, noisy: probes.Evaluation
) -> dict[str, np.ndarray]:
    """All that is read off the models, seeds first; names led by "cut", "margin" or "table" have these axes too."""
    problem = config.problem()
    last = model.architecture.n_layers - 1
    cuts = (model, without_feed_forward(model, last), without_feed_forward(model, 0))
    told = [probes.answers(one.logits(clean.contexts, clean.places.at), clean, problem) for one in cuts]
    trace = model.trace(noisy.contexts, noisy.places.at)
    margins = probes.feed_forward_margins(model, problem)
    return {
        **{f"cut_{name}": np.stack([one[name] for one in told], 1) for name in told[0]},
        "loss": probes.answers(trace.logits, noisy, problem)["loss"],
        "table": probes.noise_table(trace.logits, noisy, problem),
        "margin": np.stack([margins[name] for name in MARGINS], 1),
        **probes.attention_shares(trace.attention, noisy, problem),
        **probes.memories(model, problem),
    }


def predict(config: Config) -> xr.Dataset:
    """There is no closed form for the training of two layers; its claims compare it with the best possible answer."""
    steps = config.probe_steps
    return xr.Dataset({"on_target": ("step", np.full(len(steps), np.nan))}, {"step": steps})


def or_with_relu(check: Callable[[Outcome], Finding]) -> Callable[[Outcome], Finding]:
    """A check whose verdict is "regime" when it fails over all kinds of the last feed-forward and holds with ReLU alone."""

    def checked(outcome: Outcome) -> Finding:
        everywhere = check(outcome)
        if everywhere.verdict != "fails" or "feed_forward_1" not in outcome.measured.dims:
            return everywhere
        relu = replace(outcome, measured=outcome.measured.sel(feed_forward_1=["relu"]))
        there = check(relu)
        if there.verdict != "holds":
            return everywhere
        note = (
            f"holds with ReLU, there {there.measured:.3g}; not with linear feed-forwards: {everywhere.note}"
        )
        return replace(everywhere, verdict="regime", note=note)

    return checked


def _label_shares(outcome: Outcome) -> Finding:
    levels = noise_levels(outcome)
    noise = last_reading(outcome, "cut_noise", "full") - levels
    value, interval = worst_cell(noise, np.abs)
    target = lowest_cell(last_reading(outcome, "cut_target", "full") / (1 - levels))[0]
    holds = abs(value) <= 0.1 and max(map(abs, interval)) <= 0.2 and target >= 0.75
    return Finding(
        value, interval, 0.0, "holds" if holds else "fails",
        "probability of the noise token minus the noise level, the cell farthest off; "
        f"the target has at least {target:.2f} of 1 − noise level",
    )  # fmt: skip


def _order(outcome: Outcome) -> Finding:
    stored = crossing(outcome.measured["margin"].sel(feed_forward="last", drop=True), 0.0)
    found = crossing(outcome.measured["on_target"], 0.5)
    if not bool(np.isfinite(found).all()):
        return Finding(
            np.nan, (np.nan, np.nan), None, "not_measured", "attention has not found the target in all runs"
        )
    value, interval = lowest_cell(found / stored)
    latest = float(stored.max())
    holds = latest <= 30 and interval[0] >= 4
    return Finding(
        value, interval, None, "holds" if holds else "fails",
        f"step at which attention has half its weight on the target, over that of a positive margin (at the latest {latest:.0f})",
    )  # fmt: skip


def _attention(outcome: Outcome) -> Finding:
    value, interval = lowest_cell(last_reading(outcome, "on_target"))
    noise, noise_interval = highest_cell(last_reading(outcome, "on_noise_shown"))
    share = float(last_reading(outcome, "noise_shown").mean())
    holds = interval[0] >= 0.6 and noise_interval[1] <= 0.15
    return Finding(
        value, interval, None, "holds" if holds else "fails",
        f"attention on the target where it was shown; on noise after a trigger at most {noise:.3f}, "
        f"though noise is {share:.2f} of what follows triggers there",
    )  # fmt: skip


def _gain(outcome: Outcome) -> xr.DataArray:
    """Gain in the target's probability from dropping the last feed-forward, at every step."""
    target = outcome.measured["cut_target"]
    return target.sel(cut="no last feed-forward", drop=True) - target.sel(cut="full", drop=True)


def share_of_two(target: xr.DataArray, noise: xr.DataArray) -> xr.DataArray:
    """The target's part of the probability that the target and the noise token have together."""
    return target / (target + noise)


def _gain_in_time(outcome: Outcome) -> Finding:
    gain = _gain(outcome)
    before = outcome.measured["on_target"] < 0.2
    early, late = highest_cell(gain.where(before).max("step"))[0], lowest_cell(gain.isel(step=-1))
    holds = early <= 0.1 and late[1][0] >= 0.03
    return Finding(
        *late, None, "holds" if holds else "fails",
        f"gain in the target's probability at the end, smallest cell; before attention has 0.2 on the target at most {early:.3f}",
    )  # fmt: skip


def _every_cell(outcome: Outcome) -> Finding:
    target, noise = (outcome.measured[f"cut_{name}"].isel(step=-1) for name in ("target", "noise"))
    left = noise.sel(cut="no last feed-forward") / noise.sel(cut="full")
    value, interval = highest_cell(left)
    lead = lowest_cell(share_of_two(target, noise).sel(cut="no last feed-forward"))
    holds = interval[1] <= 1 / 3 and lead[1][0] >= 0.8
    return Finding(
        value, interval, None, "holds" if holds else "fails",
        "share of the noise that is left without the last feed-forward, largest over cells; "
        f"the target then has at least {lead[0]:.2f} of what both have",
    )  # fmt: skip


def _first_is_no_store(outcome: Outcome) -> Finding:
    noise = outcome.measured["cut_noise"].isel(step=-1)
    value, interval = lowest_cell(noise.sel(cut="no first feed-forward") / noise.sel(cut="full"))
    return Finding(
        value, interval, None, "holds" if interval[0] >= 0.7 else "fails",
        "probability of the noise token without the first feed-forward, over that of the whole model; smallest over cells",
    )  # fmt: skip


CLAIMS = (
    Claim(
        "C0.1",
        "paper",
        "Trained on noisy labels, the whole model gives the noise token the noise level, on clean contexts too.",
        "Within 0.1 of the noise level in every cell, and the target at least 0.75 of the rest.",
        _label_shares,
    ),
    Claim(
        "C0.3",
        "paper",
        "The last feed-forward's margin for the noise is positive within the first tens of steps, well before attention works.",
        "Positive by step 30 in every run, and attention needs at least 4 times as many steps for half its weight.",
        _order,
    ),
    Claim(
        "C0.4",
        "paper",
        "The last attention ends on the target after the trigger and hardly on the noise after it.",
        "Where the target was shown: at least 0.6 on it, at most 0.15 on noise after a trigger, in every cell.",
        _attention,
    ),
    Claim(
        "C0.6",
        "paper",
        "The noise is in the last feed-forward at every noise level, be it linear or ReLU.",
        "Without it at most a third of the noise is left, and the target has 0.8 of what both have, in every cell.",
        _every_cell,
    ),
    Claim(
        "C0.31",
        "paper",
        "Dropping the last feed-forward helps only after attention has formed, and then persists.",
        "Target's probability up by at most 0.1 before attention has 0.2 on the target, by 0.03 or more at the end, everywhere.",
        or_with_relu(_gain_in_time),
    ),
    Claim(
        "C0.32",
        "ours",
        "The first feed-forward is no store of the noise: without it the noise stays.",
        "At least 0.7 of the whole model's probability of the noise token, in every cell.",
        _first_is_no_store,
    ),
)


FIGURES = {
    "answers_over_time": answers_over_time,
    "attention_over_time": attention_over_time,
    "margins_over_time": margins_over_time,
    "noise_tables": noise_tables,
}
