"""Markov chains: what is refused and in which words, the chains that the book uses, and the table of Tiny Shakespeare."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims.source import ROOT
from tests.strategies import markov_chains
from theory.problems import MarkovChain, tiny_shakespeare_characters
from theory.problems.make_tiny_shakespeare_counts import counts
from theory.problems.markov_chain import TINY_SHAKESPEARE

TEXT = ROOT.parent / "shared/data/tinyshakespeare.txt"
HALF = [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("initial", "transition", "answer"),
    [
        ([1, 0], [[1, 0]], r"transition has shape \(1, 2\); it must be a square matrix\."),
        ([1, 0], [1, 0], r"transition has shape \(2,\); it must be a square matrix\."),
        ([], np.zeros((0, 0)), r"transition has shape \(0, 0\); it must be a square matrix\."),
        ([1], HALF, r"initial has shape \(1,\); it must be \(2,\)"),
        ([[0.5, 0.5]], HALF, r"initial has shape \(1, 2\); it must be \(2,\)"),
        ([0.5, 0.5], [[0.5, 0.5], [1.5, -0.5]], r"transition has an entry -0\.5 in row 1; .*0 at least\."),
        ([1.5, -0.5], HALF, r"initial has an entry -0\.5 in row 0; .*0 at least\."),
        ([0.5, math.nan], HALF, r"initial has an entry nan in row 0; .*must be finite"),
        ([0.5, 0.5], [[0.5, 0.5], [0.5, 0.4]], r"transition has a row 1 with sum 0\.9; it must be 1\."),
        ([0.5, 0.6], HALF, r"initial has a row 0 with sum 1\.1; it must be 1\."),
        ("text", HALF, r"initial and transition must be arrays of numbers\."),
        ([0.5, 0.5], [[0.5, 0.5], [1.0]], r"initial and transition must be arrays of numbers\."),
    ],
)
def test_bad_arrays_are_refused_in_one_sentence(initial: object, transition: object, answer: str) -> None:
    with pytest.raises(ValueError, match=answer) as caught:
        MarkovChain(initial, transition)  # type: ignore[arg-type]
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"n_tokens": 0}, "n_tokens is 0; it must be at least 1"),
        ({"n_tokens": 2.0}, r"n_tokens is 2\.0; it must be an integer"),
        ({"n_tokens": 3, "exponent": -0.5}, r"exponent is -0\.5; it must be finite and at least 0"),
        ({"n_tokens": 3, "exponent": math.inf}, "exponent is inf; it must be finite"),
        ({"n_tokens": 3, "concentration": 0.0}, r"concentration is 0\.0; it must be finite and above 0"),
        ({"n_tokens": 3, "concentration": math.nan}, "concentration is nan; it must be finite"),
        ({"n_tokens": 3, "seed": -1}, "seed is -1; it must be at least 0"),
    ],
)
def test_bad_zipf_fields_are_refused(fields: dict[str, float], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        MarkovChain.zipf_dirichlet(**fields)  # type: ignore[arg-type]


def test_a_token_that_nothing_follows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"transition has no counts in row 1; every token must be followed"):
        MarkovChain.from_counts([1, 2], [[1, 1], [0, 0]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("initial", "transition", "answer"),
    [
        ([0, 0], [[1, 1], [1, 0]], r"initial has no counts; at least one token must have been seen\."),
        ([2, -1], [[1, 1], [1, 0]], r"initial has a count -1\.0; counts must be finite, and 0 at least\."),
        ([1, 1], [[1, 2], [3, -2]], r"transition has a count -2\.0; counts must be finite, and 0 at least\."),
        ([1, math.inf], [[1, 2], [3, 2]], r"initial has a count .*; counts must be finite, and 0 at least\."),
    ],
)
def test_bad_counts_are_refused_in_one_sentence(initial: object, transition: object, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        MarkovChain.from_counts(initial, transition)  # type: ignore[arg-type]


@given(chain=markov_chains(1, 6))
def test_rows_are_probabilities_and_cannot_be_changed(chain: MarkovChain) -> None:
    for array in (chain.initial[None], chain.transition):
        assert array.dtype == np.float64
        assert np.all(array >= 0)
        # A row is divided by its sum: one rounding an entry, and those of the sum.
        np.testing.assert_allclose(array.sum(1), 1, rtol=0, atol=1e-15 * chain.n_tokens)
    with pytest.raises(ValueError, match="read-only"):
        chain.transition[0, 0] = 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        chain.initial = np.ones(1)  # type: ignore[misc]


def test_the_arrays_given_are_copied() -> None:
    rows = np.array(HALF)
    chain = MarkovChain(np.array([0.5, 0.5]), rows)
    rows[0] = [1, 0]
    assert chain.transition.tolist() == HALF


@given(chain=markov_chains(1, 6))
def test_a_chain_is_a_value(chain: MarkovChain) -> None:
    again = MarkovChain(chain.initial, chain.transition)
    # Dividing by a sum of 1 ± 1e-16 once more may move a last bit.
    np.testing.assert_allclose(again.transition, chain.transition, rtol=1e-15)
    assert chain == chain
    assert hash(chain) == hash(chain)
    assert chain != MarkovChain.uniform(chain.n_tokens + 1)
    assert chain != "chain"


def test_equal_chains_are_equal_and_hash_equal() -> None:
    assert MarkovChain.uniform(4) == MarkovChain.uniform(4)
    assert hash(MarkovChain.uniform(4)) == hash(MarkovChain.uniform(4))
    assert MarkovChain.uniform(2) != MarkovChain(np.array([0.25, 0.75]), np.array(HALF))
    assert MarkovChain.zipf_dirichlet(4, seed=1) == MarkovChain.zipf_dirichlet(4, seed=1)
    assert MarkovChain.zipf_dirichlet(4, seed=1) != MarkovChain.zipf_dirichlet(4, seed=2)


@given(size=st.integers(1, 9))
def test_the_uniform_chain(size: int) -> None:
    chain = MarkovChain.uniform(size)
    assert chain.n_tokens == size
    np.testing.assert_allclose(chain.initial, 1 / size, rtol=1e-15)
    np.testing.assert_allclose(chain.transition, 1 / size, rtol=1e-15)


@given(chain=markov_chains(1, 5))
def test_the_noise_token_is_left_as_if_anew_and_never_entered(chain: MarkovChain) -> None:
    size, longer = chain.n_tokens, chain.with_noise_token()
    assert longer.n_tokens == size + 1
    assert not longer.transition[:, size].any()
    assert longer.initial[size] == 0
    # One more division by a sum of about 1.
    np.testing.assert_allclose(longer.initial[:size], chain.initial, rtol=1e-15)
    np.testing.assert_allclose(longer.transition[size, :size], chain.initial, rtol=1e-15)
    np.testing.assert_allclose(longer.transition[:size, :size], chain.transition, rtol=1e-15)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_zipf_has_its_frequencies_and_concentration_makes_rows_alike(exponent: float) -> None:
    size = 40
    chain = MarkovChain.zipf_dirichlet(size, exponent, 0.3)
    ratio = chain.initial[0] / chain.initial
    np.testing.assert_allclose(ratio, np.arange(1.0, size + 1) ** exponent, rtol=1e-12)
    gaps = [
        np.abs(MarkovChain.zipf_dirichlet(size, exponent, one).transition - chain.initial).mean()
        for one in (0.1, 1.0, 10.0, 1000.0)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < gaps[0] / 10


def test_tiny_shakespeare_is_its_text() -> None:
    characters = tiny_shakespeare_characters()
    table = np.loadtxt(TINY_SHAKESPEARE, delimiter=",", dtype=int)
    chain = MarkovChain.tiny_shakespeare()
    assert len(characters) == chain.n_tokens == 65
    assert list(characters) == sorted(characters)
    assert characters[:3] == ("\n", " ", "!")
    assert table[:, 1].sum() == 1_115_394
    assert table[:, 2:].sum() == 1_115_393
    # A character is followed by one each time but the last, and follows one each time but the first.
    assert (table[:, 1] - table[:, 2:].sum(1)).sum() == 1
    assert (table[:, 1] - table[:, 2:].sum(0)).sum() == 1
    assert np.abs(table[:, 2:].sum(1) - table[:, 2:].sum(0)).max() <= 1
    assert characters[int(chain.initial.argmax())] == " "
    q, u = characters.index("q"), characters.index("u")
    assert chain.transition[q, u] > 0.95
    np.testing.assert_allclose(chain.initial, table[:, 1] / 1_115_394, rtol=1e-14)


@pytest.mark.skipif(
    not TEXT.exists(), reason="needs ../shared/data/tinyshakespeare.txt, which is not kept here"
)
def test_the_table_is_remade_from_the_text() -> None:
    table = np.loadtxt(TINY_SHAKESPEARE, delimiter=",", dtype=int)
    np.testing.assert_array_equal(counts(TEXT.read_text(encoding="utf-8")), table)


def test_counts_of_a_text_by_hand() -> None:
    assert counts("abba").tolist() == [[97, 2, 0, 1], [98, 2, 1, 1]]
