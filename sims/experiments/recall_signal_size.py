"""Is it the size of the signal or the noise of the gradient that makes the feed-forward matrix learn the noise token first?

Attention is kept uniform; both matrices learn. With equal learning rates the value matrix's signal is N times smaller. With its
rate N times larger the sizes match, while the noise of the gradients, relative to them, is what it was. Batches are small
or large, and the same for both matrices or one for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.contract import Claim, Finding, Scale
from sims.models.one_layer_recall import build
from sims.outcome import Outcome
from sims.probes import noisy_recall as probes
from sims.statistics import mean_interval, worst_cell
from sims.streams import torch_generator
from sims.tasks.noisy_recall import Sampler, last_token_loss
from sims.training import Training, make_optimiser, train
from theory import noisy_recall as theory
from theory.problems import NoisyRecall

NAME = "recall_signal_size"
THEORY_CONTEXTS = 2000


@dataclass(frozen=True)
class Config:
    """Some steps of gradient descent from zero with uniform attention.

    - `n_tokens`, `noise_level`: the problem on the uniform chain; contexts hold 4 n_tokens tokens.
    - `matched`: whether the value matrix's learning rate is n_tokens times the feed-forward matrix's, or the same.
    - `separate`: whether each matrix has a minibatch of its own, so that their noise is independent.
    - `batch_size`: sequences a step. `feed_forward_rate`: learning rate. `final_step`: last step; every step is read.
    """

    n_tokens: int = 16
    noise_level: float = 0.5
    matched: bool = False
    separate: bool = False
    batch_size: int = 512
    feed_forward_rate: float = 0.2
    final_step: int = 30

    def __post_init__(self) -> None:
        for name in ("batch_size", "final_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not (np.isfinite(self.feed_forward_rate) and self.feed_forward_rate > 0):
            raise ValueError(f"feed_forward_rate is {self.feed_forward_rate}; it must be finite and above 0.")
        build(self.problem, 1)

    @property
    def problem(self) -> NoisyRecall:
        """The problem of this run."""
        return NoisyRecall.theory_version(self.n_tokens, 4 * self.n_tokens, self.noise_level)

    @property
    def value_rate(self) -> float:
        """Learning rate of the value matrix."""
        return self.feed_forward_rate * (self.n_tokens if self.matched else 1)


SCALES = {
    "smoke": Scale(
        Config(final_step=15),
        {"n_tokens": (8,), "matched": (False, True), "separate": (False, True), "batch_size": (8, 512)},
        n_seeds=8,
    ),
    "laptop": Scale(
        Config(),
        {
            "n_tokens": (8, 16, 32),
            "matched": (False, True),
            "separate": (False, True),
            "batch_size": (8, 64, 2048),
        },
        n_seeds=30,
    ),
    "paper": Scale(
        Config(),
        {
            "n_tokens": (16, 64, 256),
            "matched": (False, True),
            "separate": (False, True),
            "batch_size": (8, 64, 2048, 65536),
        },
        n_seeds=20,
    ),
}
COMPARED = {"value_share": 0.02, "feed_forward_margin": 0.1, "value_margin": 0.1}
"""Smallest batches: the softmax bends what the noise does to logits, by half its variance (η/(2 m) × steps, some 0.05)."""


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Lead of the noise token over generic ones that each matrix gives, over `step`, and the value matrix's share of it."""
    config = runs[0][0]
    problem = config.problem
    sampler = Sampler(problem, device)
    draws = [torch_generator(NAME, "sequences", seed, device) for _, seed in runs]
    model = build(problem, len(runs), device=device)
    groups = model.parameter_groups(
        feed_forward=config.feed_forward_rate, value=config.value_rate, key_query=0.0
    )
    optimiser = make_optimiser(groups, "sgd", 1.0)

    def loss_of_a_batch(
        feed_forward: torch.Tensor | None = None, value: torch.Tensor | None = None
    ) -> torch.Tensor:
        batches = [sampler.draw(config.batch_size, draw) for draw in draws]
        seen = torch.stack([batch.contexts for batch in batches])
        labels = torch.stack([batch.labels[:, -1] for batch in batches])
        return last_token_loss(model.logits(seen, feed_forward=feed_forward, value=value), labels)

    def loss() -> torch.Tensor:
        if not config.separate:
            return loss_of_a_batch()
        return loss_of_a_batch(value=model.value.detach()) + loss_of_a_batch(
            feed_forward=model.feed_forward.detach()
        )

    def probe() -> dict[str, np.ndarray]:
        classes = probes.order_parameters(model, problem)
        return {
            "feed_forward_margin": classes["feed_forward"][:, 0] - classes["feed_forward"][:, 2],
            "value_margin": value_margin(classes["value"], problem),
        }

    steps = np.arange(1, config.final_step + 1)
    read = train(Training(optimiser, loss), steps, probe)
    read["value_share"] = read["value_margin"] / (read["value_margin"] + read["feed_forward_margin"])
    return [
        xr.Dataset({name: ("step", values[place]) for name, values in read.items()}, {"step": steps})
        for place in range(len(runs))
    ]


def value_margin(value: np.ndarray, problem: NoisyRecall) -> np.ndarray:
    """Lead of the noise token over generic ones in a stationary context (1/(N + 1) of each ordinary token), (…,) from (…, 10)."""
    n = problem.vocabulary_size - 2
    share = 1 / (n + 2)
    noise = value[..., 0] * problem.noise_level + value[..., 1] + n * value[..., 2]
    generic = value[..., 6] * problem.noise_level + value[..., 7] + value[..., 8] + (n - 1) * value[..., 9]
    return share * (noise - generic)


def predict(config: Config) -> xr.Dataset:
    """Theory: full-batch descent of the order parameters, step by step; and 1/(N + 1), or 1/2 when matched, to leading order."""
    problem, steps = config.problem, np.arange(1, config.final_step + 1)
    table = theory.context_table(problem, THEORY_CONTEXTS, np.random.default_rng(0))
    rates = theory.LearningRates(config.feed_forward_rate, config.value_rate, 0.0)
    states = theory.gradient_descent(table, rates, steps)
    forward = np.array([state.feed_forward[0] - state.feed_forward[2] for state in states])
    value = value_margin(np.array([state.value for state in states]), problem)
    leading = 0.5 if config.matched else 1 / (config.n_tokens + 1)
    return xr.Dataset(
        {
            "feed_forward_margin": ("step", forward),
            "value_margin": ("step", value),
            "value_share": ("step", value / (forward + value)),
            "leading_share": ((), leading),
        },
        {"step": steps},
    )


def example(rng: np.random.Generator) -> Config:
    """A random problem, small enough for a check."""
    return Config(
        n_tokens=int(rng.integers(5, 14)),
        noise_level=float(rng.uniform(0.3, 0.7)),
        matched=bool(rng.random() < 0.5),
        batch_size=int(rng.integers(64, 512)),
        final_step=12,
    )


def _share(outcome: Outcome, matched: bool, effect: float) -> Finding:
    cell = outcome.measured["value_share"].sel(matched=matched).isel(step=-1)
    line = outcome.predicted["leading_share"].sel(matched=matched)
    ratio = (cell / line).stack(cell=["n_tokens", "separate", "batch_size"])
    place = int(np.argmax(abs(ratio.mean("seed").values - 1)))
    value, interval = mean_interval(np.asarray(ratio.isel(cell=place)))
    exact = outcome.predicted["value_share"].sel(matched=matched).isel(step=-1) / line
    predicted = float(exact.stack(cell=["n_tokens", "separate", "batch_size"]).isel(cell=place))
    return Finding(
        value, interval, predicted, "holds" if abs(value - 1) <= effect else "fails",
        f"value matrix's share of the noise token's lead over {'1/2' if matched else '1/(N + 1)'}, worst cell",
    )  # fmt: skip


def _batches(outcome: Outcome) -> Finding:
    share = outcome.measured["value_share"].isel(step=-1)
    ratio = share.isel(batch_size=0, drop=True) / share.isel(batch_size=-1, drop=True).mean("seed")
    value, interval = worst_cell(ratio, lambda means: abs(means - 1))
    if not interval[1] - interval[0] <= 0.2:
        return Finding(value, interval, 1.0, "not_measured", "the interval is wider than the effect")
    return Finding(
        value, interval, 1.0, "holds" if abs(value - 1) <= 0.1 else "fails",
        "share at the smallest over share at the largest batch, worst cell",
    )  # fmt: skip


CLAIMS = (
    Claim(
        "C0.21",
        "ours",
        "With equal learning rates the value matrix holds one part in N + 1 of the noise, with matched rates half of it.",
        "Equal rates: share within 20 % of 1/(N + 1), matched rates: within 20 % of 1/2, in every cell.",
        lambda outcome: max(
            (_share(outcome, matched, 0.2) for matched in (False, True)),
            key=lambda one: abs(one.measured - 1),
        ),
    ),
    Claim(
        "C0.22",
        "ours",
        "The noise of the gradients does not decide which matrix learns the noise token: the share does not depend on the batch.",
        "The mean share at the smallest batch is within 10 % of that at the largest, in every cell.",
        _batches,
    ),
)


def shares(outcome: Outcome) -> Figure:
    """The value matrix's share of the noise token's lead against the batch size, equal and matched rates, one colour a size."""
    figure, axes = plotting.panels(1, 2, width=3.6, height=3.0, sharey=True)
    batches = outcome.measured["batch_size"]
    for one, matched in zip(axes[0], (False, True), strict=True):
        for place, n in enumerate(int(size) for size in outcome.measured["n_tokens"].values):
            cell = outcome.measured["value_share"].sel(n_tokens=n, matched=matched).isel(step=-1)
            line = outcome.predicted["value_share"].sel(n_tokens=n, matched=matched).isel(step=-1)
            colour = plotting.PALETTE[place]
            plotting.draw_theory(one, batches, line.sel(separate=False), color=colour)
            plotting.draw_simulation(
                one, cell.sel(separate=False), batches * 0.9, color=colour, label=f"$N={n}$"
            )
            plotting.draw_simulation(
                one,
                cell.sel(separate=True),
                batches * 1.1,
                color=colour,
                markerfacecolor="white",
            )
        title = r"matched, $\eta_V=N\eta_F$" if matched else r"equal rates, $\eta_V=\eta_F$"
        plotting.label_axes(one, title=title, x="batch size", log="x")
    axes[0, 0].set_ylim(0, 0.65)
    axes[0, 0].set_ylabel("share of the value matrix")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


def leads(outcome: Outcome) -> Figure:
    """Leads of the noise token in single runs at the smallest batch, over steps; each matrix has its own minibatches."""
    n = int(outcome.measured["n_tokens"].values[-1])
    batch = int(outcome.measured["batch_size"].values[0])
    figure, axes = plotting.panels(1, 2, width=3.6, height=3.0, sharey=True)
    for one, matched in zip(axes[0], (False, True), strict=True):
        for name, colour, label in (
            ("feed_forward_margin", plotting.COLOURS["noise"], "feed-forward"),
            ("value_margin", plotting.PALETTE[0], "value"),
        ):
            cell = outcome.measured[name].sel(n_tokens=n, matched=matched, separate=True, batch_size=batch)
            line = outcome.predicted[name].sel(n_tokens=n, matched=matched, separate=True, batch_size=batch)
            one.plot(cell["step"], cell.transpose("step", "seed"), color=colour, linewidth=0.6, alpha=0.45)
            plotting.draw_theory(one, line["step"], line, color=colour, label=label)
        title = r"matched, $\eta_V=N\eta_F$" if matched else r"equal rates, $\eta_V=\eta_F$"
        plotting.label_axes(one, title=title, x="step")
    axes[0, 0].set_ylabel("lead of the noise token (nats)")
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {"shares": shares, "leads": leads}
