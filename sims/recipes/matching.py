"""Training a decoder to follow chains of pairs, on fresh sentences or on a finite set of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import ClassVar, Literal

import torch
from torch.nn import functional

from sims import fields
from sims.interventions.orthogonal_noise import with_noise
from sims.models.decoder import Decoder, DecoderArchitecture, initialise_decoder
from sims.streams import torch_generator
from sims.tasks.pair_chains import PairChains, draw
from sims.training import (
    Started,
    Training,
    check_optimiser,
    make_learning_rate_schedule,
    make_optimiser,
)


@dataclass(frozen=True)
class MatchingRecipe:
    """All settings of one training, at most `final_step` steps; the loss is the cross-entropy at the last position alone.

    - `n_pairs`, `n_steps`, `mixed`, `tail`, `n_distractors`, `n_noise_pairs`: the sentences, see `sims.tasks.pair_chains`.
    - `n_tokens`, `first_token`: tokens of the training. `n_unseen_tokens`: further ones that never occur in it, for tests.
    - `modulus`, `residues`: the pairs [a][b] of the training have (b − a) mod modulus among the residues.
    - `n_train`: sentences of the training set, drawn once, of which batches are drawn with replacement; 0 for fresh ones.
    - `width` … `init_exponent`: the model, see `sims.models.decoder`. `train_embedding`: whether token embeddings are trained,
      and with a tied output the unembedding.
    - `noise`, `noise_kind`, `noise_start`: "none", or see `sims.interventions.orthogonal_noise`; the factors are trained.
    - `optimiser`, `learning_rate`, `weight_decay`, `schedule`, `warmup_steps`: see `sims.training`. `gradient_clip`: bound on
      the norm of a seed's gradient.
    """

    NAME: ClassVar[str] = "matching"

    n_pairs: int = 4
    n_steps: int = 2
    mixed: bool = False
    tail: int = 1
    n_distractors: int = 0
    n_noise_pairs: int = 0
    n_tokens: int = 80
    first_token: int = 20
    n_unseen_tokens: int = 20
    modulus: int = 5
    residues: tuple[int, ...] = (0, 1, 4)
    n_train: int = 0
    width: int = 64
    n_layers: int = 3
    n_heads: int = 1
    attention_width: int = 64
    feed_forward_width: int = 128
    normalisation: Literal["pre", "post", "none"] = "post"
    causal: bool = True
    output: Literal["trained", "tied"] = "trained"
    train_embedding: bool = True
    init_exponent: float = 0.5
    noise: Literal["none", "remembered", "corrected", "identity"] = "none"
    noise_kind: Literal["gaussian", "orthogonal"] = "orthogonal"
    noise_start: float = 1.0
    optimiser: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    gradient_clip: float = 1.0
    batch_size: int = 256
    final_step: int = 1500

    def __post_init__(self) -> None:
        fields.check(self)
        for name, least in (("batch_size", 1), ("final_step", 1), ("n_train", 0), ("n_unseen_tokens", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not math.isfinite(self.noise_start):
            raise ValueError(f"noise_start is {self.noise_start}; it must be finite.")
        if not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip is {self.gradient_clip}; it must be above 0.")
        _ = self.architecture, self.problem
        if self.n_unseen_tokens:
            _ = self.unseen_tokens
        check_optimiser(self.optimiser, self.learning_rate, 0.0, self.weight_decay)
        make_learning_rate_schedule(self.schedule, self.final_step, self.warmup_steps)

    @property
    def architecture(self) -> DecoderArchitecture:
        """The model, without noise."""
        return DecoderArchitecture(
            vocabulary_size=self.first_token + self.n_tokens + self.n_unseen_tokens,
            context_length=self.problem.sentence_length,
            width=self.width,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            attention_width=self.attention_width,
            feed_forward_width=self.feed_forward_width,
            normalisation=self.normalisation,
            causal=self.causal,
            output=self.output,
            init_exponent=self.init_exponent,
        )

    @property
    def problem(self) -> PairChains:
        """The sentences of the training; `problem.unseen_pairs` are those of the other pairs."""
        return PairChains(
            self.n_pairs,
            self.n_steps,
            self.tail,
            self.n_distractors,
            self.n_tokens,
            self.n_noise_pairs,
            self.mixed,
            self.first_token,
            self.modulus,
            self.residues if self.modulus else (),
        )

    @property
    def unseen_tokens(self) -> PairChains:
        """Sentences of tokens that never occur in the training, of all pairs."""
        return replace(
            self.problem,
            first_token=self.first_token + self.n_tokens,
            vocabulary_size=self.n_unseen_tokens,
            modulus=0,
            residues=(),
        )

    @property
    def recipe(self) -> MatchingRecipe:
        """These settings without what a subclass adds to them, as `sims.trained` takes them."""
        names = [one.name for one in dataclass_fields(MatchingRecipe)]
        return MatchingRecipe(**{name: getattr(self, name) for name in names})

    def begin(self, seeds: Sequence[int], device: str) -> Started:
        """Fresh models of these seeds and their training, before the first step."""
        model = initialise_decoder(self.architecture, self.NAME, seeds, device)
        if self.noise != "none":
            model = with_noise(model, self.noise, self.noise_kind, self.noise_start, self.NAME, seeds)
        frozen = () if self.train_embedding else ("embedding",)
        trained = [one for name, one in model.weights.items() if name not in frozen and "_added." not in name]
        for one in trained:
            one.requires_grad_()
        draws = [torch_generator(self.NAME, "sentences", seed, device) for seed in seeds]
        fixed = [self.training_set(seed, device) for seed in seeds] if self.n_train else []
        training = Training(
            make_optimiser(trained, self.optimiser, self.learning_rate, 0.0, self.weight_decay),
            lambda: self._loss(model, fixed, draws),
            schedule=make_learning_rate_schedule(self.schedule, self.final_step, self.warmup_steps),
            gradient_clip=self.gradient_clip,
            generators=draws,
        )
        return Started(model, training)

    def training_set(self, seed: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (n_train, T) and labels (n_train,) of a seed's finite set; the first sentences of a larger one."""
        drawn = [
            draw(self.problem, 1000, torch_generator(self.NAME, f"training set {part}", seed, device))
            for part in range(-(-self.n_train // 1000))
        ]
        tokens, labels = (torch.cat([one[place] for one in drawn])[: self.n_train] for place in (0, 1))
        return tokens, labels

    def _loss(
        self,
        model: Decoder,
        fixed: Sequence[tuple[torch.Tensor, torch.Tensor]],
        draws: Sequence[torch.Generator],
    ) -> torch.Tensor:
        """Sum over seeds of the mean cross-entropy of a batch."""
        if self.n_train:
            chosen = [
                torch.randint(self.n_train, (self.batch_size,), generator=one, device=one.device)
                for one in draws
            ]
            batches = [(one[0][rows], one[1][rows]) for one, rows in zip(fixed, chosen, strict=True)]
        else:
            batches = [draw(self.problem, self.batch_size, one)[:2] for one in draws]
        tokens, labels = (torch.stack([one[place] for one in batches]) for place in (0, 1))
        logits = model.logits(tokens, last=True)[:, :, 0]
        return (
            functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            / self.batch_size
        )
