"""Propagation by rule: against sets of tokens position by position, against theory's slots, and what it must not depend on."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.propagation import READINGS, first_knowledge, knowledge, steps_known, wanted
from sims.tasks.pair_chains import PairChains, Sentences, draw
from theory import parallel_reasoning as theory

LAYERS = st.integers(1, 4)


@st.composite
def sentences(draw_one: st.DrawFn, n: int = 3) -> tuple[PairChains, Sentences]:
    steps = draw_one(st.integers(1, 12))
    problem = PairChains(
        steps + 1 + draw_one(st.integers(0, 3)), steps, 1, draw_one(st.integers(0, 4)), vocabulary_size=24
    )
    return problem, draw(problem, n, torch.Generator().manual_seed(draw_one(st.integers(0, 10**6))))


def as_sets(knows: torch.Tensor) -> list[set[int]]:
    assert set(knows.unique().tolist()) <= {0.0, 1.0}
    return [set(np.flatnonzero(row).tolist()) for row in knows.numpy()]


def by_hand(
    tokens: list[int], n_layers: int, causal: bool, reading: str, wants: list[list[set[int]]]
) -> list[set[int]]:
    """The rules as they are written, with sets; `wants[layer][position]`."""
    known = [{token} for token in tokens]
    for position in range(1, len(tokens) - 1, 2):
        known[position].add(tokens[position - 1])
    for layer in range(1, n_layers):
        after = []
        for position, own in enumerate(known):
            others = range(position) if causal else range(len(tokens))
            sources = [other for other in others if other != position and known[other] & own]
            if reading == "all":
                added = set().union(*(known[other] for other in sources))
            else:
                wished = wants[layer][position] if reading == "planned" else set(range(1000))
                gains = [len((known[other] - own) & wished) for other in sources]
                best = max(gains, default=0)
                added = known[sources[gains.index(best)]] if best else set()
            after.append(own | added)
        known = after
    return known


@given(drawn=sentences(n=1), n_layers=LAYERS, causal=st.booleans(), reading=st.sampled_from(READINGS))
def test_against_sets_of_tokens(
    drawn: tuple[PairChains, Sentences], n_layers: int, causal: bool, reading: Any
) -> None:
    _, one = drawn
    steps = one.steps(24)
    wants = [as_sets(wanted(one.tokens, steps, layer)[0]) for layer in range(n_layers)]
    layers = list(knowledge(one.tokens, n_layers, 24, causal, reading, steps))
    assert len(layers) == n_layers
    assert as_sets(layers[-1][0]) == by_hand(one.tokens[0].tolist(), n_layers, causal, reading, wants)


@given(drawn=sentences(n=1), n_layers=LAYERS, causal=st.booleans())
def test_left_positions_change_nothing(
    drawn: tuple[PairChains, Sentences], n_layers: int, causal: bool
) -> None:
    """Theory has slots, one a pair; here the left position of a pair knows, reads and is read too."""
    _, one = drawn
    tokens = one.tokens[0].tolist()
    slots = theory.known_tokens(
        list(zip(tokens[:-1:2], tokens[1:-1:2], strict=True)), tokens[-1], n_layers, causal
    )
    *_, knows = knowledge(one.tokens, n_layers, 24, causal)
    assert as_sets(knows[0])[1:-1:2] + as_sets(knows[0])[-1:] == [set(slot) for slot in slots]


@given(drawn=sentences(n=1), n_layers=LAYERS, causal=st.booleans())
def test_the_plan_reaches_the_lower_bound(
    drawn: tuple[PairChains, Sentences], n_layers: int, causal: bool
) -> None:
    """And the last pair of each block that is whole knows the block, which is why."""
    problem, one = drawn
    steps = one.steps(24)
    length = problem.n_pairs - int(one.start)
    for layer, knows in enumerate(knowledge(one.tokens, n_layers, 24, causal, "planned", steps)):
        reach = int(steps_known(knows[:, -1], steps))
        assert reach == min(2**layer - 1, length)
        for first in range(2**layer, length + 2 - 2**layer, 2**layer):
            pairs = range(int(one.start) + first - 1, int(one.start) + first - 1 + 2**layer)
            latest = max(int(one.places[0, pair]) for pair in pairs)
            block = {int(one.chain[0, token]) for token in (*pairs, pairs[-1] + 1)}
            assert as_sets(knows[0])[2 * latest + 1] == block


@given(drawn=sentences(), n_layers=LAYERS, causal=st.booleans(), reading=st.sampled_from(READINGS))
def test_one_sentence_or_many_and_no_knowledge_is_lost_or_made_up(
    drawn: tuple[PairChains, Sentences], n_layers: int, causal: bool, reading: Any
) -> None:
    _, all_of_them = drawn
    steps = all_of_them.steps(24)
    together = list(knowledge(all_of_them.tokens, n_layers, 24, causal, reading, steps))
    for before, after in itertools.pairwise(together):
        assert (after >= before).all()
    for row in range(len(steps)):
        *_, alone = knowledge(all_of_them.tokens[row, None], n_layers, 24, causal, reading, steps[row, None])
        assert torch.equal(alone[0], together[-1][row])
        own = set(all_of_them.chain[row].tolist())
        assert as_sets(alone[0])[-1] <= own, "a token of the second chain came through"


@given(drawn=sentences(n=2), n_layers=LAYERS, seed=st.integers(0, 100), reading=st.sampled_from(READINGS))
def test_names_of_tokens_do_not_matter(
    drawn: tuple[PairChains, Sentences], n_layers: int, seed: int, reading: Any
) -> None:
    _, one = drawn
    names = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    renamed = one._replace(tokens=names[one.tokens], chain=names[one.chain])
    *_, before = knowledge(one.tokens, n_layers, 24, True, reading, one.steps(24))
    *_, after = knowledge(renamed.tokens, n_layers, 24, True, reading, renamed.steps(24))
    assert torch.equal(after[..., names], before)


def test_first_knowledge_is_that_of_a_previous_token_layer() -> None:
    knows = first_knowledge(torch.tensor([[3, 1, 1, 4, 3]]), 5)
    assert as_sets(knows[0]) == [{3}, {1, 3}, {1}, {1, 4}, {3}]


def test_steps_known_stop_at_a_gap() -> None:
    steps = torch.tensor([[2, 0, 1, -1, 3], [0, 1, -1, -1, 2]])
    known = torch.tensor([[0.0, 1, 1, 1, 1], [0, 1, 1, 0, 1]])
    assert steps_known(known, steps).tolist() == [1, -1]
    assert steps_known(torch.ones(2, 5), steps).tolist() == [3, 2]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"n_layers": 0}, "n_layers is 0; it must be at least 1."),
        ({"reading": "some"}, "reading is 'some'; it must be one of all, greedy, planned."),
        (
            {"reading": "planned"},
            "steps is None; the planned reading needs the number of steps of each token.",
        ),
        (
            {"tokens": torch.tensor([[0, 1]])},
            "tokens has 2 positions; it must have an odd number, two a pair and one.",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    given_fields = {"tokens": torch.tensor([[0, 1, 0]]), "n_layers": 2, "vocabulary_size": 3, **fields}
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        next(knowledge(**given_fields))
