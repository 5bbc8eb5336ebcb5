"""Contents against a forward pass with hard attention, lem-words, and kernels against scores."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.matching import (
    Term,
    content_vector,
    contents,
    kernel,
    kernels,
    needed_kernel,
    score_parts,
    word_matrix,
)

WIDTH = 7


def random_matrices(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH, WIDTH)) / math.sqrt(WIDTH)


@st.composite
def flows(draw: st.DrawFn) -> tuple[list[tuple[object, ...]], list[list[int | None]]]:
    """Labels (none, a token, or a token and a position) and causal sources, None among them."""
    length, layers = draw(st.integers(1, 6)), draw(st.integers(0, 4))
    tokens = draw(st.lists(st.sampled_from("abc"), min_size=length, max_size=length))
    kinds = draw(st.lists(st.integers(0, 2), min_size=length, max_size=length))
    labels = [
        ((), (token,), (token, ("p", i)))[kind]
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
    ]
    reads = [
        [draw(st.one_of(st.none(), st.integers(0, place))) for place in range(length)] for _ in range(layers)
    ]
    return labels, reads


@given(flow=flows(), seed=st.integers(0, 100))
def test_contents_are_the_streams_of_a_forward_pass(
    flow: tuple[list[tuple[object, ...]], list[list[int | None]]], seed: int
) -> None:
    labels, reads = flow
    generator = np.random.default_rng(seed)
    embeddings = {label: generator.normal(size=WIDTH) for own in labels for label in own}
    matrices = random_matrices(seed + 1, max(len(reads), 1))
    streams = np.array([sum((embeddings[label] for label in own), np.zeros(WIDTH)) for own in labels])
    found = contents(labels, reads)
    for layer in range(len(reads) + 1):
        vectors = [content_vector(content, matrices, embeddings) for content in found[layer]]
        # Sums of at most 32 terms of order 1 in float64.
        np.testing.assert_allclose(vectors, streams, rtol=0, atol=1e-12)
        if layer < len(reads):
            attention = np.zeros((len(labels), len(labels)))
            for place, source in enumerate(reads[layer]):
                if source is not None:
                    attention[place, source] = 1
            streams = streams + attention @ streams @ matrices[layer].T


@given(seed=st.integers(0, 1000), length=st.integers(1, 6), layers=st.integers(0, 5))
def test_every_decreasing_word_is_held_once_and_followed_back(seed: int, length: int, layers: int) -> None:
    """lem-words, with one label a position and a source in every layer."""
    generator = np.random.default_rng(seed)
    reads = [[int(generator.integers(0, place + 1)) for place in range(length)] for _ in range(layers)]
    for place, content in enumerate(contents([(i,) for i in range(length)], reads)[-1]):
        assert len(content) == 2**layers
        assert len({term.word for term in content}) == 2**layers
        for word, label in content:
            assert all(later > earlier for later, earlier in itertools.pairwise(word))
            source = place
            for layer in word:
                source = reads[layer][source]
            assert source == label


def test_parts_of_a_score_add_up_and_are_kernels() -> None:
    generator = np.random.default_rng(0)
    embeddings = {token: generator.normal(size=WIDTH) for token in "abc"}
    matrices, key_query = random_matrices(1, 2), random_matrices(2, 1)[0]
    query = (Term((), "a"), Term((1,), "b"), Term((1, 0), "c"))
    key = (Term((), "c"), Term((0,), "b"), Term((0,), "a"))
    parts = score_parts(query, key, key_query, matrices, embeddings)
    whole = (
        content_vector(query, matrices, embeddings) @ key_query @ content_vector(key, matrices, embeddings)
    )
    assert sum(parts.values()) == pytest.approx(whole, rel=1e-12)
    assert set(parts) == {(q, k) for q in [(), (1,), (1, 0)] for k in [(), (0,)]}
    between = kernels(key_query, matrices)[(1,), (0,)]
    assert parts[(1,), (0,)] == pytest.approx(
        embeddings["b"] @ between @ (embeddings["a"] + embeddings["b"]), rel=1e-12
    )


def test_kernels_of_all_pairs_of_buffers() -> None:
    matrices, key_query = random_matrices(3, 2), random_matrices(4, 1)[0]
    found = kernels(key_query, matrices)
    assert list(found) == [(q, k) for q in [(), (0,), (1,)] for k in [(), (0,), (1,)]]
    np.testing.assert_array_equal(found[(), ()], key_query)
    np.testing.assert_allclose(found[(1,), (0,)], matrices[1].T @ key_query @ matrices[0], rtol=1e-13)
    np.testing.assert_allclose(found[(0,), ()], kernel(key_query, query_buffer=matrices[0]), rtol=0, atol=0)
    stacked = kernels(np.stack([key_query, 2 * key_query]), np.stack([matrices, matrices], axis=1))
    # A batched product may sum in another order than a single one: last bits only.
    np.testing.assert_allclose(stacked[(1,), (0,)][1], 2 * found[(1,), (0,)], rtol=1e-13, atol=1e-15)


def test_needed_kernels_make_the_chain_match() -> None:
    """With orthogonal W_vo and the ideal W_qk the needed kernel is the identity, and no other."""
    assert [needed_kernel(layer) for layer in (1, 2, 3)] == [((), (0,)), ((1,), (0,)), ((2,), (0,))]
    values = np.array([np.linalg.qr(matrix)[0] for matrix in random_matrices(5, 3)])
    for layer in (1, 2, 3):
        ideal = values[0].T if layer == 1 else values[layer - 1] @ values[0].T
        for pair, found in kernels(ideal, values[:layer]).items():
            assert np.allclose(found, np.eye(WIDTH), rtol=0, atol=1e-12) == (pair == needed_kernel(layer))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="reads has 1 sources in layer 0; it must have 2"):
        contents([("a",), ("b",)], [[0]])
    with pytest.raises(
        ValueError, match="reads has source 2 in layer 0; it must be None or a position, 0 to 1"
    ):
        contents([("a",), ("b",)], [[0, 2]])
    with pytest.raises(ValueError, match=r"word is \(2,\); its layers must be 0 to 1"):
        word_matrix((2,), random_matrices(0, 2))
    with pytest.raises(ValueError, match="layer is 0; it must be at least 1"):
        needed_kernel(0)
