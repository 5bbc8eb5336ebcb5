"""The problem definition: what it accepts, what it refuses and in which words, and that it is a value."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

from tests.strategies import associative_memories
from theory.problems import AssociativeMemory


@settings(deadline=None, max_examples=50)
@given(problem=associative_memories())
def test_fields_are_kept_as_plain_numbers(problem: AssociativeMemory) -> None:
    assert type(problem.n_tokens) is int
    assert type(problem.noise_level) is float
    assert problem.n_classes == problem.n_tokens + 1
    assert problem == AssociativeMemory(problem.n_tokens, problem.noise_level)
    assert hash(problem) == hash(AssociativeMemory(problem.n_tokens, problem.noise_level))


def test_numbers_of_other_kinds_are_converted() -> None:
    assert AssociativeMemory(np.int64(3), np.float32(0.5)) == AssociativeMemory(3, 0.5)
    assert AssociativeMemory(3, Fraction(1, 4)) == AssociativeMemory(3, 0.25)
    assert AssociativeMemory(3, 0).noise_level == 0.0


@pytest.mark.parametrize("n_tokens", [0, -3, True, False, 2.0, 2.5, "2", None, float("nan"), 1j])
def test_bad_n_tokens_is_refused_by_name_and_value(n_tokens: object) -> None:
    with pytest.raises(ValueError, match=r"n_tokens is .*at least 1") as caught:
        AssociativeMemory(n_tokens, 0.3)  # type: ignore[arg-type]
    assert str(n_tokens) in str(caught.value)


@pytest.mark.parametrize(
    "noise_level",
    [1, 1.0, 1.5, -1e-300, -0.2, math.nan, math.inf, True, False, "0.3", None, 0.3j, [0.3]],
)
def test_bad_noise_level_is_refused_by_name_and_value(noise_level: object) -> None:
    with pytest.raises(ValueError, match=r"noise_level is .*in \[0, 1\)") as caught:
        AssociativeMemory(2, noise_level)  # type: ignore[arg-type]
    assert str(noise_level) in str(caught.value)


def test_a_fraction_that_rounds_to_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise_level is .*in \[0, 1\)"):
        AssociativeMemory(2, Fraction(10**30 - 1, 10**30))


def test_a_problem_cannot_be_changed() -> None:
    problem = AssociativeMemory(2, 0.3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.noise_level = 0.5  # type: ignore[misc]
