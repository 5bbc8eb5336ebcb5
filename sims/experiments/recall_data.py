"""Do the sampled data have the law of the problem, and does the best answer cost what theory says?

Sequences of three chains in both versions of the task. Triggers are counted by position; the Bayes-optimal predictor, and on the
uniform chain the one-layer construction too, is run on them and pays its cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.contract import Claim, Finding, Scale
from sims.models.one_layer_recall import OneLayerRecall
from sims.outcome import Outcome
from sims.statistics import mean_interval, worst_cell
from sims.streams import torch_generator
from sims.tasks.noisy_recall import Sampler
from theory import noisy_recall as theory
from theory.noisy_recall.bayes import bayes_answers
from theory.noisy_recall.construction import construction as one_layer_weights
from theory.problems import MarkovChain, NoisyRecall

NAME = "recall_data"
VALUE_SCALES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
ATTENTION_SCALE = 60.0
"""λ of the construction: e^−30 of the attention is elsewhere, below float64's resolution of a loss."""


@dataclass(frozen=True)
class Config:
    """One sample of sequences.

    - `chain`: "uniform", "zipf_dirichlet" (n_tokens tokens) or "tiny_shakespeare" (65 characters).
    - `version`: "theory" (extra noise token, last token scored) or "experiment" (the noise token is an ordinary one, number
      2, triggers from the second on scored; "!" in Tiny Shakespeare, whose trigger is the space).
    - `n_tokens`, `context_length`, `noise_level`: the problem. `n_sequences`: sequences drawn.
    """

    chain: Literal["uniform", "zipf_dirichlet", "tiny_shakespeare"] = "uniform"
    version: Literal["theory", "experiment"] = "theory"
    n_tokens: int = 16
    context_length: int = 32
    noise_level: float = 0.3
    n_sequences: int = 20_000

    def __post_init__(self) -> None:
        if self.n_sequences < 1:
            raise ValueError(f"n_sequences is {self.n_sequences}; it must be at least 1.")
        _ = self.problem  # which refuses what makes no problem

    @property
    def problem(self) -> NoisyRecall:
        """The problem of this run."""
        if self.chain == "tiny_shakespeare":
            chain = MarkovChain.tiny_shakespeare()
        elif self.chain == "zipf_dirichlet":
            chain = MarkovChain.zipf_dirichlet(self.n_tokens)
        else:
            chain = MarkovChain.uniform(self.n_tokens)
        if self.version == "theory":
            trigger = int(np.argmax(chain.initial))
            return NoisyRecall.theory_version(
                chain.n_tokens, self.context_length, self.noise_level, chain, trigger
            )
        return NoisyRecall.experiment_version(chain, self.context_length, self.noise_level, noise_token=2)


SCALES = {
    "smoke": Scale(
        Config(n_sequences=6000),
        {
            "chain": ("uniform", "tiny_shakespeare"),
            "version": ("theory", "experiment"),
            "noise_level": (0.3,),
        },
        n_seeds=8,
    ),
    "laptop": Scale(
        Config(context_length=64),
        {
            "chain": ("uniform", "zipf_dirichlet", "tiny_shakespeare"),
            "version": ("theory", "experiment"),
            "noise_level": (0.1, 0.3, 0.5, 0.7),
        },
        n_seeds=8,
    ),
    "paper": Scale(
        Config(context_length=256, n_tokens=65, n_sequences=200_000),
        {
            "chain": ("uniform", "zipf_dirichlet", "tiny_shakespeare"),
            "version": ("theory", "experiment"),
            "noise_level": (0.1, 0.3, 0.5, 0.7),
        },
        n_seeds=10,
    ),
}
COMPARED = {"trigger_probability": 0.0, "scored": 0.0, "bayes_loss": 0.0, "construction_loss": 1e-3}
"""Exact, but for the construction, whose float32 logits and finite λ leave less than a thousandth."""


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Trigger frequency by `position`, scored positions a sequence, mean losses per scored position (nats)."""
    return [_one(config, seed, device) for config, seed in runs]


def _one(config: Config, seed: int, device: str) -> xr.Dataset:
    problem = config.problem
    batch = Sampler(problem, device).draw(
        config.n_sequences, torch_generator(NAME, "sequences", seed, device)
    )
    contexts = batch.contexts.cpu().numpy()
    places, answers = bayes_answers(problem, contexts)
    labels = batch.labels.cpu().numpy()[places[:, 0], places[:, 1]]
    losses = -np.log(answers[np.arange(len(labels)), labels])
    construction = np.full(len(VALUE_SCALES), np.nan)
    if problem.is_uniform:
        for place, scale in enumerate(VALUE_SCALES):
            weights = one_layer_weights(problem, scale, ATTENTION_SCALE)
            forward, value, key_query = (
                torch.tensor(one, dtype=torch.float32, device=device)[None]
                for one in (weights.feed_forward, weights.value, weights.key_query)
            )
            model = OneLayerRecall(forward, value, key_query, "both", "both", "both")
            logs = model.logits(batch.contexts[None])[0].double().log_softmax(-1)
            target = logs.gather(1, batch.targets)[:, 0]
            expected = (
                -(1 - problem.noise_level) * target - problem.noise_level * logs[:, problem.noise_token]
            )
            construction[place] = float(expected.mean())
    return xr.Dataset(
        {
            "trigger_probability": ("position", (contexts == problem.trigger).mean(0)),
            "scored": ((), len(places) / len(contexts)),
            "bayes_loss": ((), losses.mean()),
            "construction_loss": ("value_scale", construction),
        },
        {"position": np.arange(1, config.context_length + 1), "value_scale": list(VALUE_SCALES)},
    )


def predict(config: Config) -> xr.Dataset:
    """Theory, exact: marginals averaged over targets, scored positions, Bayes risk, risk of the construction (λ → ∞)."""
    problem = config.problem
    marginal = np.mean(
        [theory.marginals(problem, target)[:, problem.trigger] for target in problem.targets], axis=0
    )
    risk = theory.bayes_risk(problem)
    construction = [
        theory.construction_risk(problem, scale) if problem.is_uniform else np.nan for scale in VALUE_SCALES
    ]
    return xr.Dataset(
        {
            "trigger_probability": ("position", marginal),
            "scored": ((), risk.scored),
            "bayes_loss": ((), risk.risk),
            "unrevealed": ((), risk.unrevealed),
            "construction_loss": ("value_scale", construction),
        },
        {"position": np.arange(1, config.context_length + 1), "value_scale": list(VALUE_SCALES)},
    )


def example(rng: np.random.Generator) -> Config:
    """A random problem, small enough for a check."""
    return Config(
        chain="zipf_dirichlet" if rng.random() < 0.5 else "uniform",
        version="experiment" if rng.random() < 0.5 else "theory",
        n_tokens=int(rng.integers(4, 20)),
        context_length=int(rng.integers(8, 40)),
        noise_level=float(rng.uniform(0.05, 0.9)),
        n_sequences=4000,
    )


def _positions(outcome: Outcome) -> Finding:
    agreement = outcome.agreement
    assert agreement is not None
    gaps = outcome.measured["trigger_probability"] - outcome.predicted["trigger_probability"]
    cells = [str(name) for name in gaps.dims if name != "seed"]
    value, interval = mean_interval(np.asarray(abs(gaps).mean(cells)))
    holds = agreement.holds()
    return Finding(
        value, interval, 0.0, "holds" if holds else "fails",
        f"mean distance of trigger frequencies from theory; worst z of {agreement.n} numbers {agreement.worst_z:.1f}",
    )  # fmt: skip


def _risk(outcome: Outcome) -> Finding:
    gaps = outcome.measured["bayes_loss"] - outcome.predicted["bayes_loss"]
    value, interval = worst_cell(gaps, abs)
    return Finding(
        value, interval, 0.0, "holds" if abs(value) <= 0.01 else "fails",
        "loss of the Bayes-optimal answer minus the exact risk, in nats, worst cell",
    )  # fmt: skip


def _construction(outcome: Outcome) -> Finding:
    cell = outcome.measured.sel(chain="uniform", version="theory")
    line = outcome.predicted.sel(chain="uniform", version="theory")
    last, earlier = VALUE_SCALES[-1], VALUE_SCALES[3]
    drop = cell["construction_loss"].sel(value_scale=earlier) - cell["construction_loss"].sel(
        value_scale=last
    )
    expected = line["construction_loss"].sel(value_scale=earlier) - line["construction_loss"].sel(
        value_scale=last
    )
    ratio = drop / expected
    cells = [str(name) for name in ratio.dims if name != "seed"]
    value, interval = mean_interval(np.asarray(ratio.mean(cells) if cells else ratio))
    return Finding(
        value, interval, 1.0, "holds" if abs(value - 1) <= 0.05 else "fails",
        f"fall of the construction's loss between scales {earlier:g} and {last:g}, measured over predicted",
    )  # fmt: skip


CLAIMS = (
    Claim(
        "C0.10",
        "ours",
        "The sampler draws from the exact law of both versions of the task, on every chain.",
        "No frequency, count or loss differs from theory by more than chance explains at one in a million for all together.",
        _positions,
    ),
    Claim(
        "C0.11",
        "ours",
        "The exact Bayes risk is what the best answer costs, in both versions.",
        "Mean loss of the Bayes-optimal predictor within 0.01 nats of the exact risk in every cell.",
        _risk,
    ),
    Claim(
        "C0.12",
        "ours",
        "One layer can answer as well as can be: the construction's excess over the Bayes risk falls as predicted.",
        "The fall of its loss between two large scales within 5 % of the prediction.",
        _construction,
    ),
)


def risks(outcome: Outcome) -> Figure:
    """Exact Bayes risk against the noise level (line) and the loss of the best answer (points), by chain and version."""
    base = outcome.plan.base
    levels = np.atleast_1d(outcome.measured["noise_level"].values)
    fine = np.linspace(0.02, 0.95, 25)
    figure, axes = plotting.panels(1, 2, width=3.7, height=3.1, sharey=True)
    chains = [str(one) for one in outcome.measured["chain"].values]
    for one, version in zip(axes[0], ("theory", "experiment"), strict=True):
        one.plot(
            fine,
            [theory.entropy(float(level)) for level in fine],
            color=plotting.COLOURS["limit"],
            linestyle="--",
            linewidth=1,
            label="target known",
        )
        for place, chain in enumerate(chains):
            problems = [
                replace(base, chain=chain, version=version, noise_level=float(x)).problem for x in fine
            ]
            colour = plotting.PALETTE[place]
            plotting.draw_theory(
                one, fine, [theory.bayes_risk(problem).risk for problem in problems], color=colour
            )
            points = outcome.measured["bayes_loss"].sel(chain=chain, version=version)
            plotting.draw_simulation(one, points, levels, color=colour, label=chain.replace("_", " "))
        plotting.label_axes(one, title=f"{version} version", x=r"noise level $\alpha$")
    axes[0, 0].set_ylabel("Bayes risk (nats)")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def construction(outcome: Outcome) -> Figure:
    """Excess of the construction over the Bayes risk against its scale, by noise level; lines are exact for λ → ∞."""
    figure, axes = plotting.panels(1, 1, width=5.6, height=3.2)
    one = axes[0, 0]
    cell = outcome.measured.sel(chain="uniform", version="theory")
    line = outcome.predicted.sel(chain="uniform", version="theory")
    for place, level in enumerate(float(x) for x in outcome.measured["noise_level"].values):
        colour = plotting.PALETTE[place]
        exact = line["construction_loss"].sel(noise_level=level) - line["bayes_loss"].sel(noise_level=level)
        last = cell["construction_loss"].sel(noise_level=level)
        # The sampled contexts have a Bayes risk of their own; the limit of large scales is the same for both.
        limit = last.isel(value_scale=-1) - exact.isel(value_scale=-1)
        plotting.draw_theory(one, line["value_scale"], exact, color=colour)
        plotting.draw_simulation(
            one, last - limit, line["value_scale"], color=colour, label=f"$\\alpha={level:g}$"
        )
    plotting.label_axes(one, x=r"scale $\omega$", y="excess risk (nats)", log="y")
    one.legend()
    return figure


FIGURES = {"risks": risks, "construction": construction}
