"""Weights of the construction: kernels, layer 0, a forward pass with hard attention, and the reads of exact matching."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.matching import (
    Construction,
    construction_weights,
    content_vector,
    contents,
    kernels,
    matching_reads,
    needed_kernel,
)


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[object], list[int], int]:
    """Tokens from BOS on, the place of each pair of the chain, and the index of the start token."""
    size = draw(st.integers(1, 7))
    places = draw(st.permutations(range(size)))
    start = draw(st.integers(0, size))
    tokens: list[object] = ["BOS"]
    for pair in np.argsort(places):
        tokens += [int(pair), int(pair) + 1]
    return [*tokens, start], list(places), start


@given(sentence=sentences(), n_layers=st.integers(1, 5))
def test_exact_matching_takes_one_step_a_layer(
    sentence: tuple[list[object], list[int], int], n_layers: int
) -> None:
    tokens, places, start = sentence
    reads = matching_reads(tokens, n_layers)
    for layer in range(1, n_layers):
        index = start + layer - 1
        right = 2 * places[index] + 2 if index < len(places) else None
        assert reads[layer][-1] == right
    held = contents([(), *((token,) for token in tokens[1:])], reads)[-1][-1]
    last = [term.label for term in held if term.word == (n_layers - 1,)]
    if n_layers > 1:
        assert last == ([start + n_layers - 1] if start + n_layers - 1 <= len(places) else [])


@given(sentence=sentences())
def test_value_slots_match_too(sentence: tuple[list[object], list[int], int]) -> None:
    """In layer 1 a value slot reads the slot of the next pair iff that stands earlier, a key slot nobody."""
    tokens, places, _ = sentence
    reads = matching_reads(tokens, 2)[1]
    for pair, place in enumerate(places):
        earlier = pair + 1 < len(places) and places[pair + 1] < place
        assert reads[2 * place + 2] == (2 * places[pair + 1] + 2 if earlier else None)
        assert reads[2 * place + 1] is None


@pytest.mark.parametrize("kind", ["orthogonal", "gaussian"])
def test_weights(kind: str) -> None:
    """Shapes, unit vectors, needed kernels λ (for Gaussian W_vo in the mean: diagonal within a few √(5/d) / √d), unembedding."""
    problem = Construction(4, 60, n_pairs=4, vocabulary_size=9, strength=7.0, kind=kind)
    weights = construction_weights(problem, np.random.default_rng(0))
    assert weights.embedding.shape == (10, 60)
    assert not weights.embedding[-1].any()
    assert weights.positions.shape == (10, 60)
    for rows in (weights.embedding[:-1], weights.positions):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-14)
    for layer in (1, 2, 3):
        found = kernels(weights.key_query[layer], weights.value_output[:layer])[needed_kernel(layer)]
        if kind == "orthogonal":
            np.testing.assert_allclose(found, 7 * np.eye(60), atol=1e-11)
        else:
            assert np.trace(found) / 60 == pytest.approx(7, abs=7 * 6 * math.sqrt(5) / 60)
    np.testing.assert_allclose(
        weights.unembedding, weights.embedding[:-1] @ weights.value_output[-1].T, atol=1e-13
    )
    again = construction_weights(problem, np.random.default_rng(0))
    assert all(np.array_equal(one, other) for one, other in zip(weights, again, strict=True))


def test_layer_0_attends_by_positions() -> None:
    """At d = 1200 scores are λ (1 ± 0.5) for the source and λ (0 ± 0.5) for others, at five deviations of √(13/d)."""
    problem = Construction(2, 1200, strength=1.0)
    generator = np.random.default_rng(2)
    weights = construction_weights(problem, generator)
    tokens = generator.integers(0, 101, size=problem.sentence_length)
    tokens[0] = 101
    stream = weights.embedding[tokens] + weights.positions
    scores = stream @ weights.key_query[0] @ stream.T
    expected = np.zeros_like(scores)
    expected[np.arange(14), problem.first_sources] = 1
    expected[0] = 0  # BOS reads itself anyway, and is left out of the sum
    allowed = np.tril(np.ones((14, 14), bool))
    assert abs(scores - expected)[allowed].max() < 5 * math.sqrt(13 / 1200)
    assert problem.first_sources.tolist() == [0, 0, 1, 0, 3, 0, 5, 0, 7, 0, 9, 0, 11, 0]


def test_without_positions_layer_0_is_left_open() -> None:
    weights = construction_weights(Construction(2, 16, positions=False), np.random.default_rng(0))
    assert not weights.positions.any()
    assert not weights.key_query[0].any()


def test_contents_of_the_construction_are_its_streams() -> None:
    """Exact matching fed to the weights: the logit of the label is 1 + noise, of a wrong token noise, at d = 1200."""
    problem = Construction(3, 1200, n_pairs=3, vocabulary_size=8)
    weights = construction_weights(problem, np.random.default_rng(3))
    tokens = ["BOS", 1, 2, 0, 1, 2, 3, 0]
    labels = [("p0",), *((token, f"p{place}") for place, token in enumerate(tokens) if place)]
    embeddings = {token: weights.embedding[token] for token in range(8)}
    embeddings |= {f"p{place}": weights.positions[place] for place in range(8)}
    last = contents(labels, matching_reads(tokens, 3))[-1][-1]
    # The label is 2, the token two steps from 0; e, p and those of BOS, then twice what the slot held.
    assert len(last) == 3 + 4 + 4
    logits = weights.unembedding @ content_vector(last, weights.value_output, embeddings)
    noise = 5 * math.sqrt(len(last) / 1200)
    assert logits[2] == pytest.approx(1, abs=noise)
    assert abs(np.delete(logits, 2)).max() < noise


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="n_pairs is 2; it must be at least 3, the steps of n_layers layers"):
        Construction(4, 8, n_pairs=2)
    with pytest.raises(ValueError, match="vocabulary_size is 6; it must be at least 7"):
        Construction(2, 8, vocabulary_size=6)
    with pytest.raises(ValueError, match="strength is 0; it must be above 0"):
        Construction(2, 8, strength=0)
    with pytest.raises(ValueError, match="kind is 'haar'; it must be orthogonal or gaussian"):
        Construction(2, 8, kind="haar")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strength is inf; weights need a finite one"):
        construction_weights(Construction(2, 8, strength=math.inf), np.random.default_rng(0))
    with pytest.raises(ValueError, match="tokens has length 3; it must be even and at least 4"):
        matching_reads(["BOS", 1, 2], 2)
