"""Is it only short training, a rate not its own or many sentences that keeps a small start from helping?

The map of `matching_map` contradicts the paper: with post-LN, decoders that start small end no better than others. Here they are
trained longer, at half and at twice the learning rate, and on few sentences; and one start is larger than any of the map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr

from sims.contract import Claim, Finding, Scale, Verdict
from sims.experiments import matching_map
from sims.experiments._small_start_checks_figures import FIGURES as FIGURES
from sims.experiments.matching_map import SMALL, WANG
from sims.models.decoder import Decoder
from sims.outcome import Outcome
from sims.probes import matching as probes
from sims.recipes.matching import MatchingRecipe
from sims.statistics import mean_interval
from sims.streams import torch_generator
from sims.trainings import train_and_keep

NAME = "small_start_checks"
QUESTIONS = ("seen", "unseen")
Way = Literal["longer", "slower", "faster", "few sentences"]
"""How the training differs from the map's: two and a half times as many steps, half or twice the rate, 4000 sentences."""
LONGER = 2.5
FEW = 4000


@dataclass(frozen=True)
class Config(matching_map.Config):
    """One training, with the fields of `sims.experiments.matching_map` and this one.

    - `way`: how it differs from what the other fields say; see `Way`. n_probes readings are spread over the training as it is.
    """

    way: Way = "longer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_train:
            raise ValueError(
                f"n_train is {self.n_train}; it must be 0, as way says how many sentences there are."
            )
        if self.setting.final_step % self.n_probes:
            raise ValueError(
                f"n_probes is {self.n_probes}; it must divide {self.setting.final_step} steps too."
            )

    @property
    def setting(self) -> MatchingRecipe:
        """The training itself."""
        changed: dict[str, dict[str, Any]] = {
            "longer": {"final_step": int(LONGER * self.final_step)},
            "slower": {"learning_rate": self.learning_rate / 2},
            "faster": {"learning_rate": 2 * self.learning_rate},
            "few sentences": {"n_train": FEW},
        }
        return replace(self.recipe, **changed[self.way])

    @property
    def probe_steps(self) -> np.ndarray:
        """Steps after which the model is read, int."""
        return np.arange(1, self.n_probes + 1) * (self.setting.final_step // self.n_probes)


SCALES = {
    "smoke": Scale(
        Config(**{**SMALL, "final_step": 120}, n_probes=4, n_evaluation=300),
        {"way": ("slower", "few sentences"), "init_exponent": (0.8,)},
        n_seeds=2,
    ),
    "laptop": Scale(
        Config(final_step=1000),
        {"way": ("longer", "few sentences"), "init_exponent": (0.3, 0.5, 0.8)},
        n_seeds=5,
    ),
    "paper": Scale(
        Config(
            n_pairs=6, n_tokens=81, n_unseen_tokens=100, width=400, feed_forward_width=1200, batch_size=1000,
            learning_rate=2.5e-4, schedule="cosine", warmup_steps=1000, final_step=20_000, n_probes=40,
        ),
        {"way": get_args(Way), "init_exponent": (0.3, 0.5, 0.8)},
        n_seeds=3,
    ),
}  # fmt: skip


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs); variables over `reading`: `step`, and `accuracy` over `pairs` (seen, unseen)."""
    config, seeds = runs[0][0], [seed for _, seed in runs]
    problems = {"seen": config.problem, "unseen": config.problem.unseen_pairs}
    asked = {
        name: probes.ask(
            one, config.n_evaluation, [torch_generator(NAME, name, seed, device) for seed in seeds]
        )
        for name, one in problems.items()
    }

    def read(model: Decoder) -> dict[str, np.ndarray]:
        right = [probes.correct(model, asked[name]).double().mean(-1) for name in QUESTIONS]
        return {"accuracy": torch.stack(right, 1).numpy(force=True)}

    found = train_and_keep(config.setting, seeds, config.probe_steps, read, device=device)
    return [
        xr.Dataset(
            {
                "accuracy": (("pairs", "reading"), found["accuracy"][place]),
                "step": ("reading", config.probe_steps.astype(float)),
            },
            {"pairs": list(QUESTIONS), "reading": np.arange(1, config.n_probes + 1)},
        )
        for place in range(len(runs))
    ]


def predict(config: Config) -> xr.Dataset:
    """No theory here says how long the training of a whole decoder takes."""
    readings = np.arange(1, config.n_probes + 1)
    return xr.Dataset({"step": ("reading", np.full(len(readings), np.nan))}, {"reading": readings})


def _ends(outcome: Outcome, way: str) -> xr.DataArray:
    """Accuracy on unseen pairs at the last reading."""
    return outcome.measured["accuracy"].sel(pairs="unseen", way=way, drop=True).isel(reading=-1)


def _at_best_rate(outcome: Outcome) -> xr.DataArray:
    """The same at the map's last step, each size of the start at the rate that serves it best, by its mean over seeds.

    The longer training passes through the map's at its own rate: constant rates make the first steps alike.
    """
    accuracy = outcome.measured["accuracy"].sel(pairs="unseen", drop=True)
    step = outcome.measured["step"].isel(seed=0, init_exponent=0, drop=True)
    last = float(step.sel(way="slower").isel(reading=-1))
    place = int(np.abs(step.sel(way="longer").values - last).argmin())
    cells = [accuracy.sel(way="longer", drop=True).isel(reading=place)]
    cells += [_ends(outcome, way) for way in ("slower", "faster")]
    rates = xr.concat([one.drop_vars("reading", errors="ignore") for one in cells], dim="rate")
    return rates.isel(rate=rates.mean("seed").argmax("rate"))


def gain(
    small: float, large: float, effect: float, *ways: str, own_rate: bool = False
) -> Callable[[Outcome], Finding]:
    """A check that a start of one exponent ends above that of another in each of some ways; "regime" when in some."""

    def check(outcome: Outcome) -> Finding:
        exponents, known = (outcome.plan.grid.get(name, ()) for name in ("init_exponent", "way"))
        missing = [f"γ = {one:g}" for one in (small, large) if one not in exponents]
        missing += [one for one in (*ways, *(("slower", "faster") if own_rate else ())) if one not in known]
        if missing:
            note = f"this scale has no {', '.join(missing)}"
            return Finding(np.nan, (np.nan, np.nan), None, "not_measured", note)
        ends = (
            {"own rate": _at_best_rate(outcome)} if own_rate else {way: _ends(outcome, way) for way in ways}
        )
        cells = {
            way: mean_interval((one.sel(init_exponent=small) - one.sel(init_exponent=large)).values)
            for way, one in ends.items()
        }
        worst = min(cells, key=lambda way: cells[way][0])
        value, interval = cells[worst]
        clear = [one[1][0] >= effect for one in cells.values()]
        verdict: Verdict = "holds" if all(clear) else "regime" if any(clear) else "fails"
        told = ", ".join(
            f"{way}: {mean:+.2f} [{low:+.2f}, {high:+.2f}]" for way, (mean, (low, high)) in cells.items()
        )
        return Finding(
            value, interval, None, verdict, f"accuracy on unseen pairs, γ = {small:g} minus {large:g}: {told}"
        )

    return check


CLAIMS = (
    Claim(
        "W2.12",
        WANG,
        "A small start favours matching when training is long.",
        "Post-LN, fresh sentences, 2.5 times the map's steps: accuracy on unseen pairs higher by 0.05 at γ = 0.8 than at 0.5.",
        gain(0.8, 0.5, 0.05, "longer"),
    ),
    Claim(
        "W2.13",
        WANG,
        "A small start favours matching when each size of the start has a learning rate of its own.",
        "At the map's last step, each at the best of three rates: accuracy on unseen pairs higher by 0.05 at γ = 0.8 than 0.5.",
        gain(0.8, 0.5, 0.05, "longer", own_rate=True),
    ),
    Claim(
        "W2.14",
        WANG,
        "A small start favours matching when there are few sentences, which a larger start would memorise.",
        "4000 sentences: accuracy on unseen pairs higher by 0.05 at γ = 0.8 than at 0.5.",
        gain(0.8, 0.5, 0.05, "few sentences"),
    ),
    Claim(
        "W2.15",
        WANG,
        "A start larger than the usual one hinders matching.",
        "Accuracy on unseen pairs higher by 0.05 at γ = 0.5 than at 0.3, in a longer training and on few sentences.",
        gain(0.5, 0.3, 0.05, "longer", "few sentences"),
    ),
)
