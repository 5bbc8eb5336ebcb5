"""Control: does dropping the last feed-forward help a model that was trained without label noise?

The surgeries of two_layer_truncation, on models trained on clean labels. Their learning rate is lower: at that of the noisy
models some of them diverge.
"""

from __future__ import annotations

import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.contract import Claim, Finding, Scale
from sims.experiments import two_layer_truncation
from sims.experiments.two_layer_training import LATE, PAPER, SMALL, settings
from sims.experiments.two_layer_truncation import Config
from sims.outcome import Outcome
from sims.statistics import highest_cell

SCALES = {
    "smoke": Scale(
        Config(**{**settings(SMALL), "final_step": 200}, noise_level=0.0, step=200, n_evaluation=64),
        {"noise_level": (0.0,)},
        n_seeds=4,
    ),
    "laptop": Scale(
        Config(noise_level=0.0, learning_rate=0.02, final_step=LATE, step=LATE),
        {"feed_forward_1": ("relu", "linear")},
        n_seeds=5,
    ),
    "paper": Scale(
        Config(**{**settings(PAPER), "learning_rate": 0.01}, noise_level=0.0, step=5000, n_evaluation=512),
        {"feed_forward_1": ("relu", "linear")},
        n_seeds=3,
    ),
}


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """As in two_layer_truncation; equal seeds share all weights at the start."""
    return two_layer_truncation.simulate(runs, device)


def predict(config: Config) -> xr.Dataset:
    """Nothing (NaN), as in two_layer_truncation."""
    return two_layer_truncation.predict(config)


def _nothing_to_gain(outcome: Outcome) -> Finding:
    target = outcome.measured["surgery_target"]
    value, interval = highest_cell(target.sel(surgery="no last feed-forward") - target.sel(surgery="none"))
    whole = float(target.sel(surgery="none").mean("seed").min())
    return Finding(
        value, interval, None, "holds" if interval[1] <= 0.05 else "fails",
        "change of the target's probability without the last feed-forward, largest over cells; "
        f"the whole models give it at least {whole:.2f}",
    )  # fmt: skip


CLAIMS = (
    Claim(
        "C0.33",
        "ours",
        "Control: a model trained without label noise gains nothing from dropping its last feed-forward.",
        "Target's probability up by at most 0.05.",
        _nothing_to_gain,
    ),
)


def without_noise(outcome: Outcome) -> Figure:
    """Probability of the target after each surgery, on models trained on clean labels, one colour a last feed-forward."""
    values = outcome.measured["surgery_target"]
    kinds = (
        values["feed_forward_1"].values
        if "feed_forward_1" in values.dims
        else [outcome.configs[0].feed_forward_1]
    )
    names = [str(one) for one in values["surgery"].values]
    figure, axes = plotting.panels(1, 1, width=6.0, height=2.9)
    one = axes[0, 0]
    for place, kind in enumerate(kinds):
        told = values.sel(feed_forward_1=kind) if "feed_forward_1" in values.dims else values
        mean, count = told.squeeze(drop=True).mean("seed"), told.sizes["seed"]
        error = 2 * told.squeeze(drop=True).std("seed", ddof=1) / count**0.5
        heights = [-row - 0.2 * place for row in range(len(names))]
        one.errorbar(
            mean,
            heights,
            xerr=error,
            fmt="o",
            color=plotting.PALETTE[place],
            label=f"last feed-forward: {kind}",
        )
    one.set_yticks([-row for row in range(len(names))], names)
    plotting.label_axes(one, x="probability of the target", y="surgery")
    one.legend()
    return figure


FIGURES = {"without_noise": without_noise}
