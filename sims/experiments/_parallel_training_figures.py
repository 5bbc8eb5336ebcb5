"""Figures of `parallel_training`: accuracy over training, and on the longest task by the order of pairs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory.parallel_reasoning import guessing_accuracy, reaches
from theory.parallel_reasoning.forward_reading import forward_reaches


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Two panels a row."""
    figure, axes = plotting.panels(-(-count // 2), min(count, 2), width=3.9, height=2.7, sharey=True)
    for spare in axes.flat[count:]:
        spare.set_visible(False)
    return figure, list(axes.flat[:count])


def by_steps(outcome: Outcome) -> Figure:
    """Accuracy over training for each number of steps, one panel an arm.

    Dotted: a reader that follows one step a layer and guesses where that is too short, for the same numbers of steps.
    """
    arms = [str(one) for one in outcome.measured["arm"].values]
    figure, axes = _panels(len(arms))
    for one, arm, config in zip(axes, arms, outcome.configs, strict=True):
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
        plotting.label_axes(one, title=arm, x="training step", y="accuracy" if arm in arms[::2] else "")
        one.set_ylim(-0.04, 1.06)
    plotting.shared_legend(figure, axes[0])
    return figure


def by_order(outcome: Outcome) -> Figure:
    """Accuracy at the last step by the order of the last two pairs, a point a run, one panel an arm.

    Bars: a reader that obeys the rules and guesses beyond its reach. Dashed, with three causal layers: one with half of them.
    """
    arms = [str(one) for one in outcome.measured["arm"].values]
    figure, axes = _panels(len(arms))
    for one, arm, config in zip(axes, arms, outcome.configs, strict=True):
        last = outcome.measured["by_last_pair"].sel(arm=arm).isel(step=-1)
        causal = config.arm_recipe.causal
        for length in (int(each) for each in last["length"].values):
            orders = np.array(list(itertools.permutations(range(length))))
            first = orders[:, -1] < orders[:, -2]
            whole = reaches(orders, config.depth, causal)
            pauses = range(1, config.depth - length + 1)
            half = forward_reaches(orders, config.depth, pauses) if arm == "three layers" else None
            for place, (order, chosen) in enumerate(
                zip(last["last_pair"].values, (first, ~first), strict=True)
            ):
                middle = length + (place - 0.5) * 0.4
                values = last.sel(last_pair=order, length=length).values
                one.bar(
                    middle,
                    _accuracy(config, length, whole[chosen]),
                    0.36,
                    color="0.9",
                    zorder=0,
                    label="all rules",
                )
                if half is not None:
                    level = _accuracy(config, length, half[chosen])
                    one.hlines(
                        level,
                        middle - 0.18,
                        middle + 0.18,
                        "0.3",
                        "--",
                        linewidth=1.4,
                        zorder=1,
                        label="half of the rules",
                    )
                one.plot(
                    middle + np.linspace(-0.1, 0.1, len(values)),
                    values,
                    "o",
                    color=plotting.PALETTE[place],
                    markersize=4,
                    label=str(order),
                )
        one.set_xticks(last["length"].values)
        plotting.label_axes(one, title=arm, x="number of steps", y="accuracy" if arm in arms[::2] else "")
        one.set_ylim(-0.04, 1.06)
        one.grid(axis="x", visible=False)
    plotting.shared_legend(figure, axes[arms.index("three layers") if "three layers" in arms else 0])
    return figure


def _accuracy(config: Any, steps: int, reached: np.ndarray) -> float:
    """Mean accuracy on a task of so many steps over orders of these reaches, with a guess where they are too short."""
    task = config.task(steps)
    return float(
        np.mean([1.0 if reach >= steps else float(guessing_accuracy(task, int(reach))) for reach in reached])
    )


FIGURES = {"by_steps": by_steps, "by_order": by_order}
