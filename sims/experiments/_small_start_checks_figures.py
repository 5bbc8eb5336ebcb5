"""Figure of `small_start_checks`: accuracy over training, one panel a way to train."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome
from theory.parallel_reasoning import ChainTask, guessing_accuracy

TITLES = {
    "longer": "longer",
    "slower": "half the learning rate",
    "faster": "twice the learning rate",
    "few sentences": "few sentences",
}


def over_time(outcome: Outcome) -> Figure:
    """Accuracy on unseen pairs over training, one panel a way to train, one colour an exponent.

    Dotted: guesses after no step, and after all steps but the last.
    """
    config, unseen = outcome.configs[0], outcome.measured["accuracy"].sel(pairs="unseen")
    task = ChainTask(config.n_pairs, config.n_steps, config.tail)
    ways = [str(one) for one in unseen["way"].values]
    figure, axes = plotting.panels(1, len(ways), width=3.3, height=2.9, sharey=True)
    for one, way in zip(axes[0], ways, strict=True):
        for reach in (0, config.n_steps - 1):
            level = float(guessing_accuracy(task, reach))
            one.axhline(level, color=plotting.COLOURS["limit"], linestyle=":", linewidth=1, zorder=1)
        for place, exponent in enumerate(unseen["init_exponent"].values):
            values = unseen.sel(way=way, init_exponent=exponent)
            steps = outcome.measured["step"].sel(way=way, init_exponent=exponent).isel(seed=0)
            plotting.draw_simulation(
                one,
                values,
                np.asarray(steps) * (1 + 0.006 * (place - 1)),
                color=plotting.PALETTE[place],
                label=f"$\\gamma={exponent:g}$",
            )
        plotting.label_axes(
            one, title=TITLES[way], x="training step", y="accuracy, unseen pairs" if way == ways[0] else ""
        )
        one.set_ylim(-0.04, 1.04)
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {"over_time": over_time}
