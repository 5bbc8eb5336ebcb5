"""Parallel reasoning: how many steps of a path a transformer can follow in L layers, when every slot looks ahead at once.

A sentence lists the pairs c_i → c_{i+1} of a path in any order, then a start token. A pair's slot is the position of its
right token.

- A1 (layer 0): each pair's slot knows the two tokens of its pair; the last slot knows the start token.
- A2 (reading): in every later layer a slot reads all earlier slots that share a token with it, and adds what they knew
  before this layer. Without the causal mask it reads all slots that share a token. With one source it reads one of these.
- A3: tokens of the path are distinct; tokens of other pairs are none of the path's.
- A4: a k-step task is answered iff the last slot knows the token k steps after the start.

Theorem (thm-reach). The reach r, the largest such k on a path that is long enough, obeys 2^(L−1) − 1 ≤ r ≤ (3^(L−1) − 1)/2
for every order of pairs, and both are attained. Without the mask r is the upper bound for every order; with one source,
chosen well, it is the lower bound for every order, with and without the mask.

`reach` computes r of an order, `distribution` its law over random orders, `guessing` what a reader scores who cannot
answer, `proof` has the proofs. Source: ours; in the spirit of Wang et al., arXiv 2405.15302 (claim W6).
"""

from theory.parallel_reasoning.distribution import (
    MeanReach,
    mean_reach,
    reach_distribution,
    sample_reaches,
    upper_bound_probability,
)
from theory.parallel_reasoning.guessing import ChainTask, chance, guessing_accuracy, rule_accuracy
from theory.parallel_reasoning.proof import derivation, residuals
from theory.parallel_reasoning.reach import (
    Bounds,
    bounds,
    halving_plan,
    known_tokens,
    longest_order,
    reach,
    reach_by_sets,
    reaches,
    shortest_order,
)

__all__ = [
    "Bounds",
    "ChainTask",
    "MeanReach",
    "bounds",
    "chance",
    "derivation",
    "guessing_accuracy",
    "halving_plan",
    "known_tokens",
    "longest_order",
    "mean_reach",
    "reach",
    "reach_by_sets",
    "reach_distribution",
    "reaches",
    "residuals",
    "rule_accuracy",
    "sample_reaches",
    "shortest_order",
    "upper_bound_probability",
]
