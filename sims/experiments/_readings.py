"""How claims and figures read outcomes: what an experiment and its figures, or several experiments, read alike.

Figures live beside their experiments, in `_<name>_figures.py`, which the experiment imports. What both need is here, so that
neither a figure nor a reader has to import the experiment.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from sims.contract import Finding
from sims.outcome import Outcome
from sims.roles import Place

LEAST_STEPS = 1000
"""Training steps below which nothing is claimed of what a model from scratch has learnt."""
LAST_IN, LAST_OUT = str(Place("feed_forward_in", 1)), str(Place("feed_forward_out", 1))
"""The matrices of the last feed-forward of two blocks, as the axis `place` names them."""


def long_enough(check: Callable[[Outcome], Finding]) -> Callable[[Outcome], Finding]:
    """A check that is not measured where training is too short to learn anything."""

    def checked(outcome: Outcome) -> Finding:
        if outcome.configs[0].final_step >= LEAST_STEPS:
            return check(outcome)
        note = f"this scale trains for fewer than {LEAST_STEPS} steps"
        return Finding(np.nan, (np.nan, np.nan), None, "not_measured", note)

    return checked


def last_reading(outcome: Outcome, name: str, cut: str | None = None) -> xr.DataArray:
    """A variable at the last step, of one cut if it has cuts."""
    values = outcome.measured[name].isel(step=-1)
    return values if cut is None else values.sel(cut=cut)


def late(outcome: Outcome) -> xr.Dataset:
    """Measurements at the latest step."""
    return outcome.measured.isel(step=-1) if "step" in outcome.measured.dims else outcome.measured


def crossing(values: xr.DataArray, level: float) -> xr.DataArray:
    """First of the steps read at which a variable has reached the level; infinity when it never does."""
    reached = values >= level
    return xr.where(reached.any("step"), values["step"].isel(step=reached.argmax("step")), np.inf)


def interpolated_crossing(values: xr.DataArray, level: float) -> xr.DataArray:
    """First step at which a variable over `step` reaches the level, linear in ln step between readings; NaN if it never does."""

    def one(row: np.ndarray, steps: np.ndarray) -> float:
        above = np.nonzero(row >= level)[0]
        if not len(above):
            return np.nan
        place = int(above[0])
        if place == 0:
            return float(steps[0])
        share = (level - row[place - 1]) / (row[place] - row[place - 1])
        low, high = np.log(steps[place - 1]), np.log(steps[place])
        return float(np.exp(low + share * (high - low)))

    return xr.apply_ufunc(one, values, values["step"], input_core_dims=[["step"], ["step"]], vectorize=True)


def noise_levels(outcome: Outcome) -> xr.DataArray:
    """Noise levels of the training, along the grid when they vary."""
    if "noise_level" in outcome.measured.dims:
        return outcome.measured["noise_level"]
    return xr.DataArray(outcome.configs[0].noise_level)


def relu_only(values: xr.Dataset) -> xr.Dataset:
    """The cells whose last feed-forward is ReLU, where its kind varies."""
    return values.sel(feed_forward_1=["relu"]) if "feed_forward_1" in values.dims else values


def without_noise_component(outcome: Outcome, kind: str) -> xr.DataArray:
    """Measured predictions (a `kind` of "correct", "noise" …) after the cut that takes the noise component out, and no other.

    That cut drops the top component where the noise is on top, and keeps the top n − 1 where it is last. (dims without `cut`)
    """
    cuts = outcome.measured[kind]
    on_top = outcome.measured["noise_place"] == 0
    return xr.where(on_top, cuts.sel(cut="drop 1", drop=True), cuts.sel(cut="keep n-1", drop=True))


def way_of_reading(
    outcome: Outcome, reading: str = "all", causal: bool = True
) -> tuple[xr.Dataset, xr.Dataset]:
    """Measured and predicted for one way in which positions read each other, with increasing depth."""
    where = {"reading": reading, "causal": causal}
    return outcome.measured.sel(where).sortby("n_layers"), outcome.predicted.sel(where).sortby("n_layers")


def is_late(measured: xr.Dataset) -> xr.Dataset:
    """A table of cuts of a language model, for the matrices of the later half of layers alone."""
    late = measured["is_late"]
    late = late.isel(seed=0) if "seed" in late.dims else late
    return measured.isel(place=np.flatnonzero(late.values == 1))


def cut_chosen(measured: xr.Dataset, roles: tuple[str, ...], cut: str) -> xr.Dataset:
    """The cut of matrices of these roles that raises the answer to indirect-object prompts most on the half to choose by, seed by
    seed, and what it does on the half to report on.

    `answer_change`, `generic_change`, each with its `…_error` over prompts, `perplexity`, `whole_perplexity`, `price_error`, and
    which `place` and `fraction` it is, over `seed`.
    """
    places = [one for one in measured["place"].values if str(one).split()[0] in roles]
    table = measured.sel(place=places, cut=cut, kind="indirect object")
    change = table["value"] - table["whole"]
    rows = []
    for seed in range(table.sizes["seed"]):
        choose = change.sel(half="choose", reading="answer_probability").isel(seed=seed)
        best = choose.stack(cell=("place", "fraction")).idxmax("cell").item()
        here = table.sel(place=best[0], fraction=best[1]).isel(seed=seed)
        moved = change.sel(place=best[0], fraction=best[1], half="report").isel(seed=seed)
        found = {name: float(here[name]) for name in ("perplexity", "whole_perplexity", "price_error")}
        for name in ("answer", "generic"):
            found[f"{name}_change"] = float(moved.sel(reading=f"{name}_probability"))
            found[f"{name}_error"] = float(here["error"].sel(change=f"{name}_probability"))
        rows.append((best, found))
    names = list(rows[0][1])
    columns = {name: ("seed", [found[name] for _, found in rows]) for name in names}
    columns |= {
        "place": ("seed", [best[0] for best, _ in rows]),
        "fraction": ("seed", [best[1] for best, _ in rows]),
    }
    return xr.Dataset(columns)
