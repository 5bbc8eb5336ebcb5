"""Noise forms: kernels gained against products of matrices, expected traces against samples, why identity noise collides."""

import math

import numpy as np
import pytest
import sympy

from sims.statistics import z_threshold
from theory.matching import (
    added_key_query,
    alignment,
    content_vector,
    contents,
    expected_trace,
    gained_word,
    gains,
    haar_matrix,
    kernel,
    kernel_score,
    kernels,
    matched_terms,
    matching_reads,
    needed_kernel,
    reduce_word,
    word_expression,
)
from theory.symbols import symbol

FORMS = ("remembered", "corrected", "identity")
THRESHOLD = z_threshold(1000)
"""For all comparisons of this file together: fewer than a thousand."""


def draw(kind: str, generator: np.random.Generator, width: int, count: int = 3) -> np.ndarray:
    if kind == "identity":
        return np.broadcast_to(np.eye(width), (count, width, width)).copy()
    if kind == "orthogonal":
        return np.stack([haar_matrix(width, generator) for _ in range(count)])
    return generator.normal(size=(count, width, width)) / math.sqrt(width)


def evaluate(word: tuple[tuple[int, bool], ...], noises: np.ndarray) -> np.ndarray:
    found = np.eye(noises.shape[-1])
    for index, transposed in word:
        found = found @ (noises[index].T if transposed else noises[index])
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_gained_words_are_the_kernels_of_pure_noise(form: str, layer: int) -> None:
    """Column convention, W_qk = added, W_vo = Z: every pair of buffers."""
    noises = draw("identity" if form == "identity" else "gaussian", np.random.default_rng(layer), 6)
    found = kernels(added_key_query(form, layer, noises), noises[:layer])
    table = gains(form, "gaussian", layer, 6)
    assert [(gain.query, gain.key) for gain in table] == list(found)
    for gain in table:
        assert gain.word == gained_word(form, layer, gain.query, gain.key)
        np.testing.assert_allclose(
            evaluate(gain.word, noises), found[gain.query, gain.key], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_remembered_form_is_that_of_the_row_convention(layer: int) -> None:
    """Rows: W^qk += Z_{l−1}, W^vo += Z_l, Ker(l) = W^vo(l − 1) W^qk(l) W^vo(0)ᵀ; ours has the transposed Z's."""
    rows = np.random.default_rng(layer).normal(size=(3, 5, 5))
    columns = np.swapaxes(rows, 1, 2)
    query, key = needed_kernel(layer)
    added = added_key_query("remembered", layer, columns)
    np.testing.assert_array_equal(added, rows[layer - 1])
    row_kernel = (rows[layer - 1] if layer > 1 else np.eye(5)) @ rows[layer - 1] @ rows[0].T
    column_kernel = kernel(added, columns[query[0]] if query else None, columns[key[0]])
    np.testing.assert_allclose(column_kernel, row_kernel, rtol=1e-12)


def test_which_buffers_match() -> None:
    """prop-noise: for orthogonal Z the kernel is exactly the identity there, and nowhere else."""
    expected = {
        ("remembered", 1): [((), (0,))],
        ("remembered", 2): [((), (1,))],
        ("remembered", 3): [((), (2,))],
        ("corrected", 1): [((), (0,))],
        ("corrected", 2): [((1,), (0,))],
        ("corrected", 3): [((2,), (0,))],
    }
    for (form, layer), pairs in expected.items():
        noises = draw("orthogonal", np.random.default_rng(layer), 30)
        found = kernels(added_key_query(form, layer, noises), noises[:layer])
        exact = [pair for pair, matrix in found.items() if np.allclose(matrix, np.eye(30), atol=1e-10)]
        assert exact == pairs
        assert [
            (gain.query, gain.key) for gain in gains(form, "orthogonal", layer, 30) if gain.matches
        ] == pairs
        assert (needed_kernel(layer) in pairs) == (form == "corrected" or layer == 1)
    for layer in (1, 2):
        assert all(gain.matches for gain in gains("identity", "orthogonal", layer, 30))
    assert not added_key_query("corrected", 0, noises).any()


WORDS = sorted(
    {
        gain.word
        for form in ("remembered", "corrected")
        for layer in (1, 2, 3)
        for gain in gains(form, "orthogonal", layer, 8)
        if len(gain.word)
    }
)


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
def test_expected_traces_against_samples(kind: str) -> None:
    """Of all words of three layers, and of their squared norms, exact in d = 6."""
    generator, n, width = np.random.default_rng(6), 1500, 6
    draws = [draw(kind, generator, width) for _ in range(n)]
    assert len(WORDS) > 30
    for word in WORDS:
        matrices = np.stack([evaluate(word, noises) for noises in draws[: n if len(word) < 4 else 600]])
        norm = tuple((index, not flipped) for index, flipped in reversed(word)) + word
        for values, exact in (
            (np.trace(matrices, axis1=1, axis2=2), expected_trace(word, kind)),
            (np.sum(matrices**2, axis=(1, 2)), expected_trace(norm, kind)),
        ):
            predicted = float(exact.subs(symbol("d"), width))
            # Rounding: orthogonal words have no spread of the norm.
            error = values.std(ddof=1) / math.sqrt(len(values)) + 1e-12
            assert abs(values.mean() - predicted) < THRESHOLD * error, (kind, word)


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
@pytest.mark.parametrize(("form", "layer"), [("remembered", 1), ("remembered", 2), ("corrected", 2)])
def test_scores_of_gains_against_samples(kind: str, form: str, layer: int) -> None:
    generator, n, width = np.random.default_rng(7), 60, 60
    draws = [draw(kind, generator, width, 2) for _ in range(n)]
    for gain in gains(form, kind, layer, width):
        matrices = np.stack([evaluate(gain.word, noises) for noises in draws])
        for found, predicted in (
            (kernel_score(matrices), gain.kernel_score),
            (alignment(matrices), gain.alignment),
        ):
            error = found.std(ddof=1) / math.sqrt(n)
            # Ratios of means and Gaussian entries: 1/d of the value.
            assert abs(found.mean() - predicted) < THRESHOLD * error + 1.5 * abs(predicted) / width, gain


def test_numbers_of_the_correction() -> None:
    """A4 at d = 400, Gaussian: needed kernel 23.6, then 0 for "remembered"; 13.9 for "corrected"; (raw, l − 1) 23.7."""

    def score(form: str, layer: int, pair: tuple[tuple[int, ...], tuple[int, ...]]) -> float:
        return next(
            gain.kernel_score
            for gain in gains(form, "gaussian", layer, 400)
            if (gain.query, gain.key) == pair
        )

    assert score("remembered", 1, needed_kernel(1)) == pytest.approx(23.6, abs=0.1)
    assert score("remembered", 2, needed_kernel(2)) == 0
    assert score("remembered", 2, ((), (1,))) == pytest.approx(23.7, abs=0.1)
    for layer in (2, 3):
        assert score("corrected", layer, needed_kernel(layer)) == pytest.approx(13.95, abs=0.1)


def test_gaussian_noise_is_orthogonal_entry_by_entry_only() -> None:
    """A5: ‖ZᵀZ − 1‖_F = ‖1‖_F, from the exact moments (d + 1)/d."""
    single = ((0, True), (0, False))
    difference = (
        expected_trace(single + single, "gaussian") - 2 * expected_trace(single, "gaussian") + symbol("d")
    )
    assert sympy.simplify(difference - (symbol("d") + 1)) == 0
    noise = draw("gaussian", np.random.default_rng(0), 400, 1)[0]
    relative = np.linalg.norm(noise.T @ noise - np.eye(400)) / 20
    # Its square has mean 1 + 1/d and fluctuates by about 2/d.
    assert relative == pytest.approx(1, abs=0.02)


# --- identity noise


SENTENCE = ["BOS", "x", "a", "a", "b", "b", "c", "a"]
"""Pairs x → a, a → b, b → c, then the start a. Right slots: 4, then 6."""


def scores(form: str, layer: int) -> list[int]:
    labels = [(), *((token,) for token in SENTENCE[1:])]
    reads = matching_reads(SENTENCE, 3)
    for row in reads[1:]:
        row[:-1] = [None] * 7  # only the last position matches
    held = contents(labels, reads)[layer]
    return [matched_terms(form, layer, held[-1], key) for key in held]


def test_identity_noise_ties_the_right_slot_with_wrong_ones() -> None:
    """prop-collision: own key slot, the slot of the pair before and the position itself in layer 1; worse in layer 2."""
    assert scores("corrected", 1) == [0, 0, 0, 0, 1, 0, 0, 0]
    assert scores("corrected", 2) == [0, 0, 0, 0, 0, 0, 1, 0]
    assert scores("identity", 1) == [0, 0, 1, 1, 1, 0, 0, 1]
    layer_2 = scores("identity", 2)
    assert layer_2 == [0, 0, 2, 2, 3, 1, 1, 5]
    assert all(layer_2[6] < score for score, token in zip(layer_2, SENTENCE, strict=True) if token == "a")
    assert scores("remembered", 1) == scores("corrected", 1)
    # A raw query meets what was read in layer 1: nobody but the last position read, and it read b and, deeper, a.
    assert scores("remembered", 2)[:-1] == [0] * 7


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", [1, 2])
def test_matched_terms_are_scores_of_wide_streams(form: str, layer: int) -> None:
    generator, width = np.random.default_rng(layer), 700
    noises = draw("identity" if form == "identity" else "orthogonal", generator, width)
    rows = generator.normal(size=(5, width))
    embeddings = dict(zip("xabc", rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=False))
    labels = [(), *((token,) for token in SENTENCE[1:])]
    reads = matching_reads(SENTENCE, 3)
    for row in reads[1:]:
        row[:-1] = [None] * 7
    streams = [content_vector(content, noises, embeddings) for content in contents(labels, reads)[layer]]
    added = added_key_query(form, layer, noises)
    for stream, expected in zip(streams, scores(form, layer), strict=True):
        # At most 5 · 5 products of unit vectors, all of them with the same sign at worst: 5 × 5 × 5/√700 would be far too much.
        assert streams[-1] @ added @ stream == pytest.approx(expected, abs=6 * 5 / math.sqrt(width))


# --- words


def test_words_and_their_expressions() -> None:
    width = symbol("d")
    first, second = (sympy.MatrixSymbol(symbol(f"Z_{index}"), width, width) for index in (0, 1))
    assert word_expression(gained_word("corrected", 2, (1,), (0,))) == second.T * second * first.T * first
    assert word_expression(gained_word("remembered", 2, (), (1,))) == second.T * second
    assert word_expression(gained_word("corrected", 2, (1, 0), (0,))) == (
        first.T * second.T * second * first.T * first
    )
    assert word_expression(()) == sympy.Identity(width)
    assert reduce_word(gained_word("corrected", 2, (1, 0), (0,))) == ((0, True),)


def test_bad_input_is_named() -> None:
    noises = draw("gaussian", np.random.default_rng(0), 4, 1)
    with pytest.raises(ValueError, match="form is 'rmba'; it must be remembered, corrected or identity"):
        added_key_query("rmba", 1, noises)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noises has 1 matrices; layer 2 needs 2"):
        added_key_query("remembered", 2, noises)
    with pytest.raises(ValueError, match="layer is 0; noise is added"):
        gained_word("corrected", 0, (), ())
    with pytest.raises(ValueError, match=r"query is \(1,\); its layers must be 0 to 0"):
        gained_word("corrected", 1, (1,), ())
    with pytest.raises(ValueError, match="kind is 'uniform'"):
        expected_trace((), "uniform")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="its expected trace is known here for powers"):
        expected_trace(((0, False), (0, False), (1, False), (1, False)), "orthogonal")
