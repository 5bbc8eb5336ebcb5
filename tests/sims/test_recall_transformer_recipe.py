"""The recipe of the recall transformer: what each field does, what is refused, and steps against loops and differences."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import sims
from sims.models.transformer import Transformer
from sims.recipes.recall_transformer import CHARACTER_NOISE_TOKEN, RecallTransformerRecipe
from sims.streams import torch_generator
from sims.tasks.noisy_recall import Sampler
from sims.training import DivergedError, Started
from tests.sims.small_transformers import by_loop, fingerprint
from theory.problems import MarkovChain

BASE = RecallTransformerRecipe(
    chain="zipf",
    n_tokens=6,
    context_length=8,
    width=4,
    momentum=0.5,
    weight_decay=0.02,
    schedule="linear",
    warmup_steps=3,
    batch_size=5,
    final_step=10,
)
FROZEN = ("embedding", "positions", "unembedding")


def recipe(**fields: Any) -> RecallTransformerRecipe:
    return dataclasses.replace(BASE, **fields)


def begun(one: RecallTransformerRecipe, *seeds: int) -> Started:
    return one.begin(seeds or (0,), "cpu")


def trained(one: RecallTransformerRecipe, step: int, *seeds: int) -> Transformer:
    started = begun(one, *seeds)
    started.training.advance(step)
    return started.model


def group(one: RecallTransformerRecipe) -> dict[str, Any]:
    (found,) = begun(one).training.optimiser.param_groups
    return found


def factors(one: RecallTransformerRecipe) -> list[float]:
    schedule = begun(one).training.schedule
    assert schedule is not None
    return [schedule(step) for step in range(12)]


def names(one: RecallTransformerRecipe) -> set[str]:
    return set(begun(one).model.weights)


Check = Callable[[RecallTransformerRecipe], Any]
FIELDS: dict[str, tuple[Any, Check, Any, Any]] = {
    "chain": ("uniform", lambda one: one.problem().chain, MarkovChain.zipf_dirichlet(6), MarkovChain.uniform(6)),
    "n_tokens": (7, lambda one: begun(one).model.weights["unembedding"].shape, (1, 6, 4), (1, 7, 4)),
    "context_length": (9, lambda one: begun(one).model.weights["positions"].shape, (1, 8, 4), (1, 9, 4)),
    "noise_level": (0.2, lambda one: one.problem().noise_level, 0.5, 0.2),
    "width": (5, lambda one: begun(one).model.weights["key.1"].shape, (1, 4, 4), (1, 5, 5)),
    "feed_forward_0": ("none", lambda one: "feed_forward_out.0" in names(one), True, False),
    "feed_forward_1": ("linear", lambda one: "feed_forward_in.1" in names(one), True, False),
    "residual_1": (False, lambda one: begun(one).model.architecture.residual, (True, True), (True, False)),
    "query": ("trained", lambda one: {"query.0", "query.1"} <= names(one), False, True),
    "positions": ("sinusoidal", lambda one: float(begun(one).model.weights["positions"][0, 0, 1]) == 1, False, True),
    "train_embedding": (True, lambda one: begun(one).model.weights["embedding"].requires_grad, False, True),
    "train_unembedding": (True, lambda one: begun(one).model.weights["unembedding"].requires_grad, False, True),
    "optimiser": ("adamw", lambda one: type(begun(one).training.optimiser), torch.optim.SGD, torch.optim.AdamW),
    "learning_rate": (0.1, lambda one: group(one)["lr"], 0.05, 0.1),
    "momentum": (0.7, lambda one: group(one)["momentum"], 0.5, 0.7),
    "weight_decay": (0.3, lambda one: group(one)["weight_decay"], 0.02, 0.3),
    "schedule": ("constant", lambda one: factors(one)[7:10], [3 / 7, 2 / 7, 1 / 7], [1, 1, 1]),
    "warmup_steps": (4, lambda one: factors(one)[0], 1 / 3, 1 / 4),
    "batch_size": (6, lambda one: first_batch(one).shape, (5, 9), (6, 9)),
    "final_step": (11, lambda one: factors(one)[10], 0, 1 / 8),
}  # fmt: skip
"""Field → another value, what it changes, and what that is in `BASE` and with the other value."""
WITH = {"optimiser": {"momentum": 0.0}}
"""What else has to change with a field."""


def first_batch(one: RecallTransformerRecipe) -> torch.Tensor:
    """The sequences that the training draws first, by way of the sampler itself."""
    seen: list[torch.Tensor] = []
    draw = Sampler.draw

    def watched(self: Sampler, batch_size: int, generator: torch.Generator) -> Any:
        batch = draw(self, batch_size, generator)
        seen.append(batch.sequences)
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "draw", watched)
        trained(one, 1)
    return seen[0]


def test_the_table_below_has_every_field() -> None:
    assert list(FIELDS) == [one.name for one in dataclasses.fields(RecallTransformerRecipe)]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_honoured(name: str) -> None:
    value, check, before, after = FIELDS[name]
    changed = recipe(**{name: value, **WITH.get(name, {})})
    assert check(BASE) == before
    assert check(changed) == after
    # ... and it reaches the weights: momentum from step 2 on, the schedule's fall and end after warm-up.
    others = [trained(one, 6).weights for one in (recipe(**WITH.get(name, {})), changed)]
    shared = [one for one in others[0] if one not in FROZEN and one in others[1]]
    assert any(
        others[0][one].shape != others[1][one].shape or not torch.equal(others[0][one], others[1][one])
        for one in shared
    )


def test_on_shakespeare_the_problem_is_the_papers() -> None:
    problem = RecallTransformerRecipe().problem()
    assert problem.chain == MarkovChain.tiny_shakespeare()
    assert problem.noise_token == CHARACTER_NOISE_TOKEN == 2
    assert problem.trigger == int(np.argmax(problem.chain.initial))
    assert problem.scored == "repeated"
    for chain in ("zipf", "uniform"):
        other = recipe(chain=chain).problem()
        assert (other.trigger, other.noise_token, other.noise_level) == (0, 5, 0.5)
    assert BASE.problem(0.0) == dataclasses.replace(BASE.problem(), noise_level=0.0)


@pytest.mark.parametrize("embedding", [False, True])
@pytest.mark.parametrize("unembedding", [False, True])
def test_what_is_frozen_stays_and_all_else_moves(embedding: bool, unembedding: bool) -> None:
    one = recipe(train_embedding=embedding, train_unembedding=unembedding, query="trained", weight_decay=0.5)
    before, after = begun(one, 0, 1).model, trained(one, 3, 0, 1)
    stays = {"positions"}
    stays |= set() if embedding else {"embedding"}
    stays |= set() if unembedding else {"unembedding"}
    prints = fingerprint(before), fingerprint(after)
    for name in before.weights:
        assert (prints[0][name] == prints[1][name]) == (name in stays), name
        for seed in range(2):
            same = torch.equal(before.weights[name][seed], after.weights[name][seed])
            assert same == (name in stays), (name, seed)


BAD = [
    ({"chain": "english"}, "field chain is 'english'; it must be one of shakespeare, zipf, uniform."),
    ({"width": 64.0}, "field width is 64.0; it must be an integer."),
    ({"residual_1": 1}, "field residual_1 is 1; it must be true or false."),
    ({"learning_rate": "fast"}, "field learning_rate is 'fast'; it must be a number."),
    ({"n_tokens": 64, "chain": "shakespeare"}, "n_tokens is 64 with chain 'shakespeare'; it must be 65, its characters."),
    ({"n_tokens": 1}, "vocabulary_size is 1; it must be at least 2."),
    ({"n_tokens": 0}, "vocabulary_size is 0; it must be at least 2."),
    ({"context_length": 2}, "context_length is 2; it must be at least 3, for two triggers and a token between."),
    ({"context_length": 0}, "context_length is 0; it must be at least 1."),
    ({"noise_level": 1.0}, "noise_level is 1.0; it must be in [0, 1)."),
    ({"noise_level": -0.1}, "noise_level is -0.1; it must be in [0, 1)."),
    ({"noise_level": math.nan}, "noise_level is nan; it must be in [0, 1)."),
    ({"width": 0}, "width is 0; it must be at least 1."),
    ({"width": 5, "positions": "sinusoidal"}, "width is 5 with sinusoidal positions; it must be even."),
    ({"feed_forward_0": "gelu"}, "field feed_forward_0 is 'gelu'; it must be one of none, linear, relu."),
    ({"feed_forward_1": "gelu"}, "field feed_forward_1 is 'gelu'; it must be one of none, linear, relu."),
    ({"query": "none"}, "field query is 'none'; it must be one of identity, trained."),
    ({"positions": "rotary"}, "field positions is 'rotary'; it must be one of random, sinusoidal."),
    ({"optimiser": "lion"}, "field optimiser is 'lion'; it must be one of sgd, adam, adamw."),
    ({"optimiser": "adam", "weight_decay": 0.0},
     "momentum is 0.5 with optimiser 'adam'; it must be 0, as Adam has its own."),
    ({"optimiser": "adam", "momentum": 0.0}, "weight_decay is 0.02 with optimiser 'adam'; it must be 0, or use adamw."),
    ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be finite and above 0."),
    ({"learning_rate": math.nan}, "learning_rate is nan; it must be finite and above 0."),
    ({"learning_rate": math.inf}, "learning_rate is inf; it must be finite and above 0."),
    ({"momentum": 1.0}, "momentum is 1.0; it must be in [0, 1)."),
    ({"momentum": math.nan}, "momentum is nan; it must be in [0, 1)."),
    ({"weight_decay": -1e-4}, "weight_decay is -0.0001; it must be finite and at least 0."),
    ({"weight_decay": math.nan}, "weight_decay is nan; it must be finite and at least 0."),
    ({"schedule": "step"}, "field schedule is 'step'; it must be one of constant, linear, cosine."),
    ({"warmup_steps": 10}, "warmup_steps is 10; it must be an integer, from 0 to below final_step = 10."),
    ({"warmup_steps": -1}, "warmup_steps is -1; it must be an integer, from 0 to below final_step = 10."),
    ({"batch_size": 0}, "batch_size is 0; it must be at least 1."),
    ({"final_step": 0}, "final_step is 0; it must be at least 1."),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "answer"), BAD, ids=[str(one[0]) for one in BAD])
def test_what_makes_no_sense_is_refused_in_one_sentence(fields: dict[str, Any], answer: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        recipe(**fields)


def test_a_seed_must_be_given() -> None:
    with pytest.raises(ValueError, match=r"^seeds is empty; a model needs at least one\.$"):
        BASE.begin((), "cpu")


@pytest.mark.parametrize(
    "fields",
    [
        {"feed_forward_0": "none"},
        {"feed_forward_1": "linear"},
        {"residual_1": False},
        {"query": "trained"},
        {"positions": "sinusoidal"},
        {"train_embedding": True},
        {"chain": "uniform"},
        {"noise_level": 0.1},
        {"context_length": 11},
        {"learning_rate": 0.3, "schedule": "cosine", "batch_size": 9},
    ],
    ids=str,
)
def test_equal_seeds_share_all_weights_that_are_of_one_shape(fields: dict[str, Any]) -> None:
    first, second = (begun(one, 3).model.weights for one in (BASE, recipe(**fields)))
    shared = [
        name
        for name in first
        if name in second
        and first[name].shape == second[name].shape
        and not (name == "positions" and "positions" in fields)
    ]
    assert {"embedding", "unembedding", "key.0", "value.1", "attention_output.0"} <= set(shared)
    assert all(torch.equal(first[name], second[name]) for name in shared)


def test_seeds_and_weights_are_drawn_apart() -> None:
    weights = begun(BASE, 3, 4).model.weights
    alone = begun(BASE, 4).model.weights
    for name, one in weights.items():
        assert torch.equal(one[1:], alone[name])
        assert not torch.equal(one[0], one[1])
    square = [one[0] for one in weights.values() if one.shape[1:] == (4, 4)]
    assert len(square) == 6
    assert not any(torch.equal(one, other) for at, one in enumerate(square) for other in square[:at])


def test_sequences_are_keyed_by_recipe_purpose_and_seed_alone() -> None:
    """So that equal seeds see the same targets at every noise level, and the same sequences whatever the model."""
    sampler, generator = Sampler(BASE.problem()), torch_generator("recall_transformer", "sequences", 0)
    drawn = sampler.draw(BASE.batch_size, generator).sequences
    for fields in (
        {},
        {"width": 6, "feed_forward_1": "none"},
        {"learning_rate": 0.7, "schedule": "constant"},
    ):
        assert torch.equal(first_batch(recipe(**fields)), drawn)
    clean, noisy = first_batch(recipe(noise_level=0.0)), first_batch(recipe(noise_level=0.6))
    assert torch.equal(clean[:, 0], noisy[:, 0])
    agreed = 0
    for one, other in zip(clean.tolist(), noisy.tolist(), strict=True):
        # Up to the first trigger nothing differs; after it the noisy one has the clean one's target, or the noise token.
        if BASE.problem().trigger in one[:-1]:
            place = one.index(BASE.problem().trigger)
            assert other[: place + 1] == one[: place + 1]
            assert other[place + 1] in (one[place + 1], BASE.problem().noise_token)
            agreed += 1
    assert agreed


def by_hand(model: Transformer, seed: int, one: RecallTransformerRecipe, sequences: torch.Tensor) -> float:
    """Loss of one seed on sequences: position by position, in float64."""
    losses = []
    for sequence in sequences.tolist():
        logits, _ = by_loop(model, seed, sequence[:-1])
        seen = False
        for place, token in enumerate(sequence[:-1]):
            if token == one.problem().trigger:
                if seen:
                    scores = logits[place] - logits[place].max()
                    losses.append(math.log(np.exp(scores).sum()) - float(scores[sequence[place + 1]]))
                seen = True
    return math.fsum(losses) / len(losses)


def in_float64(model: Transformer) -> Transformer:
    return model.with_weights({name: weight.detach().double() for name, weight in model.weights.items()})


def sequences_of(one: RecallTransformerRecipe, seed: int) -> torch.Tensor:
    generator = torch_generator(one.NAME, "sequences", seed)
    return Sampler(one.problem()).draw(one.batch_size, generator).sequences


VARIANTS = [
    recipe(),
    recipe(feed_forward_0="linear", feed_forward_1="none", query="trained"),
    recipe(residual_1=False, positions="sinusoidal", train_embedding=True, train_unembedding=True),
]


@pytest.mark.parametrize("one", VARIANTS, ids=["base", "linear", "all trained"])
def test_the_loss_against_a_loop(one: RecallTransformerRecipe) -> None:
    """Of two stacked seeds, whose losses are summed."""
    started = begun(one, 2, 5)
    expected = sum(
        by_hand(in_float64(started.model), at, one, sequences_of(one, seed)) for at, seed in enumerate((2, 5))
    )
    # float32 logits of order ten: a few roundings of 6e-8, relative to ten.
    assert float(started.training.loss().detach()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("one", VARIANTS, ids=["base", "linear", "all trained"])
def test_two_steps_of_sgd_by_finite_differences(one: RecallTransformerRecipe) -> None:
    """The entry that moves most of every trained weight: −rate × factor × (momentum × the last one + slope + decay × weight).

    The slope is a central difference of the loop's loss; the second step is taken from where the training itself was.
    """
    started = begun(one, 2)
    generator = torch_generator(one.NAME, "sequences", 2)
    buffers: dict[str, tuple[float, Any]] = {}
    sampler, h = Sampler(one.problem()), 1e-6
    for step in range(2):
        before = in_float64(started.model)
        started.training.advance(step + 1)
        batch = sampler.draw(one.batch_size, generator).sequences
        for name, weight in started.model.weights.items():
            if not weight.requires_grad:
                continue
            moved = (weight.detach().double() - before.weights[name])[0]
            place = buffers[name][1] if step else np.unravel_index(int(moved.abs().argmax()), moved.shape)
            losses = []
            for sign in (1, -1):
                nudged = before.weights[name].clone()
                nudged[0][place] += sign * h
                losses.append(by_hand(before.with_weights({name: nudged}), 0, one, batch))
            slope = (losses[0] - losses[1]) / (2 * h) + one.weight_decay * float(
                before.weights[name][0][place]
            )
            buffer = slope + (one.momentum * buffers[name][0] if step else 0.0)
            buffers[name] = (buffer, place)
            expected = -one.learning_rate * (step + 1) / one.warmup_steps * buffer
            # Weights of order one are stored in float32 (6e-8 each), slopes to some 1e-6 of themselves; no kink within h.
            assert float(moved[place]) == pytest.approx(expected, rel=1e-4, abs=3e-7), (name, step)
            assert step or abs(expected) > 1e-5


def test_the_scheduled_rate_reaches_the_optimiser() -> None:
    started = begun(recipe(schedule="cosine", warmup_steps=2))
    rates = []
    for step in range(1, 11):
        started.training.advance(step)
        rates.append(started.training.optimiser.param_groups[0]["lr"])
    expected = [0.5, 1.0, *((1 + math.cos(math.pi * (step - 2) / 8)) / 2 for step in range(2, 10))]
    np.testing.assert_allclose(rates, 0.05 * np.array(expected), rtol=1e-14)


@pytest.mark.parametrize("seeds", [(0, 1, 2), (7, 4)])
def test_stacked_seeds_have_the_loss_and_gradient_of_each_alone(seeds: tuple[int, ...]) -> None:
    """Bit for bit on a CPU in gradients and after three steps; the losses' sum to its rounding."""
    together = begun(BASE, *seeds)
    total = together.training.loss()
    total.backward()
    losses = []
    for at, seed in enumerate(seeds):
        alone = begun(BASE, seed)
        loss = alone.training.loss()
        loss.backward()
        losses.append(float(loss.detach()))
        for name, weight in alone.model.weights.items():
            stacked = together.model.weights[name]
            assert (weight.grad is None) == (stacked.grad is None) == (not weight.requires_grad)
            if weight.grad is not None:
                assert stacked.grad is not None
                # Rectangles of scored places differ in size with the company, and zeros are added in another order: float32.
                torch.testing.assert_close(stacked.grad[at], weight.grad[0], rtol=1e-5, atol=1e-7)
    assert float(total.detach()) == pytest.approx(sum(losses), rel=1e-6)


def test_stacked_seeds_are_trained_as_alone() -> None:
    together = trained(BASE, 5, 0, 1, 2)
    for seed in range(3):
        alone = trained(BASE, 5, seed)
        for name, weight in alone.weights.items():
            # As above, over five steps.
            torch.testing.assert_close(
                together.weights[name][seed].detach(), weight[0].detach(), rtol=1e-5, atol=1e-6
            )


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_stored_training_goes_on_bit_for_bit(optimiser: str) -> None:
    """Sequences, momentum and schedule go on where they were."""
    one = recipe(optimiser=optimiser, momentum=0.5 if optimiser == "sgd" else 0.0)
    for step in (2, 5, 9):
        found = sims.trained(one, 3, step)
        expected = trained(one, step, 3)
        assert all(torch.equal(found.weights[name], weight) for name, weight in expected.weights.items())


def test_a_training_that_diverges_stops_and_says_where() -> None:
    started = begun(recipe(learning_rate=1e12, schedule="constant", warmup_steps=0))
    with pytest.raises(DivergedError, match=r"^the loss is not finite at step \d+\.$") as caught:
        started.training.advance(10)
    step = int(re.findall(r"\d+", str(caught.value))[0])
    assert (
        2 <= step <= 5
    )  # the first loss is of fresh weights; powers of 1e12 leave float32 within a few steps
    assert started.training.step == step - 1


def test_a_recipe_within_a_config_is_the_recipe() -> None:
    """What a subclass adds is no part of the training, so that experiments share what is stored."""

    @dataclasses.dataclass(frozen=True)
    class More(RecallTransformerRecipe):
        extra: int = 3

    assert More(width=10, extra=4).recipe == RecallTransformerRecipe(width=10)
    assert type(More().recipe) is RecallTransformerRecipe
