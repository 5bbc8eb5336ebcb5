"""Figures of small_start_growth: score margins over time, the wait against γ ln d, alignment and rank at escape."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory import small_initialisation as theory

ESCAPE = 0.5
"""Score margin at which a layer counts as escaped, as in the experiment."""


def _names(outcome: Outcome) -> dict[float, str]:
    titles = {0.0: "equal frequencies", 1.0: "Zipf frequencies"}
    return {
        float(one): titles.get(float(one), f"frequency ∝ rank^−{one:g}")
        for one in outcome.measured["frequency_exponent"].values
    }


def growth(outcome: Outcome) -> Figure:
    """Score margin over time for every init exponent, at the first width; the dotted line is the margin of escape.

    Lines: the reduced system, or descent on the expected loss; dashed: the linear closed form. Points: trained layers.
    """
    names = _names(outcome)
    figure, axes = plotting.panels(1, len(names), width=4.2, height=3.4, sharey=True)
    for column, (exponent, title) in enumerate(names.items()):
        one = axes[0, column]
        cell, line = (
            data.sel(frequency_exponent=exponent).isel(width=0)
            for data in (outcome.measured, outcome.predicted)
        )
        for place, gamma in enumerate(cell["init_exponent"].values):
            mine, theirs = (data.sel(init_exponent=gamma) for data in (cell, line))
            colour = plotting.PALETTE[place]
            linear = theirs["linear_margin"]
            linear = linear.where(linear <= 3 * float(mine["margin"].mean("seed").max()))
            plotting.draw_theory(one, line["time"], linear, color=colour, linestyle="--", linewidth=1)
            plotting.draw_theory(
                one, line["time"], theirs["margin"], color=colour, label=f"$\\gamma={gamma:g}$"
            )
            shown = mine["margin"].isel(time=slice(1, None, 3))
            shown = shown.isel(time=np.flatnonzero(shown.mean("seed") > 0))
            plotting.draw_simulation(one, shown, shown["time"], color=colour)
        one.axhline(ESCAPE, color=plotting.COLOURS["limit"], linestyle=":", linewidth=1)
        plotting.label_axes(one, title=title, x="growth times", log="y")
    axes[0, 0].set_ylabel("score margin")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def escape(outcome: Outcome) -> Figure:
    """Growth times until the margin reaches 1/2, against γ ln d: theory's closed form as a line, trained layers as points."""
    figure, axes = plotting.panels(1, 1, width=5.0, height=3.5)
    one = axes[0, 0]
    wait = outcome.measured["escape_time"].sel(frequency_exponent=0.0)
    config = outcome.configs[0]
    for place, width in enumerate(wait["width"].values):
        low, high = float(wait["init_exponent"].min()), float(wait["init_exponent"].max())
        exponents = np.linspace(low, high, 60)
        layers = [
            theory.MatchingLayer(
                config.n_tokens, config.n_slots, int(width), config.head_width, gamma, config.head_width**-0.5
            )
            for gamma in exponents
        ]
        line = [
            theory.escape_time(layer, ESCAPE) * layer.rate + ESCAPE / (2 * config.n_slots) for layer in layers
        ]
        colour = plotting.PALETTE[place]
        plotting.draw_theory(one, exponents * np.log(width), line, color=colour)
        mine = wait.sel(width=width)
        plotting.draw_simulation(
            one, mine, mine["init_exponent"] * np.log(width), color=colour, label=f"$d={width}$", markersize=5
        )
    plotting.label_axes(one, x="$\\gamma\\,\\ln d$", y="growth times until escape")
    one.legend()
    return figure


def alignment(outcome: Outcome) -> Figure:
    """At escape: cosine with the identity (equal frequencies, line: closed form, dotted: ceiling), and top singular share."""
    names = _names(outcome)
    figure, axes = plotting.panels(1, 2, width=4.2, height=3.4)
    config = outcome.configs[0]
    cosine = outcome.measured["escape_alignment"].sel(frequency_exponent=0.0)
    exponents = np.linspace(0.1, 1.0, 80)
    for place, width in enumerate(cosine["width"].values):
        layers = [
            theory.MatchingLayer(
                config.n_tokens, config.n_slots, int(width), config.head_width, gamma, config.head_width**-0.5
            )
            for gamma in exponents
        ]
        line = [theory.escape_alignment(layer, ESCAPE) for layer in layers]
        colour = plotting.PALETTE[place]
        plotting.draw_theory(axes[0, 0], exponents, line, color=colour)
        mine = cosine.sel(width=width)
        plotting.draw_simulation(
            axes[0, 0], mine, mine["init_exponent"], color=colour, label=f"$d={width}$", markersize=5
        )
    ceiling = theory.wishart_ceiling(config.n_tokens - 1, config.head_width)
    axes[0, 0].axhline(ceiling, color=plotting.COLOURS["limit"], linestyle=":", linewidth=1)
    plotting.label_axes(
        axes[0, 0], title="alignment at escape", x="init exponent $\\gamma$", y="cosine with the identity"
    )
    axes[0, 0].legend()
    for place, (exponent, title) in enumerate(names.items()):
        share = outcome.measured["escape_top_share"].sel(frequency_exponent=exponent).isel(width=0)
        theirs = outcome.predicted["escape_top_share"].sel(frequency_exponent=exponent).isel(width=0)
        colour = plotting.PALETTE[place + 2]
        if np.isfinite(theirs).all():
            plotting.draw_theory(axes[0, 1], theirs["init_exponent"], theirs, color=colour)
        plotting.draw_simulation(
            axes[0, 1], share, share["init_exponent"], color=colour, label=title, markersize=5
        )
    plotting.label_axes(
        axes[0, 1], title="rank at escape", x="init exponent $\\gamma$", y="top singular share"
    )
    axes[0, 1].set_ylim(0, 1.03)
    axes[0, 1].legend()
    return figure


def kernels(outcome: Outcome) -> Figure:
    """Scores at escape in one layer of theory's descent from one start: a row a frequency exponent, a column an init exponent.

    First width; row means are taken away, since the softmax does not see them. One colour scale a row of panels.
    """
    names, shown = _names(outcome), outcome.measured["init_exponent"].values
    figure, axes = plotting.panels(len(names), len(shown), width=2.5, height=2.4)
    configs = [one for one in outcome.configs if one.width == outcome.configs[0].width]
    for row, (exponent, title) in enumerate(names.items()):
        pictures = [_at_escape(one) for one in configs if one.frequency_exponent == exponent]
        limit = max(np.quantile(np.abs(picture), 0.999) for picture in pictures)
        for column, (gamma, picture) in enumerate(zip(shown, pictures, strict=True)):
            one = axes[row, column]
            image = one.imshow(picture, vmin=-limit, vmax=limit, cmap="RdBu_r", interpolation="nearest")
            one.grid(visible=False)
            one.set_xticks([])
            one.set_yticks([])
            plotting.label_axes(
                one,
                title=f"$\\gamma={gamma:g}$" if row == 0 else "",
                x="key" if row == len(names) - 1 else "",
                y=f"{title}\nquery" if column == 0 else "",
            )
        figure.colorbar(image, ax=list(axes[row]), shrink=0.85, label="score")
    return figure


def _at_escape(config: Any) -> np.ndarray:
    """Scores without row means where the mean margin of descent on the expected loss first reaches escape; NaN if it does not."""
    layer = config.layer
    query, key = theory.draw_starts(layer, 1, np.random.default_rng(1))
    path = theory.population_descent(
        layer, query, key, config.probe_steps, config.learning_rate, config.momentum
    )[:, 0]
    above = np.flatnonzero(theory.margins(layer, path) >= ESCAPE)
    scores = path[above[0]] * layer.score_scale if len(above) else np.full_like(path[0], np.nan)
    return np.asarray(scores - scores.mean(-1, keepdims=True))


FIGURES = {"growth": growth, "escape": escape, "alignment": alignment, "kernels": kernels}
