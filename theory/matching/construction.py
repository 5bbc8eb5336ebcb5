"""Weights that solve (L − 1)-step chains by matching, and what every position then holds.

A sentence (`Construction`): a first token (BOS) with zero embedding, m pairs [a][b] in random order, the start token; T = 2 m + 2
positions. Token embeddings e_t and position vectors p_i are independent random unit vectors, added; W_vo(l) are independent
Haar ("orthogonal") or have entries N(0, 1/d) ("gaussian"). With strength λ, and scores x_iᵀ W_qk x_j not divided by √d_k:

- W_qk(0) = λ Σ_i p_i p_{s(i)}ᵀ over all positions but BOS: a value slot attends to its own key slot, every other position to BOS.
- W_qk(1) = λ W_vo(0)ᵀ, W_qk(l) = λ W_vo(l − 1) W_vo(0)ᵀ for l ≥ 2: the needed kernels are λ.
- Logit of token t: e_tᵀ W_vo(L − 1)ᵀ x at the last position, what it read in the last layer.

Layer l takes the last position one step on, to the slot whose buffer 0 holds the token that it read last. But every position
matches in every layer: a value slot whose token is a key of an earlier pair reads that pair's slot too, and one that finds
nothing reads whatever noise favours. So by lem-words of `buffers` every stream doubles: 2^l words of a token and a position
each after l layers. `width_law` counts what this noise costs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from theory.matching.buffers import Word, contents
from theory.matching.orthogonal_noise import Kind
from theory.problems.checks import integer


@dataclass(frozen=True)
class Construction:
    """Which construction, for chains of n_pairs pairs in all and n_layers − 1 steps.

    - `n_layers`: L ≥ 2. `width`: d. `n_pairs`: m ≥ L − 1. `vocabulary_size`: tokens without BOS, at least m + 1.
    - `strength`: λ > 0; inf asks for hard attention, where a formula allows it.
    - `positions`: whether position vectors are there. Without them layer 0 is ideal, by rule and not by weights.
    - `kind`: of W_vo, "orthogonal" or "gaussian".

    Raises ValueError for values outside these ranges.
    """

    n_layers: int
    width: int
    n_pairs: int = 6
    vocabulary_size: int = 101
    strength: float = 30.0
    positions: bool = True
    kind: Kind = "orthogonal"

    def __post_init__(self) -> None:
        integer("n_layers", self.n_layers, 2)
        integer("width", self.width, 2)
        if integer("n_pairs", self.n_pairs, 1) < self.n_layers - 1:
            raise ValueError(
                f"n_pairs is {self.n_pairs}; it must be at least {self.n_layers - 1}, the steps of n_layers layers."
            )
        integer("vocabulary_size", self.vocabulary_size, self.n_pairs + 1)
        if not self.strength > 0:
            raise ValueError(f"strength is {self.strength}; it must be above 0.")
        if self.kind not in ("orthogonal", "gaussian"):
            raise ValueError(f"kind is {self.kind!r}; it must be orthogonal or gaussian.")

    @property
    def sentence_length(self) -> int:
        """Positions of a sentence, BOS and the start token included."""
        return 2 * self.n_pairs + 2

    @property
    def first_sources(self) -> np.ndarray:
        """Position that each position attends to in layer 0, shape (sentence_length,)."""
        sources = np.zeros(self.sentence_length, int)
        sources[2:-1:2] = np.arange(1, self.sentence_length - 1, 2)
        return sources


class ConstructionWeights(NamedTuple):
    """One draw of the weights, float64; matrices act on columns.

    - `embedding`: (vocabulary_size + 1, d), the last row is that of BOS, zero. `positions`: (sentence_length, d).
    - `key_query`, `value_output`: (n_layers, d, d). `unembedding`: (vocabulary_size, d).

    A decoder that divides scores by √d_k needs `key_query` times √d_k.
    """

    embedding: np.ndarray
    positions: np.ndarray
    key_query: np.ndarray
    value_output: np.ndarray
    unembedding: np.ndarray


def haar_matrix(width: int, generator: np.random.Generator) -> np.ndarray:
    """A uniformly distributed orthogonal matrix, (d, d): QR with R's diagonal made positive, else it is not uniform."""
    orthogonal, upper = np.linalg.qr(generator.normal(size=(width, width)))
    return orthogonal * np.sign(np.diag(upper))


def construction_weights(problem: Construction, generator: np.random.Generator) -> ConstructionWeights:
    """One draw of the weights. Without positions, `positions` and `key_query` of layer 0 are 0: attend there by `first_sources`.

    Cost: n_layers decompositions of d × d. Raises ValueError unless the strength is finite.
    """
    if math.isinf(problem.strength):
        raise ValueError("strength is inf; weights need a finite one.")
    width, length = problem.width, problem.sentence_length

    def unit(count: int) -> np.ndarray:
        rows = generator.normal(size=(count, width))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    embedding = np.vstack([unit(problem.vocabulary_size), np.zeros(width)])
    positions = unit(length) if problem.positions else np.zeros((length, width))
    if problem.kind == "orthogonal":
        values = np.stack([haar_matrix(width, generator) for _ in range(problem.n_layers)])
    else:
        values = generator.normal(size=(problem.n_layers, width, width)) / math.sqrt(width)
    key_query = np.empty_like(values)
    key_query[0] = positions[1:].T @ positions[problem.first_sources[1:]]
    key_query[1] = values[0].T
    for layer in range(2, problem.n_layers):
        key_query[layer] = values[layer - 1] @ values[0].T
    return ConstructionWeights(
        embedding, positions, problem.strength * key_query, values, embedding[:-1] @ values[-1].T
    )


def matching_reads(tokens: Sequence[Hashable], n_layers: int) -> list[list[int | None]]:
    """What each position reads in each layer, by exact matching: a plan for `contents`, n_layers rows.

    - `tokens`: of a sentence, BOS first: BOS, a, b, …, start.

    Layer 0: value slots their key slots, the others BOS. Layer l ≥ 1: the latest earlier value slot whose buffer 0 holds a
    token that the position's query word holds, raw in layer 1 and (l − 1,) after it; None where there is none. Raises
    ValueError for a sentence of odd length or fewer than 4 positions.
    """
    length, layers = len(tokens), integer("n_layers", n_layers, 1)
    if length < 4 or length % 2:
        raise ValueError(
            f"tokens has length {length}; it must be even and at least 4: BOS, pairs, the start token."
        )
    labels: list[Sequence[Hashable]] = [(), *((token,) for token in tokens[1:])]
    slots = range(2, length - 1, 2)
    reads: list[list[int | None]] = [[place - 1 if place in slots else 0 for place in range(length)]]
    for layer in range(1, layers):
        held = contents(labels, reads)[-1]
        word: Word = () if layer == 1 else (layer - 1,)
        sources: list[int | None] = []
        for place in range(length):
            wanted = {term.label for term in held[place] if term.word == word}
            found = [slot for slot in slots if slot < place and tokens[slot - 1] in wanted]
            sources.append(found[-1] if found else None)
        reads.append(sources)
    return reads
