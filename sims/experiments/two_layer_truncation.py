"""Which surgery on a trained two-layer transformer removes the noise, on which matrix, and which component holds it?

Every trained matrix, and the product W_o W_v, is truncated over the whole rank axis and loses single components; feed-forwards
and the residual are removed; a random matrix of equal norm and the same surgery early in training are controls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from sims.contract import Claim, Finding, Scale
from sims.experiments._readings import LAST_IN, LAST_OUT, late, relu_only
from sims.experiments._two_layer_truncation_figures import spectra, surgeries, truncation_curves
from sims.experiments.two_layer_training import (
    EARLY,
    LATE,
    PAPER,
    SMALL,
    or_with_relu,
    settings,
    share_of_two,
)
from sims.interventions import surgery
from sims.models.transformer import Transformer
from sims.outcome import Outcome
from sims.probes import recall_transformer as probes
from sims.recipes.recall_transformer import RecallTransformerRecipe
from sims.roles import Place
from sims.statistics import highest_cell, lowest_cell
from sims.streams import torch_generator
from sims.trainings import trained_stack

NAME = "two_layer_truncation"
ROLES = ("key", "value", "attention_output", "value_output", "feed_forward_in", "feed_forward_out")
PLACES = tuple((role, layer) for layer in (0, 1) for role in ROLES)
RANK_FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0)
REMOVED = ("first", "second", "noise")
"""Single components that are removed: the largest, the next one (the matched control), the one that adds most to the noise."""
SURGERIES = (
    "none",
    "no last feed-forward",
    "no first feed-forward",
    "no last residual",
    "no last feed-forward, no last residual",
)
READ = ("target", "noise", "accuracy", "loss")


@dataclass(frozen=True)
class Config(RecallTransformerRecipe):
    """One trained two-layer transformer, with the fields of `sims.recipes.recall_transformer` and these.

    - `step`: the step whose weights are operated on. `n_evaluation`: fresh clean sequences on which each model is read.
    """

    step: int = LATE
    n_evaluation: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.step <= self.final_step:
            raise ValueError(f"step is {self.step}; it must be from 0 to final_step = {self.final_step}.")
        if self.n_evaluation < 1:
            raise ValueError(f"n_evaluation is {self.n_evaluation}; it must be at least 1.")


SCALES = {
    "smoke": Scale(
        Config(**settings(SMALL), step=300, n_evaluation=64),
        {"step": (30, 300)},
        n_seeds=4,
    ),
    "laptop": Scale(
        Config(final_step=LATE),
        {"noise_level": (0.3, 0.5, 0.7), "feed_forward_1": ("relu", "linear"), "step": (EARLY, LATE)},
        n_seeds=5,
    ),
    "paper": Scale(
        Config(**settings(PAPER), step=5000, n_evaluation=512),
        {
            "noise_level": (0.1, 0.3, 0.5, 0.7),
            "feed_forward_1": ("relu", "linear"),
            "step": (EARLY, 5000),
        },
        n_seeds=3,
    ),
}


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Operate on the trained models of the stacked runs (equal configs); all variables have places, or surgeries, first."""
    config, seeds = runs[0][0], [seed for _, seed in runs]
    model = trained_stack(config.recipe, seeds, config.step, device)
    draws = [torch_generator(NAME, "clean", seed, device) for seed in seeds]
    asked = probes.evaluation(config.problem(0.0), config.n_evaluation, draws, device)
    with torch.no_grad():
        return operate(model, config, asked, seeds)


def operate(
    model: Transformer, config: RecallTransformerRecipe, asked: probes.Evaluation, seeds: list[int]
) -> list[xr.Dataset]:
    """All surgeries on stacked models, one dataset a seed; NaN where a model lacks the matrix."""
    problem = config.problem()

    def read(changed: Transformer) -> np.ndarray:
        told = probes.answers(changed.logits(asked.contexts, asked.places.at), asked, problem)
        return np.stack([told[name] for name in READ])

    whole = np.stack([read(changed) for changed in _operated(model)])
    n_seeds, n_places, n_components = len(seeds), len(PLACES), config.width
    kept = np.full((n_places, len(RANK_FRACTIONS), len(READ), n_seeds), np.nan)
    removed = np.full((n_places, len(REMOVED), len(READ), n_seeds), np.nan)
    randomised = np.full((n_places, len(READ), n_seeds), np.nan)
    values, shares = np.full((2, n_places, n_components, n_seeds), np.nan)
    for row, (role, layer) in enumerate(PLACES):
        if not model.roles.has(role, layer):
            continue
        known = surgery.spectrum(model, role, layer)
        cut = surgery.truncations(model, role, layer, RANK_FRACTIONS, known)
        kept[row] = [read(changed) for changed in cut]
        draws = [torch_generator(NAME, f"random matrix {role} {layer}", seed) for seed in seeds]
        randomised[row] = read(surgery.randomised(model, role, layer, draws))
        share = probes.component_shares(model, asked, problem, role, layer, known)
        values[row], shares[row] = (one.numpy(force=True).T for one in (known.singular_values, share))
        chosen = (
            torch.zeros_like(share[:, :1]),
            torch.ones_like(share[:, :1]),
            share.argmax(-1, keepdim=True),
        )
        removed[row] = [
            read(surgery.without_components(model, role, layer, one.long(), known)) for one in chosen
        ]
    coordinates = {
        "place": [str(Place(*place)) for place in PLACES],
        "rank_fraction": list(RANK_FRACTIONS),
        "removed": list(REMOVED),
        "surgery": list(SURGERIES),
        "component": np.arange(n_components),
    }
    return [
        xr.Dataset(
            {
                **{f"surgery_{name}": ("surgery", whole[:, at, i]) for at, name in enumerate(READ)},
                **{
                    f"kept_{name}": (("place", "rank_fraction"), kept[:, :, at, i])
                    for at, name in enumerate(READ)
                },
                **{f"random_{name}": ("place", randomised[:, at, i]) for at, name in enumerate(READ)},
                **{
                    f"removed_{name}": (("place", "removed"), removed[:, :, at, i])
                    for at, name in enumerate(READ)
                },
                "singular_value": (("place", "component"), values[:, :, i]),
                "noise_share": (("place", "component"), shares[:, :, i]),
            },
            coordinates,
        )
        for i in range(n_seeds)
    ]


def _operated(model: Transformer) -> Iterator[Transformer]:
    """The models of `SURGERIES`, in that order."""
    last = model.architecture.n_layers - 1
    dropped = surgery.without_feed_forward(model, last)
    yield model
    yield dropped
    yield surgery.without_feed_forward(model, 0)
    yield model.without_residual(last)
    yield dropped.without_residual(last)


def predict(config: Config) -> xr.Dataset:
    """Nothing (NaN): there is no closed form for two layers. Which component holds the noise is compared by a claim."""
    del config
    missing = np.full(len(SURGERIES), np.nan)
    return xr.Dataset({"surgery_noise": ("surgery", missing)}, {"surgery": list(SURGERIES)})


def _is_trained(outcome: Outcome) -> bool:
    return bool((late(outcome)["surgery_target"].sel(surgery="none").mean("seed") > 0.15).all())


def _drop(outcome: Outcome) -> Finding:
    values = late(outcome)
    noise, target, loss = (values[f"surgery_{name}"] for name in ("noise", "target", "loss"))
    dropped = {"surgery": "no last feed-forward"}
    value, interval = highest_cell(noise.sel(dropped))
    lead = lowest_cell(share_of_two(target, noise).sel(dropped))
    gain = lowest_cell(target.sel(dropped) - target.sel(surgery="none"))
    better = highest_cell(loss.sel(dropped) - loss.sel(surgery="none"))
    holds = interval[1] <= 0.15 and lead[1][0] >= 0.8 and gain[1][0] > 0 and better[1][1] < 0
    return Finding(
        value, interval, None, "holds" if holds else "fails",
        f"probability of the noise token without the last feed-forward, largest cell; the target has at least {lead[0]:.2f} "
        f"of what both have and gains at least {gain[0]:.2f}, the clean loss changes by {better[0]:+.2f} nats at most",
    )  # fmt: skip


def _early(outcome: Outcome) -> Finding:
    values = outcome.measured
    if "step" not in values.dims or not _is_trained(outcome):
        return Finding(np.nan, (np.nan, np.nan), None, "not_measured", "this needs an early and a late step")
    target = values["surgery_target"].isel(step=0)
    value, interval = highest_cell(target.sel(surgery="no last feed-forward") - target.sel(surgery="none"))
    return Finding(
        value, interval, None, "holds" if interval[1] <= 0.1 else "fails",
        f"gain in the target's probability without the last feed-forward at step {int(values['step'][0])}, largest over cells",
    )  # fmt: skip


def _random(outcome: Outcome) -> Finding:
    values = late(outcome)
    elsewhere = [
        str(Place(role, layer)) for role, layer in PLACES if layer == 0 or not role.startswith("feed_forward")
    ]
    change = values["random_target"].sel(place=elsewhere) - values["surgery_target"].sel(surgery="none")
    value, interval = highest_cell(change)
    noise = highest_cell(values["random_noise"].sel(place=LAST_OUT))[0]
    return Finding(
        value, interval, None, "holds" if interval[1] <= 0.05 else "fails",
        "gain in the target's probability from a random matrix of equal norm outside the last feed-forward, largest of all; "
        f"in place of its last matrix it leaves {noise:.3f} for the noise",
    )  # fmt: skip


def _in_matrix(outcome: Outcome) -> Finding:
    values = relu_only(late(outcome))
    whole = values["surgery_noise"].sel(surgery="none")
    kept = values["kept_noise"].sel(place=LAST_IN, rank_fraction=[0.02, 0.05, 0.1]) / whole
    value, interval = highest_cell(kept)
    return Finding(
        value, interval, None, "holds" if interval[1] <= 0.6 else "fails",
        "share of the noise that is left when the last feed-forward's first matrix keeps 2, 5 or 10 % of its rank; worst of all",
    )  # fmt: skip


def _out_matrix(outcome: Outcome) -> Finding:
    values = late(outcome)
    whole = values["surgery_noise"].sel(surgery="none")
    kept = values["kept_noise"].sel(place=LAST_OUT, rank_fraction=[0.02, 0.05, 0.1, 0.15, 0.2]) / whole
    value, interval = lowest_cell(kept)
    return Finding(
        value, interval, None, "holds" if interval[1] <= 0.5 else "fails",
        "noise over the whole model's when the last feed-forward's last matrix keeps 2 to 20 % of its rank; best rank and cell",
    )  # fmt: skip


def _top_component(outcome: Outcome) -> Finding:
    values = late(outcome)
    place = values["noise_share"].sel(place=LAST_OUT).argmax("component")
    value, interval = lowest_cell((place == 0).astype(float))
    return Finding(
        value, interval, 1.0, "holds" if value >= 0.8 else "fails",
        "share of runs in which the noise is the largest singular component of the last feed-forward's last matrix; worst cell",
    )  # fmt: skip


def _remove_top(outcome: Outcome) -> Finding:
    values = late(outcome)
    removed = values["removed_noise"].sel(place=LAST_OUT)
    value, interval = highest_cell(removed.sel(removed="first"))
    target = values["removed_target"].sel(place=LAST_OUT, removed="first")
    better = lowest_cell(target - values["surgery_target"].sel(surgery="no last feed-forward"))
    control = lowest_cell(removed.sel(removed="second") / values["surgery_noise"].sel(surgery="none"))
    holds = interval[1] <= 0.1 and better[1][0] >= 0 and control[1][0] >= 0.5
    return Finding(
        value, interval, 0.0, "holds" if holds else "fails",
        f"noise without the largest component; the target then has {better[0]:+.2f} or more against no feed-forward; "
        f"without the second one {control[0]:.2f} of the noise stays",
    )  # fmt: skip


CLAIMS = (
    Claim(
        "C0.2",
        "paper",
        "Dropping the last feed-forward removes the noise and makes the model recall.",
        "Noise at most 0.15, the target 0.8 of what both have and up, clean loss down, in every cell.",
        or_with_relu(_drop),
    ),
    Claim(
        "C0.34",
        "ours",
        "Control: the same surgery early, before attention works, gains nothing.",
        "Target's probability up by at most 0.1 in every cell.",
        _early,
    ),
    Claim(
        "C0.35",
        "ours",
        "Control: it is not any disturbance that helps; a random matrix of equal norm at another place never does.",
        "Target's probability up by at most 0.05, at every place outside the last feed-forward and in every cell.",
        _random,
    ),
    Claim(
        "C0.36",
        "paper",
        "Truncating the first matrix of the last (ReLU) feed-forward to a few percent of its rank removes much of the noise.",
        "At most 0.6 of the noise left at 2, 5 and 10 % of the rank, in every cell.",
        _in_matrix,
    ),
    Claim(
        "C0.37",
        "paper",
        "Truncating the second matrix of the last feed-forward to 2-20 % of its rank removes the noise.",
        "At most half of the noise left at the best of these ranks and cells.",
        _out_matrix,
    ),
    Claim(
        "C0.38",
        "ours",
        "The noise is the largest singular component of that matrix, as the associative memory of many tokens predicts.",
        "In at least 0.8 of the runs of every cell.",
        _top_component,
    ),
    Claim(
        "C0.39",
        "ours",
        "Removing that one component removes the noise, and keeps more of recall than dropping the whole feed-forward.",
        "Noise at most 0.1, target not below that without feed-forward; the second component's removal leaves half of the noise.",
        or_with_relu(_remove_top),
    ),
)


FIGURES = {"truncation_curves": truncation_curves, "spectra": spectra, "surgeries": surgeries}
