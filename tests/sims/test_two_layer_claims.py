"""Claims of the two-layer experiments on outcomes made by hand: each can hold, and one bad cell refutes it."""

import math
from typing import Any

import numpy as np
import pytest
import xarray as xr

from sims import contract
from sims.contract import Finding
from sims.experiments import (
    two_layer_first_gradient,
    two_layer_training,
    two_layer_without_feed_forward,
)
from sims.experiments.two_layer_truncation import (
    LAST_IN,
    LAST_OUT,
    PLACES,
    RANK_FRACTIONS,
    REMOVED,
    SURGERIES,
)
from sims.outcome import Outcome


def finding(name: str, identifier: str, measured: xr.Dataset, predicted: xr.Dataset | None = None) -> Finding:
    """What a claim says of an outcome at laptop scale whose measurements are these."""
    outcome = Outcome(contract.plan(name, "laptop"), measured)
    if predicted is not None:
        outcome.__dict__["predicted"] = predicted
    (claim,) = [one for one in outcome.plan.experiment.claims if one.id == identifier]
    return claim.check(outcome)


LEVELS, STEPS, SEEDS = [0.3, 0.5, 0.7], [100, 1200], range(5)


def operated() -> xr.Dataset:
    """A laptop-scale outcome in which all that two_layer_truncation claims is so, but for C0.37."""
    grid: dict[str, list[Any]] = {
        "noise_level": LEVELS,
        "feed_forward_1": ["relu", "linear"],
        "step": STEPS,
        "seed": list(SEEDS),
    }
    level = xr.DataArray(LEVELS, dims="noise_level", coords={"noise_level": LEVELS})
    seed = xr.DataArray(0.01 * (np.arange(5) - 2), dims="seed", coords={"seed": list(SEEDS)})
    late = xr.DataArray([0.0, 1.0], dims="step", coords={"step": STEPS})
    blank = xr.DataArray(np.zeros([len(one) for one in grid.values()]), dims=list(grid), coords=grid)
    surgeries = xr.DataArray(np.zeros(len(SURGERIES)), dims="surgery", coords={"surgery": list(SURGERIES)})
    cut = surgeries.copy()
    cut.loc[{"surgery": ["no last feed-forward", "no last feed-forward, no last residual"]}] = 1.0
    names = [f"{role} {layer}" for role, layer in PLACES]
    place = xr.DataArray(np.ones(len(PLACES)), dims="place", coords={"place": names})
    fractions = list(RANK_FRACTIONS)
    fraction = xr.DataArray(
        np.ones(len(fractions)), dims="rank_fraction", coords={"rank_fraction": fractions}
    )
    removed = xr.DataArray([1.0, 0.0, 1.0], dims="removed", coords={"removed": list(REMOVED)})
    component = xr.DataArray(np.arange(64.0), dims="component", coords={"component": np.arange(64)})
    # Recall comes late; the noise is stored at once, and all of it in the last feed-forward.
    noise = (level + blank + seed) * (1 - 0.95 * cut)
    target = late * (0.9 - level + 0.3 * cut) + 0.02 + blank + seed
    whole = {"noise": noise.sel(surgery="none", drop=True), "target": target.sel(surgery="none", drop=True)}
    return xr.Dataset(
        {
            "surgery_noise": noise,
            "surgery_target": target,
            "surgery_loss": 2 - cut + blank + seed,
            "kept_noise": whole["noise"] * place * fraction * xr.where(place["place"] == LAST_IN, 0.2, 1.0),
            "kept_target": whole["target"] * place * fraction,
            "random_noise": whole["noise"] * place,
            "random_target": whole["target"] * place * 0.9,
            "removed_noise": whole["noise"] * place * (1 - 0.95 * removed),
            "removed_target": whole["target"] * place + 0.35 * removed,
            "noise_share": (1 / (1 + component)) * place + blank + seed,
        }
    )


TRUE_OF_OPERATED = ["C0.2", "C0.34", "C0.35", "C0.36", "C0.38", "C0.39"]


@pytest.mark.parametrize("identifier", TRUE_OF_OPERATED)
def test_claims_on_surgery_can_hold(identifier: str) -> None:
    found = finding("two_layer_truncation", identifier, operated())
    assert found.verdict == "holds", found
    assert found.interval[0] <= found.measured <= found.interval[1]


Where = dict[str, Any]
LATE_RELU: Where = {"noise_level": 0.5, "feed_forward_1": "relu", "step": 1200}
SPOILED: list[tuple[str, str, Where, float]] = [
    ("C0.2", "surgery_noise", {**LATE_RELU, "surgery": "no last feed-forward"}, 0.2),
    ("C0.2", "surgery_target", {**LATE_RELU, "surgery": "no last feed-forward"}, 0.05),
    ("C0.2", "surgery_target", {**LATE_RELU, "noise_level": 0.3, "surgery": "no last feed-forward"}, 0.5),
    ("C0.2", "surgery_loss", {**LATE_RELU, "surgery": "no last feed-forward"}, 2.1),
    ("C0.34", "surgery_target", {**LATE_RELU, "step": 100, "surgery": "no last feed-forward"}, 0.3),
    ("C0.35", "random_target", {**LATE_RELU, "place": "key 1"}, 0.9),
    ("C0.36", "kept_noise", {**LATE_RELU, "place": LAST_IN, "rank_fraction": 0.05}, 0.4),
    ("C0.38", "noise_share", {**LATE_RELU, "place": LAST_OUT, "component": 3}, 5.0),
    ("C0.39", "removed_noise", {**LATE_RELU, "place": LAST_OUT, "removed": "first"}, 0.2),
    ("C0.39", "removed_target", {**LATE_RELU, "place": LAST_OUT, "removed": "first"}, 0.5),
    ("C0.39", "removed_noise", {**LATE_RELU, "place": LAST_OUT, "removed": "second"}, 0.1),
]
"""Claim, and one cell that spoils it."""


@pytest.mark.parametrize(("identifier", "variable", "where", "value"), SPOILED, ids=str)
def test_one_bad_cell_refutes_a_claim_on_surgery(
    identifier: str, variable: str, where: Where, value: float
) -> None:
    measured = operated()
    measured[variable].loc[where] = value
    assert finding("two_layer_truncation", identifier, measured).verdict == "fails"
    if identifier in ("C0.2", "C0.39"):
        measured = operated()
        measured[variable].loc[{**where, "feed_forward_1": "linear"}] = value
        assert finding("two_layer_truncation", identifier, measured).verdict == "regime"


@pytest.mark.parametrize("identifier", ["C0.2", "C0.37", "C0.38", "C0.39"])
def test_the_early_step_is_not_asked_for(identifier: str) -> None:
    measured = operated()
    before = finding("two_layer_truncation", identifier, measured)
    for name in measured.data_vars:
        measured[name].loc[{"step": 100}] = 9.0
    assert finding("two_layer_truncation", identifier, measured) == before


def test_truncation_of_the_last_matrix_holds_at_its_best_rank_alone() -> None:
    measured = operated()
    assert finding("two_layer_truncation", "C0.37", measured).verdict == "fails"
    assert finding("two_layer_truncation", "C0.37", measured).measured == pytest.approx(1, abs=1e-12)
    measured["kept_noise"].loc[{**LATE_RELU, "place": LAST_OUT, "rank_fraction": 0.9}] = 0.0
    assert finding("two_layer_truncation", "C0.37", measured).verdict == "fails"  # above the paper's ranks
    measured["kept_noise"].loc[{**LATE_RELU, "place": LAST_OUT, "rank_fraction": 0.1}] = 0.1
    assert finding("two_layer_truncation", "C0.37", measured).verdict == "holds"


def test_without_an_early_step_that_control_is_not_measured() -> None:
    assert finding("two_layer_truncation", "C0.34", operated().sel(step=1200)).verdict == "not_measured"


def test_the_control_without_noise_can_hold_and_fail() -> None:
    measured = operated().isel(step=-1, noise_level=0, drop=True)
    whole = measured["surgery_target"].sel(surgery="none", drop=True)
    measured["surgery_target"] = 0 * measured["surgery_target"] + whole
    assert finding("two_layer_without_noise", "C0.33", measured).verdict == "holds"
    where: Where = {"feed_forward_1": "linear", "surgery": "no last feed-forward"}
    measured["surgery_target"].loc[where] += 0.06
    assert finding("two_layer_without_noise", "C0.33", measured).verdict == "fails"


def without_feed_forwards() -> xr.Dataset:
    """A laptop-scale outcome in which all of two_layer_without_feed_forward is so."""
    grid: dict[str, list[Any]] = {
        "noise_level": LEVELS,
        "feed_forward_0": ["none", "relu"],
        "seed": list(SEEDS),
    }
    coordinates = {name: xr.DataArray(one, dims=name, coords={name: one}) for name, one in grid.items()}
    level, seed = coordinates["noise_level"], 0.01 * (coordinates["seed"] - 2)
    first = xr.DataArray([0.0, 1.0], dims="feed_forward_0", coords={"feed_forward_0": grid["feed_forward_0"]})
    cut = xr.DataArray([0.0, 0.0, 1.0, 0.0, 0.0], dims="surgery", coords={"surgery": list(SURGERIES)})
    names = [f"{role} {layer}" for role, layer in PLACES]
    place = xr.DataArray(np.ones(len(PLACES)), dims="place", coords={"place": names})
    last = xr.where(place["place"].isin(list(two_layer_without_feed_forward.LAST)), 1.0, 0.0)
    removed = xr.DataArray([0.0, 0.0, 1.0], dims="removed", coords={"removed": list(REMOVED)})
    fractions = list(RANK_FRACTIONS)
    fraction = xr.DataArray(fractions, dims="rank_fraction", coords={"rank_fraction": fractions})
    component = xr.DataArray(np.zeros(64), dims="component", coords={"component": np.arange(64)})
    component.loc[{"component": 20}] = 1.0
    noise, target = level + seed + 0 * first, 0.9 - level + seed + 0 * first
    return xr.Dataset(
        {
            "surgery_noise": noise * (1 - 0.9 * cut * first),
            "surgery_target": target + 0 * cut,
            "removed_noise": noise * (1 - 0.9 * removed * last),
            "removed_target": target + 0.3 * removed * last,
            "kept_target": target + 0.3 * last * (fraction == 0.5),
            "noise_share": place * component + 0 * noise,
        }
    )


BARE: Where = {"noise_level": 0.5, "feed_forward_0": "none"}
PRODUCT = two_layer_without_feed_forward.PRODUCT
SPOILED_BARE: list[tuple[str, str, Where, float]] = [
    ("C0.40", "kept_target", {"place": PRODUCT}, 0.0),
    ("C0.41", "noise_share", {**BARE, "place": PRODUCT, "component": [1, 2, 3]}, 0.9),
    ("C0.42", "noise_share", {**BARE, "place": PRODUCT, "component": 0}, 2.0),
    ("C0.43", "surgery_noise", {**BARE, "feed_forward_0": "relu", "surgery": "no first feed-forward"}, 0.3),
    ("C0.44", "removed_target", {**BARE, "place": PRODUCT, "removed": "noise"}, 0.3),
    ("C0.44", "removed_noise", {**BARE, "place": PRODUCT, "removed": "noise"}, 0.6),
]


@pytest.mark.parametrize("identifier", ["C0.5", *dict.fromkeys(one[0] for one in SPOILED_BARE)])
def test_claims_without_feed_forward_can_hold(identifier: str) -> None:
    found = finding("two_layer_without_feed_forward", identifier, without_feed_forwards())
    assert found.verdict == "holds", found


@pytest.mark.parametrize(("identifier", "variable", "where", "value"), SPOILED_BARE, ids=str)
def test_claims_without_feed_forward_can_fail(
    identifier: str, variable: str, where: Where, value: float
) -> None:
    measured = without_feed_forwards()
    measured[variable].loc[where] = value
    assert finding("two_layer_without_feed_forward", identifier, measured).verdict == "fails"


def test_one_place_in_three_is_enough_for_the_removal_of_the_noise() -> None:
    measured = without_feed_forwards()
    here: Where = {**BARE, "removed": "noise"}
    for spoiled in two_layer_without_feed_forward.LAST[:2]:
        measured["removed_noise"].loc[{**here, "place": spoiled}] = 0.4
    found = finding("two_layer_without_feed_forward", "C0.5", measured)
    assert found.verdict == "holds"
    assert f"of {PRODUCT}" in found.note
    other = measured.copy(deep=True)
    other["removed_target"].loc[{**here, "place": PRODUCT}] = 0.2  # the target loses
    assert finding("two_layer_without_feed_forward", "C0.5", other).verdict == "fails"
    measured["removed_noise"].loc[{**here, "place": PRODUCT}] = 0.3
    found = finding("two_layer_without_feed_forward", "C0.5", measured)
    assert found.verdict == "fails"
    assert found.measured == pytest.approx(0.6, rel=0.01)  # 0.3 of 0.5, the mean of ratios over seeds


def learned() -> xr.Dataset:
    """A laptop-scale outcome in which all that two_layer_training claims is so."""
    steps = [1, 3, 10, 30, 100, 300, 1200]
    grid: dict[str, list[Any]] = {
        "noise_level": LEVELS,
        "feed_forward_1": ["relu", "linear"],
        "seed": list(SEEDS),
        "step": steps,
    }
    blank = xr.DataArray(np.zeros([len(one) for one in grid.values()]), dims=list(grid), coords=grid)
    level, step = blank["noise_level"], blank["step"]
    seed = 0.01 * (blank["seed"] - 2)
    found = xr.where(step >= 300, 1.0, 0.0)
    cut = xr.DataArray([0.0, 1.0, 0.0], dims="cut", coords={"cut": list(two_layer_training.CUTS)})
    margin = xr.DataArray(
        [-1.0, 1.0, -1.0], dims="feed_forward", coords={"feed_forward": ["first", "last", "both"]}
    )
    return xr.Dataset(
        {
            "cut_noise": (level + seed + blank) * (1 - 0.95 * cut),
            "cut_target": found * (1 - level - 0.02 + 0.2 * cut) + seed + blank,
            "on_target": 0.8 * found + seed + blank,
            "on_noise_shown": 0.05 * found + seed / 10 + blank,
            "noise_shown": level + blank,
            "margin": margin * xr.where(step >= 10, 1.0, -1.0) + blank,
        }
    )  # fmt: skip


CELL: Where = {"noise_level": 0.5}
SPOILED_TRAINING: list[tuple[str, str, Where, float]] = [
    ("C0.1", "cut_noise", {**CELL, "cut": "full", "step": 1200}, 0.35),
    ("C0.1", "cut_target", {**CELL, "cut": "full", "step": 1200}, 0.3),
    ("C0.3", "margin", {**CELL, "seed": 2, "feed_forward": "last", "step": [1, 3, 10, 30]}, -1.0),
    ("C0.3", "on_target", {**CELL, "step": 30}, 0.6),
    ("C0.4", "on_target", {**CELL, "step": 1200}, 0.55),
    ("C0.4", "on_noise_shown", {**CELL, "step": 1200}, 0.2),
    ("C0.6", "cut_noise", {**CELL, "cut": "no last feed-forward", "step": 1200}, 0.3),
    ("C0.6", "cut_target", {**CELL, "cut": "no last feed-forward", "step": 1200}, 0.05),
    ("C0.31", "cut_target", {**CELL, "cut": "no last feed-forward", "step": 30}, 0.3),
    ("C0.31", "cut_target", {**CELL, "cut": "no last feed-forward", "step": 1200}, 0.48),
    ("C0.32", "cut_noise", {**CELL, "cut": "no first feed-forward", "step": 1200}, 0.2),
]


@pytest.mark.parametrize("identifier", list(dict.fromkeys(one[0] for one in SPOILED_TRAINING)))
def test_claims_on_training_can_hold(identifier: str) -> None:
    found = finding("two_layer_training", identifier, learned())
    assert found.verdict == "holds", found


@pytest.mark.parametrize(("identifier", "variable", "where", "value"), SPOILED_TRAINING, ids=str)
def test_one_bad_cell_refutes_a_claim_on_training(
    identifier: str, variable: str, where: Where, value: float
) -> None:
    """With ReLU; in a cell with a linear feed-forward a claim that allows for it holds in a regime."""
    measured = learned()
    measured[variable].loc[{**where, "feed_forward_1": "linear"}] = value
    found = finding("two_layer_training", identifier, measured)
    assert found.verdict == ("regime" if identifier == "C0.31" else "fails")
    assert ("holds with ReLU" in found.note) == (identifier == "C0.31")
    measured = learned()
    measured[variable].loc[{**where, "feed_forward_1": "relu"}] = value
    assert finding("two_layer_training", identifier, measured).verdict == "fails"


def test_attention_that_never_comes_leaves_the_order_unmeasured() -> None:
    measured = learned()
    measured["on_target"].loc[{**CELL, "seed": 3}] = 0.1
    assert finding("two_layer_training", "C0.3", measured).verdict == "not_measured"


def test_the_first_step_that_reaches_a_level_is_taken() -> None:
    values = xr.DataArray(
        [[0.0, 0.5, 0.2], [0.1, 0.2, 0.3]], dims=["seed", "step"], coords={"step": [1, 10, 100]}
    )
    assert two_layer_training.crossing(values, 0.5).values.tolist() == [10, math.inf]
    assert two_layer_training.crossing(values, 0.0).values.tolist() == [1, 1]


RATES: list[tuple[str, Where, float]] = [
    ("C0.45", {"matrix": "feed_forward_out 0", "width": 128, "feed_forward_1": "none"}, 1.3),
    ("C0.46", {"matrix": "feed_forward_out 0", "width": 256, "feed_forward_1": "relu"}, 1.3),
    ("C0.47", {"attention_matrix": "value 1", "width": 256, "feed_forward_1": "linear"}, 5.0),
    ("C0.48", {"matrix": "feed_forward_out 1", "width": 256, "feed_forward_1": "relu"}, 1.3),
]


@pytest.mark.parametrize(("identifier", "where", "factor"), RATES, ids=str)
def test_claims_on_the_first_gradient_can_hold_and_fail(identifier: str, where: Where, factor: float) -> None:
    """Measurements that are the prediction but for the seeds' scatter; then one matrix in one cell grows at another rate."""
    plan = contract.plan("two_layer_first_gradient", "laptop")
    grid: dict[str, list[Any]] = {name: list(values) for name, values in plan.grid.items()}
    scatter = xr.DataArray(0.02 * (np.arange(16) - 7.5) / 8, dims="seed", coords={"seed": range(16)})
    blank = xr.DataArray(np.ones([len(one) for one in grid.values()]), dims=list(grid), coords=grid)
    names = {
        "feed_forward_rate": ("matrix", two_layer_first_gradient.FEED_FORWARD, 0.15),
        "attention_rate": ("attention_matrix", two_layer_first_gradient.ATTENTION, 0.01),
    }
    predicted = xr.Dataset()
    for name, (dim, places, rate) in names.items():
        labels = [str(place) for place in places]
        predicted[name] = blank * xr.DataArray(np.full(len(labels), rate), dims=dim, coords={dim: labels})
    rates = predicted["feed_forward_rate"]
    rates.loc[{"matrix": ["feed_forward_in 1"], "feed_forward_1": ["linear", "none"]}] = np.nan
    rates.loc[{"matrix": ["feed_forward_out 1"], "feed_forward_1": ["none"]}] = np.nan
    measured = predicted * (1 + scatter)
    name = "two_layer_first_gradient"
    assert finding(name, identifier, measured, predicted).verdict == "holds"
    variable = "feed_forward_rate" if "matrix" in where else "attention_rate"
    measured[variable].loc[where] = measured[variable].loc[where] * factor
    assert finding(name, identifier, measured, predicted).verdict == "fails"
