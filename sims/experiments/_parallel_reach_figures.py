"""Figures of parallel_reach: the law of the reach, what slots know layer by layer, and growth with depth."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.experiments._readings import way_of_reading
from sims.outcome import Outcome
from sims.propagation import knowledge
from theory import parallel_reasoning as theory


def law(outcome: Outcome) -> Figure:
    """Law of the causal reach at each depth: theory as bars (only outlined where it is sampled), simulation as points."""
    measured, predicted = way_of_reading(outcome)
    depths = [int(one) for one in np.atleast_1d(measured["n_layers"].values)]
    figure, axes = plotting.panels(1, len(depths), width=2.9, height=2.9)
    for one, depth in zip(axes[0], depths, strict=True):
        here, line = measured.sel(n_layers=depth), predicted.sel(n_layers=depth)
        counted = bool(np.isfinite(line["probability"]).all())
        bars = line["probability" if counted else "sampled"]
        look = {"color": "#9ec5e3"} if counted else {"facecolor": "none", "edgecolor": "#0072b2"}
        bars = bars[bars > 0]
        one.bar(bars["reach"], bars, width=0.8, label="theory", **look)
        shown = here["probability"].mean("seed") > 0
        plotting.draw_simulation(
            one,
            here["probability"].sel(reach=shown.values),
            here["reach"].values[shown.values],
            color="#d55e00",
            label="simulation",
        )
        for bound in ("lower", "upper"):
            one.axvline(float(line[bound]), color=plotting.COLOURS["limit"], linestyle=":", linewidth=1)
        one.set_ylim(bottom=0)
        one.set_xlim(float(line["lower"]) - 1.5, float(line["upper"]) + 1.5)
        plotting.label_axes(one, title=f"$L={depth}$", x="reach (steps)")
    axes[0, 0].set_ylabel("probability")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def merging(outcome: Outcome) -> Figure:
    """What each slot knows, layer by layer, for an order that attains the lower bound and one that attains the upper one."""
    depth = min(4, int(np.max(outcome.measured["n_layers"].values)))
    size = theory.bounds(depth).upper
    orders = {"the path's own order": theory.shortest_order(size), "thirds": theory.longest_order(depth)}
    figure, axes = plotting.panels(depth, 2, width=4.0, height=2.0, sharex=True, sharey=True)
    for column, (title, places) in enumerate(orders.items()):
        order = np.argsort(places)
        tokens = torch.tensor([*np.stack([order, order + 1], 1).ravel(), 0])[None]
        for layer, knows in enumerate(knowledge(tokens, depth, size + 1)):
            one = axes[layer, column]
            _slots(one, np.vstack([knows[0, 1:-1:2].numpy(), knows[0, -1:].numpy()]))
            plotting.label_axes(one, title=title if layer == 0 else "")
            if column == 0:
                one.set_ylabel(f"layer {layer}\nplace")
            if layer == depth - 1:
                one.set_xlabel("token of the path (steps after the start)")
    return figure


def _slots(axes: Axes, known: np.ndarray) -> None:
    """A bar from the first to the last token that each slot knows; the last slot's is the lowest."""
    for place, row in enumerate(known):
        tokens = np.flatnonzero(row)
        last = place == len(known) - 1
        axes.barh(
            place,
            max(tokens[-1] - tokens[0], 0.15),
            left=tokens[0],
            height=0.75,
            color="#d55e00" if last else "#7fb2d9",
            edgecolor="#8a3c00" if last else "#3b6d94",
            linewidth=0.6,
        )
    axes.set_ylim(len(known) - 0.4, -0.6)
    axes.set_yticks([0, len(known) - 1], ["first", "start"])
    axes.set_xlim(-0.3, known.shape[1] - 0.7)


def growth(outcome: Outcome) -> Figure:
    """Mean reach over depth between the two bounds, on a logarithmic axis, for all ways of reading."""
    figure, axes = plotting.panels(1, 1, width=5.6, height=3.6)
    one = axes[0, 0]
    depths = np.arange(2, max(5, int(np.max(outcome.measured["n_layers"].values))) + 1)
    bounds = [theory.bounds(int(depth)) for depth in depths]
    exact = [theory.mean_reach(int(depth), 1000, np.random.default_rng(0)).value for depth in depths]
    grey = plotting.COLOURS["limit"]
    plotting.draw_theory(one, depths, [bound.upper for bound in bounds], color=grey, linestyle="--")
    plotting.draw_theory(one, depths, [bound.lower for bound in bounds], color=grey, linestyle=":")
    plotting.draw_theory(one, depths, exact, color=plotting.PALETTE[0])
    looks = {
        ("all", False): ("no mask", 2),
        ("all", True): ("causal, random order", 0),
        ("planned", True): ("causal, one source, planned", 1),
        ("greedy", True): ("causal, one source, greedy", 3),
    }
    for (reading, causal), (label, colour) in looks.items():
        measured, _ = way_of_reading(outcome, reading, causal)
        plotting.draw_simulation(
            one,
            measured["mean_reach"],
            measured["n_layers"],
            color=plotting.PALETTE[colour],
            label=label,
            markersize=5,
        )
    plotting.label_axes(one, x="number of layers $L$", y="mean reach (steps)", log="y")
    one.set_xticks(depths)
    one.legend(fontsize=9)
    return figure
