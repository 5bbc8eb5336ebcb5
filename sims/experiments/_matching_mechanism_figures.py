"""Figures of `matching_mechanism`: what slots hold, accuracy and edges over training, matching matrices, buffers, cuts.

Runs that solve the task and runs that do not are drawn apart: their mean would describe neither.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sims import plotting
from sims.outcome import Outcome
from theory import matching as theory
from theory import parallel_reasoning as guessing


def _groups(outcome: Outcome) -> dict[str, xr.Dataset]:
    """The runs that solve the task and the others, by what to call them; groups without a run are left out."""
    last = outcome.measured["accuracy"].sel(pairs="unseen").isel(step=-1)
    solved = (last >= outcome.plan.experiment.module.SOLVED).values
    found = {"runs that solve the task": solved, "other runs": ~solved}
    return {
        f"{name} ({which.sum()} of {which.size})": outcome.measured.isel(seed=which)
        for name, which in found.items()
        if which.any()
    }


def flow(outcome: Outcome) -> Figure:
    """By theory, what slots hold after each layer: tokens, each with the word of layers it came by; a colour a buffer."""
    config = outcome.configs[0]
    pairs = [
        *range(1, config.n_pairs, 2),
        *range(0, config.n_pairs, 2),
    ]  # in an order that is not the chain's
    letters = "abcdefghijklmnopqrstuvwxyz"[: config.n_pairs + 1]
    tokens = ["", *(letters[pair + side] for pair in pairs for side in (0, 1)), letters[0]]
    reads = theory.matching_reads(tokens, config.n_layers)
    held = theory.contents([(), *((token,) for token in tokens[1:])], reads)[1:]
    places = [*range(2, len(tokens) - 1, 2), len(tokens) - 1]
    names = [f"{tokens[place - 1]} → {tokens[place]}" for place in places[:-1]] + [f"start: {letters[0]}"]
    figure, axes = plotting.panels(1, 1, width=3.4 * config.n_layers, height=0.62 * (len(places) + 1))
    one, pitch = axes[0, 0], 2**config.n_layers + 1.5
    for layer, contents in enumerate(held):
        for row, place in enumerate(places):
            _chips(one, contents[place], layer * pitch, row)
            source = reads[layer][place] if layer else None
            if source is not None and source in places:
                one.annotate(
                    "",
                    (layer * pitch - 0.15, row),
                    ((layer - 1) * pitch + len(held[layer - 1][source]) + 0.05, places.index(source)),
                    arrowprops={"arrowstyle": "->", "color": "#777777", "linewidth": 0.9},
                )
    one.set_xlim(-0.6, config.n_layers * pitch - 1)
    one.set_ylim(len(places) - 0.4, -0.6)
    starts = [layer * pitch for layer in range(config.n_layers)]
    one.set_xticks(starts, [f"after layer {layer}" for layer in range(config.n_layers)], ha="left")
    one.set_yticks(range(len(names)), names)
    one.tick_params(length=0, labeltop=True, labelbottom=False)
    one.spines[:].set_visible(False)
    one.grid(visible=False)
    return figure


def _chips(axes: Axes, content: theory.Content, left: float, row: int) -> None:
    """The terms of a content side by side: raw in grey, buffer l in the palette's colour l."""
    for place, (word, label) in enumerate(sorted(content, key=lambda term: term.word)):
        colour = plotting.PALETTE[word[0]] if word else "#888888"
        box = Rectangle(
            (left + place, row - 0.33), 0.92, 0.66, facecolor=colour, alpha=0.22, edgecolor=colour
        )
        axes.add_patch(box)
        text = f"${label}_{{{''.join(map(str, word))}}}$" if word else f"${label}$"
        axes.text(left + place + 0.46, row, text, ha="center", va="center", fontsize=10)


def learning(outcome: Outcome) -> Figure:
    """Accuracy beside what guesses get, attention on the edges of matching, matching scores; a row a group of runs."""
    groups, config = _groups(outcome), outcome.configs[0]
    figure, axes = plotting.panels(len(groups), 3, width=3.6, height=2.9, sharex=True, sharey=True)
    task = guessing.ChainTask(config.n_pairs, config.n_steps, config.tail)
    for row, (name, measured) in enumerate(groups.items()):
        accuracy, edge, score = (measured[one] for one in ("accuracy", "edge", "score"))
        panels: dict[str, dict[str, xr.DataArray]] = {
            "accuracy": {
                one if one == "new tokens" else f"{one} pairs": accuracy.sel(pairs=one)
                for one in map(str, accuracy["pairs"].values)
            },
            "attention on edge": {
                f"layer {layer}: " + (f"last to slot of step {layer}" if layer else "right to left token"): (
                    edge.sel(layer=layer)
                )
                for layer in edge["layer"].values
            },
            "matching score": {
                f"layer {layer}": score.sel(matching=layer) for layer in score["matching"].values
            },
        }
        for column, (title, curves) in enumerate(panels.items()):
            one = axes[row, column]
            for colour, (label, values) in enumerate(curves.items(), int(title == "matching score")):
                _draw(one, values, measured["step"], plotting.PALETTE[colour], label, each=row > 0)
            for reach in range(config.n_steps if column == 0 else 0):
                guess = float(guessing.guessing_accuracy(task, reach))
                style = (":", "--")[reach % 2]
                one.axhline(guess, color=plotting.COLOURS["limit"], linestyle=style, linewidth=1)
            plotting.label_axes(
                one,
                title="" if row else title,
                x="training step" if row == len(groups) - 1 else "",
                y="" if column else name,
            )
            one.set_ylim(-0.04, 1.04)
            if row == 0:
                one.legend(loc="center right" if column == 0 else "best", fontsize=8)
    return figure


def _draw(axes: Axes, values: xr.DataArray, x: xr.DataArray, colour: str, label: str, each: bool) -> None:
    """Mean and two standard errors over runs, or each of a few runs as hollow points of its own shape."""
    if not each:
        plotting.draw_simulation(axes, values, x, color=colour, label=label)
        return
    for marker, run in zip("osD^v" * values.sizes["seed"], values.transpose("seed", ...), strict=False):
        axes.plot(x, run, marker, color=colour, markerfacecolor="none", markersize=4, label=label)


def matching_matrices(outcome: Outcome) -> Figure:
    """Matching matrices of some tokens over training, one seed: a row a layer, a column a step."""
    matrices = outcome.measured["matrix"].isel(seed=0)
    places = np.unique(np.linspace(0, matrices.sizes["step"] - 1, 5).round().astype(int))
    layers = matrices["matching"].values
    figure, axes = plotting.panels(len(layers), len(places), width=2.1, height=2.1)
    for row, layer in enumerate(layers):
        for column, place in enumerate(places):
            one = axes[row, column]
            shown = matrices.sel(matching=layer).isel(step=place).transpose("query_token", "key_token")
            one.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1)
            one.set_xticks([])
            one.set_yticks([])
            one.grid(visible=False)
            plotting.label_axes(
                one, title=f"step {int(shown['step'])}" if row == 0 else "",
                x="token in buffer 0" if row == len(layers) - 1 else "", y=f"layer {layer}: query" if column == 0 else "",
            )  # fmt: skip
    return figure


def buffers(outcome: Outcome) -> Figure:
    """Alignment of the kernel between every two buffers, a panel a layer: mean of the runs that solve the task, if any do."""
    table = next(iter(_groups(outcome).values()))["buffers"].mean("seed")
    layers = table["matching"].values
    figure, axes = plotting.panels(1, len(layers), width=3.2, height=3.0)
    for one, layer in zip(axes[0], layers, strict=True):
        here = (
            table.sel(matching=layer).transpose("query_buffer", "key_buffer").values[: layer + 1, : layer + 1]
        )
        one.imshow(here, cmap="RdBu_r", vmin=-0.6, vmax=0.6)
        for (row, column), value in np.ndenumerate(here):
            one.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9)
        names = [str(name) for name in table["query_buffer"].values[: layer + 1]]
        one.set_xticks(range(len(names)), names)
        one.set_yticks(range(len(names)), names)
        one.grid(visible=False)
        needed = 0 if layer == 1 else layer
        one.add_patch(
            Rectangle((0.52, needed - 0.48), 0.96, 0.96, fill=False, edgecolor="black", linewidth=2)
        )
        plotting.label_axes(
            one,
            title=f"layer {layer}",
            x="buffer of the key",
            y="buffer of the query" if layer == layers[0] else "",
        )
    return figure


def cuts(outcome: Outcome) -> Figure:
    """Accuracy on unseen pairs after each cut, one panel a layer: mean of the runs that solve the task, and each other run."""
    values = outcome.measured["cut_accuracy"]
    layers, names = values["matching"].values, [str(name) for name in values["cut"].values]
    figure, axes = plotting.panels(1, len(layers), width=4.2, height=3.2, sharey=True)
    for one, layer in zip(axes[0], layers, strict=True):
        for group, (label, measured) in enumerate(_groups(outcome).items()):
            here, rows = measured["cut_accuracy"].sel(matching=layer), np.arange(len(names)) + 0.25 * group
            if group:
                for marker, run in zip("osD^v" * here.sizes["seed"], here, strict=False):
                    one.plot(
                        run, rows, marker, color=plotting.PALETTE[1], markerfacecolor="none", label=label
                    )
                continue
            count = here.sizes["seed"]
            error = 2 * here.std("seed", ddof=1) / np.sqrt(count) if count > 1 else xr.zeros_like(here[0])
            one.errorbar(here.mean("seed"), rows, xerr=error, fmt="o", markersize=5, label=label)
        one.set_yticks(range(len(names)), names)
        one.set_xlim(-0.04, 1.04)
        plotting.label_axes(one, title=f"layer {layer}", x="accuracy on unseen pairs")
    axes[0, 0].invert_yaxis()
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {
    "flow": flow,
    "learning": learning,
    "matching_matrices": matching_matrices,
    "buffers": buffers,
    "cuts": cuts,
}
