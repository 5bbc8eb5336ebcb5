"""Copying and attention: against derivatives of the loss of an explicit model over all sequences."""

import math

import numpy as np
import pytest

from tests.enumeration import derivative, enumeration, inputs, log_softmax, model_logits
from theory.noisy_recall import (
    LearningRates,
    answers,
    attention_time,
    context_table,
    copy_map,
    copy_strength,
    gradient_flow,
    key_query_step,
    leading_key_query_step,
    optimal_feed_forward,
)
from theory.noisy_recall.first_step import Features
from theory.problems import MarkovChain, NoisyRecall

ROUNDING = 1e-12
"""Some hundred terms below one are added up, and the complex step has no error of its own."""
FEATURES: list[Features] = ["current", "both"]
TINY = {
    "3, 5": NoisyRecall.theory_version(3, 5, 0.3),
    "4, 5": NoisyRecall.theory_version(4, 5, 0.6, trigger=2),
    "3, 6": NoisyRecall.theory_version(3, 6, 0.8, trigger=1),
    "5, 3": NoisyRecall.theory_version(5, 3, 0.2),
}


def feed_forward(problem: NoisyRecall) -> np.ndarray:
    """The best answer without context as a matrix that reads the trigger; e^−80 stands for 0."""
    size = problem.vocabulary_size
    matrix = np.zeros((size, 2 * size))
    matrix[:, problem.trigger] = np.maximum(optimal_feed_forward(problem), -80)
    return matrix


@pytest.mark.parametrize("name", TINY)
def test_the_best_answer_without_context(name: str) -> None:
    """The frequencies of labels over all sequences."""
    problem, every = TINY[name], enumeration(TINY[name])
    exact = np.bincount(every.tokens[:, -1], every.probability, problem.vocabulary_size)
    np.testing.assert_allclose(np.exp(optimal_feed_forward(problem)), exact, rtol=0, atol=ROUNDING)
    assert optimal_feed_forward(problem)[problem.trigger] == -np.inf


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("features", FEATURES)
def test_the_value_matrix_copies(name: str, features: Features) -> None:
    problem, every = TINY[name], enumeration(TINY[name])
    size = problem.vocabulary_size
    vectors, labels = inputs(every.tokens[:, :-1], size), every.tokens[:, -1]
    read = np.ones(2 * size)
    read[size:] = features == "both"
    forward, flat = feed_forward(problem), np.zeros((2 * size, 2 * size))

    def loss(value: np.ndarray) -> complex:
        logs = log_softmax(model_logits(vectors, forward, value * read, flat))
        return -complex(every.probability @ logs[np.arange(len(labels)), labels])

    found = copy_map(problem, features)
    np.testing.assert_allclose(found, -derivative(loss, np.zeros((size, 2 * size))), rtol=0, atol=ROUNDING)
    one, other = problem.targets[:2]
    assert found[one, one] - found[one, other] == pytest.approx(copy_strength(problem), rel=1e-13)


def key_query_gradient(problem: NoisyRecall, features: Features, rate: float) -> np.ndarray:
    """Minus the derivative of the loss by the trigger's column of W_KQ at zero, (2 V,); the value matrix is rate × copy map."""
    every, size = enumeration(problem), problem.vocabulary_size
    vectors, labels = inputs(every.tokens[:, :-1], size), every.tokens[:, -1]
    forward, value = feed_forward(problem), rate * copy_map(problem, features)

    def loss(column: np.ndarray) -> complex:
        matrix = np.zeros((2 * size, 2 * size), complex)
        matrix[:, problem.trigger] = column
        logs = log_softmax(model_logits(vectors, forward, value, matrix))
        return -complex(every.probability @ logs[np.arange(len(labels)), labels])

    return -derivative(loss, np.zeros(2 * size))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("features", FEATURES)
def test_attention_finds_what_follows_the_trigger(name: str, features: Features) -> None:
    """Per value step η_V, for η_V → 0: a symmetric difference over ±10⁻³, whose error is the third order in η_V β < 1e-4."""
    problem, rate = TINY[name], 1e-3
    size = problem.vocabulary_size
    change = key_query_gradient(problem, features, rate) - key_query_gradient(problem, features, -rate)
    exact = change / (2 * rate) / (copy_strength(problem) / problem.context_length)
    found = key_query_step(problem, features).as_dict()
    assert set(found) == {
        f"{kind}_{token}" for kind in ("current", "previous") for token in ("trigger", "noise", "generic")
    }
    for kind, block in (("current", exact[:size]), ("previous", exact[size:])):
        places = {"trigger": problem.trigger, "noise": problem.noise_token, "generic": list(problem.targets)}
        for token, place in places.items():
            # (η_V β)² = 1e-8 and rounding of the difference 1e-16/(1e-3 β) = 1e-11.
            assert found[f"{kind}_{token}"] == pytest.approx(np.mean(block[place]), abs=1e-8), (kind, token)
        # All targets are alike: the mean over them is the value of each.
        np.testing.assert_allclose(
            block[list(problem.targets)], np.mean(block[list(problem.targets)]), atol=1e-8
        )


@pytest.mark.parametrize(
    ("features", "known"),
    [
        ("current", (2.17, -0.188, -0.069, -0.069, -0.224, 0.027)),
        ("both", (1.97, -0.162, -0.138, -0.138, -0.228, 0.033)),
    ],
)
def test_known_values(features: Features, known: tuple[float, ...]) -> None:
    """N = 12, T = 96, α = 0.4, to the digits known from drawn sequences."""
    found = key_query_step(NoisyRecall.theory_version(12, 96, 0.4), features)
    names = ["previous_trigger", "previous_generic", "previous_noise"]
    names += ["current_noise", "current_trigger", "current_generic"]
    for name, value in zip(names, known, strict=True):
        assert getattr(found, name) == pytest.approx(value, abs=5.1e-3 if abs(value) > 1 else 1e-3), name


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("level", [0.0, 0.5])
def test_the_leading_order_is_approached(features: Features, level: float) -> None:
    """At T = 8 N the relative errors at N = 24 and 96 are of order 1/N, and fall by about four."""
    errors = []
    for n_tokens in (24, 96):
        problem = NoisyRecall.theory_version(n_tokens, 8 * n_tokens, level)
        exact, leading = key_query_step(problem, features), leading_key_query_step(problem, features)
        assert leading.current_generic == 0
        # What cancels at leading order is smaller than the other ordinary terms' unit (1 − α)² T/N² by 1/T or 1/N.
        assert abs(exact.current_generic) < 4 * abs(leading.previous_generic) / n_tokens * 8
        for name, value in leading.as_dict().items():
            if name.endswith("noise") and level == 0:
                assert value == 0
                # Without noise there is no noise token in the context.
                assert getattr(exact, name) == pytest.approx(0, abs=1e-13)
        names = [name for name, value in leading.as_dict().items() if value]
        errors.append([getattr(exact, name) / getattr(leading, name) - 1 for name in names])
    assert np.all(np.abs(errors[1]) < 0.15)
    np.testing.assert_array_less(np.abs(errors[1]), np.abs(errors[0]) / 2.5)


def test_bad_input_is_told() -> None:
    other = NoisyRecall.theory_version(4, 5, 0.3, MarkovChain.zipf_dirichlet(4))
    for function in (optimal_feed_forward, copy_map, key_query_step, leading_key_query_step):
        with pytest.raises(ValueError, match="problem is not the theory version on the uniform chain"):
            function(other)
    for function in (copy_map, key_query_step, leading_key_query_step):
        with pytest.raises(ValueError, match=r"features is 'all'; it must be one of current, both\."):
            function(TINY["3, 5"], "all")


@pytest.mark.parametrize(("n", "length", "level"), [(6, 36, 0.3), (8, 64, 0.6), (12, 96, 0.4)])
def test_attention_starts_when_its_clock_says(n: int, length: int, level: float) -> None:
    """Against the whole flow: half of the attention is on the target within a fifth of the time (the clock is a first-order
    law, stopped at a score of one; the time itself varies by a factor of nine between these problems)."""
    problem = NoisyRecall.theory_version(n, length, level)
    clock = attention_time(problem)
    table = context_table(problem, 1000, np.random.default_rng(0))
    steps = np.linspace(0.5, 2, 61) * clock
    states = gradient_flow(table, LearningRates(1.0, 1.0, 1.0), steps, relative_tolerance=1e-4)
    shown = [answers(state, table) for state in states]
    weight = [one.attention_target[one.target_shown].mean() for one in shown]
    half = float(np.interp(0.5, weight, steps))
    assert half == pytest.approx(clock, rel=0.2)


def test_leading_attention_time() -> None:
    """√2 N^(3/2)/(1 − α)², approached like 1/N at T = 16 N."""
    gaps = []
    for n in (10, 20, 40):
        problem = NoisyRecall.theory_version(n, 16 * n, 0.4)
        gaps.append(attention_time(problem) / (math.sqrt(2) * n**1.5 / 0.6**2) - 1)
    assert abs(gaps[2]) < 0.1
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.25)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.25)
