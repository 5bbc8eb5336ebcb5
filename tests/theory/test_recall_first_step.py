"""The first gradient step: against the gradient of the loss of an explicit model over all sequences, entry by entry."""

import numpy as np
import pytest
from hypothesis import given, settings

from tests.enumeration import derivative, enumeration, inputs, log_softmax, model_logits
from tests.strategies import noisy_recalls
from theory.noisy_recall import (
    FirstStep,
    Margins,
    copy_strength,
    expected_triggers,
    first_step,
    leading_margins,
    marginals,
    margins,
    uniform_margins,
)
from theory.noisy_recall.first_step import Features
from theory.problems import MarkovChain, NoisyRecall

ROUNDING = 1e-12
"""Some hundred terms below one are added up, and the complex step has no error of its own."""
FEATURES: list[Features] = ["current", "both"]

TINY = {
    "3, 5": NoisyRecall.theory_version(3, 5, 0.3),
    "4, 4": NoisyRecall.theory_version(4, 4, 0.6, trigger=3),
    "5, 3": NoisyRecall.theory_version(5, 3, 0.0),
    "zipf": NoisyRecall.theory_version(4, 4, 0.4, MarkovChain.zipf_dirichlet(4, seed=5), trigger=1),
    "noise a target": NoisyRecall(MarkovChain.zipf_dirichlet(4, seed=2), 4, 0.35, (1,), 2, (0, 1, 2), "last"),
}


def by_enumeration(problem: NoisyRecall, features: Features) -> FirstStep:
    """Minus the derivative of the expected cross-entropy by every entry of both matrices at zero."""
    size, every = problem.vocabulary_size, enumeration(problem)
    vectors, labels = inputs(every.tokens[:, :-1], size), every.tokens[:, -1]
    read = np.ones(2 * size)
    read[size:] = features == "both"
    zero, flat = np.zeros((size, 2 * size)), np.zeros((2 * size, 2 * size))

    def loss(feed_forward: np.ndarray, value: np.ndarray) -> complex:
        logs = log_softmax(model_logits(vectors, feed_forward * read, value * read, flat))
        return -complex(every.probability @ logs[np.arange(len(labels)), labels])

    return FirstStep(
        -derivative(lambda matrix: loss(matrix, zero), zero),
        -derivative(lambda matrix: loss(zero, matrix), zero),
    )


def margins_by_enumeration(problem: NoisyRecall, step: FirstStep, features: Features) -> Margins:
    """Mean logits over enumerated contexts, the noise token's and the target's less the mean generic token's."""
    size, every = problem.vocabulary_size, enumeration(problem)
    vectors = inputs(every.tokens[:, :-1], size)
    if features == "current":
        vectors[..., size:] = 0
    found = []
    for logits in (vectors[:, -1] @ step.feed_forward.T, vectors.mean(1) @ step.value.T):
        noise = recall = 0.0
        for row, (target,), weight in zip(logits, every.targets.tolist(), every.probability, strict=True):
            special = {problem.trigger, problem.noise_token, target}
            generic = np.mean([row[token] for token in range(size) if token not in special])
            noise += weight * (row[problem.noise_token] - generic)
            recall += weight * (row[target] - generic)
        found += [noise, recall]
    return Margins(*found)


def assert_margins(found: Margins, expected: Margins, tolerance: float = ROUNDING) -> None:
    for name, exact in vars(expected).items():
        assert getattr(found, name) == pytest.approx(exact, rel=0, abs=tolerance), name


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("features", FEATURES)
def test_the_step_is_minus_the_gradient(name: str, features: Features) -> None:
    problem = TINY[name]
    found, exact = first_step(problem, features), by_enumeration(problem, features)
    np.testing.assert_allclose(found.feed_forward, exact.feed_forward, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(found.value, exact.value, rtol=0, atol=ROUNDING)
    if features == "current":
        size = problem.vocabulary_size
        assert not found.feed_forward[:, size:].any()
        assert not found.value[:, size:].any()
    assert_margins(margins(problem, features), margins_by_enumeration(problem, exact, features))


@settings(deadline=None, max_examples=10)
@given(problem=noisy_recalls(versions=("theory",)))
def test_the_step_of_random_chains(problem: NoisyRecall) -> None:
    for features in FEATURES:
        found, exact = first_step(problem, features), by_enumeration(problem, features)
        np.testing.assert_allclose(found.feed_forward, exact.feed_forward, rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(found.value, exact.value, rtol=0, atol=ROUNDING)
        assert_margins(margins(problem, features), margins_by_enumeration(problem, exact, features))


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("level", [0.0, 0.3, 0.9])
@pytest.mark.parametrize(("n_tokens", "length"), [(3, 3), (3, 8), (4, 4), (7, 5), (20, 100)])
def test_closed_margins_are_the_margins(n_tokens: int, length: int, level: float, features: Features) -> None:
    problem = NoisyRecall.theory_version(n_tokens, length, level, trigger=1)
    assert_margins(uniform_margins(problem, features), margins(problem, features), 1e-14)


@pytest.mark.parametrize("level", [0.0, 0.25, 0.8])
@pytest.mark.parametrize(("n_tokens", "length"), [(3, 4), (12, 9), (64, 256)])
def test_recall_gap_and_copy_strength(n_tokens: int, length: int, level: float) -> None:
    """R_V = (1 − α)³ Q²/((N − 1) T²), β = (1 − α)² Q/((N − 1) T), Q the expected triggers among T − 2."""
    problem = NoisyRecall.theory_version(n_tokens, length, level)
    q = sum((1 - (-1 / n_tokens) ** s) / (n_tokens + 1) for s in range(1, length - 1))
    assert float(expected_triggers(n_tokens, length - 2)) == pytest.approx(q, rel=1e-13)
    gap = (1 - level) ** 3 * q**2 / ((n_tokens - 1) * length**2)
    # Differences of counts lose a few digits: 1e-16 × count/(difference of counts) < 1e-14.
    assert uniform_margins(problem).value_recall == pytest.approx(gap, rel=1e-12)
    step, one, other = first_step(problem).value, problem.targets[0], problem.targets[1]
    # Entries near 1/N² are subtracted, their difference is of order 1/N² too, times (1 − α)²: 1e-16/0.04.
    assert copy_strength(problem) == pytest.approx(step[one, one] - step[one, other], rel=1e-11)
    assert copy_strength(problem) == pytest.approx(
        (1 - level) ** 2 * q / ((n_tokens - 1) * length), rel=1e-13
    )


@pytest.mark.parametrize(("features", "margin"), [("current", 0.00761), ("both", 0.01515)])
def test_known_values(features: Features, margin: float) -> None:
    """N = 64, T = 256, α = 0.5, to the digits known from an independent computation."""
    problem = NoisyRecall.theory_version(64, 256, 0.5)
    assert uniform_margins(problem, features).value_noise == pytest.approx(margin, abs=5e-6)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("level", [0.2, 0.7])
def test_leading_margins_are_approached_like_one_over_n(features: Features, level: float) -> None:
    """At T = 4 N the relative error falls by about four when N grows fourfold, and N times it stays bounded."""
    errors = []
    for n_tokens in (64, 256, 1024):
        problem = NoisyRecall.theory_version(n_tokens, 4 * n_tokens, level)
        exact, leading = uniform_margins(problem, features), leading_margins(problem, features)
        assert leading.feed_forward_recall == 0
        assert abs(exact.feed_forward_recall) < 2 / n_tokens**2
        names = ["feed_forward_noise", "value_noise", "value_recall"]
        errors.append([getattr(exact, one) / getattr(leading, one) - 1 for one in names])
        # The next order of each is a number of order 1/α below 10.
        assert np.all(np.abs(errors[-1]) < 10 / n_tokens)
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    # Corrections 1/N to a ratio of four at N ≥ 64, with coefficients below ten.
    np.testing.assert_allclose(ratios, 4, rtol=0.15)


def test_bad_input_is_told() -> None:
    problem = TINY["3, 5"]
    repeated = NoisyRecall.experiment_version(MarkovChain.uniform(4), 5, 0.3, 0)
    for function in (first_step, margins, uniform_margins, leading_margins):
        with pytest.raises(ValueError, match=r"features is 'all'; it must be one of current, both\."):
            function(problem, "all")  # type: ignore[arg-type]
    for function in (first_step, margins):
        with pytest.raises(ValueError, match=r"scored is 'repeated'; the step is for .* the last token\."):
            function(repeated)
    for other in (repeated, TINY["zipf"]):
        for closed in (uniform_margins, leading_margins, copy_strength):
            with pytest.raises(ValueError, match="problem is not the theory version on the uniform chain"):
                closed(other)


@pytest.mark.parametrize("features", ["current", "both"])
@pytest.mark.parametrize(
    "chain", [MarkovChain.uniform(7), MarkovChain.zipf_dirichlet(7, seed=3), MarkovChain.zipf_dirichlet(12)]
)
def test_noise_margins_are_labels_times_overlap(chain: MarkovChain, features: Features) -> None:
    """prop-overlap, on any chain: D = (α − (1−α)/(N−1)) |φ̄|² + R/(N−1), R = (1−α)/(N−2) · mean |φ̄_j − φ̄|²."""
    n, length, level = chain.n_tokens, 20, 0.35
    problem = NoisyRecall.theory_version(n, length, level, chain, trigger=2)
    found = margins(problem, features)
    for matrix in ("feed_forward", "value"):
        rows = []
        for target in problem.targets:
            where = marginals(problem, target)
            shown = (
                [where[-1], where[-2]]
                if matrix == "feed_forward"
                else [where.mean(0), where[:-1].sum(0) / length]
            )
            rows.append(np.concatenate(shown[: 1 if features == "current" else 2]))
        mean = np.mean(rows, axis=0)
        recall = (1 - level) / (n - 2) * np.mean(np.sum((np.array(rows) - mean) ** 2, axis=1))
        noise = (level - (1 - level) / (n - 1)) * mean @ mean + recall / (n - 1)
        # Some hundred roundings of numbers of order one.
        assert getattr(found, f"{matrix}_noise") == pytest.approx(noise, rel=0, abs=1e-14)
        assert getattr(found, f"{matrix}_recall") == pytest.approx(recall, rel=0, abs=1e-14)
