"""After one gradient step from samples, is the noise the largest component of a memory?"""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from sims import Claim, Finding, Scale, plotting
from sims.statistics import mean_interval
from sims.streams import torch_generator
from sims.tasks.associative_memory import minibatch_loss, sample
from theory import associative_memory as theory
from theory.problems import AssociativeMemory


@dataclass(frozen=True)
class Config:
    """`n_tokens`, `noise_level`: the problem. `n_samples`: size of the one batch."""

    n_tokens: int = 6
    noise_level: float = 0.3
    n_samples: int = 40_000

    def __post_init__(self) -> None:
        AssociativeMemory(self.n_tokens, self.noise_level)
        if self.n_samples < 1:
            raise ValueError(f"n_samples is {self.n_samples}; it must be at least 1.")


LEVELS = (0.25, 0.35, 0.45, 0.6)
SCALES = {
    "smoke": Scale(Config(), {"noise_level": LEVELS}, n_seeds=5),
    "laptop": Scale(Config(n_samples=400_000), {"noise_level": LEVELS}, n_seeds=10),
    "paper": Scale(Config(n_samples=4_000_000), {"noise_level": LEVELS}, n_seeds=20),
}
COMPARED = {"ratio": 0.02}  # the largest of several noisy singular values is a little too large


def simulate(runs, device):  # noqa: ARG001
    """Singular values of the first gradient, measured: draw a batch, differentiate, decompose."""
    results = []
    for config, seed in runs:
        problem = AssociativeMemory(config.n_tokens, config.noise_level)
        logits = torch.zeros(1, config.n_tokens + 1, config.n_tokens, requires_grad=True)
        keys, labels = sample(problem, config.n_samples, torch_generator("first_step", "samples", seed))
        torch.autograd.backward(minibatch_loss(logits, keys[None], labels[None]))
        left, values, _ = torch.linalg.svd(logits.grad[0])
        noise = int(left[-1, : config.n_tokens].abs().argmax())
        signal = (values.sum() - values[noise]) / (config.n_tokens - 1)
        results.append(xr.Dataset({"ratio": ((), float(values[noise] / signal))}))
    return results


def predict(config):
    """Noise over signal after an infinitesimal step of the flow."""
    problem = AssociativeMemory(config.n_tokens, config.noise_level)
    return xr.Dataset({"ratio": ((), theory.initial_ratio(problem))})


def _on_top(outcome):
    threshold = 1 / np.sqrt(outcome.configs[0].n_tokens + 1)
    above = outcome.measured["noise_level"] > threshold
    right = ((outcome.measured["ratio"] > 1) == above).mean("noise_level")
    value, interval = mean_interval(right.values)
    return Finding(
        value,
        interval,
        1.0,
        "holds" if value == 1 else "fails",
        "share of noise levels in the predicted order",
    )


CLAIMS = (
    Claim(
        "X1",
        "ours",
        "The noise is on top exactly above 1/√(n + 1).",
        "In every run at every noise level.",
        _on_top,
    ),
)


def ratio(outcome):
    """Noise over signal against the noise level; above one the noise is on top."""
    figure, axes = plotting.panels(1, 1, width=4.8, height=3.2)
    levels = outcome.measured["noise_level"]
    plotting.draw_theory(axes[0, 0], levels, outcome.predicted["ratio"], label="theory")
    plotting.draw_simulation(
        axes[0, 0], outcome.measured["ratio"], levels, color=plotting.COLOURS["noise"], label="simulation"
    )
    axes[0, 0].axhline(1, color=plotting.COLOURS["limit"], linestyle=":")
    plotting.label_axes(axes[0, 0], x="noise level $\\alpha$", y="noise over signal")
    axes[0, 0].legend()
    return figure


FIGURES = {"ratio": ratio}
