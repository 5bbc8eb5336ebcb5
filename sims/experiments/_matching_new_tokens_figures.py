"""Figure of `matching_new_tokens`: accuracy over training on seen pairs, unseen pairs and new tokens, beside a guess."""

from __future__ import annotations

import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory.parallel_reasoning import ChainTask, guessing_accuracy

KINDS = {"seen": "seen pairs", "unseen": "unseen pairs", "new tokens": "new tokens"}


def by_arm(outcome: Outcome) -> xr.DataArray:
    """Accuracy with an axis `train_embedding`, also where there is one value only."""
    accuracy = outcome.measured["accuracy"]
    if "train_embedding" in accuracy.dims:
        return accuracy
    return accuracy.expand_dims(train_embedding=[outcome.configs[0].train_embedding])


def learning(outcome: Outcome) -> Figure:
    """A row a number of steps, a column an arm; dashed: the best guess of a reader who is one step short.

    Hollow points: new tokens, answers among new tokens alone.
    """
    accuracy, config = by_arm(outcome), outcome.configs[0]
    arms = [
        (trained, tokens)
        for trained in accuracy["train_embedding"].values
        for tokens in accuracy["n_tokens"].values
    ]
    numbers = [int(one) for one in accuracy["steps"].values]
    figure, axes = plotting.panels(
        len(numbers), len(arms), width=2.7 if len(arms) > 2 else 4.2, height=2.5, sharex=True, sharey=True
    )
    for row, number in enumerate(numbers):
        guess = float(guessing_accuracy(ChainTask(config.n_pairs, number, config.tail), number - 1))
        for column, (trained, tokens) in enumerate(arms):
            one = axes[row, column]
            there = accuracy.sel(train_embedding=trained, n_tokens=tokens, steps=number)
            for colour, (kind, label) in enumerate(KINDS.items()):
                values = there.sel(pairs=kind, among="all tokens")
                plotting.draw_simulation(
                    one, values, there["step"], color=plotting.PALETTE[colour], label=label
                )
            one.plot(
                there["step"],
                there.sel(pairs="new tokens", among="own kind").mean("seed"),
                "o",
                color=plotting.PALETTE[len(KINDS) - 1],
                markerfacecolor="none",
                markersize=5,
                label="new, among themselves",
            )
            one.axhline(guess, color=plotting.COLOURS["limit"], linestyle="--", linewidth=1, label="a guess")
            title = f"{'trained' if trained else 'frozen'}, {int(tokens)} tokens"
            plotting.label_axes(
                one,
                title="" if row else title,
                x="training step" if row == len(numbers) - 1 else "",
                y="" if column else f"accuracy, {number} step{'s' if number > 1 else ''}",
            )
            one.set_ylim(-0.04, 1.04)
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {"learning": learning}
