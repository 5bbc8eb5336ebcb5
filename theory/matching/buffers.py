"""Information flow in buffers: what every position holds after every layer, which term of it came by which matrices.

Setting (A1 to A3 in `theory.matching`). A position that reads one source a layer adds the source's stream times W_vo(layer) to
its own. So its content is a sum of terms, a *word* of layers times an embedding: the word (1, 0) stands for W_vo(1) W_vo(0),
the empty word for the raw embedding. Layers in a word strictly decrease.

Lemma (lem-words). After l layers a position holds each of the 2^l decreasing words of layers below l exactly once: the word
(l_1, l_2, …) with the embeddings of the position that one comes to by following the sources back, first that of layer l_1,
then that of l_2, … *Proof.* Induction on l: the words without layer l are the position's own, those that begin with l are
its source's. ∎ A source of None, or one without embeddings, leaves its words out.

Buffer j is the image of W_vo(j). A query in buffer i scores a key in buffer j by the kernel B_iᵀ W_qk B_j with B_i = W_vo(i),
and B = 1 in the raw buffer: every score is a sum of kernels over pairs of words (`score_parts`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from theory.problems.checks import integer

Word = tuple[int, ...]
"""Layers whose value-output matrices were applied, the latest first; () is the raw buffer."""


class Term(NamedTuple):
    """One summand of a content: the matrices that were applied, and the label of the embedding to which they were."""

    word: Word
    label: Hashable


Content = tuple[Term, ...]
"""What a position holds, a sum of terms."""


def contents(
    labels: Sequence[Sequence[Hashable]], reads: Sequence[Sequence[int | None]]
) -> list[list[Content]]:
    """Content of every position before layer 0 and after each layer: result[l][position], l = 0 … number of layers.

    - `labels`: for every position, the labels of the embeddings that are added there, () for a position that holds nothing.
    - `reads`: reads[layer][position] is the one position that this one reads in that layer, or None.

    Cost: 2^layers terms a position. Raises ValueError for a row of another length, or a source that does not exist.
    """
    now: list[Content] = [tuple(Term((), label) for label in own) for own in labels]
    flow = [now]
    for layer, sources in enumerate(reads):
        if len(sources) != len(labels):
            raise ValueError(
                f"reads has {len(sources)} sources in layer {layer}; it must have {len(labels)}, one a position."
            )
        for source in sources:
            if source is not None and not 0 <= source < len(labels):
                raise ValueError(
                    f"reads has source {source} in layer {layer}; it must be None or a position, 0 to {len(labels) - 1}."
                )
        now = [
            own
            + (() if source is None else tuple(Term((layer, *word), label) for word, label in now[source]))
            for own, source in zip(now, sources, strict=True)
        ]
        flow.append(now)
    return flow


def word_matrix(word: Word, value_outputs: ArrayLike) -> np.ndarray:
    """Product of the value-output matrices of a word, shape (d, d); the identity for ().

    - `value_outputs`: W_vo of layers 0, 1, …, shape (layers, d, d), out = M in.

    Raises ValueError for a layer without a matrix.
    """
    matrices = np.asarray(value_outputs, dtype=float)
    product = np.eye(matrices.shape[-1])
    for layer in word:
        if not 0 <= layer < len(matrices):
            raise ValueError(f"word is {word}; its layers must be 0 to {len(matrices) - 1}.")
        product = product @ matrices[layer]
    return product


def content_vector(
    content: Content, value_outputs: ArrayLike, embeddings: Mapping[Hashable, np.ndarray]
) -> np.ndarray:
    """The stream that a content stands for, shape (d,): Σ word matrix times embedding of the label."""
    total = np.zeros(np.shape(value_outputs)[-1])
    for word, label in content:
        total = total + word_matrix(word, value_outputs) @ embeddings[label]
    return total


def score_parts(
    query: Content,
    key: Content,
    key_query: ArrayLike,
    value_outputs: ArrayLike,
    embeddings: Mapping[Hashable, np.ndarray],
) -> dict[tuple[Word, Word], float]:
    """Score of a query for a key, by (query word, key word): Σ over labels of e_queryᵀ Ker e_key. The sum is xᵀ W_qk x′.

    - `key_query`: W_qk, shape (d, d). The factor 1/√d_k is left to the caller.
    """
    parts: dict[tuple[Word, Word], float] = {}
    for query_word, query_label in query:
        query_buffer = word_matrix(query_word, value_outputs)
        for key_word, key_label in key:
            found = kernel(key_query, query_buffer, word_matrix(key_word, value_outputs))
            value = float(embeddings[query_label] @ found @ embeddings[key_label])
            parts[query_word, key_word] = parts.get((query_word, key_word), 0.0) + value
    return parts


def kernel(
    key_query: ArrayLike, query_buffer: ArrayLike | None = None, key_buffer: ArrayLike | None = None
) -> np.ndarray:
    """B_queryᵀ W_qk B_key, shape (…, d, d): how a query in one buffer scores a key in another.

    - `key_query`: W_qk = W_qᵀ W_k. Buffers: W_vo of their layers, or None for the raw buffer. All may be stacked.
    """
    found = np.asarray(key_query, dtype=float)
    if query_buffer is not None:
        found = np.swapaxes(np.asarray(query_buffer, dtype=float), -1, -2) @ found
    return found if key_buffer is None else found @ np.asarray(key_buffer, dtype=float)


def kernels(key_query: ArrayLike, value_outputs: ArrayLike) -> dict[tuple[Word, Word], np.ndarray]:
    """The kernel of every pair of buffers, by (query word, key word): raw () and (j,) for each matrix given.

    - `value_outputs`: W_vo of the layers before the one that W_qk belongs to, shape (layers, …, d, d).
    """
    buffers: dict[Word, ArrayLike | None] = {(): None}
    buffers |= {(layer,): matrix for layer, matrix in enumerate(np.asarray(value_outputs, dtype=float))}
    return {
        (query, key): kernel(key_query, query_buffer, key_buffer)
        for query, query_buffer in buffers.items()
        for key, key_buffer in buffers.items()
    }


def needed_kernel(layer: int) -> tuple[Word, Word]:
    """(query word, key word) of the kernel that matching needs in this layer ≥ 1: ((), (0,)), later ((layer − 1,), (0,))."""
    index = integer("layer", layer, 1)
    return (() if index == 1 else (index - 1,)), (0,)
