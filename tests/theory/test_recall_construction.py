"""The best weights: their risk against a plain model over all contexts of tiny problems, and how it falls to the Bayes risk."""

import math
from typing import Any

import numpy as np
import pytest

from tests.enumeration import enumeration, inputs, log_softmax, model_logits
from theory.noisy_recall import (
    bayes_answers,
    bayes_risk,
    construction,
    construction_risk,
    unrevealed_probability,
)
from theory.problems import MarkovChain, NoisyRecall

TINY = {
    "3, 6": NoisyRecall.theory_version(3, 6, 0.3),
    "4, 5": NoisyRecall.theory_version(4, 5, 0.6, trigger=2),
    "5, 4": NoisyRecall.theory_version(5, 4, 0.05, trigger=4),
    "3, 3": NoisyRecall.theory_version(3, 3, 0.9),
}


def log_answers(problem: NoisyRecall, value_scale: float, attention_scale: float) -> np.ndarray:
    """Of the model with these weights at every enumerated context, (M, V)."""
    vectors = inputs(enumeration(problem).tokens[:, :-1], problem.vocabulary_size)
    weights = construction(problem, value_scale, attention_scale)
    return log_softmax(model_logits(vectors, weights.feed_forward, weights.value, weights.key_query))


def model_risk(problem: NoisyRecall, value_scale: float, attention_scale: float) -> float:
    every, logs = enumeration(problem), log_answers(problem, value_scale, attention_scale)
    return float(-every.probability @ logs[np.arange(len(logs)), every.tokens[:, -1]])


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("value_scale", [0.5, 4.0, 12.0])
def test_risk_against_the_model_on_all_contexts(name: str, value_scale: float) -> None:
    problem = TINY[name]
    # Groups of attention are apart by λ/2 = 60: e^−60 of attention goes astray.
    assert model_risk(problem, value_scale, 120.0) == pytest.approx(
        construction_risk(problem, value_scale), rel=1e-12
    )


@pytest.mark.parametrize("name", TINY)
def test_answers_become_bayes_optimal(name: str) -> None:
    """In every context, at ω = 25 and λ = 300: logits miss by e^−25 = 1e-11 times N."""
    problem = TINY[name]
    _, best = bayes_answers(problem, enumeration(problem).tokens[:, :-1])
    np.testing.assert_allclose(np.exp(log_answers(problem, 25.0, 300.0)), best, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", TINY)
def test_small_attention_scales_cost_something(name: str) -> None:
    """The limit λ → ∞ is meant: the model's risk approaches it from elsewhere, like e^−λ/2."""
    problem, limit = TINY[name], construction_risk(TINY[name], 3.0)
    gaps = [abs(model_risk(problem, 3.0, scale) - limit) for scale in (4.0, 12.0, 24.0)]
    assert gaps[0] > 1e-3
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3


@pytest.mark.parametrize(("n_tokens", "length", "level"), [(3, 6, 0.3), (16, 32, 0.5), (64, 256, 0.05)])
def test_the_excess_falls_like_the_exponential(n_tokens: int, length: int, level: float) -> None:
    """Decreasing to the Bayes risk; e^ω times the excess tends to (1 − α)[(1 − P₀)(N − 2) + P₀/(N − 1)]."""
    problem = NoisyRecall.theory_version(n_tokens, length, level)
    scales = np.linspace(1, 16, 31)
    excess = [construction_risk(problem, scale) - bayes_risk(problem).risk for scale in scales]
    assert np.all(np.array(excess) > 0)
    assert np.all(np.diff(excess) < 0)
    unrevealed = unrevealed_probability(problem)
    slope = (1 - level) * ((1 - unrevealed) * (n_tokens - 2) + unrevealed / (n_tokens - 1))
    # The next order is e^−ω N at ω = 16: 1e-7 × 64; rounding of the risk 1e-16/e^−16 = 1e-9.
    assert excess[-1] * math.exp(16) == pytest.approx(slope, rel=1e-5)
    assert construction_risk(problem, 60.0) == pytest.approx(bayes_risk(problem).risk, rel=1e-14)


def test_the_weights_have_their_shapes() -> None:
    weights = construction(TINY["4, 5"], 2.0, 6.0)
    assert {name: one.shape for name, one in vars(weights).items()} == {
        "feed_forward": (5, 10),
        "value": (5, 10),
        "key_query": (10, 10),
    }


@pytest.mark.parametrize(
    ("problem", "scales", "answer"),
    [
        ("3, 6", (0.0, 1.0), r"value_scale is 0\.0; it must be finite and above 0\."),
        ("3, 6", (1.0, -2.0), r"attention_scale is -2\.0; it must be finite and above 0\."),
        ("3, 6", (math.inf, 1.0), r"value_scale is inf; it must be finite and above 0\."),
        ("3, 6", (1.0, math.nan), r"attention_scale is nan; it must be finite and above 0\."),
    ],
)
def test_bad_scales_are_told(problem: str, scales: tuple[float, float], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        construction(TINY[problem], *scales)


def test_other_problems_are_told() -> None:
    with pytest.raises(ValueError, match=r"noise_level is 0\.0; the construction needs noise, .*\."):
        construction(NoisyRecall.theory_version(4, 5, 0.0), 1.0, 1.0)
    other = NoisyRecall.theory_version(4, 5, 0.3, MarkovChain.zipf_dirichlet(4))
    calls: list[Any] = [lambda: construction(other, 1.0, 1.0), lambda: construction_risk(other, 1.0)]
    for call in calls:
        with pytest.raises(ValueError, match="problem is not the theory version on the uniform chain"):
            call()
