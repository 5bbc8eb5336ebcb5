"""Which comes first in training, the generic answer or the one that the context asks for?

A language model is asked at its checkpoints, uncut: our own, trained on stories in which "to the" is a frequent pair, or
Pythia. Onset is the first checkpoint with a probability of 0.2.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from sims.contract import Claim, Finding, Scale
from sims.experiments._language_models import (
    KINDS,
    OWN,
    READINGS,
    AskedModel,
    change_error,
    readings_table,
    subject,
)
from sims.experiments._pythia_over_training_figures import FIGURES as FIGURES
from sims.models.language_model import matrix
from sims.outcome import Outcome
from sims.roles import Place
from sims.statistics import mean_interval

NAME = "pythia_over_training"
CHEN = "Chen, Bruna, Bietti, arXiv 2406.03068"
PYTHIA_STEPS = (1, 8, 64, 128, 256, 512, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 143000)
"""Checkpoints of a Pythia model that are asked by default; its branches are step1, step8 …"""
ONSET = 0.2
"""Mean probability from which on an answer counts as learnt."""
NEVER = 2.0**30
"""Step that stands for never where steps are compared."""


@dataclass(frozen=True)
class Config(AskedModel):
    """Which model, see `sims.experiments._language_models`, and which checkpoints.

    - `steps`: of the checkpoints, in their order; none for all that are kept of our own, and `PYTHIA_STEPS` of any other. The
      revision of step 64 is step64. `revision` stays as it is.
    """

    steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.revision != "main":
            raise ValueError(
                f"revision is {self.revision!r}; it must be main, as steps names the checkpoints."
            )
        if list(self.steps) != sorted(set(self.steps)) or min(self.steps, default=0) < 0:
            raise ValueError(
                f"steps is {self.steps}; it must hold different integers from 0 on, in their order."
            )
        if self.model in OWN:
            for step in self.steps:
                _ = replace(self, steps=(), fingerprint="").at(step).step

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps of the checkpoints that are asked."""
        return self.steps or (PYTHIA_STEPS if self.recipe is None else self.recipe.checkpoint_steps)

    @property
    def revisions(self) -> tuple[str, ...]:
        """Every checkpoint, as a revision."""
        return tuple(f"step{step}" for step in self.checkpoints)

    def at(self, step: int) -> AskedModel:
        """The model of one checkpoint."""
        names = ("model", "dtype", "n_indirect_object", "n_fact", "texts", "n_texts", "batch_size")
        return AskedModel(revision=f"step{step}", **{name: getattr(self, name) for name in names})


SCALES = {
    "smoke": Scale(
        Config(
            model="story-smoke",
            steps=(0, 4, 16, 64, 128, 256, 320),
            n_indirect_object=48,
            n_fact=12,
            n_texts=16,
        ),
        n_seeds=1,
    ),
    "laptop": Scale(Config(), n_seeds=5),
    "paper": Scale(Config(model="story-paper", n_indirect_object=192, n_fact=192), n_seeds=3),
}


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Ask every checkpoint; variables over `step`.

    `value` over `kind` and `reading`: mean of the means of both halves of prompts. `error`: its standard error over prompts.
    `perplexity`. `same_as`: the last step whose embedding is the same, bit for bit; another than its own tells that a checkpoint
    holds the weights of another one, as some on the hub do.
    """
    return [_one(config, seed, device) for config, seed in runs]


def _one(config: Config, seed: int, device: str) -> xr.Dataset:
    values, errors, perplexities, marks = [], [], [], []
    for step in config.checkpoints:
        asked = subject(config.at(step), seed, device)
        found = asked.ask()
        values.append(readings_table(found).mean(1))
        every = {
            (kind, "report"): {
                name: np.concatenate([found[kind, half][name] for half in ("choose", "report")])
                for name in READINGS
            }
            for kind in KINDS
        }
        none = {
            key: {name: np.zeros_like(one) for name, one in group.items()} for key, group in every.items()
        }
        errors.append(np.nan_to_num(change_error(every, none, READINGS)))
        perplexities.append(asked.losses().perplexity)
        embedding = matrix(asked.model, Place("embedding")).detach().float().cpu().contiguous()
        marks.append(hashlib.sha256(embedding.numpy().tobytes()).hexdigest())
    last = dict(zip(marks, config.checkpoints, strict=True))
    return xr.Dataset(
        {
            "value": (("step", "kind", "reading"), np.stack(values)),
            "error": (("step", "kind", "reading"), np.stack(errors)),
            "perplexity": ("step", perplexities),
            "same_as": ("step", [float(last[one]) for one in marks]),
        },
        {"step": np.array(config.checkpoints), "kind": list(KINDS), "reading": list(READINGS)},
    )


def predict(config: Config) -> xr.Dataset:
    """The theory of the one-step gradient says which comes first (`theory.noisy_recall`), not when in a model of this kind."""
    steps = np.array(config.checkpoints)
    return xr.Dataset({"perplexity": ("step", np.full(len(steps), np.nan))}, {"step": steps})


def onset(values: xr.DataArray) -> xr.DataArray:
    """First step with a probability of `ONSET`; infinity when there is none."""
    reached = values >= ONSET
    return xr.where(reached.any("step"), values["step"].isel(step=reached.argmax("step")), np.inf)


def _first(outcome: Outcome) -> Finding:
    values = outcome.measured["value"].sel(kind="indirect object")
    generic = onset(values.sel(reading="generic_probability"))
    answer = onset(values.sel(reading="answer_probability"))
    never = int(np.isinf(answer.values).sum())
    late, early = (np.log2(np.clip(one.values.astype(float), 1, NEVER)) for one in (answer, generic))
    value, interval = mean_interval(late - early)
    if math.isnan(interval[0]):
        interval = (value, value)
    told = (
        f'doublings of the step from the onset of " the" (median step {np.median(generic):g}) to that of the answer '
        f"(median step {np.median(answer):g})"
    )
    told += f"; never in {never} runs" if never else ""
    same = outcome.measured["same_as"]
    groups = [
        " = ".join(f"{int(step)}" for step in one["step"].values[one.values == last])
        for one in (same.isel(seed=place) for place in range(same.sizes["seed"]))
        for last in np.unique(one.values)
        if int((one == last).sum()) > 1
    ]
    told += f"; checkpoints with the same weights: {', '.join(dict.fromkeys(groups))}" if groups else ""
    return Finding(value, interval, None, "holds" if interval[0] >= 2 else "fails", told)


def _contrast(outcome: Outcome) -> Finding:
    values = outcome.measured["value"].sel(kind="indirect object")
    answer, other = (
        values.sel(reading=name, drop=True) for name in ("answer_probability", "subject_probability")
    )
    copied = onset(answer)
    chosen = answer - other >= ONSET
    told_apart = xr.where(chosen.any("step"), chosen["step"].isel(step=chosen.argmax("step")), np.inf)
    never = int(np.isinf(told_apart.values.astype(float)).sum())
    if 2 * never > told_apart.size:
        note = f"training ends before the two names are told apart in {never} of {told_apart.size} runs"
        return Finding(np.nan, (np.nan, np.nan), None, "not_measured", note)
    last = float(values["step"].max())
    doublings = np.log2(np.clip(told_apart.values, 1, last)) - np.log2(np.clip(copied.values, 1, last))
    value, interval = mean_interval(doublings)
    if math.isnan(interval[0]):
        interval = (value, value)
    note = (
        f"doublings of the step from the onset of the answer (median {np.median(copied):g}) to where it is {ONSET} above the "
        f"subject (median {np.median(told_apart):g}); after the end in {never} runs, which count with the end"
    )
    return Finding(value, interval, None, "holds" if interval[0] >= 0.5 else "fails", note)


CLAIMS = (
    Claim(
        "P1",
        CHEN,
        'The generic answer " the" is learnt first, the answer that the context asks for later.',
        'Onset of the answer (probability 0.2) at least two doublings of the step after that of " the".',
        _first,
    ),
    Claim(
        "P1.1",
        "ours",
        "Between the two, either name of the sentence is copied: telling the receiver from the giver comes last.",
        "The answer is 0.2 above the subject at least half a doubling of the step after its onset.",
        _contrast,
    ),
)
