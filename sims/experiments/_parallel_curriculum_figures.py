"""Figures of `parallel_curriculum` and `parallel_depth`: how far runs come over training, and which orders they answer."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory.parallel_reasoning import ChainTask, bounds, guessing_accuracy


def _by_mask(outcome: Outcome, values: xr.Dataset) -> xr.Dataset:
    """Measurements or predictions with an axis of masks, also where there is one mask only."""
    return values if "causal" in values.dims else values.expand_dims(causal=[outcome.configs[0].causal])


def _panels(measured: xr.Dataset) -> tuple[Figure, list[tuple[Axes, str, bool]]]:
    """A panel for each mask, side by side: its axes, its title, and whether there is a mask."""
    masks = [bool(one) for one in measured["causal"].values]
    figure, axes = plotting.panels(1, len(masks), width=4.4, height=2.9, sharey=True)
    titles = ["with the mask" if one else "without the mask" for one in masks]
    return figure, list(zip(axes[0], titles, masks, strict=True))


def stages(outcome: Outcome) -> Figure:
    """The number of steps up to which all are answered, over training; a row of points a run.

    Lines: what the theorem allows, with the mask in every order and in the best one; without it, what half of the rules does.
    """
    config, measured = outcome.configs[0], _by_mask(outcome, outcome.measured)
    figure, panels = _panels(measured)
    limits = bounds(config.depth)
    for one, title, causal in panels:
        accuracy = measured["accuracy"].sel(causal=causal)
        answered = (accuracy >= config.promotion).cumprod("steps").sum("steps")
        for place, seed in enumerate(answered["seed"].values):
            shift = 0.12 * (place - (answered.sizes["seed"] - 1) / 2)
            one.plot(
                answered["step"],
                answered.sel(seed=seed) + shift,
                ".",
                color=plotting.PALETTE[place % len(plotting.PALETTE)],
                markersize=4,
            )
        levels = (
            (limits.upper if not causal else limits.lower, "--", "in every order"),
            (limits.upper, ":", "in the best order"),
            (limits.lower, "-.", "half of the rules"),
        )
        for level, style, label in (levels[0], levels[1 if causal else 2]):
            if level <= config.n_steps:
                one.axhline(
                    level, color=plotting.COLOURS["limit"], linestyle=style, linewidth=1.2, label=label
                )
        plotting.label_axes(
            one, title=title, x="training step", y="steps answered" if one is panels[0][0] else ""
        )
        one.set_ylim(-0.4, config.n_steps + 0.4)
        one.locator_params(axis="x", nbins=5)
        if one.get_legend_handles_labels()[1]:
            one.legend(loc="lower right", fontsize=9)
    return figure


def by_reach(outcome: Outcome) -> Figure:
    """Accuracy at the last step by the number of steps, a point a run: orders within reach of the rules, and beyond it.

    Grey bars: a reader that obeys the rules, from all sides, and guesses as well as it can beyond its reach; over all orders.
    """
    config, measured = outcome.configs[0], _by_mask(outcome, outcome.measured)
    predicted = _by_mask(outcome, outcome.predicted)
    figure, panels = _panels(measured)
    for one, title, causal in panels:
        last = measured["by_reach"].sel(causal=causal).isel(step=-1)
        shares = measured["share"].sel(causal=causal)
        law = _law(predicted["share"].sel(causal=causal).values)
        for number in (int(each) for each in last["steps"].values):
            level = _best_accuracy(config.task(number), law)
            one.bar(number, level, 0.8, color="0.9", zorder=0, label="all rules")
            for place, order in enumerate(last["order"].values):
                there = shares.sel(steps=number) > 0 if place == 0 else shares.sel(steps=number) < 1
                values = last.sel(steps=number, order=order).values[there.values]
                one.plot(
                    number + (place - 0.5) * 0.3 + np.linspace(-0.08, 0.08, len(values)),
                    values,
                    "o",
                    color=plotting.PALETTE[place],
                    markersize=4,
                    label=str(order),
                )
        one.set_xticks(last["steps"].values)
        one.set_ylim(-0.04, 1.06)
        one.grid(axis="x", visible=False)
        plotting.label_axes(
            one, title=title, x="number of steps", y="accuracy" if one is panels[0][0] else ""
        )
    plotting.shared_legend(figure, panels[0][0])
    return figure


def _law(shares: np.ndarray) -> dict[int, float]:
    """Reach → probability, of the shares of orders with a reach of at least 1, 2, …; what is beyond counts as the last."""
    least = np.append(shares, 0.0)
    return {number: float(least[number - 1] - least[number]) for number in range(1, len(least))}


def _best_accuracy(task: ChainTask, law: dict[int, float]) -> float:
    """Accuracy of one who knows all within reach, from the start and from the chain's ends, and guesses among the rest."""
    answered = {
        reach: 1.0 if reach >= task.n_steps else float(guessing_accuracy(task, reach, task.n_steps))
        for reach in law
    }
    return sum(share * answered[reach] for reach, share in law.items())


FIGURES = {"stages": stages, "by_reach": by_reach}
