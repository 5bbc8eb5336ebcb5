"""Figures of `orthogonal_noise`: accuracy over training in each arm, and where the factors of the noise go."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome


def _starts(outcome: Outcome) -> list[tuple[float, xr.Dataset]]:
    """Init exponent and measurements, of each size of the start."""
    if "init_exponent" not in outcome.measured.dims:
        return [(outcome.configs[0].init_exponent, outcome.measured)]
    values = outcome.measured["init_exponent"].values
    return [(float(one), outcome.measured.sel(init_exponent=one)) for one in values]


def arms(outcome: Outcome) -> Figure:
    """Accuracy on unseen pairs over training; a column a form of noise, a row a size of the start; without noise in each."""
    names = [str(name) for name in outcome.measured["arm"].values]
    groups = [
        (title, [name for name in ("none", *members) if name in names])
        for title, members in (
            ("remembered", ("remembered", "remembered, Gaussian")),
            ("corrected", ("corrected", "corrected, Gaussian")),
            ("identity", ("identity",)),
        )
    ]
    groups = [(title, members) for title, members in groups if len(members) > 1]
    starts = _starts(outcome)
    figure, axes = plotting.panels(len(starts), len(groups), width=3.6, height=2.7, sharex=True, sharey=True)
    for row, (exponent, measured) in enumerate(starts):
        for column, (title, members) in enumerate(groups):
            one = axes[row, column]
            for colour, name in zip((plotting.COLOURS["limit"], *plotting.PALETTE), members, strict=False):
                values = measured["accuracy"].sel(pairs="unseen", arm=name)
                label = {"none": "without noise"}.get(
                    name, "Gaussian" if "Gaussian" in name else "orthogonal"
                )
                label = "identity" if name == "identity" else label
                plotting.draw_simulation(one, values, values["step"], color=colour, label=label)
            plotting.label_axes(
                one, title=f"{title}, $\\gamma={exponent:g}$", x="training step" if row == len(starts) - 1 else "",
                y="accuracy, unseen pairs" if column == 0 else "",
            )  # fmt: skip
            one.set_ylim(-0.04, 1.04)
            if row == 0:
                one.legend(loc="best", fontsize=9)
    return figure


def factors(outcome: Outcome) -> Figure:
    """The factors of the noise at the last step, smallest start: of key-query matrices (layers ≥ 1), of value-output matrices."""
    (_, measured), *_ = _starts(outcome)[::-1]
    last = measured["factor"].isel(step=-1)
    names = [str(name) for name in last["arm"].values if str(name) != "none"]
    figure, axes = plotting.panels(1, 2, width=4.0, height=3.1, sharey=True)
    for one, product, title in zip(
        axes[0], ("key_query", "value_output"), ("key-query", "value-output"), strict=True
    ):
        layers = last["layer"].values[1 if product == "key_query" else 0 :]
        for place, name in enumerate(names):
            values = last.sel(product=product, arm=name, layer=layers)
            shift = 0.08 * (place - (len(names) - 1) / 2)
            plotting.draw_simulation(one, values, layers + shift, color=plotting.PALETTE[place], label=name)
        one.set_xticks(np.asarray(layers))
        plotting.label_axes(
            one, title=title, x="layer", y="factor at the last step" if product == "key_query" else ""
        )
    plotting.shared_legend(figure, axes[0, 1])
    return figure


FIGURES = {"arms": arms, "factors": factors}
