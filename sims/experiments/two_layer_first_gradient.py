"""At the start of training, which matrix of the two-layer transformer begins to store the noise, and how fast?

The growth of the noise margin under gradient flow is a sum over matrices of ⟨∂margin/∂W, −∂loss/∂W⟩. It is computed by autograd
at fresh models, with margin and loss on different sequences, and predicted from the tangent kernels of wide models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.contract import Claim, Finding, Scale
from sims.models.transformer import Architecture, initialise
from sims.outcome import Outcome
from sims.probes import recall_transformer as probes
from sims.recipes.recall_transformer import RecallTransformerRecipe
from sims.roles import Place
from sims.statistics import worst_cell
from sims.streams import torch_generator
from sims.tasks.noisy_recall import Sampler, scored_loss, scored_places
from theory import noisy_recall as theory
from theory.problems import NoisyRecall

NAME = "two_layer_first_gradient"
FEED_FORWARD = tuple(
    Place(role, layer) for layer in (0, 1) for role in ("feed_forward_in", "feed_forward_out")
)
ATTENTION = tuple(Place(role, layer) for layer in (0, 1) for role in ("key", "value", "attention_output"))
N_PAIRS = 400
"""Pairs of sequences that the prediction averages over; its error is some 1 % for feed-forwards."""


@dataclass(frozen=True)
class Config:
    """One measurement at fresh models.

    - `chain`, `n_tokens`, `context_length`, `noise_level`: the data, see `sims.recipes.recall_transformer`.
    - `width`, `feed_forward_0`, `feed_forward_1`: the model. `n_models`: initialisations that one run averages over.
    - `batch_size`: sequences for the margin, and as many others for the loss.
    """

    chain: Literal["shakespeare", "zipf", "uniform"] = "shakespeare"
    n_tokens: int = 65
    context_length: int = 32
    noise_level: float = 0.5
    width: int = 64
    feed_forward_0: Literal["none", "linear", "relu"] = "relu"
    feed_forward_1: Literal["none", "linear", "relu"] = "relu"
    n_models: int = 16
    batch_size: int = 16

    def __post_init__(self) -> None:
        _ = self.architecture, self.problem
        for name in ("n_models", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def _recipe(self) -> RecallTransformerRecipe:
        return RecallTransformerRecipe(
            chain=self.chain,
            n_tokens=self.n_tokens,
            context_length=self.context_length,
            noise_level=self.noise_level,
            width=self.width,
            feed_forward_0=self.feed_forward_0,
            feed_forward_1=self.feed_forward_1,
        )

    @property
    def architecture(self) -> Architecture:
        """The model."""
        return self._recipe.architecture

    @property
    def problem(self) -> NoisyRecall:
        """The data."""
        return self._recipe.problem()


SCALES = {
    "smoke": Scale(Config(), {"width": (64,)}, n_seeds=16),
    "laptop": Scale(
        Config(n_models=8),
        {"width": (64, 128, 256), "feed_forward_1": ("relu", "linear", "none")},
        n_seeds=16,
    ),
    "paper": Scale(
        Config(context_length=256, n_models=8, batch_size=64),
        {"width": (256, 512, 1024), "noise_level": (0.1, 0.3, 0.5, 0.7)},
        n_seeds=16,
    ),
}
COMPARED = {
    "feed_forward_rate": xr.DataArray(
        [0.0012, 0.008] * 2, {"matrix": list(map(str, FEED_FORWARD))}, ["matrix"]
    ),
    "attention_rate": xr.DataArray(
        [0.0006, 0.0014, 0.0014] * 2, {"attention_matrix": list(map(str, ATTENTION))}, ["attention_matrix"]
    ),
}
"""Relative corrections of order 1 / width: 5 % of a feed-forward's rate, 10 % of a value's or output's, 20 % of a key's, and the
Monte Carlo error of the prediction."""


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Growth rates over the width, by matrix, averaged over each run's models; NaN for a matrix that the model lacks."""
    return [_measured(config, seed, device) for config, seed in runs]


def _measured(config: Config, seed: int, device: str) -> xr.Dataset:
    numbers = range(seed * config.n_models, (seed + 1) * config.n_models)
    model = initialise(config.architecture, NAME, numbers, device)
    problem = config.problem
    places = [place for place in (*FEED_FORWARD, *ATTENTION) if place in model.roles.names]
    weights = [model.weights[model.roles.names[place]].requires_grad_() for place in places]
    for_margin, for_loss = (
        _sequences(config, [torch_generator(NAME, purpose, number, device) for number in numbers], device)
        for purpose in ("margin", "loss")
    )
    margin = probes.noise_margin(model, for_margin, problem).sum()
    logits = model.logits(for_loss.contexts, for_loss.places.at)
    loss = scored_loss(logits, for_loss.labels, for_loss.places.valid)
    pulls = zip(torch.autograd.grad(margin, weights), torch.autograd.grad(loss, weights), strict=True)
    rates = {
        place: -float((up.double() * down.double()).sum((-1, -2)).mean()) / config.width
        for place, (up, down) in zip(places, pulls, strict=True)
    }
    return _dataset(rates)


def _sequences(config: Config, draws: list[torch.Generator], device: str) -> probes.Evaluation:
    """Fresh sequences for every model. All scored places count, as in training, also those whose target is the noise token."""
    sampler = Sampler(config.problem, device)
    batches = [sampler.draw(config.batch_size, draw) for draw in draws]
    places = scored_places(torch.stack([batch.scored for batch in batches]))
    labels = places.of(torch.stack([batch.labels for batch in batches]))
    targets = torch.stack([batch.targets for batch in batches]).expand_as(places.at)
    return probes.Evaluation(torch.stack([batch.contexts for batch in batches]), labels, targets, places)


def _dataset(rates: dict[Place, float]) -> xr.Dataset:
    return xr.Dataset(
        {
            "feed_forward_rate": ("matrix", [rates.get(place, np.nan) for place in FEED_FORWARD]),
            "attention_rate": ("attention_matrix", [rates.get(place, np.nan) for place in ATTENTION]),
        },
        {"matrix": list(map(str, FEED_FORWARD)), "attention_matrix": list(map(str, ATTENTION))},
    )


def predict(config: Config) -> xr.Dataset:
    """The same rates over the width from the tangent kernels of wide models, by Monte Carlo over pairs of sequences."""
    grown = theory.initial_growth(
        config.problem,
        config.width,
        N_PAIRS,
        np.random.default_rng(0),
        (config.feed_forward_0, config.feed_forward_1),
    )
    return _dataset(
        {Place(role, layer): one.value / config.width for (layer, role), one in grown.rates.items()}
    )


def example(rng: np.random.Generator) -> Config:
    """A random problem, small enough for a check."""
    return Config(
        chain="zipf",
        n_tokens=int(rng.integers(12, 40)),
        context_length=int(rng.integers(16, 33)),
        noise_level=float(rng.uniform(0.2, 0.8)),
        width=int(rng.choice([64, 96, 128])),
        feed_forward_1=("relu", "linear")[int(rng.integers(2))],
    )


def _rate(values: xr.Dataset, role: str, layer: int) -> xr.DataArray:
    place = str(Place(role, layer))
    if role.startswith("feed_forward"):
        return values["feed_forward_rate"].sel(matrix=place, drop=True)
    return values["attention_rate"].sel(attention_matrix=place, drop=True)


def _with_last(outcome: Outcome, values: xr.Dataset, kinds: tuple[str, ...]) -> xr.Dataset:
    if "feed_forward_1" not in outcome.measured.dims:
        return values
    return values.sel(feed_forward_1=[one for one in values["feed_forward_1"].values if one in kinds])


def _predicted(outcome: Outcome) -> Finding:
    measured, line = outcome.measured["feed_forward_rate"], outcome.predicted["feed_forward_rate"]
    outs = [str(place) for place in FEED_FORWARD if place.role == "feed_forward_out"]
    ratio = (measured / line).sel(matrix=outs)
    stacked = ratio.stack(cell=[name for name in ratio.dims if name != "seed"]).dropna("cell")
    value, interval = worst_cell(stacked, lambda means: abs(means - 1))
    holds = interval[0] >= 0.85 and interval[1] <= 1.15
    return Finding(
        value, interval, 1.0, "holds" if holds else "fails",
        "measured growth over predicted growth of the feed-forwards' last matrices, the cell farthest off",
    )  # fmt: skip


def _equal(outcome: Outcome) -> Finding:
    values, line = (_with_last(outcome, one, ("relu",)) for one in (outcome.measured, outcome.predicted))
    ratio, expected = (
        _rate(one, "feed_forward_out", 1) / _rate(one, "feed_forward_out", 0) for one in (values, line)
    )
    value, interval = worst_cell(ratio, lambda means: abs(means - 1))
    holds = interval[0] >= 0.85 and interval[1] <= 1.15
    return Finding(
        value, interval, float(expected.mean()), "holds" if holds else "fails",
        "growth in the last block's feed-forward over that in the first block's, both ReLU, the cell farthest from 1",
    )  # fmt: skip


def _attention_is_slow(outcome: Outcome) -> Finding:
    values, line = (
        _with_last(outcome, one, ("relu", "linear")) for one in (outcome.measured, outcome.predicted)
    )
    ratio, expected = (
        (_rate(one, "attention_output", 1) + _rate(one, "value", 1)) / _rate(one, "feed_forward_out", 1)
        for one in (values, line)
    )
    value, interval = worst_cell(ratio, lambda means: means)
    return Finding(
        value, interval, float(expected.max()), "holds" if interval[1] <= 0.3 else "fails",
        "growth in the last block's W_o and W_v together over that in its feed-forward's last matrix, largest over cells",
    )  # fmt: skip


def _width(outcome: Outcome) -> Finding:
    values = outcome.measured
    if "width" not in values.dims or values.sizes["width"] < 2:
        return Finding(np.nan, (np.nan, np.nan), None, "not_measured", "this needs several widths")
    rate = _rate(_with_last(outcome, values, ("relu", "linear")), "feed_forward_out", 1)
    ratio = rate.isel(width=-1) / rate.isel(width=0)
    value, interval = worst_cell(ratio, lambda means: abs(means - 1))
    holds = interval[0] >= 0.85 and interval[1] <= 1.15
    return Finding(
        value, interval, 1.0, "holds" if holds else "fails",
        "growth over width at the largest width, over that at the smallest, in the last feed-forward's last matrix",
    )  # fmt: skip


CLAIMS = (
    Claim(
        "C0.45",
        "ours",
        "The tangent kernels of wide models predict how fast each feed-forward starts to store the noise.",
        "Within 15 % at every width and for every kind.",
        _predicted,
    ),
    Claim(
        "C0.46",
        "ours",
        "Both blocks' ReLU feed-forwards start to store the noise equally fast: what makes the last one the store comes later.",
        "Ratio within 15 % of one at every width.",
        _equal,
    ),
    Claim(
        "C0.47",
        "paper",
        "At the start attention learns the noise much more slowly than the feed-forward behind it.",
        "W_o and W_v together at most 0.3 of the last feed-forward, at every width and for both kinds.",
        _attention_is_slow,
    ),
    Claim(
        "C0.48",
        "ours",
        "The growth rate is proportional to the width.",
        "Rate over width changes by at most 15 % over all widths.",
        _width,
    ),
)


def growth_by_matrix(outcome: Outcome) -> Figure:
    """Growth of the noise margin over the width, by matrix, one panel a kind of the last feed-forward.

    Theory as a bar, simulation as points with two standard errors, one colour a width.
    """
    kinds = [
        str(one) for one in np.atleast_1d(outcome.measured.get("feed_forward_1", xr.DataArray("relu")).values)
    ]
    widths = [int(one) for one in np.atleast_1d(outcome.measured["width"].values)]
    places = [*FEED_FORWARD, *ATTENTION]
    wide = 3.7 if len(kinds) > 1 else 6.5
    figure, axes = plotting.panels(1, len(kinds), width=wide, height=4.4, sharey=True, sharex=True)
    thickness = 0.8 / len(widths)
    for column, kind in enumerate(kinds):
        one = axes[0, column]
        chosen = {"feed_forward_1": kind} if "feed_forward_1" in outcome.measured.dims else {}
        told, line = outcome.measured.sel(chosen), outcome.predicted.sel(chosen)
        for row, place in enumerate(places):
            for shift, width in enumerate(widths):
                height = -row - thickness * (shift - (len(widths) - 1) / 2)
                mine, theirs = (
                    _rate(values.sel(width=width), place.role, place.layer or 0) for values in (told, line)
                )
                if not np.isfinite(theirs):
                    continue
                colour = plotting.PALETTE[shift]
                one.barh(height, float(theirs), 0.9 * thickness, color=colour, alpha=0.35)
                error = 2 * float(mine.std("seed", ddof=1)) / mine.sizes["seed"] ** 0.5
                label = f"width {width}" if row == 0 else None
                mean = float(mine.mean("seed"))
                one.errorbar(mean, height, xerr=error, fmt="o", color=colour, markersize=3, label=label)
        plotting.label_axes(one, title=f"last feed-forward: {kind}", x="growth / width")
        one.grid(False, axis="y")
        one.set_yticks(
            [-row for row in range(len(places))],
            [
                f"{place.role.replace('_', ' ').replace('feed ', 'feed-')}, block {place.layer}"
                for place in places
            ],
        )
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {"growth_by_matrix": growth_by_matrix}
