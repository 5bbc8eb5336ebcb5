"""Figures of matching_construction: accuracy against width with the laws, and how far the last position comes."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory import matching as theory


def _prepared(values: xr.Dataset) -> xr.Dataset:
    """One kind of value-output matrices, increasing widths, and an axis for each of the fields that panels and lines need."""
    if "kind" in values.dims:
        values = values.sel(kind="orthogonal")
    for name in ("width", "n_layers", "positions"):
        if name not in values.dims:
            values = values.expand_dims(name)
    return values.sortby(["width", "n_layers"])


def _both(outcome: Outcome) -> tuple[xr.Dataset, xr.Dataset]:
    measured, predicted = outcome.measured, outcome.predicted
    for name in ("width", "n_layers", "positions"):
        if name not in measured.dims:
            held = {name: getattr(outcome.configs[0], name)}
            measured, predicted = measured.assign_coords(held), predicted.assign_coords(held)
    return _prepared(measured), _prepared(predicted)


def _titles(values: xr.Dataset) -> list[tuple[bool, str]]:
    return [
        (bool(one), "layer 0 from position vectors" if one else "layer 0 ideal, no positions")
        for one in values["positions"].values
    ]


def _finish(figure: Figure, axes: np.ndarray) -> None:
    for one in axes[0]:
        plotting.label_axes(one, title=one.get_title(), x="width $d$", log="x")
        one.set_ylim(-0.03, 1.03)
    plotting.shared_legend(figure, axes[0, 0])


def width_law(outcome: Outcome) -> Figure:
    """Accuracy against width, a colour a depth: law by integrals (line), sampled law (dashed), simulation (points)."""
    measured, predicted = _both(outcome)
    titles = _titles(measured)
    figure, axes = plotting.panels(1, len(titles), width=4.4, height=3.6, sharey=True)
    for one, (positions, title) in zip(axes[0], titles, strict=True):
        for colour, depth in zip(plotting.PALETTE, measured["n_layers"].values, strict=False):
            where = {"positions": positions, "n_layers": depth}
            line = predicted.sel(where)
            plotting.draw_theory(
                one, *_law(outcome, line["width"].values, positions, int(depth)), color=colour
            )
            plotting.draw_theory(
                one, line["width"], line["accuracy"], color=colour, linestyle="--", linewidth=1
            )
            plotting.draw_simulation(
                one,
                measured["accuracy"].sel(where),
                line["width"],
                color=colour,
                label=f"$L={depth}$",
                markersize=5,
            )
        one.set_title(title)
    _finish(figure, axes)
    axes[0, 0].set_ylabel("accuracy")
    return figure


def _law(outcome: Outcome, widths: np.ndarray, positions: bool, depth: int) -> tuple[np.ndarray, list[float]]:
    """The law by integrals over the widths of the panel."""
    config = outcome.configs[0]
    dense = np.unique(np.geomspace(widths.min(), widths.max(), 40).round().astype(int))
    problems = [
        theory.Construction(
            depth, int(width), config.n_pairs, config.n_tokens, config.strength, positions, "orthogonal"
        )
        for width in dense
    ]
    return dense, [theory.expected_accuracy(problem) for problem in problems]


def where_it_fails(outcome: Outcome) -> Figure:
    """At the largest depth, against width: layer 0 right, all matches right, the answer right."""
    measured, _ = _both(outcome)
    titles, deepest = _titles(measured), measured.isel(n_layers=-1)
    figure, axes = plotting.panels(1, len(titles), width=4.4, height=3.6, sharey=True)
    parts = {
        "first_layer": "right token reads its left one",
        "whole_path": "all matches right",
        "accuracy": "answer right",
    }
    for one, (positions, title) in zip(axes[0], titles, strict=True):
        for colour, (name, label) in zip(plotting.PALETTE, parts.items(), strict=False):
            _joined(one, deepest[name].sel(positions=positions), colour, label)
        one.set_title(f"{title}, $L={int(deepest['n_layers'])}$")
    _finish(figure, axes)
    axes[0, 0].set_ylabel("share")
    return figure


def _joined(axes: Axes, values: xr.DataArray, colour: str, label: str) -> None:
    plotting.draw_simulation(axes, values, values["width"], color=colour, label=label, linestyle=":")


FIGURES = {"width_law": width_law, "where_it_fails": where_it_fails}
