"""Does the phase diagram say which cut of the spectrum removes the noise, at every size, noise level and time?

Memories are trained and cut as in memory_surgery, at many noise levels; the phase of each reading is decided from measured
probabilities alone, and compared with the diagram that the exact flow draws.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import xarray as xr
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sims import plotting
from sims.contract import Claim, Finding, Scale
from sims.experiments import memory_surgery
from sims.experiments.memory_surgery import Config, without_noise_component
from sims.outcome import Outcome
from sims.statistics import mean_interval
from theory import associative_memory as theory
from theory.problems import AssociativeMemory

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SCALES = {
    "smoke": Scale(
        Config(final_time=200, n_probes=10, width=9),
        {"n_tokens": (2, 8), "noise_level": (0.05, 0.3, 0.7)},
        n_seeds=2,
    ),
    "laptop": Scale(
        Config(final_time=2000, n_probes=24), {"n_tokens": (2, 3, 4, 8), "noise_level": LEVELS}, n_seeds=2
    ),
    "paper": Scale(
        Config(width=256, final_time=30000, n_probes=60),
        {"n_tokens": (2, 3, 4, 8, 64), "noise_level": tuple(round(0.04 * step, 2) for step in range(1, 25))},
        n_seeds=3,
    ),
}
COMPARED = memory_surgery.COMPARED


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """As in memory_surgery; equal seeds share their embeddings with it."""
    return memory_surgery.simulate(runs, device)


def predict(config: Config) -> xr.Dataset:
    """As in memory_surgery, and `phase`, a `theory.Phase` over time, of the exact flow."""
    flow = theory.gradient_flow(config.problem, config.times * config.n_tokens)
    return memory_surgery.predict(config).assign(phase=("time", theory.phases(flow)))


def example(rng: np.random.Generator) -> Config:
    """A random problem, small enough for a check."""
    return dataclasses.replace(memory_surgery.example(rng), noise_level=float(rng.uniform(0.02, 0.95)))


def measured_phases(outcome: Outcome, threshold: float = theory.DEFAULT_THRESHOLD) -> xr.DataArray:
    """`theory.Phase` of every cell, time and seed, from measured predictions alone (dims as `noise` without `cut`).

    The cut that is tried removes the noise component wherever it stands: the top one, or all below the n − 1 largest.
    """
    limit = threshold * outcome.measured["noise_level"]
    on_top = outcome.measured["noise_place"] == 0
    before = outcome.measured["noise"].sel(cut="full", drop=True)
    after, correct = (without_noise_component(outcome, kind) for kind in ("noise", "correct"))
    removed = (before > limit) & (after <= limit) & (correct >= theory.ANSWER)
    phase = xr.where(
        removed, xr.where(on_top, theory.Phase.DROP_TOP, theory.Phase.KEEP_TOP), theory.Phase.NEITHER
    )
    return xr.where(after > before, theory.Phase.RAISES, phase)


def _phases_agree(outcome: Outcome) -> Finding:
    agree = measured_phases(outcome) == outcome.predicted["phase"]
    value, interval = mean_interval(
        np.asarray(agree.mean([str(name) for name in agree.dims if name != "seed"]))
    )
    return Finding(
        value,
        interval,
        1.0,
        "holds" if value >= 0.95 else "fails",
        "share of readings in the predicted phase",
    )


CLAIMS = (
    Claim(
        "A23",
        "ours",
        "The phase diagram says which cut removes the noise, at every size, noise level and time.",
        "At least 95 % of all readings of all cells are in the predicted phase (threshold: a quarter of the noise level).",
        _phases_agree,
    ),
)

PHASE_LOOK = {
    theory.Phase.NEITHER: ("neither", "#f0f0f0"),
    theory.Phase.KEEP_TOP: ("keep the top", "#7fc8a9"),
    theory.Phase.DROP_TOP: ("drop the top", "#7fb2d9"),
    theory.Phase.RAISES: ("removal raises it", "#f2b48c"),
}


def phase_diagram(outcome: Outcome) -> Figure:
    """Which cut removes the noise: theory as areas over time and noise level, measured phases as dots in the same colours."""
    sizes = [*(int(n) for n in outcome.measured["n_tokens"].values), 64]
    columns = 3 if len(sizes) > 3 else len(sizes)
    figure, axes = plotting.panels(
        -(-len(sizes) // columns), columns, width=3.5, height=3.0, sharex=True, sharey=True
    )
    levels, times = np.linspace(0.005, 0.995, 100), np.geomspace(0.3, 3e4, 140)
    colours = ListedColormap([colour for _, colour in PHASE_LOOK.values()])
    measured = measured_phases(outcome).isel(seed=0)
    for one, n in zip(axes.ravel(), sizes, strict=False):
        table = [
            theory.phases(theory.gradient_flow(AssociativeMemory(n, level), times * n)) for level in levels
        ]
        one.pcolormesh(
            times,
            levels,
            np.array(table),
            cmap=colours,
            vmin=-0.5,
            vmax=3.5,
            shading="nearest",
            rasterized=True,
        )
        if n in measured["n_tokens"]:
            cell = measured.sel(n_tokens=n)
            for level in cell["noise_level"].values:
                shown = colours(cell.sel(noise_level=level).values.astype(int))
                one.scatter(
                    cell["time"],
                    np.full(cell.sizes["time"], level),
                    c=shown,
                    edgecolors="black",
                    linewidths=0.7,
                    s=22,
                    zorder=3,
                )
        one.grid(False)
        plotting.label_axes(one, title=f"$n={n}$", log="x")
    for one in axes.ravel()[len(sizes) :]:
        one.set_axis_off()
    for one in axes[:, 0]:
        one.set_ylabel("noise level $\\alpha$")
    for one in axes.ravel()[max(0, len(sizes) - columns) : len(sizes)]:
        one.set_xlabel("flow time over $n$")
        one.tick_params(labelbottom=True)
    patches = [
        Patch(facecolor=colour, edgecolor="#888888", label=label) for label, colour in PHASE_LOOK.values()
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches))
    return figure


FIGURES = {"phase_diagram": phase_diagram}
