"""Noisy in-context recall: the data, and nothing about how it is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from theory.problems import checks
from theory.problems.markov_chain import MarkovChain

Scored = Literal["last", "repeated"]


@dataclass(frozen=True)
class NoisyRecall:
    """Sequences of a Markov chain in which a trigger is followed by its target, or by the common noise token.

    Every sequence draws a target for each trigger, uniformly from `targets`. Tokens come from `chain`, except after a trigger:
    there the next token is the trigger's target with probability 1 − `noise_level`, and `noise_token` otherwise.

    - `chain`: the Markov chain, over all tokens of the vocabulary, the noise token included.
    - `context_length`: T, tokens that a model sees, an integer ≥ 3, so that a trigger can be seen, answered and seen again.
    - `noise_level`: α, in [0, 1).
    - `triggers`: distinct tokens, at least one. `noise_token`: a token that is no trigger.
    - `targets`: distinct tokens that a target may be, at least one.
    - `scored`: "last": token T is replaced by the (one) trigger and the token after it is to be predicted; "repeated": the
      token after every trigger that has occurred in the sequence before is to be predicted.

    `theory_version` and `experiment_version` make the two that Chen, Bruna and Bietti (arXiv 2406.03068) use. Tokens are numbered
    from 0, positions from 1 to T. Raises ValueError for values outside these ranges.
    """

    chain: MarkovChain
    context_length: int
    noise_level: float
    triggers: tuple[int, ...]
    noise_token: int
    targets: tuple[int, ...]
    scored: Scored

    def __post_init__(self) -> None:
        if not isinstance(self.chain, MarkovChain):
            raise ValueError(f"chain is {self.chain!r}; it must be a MarkovChain.")
        size = self.chain.n_tokens
        if self.scored not in get_args(Scored):
            raise ValueError(f"scored is {self.scored!r}; it must be one of {', '.join(get_args(Scored))}.")
        length = checks.integer("context_length", self.context_length, 1)
        if length < 3:
            raise ValueError(
                f"context_length is {length}; it must be at least 3, for two triggers and a token between."
            )
        object.__setattr__(self, "context_length", length)
        object.__setattr__(self, "noise_level", checks.probability_below_one("noise_level", self.noise_level))
        object.__setattr__(self, "noise_token", _token("noise_token", self.noise_token, size))
        for name in ("triggers", "targets"):
            object.__setattr__(self, name, _tokens(name, getattr(self, name), size))
        if self.noise_token in self.triggers:
            raise ValueError(
                f"noise_token is {self.noise_token}, which is also a trigger; it must be another token."
            )
        if self.scored == "last" and len(self.triggers) != 1:
            raise ValueError(
                f"triggers is {self.triggers}; it must be one token when the last one is scored."
            )

    @classmethod
    def theory_version(
        cls,
        n_tokens: int,
        context_length: int,
        noise_level: float,
        chain: MarkovChain | None = None,
        trigger: int = 0,
    ) -> NoisyRecall:
        """An extra noise token, one trigger, the last token scored; the target is any other ordinary token.

        - `n_tokens`: ordinary tokens N ≥ 3; the noise token is number N. `chain`: over the ordinary tokens, uniform by default;
          after the noise token it starts anew.
        """
        size = checks.integer("n_tokens", n_tokens, 3)
        ordinary = MarkovChain.uniform(size) if chain is None else chain
        if ordinary.n_tokens != size:
            raise ValueError(f"chain has {ordinary.n_tokens} tokens; it must have n_tokens = {size}.")
        place = _token("trigger", trigger, size + 1)
        if place == size:
            raise ValueError(f"trigger is {place}, the noise token; it must be another token.")
        targets = tuple(token for token in range(size) if token != place)
        return cls(ordinary.with_noise_token(), context_length, noise_level, (place,), size, targets, "last")

    @classmethod
    def experiment_version(
        cls,
        chain: MarkovChain,
        context_length: int,
        noise_level: float,
        noise_token: int,
        triggers: Sequence[int] | int = 1,
    ) -> NoisyRecall:
        """The noise token is an ordinary token, any token may be a target, triggers from the second occurrence on are scored.

        - `triggers`: the tokens, or their number: then the most frequent ones (by `chain.initial`), the noise token left out.
        """
        if isinstance(triggers, tuple | list | range | np.ndarray):
            chosen: tuple[int, ...] = tuple(triggers)
        else:
            count = checks.integer("triggers", triggers, 1)
            order = [
                int(token) for token in np.argsort(-chain.initial, kind="stable") if token != noise_token
            ]
            if count > len(order):
                raise ValueError(
                    f"triggers is {count}; it must be at most {len(order)}, the tokens there are."
                )
            chosen = tuple(order[:count])
        return cls(
            chain, context_length, noise_level, chosen, noise_token, tuple(range(chain.n_tokens)), "repeated"
        )

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, the noise token included (N + 1 in the theory version)."""
        return self.chain.n_tokens

    @property
    def trigger(self) -> int:
        """The trigger, when there is one only; ValueError otherwise."""
        if len(self.triggers) != 1:
            raise ValueError(f"triggers is {self.triggers}; this needs a problem with one trigger.")
        return self.triggers[0]

    @property
    def is_uniform(self) -> bool:
        """Whether this is the theory version on the uniform chain, for which closed forms hold."""
        size = self.vocabulary_size - 1
        return (
            self.scored == "last"
            and size >= 3
            and self.noise_token == size
            and len(self.targets) == size - 1
            and set(self.targets) == set(range(size)) - set(self.triggers)
            and self.chain == MarkovChain.uniform(size).with_noise_token()
        )


def _token(name: str, value: object, size: int) -> int:
    place = checks.integer(name, value, 0)
    if place >= size:
        raise ValueError(f"{name} is {place}; it must be one of the {size} tokens, 0 to {size - 1}.")
    return place


def _tokens(name: str, values: object, size: int) -> tuple[int, ...]:
    if not isinstance(values, tuple | list | range | np.ndarray) or len(values) == 0:
        raise ValueError(f"{name} is {values!r}; it must be a tuple of at least one token.")
    singular = name.rstrip("s")
    places = tuple(_token(singular, value, size) for value in values)
    if len(set(places)) < len(places):
        raise ValueError(f"{name} is {places}; each token must stand there once.")
    return places
