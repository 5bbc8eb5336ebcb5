"""Figures of memory_surgery: predictions of the cut memory over time, and the decay of its noise."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from sims import plotting
from sims.experiments._readings import without_noise_component
from sims.outcome import Outcome


def before_and_after(outcome: Outcome) -> Figure:
    """Probability of the correct token (left) and the noise token (right) over time, for each cut; one row a size."""
    sizes = [int(n) for n in outcome.measured["n_tokens"].values]
    level = float(outcome.measured["noise_level"].values[-1])
    figure, axes = plotting.panels(len(sizes), 2, width=3.6, height=2.0, sharex=True, sharey=True)
    colours = dict(
        zip(
            ("full", "keep 1", "keep n-1", "drop 1"),
            ("#555555", "#d55e00", "#009e73", "#0072b2"),
            strict=True,
        )
    )
    for row, n in enumerate(sizes):
        for column, kind in enumerate(("correct", "noise")):
            one = axes[row, column]
            for cut, colour in colours.items():
                at = {"n_tokens": n, "noise_level": level, "cut": cut}
                cell, line = outcome.measured[kind].sel(at), outcome.predicted[kind].sel(at)
                plotting.draw_theory(one, line["time"], line, color=colour, label=cut)
                known = cell.where(np.isfinite(line))
                plotting.draw_simulation(one, known, cell["time"], color=colour)
            plotting.label_axes(one, title=f"{kind} token, $n={n}$, $\\alpha={level:g}$", log="x")
        axes[row, 0].set_ylabel("probability")
    for one in axes[-1]:
        one.set_xlabel("flow time over $n$")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def decay(outcome: Outcome) -> Figure:
    """Noise probability without the noise component over time, on logarithmic axes, one colour a size."""
    figure, axes = plotting.panels(1, 1, width=5.6, height=3.8)
    one = axes[0, 0]
    cells = without_noise_component(outcome, "noise").sel(noise_level=0.7)
    for place, n in enumerate(int(n) for n in outcome.measured["n_tokens"].values):
        line, colour = (
            outcome.predicted["without_noise"].sel(n_tokens=n, noise_level=0.7),
            plotting.PALETTE[place],
        )
        plotting.draw_theory(one, line["time"], line, color=colour, label=f"$n={n}$: exponent $-{n - 1}/{n}$")
        plotting.draw_simulation(one, cells.sel(n_tokens=n), cells["time"], color=colour)
    plotting.label_axes(one, x="flow time over $n$", y="noise probability after removal", log="xy")
    one.legend()
    return figure
