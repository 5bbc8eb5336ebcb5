"""What the measurements of small_start_growth say of its claims; `_needs` guards those that a scale may not cover."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from sims.contract import Finding
from sims.outcome import Outcome
from sims.statistics import highest_cell, lowest_cell, mean_interval, worst_cell

USUAL = 0.5
"""Init exponents from here on have starts far below the escape."""


def per_unit_time(wait: xr.DataArray) -> xr.DataArray:
    """Slope of the escape time (growth times) on γ ln d by least squares over widths and γ ≥ 1/2, for each seed."""
    chosen = wait.sel(init_exponent=[one for one in wait["init_exponent"].values if one >= USUAL])
    distance = (chosen["init_exponent"] * np.log(chosen["width"])).broadcast_like(chosen.isel(seed=0))
    cells = ["init_exponent", "width"]
    centred = distance - distance.mean(cells)
    return (chosen * centred).sum(cells) / (centred**2).sum(cells)


def _needs(
    frequency: float, *exponents: float
) -> Callable[[Callable[[Outcome], Finding]], Callable[[Outcome], Finding]]:
    """A check that says "not_measured" unless the grid has this frequency exponent and these init exponents, and a width."""

    def guard(check: Callable[[Outcome], Finding]) -> Callable[[Outcome], Finding]:
        def checked(outcome: Outcome) -> Finding:
            dims = outcome.measured.dims
            grid = {"frequency_exponent", "width", "init_exponent"} <= set(map(str, dims))
            if (
                grid
                and frequency in outcome.measured["frequency_exponent"]
                and set(exponents) <= set(outcome.measured["init_exponent"].values.tolist())
            ):
                return check(outcome)
            listed = ", ".join(f"{one:g}" for one in exponents)
            note = (
                f"this needs frequency_exponent {frequency:g}, init_exponent {listed} and widths on the grid"
            )
            return Finding(np.nan, (np.nan, np.nan), None, "not_measured", note)

        return checked

    return guard


@_needs(0.0, 0.5, 1.0)
def wait(outcome: Outcome) -> Finding:
    """W2.1: slope of the escape time on γ ln d."""
    slope = per_unit_time(outcome.measured["escape_time"].sel(frequency_exponent=0.0, drop=True))
    value, interval = mean_interval(slope.values)
    holds = interval[0] >= 0.95 and interval[1] <= 1.05
    return Finding(
        value, interval, 1.0, "holds" if holds else "fails",
        "growth times of waiting per unit of γ ln d, γ ≥ 1/2, least squares over all cells of a seed",
    )  # fmt: skip


def closed_form(outcome: Outcome) -> Finding:
    """W2.2: the growth clock against the closed form, at its farthest early reading."""
    gap = outcome.measured["clock"] - outcome.predicted["clock"]
    flat = gap.stack(cell=[name for name in gap.dims if name != "seed"]).dropna("cell")
    value, interval = worst_cell(flat, abs)
    return Finding(
        value, interval, 0.0, "holds" if abs(value) <= 0.15 else "fails",
        f"growth times between the measured clock and the closed form, farthest of {flat.sizes['cell']} early readings",
    )  # fmt: skip


@_needs(0.0, 0.25, 0.5, 1.0)
def ceiling(outcome: Outcome) -> Finding:
    """W2.3: alignment at escape, between init exponents and against theory."""
    at, theirs = (
        one["escape_alignment"].sel(frequency_exponent=0.0) for one in (outcome.measured, outcome.predicted)
    )
    usual, small, large = (at.sel(init_exponent=gamma) for gamma in (0.5, 1.0, 0.25))
    value, interval = worst_cell(small / usual, lambda means: abs(means - 1))
    gain, _ = lowest_cell(usual / large)
    off, _ = worst_cell(at / theirs, lambda means: abs(means - 1))
    expected = theirs.sel(init_exponent=1.0) / theirs.sel(init_exponent=0.5)
    holds = interval[0] >= 0.95 and interval[1] <= 1.05 and gain >= 1.1 and abs(off - 1) <= 0.07
    return Finding(
        value, interval, float(expected.max()), "holds" if holds else "fails",
        f"alignment at escape, γ = 1 over γ = 1/2, farthest width; γ = 1/2 over γ = 1/4 is {gain:.3g} at least; "
        f"measured over theory, farthest cell, {off:.3g}",
    )  # fmt: skip


@_needs(1.0, 0.5, 1.0)
def one_at_a_time(outcome: Outcome) -> Finding:
    """W2.4: top singular share at escape with Zipf frequencies."""
    share, theirs = (
        one["escape_top_share"].sel(frequency_exponent=1.0) for one in (outcome.measured, outcome.predicted)
    )
    rise = share.sel(init_exponent=1.0) - share.sel(init_exponent=0.5)
    value, interval = lowest_cell(rise)
    sharp, _ = lowest_cell(share.sel(init_exponent=1.0))
    expected = float((theirs.sel(init_exponent=1.0) - theirs.sel(init_exponent=0.5)).min())
    return Finding(
        value, interval, expected, "holds" if interval[0] >= 0.1 and sharp >= 0.8 else "fails",
        f"rise of the top share at escape from γ = 1/2 to γ = 1, least width; the share at γ = 1 is {sharp:.3g} at least",
    )  # fmt: skip


@_needs(1.0, 0.5, 1.0)
def worse_aligned(outcome: Outcome) -> Finding:
    """W2.6: alignment at escape with Zipf frequencies."""
    ratios = []
    for one in (outcome.measured, outcome.predicted):
        at = one["escape_alignment"].sel(frequency_exponent=1.0)
        ratios.append(at.sel(init_exponent=1.0) / at.sel(init_exponent=0.5))
    value, interval = highest_cell(ratios[0])
    return Finding(
        value, interval, float(ratios[1].max()), "holds" if interval[1] <= 0.8 else "fails",
        "alignment at escape with Zipf frequencies, γ = 1 over γ = 1/2, largest over widths",
    )  # fmt: skip


@_needs(0.0)
def all_at_once(outcome: Outcome) -> Finding:
    """W2.5: top singular share at escape with equal frequencies."""
    share, theirs = (
        one["escape_top_share"].sel(frequency_exponent=0.0) for one in (outcome.measured, outcome.predicted)
    )
    value, interval = highest_cell(share)
    return Finding(
        value, interval, float(theirs.max()), "holds" if interval[1] <= 0.25 else "fails",
        "share of the top singular component at escape with equal frequencies, largest over γ and widths",
    )  # fmt: skip
