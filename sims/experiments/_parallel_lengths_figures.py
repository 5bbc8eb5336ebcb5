"""Figures of `parallel_lengths` and `parallel_depth`: accuracy by the number of steps on chains unlike those of the training."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory.parallel_reasoning import bounds
from theory.parallel_reasoning.rings import ring_accuracy


def shorter_chains(outcome: Outcome) -> Figure:
    """Accuracy at the last step by the number of steps, a point a run. Line: the most that the theorem allows."""
    last = outcome.measured["accuracy"].isel(step=-1)
    figure, axes = plotting.panels(1, 1, width=6.0, height=3.0)
    one = axes[0, 0]
    for place, missing in enumerate(last["missing"].values):
        told = "pairs as in training" if missing == 0 else f"{int(missing)} less"
        shift = 0.24 * (place - (last.sizes["missing"] - 1) / 2)
        _points(one, last.sel(missing=missing), shift, plotting.PALETTE[place], told)
    _finish(one, outcome)
    plotting.shared_legend(figure, one)
    return figure


def rings(outcome: Outcome) -> Figure:
    """Accuracy at the last step by the number of steps, a point a run: chains, and the same closed to rings.

    Bars: on rings, a reader that follows as far as the theorem allows and guesses among what it does not know.
    A panel for each length of chains. Where there are masks, the runs without one are drawn.
    """
    last, config = outcome.measured.isel(step=-1), outcome.configs[0]
    if "causal" in last.dims:
        last = last.sel(causal=bool(last["causal"].values.min()))
    if "missing" not in last.dims:
        last = last.expand_dims(missing=[0])
    n_panels = last.sizes["missing"]
    figure, axes = plotting.panels(1, n_panels, width=4.0 if n_panels > 1 else 6.0, height=2.9, sharey=True)
    for one, missing in zip(axes[0], last["missing"].values, strict=True):
        there, size = last.sel(missing=missing), config.n_pairs - int(missing)
        for number in (int(each) for each in there["steps"].values if each < size):
            level = float(ring_accuracy(size, number, bounds(config.depth).upper))
            one.bar(number, level, 0.8, color="0.9", zorder=0, label="rules and exclusion")
        for place, (kind, name) in enumerate((("chains", "accuracy"), ("rings", "on_rings"))):
            _points(one, there[name], 0.3 * (place - 0.5), plotting.PALETTE[place], kind)
        _finish(one, outcome, f"{size} pairs", first=one is axes[0, 0])
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def _points(one: Axes, accuracy: xr.DataArray, shift: float, colour: str, told: str) -> None:
    """A point a run at each number of steps."""
    for number in accuracy["steps"].values:
        values = accuracy.sel(steps=number).values
        places = number + shift + np.linspace(-0.07, 0.07, len(values))
        one.plot(places, values, "o", color=colour, markersize=4, label=told)


def _finish(one: Axes, outcome: Outcome, title: str = "", first: bool = True) -> None:
    """The most that the theorem allows without the mask, where it is on the picture; ticks, labels and title."""
    config = outcome.configs[0]
    limit = bounds(config.depth).upper
    if limit < config.n_steps:
        one.axvline(
            limit + 0.5,
            color=plotting.COLOURS["limit"],
            linestyle=":",
            linewidth=1.2,
            label="the theorem's limit",
        )
    one.set_xticks(range(1, config.n_steps + 1))
    one.set_ylim(-0.04, 1.06)
    one.grid(axis="x", visible=False)
    plotting.label_axes(one, title=title, x="number of steps", y="accuracy" if first else "")


FIGURES = {"shorter_chains": shorter_chains, "rings": rings}
