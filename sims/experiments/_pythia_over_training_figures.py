"""Figure of `pythia_over_training`: probabilities of the answers over training."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome

NAMES = {
    "generic_probability": ('" the"', "noise"),
    "answer_probability": ("the answer", "correct"),
    "subject_probability": ("the subject", "other"),
}


def answers(outcome: Outcome) -> Figure:
    """Mean probability of each answer over training, one panel a kind of prompt; bars over seeds, or over prompts of one seed."""
    measured = outcome.measured
    kinds = [str(one) for one in measured["kind"].values]
    figure, axes = plotting.panels(1, len(kinds), width=4.4, height=3.1, sharey=True)
    steps = np.maximum(measured["step"].values, 0.7)
    for one, kind in zip(axes[0], kinds, strict=True):
        for name, (label, colour) in NAMES.items():
            if kind == "fact" and name == "subject_probability":
                continue
            values = measured["value"].sel(kind=kind, reading=name)
            look = {"color": plotting.COLOURS[colour], "label": label}
            if values.sizes["seed"] > 1:
                plotting.draw_simulation(one, values, steps, **look)
            else:
                error = measured["error"].sel(kind=kind, reading=name).isel(seed=0)
                one.errorbar(
                    steps,
                    values.isel(seed=0),
                    yerr=2 * error.values,
                    fmt="o",
                    markersize=3.5,
                    linewidth=1,
                    **look,
                )
        plotting.label_axes(
            one,
            title={"indirect object": "indirect objects", "fact": "facts"}[kind],
            x="training step",
            y="mean probability" if kind == kinds[0] else "",
            log="x",
        )
        one.set_ylim(-0.04, 1.04)
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {"answers": answers}
