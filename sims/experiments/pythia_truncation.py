"""Does truncating a language model's feed-forward weights lower the generic answer and raise the one asked for?

Every matrix of every layer is cut to the top of its singular components, or loses the top, at twelve rank fractions, and the
model is asked prompts where " the" competes with the answer. It is our own, trained on stories, or any of the Hugging Face hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import xarray as xr

from sims.contract import Claim, Finding, Scale, Verdict
from sims.experiments._language_models import (
    HALVES,
    KINDS,
    READINGS,
    AskedModel,
    change_error,
    readings_table,
    subject,
)
from sims.experiments._pythia_truncation_figures import FIGURES as FIGURES
from sims.experiments._readings import cut_chosen, is_late
from sims.interventions.in_place import Decompositions, components_removed, truncated
from sims.interventions.low_rank import kept_rank
from sims.models.language_model import LanguageModel, matrix
from sims.outcome import Outcome
from sims.roles import LAYER_ROLES, Place
from sims.statistics import mean_interval

NAME = "pythia_truncation"
CHEN = "Chen, Bruna, Bietti, arXiv 2406.03068"
CUTS = ("keep the top", "remove the top")
"""Truncation, and removal of the same components instead."""
TWELVE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0)
"""Rank fractions of the full table."""
CHANGES = ("answer_probability", "generic_probability")
FEED_FORWARD = ("feed_forward_in", "feed_forward_out")
ATTENTION = ("query", "key", "value", "attention_output")


@dataclass(frozen=True)
class Config(AskedModel):
    """Which model, see `sims.experiments._language_models`, and which cuts.

    - `fractions`: of the rank; the components that are kept, or removed. `cut_roles`, `cut_layers`: which matrices; none for all.
    - `precision`: of the decompositions, float64 or float32.
    """

    fractions: tuple[float, ...] = TWELVE
    cut_roles: tuple[str, ...] = ()
    cut_layers: tuple[int, ...] = ()
    precision: str = "float64"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fractions or not all(0 <= one <= 1 for one in self.fractions):
            raise ValueError(f"fractions is {self.fractions}; it must hold numbers from 0 to 1.")
        for role in self.cut_roles:
            if role not in LAYER_ROLES:
                raise ValueError(f"cut_roles has {role!r}; it must hold some of {', '.join(LAYER_ROLES)}.")
        if min(self.cut_layers, default=0) < 0:
            raise ValueError(f"cut_layers is {self.cut_layers}; it must hold integers from 0 on.")
        if self.recipe is not None:  # before it is trained
            self._check_layers(self.recipe.n_layers)
        if self.precision not in ("float64", "float32"):
            raise ValueError(f"precision is {self.precision!r}; it must be float64 or float32.")

    def _check_layers(self, n_layers: int) -> None:
        if max(self.cut_layers, default=0) >= n_layers:
            raise ValueError(
                f"cut_layers has {max(self.cut_layers)}; of this model it must hold integers from 0 to {n_layers - 1}."
            )

    def places(self, model: LanguageModel) -> list[Place]:
        """The matrices that are cut. Raises ValueError for a layer that the model lacks."""
        self._check_layers(model.n_layers)
        return [
            one
            for one in model.roles.places(layers=self.cut_layers or range(model.n_layers))
            if one.role in (self.cut_roles or LAYER_ROLES)
        ]


SCALES = {
    "smoke": Scale(
        Config(
            model="story-smoke", n_indirect_object=48, n_fact=12, n_texts=16, fractions=(0.0, 0.1, 0.5, 1.0),
            cut_roles=("attention_output", "feed_forward_in", "feed_forward_out"),
        ),
        {"revision": ("main",)},
        n_seeds=1,
    ),
    "laptop": Scale(Config(), {"revision": ("step362", "main")}, n_seeds=5),
    "paper": Scale(
        Config(model="story-paper", n_indirect_object=192, n_fact=192, precision="float32"),
        {"revision": ("step512", "step2048", "main")},
        n_seeds=3,
    ),
}  # fmt: skip


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Ask the whole model, and the model with each matrix cut, one at a time.

    `whole` over `kind`, `half` and `reading`, `whole_perplexity`; `value` over `place`, `cut`, `fraction` too, and `perplexity`;
    `error` over `place`, `cut`, `fraction`, `kind`, `change`: standard error of the change over the prompts to report on;
    `price_error` over `place`, `cut`, `fraction`: over texts, of log(perplexity / that of the whole model).
    `is_late`: 1 for matrices of the later half of layers, else 0.
    """
    return [_one(config, seed, device) for config, seed in runs]


def _one(config: Config, seed: int, device: str) -> xr.Dataset:
    asked = subject(config, seed, device)
    before, losses = asked.ask(), asked.losses()
    places, known = config.places(asked.model), Decompositions(asked.model, config.precision)
    shape = (len(places), len(CUTS), len(config.fractions))
    value = np.empty((*shape, len(KINDS), len(HALVES), len(READINGS)))
    error = np.empty((*shape, len(KINDS), len(CHANGES)))
    perplexity, price_error = np.empty(shape), np.empty(shape)
    for row, place in enumerate(places):
        for column, kind in enumerate(CUTS):
            for depth, fraction in enumerate(config.fractions):
                with cut(asked.model, place, kind, fraction, known):
                    found = asked.ask()
                    value[row, column, depth] = readings_table(found)
                    error[row, column, depth] = change_error(found, before, CHANGES)
                    after = asked.losses()
                    perplexity[row, column, depth] = after.perplexity
                    price_error[row, column, depth] = after.ratio_error(losses)
    axes = ("place", "cut", "fraction")
    return xr.Dataset(
        {
            "whole": (("kind", "half", "reading"), readings_table(before)),
            "whole_perplexity": ((), losses.perplexity),
            "value": ((*axes, "kind", "half", "reading"), value.astype(np.float32)),
            "error": ((*axes, "kind", "change"), error.astype(np.float32)),
            "perplexity": (axes, perplexity.astype(np.float32)),
            "price_error": (axes, price_error.astype(np.float32)),
            "is_late": ("place", [float(2 * (one.layer or 0) >= asked.model.n_layers) for one in places]),
        },
        {
            "place": [str(one) for one in places],
            "cut": list(CUTS),
            "fraction": list(config.fractions),
            "kind": list(KINDS),
            "half": list(HALVES),
            "reading": list(READINGS),
            "change": list(CHANGES),
        },
    )


@contextmanager
def cut(
    model: LanguageModel, place: Place, kind: str, fraction: float, known: Decompositions
) -> Iterator[LanguageModel]:
    """The model with one matrix cut, inside the block; see `CUTS`. Raises ValueError as `sims.interventions.in_place` does."""
    if kind == CUTS[0]:
        with truncated(model, place, fraction, known) as changed:
            yield changed
        return
    count = kept_rank(fraction, matrix(model, place).shape)
    with components_removed(model, place, range(count), known) as changed:
        yield changed


def predict(config: Config) -> xr.Dataset:  # noqa: ARG001
    """No number for a model of this kind. P4 has the sign of `theory.associative_memory`: with many tokens noise is on top."""
    axes = {"kind": list(KINDS), "half": list(HALVES), "reading": list(READINGS)}
    return xr.Dataset({"whole": (tuple(axes), np.full([len(one) for one in axes.values()], np.nan))}, axes)


def _latest(outcome: Outcome) -> xr.Dataset:
    """Measurements at the last checkpoint."""
    found = outcome.measured
    return found.isel(revision=-1) if "revision" in found.dims else found


def _chosen(outcome: Outcome, roles: tuple[str, ...], kind: str) -> xr.Dataset:
    """The cut of late matrices of these roles that is best for the answer on one half of prompts; what it does on the other."""
    return cut_chosen(is_late(_latest(outcome)), roles, kind)


def _interval(values: np.ndarray, errors: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Mean with its interval over seeds; of one seed, over prompts."""
    value, interval = mean_interval(values)
    if len(values) == 1:
        half = 1.96 * float(errors[0])
        interval = (value - half, value + half)
    return value, interval


def _told(best: xr.Dataset) -> str:
    """What was chosen, seed by seed."""
    rows = zip(best["place"].values, best["fraction"].values, strict=True)
    return "; ".join(dict.fromkeys(f"{place} at {float(fraction):g}" for place, fraction in rows))


def _range(outcome: Outcome, roles: tuple[str, ...], kind: str) -> str:
    """Rank fractions over which some late matrix of these roles serves, by means over seeds."""
    late = is_late(_latest(outcome))
    late = late.sel(place=[one for one in late["place"].values if str(one).split()[0] in roles], cut=kind)
    change = (late["value"] - late["whole"]).sel(kind="indirect object", half="report").mean("seed")
    good = (change.sel(reading="answer_probability") >= 0.02) & (
        change.sel(reading="generic_probability") <= -0.02
    )
    told = [
        f"{place}: {', '.join(f'{float(one):g}' for one in good['fraction'].values[good.sel(place=place).values])}"
        for place in good["place"].values
        if bool(good.sel(place=place).any())
    ]
    return "; ".join(told) or "none"


def gain(roles: tuple[str, ...], effect: float, wanted: bool) -> Callable[[Outcome], Finding]:
    """A check that the chosen truncation raises the answer and lowers " the" by the effect, or, unless wanted, does not."""

    def check(outcome: Outcome) -> Finding:
        best = _chosen(outcome, roles, CUTS[0])
        value, interval = _interval(best["answer_change"].values, best["answer_error"].values)
        generic, drop = _interval(best["generic_change"].values, best["generic_error"].values)
        serves = interval[0] >= effect and drop[1] <= -effect
        if wanted:
            verdict: Verdict = "holds" if serves else "fails"
        else:
            verdict = "holds" if interval[1] < effect else "fails"
        note = (
            f"change of p(answer) on the prompts to report on; of p( the) {generic:+.3f} [{drop[0]:+.3f}, {drop[1]:+.3f}]; "
            f"chosen: {_told(best)}; fractions at which both move by 0.02, by matrix: {_range(outcome, roles, CUTS[0])}"
        )
        return Finding(value, interval, None, verdict, note)

    return check


def _top_or_lower(outcome: Outcome) -> Finding:
    keep, remove = (_chosen(outcome, FEED_FORWARD, kind) for kind in CUTS)
    gap = keep["generic_change"].values - remove["generic_change"].values
    value, interval = _interval(gap, np.hypot(keep["generic_error"].values, remove["generic_error"].values))
    kept, removed = (float(one["generic_change"].mean()) for one in (keep, remove))
    note = (
        f"fall of p( the) by removing the top minus that by keeping it, each at its best: {-removed:.3f} and {-kept:.3f}; "
        f"chosen: {_told(remove)} against {_told(keep)}"
    )
    return Finding(value, interval, None, "holds" if interval[0] >= 0.05 else "fails", note)


def _price(outcome: Outcome) -> Finding:
    best = _chosen(outcome, FEED_FORWARD, CUTS[0])
    ratio = best["perplexity"].values / best["whole_perplexity"].values
    value, interval = mean_interval(ratio)
    if len(ratio) == 1:  # then over texts
        half = float(np.exp(1.96 * best["price_error"].values[0]))
        interval = (value / half, value * half)
    if np.isnan(interval[0]):
        return Finding(value, interval, None, "not_measured", "a single text tells no interval")
    return Finding(
        value, interval, None, "holds" if interval[1] <= 1.1 else "fails",
        f"perplexity over that of the whole model, after the truncation of P2: {_told(best)}",
    )  # fmt: skip


def _removal(outcome: Outcome) -> Finding:
    keep, remove = (_chosen(outcome, FEED_FORWARD, kind) for kind in CUTS)
    gap = remove["answer_change"].values - keep["answer_change"].values
    value, interval = _interval(gap, np.hypot(keep["answer_error"].values, remove["answer_error"].values))
    raised = [float(one["answer_change"].mean()) for one in (keep, remove)]
    note = f"rise of p(answer) by removing minus by keeping, each at its best: {raised[1]:+.3f} and {raised[0]:+.3f}"
    return Finding(value, interval, None, "holds" if interval[0] >= -0.02 else "fails", note)


CLAIMS = (
    Claim(
        "P2",
        CHEN,
        'Truncating a late feed-forward matrix lowers the generic answer " the" and raises the one that the context asks for.',
        "Cut chosen on one half of the prompts: on the other p(answer) rises and p( the) falls, by 0.05 each.",
        gain(FEED_FORWARD, 0.05, True),
    ),
    Claim(
        "P3",
        CHEN,
        "Truncating a late attention matrix does not.",
        "Cut chosen in the same way: p(answer) rises by less than 0.05.",
        gain(ATTENTION, 0.05, False),
    ),
    Claim(
        "P4",
        "ours",
        "As in an associative memory of many tokens, the generic answer sits in the top components of late feed-forwards.",
        "Removing top components lowers p( the) by 0.05 more than keeping them does, each at its best.",
        _top_or_lower,
    ),
    Claim(
        "P5",
        CHEN,
        "The price in perplexity is small.",
        "After the truncation of P2 the perplexity of ordinary text is at most 1.1 times that of the whole model.",
        _price,
    ),
    Claim(
        "P6",
        "ours",
        "Removing components serves the answer as well as truncation does.",
        "Rise of p(answer) by removal at most 0.02 below that by truncation, each at its best.",
        _removal,
    ),
)
