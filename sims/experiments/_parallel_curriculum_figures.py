"""Figures of `parallel_curriculum` and `parallel_depth`: how far runs come over training, and which orders they answer."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory.parallel_reasoning import bounds, rule_accuracy


def _panels(outcome: Outcome) -> tuple[Figure, list[tuple[Axes, str, bool]]]:
    """A panel for each mask, side by side: its axes, its title, and whether there is a mask."""
    masks = [bool(one) for one in outcome.measured["causal"].values]
    figure, axes = plotting.panels(1, len(masks), width=4.4, height=2.9, sharey=True)
    titles = ["with the mask" if one else "without the mask" for one in masks]
    return figure, list(zip(axes[0], titles, masks, strict=True))


def stages(outcome: Outcome) -> Figure:
    """The number of steps up to which all are answered, over training; a row of points a run.

    Lines: what the theorem allows, with the mask in every order and in the best one.
    """
    config, (figure, panels) = outcome.configs[0], _panels(outcome)
    limits = bounds(config.depth)
    for one, title, causal in panels:
        accuracy = outcome.measured["accuracy"].sel(causal=causal)
        answered = (accuracy >= config.promotion).cumprod("steps").sum("steps")
        for place, seed in enumerate(answered["seed"].values):
            shift = 0.12 * (place - (answered.sizes["seed"] - 1) / 2)
            one.plot(
                answered["step"],
                answered.sel(seed=seed) + shift,
                ".",
                color=plotting.PALETTE[place % len(plotting.PALETTE)],
                markersize=4,
                label=f"seed {int(seed)}",
            )
        levels = ((limits.lower, "--", "in every order"), (limits.upper, ":", "in the best order"))
        for level, style, label in levels if causal else ((limits.upper, "--", "in every order"),):
            if level <= config.n_steps:
                one.axhline(
                    level, color=plotting.COLOURS["limit"], linestyle=style, linewidth=1.2, label=label
                )
        plotting.label_axes(
            one, title=title, x="training step", y="steps answered" if one is panels[0][0] else ""
        )
        one.set_ylim(-0.4, config.n_steps + 0.4)
    plotting.shared_legend(figure, panels[0][0])
    return figure


def by_reach(outcome: Outcome) -> Figure:
    """Accuracy at the last step by the number of steps, a point a run: orders within reach of the rules, and beyond it.

    Grey bars: a reader that obeys the rules and guesses beyond its reach, over all orders.
    """
    config, (figure, panels) = outcome.configs[0], _panels(outcome)
    for one, title, causal in panels:
        last = outcome.measured["by_reach"].sel(causal=causal).isel(step=-1)
        shares = outcome.measured["share"].sel(causal=causal)
        law = _law(outcome.predicted["share"].sel(causal=causal).values)
        for number in (int(each) for each in last["steps"].values):
            level = float(rule_accuracy(config.task(number), law))
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


def _law(shares: np.ndarray) -> dict[int, Fraction]:
    """Reach → probability, of the shares of orders with a reach of at least 1, 2, …; what is beyond counts as the last."""
    least = np.append(shares, 0.0)
    return {number: Fraction(least[number - 1]) - Fraction(least[number]) for number in range(1, len(least))}


FIGURES = {"stages": stages, "by_reach": by_reach}
