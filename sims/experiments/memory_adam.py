"""What changes when Adam trains the memory instead of gradient descent?

Adam's steps are not the gradient, so neither the flow nor its conservation law applies, and no theory line is drawn. The
question is what survives: the order of signal and noise, and the surgery.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.contract import Claim, Finding, Scale
from sims.experiments import memory_surgery
from sims.experiments.memory_surgery import Config
from sims.outcome import Outcome
from sims.statistics import mean_interval

SCALES = {
    "smoke": Scale(
        Config(optimiser="adam", flow_step=0.01, final_time=10, n_probes=8, width=9),
        {"n_tokens": (8,), "noise_level": (0.3, 0.7)},
        n_seeds=5,
    ),
    "laptop": Scale(
        Config(optimiser="adam", flow_step=0.01, final_time=40, n_probes=24),
        {"n_tokens": (2, 4, 8), "noise_level": (0.3, 0.7)},
        n_seeds=6,
    ),
    "paper": Scale(
        Config(optimiser="adam", flow_step=0.003, final_time=60, n_probes=40, width=256),
        {"n_tokens": (2, 4, 8, 64), "noise_level": (0.1, 0.3, 0.6, 0.7)},
        n_seeds=10,
    ),
}


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """As in memory_surgery; equal seeds share their embeddings with it."""
    return memory_surgery.simulate(runs, device)


def predict(config: Config) -> xr.Dataset:
    """Nothing (NaN): no formula here claims to describe Adam."""
    return memory_surgery.predict(config)


def _conservation(outcome: Outcome) -> Finding:
    drift = abs(outcome.measured["column_sum"]).isel(time=-1)
    value, interval = mean_interval(np.asarray(drift.min(["n_tokens", "noise_level"])))
    return Finding(
        value,
        interval,
        None,
        "holds" if interval[0] > 0.1 else "fails",
        "smallest column sum over the cells, in nats, late",
    )


def _surgery(outcome: Outcome) -> Finding:
    n = int(outcome.measured["n_tokens"].values.max())
    levels = outcome.measured["noise_level"]
    left = (outcome.measured["noise"].sel(cut="drop 1", n_tokens=n) / levels).isel(time=-1).max("noise_level")
    value, interval = mean_interval(np.asarray(left))
    return Finding(
        value,
        interval,
        None,
        "holds" if interval[1] <= 0.25 else "fails",
        f"largest noise probability over noise level, n = {n}",
    )


def _order(outcome: Outcome) -> Finding:
    n = int(outcome.measured["n_tokens"].values.max())
    late = outcome.measured.sel(n_tokens=n).isel(time=-1)
    ratio = (late["noise_singular_value"] / late["signal_singular_value"]).min("noise_level")
    value, interval = mean_interval(np.asarray(ratio))
    return Finding(
        value,
        interval,
        None,
        "holds" if interval[0] > 1 else "fails",
        f"smallest late ratio of noise to mean signal singular value, n = {n}",
    )


CLAIMS = (
    Claim(
        "A20",
        "ours",
        "Adam breaks the conservation law of the column sums.",
        "The mean column sum of the logits leaves zero by more than 0.1 nats in every cell.",
        _conservation,
    ),
    Claim(
        "A21",
        "ours",
        "With Adam, too, the noise is the top component of a memory of eight tokens.",
        "Late ratio of the noise singular value to the mean of the others above 1, interval included.",
        _order,
    ),
    Claim(
        "A22",
        "ours",
        "With Adam, too, removing the top component removes the noise of a memory of eight tokens.",
        "Late noise probability at most a quarter of the noise level after dropping one component.",
        _surgery,
    ),
)


def before_and_after(outcome: Outcome) -> Figure:
    """Noise probability over time under Adam, before and after each cut, one panel a size, at the highest noise level."""
    sizes = [int(n) for n in outcome.measured["n_tokens"].values]
    level = float(outcome.measured["noise_level"].values[-1])
    figure, axes = plotting.panels(1, len(sizes), sharey=True)
    for one, n in zip(axes[0], sizes, strict=True):
        for place, cut in enumerate(("full", "keep 1", "drop 1")):
            cell = outcome.measured["noise"].sel(n_tokens=n, noise_level=level, cut=cut)
            plotting.draw_simulation(one, cell, cell["time"], color=plotting.PALETTE[place], label=cut)
        plotting.label_axes(one, title=f"$n={n}$, $\\alpha={level:g}$", x="steps × learning rate", log="x")
    axes[0, 0].set_ylabel("noise probability")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {"before_and_after": before_and_after}
