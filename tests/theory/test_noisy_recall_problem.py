"""The problem of noisy recall: what it accepts, what it refuses and in which words, and its two versions."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tests.strategies import noisy_recalls
from theory.problems import MarkovChain, NoisyRecall, tiny_shakespeare_characters


def problem(**fields: Any) -> NoisyRecall:
    given_fields: dict[str, Any] = {
        "chain": MarkovChain.uniform(4),
        "context_length": 5,
        "noise_level": 0.3,
        "triggers": (1,),
        "noise_token": 0,
        "targets": (2, 3),
        "scored": "repeated",
    }
    return NoisyRecall(**{**given_fields, **fields})


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"chain": "text"}, r"chain is 'text'; it must be a MarkovChain\."),
        ({"context_length": 2}, "context_length is 2; it must be at least 3"),
        ({"context_length": 0}, "context_length is 0; it must be at least 1"),
        ({"context_length": 4.0}, r"context_length is 4\.0; it must be an integer"),
        ({"context_length": True}, "context_length is True; it must be an integer"),
        ({"noise_level": 1}, r"noise_level is 1; it must be in \[0, 1\)"),
        ({"noise_level": -0.1}, r"noise_level is -0\.1; it must be in \[0, 1\)"),
        ({"noise_level": math.nan}, r"noise_level is nan; it must be in \[0, 1\)"),
        ({"noise_level": "0.3"}, r"noise_level is '0\.3'; it must be a number in \[0, 1\)"),
        ({"triggers": (4,)}, "trigger is 4; it must be one of the 4 tokens, 0 to 3"),
        ({"triggers": (-1,)}, "trigger is -1; it must be at least 0"),
        ({"triggers": (1.0,)}, r"trigger is 1\.0; it must be an integer"),
        ({"triggers": ()}, r"triggers is \(\); it must be a tuple of at least one token"),
        ({"triggers": 1}, "triggers is 1; it must be a tuple of at least one token"),
        ({"triggers": (1, 1)}, r"triggers is \(1, 1\); each token must stand there once"),
        ({"triggers": (1, 0)}, "noise_token is 0, which is also a trigger; it must be another token"),
        ({"triggers": (1, 2), "scored": "last"}, r"triggers is \(1, 2\); it must be one token when the last"),
        ({"noise_token": 4}, "noise_token is 4; it must be one of the 4 tokens, 0 to 3"),
        ({"noise_token": 1}, "noise_token is 1, which is also a trigger; it must be another token"),
        ({"targets": (2, 7)}, "target is 7; it must be one of the 4 tokens"),
        ({"targets": ()}, r"targets is \(\); it must be a tuple of at least one token"),
        ({"targets": (3, 3)}, r"targets is \(3, 3\); each token must stand there once"),
        ({"scored": "all"}, "scored is 'all'; it must be one of last, repeated"),
    ],
)
def test_bad_fields_are_refused_in_one_sentence(fields: dict[str, Any], answer: str) -> None:
    with pytest.raises(ValueError, match=answer) as caught:
        problem(**fields)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ((2, 5, 0.3), "n_tokens is 2; it must be at least 3"),
        ((4, 5, 0.3, MarkovChain.uniform(5)), "chain has 5 tokens; it must have n_tokens = 4"),
        ((4, 5, 0.3, None, 4), "trigger is 4, the noise token; it must be another token"),
        ((4, 5, 0.3, None, 5), "trigger is 5; it must be one of the 5 tokens"),
    ],
)
def test_bad_theory_versions_are_refused(arguments: tuple[Any, ...], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        NoisyRecall.theory_version(*arguments)


@pytest.mark.parametrize(
    ("noise_token", "triggers", "answer"),
    [
        (0, 4, "triggers is 4; it must be at most 3, the tokens there are"),
        (0, 0, "triggers is 0; it must be at least 1"),
        (0, True, r"triggers is True; it must be an integer, at least 1\."),
        (0, 1.5, r"triggers is 1\.5; it must be an integer, at least 1\."),
        (0, "12", r"triggers is '12'; it must be an integer, at least 1\."),
        (9, 1, "noise_token is 9; it must be one of the 4 tokens"),
        (2, (1, 2), "noise_token is 2, which is also a trigger"),
    ],
)
def test_bad_experiment_versions_are_refused(noise_token: int, triggers: Any, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        NoisyRecall.experiment_version(MarkovChain.uniform(4), 5, 0.3, noise_token, triggers)


@given(one=noisy_recalls())
def test_fields_are_plain_and_a_problem_is_a_value(one: NoisyRecall) -> None:
    assert type(one.context_length) is int
    assert type(one.noise_level) is float
    assert all(type(token) is int for token in (one.noise_token, *one.triggers, *one.targets))
    again = dataclasses.replace(one)
    assert one == again
    assert hash(one) == hash(again)
    assert one != dataclasses.replace(one, context_length=one.context_length + 1)
    assert one.vocabulary_size == one.chain.n_tokens
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.noise_level = 0.5  # type: ignore[misc]


def test_numbers_of_other_kinds_are_converted() -> None:
    same = problem(
        context_length=np.int64(5), triggers=np.array([1]), targets=[2, 3], noise_token=np.int32(0)
    )
    assert same == problem()


@given(one=noisy_recalls(versions=("theory",)))
def test_the_theory_version(one: NoisyRecall) -> None:
    size = one.vocabulary_size - 1
    assert one.noise_token == size
    assert one.scored == "last"
    assert one.triggers == (one.trigger,)
    assert set(one.targets) == set(range(size)) - {one.trigger}
    assert not one.chain.transition[:, size].any()
    uniform = np.array_equal(one.chain.transition, MarkovChain.uniform(size).with_noise_token().transition)
    assert one.is_uniform <= uniform


def test_the_theory_version_is_uniform_by_default_alone() -> None:
    assert NoisyRecall.theory_version(4, 5, 0.3).is_uniform
    assert NoisyRecall.theory_version(4, 5, 0.3, trigger=2).is_uniform
    assert not NoisyRecall.theory_version(4, 5, 0.3, MarkovChain.zipf_dirichlet(4)).is_uniform
    base = NoisyRecall.theory_version(4, 5, 0.3)
    assert not dataclasses.replace(base, targets=(1, 2)).is_uniform
    assert not dataclasses.replace(base, targets=(0, 1, 2)).is_uniform
    assert not dataclasses.replace(base, scored="repeated").is_uniform
    assert not dataclasses.replace(base, chain=MarkovChain.uniform(5)).is_uniform


@given(one=noisy_recalls(versions=("experiment",)))
def test_the_experiment_version(one: NoisyRecall) -> None:
    assert one.scored == "repeated"
    assert one.targets == tuple(range(one.vocabulary_size))
    assert one.noise_token not in one.triggers
    assert not one.is_uniform
    if len(one.triggers) > 1:
        with pytest.raises(ValueError, match=r"triggers is .*; this needs a problem with one trigger"):
            _ = one.trigger


def test_the_most_frequent_tokens_are_triggers_without_the_noise_token() -> None:
    chain, names = MarkovChain.tiny_shakespeare(), tiny_shakespeare_characters()
    space, e, t = (names.index(one) for one in " et")
    assert NoisyRecall.experiment_version(chain, 9, 0.3, 2, 3).triggers == (space, e, t)
    assert NoisyRecall.experiment_version(chain, 9, 0.3, space, 2).triggers == (e, t)
    assert NoisyRecall.experiment_version(chain, 9, 0.3, 2).trigger == space
    assert NoisyRecall.experiment_version(MarkovChain.uniform(4), 9, 0.3, 1, 2).triggers == (0, 2)  # ties
    assert NoisyRecall.experiment_version(MarkovChain.uniform(4), 9, 0.3, 1, np.int64(2)).triggers == (0, 2)
