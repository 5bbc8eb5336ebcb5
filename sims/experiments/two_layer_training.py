"""Which part of the two-layer transformer learns the noise, which learns to recall, and in which order?

The model of the paper (two blocks, frozen random embeddings, no normalisation) is trained on noisy recall. It is read on clean
sequences, whole and without one of its feed-forwards, and on noisy ones for where its attention rests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.contract import Claim, Finding, Scale
from sims.interventions.surgery import without_feed_forward
from sims.models.transformer import Transformer
from sims.outcome import Outcome
from sims.probes import recall_transformer as probes
from sims.recipes.recall_transformer import RecallTransformerRecipe
from sims.statistics import highest_cell, lowest_cell, worst_cell
from sims.streams import torch_generator
from sims.training import log_spaced_steps
from sims.trainings import train_and_keep

NAME = "two_layer_training"
CUTS = ("full", "no last feed-forward", "no first feed-forward")
MARGINS = ("first", "last", "both")


@dataclass(frozen=True)
class Config(RecallTransformerRecipe):
    """One training of the two-layer transformer, with the fields of `sims.recipes.recall_transformer` and these.

    - `n_probes`: readings, spaced evenly in ln(1 + step) from step 1 to the last. `n_evaluation`: fresh sequences a reading.
    - `keep`: steps whose weights are stored, for experiments on trained models.
    """

    n_probes: int = 24
    n_evaluation: int = 128
    keep: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("n_probes", 2), ("n_evaluation", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        for step in self.keep:
            if not 0 <= step <= self.final_step:
                raise ValueError(
                    f"keep has {step}; it must be a step from 0 to final_step = {self.final_step}."
                )

    @property
    def probe_steps(self) -> np.ndarray:
        """Steps after which the model is read, int."""
        return log_spaced_steps(1.0, 1.0, float(self.final_step), self.n_probes)


SMALL = RecallTransformerRecipe(
    context_length=32,
    optimiser="adamw",
    learning_rate=4e-3,
    momentum=0.0,
    weight_decay=0.01,
    schedule="cosine",
    final_step=300,
)
"""A training of a few seconds that shows the effects."""
PAPER = RecallTransformerRecipe(
    width=256, context_length=256, batch_size=512, learning_rate=0.03, final_step=5000
)
"""The setting of the released script."""
EARLY, LATE = 100, 1200
"""Steps whose weights the laptop scale stores: before attention has formed, and at the end."""


def settings(recipe: RecallTransformerRecipe) -> dict[str, Any]:
    """The fields of a recipe that differ from their defaults, for a Config."""
    return {
        name: value for name, value in vars(recipe).items() if value != getattr(RecallTransformerRecipe, name)
    }


SCALES = {
    "smoke": Scale(
        Config(**settings(SMALL), n_probes=8, keep=(30, 300)),
        {"noise_level": (0.5,)},
        n_seeds=4,
    ),
    "laptop": Scale(
        Config(final_step=LATE, keep=(EARLY, LATE)),
        {"noise_level": (0.3, 0.5, 0.7), "feed_forward_1": ("relu", "linear")},
        n_seeds=5,
    ),
    "paper": Scale(
        Config(**settings(PAPER), n_probes=40, n_evaluation=512, keep=(EARLY, 5000)),
        {"noise_level": (0.1, 0.3, 0.5, 0.7), "feed_forward_1": ("relu", "linear")},
        n_seeds=3,
    ),
}


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs), each on its own sequences; variables over `step`, some over more."""
    config, seeds = runs[0][0], [seed for _, seed in runs]
    clean, noisy = (
        probes.evaluation(
            config.problem(level),
            config.n_evaluation,
            [torch_generator(NAME, purpose, seed, device) for seed in seeds],
            device,
        )
        for purpose, level in (("clean", 0.0), ("noisy", config.noise_level))
    )
    read = train_and_keep(
        config.recipe,
        seeds,
        config.probe_steps,
        lambda model: readings(model, config, clean, noisy),
        config.keep,
        device,
    )
    dims = {"cut": ("cut",), "margin": ("feed_forward",), "table": ("predicted", "label")}
    coordinates = {
        "step": config.probe_steps,
        "cut": list(CUTS),
        "feed_forward": list(MARGINS),
        "predicted": ["noise", "other"],
        "label": ["noise", "other"],
    }
    return [
        xr.Dataset(
            {
                name: ((*dims.get(name.partition("_")[0], ()), "step"), values[place])
                for name, values in read.items()
            },
            coordinates,
        )
        for place in range(len(runs))
    ]


def readings(
    model: Transformer, config: Config, clean: probes.Evaluation, noisy: probes.Evaluation
) -> dict[str, np.ndarray]:
    """All that is read off the models, seeds first; names led by "cut", "margin" or "table" have these axes too."""
    problem = config.problem()
    last = model.architecture.n_layers - 1
    cuts = (model, without_feed_forward(model, last), without_feed_forward(model, 0))
    told = [probes.answers(one.logits(clean.contexts, clean.places.at), clean, problem) for one in cuts]
    trace = model.trace(noisy.contexts, noisy.places.at)
    margins = probes.feed_forward_margins(model, problem)
    return {
        **{f"cut_{name}": np.stack([one[name] for one in told], 1) for name in told[0]},
        "loss": probes.answers(trace.logits, noisy, problem)["loss"],
        "table": probes.noise_table(trace.logits, noisy, problem),
        "margin": np.stack([margins[name] for name in MARGINS], 1),
        **probes.attention_shares(trace.attention, noisy, problem),
        **probes.memories(model, problem),
    }


def predict(config: Config) -> xr.Dataset:
    """There is no closed form for the training of two layers; its claims compare it with the best possible answer."""
    steps = config.probe_steps
    return xr.Dataset({"on_target": ("step", np.full(len(steps), np.nan))}, {"step": steps})


def last_reading(outcome: Outcome, name: str, cut: str | None = None) -> xr.DataArray:
    """A variable at the last step, of one cut if it has cuts."""
    values = outcome.measured[name].isel(step=-1)
    return values if cut is None else values.sel(cut=cut)


def crossing(values: xr.DataArray, level: float) -> xr.DataArray:
    """First of the steps read at which a variable has reached the level; infinity when it never does."""
    reached = values >= level
    return xr.where(reached.any("step"), values["step"].isel(step=reached.argmax("step")), np.inf)


def noise_levels(outcome: Outcome) -> xr.DataArray:
    """Noise levels of the training, along the grid when they vary."""
    if "noise_level" in outcome.measured.dims:
        return outcome.measured["noise_level"]
    return xr.DataArray(outcome.configs[0].noise_level)


def or_with_relu(check: Callable[[Outcome], Finding]) -> Callable[[Outcome], Finding]:
    """A check whose verdict is "regime" when it fails over all kinds of the last feed-forward and holds with ReLU alone."""

    def checked(outcome: Outcome) -> Finding:
        everywhere = check(outcome)
        if everywhere.verdict != "fails" or "feed_forward_1" not in outcome.measured.dims:
            return everywhere
        relu = replace(outcome, measured=outcome.measured.sel(feed_forward_1=["relu"]))
        there = check(relu)
        if there.verdict != "holds":
            return everywhere
        note = (
            f"holds with ReLU, there {there.measured:.3g}; not with linear feed-forwards: {everywhere.note}"
        )
        return replace(everywhere, verdict="regime", note=note)

    return checked


def _label_shares(outcome: Outcome) -> Finding:
    levels = noise_levels(outcome)
    noise = last_reading(outcome, "cut_noise", "full") - levels
    value, interval = worst_cell(noise, np.abs)
    target = lowest_cell(last_reading(outcome, "cut_target", "full") / (1 - levels))[0]
    holds = abs(value) <= 0.1 and max(map(abs, interval)) <= 0.2 and target >= 0.75
    return Finding(
        value, interval, 0.0, "holds" if holds else "fails",
        "probability of the noise token minus the noise level, the cell farthest off; "
        f"the target has at least {target:.2f} of 1 − noise level",
    )  # fmt: skip


def _order(outcome: Outcome) -> Finding:
    stored = crossing(outcome.measured["margin"].sel(feed_forward="last", drop=True), 0.0)
    found = crossing(outcome.measured["on_target"], 0.5)
    if not bool(np.isfinite(found).all()):
        return Finding(
            np.nan, (np.nan, np.nan), None, "not_measured", "attention has not found the target in all runs"
        )
    value, interval = lowest_cell(found / stored)
    latest = float(stored.max())
    holds = latest <= 30 and interval[0] >= 4
    return Finding(
        value, interval, None, "holds" if holds else "fails",
        f"step at which attention has half its weight on the target, over that of a positive margin (at the latest {latest:.0f})",
    )  # fmt: skip


def _attention(outcome: Outcome) -> Finding:
    value, interval = lowest_cell(last_reading(outcome, "on_target"))
    noise, noise_interval = highest_cell(last_reading(outcome, "on_noise_shown"))
    share = float(last_reading(outcome, "noise_shown").mean())
    holds = interval[0] >= 0.6 and noise_interval[1] <= 0.15
    return Finding(
        value, interval, None, "holds" if holds else "fails",
        f"attention on the target where it was shown; on noise after a trigger at most {noise:.3f}, "
        f"though noise is {share:.2f} of what follows triggers there",
    )  # fmt: skip


def _gain(outcome: Outcome) -> xr.DataArray:
    """Gain in the target's probability from dropping the last feed-forward, at every step."""
    target = outcome.measured["cut_target"]
    return target.sel(cut="no last feed-forward", drop=True) - target.sel(cut="full", drop=True)


def share_of_two(target: xr.DataArray, noise: xr.DataArray) -> xr.DataArray:
    """The target's part of the probability that the target and the noise token have together."""
    return target / (target + noise)


def _gain_in_time(outcome: Outcome) -> Finding:
    gain = _gain(outcome)
    before = outcome.measured["on_target"] < 0.2
    early, late = highest_cell(gain.where(before).max("step"))[0], lowest_cell(gain.isel(step=-1))
    holds = early <= 0.1 and late[1][0] >= 0.03
    return Finding(
        *late, None, "holds" if holds else "fails",
        f"gain in the target's probability at the end, smallest cell; before attention has 0.2 on the target at most {early:.3f}",
    )  # fmt: skip


def _every_cell(outcome: Outcome) -> Finding:
    target, noise = (outcome.measured[f"cut_{name}"].isel(step=-1) for name in ("target", "noise"))
    left = noise.sel(cut="no last feed-forward") / noise.sel(cut="full")
    value, interval = highest_cell(left)
    lead = lowest_cell(share_of_two(target, noise).sel(cut="no last feed-forward"))
    holds = interval[1] <= 1 / 3 and lead[1][0] >= 0.8
    return Finding(
        value, interval, None, "holds" if holds else "fails",
        "share of the noise that is left without the last feed-forward, largest over cells; "
        f"the target then has at least {lead[0]:.2f} of what both have",
    )  # fmt: skip


def _first_is_no_store(outcome: Outcome) -> Finding:
    noise = outcome.measured["cut_noise"].isel(step=-1)
    value, interval = lowest_cell(noise.sel(cut="no first feed-forward") / noise.sel(cut="full"))
    return Finding(
        value, interval, None, "holds" if interval[0] >= 0.7 else "fails",
        "probability of the noise token without the first feed-forward, over that of the whole model; smallest over cells",
    )  # fmt: skip


CLAIMS = (
    Claim(
        "C0.1",
        "paper",
        "Trained on noisy labels, the whole model gives the noise token the noise level, on clean contexts too.",
        "Within 0.1 of the noise level in every cell, and the target at least 0.75 of the rest.",
        _label_shares,
    ),
    Claim(
        "C0.3",
        "paper",
        "The last feed-forward's margin for the noise is positive within the first tens of steps, well before attention works.",
        "Positive by step 30 in every run, and attention needs at least 4 times as many steps for half its weight.",
        _order,
    ),
    Claim(
        "C0.4",
        "paper",
        "The last attention ends on the target after the trigger and hardly on the noise after it.",
        "Where the target was shown: at least 0.6 on it, at most 0.15 on noise after a trigger, in every cell.",
        _attention,
    ),
    Claim(
        "C0.6",
        "paper",
        "The noise is in the last feed-forward at every noise level, be it linear or ReLU.",
        "Without it at most a third of the noise is left, and the target has 0.8 of what both have, in every cell.",
        _every_cell,
    ),
    Claim(
        "C0.31",
        "paper",
        "Dropping the last feed-forward helps only after attention has formed, and then persists.",
        "Target's probability up by at most 0.1 before attention has 0.2 on the target, by 0.03 or more at the end, everywhere.",
        or_with_relu(_gain_in_time),
    ),
    Claim(
        "C0.32",
        "ours",
        "The first feed-forward is no store of the noise: without it the noise stays.",
        "At least 0.7 of the whole model's probability of the noise token, in every cell.",
        _first_is_no_store,
    ),
)


def _cells(outcome: Outcome) -> list[tuple[str, xr.Dataset]]:
    """Title and measurements of every cell of the grid."""
    names = list(outcome.plan.grid)
    if not names:
        return [("", outcome.measured)]
    stacked = outcome.measured.stack(cell=names)
    titles = []
    for values in stacked["cell"].values:
        given = dict(zip(names, values, strict=True))
        level = f"$\\alpha={given['noise_level']:g}$" if "noise_level" in given else ""
        titles.append(", ".join(part for part in (level, str(given.get("feed_forward_1", ""))) if part))
    return [(title, stacked.isel(cell=place)) for place, title in enumerate(titles)]


def _legend(figure: Figure, axes: Axes) -> None:
    """The legend below all panels, in as many columns as the figure has room for."""
    handles, labels = axes.get_legend_handles_labels()
    room = figure.get_figwidth() / (0.6 + 0.078 * max(map(len, labels)))
    columns = max(1, min(len(labels), int(room)))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=-(-len(labels) // -(-len(labels) // columns))
    )


def _figure(
    outcome: Outcome, curves: list[tuple[str, dict[str, str], str, str]], y: str, with_levels: bool = False
) -> Figure:
    """One panel a cell; curves are (variable, selection, colour, label).

    - `with_levels`: draw the noise level and its complement as dotted lines.
    """
    cells = _cells(outcome)
    columns = len(outcome.plan.grid.get("noise_level", (0,)))
    rows = -(-len(cells) // columns)
    width, height = (3.4, 2.7) if columns > 1 else (6.0, 3.2)
    figure, axes = plotting.panels(rows, columns, width=width, height=height, sharex=True, sharey=True)
    for place, (title, cell) in enumerate(cells):
        one = axes[place % rows, place // rows]
        if with_levels:
            level = outcome.configs[place].noise_level
            for value, colour in ((level, plotting.PALETTE[1]), (1 - level, plotting.PALETTE[0])):
                one.axhline(value, color=colour, linewidth=1, linestyle=":", zorder=1)
        for name, chosen, colour, label in curves:
            values = cell[name].sel(chosen)
            plotting.draw_simulation(one, values, values["step"], color=colour, label=label, markersize=2.5)
        bottom = place % rows == rows - 1
        plotting.label_axes(
            one, title=title, x="step" if bottom else "", y=y if place < rows else "", log="x"
        )
    _legend(figure, axes[0, 0])
    return figure


def answers_over_time(outcome: Outcome) -> Figure:
    """Probabilities of target and noise on clean sequences, whole and without the last feed-forward, one panel a cell.

    Dotted: 1 − noise level and noise level, what a model answers that knows the target.
    """
    return _figure(
        outcome,
        [
            ("cut_target", {"cut": "full"}, plotting.PALETTE[0], "target"),
            ("cut_noise", {"cut": "full"}, plotting.PALETTE[1], "noise"),
            (
                "cut_target",
                {"cut": "no last feed-forward"},
                plotting.PALETTE[5],
                "target, no last feed-forward",
            ),
            (
                "cut_noise",
                {"cut": "no last feed-forward"},
                plotting.PALETTE[4],
                "noise, no last feed-forward",
            ),
        ],
        "probability",
        with_levels=True,
    )


def attention_over_time(outcome: Outcome) -> Figure:
    """Where both attentions rest on noisy sequences, one panel a cell."""
    return _figure(
        outcome,
        [
            ("previous_token", {}, plotting.PALETTE[6], "first block: on the previous token"),
            ("on_target", {}, plotting.PALETTE[2], "last block: on (trigger, target)"),
            ("on_noise_shown", {}, plotting.PALETTE[3], "last block: on (trigger, noise)"),
            ("noise_shown", {}, plotting.PALETTE[4], "share of noise among tokens after triggers"),
        ],
        "attention",
    )


def margins_over_time(outcome: Outcome) -> Figure:
    """Lead of the noise token that each feed-forward gives the trigger's embedding alone, one panel a cell."""
    return _figure(
        outcome,
        [
            ("margin", {"feed_forward": "last"}, plotting.PALETTE[1], "last feed-forward"),
            ("margin", {"feed_forward": "first"}, plotting.PALETTE[0], "first feed-forward"),
            ("margin", {"feed_forward": "both"}, plotting.PALETTE[2], "last, of what the first gives"),
        ],
        "margin (nats)",
    )


def noise_tables(outcome: Outcome) -> Figure:
    """The 2 × 2 table of predicted and labelled noise at the last step, one panel a cell, as shares in percent."""
    cells = _cells(outcome)
    columns = len(outcome.plan.grid.get("noise_level", (0,)))
    rows = -(-len(cells) // columns)
    figure, axes = plotting.panels(rows, columns, width=2.5, height=2.4, sharex=True, sharey=True)
    for place, (title, cell) in enumerate(cells):
        one = axes[place % rows, place // rows]
        table = cell["table"].isel(step=-1).transpose("predicted", "label", "seed")
        mean, spread = 100 * table.mean("seed").values, 100 * table.std("seed").values
        one.imshow(mean, cmap="Blues", vmin=0, vmax=100)
        one.grid(False)
        for row in range(2):
            for column in range(2):
                colour = "white" if mean[row, column] > 50 else "black"
                text = f"{mean[row, column]:.0f} ± {spread[row, column]:.0f}"
                one.text(column, row, text, ha="center", va="center", color=colour)
        one.set_xticks([0, 1], ["noise", "other"])
        one.set_yticks([0, 1], ["noise", "other"])
        one.set_title(title)
        one.set_xlabel("label" if place % rows == rows - 1 else "")
        one.set_ylabel("predicted" if place < rows else "")
    return figure


FIGURES = {
    "answers_over_time": answers_over_time,
    "attention_over_time": attention_over_time,
    "margins_over_time": margins_over_time,
    "noise_tables": noise_tables,
}
