"""Figures of matching_scores: score against scale, and alignment against rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome


def _prepared(values: xr.Dataset, outcome: Outcome) -> xr.Dataset:
    """Unit rows where rows vary, with axes for noise and rank."""
    if "rows" in values.dims:
        values = values.sel(rows=values["rows"].values[0])
    for name in ("noise", "rank"):
        if name not in values.dims:
            values = values.expand_dims({name: [getattr(outcome.configs[0], name)]})
    return values.sortby(["noise", "rank"])


def score_and_scale(outcome: Outcome) -> Figure:
    """Matching score against its scale, a colour a noise: the full rank and the smallest one. The dotted line is 1/n."""
    measured, predicted = (_prepared(one, outcome) for one in (outcome.measured, outcome.predicted))
    config = outcome.configs[0]
    ranks = measured["rank"].values[[-1, 0]] if measured.sizes["rank"] > 1 else measured["rank"].values
    figure, axes = plotting.panels(1, len(ranks), width=4.4, height=3.6, sharey=True)
    for one, rank in zip(axes[0], ranks, strict=True):
        for colour, noise in zip(plotting.PALETTE, measured["noise"].values, strict=False):
            line = predicted["score"].sel(noise=noise, rank=rank)
            plotting.draw_theory(one, line["scale"], line, color=colour)
            here = measured["score"].sel(noise=noise, rank=rank)
            plotting.draw_simulation(one, here, here["scale"], color=colour, label=f"noise {noise:g}")
        one.axhline(1 / config.n_tokens, color=plotting.COLOURS["limit"], linestyle=":", linewidth=1)
        kernel = "identity" if rank == config.width else f"projector, rank {rank} of {config.width}"
        plotting.label_axes(one, title=kernel, x="scale of the scores", log="x")
        one.set_ylim(-0.03, 1.03)
    axes[0, 0].set_ylabel("matching score")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def alignment_and_rank(outcome: Outcome) -> Figure:
    """Alignment against rank: the ceiling √(d_k/d), projectors, and random kernels of the same rank."""
    measured, config = _prepared(outcome.measured, outcome).isel(noise=0), outcome.configs[0]
    figure, axes = plotting.panels(1, 1, width=5.2, height=3.6)
    one, ranks = axes[0, 0], measured["rank"]
    dense = np.geomspace(ranks.values.min(), config.width, 50)
    plotting.draw_theory(one, dense, np.sqrt(dense / config.width), color=plotting.COLOURS["limit"])
    looks: dict[str, tuple[str, Any]] = {
        "projector_alignment": ("projector", 0),
        "gram_alignment": (r"$W^\top W$", 1),
        "product_alignment": (r"$V^\top W$", 2),
    }
    for name, (label, colour) in looks.items():
        plotting.draw_simulation(
            one, measured[name], ranks, color=plotting.PALETTE[colour], label=label, markersize=5
        )
    plotting.label_axes(one, title=f"$d={config.width}$", x="rank $d_k$", y="alignment", log="x")
    plotting.shared_legend(figure, one)
    return figure


FIGURES = {"score_and_scale": score_and_scale, "alignment_and_rank": alignment_and_rank}
