"""How far is gradient descent from the flow, and at which step size does it stop converging?

The same memory is trained with larger and larger steps, with and without momentum, up to one flow time. The distance from the
flow is compared with the first-order correction, and the late logits are watched for oscillation beyond the stability limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.contract import Claim, Finding, Scale
from sims.models.associative_memory import build
from sims.outcome import Outcome
from sims.probes import associative_memory as probes
from sims.statistics import mean_interval
from sims.streams import torch_generator
from sims.tasks.associative_memory import full_batch_loss, label_probabilities
from sims.training import Training, check_optimiser, make_optimiser, train
from theory import associative_memory as theory
from theory.problems import AssociativeMemory

NAME = "memory_step_size"
LOGITS = ("diagonal", "noise")


@dataclass(frozen=True)
class Config:
    """One memory trained with one step size.

    - `n_tokens`, `noise_level`: the problem. `flow_step`: flow time of a step over n_tokens, η/(n(1 − momentum)).
    - `momentum`: of the heavy ball. `final_time`: flow time over n_tokens. `extra_width`: dimensions beyond n_tokens + 1.
    - `n_probes`: readings at multiples of final_time/n_probes.
    """

    n_tokens: int = 4
    noise_level: float = 0.4
    flow_step: float = 0.25
    momentum: float = 0.0
    final_time: float = 240.0
    n_probes: int = 24
    extra_width: int = 3

    def __post_init__(self) -> None:
        AssociativeMemory(self.n_tokens, self.noise_level)
        check_optimiser("sgd", self.flow_step, self.momentum)
        if self.extra_width < 0:
            raise ValueError(f"extra_width is {self.extra_width}; it must be at least 0.")
        if self.n_probes < 1:
            raise ValueError(f"n_probes is {self.n_probes}; it must be at least 1.")
        if not self.final_time / self.n_probes >= 2 * self.flow_step:
            raise ValueError(
                f"flow_step is {self.flow_step}; it must be at most half of final_time / n_probes = "
                f"{self.final_time / self.n_probes}, so that there are two steps between readings."
            )

    @property
    def problem(self) -> AssociativeMemory:
        """The problem of this run."""
        return AssociativeMemory(self.n_tokens, self.noise_level)

    @property
    def learning_rate(self) -> float:
        """η = flow_step · n · (1 − momentum)."""
        return self.flow_step * self.n_tokens * (1 - self.momentum)

    @property
    def times(self) -> np.ndarray:
        """Flow time over n_tokens of the readings."""
        return np.arange(1, self.n_probes + 1) * self.final_time / self.n_probes

    @property
    def probe_steps(self) -> np.ndarray:
        """Steps of the readings, int."""
        return np.round(self.times / self.flow_step).astype(int)


SCALES = {
    "smoke": Scale(
        Config(final_time=120, n_probes=6),
        {"flow_step": (0.125, 0.25, 0.5, 3.0, 5.0), "momentum": (0.0,)},
        n_seeds=2,
    ),
    "laptop": Scale(
        Config(), {"flow_step": (0.0625, 0.125, 0.25, 0.5, 1.0, 3.0, 5.0), "momentum": (0.0, 0.5)}, n_seeds=3
    ),
    "paper": Scale(
        Config(final_time=2400, n_probes=48),
        {
            "flow_step": (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0),
            "momentum": (0.0, 0.5, 0.9),
            "noise_level": (0.2, 0.4, 0.5),
        },
        n_seeds=5,
    ),
}
COMPARED = {"diagonal": 1e-3, "noise": 1e-3}
"""Rounding of float32 over the steps: theory's recursion is exact for every step size that does not amplify it."""


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs); logits over `time`, and their change in the step before each reading."""
    config = runs[0][0]
    generators = [torch_generator(NAME, "embeddings", seed) for _, seed in runs]
    model = build(
        config.n_tokens, config.n_tokens + 1 + config.extra_width, "orthonormal", generators, device
    )
    labels = label_probabilities(config.problem, device)
    optimiser = make_optimiser([model.memory], "sgd", config.learning_rate, config.momentum)
    steps = np.sort(np.concatenate([config.probe_steps - 1, config.probe_steps]))
    read = train(
        Training(optimiser, lambda: full_batch_loss(model.logits(), labels)),
        steps,
        lambda: probes.entry_classes(model.logits()),
    )
    lead = read["diagonal"] - read["noise"]
    values = {name: read[name][:, 1::2] for name in LOGITS} | {"jump": np.abs(lead[:, 1::2] - lead[:, 0::2])}
    return [
        xr.Dataset({name: ("time", value[place]) for name, value in values.items()}, {"time": config.times})
        for place in range(len(runs))
    ]


def over_limit(config: Config) -> float:
    """Learning rate over the largest stable one."""
    return config.learning_rate / theory.largest_stable_learning_rate(config.problem, config.momentum)


def predict(config: Config) -> xr.Dataset:
    """`diagonal` and `noise`: exact recursion of gradient descent, NaN beyond the stability limit, where rounding decides the
    phase of the oscillation. `flow_…` and `correction_…`: the flow and its first-order correction at the same times."""
    problem, steps = config.problem, config.probe_steps
    descent = theory.gradient_descent(problem, config.learning_rate, steps, config.momentum)
    flow = theory.gradient_flow(problem, descent.times)
    correction = theory.first_order_correction(problem, config.learning_rate, descent.times, config.momentum)
    values: dict[str, np.ndarray] = {}
    for name in LOGITS:
        values[name] = np.where(over_limit(config) < 0.98, getattr(descent, name), np.nan)
        values[f"flow_{name}"] = getattr(flow, name)
        values[f"correction_{name}"] = getattr(correction, name)
    values["over_limit"] = np.full(len(steps), over_limit(config))
    return xr.Dataset({name: ("time", value) for name, value in values.items()}, {"time": config.times})


def example(rng: np.random.Generator) -> Config:
    """A random problem, small enough for a check."""
    return Config(
        n_tokens=int(rng.integers(1, 10)),
        noise_level=float(rng.uniform(0.01, 0.95)),
        flow_step=float(rng.uniform(0.05, 1.5)),
        momentum=float(rng.choice([0.0, 0.5, 0.9])),
        final_time=30.0,
        n_probes=6,
    )


def _first_reading(outcome: Outcome, step: float) -> tuple[np.ndarray, float]:
    """(measured − flow, by seed, and predicted correction) of the noise logit at the first reading, without momentum."""
    at = {"flow_step": step, "momentum": 0.0}
    line = outcome.predicted.sel(at).isel(time=0)
    gap = outcome.measured["noise"].sel(at).isel(time=0) - line["flow_noise"]
    return np.asarray(gap), float(line["correction_noise"])


def _coefficient(outcome: Outcome) -> Finding:
    step = float(outcome.measured["flow_step"].values.min())
    gap, correction = _first_reading(outcome, step)
    value, interval = mean_interval(gap / correction)
    holds = abs(value - 1) <= 0.1
    return Finding(
        value,
        interval,
        1.0,
        "holds" if holds else "fails",
        f"measured over predicted deviation of g at flow_step {step}",
    )


def _order(outcome: Outcome) -> Finding:
    steps = np.array([step for step in outcome.measured["flow_step"].values if step <= 0.5])
    rest = []
    for step in steps:
        gap, correction = _first_reading(outcome, float(step))
        rest.append(np.abs(gap - correction))
    slopes = [np.polyfit(np.log(steps), np.log(column), 1)[0] for column in np.array(rest).T]
    value, interval = mean_interval(np.array(slopes))
    return Finding(
        value,
        interval,
        2.0,
        "holds" if abs(value - 2) <= 0.3 else "fails",
        "order of what the correction leaves",
    )


def _stability(outcome: Outcome) -> Finding:
    jump = outcome.measured["jump"].isel(time=-1)
    limit = outcome.predicted["over_limit"].isel(time=-1)
    quiet, loud = jump.where(limit < 1), jump.where(limit > 1)
    others = [str(name) for name in jump.dims if name != "seed"]
    if not bool((limit > 1).any()) or not bool((limit < 1).any()):
        return Finding(
            np.nan, (np.nan, np.nan), None, "not_measured", "the grid does not reach both sides of the limit"
        )
    value, interval = mean_interval(np.asarray(loud.min(others)))
    worst_quiet = float(quiet.max())
    holds = interval[0] > 0.1 and worst_quiet < 0.02
    note = f"smallest late jump of L(x,x) - L(noise,x) in a step beyond the limit; largest below it: {worst_quiet:.2g}"
    return Finding(value, interval, None, "holds" if holds else "fails", note)


CLAIMS = (
    Claim(
        "A12",
        "ours",
        "The distance of gradient descent from the flow is linear in the step size, with the predicted coefficient.",
        "At the smallest step the measured deviation of the noise logit is within 10 % of the correction.",
        _coefficient,
    ),
    Claim(
        "A13",
        "ours",
        "What the first-order correction leaves is of second order in the step size.",
        "Fitted order between 1.7 and 2.3 over the steps up to 0.5.",
        _order,
    ),
    Claim(
        "A14",
        "ours",
        "Learning rates above (1 + momentum) n/(α(1 − α)) never settle; those up to three quarters of it do.",
        "Late jumps in a step above 0.1 nats in every cell beyond the limit, below 0.02 nats in every other.",
        _stability,
    ),
)


def deviation(outcome: Outcome) -> Figure:
    """Distance of the noise logit from the flow at the first reading, and late jumps, against the step size."""
    figure, axes = plotting.panels(1, 2, width=4.4, height=3.4)
    left, right = axes[0]
    steps = outcome.measured["flow_step"].values
    for place, momentum in enumerate(float(one) for one in outcome.measured["momentum"].values):
        at = {"momentum": momentum}
        first = outcome.measured.sel(at).isel(time=0)
        line = outcome.predicted.sel(at).isel(time=0)
        colour = plotting.PALETTE[place]
        gap = abs(first["noise"] - line["flow_noise"])
        plotting.draw_theory(
            left, steps, abs(line["correction_noise"]), color=colour, label=f"momentum {momentum:g}"
        )
        plotting.draw_simulation(left, gap, steps, color=colour)
        late = outcome.measured["jump"].sel(at).isel(time=-1)
        plotting.draw_simulation(
            right, late.clip(min=SMALLEST_JUMP), steps, color=colour, label=f"momentum {momentum:g}"
        )
        limit = float(steps[0] / outcome.predicted["over_limit"].sel(at).isel(time=0, flow_step=0))
        if limit < 2 * steps[-1]:
            right.axvline(limit, color=colour, linestyle=":", linewidth=1.2)
    plotting.label_axes(
        left, title="distance from the flow", x="flow step over $n$", y="$|\\Delta g|$ (nats)", log="xy"
    )
    plotting.label_axes(right, title="late jump in one step", x="flow step over $n$", y="nats", log="xy")
    plotting.shared_legend(figure, left)
    return figure


SMALLEST_JUMP = 1e-6
"""Jumps below this, rounding, are drawn at it."""
FIGURES = {"deviation": deviation}
