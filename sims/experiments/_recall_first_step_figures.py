"""A figure of recall_first_step: the entries of the key-query step."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome


def key_query_step(outcome: Outcome) -> Figure:
    """The six entries of the key-query step at the smallest and the largest N, both features, theory as marks."""
    sizes = [int(one) for one in outcome.measured["n_tokens"].values]
    chosen = [sizes[0], sizes[-1]]
    figure, axes = plotting.panels(1, 2, width=3.7, height=3.1, sharey=True)
    keys = [str(one) for one in outcome.measured["key"].values]
    places = np.arange(len(keys))
    for one, n in zip(axes[0], chosen, strict=True):
        for shift, features in ((-0.17, "current"), (0.17, "both")):
            colour = plotting.PALETTE[0 if features == "current" else 2]
            line = outcome.predicted["key_query"].sel(n_tokens=n, features=features)
            points = outcome.measured["key_query"].sel(n_tokens=n, features=features)
            one.hlines(line, places + shift - 0.15, places + shift + 0.15, color=colour, zorder=2)
            plotting.draw_simulation(
                one, points, places + shift, color=colour, label=f"value reads {features}"
            )
        one.axhline(0, color=plotting.COLOURS["limit"], linewidth=0.8)
        one.set_yscale("symlog", linthresh=0.02)
        one.set_xticks(places, [key.replace("_", "\n") for key in keys], fontsize=8)
        plotting.label_axes(one, title=f"$N={n}$", x="feature of the position")
    axes[0, 0].set_ylabel(r"step, in units of $\eta_V\beta/T$")
    plotting.shared_legend(figure, axes[0, 0])
    return figure
