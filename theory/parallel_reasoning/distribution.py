"""The reach over uniformly random orders of pairs: its exact law by cutting at the latest pair, and samples beyond.

Lemma (lem-latest). Let pair k be the latest of a run of n pairs. No slot left of it ever knows a token right of it, and the
other way round; k itself is read by none of the run. In a uniformly random order k is uniform, and the orders left and right
of it are uniformly random and independent.

A reader stands behind the run, enters it at its first token and reads in a set S of layers, pausing in the others; F_S is
how many pairs it has then passed, F_t for S = {0, …, t−1} (the count of layers starts where the run knows its pairs), and
B_S, B_t are the same from the run's last token backwards. Pair k is such a reader on both sides: after t layers it knows the
run from k − B_t(left) to k + 1 + F_t(right). Let t be the first layer in S with F_{S ∩ [0, t)}(left) + B_t(left) ≥ k, in
which the reader behind the run comes to read k. Then

    F_S = k + 1 + F_{S'}(right),   S' = {0, …, t−1} ∪ {u ∈ S: u > t},          and F_S = F_S(left) if there is none:

after that layer it stands where k stood before it, as a reader of the right part that paused in layer t. (Reading k once
more takes it no farther: what k read in layers t, t + 1, …, some single slot of the right part has gathered by then, by
lem-merging, and the reader may read that one.)

The joint law of all F_S and B_S of n pairs is thus a mean over k of products of two shorter runs' laws: integers, no
enumeration of orders. The reach with L layers is F_{L−1}; its right-hand sides need B for L − 2 layers only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

from theory.parallel_reasoning.reach import bounds, reaches
from theory.problems.checks import integer

Passed = tuple[int, ...]
"""Pairs passed for every set of layers; bit u of the index says whether layer u is in the set."""
State = tuple[Passed, Passed]
"""Forwards with L − 1 layers, backwards with L − 2."""

EXACT_PAIRS = {5: 18}
"""Longest paths whose exact law is computed, by n_layers: seconds. Any length up to 4 layers."""


def _meeting(near: Passed, near_back: Passed, n_near: int, layers: int) -> int | None:
    """The layer in which a reader comes to read the latest pair, which stands behind the `n_near` pairs of its near part."""
    for layer in range(layers.bit_length()):
        before = (1 << layer) - 1
        if layers >> layer & 1 and near[layers & before] + near_back[before] >= n_near:
            return layer
    return None


def _as_paused(layers: int, layer: int) -> int:
    """S' of a reader that reads in the set `layers` and meets the latest pair in `layer`."""
    return (layers >> layer + 1 << layer + 1) | (1 << layer) - 1


def _passed(near: Passed, near_back: Passed, far: Passed, n_near: int) -> Passed:
    """F_S of a run for all S, from its near and its far part."""
    found = []
    for layers, stays in enumerate(near):
        layer = _meeting(near, near_back, n_near, layers)
        found.append(stays if layer is None else n_near + 1 + far[_as_paused(layers, layer)])
    return tuple(found)


@cache
def _orders(n_layers: int, n_pairs: int) -> Mapping[State, int]:
    """Number of orders of a run for each state."""
    if n_pairs == 0:
        return {((0,) * 2 ** (n_layers - 1), (0,) * 2 ** (n_layers - 2)): 1}
    found: dict[State, int] = {}
    for left in range(n_pairs):
        right = n_pairs - 1 - left
        ways = math.comb(n_pairs - 1, left)
        for (forward, backward), count in _orders(n_layers, left).items():
            for (far_forward, far_backward), far_count in _orders(n_layers, right).items():
                state = (
                    _passed(forward, backward, far_forward, left),
                    _passed(far_backward, far_forward, backward, right),
                )
                found[state] = found.get(state, 0) + ways * count * far_count
    return found


def reach_distribution(n_layers: int, n_pairs: int | None = None) -> dict[int, Fraction]:
    """Exact law of the causal reach over uniformly random orders of n_pairs pairs: reach → probability, increasing (prop-law).

    `n_pairs` is the upper bound unless given, which gives the law of an endless path; a shorter path gives that of
    min(reach, n_pairs), so that P(reach ≥ k) is right for every k ≤ n_pairs.
    Cost: 4 layers a tenth of a second; 5 layers double with every pair, some ten seconds at 18. Raises ValueError beyond
    (see `sample_reaches`).
    """
    layers = integer("n_layers", n_layers, 1)
    upper = bounds(layers).upper
    size = upper if n_pairs is None else min(integer("n_pairs", n_pairs, 0), upper)
    longest = upper if layers <= 4 else EXACT_PAIRS.get(layers, bounds(layers).lower)
    if size > longest:
        raise ValueError(
            f"n_pairs is {size} for {layers} layers; the exact law is computed up to {longest} pairs only."
        )
    if layers == 1 or size <= bounds(layers).lower:
        return {size: Fraction(1)}
    counts = _reach_counts(layers, size)
    return {steps: Fraction(counts[steps], math.factorial(size)) for steps in sorted(counts)}


def _reach_counts(n_layers: int, n_pairs: int) -> Counter[int]:
    """Number of orders for each F_{L−1}: the last cut needs marginal laws of its right part only."""
    found: Counter[int] = Counter()
    always = 2 ** (n_layers - 1) - 1
    for left in range(n_pairs):
        right, ways = n_pairs - 1 - left, math.comb(n_pairs - 1, left)
        meetings: Counter[int] = Counter()
        for (near, near_back), count in _orders(n_layers, left).items():
            layer = _meeting(near, near_back, left, always)
            if layer is None:
                found[near[always]] += ways * count * math.factorial(right)
            else:
                meetings[_as_paused(always, layer)] += ways * count
        for (far, _), count in _orders(n_layers, right).items():
            for paused, meeting in meetings.items():
                found[left + 1 + far[paused]] += meeting * count
    return found


def upper_bound_probability(n_layers: int) -> Fraction:
    """Probability that a random order attains the upper bound: 3^−((3^(L−1) − 2L + 1)/4) (prop-rare)."""
    layers = integer("n_layers", n_layers, 1)
    return Fraction(1, 3 ** ((3 ** (layers - 1) - 2 * layers + 1) // 4))


def sample_reaches(
    n_layers: int,
    n_orders: int,
    rng: np.random.Generator,
    n_pairs: int | None = None,
    causal: bool = True,
) -> np.ndarray:
    """Reach of uniformly random orders, int, shape (n_orders,); min(reach, n_pairs) on a path shorter than the upper bound.

    Cost: n_orders · n_pairs · 3^(n_layers − 2) comparisons: 0.7 s for 10⁴ orders at 5 layers (40 pairs).
    """
    count = integer("n_orders", n_orders, 1)
    upper = bounds(n_layers).upper
    size = upper if n_pairs is None else integer("n_pairs", n_pairs, 0)
    found = np.empty(count, int)
    block = max(1, 2**20 // (size + 1))
    for begin in range(0, count, block):
        rows = min(block, count - begin)
        places = rng.permuted(np.tile(np.arange(size), (rows, 1)), axis=1)
        found[begin : begin + rows] = reaches(places, n_layers, causal)
    return found


class MeanReach(NamedTuple):
    """Mean reach over random orders and its standard error (0 when exact)."""

    value: float
    standard_error: float


def mean_reach(n_layers: int, n_orders: int = 10_000, rng: np.random.Generator | None = None) -> MeanReach:
    """Exact mean up to 4 layers; beyond, the mean of n_orders samples. Raises ValueError when these need an rng and have none."""
    if integer("n_layers", n_layers, 1) <= 4:
        law = reach_distribution(n_layers)
        return MeanReach(float(sum(steps * chance for steps, chance in law.items())), 0.0)
    if rng is None:
        raise ValueError(f"rng is None; {n_layers} layers are sampled and need a random generator.")
    drawn = sample_reaches(n_layers, integer("n_orders", n_orders, 2), rng)
    return MeanReach(float(drawn.mean()), float(drawn.std(ddof=1) / math.sqrt(n_orders)))
