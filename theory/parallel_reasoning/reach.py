"""How far a transformer of a given depth can follow a path when every slot reads every slot that it shares a token with.

Setting (A1 to A4 in `theory.parallel_reasoning`). Pair i of the path is c_i → c_{i+1}, counted from the start token c_0. An
order of pairs is given by `places`: places[i] is the place of pair i in the sentence, any distinct integers. Only their
order matters: pairs before the start and pairs of other chains may stand in between, or be left out (lem-irrelevant). What a
slot knows is always a run of the path, so that two numbers hold it: first and last token.

- `known_tokens` passes sets of tokens on, as the rules say: the reference, for any pairs and any tokens.
- `reach` and `reaches` pass ends of runs on, for one order or many at a time.
- `bounds`, `shortest_order`, `longest_order`, `halving_plan`: the two bounds and what attains them.

A path of n_pairs pairs gives min(reach, n_pairs), where reach is that of every longer path with these pairs in this order
(lem-tail): n_pairs ≥ `bounds(n_layers).upper` never binds. Source: ours; in the spirit of Wang et al., arXiv 2405.15302
(claim W6), whose successor's abstract states the orders 2^(L−1) and 3^(L−1) of the two bounds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from theory.problems.checks import integer

Plan = Sequence[Sequence[int | None]]
"""plan[layer − 1][slot]: the one slot that this slot reads in that layer, or None; the last slot is the reader's."""


class Bounds(NamedTuple):
    """Least and largest reach over all orders of pairs."""

    lower: int
    upper: int


def bounds(n_layers: int) -> Bounds:
    """2^(L−1) − 1 and (3^(L−1) − 1)/2 for L = n_layers ≥ 1, layer 0 included (thm-reach).

    The lower one is also the reach, for every order, of slots that read one slot a layer (`halving_plan`); the upper one the
    reach, for every order, without the causal mask.
    """
    layers = integer("n_layers", n_layers, 1)
    return Bounds(2 ** (layers - 1) - 1, (3 ** (layers - 1) - 1) // 2)


def known_tokens(
    pairs: Sequence[tuple[Hashable, Hashable]],
    start: Hashable,
    n_layers: int,
    causal: bool = True,
    plan: Plan | None = None,
) -> list[frozenset[Hashable]]:
    """What each slot knows after the last layer, by passing on sets of tokens: pairs in the order of the sentence, then `start`.

    - `plan`: the one slot that each slot reads in each layer, instead of all that it may read.

    Cost: n_layers · len(pairs)² unions of sets. Raises ValueError for a plan with a wrong shape, or one that reads a slot
    which shares no token, stands later (when causal) or does not exist.
    """
    layers = integer("n_layers", n_layers, 1)
    known = [frozenset(pair) for pair in pairs] + [frozenset([start])]
    slots = range(len(known))
    if plan is not None and [len(row) for row in plan] != [len(known)] * (layers - 1):
        raise ValueError(
            f"plan has rows of lengths {[len(row) for row in plan]}; it must have {layers - 1} rows of {len(known)} entries."
        )
    for layer in range(1, layers):
        readable = [
            [other for other in slots if (other < slot or not causal) and known[other] & known[slot]]
            for slot in slots
        ]
        if plan is not None:
            for slot, other in enumerate(plan[layer - 1]):
                if other is not None and other not in readable[slot]:
                    raise ValueError(
                        f"plan lets slot {slot} read slot {other} in layer {layer}; it may read {readable[slot]} there."
                    )
            readable = [[] if other is None else [other] for other in plan[layer - 1]]
        known = [known[slot].union(*(known[other] for other in readable[slot])) for slot in slots]
    return known


def reach_by_sets(places: ArrayLike, n_layers: int, causal: bool = True, plan: Plan | None = None) -> int:
    """`reach` from `known_tokens`: the reference, with which the tests compare. Cost: n_layers · n_pairs³."""
    order = np.argsort(check_places(places))
    known = known_tokens([(int(i), int(i) + 1) for i in order], 0, n_layers, causal, plan)[-1]
    return next(steps for steps in range(len(order) + 1) if steps + 1 not in known)


def reach(places: ArrayLike, n_layers: int, causal: bool = True) -> int:
    """Number of steps along the path that the last slot can answer after n_layers layers, layer 0 included.

    - `places`: place in the sentence of each pair of the path from the start token on, distinct integers, shape (n_pairs,).
    - `causal`: slots read earlier slots only; else all.

    At most n_pairs (see the module). Cost: n_pairs · 3^(n_layers − 2) comparisons, but at most n_pairs². Raises ValueError
    for places that are not distinct integers of one axis, or fewer than one layer.
    """
    return int(reaches(check_places(places)[None], n_layers, causal)[0])


def reaches(places: ArrayLike, n_layers: int, causal: bool = True) -> np.ndarray:
    """`reach` of many orders at a time: places of shape (n_orders, n_pairs), result of shape (n_orders,), int.

    First and last token of what each slot knows, slot by slot in the order of the sentence; beside them, for each token, how
    far the slots so far know the path from it in both directions. Raises ValueError as `reach` does.
    """
    layers = integer("n_layers", n_layers, 1)
    table = check_places(places, axes=2)
    n_orders, n_pairs = table.shape
    order, rows = np.argsort(table, axis=1), np.arange(n_orders)
    first = np.tile(np.arange(n_pairs), (n_orders, 1))
    last = first + 1
    front = np.zeros(n_orders, int)
    for layer in range(1, layers):
        if layer > 1:
            first, last = _read(first, last, order, rows, causal)
        front = np.maximum(front, np.where(first <= front[:, None], last, 0).max(1, initial=0))
    return front


def _read(
    first: np.ndarray, last: np.ndarray, order: np.ndarray, rows: np.ndarray, causal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of what all slots know one layer later."""
    n_orders, n_pairs = first.shape
    backward = np.tile(np.arange(n_pairs + 1), (n_orders, 1))
    forward = backward.copy()
    after_first, after_last = first.copy(), last.copy()
    width = np.arange((last - first).max(initial=0) + 1)
    for place in range(n_pairs):
        pair = order[:, place]
        a, b = first[rows, pair], last[rows, pair]
        if causal:
            after_first[rows, pair], after_last[rows, pair] = backward[rows, a], forward[rows, b]
        inside = rows[:, None], np.minimum(a[:, None] + width, b[:, None])
        backward[inside] = np.minimum(backward[inside], a[:, None])
        forward[inside] = np.maximum(forward[inside], b[:, None])
    if not causal:
        return np.take_along_axis(backward, first, 1), np.take_along_axis(forward, last, 1)
    return after_first, after_last


def shortest_order(n_pairs: int) -> np.ndarray:
    """Places of an order that no depth follows farther than the lower bound: the path's own order, shape (n_pairs,)."""
    return np.arange(integer("n_pairs", n_pairs, 0))


def longest_order(n_layers: int, n_pairs: int | None = None) -> np.ndarray:
    """Places of an order that attains the upper bound with n_layers layers, shape (n_pairs,).

    Consecutive runs of 1, 3, 9, … pairs; a run of 3^l is written left third, right third, middle third, each in this manner.
    `n_pairs` is the upper bound unless given; pairs beyond it stand at the end. Raises ValueError when it is less.
    """
    upper = bounds(n_layers).upper
    size = upper if n_pairs is None else integer("n_pairs", n_pairs, upper)
    order: list[int] = []
    for layer in range(n_layers - 1):
        order += _thirds((3**layer - 1) // 2, 3**layer)
    order += range(upper, size)
    return np.argsort(np.array(order, int))


def _thirds(start: int, size: int) -> list[int]:
    if size == 1:
        return [start]
    third = size // 3
    return [pair for place in (0, 2, 1) for pair in _thirds(start + place * third, third)]


def halving_plan(places: ArrayLike, n_layers: int) -> list[list[int | None]]:
    """One slot for each slot to read in each layer, so that the last slot reaches the lower bound: the proof's own plan.

    Runs of 1, 2, 4, … pairs from the start on; in each layer the two halves of a run have each a slot that knows all of it,
    the later of the two reads the earlier one, and the last slot reads the one of the next run. Result: for `known_tokens`,
    n_layers − 1 rows of n_pairs + 1 entries. Raises ValueError as `reach` does.
    """
    layers = integer("n_layers", n_layers, 1)
    array = check_places(places)
    size = len(array)
    slot = np.argsort(np.argsort(array))
    plan: list[list[int | None]] = [[None] * (size + 1) for _ in range(layers - 1)]

    def holder(start: int, doublings: int) -> int | None:
        """The slot that knows this run of 2^doublings pairs after as many layers; None beyond the path's end."""
        if start >= size:
            return None
        if doublings == 0:
            return int(slot[start])
        left = holder(start, doublings - 1)
        right = holder(start + 2 ** (doublings - 1), doublings - 1)
        if left is None or right is None:
            return left
        plan[doublings - 1][max(left, right)] = min(left, right)
        return max(left, right)

    for layer in range(layers - 1):
        plan[layer][size] = holder(2**layer - 1, layer)
    return plan


def check_places(places: ArrayLike, axes: int = 1) -> np.ndarray:
    """`places` as an int array of 1 or 2 axes; ValueError unless its entries are integers, distinct along the last axis."""
    try:
        array = np.asarray(places)
    except ValueError:
        raise ValueError(f"places is {places!r}; it must be an array of integers.") from None
    if array.ndim != axes:
        raise ValueError(f"places has {array.ndim} axes; it must have {axes}, the last one for the pairs.")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"places has entries of type {array.dtype}; they must be integers.")
    ordered = np.sort(array, axis=-1)
    double = ordered[..., 1:][ordered[..., 1:] == ordered[..., :-1]]
    if double.size:
        raise ValueError(f"places has {double.flat[0]} twice; the places of pairs must be distinct.")
    return array.astype(int)
