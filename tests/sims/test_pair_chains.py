"""Sentences of pairs: what stands where, that every order, start and token is as likely as the others, and no label at an end."""

import dataclasses
import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.statistics import z_threshold
from sims.tasks.pair_chains import PairChains, draw


@st.composite
def problems(draw_one: st.DrawFn) -> PairChains:
    steps, tail = draw_one(st.integers(1, 6)), draw_one(st.integers(1, 3))
    pairs = steps + tail + draw_one(st.integers(0, 4))
    found = PairChains(pairs, steps, tail, draw_one(st.integers(0, 4)))
    return dataclasses.replace(found, vocabulary_size=found.n_distinct + draw_one(st.integers(0, 5)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(problem=problems(), seed=st.integers(0, 1000))
def test_what_stands_where(problem: PairChains, seed: int) -> None:
    drawn = draw(problem, 5, generator(seed))
    assert drawn.tokens.shape == (5, problem.sentence_length)
    for tokens, label, chain, start, places in zip(*(one.tolist() for one in drawn), strict=True):
        pairs = list(zip(tokens[:-1:2], tokens[1:-1:2], strict=True))
        assert len(set(chain)) == problem.n_pairs + 1
        for number, place in enumerate(places):
            assert pairs[place] == (chain[number], chain[number + 1])
        others = [pair for place, pair in enumerate(pairs) if place not in places]
        assert len(others) == problem.n_distractors
        beginnings = {left for left, _ in others} - {right for _, right in others}
        assert len(beginnings) == min(problem.n_distractors, 1)  # one chain
        elsewhere = {token for pair in others for token in pair}
        assert len(elsewhere | set(chain)) == problem.n_distinct
        assert max(tokens) < problem.vocabulary_size
        assert tokens[-1] == chain[start]
        assert label == chain[start + problem.n_steps]
        assert start + problem.n_steps + problem.tail <= problem.n_pairs


@given(problem=problems(), seed=st.integers(0, 1000))
def test_the_sum_of_tokens_finds_the_end_and_never_the_label(problem: PairChains, seed: int) -> None:
    """The shortcut without matching: right minus left tokens. It points at the end, which `tail` keeps from being the label."""
    problem = dataclasses.replace(problem, n_distractors=0)
    drawn = draw(problem, 20, generator(seed))
    found = drawn.tokens[:, 1:-1:2].sum(1) - drawn.tokens[:, 0:-1:2].sum(1) + drawn.chain[:, 0]
    assert torch.equal(found, drawn.chain[:, -1])
    assert not (found == drawn.labels).any()


@given(problem=problems(), seed=st.integers(0, 1000))
def test_steps_count_from_the_start(problem: PairChains, seed: int) -> None:
    drawn = draw(problem, 3, generator(seed))
    steps = drawn.steps(problem.vocabulary_size)
    for row, chain, start in zip(steps.tolist(), drawn.chain.tolist(), drawn.start.tolist(), strict=True):
        expected = {token: place - start for place, token in enumerate(chain) if place >= start}
        assert row == [expected.get(token, -1) for token in range(problem.vocabulary_size)]


def test_orders_starts_and_tokens_are_uniform() -> None:
    problem, n, seed = PairChains(4, 1, 1, 0, 7), 24_000, 3
    drawn = draw(problem, n, generator(seed))
    counts = [
        [(drawn.places == torch.tensor(order)).all(1).sum() for order in itertools.permutations(range(4))],
        np.bincount(drawn.start, minlength=3),
        np.bincount(drawn.chain[:, 2], minlength=7),
    ]
    threshold = z_threshold(24 + 3 + 7)
    for numbers in counts:
        assert sum(map(int, numbers)) == n
        p = 1 / len(numbers)
        z = max(abs(float(one) / n - p) for one in numbers) / math.sqrt(p * (1 - p) / n)
        assert z < threshold, f"z = {z:.2f}, n = {n}, seed {seed}"


def test_sentences_follow_their_seed() -> None:
    problem = PairChains(6, 2, 2, 2)
    one, two, three = (draw(problem, 8, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.tokens, three.tokens)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"n_pairs": 5}, "n_pairs is 5; it must be at least 6 (n_steps + tail)."),
        ({"n_steps": 0}, "n_steps is 0; it must be at least 1."),
        ({"tail": 0}, "tail is 0; it must be at least 1."),
        ({"n_distractors": -1}, "n_distractors is -1; it must be at least 0."),
        ({"n_pairs": 6.0}, "n_pairs is 6.0; it must be an integer, at least 1."),
        (
            {"n_distractors": 3, "vocabulary_size": 12},
            "vocabulary_size is 12; it must be at least 13, the tokens of a sentence.",
        ),
    ],
)
def test_bad_problems_are_refused_in_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        PairChains(**{"n_pairs": 8, "n_steps": 4, **fields})


def test_no_sentences_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^n_sentences is 0; it must be at least 1\.$"):
        draw(PairChains(4, 1), 0, generator())
