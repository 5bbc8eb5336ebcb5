"""Where does the noise go when there is no feed-forward matrix to hold it, and which surgery takes it out?

The training of recall_training with the feed-forward matrix frozen at zero: the value matrix has to answer for the noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.contract import Claim, Finding, Scale
from sims.experiments import recall_training
from sims.experiments.recall_training import Config, last_reading
from sims.outcome import Outcome
from sims.statistics import highest_cell, lowest_cell

SCALES = {
    "smoke": Scale(
        Config(feed_forward_rate=0.0, final_step=400, n_probes=10, batch_size=128, n_evaluation=512),
        {"noise_level": (0.3,)},
        n_seeds=8,
    ),
    "laptop": Scale(Config(feed_forward_rate=0.0), {"noise_level": (0.3, 0.45, 0.6)}, n_seeds=6),
    "paper": Scale(
        Config(
            n_tokens=64,
            context_length=1024,
            feed_forward_rate=0.0,
            batch_size=2048,
            final_step=20000,
            n_probes=60,
        ),
        {"noise_level": (0.1, 0.3, 0.5, 0.7)},
        n_seeds=5,
    ),
}
COMPARED = {"target": 0.03, "noise": 0.03, "attention_target": 0.04, "signal_singular_value": 0.15}
"""As in recall_training; copying strength moves by some 0.05 a step on its steep rise."""


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """As in recall_training; equal seeds share their sequences with it."""
    return recall_training.simulate(runs, device)


def predict(config: Config) -> xr.Dataset:
    """As in recall_training."""
    return recall_training.predict(config)


def example(rng: np.random.Generator) -> Config:
    """A random problem, small enough for a check."""
    return replace(recall_training.example(rng), feed_forward_rate=0.0)


def _top(outcome: Outcome) -> Finding:
    ratio = last_reading(outcome, "noise_singular_value") / last_reading(outcome, "signal_singular_value")
    value, interval = lowest_cell(ratio)
    places = float(last_reading(outcome, "noise_place").max())
    late = outcome.predicted.isel(step=-1)
    line = float((late["noise_singular_value"] / late["signal_singular_value"]).min())
    holds = interval[0] > 1 and places == 0
    return Finding(
        value, interval, line, "holds" if holds else "fails",
        f"noise over mean copying singular value, smallest over cells; worst rank of the noise component {places:g}",
    )  # fmt: skip


def _removal(outcome: Outcome) -> Finding:
    share = last_reading(outcome, "cut_noise", "drop noise") / outcome.measured["noise_level"]
    value, interval = highest_cell(share)
    target = lowest_cell(last_reading(outcome, "cut_target", "drop noise"))[1][0]
    line = (
        outcome.predicted["cut_noise"].sel(cut="drop noise").isel(step=-1) / outcome.measured["noise_level"]
    )
    holds = interval[1] <= 0.25 and target >= 0.75
    return Finding(
        value, interval, float(line.max()), "holds" if holds else "fails",
        f"noise probability over noise level without that component; target at least {target:.3f}",
    )  # fmt: skip


def _truncation(outcome: Outcome) -> Finding:
    share = last_reading(outcome, "cut_noise", "keep best") / outcome.measured["noise_level"]
    value, interval = lowest_cell(share)
    return Finding(
        value, interval, None, "holds" if interval[0] >= 0.75 else "fails",
        "noise probability over noise level after the truncation that answers best, smallest over cells",
    )  # fmt: skip


CLAIMS = (
    Claim(
        "C0.28",
        "ours",
        "Without a feed-forward matrix the noise is the largest singular component of the value matrix (compare C0.5).",
        "Its singular value is above the mean of the copying ones, interval included, and ranks first in every run.",
        _top,
    ),
    Claim(
        "C0.29",
        "ours",
        "Removing that one component removes the noise and leaves recall.",
        "Noise at most a quarter of the noise level, target at least 0.75, in every cell.",
        _removal,
    ),
    Claim(
        "C0.30",
        "ours",
        "Truncation, which keeps the largest components, does not remove it at any rank.",
        "The best truncation leaves at least three quarters of the noise level, in every cell.",
        _truncation,
    ),
)


def surgery_over_time(outcome: Outcome) -> Figure:
    """Probability of the noise and of the target over training, whole and after three cuts of the value matrix."""
    levels = [float(one) for one in outcome.measured["noise_level"].values]
    figure, axes = plotting.panels(2, len(levels), width=3.4, height=2.4, sharex=True, sharey="row")
    for column, level in enumerate(levels):
        for row, name in enumerate(("cut_noise", "cut_target")):
            one = axes[row, column]
            for colour, cut in zip(
                ("#555555", *plotting.PALETTE), ("full", "drop noise", "keep best"), strict=False
            ):
                line = outcome.predicted[name].sel(noise_level=level, cut=cut)
                points = outcome.measured[name].sel(noise_level=level, cut=cut)
                plotting.draw_theory(one, line["step"], line, color=colour)
                size = {"markersize": 7, "markerfacecolor": "none"} if cut == "full" else {"markersize": 3.5}
                plotting.draw_simulation(one, points, points["step"], color=colour, label=cut, **size)
            plotting.label_axes(
                one, title="" if row else f"$\\alpha={level:g}$", x="step" if row else "", log="x"
            )
    axes[0, 0].set_ylabel("noise probability")
    axes[1, 0].set_ylabel("target probability")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def spectrum_over_time(outcome: Outcome) -> Figure:
    """Singular values of the noise component and of the copying part over training, with the late ratio of the memory."""
    levels = [float(one) for one in outcome.measured["noise_level"].values]
    figure, axes = plotting.panels(1, len(levels), width=3.4, height=2.8, sharey=True)
    for one, level in zip(axes[0], levels, strict=True):
        for name, colour, label in (
            ("noise_singular_value", plotting.COLOURS["noise"], "noise component"),
            ("signal_singular_value", plotting.COLOURS["signal"], "copying"),
        ):
            line = outcome.predicted[name].sel(noise_level=level)
            points = outcome.measured[name].sel(noise_level=level)
            plotting.draw_theory(one, line["step"], line, color=colour)
            plotting.draw_simulation(one, points, points["step"], color=colour, label=label)
        plotting.label_axes(one, title=f"$\\alpha={level:g}$", x="step", log="x")
    axes[0, 0].set_ylabel("singular value")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {"surgery_over_time": surgery_over_time, "spectrum_over_time": spectrum_over_time}
