"""What fixed random matrices Z_l, added to the weights, do to the kernel of every pair of buffers.

W_vo(l) += β_l Z_l in every layer, and W_qk(l) += α_l times a product of Z's by one of three forms (matrices act on columns):

- "remembered": Z_{l−1}ᵀ for l ≥ 1, as we remember the paper. In its row convention W^qk += α_l Z_{l−1}, W^vo += β_l Z_l; there
  W^qk is the same bilinear form, and W^vo and its Z_l are the transposes of ours.
- "corrected": Z_0ᵀ for l = 1, Z_{l−1} Z_0ᵀ for l ≥ 2.
- "identity": 1, and all Z_l = 1.

Nothing is added to W_qk(0), as no buffer exists before it. The kernel of a query in buffer i and a key in buffer j gains
α_l β_i β_j Z_iᵀ N_l Z_j, N_l the added product, with Z = 1 and β = 1 in the raw buffer: a word in Z's, `gained_word`. (Beside it
stand products with the weights that were there; near a small start they are small, and random.)

Z_l is "orthogonal" (Haar), when neighbours ZᵀZ and ZZᵀ cancel exactly, or "gaussian" with entries N(0, 1/d), when ZᵀZ is near
the identity entry by entry only: ‖ZᵀZ − 1‖_F = √d = ‖1‖_F.

Proposition (prop-noise). The word is the identity for orthogonal Z, in layer 1, for (raw, 0) only, in both random forms. In
layer l ≥ 2 "corrected" has the identity at (l − 1, 0) only, which is what matching needs; "remembered" at (raw, l − 1) only: a
raw query meets keys in the last buffer. "identity" has it for every pair of buffers. *Proof.* Words of at most four letters
reduce to nothing only as listed; other words are Haar matrices or squares of one, whose trace is 0 or 1 in the mean. ∎

Why "identity" fails (prop-collision). All words are one buffer. A slot of a → b shows b and a alike; so does every position that
holds the token: a query for a scores the key slot of a, the value slot of the pair before, and its own position as high as the
slot that it needs (`matched_terms`). With β < 1 it scores those higher. In layer 2, even after the right slot was read, the query
holds a twice and b once: the slot of b → c scores lower than every position that shows a. What is read is a sum of tokens that no
unembedding can tell apart.

Proposition (prop-fresh). What fresh weights leave of the corrected noise is (1 + r)^(−1) in layer 1 and (1 + r)^(−3/2) beyond,
r = d^(2 − 4γ), for orthogonal Z and factors 1: `fresh_alignment`, with its proof.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import sympy
from numpy.typing import ArrayLike

from theory.matching.buffers import Content, Word
from theory.problems.checks import integer
from theory.symbols import symbol

Form = Literal["remembered", "corrected", "identity"]
"""What is added to key-query matrices; see the module."""
Kind = Literal["orthogonal", "gaussian"]
"""Of the matrices Z: exactly orthogonal, or with entries N(0, 1/d)."""
Letter = tuple[int, bool]
"""(layer, transposed): Z_layer or its transpose."""


def added_letters(form: Form, layer: int) -> tuple[Letter, ...] | None:
    """The product of Z's added to W_qk of this layer, () for the identity, None when nothing is added (layer 0)."""
    index = integer("layer", layer, 0)
    if form not in ("remembered", "corrected", "identity"):
        raise ValueError(f"form is {form!r}; it must be remembered, corrected or identity.")
    if index == 0:
        return None
    if form == "identity":
        return ()
    if form == "remembered" or index == 1:
        return ((index - 1, True),)
    return (index - 1, False), (0, True)


def added_key_query(form: Form, layer: int, noises: ArrayLike) -> np.ndarray:
    """What the form adds to W_qk of this layer per unit of α, shape (…, d, d); zeros for layer 0.

    - `noises`: Z of layers 0, 1, …, shape (layers, …, d, d). The form "identity" uses its shape only.

    Raises ValueError for an unknown form, or a layer whose Z is missing.
    """
    matrices = np.asarray(noises, dtype=float)
    letters = added_letters(form, layer)
    if letters is None:
        return np.zeros(matrices.shape[1:])
    for index, _ in letters:
        if index >= len(matrices):
            raise ValueError(f"noises has {len(matrices)} matrices; layer {layer} needs {index + 1}.")
    product = np.broadcast_to(np.eye(matrices.shape[-1]), matrices.shape[1:])
    for index, transposed in letters:
        product = product @ (np.swapaxes(matrices[index], -1, -2) if transposed else matrices[index])
    return product.copy()


def gained_word(form: Form, layer: int, query: Word, key: Word) -> tuple[Letter, ...]:
    """Z_queryᵀ N_layer Z_key as letters, from left to right, for two words of layers; () is the identity.

    Raises ValueError for an unknown form, layer 0, or words with layers that do not come before this one.
    """
    letters = added_letters(form, layer)
    if letters is None:
        raise ValueError("layer is 0; noise is added to the key-query matrices of layers ≥ 1 only.")
    for name, word in (("query", query), ("key", key)):
        if not all(0 <= index < layer for index in word):
            raise ValueError(f"{name} is {word}; its layers must be 0 to {layer - 1}.")
    if form == "identity":
        return ()
    # (Z_1 Z_0)ᵀ = Z_0ᵀ Z_1ᵀ: letters of the query in reverse order.
    return (*((index, True) for index in reversed(query)), *letters, *((index, False) for index in key))


def reduce_word(word: Sequence[Letter]) -> tuple[Letter, ...]:
    """The word with neighbours Zᵀ Z and Z Zᵀ left out: what it is for orthogonal Z."""
    left: list[Letter] = []
    for index, transposed in word:
        if left and left[-1] == (index, not transposed):
            left.pop()
        else:
            left.append((index, transposed))
    return tuple(left)


def word_expression(word: Sequence[Letter]) -> sympy.MatrixExpr:
    """The word in SymPy, a product of the matrices Z_0, Z_1 and Z_2 of `theory.symbols`, d × d."""
    width = symbol("d")
    factors = []
    for index, transposed in word:
        matrix = sympy.MatrixSymbol(symbol(f"Z_{index}"), width, width)
        factors.append(matrix.T if transposed else matrix)
    return sympy.MatMul(*factors).doit() if factors else sympy.Identity(width)


@cache
def expected_trace(word: tuple[Letter, ...], kind: Kind) -> sympy.Expr:
    """E trace of a word in independent Z's, exact, in the symbol d.

    Gaussian: Wick's theorem, Σ over pairings of equal letters of d^(loops of indices − pairs). Orthogonal, for d larger than the
    word: d if it reduces to nothing, 0 if a letter is left once, and for the k-th power of such a word 1 or 0 as k is
    even or odd (Diaconis and Shahshahani 1994). Raises ValueError for other reduced words, or another kind.
    """
    width = symbol("d")
    if kind not in ("gaussian", "orthogonal"):
        raise ValueError(f"kind is {kind!r}; it must be orthogonal or gaussian.")
    if not word:
        return width
    if kind == "gaussian":
        total = sympy.Integer(0)
        for pairs in _pairings(tuple(range(len(word)))):
            if all(word[a][0] == word[b][0] for a, b in pairs):
                total += width ** (_loops(word, pairs) - len(pairs))
        return total
    left = reduce_word(word)
    while len(left) > 1 and left[0] == (left[-1][0], not left[-1][1]):
        left = left[1:-1]
    if not left:
        return width
    for size in (size for size in range(1, len(left) + 1) if len(left) % size == 0):
        root = left[:size]
        layers = [index for index, _ in root]
        if root * (len(left) // size) == left and any(layers.count(index) == 1 for index in layers):
            return sympy.Integer(1 - (len(left) // size) % 2)
    raise ValueError(
        f"word is {word}; its expected trace is known here for powers of a word with a single letter."
    )


def _pairings(places: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    if not places:
        return [[]]
    first, rest = places[0], places[1:]
    return [
        [(first, other), *more]
        for k, other in enumerate(rest)
        for more in _pairings(rest[:k] + rest[k + 1 :])
    ]


def _loops(word: tuple[Letter, ...], pairs: list[tuple[int, int]]) -> int:
    """Free indices that are left: letter k has the indices k and k + 1 (cyclic), rows first; a pair equates rows and columns."""
    size = len(word)
    parent = list(range(size))

    def root(k: int) -> int:
        while parent[k] != k:
            k = parent[k]
        return k

    for a, b in pairs:
        ends = [(k + 1, k) if word[k][1] else (k, k + 1) for k in (a, b)]
        for one, other in zip(*ends, strict=True):
            parent[root(one % size)] = root(other % size)
    return sum(parent[k] == k for k in range(size))


class Gain(NamedTuple):
    """What the kernel of one pair of buffers gains: its word and what to expect of its scores.

    - `alignment`: E trace / √(d E‖·‖_F²). `kernel_score`: d · trace / Σ|·| of a matrix with that mean diagonal and Gaussian
      entries.
    - `matches`: whether the word is the identity for orthogonal Z.
    """

    query: Word
    key: Word
    word: tuple[Letter, ...]
    kernel_score: float
    alignment: float
    matches: bool


def gains(form: Form, kind: Kind, layer: int, width: int) -> list[Gain]:
    """Gain of every pair of buffers of this layer ≥ 1, raw and 0 … layer − 1, in the order of `kernels`.

    Alignments are ratios of exact means; kernel scores are in error by about 1/d of the noise's own. A word that does not match
    has alignment ± 1/d and kernel score ± √(π/(2d)) by chance, about these means.
    """
    size = integer("width", width, 2)
    buffers: list[Word] = [(), *((index,) for index in range(integer("layer", layer, 1)))]
    found = []
    for query, key in itertools.product(buffers, buffers):
        word = gained_word(form, layer, query, key)
        trace = float(expected_trace(word, kind).subs(symbol("d"), size))
        transposed = tuple((index, not flipped) for index, flipped in reversed(word))
        square = float(expected_trace(transposed + word, kind).subs(symbol("d"), size))
        mean = trace / size
        spread = math.sqrt(max(square - size * mean**2, 0.0)) / size
        total = size * _folded_mean(mean, spread) + size * (size - 1) * _folded_mean(0.0, spread)
        found.append(
            Gain(
                query,
                key,
                word,
                size * trace / total,
                trace / math.sqrt(size * square),
                not reduce_word(word),
            )
        )
    return found


def fresh_alignment(
    kind: Kind, layer: int, width: int, init_exponent: ArrayLike, start: float = 1.0
) -> np.ndarray:
    """Alignment of the kernel that a layer ≥ 1 needs, with corrected noise beside fresh weights (prop-fresh).

    W_q, W_k, W_v and W_o are d × d, with independent entries of mean 0 and deviation d^(−γ), γ = `init_exponent`, whose shape
    the result has; α and β are `start`. A product of two fresh matrices has r = d^(2 − 4γ)/start² times the mean square norm of
    the noise beside it. Terms with different fresh factors are uncorrelated, and only the one without has a trace: d. So
    orthogonal Z give (1 + r)^(−p/2), with p = 2 places in layer 1 and p = 3 beyond; for Gaussian ones the mean square norms
    are polynomials in r.

    A ratio of exact means, d / √(d E‖·‖_F²), as in `gains`; the mean of the ratio differs by order 1/d². An infinite γ leaves
    the noise alone. Raises ValueError for an unknown kind, layer 0, a width below 2, a start that is not finite and above 0, or
    an exponent that is not a number.
    """
    if kind not in ("gaussian", "orthogonal"):
        raise ValueError(f"kind is {kind!r}; it must be orthogonal or gaussian.")
    first, size = integer("layer", layer, 1) == 1, float(integer("width", width, 2))
    if not 0 < start < math.inf:
        raise ValueError(f"start is {start}; it must be finite and above 0.")
    exponents = np.asarray(init_exponent, dtype=float)
    if np.isnan(exponents).any():
        raise ValueError(f"init_exponent is {init_exponent!r}; it must be a number.")
    ratio = size ** (2 - 4 * exponents) / start**2
    if kind == "orthogonal":
        square = (1 + ratio) ** (2 if first else 3)
    elif first:
        square = 2 + 1 / size + 2 * ratio + ratio**2
    else:
        square = 4 + 4 / size + 1 / size**2 + (5 + 2 / size) * ratio + 3 * ratio**2 + ratio**3
    return np.asarray(1 / np.sqrt(square))


def _folded_mean(mean: float, deviation: float) -> float:
    """E|x| of a normal variable."""
    if deviation == 0:
        return abs(mean)
    ratio = mean / deviation
    return deviation * math.sqrt(2 / math.pi) * math.exp(-(ratio**2) / 2) + mean * math.erf(
        ratio / math.sqrt(2)
    )


def matched_terms(form: Form, layer: int, query: Content, key: Content) -> int:
    """Pairs of terms with one label between which the added word is the identity, for orthogonal Z.

    It is the score that the noise alone gives this key, for α = β = 1 and orthonormal embeddings in the limit of wide streams.
    Cost: len(query) · len(key) words. Raises ValueError as `gained_word` does.
    """
    return sum(
        query_label == key_label and not reduce_word(gained_word(form, layer, query_word, key_word))
        for query_word, query_label in query
        for key_word, key_label in key
    )
