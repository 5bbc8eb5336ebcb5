"""Figures of `matching_map`: the map itself, accuracy over time, and score against accuracy."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory.parallel_reasoning import ChainTask, guessing_accuracy

LEARNT = 0.95


def _whole(outcome: Outcome) -> xr.Dataset:
    """Measurements with all three axes of the map, those that a scale does not vary too."""
    found = outcome.measured
    for name in ("normalisation", "init_exponent", "n_train"):
        if name not in found.dims:
            found = found.expand_dims({name: [getattr(outcome.configs[0], name)]})
    return found


def _size(number: int) -> str:
    return f"{number:g} sentences" if number else "fresh sentences"


def _draw_guesses(axes: Axes, outcome: Outcome) -> None:
    """Dotted lines at what a guess gives after no step, and after all steps but the last."""
    config = outcome.configs[0]
    task = ChainTask(config.n_pairs, config.n_steps, config.tail)
    for reach in (0, config.n_steps - 1):
        level = float(guessing_accuracy(task, reach))
        axes.axhline(level, color=plotting.COLOURS["limit"], linestyle=":", linewidth=1, zorder=1)


def regimes(outcome: Outcome) -> Figure:
    """Accuracy on unseen pairs at the last step, mean over seeds, and in how many of them it reached 95 % and by when."""
    measured = _whole(outcome)
    unseen = measured["accuracy"].sel(pairs="unseen")
    sizes, norms = measured["n_train"].values, measured["normalisation"].values
    figure, axes = plotting.panels(1, len(sizes), width=4.4, height=0.9 + 0.8 * len(norms))
    for one, size in zip(axes[0], sizes, strict=True):
        here = unseen.sel(n_train=size)
        last = here.isel(step=-1).mean("seed").transpose("normalisation", "init_exponent")
        one.imshow(last, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for row, norm in enumerate(norms):
            for column, exponent in enumerate(here["init_exponent"].values):
                cell = here.sel(normalisation=norm, init_exponent=exponent)
                reached = cell >= LEARNT
                learnt = reached.any("step")
                text = f"{float(last[row, column]):.2f}\n{int(learnt.sum())}/{cell.sizes['seed']}"
                if bool(learnt.any()):
                    first = cell["step"].isel(step=reached.argmax("step")).where(learnt)
                    text += f" by {float(first.median('seed')):.0f}"
                dark = float(last[row, column]) < 0.6
                one.text(
                    column,
                    row,
                    text,
                    ha="center",
                    va="center",
                    color="white" if dark else "black",
                    fontsize=8.5,
                )
        one.set_xticks(
            range(last.sizes["init_exponent"]), [f"{value:g}" for value in last["init_exponent"].values]
        )
        one.set_yticks(range(len(norms)), [f"{norm}-LN" for norm in norms])
        one.grid(visible=False)
        plotting.label_axes(one, title=_size(int(size)), x="init exponent $\\gamma$")
    return figure


def over_time(outcome: Outcome) -> Figure:
    """Accuracy on unseen pairs over training, one panel a normalisation and training set, one colour an exponent.

    Dotted: guesses after no step, and after all steps but the last.
    """
    measured = _whole(outcome)
    unseen = measured["accuracy"].sel(pairs="unseen")
    sizes, norms = measured["n_train"].values, measured["normalisation"].values
    figure, axes = plotting.panels(len(norms), len(sizes), width=4.2, height=2.6, sharex=True, sharey=True)
    for row, norm in enumerate(norms):
        for column, size in enumerate(sizes):
            one = axes[row, column]
            _draw_guesses(one, outcome)
            for place, exponent in enumerate(unseen["init_exponent"].values):
                values = unseen.sel(normalisation=norm, n_train=size, init_exponent=exponent)
                shift = 1 + 0.006 * (place - 1.5)
                plotting.draw_simulation(
                    one,
                    values,
                    values["step"] * shift,
                    color=plotting.PALETTE[place],
                    label=f"$\\gamma={exponent:g}$",
                )
            plotting.label_axes(
                one, title=f"{norm}-LN, {_size(int(size))}", x="training step" if row == len(norms) - 1 else "",
                y="accuracy, unseen pairs" if column == 0 else "",
            )  # fmt: skip
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def score_and_accuracy(outcome: Outcome) -> Figure:
    """Matching score at the model's own scale against accuracy on unseen pairs, at three steps; a point is a run.

    Dotted: guesses, as in `over_time`.
    """
    measured = _whole(outcome)
    steps = measured["step"].values
    chosen = sorted({len(steps) // 4, len(steps) // 2, len(steps) - 1})
    figure, axes = plotting.panels(1, len(chosen), width=3.4, height=3.0, sharex=True, sharey=True)
    for one, place in zip(axes[0], chosen, strict=True):
        here = measured.isel(step=place)
        _draw_guesses(one, outcome)
        for colour, norm in zip(plotting.PALETTE, measured["normalisation"].values, strict=False):
            cell = here.sel(normalisation=norm)
            score = cell["score"].mean("matching")
            accuracy = cell["accuracy"].sel(pairs="unseen").transpose(*score.dims)
            one.plot(
                np.ravel(score),
                np.ravel(accuracy),
                "o",
                color=colour,
                markersize=3.5,
                alpha=0.7,
                label=f"{norm}-LN",
            )
        plotting.label_axes(
            one,
            title=f"step {steps[place]}",
            x="matching score",
            y="accuracy, unseen pairs" if place == chosen[0] else "",
        )
        one.set_xlim(-0.04, 1.04)
        one.set_ylim(-0.04, 1.04)
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {"regimes": regimes, "over_time": over_time, "score_and_accuracy": score_and_accuracy}
