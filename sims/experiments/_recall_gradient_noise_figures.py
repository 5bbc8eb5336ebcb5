"""Figures of recall_gradient_noise: accuracy after one step against the batch size, and variances by entry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory import noisy_recall as theory


def accuracy(outcome: Outcome) -> Figure:
    """Accuracy of recall against batch size over N³, and probability that the noise wins against the batch size itself."""
    figure, axes = plotting.panels(1, 2, width=3.7, height=3.1)
    scales = outcome.measured["batch_scale"]
    for place, n in enumerate(int(one) for one in outcome.measured["n_tokens"].values):
        colour = plotting.PALETTE[place]
        cell, line = outcome.measured.sel(n_tokens=n), outcome.predicted.sel(n_tokens=n)
        problem = replace(outcome.plan.base, n_tokens=n).problem
        fine = np.geomspace(float(scales[0]) / 2, float(scales[-1]) * 2, 25)
        _, curve = theory.recall_accuracy(problem, fine * n**3, 1500, np.random.default_rng(1))
        plotting.draw_theory(axes[0, 0], fine, [one.value for one in curve], color=colour)
        plotting.draw_simulation(axes[0, 0], cell["recall_accuracy"], scales, color=colour, label=f"$N={n}$")
        axes[0, 0].axhline(float(line["recall_ceiling"][0]), color=colour, linewidth=0.8, linestyle="--")
        axes[0, 0].axhline(float(line["chance"][0]), color=colour, linewidth=0.8, linestyle=":")
        batches = np.unique(np.round(np.geomspace(5, 1000, 14)).astype(int))
        exact = [theory.feed_forward_noise_first(problem, int(one)) for one in batches]
        plotting.draw_theory(axes[0, 1], batches, exact, color=colour)
        for name, marker in (("feed_forward_noise_first", "o"), ("value_noise_first", "x")):
            values = cell[name]
            axes[0, 1].plot(
                np.asarray(scales) * n**3, values.mean("seed"), marker, color=colour, markersize=5, zorder=3,
                label={"o": "feed-forward", "x": "value"}[marker] if place == 0 else None,
            )  # fmt: skip
    axes[0, 1].set_xlim(4, 2e3)
    plotting.label_axes(
        axes[0, 0], title="recall after one step", x="batch size / $N^3$", y="accuracy", log="x"
    )
    plotting.label_axes(
        axes[0, 1], title="noise wins after one step", x="batch size", y="probability", log="x"
    )
    axes[0, 0].legend()
    axes[0, 1].legend()
    return figure


def variances(outcome: Outcome) -> Figure:
    """Measured over exact variance of the gradient's entries, by class, mean over cells."""
    figure, axes = plotting.panels(1, 1, width=6.2, height=2.8)
    ratios = outcome.measured["value_variance"] / outcome.predicted["value_variance"]
    ratios = ratios.mean(["n_tokens", "batch_scale"])
    forward = (outcome.measured["feed_forward_variance"] / outcome.predicted["feed_forward_variance"]).mean(
        ["n_tokens", "batch_scale"]
    )
    entries = [str(name) for name in ratios["entry"].values]
    places = np.arange(len(entries) + 1)
    one = axes[0, 0]
    one.axhline(1, color=plotting.COLOURS["signal"], zorder=2, label="theory")
    plotting.draw_simulation(one, ratios, places[1:], color=plotting.COLOURS["noise"], label="simulation")
    plotting.draw_simulation(one, forward.expand_dims("entry"), places[:1], color=plotting.COLOURS["noise"])
    names = ["feed-forward\nnoise, trigger", *(f"value\n{name.replace('_', ', ')}" for name in entries)]
    one.set_xticks(places, names, fontsize=8)
    plotting.label_axes(one, x="entry (label, token)", y="variance over theory")
    plotting.shared_legend(figure, one)
    return figure
