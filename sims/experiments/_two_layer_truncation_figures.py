"""Figures of two_layer_truncation: truncation of every matrix, spectra, and all surgeries side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.experiments._readings import LAST_IN, LAST_OUT, late, noise_levels, relu_only
from sims.outcome import Outcome
from sims.roles import Place


def _panel_places(outcome: Outcome) -> list[str]:
    """Places of which something was measured, block by block."""
    values = late(outcome)["kept_noise"]
    others = [name for name in values.dims if name != "place"]
    there = values.notnull().any(others)
    return [str(one) for one in values["place"].values if bool(there.sel(place=one))]


def _title(place: str) -> str:
    """How a panel is headed: the block, then the matrix."""
    role, _, layer = place.rpartition(" ")
    symbol = {"feed_forward_in": ", $W_1$", "feed_forward_out": ", $W_2$"}.get(role, "")
    return f"block {layer}: {role.replace('_', ' ').replace('feed forward', 'feed-forward')}{symbol}"


def _choice(outcome: Outcome) -> xr.Dataset:
    """Late measurements of one cell: noise level 0.5 where it was run, ReLU."""
    values = (
        relu_only(late(outcome)).squeeze("feed_forward_1", drop=True)
        if ("feed_forward_1" in late(outcome).dims)
        else late(outcome)
    )
    if "noise_level" in values.dims:
        levels = list(values["noise_level"].values)
        values = values.sel(noise_level=0.5 if 0.5 in levels else levels[0])
    return values


def truncation_curves(outcome: Outcome) -> Figure:
    """Probability of target and noise over the rank fraction kept, one panel a matrix; the last marker is the whole model."""
    values, places = _choice(outcome), _panel_places(outcome)
    figure, axes = plotting.panels(-(-len(places) // 3), 3, width=3.2, height=2.1, sharex=True, sharey=True)
    for one in axes.flat[len(places) :]:
        one.set_axis_off()
    for one, place in zip(axes.flat, places, strict=False):
        for name, colour in (("target", plotting.PALETTE[0]), ("noise", plotting.PALETTE[1])):
            curve = values[f"kept_{name}"].sel(place=place)
            plotting.draw_simulation(
                one, curve, curve["rank_fraction"], color=colour, label=name, markersize=3
            )
        one.set_title(_title(place), fontsize=10)
    for one in axes[-1]:
        one.set_xlabel("rank fraction kept")
    for one in axes[:, 0]:
        one.set_ylabel("probability")
        one.set_ylim(-0.03, 1.03)
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def spectra(outcome: Outcome) -> Figure:
    """Singular values of the last feed-forward and W_o W_v, coloured by what a component adds to the noise margin; first seed."""
    values = _choice(outcome).isel(seed=0)
    places = [
        one for one in (LAST_IN, LAST_OUT, str(Place("value_output", 1))) if one in _panel_places(outcome)
    ]
    figure, axes = plotting.panels(1, len(places), width=3.4, height=2.8)
    for one, place in zip(axes[0], places, strict=True):
        chosen = values.sel(place=place).dropna("component")
        share = chosen["noise_share"].values
        largest = float(np.abs(share).max()) or 1.0
        drawn = one.scatter(
            chosen["component"] + 1, chosen["singular_value"], c=share, cmap="RdBu_r", vmin=-largest, vmax=largest,
            s=18, edgecolors="black", linewidths=0.3, zorder=3,
        )  # fmt: skip
        figure.colorbar(drawn, ax=one, label="noise margin (nats)" if one is axes[0, -1] else "")
        one.set_xscale("log")
        one.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
        one.set_xlabel("component (1 is the largest)")
        one.set_title(_title(place), fontsize=10)
        one.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("singular value")
    return figure


def surgeries(outcome: Outcome) -> Figure:
    """Probability of target and noise after each surgery, one panel a noise level; bars are two standard errors."""
    values = relu_only(late(outcome))
    if "feed_forward_1" in values.dims:
        values = values.squeeze("feed_forward_1", drop=True)
    stacked = values if "noise_level" in values.dims else values.expand_dims("noise_level")
    levels = [float(one) for one in np.atleast_1d(noise_levels(outcome).values)]
    names = [str(one) for one in values["surgery"].values]
    rows: list[tuple[str, dict[str, Any], str]] = [
        ("surgery_{}", {"surgery": "none"}, "whole model"),
        *(("surgery_{}", {"surgery": name}, name) for name in names[1:]),
        ("removed_{}", {"place": LAST_OUT, "removed": "first"}, "last $W_2$ without its largest component"),
        ("removed_{}", {"place": LAST_OUT, "removed": "second"}, "last $W_2$ without its second component"),
        ("kept_{}", {"place": LAST_OUT, "rank_fraction": 0.1}, "last $W_2$ keeps 10 % of its rank"),
        ("removed_{}", {"place": LAST_IN, "removed": "first"}, "last $W_1$ without its largest component"),
        ("kept_{}", {"place": LAST_IN, "rank_fraction": 0.1}, "last $W_1$ keeps 10 % of its rank"),
    ]
    width = (2.6 + 2.3 * len(levels)) / len(levels)
    figure, axes = plotting.panels(1, len(levels), width=width, height=3.8, sharex=True, sharey=True)
    heights = -np.arange(len(rows))
    for column, level in enumerate(levels):
        one = axes[0, column]
        for name, colour in (("target", plotting.PALETTE[0]), ("noise", plotting.PALETTE[1])):
            told = [
                stacked[variable.format(name)].isel(noise_level=column).sel(at) for variable, at, _ in rows
            ]
            points = np.stack([row.values for row in told])
            several = points.shape[1] > 1
            error = 2 * points.std(1, ddof=1) / points.shape[1] ** 0.5 if several else np.zeros(len(points))
            one.errorbar(
                points.mean(1),
                heights,
                xerr=error,
                fmt="o",
                color=colour,
                markersize=4,
                linewidth=1,
                label=name,
            )
        one.axvline(level, color=plotting.PALETTE[6], linewidth=0.8, linestyle=":", label="noise level")
        plotting.label_axes(one, title=f"$\\alpha={level:g}$", x="probability")
        one.set_xlim(-0.03, 1.03)
        one.set_yticks(heights, [label for *_, label in rows])
    plotting.shared_legend(figure, axes[0, 0])
    return figure
