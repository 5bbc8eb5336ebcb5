"""The recipe of the matching experiments: what each field does, its data, and what is refused."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sims.recipes.matching import MatchingRecipe
from sims.streams import torch_generator
from sims.tasks.pair_chains import PairChains, draw
from tests.sims.small_matching import BASE, batches, begun, recipe, trained


def group(one: MatchingRecipe) -> dict[str, Any]:
    (found,) = begun(one).training.optimiser.param_groups
    return found


def factors(one: MatchingRecipe) -> list[float]:
    schedule = begun(one).training.schedule
    assert schedule is not None
    return [schedule(step) for step in range(12)]


def shape(one: MatchingRecipe, name: str) -> tuple[int, ...]:
    return tuple(begun(one).model.weights[name].shape)


def sentences(one: MatchingRecipe, steps: int = 6) -> set[tuple[int, ...]]:
    return {tuple(row) for tokens, _ in batches(one, steps) for row in tokens[0].tolist()}


def differences(one: MatchingRecipe) -> set[int]:
    """What residues the first batches' pairs have."""
    rows = [np.array(row[: 2 * one.n_pairs]) for row in sentences(one)]
    return {int(step) % one.modulus for row in rows for step in row[1::2] - row[::2]}


def variance(one: MatchingRecipe) -> float:
    return float(begun(one).model.weights["key.0"].detach().square().mean())


Check = Callable[[MatchingRecipe], Any]


FIELDS: dict[str, tuple[Any, Check, Any, Any]] = {
    "n_pairs": (4, lambda one: shape(one, "positions"), (1, 7, 4), (1, 9, 4)),
    "n_steps": (1, lambda one: one.problem.n_starts, 1, 2),
    "mixed": (True, lambda one: {row[-2] for row in sentences(one)} == {1, 2}, False, True),
    "tail": (2, lambda one: one.problem.n_starts, 2, 1),
    "n_distractors": (1, lambda one: batches(one, 1)[0][0].shape, (1, 5, 7), (1, 5, 9)),
    "n_noise_pairs": (2, lambda one: batches(one, 1)[0][0].shape, (1, 5, 7), (1, 5, 11)),
    "n_tokens": (13, lambda one: (max(map(max, sentences(one))), shape(one, "unembedding")), (15, (1, 24, 4)), (16, (1, 25, 4))),
    "first_token": (3, lambda one: (min(map(min, sentences(one))), shape(one, "unembedding")), (4, (1, 24, 4)), (3, (1, 23, 4))),
    "n_unseen_tokens": (9, lambda one: shape(one, "embedding"), (1, 24, 4), (1, 25, 4)),
    "modulus": (4, differences, {0, 1}, {0, 1}),
    "residues": ((1, 2), differences, {0, 1}, {1, 2}),
    "n_train": (4, lambda one: len(sentences(one)) > 4, True, False),
    "width": (6, lambda one: shape(one, "key.1"), (1, 4, 4), (1, 4, 6)),
    "n_layers": (3, lambda one: "value.2" in begun(one).model.weights, False, True),
    "n_heads": (2, lambda one: one.architecture.n_heads, 1, 2),
    "attention_width": (6, lambda one: shape(one, "key.1"), (1, 4, 4), (1, 6, 4)),
    "feed_forward_width": (0, lambda one: "feed_forward_in.0" in begun(one).model.weights, True, False),
    "normalisation": ("pre", lambda one: "final_norm.gain" in begun(one).model.weights, False, True),
    "causal": (False, lambda one: begun(one).model.architecture.causal, True, False),
    "output": ("tied", lambda one: "unembedding" in begun(one).model.weights, True, False),
    "train_embedding": (False, lambda one: begun(one).model.weights["embedding"].requires_grad, True, False),
    "init_exponent": (1.5, lambda one: variance(one) < 4**-2, False, True),
    "noise": ("corrected", lambda one: "key_query_added.1" in begun(one).model.weights, False, True),
    "noise_kind": ("gaussian", lambda one: orthogonal(one), True, False),
    "noise_start": (0.5, lambda one: begun(one).model.weights["value_output_factor"].tolist(), [[1, 1]], [[0.5, 0.5]]),
    "optimiser": ("sgd", lambda one: type(begun(one).training.optimiser), torch.optim.AdamW, torch.optim.SGD),
    "learning_rate": (0.1, lambda one: group(one)["lr"], 0.05, 0.1),
    "weight_decay": (0.3, lambda one: group(one)["weight_decay"], 0.02, 0.3),
    "schedule": ("constant", lambda one: factors(one)[7:10], [3 / 7, 2 / 7, 1 / 7], [1, 1, 1]),
    "warmup_steps": (4, lambda one: factors(one)[0], 1 / 3, 1 / 4),
    "gradient_clip": (0.01, lambda one: begun(one).training.gradient_clip, 1.0, 0.01),
    "batch_size": (6, lambda one: batches(one, 1)[0][0].shape, (1, 5, 7), (1, 6, 7)),
    "final_step": (11, lambda one: factors(one)[10], 0, 1 / 8),
}  # fmt: skip
"""Field → another value, what it changes, and what that is in `BASE` and with the other value."""


WITH: dict[str, dict[str, Any]] = {
    "tail": {"n_pairs": 4},
    "noise_kind": {"noise": "remembered"},
    "noise_start": {"noise": "remembered"},
}
"""What else has to be set for a field to matter."""


def orthogonal(one: MatchingRecipe) -> bool:
    added = begun(one).model.weights["value_output_added.1"][0]
    return torch.allclose(added @ added.T, torch.eye(4), atol=1e-5)


def test_the_table_has_every_field() -> None:
    assert list(FIELDS) == [one.name for one in dataclasses.fields(MatchingRecipe)]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_honoured(name: str) -> None:
    value, check, before, after = FIELDS[name]
    base = recipe(**WITH.get(name, {}))
    changed = dataclasses.replace(base, **{name: value})
    assert check(base) == before
    assert check(changed) == after
    # ... and it reaches the weights: the schedule's fall and end after warm-up.
    one, two = trained(base, 6).weights, trained(changed, 6).weights
    shared = [each for each in one if each in two and "_added" not in each and each != "embedding"]
    assert "key.0" in shared
    assert any(one[each].shape != two[each].shape or not torch.equal(one[each], two[each]) for each in shared)


def test_the_problems_of_training_and_tests() -> None:
    assert BASE.problem == PairChains(3, 2, 1, 0, 12, 0, False, 4, 3, (0, 1))
    assert recipe(modulus=0).problem == dataclasses.replace(BASE.problem, modulus=0, residues=())
    assert BASE.unseen_tokens == PairChains(3, 2, 1, 0, 8, 0, False, 16)
    mixed = recipe(mixed=True, n_noise_pairs=1, n_distractors=1)
    assert mixed.unseen_tokens == PairChains(3, 2, 1, 1, 8, 1, True, 16)
    assert BASE.problem.n_token_ids == BASE.unseen_tokens.first_token
    assert BASE.unseen_tokens.n_token_ids == BASE.architecture.vocabulary_size
    for one in (BASE, mixed):
        assert one.architecture.context_length == one.problem.sentence_length


def test_the_finite_set_is_fixed_and_begins_every_larger_one() -> None:
    """Also beyond the thousand sentences that are drawn in one go; every seed has its own, none twice the same draws."""
    small, large = recipe(n_train=7), recipe(n_train=2003)
    tokens, labels = large.training_set(3)
    assert tokens.shape == (2003, 7)
    assert labels.shape == (2003,)
    for count in (1, 7, 1000, 1001, 2000):
        for found, whole in zip(recipe(n_train=count).training_set(3), (tokens, labels), strict=True):
            assert torch.equal(found, whole[:count])
    assert not torch.equal(tokens[:1000], tokens[1000:2000])
    assert not torch.equal(small.training_set(3)[0], small.training_set(4)[0])
    assert torch.equal(dataclasses.replace(small, learning_rate=0.7, width=8).training_set(3)[0], tokens[:7])
    for row, label in zip(tokens.tolist(), labels.tolist(), strict=True):
        after = {row[place]: row[place + 1] for place in (0, 2, 4)}
        assert after[after[row[-1]]] == label
        assert {(right - left) % 3 for left, right in after.items()} <= {0, 1}
        assert 4 <= min(row) <= max(row) < 16


def test_batches_are_drawn_from_the_finite_set_with_replacement() -> None:
    one = recipe(n_train=7)
    found = batches(one, 9, 2, 6)
    for place, seed in enumerate((2, 6)):
        tokens, labels = one.training_set(seed)
        source = torch_generator("matching", "sentences", seed)
        counts = torch.zeros(7, dtype=torch.int64)
        for batch, right in found:
            rows = torch.randint(7, (5,), generator=source)
            counts[rows] += 1
            assert torch.equal(batch[place], tokens[rows])
            assert torch.equal(right[place], labels[rows])
        assert len(counts.nonzero()) == 7


def test_fresh_sentences_are_keyed_by_recipe_purpose_and_seed_alone() -> None:
    """So that equal seeds see the same sentences whatever the model."""
    sources = [torch_generator("matching", "sentences", seed) for seed in (2, 6)]
    expected = [[draw(BASE.problem, 5, source) for source in sources] for _ in range(3)]
    for fields in (
        {},
        {"width": 8, "normalisation": "pre", "output": "tied"},
        {"learning_rate": 0.7, "schedule": "constant"},
        {"noise": "identity", "init_exponent": 0.9, "n_heads": 2},
    ):
        for (tokens, labels), drawn in zip(batches(recipe(**fields), 3, 2, 6), expected, strict=True):
            assert torch.equal(tokens, torch.stack([one.tokens for one in drawn]))
            assert torch.equal(labels, torch.stack([one.labels for one in drawn]))


@pytest.mark.parametrize(
    "fields",
    [
        {"normalisation": "none"},
        {"feed_forward_width": 0},
        {"n_heads": 2},
        {"output": "tied"},
        {"noise": "corrected"},
        {"train_embedding": False},
        {"n_layers": 3},
        {"n_train": 5},
        {"n_steps": 1, "mixed": True, "residues": (2,)},
    ],
    ids=str,
)
def test_equal_seeds_share_all_weights_that_are_of_one_shape(fields: dict[str, Any]) -> None:
    first, second = (begun(one, 3).model.weights for one in (BASE, recipe(**fields)))
    shared = [name for name in first if name in second and first[name].shape == second[name].shape]
    assert {"embedding", "key.0", "value.1", "attention_output.0"} <= set(shared)
    assert all(torch.equal(first[name], second[name]) for name in shared)


def test_a_tokens_number_of_steps_is_told_before_the_start() -> None:
    """With mixed steps, the labels that the loss asks for are as many steps on as the token says."""
    one = recipe(mixed=True, n_pairs=4, n_steps=3, first_token=5, batch_size=20)
    ((tokens, labels),) = batches(one, 1)
    for row, label in zip(tokens[0].tolist(), labels[0].tolist(), strict=True):
        after, token = {row[place]: row[place + 1] for place in range(0, 8, 2)}, row[-1]
        for _ in range(row[-2]):
            token = after[token]
        assert token == label
        assert label in after  # never the chain's end


BAD = [
    ({"noise": "full"}, "field noise is 'full'; it must be one of none, remembered, corrected, identity."),
    ({"noise_kind": "uniform"}, "field noise_kind is 'uniform'; it must be one of gaussian, orthogonal."),
    ({"noise_start": math.inf}, "noise_start is inf; it must be finite."),
    ({"width": 64.0}, "field width is 64.0; it must be an integer."),
    ({"mixed": 1}, "field mixed is 1; it must be true or false."),
    ({"residues": 1}, "field residues is 1; it must be a tuple, each item an integer."),
    ({"residues": (0.0,)}, "field residues is 0.0; it must be an integer."),
    ({"residues": (0, 3)}, "residues is (0, 3); it must hold different integers from 0 to below modulus = 3."),
    ({"residues": ()}, "residues is empty; a split needs at least one."),
    ({"modulus": -1}, "modulus is -1; it must be at least 0."),
    ({"n_pairs": 2}, "n_pairs is 2; it must be at least 3 (n_steps + tail)."),
    ({"n_steps": 0}, "n_steps is 0; it must be at least 1."),
    ({"tail": 0}, "tail is 0; it must be at least 1."),
    ({"n_distractors": -1}, "n_distractors is -1; it must be at least 0."),
    ({"n_noise_pairs": -1}, "n_noise_pairs is -1; it must be at least 0."),
    ({"n_tokens": 3}, "vocabulary_size is 3; it must be at least 4, the tokens of a sentence."),
    ({"n_unseen_tokens": 3}, "vocabulary_size is 3; it must be at least 4, the tokens of a sentence."),
    ({"n_unseen_tokens": -1}, "n_unseen_tokens is -1; it must be at least 0."),
    ({"first_token": -1}, "first_token is -1; it must be at least 0."),
    ({"first_token": 2, "mixed": True},
     "first_token is 2 with mixed steps; it must be above n_steps = 2, whose numbers are tokens too."),
    ({"n_train": -1}, "n_train is -1; it must be at least 0."),
    ({"width": 0}, "width is 0; it must be at least 1."),
    ({"n_layers": 0}, "n_layers is 0; it must be at least 1."),
    ({"n_heads": 3}, "n_heads is 3; it must divide attention_width = 4."),
    ({"feed_forward_width": -1}, "feed_forward_width is -1; it must be at least 0."),
    ({"normalisation": "rms"}, "field normalisation is 'rms'; it must be one of pre, post, none."),
    ({"output": "linear"}, "field output is 'linear'; it must be one of trained, tied."),
    ({"init_exponent": math.nan}, "init_exponent is nan; it must be finite."),
    ({"optimiser": "lion"}, "field optimiser is 'lion'; it must be one of sgd, adam, adamw."),
    ({"optimiser": "adam"}, "weight_decay is 0.02 with optimiser 'adam'; it must be 0, or use adamw."),
    ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be finite and above 0."),
    ({"weight_decay": -1e-4}, "weight_decay is -0.0001; it must be finite and at least 0."),
    ({"schedule": "step"}, "field schedule is 'step'; it must be one of constant, linear, cosine."),
    ({"warmup_steps": 10}, "warmup_steps is 10; it must be an integer, from 0 to below final_step = 10."),
    ({"gradient_clip": 0.0}, "gradient_clip is 0.0; it must be above 0."),
    ({"gradient_clip": math.nan}, "gradient_clip is nan; it must be above 0."),
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


def test_a_recipe_within_a_config_is_the_recipe() -> None:
    """What a subclass adds is no part of the training, so that experiments share what is stored."""

    @dataclasses.dataclass(frozen=True)
    class More(MatchingRecipe):
        extra: int = 3

    assert More(width=10, extra=4).recipe == MatchingRecipe(width=10)
    assert type(More().recipe) is MatchingRecipe
