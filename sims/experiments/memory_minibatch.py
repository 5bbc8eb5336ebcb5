"""What do minibatches add to the flow: which logits settle, and with what variance?

A memory with the identity for embeddings is trained on minibatches, long enough for the lead u = L(x,x) − L(noise,x) to forget
its start; then the lead of every key is read at regular intervals, and its variance compared with the stationary one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.contract import Claim, Finding, Scale
from sims.models.associative_memory import build
from sims.outcome import Outcome
from sims.statistics import mean_interval
from sims.streams import torch_generator
from sims.tasks.associative_memory import minibatch_loss, sample
from sims.training import Training, check_optimiser, make_optimiser, train
from theory.associative_memory.descent import stationary_variance
from theory.problems import AssociativeMemory

NAME = "memory_minibatch"


@dataclass(frozen=True)
class Config:
    """One memory trained on minibatches.

    - `n_tokens`, `noise_level`: the problem. `batch_size`: samples a step. `momentum`: of the heavy ball.
    - `flow_step`: flow time of a step, η/(1 − momentum), not divided by n_tokens: the variance is flow_step/batch_size.
    - `burn_in`, `final_time`: flow times over n_tokens at which readings start and end. `n_probes`: readings between them.
    """

    n_tokens: int = 2
    noise_level: float = 0.3
    batch_size: int = 64
    momentum: float = 0.0
    flow_step: float = 0.5
    burn_in: float = 100.0
    final_time: float = 700.0
    n_probes: int = 250

    def __post_init__(self) -> None:
        AssociativeMemory(self.n_tokens, self.noise_level)
        check_optimiser("sgd", self.flow_step, self.momentum)
        stationary_variance(self.problem, self.learning_rate, self.batch_size, self.momentum, exact=True)
        if not 0 < self.burn_in < self.final_time:
            raise ValueError(
                f"burn_in is {self.burn_in}; it must be above 0 and below final_time = {self.final_time}."
            )
        if self.n_probes < 2:
            raise ValueError(f"n_probes is {self.n_probes}; it must be at least 2.")

    @property
    def problem(self) -> AssociativeMemory:
        """The problem of this run."""
        return AssociativeMemory(self.n_tokens, self.noise_level)

    @property
    def learning_rate(self) -> float:
        """η = flow_step (1 − momentum)."""
        return self.flow_step * (1 - self.momentum)

    @property
    def probe_steps(self) -> np.ndarray:
        """Steps after which the leads are read, int."""
        return np.round(
            np.linspace(self.burn_in, self.final_time, self.n_probes) * self.n_tokens / self.flow_step
        ).astype(int)


SCALES = {
    "smoke": Scale(
        Config(burn_in=40, final_time=300, n_probes=60),
        {"n_tokens": (2,), "noise_level": (0.2, 0.5), "momentum": (0.0,)},
        n_seeds=6,
    ),
    "laptop": Scale(
        Config(), {"n_tokens": (2, 6), "noise_level": (0.2, 0.5), "momentum": (0.0, 0.9)}, n_seeds=8
    ),
    "paper": Scale(
        Config(final_time=10000, n_probes=2000, batch_size=256),
        {"n_tokens": (2, 8, 32), "noise_level": (0.1, 0.3, 0.5, 0.7), "momentum": (0.0, 0.5, 0.9)},
        n_seeds=16,
    ),
}
COMPARED = {"lead_variance": 2e-4}
"""Anharmonic correction of the restoring force, of order variance² = (0.5/64)² × some 3."""


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs) on their own samples; variances over readings and keys, mean noise probability."""
    config = runs[0][0]
    draws = [torch_generator(NAME, "samples", seed, device) for _, seed in runs]
    model = build(config.n_tokens, config.n_tokens + 1, "identity", draws, device)
    optimiser = make_optimiser([model.memory], "sgd", config.learning_rate, config.momentum)

    def loss() -> torch.Tensor:
        pairs = [sample(config.problem, config.batch_size, draw) for draw in draws]
        keys, labels = (torch.stack(side) for side in zip(*pairs, strict=True))
        return minibatch_loss(model.logits(), keys, labels)

    def probe() -> dict[str, np.ndarray]:
        logits = model.logits().double()
        return {"lead": (logits.diagonal(dim1=-2, dim2=-1) - logits[:, -1, :]).numpy(force=True)}

    lead = train(Training(optimiser, loss), config.probe_steps, probe)["lead"]
    centre = np.log((1 - config.noise_level) / config.noise_level)
    return [
        xr.Dataset(
            {
                "lead_variance": ((), ((lead[place] - centre) ** 2).mean()),
                "lead_mean": ((), lead[place].mean()),
            }
        )
        for place in range(len(runs))
    ]


def predict(config: Config) -> xr.Dataset:
    """Stationary variance (nats²) with its finite-step factor, the leading one η/(B(1 − momentum)), and the mean lead."""
    variance, leading = (
        stationary_variance(
            config.problem, config.learning_rate, config.batch_size, config.momentum, exact=exact
        )
        for exact in (True, False)
    )
    centre = np.log((1 - config.noise_level) / config.noise_level)
    return xr.Dataset(
        {"lead_variance": ((), variance), "leading_variance": ((), leading), "flow_lead": ((), centre)}
    )


def example(rng: np.random.Generator) -> Config:
    """A random problem, small enough for a check."""
    return Config(
        n_tokens=int(rng.integers(2, 4)),
        noise_level=float(rng.uniform(0.3, 0.7)),
        momentum=float(rng.choice([0.0, 0.5])),
        burn_in=60.0,
        final_time=200.0,
        n_probes=60,
    )


def _ratios(outcome: Outcome, reference: str) -> xr.DataArray:
    return outcome.measured["lead_variance"] / outcome.predicted[reference]


def _variance(outcome: Outcome) -> Finding:
    ratios = _ratios(outcome, "lead_variance")
    cells = [str(name) for name in ratios.dims if name != "seed"]
    value, interval = mean_interval(np.asarray(ratios.mean(cells)))
    if not interval[1] - interval[0] <= 0.1:
        return Finding(
            value, interval, 1.0, "not_measured", "the interval is wider than the effect that it should judge"
        )
    worst = float(abs(ratios.mean("seed") - 1).max())
    holds = abs(value - 1) <= 0.05 and worst <= 0.1
    return Finding(
        value,
        interval,
        1.0,
        "holds" if holds else "fails",
        f"variance over prediction; worst cell off by {worst:.3f}",
    )


def _independent(outcome: Outcome) -> Finding:
    """Variance at the last over that at the first value of n_tokens and of noise_level, by seed; the worse of the two."""
    findings = []
    for field in ("n_tokens", "noise_level"):
        if outcome.measured.sizes.get(field, 1) < 2:
            return Finding(np.nan, (np.nan, np.nan), None, "not_measured", f"the grid has one {field} only")
        last, first = (outcome.measured["lead_variance"].isel({field: place}) for place in (-1, 0))
        line_last, line_first = (outcome.predicted["lead_variance"].isel({field: place}) for place in (-1, 0))
        others = [str(name) for name in last.dims if name != "seed"]
        value, interval = mean_interval(np.asarray(last.mean(others) / first.mean(others)))
        findings.append((value, interval, float(line_last.mean() / line_first.mean()), field))
    value, interval, predicted, field = max(findings, key=lambda one: abs(one[0] - 1))
    note = f"ratio of variances between the ends of {field}, the worse of size and noise level"
    return Finding(value, interval, predicted, "holds" if abs(value - 1) <= 0.1 else "fails", note)


CLAIMS = (
    Claim(
        "A15",
        "ours",
        "The lead of the correct token over the noise settles with variance η/(B(1 − momentum)).",
        "Within 5 % on average and 10 % in every cell, the finite-step factor included.",
        _variance,
    ),
    Claim(
        "A16",
        "ours",
        "That variance depends neither on the number of tokens nor on the noise level.",
        "The variances at the smallest and the largest size, and noise level, differ by at most 10 %.",
        _independent,
    ),
)


def variance(outcome: Outcome) -> Figure:
    """Measured over leading variance in every cell, with the finite-step prediction as a line."""
    figure, axes = plotting.panels(1, 1, width=6.4, height=3.4)
    one = axes[0, 0]
    names = ["n_tokens", "noise_level", "momentum"]
    ratios = _ratios(outcome, "leading_variance").stack(cell=names)
    line = (outcome.predicted["lead_variance"] / outcome.predicted["leading_variance"]).stack(cell=names)
    places = np.arange(ratios.sizes["cell"])
    one.hlines(
        line.values, places - 0.3, places + 0.3, color=plotting.COLOURS["signal"], label="theory", zorder=2
    )
    plotting.draw_simulation(one, ratios, places, color=plotting.COLOURS["noise"], label="simulation")
    labels = [
        f"$n={n}$\n$\\alpha={level:g}$\n$\\mu={momentum:g}$" for n, level, momentum in ratios["cell"].values
    ]
    one.set_xticks(places, labels, fontsize=8.5)
    plotting.label_axes(one, y="variance × batch / flow step")
    one.legend(ncols=2)
    return figure


FIGURES = {"variance": variance}
