"""When does a transformer learn to match: which normalisation, which size of the start, how many sentences?

Decoders of three layers are trained on two-step chains of seen pairs, and asked chains of pairs that they never saw. How soon
they answer is censored at the last step. Beside it stands how well their buffers match, at the scale of their own softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import stats

from sims.contract import Claim, Finding, Scale, Verdict
from sims.experiments._matching_map_figures import FIGURES as FIGURES
from sims.models.decoder import Decoder
from sims.outcome import Outcome
from sims.probes import matching as probes
from sims.recipes.matching import MatchingRecipe
from sims.statistics import highest_cell, lowest_cell, mean_interval
from sims.streams import torch_generator
from sims.trainings import train_and_keep

NAME = "matching_map"
WANG = "Wang et al., arXiv 2405.15302"
QUESTIONS = ("seen", "unseen")
LEARNT = 0.95
"""Accuracy on unseen pairs from which on a model counts as having learnt to match."""


@dataclass(frozen=True)
class Config(MatchingRecipe):
    """One training, with the fields of `sims.recipes.matching` and these.

    - `n_probes`: readings, at equal distances, the last one at the last step. `n_evaluation`: sentences of each kind a reading.
    """

    n_probes: int = 10
    n_evaluation: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_probes", "n_evaluation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.final_step % self.n_probes:
            raise ValueError(f"n_probes is {self.n_probes}; it must divide final_step = {self.final_step}.")

    @property
    def probe_steps(self) -> np.ndarray:
        """Steps after which the model is read, int."""
        return np.arange(1, self.n_probes + 1) * (self.final_step // self.n_probes)


SMALL: dict[str, Any] = {
    "n_steps": 1,
    "n_layers": 2,
    "n_pairs": 3,
    "n_tokens": 40,
    "n_unseen_tokens": 10,
    "first_token": 0,
    "width": 32,
    "attention_width": 32,
    "feed_forward_width": 64,
    "batch_size": 128,
    "learning_rate": 5e-3,
    "init_exponent": 0.8,
    "final_step": 300,
}
"""One step in two layers, learnt within three seconds."""
SCALES = {
    "smoke": Scale(
        Config(**SMALL, n_probes=3, n_evaluation=300),
        {"init_exponent": (0.8,), "n_train": (0,)},
        n_seeds=2,
    ),
    "laptop": Scale(
        Config(final_step=1000),
        {
            "normalisation": ("post", "pre"),
            "init_exponent": (0.5, 0.8, 1.0),
            "n_train": (16_000, 0),
        },
        n_seeds=5,
    ),
    "paper": Scale(
        Config(
            n_pairs=6, n_tokens=81, n_unseen_tokens=100, width=400, feed_forward_width=1200, batch_size=1000,
            learning_rate=2.5e-4, schedule="cosine", warmup_steps=1000, final_step=20_000, n_probes=40,
        ),
        {
            "normalisation": ("post", "pre"),
            "init_exponent": (0.3, 0.5, 0.6, 0.7, 0.8, 1.0),
            "n_train": (200_000, 0),
        },
        n_seeds=3,
    ),
}  # fmt: skip


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs); variables over `step`.

    `accuracy` over `pairs` (seen, unseen), `memorised` (accuracy on sentences of the training set; on fresh ones where there is
    none), `edge` and `score`, `alignment`, `diagonal_ratio` over `layer`, counted from 1 in the last three.
    """
    config, seeds = runs[0][0], [seed for _, seed in runs]

    def draws(purpose: str) -> list[torch.Generator]:
        return [torch_generator(NAME, purpose, seed, device) for seed in seeds]

    problems = {"seen": config.problem, "unseen": config.problem.unseen_pairs}
    asked = {name: probes.ask(one, config.n_evaluation, draws(name)) for name, one in problems.items()}
    known = None
    if config.n_train:
        known = [config.training_set(seed, device) for seed in seeds]
    read = train_and_keep(
        config.recipe,
        seeds,
        config.probe_steps,
        lambda model: readings(model, config, asked, known),
        device=device,
    )
    dims = {"accuracy": ("pairs",), "edge": ("layer",), "score": ("matching",), "alignment": ("matching",),
            "diagonal_ratio": ("matching",)}  # fmt: skip
    coordinates = {
        "step": config.probe_steps,
        "pairs": list(QUESTIONS),
        "layer": np.arange(config.n_layers),
        "matching": np.arange(1, config.n_layers),
    }
    return [
        xr.Dataset(
            {name: ((*dims.get(name, ()), "step"), values[place]) for name, values in read.items()},
            coordinates,
        )
        for place in range(len(runs))
    ]


def readings(
    model: Decoder,
    config: Config,
    asked: dict[str, probes.Sentences],
    known: list[tuple[torch.Tensor, torch.Tensor]] | None,
) -> dict[str, np.ndarray]:
    """All that is read off the models, seeds first."""
    right = {name: probes.correct(model, one).double().mean(-1) for name, one in asked.items()}
    memorised = right["seen"]
    if known is not None:
        tokens, labels = (
            torch.stack([one[place][: config.n_evaluation] for one in known]) for place in (0, 1)
        )
        memorised = (model.logits(tokens, last=True)[:, :, 0].argmax(-1) == labels).double().mean(-1)
    trace = model.trace(asked["unseen"].tokens, last=True)
    kernels = [probes.matching_kernel(model, layer) for layer in range(1, config.n_layers)]
    rows, scale = probes.token_rows(model, config.problem), probes.scale_in_use(model)
    found = {
        "accuracy": torch.stack([right[name] for name in QUESTIONS], 1),
        "memorised": memorised,
        "edge": probes.edges(trace, asked["unseen"]),
        "score": torch.stack([probes.matching_score(one, rows, scale) for one in kernels], 1),
        "alignment": torch.stack([probes.alignment(one) for one in kernels], 1),
        "diagonal_ratio": torch.stack([probes.diagonal_ratio(one) for one in kernels], 1),
    }
    return {name: value.double().numpy(force=True) for name, value in found.items()}


def predict(config: Config) -> xr.Dataset:
    """No theory here says how long the training of a whole decoder takes."""
    steps = config.probe_steps
    return xr.Dataset({"memorised": ("step", np.full(len(steps), np.nan))}, {"step": steps})


def steps_to_learn(outcome: Outcome) -> xr.DataArray:
    """First of the steps read with 95 % on unseen pairs; infinity when there is none (the measurement is censored)."""
    reached = outcome.measured["accuracy"].sel(pairs="unseen", drop=True) >= LEARNT
    return xr.where(reached.any("step"), reached["step"].isel(step=reached.argmax("step")), np.inf)


def _needs(*names: str) -> Callable[[Callable[[Outcome], Finding]], Callable[[Outcome], Finding]]:
    """A check that is not measured where the grid does not vary these fields."""

    def wrapped(check: Callable[[Outcome], Finding]) -> Callable[[Outcome], Finding]:
        def checked(outcome: Outcome) -> Finding:
            missing = [name for name in names if len(outcome.plan.grid.get(name, ())) < 2]
            if missing:
                note = f"this scale does not vary {', '.join(missing)}"
                return Finding(np.nan, (np.nan, np.nan), None, "not_measured", note)
            return check(outcome)

        return checked

    return wrapped


def _unseen(outcome: Outcome) -> xr.DataArray:
    """Accuracy on unseen pairs at the last step."""
    return outcome.measured["accuracy"].sel(pairs="unseen", drop=True).isel(step=-1)


def _verdict(everywhere: bool, somewhere: bool) -> Verdict:
    return "holds" if everywhere else "regime" if somewhere else "fails"


@_needs("normalisation")
def _norm(outcome: Outcome) -> Finding:
    gain = _unseen(outcome).sel(normalisation="post") - _unseen(outcome).sel(normalisation="pre")
    value, interval = lowest_cell(gain)
    best = highest_cell(_unseen(outcome).sel(normalisation="pre"))[0]
    fresh, fresh_interval = lowest_cell(gain.sel(n_train=0))
    note = (
        f"accuracy on unseen pairs, post-LN minus pre-LN, smallest cell (on fresh sentences {fresh:.2f}); "
        f"best of pre-LN {best:.2f}"
    )
    return Finding(value, interval, None, _verdict(interval[0] >= 0.2, fresh_interval[0] >= 0.2), note)


@_needs("init_exponent", "n_train")
def _small_start(outcome: Outcome) -> Finding:
    accuracy = _unseen(outcome)
    accuracy = accuracy.sel(normalisation="post") if "normalisation" in accuracy.dims else accuracy
    gain = accuracy.sel(init_exponent=0.8) - accuracy.sel(init_exponent=0.5)
    value, interval = lowest_cell(gain)
    cells = {int(size): mean_interval(gain.sel(n_train=size).values) for size in gain["n_train"].values}
    told = ", ".join(
        f"{size or 'fresh'}: {one[0]:+.2f} [{one[1][0]:+.2f}, {one[1][1]:+.2f}]"
        for size, one in cells.items()
    )
    somewhere = any(one[1][0] >= 0.05 for one in cells.values())
    return Finding(
        value,
        interval,
        None,
        _verdict(interval[0] >= 0.05, somewhere),
        f"accuracy on unseen pairs at γ = 0.8 minus 0.5, post-LN, by training set: {told}",
    )


@_needs("init_exponent", "n_train")
def _together(outcome: Outcome) -> Finding:
    middle = outcome.measured.isel(step=outcome.measured.sizes["step"] // 2)
    names = [name for name in middle["score"].dims if name not in ("seed", "matching")]
    score = middle["score"].mean("matching").stack(run=names)
    accuracy = middle["accuracy"].sel(pairs="unseen").stack(run=names)
    found = [
        float(stats.spearmanr(score.isel(seed=seed), accuracy.isel(seed=seed)).statistic)
        for seed in range(score.sizes["seed"])
    ]
    value, interval = mean_interval(found)
    return Finding(
        value, interval, None, "holds" if interval[0] >= 0.5 else "fails",
        f"rank correlation over {score.sizes['run']} cells at step {int(middle['step'])}, one a seed",
    )  # fmt: skip


CLAIMS = (
    Claim(
        "W2",
        WANG,
        "Post-LN favours matching over pre-LN.",
        "Accuracy on unseen pairs at the last step higher by 0.2, for every size of the start and of the training set.",
        _norm,
    ),
    Claim(
        "W2.11",
        WANG,
        "A small start favours matching.",
        "With post-LN, accuracy on unseen pairs at the last step higher by 0.05 at γ = 0.8 than at 0.5, for every training set.",
        _small_start,
    ),
    Claim(
        "W3",
        WANG,
        "Over runs, accuracy on unseen pairs and the matching score move together.",
        "Rank correlation over cells at one step, at the model's own scale: above 0.5.",
        _together,
    ),
)
