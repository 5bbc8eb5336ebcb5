"""Figures of recall_training: its answers, margins and attention over time, with the flow as lines."""

from __future__ import annotations

from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome


def _levels(outcome: Outcome) -> list[float]:
    return [float(one) for one in outcome.measured["noise_level"].values]


def answers_over_time(outcome: Outcome) -> Figure:
    """Probabilities of target and noise over training, whole and without feed-forward, one panel a noise level."""
    levels = _levels(outcome)
    figure, axes = plotting.panels(1, len(levels), width=3.4, height=3.0, sharey=True)
    styles = (
        ("full", "cut_target", plotting.PALETTE[0], "target"),
        ("full", "cut_noise", plotting.PALETTE[1], "noise"),
        ("no feed-forward", "cut_target", plotting.PALETTE[5], "target, no feed-forward"),
        ("no feed-forward", "cut_noise", plotting.PALETTE[4], "noise, no feed-forward"),
    )
    for one, level in zip(axes[0], levels, strict=True):
        for cut, name, colour, label in styles:
            line = outcome.predicted[name].sel(noise_level=level, cut=cut)
            points = outcome.measured[name].sel(noise_level=level, cut=cut)
            plotting.draw_theory(one, line["step"], line, color=colour)
            plotting.draw_simulation(one, points, points["step"], color=colour, label=label)
        plotting.label_axes(one, title=f"$\\alpha={level:g}$", x="step", log="x")
    axes[0, 0].set_ylabel("probability")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def order_of_events(outcome: Outcome) -> Figure:
    """Margins of both matrices for the noise, and attention on target and noise, over training, one column a noise level."""
    levels = _levels(outcome)
    figure, axes = plotting.panels(2, len(levels), width=3.4, height=2.5, sharex=True, sharey="row")
    rows = (
        (
            ("feed_forward_margin", plotting.PALETTE[1], "feed-forward: noise over generic"),
            ("value_noise_margin", plotting.PALETTE[4], "value: noise over generic"),
            ("signal_singular_value", plotting.PALETTE[0], "value: copying"),
        ),
        (
            ("attention_target", plotting.PALETTE[2], "attention on (trigger, target)"),
            ("attention_noise", plotting.PALETTE[3], "attention on (trigger, noise)"),
        ),
    )
    for column, level in enumerate(levels):
        for row, curves in enumerate(rows):
            one = axes[row, column]
            for name, colour, label in curves:
                line = outcome.predicted[name].sel(noise_level=level)
                points = outcome.measured[name].sel(noise_level=level)
                plotting.draw_theory(one, line["step"], line, color=colour)
                plotting.draw_simulation(one, points, points["step"], color=colour, label=label)
            plotting.label_axes(
                one, title="" if row else f"$\\alpha={level:g}$", x="step" if row else "", log="x"
            )
    axes[0, 0].set_ylabel("logit (nats)")
    axes[1, 0].set_ylabel("attention")
    handles = [pair for row in (0, 1) for pair in zip(*axes[row, 0].get_legend_handles_labels(), strict=True)]
    figure.legend(
        [one for one, _ in handles], [name for _, name in handles], loc="outside lower center", ncols=3
    )
    return figure
