"""Figures of noise_kernels: which pairs of buffers each form of noise aligns, and what fresh weights leave of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome


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

    Lines join points. The dashed lines are the noise alone.
    """
    exponents, width = _axis(outcome, "init_exponent"), max(_axis(outcome, "width"))
    kinds = _axis(outcome, "kind")
    figure, axes = plotting.panels(1, len(kinds), width=4.2, height=3.4, sharey=True)
    for one, kind in zip(axes[0], kinds, strict=True):
        wanted = {"form": "corrected", "kind": kind, "width": width}
        mine = _with(outcome.measured, **wanted)
        for colour, layer in zip(plotting.PALETTE, range(1, outcome.configs[0].n_layers), strict=False):
            pair = f"layer {layer}: {'raw' if layer == 1 else layer - 1} - 0"
            here = mine.sel(pair=pair)
            if "init_exponent" not in here.dims:
                here = here.expand_dims("init_exponent")
            here = here.transpose(..., "init_exponent")
            plotting.draw_simulation(
                one, here["whole_alignment"], exponents, color=colour, linestyle="-", label=f"layer {layer}"
            )
            one.plot(
                exponents, here["alignment"].mean("seed").values, color=colour, linestyle="--", linewidth=1
            )
        one.set_ylim(0, 1.05)
        plotting.label_axes(one, title=f"{kind}, $d={width}$", x=r"exponent of the start $\gamma$")
    axes[0, 0].set_ylabel("alignment")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {"orthogonal": orthogonal, "gaussian": gaussian, "fresh_weights": fresh_weights}
