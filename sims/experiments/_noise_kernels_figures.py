"""Figures of noise_kernels: which pairs of buffers each form of noise aligns, and what fresh weights leave of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory.matching import fresh_alignment


def _with(values: xr.Dataset, **wanted: object) -> xr.Dataset:
    """The cells of the grid that are wanted; fields that do not vary are left alone."""
    return values.sel({name: one for name, one in wanted.items() if name in values.dims})


def _axis(outcome: Outcome, name: str) -> list[Any]:
    values = outcome.measured[name].values.tolist() if name in outcome.measured.dims else None
    return [getattr(outcome.configs[0], name)] if values is None else values


def _tables(outcome: Outcome, kind: str) -> Figure:
    """A row of tables for each form, a table for each layer: simulation as numbers, theory's in brackets."""
    forms, width = _axis(outcome, "form"), max(_axis(outcome, "width"))
    layers = range(1, outcome.configs[0].n_layers)
    figure, axes = plotting.panels(len(forms), len(layers), width=3.1, height=2.7)
    for row, form in enumerate(forms):
        wanted = {
            "form": form,
            "kind": kind,
            "width": width,
            "init_exponent": _axis(outcome, "init_exponent")[0],
        }
        mine, theirs = (_with(one, **wanted) for one in (outcome.measured, outcome.predicted))
        for column, layer in enumerate(layers):
            _table(axes[row, column], mine["alignment"].mean("seed"), theirs["alignment"], layer)
            axes[row, column].set_title(f"{form}, layer {layer}")
            axes[row, column].set_xlabel("buffer of the key" if row == len(forms) - 1 else "")
        axes[row, 0].set_ylabel("buffer of the query")
    return figure


def _table(axes: Axes, measured: xr.DataArray, predicted: xr.DataArray, layer: int) -> None:
    names = ["raw", *map(str, range(layer))]
    size = len(names)
    labels = [f"layer {layer}: {query} - {key}" for query in names for key in names]
    here, line = (one.sel(pair=labels).values.reshape(size, size) for one in (measured, predicted))
    axes.imshow(here, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (row, column), value in np.ndenumerate(here):
        text = f"{value:.2f}\n({line[row, column]:.2f})".replace("-0.00", "0.00")
        axes.text(
            column, row, text, ha="center", va="center", fontsize=8, color="white" if value > 0.6 else "black"
        )
    axes.set_xticks(range(size), names)
    axes.set_yticks(range(size), names)
    axes.grid(False)


def orthogonal(outcome: Outcome) -> Figure:
    """Alignment of every kernel of the noise alone, orthogonal matrices."""
    return _tables(outcome, "orthogonal")


def gaussian(outcome: Outcome) -> Figure:
    """Alignment of every kernel of the noise alone, Gaussian matrices."""
    return _tables(outcome, "gaussian")


def fresh_weights(outcome: Outcome) -> Figure:
    """Alignment of the kernel that each layer needs in the whole decoder, against the exponent of the start; corrected noise.

    Lines: `theory.matching.fresh_alignment`. Dotted: the noise alone.
    """
    config, exponents = outcome.configs[0], _axis(outcome, "init_exponent")
    width, kinds = max(_axis(outcome, "width")), _axis(outcome, "kind")
    dense = np.linspace(min(exponents) - 0.02, max(exponents) + 0.02, 100)
    figure, axes = plotting.panels(1, len(kinds), width=4.2, height=3.4, sharey=True)
    for one, kind in zip(axes[0], kinds, strict=True):
        mine = _with(outcome.measured, form="corrected", kind=kind, width=width)["whole_alignment"]
        if "init_exponent" not in mine.dims:
            mine = mine.expand_dims("init_exponent")
        for place, layer in enumerate(range(1, config.n_layers)):
            pair = f"layer {layer}: {'raw' if layer == 1 else layer - 1} - 0"
            values = mine.sel(pair=pair).transpose(..., "init_exponent")
            colour, shift = plotting.PALETTE[place % len(plotting.PALETTE)], 0.008 * max(place - 1, 0)
            plotting.draw_simulation(
                one, values, np.asarray(exponents) + shift, color=colour, label=f"layer {layer}"
            )
            if layer <= 2:
                for at, style in ((dense, "-"), (np.full_like(dense, np.inf), ":")):
                    line = fresh_alignment(kind, layer, width, at, config.start)
                    one.plot(dense, line, color=colour, linestyle=style, linewidth=1.4)
        one.set_ylim(0, 1.05)
        plotting.label_axes(one, title=f"{kind}, $d={width}$", x=r"exponent of the start $\gamma$")
    axes[0, 0].set_ylabel("alignment")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {"orthogonal": orthogonal, "gaussian": gaussian, "fresh_weights": fresh_weights}
