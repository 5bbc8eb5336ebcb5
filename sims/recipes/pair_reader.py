"""Training a decoder on sentences whose first layer's work is done: one position a pair, each with both of its tokens.

The layers that are trained are those in which positions read each other, layers 1 … L − 1 of `theory.parallel_reasoning`. There
are no position embeddings: only the causal mask tells the order of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import ClassVar, Literal

import torch
from torch.nn import functional

from sims import fields
from sims.models.decoder import Decoder, DecoderArchitecture, initialise_decoder
from sims.streams import torch_generator
from sims.tasks.pair_chains import PairChains
from sims.tasks.pair_slots import draw_slots, n_ids, slot_features
from sims.training import (
    Started,
    Training,
    check_optimiser,
    make_learning_rate_schedule,
    make_optimiser,
)


@dataclass(frozen=True)
class PairReaderRecipe:
    """All settings of one training, at most `final_step` steps; the loss is the cross-entropy after the question.

    - `n_pairs`, `n_steps`, `tail`, `n_distractors`, `n_tokens`: the sentences, of mixed numbers of steps, see
      `sims.tasks.pair_chains`.
    - `n_layers`: layers of the decoder; with the one whose work is done, L = n_layers + 1. `width` … `init_exponent`: the model,
      see `sims.models.decoder`. Features of slots have fixed orthogonal vectors of norm `feature_norm`, so that the width must
      be at least 2 n_tokens + n_steps.
    - `learning_rate` … `warmup_steps`: see `sims.training`; AdamW. `gradient_clip`: bound on the norm of a seed's gradient.
    """

    NAME: ClassVar[str] = "pair_reader"

    n_pairs: int = 6
    n_steps: int = 4
    tail: int = 2
    n_distractors: int = 6
    n_tokens: int = 14
    n_layers: int = 2
    width: int = 64
    n_heads: int = 2
    attention_width: int = 64
    feed_forward_width: int = 128
    normalisation: Literal["pre", "post", "none"] = "pre"
    causal: bool = True
    init_exponent: float = 0.65
    feature_norm: float = 2.0
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int = 100
    gradient_clip: float = 1.0
    batch_size: int = 128
    final_step: int = 4000

    def __post_init__(self) -> None:
        fields.check(self)
        for name in ("batch_size", "final_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("feature_norm", "gradient_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite and above 0.")
        _ = self.problem, self.architecture
        if self.width < self.n_features:
            raise ValueError(
                f"width is {self.width}; it must be at least {self.n_features} (2 n_tokens + n_steps), so that features have "
                "orthogonal vectors."
            )
        check_optimiser("adamw", self.learning_rate, 0.0, self.weight_decay)
        make_learning_rate_schedule(self.schedule, self.final_step, self.warmup_steps)

    @property
    def n_features(self) -> int:
        """Left tokens, right tokens, numbers of steps."""
        return 2 * self.n_tokens + self.n_steps

    @property
    def problem(self) -> PairChains:
        """The sentences."""
        return PairChains(
            self.n_pairs,
            self.n_steps,
            self.tail,
            self.n_distractors,
            vocabulary_size=self.n_tokens,
            mixed=True,
            first_token=self.n_steps + 1,
        )

    @property
    def architecture(self) -> DecoderArchitecture:
        """The model; its vocabulary is that of slots, the first of whose logits are those of tokens."""
        return DecoderArchitecture(
            vocabulary_size=n_ids(self.problem),
            context_length=self.n_pairs + self.n_distractors + 1,
            width=self.width,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            attention_width=self.attention_width,
            feed_forward_width=self.feed_forward_width,
            normalisation=self.normalisation,
            causal=self.causal,
            init_exponent=self.init_exponent,
        )

    @property
    def recipe(self) -> PairReaderRecipe:
        """These settings without what a subclass adds to them, as `sims.trained` takes them."""
        names = [one.name for one in dataclass_fields(PairReaderRecipe)]
        return PairReaderRecipe(**{name: getattr(self, name) for name in names})

    def begin(self, seeds: Sequence[int], device: str) -> Started:
        """Fresh models of these seeds and their training, before the first step."""
        model = initialise_decoder(self.architecture, self.NAME, seeds, device)
        fixed = {"embedding": self._embedding(seeds).to(model.weights["embedding"])}
        fixed["positions"] = torch.zeros_like(model.weights["positions"])
        model = model.with_weights(fixed)
        trained = [one for name, one in model.weights.items() if name not in fixed]
        for one in trained:
            one.requires_grad_()
        draws = [torch_generator(self.NAME, "sentences", seed, device) for seed in seeds]
        training = Training(
            make_optimiser(trained, "adamw", self.learning_rate, 0.0, self.weight_decay),
            lambda: self._loss(model, draws),
            schedule=make_learning_rate_schedule(self.schedule, self.final_step, self.warmup_steps),
            gradient_clip=self.gradient_clip,
            generators=draws,
        )
        return Started(model, training)

    def _embedding(self, seeds: Sequence[int]) -> torch.Tensor:
        """Rows of slots, the sums of their features' vectors, (seeds, ids, width)."""
        found = []
        for seed in seeds:
            generator = torch_generator(self.NAME, "features", seed)
            drawn = torch.randn(self.width, self.n_features, generator=generator, dtype=torch.float64)
            vectors = torch.linalg.qr(drawn).Q.mT
            found.append(self.feature_norm * slot_features(self.problem) @ vectors)
        return torch.stack(found)

    def _loss(self, model: Decoder, draws: Sequence[torch.Generator]) -> torch.Tensor:
        """Sum over seeds of the mean cross-entropy of a batch."""
        batches = [draw_slots(self.problem, self.batch_size, one) for one in draws]
        ids, labels = (torch.stack([one[place] for one in batches]) for place in (0, 1))
        logits = token_logits(model, ids, self.n_tokens)
        return (
            functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            / self.batch_size
        )


def token_logits(model: Decoder, ids: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Logits of the tokens after each question, (seeds, batch, n_tokens).

    - `ids`: int64 (seeds, batch, slots).
    """
    return model.logits(ids, last=True)[:, :, 0, :n_tokens]
