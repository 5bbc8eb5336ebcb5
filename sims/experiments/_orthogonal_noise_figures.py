"""Figures of `orthogonal_noise`: accuracy over training in each arm, and where the factors of the noise go."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome


def arms(outcome: Outcome) -> Figure:
    """Accuracy on unseen pairs over training, a panel a group of arms; the arm without noise in each."""
    unseen = outcome.measured["accuracy"].sel(pairs="unseen")
    names = [str(name) for name in unseen["arm"].values]
    groups = [
        (title, [name for name in ("none", *members) if name in names])
        for title, members in (
            ("orthogonal", ("remembered", "corrected")),
            ("Gaussian", ("remembered, Gaussian", "corrected, Gaussian")),
            ("control", ("identity",)),
        )
    ]
    groups = [(title, members) for title, members in groups if len(members) > 1]
    figure, axes = plotting.panels(1, len(groups), width=3.7, height=3.1, sharex=True, sharey=True)
    for one, (title, members) in zip(axes[0], groups, strict=True):
        for colour, name in zip((plotting.COLOURS["limit"], *plotting.PALETTE), members, strict=False):
            values = unseen.sel(arm=name)
            plotting.draw_simulation(one, values, values["step"], color=colour, label=name.split(",")[0])
        plotting.label_axes(
            one, title=title, x="training step", y="accuracy, unseen pairs" if one is axes[0, 0] else ""
        )
        one.set_ylim(-0.04, 1.04)
        one.legend(loc="best", fontsize=9)
    return figure


def factors(outcome: Outcome) -> Figure:
    """The factors of the noise at the last step: of key-query matrices (layers ≥ 1) and of value-output matrices."""
    last = outcome.measured["factor"].isel(step=-1)
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
