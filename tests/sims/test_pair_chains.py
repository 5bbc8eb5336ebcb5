"""Sentences of pairs: what stands where, that every order, start and token is as likely as the others, and no label at an end.

Then pairs that are split by the difference of their tokens, and sentences that tell their number of steps.
"""

import dataclasses
import itertools
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.statistics import z_threshold
from sims.tasks.pair_chains import PairChains, draw


@st.composite
def problems(draw_one: st.DrawFn, **fixed: Any) -> PairChains:
    """With noise pairs, mixed steps, a first token and a split or without; a split leaves each token a successor."""
    steps, tail = draw_one(st.integers(1, 6)), draw_one(st.integers(1, 3))
    pairs = steps + tail + draw_one(st.integers(0, 4))
    fields: dict[str, Any] = {
        "n_distractors": draw_one(st.integers(0, 4)),
        "n_noise_pairs": draw_one(st.integers(0, 3)),
        "mixed": draw_one(st.booleans()),
        "modulus": draw_one(st.sampled_from([0, 0, 1, 2, 5])),
        **fixed,
    }
    modulus = fields["modulus"]
    residues = draw_one(st.permutations(range(modulus)))[: draw_one(st.integers(1, max(modulus, 1)))]
    first = draw_one(st.integers(steps + 1 if fields["mixed"] else 0, 12))
    found = PairChains(
        pairs,
        steps,
        tail,
        vocabulary_size=200,
        **{"residues": tuple(residues), "first_token": first, **fields},
    )
    # Whatever has been drawn, one of modulus tokens in a row follows, and all of a sentence cannot take them all.
    size = max(modulus, 1) * (found.n_distinct + (modulus > 1)) + draw_one(st.integers(0, 5))
    return dataclasses.replace(found, vocabulary_size=size)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def components(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """The chains that pairs make up, as their tokens in order; fails where a token has two successors or predecessors."""
    after = dict(pairs)
    assert len(after) == len(set(after.values())) == len(pairs)
    found = []
    for beginning in set(after) - set(after.values()):
        chain = [beginning]
        while chain[-1] in after:
            chain.append(after[chain[-1]])
        found.append(chain)
    assert sum(len(chain) - 1 for chain in found) == len(pairs)  # no circles
    return found


@given(problem=problems(), seed=st.integers(0, 1000))
def test_what_stands_where(problem: PairChains, seed: int) -> None:
    drawn = draw(problem, 5, generator(seed))
    n_pairs = problem.n_pairs + problem.n_distractors + problem.n_noise_pairs
    assert all(one.dtype == torch.int64 for one in drawn)
    assert drawn.tokens.shape == (5, problem.sentence_length)
    assert problem.sentence_length == 2 * n_pairs + (2 if problem.mixed else 1)
    for tokens, label, chain, start, places, steps in zip(*(one.tolist() for one in drawn), strict=True):
        pairs = [(tokens[2 * place], tokens[2 * place + 1]) for place in range(n_pairs)]
        assert len(set(chain)) == len(chain) == problem.n_pairs + 1
        for number, place in enumerate(places):
            assert pairs[place] == (chain[number], chain[number + 1])
        # What else stands there: the second chain, and pairs that are alone. No token is in two of them.
        others = components([pair for place, pair in enumerate(pairs) if place not in places])
        lengths = Counter(len(one) - 1 for one in others)
        assert lengths == Counter([problem.n_distractors] * (problem.n_distractors > 0)) + Counter(
            [1] * problem.n_noise_pairs
        )
        elsewhere = [token for one in others for token in one]
        assert len({*elsewhere, *chain}) == len(elsewhere) + len(chain) == problem.n_distinct
        used = [*elsewhere, *chain]
        assert problem.first_token <= min(used)
        assert max(used) < problem.n_token_ids == problem.first_token + problem.vocabulary_size
        if problem.modulus:
            assert {(right - left) % problem.modulus for left, right in pairs} <= set(problem.residues)
        assert tokens[-1] == chain[start]
        if problem.mixed:
            assert 1 <= steps <= problem.n_steps
            assert tokens[-2] == steps < problem.first_token
        else:
            assert steps == problem.n_steps
        assert label == chain[start + steps]
        assert start + steps + problem.tail <= problem.n_pairs


@given(problem=problems(n_distractors=0, n_noise_pairs=0), seed=st.integers(0, 1000))
def test_the_sum_of_tokens_finds_the_end_and_never_the_label(problem: PairChains, seed: int) -> None:
    """The shortcut without matching: right minus left tokens. It points at the end, which `tail` keeps from being the label."""
    drawn = draw(problem, 20, generator(seed))
    places = torch.arange(problem.n_pairs)
    found = drawn.tokens[:, 2 * places + 1].sum(1) - drawn.tokens[:, 2 * places].sum(1) + drawn.chain[:, 0]
    assert torch.equal(found, drawn.chain[:, -1])
    assert not (found == drawn.labels).any()


@given(problem=problems(), seed=st.integers(0, 1000))
def test_steps_count_from_the_start(problem: PairChains, seed: int) -> None:
    drawn = draw(problem, 3, generator(seed))
    steps = drawn.steps(problem.n_token_ids)
    for row, chain, start in zip(steps.tolist(), drawn.chain.tolist(), drawn.start.tolist(), strict=True):
        expected = {token: place - start for place, token in enumerate(chain) if place >= start}
        assert row == [expected.get(token, -1) for token in range(problem.n_token_ids)]


@given(problem=problems(modulus=0, mixed=False, n_noise_pairs=0), seed=st.integers(0, 1000))
def test_sentences_of_one_number_of_steps_and_all_pairs_are_drawn_as_ever(
    problem: PairChains, seed: int
) -> None:
    """Records rest on these numbers: tokens are the first places of a permutation, then come the order and the start."""
    source, drawn = generator(seed), draw(problem, 4, generator(seed))
    pairs, second = problem.n_pairs, problem.n_distractors
    keys = torch.rand((4, problem.vocabulary_size), generator=source, dtype=torch.float64).tolist()
    order = torch.rand((4, pairs + second), generator=source, dtype=torch.float64).tolist()
    start = torch.randint(pairs - problem.n_steps - problem.tail + 1, (4,), generator=source).tolist()
    for row in range(4):
        names: list[int] = sorted(range(problem.vocabulary_size), key=keys[row].__getitem__)
        names = [problem.first_token + name for name in names]
        links = [(names[place], names[place + 1]) for place in range(pairs)]
        links += [(names[pairs + 1 + place], names[pairs + 2 + place]) for place in range(second)]
        sentence = [
            token for place in sorted(range(len(links)), key=order[row].__getitem__) for token in links[place]
        ]
        assert drawn.tokens[row].tolist() == [*sentence, names[start[row]]]
        assert int(drawn.labels[row]) == names[start[row] + problem.n_steps]
        assert drawn.chain[row].tolist() == names[: pairs + 1]


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


def largest_z(counts: dict[Any, int], expected: dict[Any, float]) -> float:
    """Of the counts of all cells, whose probabilities are `expected`; no other cell has a count."""
    n = sum(counts.values())
    assert set(counts) <= set(expected)
    assert math.fsum(expected.values()) == pytest.approx(1, rel=1e-12)
    return max(abs(counts.get(cell, 0) - n * p) / math.sqrt(n * p * (1 - p)) for cell, p in expected.items())


def test_mixed_steps_and_their_starts_are_uniform() -> None:
    """Every number of steps, and given it every start that leaves the tail; the label is the end as little as ever."""
    problem, n, seed = PairChains(6, 4, 1, first_token=5, mixed=True), 30_000, 4
    drawn = draw(problem, n, generator(seed))
    expected = {(steps, start): 1 / 4 / (6 - steps) for steps in range(1, 5) for start in range(6 - steps)}
    z = largest_z(Counter(zip(drawn.n_steps.tolist(), drawn.start.tolist(), strict=True)), expected)
    assert z < z_threshold(len(expected)), f"z = {z:.2f}, n = {n}, seed {seed}"
    assert problem.n_starts == 2  # of four steps, the fewest


def test_tokens_of_a_split_are_uniform_on_those_that_may_follow() -> None:
    """Every chain of three tokens, against the product of uniform choices; first_token shifts them all alike."""
    problem, n, seed = PairChains(2, 1, 1, 0, 10, first_token=3, modulus=5, residues=(0, 1, 4)), 40_000, 5
    drawn = draw(problem, n, generator(seed))

    def followers(*before: int) -> list[int]:
        return [one for one in range(10) if one not in before and (one - before[-1]) % 5 in (0, 1, 4)]

    expected = {
        (one + 3, two + 3, three + 3): 1 / 10 / len(followers(one)) / len(followers(one, two))
        for one in range(10)
        for two in followers(one)
        for three in followers(one, two)
    }
    assert len(expected) == 10 * (1 * 4 + 4 * 4)
    z = largest_z(Counter(map(tuple, drawn.chain.tolist())), expected)
    assert z < z_threshold(len(expected)), f"z = {z:.2f}, n = {n}, seed {seed}"


@pytest.mark.parametrize("fields", [{"n_noise_pairs": 1}, {"n_distractors": 1}], ids=str)
def test_a_split_binds_tokens_of_one_pair_and_no_others(fields: dict[str, Any]) -> None:
    """A further pair begins with any token left: of 8 tokens and odd steps, two of five are even where the chain's end is."""
    problem, n, seed = PairChains(2, 1, 1, vocabulary_size=8, modulus=2, residues=(1,), **fields), 10_000, 7
    drawn = draw(problem, n, generator(seed))
    other = 3 - drawn.places.sum(1, keepdim=True)  # of places 0, 1 and 2 the one left
    alike = (drawn.tokens.gather(1, 2 * other)[:, 0] - drawn.chain[:, -1]) % 2 == 0
    z = largest_z(Counter(alike.tolist()), {True: 2 / 5, False: 3 / 5})
    assert z < z_threshold(2 * 2), f"z = {z:.2f}, n = {n}, seed {seed}"


def test_noise_pairs_and_the_second_chain_are_uniform_too() -> None:
    """Every place of a sentence has each token equally often, and the chain's first pair stands at each place equally often."""
    problem, n, seed = PairChains(2, 1, 1, 1, 9, n_noise_pairs=1), 20_000, 6
    drawn = draw(problem, n, generator(seed))
    z = [
        largest_z(Counter(drawn.tokens[:, place].tolist()), dict.fromkeys(range(9), 1 / 9))
        for place in range(problem.sentence_length)
    ]
    z.append(largest_z(Counter(drawn.places[:, 0].tolist()), dict.fromkeys(range(4), 1 / 4)))
    assert max(z) < z_threshold(9 * problem.sentence_length + 4), f"z = {max(z):.2f}, n = {n}, seed {seed}"


@given(problem=problems(), seed=st.integers(0, 1000))
def test_unseen_pairs_are_never_pairs_of_the_training(problem: PairChains, seed: int) -> None:
    if len(problem.residues) == problem.modulus:
        answer = f"residues is {problem.residues}; all pairs are seen, so that none is left over."
        with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
            _ = problem.unseen_pairs
        return
    unseen = problem.unseen_pairs
    assert sorted((*problem.residues, *unseen.residues)) == list(range(problem.modulus))
    assert dataclasses.replace(unseen, residues=problem.residues) == problem
    assert set(unseen.unseen_pairs.residues) == set(problem.residues)
    tokens = draw(unseen, 5, generator(seed)).tokens
    n_pairs = problem.n_pairs + problem.n_distractors + problem.n_noise_pairs
    difference = (tokens[:, 1 : 2 * n_pairs : 2] - tokens[:, : 2 * n_pairs : 2]) % problem.modulus
    assert not set(difference.flatten().tolist()) & set(problem.residues)


def test_the_split_draws_every_pair_of_its_residues_and_no_other() -> None:
    problem = PairChains(3, 1, 1, vocabulary_size=12, modulus=3, residues=(1,))
    for one in (problem, problem.unseen_pairs):
        chain = draw(one, 3000, generator()).chain
        pairs = {
            pair
            for left in range(3)
            for pair in zip(chain[:, left].tolist(), chain[:, left + 1].tolist(), strict=True)
        }
        assert pairs == {
            (a, b) for a in range(12) for b in range(12) if a != b and (b - a) % 3 in one.residues
        }


def test_sentences_that_run_into_a_dead_end_are_drawn_again() -> None:
    """Of tokens 0 … 3 and steps of 1 or 2 upwards there are four chains of three; half of all draws find no way on."""
    problem = PairChains(2, 1, 1, vocabulary_size=4, modulus=8, residues=(1, 2))
    chains = set(map(tuple, draw(problem, 2000, generator()).chain.tolist()))
    assert chains == {(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)}


@pytest.mark.parametrize(("modulus", "residues"), [(5, (0,)), (9, (6,))])
def test_a_split_that_leaves_no_sentence_is_told(modulus: int, residues: tuple[int, ...]) -> None:
    """Of tokens 0 … 4: no other is the same as one; and after one less 3 there is at most one more."""
    problem = PairChains(4, 1, 1, vocabulary_size=5, modulus=modulus, residues=residues)
    answer = f"vocabulary_size is 5; with modulus {modulus} and residues {residues} it leaves no sentence."
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        draw(problem, 2, generator())


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
        (
            {"n_noise_pairs": 2, "vocabulary_size": 12},
            "vocabulary_size is 12; it must be at least 13, the tokens of a sentence.",
        ),
        ({"n_noise_pairs": -1}, "n_noise_pairs is -1; it must be at least 0."),
        ({"first_token": -1}, "first_token is -1; it must be at least 0."),
        ({"modulus": -1}, "modulus is -1; it must be at least 0."),
        ({"modulus": 2.0}, "modulus is 2.0; it must be an integer, at least 0."),
        ({"n_steps": 7, "mixed": True}, "n_pairs is 8; it must be at least 9 (n_steps + tail)."),
        (
            {"mixed": True, "first_token": 4},
            "first_token is 4 with mixed steps; it must be above n_steps = 4, whose numbers are tokens too.",
        ),
        ({"modulus": 5}, "residues is empty; a split needs at least one."),
        *(
            (
                {"modulus": modulus, "residues": residues},
                f"residues is {residues}; it must hold different integers from 0 to below modulus = {modulus}.",
            )
            for modulus, residues in [
                (5, (5,)),
                (5, (-1, 2)),
                (5, (1, 2, 1)),
                (0, (0,)),
                (5, (0.5,)),
                (3, ("1",)),
            ]
        ),
    ],
)
def test_bad_problems_are_refused_in_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        PairChains(**{"n_pairs": 8, "n_steps": 4, **fields})


def test_no_sentences_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^n_sentences is 0; it must be at least 1\.$"):
        draw(PairChains(4, 1), 0, generator())
