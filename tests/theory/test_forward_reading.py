"""Half of the rules: ends of runs against sets of tokens passed on by hand, and the orders that it answers, one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.parallel_reasoning import reaches
from theory.parallel_reasoning.forward_reading import forward_reaches


def by_hand(places: tuple[int, ...], n_layers: int, pauses: tuple[int, ...] = (), before: int = 0) -> int:
    """Steps known to the last slot, by sets: a slot adds what comes after its last token, from earlier slots that hold it.

    Tokens are numbers along the chain; `before` pairs of it come before the start.
    """
    order = np.argsort(places)
    known = [{int(pair), int(pair) + 1} for pair in order] + [{before}]
    for layer in range(1, n_layers):
        after = [set(one) for one in known]
        for slot, own in enumerate(known):
            if slot == len(order) and layer in pauses:
                continue
            for source in known[:slot]:
                if max(own) in source:
                    after[slot] |= {token for token in source if token > max(own)}
        known = after
    return max(known[-1]) - before


@st.composite
def orders(draw: st.DrawFn, most: int = 12) -> tuple[int, ...]:
    return tuple(draw(st.permutations(range(draw(st.integers(1, most))))))


@given(places=orders(), n_layers=st.integers(1, 5), data=st.data())
def test_ends_of_runs_agree_with_sets_of_tokens(
    places: tuple[int, ...], n_layers: int, data: st.DataObject
) -> None:
    pauses = tuple(data.draw(st.sets(st.sampled_from(range(1, n_layers))))) if n_layers > 1 else ()
    expected = by_hand(places, n_layers, pauses)
    assert forward_reaches([places], n_layers, pauses).tolist() == [expected]


@given(places=orders(), n_layers=st.integers(1, 4), data=st.data())
def test_pairs_before_the_start_do_not_matter(
    places: tuple[int, ...], n_layers: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(places) - 1))
    for pauses in ((), (1,))[:n_layers]:
        expected = by_hand(places, n_layers, pauses, before=start)
        assert forward_reaches([places[start:]], n_layers, pauses).tolist() == [expected]


@given(places=orders(16), n_layers=st.integers(1, 5))
def test_bounds(places: tuple[int, ...], n_layers: int) -> None:
    """At least one step a layer, at most the lower bound of the whole rules, and never more than these give."""
    found = int(forward_reaches([places], n_layers)[0])
    whole = int(reaches([places], n_layers)[0])
    free = int(forward_reaches([places], n_layers, causal=False)[0])
    assert free == min(2 ** (n_layers - 1) - 1, len(places))
    assert min(n_layers - 1, len(places)) <= found <= min(2 ** (n_layers - 1) - 1, whole)


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4, 5])
def test_both_bounds_are_attained(n_layers: int) -> None:
    own = np.arange(20)
    assert forward_reaches([own, -own], n_layers).tolist() == [n_layers - 1, 2 ** (n_layers - 1) - 1]


def test_three_layers_are_decided_by_the_last_two_pairs() -> None:
    """All orders of six pairs. Reading twice: 3 iff pair 2 stands before pair 1, else 2. Once: 2 iff pair 1 before pair 0."""
    table = np.array(list(itertools.permutations(range(6))))
    twice, once = forward_reaches(table, 3), forward_reaches(table, 3, pauses=(1,))
    np.testing.assert_array_equal(twice, 2 + (table[:, 2] < table[:, 1]))
    np.testing.assert_array_equal(once, 1 + (table[:, 1] < table[:, 0]))
    assert (twice == 3).mean() == (once == 2).mean() == 0.5
    assert (reaches(table, 3) >= 3).all()
    # Without the mask no order is left out.
    assert set(forward_reaches(table, 3, causal=False)) == {3}
    assert set(forward_reaches(table, 3, (1,), causal=False)) == {2}


def test_the_two_halves_share_the_orders_between_them() -> None:
    """Reading once: slots that read backwards only answer two steps in the other orders (lem-merging, either way round)."""
    for places in itertools.permutations(range(4)):
        order = list(np.argsort(places))
        known = {pair: {pair, pair + 1} for pair in order}
        for pair in order:
            if pair > 0 and order.index(pair - 1) < order.index(pair):
                known[pair] |= {pair - 1}
        backwards = any({0, 2} <= one for one in known.values())
        forwards = forward_reaches([places], 3, pauses=(1,))[0] == 2
        assert backwards != forwards


def test_bad_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"^pauses has 3; its layers must be 1 to 2\.$"):
        forward_reaches([[0, 1]], 3, pauses=(3,))
    with pytest.raises(ValueError, match=r"^n_layers is 0; it must be at least 1\.$"):
        forward_reaches([[0, 1]], 0)
    with pytest.raises(ValueError, match=r"^places has 1 axes; it must have 2"):
        forward_reaches([0, 1], 2)
