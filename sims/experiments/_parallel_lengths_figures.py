"""Figure of `parallel_lengths`: accuracy by the number of steps on chains of the training's length and on shorter ones."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory.parallel_reasoning import bounds


def shorter_chains(outcome: Outcome) -> Figure:
    """Accuracy at the last step by the number of steps, a point a run. Line: the most that the theorem allows."""
    last = outcome.measured["accuracy"].isel(step=-1)
    figure, axes = plotting.panels(1, 1, width=6.0, height=3.0)
    one = axes[0, 0]
    for place, missing in enumerate(last["missing"].values):
        told = "pairs as in training" if missing == 0 else f"{int(missing)} less"
        for number in last["steps"].values:
            values = last.sel(missing=missing, steps=number).values
            shift = 0.24 * (place - (last.sizes["missing"] - 1) / 2)
            one.plot(
                number + shift + np.linspace(-0.07, 0.07, len(values)),
                values,
                "o",
                color=plotting.PALETTE[place],
                markersize=4,
                label=told,
            )
    limit = bounds(outcome.configs[0].depth).upper
    one.axvline(
        limit + 0.5,
        color=plotting.COLOURS["limit"],
        linestyle=":",
        linewidth=1.2,
        label="the theorem's limit",
    )
    one.set_xticks(last["steps"].values)
    one.set_ylim(-0.04, 1.06)
    one.grid(axis="x", visible=False)
    plotting.label_axes(one, x="number of steps", y="accuracy")
    plotting.shared_legend(figure, one)
    return figure


FIGURES = {"shorter_chains": shorter_chains}
