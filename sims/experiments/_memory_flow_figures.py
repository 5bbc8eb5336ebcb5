"""Figures of memory_flow: logits and singular values over time, one panel a cell."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory import associative_memory as theory
from theory.problems import AssociativeMemory


def _cells(outcome: Outcome) -> list[tuple[int, float]]:
    levels = outcome.measured["noise_level"].values
    return [(int(n), float(level)) for n in outcome.measured["n_tokens"].values for level in levels]


def _grid(outcome: Outcome) -> tuple[Figure, dict[tuple[int, float], Axes]]:
    sizes = outcome.measured.sizes
    figure, axes = plotting.panels(
        sizes["n_tokens"], sizes["noise_level"], width=2.6, height=2.0, sharex=True
    )
    return figure, dict(zip(_cells(outcome), axes.ravel(), strict=True))


def _thinned(readings: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Every other reading and its time, so that the line shows between the points."""
    shown = readings.isel(time=slice(None, None, 2))
    return shown, shown["time"]


def _curves(
    outcome: Outcome, styles: Mapping[str, tuple[str, str]], y: str
) -> tuple[Figure, dict[tuple[int, float], Axes]]:
    """One panel a cell with some variables over time; `styles`: variable → (label, colour name)."""
    figure, axes = _grid(outcome)
    for (n, level), one in axes.items():
        cell, line = (
            data.sel(n_tokens=n, noise_level=level) for data in (outcome.measured, outcome.predicted)
        )
        for name, (label, colour) in styles.items():
            plotting.draw_theory(
                one, line["time"], line[f"flow_{name}"], color=plotting.COLOURS[colour], label=label
            )
            plotting.draw_simulation(one, *_thinned(cell[name]), color=plotting.COLOURS[colour])
        plotting.label_axes(one, title=f"$n={n}$, $\\alpha={level:g}$", log="x")
    _outer_labels(axes, y)
    plotting.shared_legend(figure, next(iter(axes.values())))
    return figure, axes


def trajectories(outcome: Outcome) -> Figure:
    """The three logits over time: lines are the flow, points the trained memory."""
    styles = {
        "diagonal": ("correct token $a$", "correct"),
        "off_diagonal": ("wrong token $b$", "other"),
        "noise": ("noise token $g$", "noise"),
    }
    return _curves(outcome, styles, "logit (nats)")[0]


def spectrum(outcome: Outcome) -> Figure:
    """Signal and noise singular values over time, with the predicted crossing."""
    styles = {
        "signal_singular_value": ("signal $s_\\perp$", "signal"),
        "noise_singular_value": ("noise $s_1$", "noise"),
    }
    figure, axes = _curves(outcome, styles, "singular value")
    for (n, level), one in axes.items():
        crossing = theory.crossing_time(AssociativeMemory(n, level)) / n
        if np.isfinite(crossing) and crossing <= float(outcome.measured["time"][-1]):
            one.axvline(crossing, color=plotting.COLOURS["limit"], linestyle=":", linewidth=1.2)
    return figure


def _outer_labels(axes: Mapping[tuple[int, float], Axes], y: str) -> None:
    for one in axes.values():
        place = one.get_subplotspec()
        assert place is not None
        if place.is_first_col():
            one.set_ylabel(y)
        if place.is_last_row():
            one.set_xlabel("flow time over $n$")
