"""Where does the noise go when the last block, or both, have no feed-forward, and which surgery on W_o W_v takes it out?

The surgeries of two_layer_truncation, on models trained without the last feed-forward, and with or without the first.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.contract import Claim, Finding, Scale, Verdict
from sims.experiments import two_layer_truncation
from sims.experiments.two_layer_training import LATE, PAPER, SMALL, noise_levels, settings
from sims.experiments.two_layer_truncation import Config
from sims.outcome import Outcome
from sims.roles import Place
from sims.statistics import highest_cell, lowest_cell

VALUE, OUTPUT, PRODUCT = (str(Place(role, 1)) for role in ("value", "attention_output", "value_output"))
LAST = (VALUE, OUTPUT, PRODUCT)
"""The last block's value matrix, attention output, and their product."""
SCALES = {
    "smoke": Scale(
        Config(
            **{**settings(SMALL), "final_step": 600},
            feed_forward_0="none",
            feed_forward_1="none",
            step=600,
            n_evaluation=64,
        ),
        {"feed_forward_0": ("none",)},
        n_seeds=4,
    ),
    "laptop": Scale(
        Config(feed_forward_1="none", final_step=LATE, step=LATE),
        {"noise_level": (0.3, 0.5, 0.7), "feed_forward_0": ("none", "relu")},
        n_seeds=5,
    ),
    "paper": Scale(
        Config(**settings(PAPER), feed_forward_1="none", step=5000, n_evaluation=512),
        {"noise_level": (0.1, 0.3, 0.5, 0.7), "feed_forward_0": ("none", "relu")},
        n_seeds=3,
    ),
}


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """As in two_layer_truncation; equal seeds share their sequences and all weights that they both have at the start."""
    return two_layer_truncation.simulate(runs, device)


def predict(config: Config) -> xr.Dataset:
    """Nothing (NaN), as in two_layer_truncation."""
    return two_layer_truncation.predict(config)


def of_kind(outcome: Outcome, first: str) -> xr.Dataset:
    """Measurements of the models whose first feed-forward is of this kind."""
    values = outcome.measured
    return values.sel(feed_forward_0=first) if "feed_forward_0" in values.dims else values


def _removal(outcome: Outcome) -> Finding:
    values = of_kind(outcome, "none")
    noise = values["removed_noise"].sel(removed="noise", place=list(LAST)) / values["surgery_noise"].sel(
        surgery="none"
    )
    best = (
        noise.mean("seed")
        .max([name for name in noise.dims if name not in ("seed", "place")])
        .idxmin("place")
        .item()
    )
    value, interval = highest_cell(noise.sel(place=best))
    gain = lowest_cell(
        values["removed_target"].sel(removed="noise", place=best)
        - values["surgery_target"].sel(surgery="none")
    )
    holds = interval[1] <= 1 / 3 and gain[1][0] > 0
    return Finding(
        value, interval, None, "holds" if holds else "fails",
        f"noise over the whole model's without one component of {best}, best of three places; the target gains {gain[0]:+.2f}",
    )  # fmt: skip


def _one_component(outcome: Outcome) -> Finding:
    values = of_kind(outcome, "none")
    chosen = {"place": PRODUCT, "removed": "noise"}
    value, interval = lowest_cell(
        values["removed_target"].sel(chosen) - values["surgery_target"].sel(surgery="none")
    )
    left = highest_cell(values["removed_noise"].sel(chosen) / values["surgery_noise"].sel(surgery="none"))
    holds = interval[0] > 0 and left[1][1] < 1
    return Finding(
        value, interval, None, "holds" if holds else "fails",
        f"gain in the target's probability without that component, smallest cell; at most {left[0]:.2f} of the noise stays",
    )  # fmt: skip


def _truncation(outcome: Outcome) -> Finding:
    values = of_kind(outcome, "none")
    gain = values["kept_target"].sel(place=PRODUCT) - values["surgery_target"].sel(surgery="none")
    value, interval = highest_cell(gain)
    verdict: Verdict = "holds" if interval[0] >= 0.1 else "fails" if interval[1] < 0.1 else "not_measured"
    undecided = "undecided, as the interval is on both sides of 0.1: " if verdict == "not_measured" else ""
    return Finding(
        value, interval, None, verdict,
        f"{undecided}gain in the target's probability from keeping the top of the last W_o W_v; best rank and noise level",
    )  # fmt: skip


def _concentrated(outcome: Outcome) -> Finding:
    shares = of_kind(outcome, "none")["noise_share"].sel(place=PRODUCT)
    value, interval = lowest_cell(shares.max("component") / shares.where(shares > 0, 0.0).sum("component"))
    return Finding(
        value, interval, None, "holds" if interval[0] >= 0.5 else "fails",
        "largest share of one component in the noise margin that the last W_o W_v adds, over all positive shares; smallest cell",
    )  # fmt: skip


def _below_the_top(outcome: Outcome) -> Finding:
    shares = of_kind(outcome, "none")["noise_share"].sel(place=PRODUCT)
    place = shares.argmax("component").astype(float)
    value, interval = lowest_cell(place)
    return Finding(
        value, interval, None, "holds" if interval[0] > 0.5 else "fails",
        "place of the noise component of the last W_o W_v among its singular components (0 is the largest); smallest mean",
    )  # fmt: skip


def _first_takes_over(outcome: Outcome) -> Finding:
    if "relu" not in np.atleast_1d(outcome.measured["feed_forward_0"].values):
        return Finding(
            np.nan, (np.nan, np.nan), None, "not_measured", "no model here has a first feed-forward alone"
        )
    noise = of_kind(outcome, "relu")["surgery_noise"]
    value, interval = highest_cell(noise.sel(surgery="no first feed-forward") / noise.sel(surgery="none"))
    return Finding(
        value, interval, None, "holds" if interval[1] <= 1 / 3 else "fails",
        "noise over the whole model's without the first feed-forward, where it is the only one; largest over noise levels",
    )  # fmt: skip


CLAIMS = (
    Claim(
        "C0.5",
        "paper",
        "Without feed-forwards the noise is in one component of the last W_o, W_v or W_o W_v; removing it removes the noise.",
        "At most a third of the noise left at the best of the three places, and the target gains, at every noise level.",
        _removal,
    ),
    Claim(
        "C0.40",
        "paper",
        "Without feed-forwards, truncating the last W_o W_v to its top components makes the model recall.",
        "Target's probability up by at least 0.1 at some rank fraction and noise level.",
        _truncation,
    ),
    Claim(
        "C0.41",
        "paper",
        "In the last W_o W_v of such a model a single component carries most of what this product adds to the noise.",
        "At least half of all positive shares, at every noise level.",
        _concentrated,
    ),
    Claim(
        "C0.42",
        "ours",
        "The component that adds most to the noise there is not the largest one.",
        "Mean place above 0.5 at every noise level.",
        _below_the_top,
    ),
    Claim(
        "C0.44",
        "ours",
        "Removing the noise component of the last W_o W_v takes noise out and lets the target gain.",
        "Noise down and target up at every noise level, both intervals clear of no change.",
        _one_component,
    ),
    Claim(
        "C0.43",
        "ours",
        "When only the first block has a feed-forward, the noise moves there.",
        "At most a third of the noise left without it, at every noise level.",
        _first_takes_over,
    ),
)


def surgery_on_attention(outcome: Outcome) -> Figure:
    """Target and noise against the rank fraction kept, and without the noise component (right), for W_v, W_o and W_o W_v."""
    values = of_kind(outcome, "none")
    if "noise_level" in values.dims:
        levels = list(values["noise_level"].values)
        values = values.sel(noise_level=0.5 if 0.5 in levels else levels[0])
    figure, axes = plotting.panels(1, len(LAST), width=3.2, height=2.9, sharey=True)
    for one, place in zip(axes[0], LAST, strict=True):
        for name, colour in (("target", plotting.PALETTE[0]), ("noise", plotting.PALETTE[1])):
            curve = values[f"kept_{name}"].sel(place=place)
            plotting.draw_simulation(one, curve, curve["rank_fraction"], color=colour, label=name)
            removed = values[f"removed_{name}"].sel(place=place, removed="noise")
            error = 2 * float(removed.std("seed", ddof=1)) / removed.sizes["seed"] ** 0.5
            label = f"{name}, one component removed"
            one.errorbar(1.15, float(removed.mean("seed")), error, fmt="D", color=colour, label=label)
        plotting.label_axes(one, title=place.rpartition(" ")[0].replace("_", " "), x="rank fraction kept")
        one.axvline(1.07, color=plotting.PALETTE[6], linewidth=0.8, linestyle=":")
        one.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes[0, 0].set_ylabel("probability")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def where_the_noise_is(outcome: Outcome) -> Figure:
    """Place of the noise component in the last block of each run, and target and noise with a first feed-forward and without."""
    values = outcome.measured
    figure, axes = plotting.panels(1, 2, width=4.4, height=3.2)
    found = of_kind(outcome, "none")["noise_share"].sel(place=list(LAST)).argmax("component") + 1
    levels = noise_levels(outcome)
    for shift, (colour, place) in enumerate(zip(plotting.PALETTE[2:], LAST, strict=False)):
        chosen = found.sel(place=place)
        across = levels.broadcast_like(chosen).transpose(*chosen.dims) + 0.012 * (shift - 1)
        label = place.rpartition(" ")[0].replace("_", " ")
        axes[0, 0].plot(
            across.values.ravel(), chosen.values.ravel(), "o", color=colour, markersize=4, label=label
        )
    plotting.label_axes(
        axes[0, 0], title="No feed-forwards", x="noise level $\\alpha$", y="place of the noise component"
    )
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].set_xticks(np.unique(levels.values))
    axes[0, 0].legend(fontsize=8, loc="center")
    kinds = [str(one) for one in np.atleast_1d(values["feed_forward_0"].values)]
    rows = [("no feed-forward:\nwhole", "none", "none")] if "none" in kinds else []
    if "relu" in kinds:
        rows += [
            ("first one alone:\nwhole", "relu", "none"),
            ("first one alone:\nremoved", "relu", "no first feed-forward"),
        ]
    for column, (_, kind, cut) in enumerate(rows):
        for shift, (name, colour) in enumerate(zip(("target", "noise"), plotting.PALETTE, strict=False)):
            points = of_kind(outcome, kind)[f"surgery_{name}"].sel(surgery=cut)
            across = (
                column
                + 0.25 * (shift - 0.5)
                + 0.6 * (levels.broadcast_like(points).transpose(*points.dims) - 0.5) / len(rows)
            )
            axes[0, 1].plot(
                across.values.ravel(),
                points.values.ravel(),
                "o",
                color=colour,
                markersize=3.5,
                label=name if column == 0 else None,
            )
    plotting.label_axes(axes[0, 1], title="With a first feed-forward", y="probability")
    axes[0, 1].set_xticks(range(len(rows)), [label for label, *_ in rows])
    axes[0, 1].set_ylim(-0.03, 1.03)
    axes[0, 1].legend(fontsize=8)
    return figure


FIGURES = {"surgery_on_attention": surgery_on_attention, "where_the_noise_is": where_the_noise_is}
