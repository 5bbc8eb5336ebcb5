"""Figures of `parallel_training`: accuracy over training, and on the longest task by the order of pairs."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory.parallel_reasoning import guessing_accuracy


def by_steps(outcome: Outcome) -> Figure:
    """Accuracy over training for each number of steps, one panel an arm.

    Dotted: a reader that follows one step a layer and guesses where that is too short, for the same numbers of steps.
    """
    arms = [str(one) for one in outcome.measured["arm"].values]
    figure, axes = plotting.panels(1, len(arms), width=3.2, height=3.0, sharey=True)
    for one, arm, config in zip(axes[0], arms, outcome.configs, strict=True):
        measured, serial = outcome.measured.sel(arm=arm), config.arm_recipe.n_layers
        at = measured["step"].values
        for place, steps in enumerate(int(each) for each in measured["steps"].values):
            colour = plotting.PALETTE[place % len(plotting.PALETTE)]
            plotting.draw_simulation(
                one,
                measured["accuracy"].sel(steps=steps),
                at,
                color=colour,
                label=f"{steps} step{'s' * (steps > 1)}",
            )
            if steps > serial:
                level = float(guessing_accuracy(config.task(steps), serial))
                one.axhline(level, color=colour, linestyle=":", linewidth=1, zorder=1)
        plotting.label_axes(one, title=arm, x="training step", y="accuracy" if arm == arms[0] else "")
        one.set_ylim(-0.04, 1.06)
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def by_order(outcome: Outcome) -> Figure:
    """Accuracy at the last step by the order of the last two pairs, a point a run, one panel an arm."""
    arms = [str(one) for one in outcome.measured["arm"].values]
    figure, axes = plotting.panels(1, len(arms), width=3.2, height=3.0, sharey=True)
    for one, arm in zip(axes[0], arms, strict=True):
        last = outcome.measured["by_last_pair"].sel(arm=arm).isel(step=-1)
        for place, order in enumerate(last["last_pair"].values):
            for length in last["length"].values:
                values = last.sel(last_pair=order, length=length).values
                shifts = (place - 0.5) * 0.36 + np.linspace(-0.1, 0.1, len(values))
                one.plot(
                    length + shifts,
                    values,
                    "o",
                    color=plotting.PALETTE[place],
                    markersize=4,
                    label=str(order),
                )
        one.set_xticks(last["length"].values)
        plotting.label_axes(one, title=arm, x="number of steps", y="accuracy" if arm == arms[0] else "")
        one.set_ylim(-0.04, 1.06)
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {"by_steps": by_steps, "by_order": by_order}
