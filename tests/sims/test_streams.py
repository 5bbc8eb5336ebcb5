"""Streams: the same for the same key, apart for different keys, and fixed for all time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sims.streams import generator, seed_sequence, torch_generator

KEYS = st.tuples(st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=5), st.integers(0, 2**70))


@settings(deadline=None)
@given(first=KEYS, second=KEYS)
def test_streams_coincide_exactly_when_their_keys_do(
    first: tuple[str, str, int], second: tuple[str, str, int]
) -> None:
    draws = [generator(*key).integers(2**63, size=4) for key in (first, first, second)]
    assert np.array_equal(draws[0], draws[1])
    assert np.array_equal(draws[0], draws[2]) == (first == second)


def test_swapped_experiment_and_purpose_are_another_stream() -> None:
    assert generator("a", "b", 0).random() != generator("b", "a", 0).random()


def test_the_streams_of_records_made_long_ago_are_still_these() -> None:
    # golden values: a change of the keys would silently make all records wrong
    state = seed_sequence("noisy_recall", "data", 3).generate_state(3)
    assert state.tolist() == GOLDEN


GOLDEN = [2718729669, 684921173, 3649174109]


def test_streams_of_different_seeds_are_uncorrelated() -> None:
    draws = np.array([generator("experiment", "data", seed).standard_normal(1000) for seed in range(40)])
    correlations = np.corrcoef(draws)[np.triu_indices(40, 1)]
    assert np.abs(correlations).max() < 6.1 / np.sqrt(1000)  # z of 780 comparisons at 1e-6


def test_torch_generators_follow_the_key() -> None:
    import torch

    draws = [torch.rand(3, generator=torch_generator("a", purpose, 0)) for purpose in ("x", "x", "y")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    "key", [("", "data", 0), ("a", "", 0), ("a", "data", -1), ("a", "data", 1.5), ("a", "b", True)]
)
def test_bad_keys_are_refused(key: tuple[str, str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        generator(*key)
