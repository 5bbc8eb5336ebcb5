"""How many steps can L layers answer, when each layer merges what positions know?

Sentences of shuffled pairs are drawn, and the rules of propagation are run on their tokens and positions: with and without the
causal mask, reading all positions that share a token, or a single one. Theory follows runs of a path instead, and counts orders.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from sims.contract import Claim, Finding, Scale
from sims.experiments._parallel_reach_figures import growth, law, merging
from sims.experiments._readings import way_of_reading
from sims.outcome import Outcome
from sims.propagation import Reading, knowledge, steps_known
from sims.statistics import lowest_cell, mean_interval, worst_cell
from sims.streams import torch_generator
from sims.tasks.pair_chains import PairChains, draw
from theory import parallel_reasoning as theory

NAME = "parallel_reach"
WANG = "Wang et al., arXiv 2405.15302"
BLOCK = 250
"""Sentences that are simulated at a time."""
N_SAMPLES = 4000
"""Orders that theory samples where it does not count them."""


@dataclass(frozen=True)
class Config:
    """One sample of sentences.

    - `n_layers`: L, layer 0 included. `causal`: positions read earlier ones only. `reading`: which of the positions that share a
      token are read (`sims.propagation`).
    - `n_pairs`, `n_steps`, `tail`, `distractor`, `vocabulary_size`: the sentences (`PairChains`; `distractor` is the number of
      pairs of the second chain). At least n_steps + tail pairs follow the start; where that is less than the reach, the
      chain's end cuts it off.
    - `n_sentences`: sentences drawn.
    """

    n_layers: int = 4
    causal: bool = True
    reading: Reading = "all"
    n_pairs: int = 16
    n_steps: int = 13
    tail: int = 2
    distractor: int = 3
    vocabulary_size: int = 24
    n_sentences: int = 1000

    def __post_init__(self) -> None:
        for name, least in (("n_layers", 1), ("n_sentences", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.n_layers > 12:
            raise ValueError(f"n_layers is {self.n_layers}; it must be at most 12.")
        _ = self.problem  # which refuses what makes no sentence

    @property
    def problem(self) -> PairChains:
        """The sentences of this run."""
        return PairChains(self.n_pairs, self.n_steps, self.tail, self.distractor, self.vocabulary_size)

    @property
    def path_lengths(self) -> range:
        """How many pairs may follow the start token, each length as likely as the others."""
        return range(self.n_pairs - self.problem.n_starts + 1, self.n_pairs + 1)


EVERY_WAY = {"causal": (True, False), "reading": ("all", "planned", "greedy")}
SCALES = {
    "smoke": Scale(Config(n_sentences=400), {"n_layers": (4, 3), **EVERY_WAY}, n_seeds=8),
    "laptop": Scale(
        Config(n_pairs=46, n_steps=40, distractor=6, vocabulary_size=56),
        {"n_layers": (2, 3, 4, 5), **EVERY_WAY},
        n_seeds=8,
    ),
    "paper": Scale(
        Config(n_pairs=128, n_steps=121, distractor=16, vocabulary_size=160, n_sentences=10_000),
        {"n_layers": (2, 3, 4, 5, 6), **EVERY_WAY},
        n_seeds=10,
    ),
}
COMPARED = {"probability": 0.0, "mean_reach": 0.0, "third_pair": 0.0}
"""Exact, as the rules have no free parameter. Where no law is known, theory says at least which reaches do not occur."""


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Share of sentences at each `reach`; mean, shortest, longest reach; share in which the rule of the third pair is right."""
    return [_one(config, seed, device) for config, seed in runs]


def _one(config: Config, seed: int, device: str) -> xr.Dataset:
    problem, generator = config.problem, torch_generator(NAME, "sentences", seed, device)
    reaches, rules = [], []
    for begin in range(0, config.n_sentences, BLOCK):
        sentences = draw(problem, min(BLOCK, config.n_sentences - begin), generator)
        steps = sentences.steps(problem.vocabulary_size)
        layers = knowledge(
            sentences.tokens, config.n_layers, problem.vocabulary_size, config.causal, config.reading, steps
        )
        *_, knows = layers
        reaches.append(steps_known(knows[:, -1], steps))
        if min(config.path_lengths) >= 4:
            second, third, fourth = (
                sentences.places.gather(1, sentences.start[:, None] + place)[:, 0] for place in (1, 2, 3)
            )
            rules.append((third > second) & (third > fourth))
    reach = torch.cat(reaches).cpu().numpy()
    third_pair = ((reach >= 4) == torch.cat(rules).cpu().numpy()).mean() if rules else np.nan
    counts = np.bincount(reach, minlength=config.n_pairs + 1)
    return xr.Dataset(
        {
            "probability": ("reach", counts / len(reach)),
            "mean_reach": ((), reach.mean()),
            "shortest": ((), float(reach.min())),
            "longest": ((), float(reach.max())),
            "third_pair": ((), third_pair),
        },
        {"reach": np.arange(config.n_pairs + 1)},
    )


def predict(config: Config) -> xr.Dataset:
    """Theory: law and mean of the reach where they are known, and 0 for every reach outside the bounds; otherwise NaN.

    `sampled` is the law from theory's own samples where it is not counted. `lower` and `upper` are the bounds.
    """
    size = config.n_pairs
    bounds = theory.bounds(config.n_layers)
    probability, sampled = np.zeros(size + 1), np.full(size + 1, np.nan)
    lengths = Counter(min(length, bounds.upper) for length in config.path_lengths)
    for length, times in lengths.items():
        law = _law(config, length)
        probability += times * np.array([law.get(steps, 0.0) for steps in range(size + 1)])
        if config.causal and config.reading == "all" and np.isnan(probability).any():
            drawn = theory.sample_reaches(config.n_layers, N_SAMPLES, np.random.default_rng(length), length)
            here = times * np.bincount(drawn, minlength=size + 1) / N_SAMPLES
            sampled = here if np.isnan(sampled).all() else sampled + here
    probability, sampled = probability / lengths.total(), sampled / lengths.total()
    return xr.Dataset(
        {
            "probability": ("reach", probability),
            "mean_reach": ((), float(probability @ np.arange(size + 1))),
            "third_pair": ((), _third_pair(config, probability)),
            "sampled": ("reach", sampled),
            "lower": ((), float(min(bounds.lower, *lengths))),
            "upper": ((), float(max(lengths))),
        },
        {"reach": np.arange(size + 1)},
    )


def _law(config: Config, length: int) -> Mapping[int, float]:
    """Reach → probability on a path of that many pairs; NaN between bounds where theory knows no more."""
    lower, upper = (min(bound, length) for bound in theory.bounds(config.n_layers))
    if config.reading == "greedy":
        return dict.fromkeys(range(lower + 1), math.nan if lower else 1.0)
    if config.reading == "planned":
        return {lower: 1.0}
    if not config.causal:
        return {upper: 1.0}
    if config.n_layers <= 4 or lower == upper:
        exact = theory.reach_distribution(config.n_layers, length)
        return {steps: float(chance) for steps, chance in exact.items()}
    return dict.fromkeys(range(lower, upper + 1), math.nan)


def _third_pair(config: Config, probability: np.ndarray) -> float:
    """Share of sentences in which a reach of four or more and a third pair after its neighbours go together."""
    if min(config.path_lengths) < 4:
        return math.nan
    if config.n_layers == 3 and config.causal and config.reading == "all":
        return 1.0
    short, far = probability[:4].sum(), probability[4:].sum()
    if 0.0 in (short, far):  # all sentences on one side; a NaN is never 0
        return 1 / 3 if short == 0.0 else 2 / 3
    return math.nan


def example(rng: np.random.Generator) -> Config:
    """Random sentences, small enough for a check; in some the chain's end cuts the reach off."""
    steps, tail, before = int(rng.integers(1, 14)), int(rng.integers(1, 4)), int(rng.integers(0, 4))
    distractor = int(rng.integers(0, 5))
    return Config(
        n_layers=int(rng.integers(1, 5)),
        causal=bool(rng.random() < 0.7),
        reading=("all", "all", "planned", "greedy")[int(rng.integers(4))],
        n_pairs=steps + tail + before,
        n_steps=steps,
        tail=tail,
        distractor=distractor,
        vocabulary_size=steps + tail + before + distractor + 2 + int(rng.integers(0, 8)),
        n_sentences=1000,
    )


def _growth(outcome: Outcome) -> Finding:
    measured, predicted = way_of_reading(outcome)
    reach = measured["reach"]
    allowed = (reach >= predicted["lower"]) & (reach <= predicted["upper"])
    outside = float(measured["probability"].where(~allowed, 0.0).max())
    mean = measured["mean_reach"]
    later, earlier = mean.isel(n_layers=slice(1, None)), mean.isel(n_layers=slice(None, -1)).values
    value, interval = lowest_cell(later / earlier)
    known = predicted["mean_reach"].where(
        np.isfinite(predicted["mean_reach"]), (predicted["sampled"] * reach).sum("reach")
    )
    expected = float((known.values[1:] / known.values[:-1]).min())
    return Finding(
        value, interval, expected, "holds" if outside == 0 and value >= 2 else "fails",
        f"least growth of the mean reach from one depth to the next; largest share of sentences outside the bounds {outside:g}",
    )  # fmt: skip


def _laws(outcome: Outcome) -> Finding:
    measured, predicted = (one.sel(n_layers=[3, 4]) for one in way_of_reading(outcome))
    value, interval = worst_cell(measured["probability"] - predicted["probability"], abs)
    rule = float(measured["third_pair"].sel(n_layers=3).min())
    holds = abs(value) <= 0.03 and rule == 1
    return Finding(
        value, interval, 0.0, "holds" if holds else "fails",
        f"frequency minus law, worst reach at three and four layers; rule for four steps right in a share {rule:g}",
    )  # fmt: skip


def _unmasked(outcome: Outcome) -> Finding:
    measured, predicted = way_of_reading(outcome, causal=False)
    at_bound = measured["probability"].where(measured["reach"] == predicted["upper"], 0.0).sum("reach")
    value, interval = lowest_cell(at_bound)
    return Finding(
        value, interval, 1.0, "holds" if value == 1 else "fails",
        "share of sentences at the upper bound, without the mask, worst depth",
    )  # fmt: skip


def _one_source(outcome: Outcome) -> Finding:
    shares, beyond = [], 0.0
    for causal in (True, False):
        measured, predicted = way_of_reading(outcome, "planned", causal)
        at_bound = measured["reach"] == predicted["lower"]
        shares.append(measured["probability"].where(at_bound, 0.0).sum("reach").min("n_layers"))
        measured, predicted = way_of_reading(outcome, "greedy", causal)
        farther = measured["reach"] > predicted["lower"]
        beyond = max(beyond, float(measured["probability"].where(farther, 0.0).max()))
    value, interval = mean_interval(np.minimum(*(one.values for one in shares)))
    return Finding(
        value, interval, 1.0, "holds" if value == 1 and beyond == 0 else "fails",
        f"share of sentences at the lower bound, planned, worst depth and mask; greedy ones beyond it: {beyond:g}",
    )  # fmt: skip


CLAIMS = (
    Claim(
        "W6",
        WANG,
        "When layers merge what positions know, the number of steps that can be answered grows exponentially with depth.",
        "The reach of every causal sentence lies within 2^(L−1) − 1 and (3^(L−1) − 1)/2, and its mean at least doubles with "
        "every layer.",
        _growth,
    ),
    Claim(
        "W6.1",
        "ours",
        "Three layers answer four steps in a third of all orders, those whose third pair stands after the second and the fourth; "
        "four layers follow their exact law.",
        "Every frequency at three and four layers within 0.03 of the law, and the rule right in every sentence.",
        _laws,
    ),
    Claim(
        "W6.2",
        "ours",
        "Without the causal mask the order of pairs does not matter: the reach is the upper bound.",
        "Every sentence of every depth reaches exactly (3^(L−1) − 1)/2 steps.",
        _unmasked,
    ),
    Claim(
        "W6.3",
        "ours",
        "Positions that read a single other position a layer double what they know at best, whatever the order and the mask.",
        "With the plan every sentence reaches exactly 2^(L−1) − 1 steps, and with greedy choices none reaches more.",
        _one_source,
    ),
)


FIGURES = {"law": law, "merging": merging, "growth": growth}
