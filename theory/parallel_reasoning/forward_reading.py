"""Half of the rules: slots that read forwards only, as training finds them first (book: prop-half).

A2 of `theory.parallel_reasoning`, restricted: of what a slot reads it adds only what comes after the last token that it knows.
So the run of a pair's slot begins with its own pair. The last slot may pause in some layers.

Proposition (prop-half). With the mask and L layers the reach of a last slot that never pauses obeys L − 1 ≤ r ≤ 2^(L−1) − 1, and
both are attained, by the path's own order and by its reverse; without the mask r is the upper one for every order. With the mask
and three layers it is 3 iff pair 2 stands before pair 1, else 2; that of a last slot which pauses in layer 1 is 2 iff pair 1
stands before pair 0, else 1. *Proof.* Let w_l be the most pairs that a slot may know after layer l. A source that takes a slot
farther holds its last token, so that w_{l+1} ≤ 2 w_l and r_{l+1} ≤ r_l + w_l; and the slot of pair r_l is there to be read,
r_{l+1} ≥ r_l + 1. In the path's own order earlier slots end no farther than where a slot begins, and nothing is ever added; in
its reverse, and without the mask in every order, a slot finds the next 2^l pairs at the slot of the first of them. In layer 1
only the slots of pairs i and i + 1 know c_{i+1}, so pair i's comes to c_{i+2} iff pair i + 1 stands earlier. A last slot at c_1
then reads the slots of pairs 0 and 1, which end at c_2 at most and at c_2 or c_3; one at c_0 that of pair 0, and others that
end at c_1 at most. ∎

This module is not offered by the package: it serves one section of a chapter. Source: ours.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike

from theory.parallel_reasoning.reach import check_places
from theory.problems.checks import integer


def forward_reaches(
    places: ArrayLike, n_layers: int, pauses: Collection[int] = (), causal: bool = True
) -> np.ndarray:
    """Reach of many orders when slots read forwards only: places of shape (n_orders, n_pairs), result (n_orders,), int.

    - `places`: place in the sentence of each pair of the path from the start token on, distinct integers.
    - `n_layers`: at least 1, layer 0 included. `causal`: slots read earlier slots only; else all.
    - `pauses`: layers 1 … n_layers − 1 in which the last slot reads nothing.

    Cost: n_layers · n_orders · n_pairs². Raises ValueError for places that are not distinct integers of two axes, fewer than one
    layer, or a pause in a layer that there is not.
    """
    layers = integer("n_layers", n_layers, 1)
    table = check_places(places, axes=2)
    for one in pauses:
        if not 1 <= one < layers:
            raise ValueError(f"pauses has {one}; its layers must be 1 to {layers - 1}.")
    n_orders, n_pairs = table.shape
    readable = table[:, None, :] < table[:, :, None]
    if not causal:
        readable = np.ones_like(readable)
    first = np.arange(n_pairs)
    last = np.tile(first + 1, (n_orders, 1))
    front = np.zeros(n_orders, int)
    for layer in range(1, layers):
        if layer > 1:
            # A source holds the last token that a slot knows; axes: orders, slots, sources.
            holds = (first <= last[:, :, None]) & (last[:, :, None] <= last[:, None, :])
            last = np.maximum(last, np.where(holds & readable, last[:, None, :], 0).max(2, initial=0))
        if layer not in pauses:
            holds_front = (first <= front[:, None]) & (front[:, None] <= last)
            front = np.maximum(front, np.where(holds_front, last, 0).max(1, initial=0))
    return front
