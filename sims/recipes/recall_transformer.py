"""Training the transformer on noisy in-context recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import ClassVar, Literal

import torch

from sims import fields
from sims.models.transformer import Architecture, Transformer, initialise
from sims.streams import torch_generator
from sims.tasks.noisy_recall import Sampler, scored_loss, scored_places
from sims.training import (
    Started,
    Training,
    check_optimiser,
    make_learning_rate_schedule,
    make_optimiser,
)
from theory.problems import MarkovChain, NoisyRecall

CHARACTER_NOISE_TOKEN = 2
"""The exclamation mark among the characters of Tiny Shakespeare, the noise token of the paper's experiments."""


@dataclass(frozen=True)
class RecallTransformerRecipe:
    """All settings of one training, at most `final_step` steps, on fresh data at every step.

    - `chain`: "shakespeare" (the 65 characters of Tiny Shakespeare), "zipf" or "uniform" over `n_tokens` tokens; the trigger is
      the most frequent token, the noise token is "!" or, on the other chains, the last one. `n_tokens` is 65 for "shakespeare".
    - `context_length`, `noise_level`: the problem, scored at every trigger but the first. `batch_size`: sequences a step.
    - `width`, `feed_forward_0`, `feed_forward_1`, `residual_1`, `query`, `positions`: the two blocks, see `Architecture`.
      `residual_1`: whether the last block's attention is added to the stream or replaces it.
    - `train_embedding`, `train_unembedding`: whether these are trained; positions never are.
    - `optimiser`, `learning_rate`, `momentum`, `weight_decay`, `schedule`, `warmup_steps`: see `sims.training`.
    """

    NAME: ClassVar[str] = "recall_transformer"

    chain: Literal["shakespeare", "zipf", "uniform"] = "shakespeare"
    n_tokens: int = 65
    context_length: int = 64
    noise_level: float = 0.5
    width: int = 64
    feed_forward_0: Literal["none", "linear", "relu"] = "relu"
    feed_forward_1: Literal["none", "linear", "relu"] = "relu"
    residual_1: bool = True
    query: Literal["identity", "trained"] = "identity"
    positions: Literal["random", "sinusoidal"] = "random"
    train_embedding: bool = False
    train_unembedding: bool = False
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    batch_size: int = 64
    final_step: int = 1200

    def __post_init__(self) -> None:
        fields.check(self)
        if self.chain == "shakespeare" and self.n_tokens != 65:
            raise ValueError(
                f"n_tokens is {self.n_tokens} with chain 'shakespeare'; it must be 65, its characters."
            )
        for name in ("batch_size", "final_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        _ = self.architecture, self.problem(self.noise_level)
        check_optimiser(self.optimiser, self.learning_rate, self.momentum, self.weight_decay)
        make_learning_rate_schedule(self.schedule, self.final_step, self.warmup_steps)

    @property
    def architecture(self) -> Architecture:
        """The model."""
        return Architecture(
            vocabulary_size=self.n_tokens,
            context_length=self.context_length,
            width=self.width,
            feed_forward=(self.feed_forward_0, self.feed_forward_1),
            residual=(True, self.residual_1),
            query=self.query,
            positions=self.positions,
        )

    def problem(self, noise_level: float | None = None) -> NoisyRecall:
        """The problem, by default at the noise level of the training; at 0 for clean data."""
        if self.chain == "shakespeare":
            chain, noise_token = MarkovChain.tiny_shakespeare(), CHARACTER_NOISE_TOKEN
        else:
            uniform = self.chain == "uniform"
            chain = (
                MarkovChain.uniform(self.n_tokens) if uniform else MarkovChain.zipf_dirichlet(self.n_tokens)
            )
            noise_token = self.n_tokens - 1
        level = self.noise_level if noise_level is None else noise_level
        return NoisyRecall.experiment_version(chain, self.context_length, level, noise_token)

    @property
    def recipe(self) -> RecallTransformerRecipe:
        """These settings without what a subclass adds to them, as `sims.trained` takes them."""
        names = [one.name for one in dataclass_fields(RecallTransformerRecipe)]
        return RecallTransformerRecipe(**{name: getattr(self, name) for name in names})

    def begin(self, seeds: Sequence[int], device: str) -> Started:
        """Fresh models of these seeds and their training, before the first step."""
        model = initialise(self.architecture, self.NAME, seeds, device)
        frozen = {"positions"}
        frozen |= set() if self.train_embedding else {"embedding"}
        frozen |= set() if self.train_unembedding else {"unembedding"}
        trained = [one for name, one in model.weights.items() if name not in frozen]
        for one in trained:
            one.requires_grad_()
        sampler = Sampler(self.problem(), device)
        draws = [torch_generator(self.NAME, "sequences", seed, device) for seed in seeds]
        training = Training(
            make_optimiser(trained, self.optimiser, self.learning_rate, self.momentum, self.weight_decay),
            lambda: self._loss(model, sampler, draws),
            schedule=make_learning_rate_schedule(self.schedule, self.final_step, self.warmup_steps),
            generators=draws,
        )
        return Started(model, training)

    def _loss(self, model: Transformer, sampler: Sampler, draws: Sequence[torch.Generator]) -> torch.Tensor:
        batches = [sampler.draw(self.batch_size, draw) for draw in draws]
        places = scored_places(torch.stack([batch.scored for batch in batches]))
        logits = model.logits(torch.stack([batch.contexts for batch in batches]), places.at)
        labels = places.of(torch.stack([batch.labels for batch in batches]))
        return scored_loss(logits, labels, places.valid)
