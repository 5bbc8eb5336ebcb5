"""How wide must Gaussian embeddings be for the exact flow to hold, and how does it fail when they are narrow?

W (width × width) is trained between random Gaussian embeddings, entries N(0, 1/width). The logits of every key are read, so that
their spread over keys and seeds can be compared with the leading correction in 1/width; so are predictions after surgery on W.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.contract import Claim, Finding, Scale
from sims.interventions.low_rank import Spectrum
from sims.models.associative_memory import build, check_width
from sims.outcome import Outcome
from sims.probes import associative_memory as probes
from sims.statistics import mean_interval
from sims.streams import torch_generator
from sims.tasks.associative_memory import full_batch_loss, label_probabilities
from sims.training import Training, check_optimiser, check_schedule, log_spaced_steps, make_optimiser, train
from theory import associative_memory as theory
from theory.problems import AssociativeMemory

NAME = "memory_embeddings"


@dataclass(frozen=True)
class Config:
    """One memory between Gaussian embeddings.

    - `n_tokens` (at least 2), `noise_level`: the problem. `width`: dimension of the embeddings.
    - `flow_step`: flow time of a step over n_tokens, η/n. `final_time`: flow time over n_tokens. `n_probes`: readings.
    """

    n_tokens: int = 4
    noise_level: float = 0.6
    width: int = 128
    flow_step: float = 0.1
    final_time: float = 50.0
    n_probes: int = 10

    def __post_init__(self) -> None:
        AssociativeMemory(self.n_tokens, self.noise_level)
        if self.n_tokens < 2:
            raise ValueError(
                f"n_tokens is {self.n_tokens}; it must be at least 2, so that embeddings can interfere."
            )
        check_width(self.n_tokens, self.width, "gaussian")
        check_optimiser("sgd", self.flow_step)
        check_schedule(self.flow_step, self.final_time, self.n_probes, fewest_probes=1)

    @property
    def problem(self) -> AssociativeMemory:
        """The problem of this run."""
        return AssociativeMemory(self.n_tokens, self.noise_level)

    @property
    def probe_steps(self) -> np.ndarray:
        """Steps after which the memory is read, int."""
        return log_spaced_steps(self.flow_step, 2.0, self.final_time, self.n_probes)

    @property
    def times(self) -> np.ndarray:
        """Flow time over n_tokens at `probe_steps`."""
        return self.probe_steps * self.flow_step


SCALES = {
    "smoke": Scale(Config(final_time=10.0, n_probes=3), {"width": (8, 4, 128)}, n_seeds=24),
    "laptop": Scale(Config(), {"width": (4, 8, 16, 32, 64, 128, 256)}, n_seeds=60),
    "paper": Scale(
        Config(final_time=200.0),
        {"width": (4, 16, 64, 256, 1024, 4096), "n_tokens": (4, 16, 64)},
        n_seeds=100,
    ),
}
COMPARED = {"noise_mean": 0.05}
"""Second order of the interference, some 3 n/width at the widths of `example`, and of the step."""


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs); logits of each key over `time` and `key`, predictions after surgery over `time`."""
    config = runs[0][0]
    generators = [torch_generator(NAME, "embeddings", seed) for _, seed in runs]
    model = build(config.n_tokens, config.width, "gaussian", generators, device)
    labels = label_probabilities(config.problem, device)
    optimiser = make_optimiser([model.memory], "sgd", config.flow_step * config.n_tokens)

    def probe() -> dict[str, np.ndarray]:
        logits = model.logits()
        cut = probes.predictions(model.logits(Spectrum(model.memory).drop_top(1)))
        full = probes.predictions(logits)
        return {
            "diagonal": logits.diagonal(dim1=-2, dim2=-1).double().numpy(force=True),
            "noise": logits[:, -1, :].double().numpy(force=True),
            "noise_mean": logits[:, -1, :].double().mean(-1).numpy(force=True),
            "full_noise_probability": full["noise"],
            "dropped_noise_probability": cut["noise"],
            "dropped_correct": cut["correct"],
        }

    training = Training(optimiser, lambda: full_batch_loss(model.logits(), labels))
    read = train(training, config.probe_steps, probe)
    coordinates = {"time": config.times}
    return [
        xr.Dataset(
            {
                name: (("key", "time") if value.ndim == 3 else "time", value[place])
                for name, value in read.items()
            },
            coordinates,
        )
        for place in range(len(runs))
    ]


def predict(config: Config) -> xr.Dataset:
    """Theory's side.

    `noise_mean` is the flow's logit, expected to hold at widths of at least 16 n (NaN below); `…_centre` the flow at any width;
    `…_spread` standard deviations to leading order in 1/width; predictions and cuts are those of orthonormal embeddings.
    """
    problem, times = config.problem, config.times * config.n_tokens
    flow = theory.corrected_flow(problem, config.flow_step * config.n_tokens, times)
    spread = theory.logit_spread(problem, config.width, times)
    dropped = theory.probabilities_without_noise(flow)
    values = {
        "noise_mean": flow.noise if config.width >= 16 * config.n_tokens else np.full(len(times), np.nan),
        "noise_centre": flow.noise,
        "diagonal_centre": flow.diagonal,
        "diagonal_spread": spread.diagonal,
        "noise_spread": spread.noise,
        "full_noise_probability": theory.probabilities(flow).noise,
        "dropped_noise_probability": dropped.noise,
        "dropped_correct": dropped.correct,
    }
    return xr.Dataset({name: ("time", value) for name, value in values.items()}, {"time": config.times})


def example(rng: np.random.Generator) -> Config:
    """A random problem, wide enough for the leading order."""
    n = int(rng.integers(2, 5))
    return Config(
        n_tokens=n,
        noise_level=float(rng.uniform(0.1, 0.8)),
        width=int(rng.integers(60, 90)) * n,
        final_time=10.0,
        n_probes=4,
    )


def spreads(outcome: Outcome, name: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Measured spread of a logit over seeds and keys, around the predicted mean (dims width, time), and its standard error.

    The error is that of a root mean square over seeds, each seed's keys being one observation.
    """
    centre = outcome.predicted[f"{name}_centre"]
    squares = ((outcome.measured[name] - centre) ** 2).mean("key")
    count = squares.sizes["seed"]
    spread = squares.mean("seed") ** 0.5
    error = squares.std("seed", ddof=1) / np.sqrt(count) / (2 * spread)
    return spread, error


def _spread(outcome: Outcome) -> Finding:
    wide = outcome.measured["width"].values >= 32 * outcome.configs[0].n_tokens
    if not wide.any():
        return Finding(np.nan, (np.nan, np.nan), None, "not_measured", "no width of at least 32 n")
    ratios, errors = [], []
    for name in ("diagonal", "noise"):
        spread, error = spreads(outcome, name)
        theory_line = outcome.predicted[f"{name}_spread"]
        ratios.append((spread / theory_line).isel(width=wide))
        errors.append((error / theory_line).isel(width=wide))
    value = float(np.mean(ratios))
    half = 2 * float(np.mean(errors))
    holds = abs(value - 1) <= 0.1
    return Finding(
        value,
        (value - half, value + half),
        1.0,
        "holds" if holds else "fails",
        "measured over predicted spread, width >= 32 n",
    )


def _narrow(outcome: Outcome) -> Finding:
    n = outcome.configs[0].n_tokens
    narrow = outcome.measured["width"].values <= 2 * n
    spread, error = (one.isel(width=narrow, time=-1) for one in spreads(outcome, "diagonal"))
    line = outcome.predicted["diagonal_spread"].isel(width=narrow, time=-1)
    ratio = spread / line
    worst = int(np.argmax(abs(ratio.values - 1)))
    value, half = float(ratio[worst]), 2 * float((error / line)[worst])
    if abs(abs(value - 1) - 0.25) <= half:
        return Finding(
            value, (value - half, value + half), 1.0, "not_measured", "the interval does not decide"
        )
    fails = abs(value - 1) > 0.25
    return Finding(
        value,
        (value - half, value + half),
        1.0,
        "holds" if fails else "fails",
        "measured over predicted spread at the worst width <= 2 n",
    )


def _surgery(outcome: Outcome) -> Finding:
    widths = outcome.measured["width"].values
    n = outcome.configs[0].n_tokens
    at = {"width": widths[widths >= 16 * n], "time": outcome.measured["time"].values[-1]}
    if not len(at["width"]):
        return Finding(np.nan, (np.nan, np.nan), None, "not_measured", "no width of at least 16 n")
    gap = outcome.measured["dropped_noise_probability"].sel(at) / outcome.measured[
        "full_noise_probability"
    ].sel(at)
    value, interval = mean_interval(np.asarray(gap.mean("width")))
    line = outcome.predicted.sel(at)
    predicted = float((line["dropped_noise_probability"] / line["full_noise_probability"]).mean())
    if predicted > 0.2:
        return Finding(
            value,
            interval,
            predicted,
            "not_measured",
            "the run is too short for removal even with orthonormal embeddings",
        )
    return Finding(
        value,
        interval,
        predicted,
        "holds" if interval[1] <= 0.25 else "fails",
        "noise probability after over before, width >= 16 n",
    )


CLAIMS = (
    Claim(
        "A17",
        "ours",
        "Gaussian embeddings spread the logits by the leading correction in 1/width as long as width ≫ n.",
        "Measured over predicted spread within 10 % of one for widths of at least 32 n, all times.",
        _spread,
    ),
    Claim(
        "A18",
        "ours",
        "The leading correction fails when n/width is not small.",
        "At some width of at most 2 n the spread is off by more than 25 %, two standard errors included.",
        _narrow,
    ),
    Claim(
        "A19",
        "ours",
        "Removing the top component of W removes the noise between Gaussian embeddings as well.",
        "At widths of at least 16 n the noise probability falls to a quarter or less, n = 4, noise level 0.6.",
        _surgery,
    ),
)


def spread(outcome: Outcome) -> Figure:
    """Spread of two logits against n/width at the last time (left), and predictions after surgery (right)."""
    figure, axes = plotting.panels(1, 2, width=4.4, height=3.5)
    left, right = axes[0]
    widths = outcome.measured["width"].values
    load = outcome.configs[0].n_tokens / widths
    for name, label in (("diagonal", "correct"), ("noise", "noise")):
        measured, error = (one.isel(time=-1) for one in spreads(outcome, name))
        colour = plotting.COLOURS[label]
        plotting.draw_theory(
            left,
            load,
            outcome.predicted[f"{name}_spread"].isel(time=-1),
            color=colour,
            label=f"{label} logit",
        )
        left.errorbar(load, measured, yerr=2 * error, fmt="o", markersize=3.5, linewidth=1, color=colour)
    for name, label, colour in (
        ("full_noise_probability", "full model", plotting.COLOURS["limit"]),
        ("dropped_noise_probability", "top component removed", plotting.COLOURS["noise"]),
    ):
        line = outcome.predicted[name].isel(time=-1)
        plotting.draw_theory(right, load, line, color=colour, label=label)
        plotting.draw_simulation(right, outcome.measured[name].isel(time=-1), load, color=colour)
    plotting.label_axes(
        left,
        title="spread of the logits",
        x="tokens over width, $n/d$",
        y="standard deviation (nats)",
        log="xy",
    )
    plotting.label_axes(
        right, title="probability of the noise", x="tokens over width, $n/d$", y="probability", log="x"
    )
    left.legend()
    right.legend()
    return figure


FIGURES = {"spread": spread}
