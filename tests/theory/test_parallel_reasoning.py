"""Reach of orders of pairs: sets of tokens against ends of runs, bounds over all orders, the law against enumeration and samples.

Nothing here is asked of one algorithm alone: sets are passed on as the rules say, one source a layer is searched for over all
choices, and the law is counted over all orders.
"""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import sympy
from hypothesis import assume, given
from hypothesis import strategies as st

import theory.parallel_reasoning as parallel
from theory.parallel_reasoning import (
    ChainTask,
    bounds,
    chance,
    derivation,
    guessing_accuracy,
    halving_plan,
    known_tokens,
    longest_order,
    mean_reach,
    reach,
    reach_by_sets,
    reach_distribution,
    reaches,
    residuals,
    rule_accuracy,
    sample_reaches,
    shortest_order,
    upper_bound_probability,
)
from theory.parallel_reasoning.rings import ring_accuracy
from theory.symbols import SYMBOLS, symbol

DEPTHS = range(2, 7)
THRESHOLD = 6.0
"""z of 30-odd comparisons with normal tails: a false alarm rate of 2e-9 each, far below 1e-6 for the suite."""


@st.composite
def orders(draw: st.DrawFn, max_pairs: int = 30, min_pairs: int = 1) -> np.ndarray:
    """Places of pairs with gaps: random, nearly in the path's order, or close to the longest order."""
    size = draw(st.integers(min_pairs, max_pairs))
    kind = draw(st.sampled_from(["random", "random", "sorted", "thirds"]))
    if kind == "random":
        places = np.array(draw(st.permutations(range(size))))
    else:
        places = shortest_order(size) if kind == "sorted" else longest_order(5, max(size, 40))[:size]
        for _ in range(draw(st.integers(0, 3))):
            one, other = draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1))
            places[[one, other]] = places[[other, one]]
    return draw(st.integers(-5, 5)) + draw(st.integers(1, 3)) * places


depths = st.integers(1, 5)


def all_orders(n_pairs: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(n_pairs))))


# --- two algorithms


@given(places=orders(), n_layers=depths, causal=st.booleans())
def test_ends_of_runs_agree_with_sets_of_tokens(places: np.ndarray, n_layers: int, causal: bool) -> None:
    assert reach(places, n_layers, causal) == reach_by_sets(places, n_layers, causal)


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
@pytest.mark.parametrize("causal", [True, False])
def test_both_agree_on_all_orders_of_five_and_six_pairs(n_layers: int, causal: bool) -> None:
    for size in (5, 6):
        table = all_orders(size)
        found = reaches(table, n_layers, causal)
        chosen = slice(None, None, 1 if size == 5 else 7)
        assert [reach_by_sets(row, n_layers, causal) for row in table[chosen]] == found[chosen].tolist()


def test_many_orders_at_a_time_are_each_alone() -> None:
    table = np.random.default_rng(3).permuted(np.tile(np.arange(41), (30, 1)), axis=1)
    for n_layers in (1, 3, 5):
        assert reaches(table, n_layers).tolist() == [reach(row, n_layers) for row in table]


def test_no_pairs_and_no_orders() -> None:
    assert reach(np.array([], int), 4) == reach_by_sets(np.array([], int), 4) == 0
    assert reaches(np.empty((0, 5), int), 4).shape == (0,)
    assert reach([], 3) == 0


# --- the bounds


def test_bounds_are_the_sheets_numbers() -> None:
    assert [bounds(n_layers).lower for n_layers in range(1, 7)] == [0, 1, 3, 7, 15, 31]
    assert [bounds(n_layers).upper for n_layers in range(1, 7)] == [0, 1, 4, 13, 40, 121]


@pytest.mark.parametrize("size", range(1, 9))
def test_bounds_over_all_orders(size: int) -> None:
    """All orders of up to eight pairs; a path this short cuts the reach off at its length. Both ends occur."""
    for n_layers in (2, 3, 4):
        found = reaches(all_orders(size), n_layers)
        lower, upper = bounds(n_layers)
        assert found.min() == min(lower, size)
        assert found.max() == min(upper, size)


@given(places=orders(max_pairs=60), n_layers=st.integers(1, 6))
def test_bounds_of_any_order(places: np.ndarray, n_layers: int) -> None:
    lower, upper = bounds(n_layers)
    assert min(lower, len(places)) <= reach(places, n_layers) <= min(upper, len(places))


@pytest.mark.parametrize("n_layers", DEPTHS)
def test_both_bounds_are_attained(n_layers: int) -> None:
    lower, upper = bounds(n_layers)
    for extra in (0, 1, 9):
        longest = longest_order(n_layers, upper + extra)
        assert sorted(longest) == list(range(upper + extra))
        assert reach(longest, n_layers) == upper
        for path in (shortest_order(upper + extra), -shortest_order(upper + extra)):
            assert reach(path, n_layers) == lower
    if n_layers < 6:
        assert reach_by_sets(longest_order(n_layers), n_layers) == upper
        assert reach_by_sets(shortest_order(upper), n_layers) == lower


@pytest.mark.parametrize("n_layers", [3, 4, 5])
def test_thirds_of_the_whole_path_fall_short(n_layers: int) -> None:
    """A19: one run of 3^(L−1) pairs in left/right/middle order gives 3, 9, 27 only: the constructor must cut first."""
    size = 3 ** (n_layers - 1)
    inner = longest_order(n_layers + 1)[bounds(n_layers).upper :]  # its last run, of 3^(L−1) pairs
    assert len(inner) == size
    assert reach(inner, n_layers) == 3 ** (n_layers - 2) < bounds(n_layers).upper


@given(places=orders(), n_layers=depths)
def test_without_the_mask_every_order_attains_the_upper_bound(places: np.ndarray, n_layers: int) -> None:
    upper = bounds(n_layers).upper
    assert reach_by_sets(places, n_layers, causal=False) == min(upper, len(places))


@given(places=orders(max_pairs=45), n_layers=depths)
def test_more_layers_and_no_mask_never_hurt(places: np.ndarray, n_layers: int) -> None:
    assert reach(places, n_layers) <= reach(places, n_layers + 1)
    assert reach(places, n_layers) <= reach(places, n_layers, causal=False)


# --- one source a layer


def furthest_with_one_source(places: np.ndarray, n_layers: int, causal: bool) -> int:
    """Every run that a slot may know when it reads one slot a layer, sources chosen anew for every reader: an upper bound."""
    order = np.argsort(places)
    possible = [{(int(i), int(i) + 1)} for i in order] + [{(0, 0)}]
    for _ in range(n_layers - 1):
        possible = [
            own
            | {
                (min(a, x), max(b, y))
                for other, theirs in enumerate(possible)
                if other < slot or (not causal and other != slot)
                for a, b in own
                for x, y in theirs
                if x <= b and a <= y
            }
            for slot, own in enumerate(possible)
        ]
    return max(b for _, b in possible[-1])


@given(places=orders(max_pairs=9), n_layers=st.integers(1, 4), causal=st.booleans())
def test_no_choice_of_one_source_a_layer_passes_the_lower_bound(
    places: np.ndarray, n_layers: int, causal: bool
) -> None:
    assert furthest_with_one_source(places, n_layers, causal) == min(bounds(n_layers).lower, len(places))


@given(places=orders(max_pairs=40), n_layers=depths)
def test_the_halving_plan_reaches_the_lower_bound_of_every_order(places: np.ndarray, n_layers: int) -> None:
    plan = halving_plan(places, n_layers)
    assert reach_by_sets(places, n_layers, plan=plan) == min(bounds(n_layers).lower, len(places))


# --- what does not matter


@given(
    places=orders(max_pairs=16, min_pairs=2),
    n_layers=st.integers(2, 5),
    causal=st.booleans(),
    data=st.data(),
)
def test_tokens_other_chains_and_pairs_before_the_start_do_not_matter(
    places: np.ndarray, n_layers: int, causal: bool, data: st.DataObject
) -> None:
    """A sentence with renamed tokens, a path that begins before the start, and a second chain, by sets of tokens."""
    start = data.draw(st.integers(0, len(places) - 1))
    names = data.draw(st.permutations(range(100, 125)))
    path = [(names[i], names[i + 1]) for i in np.argsort(places)]
    other = [(200 + i, 201 + i) for i in data.draw(st.permutations(range(5)))]
    sentence = list(path)
    for pair in other:
        sentence.insert(data.draw(st.integers(0, len(sentence))), pair)
    known = known_tokens(sentence, names[start], n_layers, causal)[-1]
    steps = sum(names[i] in known for i in range(start, len(places) + 1)) - 1
    assert steps == reach(places[start:], n_layers, causal)
    assert not known & set(range(200, 206))


@given(places=orders(min_pairs=2), n_layers=st.integers(2, 5), data=st.data())
def test_the_first_pair_may_stand_anywhere(places: np.ndarray, n_layers: int, data: st.DataObject) -> None:
    moved = 2 * places
    moved[0] = 2 * data.draw(st.integers(int(places.min()) - 1, int(places.max()))) + 1
    assert reach(moved, n_layers) == reach(places, n_layers)


@given(places=orders(min_pairs=2), n_layers=st.integers(2, 5), data=st.data())
def test_a_shorter_path_cuts_the_reach_off(places: np.ndarray, n_layers: int, data: st.DataObject) -> None:
    """lem-tail, with and without the mask."""
    size = data.draw(st.integers(1, len(places)))
    for causal in (True, False):
        whole = reach(places, n_layers, causal)
        assert reach(places[:size], n_layers, causal) == min(whole, size)


@given(places=orders(max_pairs=20), n_layers=st.integers(1, 4))
def test_a_slot_further_on_and_later_knows_the_path_further_on(places: np.ndarray, n_layers: int) -> None:
    """lem-order, and that what a slot knows is a run (lem-runs) of pairs of which it is the latest (lem-latest)."""
    order = np.argsort(places)
    known = known_tokens([(int(i), int(i) + 1) for i in order], 0, n_layers)[:-1]
    ends = [(min(own), max(own)) for own in known]
    for slot, (own, (first, last)) in enumerate(zip(known, ends, strict=True)):
        assert own == set(range(first, last + 1))
        assert max(places[first:last]) == places[order[slot]]
        for before in range(slot):
            if order[before] < order[slot]:
                assert ends[before][1] <= last
            else:
                assert ends[before][0] >= first


def test_reversing_the_sentence_changes_the_reach() -> None:
    """Not an invariance: the order that attains four steps in three layers gives three when read from behind."""
    places = longest_order(3)
    assert (reach(places, 3), reach(-places, 3)) == (4, 3)


# --- the law


@pytest.mark.parametrize(("n_layers", "size"), [(2, 4), (3, 3), (3, 4), (3, 6), (4, 7), (4, 8), (4, 9)])
def test_law_against_all_orders(n_layers: int, size: int) -> None:
    """Nine pairs with the first one first, as its place does not matter: 8! orders."""
    table = all_orders(min(size, 8))
    if size == 9:
        table = np.hstack([np.full((len(table), 1), -1), table])
    steps, counts = np.unique(reaches(table, n_layers), return_counts=True)
    enumerated = {
        int(step): Fraction(int(count), len(table)) for step, count in zip(steps, counts, strict=True)
    }
    expected = {min(bounds(n_layers).upper, step): chance for step, chance in enumerated.items()}
    assert reach_distribution(n_layers, size) == expected


def test_law_of_three_layers_is_one_event() -> None:
    """Four steps iff the third pair of the path stands after the second and the fourth."""
    assert reach_distribution(3) == {3: Fraction(2, 3), 4: Fraction(1, 3)}
    table = all_orders(6)
    event = (table[:, 2] > table[:, 1]) & (table[:, 2] > table[:, 3])
    np.testing.assert_array_equal(reaches(table, 3), 3 + event)


def test_law_of_four_layers() -> None:
    law = reach_distribution(4)
    assert law == {
        7: Fraction(1, 5),
        8: Fraction(101, 360),
        9: Fraction(5077, 22680),
        10: Fraction(18787, 113400),
        11: Fraction(118453, 1247400),
        12: Fraction(1649, 53460),
        13: Fraction(1, 243),
    }
    assert sum(law.values()) == 1
    assert reach_distribution(4, 50) == law
    assert reach_distribution(1) == {0: 1}
    for size in (8, 10, 12):
        short = reach_distribution(4, size)
        assert short == {k: p for k, p in law.items() if k < size} | {
            size: sum(p for k, p in law.items() if k >= size)
        }


@pytest.mark.parametrize(("n_layers", "size", "seed"), [(3, 7, 11), (4, 13, 12), (4, 17, 13), (5, 16, 14)])
def test_law_against_samples(n_layers: int, size: int, seed: int) -> None:
    n = 40_000 if n_layers < 5 else 10_000
    drawn = sample_reaches(n_layers, n, np.random.default_rng(seed), size)
    law = reach_distribution(n_layers, size)
    assert set(np.unique(drawn)) <= set(law)
    for steps, exact in law.items():
        p = float(exact)
        z = ((drawn == steps).mean() - p) / math.sqrt(p * (1 - p) / n)
        assert abs(z) < THRESHOLD, f"z = {z:.2f} at {steps} steps, n = {n}, seed {seed}"


def test_samples_notice_a_law_that_is_a_little_off() -> None:
    """The comparison above can fail: the sheet's P(10) = 0.18 instead of 0.166."""
    n = 40_000
    drawn = sample_reaches(4, n, np.random.default_rng(12), 13)
    assert abs((drawn == 10).mean() - 0.18) / math.sqrt(0.18 * 0.82 / n) > THRESHOLD


def test_upper_bound_is_as_rare_as_full_runs() -> None:
    for n_layers in (1, 2, 3, 4):
        law = reach_distribution(n_layers)
        assert law[bounds(n_layers).upper] == upper_bound_probability(n_layers)
    assert upper_bound_probability(5) == Fraction(1, 3**18)


def test_mean_reach_and_its_growth() -> None:
    assert mean_reach(3) == (pytest.approx(10 / 3, rel=1e-15), 0.0)
    assert mean_reach(4).value == pytest.approx(8217901 / 935550, rel=1e-15)
    five = mean_reach(5, 4000, np.random.default_rng(5))
    # 60 000 other orders (seed 2) gave 21.491 ± 0.014.
    assert abs(five.value - 21.491) < THRESHOLD * math.hypot(five.standard_error, 0.014)
    assert 2 < five.value / mean_reach(4).value < 3
    drawn = sample_reaches(5, 300, np.random.default_rng(0))
    assert drawn.shape == (300,)
    assert (sample_reaches(5, 20, np.random.default_rng(0), causal=False) == 40).all()


def test_samples_follow_their_seed() -> None:
    one, two, three = (sample_reaches(4, 200, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert (one == two).all()
    assert (one != three).any()


# --- guessing


def candidates(task: ChainTask, start: int, steps: int, inward: int) -> list[tuple[str, int]]:
    """Tokens that are not ruled out, one by one, by chain and index."""
    chains = {"first": task.n_pairs, "second": task.n_distractors}
    left = []
    for chain, size in chains.items():
        for token in range(size + 1 if size else 0):
            known = chain == "first" and abs(token - start) <= steps
            from_ends = inward if chain == "first" else 0
            at_begin = token in (0, *range(1, from_ends + 1)) and token < task.n_steps
            at_end = size - token in (0, *range(1, from_ends + 1)) and size - token < task.tail
            if not (known or at_begin or at_end):
                left.append((chain, token))
    return left


@given(
    n_steps=st.integers(1, 12),
    tail=st.integers(1, 4),
    more=st.integers(0, 6),
    steps=st.integers(0, 11),
    inward=st.integers(0, 15),
    n_distractors=st.integers(0, 9),
)
def test_guessing_accuracy_counts_what_is_left(
    n_steps: int, tail: int, more: int, steps: int, inward: int, n_distractors: int
) -> None:
    assume(steps < n_steps)
    task = ChainTask(n_steps + tail + more, n_steps, tail, n_distractors)
    left = [candidates(task, start, steps, inward) for start in task.starts]
    assert all(("first", start + n_steps) in rest for start, rest in zip(task.starts, left, strict=True))
    expected = sum(Fraction(1, len(rest)) for rest in left) / len(left)
    assert guessing_accuracy(task, steps, inward) == expected


def test_the_best_guess_by_trying_all_sentences_of_a_small_task() -> None:
    """A guesser that sees c_{s−1} to c_{s+1} and the two ends; five pairs, two steps, all chains and starts: Bayes by count."""
    task, names = ChainTask(5, 2, 1), range(6)
    seen: dict[tuple, dict[int, int]] = {}
    for chain in itertools.permutations(names):
        for start in task.starts:
            view = (chain[max(0, start - 1) : start + 2], start > 0, chain[0], chain[5])
            labels = seen.setdefault(view, {})
            labels[chain[start + 2]] = labels.get(chain[start + 2], 0) + 1
    best = sum(max(labels.values()) for labels in seen.values())
    total = math.factorial(6) * len(task.starts)
    assert guessing_accuracy(task, 1) == Fraction(best, total)


@pytest.mark.parametrize("n_tokens", [2, 3, 5, 9, 10, 16])
@pytest.mark.parametrize("reach", [0, 1, 4, 7, 13])
def test_on_a_ring_what_is_known_is_walked_to_in_both_directions(n_tokens: int, reach: int) -> None:
    """By walking: what is left is all that no walk of `reach` steps, forwards or backwards, comes to."""
    known = {place % n_tokens for place in range(-reach, reach + 1)}
    for label in range(1, n_tokens):
        left = [one for one in range(n_tokens) if one not in known]
        expected = Fraction(1, len(left)) if label in left else Fraction(int(label <= reach))
        assert ring_accuracy(n_tokens, label, reach) == expected


def test_rings_of_two_lengths_tell_exclusion_from_following() -> None:
    """Three layers without the mask and five steps: found by exclusion on ten tokens, ruled out on nine."""
    four = bounds(3).upper
    assert [ring_accuracy(size, 5, four) for size in (11, 10, 9)] == [Fraction(1, 2), 1, 0]
    assert ring_accuracy(10, 5, 5) == ring_accuracy(9, 5, 5) == 1
    for arguments, message in (
        ((1, 1, 1), r"n_tokens is 1; it must be at least 2\."),
        ((5, 5, 1), "n_steps is 5; it must be less than n_tokens, which is 5."),
        ((5, 0, 1), r"n_steps is 0; it must be at least 1\."),
        ((5, 2, -1), r"reach is -1; it must be at least 0\."),
    ):
        with pytest.raises(ValueError, match=message):
            ring_accuracy(*arguments)


def test_places_help_a_guesser_on_short_orders_as_far_as_stated() -> None:
    """Three layers, four steps, six pairs: guess the latest pair not known: 1/3 over all orders, more when short."""
    table = all_orders(6)
    short = reaches(table, 3) < 4
    right = table[:, 3:].argmax(1) == 0  # the fourth pair is the latest of those the reader does not know
    uniform = Fraction(1, 3)
    given_short = Fraction(int((right & short).sum()), int(short.sum()))
    assert Fraction(int(right.sum()), len(table)) == uniform
    assert uniform < given_short <= uniform / Fraction(2, 3)
    assert given_short == uniform * Fraction(3, 2) * Fraction(4, 5)


def test_chance_is_the_largest_of_the_shortcuts() -> None:
    task = ChainTask(14, 9)
    found = chance(task, 7)
    assert list(found.values()) == sorted(found.values())
    assert found["any_token"] == Fraction(1, 15)
    assert found["unreached"] == guessing_accuracy(task, 7)
    assert chance(task, 20) == chance(task, 8)


def test_rule_accuracy_is_a_mixture() -> None:
    law = reach_distribution(3)
    task = ChainTask(8, 4)
    expected = Fraction(1, 3) + Fraction(2, 3) * guessing_accuracy(task, 3)
    assert rule_accuracy(task, law) == expected
    assert rule_accuracy(ChainTask(8, 3), law) == 1
    assert rule_accuracy(task, {4: Fraction(1)}) == 1
    five = ChainTask(8, 5)
    assert rule_accuracy(five, law) == sum(p * guessing_accuracy(five, r) for r, p in law.items())


# --- derivation


def test_equations_agree_with_the_numbers() -> None:
    names = derivation()
    layers = symbol(r"n_{\mathsf{L}}")
    for n_layers in range(1, 7):
        lower, upper = bounds(n_layers)

        def right(name: str, n_layers: int = n_layers) -> sympy.Expr:
            return sympy.simplify(names[name].rhs.subs(layers, n_layers).doit())

        assert right("lower_sum") == right("lower_bound") == lower
        assert right("upper_sum") == right("upper_bound") == upper
        chance_of_it = upper_bound_probability(n_layers)
        assert right("rare") == right("rare_product") == sympy.Rational(chance_of_it)
    for layer in range(4):
        at = {symbol("l"): layer}
        assert names["width"].rhs.subs(at) == 3**layer
        ratio = upper_bound_probability(layer + 2) / upper_bound_probability(layer + 1)
        assert names["full_run"].rhs.subs(at) == sympy.Rational(ratio)


def test_every_residual_is_zero_and_a_wrong_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(residuals().values()) == {0}
    proof = parallel.proof
    whole = proof.full_probability()
    monkeypatch.setattr(proof, "full_probability", lambda: whole / 3)
    wrong = proof.residuals.__wrapped__()
    assert {name for name, residual in wrong.items() if residual != 0} == {"rare", "full_run"}


def test_every_symbol_is_in_the_notation_table() -> None:
    known = {entry.symbol for entry in SYMBOLS.values()}
    for equation in derivation().values():
        assert equation.free_symbols <= known


def test_all_names_are_offered() -> None:
    public = {
        name
        for name, value in vars(parallel).items()
        if not name.startswith("_") and not isinstance(value, type(itertools))
    }
    assert set(parallel.__all__) == public


# --- bad input


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bounds(0), r"n_layers is 0; it must be at least 1\."),
        (lambda: bounds(2.5), r"n_layers is 2\.5; it must be an integer, at least 1\."),
        (lambda: reach([0, 1, 1], 3), r"places has 1 twice; the places of pairs must be distinct\."),
        (lambda: reach([0.0, 1.0], 3), r"places has entries of type float64; they must be integers\."),
        (lambda: reach([[0, 1]], 3), r"places has 2 axes; it must have 1, the last one for the pairs\."),
        (
            lambda: reach([[0, 1], [0]], 3),
            r"places is \[\[0, 1\], \[0\]\]; it must be an array of integers\.",
        ),
        (lambda: reaches([0, 1], 3), r"places has 1 axes; it must have 2, the last one for the pairs\."),
        (lambda: reach([0, 1], 0), r"n_layers is 0; it must be at least 1\."),
        (lambda: longest_order(4, 12), r"n_pairs is 12; it must be at least 13\."),
        (lambda: shortest_order(-1), r"n_pairs is -1; it must be at least 0\."),
        (
            lambda: known_tokens([(0, 1)], 0, 2, plan=[[None]]),
            r"plan has rows of lengths \[1\]; it must have 1 rows of 2 entries\.",
        ),
        (
            lambda: known_tokens([(0, 1), (1, 2)], 0, 2, plan=[[1, None, None]]),
            r"plan lets slot 0 read slot 1 in layer 1; it may read \[\] there\.",
        ),
        (
            lambda: reach_distribution(5),
            r"n_pairs is 40 for 5 layers; the exact law is computed up to 18 pairs only\.",
        ),
        (lambda: reach_distribution(3, -1), r"n_pairs is -1; it must be at least 0\."),
        (lambda: sample_reaches(3, 0, np.random.default_rng(0)), r"n_orders is 0; it must be at least 1\."),
        (lambda: mean_reach(5), r"rng is None; 5 layers are sampled and need a random generator\."),
        (lambda: ChainTask(6, 5), r"n_pairs is 6; it must be at least 7 \(n_steps \+ tail\)\."),
        (lambda: ChainTask(6, 2, 0), r"tail is 0; it must be at least 1\."),
        (lambda: ChainTask(6, 2, 1, -1), r"n_distractors is -1; it must be at least 0\."),
        (lambda: ChainTask(6, 0), r"n_steps is 0; it must be at least 1\."),
        (
            lambda: guessing_accuracy(ChainTask(8, 4), 4),
            r"reach is 4; it must be less than n_steps, which is 4\.",
        ),
        (lambda: guessing_accuracy(ChainTask(8, 4), 1, -1), r"from_ends is -1; it must be at least 0\."),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        call()
