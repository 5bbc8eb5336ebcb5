"""What fresh weights leave of corrected noise: polynomials against Wick's theorem, means against products of drawn matrices."""

import itertools
import math

import numpy as np
import pytest
import sympy

from sims.statistics import z_threshold
from theory.matching import (
    added_key_query,
    derivation,
    expected_trace,
    fresh_alignment,
    gains,
    haar_matrix,
    kernel,
    needed_kernel,
)
from theory.matching.orthogonal_noise import Kind
from theory.symbols import symbol

KINDS: tuple[Kind, ...] = ("gaussian", "orthogonal")
COMPARISONS = 2 * 2 * 3 * 2
THRESHOLD = z_threshold(COMPARISONS)
"""Two kinds, two starts, three layers, trace and norm."""


def mean_square(kind: Kind, layer: int, width: int, exponent: float) -> float:
    """E‖kernel‖² of factors 1, from the alignment and a trace of mean d."""
    return width / float(fresh_alignment(kind, layer, width, exponent)) ** 2


@pytest.mark.parametrize("layer", [1, 2])
def test_gaussian_polynomials_are_sums_of_wick_pairings(layer: int) -> None:
    """Fresh W_vo = W_o W_v and W_qk = W_qᵀ W_k are √r times products of two matrices with entries N(0, 1/d), letters 10 and on.

    Every place has the noise or the fresh product: the expected squares of all products add up, cross terms have lone letters.
    """
    width, ratio, exponent = symbol("d"), sympy.Symbol("r"), 0.6
    noise = (
        [((0, True),), ((0, False),)]
        if layer == 1
        else [((1, True),), ((1, False), (0, True)), ((0, False),)]
    )
    fresh = [((10 + 2 * place, False), (11 + 2 * place, False)) for place in range(len(noise))]
    total = sympy.Integer(0)
    for chosen in itertools.product((False, True), repeat=len(noise)):
        word = sum((fresh[k] if one else noise[k] for k, one in enumerate(chosen)), ())
        mirrored = tuple((index, not flipped) for index, flipped in reversed(word))
        total += ratio ** sum(chosen) * expected_trace(mirrored + word, "gaussian")
        trace = expected_trace(word, "gaussian")
        assert sympy.expand(trace - (0 if any(chosen) else width)) == 0
    for size in (7, 64):
        numbers = {width: size, ratio: size ** (2 - 4 * exponent)}
        # Sums of a dozen rounded terms.
        assert mean_square("gaussian", layer, size, exponent) == pytest.approx(
            float(total.subs(numbers)), rel=1e-12
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exponent", [0.45, 0.6])
def test_means_against_drawn_decoders(kind: Kind, exponent: float) -> None:
    """W_q, W_k, W_v, W_o of every layer and the noise, multiplied out: mean trace d, mean square norm d / alignment²."""
    width, n, generator = 12, 1500, np.random.default_rng(int(100 * exponent))
    traces, squares = np.empty((3, n)), np.empty((3, n))
    for draw in range(n):
        if kind == "orthogonal":
            noises = np.stack([haar_matrix(width, generator) for _ in range(3)])
        else:
            noises = generator.normal(size=(3, width, width)) / math.sqrt(width)
        query, key, value, output = generator.normal(size=(4, 4, width, width)) * width**-exponent
        values = noises + (output @ value)[:3]
        for layer in (1, 2, 3):
            key_query = query[layer].T @ key[layer] + added_key_query("corrected", layer, noises)
            at, source = needed_kernel(layer)
            found = kernel(key_query, values[at[0]] if at else None, values[source[0]])
            traces[layer - 1, draw], squares[layer - 1, draw] = np.trace(found), np.sum(found**2)
    for layer in (1, 2, 3):
        expected = mean_square(kind, layer, width, exponent)
        for values, mean in ((traces[layer - 1], width), (squares[layer - 1], expected)):
            error = values.std(ddof=1) / math.sqrt(n)
            assert abs(values.mean() - mean) < THRESHOLD * error, (layer, values.mean(), mean)
            # The check can fail: the errors are small against what is compared.
            assert THRESHOLD * error < 0.5 * mean


def test_a_smaller_factor_is_as_a_larger_start() -> None:
    """r = d^(2 − 4γ)/start²: factors of d^(1 − 2γ) beside fresh weights of exponent γ leave what factors 1 leave at γ = ½."""
    for kind, layer in itertools.product(KINDS, (1, 2)):
        left = fresh_alignment(kind, layer, 50, 0.8, start=50 ** (1 - 1.6))
        assert float(left) == pytest.approx(float(fresh_alignment(kind, layer, 50, 0.5)), rel=1e-12)


def test_known_values_and_limits() -> None:
    equations, width, exponent = derivation(), symbol("d"), symbol(r"\gamma")
    for layer in (1, 2):
        right = equations[f"fresh_{layer}"].rhs
        values = fresh_alignment("orthogonal", layer, 30, [0.4, 0.5, 0.9])
        assert values.shape == (3,)
        assert values == pytest.approx(
            [float(right.subs({width: 30, exponent: one})) for one in (0.4, 0.5, 0.9)], rel=1e-12
        )
        assert np.all(np.diff(values) > 0)
    for layer, kind in itertools.product((1, 2, 3), KINDS):
        alone = next(
            gain.alignment
            for gain in gains("corrected", kind, layer, 40)
            if (gain.query, gain.key) == needed_kernel(layer)
        )
        assert float(fresh_alignment(kind, layer, 40, math.inf)) == pytest.approx(alone, rel=1e-12)
    # The exercise of the chapter: 1/√5 and 1/√13 for wide models at γ = ½, up to terms of order 1/d.
    for layer, square in ((1, 5), (2, 13)):
        assert float(fresh_alignment("gaussian", layer, 10**6, 0.5)) == pytest.approx(square**-0.5, rel=1e-5)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="kind is 'uniform'; it must be orthogonal or gaussian"):
        fresh_alignment("uniform", 1, 8, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer is 0; it must be at least 1"):
        fresh_alignment("gaussian", 0, 8, 0.5)
    with pytest.raises(ValueError, match="start is 0; it must be finite and above 0"):
        fresh_alignment("gaussian", 1, 8, 0.5, start=0)
    with pytest.raises(ValueError, match="init_exponent is nan; it must be a number"):
        fresh_alignment("gaussian", 1, 8, math.nan)
