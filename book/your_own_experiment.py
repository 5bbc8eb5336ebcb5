"""After one gradient step from samples, is the noise the largest component of a memory?"""

from dataclasses import dataclass

import torch
import xarray as xr

from sims import Claim, Finding, Scale, plotting
from sims.statistics import mean_interval
from sims.streams import torch_generator
from sims.tasks.associative_memory import minibatch_loss, sample
from theory.associative_memory import initial_ratio
from theory.problems import AssociativeMemory


@dataclass(frozen=True)
class Config:
    """`n_tokens`, `noise_level`: the problem. `n_samples`: size of the one batch."""

    n_tokens: int = 6
    noise_level: float = 0.3
    n_samples: int = 40_000

    def __post_init__(self):
        self.problem()
        if self.n_samples < 1:
            raise ValueError(f"n_samples is {self.n_samples}; it must be at least 1.")

    def problem(self):
        return AssociativeMemory(self.n_tokens, self.noise_level)


LEVELS = {"noise_level": (0.25, 0.35, 0.45, 0.6)}
SCALES = {
    "smoke": Scale(Config(), LEVELS, n_seeds=5),
    "laptop": Scale(Config(n_samples=400_000), LEVELS, n_seeds=10),
    "paper": Scale(Config(n_samples=4_000_000), LEVELS, n_seeds=20),
}
COMPARED = {"ratio": 0.02}  # bias: the singular values of a sample spread a little


def simulate(runs, device):  # noqa: ARG001 (this one runs on the CPU whatever the device)
    return [measure(config, seed) for config, seed in runs]


def measure(config, seed):
    logits = torch.zeros(1, config.n_tokens + 1, config.n_tokens, requires_grad=True)
    keys, labels = sample(config.problem(), config.n_samples, torch_generator("first_step", "samples", seed))
    torch.autograd.backward(minibatch_loss(logits, keys[None], labels[None]))
    left, values, _ = torch.linalg.svd(logits.grad[0])
    noise = int(left[-1, : config.n_tokens].abs().argmax())
    signal = (values.sum() - values[noise]) / (config.n_tokens - 1)
    return xr.Dataset({"ratio": ((), float(values[noise] / signal))})


def predict(config):
    return xr.Dataset({"ratio": ((), initial_ratio(config.problem()))})


def on_top(outcome):
    above = outcome.measured["noise_level"] > (outcome.configs[0].n_tokens + 1) ** -0.5
    value, interval = mean_interval(((outcome.measured["ratio"] > 1) == above).mean("noise_level").values)
    return Finding(
        value, interval, 1.0, "holds" if value == 1 else "fails", "share of runs in the predicted order"
    )


CLAIMS = (Claim("X1", "ours", "The noise is on top exactly above 1/√(n + 1).", "In every run.", on_top),)


def ratio(outcome):
    figure, [[axes]] = plotting.panels(1, 1, width=4.8, height=3.2)
    levels = outcome.measured["noise_level"]
    plotting.draw_theory(axes, levels, outcome.predicted["ratio"])
    plotting.draw_simulation(axes, outcome.measured["ratio"], levels)
    axes.axhline(1, color=plotting.COLOURS["limit"], linestyle=":")
    plotting.label_axes(axes, x="noise level $\\alpha$", y="noise over signal")
    return figure


FIGURES = {"ratio": ratio}
