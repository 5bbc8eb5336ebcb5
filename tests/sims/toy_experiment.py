"""Does the mean of noisy numbers estimate what they scatter around?

A toy for the tests of the frame. $TOY_LOG: a file that gets a line for each run made; $TOY_KILL: a file whose
presence makes the next run remove it and kill its own process; $TOY_KILL_ALWAYS: every run kills its process.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from sims.contract import Claim, Finding, Scale
from sims.outcome import Outcome
from sims.statistics import mean_interval
from sims.streams import generator


@dataclass(frozen=True)
class Config:
    """`centre`: what is estimated. `noise_level` ≥ 0: deviation of a number. `pause`: seconds a run takes."""

    centre: float = 1.0
    noise_level: float = 0.5
    n_numbers: int = 100
    pause: float = 0.0
    shift: float = 0.0
    label: str = "plain"
    squared: bool = False
    marks: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if not self.noise_level >= 0:
            raise ValueError(f"noise_level is {self.noise_level}; it must be at least 0.")


SCALES = {
    "smoke": Scale(Config(), {"centre": (1.0, 2.0), "n_numbers": (50, 200)}, n_seeds=3),
    "laptop": Scale(Config(n_numbers=1000), {"centre": (1.0, 2.0, 3.0)}, n_seeds=4),
    "paper": Scale(Config(n_numbers=10_000), {"centre": (1.0, 2.0, 3.0)}, n_seeds=20),
}


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """One estimate a run, after each quarter of the numbers."""
    if device != "cpu":
        raise ValueError(f"device is {device!r}; the toy runs on the cpu.")
    return [_one(config, seed) for config, seed in runs]


def _one(config: Config, seed: int) -> xr.Dataset:
    if os.environ.get("TOY_KILL_ALWAYS"):
        os.kill(os.getpid(), signal.SIGKILL)
    trigger = Path(os.environ.get("TOY_KILL", "/nowhere"))
    if trigger.exists():
        trigger.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(config.pause)
    noise = generator("toy", "noise", seed).standard_normal(config.n_numbers)
    numbers = config.centre + config.shift + config.noise_level * noise
    counts = np.array([config.n_numbers // 2, config.n_numbers])
    means = np.array([numbers[:count].mean() for count in counts])
    if log := os.environ.get("TOY_LOG"):
        with Path(log).open("a") as lines:
            lines.write(f"{config.centre} {seed}\n")
    return xr.Dataset(
        {"estimate": ("half", means), "count": ("half", counts), "large": ("half", means > 1.5)},
        {"half": ["first", "all"]},
    )


def predict(config: Config) -> xr.Dataset:
    """The estimate is unbiased."""
    return xr.Dataset({"estimate": ("half", np.full(2, config.centre))}, {"half": ["first", "all"]})


def _unbiased(outcome: Outcome) -> Finding:
    values = (outcome.measured.estimate - outcome.predicted.estimate).mean(["half", "centre"]).values
    value, interval = mean_interval(values.reshape(len(values), -1).mean(axis=1))
    verdict = "holds" if interval[0] <= 0 <= interval[1] else "fails"
    return Finding(value, interval, 0.0, verdict)


CLAIMS = (
    Claim("T1", "ours", "The mean of noisy numbers is unbiased.", "The interval contains 0.", _unbiased),
)
FIGURES: dict = {}
COMPARED = {"estimate": 0.0}


def example(rng: np.random.Generator) -> Config:
    """A random problem."""
    return Config(centre=float(rng.uniform(-2, 2)), noise_level=float(rng.uniform(0.1, 1)), marks=(3, 4))
