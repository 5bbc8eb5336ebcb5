"""Figures of two_layer_training: answers, attention, margins and the noise table of the trained models."""

from __future__ import annotations

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome


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
